/* Owns what the event loop does about library layers: requests and their answers. */
#include "base/fd.h"
#include "docker/service_internal.h"

static void on_imported(void *context, uint64_t request_id, const struct engine_layer *layer,
                        const struct err *error)
{
    struct engine_msg msg = {.op = ENGINE_OP_LAYER_IMPORT | ENGINE_REPLY, .request_id = request_id};
    if (error)
        msg.error = *error;
    else
        msg.layer = *layer;
    service_answer(context, &msg, -1);
}

int service_open_layers(struct service *service, struct err *err)
{
    FD_AUTO int fd = service->config->layers_fd;
    return fd < 0 ? 0
                  : layers_open(service->loop, &fd, on_imported, service, &service->layers, err);
}

static int attach(struct service *service, const struct engine_msg *request, struct err *err)
{
    FD_AUTO int fd = -1;
    uint64_t size_bytes = 0;
    struct container *container = service_find(service, request->id);
    if (!container)
        return err_set(err, ERR_CONFLICT, "no sandbox %s runs", request->id);
    int result = layers_take(service->layers, request->layer.name, &fd, &size_bytes, err);
    return result == 0 ? container_put_layer(container, fd, size_bytes, request->request_id, err)
                       : result;
}

static int list(struct service *service, const struct engine_msg *request, struct err *err)
{
    struct engine_msg msg = {.op = ENGINE_OP_LAYER_LIST | ENGINE_REPLY,
                             .request_id = request->request_id};
    int result = layers_list(service->layers, request->layer.name, &msg, err);
    if (result == 0)
        service_answer(service, &msg, -1);
    engine_msg_done(&msg);
    return result;
}

void service_on_layer(struct service *service, const struct engine_msg *request, int *passed_fd)
{
    struct err err = ERR_INIT;
    int result = 0;
    if (service->stopping)
        result = err_set(&err, ERR_UNAVAILABLE, "the engine is stopping");
    else if (!service->layers)
        result = err_public(&err, ERR_UNSUPPORTED, "the docker engine keeps no library layers");
    else if (request->op == ENGINE_OP_LAYER_IMPORT)
        result = layers_import(service->layers, request, passed_fd, &err);
    else if (request->op == ENGINE_OP_LAYER_ATTACH)
        result = attach(service, request, &err);
    else if (request->op == ENGINE_OP_LAYER_LIST)
        result = list(service, request, &err);
    else
        result = layers_remove(service->layers, request->layer.name, &err);
    if (result != 0)
        service_answer_error(service, request->op, request->request_id, &err);
    else if (request->op == ENGINE_OP_LAYER_REMOVE)
        service_answer_done(service, request->op, request->request_id);
}
