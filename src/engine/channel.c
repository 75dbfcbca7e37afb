/* Owns the server's side of the sandbox protocol on one stream: what may be sent when, the credit
 * of both directions, and the checks on everything that init says. Refuses data without credit,
 * frames for streams that are not open, and a peer that does not carry the sandbox's nonce. */
#include "engine/channel.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/fd.h"
#include "wire/frame.h"

enum {
    OUT_LOW = 128 * 1024, /* frames are queued up to here; more when the socket took them */
    OUT_MAX = OUT_LOW + 2 * FRAME_PAYLOAD_MAX,
    PUTS_MAX = 4096
};

#define CREDIT_MAX (UINT64_C(1) << 30)              /* no init has a reason to grant more */
#define KILL_GRACE_NS (INT64_C(5) * CLOCK_NS_PER_S) /* from KILL to EXIT */

/* Bytes on their way to init on one stream. */
struct outgoing {
    uint32_t stream;
    const uint8_t *data;
    size_t size;
    size_t sent;
    uint64_t credit;
    bool closed; /* CLOSE is queued */
};

struct put {
    struct outgoing bytes;
    const char *path;
    uint32_t mode;
    bool asked; /* PUT_FILE is queued */
    bool done;  /* init answered */
};

struct channel {
    int fd; /* non-blocking */
    uint8_t nonce[SANDBOX_NONCE_SIZE];
    struct frame_decoder decoder;
    struct buf out;
    uint32_t next_stream;
    bool hello_seen;
    bool write_broken; /* the peer reads no more; what it wrote is still worth reading */
    struct put *puts;
    size_t put_count, put_capacity;
    size_t put_current; /* the first whose bytes are not all queued */
    size_t puts_done;
};

/* One execution as it goes. */
struct run {
    struct channel *channel;
    const struct channel_exec *exec;
    uint32_t stream;
    bool exec_queued, started, killed, output_refused, exited;
    bool abandoned; /* ended before init heard of it */
    struct outgoing input;
    uint64_t window[2]; /* of stdout and stderr: what init may still send */
    uint64_t eaten[2];  /* taken and not granted again */
    bool ended[2];
    int64_t deadline_ns;
    struct sandbox_exit exit;
    char *start_error;
    size_t start_error_size;
};

int channel_open(int fd, const uint8_t nonce[static SANDBOX_NONCE_SIZE], struct channel **out,
                 struct err *err)
{
    FD_AUTO int owned = fd;
    int result = fd_set_nonblocking(owned, true, err);
    if (result != 0)
        return result;
    struct channel *channel = calloc(1, sizeof(*channel));
    if (!channel)
        return err_set(err, ERR_INTERNAL, "no memory for a channel");
    channel->fd = fd_take(&owned);
    memcpy(channel->nonce, nonce, sizeof(channel->nonce));
    frame_decoder_init(&channel->decoder);
    buf_init(&channel->out, OUT_MAX);
    channel->next_stream = STREAM_STEP;
    const struct sandbox_hello hello = {.version_min = SANDBOX_VERSION_MIN,
                                        .version_max = SANDBOX_VERSION_MAX};
    BUF_AUTO struct buf payload;
    buf_init(&payload, FRAME_PAYLOAD_MAX);
    result = sandbox_hello_encode(&hello, &payload, err);
    if (result == 0)
        result = frame_append(&channel->out, FRAME_HELLO, 0, payload.data, payload.size, err);
    if (result != 0) {
        channel_close(channel);
        return result;
    }
    *out = channel;
    return 0;
}

void channel_close(struct channel *channel)
{
    if (!channel)
        return;
    fd_close(&channel->fd);
    frame_decoder_done(&channel->decoder);
    buf_done(&channel->out);
    free(channel->puts);
    free(channel);
}

static uint32_t take_stream(struct channel *channel)
{
    uint32_t stream = channel->next_stream;
    channel->next_stream += STREAM_STEP;
    return stream;
}

int channel_put_file(struct channel *channel, const char *path, uint32_t mode, const void *data,
                     size_t size, struct err *err)
{
    if (channel->put_count >= PUTS_MAX)
        return err_public(err, ERR_BAD_INPUT, "files: more than %d", PUTS_MAX);
    if (channel->put_count == channel->put_capacity) {
        size_t capacity = channel->put_capacity == 0 ? 8 : 2 * channel->put_capacity;
        struct put *puts = reallocarray(channel->puts, capacity, sizeof(*puts));
        if (!puts)
            return err_set(err, ERR_INTERNAL, "no memory for files");
        channel->puts = puts;
        channel->put_capacity = capacity;
    }
    channel->puts[channel->put_count++] = (struct put){.bytes = {.stream = take_stream(channel),
                                                                 .data = data,
                                                                 .size = size,
                                                                 .credit = FRAME_WINDOW},
                                                       .path = path,
                                                       .mode = mode};
    return 0;
}

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

