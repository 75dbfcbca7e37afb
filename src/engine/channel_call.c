/* Owns the calls of a channel: one request, one answer. Sends nothing before init's hello, so that
 * an init that lacks an operation is never asked for it and the channel stays good. */
#include <errno.h>
#include <string.h>

#include "engine/channel_internal.h"

struct call {
    struct talk talk;
    enum frame_type request;
    struct buf payload;
    struct sandbox_done done;      /* the answer to all but LIST */
    struct sandbox_listed *listed; /* where the answer to LIST goes */
};

static struct call *call_of(struct talk *talk)
{
    return (struct call *)talk;
}

static int call_queue(struct talk *talk, struct err *err)
{
    const struct call *call = call_of(talk);
    if (talk->asked || !talk->channel->hello_seen)
        return 0;
    talk->asked = true;
    return frame_append(&talk->channel->out, call->request, talk->stream, call->payload.data,
                        call->payload.size, err);
}

static int call_take(struct talk *talk, const struct frame *frame, struct err *err)
{
    struct call *call = call_of(talk);
    enum frame_type answer = call->request == FRAME_LIST ? FRAME_LISTED : FRAME_DONE;
    if (!talk->asked || frame->stream != talk->stream || frame->type != answer)
        return channel_out_of_turn(talk, frame, err);
    talk->answered = true;
    if (answer == FRAME_LISTED)
        return sandbox_listed_decode(frame->payload, frame->size, call->listed, err);
    return sandbox_done_decode(frame->payload, frame->size, &call->done, err);
}

static bool call_is_over(const struct talk *talk)
{
    return talk->answered;
}

/* Init is not asked to stop: whoever gives up ends the sandbox. */
static int call_kill(struct talk *talk, enum kill_cause cause, struct err *err)
{
    (void)talk;
    (void)cause;
    return err_set(err, ERR_CLOSED, "nobody waits for the answer any more");
}

static const struct talk_type call_type = {
    .queue = call_queue, .take = call_take, .is_over = call_is_over, .kill = call_kill};

static void call_init(struct call *call, struct channel *channel, enum frame_type request,
                      uint64_t needs, int64_t deadline_ns)
{
    *call = (struct call){.talk = {.channel = channel,
                                   .type = &call_type,
                                   .stream = channel_take_stream(channel),
                                   .deadline_ns = deadline_ns,
                                   .needs = needs},
                          .request = request};
    buf_init(&call->payload, FRAME_PAYLOAD_MAX);
}

static void call_done(struct call *call)
{
    buf_done(&call->payload);
}
#define CALL_AUTO __attribute__((cleanup(call_done)))

static const char *words_of(int sys_errno)
{
    const char *words = strerrordesc_np(sys_errno);
    return words ? words : "unknown error";
}

int channel_kernel(struct channel *channel, const struct sandbox_kernel *kernel,
                   const struct channel_watch *watch, struct err *err)
{
    CALL_AUTO struct call call;
    uint64_t needs = SANDBOX_CAP_KERNEL;
    if (kernel->protocol == SANDBOX_KERNEL_LINES)
        needs |= SANDBOX_CAP_LINES;
    call_init(&call, channel, FRAME_KERNEL, needs, watch->deadline_ns);
    call.talk.watch = watch;
    int result = sandbox_kernel_encode(kernel, &call.payload, err);
    if (result == 0)
        result = channel_talk(&call.talk, err);
    if (result != 0 || call.done.sys_errno == 0)
        return result;
    if (call.done.sys_errno == EEXIST)
        return err_set(err, ERR_CONFLICT, "another kernel lives");
    return err_public(err, ERR_BAD_INPUT, "the language can't be started: %s",
                      words_of(call.done.sys_errno));
}

int channel_forget(struct channel *channel, const char *execution_id, int64_t deadline_ns,
                   struct err *err)
{
    const struct sandbox_attach attach = {.execution_id = execution_id};
    CALL_AUTO struct call call;
    call_init(&call, channel, FRAME_FORGET, SANDBOX_CAP_HOLD, deadline_ns);
    int result = sandbox_attach_encode(&attach, &call.payload, err);
    if (result == 0)
        result = channel_talk(&call.talk, err);
    if (result != 0 || call.done.sys_errno == 0)
        return result;
    return err_set(err, ERR_NOT_FOUND, "init can't forget execution %s: %s", execution_id,
                   words_of(call.done.sys_errno));
}

int channel_list(struct channel *channel, int64_t deadline_ns, struct sandbox_listed *out,
                 struct err *err)
{
    struct sandbox_listed listed = {0};
    CALL_AUTO struct call call;
    call_init(&call, channel, FRAME_LIST, SANDBOX_CAP_HOLD, deadline_ns);
    call.listed = &listed;
    int result = channel_talk(&call.talk, err);
    if (result == 0)
        *out = listed;
    return result;
}

int channel_timers(struct channel *channel, const struct sandbox_timers *timers,
                   int64_t deadline_ns, struct err *err)
{
    CALL_AUTO struct call call;
    call_init(&call, channel, FRAME_TIMERS, SANDBOX_CAP_TIMERS, deadline_ns);
    int result = sandbox_timers_encode(timers, &call.payload, err);
    if (result == 0)
        result = channel_talk(&call.talk, err);
    if (result != 0 || call.done.sys_errno == 0)
        return result;
    return err_set(err, ERR_BAD_INPUT, "init can't set these times: %s",
                   words_of(call.done.sys_errno));
}

int channel_network(struct channel *channel, const struct sandbox_network *network,
                    int64_t deadline_ns, struct err *err)
{
    CALL_AUTO struct call call;
    call_init(&call, channel, FRAME_NETWORK, SANDBOX_CAP_EGRESS, deadline_ns);
    int result = sandbox_network_encode(network, &call.payload, err);
    if (result == 0)
        result = channel_talk(&call.talk, err);
    if (result != 0 || call.done.sys_errno == 0)
        return result;
    if (call.done.sys_errno == EADDRINUSE)
        return err_public(err, ERR_CONFLICT,
                          "the code listens on port %d, which is that of the proxy",
                          SANDBOX_PROXY_PORT);
    return err_set(err, ERR_INTERNAL, "init can't open the way out: %s",
                   words_of(call.done.sys_errno));
}
