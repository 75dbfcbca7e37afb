/* Owns files that go through a channel piece by piece, at the pace of whoever calls: a talk that
 * pauses between two calls. */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "engine/channel_transfer.h"

/* ---- out of it, piece by piece ---- */

struct channel_reader {
    struct transfer transfer; /* first: a talk is one */
    struct channel_watch watch;
    char path[SANDBOX_PATH_MAX];
    int64_t step_ns;
    struct buf pending; /* came and was not given out */
    size_t wanted;      /* of it, before a talk pauses */
};

static const struct channel_reader *reader_of(const struct talk *talk)
{
    return (const struct channel_reader *)talk;
}

static bool read_pauses(const struct talk *talk)
{
    const struct channel_reader *reader = reader_of(talk);
    return talk->answered || reader->pending.size >= reader->wanted;
}

static int keep_pending(void *context, int stream, const uint8_t *data, size_t size,
                        struct err *err)
{
    struct channel_reader *reader = context;
    (void)stream;
    return buf_append(&reader->pending, data, size, err);
}

static const struct talk_type read_type = {.queue = transfer_get_queue,
                                           .take = transfer_get_take,
                                           .is_over = read_pauses,
                                           .kill = transfer_kill};

/* Talks until so many bytes are pending. 1: they are; 0: the file is at its end. */
static int read_some(struct channel_reader *reader, size_t wanted, struct err *err)
{
    struct talk *talk = &reader->transfer.talk;
    uint64_t size = 0;
    reader->wanted = wanted;
    if (!talk->killed)
        talk->deadline_ns = clock_now_ns() + reader->step_ns;
    int result = channel_talk(talk, err);
    if (result != 0)
        return result;
    if (reader->pending.size >= wanted)
        return 1;
    return transfer_judge(&reader->transfer, "read", reader->path, &size, err);
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
    uint64_t *most = &reader->transfer.size_max;
    if (*most - SANDBOX_FILE_INFO_SIZE > rest)
        *most = rest + SANDBOX_FILE_INFO_SIZE;
    if (reader->transfer.moved > *most)
        return err_set(err, ERR_PROTOCOL, "init sent more of a file than it has");
    return 0;
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
    transfer_init(transfer, channel, &read_type, FRAME_GET_FILE);
    buf_init(&reader->pending, FRAME_DATA_MAX + SANDBOX_FILE_INFO_SIZE);
    (void)snprintf(reader->path, sizeof(reader->path), "%s", get->path);
    reader->step_ns = step_ns;
    reader->watch = *watch;
    reader->watch.interrupt_fd = -1;
    reader->watch.output = keep_pending;
    reader->watch.context = reader;
    transfer->talk.watch = &reader->watch;
    transfer->talk.needs = SANDBOX_CAP_GET_FILE;
    transfer->in.window = FRAME_WINDOW;
    transfer->size_max = transfer_most(get);
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
    transfer_done(&reader->transfer);
    buf_done(&reader->pending);
    free(reader);
}

/* ---- into it, piece by piece ---- */

struct channel_writer {
    struct transfer transfer; /* first: a talk is one */
    struct channel_watch watch;
    char path[SANDBOX_PATH_MAX];
    int64_t step_ns;
    const uint8_t *data; /* the caller's, not queued yet */
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
    struct outgoing *bytes = &writer->transfer.bytes;
    struct buf *out = &talk->channel->out;
    int result = 0;
    if (!transfer_ask(&writer->transfer, &result, err))
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

static bool write_pauses(const struct talk *talk)
{
    const struct channel_writer *writer = (const struct channel_writer *)talk;
    if (talk->answered || talk->killed || writer->ending)
        return talk->answered;
    return talk->asked && writer->left == 0 && talk->channel->out.size == 0;
}

static const struct talk_type write_type = {.queue = write_queue,
                                            .take = transfer_put_take,
                                            .is_over = write_pauses,
                                            .kill = transfer_kill};

/* Talks until it pauses, and says what init thinks of it. */
static int write_some(struct channel_writer *writer, struct err *err)
{
    struct talk *talk = &writer->transfer.talk;
    uint64_t size = 0;
    if (!talk->killed)
        talk->deadline_ns = clock_now_ns() + writer->step_ns;
    int result = channel_talk(talk, err);
    if (result == 0 && talk->answered)
        result = transfer_judge(&writer->transfer, "written", writer->path, &size, err);
    return result;
}

int channel_write_open(struct channel *channel, const struct sandbox_put_file *put,
                       const struct channel_watch *watch, int64_t step_ns,
                       struct channel_writer **out, struct err *err)
{
    struct channel_writer *writer = calloc(1, sizeof(*writer));
    if (!writer)
        return err_set(err, ERR_INTERNAL, "no memory for a file");
    struct transfer *transfer = &writer->transfer;
    transfer_init(transfer, channel, &write_type, FRAME_PUT_FILE);
    (void)snprintf(writer->path, sizeof(writer->path), "%s", put->path);
    writer->step_ns = step_ns;
    writer->watch = *watch;
    writer->watch.interrupt_fd = -1;
    transfer->talk.watch = &writer->watch;
    transfer->talk.needs = SANDBOX_CAP_PUT_FILE;
    transfer->bytes = (struct outgoing){.stream = transfer->talk.stream, .credit = FRAME_WINDOW};
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
    transfer_done(&writer->transfer);
    free(writer);
}
