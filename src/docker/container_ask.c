/* Owns what may be asked of a container that runs: channels, limits, layers. */
#include <stdio.h>

#include "base/fd.h"
#include "docker/container_internal.h"
#include "docker/service_internal.h"

#define LAYER_BYTES_PER_S (UINT64_C(20) << 20)

void container_open_channel(struct container *container, uint64_t request_id)
{
    struct err err = ERR_INIT;
    int result = 0;
    if (container->state != ENGINE_STATE_RUNNING || container_is_lost(container))
        result = err_set(&err, ERR_CONFLICT, "sandbox %s is not running", container->create.id);
    else if (container->channel_count == CONTAINER_CHANNELS_MAX)
        result = err_set(&err, ERR_UNAVAILABLE, "too many wait for %s", container->create.id);
    else if (!container->attach && !container->service->daemon.is_up)
        result = daemon_away(&container->service->daemon, &err);
    else if (!container->attach)
        result = container_attach(container, &err);
    if (result != 0) {
        service_answer_error(container->service, ENGINE_OP_OPEN_CHANNEL, request_id, &err);
        return;
    }
    container->channels[container->channel_count++] = request_id;
    if (attach_is_up(container->attach))
        container_answer_channels(container, NULL);
}

static void on_limit(void *context, long status, struct buf *body, const struct err *error)
{
    struct container *container = context;
    struct err err = ERR_INIT;
    uint64_t request_id = container->limit_request;
    container->limit_call = NULL;
    container->limit_request = 0;
    if (error)
        (void)err_copy(&err, error);
    else if (status >= 300)
        (void)web_refused(status, body, "limit a container", &err);
    if (request_id == 0)
        return;
    /* It uses more than that, or the host can't have it: another one is to be made. */
    if (!error && err.kind != ERR_NONE && err.kind != ERR_UNAVAILABLE)
        err.kind = ERR_CONFLICT;
    if (err.kind != ERR_NONE)
        service_answer_error(container->service, ENGINE_OP_LIMIT, request_id, &err);
    else
        service_answer_done(container->service, ENGINE_OP_LIMIT, request_id);
}

void container_limit(struct container *container, const struct engine_create *limits,
                     uint64_t request_id)
{
    char path[CONTAINER_PATH_SIZE];
    struct err err = ERR_INIT;
    BUF_AUTO struct buf body;
    buf_init(&body, 4096);
    int result = spec_check_limits(limits, true, &err);
    if (result == 0 && (container->state != ENGINE_STATE_RUNNING || container->limit_call))
        result = err_set(&err, ERR_CONFLICT, "sandbox %s can't be given limits now",
                         container->create.id);
    if (result == 0 && (container->gvisor || container->service->daemon.facts.is_podman))
        result = err_set(&err, ERR_UNSUPPORTED, "runsc and Podman change no limits");
    if (result == 0)
        result = spec_put_limits(limits, container->gvisor, &body, &err);
    (void)snprintf(path, sizeof(path), "/containers/%s/update", container->name);
    if (result == 0)
        result = daemon_call(&container->service->daemon, "POST", path, &body, CONTAINER_CALL_NS,
                             on_limit, container, &container->limit_call, &err);
    if (result != 0)
        service_answer_error(container->service, ENGINE_OP_LIMIT, request_id, &err);
    else
        container->limit_request = request_id;
}

static void on_layer(void *context, long status, struct buf *body, const struct err *error)
{
    struct container *container = context;
    struct err err = ERR_INIT;
    uint64_t request_id = container->layer_request;
    container->layer_call = NULL;
    container->layer_request = 0;
    if (error)
        (void)err_copy(&err, error);
    else if (status >= 300)
        (void)web_refused(status, body, "put a layer into a container", &err);
    if (request_id == 0)
        return;
    /* Of the operation: no such layer. Here it is the container, or what its code made there. */
    if (!error && (err.kind == ERR_NOT_FOUND || err.kind == ERR_INTERNAL))
        err.kind = ERR_CONFLICT;
    if (err.kind != ERR_NONE)
        service_answer_error(container->service, ENGINE_OP_LAYER_ATTACH, request_id, &err);
    else
        service_answer_done(container->service, ENGINE_OP_LAYER_ATTACH, request_id);
}

/* The slowest way to a daemon, and disk there, that is taken for one that works. */
static int64_t layer_timeout_ns(uint64_t size_bytes)
{
    return CONTAINER_CALL_NS + (int64_t)(size_bytes / LAYER_BYTES_PER_S) * CLOCK_NS_PER_S;
}

int container_put_layer(struct container *container, int tar_fd, uint64_t size_bytes,
                        uint64_t request_id, struct err *err)
{
    char path[CONTAINER_PATH_SIZE];
    if (container->state != ENGINE_STATE_RUNNING || container->layer_call)
        return err_set(err, ERR_CONFLICT, "sandbox %s can't be given a layer now",
                       container->create.id);
    if (container->gvisor)
        return err_set(err, ERR_UNSUPPORTED, "runsc does not see what is put into its files");
    /* Its first entry is what takes the old one's place (unpack/tree.h). */
    (void)snprintf(path, sizeof(path), "/containers/%s/archive?path=%%2Fopt", container->name);
    int result = daemon_upload(&container->service->daemon, path, tar_fd, size_bytes,
                               layer_timeout_ns(size_bytes), on_layer, container,
                               &container->layer_call, err);
    if (result == 0)
        container->layer_request = request_id;
    return result;
}
