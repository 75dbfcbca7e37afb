/* The library layers of a fake engine: names and sizes, and no files. */
#ifndef BERTH_ENGINE_FAKE_LAYERS_H
#define BERTH_ENGINE_FAKE_LAYERS_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/engine.h"

/* In the order of strcmp(). Zeroes are an empty one. Whoever owns it keeps threads apart. */
struct fake_layers {
    struct engine_layer *list;
    size_t count;
};

bool fake_layers_have(const struct fake_layers *layers, const char *name);

/* Adds one as a real engine would: as large as the file that it is made of. ERR_BAD_INPUT: it is no
 * regular file, empty, or larger than allowed. ERR_CONFLICT: there is one of that name. */
int fake_layers_add(struct fake_layers *layers, const struct engine_layer_import *import,
                    uint64_t *out_size_bytes, struct err *err);

/* An unknown name is fine. */
void fake_layers_remove(struct fake_layers *layers, const char *name);

/* A copy of the list; the caller's. */
int fake_layers_copy(const struct fake_layers *layers, struct engine_layer **out, size_t *out_count,
                     struct err *err);

void fake_layers_done(struct fake_layers *layers);

#endif
