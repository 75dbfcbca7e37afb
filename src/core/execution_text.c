/* Owns the byte layout of kept text. */
#include "core/execution_text.h"

#include "wire/frame.h"
#include "wire/tlv.h"

#define RUN_SIZE 4U
#define RUN_MAX (UINT32_MAX >> 1)

void execution_text_init(struct execution_text *text, size_t bytes_max)
{
    buf_init(&text->bytes, bytes_max);
    buf_init(&text->runs, RUN_SIZE * bytes_max); /* each run has a byte at least */
}

void execution_text_done(struct execution_text *text)
{
    buf_done(&text->bytes);
    buf_done(&text->runs);
}

int execution_text_add(struct execution_text *text, int stream, const void *data, size_t size,
                       struct err *err)
{
    uint8_t run[RUN_SIZE];
    uint32_t is_stderr = stream == STREAM_STDERR ? 1 : 0;
    if (size == 0)
        return 0;
    int result = buf_append(&text->bytes, data, size, err);
    if (result != 0)
        return result;
    uint8_t *last = text->runs.size > 0 ? text->runs.data + text->runs.size - RUN_SIZE : NULL;
    uint32_t value = last ? tlv_load_u32(last) : 0;
    if (last && (value & 1) == is_stderr && size <= RUN_MAX - (value >> 1)) {
        tlv_store_u32(last, value + ((uint32_t)size << 1));
        return 0;
    }
    tlv_store_u32(run, (uint32_t)size << 1 | is_stderr);
    result = buf_append(&text->runs, run, sizeof(run), err);
    if (result != 0)
        text->bytes.size -= size;
    return result;
}

int execution_text_encode(const struct execution_text *text, struct buf *out, struct err *err)
{
    uint8_t count[RUN_SIZE];
    if (text->bytes.size == 0)
        return 0;
    tlv_store_u32(count, (uint32_t)(text->runs.size / RUN_SIZE));
    int result = buf_append(out, count, sizeof(count), err);
    if (result == 0)
        result = buf_append(out, text->runs.data, text->runs.size, err);
    return result == 0 ? buf_append(out, text->bytes.data, text->bytes.size, err) : result;
}

int execution_text_decode(const struct buf *stored, struct buf *out, struct buf *err_out,
                          struct buf *both, struct err *err)
{
    if (stored->size == 0)
        return 0;
    uint32_t count = stored->size >= RUN_SIZE ? tlv_load_u32(stored->data) : UINT32_MAX;
    size_t at = RUN_SIZE * ((size_t)count + 1);
    if (at > stored->size)
        return err_set(err, ERR_INTERNAL, "a kept text of %zu bytes is broken", stored->size);
    int result = buf_append(both, stored->data + at, stored->size - at, err);
    for (uint32_t i = 0; i < count && result == 0; i++) {
        uint32_t value = tlv_load_u32(stored->data + RUN_SIZE * ((size_t)i + 1));
        size_t size = value >> 1;
        if (size > stored->size - at)
            return err_set(err, ERR_INTERNAL, "run %u of a kept text is broken", i);
        result = buf_append((value & 1) != 0 ? err_out : out, stored->data + at, size, err);
        at += size;
    }
    return result;
}
