/* Owns files that go through a channel as streams, of any size and piece by piece. Refuses bytes
 * beyond what was asked for, and a length that is not that of the bytes. */
#include <errno.h>
#include <limits.h>
#include <string.h>

#include "base/clock.h"
#include "engine/channel_transfer.h"

static struct transfer *transfer_of(struct talk *talk)
{
    return (struct transfer *)talk;
}

/* ---- what went wrong ---- */

/* What a path that the caller chose, or files that are too large, can lead to. */
static bool is_callers_fault(int sys_errno)
{
    static const int faults[] = {EACCES, EPERM,        ELOOP,  EXDEV,   ENOTDIR,
                                 EISDIR, EEXIST,       ENOENT, ENOSPC,  EFBIG,
                                 EROFS,  ENAMETOOLONG, ENXIO,  ETXTBSY, EDQUOT};
    for (size_t i = 0; i < sizeof(faults) / sizeof(faults[0]); i++) {
        if (faults[i] == sys_errno)
            return true;
    }
    return false;
}

int channel_file_error(const char *field, const char *verb, const char *path, int sys_errno,
                       struct err *err)
{
    const char *words = strerrordesc_np(sys_errno);
    if (!is_callers_fault(sys_errno))
        return err_set(err, ERR_UNAVAILABLE, "%s: \"%.120s\" can't be %s: errno %d", field, path,
                       verb, sys_errno);
    return err_public(err, ERR_BAD_INPUT, "%s: \"%.120s\" can't be %s: %s", field, path, verb,
                      words ? words : "unknown error");
}

/* The outcome of a talk that came to its end. */
int transfer_judge(const struct transfer *transfer, const char *verb, const char *path,
                   uint64_t *out_size, struct err *err)
{
    int sys_errno = transfer->done.sys_errno;
    bool reads = transfer->request == FRAME_GET_FILE;
    if (transfer->broken.kind != ERR_NONE)
        return err_copy(err, &transfer->broken);
    if (sys_errno == ECANCELED && transfer->talk.killed)
        return err_set(err, ERR_CLOSED, "\"%.120s\" was cancelled", path);
    if (reads && (sys_errno == ENOENT || sys_errno == ENOTDIR))
        return err_public(err, ERR_NOT_FOUND, "path: there is no \"%.120s\"", path);
    if (sys_errno == EINVAL)
        return err_public(err, ERR_BAD_INPUT, "path: \"%.120s\" is no regular file", path);
    if (sys_errno != 0)
        return channel_file_error("path", verb, path, sys_errno, err);
    if (transfer->done.size_bytes != transfer->moved)
        return err_set(err, ERR_PROTOCOL, "init says %llu bytes of a file, %llu were %s",
                       (unsigned long long)transfer->done.size_bytes,
                       (unsigned long long)transfer->moved, verb);
    *out_size = transfer->moved;
    return 0;
}

/* ---- both ways ---- */

/* Asks once; false: not yet, as init has not said hello. */
bool transfer_ask(struct transfer *transfer, int *result, struct err *err)
{
    struct talk *talk = &transfer->talk;
    *result = 0;
    if (!talk->channel->hello_seen)
        return false;
    if (!talk->asked)
        *result = frame_append(&talk->channel->out, transfer->request, talk->stream,
                               transfer->payload.data, transfer->payload.size, err);
    talk->asked = true;
    return *result == 0;
}

int transfer_kill(struct talk *talk, enum kill_cause cause, struct err *err)
{
    struct transfer *transfer = transfer_of(talk);
    if (talk->killed)
        return 0;
    if (talk->asked)
        return channel_queue_kill(talk, cause, err);
    talk->killed = true;
    talk->answered = true;
    transfer->done.sys_errno = ECANCELED;
    return 0;
}

/* Our side gave up: init is told, and its answer waited for, so that the channel stays good. */
static int give_up(struct transfer *transfer, const struct err *why, struct err *err)
{
    transfer->broken = *why;
    if (why->kind == ERR_NONE)
        transfer->broken.kind = ERR_CLOSED;
    return transfer_kill(&transfer->talk, KILL_USER, err);
}

