/* Owns the end of library layers and what can be read about them: the thread that lets go what
 * nobody uses, the bounds, the operator's removal, and the agreement with the engine. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/mem.h"
#include "core/core_internal.h"
#include "core/layers_internal.h"
#include "lang/lang.h"
#include "wire/json.h"

#define ENGINE_NS (10 * CLOCK_NS_PER_S)
#define LOOK_US INT64_C(30000000) /* the keeper looks at least so often */

void layers_drop(struct core *core, const char *engine_name, const char *name)
{
    struct engine_slot *slot = engines_find(core, engine_name);
    struct engine *engine = NULL;
    struct err err = ERR_INIT;
    int result = store_layer_remove(core->store, name, &err);
    fault_point("server.layer_removed");
    if (result == 0)
        result = slot_engine(slot, &engine, &err);
    /* One that is away is settled with once it is back, and nobody here waits for that. */
    int64_t wait_ns = result == 0 && slot_seems_away(slot) ? 0 : ENGINE_NS;
    if (result == 0)
        result = engine_layer_remove(engine, name, clock_now_ns() + wait_ns, &err);
    if (slot && engine_is_away(&err))
        slot_note_away(slot);
    if (result != 0)
        log_warn("layer %s: %s", name, err.message);
}

/* ---- what goes by itself ---- */

/* The one that nobody has used for longest; NULL: all are in use. */
static struct layer *oldest_locked(struct layers *layers)
{
    struct layer *oldest = NULL;
    for (struct layer *layer = layers->list; layer; layer = layer->next) {
        if (layer->users == 0 && (!oldest || layer->row.used_us < oldest->row.used_us))
            oldest = layer;
    }
    return oldest;
}

static struct layer *expired_locked(const struct core *core, int64_t now_us, int64_t *due_us)
{
    int64_t grace_us = (int64_t)core->config.layers_grace_ms * 1000;
    for (struct layer *layer = core->layers->list; layer; layer = layer->next) {
        if (layer->users > 0 || layer->row.keep)
            continue;
        if (layer->row.used_us + grace_us <= now_us)
            return layer;
        if (layer->row.used_us + grace_us < *due_us)
            *due_us = layer->row.used_us + grace_us;
    }
    return NULL;
}

static bool is_over(const struct core *core, unsigned count, uint64_t size_bytes)
{
    const struct layers *layers = core->layers;
    return layers->count + count > core->config.layers_max ||
           layers->bytes + size_bytes > core->config.layers_max_bytes;
}

static void evict(struct core *core, struct layer *layer, const char *why)
{
    log_info("layer %s goes: %s", layer->row.name, why);
    atomic_fetch_add(&core->metrics.layers_evicted, 1);
    layers_drop(core, layer->row.engine, layer->row.name);
    layer_free(layer);
}

int layers_make_room(struct core *core, unsigned count, uint64_t size_bytes, struct err *err)
{
    struct layers *layers = core->layers;
    for (;;) {
        (void)pthread_mutex_lock(&layers->lock);
        bool over = is_over(core, count, size_bytes);
        struct layer *victim = over ? oldest_locked(layers) : NULL;
        if (victim)
            layers_unlink_locked(layers, victim);
        (void)pthread_mutex_unlock(&layers->lock);
        if (!over)
            return 0;
        if (!victim)
            break;
        evict(core, victim, "others need its room");
    }
    int result = err_public(err, ERR_UNAVAILABLE,
                            "libraries: there is no room for more of them while those that there "
                            "are are in use");
    if (err)
        err->retry_after_s = LAYERS_BUSY_RETRY_S;
    return result;
}

static void sleep_locked(struct layers *layers, int64_t us)
{
    int64_t until_ns = clock_now_ns() + us * 1000;
    const struct timespec until = {.tv_sec = (time_t)(until_ns / CLOCK_NS_PER_S),
                                   .tv_nsec = (long)(until_ns % CLOCK_NS_PER_S)};
    (void)pthread_cond_timedwait(&layers->changed, &layers->lock, &until);
}

static void *keeper_main(void *context)
{
    struct core *core = context;
    struct layers *layers = core->layers;
    (void)pthread_mutex_lock(&layers->lock);
    while (!layers->stop) {
        int64_t now_us = clock_wall_us();
        int64_t due_us = now_us + LOOK_US;
        struct layer *victim = expired_locked(core, now_us, &due_us);
        if (!victim) {
            sleep_locked(layers, due_us - now_us);
            continue;
        }
        layers_unlink_locked(layers, victim);
        (void)pthread_mutex_unlock(&layers->lock);
        evict(core, victim, "nobody used it for a while");
        (void)pthread_mutex_lock(&layers->lock);
    }
    (void)pthread_mutex_unlock(&layers->lock);
    return NULL;
}

