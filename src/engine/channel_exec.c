/* Owns executions on a channel, whichever frame they begin with: a program (EXEC), code for the
 * kernel (RUN), a held one that began elsewhere (ATTACH). Refuses output before the start, more
 * messages than were asked for, and everything after the exit. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/fault.h"
#include "engine/channel_internal.h"
#include "wire/kernel_msg.h"

enum { EXIT_KILLED = 137 };

/* Messages are counted by init as they are kept: a piece more than was asked for is no fault. */
#define MESSAGES_SLACK FRAME_WINDOW

/* The streams that init sends on, as they lie in run.in. */
enum { IN_MESSAGES, IN_STDOUT, IN_STDERR, IN_COUNT };

/* One execution as it goes. */
struct run {
    struct talk talk;
    enum frame_type request;
    struct buf payload;    /* of the request */
    struct outgoing code;  /* of RUN, on the control stream */
    struct outgoing input; /* all of standard input */
    struct incoming in[IN_COUNT];
    struct buf message;     /* the parts so far; its max is that of one message */
    uint64_t messages_left; /* bytes of messages that may still come */
    uint64_t events;        /* since all messages were whole */
    bool in_message;
    bool started, refused, exited;
    bool abandoned; /* ended before init heard of it */
    struct channel_exit exit;
};

static struct run *run_of(struct talk *talk)
{
    return (struct run *)talk;
}

/* ---- to init ---- */

/* Asks init for a file; its bytes follow. */
static int queue_put(struct channel *channel, struct put *put, struct err *err)
{
    const struct sandbox_put_file message = {.path = put->path, .mode = put->mode};
    BUF_AUTO struct buf payload;
    buf_init(&payload, FRAME_PAYLOAD_MAX);
    int result = sandbox_put_file_encode(&message, &payload, err);
    if (result == 0)
        result = frame_append(&channel->out, FRAME_PUT_FILE, put->bytes.stream, payload.data,
                              payload.size, err);
    put->asked = result == 0;
    return result;
}

/* Queues files in their order. Returns 1 when nothing of them is left to be sent. */
static int queue_puts(struct channel *channel, struct err *err)
{
    while (channel->put_current < channel->put_count) {
        struct put *put = &channel->puts[channel->put_current];
        int result = put->asked ? 0 : queue_put(channel, put, err);
        if (result == 0)
            result = channel_queue_bytes(channel, &put->bytes, err);
        if (result != 0 || !put->bytes.closed)
            return result;
        channel->put_current++;
    }
    return 1;
}

static int queue_request(struct run *run, struct err *err)
{
    struct talk *talk = &run->talk;
    int result = frame_append(&talk->channel->out, run->request, talk->stream, run->payload.data,
                              run->payload.size, err);
    talk->asked = result == 0;
    return result;
}

/* Queues what may be sent now, in the order: files, the request, its code, its input. Code goes on
 * after a kill, since init may wait for its end. */
static int run_queue(struct talk *talk, struct err *err)
{
    struct run *run = run_of(talk);
    int result = queue_puts(talk->channel, err);
    if (result <= 0)
        return result;
    result = talk->asked ? 0 : queue_request(run, err);
    if (result == 0)
        result = channel_queue_bytes(talk->channel, &run->code, err);
    if (result == 0 && run->code.closed && !talk->killed)
        result = channel_queue_bytes(talk->channel, &run->input, err);
    return result;
}

static int run_kill(struct talk *talk, enum kill_cause cause, struct err *err)
{
    struct run *run = run_of(talk);
    if (talk->killed)
        return 0;
    if (talk->asked)
        return channel_queue_kill(talk, cause, err);
    /* Init has not heard of it: there is nothing to kill. */
    talk->killed = true;
    run->abandoned = true;
    run->exit = (struct channel_exit){.exit = {.exit_code = EXIT_KILLED, .cause = cause}};
    return 0;
}

/* ---- from init ---- */

