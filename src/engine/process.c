/* Owns the operations of an engine that is another process, as the server sees it: each is a
 * message to it and its reply. Holds no truth: a sandbox exists when the engine says so. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "base/mem.h"
#include "engine/process_internal.h"

static int call(struct process *process, struct engine_msg *request, int64_t deadline_ns,
                struct engine_msg *reply, int *out_fd, struct err *err)
{
    const struct engine_wait wait = {.deadline_ns = deadline_ns, .cancel_fd = -1, .gone_fd = -1};
    return process_link_call(process, request, -1, &wait, reply, out_fd, err);
}

static int process_probe(struct engine *engine, int64_t deadline_ns, struct engine_info *out,
                         struct err *err)
{
    struct engine_msg request = {.op = ENGINE_OP_PROBE};
    struct engine_msg reply = {0};
    int result = call(process_of(engine), &request, deadline_ns, &reply, NULL, err);
    if (result == 0)
        *out = reply.info;
    return result;
}

/* CREATE or START. */
static int make(struct engine *engine, enum engine_op op, const struct engine_create *spec,
                const struct engine_wait *wait, int *out_channel_fd,
                uint8_t out_nonce[static SANDBOX_NONCE_SIZE], struct err *err)
{
    struct engine_msg request = {.op = op, .create = *spec};
    struct engine_msg reply = {0};
    FD_AUTO int fd = -1;
    int result = process_link_call(process_of(engine), &request, -1, wait, &reply, &fd, err);
    if (result != 0 && engine_wait_is_over(wait, 0))
        return err_set(err, ERR_CLOSED, "cancelled while the engine made a sandbox");
    if (result != 0)
        return result;
    if (fd < 0)
        return err_set(err, ERR_PROTOCOL, "the engine made a sandbox without a channel");
    memcpy(out_nonce, reply.nonce, SANDBOX_NONCE_SIZE);
    *out_channel_fd = fd_take(&fd);
    return 0;
}

static int process_create(struct engine *engine, const struct engine_create *spec,
                          const struct engine_wait *wait, int *out_channel_fd,
                          uint8_t out_nonce[static SANDBOX_NONCE_SIZE], struct err *err)
{
    return make(engine, ENGINE_OP_CREATE, spec, wait, out_channel_fd, out_nonce, err);
}

/* A start that is not answered in time is left alone: destroying it would destroy its files. */
static int process_start(struct engine *engine, const struct engine_create *spec,
                         int64_t deadline_ns, int *out_channel_fd,
                         uint8_t out_nonce[static SANDBOX_NONCE_SIZE], struct err *err)
{
    const struct engine_wait wait = {.deadline_ns = deadline_ns, .cancel_fd = -1, .gone_fd = -1};
    return make(engine, ENGINE_OP_START, spec, &wait, out_channel_fd, out_nonce, err);
}

static void set_id(struct engine_msg *msg, const char *id)
{
    (void)snprintf(msg->id, sizeof(msg->id), "%s", id);
}

static int process_stop(struct engine *engine, const char *id, int64_t deadline_ns, struct err *err)
{
    struct engine_msg request = {.op = ENGINE_OP_STOP};
    struct engine_msg reply = {0};
    set_id(&request, id);
    return call(process_of(engine), &request, deadline_ns, &reply, NULL, err);
}

static int process_destroy(struct engine *engine, const char *id, int64_t deadline_ns,
                           struct err *err)
{
    struct engine_msg request = {.op = ENGINE_OP_DESTROY};
    struct engine_msg reply = {0};
    set_id(&request, id);
    return call(process_of(engine), &request, deadline_ns, &reply, NULL, err);
}

static int process_inspect(struct engine *engine, const char *id, int64_t deadline_ns,
                           enum engine_state *out, struct err *err)
{
    struct engine_msg request = {.op = ENGINE_OP_INSPECT};
    struct engine_msg reply = {0};
    set_id(&request, id);
    int result = call(process_of(engine), &request, deadline_ns, &reply, NULL, err);
    if (result == 0)
        *out = reply.state;
    return result;
}

static int process_limit(struct engine *engine, const struct engine_create *spec,
                         int64_t deadline_ns, struct err *err)
{
    struct engine_msg request = {.op = ENGINE_OP_LIMIT, .create = *spec};
    struct engine_msg reply = {0};
    return call(process_of(engine), &request, deadline_ns, &reply, NULL, err);
}

