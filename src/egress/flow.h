/* One connection of the code through the proxy: head, name, address, then bytes both ways.
 *
 * A flow speaks for one request: a tunnel (CONNECT), or one http request, whose body ends where its
 * framing says; what comes behind it goes nowhere. Each step has a deadline, and no flow holds more
 * than two buffers. */
#ifndef BERTH_EGRESS_FLOW_H
#define BERTH_EGRESS_FLOW_H

#include <stdint.h>

#include "egress/attached.h"

/* Takes the accepted socket over, in any case. */
void flow_start(struct attached *attached, int fd);

/* Ends it, with a line in the log that says why. */
void flow_end(struct flow *flow, const char *why);

/* Gives the flows of one to another, which is the same sandbox anew. */
void flow_adopt(struct attached *to, struct attached *from);

/* The next flow of the same sandbox. */
struct flow *flow_next(const struct flow *flow);

/* Ends it when its policy does not allow it any more. */
void flow_check(struct flow *flow);
/* Ends it when its time is over. */
void flow_step(struct flow *flow, int64_t now_ns);

#endif