/* Hands bytes on, unless nobody takes them any more. */
static int pass_on(struct run *run, uint32_t part, const uint8_t *data, size_t size,
                   struct err *err)
{
    const struct channel_watch *watch = run->talk.watch;
    struct err refusal = ERR_INIT;
    int result = 0;
    if (run->refused)
        return 0;
    if (part != STREAM_CONTROL && watch->output && size > 0)
        result = watch->output(watch->context, (int)part, data, size, &refusal);
    else if (part == STREAM_CONTROL && watch->message)
        result = watch->message(watch->context, data, size, &refusal);
    if (result >= 0)
        return 0;
    run->refused = true;
    return run_kill(&run->talk, KILL_USER, err);
}

/* An event was taken. */
static void count_event(struct run *run, bool in_message)
{
    run->in_message = in_message;
    run->events++;
    if (in_message)
        return;
    if (run->talk.watch->events)
        *run->talk.watch->events += run->events;
    run->events = 0;
}

static int on_data(struct run *run, const struct frame *frame, struct err *err)
{
    uint32_t part = frame->stream - run->talk.stream;
    if (!run->started || (part != STREAM_STDOUT && part != STREAM_STDERR))
        return channel_out_of_turn(&run->talk, frame, err);
    struct incoming *in = &run->in[part == STREAM_STDOUT ? IN_STDOUT : IN_STDERR];
    int result = channel_count_data(in, frame, err);
    if (result == 0)
        result = pass_on(run, part, frame->payload, frame->size, err);
    count_event(run, run->in_message);
    return result == 0 ? channel_grant(run->talk.channel, in, frame, err) : result;
}

/* Puts a message together, and hands it on when it is whole. Who takes none needs none kept. */
static int on_message(struct run *run, const struct frame *frame, struct err *err)
{
    struct incoming *in = &run->in[IN_MESSAGES];
    if (!run->started || frame->stream != run->talk.stream || run->request == FRAME_EXEC)
        return channel_out_of_turn(&run->talk, frame, err);
    int result = channel_count_data(in, frame, err);
    if (result != 0)
        return result;
    if (frame->size > run->messages_left)
        return err_set(err, ERR_PROTOCOL, "init sent more messages than were asked for");
    run->messages_left -= frame->size;
    if (frame->size > run->message.max - run->message.size)
        return err_set(err, ERR_PROTOCOL, "init sent a message of more than %zu bytes",
                       run->message.max);
    bool wanted = run->talk.watch->message && !run->refused;
    if (wanted)
        result = buf_append(&run->message, frame->payload, frame->size, err);
    if (result == 0 && wanted && frame->type == FRAME_MESSAGE)
        result = pass_on(run, STREAM_CONTROL, run->message.data, run->message.size, err);
    if (frame->type == FRAME_MESSAGE)
        run->message.size = 0;
    count_event(run, frame->type != FRAME_MESSAGE);
    return result == 0 ? channel_grant(run->talk.channel, in, frame, err) : result;
}

static struct put *find_put(struct channel *channel, uint32_t stream)
{
    for (size_t i = 0; i < channel->put_count; i++) {
        if (channel->puts[i].bytes.stream == stream)
            return &channel->puts[i];
    }
    return NULL;
}

static int on_credit(struct run *run, const struct frame *frame, struct err *err)
{
    struct put *put = find_put(run->talk.channel, frame->stream);
    if (run->request != FRAME_ATTACH && frame->stream == run->input.stream)
        return channel_add_credit(&run->input, frame, err);
    if (put)
        return channel_add_credit(&put->bytes, frame, err);
    return channel_out_of_turn(&run->talk, frame, err);
}

/* Init's answer about a file. */
static int on_put_done(struct run *run, struct put *put, const struct sandbox_done *done,
                       struct err *err)
{
    put->done = true;
    run->talk.channel->puts_done++;
    if (run->talk.killed && done->sys_errno == ECANCELED)
        return 0; /* our kill overtook the file; the exit follows */
    if (done->sys_errno == 0)
        return 0;
    return channel_file_error("files", "written", put->path, done->sys_errno, err);
}

