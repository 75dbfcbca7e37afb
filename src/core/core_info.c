/* Owns what the core knows of the engine's host, and what it tells of itself: the engine, the
 * limits, the capacity, the figures. Tells nothing of what callers run. */
#include <inttypes.h>
#include <string.h>

#include "base/clock.h"
#include "core/compile_cache.h"
#include "core/layers.h"
#include "core/network_use.h"
#include "core/pool.h"
#include "core/session_internal.h"
#include "wire/json.h"

void core_set_info(struct core *core, const struct engine_info *info)
{
    const struct reservation budget = resources_budget(&core->config, info);
    /* First: whoever finds the info known goes on to reserve from the budget. */
    admission_set_budget(core->admission, &budget);
    (void)pthread_mutex_lock(&core->lock);
    core->info = *info;
    core->info_known = true;
    core->info_ns = clock_now_ns();
    (void)pthread_mutex_unlock(&core->lock);
    pool_set_max(core->pool, resources_pool_max(&core->config, info));
}

bool core_knows_info(struct core *core)
{
    (void)pthread_mutex_lock(&core->lock);
    bool known = core->info_known;
    (void)pthread_mutex_unlock(&core->lock);
    return known;
}

static bool known_info(struct core *core, int64_t age_max_ns, struct engine_info *out)
{
    (void)pthread_mutex_lock(&core->lock);
    bool known = core->info_known && clock_now_ns() - core->info_ns < age_max_ns;
    if (known)
        *out = core->info;
    (void)pthread_mutex_unlock(&core->lock);
    return known;
}

int core_engine_info(struct core *core, int64_t age_max_ns, int64_t deadline_ns,
                     struct engine_info *out, struct err *err)
{
    if (known_info(core, age_max_ns, out))
        return 0;
    struct engine *engine = NULL;
    int result = core_engine(core, &engine, err);
    if (result == 0)
        result = engine_probe(engine, deadline_ns, out, err);
    if (result == 0)
        core_set_info(core, out);
    return result;
}

static int put_string(struct buf *out, const char *text, struct err *err)
{
    return json_append_bytes(out, (const uint8_t *)text, strlen(text), err);
}

static int put_or_null(struct buf *out, const char *text, struct err *err)
{
    return text[0] == '\0' ? buf_append_str(out, "null", err) : put_string(out, text, err);
}

static int engine_figures(const struct engine_info *info, struct buf *out, struct err *err)
{
    int result = buf_append_str(out, ",\"capabilities\":[", err);
    bool first = true;
    for (unsigned i = 0; i < ENGINE_CAP_COUNT && result == 0; i++) {
        if ((info->capabilities & (UINT64_C(1) << i)) == 0)
            continue;
        result = buf_printf(out, err, "%s\"%s\"", first ? "" : ",", engine_cap_name(i));
        first = false;
    }
    if (result != 0)
        return result;
    return buf_printf(out, err,
                      "],\"limits\":{\"ram_bytes\":%" PRIu64 ",\"cpu\":%" PRIu32 ".%03" PRIu32
                      ",\"storage_bytes\":%" PRIu64 ",\"disk_bytes\":%" PRIu64 ",\"gpus\":%" PRIu32
                      "}",
                      info->memory_bytes, info->cpu_millis / 1000, info->cpu_millis % 1000,
                      info->storage_bytes, info->disk_bytes, info->gpu_count);
}

/* The limits that a sandbox would not have here. */
static int put_not_enforced(const struct engine_info *info, struct buf *out, struct err *err)
{
    int result = buf_append_str(out, ",\"not_enforced\":[", err);
    bool first = true;
    uint64_t capability = 0;
    const char *name = NULL;
    for (unsigned i = 0; result == 0 && (name = resources_name(i, &capability)); i++) {
        if ((info->capabilities & capability) != 0)
            continue;
        result = buf_printf(out, err, "%s\"%s\"", first ? "" : ",", name);
        first = false;
    }
    return result == 0 ? buf_append_str(out, "]", err) : result;
}

static int put_images(const struct engine_info *info, struct buf *out, struct err *err)
{
    int result = buf_append_str(out, ",\"images\":[", err);
    const char *at = plan_images(info);
    for (bool first = true; result == 0 && *at; first = false) {
        size_t size = strcspn(at, " ");
        if (!first)
            result = buf_append_str(out, ",", err);
        if (result == 0)
            result = json_append_bytes(out, (const uint8_t *)at, size, err);
        at += size + strspn(at + size, " ");
    }
    return result == 0 ? buf_append_str(out, "]", err) : result;
}

static int engine_details(const struct engine_info *info, struct buf *out, struct err *err)
{
    int result = put_not_enforced(info, out, err);
    if (result == 0)
        result = buf_append_str(out, ",\"missing\":", err);
    if (result == 0)
        result = put_or_null(out, info->missing, err);
    if (result == 0)
        result = put_images(info, out, err);
    if (result != 0)
        return result;
    bool container = (info->capabilities & ENGINE_CAP_CONTAINER) != 0;
    return buf_printf(out, err, ",\"profiles\":[\"strict\"%s]", container ? ",\"container\"" : "");
}

int core_engine_json(struct core *core, bool details, struct buf *out, struct err *err)
{
    struct engine *engine = NULL;
    struct engine_info info = {0};
    int probed = core_engine(core, &engine, NULL);
    /* /health is open to everybody: it must not become a way to keep a root process busy. */
    if (probed == 0)
        probed =
            core_engine_info(core, CLOCK_NS_PER_S, clock_now_ns() + CLOCK_NS_PER_S, &info, NULL);
    if (probed != 0)
        info = (struct engine_info){0};
    const char *status = probed != 0 ? "down" : info.unavailable[0] != '\0' ? "unavailable" : "ok";
    int result = buf_printf(out, err, "{\"name\":\"%s\",\"status\":\"%s\",\"version\":",
                            engine ? engine->name : "none", status);
    if (result == 0)
        result = put_string(out, info.version, err);
    if (result == 0)
        result = buf_append_str(out, ",\"cgroups\":", err);
    if (result == 0)
        result = put_string(out, info.cgroup_mode, err);
    if (result == 0)
        result = engine_figures(&info, out, err);
    if (result == 0 && details)
        result = engine_details(&info, out, err);
    if (result == 0)
        result = buf_append_str(out, ",\"unavailable\":", err);
    if (result == 0)
        result =
            put_or_null(out, probed != 0 ? "the engine does not answer" : info.unavailable, err);
    return result == 0 ? buf_append_str(out, "}", err) : result;
}

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
    return metrics_write(&core->metrics, &gauges, out, err);
}
