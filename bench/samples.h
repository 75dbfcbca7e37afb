/* Durations of one measurement: collected by threads, summed up as percentiles.
 *
 * Percentiles are nearest-rank: the smallest sample that is not below the given share of all. No
 * function here blocks but samples_append_file(). */
#ifndef BERTH_BENCH_SAMPLES_H
#define BERTH_BENCH_SAMPLES_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct samples {
    int64_t *values_ns; /* owned; in order of time until samples_sort() */
    size_t count;
    size_t capacity;
};

/* Room for capacity samples. */
int samples_init(struct samples *samples, size_t capacity, struct err *err);

/* Frees; a zeroed object is allowed. */
void samples_done(struct samples *samples);

/* Appends when there is room; what is more than capacity is dropped. */
void samples_add(struct samples *samples, int64_t value_ns);

/* Appends all of other. */
void samples_merge(struct samples *samples, const struct samples *other);

void samples_sort(struct samples *samples);

/* percent: 0 to 100. Sorted samples only; 0 when there are none. */
int64_t samples_percentile_ns(const struct samples *samples, double percent);

/* Adds one line a sample, in milliseconds, to the end of a file. */
int samples_append_file(const struct samples *samples, const char *path, struct err *err);

/* Prints p50, p95, p99 and max in milliseconds on one line, after a name. */
void samples_print(const struct samples *samples, const char *name);

#endif
