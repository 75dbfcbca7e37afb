/* Owns the table of library layers and the waiting for those that are being made. Makes none
 * itself, and takes none away (layer_build.c, layers_tidy.c). */
#include "core/layers_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "core/core_internal.h"
#include "core/languages.h"
#include "lang/lang.h"

#define BUILD_STACK_BYTES (512U * 1024U)
#define KEY_MAX_BYTES (64U * 1024U)
#define WRITE_USED_US (INT64_C(60) * 1000000) /* how old its time in the store may be */
#define ATTACH_NS (5 * CLOCK_NS_PER_S)
/* Of an engine that has to copy it, at the least. */
#define ATTACH_BYTES_PER_S (UINT64_C(10) << 20)

/* ---- the table ---- */

void layer_free(struct layer *layer)
{
    if (!layer)
        return;
    store_layer_done(&layer->row);
    free(layer);
}

struct layer *layers_find_locked(struct layers *layers, const char *name)
{
    struct layer *layer = layers->list;
    while (layer && strcmp(layer->row.name, name) != 0)
        layer = layer->next;
    return layer;
}

static struct layer *find_key_locked(struct layers *layers, const char *key)
{
    struct layer *layer = layers->list;
    while (layer && strcmp(layer->row.key, key) != 0)
        layer = layer->next;
    return layer;
}

void layers_unlink_locked(struct layers *layers, struct layer *layer)
{
    for (struct layer **at = &layers->list; *at; at = &(*at)->next) {
        if (*at != layer)
            continue;
        *at = layer->next;
        layer->removed = true;
        layers->count--;
        layers->bytes -= layer->row.size_bytes;
        return;
    }
}

struct layer *layers_enter(struct core *core, struct store_layer *row)
{
    struct layers *layers = core->layers;
    struct layer *layer = calloc(1, sizeof(*layer));
    if (!layer)
        return NULL;
    layer->row = *row;
    row->key = row->requirements = row->resolved = NULL;
    layer->users = 1;
    layer->written_us = layer->row.used_us;
    (void)pthread_mutex_lock(&layers->lock);
    struct layer **at = &layers->list;
    while (*at)
        at = &(*at)->next;
    *at = layer;
    layers->count++;
    layers->bytes += layer->row.size_bytes;
    (void)pthread_mutex_unlock(&layers->lock);
    return layer;
}

const char *layer_name(const struct layer *layer)
{
    return layer->row.name;
}

/* ---- uses ---- */

/* Whether it is time to write down that it is used, or kept. */
static bool use_locked(struct layer *layer, bool keep)
{
    bool more = keep && !layer->row.keep;
    layer->users++;
    layer->row.used_us = clock_wall_us();
    layer->row.keep |= keep;
    if (!more && layer->row.used_us - layer->written_us < WRITE_USED_US)
        return false;
    layer->written_us = layer->row.used_us;
    return true;
}

static void write_used(struct core *core, const struct layer *layer, bool keep)
{
    store_layer_used(core->store, layer->row.name, clock_wall_us(), keep);
}

static void give_layer(struct core *core, struct layer *layer)
{
    struct layers *layers = core->layers;
    (void)pthread_mutex_lock(&layers->lock);
    layer->users--;
    layer->row.used_us = clock_wall_us();
    bool last = layer->users == 0;
    bool gone = last && layer->removed;
    if (last && !gone && !layer->row.keep)
        (void)pthread_cond_signal(&layers->changed);
    (void)pthread_mutex_unlock(&layers->lock);
    if (gone)
        layer_free(layer);
}

/* The layer of that key, if there is one. */
static struct layer *use_known(struct core *core, const char *key, bool keep)
{
    struct layers *layers = core->layers;
    (void)pthread_mutex_lock(&layers->lock);
    struct layer *layer = find_key_locked(layers, key);
    bool write = layer && use_locked(layer, keep);
    (void)pthread_mutex_unlock(&layers->lock);
    if (write)
        write_used(core, layer, keep);
    return layer;
}

static void build_unref(struct layer_build *build)
{
    struct layers *layers = build->core->layers;
    (void)pthread_mutex_lock(&layers->lock);
    bool last = --build->references == 0;
    (void)pthread_mutex_unlock(&layers->lock);
    if (!last)
        return;
    if (build->layer)
        give_layer(build->core, build->layer);
    library_set_done(&build->set);
    buf_done(&build->failure.words[0]);
    buf_done(&build->failure.words[1]);
    fd_close(&build->done_fd);
    free(build->key);
    free(build);
}

void layer_give(struct core *core, struct layer_use *use)
{
    if (use->layer)
        give_layer(core, use->layer);
    if (use->failed)
        build_unref(use->failed);
    *use = (struct layer_use){0};
}

