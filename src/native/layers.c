/* Owns the table of layers and the child that unpacks one. Believes nothing that comes with an
 * import but its bytes, and these only berth-unpack reads. */
#include "native/layers.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/fd.h"
#include "base/id.h"
#include "base/log.h"
#include "native/imagewaste.h"
#include "native/unpack.h"

#define BLOCK_BYTES UINT64_C(4096) /* sizes are in whole ones (unpack/tree.c) */

enum { RETRY_AFTER_S = 5, SIZE_DIGITS = 8 };

struct entry {
    struct engine_layer layer;
    char folder[IMAGESTORE_NAME_SIZE];
};

struct import {
    uint64_t request_id; /* 0: nobody waits for it any more */
    char name[ENGINE_LAYER_NAME_MAX + 1];
    int tar_fd;
    uint64_t size_max_bytes;
    uint64_t entries_max;
};

struct layers {
    struct layers_config config;
    layers_imported_fn on_imported;
    void *context;
    int epoll_fd;
    struct entry *entries; /* in no order */
    size_t count;
    struct import queue[LAYERS_QUEUE_MAX]; /* the first one comes next, or is being unpacked */
    size_t queued;
    struct unpack unpack; /* pid 0: none */
    char partial[IMAGESTORE_NAME_SIZE];
    int64_t deadline_ns;
    bool late;     /* killed for its deadline */
    bool all_held; /* see layers_all_held() */
    struct imagewaste waste;
};

/* ---- the table ---- */

static struct entry *find(const struct layers *layers, const char *name)
{
    for (size_t i = 0; i < layers->count; i++) {
        if (strcmp(layers->entries[i].layer.name, name) == 0)
            return &layers->entries[i];
    }
    return NULL;
}

static int add(struct layers *layers, const struct engine_layer *layer, const char *folder,
               struct err *err)
{
    struct entry *grown =
        reallocarray(layers->entries, layers->count + 1, sizeof(*layers->entries));
    if (!grown)
        return err_set(err, ERR_INTERNAL, "no memory for a layer");
    layers->entries = grown;
    struct entry *entry = &grown[layers->count++];
    entry->layer = *layer;
    (void)snprintf(entry->folder, sizeof(entry->folder), "%s", folder);
    return 0;
}

static void name_folder(const struct engine_layer *layer, char out[static IMAGESTORE_NAME_SIZE])
{
    char random[9];
    id_hex(random, 4);
    (void)snprintf(out, IMAGESTORE_NAME_SIZE, "%s.%0*" PRIx32 "%s", layer->name, SIZE_DIGITS,
                   (uint32_t)(layer->size_bytes / BLOCK_BYTES), random);
}

/* A folder that an earlier engine made. */
static void add_whole(void *context, const char *whole)
{
    struct layers *layers = context;
    struct engine_layer layer = {0};
    size_t size = strcspn(whole, ".");
    memcpy(layer.name, whole, size); /* imagestore has checked how long it is */
    char digits[SIZE_DIGITS + 1];
    (void)snprintf(digits, sizeof(digits), "%s", whole + size + 1);
    layer.size_bytes = strtoull(digits, NULL, 16) * BLOCK_BYTES;
    if (!id_is_name(layer.name, ENGINE_LAYER_NAME_MAX) || find(layers, layer.name))
        return;
    if (add(layers, &layer, whole, NULL) != 0)
        log_error("no memory for layer %s", layer.name);
}

int layers_open(const struct layers_config *config, layers_imported_fn on_imported, void *context,
                struct layers **out, struct err *err)
{
    int result = imagestore_check(config->store_fd, err);
    if (result != 0)
        return result;
    struct layers *layers = calloc(1, sizeof(*layers));
    if (!layers)
        return err_set(err, ERR_INTERNAL, "no memory for the layers");
    layers->config = *config;
    layers->on_imported = on_imported;
    layers->context = context;
    layers->unpack.pidfd = layers->unpack.status_fd = -1;
    layers->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    imagewaste_init(&layers->waste, config->store_fd, layers->epoll_fd);
    layers->waste.due = true;
    if (layers->epoll_fd < 0)
        result = err_sys(err, errno, "make the table of layers");
    if (result == 0)
        result = imagestore_each(config->store_fd, add_whole, layers, err);
    if (result != 0) {
        layers_free(layers);
        return result;
    }
    *out = layers;
    return 0;
}

void layers_free(struct layers *layers)
{
    if (!layers)
        return;
    unpack_kill(&layers->unpack);
    fd_close(&layers->unpack.pidfd);
    fd_close(&layers->unpack.status_fd);
    imagewaste_done(&layers->waste);
    for (size_t i = 0; i < layers->queued; i++)
        fd_close(&layers->queue[i].tar_fd);
    fd_close(&layers->epoll_fd);
    free(layers->entries);
    free(layers);
}

