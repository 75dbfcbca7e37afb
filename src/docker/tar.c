/* Owns the layout of a ustar header. */
#include "docker/tar.h"

#include <stdio.h>
#include <string.h>

enum { BLOCK = 512, NAME_SIZE = 100, SUM_AT = 148, SUM_SIZE = 8, TYPE_AT = 156 };

/* Octal digits and a NUL, as wide as the field. */
static void put_octal(uint8_t *field, size_t width, uint64_t value)
{
    for (size_t i = width - 1; i > 0; i--) {
        field[i - 1] = (uint8_t)('0' + (value & 7));
        value >>= 3;
    }
}

static int put_zeros(struct buf *out, size_t size, struct err *err)
{
    static const uint8_t zeros[BLOCK];
    int result = 0;
    for (; result == 0 && size > 0; size -= size < BLOCK ? size : BLOCK)
        result = buf_append(out, zeros, size < BLOCK ? size : BLOCK, err);
    return result;
}

int tar_put(struct buf *out, const struct tar_entry *entry, struct err *err)
{
    uint8_t header[BLOCK] = {0};
    size_t length = strlen(entry->path);
    if (length == 0 || length >= NAME_SIZE)
        return err_set(err, ERR_INTERNAL, "a path of %zu bytes", length);
    memcpy(header, entry->path, length);
    put_octal(header + 100, 8, entry->mode);
    put_octal(header + 108, 8, entry->owner);
    put_octal(header + 116, 8, entry->owner);
    put_octal(header + 124, 12, entry->size);
    put_octal(header + 136, 12, 0); /* the time: always the same bytes */
    header[TYPE_AT] = entry->path[length - 1] == '/' ? '5' : '0';
    memcpy(header + 257, "ustar", 6);
    memcpy(header + 263, "00", 2);
    /* The sum is made as if its own field were spaces. */
    memset(header + SUM_AT, ' ', SUM_SIZE);
    unsigned sum = 0;
    for (size_t i = 0; i < BLOCK; i++)
        sum += header[i];
    put_octal(header + SUM_AT, SUM_SIZE - 1, sum);
    header[SUM_AT + SUM_SIZE - 2] = '\0';
    int result = buf_append(out, header, sizeof(header), err);
    if (result == 0 && entry->size > 0)
        result = buf_append(out, entry->data, entry->size, err);
    if (result == 0)
        result = put_zeros(out, (BLOCK - entry->size % BLOCK) % BLOCK, err);
    return result;
}

int tar_end(struct buf *out, struct err *err)
{
    return put_zeros(out, (size_t)2 * BLOCK, err);
}