/* Queues as much of a stream as credit and OUT_LOW allow, and its CLOSE. */
static int queue_bytes(struct channel *channel, struct outgoing *bytes, struct err *err)
{
    while (bytes->sent < bytes->size && bytes->credit > 0 && channel->out.size < OUT_LOW) {
        size_t piece = bytes->size - bytes->sent;
        piece = piece > FRAME_DATA_MAX ? FRAME_DATA_MAX : piece;
        piece = piece > bytes->credit ? (size_t)bytes->credit : piece;
        int result = frame_append(&channel->out, FRAME_DATA, bytes->stream,
                                  bytes->data + bytes->sent, piece, err);
        if (result != 0)
            return result;
        bytes->sent += piece;
        bytes->credit -= piece;
    }
    if (bytes->closed || bytes->sent < bytes->size)
        return 0;
    bytes->closed = true;
    return frame_append(&channel->out, FRAME_CLOSE, bytes->stream, NULL, 0, err);
}

static int queue_exec(struct run *run, struct err *err)
{
    BUF_AUTO struct buf payload;
    buf_init(&payload, FRAME_PAYLOAD_MAX);
    int result = sandbox_exec_encode(&run->exec->exec, &payload, err);
    if (result == 0)
        result = frame_append(&run->channel->out, FRAME_EXEC, run->stream, payload.data,
                              payload.size, err);
    run->exec_queued = result == 0;
    return result;
}

/* Queues what may be sent now, in the order: files, the execution, its input. */
static int queue_output(struct run *run, struct err *err)
{
    struct channel *channel = run->channel;
    int result = 0;
    while (result == 0 && channel->put_current < channel->put_count) {
        struct put *put = &channel->puts[channel->put_current];
        if (!put->asked)
            result = queue_put(channel, put, err);
        if (result == 0)
            result = queue_bytes(channel, &put->bytes, err);
        if (!put->bytes.closed)
            return result;
        channel->put_current++;
    }
    if (result == 0 && !run->exec_queued)
        result = queue_exec(run, err);
    if (result == 0 && !run->killed)
        result = queue_bytes(channel, &run->input, err);
    return result;
}

/* Writes what the socket takes. A peer that stopped reading is not a failure yet. */
static int flush_output(struct channel *channel, struct err *err)
{
    while (channel->out.size > 0 && !channel->write_broken) {
        ssize_t sent = send(channel->fd, channel->out.data, channel->out.size, MSG_NOSIGNAL);
        if (sent >= 0) {
            buf_consume(&channel->out, (size_t)sent);
            continue;
        }
        if (errno == EINTR)
            continue;
        if (errno == EAGAIN)
            return 0;
        if (errno != EPIPE && errno != ECONNRESET)
            return err_sys(err, errno, "write to init");
        channel->write_broken = true;
    }
    if (channel->write_broken)
        channel->out.size = 0;
    return 0;
}

static int queue_kill(struct run *run, enum kill_cause cause, struct err *err)
{
    if (run->killed)
        return 0;
    run->killed = true;
    if (!run->exec_queued) { /* init has not heard of it: there is nothing to kill */
        run->abandoned = true;
        run->start_error[0] = '\0';
        run->exit = (struct sandbox_exit){
            .exit_code = 137, .cause = cause, .start_error = run->start_error};
        return 0;
    }
    int64_t grace_ns = clock_now_ns() + KILL_GRACE_NS;
    if (grace_ns < run->deadline_ns)
        run->deadline_ns = grace_ns;
    return frame_append_u32(&run->channel->out, FRAME_KILL, run->stream, (uint32_t)cause, err);
}

static int on_hello(struct channel *channel, const struct frame *frame, struct err *err)
{
    const struct sandbox_hello ours = {.version_min = SANDBOX_VERSION_MIN,
                                       .version_max = SANDBOX_VERSION_MAX};
    struct sandbox_hello theirs = {0};
    if (frame->type != FRAME_HELLO)
        return err_set(err, ERR_PROTOCOL, "init sent frame type %d before its hello",
                       (int)frame->type);
    int result = sandbox_hello_decode(frame->payload, frame->size, &theirs, err);
    if (result != 0)
        return result;
    if (memcmp(theirs.nonce, channel->nonce, sizeof(theirs.nonce)) != 0)
        return err_set(err, ERR_PROTOCOL, "the hello is not that of this sandbox");
    result = sandbox_hello_agree(&ours, &theirs, err);
    if (result < 0)
        return result;
    channel->hello_seen = true;
    return 0;
}

