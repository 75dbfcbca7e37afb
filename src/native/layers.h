/* The library layers that this engine keeps: names, and the folders that tars were unpacked to.
 *
 * A layer is a folder of the store (native/imagestore.h), whose NAME is the layer's and whose HASH
 * holds its size and makes it another one than any that had the name before. Imports wait for each
 * other. Whoever shows a layer holds its lock, so that the folder of a removed one goes after the
 * last of them. Single-threaded; nothing here waits for a child. */
#ifndef BERTH_NATIVE_LAYERS_H
#define BERTH_NATIVE_LAYERS_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "native/imagestore.h"
#include "wire/engine_msg.h"

enum { LAYERS_MAX = ENGINE_LIST_MAX, LAYERS_QUEUE_MAX = 16 };

struct layers_config {
    int store_fd;            /* root's own */
    int unpack_fd;           /* the program berth-unpack, O_PATH */
    uint64_t size_max_bytes; /* of one layer */
    uint64_t entries_max;    /* files and folders of one */
    unsigned timeout_s;      /* for unpacking one */
};

struct layers;

/* An import has ended: error is NULL and layer what it became, or what went wrong. */
typedef void (*layers_imported_fn)(void *context, uint64_t request_id,
                                   const struct engine_layer *layer, const struct err *error);

/* The descriptors of config stay the caller's and have to outlive the layers; store_fd was opened
 * in the mount namespace that this process is in now. Layers that an earlier engine made are there
 * again. */
int layers_open(const struct layers_config *config, layers_imported_fn on_imported, void *context,
                struct layers **out, struct err *err);

/* Kills children that still run; what they leave is waste for the next layers_open(). NULL is
 * allowed. */
void layers_free(struct layers *layers);

/* Starts and reaps children. Returns the CLOCK_MONOTONIC time at which it wants to be called again;
 * sooner when layers_event_fd() is readable. */
int64_t layers_step(struct layers *layers);

/* Readable when a child has ended: to be watched for EPOLLIN. Owned by the layers. */
int layers_event_fd(const struct layers *layers);

/* All that shows a layer now holds its lock: from here on waste may be removed. */
void layers_all_held(struct layers *layers);

/* A lock may have been let go: looks for waste again. */
void layers_look_again(struct layers *layers);

/* Queues an import (ENGINE_OP_LAYER_IMPORT); on_imported tells how it ended. Takes *tar_fd, also
 * when it fails: ERR_BAD_INPUT, ERR_CONFLICT, ERR_UNAVAILABLE (too many wait). */
int layers_import(struct layers *layers, const struct engine_msg *request, int *tar_fd,
                  struct err *err);

/* Whoever asked is gone: what waits is dropped, and what is being unpacked is told to nobody. */
void layers_forget_requests(struct layers *layers);

/* A layer to be shown; the descriptors are the caller's. */
struct layer {
    int root_fd; /* O_PATH; all ids on the disk are 0 */
    int lock_fd;
    char folder[IMAGESTORE_NAME_SIZE]; /* what layers_hold() wants to know after a restart */
};

/* ERR_NOT_FOUND: there is none of that name. */
int layers_take(struct layers *layers, const char *name, struct layer *out, struct err *err);

/* The lock of a folder that is shown already, whether the layer was removed since or not; -1 where
 * it is gone altogether. */
int layers_hold(const struct layers *layers, const char *folder, int *out_lock_fd, struct err *err);

/* Takes a layer's name from it. An unknown one is fine. */
int layers_remove(struct layers *layers, const char *name, struct err *err);

/* The layers that follow after, in order, as many as a message holds; heap, in msg. */
int layers_list(const struct layers *layers, const char *after, struct engine_msg *msg,
                struct err *err);

#endif
