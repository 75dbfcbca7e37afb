/* The pool: sandboxes made ahead, each used once, each with a language's kernel waiting in it, or
 * with none.
 *
 * One shelf for each kind that was asked for: engine, runtime, image, kernel, profile, processors
 * that it shows. How many stand on it follows demand: more when it ran empty, fewer when some were
 * never needed. A refill is paced: it waits while requests wait. */
#ifndef BERTH_CORE_POOL_H
#define BERTH_CORE_POOL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "wire/sandbox.h"

struct channel;
struct core;
struct engine_slot;
struct plan;
struct pool;

/* One that was taken, or that is put on a shelf. */
struct pool_item {
    char sandbox_id[SANDBOX_ID_MAX + 1];
    uint8_t nonce[SANDBOX_NONCE_SIZE];
    struct channel *channel;
    bool kernel; /* the kernel of its shelf's language waits in it */
    /* What it was made with; other figures are to be set. */
    uint64_t memory_bytes, storage_bytes;
    uint32_t cpu_millis;
};

/* kept_min: of the default kind, always ready. Starts the refill: nothing is made before
 * pool_set_max() was called. */
int pool_new(struct core *core, unsigned kept_min, struct pool **out, struct err *err);
/* How many of an engine may stand on all shelves together; of all engines as many as the one that
 * has most. May be called with core->lock held. NULL is allowed. */
void pool_set_max(struct pool *pool, const struct engine_slot *slot, unsigned kept_max);
/* Begins to stop: nothing is given out any more, and what stands on the shelves is destroyed. */
void pool_stop(struct pool *pool);
/* After pool_stop(): waits for its threads, which use the engine. What the engine says may still be
 * passed to pool_on_gone(). NULL is allowed. */
void pool_join(struct pool *pool);
/* After pool_stop(), and after the engine. NULL is allowed. */
void pool_free(struct pool *pool);

/* Takes one that fits, if there is one: the caller's to destroy. Counts a hit or a miss, and orders
 * accordingly. Does not block. */
bool pool_take(struct pool *pool, const struct plan *plan, struct pool_item *out);
/* A sandbox died by itself. Returns whether it stood on a shelf. */
bool pool_on_gone(struct pool *pool, const char *sandbox_id);

struct pool_stats {
    unsigned ready, wanted, filling;
};
/* NULL: zeros. */
void pool_stats(struct pool *pool, struct pool_stats *out);

#endif
