/* The library layers of this engine: tars in a folder of its own, which go into containers by the
 * archive API.
 *
 * A tar that a sandbox wrote is read by a child alone (berth-unpack, "repack"), which makes another
 * one of it that is believed. Imports wait for each other. */
#ifndef BERTH_DOCKER_LAYERS_H
#define BERTH_DOCKER_LAYERS_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "docker/loop.h"
#include "wire/engine_msg.h"

struct layers;

/* An import has ended: error is NULL and layer what it became, or what went wrong. */
typedef void (*layers_imported_fn)(void *context, uint64_t request_id,
                                   const struct engine_layer *layer, const struct err *error);

/* folder_fd is taken: a folder of nobody else's. What an earlier engine made is there again, and
 * what it left half-made is removed. */
int layers_open(struct loop *loop, int *folder_fd, layers_imported_fn on_imported, void *context,
                struct layers **out, struct err *err);
/* Kills the child. NULL is allowed. */
void layers_free(struct layers *layers);

/* Queues an import (ENGINE_OP_LAYER_IMPORT). Takes *tar_fd, also when it fails: ERR_BAD_INPUT,
 * ERR_CONFLICT, ERR_UNAVAILABLE (too many wait). */
int layers_import(struct layers *layers, const struct engine_msg *request, int *tar_fd,
                  struct err *err);
/* Whoever asked is gone: what waits is dropped. */
void layers_forget_requests(struct layers *layers);

/* The tar of a layer, for reading. ERR_NOT_FOUND: there is none of that name. */
int layers_take(struct layers *layers, const char *name, int *out_fd, uint64_t *out_size_bytes,
                struct err *err);
/* An unknown one is fine. */
int layers_remove(struct layers *layers, const char *name, struct err *err);
/* Those that follow after, in order, as many as a message holds; heap, in msg. */
int layers_list(const struct layers *layers, const char *after, struct engine_msg *msg,
                struct err *err);

#endif