/* The time that our side took is not init's. */
static void move_deadline(struct talk *talk, int64_t since_ns)
{
    int64_t spent_ns = clock_now_ns() - since_ns;
    talk->deadline_ns =
        talk->deadline_ns > INT64_MAX - spent_ns ? INT64_MAX : talk->deadline_ns + spent_ns;
}

static int on_done(struct transfer *transfer, const struct frame *frame, struct err *err)
{
    transfer->talk.answered = true;
    return sandbox_done_decode(frame->payload, frame->size, &transfer->done, err);
}

static bool transfer_is_over(const struct talk *talk)
{
    return talk->answered;
}

void transfer_init(struct transfer *transfer, struct channel *channel, const struct talk_type *type,
                   enum frame_type request)
{
    *transfer = (struct transfer){
        .talk = {.channel = channel, .type = type, .stream = channel_take_stream(channel)},
        .request = request};
    buf_init(&transfer->payload, FRAME_PAYLOAD_MAX);
}

void transfer_done(struct transfer *transfer)
{
    buf_done(&transfer->payload);
}

/* ---- out of the sandbox ---- */

int transfer_get_queue(struct talk *talk, struct err *err)
{
    int result = 0;
    (void)transfer_ask(transfer_of(talk), &result, err);
    return result;
}

static int on_data(struct transfer *transfer, const struct frame *frame, struct err *err)
{
    struct talk *talk = &transfer->talk;
    const struct channel_watch *watch = talk->watch;
    int result = channel_count_data(&transfer->in, frame, err);
    if (result != 0)
        return result;
    if (frame->size > transfer->size_max - transfer->moved)
        return err_set(err, ERR_PROTOCOL, "init sent more of a file than was asked for");
    transfer->moved += frame->size;
    if (transfer->broken.kind == ERR_NONE && watch->output && frame->size > 0) {
        struct err refusal = ERR_INIT;
        int64_t since_ns = clock_now_ns();
        int taken =
            watch->output(watch->context, STREAM_STDOUT, frame->payload, frame->size, &refusal);
        move_deadline(talk, since_ns);
        if (taken < 0)
            result = give_up(transfer, &refusal, err);
    }
    return result == 0 ? channel_grant(talk->channel, &transfer->in, frame, err) : result;
}

int transfer_get_take(struct talk *talk, const struct frame *frame, struct err *err)
{
    struct transfer *transfer = transfer_of(talk);
    bool is_bytes = talk->asked && frame->stream == talk->stream + STREAM_STDOUT;
    if (frame->type == FRAME_DATA && is_bytes)
        return on_data(transfer, frame, err);
    if (frame->type == FRAME_CLOSE && is_bytes && !transfer->in.ended) {
        transfer->in.ended = true;
        return 0;
    }
    if (frame->type == FRAME_DONE && talk->asked && frame->stream == talk->stream)
        return on_done(transfer, frame, err);
    return channel_out_of_turn(talk, frame, err);
}

static const struct talk_type get_type = {.queue = transfer_get_queue,
                                          .take = transfer_get_take,
                                          .is_over = transfer_is_over,
                                          .kill = transfer_kill};

/* The bytes that may come for what was asked. */
uint64_t transfer_most(const struct sandbox_get_file *get)
{
    uint64_t info = get->info == SANDBOX_INFO_NONE ? 0 : SANDBOX_FILE_INFO_SIZE;
    if (get->info == SANDBOX_INFO_ONLY)
        return info;
    bool open_end = get->size_bytes == 0 || get->size_bytes > UINT64_MAX - info;
    return open_end ? UINT64_MAX : get->size_bytes + info;
}

