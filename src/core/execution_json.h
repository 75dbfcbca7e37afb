/* The execution object of the HTTP contract as JSON text. */
#ifndef BERTH_CORE_EXECUTION_JSON_H
#define BERTH_CORE_EXECUTION_JSON_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "core/execution_text.h"
#include "core/states.h"
#include "wire/sandbox.h"

/* Which program of an execution ended it. */
enum execution_phase {
    PHASE_RUN, /* the code, or nothing of it */
    PHASE_COMPILE,
    PHASE_INSTALL,
    PHASE_COUNT
};

/* Everything that an ended execution's object is made of. Strings and buffers are borrowed. */
struct execution_outcome {
    const char *id, *lang, *labels; /* labels: a JSON object as text */
    const char *session_id;         /* NULL: it had a sandbox of its own */
    const char *engine, *runtime;   /* NULL, "": not known */
    enum execution_state state;
    enum execution_phase phase;
    struct sandbox_exit exit;
    bool truncated;
    int64_t created_us, started_us, finished_us; /* wall clock; started_us 0: it never ran */
    int64_t queue_us, create_us;
};

/* Appends the object without what the code said: stdout, stderr, output, results, error. */
int execution_json_outcome(const struct execution_outcome *outcome, struct buf *out,
                           struct err *err);

/* Writes the whole object by pieces: one of the above, with what the code said put in. Nothing of
 * it is held but what the caller has not taken yet. Its members are private. */
enum execution_writer_member {
    WRITER_HEAD,
    WRITER_STDOUT,
    WRITER_STDERR,
    WRITER_OUTPUT,
    WRITER_RESULTS,
    WRITER_ERROR,
    WRITER_TAIL,
    WRITER_END
};
#define WRITER_PIECE (32U * 1024U)

struct execution_writer {
    const struct buf *object;
    const struct execution_text *text;
    bool omit_text;
    enum execution_writer_member member;
    struct execution_text_cursor place;
    size_t in_piece;
    size_t error_index;
    bool open, some, has_error;
};

/* Both are borrowed and must not change while it writes. text NULL: it was dropped; a member "note"
 * says so. Without stdout, stderr and output when omit_text is set. A copy of a fresh writer
 * writes the same again. */
void execution_writer_init(struct execution_writer *writer, const struct buf *object,
                           const struct execution_text *text, bool omit_text);
/* Appends the next piece, some WRITER_PIECE bytes; returns 1, or 0 when all was written. */
int execution_writer_next(struct execution_writer *writer, struct buf *out, struct err *err);

/* Appends the object of an execution that has not ended, or whose outcome has expired; the times
 * that are 0 come as null. */
int execution_json_row(const char *id, const char *status, const char *lang, int64_t created_us,
                       int64_t started_us, int64_t finished_us, struct buf *out, struct err *err);

#endif
