/* The text of an execution as it is kept: the bytes of stdout and stderr once, in the order in
 * which they came, and which run of them is of which stream. */
#ifndef BERTH_CORE_EXECUTION_TEXT_H
#define BERTH_CORE_EXECUTION_TEXT_H

#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

struct execution_text {
    struct buf bytes;
    struct buf runs; /* u32 each: length shifted by one, the lowest bit is set for stderr */
};

/* bytes_max: of both streams together. */
void execution_text_init(struct execution_text *text, size_t bytes_max);
void execution_text_done(struct execution_text *text);

/* Appends output of STREAM_STDOUT or STREAM_STDERR. */
int execution_text_add(struct execution_text *text, int stream, const void *data, size_t size,
                       struct err *err);

/* The form in which it is stored: the number of runs (u32), the runs, the bytes. Nothing at all for
 * an empty text. */
int execution_text_encode(const struct execution_text *text, struct buf *out, struct err *err);
/* Appends the streams of a stored text, and both as they came. ERR_INTERNAL: it is not one. */
int execution_text_decode(const struct buf *stored, struct buf *out, struct buf *err_out,
                          struct buf *both, struct err *err);

#endif
