/* Owns a terminal on a channel: bytes both ways at once, and the size of the window. Ends it by a
 * hang-up, never by a kill: a shell has something to save. */
#include <stdio.h>

#include "engine/channel_internal.h"

struct terminal {
    struct talk talk; /* first: a talk is one */
    const struct channel_terminal *ask;
    struct buf payload;
    struct incoming in;
    uint64_t credit; /* of what is typed */
    bool started, hung_up;
    bool ended[2];     /* CLOSE of stdout, of stderr */
    struct err broken; /* why our side hung up */
    struct channel_exit exit;
};

static struct terminal *terminal_of(struct talk *talk)
{
    return (struct terminal *)talk;
}

static void hang_up(struct terminal *terminal, const struct err *why)
{
    terminal->hung_up = true;
    terminal->broken = *why;
}

static int terminal_kill(struct talk *talk, enum kill_cause cause, struct err *err)
{
    (void)cause;
    (void)err;
    talk->killed = true;
    hang_up(terminal_of(talk), &ERR_INIT);
    return 0;
}

/* Takes what was typed, if init has room for it. */
static int queue_input(struct terminal *terminal, struct err *err)
{
    struct talk *talk = &terminal->talk;
    struct buf *out = &talk->channel->out;
    uint8_t piece[4096];
    size_t room = terminal->credit < sizeof(piece) ? (size_t)terminal->credit : sizeof(piece);
    uint32_t resize = 0;
    struct err refusal = ERR_INIT;
    int result = 0;
    ssize_t size =
        terminal->ask->input(terminal->ask->watch.context, piece, room, &resize, &refusal);
    if (size < 0) {
        hang_up(terminal, &refusal);
        return 0;
    }
    if (resize != 0)
        result = frame_append_u32(out, FRAME_RESIZE, talk->stream, resize, err);
    if (result == 0 && size > 0)
        result =
            frame_append(out, FRAME_DATA, talk->stream + STREAM_STDIN, piece, (size_t)size, err);
    terminal->credit -= (size_t)size;
    talk->input_ready = size > 0; /* there may be more that no descriptor tells of */
    return result;
}

static int terminal_queue(struct talk *talk, struct err *err)
{
    struct terminal *terminal = terminal_of(talk);
    int result = 0;
    if (!talk->channel->hello_seen || terminal->hung_up)
        return 0;
    if (!talk->asked) {
        talk->asked = true;
        return frame_append(&talk->channel->out, FRAME_EXEC, talk->stream, terminal->payload.data,
                            terminal->payload.size, err);
    }
    if (terminal->started && talk->input_ready && terminal->credit > 0)
        result = queue_input(terminal, err);
    talk->eager =
        terminal->started && (terminal->hung_up || talk->input_ready) && terminal->credit > 0;
    return result;
}

static int on_data(struct terminal *terminal, const struct frame *frame, struct err *err)
{
    const struct channel_watch *watch = &terminal->ask->watch;
    struct err refusal = ERR_INIT;
    int result = channel_count_data(&terminal->in, frame, err);
    if (result != 0)
        return result;
    if (frame->size > 0 &&
        watch->output(watch->context, STREAM_STDOUT, frame->payload, frame->size, &refusal) < 0) {
        hang_up(terminal, &refusal);
        return 0;
    }
    return channel_grant(terminal->talk.channel, &terminal->in, frame, err);
}

static int on_exit_frame(struct terminal *terminal, const struct frame *frame, struct err *err)
{
    struct channel_exit *out = &terminal->exit;
    int result = sandbox_exit_decode(frame->payload, frame->size, &out->exit, err);
    if (result != 0)
        return result;
    (void)snprintf(out->start_error, sizeof(out->start_error), "%s",
                   out->exit.start_error ? out->exit.start_error : "");
    terminal->talk.answered = true;
    return 0;
}

static int on_credit(struct terminal *terminal, const struct frame *frame, struct err *err)
{
    struct outgoing bytes = {.credit = terminal->credit};
    int result = channel_add_credit(&bytes, frame, err);
    terminal->credit = bytes.credit;
    return result;
}

static int terminal_take(struct talk *talk, const struct frame *frame, struct err *err)
{
    struct terminal *terminal = terminal_of(talk);
    uint32_t part = frame->stream - talk->stream;
    if (!talk->asked)
        return channel_out_of_turn(talk, frame, err);
    if (frame->type == FRAME_DATA && part == STREAM_STDOUT && terminal->started)
        return on_data(terminal, frame, err);
    if (frame->type == FRAME_CREDIT && part == STREAM_STDIN)
        return on_credit(terminal, frame, err);
    if (frame->type == FRAME_EXIT && part == STREAM_CONTROL)
        return on_exit_frame(terminal, frame, err);
    if (frame->type == FRAME_STARTED && part == STREAM_CONTROL && !terminal->started) {
        terminal->started = true;
        talk->deadline_ns = INT64_MAX;
        return 0;
    }
    if (frame->type == FRAME_CLOSE && (part == STREAM_STDOUT || part == STREAM_STDERR) &&
        !terminal->ended[part - STREAM_STDOUT]) {
        terminal->ended[part - STREAM_STDOUT] = true;
        terminal->in.ended = terminal->in.ended || part == STREAM_STDOUT;
        return 0;
    }
    return channel_out_of_turn(talk, frame, err);
}

static bool terminal_is_over(const struct talk *talk)
{
    const struct terminal *terminal = (const struct terminal *)talk;
    return terminal->hung_up || talk->answered;
}

static const struct talk_type terminal_type = {.queue = terminal_queue,
                                               .take = terminal_take,
                                               .is_over = terminal_is_over,
                                               .kill = terminal_kill};

int channel_terminal(struct channel *channel, const struct channel_terminal *terminal,
                     struct channel_exit *out, struct err *err)
{
    struct terminal state = {.talk = {.channel = channel,
                                      .type = &terminal_type,
                                      .watch = &terminal->watch,
                                      .stream = channel_take_stream(channel),
                                      .deadline_ns = terminal->watch.deadline_ns,
                                      .needs = SANDBOX_CAP_TERMINAL,
                                      .has_input = true,
                                      .input_ready = true,
                                      .input_fd = terminal->input_fd},
                             .ask = terminal,
                             .in = {.window = FRAME_WINDOW},
                             .credit = FRAME_WINDOW};
    buf_init(&state.payload, FRAME_PAYLOAD_MAX);
    int result = sandbox_exec_encode(&terminal->exec, &state.payload, err);
    if (result == 0)
        result = channel_talk(&state.talk, err);
    buf_done(&state.payload);
    if (result != 0)
        return result;
    if (state.hung_up)
        return err_set(err, ERR_CLOSED, "the terminal was hung up%s%s",
                       state.broken.message[0] ? ": " : "", state.broken.message);
    *out = state.exit;
    out->exit.start_error = out->start_error;
    return 0;
}