/* Init's last word on the execution itself: it can't be attached to, or is no longer. */
static int on_refusal(const struct run *run, const struct sandbox_done *done, struct err *err)
{
    bool attaches = run->request == FRAME_ATTACH && !run->started;
    if (done->sys_errno == ECANCELED)
        return err_set(err, ERR_CONFLICT, "another channel has attached to the execution");
    if (attaches && done->sys_errno == ESRCH)
        return err_set(err, ERR_NOT_FOUND, "init holds no such execution");
    if (attaches && done->sys_errno == EINVAL)
        return err_set(err, ERR_BAD_INPUT, "the execution has fewer events");
    return err_set(err, ERR_PROTOCOL, "init answered an execution with errno %d", done->sys_errno);
}

static int on_done(struct run *run, const struct frame *frame, struct err *err)
{
    struct talk *talk = &run->talk;
    struct put *put = find_put(talk->channel, frame->stream);
    bool is_put = put && put->asked && !put->done;
    bool is_ours = talk->asked && frame->stream == talk->stream && !run->exited;
    struct sandbox_done done = {0};
    if (!is_put && !is_ours)
        return channel_out_of_turn(talk, frame, err);
    int result = sandbox_done_decode(frame->payload, frame->size, &done, err);
    if (result != 0)
        return result;
    return is_put ? on_put_done(run, put, &done, err) : on_refusal(run, &done, err);
}

static int on_exit_frame(struct run *run, const struct frame *frame, struct err *err)
{
    struct channel_exit *out = &run->exit;
    int result = sandbox_exit_decode(frame->payload, frame->size, &out->exit, err);
    if (result != 0)
        return result;
    (void)snprintf(out->start_error, sizeof(out->start_error), "%s",
                   out->exit.start_error ? out->exit.start_error : "");
    run->exited = true;
    run->talk.answered = true;
    return 0;
}

static int run_take(struct talk *talk, const struct frame *frame, struct err *err)
{
    struct run *run = run_of(talk);
    bool ours = talk->asked && frame->stream == talk->stream && !run->exited;
    uint32_t part = frame->stream - talk->stream;
    if (frame->type == FRAME_CREDIT)
        return on_credit(run, frame, err);
    if (frame->type == FRAME_DONE)
        return on_done(run, frame, err);
    if (run->exited)
        return err_set(err, ERR_PROTOCOL, "init sent more after the exit");
    switch (frame->type) {
    case FRAME_DATA:
        return on_data(run, frame, err);
    case FRAME_MESSAGE_PART:
    case FRAME_MESSAGE:
        return on_message(run, frame, err);
    case FRAME_STARTED:
        if (!ours || run->started)
            break;
        run->started = true;
        fault_point("server.started");
        return 0;
    case FRAME_CLOSE:
        if (!talk->asked || (part != STREAM_STDOUT && part != STREAM_STDERR) ||
            run->in[part == STREAM_STDOUT ? IN_STDOUT : IN_STDERR].ended)
            break;
        run->in[part == STREAM_STDOUT ? IN_STDOUT : IN_STDERR].ended = true;
        return 0;
    case FRAME_EXIT:
        if (ours)
            return on_exit_frame(run, frame, err);
        break;
    default:
        break;
    }
    return channel_out_of_turn(talk, frame, err);
}

/* EXIT was read and every file is answered. */
static bool run_is_over(const struct talk *talk)
{
    const struct run *run = (const struct run *)talk;
    return run->abandoned || (run->exited && talk->channel->puts_done == talk->channel->put_count);
}

static const struct talk_type run_type = {
    .queue = run_queue, .take = run_take, .is_over = run_is_over, .kill = run_kill};

/* ---- the three beginnings ---- */

