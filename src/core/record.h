/* The record of one execution while it lives: what it has said, for the thread that runs it, and
 * for any number of others that follow it.
 *
 * One thread writes: record_output(), record_message(), record_end(). Followers read under the
 * record's lock. It lives until the last reference is given back. */
#ifndef BERTH_CORE_RECORD_H
#define BERTH_CORE_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "core/execution_text.h"

struct record;

struct record_limits {
    size_t output_bytes;   /* kept of stdout, and of stderr */
    size_t messages_bytes; /* kept of all messages */
};

struct record *record_new(const struct record_limits *limits);
/* One that has ended, from what the store keeps of it; takes the bytes of stored over. dropped: the
 * store has no text any more. */
int record_new_ended(const struct buf *object, struct buf *stored, bool started, bool dropped,
                     struct record **out, struct err *err);
struct record *record_ref(struct record *record);
/* NULL: its last reference is being given back, and it is about to be freed. */
struct record *record_try_ref(struct record *record);
/* Called once, when the last reference was given back, before it is freed. Set before it is shared.
 */
void record_on_free(struct record *record, void (*on_free)(void *context, struct record *record),
                    void *context);
/* NULL is allowed. */
void record_unref(struct record *record);

/* The piece that was just kept; empty when nothing was. Borrowed until the next one. */
struct record_piece {
    int stream;
    const uint8_t *data;
    size_t size;
};

/* The code runs: its number is 1, and that of the first piece 2. */
void record_start(struct record *record);

/* Keeps output of STREAM_STDOUT or STREAM_STDERR up to the limit. A UTF-8 sequence that is cut by
 * the end of data waits for the next piece of its stream, so that each piece is readable alone. */
int record_output(struct record *record, int stream, const uint8_t *data, size_t size,
                  struct record_piece *out, struct err *err);

/* Keeps a message of a kernel, when it is one: {"type": "result", "data": {...}} or {"type":
 * "error", "name", "value", "traceback"}; else it is dropped and *out is empty. */
int record_message(struct record *record, const uint8_t *data, size_t size,
                   struct record_piece *out, struct err *err);

/* Keeps the cut sequences that still wait. out: one a stream, stdout first. */
int record_flush(struct record *record, struct record_piece out[static 2], struct err *err);

/* No more comes. object: the execution object without its text; NULL: there is none, ask the store.
 */
void record_end(struct record *record, const struct buf *object);

/* For the writer: what was kept, and whether something was left out. */
const struct execution_text *record_text(const struct record *record);
/* After the end, when nothing changes any more: what was said, NULL when that was dropped; the
 * object without it, empty when there is none. */
const struct execution_text *record_said(const struct record *record);
const struct buf *record_object(const struct record *record);
bool record_is_truncated(const struct record *record);
uint64_t record_kept(const struct record *record, int stream);

/* Where a follower is. All zero: before the start. */
struct record_cursor {
    bool started;
    struct execution_text_cursor text;
    size_t in_piece;
};

#define RECORD_PART_MAX                                                                            \
    (32U * 1024U) /* of a message; output comes in pieces that are no larger                       \
                   */
enum record_step { RECORD_STARTED, RECORD_PART, RECORD_PIECE, RECORD_END, RECORD_NOTHING };

/* Takes the next step; waits for it until deadline_ns. RECORD_PIECE appends its bytes to out and
 * sets *out_stream. A large message comes in parts, RECORD_PIECE is the last of them. A step has
 * the number record_cursor_number() after it. */
enum record_step record_next(struct record *record, struct record_cursor *cursor,
                             int64_t deadline_ns, int *out_stream, struct buf *out);
uint64_t record_cursor_number(const struct record_cursor *cursor);
/* Wakes the followers, so that they look at their deadlines. */
void record_wake(struct record *record);

#endif
