/* What the parts of the process share: the poller, the resolver, who is attached, the bounds. One
 * thread. */
#ifndef BERTH_EGRESS_PROXY_H
#define BERTH_EGRESS_PROXY_H

#include "egress/address.h"
#include "egress/poller.h"
#include "egress/resolve.h"
#include "wire/egress_msg.h"

#define PROXY_FLOWS_MAX 2048      /* connections of all sandboxes; fewer with few descriptors */
#define PROXY_FLOWS_OF_CROWDED 16 /* of one, once half of all are taken */
#define PROXY_ATTACHED_MAX 8192

struct attached;
struct dead;

struct proxy {
    struct poller poller;
    struct resolver *resolver;
    struct address_excepts excepts;
    struct attached *attached; /* list */
    size_t attached_count;
    size_t attached_max;
    size_t flow_count;
    size_t flow_max;
    struct egress_counts totals; /* of sandboxes that are gone, and of those that live */
    struct dead *dead;
};

/* Begins what watches lie in: it is freed behind the turn, whose events may still name it. */
struct dead {
    struct dead *next;
};

void proxy_bury(struct proxy *proxy, struct dead *dead);
/* Between two turns. */
void proxy_free_dead(struct proxy *proxy);

#endif
