/* Owns the connection to one init: hello, streams and their credit, and the loop that writes, waits
 * and reads. Refuses data without credit, frames that the talk does not expect, and a peer that
 * does not carry the sandbox's nonce. */
#include "engine/channel.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "engine/channel_internal.h"

enum {
    OUT_LOW = 128 * 1024, /* frames are queued up to here; more when the socket took them */
    OUT_MAX = OUT_LOW + 2 * FRAME_PAYLOAD_MAX,
    OUT_KEPT = 4096, /* by a channel that waits: a session's may for days */
    PUTS_MAX = 4096
};

#define CREDIT_MAX (UINT64_C(1) << 30)              /* no init has a reason to grant more */
#define KILL_GRACE_NS (INT64_C(5) * CLOCK_NS_PER_S) /* from KILL to the last word */

static const struct sandbox_hello our_hello = {.version_min = SANDBOX_VERSION_MIN,
                                               .version_max = SANDBOX_VERSION_MAX};

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
    BUF_AUTO struct buf payload;
    buf_init(&payload, FRAME_PAYLOAD_MAX);
    result = sandbox_hello_encode(&our_hello, &payload, err);
    if (result == 0)
        result = frame_append(&channel->out, FRAME_HELLO, 0, payload.data, payload.size, err);
    if (result != 0) {
        channel_close(channel);
        return result;
    }
    *out = channel;
    return 0;
}

void channel_break(struct channel *channel)
{
    (void)shutdown(channel->fd, SHUT_RDWR);
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

uint32_t channel_take_stream(struct channel *channel)
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
    channel->puts[channel->put_count++] =
        (struct put){.bytes = {.stream = channel_take_stream(channel),
                               .data = data,
                               .size = size,
                               .credit = FRAME_WINDOW},
                     .path = path,
                     .mode = mode};
    return 0;
}

/* ---- streams ---- */

int channel_queue_bytes(struct channel *channel, struct outgoing *bytes, struct err *err)
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

int channel_queue_kill(struct talk *talk, enum kill_cause cause, struct err *err)
{
    int64_t grace_ns = clock_now_ns() + KILL_GRACE_NS;
    talk->killed = true;
    if (grace_ns < talk->deadline_ns)
        talk->deadline_ns = grace_ns;
    return frame_append_u32(&talk->channel->out, FRAME_KILL, talk->stream, (uint32_t)cause, err);
}

int channel_add_credit(struct outgoing *bytes, const struct frame *frame, struct err *err)
{
    uint32_t credit = 0;
    int result = frame_u32(frame, &credit, err);
    if (result != 0)
        return result;
    if (credit > CREDIT_MAX || bytes->credit > CREDIT_MAX)
        return err_set(err, ERR_PROTOCOL, "credit of %u bytes", credit);
    bytes->credit += credit;
    return 0;
}

int channel_count_data(struct incoming *in, const struct frame *frame, struct err *err)
{
    if (in->ended || frame->size > FRAME_DATA_MAX)
        return err_set(err, ERR_PROTOCOL, "init sent data that no stream expects");
    if (frame->size > in->window)
        return err_set(err, ERR_PROTOCOL, "init sent %zu bytes without credit", frame->size);
    in->window -= frame->size;
    return 0;
}

int channel_grant(struct channel *channel, struct incoming *in, const struct frame *frame,
                  struct err *err)
{
    in->eaten += frame->size;
    if (in->eaten < FRAME_WINDOW / 2)
        return 0;
    uint32_t grant = (uint32_t)in->eaten;
    in->window += grant;
    in->eaten = 0;
    return frame_append_u32(&channel->out, FRAME_CREDIT, frame->stream, grant, err);
}

int channel_out_of_turn(const struct talk *talk, const struct frame *frame, struct err *err)
{
    uint32_t credit = 0;
    if (frame->type == FRAME_CREDIT && frame->stream < talk->stream)
        return frame_u32(frame, &credit, err);
    return err_set(err, ERR_PROTOCOL, "init sent frame type %d on stream %u out of turn",
                   (int)frame->type, frame->stream);
}

/* ---- one talk ---- */

