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
    pthread_mutex_t
        lock; /* rank: leaf; guards all below; none of it is touched while one is loaded */
    pthread_cond_t filled;
    uint64_t max_bytes;
    uint64_t held_bytes;
    uint64_t refused;
    struct kept_entry *first;
};

/* max_bytes 0: no bound. */
void kept_init(struct kept *kept, uint64_t max_bytes);
/* After the last record that was entered has gone. */
void kept_done(struct kept *kept);

/* Looks for the outcome of an execution. Returns 0 and a reference to the record that is held
 * already, waiting for whoever loads it now; or 1 and a place for size_bytes: the caller is to load
 * it and to call kept_fill(). ERR_UNAVAILABLE, in public words and with a time to try again: there
 * is no room; little ones always fit, and so does the only one. */
int kept_open(struct kept *kept, const char *id, uint64_t size_bytes, struct record **out_record,
              struct kept_entry **out_place, struct err *err);
/* Enters the record, which has ended and nobody else has yet; NULL: nothing came of it. */
void kept_fill(struct kept *kept, struct kept_entry *place, struct record *record);

/* Enters a record that has ended, under the id of its execution, whatever room there is: it counts
 * size_bytes until the last reference to it is given back. Without memory it is unknown to others.
 */
void kept_enter(struct kept *kept, const char *id, struct record *record, uint64_t size_bytes);

/* For /metrics. */
void kept_figures(struct kept *kept, uint64_t *out_held_bytes, uint64_t *out_refused);

#endif
