/* The text of kernels that speak lines (kernels/README.md): lines from a kernel become messages as
 * wire/kernel_msg.h has them, and runs become lines. Knows no descriptor. */
#ifndef BERTH_INIT_LINES_H
#define BERTH_INIT_LINES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

/* A line that is no message at all: its type, which no message has. */
#define LINES_NOISE '\0'

struct lines_reader {
    size_t open;   /* bytes at the end of the buffer that belong to a line whose end has not come */
    bool skipping; /* that line is dropped to its end */
};

/* Bytes that lines_read() may append for each byte that it is given, and once more. */
#define LINES_GROWTH 5U

/* Appends the messages that these bytes are. The line that is still open stands at the end of *out
 * as a message that is not whole; past KERNEL_BODY_MAX it is one that no kernel may send. Fails
 * when *out is full, then nothing that was said later can be made out. */
int lines_read(struct lines_reader *reader, const uint8_t *data, size_t size, struct buf *out,
               struct err *err);

/* Nobody hears the line that is open: it is taken out of *out, and so is the rest of it. */
void lines_skip(struct lines_reader *reader, struct buf *out);

/* Appends a line for a kernel. Text that has a NUL is ERR_BAD_INPUT; what is then in *out is no
 * whole line. */
int lines_put_variable(struct buf *out, const char *entry, struct err *err);
int lines_put_run(struct buf *out, const char *id, uint64_t timeout_ms, const char *file,
                  const void *code, size_t size, struct err *err);
int lines_put_interrupt(struct buf *out, const char *id, struct err *err);

#endif
