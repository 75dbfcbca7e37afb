/* Owns files that go through a channel piece by piece, at the pace of whoever calls: a talk that
 * pauses between two calls. Refuses bytes beyond what was asked for, and a length that is not that
 * of the bytes. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "engine/channel_internal.h"

/* One file on its way, in either direction. */
struct transfer {
    struct talk talk; /* first: a talk is one */
    enum frame_type request;
    struct buf payload; /* of the request */
    struct channel_watch watch;
    char path[SANDBOX_PATH_MAX];
    int64_t step_ns;
    struct sandbox_done done;
    uint64_t moved; /* bytes that came, or that were queued */
};

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

/* The outcome of a talk that came to its end. verb: "written" or "read". */
static int judge(const struct transfer *transfer, const char *verb, struct err *err)
{
    const char *path = transfer->path;
    int sys_errno = transfer->done.sys_errno;
    bool reads = transfer->request == FRAME_GET_FILE;
    if (sys_errno == ECANCELED && transfer->talk.killed)
        return err_set(err, ERR_CLOSED, "\"%.120s\" was cancelled", path);
    if (reads && (sys_errno == ENOENT || sys_errno == ENOTDIR))
        return err_public(err, ERR_NOT_FOUND, "path: there is no \"%.120s\"", path);
    if (sys_errno == EINVAL)
        return err_public(err, ERR_BAD_INPUT, "path: \"%.120s\" is no regular file", path);
    if (sys_errno != 0)
        return channel_file_error("path", verb, path, sys_errno, err);
    if (transfer->done.size_bytes != transfer->moved)
        return err_set(err, ERR_PROTOCOL,
                       "init says %" PRIu64 " bytes of a file, %" PRIu64 " were %s",
                       transfer->done.size_bytes, transfer->moved, verb);
    return 0;
}

/* ---- both ways ---- */

static void transfer_init(struct transfer *transfer, struct channel *channel,
                          const struct talk_type *type, const struct channel_watch *watch)
{
    transfer->watch = *watch;
    transfer->watch.interrupt_fd = -1; /* there is nothing that a signal would mean */
    transfer->talk = (struct talk){.channel = channel,
                                   .type = type,
                                   .watch = &transfer->watch,
                                   .stream = channel_take_stream(channel)};
    buf_init(&transfer->payload, FRAME_PAYLOAD_MAX);
}

/* Asks once; false: not yet, as init has not said hello. */
static bool ask(struct transfer *transfer, int *result, struct err *err)
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

/* Talks until it pauses. Each time is a step of its own, but for one that is cancelled: that has
 * its deadline already. */
static int go_on(struct transfer *transfer, struct err *err)
{
    struct talk *talk = &transfer->talk;
    if (!talk->killed)
        talk->deadline_ns = clock_now_ns() + transfer->step_ns;
    return channel_talk(talk, err);
}

static int transfer_kill(struct talk *talk, enum kill_cause cause, struct err *err)
{
    if (talk->asked)
        return channel_queue_kill(talk, cause, err);
    talk->killed = true;
    talk->answered = true;
    transfer_of(talk)->done.sys_errno = ECANCELED;
    return 0;
}

static int on_done(struct transfer *transfer, const struct frame *frame, struct err *err)
{
    transfer->talk.answered = true;
    return sandbox_done_decode(frame->payload, frame->size, &transfer->done, err);
}

/* ---- out of the sandbox ---- */

struct channel_reader {
    struct transfer transfer; /* first: a talk is one */
    struct incoming in;
    uint64_t size_max;  /* bytes that may come */
    struct buf pending; /* came and was not given out */
    size_t wanted;      /* of it, before a talk pauses */
};

static struct channel_reader *reader_of(struct talk *talk)
{
    return (struct channel_reader *)talk;
}

static int read_queue(struct talk *talk, struct err *err)
{
    int result = 0;
    (void)ask(transfer_of(talk), &result, err);
    return result;
}

static int on_data(struct channel_reader *reader, const struct frame *frame, struct err *err)
{
    struct transfer *transfer = &reader->transfer;
    int result = channel_count_data(&reader->in, frame, err);
    if (result != 0)
        return result;
    if (frame->size > reader->size_max - transfer->moved)
        return err_set(err, ERR_PROTOCOL, "init sent more of a file than was asked for");
    transfer->moved += frame->size;
    result = buf_append(&reader->pending, frame->payload, frame->size, err);
    return result == 0 ? channel_grant(transfer->talk.channel, &reader->in, frame, err) : result;
}

