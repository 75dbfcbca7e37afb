/* Pairs of linked network interfaces (veth(4)): one end of the host's, one of a sandbox's.
 *
 * Asks the kernel over rtnetlink(7). Touches no interface but those whose names it is given. */
#ifndef BERTH_NATIVE_LINK_H
#define BERTH_NATIVE_LINK_H

#include <stdint.h>

#include "base/err.h"

enum { LINK_NAME_SIZE = 16, LINK_ALIAS_SIZE = 128 };

struct link_spec {
    const char *name;     /* of the host's end */
    const char *alias;    /* a text that goes with it, once all else is done */
    int netns_fd;         /* where the other end goes, as "eth0" */
    uint32_t host_ipv4;   /* in the host's byte order; the pair is a /30 */
    uint32_t inside_ipv4; /* the way out leads over host_ipv4 */
};

/* Makes the pair. The host's end comes up last, so that nothing passes before all is in place; on
 * failure nothing of it is left. Does not wait for others. */
int link_make(const struct link_spec *spec, struct err *err);

/* Removes the host's end and with it the other; idempotent. */
int link_remove(const char *name, struct err *err);

/* Calls on_link for every interface of this network namespace whose name begins with prefix; alias
 * "": it has none. */
typedef void (*link_fn)(void *context, const char *name, const char *alias);
int link_each(const char *prefix, link_fn on_link, void *context, struct err *err);

#endif