static int on_data(struct run *run, const struct frame *frame, struct err *err)
{
    uint32_t stream = frame->stream - run->stream;
    if (stream != STREAM_STDOUT && stream != STREAM_STDERR)
        return err_set(err, ERR_PROTOCOL, "init sent data on stream %u", frame->stream);
    unsigned index = stream - STREAM_STDOUT;
    if (!run->started || run->ended[index] || frame->size > FRAME_DATA_MAX)
        return err_set(err, ERR_PROTOCOL, "init sent data that no stream expects");
    if (frame->size > run->window[index])
        return err_set(err, ERR_PROTOCOL, "init sent %zu bytes without credit", frame->size);
    run->window[index] -= frame->size;
    if (!run->output_refused && run->exec->output && frame->size > 0) {
        struct err refusal = ERR_INIT;
        if (run->exec->output(run->exec->output_context, (int)stream, frame->payload, frame->size,
                              &refusal) < 0) {
            run->output_refused = true;
            int result = queue_kill(run, KILL_USER, err);
            if (result != 0)
                return result;
        }
    }
    run->eaten[index] += frame->size;
    if (run->eaten[index] < FRAME_WINDOW / 2)
        return 0;
    uint32_t grant = (uint32_t)run->eaten[index];
    run->window[index] += grant;
    run->eaten[index] = 0;
    return frame_append_u32(&run->channel->out, FRAME_CREDIT, frame->stream, grant, err);
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
    uint32_t credit = 0;
    int result = frame_u32(frame, &credit, err);
    if (result != 0)
        return result;
    struct outgoing *bytes = NULL;
    struct put *put = find_put(run->channel, frame->stream);
    if (frame->stream == run->input.stream)
        bytes = &run->input;
    else if (put)
        bytes = &put->bytes;
    else if (frame->stream < run->stream)
        return 0; /* of an earlier execution on this channel */
    else
        return err_set(err, ERR_PROTOCOL, "credit for stream %u", frame->stream);
    if (credit > CREDIT_MAX || bytes->credit > CREDIT_MAX)
        return err_set(err, ERR_PROTOCOL, "credit of %u bytes", credit);
    bytes->credit += credit;
    return 0;
}

/* What a path that the caller chose, or files that are too large, can lead to. */
static bool is_callers_fault(int sys_errno)
{
    static const int faults[] = {EACCES, EPERM,  ELOOP,  EXDEV, ENOTDIR, EISDIR,
                                 EEXIST, ENOENT, ENOSPC, EFBIG, EROFS,   ENAMETOOLONG};
    for (size_t i = 0; i < sizeof(faults) / sizeof(faults[0]); i++) {
        if (faults[i] == sys_errno)
            return true;
    }
    return false;
}

static int on_done(struct run *run, const struct frame *frame, struct err *err)
{
    struct put *put = find_put(run->channel, frame->stream);
    if (!put || !put->asked || put->done)
        return err_set(err, ERR_PROTOCOL, "init answered file %u, which was not asked",
                       frame->stream);
    struct sandbox_done done = {0};
    int result = sandbox_done_decode(frame->payload, frame->size, &done, err);
    if (result != 0)
        return result;
    put->done = true;
    run->channel->puts_done++;
    if (run->killed && done.sys_errno == ECANCELED)
        return 0; /* our kill overtook the file; the exit follows */
    if (done.sys_errno != 0 && !is_callers_fault(done.sys_errno))
        return err_set(err, ERR_UNAVAILABLE, "init can't write \"%.120s\": errno %d", put->path,
                       done.sys_errno);
    if (done.sys_errno != 0)
        return err_public(err, ERR_BAD_INPUT, "files: \"%.120s\" can't be written: %s", put->path,
                          strerrordesc_np(done.sys_errno) ? strerrordesc_np(done.sys_errno)
                                                          : "unknown error");
    return 0;
}

static int on_report(struct run *run, const struct frame *frame, struct err *err)
{
    int result = sandbox_exit_decode(frame->payload, frame->size, &run->exit, err);
    if (result != 0)
        return result;
    (void)snprintf(run->start_error, run->start_error_size, "%s",
                   run->exit.start_error ? run->exit.start_error : "");
    run->exit.start_error = run->start_error;
    run->exited = true;
    return 0;
}

