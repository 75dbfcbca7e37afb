/* What the files of a flow share. For flow.c and relay.c only. */
#ifndef BERTH_EGRESS_FLOW_INTERNAL_H
#define BERTH_EGRESS_FLOW_INTERNAL_H

#include <stdbool.h>

#include "egress/attached.h"
#include "egress/flow.h"
#include "egress/request.h"

#define FLOW_BUFFER (32U * 1024U)
_Static_assert(FLOW_BUFFER > REQUEST_HEAD_MAX + 1024, "a head that was written anew has to fit");

enum flow_state {
    FLOW_HEAD,       /* the request comes */
    FLOW_RESOLVING,  /* its name is looked up */
    FLOW_CONNECTING, /* to one address after the other */
    FLOW_OPEN,       /* bytes both ways */
    FLOW_CLOSING,    /* what is to be said to the code is sent, the rest thrown away */
};

/* Bytes on their way, data[from..to). */
struct half {
    uint8_t *data; /* FLOW_BUFFER bytes; NULL while there are none */
    size_t from, to;
    bool ended; /* nothing more comes from its source */
    bool shut;  /* and that was said to its sink */
};

struct flow {
    struct dead dead;
    struct attached *attached;
    struct flow *next;
    enum flow_state state;
    struct watch inside;  /* the code's socket */
    struct watch outside; /* the world's; fd -1 before it is connected to */
    struct half up;       /* from the code: the head at first */
    struct half down;     /* to the code */
    struct request request;
    bool known;       /* the request was read: it has a target */
    size_t head_size; /* of what the origin gets, at the front of `up` */
    struct body body;
    bool extra;      /* the code sent more than its request */
    bool close_said; /* of the answer to a request that is no tunnel */
    struct lookup *lookup;
    struct resolved resolved;
    size_t tried;                    /* addresses */
    char address[ADDRESS_TEXT_SIZE]; /* the last that was tried */
    int64_t deadline_ns;
    int64_t started_ns;
    uint64_t bytes_out, bytes_in;
    bool logged;
    bool over;
};

/* ---- relay.c ---- */

/* Makes room for bytes of one direction. */
bool relay_reserve(struct half *half);
void relay_free(struct half *half);
static inline size_t relay_size(const struct half *half)
{
    return half->to - half->from;
}

/* The connection stands: what the code has sent behind its head is in `up` behind the rewritten
 * head, of which head_size bytes are that. */
void relay_begin(struct flow *flow, size_t head_size);
/* Moves what can be moved. May end the flow. */
void relay_inside(struct flow *flow, uint32_t events);
void relay_outside(struct flow *flow, uint32_t events);
/* What to hear of from now on. */
void relay_watch(struct flow *flow);

/* Sends what `down` holds to the code, then nothing more. May end the flow. */
void relay_close(struct flow *flow);

/* ---- flow.c ---- */

void flow_set_deadline(struct flow *flow, int64_t from_now_ns);
/* The line in the log, once. */
void flow_log(struct flow *flow, const char *outcome);

#endif
