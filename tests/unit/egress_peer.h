/* A berth-egress that does nothing but answer, and remembers what it was told. */
#ifndef BERTH_TESTS_UNIT_EGRESS_PEER_H
#define BERTH_TESTS_UNIT_EGRESS_PEER_H

#include <stdbool.h>

struct egress_peer;

/* Listens at path until it is stopped, which ends every connection. */
struct egress_peer *egress_peer_start(const char *path);
void egress_peer_stop(struct egress_peer *peer);

/* From now on it reads and does not answer. */
void egress_peer_mute(struct egress_peer *peer, bool mute);

/* Waits for the next message and returns it as "attach ID OWNER RULE RULE", "policy ID RULE",
 * "detach ID": valid until the next call. Questions for counts are answered with the numbers 1 to
 * 5, and not told of. Fails the test when none comes. */
const char *egress_peer_next(struct egress_peer *peer);
/* Whether there is none that was not told of. */
bool egress_peer_is_quiet(struct egress_peer *peer);

#endif
