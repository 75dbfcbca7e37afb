/* Bytes to valid UTF-8 (RFC 3629): no surrogates, nothing overlong, nothing past U+10FFFF. */
#ifndef BERTH_WIRE_UTF8_H
#define BERTH_WIRE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

/* Appends data to out with each bad sequence replaced by one U+FFFD ("maximal subparts", Unicode 15
 * section 3.9), as browsers and Python do. The result is at most three times as long. ERR_TOO_LARGE
 * when out is full; out then holds a part of the text. */
int utf8_sanitize(const uint8_t *data, size_t size, struct buf *out, struct err *err);

bool utf8_is_valid(const uint8_t *data, size_t size);

/* How many bytes at the end (0 to 3) are the start of a sequence that later bytes may complete. */
size_t utf8_incomplete_tail(const uint8_t *data, size_t size);

#endif
