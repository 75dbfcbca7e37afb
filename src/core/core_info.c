/* Owns what the core tells of itself: the limits, the capacity, the figures. Tells nothing of what
 * callers run. */
#include <inttypes.h>
#include <string.h>

#include "base/clock.h"
#include "core/compile_cache.h"
#include "core/layers.h"
#include "core/network_use.h"
#include "core/pool.h"
#include "core/session_internal.h"
#include "wire/json.h"

static int put_pool(struct buf *out, const char *name, uint64_t budget, uint64_t reserved,
                    uint32_t overcommit_millis, struct err *err)
{
    return buf_printf(out, err,
                      "\"%s\":{\"budget_bytes\":%" PRIu64 ",\"reserved_bytes\":%" PRIu64
                      ",\"free_bytes\":%" PRIu64 ",\"overcommit\":%" PRIu32 ".%03" PRIu32 "}",
                      name, budget, reserved, budget > reserved ? budget - reserved : 0,
                      overcommit_millis / 1000, overcommit_millis % 1000);
}

int core_capacity_json(struct core *core, struct buf *out, struct err *err)
{
    const struct core_config *config = &core->config;
    struct admission_stats stats;
    admission_stats(core->admission, &stats);
    int result =
        buf_printf(out, err,
                   "{\"sandboxes\":%u,\"sandboxes_max\":%u,\"waiting\":%u,"
                   "\"reserve_min_bytes\":%" PRIu64 ",",
                   stats.living, stats.living_max, stats.waiting, config->reserve_min_bytes);
    if (result == 0)
        result = put_pool(out, "memory", stats.budget.memory_bytes, stats.reserved.memory_bytes,
                          config->memory_overcommit_millis, err);
    if (result == 0)
        result = buf_append_str(out, ",", err);
    if (result == 0)
        result = put_pool(out, "disk", stats.budget.disk_bytes, stats.reserved.disk_bytes,
                          config->disk_overcommit_millis, err);
    return result == 0 ? buf_append_str(out, "}", err) : result;
}

int core_limits_json(struct core *core, struct buf *out, struct err *err)
{
    const struct core_config *config = &core->config;
    return buf_printf(
        out, err,
        "{\"timeout_secs\":%" PRIu64 ".%03" PRIu64 ",\"timeout_max_secs\":%" PRIu64 ".%03" PRIu64
        ",\"ram_bytes\":%" PRIu64 ",\"storage_bytes\":%" PRIu64 ",\"cpu\":%" PRIu32 ".%03" PRIu32
        ",\"pids\":%" PRIu32 ",\"open_files\":%" PRIu32 ",\"output_keep_bytes\":%" PRIu64
        ",\"output_max_bytes\":%" PRIu64 ",\"outcome_keep_secs\":%" PRIu64
        ",\"outcomes_keep_bytes\":%" PRIu64 ",\"sandboxes_max\":%" PRIu32
        ",\"creates_max\":%" PRIu32 ",\"queue_max\":%" PRIu32 ",\"queue_wait_secs\":%" PRIu64
        ".%03" PRIu64 "}",
        config->timeout_ms / 1000, config->timeout_ms % 1000, config->timeout_max_ms / 1000,
        config->timeout_max_ms % 1000, config->memory_bytes, config->storage_bytes,
        config->cpu_millis / 1000, config->cpu_millis % 1000, config->pids_max,
        config->open_files_max, config->keep_output_bytes, config->output_max_bytes,
        config->keep_outcome_ms / 1000, config->keep_bytes, config->sandboxes_max,
        config->creates_max, config->queue_max, config->queue_wait_ms / 1000,
        config->queue_wait_ms % 1000);
}

int core_network_json(struct core *core, struct buf *out, struct err *err)
{
    return network_rules_json(core->config.network, out, err);
}

int core_metrics(struct core *core, struct buf *out, struct err *err)
{
    struct admission_stats stats;
    admission_stats(core->admission, &stats);
    struct metrics_gauges gauges = {.sandboxes = stats.living,
                                    .sandboxes_max = stats.living_max,
                                    .creating = stats.creating,
                                    .waiting = stats.waiting,
                                    .memory_reserved_bytes = stats.reserved.memory_bytes,
                                    .memory_budget_bytes = stats.budget.memory_bytes,
                                    .disk_reserved_bytes = stats.reserved.disk_bytes,
                                    .disk_budget_bytes = stats.budget.disk_bytes};
    kept_figures(&core->kept, &gauges.answers_held_bytes, &gauges.answers_refused);
    struct compile_cache_stats compiled;
    compile_cache_stats(core->compiled, &compiled);
    gauges.compile_hits = compiled.hits;
    gauges.compile_misses = compiled.misses;
    gauges.compile_kept_bytes = compiled.bytes;
    struct pool_stats pool;
    pool_stats(core->pool, &pool);
    gauges.pool_ready = pool.ready;
    gauges.pool_wanted = pool.wanted;
    struct layers_stats layers;
    layers_stats(core, &layers);
    gauges.layers = layers.count;
    gauges.layers_bytes = layers.bytes;
    gauges.layers_building = layers.building;
    struct network_stats network;
    network_stats(core, &network);
    gauges.egress_connected = network.connected ? 1 : 0;
    gauges.egress_sandboxes = network.sandboxes;
    gauges.egress_connections = network.connections;
    gauges.egress_requests = network.requests;
    gauges.egress_refused = network.refused;
    gauges.egress_bytes_out = network.bytes_out;
    gauges.egress_bytes_in = network.bytes_in;
    (void)pthread_mutex_lock(&core->lock);
    for (const struct live *live = core->lives; live; live = live->next)
        gauges.executions++;
    for (const struct session *session = core->sessions; session; session = session->next)
        gauges.sessions++;
    (void)pthread_mutex_unlock(&core->lock);
    int result = metrics_write(&core->metrics, &gauges, out, err);
    return result == 0 ? core_engines_metrics(core, out, err) : result;
}
