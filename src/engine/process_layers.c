/* Owns what the client of an engine process says about library layers. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "engine/process_internal.h"

static int call(struct engine *engine, struct engine_msg *request, int passed_fd,
                int64_t deadline_ns, struct engine_msg *reply, struct err *err)
{
    const struct engine_wait wait = {.deadline_ns = deadline_ns, .cancel_fd = -1, .gone_fd = -1};
    return process_link_call(process_of(engine), request, passed_fd, &wait, reply, NULL, err);
}

static int set_name(struct engine_msg *request, const char *name, struct err *err)
{
    int size = snprintf(request->layer.name, sizeof(request->layer.name), "%s", name);
    if (size < 0 || (size_t)size >= sizeof(request->layer.name))
        return err_set(err, ERR_BAD_INPUT, "the name of a layer has at most %d characters",
                       ENGINE_LAYER_NAME_MAX);
    return 0;
}

int process_layer_import(struct engine *engine, const struct engine_layer_import *import,
                         int64_t deadline_ns, uint64_t *out_size_bytes, struct err *err)
{
    struct engine_msg request = {.op = ENGINE_OP_LAYER_IMPORT,
                                 .size_max_bytes = import->size_max_bytes,
                                 .entries_max = import->entries_max};
    struct engine_msg reply = {0};
    int result = set_name(&request, import->name, err);
    if (result == 0)
        result = call(engine, &request, import->tar_fd, deadline_ns, &reply, err);
    if (result == 0)
        *out_size_bytes = reply.layer.size_bytes;
    return result;
}

int process_layer_attach(struct engine *engine, const char *id, const char *name,
                         int64_t deadline_ns, struct err *err)
{
    struct engine_msg request = {.op = ENGINE_OP_LAYER_ATTACH};
    struct engine_msg reply = {0};
    (void)snprintf(request.id, sizeof(request.id), "%s", id);
    int result = set_name(&request, name, err);
    return result != 0 ? result : call(engine, &request, -1, deadline_ns, &reply, err);
}

int process_layer_remove(struct engine *engine, const char *name, int64_t deadline_ns,
                         struct err *err)
{
    struct engine_msg request = {.op = ENGINE_OP_LAYER_REMOVE};
    struct engine_msg reply = {0};
    int result = set_name(&request, name, err);
    return result != 0 ? result : call(engine, &request, -1, deadline_ns, &reply, err);
}

/* Appends what one reply listed, and takes its layers. */
static int append_layers(struct engine_msg *reply, struct engine_layer **layers, size_t *count,
                         struct err *err)
{
    void *grown = reallocarray(*layers, *count + reply->layer_count + 1, sizeof(**layers));
    if (!grown) {
        engine_msg_done(reply);
        return err_set(err, ERR_INTERNAL, "no memory for a list of layers");
    }
    *layers = grown;
    if (reply->layer_count > 0)
        memcpy(*layers + *count, reply->layers, reply->layer_count * sizeof(**layers));
    *count += reply->layer_count;
    engine_msg_done(reply);
    return 0;
}

int process_layer_list(struct engine *engine, int64_t deadline_ns, struct engine_layer **out_layers,
                       size_t *out_count, struct err *err)
{
    struct engine_msg request = {.op = ENGINE_OP_LAYER_LIST};
    MEM_AUTO struct engine_layer *layers = NULL;
    size_t count = 0;
    for (bool more = true; more;) {
        struct engine_msg reply = {0};
        int result = call(engine, &request, -1, deadline_ns, &reply, err);
        if (result != 0)
            return result;
        more = reply.more;
        result = append_layers(&reply, &layers, &count, err);
        if (result != 0)
            return result;
        if (more && (count == 0 || strcmp(layers[count - 1].name, request.layer.name) <= 0))
            return err_set(err, ERR_PROTOCOL, "a list of layers that does not go on");
        if (more)
            request.layer = layers[count - 1];
    }
    *out_layers = take(layers);
    *out_count = count;
    return 0;
}
