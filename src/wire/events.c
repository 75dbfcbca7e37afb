/* Owns the shape of event streams. Refuses nothing: output is made valid UTF-8 here. */
#include "wire/events.h"

#include <inttypes.h>
#include <string.h>
#include <strings.h>

#include "wire/frame.h"
#include "wire/json.h"
#include "wire/utf8.h"

void events_init(struct events *events, enum events_format format)
{
    memset(events, 0, sizeof(*events));
    events->format = format;
    events->next_id = 1;
}

/* Whether a media range of the list is exactly `type`; parameters such as q are not weighed, except
 * that q=0 means "not this one" (RFC 9110 section 12.4.2). */
static const char *events_find_type(const char *accept, const char *type)
{
    size_t size = strlen(type);
    for (const char *at = accept; *at;) {
        at += strspn(at, " \t,");
        size_t item = strcspn(at, ",");
        if (item >= size && strncasecmp(at, type, size) == 0 && strchr(" \t;,", at[size])) {
            const char *q = memmem(at, item, "q=0", 3);
            size_t zeros = q ? strspn(q + 2, "0.") : 0;
            if (!q || (size_t)(q + 2 - at) + zeros < item)
                return at;
        }
        at += item;
    }
    return NULL;
}

enum events_format events_negotiate(const char *accept)
{
    if (!accept)
        return EVENTS_NONE;
    const char *sse = events_find_type(accept, "text/event-stream");
    const char *ndjson = events_find_type(accept, "application/x-ndjson");
    const char *json = events_find_type(accept, "application/json");
    enum events_format format = EVENTS_NONE;
    const char *first = NULL;
    if (sse) {
        format = EVENTS_SSE;
        first = sse;
    }
    if (ndjson && (!first || ndjson < first)) {
        format = EVENTS_NDJSON;
        first = ndjson;
    }
    /* The first one named wins: a client that prefers plain JSON says so by the order. */
    return first && json && json < first ? EVENTS_NONE : format;
}

const char *events_content_type(enum events_format format)
{
    return format == EVENTS_SSE ? "text/event-stream; charset=utf-8" : "application/x-ndjson";
}

int events_begin(struct events *events, const char *name, struct buf *out, struct err *err)
{
    bool sse = events->format == EVENTS_SSE;
    int result = buf_printf(out, err,
                            sse ? "event: %s\nid: %" PRIu64 "\ndata: "
                                : "{\"event\":\"%s\",\"id\":%" PRIu64 ",\"data\":",
                            name, events->next_id);
    if (result == 0)
        events->next_id++;
    return result;
}

int events_begin_aside(const struct events *events, const char *name, struct buf *out,
                       struct err *err)
{
    bool sse = events->format == EVENTS_SSE;
    return buf_printf(out, err, sse ? "event: %s\ndata: " : "{\"event\":\"%s\",\"data\":", name);
}

int events_end(const struct events *events, struct buf *out, struct err *err)
{
    return buf_append_str(out, events->format == EVENTS_SSE ? "\n\n" : "}\n", err);
}

int events_append(struct events *events, const char *name, const void *json, size_t json_size,
                  struct buf *out, struct err *err)
{
    int result = events_begin(events, name, out, err);
    if (result == 0)
        result = buf_append(out, json, json_size, err);
    return result == 0 ? events_end(events, out, err) : result;
}

int events_append_aside(const struct events *events, const char *name, const void *json,
                        size_t json_size, struct buf *out, struct err *err)
{
    int result = events_begin_aside(events, name, out, err);
    if (result == 0)
        result = buf_append(out, json, json_size, err);
    return result == 0 ? events_end(events, out, err) : result;
}

static int events_append_text(struct events *events, int stream, const uint8_t *data, size_t size,
                              struct buf *out, struct err *err)
{
    struct buf json BUF_AUTO;
    buf_init(&json, size * 6 + 64); /* six characters for each control byte */
    int result = buf_append_str(&json, "{\"text\":", err);
    if (result == 0)
        result = json_append_bytes(&json, data, size, err);
    if (result == 0)
        result = buf_append_str(&json, "}", err);
    if (result == 0)
        result = events_append(events, stream == STREAM_STDERR ? "stderr" : "stdout", json.data,
                               json.size, out, err);
    return result;
}

int events_append_output(struct events *events, int stream, const uint8_t *data, size_t size,
                         struct buf *out, struct err *err)
{
    size_t which = stream == STREAM_STDERR;
    struct buf whole BUF_AUTO;
    buf_init(&whole, size + sizeof(events->held[which].bytes));
    int result = buf_append(&whole, events->held[which].bytes, events->held[which].size, err);
    if (result == 0)
        result = buf_append(&whole, data, size, err);
    if (result < 0)
        return result;
    size_t tail = utf8_incomplete_tail(whole.data, whole.size);
    size_t ready = whole.size - tail;
    if (ready > 0)
        result = events_append_text(events, stream, whole.data, ready, out, err);
    if (result < 0)
        return result;
    if (tail > 0)
        memcpy(events->held[which].bytes, whole.data + ready, tail);
    events->held[which].size = tail;
    return 0;
}

int events_flush(struct events *events, struct buf *out, struct err *err)
{
    for (size_t which = 0; which < 2; which++) {
        if (events->held[which].size == 0)
            continue;
        int result =
            events_append_text(events, which ? STREAM_STDERR : STREAM_STDOUT,
                               events->held[which].bytes, events->held[which].size, out, err);
        if (result < 0)
            return result;
        events->held[which].size = 0;
    }
    return 0;
}