/* Appends what one reply listed, and takes its ids. */
static int append_ids(struct engine_msg *reply, char (**ids)[SANDBOX_ID_MAX + 1], size_t *count,
                      struct err *err)
{
    void *grown = reallocarray(*ids, *count + reply->id_count + 1, sizeof(**ids));
    if (!grown) {
        engine_msg_done(reply);
        return err_set(err, ERR_INTERNAL, "no memory for a list of ids");
    }
    *ids = grown;
    if (reply->id_count > 0)
        memcpy(*ids + *count, reply->ids, reply->id_count * sizeof(**ids));
    *count += reply->id_count;
    engine_msg_done(reply);
    return 0;
}

/* In as many replies as it takes. Each begins after the last id of the one before, so what is made
 * or ends meanwhile leaves no gap and no id comes twice. */
static int process_list(struct engine *engine, int64_t deadline_ns,
                        char (**out_ids)[SANDBOX_ID_MAX + 1], size_t *out_count, struct err *err)
{
    struct engine_msg request = {.op = ENGINE_OP_LIST};
    MEM_AUTO char(*ids)[SANDBOX_ID_MAX + 1] = NULL;
    size_t count = 0;
    for (bool more = true; more;) {
        struct engine_msg reply = {0};
        int result = call(process_of(engine), &request, deadline_ns, &reply, NULL, err);
        if (result != 0)
            return result;
        more = reply.more;
        result = append_ids(&reply, &ids, &count, err);
        if (result != 0)
            return result;
        if (more && (count == 0 || strcmp(ids[count - 1], request.id) <= 0))
            return err_set(err, ERR_PROTOCOL, "a list that does not go on");
        if (more)
            set_id(&request, ids[count - 1]);
    }
    *out_ids = take(ids);
    *out_count = count;
    return 0;
}

static int process_open_channel(struct engine *engine, const char *id, int64_t deadline_ns,
                                int *out_channel_fd, struct err *err)
{
    struct engine_msg request = {.op = ENGINE_OP_OPEN_CHANNEL};
    struct engine_msg reply = {0};
    FD_AUTO int fd = -1;
    set_id(&request, id);
    int result = call(process_of(engine), &request, deadline_ns, &reply, &fd, err);
    if (result != 0)
        return result;
    if (fd < 0)
        return err_set(err, ERR_PROTOCOL, "the engine opened a channel without a descriptor");
    *out_channel_fd = fd_take(&fd);
    return 0;
}

static int process_network(struct engine *engine, const char *id, bool full, int64_t deadline_ns,
                           struct err *err)
{
    struct engine_msg request = {.op = ENGINE_OP_NETWORK, .full = full};
    struct engine_msg reply = {0};
    set_id(&request, id);
    return call(process_of(engine), &request, deadline_ns, &reply, NULL, err);
}

static void process_free(struct engine *engine)
{
    struct process *process = process_of(engine);
    peer_free(process->peer);
    process_destroy_done(process);
    free(process);
}

static const struct engine_operations process_operations = {
    .probe = process_probe,
    .create = process_create,
    .start = process_start,
    .stop = process_stop,
    .destroy = process_destroy,
    .destroy_later = process_destroy_later,
    .inspect = process_inspect,
    .list = process_list,
    .limit = process_limit,
    .open_channel = process_open_channel,
    .layer_import = process_layer_import,
    .layer_attach = process_layer_attach,
    .layer_remove = process_layer_remove,
    .layer_list = process_layer_list,
    .network = process_network,
    .free = process_free,
};

int engine_process_new(const char *name, const char *socket_path,
                       const struct engine_events *events, struct engine **out, struct err *err)
{
    MEM_AUTO struct process *process = calloc(1, sizeof(*process));
    if (!process)
        return err_set(err, ERR_INTERNAL, "no memory for an engine");
    process->base = (struct engine){.operations = &process_operations, .name = name};
    if (events)
        process->events = *events;
    process->forgot_ns = INT64_MAX;
    int result = process_link_start(process, socket_path, err);
    if (result != 0)
        return result;
    *out = &take(process)->base;
    return 0;
}
