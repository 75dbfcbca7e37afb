/* Owns what goes to an engine process and comes from it: requests with their replies, and events.
 * Refuses nothing by policy; what the engine says is checked by the decoder. */
#include <string.h>

#include "base/fd.h"
#include "engine/process_internal.h"

/* A call and what may end it. */
struct call {
    struct process *process;
    const struct engine_wait *wait;
    const char *create_id; /* NULL: not one that leaves a sandbox behind */
};

/* A poll(2) that does not wait is no I/O that a lock must not be held across. */
static bool is_over(void *context)
{
    const struct call *call = context;
    return engine_wait_is_over(call->wait, 0);
}

static void given_up(void *context, uint64_t number)
{
    const struct call *call = context;
    if (call->create_id)
        process_destroy_abandon_locked(call->process, number, call->create_id);
}

int process_link_call(struct process *process, const struct engine_msg *request, int passed_fd,
                      const struct engine_wait *wait, struct engine_msg *reply, int *out_fd,
                      struct err *err)
{
    struct call call = {.process = process, .wait = wait};
    if (request->op == ENGINE_OP_CREATE)
        call.create_id = request->create.id;
    const bool watched = wait->cancel_fd >= 0 || wait->gone_fd >= 0;
    const struct peer_wait peer_wait = {.deadline_ns = wait->deadline_ns,
                                        .is_over = watched ? is_over : NULL,
                                        .given_up = given_up,
                                        .context = &call};
    struct engine_msg answer;
    FD_AUTO int fd = -1;
    BUF_AUTO struct buf bytes;
    buf_init(&bytes, ENGINE_MSG_MAX);
    int result = engine_msg_encode(request, &bytes, err);
    if (result == 0)
        result = peer_call(process->peer, &bytes, passed_fd, &peer_wait, &answer, &fd, err);
    if (result != 0)
        return result;
    if (answer.error.kind != ERR_NONE) {
        result = err_copy(err, &answer.error);
        engine_msg_done(&answer);
        return result;
    }
    *reply = answer;
    if (out_fd)
        *out_fd = fd_take(&fd);
    return 0;
}

static void on_message(struct process *process, struct engine_msg *msg, int *fd)
{
    if (msg->op == ENGINE_OP_EVENT_GONE && msg->request_id == 0) {
        if (process->events.gone)
            process->events.gone(process->events.context, msg->id, msg->cause);
        return;
    }
    if ((msg->op & ENGINE_REPLY) == 0)
        return;
    if (peer_deliver(process->peer, msg->op & ~ENGINE_REPLY, msg->request_id, msg, fd)) {
        msg->ids = NULL; /* the caller's now */
        msg->layers = NULL;
        return;
    }
    if (!process_destroy_answered(process, msg))
        process_destroy_late(process, msg);
}

static int read_message(void *context, const void *data, size_t size, int *fd, struct err *err)
{
    struct engine_msg msg;
    int result = engine_msg_decode(data, size, &msg, err);
    if (result != 0)
        return result;
    on_message(context, &msg, fd);
    engine_msg_done(&msg);
    return 0;
}

static int64_t send_due(void *context)
{
    int64_t next_ns = process_destroy_send_due(context);
    int64_t look_ns = process_destroy_look_due(context);
    return look_ns < next_ns ? look_ns : next_ns;
}

static void on_connected(void *context)
{
    const struct process *process = context;
    if (process->events.connected)
        process->events.connected(process->events.context);
}

int process_link_start(struct process *process, const char *socket_path, struct err *err)
{
    const struct peer_config config = {.socket_path = socket_path,
                                       .name = "engine",
                                       .message_max = ENGINE_MSG_MAX,
                                       .reply_size = sizeof(struct engine_msg),
                                       .context = process,
                                       .set_away = engine_set_away,
                                       .connected = on_connected,
                                       .broken = process_destroy_unsend,
                                       .due = send_due,
                                       .message = read_message};
    return peer_new(&config, &process->peer, err);
}