/* ---- the table's life ---- */

static int load_one(void *context, struct store_layer *row, struct err *err)
{
    struct layer *layer = layers_enter(context, row);
    if (!layer)
        return err_set(err, ERR_INTERNAL, "no memory for a layer");
    layer->users = 0; /* nobody else is there yet */
    return 0;
}

int layers_start(struct core *core, struct err *err)
{
    if (!core->layers)
        return 0;
    int status = pthread_create(&core->layers->keeper, NULL, keeper_main, core);
    if (status != 0)
        return err_sys(err, status, "start the keeper of layers");
    core->layers->keeper_runs = true;
    return 0;
}

int layers_open(struct core *core, struct err *err)
{
    if (core->config.layers_max == 0)
        return 0;
    struct layers *layers = calloc(1, sizeof(*layers));
    if (!layers)
        return err_set(err, ERR_INTERNAL, "no memory for the layers");
    pthread_condattr_t attributes;
    (void)pthread_mutex_init(&layers->lock, NULL);
    (void)pthread_condattr_init(&attributes);
    (void)pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&layers->changed, &attributes);
    (void)pthread_condattr_destroy(&attributes);
    core->layers = layers;
    return store_layer_each(core->store, load_one, core, err);
}

void layers_stop(struct core *core)
{
    struct layers *layers = core->layers;
    if (!layers)
        return;
    (void)pthread_mutex_lock(&layers->lock);
    layers->stop = true;
    (void)pthread_cond_broadcast(&layers->changed);
    (void)pthread_mutex_unlock(&layers->lock);
    if (layers->keeper_runs)
        (void)pthread_join(layers->keeper, NULL);
    layers->keeper_runs = false;
}

void layers_close(struct core *core)
{
    struct layers *layers = core->layers;
    if (!layers)
        return;
    layers_stop(core);
    while (layers->list) {
        struct layer *layer = layers->list;
        layers->list = layer->next;
        layer_free(layer);
    }
    (void)pthread_cond_destroy(&layers->changed);
    (void)pthread_mutex_destroy(&layers->lock);
    free(layers);
    core->layers = NULL;
}

/* Whether a name that the engine has is known here, or is about to be. */
static bool is_known(struct layers *layers, const char *name)
{
    (void)pthread_mutex_lock(&layers->lock);
    bool known = layers_find_locked(layers, name) != NULL;
    for (const struct layer_build *build = layers->builds; build && !known; build = build->next)
        known = strcmp(build->name, name) == 0;
    (void)pthread_mutex_unlock(&layers->lock);
    return known;
}

static bool is_listed(const struct engine_layer *list, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(list[i].name, name) == 0)
            return true;
    }
    return false;
}

/* One that the engine did not have, of its own that were here before it was asked. */
static struct layer *take_lost(struct layers *layers, const char *engine,
                               const struct engine_layer *list, size_t count, int64_t asked_us)
{
    (void)pthread_mutex_lock(&layers->lock);
    struct layer *lost = layers->list;
    while (lost && (strcmp(lost->row.engine, engine) != 0 || lost->row.created_us >= asked_us ||
                    is_listed(list, count, lost->row.name)))
        lost = lost->next;
    if (lost) {
        layers_unlink_locked(layers, lost);
        lost->users++; /* ours, so that it stays until its name is used no more */
    }
    (void)pthread_mutex_unlock(&layers->lock);
    return lost;
}

int layers_reconcile(struct core *core, struct engine_slot *slot, struct err *err)
{
    struct engine *engine = NULL;
    struct engine_layer *list = NULL;
    size_t count = 0;
    if (!core->layers)
        return 0;
    int64_t asked_us = clock_wall_us();
    int result = slot_engine(slot, &engine, err);
    if (result != 0)
        return result;
    result = engine_layer_list(engine, clock_now_ns() + ENGINE_NS, &list, &count, err);
    if (result == -ERR_UNSUPPORTED)
        return 0;
    for (size_t i = 0; i < count && result == 0; i++) {
        if (is_known(core->layers, list[i].name))
            continue;
        log_info("layer %s is nobody's: it goes", list[i].name);
        result = engine_layer_remove(engine, list[i].name, clock_now_ns() + ENGINE_NS, err);
    }
    struct layer *lost = NULL;
    while (result == 0 && (lost = take_lost(core->layers, slot->name, list, count, asked_us))) {
        struct layer_use use = {.layer = lost};
        log_warn("layer %s is not there any more", lost->row.name);
        result = store_layer_remove(core->store, lost->row.name, err);
        layer_give(core, &use);
    }
    free(list);
    return result;
}

