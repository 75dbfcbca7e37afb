/* Owns what the event loop does about library layers: requests, their answers, what is due. */
#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "native/service_internal.h"

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
    return host_open_layers(&service->host, on_imported, service, err);
}

static int attach(struct service *service, const struct engine_msg *request, struct err *err)
{
    struct sandbox *sandbox = NULL;
    int result = service_find_or_adopt(service, request->id, &sandbox, err);
    if (result == 0 && (!sandbox || sandbox->state != ENGINE_STATE_RUNNING))
        result = err_set(err, ERR_CONFLICT, "no sandbox %s runs", request->id);
    if (result == 0)
        result = sandbox_attach_layer(&service->host, sandbox, request->layer.name,
                                      request->request_id, err);
    return result;
}

static int list(struct service *service, const struct engine_msg *request, struct err *err)
{
    struct engine_msg msg = {.op = ENGINE_OP_LAYER_LIST | ENGINE_REPLY,
                             .request_id = request->request_id};
    int result = layers_list(service->host.layers, request->layer.name, &msg, err);
    if (result == 0)
        service_answer(service, &msg, -1);
    engine_msg_done(&msg);
    return result;
}

void service_on_layer(struct service *service, const struct engine_msg *request, int *passed_fd)
{
    struct err err = ERR_INIT;
    struct layers *layers = service->host.layers;
    int result = 0;
    service->layers_at_ns = 0;
    if (service->stopping)
        result = err_set(&err, ERR_UNAVAILABLE, "the engine is stopping");
    else if (!layers)
        result = err_public(&err, ERR_UNSUPPORTED, "this host has no library layers");
    else if (request->op == ENGINE_OP_LAYER_IMPORT)
        result = layers_import(layers, request, passed_fd, &err);
    else if (request->op == ENGINE_OP_LAYER_ATTACH)
        result = attach(service, request, &err);
    else if (request->op == ENGINE_OP_LAYER_LIST)
        result = list(service, request, &err);
    else
        result = layers_remove(layers, request->layer.name, &err);
    if (result != 0)
        service_answer_error(service, request->op, request->request_id, &err);
    else if (request->op == ENGINE_OP_LAYER_REMOVE)
        service_answer_done(service, request->op, request->request_id);
}

void service_forget_layers(struct service *service)
{
    if (service->host.layers)
        layers_forget_requests(service->host.layers);
    for (struct sandbox *sandbox = service->sandboxes; sandbox; sandbox = sandbox->next)
        sandbox->attach.request_id = 0;
}

int64_t service_step_layers(struct service *service)
{
    if (!service->host.layers)
        return INT64_MAX;
    if (service->layers_at_ns <= clock_now_ns())
        service->layers_at_ns = layers_step(service->host.layers);
    return service->layers_at_ns;
}

void service_layer_let_go(struct service *service)
{
    if (!service->host.layers)
        return;
    layers_look_again(service->host.layers);
    service->layers_at_ns = 0;
}

void service_attach_event(struct service *service, struct sandbox *sandbox)
{
    struct err err = ERR_INIT;
    uint64_t request_id = sandbox->attach.request_id;
    const bool had_layer = sandbox->layer_lock_fd >= 0;
    int result = sandbox_layer_event(&service->host, sandbox, &err);
    if (result == 0)
        return;
    if (result < 0 || had_layer)
        service_layer_let_go(service);
    if (result < 0 && sandbox->state != ENGINE_STATE_RUNNING)
        result = err_set(&err, ERR_CONFLICT, "sandbox %s has ended", sandbox->id);
    if (result < 0)
        log_warn("sandbox %s: %s", sandbox->id, err.message);
    if (request_id == 0)
        return;
    if (result < 0)
        service_answer_error(service, ENGINE_OP_LAYER_ATTACH, request_id, &err);
    else
        service_answer_done(service, ENGINE_OP_LAYER_ATTACH, request_id);
}

void service_adopt_layer(struct service *service, struct sandbox *sandbox)
{
    struct err err = ERR_INIT;
    if (sandbox_adopt_layer(&service->host, sandbox, &err) == 0)
        return;
    /* Its files could be taken from under it: nothing is removed until the next engine looks. */
    log_warn("sandbox %s: its layer: %s", sandbox->id, err.message);
    service->layers_unsure = true;
}

void service_sweep_layers(struct service *service)
{
    if (!service->host.layers || service->layers_unsure || service->sweep_again)
        return;
    layers_all_held(service->host.layers);
    service_layer_let_go(service);
}
