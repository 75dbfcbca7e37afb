/* Owns what is told of the engines: for people, for programs that choose one, and for Prometheus.
 * Tells nothing of what callers run. */
#include <inttypes.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "core/core_internal.h"
#include "wire/json.h"

static int put_string(struct buf *out, const char *text, struct err *err)
{
    return json_append_bytes(out, (const uint8_t *)text, strlen(text), err);
}

static int put_or_null(struct buf *out, const char *text, struct err *err)
{
    return text[0] == '\0' ? buf_append_str(out, "null", err) : put_string(out, text, err);
}

/* The names of the bits that are set, as a list. */
static int put_capabilities(struct buf *out, const char *key, uint64_t capabilities,
                            struct err *err)
{
    int result = buf_printf(out, err, ",\"%s\":[", key);
    bool first = true;
    for (unsigned i = 0; i < ENGINE_CAP_COUNT && result == 0; i++) {
        if ((capabilities & (UINT64_C(1) << i)) == 0)
            continue;
        result = buf_printf(out, err, "%s\"%s\"", first ? "" : ",", engine_cap_name(i));
        first = false;
    }
    return result == 0 ? buf_append_str(out, "]", err) : result;
}

static int engine_figures(const struct engine_info *info, struct buf *out, struct err *err)
{
    int result = put_capabilities(out, "capabilities", info->capabilities, err);
    if (result != 0)
        return result;
    result = buf_printf(out, err,
                        ",\"limits\":{\"ram_bytes\":%" PRIu64 ",\"cpu\":%" PRIu32 ".%03" PRIu32
                        ",\"storage_bytes\":%" PRIu64 ",\"disk_bytes\":",
                        info->memory_bytes, info->cpu_millis / 1000, info->cpu_millis % 1000,
                        info->storage_bytes);
    if (result == 0)
        result = info->disk_bytes == ENGINE_DISK_UNKNOWN
                     ? buf_append_str(out, "null", err)
                     : buf_printf(out, err, "%" PRIu64, info->disk_bytes);
    return result == 0 ? buf_printf(out, err, ",\"gpus\":%" PRIu32 "}", info->gpu_count) : result;
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

static int put_runtimes(const struct engine_info *info, struct buf *out, struct err *err)
{
    int result = buf_append_str(out, ",\"runtimes\":[", err);
    for (size_t i = 0; i < info->runtime_count && result == 0; i++) {
        const struct engine_runtime *runtime = &info->runtimes[i];
        result = buf_append_str(out, i > 0 ? ",{\"name\":" : "{\"name\":", err);
        if (result == 0)
            result = put_string(out, runtime->name, err);
        if (result == 0)
            result = buf_append_str(out, ",\"version\":", err);
        if (result == 0)
            result = put_or_null(out, runtime->version, err);
        if (result == 0)
            result = put_capabilities(out, "capabilities", runtime->capabilities, err);
        if (result == 0)
            result = put_capabilities(out, "missing", ~runtime->capabilities, err);
        if (result == 0)
            result = buf_append_str(out, ",\"warning\":", err);
        if (result == 0)
            result = put_or_null(out, runtime->warning, err);
        if (result == 0)
            result = buf_append_str(out, "}", err);
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
    if (result == 0)
        result = put_runtimes(info, out, err);
    if (result != 0)
        return result;
    bool container = (info->capabilities & ENGINE_CAP_CONTAINER) != 0;
    return buf_printf(out, err, ",\"profiles\":[\"strict\"%s]", container ? ",\"container\"" : "");
}

/* What is known of an engine, asked for anew after a second. /health is open to everybody: it must
 * not become a way to keep a root process busy, nor one that waits for each engine that is away. */
static bool look_at(struct engine_slot *slot, struct engine_info *out)
{
    int64_t now_ns = clock_now_ns();
    *out = (struct engine_info){0};
    (void)pthread_mutex_lock(&slot->core->lock);
    bool failed = slot->failed_ns != 0 && now_ns - slot->failed_ns < CLOCK_NS_PER_S;
    (void)pthread_mutex_unlock(&slot->core->lock);
    if (!failed && slot_info(slot, CLOCK_NS_PER_S, now_ns + CLOCK_NS_PER_S, out, NULL) == 0)
        return true;
    *out = (struct engine_info){0};
    return false;
}

static int put_engine(struct engine_slot *slot, bool details, struct buf *out, struct err *err)
{
    const struct engine_ask nothing = {0};
    struct engine_slot *chosen = NULL;
    const char *runtime = NULL;
    struct engine_info info;
    bool there = look_at(slot, &info);
    (void)engines_choose(slot->core, &nothing, &chosen, &runtime, NULL);
    const char *status = !there ? "down" : info.unavailable[0] != '\0' ? "unavailable" : "ok";
    int result = buf_printf(
        out, err, "{\"name\":\"%s\",\"status\":\"%s\",\"default\":%s,\"version\":", slot->name,
        status, slot == chosen ? "true" : "false");
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
        result = put_or_null(out, there ? info.unavailable : "the engine does not answer", err);
    return result == 0 ? buf_append_str(out, "}", err) : result;
}

int core_engines_json(struct core *core, bool details, struct buf *out, struct err *err)
{
    int result = buf_append_str(out, "[", err);
    for (size_t i = 0; i < core->slot_count && result == 0; i++) {
        if (i > 0)
            result = buf_append_str(out, ",", err);
        if (result == 0)
            result = put_engine(&core->slots[i], details, out, err);
    }
    return result == 0 ? buf_append_str(out, "]", err) : result;
}

static int put_default(struct core *core, bool of_session, struct buf *out, struct err *err)
{
    const struct engine_ask nothing = {.of_session = of_session};
    struct engine_slot *slot = NULL;
    const char *runtime = NULL;
    int result = engines_choose(core, &nothing, &slot, &runtime, err);
    if (result == 0)
        result = buf_printf(out, err, "\"%s\":{\"engine\":\"%s\",\"runtime\":",
                            of_session ? "sessions" : "execute", slot->name);
    if (result == 0)
        result = put_or_null(out, runtime ? runtime : "", err);
    return result == 0 ? buf_append_str(out, "}", err) : result;
}

int core_engine_choice_json(struct core *core, struct buf *out, struct err *err)
{
    int result = buf_printf(out, err, "{\"offered\":%s,\"defaults\":{",
                            core->config.engine_choice ? "true" : "false");
    if (result == 0)
        result = put_default(core, false, out, err);
    if (result == 0)
        result = buf_append_str(out, ",", err);
    if (result == 0)
        result = put_default(core, true, out, err);
    return result == 0 ? buf_append_str(out, "}}", err) : result;
}

/* ---- metrics ---- */

struct figures {
    bool up;
    unsigned living, sessions;
    uint64_t created, failed, died;
};

static void figures_of(struct core *core, const struct engine_slot *slot, struct figures *out)
{
    *out = (struct figures){.created = slot->sandboxes_created,
                            .failed = slot->creates_failed,
                            .died = slot->sandboxes_died};
    (void)pthread_mutex_lock(&core->lock);
    out->up = slot->info_known && slot->failed_ns == 0 && slot->info.unavailable[0] == '\0';
    for (const struct box *box = core->boxes; box; box = box->next) {
        out->living += box->slot == slot;
        out->sessions += box->slot == slot && box->of_session;
    }
    (void)pthread_mutex_unlock(&core->lock);
}

int core_engines_metrics(struct core *core, struct buf *out, struct err *err)
{
    static const struct {
        const char *name, *type, *help;
    } heads[] = {
        {"berth_engine_up", "gauge", "Whether the engine could make sandboxes when last asked."},
        {"berth_engine_sandboxes", "gauge", "Sandboxes of the engine that are not gone."},
        {"berth_engine_sessions", "gauge", "Sandboxes of the engine that are sessions."},
        {"berth_engine_created_total", "counter", "Sandboxes that the engine made."},
        {"berth_engine_failed_total", "counter", "Sandboxes that the engine failed to make."},
        {"berth_engine_died_total", "counter",
         "Sandboxes of the engine, but those of sessions, that died by themselves."},
    };
    int result = 0;
    for (size_t k = 0; k < core->slot_count;
         k++) { /* who is only scraped is asked by nobody else */
        struct engine_info info;
        (void)look_at(&core->slots[k], &info);
    }
    for (size_t i = 0; i < ARRAY_SIZE(heads) && result == 0; i++) {
        result = buf_printf(out, err, "# HELP %s %s\n# TYPE %s %s\n", heads[i].name, heads[i].help,
                            heads[i].name, heads[i].type);
        for (size_t k = 0; k < core->slot_count && result == 0; k++) {
            struct figures figures;
            figures_of(core, &core->slots[k], &figures);
            const uint64_t values[] = {figures.up,      figures.living, figures.sessions,
                                       figures.created, figures.failed, figures.died};
            result = buf_printf(out, err, "%s{engine=\"%s\"} %" PRIu64 "\n", heads[i].name,
                                core->slots[k].name, values[i]);
        }
    }
    return result;
}
