/* A growable byte buffer with a named maximum: a peer can make it fail, never make it large. */
#ifndef BERTH_BASE_BUF_H
#define BERTH_BASE_BUF_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct buf {
    uint8_t *data; /* size bytes, not NUL-terminated unless buf_cstr() was called */
    size_t size;
    size_t capacity;
    size_t max; /* size never exceeds this */
};

/* Makes an empty buffer; nothing is allocated before the first byte. */
void buf_init(struct buf *buf, size_t max);
/* Frees the bytes and empties the buffer; it may be used again. Takes a zeroed struct. */
void buf_done(struct buf *buf);
#define BUF_AUTO __attribute__((cleanup(buf_done)))

/* Appends bytes. ERR_TOO_LARGE past max, ERR_INTERNAL without memory; the buffer is unchanged then.
 */
int buf_append(struct buf *buf, const void *data, size_t size, struct err *err);
int buf_append_str(struct buf *buf, const char *text, struct err *err);
int buf_printf(struct buf *buf, struct err *err, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Makes room for size more bytes and a NUL and returns where they go, or NULL; set buf->size
 * afterwards. */
uint8_t *buf_reserve(struct buf *buf, size_t size, struct err *err);

/* Drops size bytes at the front. */
void buf_consume(struct buf *buf, size_t size);

/* Puts a NUL after the bytes and returns them as text; NULL without memory. Owned by the buffer. */
const char *buf_cstr(struct buf *buf);

#endif
