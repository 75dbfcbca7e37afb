/* Owns the capped byte buffer. */
#include "base/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void buf_init(struct buf *buf, size_t max)
{
    memset(buf, 0, sizeof(*buf));
    buf->max = max;
}

void buf_done(struct buf *buf)
{
    free(buf->data);
    buf->data = NULL;
    buf->size = 0;
    buf->capacity = 0;
}

uint8_t *buf_reserve(struct buf *buf, size_t size, struct err *err)
{
    if (size > buf->max || buf->size > buf->max - size) {
        (void)err_set(err, ERR_TOO_LARGE, "buffer of %zu bytes would pass its maximum of %zu",
                      buf->size, buf->max);
        return NULL;
    }
    size_t needed = buf->size + size + 1; /* one for the NUL of buf_cstr() */
    if (needed > buf->capacity) {
        size_t capacity = buf->capacity < 256 ? 256 : buf->capacity * 2;
        if (capacity < needed)
            capacity = needed;
        if (capacity - 1 > buf->max)
            capacity = buf->max + 1;
        uint8_t *data = realloc(buf->data, capacity);
        if (!data) {
            (void)err_set(err, ERR_INTERNAL, "no memory for a buffer of %zu bytes", capacity);
            return NULL;
        }
        buf->data = data;
        buf->capacity = capacity;
    }
    return buf->data + buf->size;
}

int buf_append(struct buf *buf, const void *data, size_t size, struct err *err)
{
    if (size == 0)
        return 0;
    struct err local = ERR_INIT;
    uint8_t *room = buf_reserve(buf, size, &local);
    if (!room)
        return err_copy(err, &local);
    memcpy(room, data, size);
    buf->size += size;
    return 0;
}

int buf_append_str(struct buf *buf, const char *text, struct err *err)
{
    return buf_append(buf, text, strlen(text), err);
}

int buf_printf(struct buf *buf, struct err *err, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    va_list again;
    va_copy(again, args);
    int size = vsnprintf(NULL, 0, format, args);
    va_end(args);
    int result = 0;
    struct err local = ERR_INIT;
    uint8_t *room = size < 0 ? NULL : buf_reserve(buf, (size_t)size, &local);
    if (room) {
        (void)vsnprintf((char *)room, (size_t)size + 1, format, again);
        buf->size += (size_t)size;
    } else {
        if (size < 0)
            (void)err_set(&local, ERR_INTERNAL, "formatting failed");
        result = err_copy(err, &local);
    }
    va_end(again);
    return result;
}

void buf_consume(struct buf *buf, size_t size)
{
    if (size >= buf->size) {
        buf->size = 0;
        return;
    }
    memmove(buf->data, buf->data + size, buf->size - size);
    buf->size -= size;
}

const char *buf_cstr(struct buf *buf)
{
    if (!buf->data && !buf_reserve(buf, 0, NULL))
        return NULL;
    buf->data[buf->size] = '\0';
    return (const char *)buf->data;
}