/* ---- what can be read ---- */

void layers_stats(struct core *core, struct layers_stats *out)
{
    *out = (struct layers_stats){0};
    if (!core->layers)
        return;
    (void)pthread_mutex_lock(&core->layers->lock);
    out->count = core->layers->count;
    out->bytes = core->layers->bytes;
    for (const struct layer_build *build = core->layers->builds; build; build = build->next)
        out->building++;
    (void)pthread_mutex_unlock(&core->layers->lock);
}

static int put_layer(const struct layer *layer, bool first, struct buf *out, struct err *err)
{
    const struct store_layer *row = &layer->row;
    char created[CLOCK_ISO8601_SIZE];
    char used[CLOCK_ISO8601_SIZE];
    clock_format_iso8601(row->created_us, created);
    clock_format_iso8601(row->used_us, used);
    int result = buf_printf(out, err,
                            "%s{\"name\":\"%s\",\"lang\":\"%s\",\"engine\":\"%s\",\"image\":\"%s\","
                            "\"libraries\":%s,\"installed\":",
                            first ? "" : ",", row->name, row->lang, row->engine, row->image,
                            row->requirements);
    if (result == 0)
        result = json_append_bytes(out, (const uint8_t *)row->resolved, strlen(row->resolved), err);
    return result != 0 ? result
                       : buf_printf(out, err,
                                    ",\"size_bytes\":%" PRIu64 ",\"created_at\":\"%s\","
                                    "\"last_used_at\":\"%s\",\"keep_template\":%s,\"in_use\":%u}",
                                    row->size_bytes, created, used, row->keep ? "true" : "false",
                                    layer->users);
}

static int put_build(const struct layer_build *build, bool first, struct buf *out, struct err *err)
{
    char begun[CLOCK_ISO8601_SIZE];
    clock_format_iso8601(build->begun_us, begun);
    int result =
        buf_printf(out, err, "%s{\"lang\":\"%s\",\"engine\":\"%s\",\"image\":\"%s\",\"libraries\":",
                   first ? "" : ",", build->lang->name, build->slot->name, build->image);
    if (result == 0)
        result = library_set_json(&build->set, out, err);
    return result != 0 ? result
                       : buf_printf(out, err, ",\"begun_at\":\"%s\",\"waiting\":%u}", begun,
                                    build->waiting);
}

static int put_all_locked(struct layers *layers, struct buf *out, struct err *err)
{
    int result = buf_append_str(out, "{\"layers\":[", err);
    for (const struct layer *layer = layers->list; layer && result == 0; layer = layer->next)
        result = put_layer(layer, layer == layers->list, out, err);
    if (result == 0)
        result = buf_append_str(out, "],\"building\":[", err);
    for (const struct layer_build *build = layers->builds; build && result == 0;
         build = build->next)
        result = put_build(build, build == layers->builds, out, err);
    return result == 0 ? buf_printf(out, err, "],\"size_bytes\":%" PRIu64, layers->bytes) : result;
}

int core_layers_list(struct core *core, struct buf *out, struct err *err)
{
    if (!core->layers)
        return buf_append_str(out,
                              "{\"layers\":[],\"building\":[],\"size_bytes\":0,\"layers_max\":0,"
                              "\"size_max_bytes\":0}",
                              err);
    (void)pthread_mutex_lock(&core->layers->lock);
    int result = put_all_locked(core->layers, out, err);
    (void)pthread_mutex_unlock(&core->layers->lock);
    return result != 0 ? result
                       : buf_printf(out, err, ",\"layers_max\":%u,\"size_max_bytes\":%" PRIu64 "}",
                                    core->config.layers_max, core->config.layers_max_bytes);
}

int core_layer_remove(struct core *core, const char *name, struct buf *out, struct err *err)
{
    struct layers *layers = core->layers;
    struct layer_use use = {0};
    if (layers) {
        (void)pthread_mutex_lock(&layers->lock);
        use.layer = layers_find_locked(layers, name);
        if (use.layer) {
            layers_unlink_locked(layers, use.layer);
            use.layer->users++;
        }
        (void)pthread_mutex_unlock(&layers->lock);
    }
    if (!use.layer)
        return err_public(err, ERR_NOT_FOUND, "there is no layer \"%.40s\"", name);
    layers_drop(core, use.layer->row.engine, use.layer->row.name);
    int result =
        buf_printf(out, err, "{\"name\":\"%s\",\"status\":\"removed\"}", use.layer->row.name);
    layer_give(core, &use);
    return result;
}