static int read_take(struct talk *talk, const struct frame *frame, struct err *err)
{
    struct channel_reader *reader = reader_of(talk);
    bool is_bytes = talk->asked && frame->stream == talk->stream + STREAM_STDOUT;
    if (frame->type == FRAME_DATA && is_bytes)
        return on_data(reader, frame, err);
    if (frame->type == FRAME_CLOSE && is_bytes && !reader->in.ended) {
        reader->in.ended = true;
        return 0;
    }
    if (frame->type == FRAME_DONE && talk->asked && frame->stream == talk->stream)
        return on_done(&reader->transfer, frame, err);
    return channel_out_of_turn(talk, frame, err);
}

static bool read_pauses(const struct talk *talk)
{
    const struct channel_reader *reader = (const struct channel_reader *)talk;
    return talk->answered || reader->pending.size >= reader->wanted;
}

static const struct talk_type read_type = {
    .queue = read_queue, .take = read_take, .is_over = read_pauses, .kill = transfer_kill};

/* Talks until so many bytes are pending. 1: they are; 0: the file is at its end. */
static int read_some(struct channel_reader *reader, size_t wanted, struct err *err)
{
    reader->wanted = wanted;
    int result = go_on(&reader->transfer, err);
    if (result != 0)
        return result;
    return reader->pending.size >= wanted ? 1 : judge(&reader->transfer, "read", err);
}

static int read_info(struct channel_reader *reader, const struct sandbox_get_file *get,
                     struct sandbox_file_info *out, struct err *err)
{
    int result = read_some(reader, SANDBOX_FILE_INFO_SIZE, err);
    if (result < 0)
        return result;
    if (result == 0)
        return err_set(err, ERR_PROTOCOL, "init does not say what a file is");
    sandbox_file_info_decode(reader->pending.data, out);
    buf_consume(&reader->pending, SANDBOX_FILE_INFO_SIZE);
    uint64_t rest = out->size_bytes > get->offset ? out->size_bytes - get->offset : 0;
    uint64_t *most = &reader->size_max;
    if (*most - SANDBOX_FILE_INFO_SIZE > rest)
        *most = rest + SANDBOX_FILE_INFO_SIZE;
    if (reader->transfer.moved > *most)
        return err_set(err, ERR_PROTOCOL, "init sent more of a file than it has");
    return 0;
}

/* The bytes that may come for what was asked. */
static uint64_t most_of(const struct sandbox_get_file *get)
{
    uint64_t info = SANDBOX_FILE_INFO_SIZE;
    if (get->info == SANDBOX_INFO_ONLY)
        return info;
    bool open_end = get->size_bytes == 0 || get->size_bytes > UINT64_MAX - info;
    return open_end ? UINT64_MAX : get->size_bytes + info;
}

int channel_read_open(struct channel *channel, const struct sandbox_get_file *get,
                      const struct channel_watch *watch, int64_t step_ns,
                      struct sandbox_file_info *out_info, struct channel_reader **out,
                      struct err *err)
{
    struct channel_reader *reader = calloc(1, sizeof(*reader));
    if (!reader)
        return err_set(err, ERR_INTERNAL, "no memory for a file");
    struct transfer *transfer = &reader->transfer;
    transfer_init(transfer, channel, &read_type, watch);
    transfer->request = FRAME_GET_FILE;
    transfer->step_ns = step_ns;
    transfer->talk.needs = SANDBOX_CAP_GET_FILE;
    (void)snprintf(transfer->path, sizeof(transfer->path), "%s", get->path);
    buf_init(&reader->pending, FRAME_DATA_MAX + SANDBOX_FILE_INFO_SIZE);
    reader->in.window = FRAME_WINDOW;
    reader->size_max = most_of(get);
    int result = sandbox_get_file_encode(get, &transfer->payload, err);
    if (result == 0)
        result = read_info(reader, get, out_info, err);
    if (result != 0) {
        channel_read_close(reader);
        return result;
    }
    *out = reader;
    return 0;
}

int channel_read_next(struct channel_reader *reader, struct buf *out, struct err *err)
{
    int result = reader->pending.size > 0 ? 1 : read_some(reader, 1, err);
    if (result <= 0)
        return result;
    result = buf_append(out, reader->pending.data, reader->pending.size, err);
    reader->pending.size = 0;
    return result == 0 ? 1 : result;
}

void channel_read_close(struct channel_reader *reader)
{
    if (!reader)
        return;
    buf_done(&reader->transfer.payload);
    buf_done(&reader->pending);
    free(reader);
}

/* ---- into the sandbox ---- */

