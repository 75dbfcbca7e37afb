/* Owns the table of a fake engine's layers. Reads no byte of an archive. */
#include "engine/fake_layers.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/id.h"

/* Where the name is, or would be. */
static size_t place_of(const struct fake_layers *layers, const char *name)
{
    size_t at = 0;
    while (at < layers->count && strcmp(layers->list[at].name, name) < 0)
        at++;
    return at;
}

bool fake_layers_have(const struct fake_layers *layers, const char *name)
{
    size_t at = place_of(layers, name);
    return at < layers->count && strcmp(layers->list[at].name, name) == 0;
}

static int insert(struct fake_layers *layers, const char *name, uint64_t size_bytes,
                  struct err *err)
{
    size_t at = place_of(layers, name);
    struct engine_layer *grown =
        reallocarray(layers->list, layers->count + 1, sizeof(*layers->list));
    if (!grown)
        return err_set(err, ERR_INTERNAL, "no memory for a layer");
    layers->list = grown;
    memmove(&grown[at + 1], &grown[at], (layers->count - at) * sizeof(*grown));
    memset(&grown[at], 0, sizeof(*grown));
    (void)snprintf(grown[at].name, sizeof(grown[at].name), "%s", name);
    grown[at].size_bytes = size_bytes;
    layers->count++;
    return 0;
}

int fake_layers_add(struct fake_layers *layers, const struct engine_layer_import *import,
                    uint64_t *out_size_bytes, struct err *err)
{
    struct stat info;
    if (!id_is_name(import->name, ENGINE_LAYER_NAME_MAX))
        return err_set(err, ERR_BAD_INPUT, "layer \"%s\"", import->name);
    if (fake_layers_have(layers, import->name))
        return err_set(err, ERR_CONFLICT, "there is a layer %s", import->name);
    if (fstat(import->tar_fd, &info) != 0)
        return err_sys(err, errno, "look at the archive");
    if (!S_ISREG(info.st_mode) || info.st_size == 0)
        return err_public(err, ERR_BAD_INPUT, "the archive is empty");
    uint64_t size_bytes = (uint64_t)info.st_size;
    if (import->size_max_bytes != 0 && size_bytes > import->size_max_bytes)
        return err_public(err, ERR_BAD_INPUT, "more than %llu bytes when unpacked",
                          (unsigned long long)import->size_max_bytes);
    int result = insert(layers, import->name, size_bytes, err);
    if (result == 0)
        *out_size_bytes = size_bytes;
    return result;
}

void fake_layers_remove(struct fake_layers *layers, const char *name)
{
    size_t at = place_of(layers, name);
    if (!fake_layers_have(layers, name))
        return;
    layers->count--;
    memmove(&layers->list[at], &layers->list[at + 1], (layers->count - at) * sizeof(*layers->list));
}

int fake_layers_copy(const struct fake_layers *layers, struct engine_layer **out, size_t *out_count,
                     struct err *err)
{
    struct engine_layer *list = calloc(layers->count + 1, sizeof(*list));
    if (!list)
        return err_set(err, ERR_INTERNAL, "no memory for a list of layers");
    if (layers->count > 0)
        memcpy(list, layers->list, layers->count * sizeof(*list));
    *out = list;
    *out_count = layers->count;
    return 0;
}

void fake_layers_done(struct fake_layers *layers)
{
    free(layers->list);
    *layers = (struct fake_layers){0};
}
