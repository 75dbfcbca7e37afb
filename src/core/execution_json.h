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

/* Everything that an ended execution's object is made of. Strings and buffers are borrowed. */
struct execution_outcome {
    const char *id, *lang, *labels; /* labels: a JSON object as text */
    const char *session_id;         /* NULL: it had a sandbox of its own */
    enum execution_state state;
    struct sandbox_exit exit;
    bool truncated;
    int64_t created_us, started_us, finished_us; /* wall clock; started_us 0: it never ran */
    int64_t queue_us, create_us;
};

/* Appends the object without what the code said: stdout, stderr, output, results, error. */
int execution_json_outcome(const struct execution_outcome *outcome, struct buf *out,
                           struct err *err);

/* Appends the whole object: one of the above, with what the code said put in; without stdout,
 * stderr and output when omit_text is set. streams NULL: it was dropped; a member "note" says so.
 */
int execution_json_whole(const struct buf *object, const struct execution_streams *streams,
                         bool omit_text, struct buf *out, struct err *err);

/* Appends the object of an execution that has not ended, or whose outcome has expired; the times
 * that are 0 come as null. */
int execution_json_row(const char *id, const char *status, const char *lang, int64_t created_us,
                       int64_t started_us, int64_t finished_us, struct buf *out, struct err *err);

#endif
