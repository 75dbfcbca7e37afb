/* Owns the counters' names and their text form. */
#include "core/metrics.h"

#include <inttypes.h>

#include "base/mem.h"

static const int64_t bounds_us[METRICS_BUCKETS] = {
    1000,   2500,   5000,    10000,   25000,   50000,    100000,
    250000, 500000, 1000000, 2500000, 5000000, 10000000, 60000000,
};

void metrics_observe(struct metrics_histogram *histogram, int64_t duration_us)
{
    if (duration_us < 0)
        duration_us = 0;
    size_t index = 0;
    while (index < METRICS_BUCKETS && duration_us > bounds_us[index])
        index++;
    atomic_fetch_add_explicit(&histogram->buckets[index], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&histogram->sum_us, (uint64_t)duration_us, memory_order_relaxed);
}

static int write_head(struct buf *out, const char *name, const char *type, const char *help,
                      struct err *err)
{
    return buf_printf(out, err, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static int write_number(struct buf *out, const char *name, const char *type, const char *help,
                        uint64_t value, struct err *err)
{
    int result = write_head(out, name, type, help, err);
    return result != 0 ? result : buf_printf(out, err, "%s %" PRIu64 "\n", name, value);
}

static int write_histogram(struct buf *out, const char *name, const char *help,
                           const struct metrics_histogram *histogram, struct err *err)
{
    int result = write_head(out, name, "histogram", help, err);
    uint64_t count = 0;
    for (size_t i = 0; i < METRICS_BUCKETS && result == 0; i++) {
        count += histogram->buckets[i];
        result = buf_printf(out, err, "%s_bucket{le=\"%g\"} %" PRIu64 "\n", name,
                            (double)bounds_us[i] / 1e6, count);
    }
    count += histogram->buckets[METRICS_BUCKETS];
    uint64_t sum_us = histogram->sum_us;
    if (result == 0)
        result = buf_printf(out, err,
                            "%s_bucket{le=\"+Inf\"} %" PRIu64 "\n%s_sum %" PRIu64 ".%06" PRIu64
                            "\n%s_count %" PRIu64 "\n",
                            name, count, name, sum_us / 1000000, sum_us % 1000000, name, count);
    return result;
}

static int write_outcomes(const struct metrics *metrics, struct buf *out, struct err *err)
{
    int result = write_head(out, "berth_executions_total", "counter",
                            "Executions that ended, by status.", err);
    for (int i = EXECUTION_SUCCESS; i < EXECUTION_STATE_COUNT && result == 0; i++)
        result = buf_printf(out, err, "berth_executions_total{status=\"%s\"} %" PRIu64 "\n",
                            execution_state_name((enum execution_state)i),
                            (uint64_t)metrics->executions[i]);
    if (result == 0)
        result = write_head(out, "berth_executions_killed_total", "counter",
                            "Executions that something ended, by cause.", err);
    for (int i = KILL_NONE + 1; i < KILL_CAUSE_COUNT && result == 0; i++)
        result = buf_printf(out, err, "berth_executions_killed_total{cause=\"%s\"} %" PRIu64 "\n",
                            outcome_cause_name((enum kill_cause)i), (uint64_t)metrics->killed[i]);
    if (result == 0)
        result = write_head(out, "berth_executions_refused_total", "counter",
                            "Requests that ran nothing, by the kind of the error.", err);
    for (int i = ERR_NONE + 1; i < ERR_KIND_COUNT && result == 0; i++) {
        if (metrics->refused[i] > 0)
            result =
                buf_printf(out, err, "berth_executions_refused_total{kind=\"%s\"} %" PRIu64 "\n",
                           err_kind_name((enum err_kind)i), (uint64_t)metrics->refused[i]);
    }
    return result;
}

static int write_sessions(const struct metrics *metrics, struct buf *out, struct err *err)
{
    static const char *const names[SESSION_END_COUNT] = {"deleted", "drained", "timeout", "idle",
                                                         "lost"};
    int result =
        write_head(out, "berth_sessions_ended_total", "counter", "Sessions ended, by cause.", err);
    for (int i = 0; i < SESSION_END_COUNT && result == 0; i++)
        result = buf_printf(out, err, "berth_sessions_ended_total{cause=\"%s\"} %" PRIu64 "\n",
                            names[i], (uint64_t)metrics->sessions_ended[i]);
    return result;
}

struct number {
    const char *name, *type, *help;
    uint64_t value;
};

static int write_numbers(const struct number *numbers, size_t count, struct buf *out,
                         struct err *err)
{
    int result = 0;
    for (size_t i = 0; i < count && result == 0; i++)
        result = write_number(out, numbers[i].name, numbers[i].type, numbers[i].help,
                              numbers[i].value, err);
    return result;
}

static int write_work(const struct metrics *metrics, const struct metrics_gauges *gauges,
                      struct buf *out, struct err *err)
{
    const struct number numbers[] = {
        {"berth_executions_running", "gauge", "Executions that are queued or run now.",
         gauges->executions},
        {"berth_sessions", "gauge", "Sessions that are open now.", gauges->sessions},
        {"berth_sessions_created_total", "counter", "Sessions made.", metrics->sessions_created},
        {"berth_session_executions_total", "counter",
         "Executions in sessions that ended; they count among all as well.",
         metrics->session_executions},
        {"berth_output_bytes_total", "counter", "Bytes of output taken from executions.",
         metrics->output_bytes},
    };
    return write_numbers(numbers, ARRAY_SIZE(numbers), out, err);
}

static int write_sandboxes(const struct metrics *metrics, const struct metrics_gauges *gauges,
                           struct buf *out, struct err *err)
{
    const struct number numbers[] = {
        {"berth_sandboxes", "gauge", "Sandboxes that live now.", gauges->sandboxes},
        {"berth_sandboxes_max", "gauge", "Sandboxes that may live at once.", gauges->sandboxes_max},
        {"berth_sandboxes_creating", "gauge", "Creations in flight.", gauges->creating},
        {"berth_queue_waiting", "gauge", "Executions that wait for a sandbox.", gauges->waiting},
        {"berth_memory_reserved_bytes", "gauge", "Memory reserved for sandboxes.",
         gauges->memory_reserved_bytes},
        {"berth_memory_budget_bytes", "gauge", "Memory that may be reserved.",
         gauges->memory_budget_bytes},
        {"berth_disk_reserved_bytes", "gauge", "Disk reserved for sandboxes.",
         gauges->disk_reserved_bytes},
        {"berth_disk_budget_bytes", "gauge", "Disk that may be reserved.",
         gauges->disk_budget_bytes},
        {"berth_sandboxes_created_total", "counter", "Sandboxes made.", metrics->sandboxes_created},
        {"berth_sandboxes_create_failed_total", "counter", "Creations that failed.",
         metrics->creates_failed},
        {"berth_sandboxes_died_total", "counter", "Sandboxes that died by themselves.",
         metrics->sandboxes_died},
        {"berth_sandboxes_orphaned_total", "counter",
         "Sandboxes destroyed since nobody owned them.", metrics->orphans_destroyed},
        {"berth_pool_ready", "gauge", "Sandboxes made ahead that wait to be used.",
         gauges->pool_ready},
        {"berth_pool_wanted", "gauge", "How many of them are to wait, by demand.",
         gauges->pool_wanted},
        {"berth_pool_hits_total", "counter", "Requests that got a sandbox made ahead.",
         metrics->pool_hits},
        {"berth_pool_misses_total", "counter", "Requests for which one had to be made.",
         metrics->pool_misses},
        {"berth_pool_discarded_total", "counter", "Sandboxes made ahead that could not be used.",
         metrics->pool_discarded},
    };
    return write_numbers(numbers, ARRAY_SIZE(numbers), out, err);
}

static int write_kept(const struct metrics *metrics, const struct metrics_gauges *gauges,
                      struct buf *out, struct err *err)
{
    const struct number numbers[] = {
        {"berth_layers", "gauge", "Library layers that are kept now.", gauges->layers},
        {"berth_layers_bytes", "gauge", "Bytes of library layers.", gauges->layers_bytes},
        {"berth_layers_building", "gauge", "Library layers that are being made.",
         gauges->layers_building},
        {"berth_layers_found_total", "counter", "Requests whose library layer was there.",
         metrics->layers_found},
        {"berth_layers_built_total", "counter", "Library layers made.", metrics->layers_built},
        {"berth_layers_failed_total", "counter", "Library layers that could not be made.",
         metrics->layers_failed},
        {"berth_layers_evicted_total", "counter", "Library layers that nobody used and that went.",
         metrics->layers_evicted},
        {"berth_answers_held_bytes", "gauge", "Text of outcomes held for who reads them.",
         gauges->answers_held_bytes},
        {"berth_answers_refused_total", "counter",
         "Reads of outcomes refused since too much was held.", gauges->answers_refused},
        {"berth_compile_cache_hits_total", "counter", "Programs that were compiled before.",
         gauges->compile_hits},
        {"berth_compile_cache_misses_total", "counter", "Programs that had to be compiled.",
         gauges->compile_misses},
        {"berth_compile_cache_bytes", "gauge", "Disk that kept programs take.",
         gauges->compile_kept_bytes},
    };
    return write_numbers(numbers, ARRAY_SIZE(numbers), out, err);
}

static int write_egress(const struct metrics_gauges *gauges, struct buf *out, struct err *err)
{
    const struct number numbers[] = {
        {"berth_egress_up", "gauge", "Whether the way out of the sandboxes answers.",
         gauges->egress_connected},
        {"berth_egress_sandboxes", "gauge", "Sandboxes that have a way out now.",
         gauges->egress_sandboxes},
        {"berth_egress_connections", "gauge", "Connections out of sandboxes that are open now.",
         gauges->egress_connections},
        {"berth_egress_requests_total", "counter",
         "Requests out of sandboxes that were let through.", gauges->egress_requests},
        {"berth_egress_refused_total", "counter", "Requests out of sandboxes that were refused.",
         gauges->egress_refused},
        {"berth_egress_sent_bytes_total", "counter", "Bytes that left sandboxes.",
         gauges->egress_bytes_out},
        {"berth_egress_received_bytes_total", "counter", "Bytes that came into sandboxes.",
         gauges->egress_bytes_in},
    };
    return write_numbers(numbers, ARRAY_SIZE(numbers), out, err);
}

int metrics_write(const struct metrics *metrics, const struct metrics_gauges *gauges,
                  struct buf *out, struct err *err)
{
    int result = write_outcomes(metrics, out, err);
    if (result == 0)
        result = write_sessions(metrics, out, err);
    if (result == 0)
        result = write_work(metrics, gauges, out, err);
    if (result == 0)
        result = write_sandboxes(metrics, gauges, out, err);
    if (result == 0)
        result = write_kept(metrics, gauges, out, err);
    if (result == 0)
        result = write_egress(gauges, out, err);
    if (result == 0)
        result = write_histogram(out, "berth_queue_seconds", "Time spent waiting for a sandbox.",
                                 &metrics->queue, err);
    if (result == 0)
        result = write_histogram(out, "berth_create_seconds", "Time to make a sandbox.",
                                 &metrics->create, err);
    if (result == 0)
        result = write_histogram(out, "berth_pool_fill_seconds",
                                 "Time to make a sandbox ahead, with its kernel.",
                                 &metrics->pool_fill, err);
    if (result == 0)
        result = write_histogram(out, "berth_run_seconds", "Time that the code ran.", &metrics->run,
                                 err);
    if (result == 0)
        result = write_histogram(out, "berth_execution_seconds",
                                 "Time from the request to its outcome.", &metrics->total, err);
    return result;
}
