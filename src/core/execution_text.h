/* What an execution said, as it is kept: the bytes of stdout, stderr and a kernel's messages once,
 * in the order in which they came, in the pieces in which they came. A piece is one event of its
 * stream. */
#ifndef BERTH_CORE_EXECUTION_TEXT_H
#define BERTH_CORE_EXECUTION_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

/* A message is kept as one of these bytes and a JSON object without line breaks: of a result, its
 * forms by MIME type; of an error, name, value and traceback. */
enum execution_message { MESSAGE_RESULT = 'r', MESSAGE_ERROR = 'e' };

struct execution_text {
    struct buf bytes;
    struct buf pieces; /* u32 each: length shifted by two, and the stream */
};

/* bytes_max: of all streams together. */
void execution_text_init(struct execution_text *text, size_t bytes_max);
void execution_text_done(struct execution_text *text);

/* Appends one piece of STREAM_STDOUT or STREAM_STDERR, or one message of STREAM_CONTROL. */
int execution_text_add(struct execution_text *text, int stream, const void *data, size_t size,
                       struct err *err);
size_t execution_text_count(const struct execution_text *text);

/* A place between two pieces; all zero is before the first. */
struct execution_text_cursor {
    size_t index; /* pieces before it */
    size_t bytes;
};

/* The next piece, borrowed until the text is added to. Returns false at the end. */
bool execution_text_next(const struct execution_text *text, struct execution_text_cursor *cursor,
                         int *out_stream, const uint8_t **out_data, size_t *out_size);

/* The form in which it is stored: the number of pieces (u32), the pieces, the bytes. Nothing at all
 * for an empty text. */
int execution_text_encode(const struct execution_text *text, struct buf *out, struct err *err);
/* The other way, into an empty text, which takes the bytes over. ERR_INTERNAL: it is no stored
 * text.
 */
int execution_text_decode(struct buf *stored, struct execution_text *out, struct err *err);

#endif