struct channel_writer {
    struct transfer transfer; /* first: a talk is one */
    struct outgoing bytes;    /* its data is not used: pieces are given one by one */
    const uint8_t *data;      /* the caller's, not queued yet */
    size_t left;
    bool ending;
};

static struct channel_writer *writer_of(struct talk *talk)
{
    return (struct channel_writer *)talk;
}

/* Queues what credit allows, and the end when it was asked for. */
static int write_queue(struct talk *talk, struct err *err)
{
    struct channel_writer *writer = writer_of(talk);
    struct outgoing *bytes = &writer->bytes;
    struct buf *out = &talk->channel->out;
    int result = 0;
    if (!ask(&writer->transfer, &result, err))
        return result;
    while (result == 0 && writer->left > 0 && bytes->credit > 0 && out->size < FRAME_WINDOW / 2) {
        size_t piece = writer->left < FRAME_DATA_MAX ? writer->left : FRAME_DATA_MAX;
        piece = piece < bytes->credit ? piece : (size_t)bytes->credit;
        result = frame_append(out, FRAME_DATA, talk->stream, writer->data, piece, err);
        writer->data += piece;
        writer->left -= piece;
        bytes->credit -= piece;
        writer->transfer.moved += piece;
    }
    if (result == 0 && writer->ending && writer->left == 0 && !bytes->closed) {
        bytes->closed = true;
        result = frame_append(out, FRAME_CLOSE, talk->stream, NULL, 0, err);
    }
    /* With all on its way there is nothing to wait for: one look at what init says, and on. */
    talk->eager = writer->left == 0 && !writer->ending && !talk->killed;
    return result;
}

static int write_take(struct talk *talk, const struct frame *frame, struct err *err)
{
    struct channel_writer *writer = writer_of(talk);
    if (!talk->asked || frame->stream != talk->stream)
        return channel_out_of_turn(talk, frame, err);
    if (frame->type == FRAME_CREDIT)
        return channel_add_credit(&writer->bytes, frame, err);
    if (frame->type != FRAME_DONE)
        return channel_out_of_turn(talk, frame, err);
    int result = on_done(&writer->transfer, frame, err);
    if (result == 0 && writer->transfer.done.sys_errno == 0 && !writer->bytes.closed)
        return err_set(err, ERR_PROTOCOL, "init has a file whose end was not sent");
    return result;
}

static bool write_pauses(const struct talk *talk)
{
    const struct channel_writer *writer = (const struct channel_writer *)talk;
    if (talk->answered || talk->killed || writer->ending)
        return talk->answered;
    return talk->asked && writer->left == 0 && talk->channel->out.size == 0;
}

static const struct talk_type write_type = {
    .queue = write_queue, .take = write_take, .is_over = write_pauses, .kill = transfer_kill};

/* Talks until it pauses, and says what init thinks of it. */
static int write_some(struct channel_writer *writer, struct err *err)
{
    int result = go_on(&writer->transfer, err);
    if (result != 0 || !writer->transfer.talk.answered)
        return result;
    return judge(&writer->transfer, "written", err);
}

int channel_write_open(struct channel *channel, const struct sandbox_put_file *put,
                       const struct channel_watch *watch, int64_t step_ns,
                       struct channel_writer **out, struct err *err)
{
    struct channel_writer *writer = calloc(1, sizeof(*writer));
    if (!writer)
        return err_set(err, ERR_INTERNAL, "no memory for a file");
    struct transfer *transfer = &writer->transfer;
    transfer_init(transfer, channel, &write_type, watch);
    transfer->request = FRAME_PUT_FILE;
    transfer->step_ns = step_ns;
    transfer->talk.needs = SANDBOX_CAP_PUT_FILE;
    (void)snprintf(transfer->path, sizeof(transfer->path), "%s", put->path);
    writer->bytes = (struct outgoing){.stream = transfer->talk.stream, .credit = FRAME_WINDOW};
    int result = sandbox_put_file_encode(put, &transfer->payload, err);
    if (result == 0)
        result = write_some(writer, err);
    if (result != 0) {
        channel_write_close(writer);
        return result;
    }
    *out = writer;
    return 0;
}

int channel_write(struct channel_writer *writer, const void *data, size_t size, struct err *err)
{
    writer->data = data;
    writer->left = size;
    return write_some(writer, err);
}

int channel_write_end(struct channel_writer *writer, uint64_t *out_size, struct err *err)
{
    writer->ending = true;
    int result = write_some(writer, err);
    if (result == 0)
        *out_size = writer->transfer.moved;
    return result;
}

void channel_write_close(struct channel_writer *writer)
{
    if (!writer)
        return;
    buf_done(&writer->transfer.payload);
    free(writer);
}
