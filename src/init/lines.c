/* Owns the translation between lines and messages. */
#include "init/lines.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "wire/kernel_msg.h"
#include "wire/tlv.h"

/* ---- what a kernel says ---- */

static uint8_t *open_header(const struct lines_reader *reader, const struct buf *out)
{
    return out->data + (out->size - reader->open);
}

static int begin_line(struct lines_reader *reader, struct buf *out, struct err *err)
{
    const uint8_t header[KERNEL_HEADER_SIZE] = {0};
    int result = buf_append(out, header, sizeof(header), err);
    if (result != 0)
        return result;
    reader->open = sizeof(header);
    tlv_store_u32(open_header(reader, out), KERNEL_BODY_MAX); /* more than it has: not whole */
    return 0;
}

/* An exit code in decimal; negative: it is none. */
static int read_code(const uint8_t *text, size_t size)
{
    int code = 0;
    if (size == 0 || size > 3)
        return -1;
    for (size_t i = 0; i < size; i++) {
        if (text[i] < '0' || text[i] > '9')
            return -1;
        code = 10 * code + (text[i] - '0');
    }
    return code <= UINT8_MAX ? code : -1;
}

static bool is_known(char type)
{
    return type == KERNEL_READY || type == KERNEL_MESSAGE || type == KERNEL_DONE ||
           type == KERNEL_END;
}

/* Turns the line that is open into the message that it is. */
static void end_line(struct lines_reader *reader, struct buf *out)
{
    uint8_t *header = open_header(reader, out);
    uint8_t *body = header + KERNEL_HEADER_SIZE;
    size_t size = reader->open - KERNEL_HEADER_SIZE;
    char type = size > 0 && (size == 1 || body[1] == ' ') ? (char)body[0] : LINES_NOISE;
    reader->open = 0;
    if (!is_known(type))
        type = LINES_NOISE;
    if (type != LINES_NOISE) {
        size_t taken = size > 1 ? 2 : 1;
        size -= taken;
        memmove(body, body + taken, size);
        out->size -= taken;
    }
    if (type == KERNEL_DONE || type == KERNEL_END) {
        int code = read_code(body, size);
        if (code < 0) {
            type = LINES_NOISE;
        } else {
            out->size -= size - 1;
            size = 1;
            body[0] = (uint8_t)code;
        }
    }
    tlv_store_u32(header, (uint32_t)size);
    header[4] = (uint8_t)type;
}

int lines_read(struct lines_reader *reader, const uint8_t *data, size_t size, struct buf *out,
               struct err *err)
{
    while (size > 0) {
        const uint8_t *end = memchr(data, '\n', size);
        size_t piece = end ? (size_t)(end - data) : size;
        int result = 0;
        if (!reader->skipping) {
            if (reader->open == 0)
                result = begin_line(reader, out, err);
            if (result == 0 && piece > 0)
                result = buf_append(out, data, piece, err);
            if (result != 0)
                return result;
            reader->open += piece;
            if (reader->open >= KERNEL_HEADER_SIZE + KERNEL_BODY_MAX)
                tlv_store_u32(open_header(reader, out), KERNEL_BODY_MAX + 1);
            else if (end)
                end_line(reader, out);
        } else if (end) {
            reader->skipping = false;
        }
        piece += end ? 1 : 0;
        data += piece;
        size -= piece;
    }
    return 0;
}

void lines_skip(struct lines_reader *reader, struct buf *out)
{
    if (reader->open == 0)
        return;
    out->size -= reader->open;
    reader->open = 0;
    reader->skipping = true;
}

/* ---- what is said to it ---- */

static const char *escape_of(uint8_t byte)
{
    switch (byte) {
    case '\\':
        return "\\\\";
    case '\n':
        return "\\n";
    case '\r':
        return "\\r";
    case '\t':
        return "\\t";
    default:
        return NULL;
    }
}

static int put_escaped(struct buf *out, const void *text, size_t size, struct err *err)
{
    const uint8_t *data = text;
    int result = 0;
    if (size > 0 && memchr(data, '\0', size))
        return err_set(err, ERR_BAD_INPUT, "code for this language can't have a NUL");
    for (size_t at = 0; result == 0 && at < size;) {
        size_t plain = at;
        while (plain < size && !escape_of(data[plain]))
            plain++;
        if (plain > at)
            result = buf_append(out, data + at, plain - at, err);
        if (result == 0 && plain < size)
            result = buf_append(out, escape_of(data[plain]), 2, err);
        at = plain + 1;
    }
    return result;
}

/* A word of its own: nothing that would end it, or could be taken for an escape. */
static int put_word(struct buf *out, const char *text, struct err *err)
{
    int result = *text == '\0' ? buf_append(out, "-", 1, err) : 0;
    for (; result == 0 && *text != '\0'; text++) {
        bool odd = (unsigned char)*text <= ' ' || *text == '\\' || *text == 0x7f;
        result = buf_append(out, odd ? "_" : text, 1, err);
    }
    return result == 0 ? buf_append(out, " ", 1, err) : result;
}

int lines_put_variable(struct buf *out, const char *entry, struct err *err)
{
    int result = buf_append(out, "V ", 2, err);
    if (result == 0)
        result = put_escaped(out, entry, strlen(entry), err);
    return result == 0 ? buf_append(out, "\n", 1, err) : result;
}

int lines_put_run(struct buf *out, const char *id, uint64_t timeout_ms, const char *file,
                  const void *code, size_t size, struct err *err)
{
    char timeout[24];
    int length = snprintf(timeout, sizeof(timeout), "%" PRIu64 " ", timeout_ms);
    int result = buf_append(out, "X ", 2, err);
    if (result == 0)
        result = put_word(out, id, err);
    if (result == 0)
        result = buf_append(out, timeout, (size_t)length, err);
    if (result == 0)
        result = put_word(out, file, err);
    if (result == 0)
        result = put_escaped(out, code, size, err);
    return result == 0 ? buf_append(out, "\n", 1, err) : result;
}

int lines_put_interrupt(struct buf *out, const char *id, struct err *err)
{
    int result = buf_append(out, "I ", 2, err);
    if (result == 0)
        result = put_word(out, id, err);
    if (result == 0)
        out->data[out->size - 1] = '\n'; /* the blank behind a word that is the last */
    return result;
}
