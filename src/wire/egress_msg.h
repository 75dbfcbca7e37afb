/* Messages between the server and berth-egress, the way out of the sandboxes.
 *
 * One message is one SEQPACKET datagram of at most EGRESS_MSG_MAX bytes: a head (msg_head.h), then
 * tagged fields. A reply carries the operation with EGRESS_REPLY set
 * and the request's id; replies come in any order. A sandbox that was attached stays so whatever
 * becomes of the connection that attached it; it ends by DETACH, or when its init closes its
 * channel. The process holds nothing over its own end: after a new connection a server attaches
 * what it has again. */
#ifndef BERTH_WIRE_EGRESS_MSG_H
#define BERTH_WIRE_EGRESS_MSG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "wire/egress_rule.h"
#include "wire/msg_head.h"
#include "wire/sandbox.h"

#define EGRESS_MSG_VERSION 1
#define EGRESS_MSG_MAX (72U * 1024U)
#define EGRESS_REPLY MSG_REPLY
#define EGRESS_OWNER_MAX 64       /* longest owner, without its NUL */
#define EGRESS_CONNECTIONS_MAX 64 /* of one sandbox at once */

enum egress_op {
    EGRESS_OP_ATTACH =
        1,            /* struct egress_attach and one descriptor, a channel to the init of the
                         sandbox on which the server has said hello, with
                         SANDBOX_CAP_EGRESS, and nothing else. Replied to when init has taken it,
                         or did not within seconds. The same id: replaces policy and channel;
                         with the same nonce connections and counts stay, others begin anew */
    EGRESS_OP_POLICY, /* id and policy; ends the connections that it does not allow. ERR_NOT_FOUND
                       */
    EGRESS_OP_DETACH, /* ends the connections of a sandbox and forgets it; replies its last counts,
                         zeros for an unknown id. Idempotent */
    EGRESS_OP_COUNTS, /* of one sandbox (ERR_NOT_FOUND), or of all since the start: id "" */
    EGRESS_OP_EVENT_LOST,   /* egress to server, request id 0: init closed the channel of this
                               sandbox; it is forgotten. With its last counts */
    EGRESS_OP_EVENT_COUNTS, /* egress to server, request id 0: the counts of a sandbox changed;
                               about one a second at most of each, and what it came to before
                               DETACH is replied to and before LOST */
    EGRESS_OP_COUNT
};

struct egress_policy {
    const char *const *rules; /* texts of egress_rule.h, at most EGRESS_RULES_MAX; none: nothing
                                 is allowed */
    size_t rule_count;
    uint64_t bytes_max;       /* both ways together, since it was attached; 0: no cap */
    uint32_t connections_max; /* at once; 0: EGRESS_CONNECTIONS_MAX, which also is the most */
};

struct egress_counts {
    uint64_t requests;  /* that were allowed and connected, or failed to */
    uint64_t refused;   /* by the policy or for the address */
    uint64_t bytes_out; /* from the sandbox to the world, TLS and heads included */
    uint64_t bytes_in;
    uint64_t connections; /* open now */
    uint64_t sandboxes;   /* attached now; of id "" */
};

struct egress_attach {
    char id[SANDBOX_ID_MAX + 1];
    char owner[EGRESS_OWNER_MAX + 1];  /* for the log, and what is shared: nothing across owners */
    uint8_t nonce[SANDBOX_NONCE_SIZE]; /* what init's hello must carry */
    uint64_t bytes_used;               /* counts against the cap: of before a restart of egress */
    struct egress_policy policy;
};

/* One message as decoded; only the members that its operation names are set. */
struct egress_msg {
    uint32_t op; /* enum egress_op, with EGRESS_REPLY set on a reply */
    uint64_t request_id;
    struct err error;            /* reply: kind is ERR_NONE on success */
    struct egress_attach attach; /* ATTACH; POLICY: id and policy; EVENT_COUNTS: id and
                                    bytes_used; the others: id */
    struct egress_counts counts; /* DETACH and COUNTS reply, events */
    const char **rules;          /* decoded: attach.policy.rules; heap, its strings point into the
                                    datagram. Freed by egress_msg_done() */
};

int egress_msg_encode(const struct egress_msg *msg, struct buf *out, struct err *err);
/* Rules are checked to be texts, not to be rules: that is for who enforces them. */
int egress_msg_decode(const void *data, size_t size, struct egress_msg *msg, struct err *err);
void egress_msg_done(struct egress_msg *msg);

#endif
