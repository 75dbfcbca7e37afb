/* What GET /metrics says of the pool of sandboxes made ahead: whether a request found one. */
#ifndef BERTH_BENCH_POOL_H
#define BERTH_BENCH_POOL_H

#include <stdbool.h>

#include "answer.h"

struct pool_figures {
    bool there; /* else the server has no pool, and the rest is zero */
    double hits, misses;
    double ready, wanted; /* how many stand ready now, and should */
};

/* Asks over a connection of its own; blocks. */
int pool_read(const struct address *address, struct pool_figures *out, struct err *err);

/* Waits until the pool is full and no sandbox is being made, so that a refill does not run beside
 * what is measured next; 30 s at most, after which it is not full for a reason that is not ours. */
int pool_settle(const struct address *address, struct err *err);

#endif
