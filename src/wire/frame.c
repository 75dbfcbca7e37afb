/* Owns the byte layout of frames and the piecewise decoder. */
#include "wire/frame.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "wire/tlv.h"

/* Most peers say little at a time, and there may be thousands of them. */
enum { READ_CHUNK_FIRST = FRAME_READ_MIN, READ_CHUNK = 64 * 1024 };

int frame_append(struct buf *out, enum frame_type type, uint32_t stream, const void *payload,
                 size_t size, struct err *err)
{
    if (size > FRAME_PAYLOAD_MAX)
        return err_set(err, ERR_TOO_LARGE, "a frame of %zu bytes", size);
    struct err local = ERR_INIT;
    uint8_t *room = buf_reserve(out, FRAME_HEADER_SIZE + size, &local);
    if (!room)
        return err_copy(err, &local);
    memset(room, 0, FRAME_HEADER_SIZE);
    tlv_store_u32(room, (uint32_t)size);
    room[4] = (uint8_t)type;
    tlv_store_u32(room + 8, stream);
    if (size > 0)
        memcpy(room + FRAME_HEADER_SIZE, payload, size);
    out->size += FRAME_HEADER_SIZE + size;
    return 0;
}

int frame_append_u32(struct buf *out, enum frame_type type, uint32_t stream, uint32_t value,
                     struct err *err)
{
    uint8_t bytes[4];
    tlv_store_u32(bytes, value);
    return frame_append(out, type, stream, bytes, sizeof(bytes), err);
}

int frame_u32(const struct frame *frame, uint32_t *out, struct err *err)
{
    if (frame->size != 4)
        return err_set(err, ERR_PROTOCOL, "frame type %d needs 4 bytes, has %zu", (int)frame->type,
                       frame->size);
    *out = tlv_load_u32(frame->payload);
    return 0;
}

void frame_decoder_init(struct frame_decoder *decoder)
{
    /* Room for one whole frame, and for one read that starts at its last byte. */
    buf_init(&decoder->buf, FRAME_HEADER_SIZE + FRAME_PAYLOAD_MAX + READ_CHUNK);
    decoder->consumed = 0;
    decoder->chunk = READ_CHUNK_FIRST;
}

void frame_decoder_done(struct frame_decoder *decoder)
{
    buf_done(&decoder->buf);
    decoder->consumed = 0;
}

static void drop_consumed(struct frame_decoder *decoder)
{
    if (decoder->consumed > 0)
        buf_consume(&decoder->buf, decoder->consumed);
    decoder->consumed = 0;
}

int frame_decoder_feed(struct frame_decoder *decoder, const void *data, size_t size,
                       struct err *err)
{
    drop_consumed(decoder);
    return buf_append(&decoder->buf, data, size, err);
}

int frame_decoder_read(struct frame_decoder *decoder, int fd, struct err *err)
{
    drop_consumed(decoder);
    struct err local = ERR_INIT;
    uint8_t *room = buf_reserve(&decoder->buf, decoder->chunk, &local);
    if (!room)
        return err_copy(err, &local);
    ssize_t got = -1;
    do {
        got = read(fd, room, decoder->chunk);
    } while (got < 0 && errno == EINTR);
    if (got < 0) {
        if (errno == EAGAIN)
            return err_set(err, ERR_UNAVAILABLE, "read would block");
        if (errno == ECONNRESET || errno == EPIPE)
            return err_set(err, ERR_CLOSED, "read: the peer closed");
        return err_sys(err, errno, "read of frames");
    }
    decoder->buf.size += (size_t)got;
    if ((size_t)got == decoder->chunk && decoder->chunk < READ_CHUNK)
        decoder->chunk *= 2;
    return (int)got;
}

int frame_decoder_next(struct frame_decoder *decoder, struct frame *frame, struct err *err)
{
    size_t left = decoder->buf.size - decoder->consumed;
    if (left < FRAME_HEADER_SIZE)
        return 0;
    const uint8_t *header = decoder->buf.data + decoder->consumed;
    size_t size = tlv_load_u32(header);
    uint8_t type = header[4];
    if (size > FRAME_PAYLOAD_MAX)
        return err_set(err, ERR_PROTOCOL, "a frame says %zu bytes", size);
    if (type == 0 || type >= FRAME_TYPE_COUNT || header[5] != 0 || tlv_load_u16(header + 6) != 0)
        return err_set(err, ERR_PROTOCOL, "a frame of unknown type %u", type);
    if (left - FRAME_HEADER_SIZE < size)
        return 0;
    frame->type = (enum frame_type)type;
    frame->stream = tlv_load_u32(header + 8);
    frame->payload = header + FRAME_HEADER_SIZE;
    frame->size = size;
    decoder->consumed += FRAME_HEADER_SIZE + size;
    return 1;
}