static void run_init(struct run *run, struct channel *channel, enum frame_type request,
                     const struct channel_watch *watch)
{
    *run = (struct run){.talk = {.channel = channel,
                                 .type = &run_type,
                                 .watch = watch,
                                 .stream = channel_take_stream(channel),
                                 .deadline_ns = watch->deadline_ns},
                        .request = request,
                        .code = {.closed = true},
                        .input = {.closed = true}};
    channel->talk_sends = 0; /* what fails before the talk was not heard either */
    if (watch->interrupt_fd >= 0)
        run->talk.needs = SANDBOX_CAP_KERNEL;
    for (size_t i = 0; i < IN_COUNT; i++)
        run->in[i].window = FRAME_WINDOW;
    buf_init(&run->payload, FRAME_PAYLOAD_MAX);
    buf_init(&run->message, 0);
}

static void run_done(struct run *run)
{
    buf_done(&run->payload);
    buf_done(&run->message);
}
#define RUN_AUTO __attribute__((cleanup(run_done)))

static void run_set_input(struct run *run, const void *data, size_t size)
{
    run->input = (struct outgoing){.stream = run->talk.stream + STREAM_STDIN,
                                   .data = data,
                                   .size = size,
                                   .credit = FRAME_WINDOW};
}

/* Runs to the end, and hands the outcome out. */
static int run_to_end(struct run *run, struct channel_exit *out, struct err *err)
{
    struct channel *channel = run->talk.channel;
    int result = channel_talk(&run->talk, err);
    if (result != 0)
        return result;
    if (run->abandoned) /* init waits for the rest of a file, and what came next would too */
        channel_break(channel);
    channel->put_count = 0;
    channel->put_current = 0;
    channel->puts_done = 0;
    *out = run->exit;
    out->exit.start_error = out->start_error;
    return 0;
}

int channel_exec(struct channel *channel, const struct channel_exec *exec, struct channel_exit *out,
                 struct err *err)
{
    RUN_AUTO struct run state;
    run_init(&state, channel, FRAME_EXEC, &exec->watch);
    run_set_input(&state, exec->stdin_data, exec->stdin_size);
    if (exec->exec.hold)
        state.talk.needs |= SANDBOX_CAP_HOLD;
    if (exec->exec.terminal != 0)
        state.talk.needs |= SANDBOX_CAP_TERMINAL;
    int result = sandbox_exec_encode(&exec->exec, &state.payload, err);
    return result == 0 ? run_to_end(&state, out, err) : result;
}

int channel_run(struct channel *channel, const struct channel_run *run, struct channel_exit *out,
                struct err *err)
{
    RUN_AUTO struct run state;
    if (run->code_size > SANDBOX_CODE_MAX)
        return err_public(err, ERR_TOO_LARGE, "code: more than %u bytes", SANDBOX_CODE_MAX);
    run_init(&state, channel, FRAME_RUN, &run->watch);
    state.talk.needs |= SANDBOX_CAP_KERNEL;
    if (run->run.hold)
        state.talk.needs |= SANDBOX_CAP_HOLD;
    run_set_input(&state, run->stdin_data, run->stdin_size);
    state.code = (struct outgoing){.stream = state.talk.stream,
                                   .data = run->code,
                                   .size = run->code_size,
                                   .credit = SANDBOX_CODE_MAX};
    state.message.max = KERNEL_BODY_MAX;
    state.messages_left = run->run.messages_max_bytes > UINT64_MAX - MESSAGES_SLACK
                              ? UINT64_MAX
                              : run->run.messages_max_bytes + MESSAGES_SLACK;
    int result = sandbox_run_encode(&run->run, &state.payload, err);
    return result == 0 ? run_to_end(&state, out, err) : result;
}

int channel_attach(struct channel *channel, const struct sandbox_attach *attach,
                   const struct channel_watch *watch, struct channel_exit *out, struct err *err)
{
    RUN_AUTO struct run state;
    run_init(&state, channel, FRAME_ATTACH, watch);
    state.talk.needs |= SANDBOX_CAP_HOLD;
    /* What it asked for is not known here; init kept no more than that. */
    state.message.max = KERNEL_BODY_MAX;
    state.messages_left = UINT64_MAX;
    int result = sandbox_attach_encode(attach, &state.payload, err);
    return result == 0 ? run_to_end(&state, out, err) : result;
}