int layers_event_fd(const struct layers *layers)
{
    return layers->epoll_fd;
}

void layers_all_held(struct layers *layers)
{
    layers->all_held = true;
}

void layers_look_again(struct layers *layers)
{
    layers->waste.due = true;
}

/* ---- imports ---- */

static int check_import(const struct layers *layers, const struct engine_msg *request, int tar_fd,
                        struct err *err)
{
    const char *name = request->layer.name;
    if (!id_is_name(name, ENGINE_LAYER_NAME_MAX))
        return err_set(err, ERR_BAD_INPUT, "layer \"%s\"", name);
    if (tar_fd < 0)
        return err_set(err, ERR_BAD_INPUT, "layer %s comes without an archive", name);
    if (find(layers, name))
        return err_set(err, ERR_CONFLICT, "there is a layer %s", name);
    if (layers->count + layers->queued < LAYERS_MAX && layers->queued < LAYERS_QUEUE_MAX)
        return 0;
    (void)err_public(err, ERR_UNAVAILABLE, "too many libraries are being built; try again");
    if (err)
        err->retry_after_s = RETRY_AFTER_S;
    return -ERR_UNAVAILABLE;
}

static uint64_t bound(uint64_t asked, uint64_t most)
{
    return asked != 0 && asked < most ? asked : most;
}

int layers_import(struct layers *layers, const struct engine_msg *request, int *tar_fd,
                  struct err *err)
{
    FD_AUTO int fd = fd_take(tar_fd);
    int result = check_import(layers, request, fd, err);
    if (result != 0)
        return result;
    struct import *import = &layers->queue[layers->queued++];
    *import = (struct import){
        .request_id = request->request_id,
        .tar_fd = fd_take(&fd),
        .size_max_bytes = bound(request->size_max_bytes, layers->config.size_max_bytes),
        .entries_max = bound(request->entries_max, layers->config.entries_max)};
    memcpy(import->name, request->layer.name, sizeof(import->name));
    return 0;
}

/* The first of the queue is done with. */
static void end_import(struct layers *layers, const struct engine_layer *layer,
                       const struct err *error)
{
    uint64_t request_id = layers->queue[0].request_id;
    fd_close(&layers->queue[0].tar_fd);
    layers->queued--;
    memmove(&layers->queue[0], &layers->queue[1], layers->queued * sizeof(layers->queue[0]));
    if (request_id != 0)
        layers->on_imported(layers->context, request_id, layer, error);
}

static int start_unpack(struct layers *layers, const struct import *import, struct err *err)
{
    FD_AUTO int rootfs_fd = -1;
    if (find(layers, import->name)) /* one that came before it */
        return err_set(err, ERR_CONFLICT, "there is a layer %s", import->name);
    int result =
        imagestore_begin(layers->config.store_fd, import->name, layers->partial, &rootfs_fd, err);
    if (result != 0)
        return result;
    fault_point("layers.begin");
    const struct unpack_config config = {.program_fd = layers->config.unpack_fd,
                                         .tar_fd = import->tar_fd,
                                         .target_fd = rootfs_fd,
                                         .size_max_bytes = import->size_max_bytes,
                                         .entries_max = import->entries_max,
                                         .layer = true};
    result = unpack_start(&config, &layers->unpack, err);
    if (result != 0)
        return result;
    layers->deadline_ns = clock_now_ns() + (int64_t)layers->config.timeout_s * CLOCK_NS_PER_S;
    layers->late = false;
    imagewaste_watch(&layers->waste, layers->unpack.pidfd);
    return 0;
}

static void start_next(struct layers *layers)
{
    while (layers->unpack.pid == 0 && layers->queued > 0) {
        struct err err = ERR_INIT;
        layers->partial[0] = '\0';
        if (start_unpack(layers, &layers->queue[0], &err) == 0)
            return;
        layers->partial[0] = '\0'; /* waste, if it was made */
        layers->waste.due = true;
        if (err.kind != ERR_CONFLICT)
            log_warn("layer %s: %s", layers->queue[0].name, err.message);
        end_import(layers, NULL, &err);
    }
}

/* What was unpacked gets its name: from here on it is there. */
static int commit(struct layers *layers, const char *summary, struct engine_layer *layer,
                  struct err *err)
{
    char folder[IMAGESTORE_NAME_SIZE];
    memcpy(layer->name, layers->queue[0].name, sizeof(layer->name));
    int result =
        unpack_status_size(summary, layers->queue[0].size_max_bytes, &layer->size_bytes, err);
    if (result != 0)
        return result;
    name_folder(layer, folder);
    result = add(layers, layer, folder, err);
    if (result != 0)
        return result;
    fault_point("layers.commit");
    result = imagestore_commit(layers->config.store_fd, layers->partial, folder, err);
    if (result != 0)
        layers->count--;
    return result;
}