const struct layer_failure *layer_failure(const struct layer_use *use)
{
    return &use->failed->failure;
}

/* ---- builds ---- */

/* What makes two requests ask for the same: whoever has the same text gets the same layer, so it
 * holds all that an installer could make a difference of. */
static char *key_of(struct core *core, const struct layer_want *want)
{
    BUF_AUTO struct buf key;
    buf_init(&key, KEY_MAX_BYTES);
    const struct core_config *config = &core->config;
    char image[LANGUAGES_IDENTITY_SIZE];
    char image_id[ENGINE_IMAGE_ID_MAX]; /* an interpreter of another version can't load them */
    (void)languages_identity(want->slot->name, want->image, image);
    slot_image_id(want->slot, want->image, image_id);
    int result =
        buf_printf(&key, NULL, "%s%s%s\n%s\n%s\n%s", image, image_id[0] != '\0' ? " " : "",
                   image_id, want->lang->name, config->layers_env ? config->layers_env : "",
                   config->layers_allow ? config->layers_allow : "");
    for (size_t i = 0; i < want->set->count && result == 0; i++)
        result = buf_printf(&key, NULL, "\n%s", want->set->items[i]);
    const char *text = result == 0 ? buf_cstr(&key) : NULL;
    return text ? strdup(text) : NULL;
}

static struct layer_build *build_new(struct core *core, const struct layer_want *want, char *key,
                                     struct err *err)
{
    struct layer_build *build = calloc(1, sizeof(*build));
    if (!build) {
        free(key);
        (void)err_set(err, ERR_INTERNAL, "no memory to build a layer");
        return NULL;
    }
    build->core = core;
    build->key = key;
    build->lang = want->lang;
    build->keep = want->keep;
    build->begun_us = clock_wall_us();
    build->references = 1;
    (void)snprintf(build->name, sizeof(build->name), "lib-");
    id_hex(build->name + strlen(build->name), 8);
    (void)snprintf(build->owner, sizeof(build->owner), "%s", want->owner);
    (void)snprintf(build->image, sizeof(build->image), "%s", want->image);
    build->slot = want->slot;
    (void)snprintf(build->runtime, sizeof(build->runtime), "%s",
                   want->runtime ? want->runtime : "");
    buf_init(&build->failure.words[0], (size_t)core->config.keep_output_bytes);
    buf_init(&build->failure.words[1], (size_t)core->config.keep_output_bytes);
    build->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int result = build->done_fd < 0 ? err_sys(err, errno, "eventfd of a layer") : 0;
    if (result == 0)
        result = library_set_copy(want->set, &build->set, err);
    if (result == 0)
        return build;
    build_unref(build);
    return NULL;
}

static void count_thread(struct core *core, int more)
{
    (void)pthread_mutex_lock(&core->lock);
    core->settlers += more;
    (void)pthread_cond_broadcast(&core->changed);
    (void)pthread_mutex_unlock(&core->lock);
}

/* The engine has it: it is written down and entered. Unless there is one by now: that of an earlier
 * build that nobody waited for any more, but which was too far to be stopped. */
static int enter_built(struct layer_build *build, struct store_layer *row, struct err *err)
{
    struct core *core = build->core;
    build->layer = use_known(core, build->key, false);
    if (build->layer) {
        layers_drop(core, build->slot->name, build->name);
        return 0;
    }
    fault_point("server.layer_imported");
    int result = store_layer_insert(core->store, row, err);
    fault_point("server.layer_stored");
    struct layer *layer = result == 0 ? layers_enter(core, row) : NULL;
    if (result == 0 && !layer)
        result = err_set(err, ERR_INTERNAL, "no memory for a layer");
    if (result != 0)
        layers_drop(core, build->slot->name, build->name);
    build->layer = layer;
    return result;
}

static void finish(struct layer_build *build, int result)
{
    struct layers *layers = build->core->layers;
    uint64_t one = 1;
    (void)pthread_mutex_lock(&layers->lock);
    for (struct layer_build **at = &layers->builds; *at; at = &(*at)->next) {
        if (*at == build) {
            *at = build->next;
            break;
        }
    }
    build->result = result;
    build->over = true;
    bool kept = build->keep;
    if (build->layer)
        build->layer->row.keep |= kept;
    (void)!write(build->done_fd, &one, sizeof(one));
    (void)pthread_cond_signal(&layers->changed);
    (void)pthread_mutex_unlock(&layers->lock);
    if (build->layer && kept)
        write_used(build->core, build->layer, true);
}

