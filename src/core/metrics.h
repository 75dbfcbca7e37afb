/* What core counts, and its text for Prometheus. Lock-free. */
#ifndef BERTH_CORE_METRICS_H
#define BERTH_CORE_METRICS_H

#include <stdatomic.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "core/states.h"
#include "wire/outcome.h"

#define METRICS_BUCKETS 14

struct metrics_histogram {
    _Atomic uint64_t buckets[METRICS_BUCKETS + 1]; /* the last is +Inf; not cumulative */
    _Atomic uint64_t sum_us;
};

/* How sessions end. */
enum session_end {
    SESSION_END_DELETED,
    SESSION_END_DRAINED,
    SESSION_END_TIMEOUT, /* its lifetime */
    SESSION_END_IDLE,
    SESSION_END_LOST, /* its sandbox or its init ended, or spoke nonsense */
    SESSION_END_COUNT
};

struct metrics {
    _Atomic uint64_t executions[EXECUTION_STATE_COUNT]; /* ended, by status */
    _Atomic uint64_t killed[KILL_CAUSE_COUNT];
    _Atomic uint64_t refused[ERR_KIND_COUNT]; /* not run, by the kind of the error */
    _Atomic uint64_t creates_failed, sandboxes_created, sandboxes_died, orphans_destroyed;
    _Atomic uint64_t output_bytes;
    _Atomic uint64_t pool_hits, pool_misses, pool_discarded;
    _Atomic uint64_t layers_found, layers_built, layers_failed, layers_evicted;
    _Atomic uint64_t sessions_created, session_executions;
    _Atomic uint64_t sessions_ended[SESSION_END_COUNT];
    struct metrics_histogram queue, create, run, total, pool_fill;
};

/* Counts one duration. */
void metrics_observe(struct metrics_histogram *histogram, int64_t duration_us);

/* Gauges that others own. */
struct metrics_gauges {
    unsigned sandboxes, sandboxes_max, creating, waiting, executions, sessions;
    unsigned pool_ready, pool_wanted;
    uint64_t memory_reserved_bytes, memory_budget_bytes, disk_reserved_bytes, disk_budget_bytes;
    unsigned layers, layers_building;
    uint64_t layers_bytes;
    uint64_t answers_held_bytes, answers_refused;
    uint64_t compile_hits, compile_misses, compile_kept_bytes;
    unsigned egress_connected, egress_sandboxes;
    uint64_t egress_connections, egress_requests, egress_refused;
    uint64_t egress_bytes_out, egress_bytes_in;
};

/* Appends the text, exposition format 0.0.4
 * (https://prometheus.io/docs/instrumenting/exposition_formats/). */
int metrics_write(const struct metrics *metrics, const struct metrics_gauges *gauges,
                  struct buf *out, struct err *err);

#endif
