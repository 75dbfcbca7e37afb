/* Event streams of an execution: server-sent events (WHATWG HTML, 9.2) and NDJSON.
 *
 * Each event has a name, a number that counts from 1, and a JSON object as data:
 *   SSE:     `event: stdout\nid: 2\ndata: {"text":"hi\n"}\n\n`
 *   NDJSON:  `{"event":"stdout","id":2,"data":{"text":"hi\n"}}\n`
 * Events: started {"execution_id"}, stdout {"text"}, stderr {"text"}, result, error
 * {"error","detail","timestamp"}, and last `end` with the execution object less the streamed text.
 * A stream without `end` is not whole. Two are no part of what the execution says and have no
 * number: queued {"execution_id"}, before `started`, and `open` with the object as it is, in the
 * place of `end` where nobody was to wait for that. A UTF-8 sequence that is cut by the end of one
 * piece of output is held back and completed by the next piece of the same stream. */
#ifndef BERTH_WIRE_EVENTS_H
#define BERTH_WIRE_EVENTS_H

#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

enum events_format { EVENTS_NONE, EVENTS_SSE, EVENTS_NDJSON };

struct events {
    enum events_format format;
    uint64_t next_id;
    struct {
        uint8_t bytes[4];
        size_t size;
    } held[2]; /* the cut sequence of stdout and of stderr */
};

void events_init(struct events *events, enum events_format format);

/* The format that an Accept field asks for; EVENTS_NONE when it names neither. NULL is allowed. */
enum events_format events_negotiate(const char *accept);
const char *events_content_type(enum events_format format);

/* Appends one event; json is a whole JSON value without a line break. */
int events_append(struct events *events, const char *name, const void *json, size_t json_size,
                  struct buf *out, struct err *err);

/* The same without a number. */
int events_append_aside(const struct events *events, const char *name, const void *json,
                        size_t json_size, struct buf *out, struct err *err);

/* The same in parts, for what is too large to be held: what comes between the two is the data. */
int events_begin(struct events *events, const char *name, struct buf *out, struct err *err);
int events_begin_aside(const struct events *events, const char *name, struct buf *out,
                       struct err *err);
int events_end(const struct events *events, struct buf *out, struct err *err);

/* Appends output of stream (STREAM_STDOUT or STREAM_STDERR of wire/frame.h). May append nothing
 * when all of it is held back. */
int events_append_output(struct events *events, int stream, const uint8_t *data, size_t size,
                         struct buf *out, struct err *err);

/* Appends what is still held back, as U+FFFD. Call before `end`. */
int events_flush(struct events *events, struct buf *out, struct err *err);

#endif
