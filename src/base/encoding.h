/* Bytes as text: base16 and base64 (RFC 4648). */
#ifndef BERTH_BASE_ENCODING_H
#define BERTH_BASE_ENCODING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

/* The value of a digit of base16, of either case; -1: it is none. */
int hex_digit(char c);

/* In lower case, with a NUL: out needs 2 * size + 1 chars. */
void hex_write(const void *data, size_t size, char *out);

/* False: text is not size bytes, whole, or NULL; out may be half-written then. */
bool hex_read(const char *text, void *out, size_t size);

enum base64_alphabet {
    BASE64_STANDARD, /* RFC 4648 section 4: + and / */
    BASE64_URL,      /* section 5: - and _ */
};

/* With padding and a NUL: out needs BASE64_SIZE(size) chars. */
#define BASE64_SIZE(size) (((size) + 2) / 3 * 4 + 1)
void base64_write(const void *data, size_t size, enum base64_alphabet alphabet, char *out);

/* The same, appended to out. ERR_TOO_LARGE, ERR_INTERNAL: see buf_append(). */
int base64_append(struct buf *out, const void *data, size_t size, enum base64_alphabet alphabet,
                  struct err *err);

/* Appends what text says in the standard alphabet; strict: padded, no line breaks, no stray bits.
 * ERR_BAD_INPUT (public) on anything else. */
int base64_decode(const char *text, size_t size, struct buf *out, struct err *err);

#endif