int channel_flush(struct channel *channel, struct err *err)
{
    while (channel->out.size > 0 && !channel->write_broken) {
        ssize_t sent = send(channel->fd, channel->out.data, channel->out.size, MSG_NOSIGNAL);
        if (sent >= 0) {
            buf_consume(&channel->out, (size_t)sent);
            channel->sent_bytes += (size_t)sent;
            channel->talk_sends++;
            continue;
        }
        if (errno == EINTR)
            continue;
        if (errno == EAGAIN)
            return 0;
        if (errno != EPIPE && errno != ECONNRESET)
            return err_sys(err, errno, "write to init");
        channel->reset = channel->reset || errno == ECONNRESET;
        channel->write_broken = true;
    }
    if (channel->write_broken)
        channel->out.size = 0;
    if (channel->out.size == 0 && channel->out.capacity > OUT_KEPT)
        buf_done(&channel->out);
    return 0;
}

static int check_needs(const struct talk *talk, struct err *err)
{
    uint64_t lacks = talk->needs & ~talk->channel->capabilities;
    if (talk->channel->hello_seen && lacks != 0)
        return err_set(err, ERR_UNSUPPORTED, "this init lacks the capabilities 0x%" PRIx64, lacks);
    return 0;
}

static int on_hello(struct talk *talk, const struct frame *frame, struct err *err)
{
    struct channel *channel = talk->channel;
    struct sandbox_hello theirs = {0};
    if (frame->type != FRAME_HELLO)
        return err_set(err, ERR_PROTOCOL, "init sent frame type %d before its hello",
                       (int)frame->type);
    int result = sandbox_hello_decode(frame->payload, frame->size, &theirs, err);
    if (result != 0)
        return result;
    if (memcmp(theirs.nonce, channel->nonce, sizeof(theirs.nonce)) != 0)
        return err_set(err, ERR_PROTOCOL, "the hello is not that of this sandbox");
    result = sandbox_hello_agree(&our_hello, &theirs, err);
    if (result < 0)
        return result;
    channel->hello_seen = true;
    channel->capabilities = theirs.capabilities;
    result = channel_later_check(channel, err);
    return result == 0 ? check_needs(talk, err) : result;
}

static int take_frame(struct talk *talk, const struct frame *frame, struct err *err)
{
    if (!talk->channel->hello_seen)
        return on_hello(talk, frame, err);
    int result = channel_later_take(talk->channel, frame, err);
    if (result != 0)
        return result < 0 ? result : 0;
    return talk->type->take(talk, frame, err);
}

/* Takes the frames that are whole. */
static int take_frames(struct talk *talk, struct err *err)
{
    struct frame frame;
    int result = 0;
    while (!talk->type->is_over(talk) &&
           (result = frame_decoder_next(&talk->channel->decoder, &frame, err)) > 0) {
        result = take_frame(talk, &frame, err);
        if (result != 0)
            return result;
    }
    return result;
}

static int take_input(struct talk *talk, struct err *err)
{
    struct channel *channel = talk->channel;
    int got = frame_decoder_read(&channel->decoder, channel->fd, err);
    if (got == -ERR_UNAVAILABLE)
        return 0;
    channel->reset = channel->reset || got == -ERR_CLOSED;
    if (got < 0)
        return got;
    if (got == 0)
        return err_set(err, ERR_CLOSED, "init closed the channel");
    return take_frames(talk, err);
}

enum { POLL_SOCKET, POLL_CANCEL, POLL_GONE, POLL_INTERRUPT, POLL_INPUT, POLL_COUNT };

static void watch_add(const struct talk *talk, struct pollfd fds[static POLL_COUNT])
{
    const struct channel_watch *watch = talk->watch;
    if (!watch || talk->killed || talk->answered)
        return;
    fds[POLL_CANCEL].fd = watch->cancel_fd;
    fds[POLL_GONE].fd = watch->gone_fd;
    if (talk->asked) /* before that there is nothing to interrupt: it waits */
        fds[POLL_INTERRUPT].fd = watch->interrupt_fd;
}

