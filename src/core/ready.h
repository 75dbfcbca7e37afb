/* A sandbox that is ready for code, with its language's kernel waiting in it: taken from the pool,
 * or made now. */
#ifndef BERTH_CORE_READY_H
#define BERTH_CORE_READY_H

#include "core/core_internal.h"
#include "core/pool.h"
#include "engine/channel.h"

struct ready {
    char sandbox_id[SANDBOX_ID_MAX + 1];
    uint8_t nonce[SANDBOX_NONCE_SIZE];
    struct channel *channel; /* the caller's to close */
    bool kernel;             /* false: none was wanted, or it can't be started here */
    bool pooled;             /* it was made ahead, and may have died since without a word */
};

struct ready_want {
    const struct plan *plan; /* and of which language a kernel is wanted */
    const struct box_life *life;
    const char *const *env; /* variables that the kernel is to have from its start on: a session's.
                               Those of an execution come with its RUN */
    size_t env_count;
    bool network_at_start; /* the kernel is to have the variables of the plan's network from its
                              start on as well */
    bool fresh;            /* made now: one that was made ahead has just proved dead */
};

/* For live, with the plan's limits, times and network set. Takes over one place of admission with
 * its reservation, as box_create() does and with its failures; on success the sandbox is the
 * caller's to destroy. */
int ready_make(struct core *core, struct live *live, int gone_fd, const struct ready_want *want,
               struct ready *out, struct err *err);

/* For the pool: one without a place and without an owner. Its end is that of its channel. */
int ready_make_ahead(struct core *core, const struct plan *plan, int cancel_fd,
                     struct pool_item *out, struct err *err);

#endif