static int on_frame(struct run *run, const struct frame *frame, struct err *err)
{
    if (!run->channel->hello_seen)
        return on_hello(run->channel, frame, err);
    switch (frame->type) {
    case FRAME_DATA:
        return on_data(run, frame, err);
    case FRAME_CREDIT:
        return on_credit(run, frame, err);
    case FRAME_DONE:
        return on_done(run, frame, err);
    case FRAME_PONG:
        return 0;
    case FRAME_STARTED:
        if (frame->stream != run->stream || run->started || !run->exec_queued)
            break;
        run->started = true;
        fault_point("server.started");
        return 0;
    case FRAME_CLOSE: {
        uint32_t index = frame->stream - run->stream - STREAM_STDOUT;
        if (index > 1 || run->ended[index])
            break;
        run->ended[index] = true;
        return 0;
    }
    case FRAME_EXIT:
        if (frame->stream != run->stream || !run->exec_queued)
            break;
        return on_report(run, frame, err);
    default:
        break;
    }
    return err_set(err, ERR_PROTOCOL, "init sent frame type %d on stream %u out of turn",
                   (int)frame->type, frame->stream);
}

/* EXIT was read and every file is answered. */
static bool is_over(const struct run *run)
{
    return run->abandoned || (run->exited && run->channel->puts_done == run->channel->put_count);
}

/* Reads once and takes all frames that are whole. */
static int take_input(struct run *run, struct err *err)
{
    struct frame_decoder *decoder = &run->channel->decoder;
    int got = frame_decoder_read(decoder, run->channel->fd, err);
    if (got == -ERR_UNAVAILABLE)
        return 0;
    if (got < 0)
        return got;
    if (got == 0)
        return err_set(err, ERR_CLOSED, "init closed the channel");
    struct frame frame;
    int result = 0;
    while (!is_over(run) && (result = frame_decoder_next(decoder, &frame, err)) > 0) {
        result = run->exited && frame.type != FRAME_DONE && frame.type != FRAME_CREDIT
                     ? err_set(err, ERR_PROTOCOL, "init sent more after the exit")
                     : on_frame(run, &frame, err);
        if (result != 0)
            return result;
    }
    return result;
}

/* Looks at the two reasons to end an execution. Not asked again once one of them held. */
static int check_cancel(struct run *run, const struct pollfd *cancel, const struct pollfd *gone,
                        struct err *err)
{
    if (run->killed)
        return 0;
    if (cancel->revents != 0) {
        int cause = run->exec->cancel_cause ? *run->exec->cancel_cause : KILL_USER;
        return queue_kill(run, (enum kill_cause)cause, err);
    }
    if (gone->revents != 0)
        return queue_kill(run, KILL_USER, err);
    return 0;
}

/* Waits for the socket, a reason to cancel or the deadline, and takes what came. */
static int wait_and_take(struct run *run, struct err *err)
{
    struct channel *channel = run->channel;
    bool watch = !run->killed;
    struct pollfd fds[3] = {
        {.fd = channel->fd, .events = POLLIN},
        {.fd = watch ? run->exec->cancel_fd : -1, .events = POLLIN},
        {.fd = watch ? run->exec->gone_fd : -1, .events = POLLIN | POLLRDHUP},
    };
    if (channel->out.size > 0)
        fds[0].events |= POLLOUT;
    int timeout_ms = clock_poll_timeout_ms(run->deadline_ns);
    if (timeout_ms == 0)
        return err_set(err, ERR_TIMEOUT, "init did not report in time");
    if (poll(fds, 3, timeout_ms) < 0 && errno != EINTR)
        return err_sys(err, errno, "poll of a channel");
    /* What was said before the reason to cancel counts: an exit that is here already stands. */
    int result = (fds[0].revents & ~POLLOUT) != 0 ? take_input(run, err) : 0;
    if (result == 0 && !run->exited)
        result = check_cancel(run, &fds[1], &fds[2], err);
    return result;
}

int channel_exec(struct channel *channel, const struct channel_exec *exec, struct sandbox_exit *out,
                 char *start_error, size_t start_error_size, struct err *err)
{
    struct run run = {.channel = channel,
                      .exec = exec,
                      .stream = take_stream(channel),
                      .window = {FRAME_WINDOW, FRAME_WINDOW},
                      .deadline_ns = exec->deadline_ns,
                      .start_error = start_error,
                      .start_error_size = start_error_size};
    run.input = (struct outgoing){.stream = run.stream + STREAM_STDIN,
                                  .data = exec->stdin_data,
                                  .size = exec->stdin_size,
                                  .credit = FRAME_WINDOW};
    int result = 0;
    while (!is_over(&run)) {
        if (!run.exited)
            result = queue_output(&run, err);
        if (result == 0)
            result = flush_output(channel, err);
        if (result == 0)
            result = wait_and_take(&run, err);
        if (result != 0)
            return result;
    }
    channel->put_count = 0;
    channel->put_current = 0;
    channel->puts_done = 0;
    *out = run.exit;
    return 0;
}