/* Acts on what the watch saw: a reason to end it, else to interrupt it. */
static int watch_check(struct talk *talk, const struct pollfd fds[static POLL_COUNT],
                       struct err *err)
{
    if (talk->killed || talk->answered)
        return 0;
    if (fds[POLL_CANCEL].revents != 0) {
        const _Atomic int *cause = talk->watch->cancel_cause;
        return talk->type->kill(talk, cause ? (enum kill_cause) * cause : KILL_USER, err);
    }
    if (fds[POLL_GONE].revents != 0)
        return talk->type->kill(talk, KILL_USER, err);
    uint64_t count = 0;
    if (fds[POLL_INTERRUPT].revents == 0 ||
        read(fds[POLL_INTERRUPT].fd, &count, sizeof(count)) != (ssize_t)sizeof(count))
        return 0;
    return frame_append(&talk->channel->out, FRAME_INTERRUPT, talk->stream, NULL, 0, err);
}

/* Waits for the socket, for what is watched or the deadline, and takes what came. */
static int wait_and_take(struct talk *talk, struct err *err)
{
    struct channel *channel = talk->channel;
    struct pollfd fds[POLL_COUNT] = {
        [POLL_SOCKET] = {.fd = channel->fd, .events = POLLIN},
        [POLL_CANCEL] = {.fd = -1, .events = POLLIN},
        [POLL_GONE] = {.fd = -1, .events = POLLIN | POLLRDHUP},
        [POLL_INTERRUPT] = {.fd = -1, .events = POLLIN},
        [POLL_INPUT] = {.fd = -1, .events = POLLIN},
    };
    if (talk->has_input && !talk->input_ready)
        fds[POLL_INPUT].fd = talk->input_fd;
    watch_add(talk, fds);
    if (channel->out.size > 0)
        fds[POLL_SOCKET].events |= POLLOUT;
    int timeout_ms = clock_poll_timeout_ms(talk->deadline_ns);
    if (timeout_ms == 0)
        return err_set(err, ERR_TIMEOUT, "init did not report in time");
    if (talk->eager && channel->out.size == 0)
        timeout_ms = 0;
    if (poll(fds, POLL_COUNT, timeout_ms) < 0) {
        if (errno == EINTR)
            return 0;
        return err_sys(err, errno, "poll of a channel");
    }
    talk->input_ready = talk->input_ready || fds[POLL_INPUT].revents != 0;
    /* What was said before the reason to cancel counts: an exit that is here already stands. */
    int result = (fds[POLL_SOCKET].revents & ~POLLOUT) != 0 ? take_input(talk, err) : 0;
    return result == 0 ? watch_check(talk, fds, err) : result;
}

/* Queues and writes until there is nothing more to queue or the socket takes no more. */
static int send_what_goes(struct talk *talk, struct err *err)
{
    struct channel *channel = talk->channel;
    bool more = true;
    int result = 0;
    while (result == 0 && more) {
        if (!talk->answered)
            result = talk->type->queue(talk, err);
        more = channel->out.size >= OUT_LOW;
        if (result == 0)
            result = channel_flush(channel, err);
        more = more && channel->out.size == 0 && !channel->write_broken;
    }
    return result;
}

int channel_talk(struct talk *talk, struct err *err)
{
    talk->channel->talk_sends = 0;
    int result = channel_later_check(talk->channel, err);
    if (result == 0)
        result = check_needs(talk, err);
    if (result == 0)
        result = take_frames(talk, err); /* what was read with the end of the talk before */
    while (result == 0 && !talk->type->is_over(talk)) {
        result = send_what_goes(talk, err);
        if (result == 0)
            result = wait_and_take(talk, err);
    }
    if (result == 0)
        talk->channel->sent_bytes = 0;
    return result;
}

/* Init reads so much at once: of what was written in one piece and is no more than that it has all
 * or nothing. unix(7): a socket that closes with unread bytes resets the other end. */
bool channel_unheard(const struct channel *channel)
{
    if (channel->talk_sends == 0)
        return true;
    return channel->reset && channel->talk_sends == 1 && channel->sent_bytes <= FRAME_READ_MIN;
}