static void *build_main(void *context)
{
    struct layer_build *build = context;
    struct core *core = build->core;
    struct store_layer row = {0};
    int result = layer_build_run(build, &row, &build->err);
    if (result == 0)
        result = enter_built(build, &row, &build->err);
    store_layer_done(&row);
    if (result == 0)
        log_info("layer %s: %zu libraries for %s, %" PRIu64 " bytes", build->name, build->set.count,
                 build->lang->name, build->layer->row.size_bytes);
    else if (result != LAYER_FAILED)
        log_warn("layer %s: %s", build->name, build->err.message);
    atomic_fetch_add(result == 0 ? &core->metrics.layers_built : &core->metrics.layers_failed, 1);
    finish(build, result);
    build_unref(build);
    count_thread(core, -1); /* core may go from here on */
    return NULL;
}

/* The caller's lock on the layers is held. */
static int start_locked(struct layers *layers, struct layer_build *build, struct err *err)
{
    pthread_t thread;
    pthread_attr_t attributes;
    (void)pthread_attr_init(&attributes);
    (void)pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    (void)pthread_attr_setstacksize(&attributes, BUILD_STACK_BYTES);
    build->references++;
    int status = pthread_create(&thread, &attributes, build_main, build);
    (void)pthread_attr_destroy(&attributes);
    if (status != 0) {
        build->references--;
        return err_sys(err, status, "start the build of a layer");
    }
    build->next = layers->builds;
    layers->builds = build;
    return 0;
}

/* Joins the build of that key, or begins it. The key is taken over. */
static int join_build(struct core *core, const struct layer_want *want, char *key,
                      struct layer_build **out, struct err *err)
{
    struct layers *layers = core->layers;
    struct layer_build *mine = build_new(core, want, key, err);
    if (!mine)
        return -ERR_INTERNAL;
    count_thread(core, 1); /* before another lock is held */
    (void)pthread_mutex_lock(&layers->lock);
    struct layer_build *build = layers->builds;
    while (build && (build->abandoned || strcmp(build->key, mine->key) != 0))
        build = build->next;
    /* It may have been finished since nobody was found to build it. */
    bool late = !build && find_key_locked(layers, mine->key);
    int result = 0;
    if (build)
        build->references++;
    else if (!late)
        result = start_locked(layers, mine, err);
    bool started = !build && !late && result == 0;
    struct layer_build *joined = build ? build : mine;
    if (result == 0 && !late) {
        joined->waiting++;
        joined->keep |= want->keep;
    }
    (void)pthread_mutex_unlock(&layers->lock);
    if (!started)
        count_thread(core, -1);
    if (joined != mine || late || result != 0)
        build_unref(mine);
    *out = late || result != 0 ? NULL : joined;
    return result;
}

/* Until it is over; ERR_CLOSED: nobody wants it here any more. */
static int wait_for(struct layer_build *build, int cancel_fd, int gone_fd, struct err *err)
{
    struct pollfd fds[] = {{.fd = build->done_fd, .events = POLLIN},
                           {.fd = cancel_fd, .events = POLLIN},
                           {.fd = gone_fd, .events = POLLIN | POLLRDHUP}};
    for (;;) {
        int status = poll(fds, ARRAY_SIZE(fds), -1);
        if (status < 0 && errno != EINTR)
            return err_sys(err, errno, "wait for a layer");
        if (status > 0 && fds[0].revents != 0)
            return 0;
        if (status > 0 && (fds[1].revents != 0 || fds[2].revents != 0))
            return err_set(err, ERR_CLOSED, "cancelled while a layer was made");
    }
}

/* Leaves it: what nobody waits for is not made. */
static void leave(struct core *core, struct layer_build *build)
{
    struct layers *layers = core->layers;
    char live_id[ID_UUID_SIZE] = "";
    (void)pthread_mutex_lock(&layers->lock);
    if (--build->waiting == 0 && !build->over) {
        build->abandoned = true;
        memcpy(live_id, build->live_id, sizeof(live_id));
    }
    (void)pthread_mutex_unlock(&layers->lock);
    if (live_id[0] != '\0')
        (void)live_cancel(core, NULL, live_id, KILL_USER);
}

/* Waits for a build that the caller has joined, and ends that. */
static int take_built(struct core *core, struct layer_build *build, int cancel_fd, int gone_fd,
                      struct layer_use *out, struct err *err)
{
    struct layers *layers = core->layers;
    int result = wait_for(build, cancel_fd, gone_fd, err);
    (void)pthread_mutex_lock(&layers->lock);
    int built = build->result;
    if (result == 0 && built == 0) {
        out->layer = build->layer;
        (void)use_locked(out->layer, false);
    }
    (void)pthread_mutex_unlock(&layers->lock);
    if (result == 0)
        result = built < 0 ? err_copy(err, &build->err) : built;
    leave(core, build);
    if (result == LAYER_FAILED)
        out->failed = build;
    else
        build_unref(build);
    return result;
}