int channel_get_file(struct channel *channel, const struct sandbox_get_file *get,
                     const struct channel_watch *watch, uint64_t *out_size, struct err *err)
{
    TRANSFER_AUTO struct transfer transfer;
    struct channel_watch watched = *watch;
    watched.interrupt_fd = -1; /* there is nothing that a signal would mean */
    transfer_init(&transfer, channel, &get_type, FRAME_GET_FILE);
    transfer.talk.watch = &watched;
    transfer.talk.deadline_ns = watch->deadline_ns;
    transfer.talk.needs = SANDBOX_CAP_GET_FILE;
    transfer.in.window = FRAME_WINDOW;
    transfer.size_max = transfer_most(get);
    int result = sandbox_get_file_encode(get, &transfer.payload, err);
    if (result == 0)
        result = channel_talk(&transfer.talk, err);
    return result == 0 ? transfer_judge(&transfer, "read", get->path, out_size, err) : result;
}

/* ---- into the sandbox ---- */

/* Asks our side for the next piece and queues it. Whatever was queued before is on its way by now:
 * nothing waits for a piece that is long in coming. */
static int queue_piece(struct transfer *transfer, struct err *err)
{
    struct talk *talk = &transfer->talk;
    struct outgoing *bytes = &transfer->bytes;
    uint8_t piece[FRAME_DATA_MAX];
    size_t room = bytes->credit < sizeof(piece) ? (size_t)bytes->credit : sizeof(piece);
    struct err refusal = ERR_INIT;
    int64_t since_ns = clock_now_ns();
    ssize_t size = transfer->input(transfer->context, piece, room, &refusal);
    move_deadline(talk, since_ns);
    if (size < 0)
        return give_up(transfer, &refusal, err);
    if ((size_t)size > room)
        return err_set(err, ERR_INTERNAL, "%zd bytes of a file where %zu fit", size, room);
    bytes->credit -= (size_t)size;
    transfer->moved += (size_t)size;
    bytes->closed = size == 0;
    return frame_append(&talk->channel->out, size == 0 ? FRAME_CLOSE : FRAME_DATA, talk->stream,
                        piece, (size_t)size, err);
}

static int put_queue(struct talk *talk, struct err *err)
{
    struct transfer *transfer = transfer_of(talk);
    const struct outgoing *bytes = &transfer->bytes;
    bool fresh = !talk->asked;
    int result = 0;
    if (!transfer_ask(transfer, &result, err))
        return result;
    /* The request, and each piece, leave alone: the next one may be long in coming. */
    if (!fresh && talk->channel->out.size == 0 && bytes->credit > 0 && !bytes->closed &&
        !talk->killed)
        result = queue_piece(transfer, err);
    talk->eager = bytes->credit > 0 && !bytes->closed && !talk->killed;
    return result;
}

int transfer_put_take(struct talk *talk, const struct frame *frame, struct err *err)
{
    struct transfer *transfer = transfer_of(talk);
    if (!talk->asked || frame->stream != talk->stream)
        return channel_out_of_turn(talk, frame, err);
    if (frame->type == FRAME_CREDIT)
        return channel_add_credit(&transfer->bytes, frame, err);
    if (frame->type != FRAME_DONE)
        return channel_out_of_turn(talk, frame, err);
    int result = on_done(transfer, frame, err);
    if (result == 0 && transfer->done.sys_errno == 0 && !transfer->bytes.closed)
        return err_set(err, ERR_PROTOCOL, "init has a file whose end was not sent");
    return result;
}

static const struct talk_type put_type = {
    .queue = put_queue, .take = transfer_put_take, .is_over = transfer_is_over};

int channel_put_stream(struct channel *channel, const struct sandbox_put_file *put,
                       channel_input_fn input, void *context, int64_t deadline_ns,
                       uint64_t *out_size, struct err *err)
{
    TRANSFER_AUTO struct transfer transfer;
    transfer_init(&transfer, channel, &put_type, FRAME_PUT_FILE);
    transfer.talk.deadline_ns = deadline_ns;
    transfer.talk.needs = SANDBOX_CAP_PUT_FILE;
    transfer.bytes = (struct outgoing){.stream = transfer.talk.stream, .credit = FRAME_WINDOW};
    transfer.input = input;
    transfer.context = context;
    int result = sandbox_put_file_encode(put, &transfer.payload, err);
    if (result == 0)
        result = channel_talk(&transfer.talk, err);
    return result == 0 ? transfer_judge(&transfer, "written", put->path, out_size, err) : result;
}
