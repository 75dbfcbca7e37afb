/* One attached sandbox: its policy, its counts, its flows, and the channel to its init, by which
 * come the sockets that the code connected.
 *
 * What init says is checked: a hello of the right nonce, one DONE, then ACCEPTED frames with one
 * socket each. Anything else ends the channel. New sockets are taken at a rate and up to a number;
 * more wait in the channel, then in the sandbox. */
#ifndef BERTH_EGRESS_ATTACHED_H
#define BERTH_EGRESS_ATTACHED_H

#include <stdbool.h>
#include <stdint.h>

#include "egress/proxy.h"
#include "wire/frame.h"

struct flow;
struct attached;

/* Called with failure NULL when init has taken it, else when the channel is of no use any more:
 * then it is the receiver's to free. */
typedef void (*attached_changed_fn)(struct attached *attached, const struct err *failure);

enum attached_state { ATTACHED_HELLO, ATTACHED_DONE, ATTACHED_OPEN };

struct attached {
    struct dead dead;
    struct proxy *proxy;
    char id[SANDBOX_ID_MAX + 1];
    char owner[EGRESS_OWNER_MAX + 1];
    uint8_t nonce[SANDBOX_NONCE_SIZE];
    struct egress_rule *rules;
    size_t rule_count;
    uint64_t bytes_max; /* 0: no cap */
    uint32_t flows_max;

    struct egress_counts counts;
    uint64_t bytes_used; /* against the cap */
    uint64_t bytes_told; /* of these, to the server */
    int64_t told_ns;
    struct flow *flows;
    size_t flow_count;

    enum attached_state state;
    struct watch channel;
    struct frame_decoder decoder;
    int pending_fd;      /* came, and its frame is not whole */
    int64_t deadline_ns; /* of the attach; INT64_MAX once it is done */
    uint64_t request_id; /* to answer; 0: answered */
    unsigned tokens;     /* sockets that may be taken now */
    int64_t tokens_ns;   /* when they were counted */

    attached_changed_fn changed;
    void *context; /* of who hears of it */
    struct attached *next;
};

struct attached *attached_find(struct proxy *proxy, const char *id);

/* Takes channel_fd over. Replaces what has the same id. ERR_BAD_INPUT: a rule is none;
 * ERR_UNAVAILABLE: too many. */
int attached_new(struct proxy *proxy, const struct egress_attach *attach, int channel_fd,
                 attached_changed_fn changed, void *context, struct attached **out,
                 struct err *err);
/* Ends its flows and forgets it. */
void attached_free(struct attached *attached, const char *why);

/* Sets rules and bounds, and ends the flows that they do not allow. */
int attached_set_policy(struct attached *attached, const struct egress_policy *policy,
                        struct err *err);

bool attached_allows(const struct attached *attached, const struct egress_host *host,
                     uint16_t port);

/* Bytes that may still go; UINT64_MAX without a cap. */
uint64_t attached_bytes_left(const struct attached *attached);
void attached_count(struct attached *attached, uint64_t out, uint64_t in);
/* Adds to the counts what was asked for. */
void attached_count_request(struct attached *attached, bool refused);

/* A flow has ended: the next may be taken. */
void attached_flows_changed(struct attached *attached);

/* Looks at the deadline and at how many sockets may be taken, at each tick. May call changed(). */
void attached_step(struct attached *attached, int64_t now_ns);

#endif
