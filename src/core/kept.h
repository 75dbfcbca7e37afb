/* The outcomes that are held in memory while clients read them: each once, however many read it,
 * and all of them within a budget. What was run is always held; what is only read again has to fit.
 */
#ifndef BERTH_CORE_KEPT_H
#define BERTH_CORE_KEPT_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct record;
struct kept_entry;

struct kept {
    pthread_mutex_t lock; /* rank: leaf; guards all below */
    uint64_t max_bytes;
    uint64_t held_bytes;
    uint64_t refused;
    struct kept_entry *first;
};

/* max_bytes 0: no bound. */
void kept_init(struct kept *kept, uint64_t max_bytes);
/* After the last record that was entered has gone. */
void kept_done(struct kept *kept);

/* A record that is held already, with a reference of its own; NULL: none is. */
struct record *kept_find(struct kept *kept, const char *id);

/* Takes room for one that is to be loaded. ERR_UNAVAILABLE, in public words and with a time to try
 * again: there is none; little ones always fit. */
int kept_reserve(struct kept *kept, uint64_t size_bytes, struct err *err);
/* Gives it back, when nothing came of it. */
void kept_return(struct kept *kept, uint64_t size_bytes);

/* Enters a record that has ended, under the id of its execution: it counts size_bytes until the
 * last reference to it is given back. reserved: kept_reserve() took them. Without memory it is
 * held, unknown to others. */
void kept_enter(struct kept *kept, const char *id, struct record *record, uint64_t size_bytes,
                bool reserved);

/* For /metrics. */
void kept_figures(struct kept *kept, uint64_t *out_held_bytes, uint64_t *out_refused);

#endif
