/* The way out of the sandbox: a listener on its loopback, whose connections go to berth-egress.
 *
 * Init reads and writes none of what goes through them: it accepts, and passes the socket on by the
 * connection that said EGRESS. What nobody takes waits in the listener's backlog; after some
 * seconds without a taker it is answered with 503, so that a client does not hang. */
#ifndef BERTH_INIT_NETWORK_H
#define BERTH_INIT_NETWORK_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "wire/sandbox.h"

struct network {
    int listen_fd; /* -1: no way out */
    short seen;    /* what poll(2) saw of it */
    int held_fd;   /* accepted, and not taken yet; -1: none */
    bool full;     /* the taker's socket takes no more */

    int taker_fd;         /* of the connection that said EGRESS; borrowed, -1: there is none */
    struct buf *out;      /* its frames to send: which connection it is */
    uint32_t stream;      /* of its EGRESS frame */
    int64_t alone_from;   /* since when there is none */
    int64_t paused_until; /* after an accept(2) that failed */
};

void network_init(struct network *network);

/* Opens or closes the listener. 0, or an errno: EADDRINUSE when the code has the port. */
int network_set(struct network *network, enum sandbox_network_mode mode, int64_t now_ns);

/* This connection takes what is accepted from now on; out tells it from others. */
void network_give(struct network *network, int taker_fd, struct buf *out, uint32_t stream);
bool network_is_taker(const struct network *network, const struct buf *out);
/* It is closing. */
void network_leave(struct network *network, const struct buf *out, int64_t now_ns);

/* Whether the listener is to be looked at now. */
bool network_may_accept(const struct network *network, int64_t now_ns);
/* When network_step() has to be called at the latest, if nothing else happens; INT64_MAX: never. */
int64_t network_wakeup_ns(const struct network *network);
/* Accepts what is there and passes it on, or answers it. Does not block. */
void network_step(struct network *network, int64_t now_ns);

#endif
