/* Owns the byte layout of kept text. */
#include "core/execution_text.h"

#include "wire/frame.h"
#include "wire/tlv.h"

#define PIECE_SIZE 4U
#define LENGTH_MAX (UINT32_MAX >> 2)

void execution_text_init(struct execution_text *text, size_t bytes_max)
{
    buf_init(&text->bytes, bytes_max);
    buf_init(&text->pieces, PIECE_SIZE * bytes_max); /* each piece has a byte at least */
}

void execution_text_done(struct execution_text *text)
{
    buf_done(&text->bytes);
    buf_done(&text->pieces);
}

int execution_text_add(struct execution_text *text, int stream, const void *data, size_t size,
                       struct err *err)
{
    uint8_t piece[PIECE_SIZE];
    if (size == 0)
        return 0;
    if (size > LENGTH_MAX)
        return err_set(err, ERR_TOO_LARGE, "a piece of %zu bytes", size);
    int result = buf_append(&text->bytes, data, size, err);
    if (result != 0)
        return result;
    tlv_store_u32(piece, (uint32_t)size << 2 | (uint32_t)stream);
    result = buf_append(&text->pieces, piece, sizeof(piece), err);
    if (result != 0)
        text->bytes.size -= size;
    return result;
}

size_t execution_text_count(const struct execution_text *text)
{
    return text->pieces.size / PIECE_SIZE;
}

bool execution_text_next(const struct execution_text *text, struct execution_text_cursor *cursor,
                         int *out_stream, const uint8_t **out_data, size_t *out_size)
{
    if (cursor->index >= execution_text_count(text))
        return false;
    uint32_t value = tlv_load_u32(text->pieces.data + PIECE_SIZE * cursor->index);
    *out_stream = (int)(value & 3);
    *out_size = value >> 2;
    *out_data = text->bytes.data + cursor->bytes;
    cursor->index++;
    cursor->bytes += *out_size;
    return true;
}

int execution_text_encode(const struct execution_text *text, struct buf *out, struct err *err)
{
    uint8_t count[PIECE_SIZE];
    if (text->bytes.size == 0)
        return 0;
    tlv_store_u32(count, (uint32_t)execution_text_count(text));
    int result = buf_append(out, count, sizeof(count), err);
    if (result == 0)
        result = buf_append(out, text->pieces.data, text->pieces.size, err);
    return result == 0 ? buf_append(out, text->bytes.data, text->bytes.size, err) : result;
}

int execution_text_decode(struct buf *stored, struct execution_text *out, struct err *err)
{
    if (stored->size == 0)
        return 0;
    uint32_t count = stored->size >= PIECE_SIZE ? tlv_load_u32(stored->data) : UINT32_MAX;
    size_t at = PIECE_SIZE * ((size_t)count + 1);
    if (at > stored->size)
        return err_set(err, ERR_INTERNAL, "a kept text of %zu bytes is broken", stored->size);
    uint64_t total = 0;
    for (uint32_t i = 0; i < count; i++)
        total += tlv_load_u32(stored->data + PIECE_SIZE * ((size_t)i + 1)) >> 2;
    if (total != stored->size - at)
        return err_set(err, ERR_INTERNAL, "the pieces of a kept text are not its bytes");
    int result = buf_append(&out->pieces, stored->data + PIECE_SIZE, at - PIECE_SIZE, err);
    if (result != 0)
        return result;
    buf_consume(stored, at);
    buf_done(&out->bytes);
    out->bytes = *stored;
    buf_init(stored, stored->max);
    return 0;
}