static void reap_unpack(struct layers *layers)
{
    struct err err = ERR_INIT;
    struct engine_layer layer = {0};
    char summary[UNPACK_STATUS_MAX + 1];
    if (layers->unpack.pid == 0)
        return;
    if (!imagewaste_has_ended(layers->unpack.pidfd)) {
        layers->late = layers->late || clock_now_ns() >= layers->deadline_ns;
        if (layers->late)
            unpack_kill(&layers->unpack);
        return;
    }
    imagewaste_unwatch(&layers->waste, layers->unpack.pidfd);
    int result = unpack_poll(&layers->unpack, summary, &err);
    if (result == 0) {
        imagewaste_watch(&layers->waste, layers->unpack.pidfd); /* not quite */
        return;
    }
    if (result > 0)
        result = commit(layers, summary, &layer, &err);
    else if (layers->late)
        (void)err_public(&err, ERR_BAD_INPUT, "takes longer than %u s to unpack",
                         layers->config.timeout_s);
    layers->partial[0] = '\0'; /* waste from here on, if it was not renamed */
    layers->waste.due = true;
    if (result == 0)
        log_info("layer %s: unpacked (entries, bytes, left out: %s)", layer.name, summary);
    else
        log_warn("layer %s: %s", layers->queue[0].name, err.message);
    fault_point("layers.imported");
    end_import(layers, &layer, result != 0 ? &err : NULL);
}

void layers_forget_requests(struct layers *layers)
{
    size_t kept = layers->unpack.pid != 0 ? 1 : 0;
    while (layers->queued > kept)
        fd_close(&layers->queue[--layers->queued].tar_fd);
    if (kept > 0)
        layers->queue[0].request_id = 0;
}

/* ---- steps ---- */

static bool is_wanted(const char *name, const void *context)
{
    const struct layers *layers = context;
    if (strcmp(name, layers->partial) == 0)
        return true;
    for (size_t i = 0; i < layers->count; i++) {
        if (strcmp(name, layers->entries[i].folder) == 0)
            return true;
    }
    return false;
}

int64_t layers_step(struct layers *layers)
{
    reap_unpack(layers);
    imagewaste_reap(&layers->waste);
    start_next(layers);
    if (layers->all_held)
        imagewaste_start(&layers->waste, is_wanted, layers);
    return layers->unpack.pid != 0 && !layers->late ? layers->deadline_ns : INT64_MAX;
}

/* ---- what callers ask ---- */

int layers_take(struct layers *layers, const char *name, struct layer *out, struct err *err)
{
    struct layer layer = {.root_fd = -1, .lock_fd = -1};
    const struct entry *entry = find(layers, name);
    if (!entry)
        return err_set(err, ERR_NOT_FOUND, "there is no layer %s", name);
    memcpy(layer.folder, entry->folder, sizeof(layer.folder));
    int result =
        imagestore_take(layers->config.store_fd, layer.folder, &layer.root_fd, &layer.lock_fd, err);
    if (result == 0) {
        *out = layer;
        return 0;
    }
    if (imagestore_has(layers->config.store_fd, layer.folder))
        return result;
    /* Somebody cleaned up by hand. */
    layers->entries[entry - layers->entries] = layers->entries[--layers->count];
    return err_set(err, ERR_NOT_FOUND, "the files of layer %s are gone", name);
}

int layers_hold(const struct layers *layers, const char *folder, int *out_lock_fd, struct err *err)
{
    char name[IMAGESTORE_NAME_SIZE];
    FD_AUTO int root_fd = -1;
    *out_lock_fd = -1;
    if (!imagestore_find(layers->config.store_fd, folder, name))
        return 0;
    return imagestore_take(layers->config.store_fd, name, &root_fd, out_lock_fd, err);
}

int layers_remove(struct layers *layers, const char *name, struct err *err)
{
    struct entry *entry = find(layers, name);
    if (!entry)
        return 0;
    int result = imagestore_retire(layers->config.store_fd, entry->folder, err);
    if (result != 0)
        return result;
    fault_point("layers.removed");
    *entry = layers->entries[--layers->count];
    layers->waste.due = true;
    return 0;
}

int layers_list(const struct layers *layers, const char *after, struct engine_msg *msg,
                struct err *err)
{
    int result = 0;
    for (size_t i = 0; i < layers->count && result == 0; i++) {
        if (strcmp(layers->entries[i].layer.name, after) > 0)
            result = engine_msg_add_layer(msg, &layers->entries[i].layer, err);
    }
    engine_msg_end_list(msg);
    return result;
}