bool layer_is_there(struct core *core, const struct layer_want *want)
{
    struct layers *layers = core->layers;
    MEM_AUTO char *key = layers && want->slot ? key_of(core, want) : NULL;
    if (!key)
        return false;
    (void)pthread_mutex_lock(&layers->lock);
    bool there = find_key_locked(layers, key) != NULL;
    (void)pthread_mutex_unlock(&layers->lock);
    return there;
}

/* Whether there are layers here at all. */
static int check_host(struct core *core, const struct layer_want *want, struct err *err)
{
    struct engine_info info;
    char runtime[ENGINE_NAME_MAX];
    bool named = want->runtime && want->runtime[0] != '\0';
    if (!core->layers)
        return err_public(err, ERR_UNSUPPORTED,
                          "libraries: this server installs none (BERTH_LAYERS_MAX)");
    if (strcmp(want->image, "host") !=
        0) { /* what the name means may have changed, or be known by now */
        char image_id[ENGINE_IMAGE_ID_MAX];
        slot_image_id(want->slot, want->image, image_id);
        (void)slot_info(want->slot, image_id[0] != '\0' ? core->image_look_ns : 0,
                        clock_now_ns() + ATTACH_NS, &info, NULL);
    }
    int result = slot_info(want->slot, INT64_MAX, clock_now_ns() + ATTACH_NS, &info, err);
    if (result == 0)
        result = engines_runtime(want->slot, named ? want->runtime : NULL, &info, runtime, err);
    if (result == 0 && (info.capabilities & ENGINE_CAP_LAYERS) == 0)
        result = err_public(
            err, ERR_UNSUPPORTED, "libraries: the engine %s can't show any in a sandbox%s%s",
            want->slot->name, named ? " of the runtime " : "", named ? want->runtime : "");
    return result;
}

int layer_take(struct core *core, const struct layer_want *want, int cancel_fd, int gone_fd,
               struct layer_use *out, struct err *err)
{
    *out = (struct layer_use){0};
    int result = check_host(core, want, err);
    while (result == 0 && !out->layer) {
        struct layer_build *build = NULL;
        char *key = key_of(core, want);
        if (!key)
            return err_set(err, ERR_INTERNAL, "no memory for the key of a layer");
        out->layer = use_known(core, key, want->keep);
        if (out->layer) {
            free(key);
            atomic_fetch_add(&core->metrics.layers_found, 1);
            return 0;
        }
        result = join_build(core, want, key, &build, err);
        if (result == 0 && build)
            return take_built(core, build, cancel_fd, gone_fd, out, err);
    }
    return result;
}

int layer_take_named(struct core *core, const char *name, struct layer_use *out, struct err *err)
{
    struct layers *layers = core->layers;
    *out = (struct layer_use){0};
    if (layers) {
        (void)pthread_mutex_lock(&layers->lock);
        out->layer = layers_find_locked(layers, name);
        if (out->layer)
            (void)use_locked(out->layer, false);
        (void)pthread_mutex_unlock(&layers->lock);
    }
    return out->layer ? 0 : err_set(err, ERR_NOT_FOUND, "there is no layer %s", name);
}

int layer_attach(struct core *core, struct layer *layer, const char *sandbox_id, struct err *err)
{
    struct engine *engine = NULL;
    struct err failure = ERR_INIT;
    int result = slot_engine(engines_find(core, layer->row.engine), &engine, err);
    if (result != 0)
        return result;
    int64_t copied_ns = (int64_t)(layer->row.size_bytes / ATTACH_BYTES_PER_S) * CLOCK_NS_PER_S;
    result = engine_layer_attach(engine, sandbox_id, layer->row.name,
                                 clock_now_ns() + ATTACH_NS + copied_ns, &failure);
    if (result == -ERR_NOT_FOUND) {
        (void)pthread_mutex_lock(&core->layers->lock);
        bool mine = !layer->removed;
        layers_unlink_locked(core->layers, layer);
        (void)pthread_mutex_unlock(&core->layers->lock);
        if (mine)
            layers_drop(core, layer->row.engine, layer->row.name);
        result = err_public(err, ERR_UNAVAILABLE, "libraries: they were taken away; try again");
        if (err)
            err->retry_after_s = 1;
        return result;
    }
    if (result == -ERR_CONFLICT && failure.public_message[0] == '\0')
        return err_set(err, ERR_CLOSED, "layer %s: %s", layer->row.name, failure.message);
    return result == 0 ? 0 : err_copy(err, &failure);
}
