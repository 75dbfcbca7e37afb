/* Owns what is kept of an execution's output while it lives: caps, pieces, and those who wait for
 * more. Believes nothing that a kernel says: a message is parsed and written anew. */
#include "core/record.h"

#include <errno.h>
#include <jansson.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "wire/frame.h"
#include "wire/json.h"
#include "wire/utf8.h"

#define TAIL_MAX 3 /* bytes of a cut sequence */
#define OBJECT_MAX (64U << 20)
#define MESSAGE_VALUES_MAX 200000 /* of a result in JSON: a plot's points */

/* A stream of the writer's. */
struct stream_state {
    size_t kept;
    uint8_t tail[TAIL_MAX];
    size_t tail_size;
};

struct record {
    _Atomic unsigned references;
    struct record_limits limits;
    struct stream_state streams[2]; /* the writer's */
    size_t messages_kept;           /* the writer's */
    bool truncated;                 /* the writer's */

    pthread_mutex_t lock; /* rank 0, leaf; guards all below; only the writer changes it */
    pthread_cond_t changed;
    struct execution_text text;
    bool started, ended;
    struct buf object;

    bool dropped; /* set before it is shared */
    void (*on_free)(void *context, struct record *record);
    void *on_free_context;
};

static struct record *make(size_t text_max)
{
    struct record *record = calloc(1, sizeof(*record));
    if (!record)
        return NULL;
    record->references = 1;
    (void)pthread_mutex_init(&record->lock, NULL);
    pthread_condattr_t attributes;
    (void)pthread_condattr_init(&attributes);
    (void)pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&record->changed, &attributes);
    (void)pthread_condattr_destroy(&attributes);
    execution_text_init(&record->text, text_max);
    buf_init(&record->object, OBJECT_MAX);
    return record;
}

struct record *record_new(const struct record_limits *limits)
{
    struct record *record = make(2 * limits->output_bytes + limits->messages_bytes);
    if (record)
        record->limits = *limits;
    return record;
}

int record_new_ended(const struct buf *object, struct buf *stored, bool started, bool dropped,
                     struct record **out, struct err *err)
{
    struct record *record = make(stored->size);
    if (!record)
        return err_set(err, ERR_INTERNAL, "no memory for a record");
    int result = execution_text_decode(stored, &record->text, err);
    if (result == 0)
        result = buf_append(&record->object, object->data, object->size, err);
    if (result != 0) {
        record_unref(record);
        return result;
    }
    record->started = started;
    record->dropped = dropped;
    record->ended = true;
    *out = record;
    return 0;
}

void record_on_free(struct record *record, void (*on_free)(void *context, struct record *record),
                    void *context)
{
    record->on_free_context = context;
    record->on_free = on_free;
}

struct record *record_ref(struct record *record)
{
    (void)atomic_fetch_add(&record->references, 1);
    return record;
}

struct record *record_try_ref(struct record *record)
{
    unsigned references = atomic_load(&record->references);
    while (references > 0) {
        if (atomic_compare_exchange_weak(&record->references, &references, references + 1))
            return record;
    }
    return NULL;
}

void record_unref(struct record *record)
{
    if (!record || atomic_fetch_sub(&record->references, 1) != 1)
        return;
    if (record->on_free)
        record->on_free(record->on_free_context, record);
    execution_text_done(&record->text);
    buf_done(&record->object);
    (void)pthread_cond_destroy(&record->changed);
    (void)pthread_mutex_destroy(&record->lock);
    free(record);
}

void record_wake(struct record *record)
{
    (void)pthread_mutex_lock(&record->lock);
    (void)pthread_cond_broadcast(&record->changed);
    (void)pthread_mutex_unlock(&record->lock);
}

void record_start(struct record *record)
{
    (void)pthread_mutex_lock(&record->lock);
    record->started = true;
    (void)pthread_cond_broadcast(&record->changed);
    (void)pthread_mutex_unlock(&record->lock);
}

/* Adds one piece, head and data in a row. */
static int add_piece(struct record *record, int stream, const uint8_t *data, size_t size,
                     struct record_piece *out, struct err *err)
{
    (void)pthread_mutex_lock(&record->lock);
    size_t at = record->text.bytes.size;
    int result = execution_text_add(&record->text, stream, data, size, err);
    *out = (struct record_piece){
        .stream = stream, .data = record->text.bytes.data + at, .size = result == 0 ? size : 0};
    (void)pthread_cond_broadcast(&record->changed);
    (void)pthread_mutex_unlock(&record->lock);
    return result;
}

static struct stream_state *state_of(struct record *record, int stream)
{
    return &record->streams[stream == STREAM_STDERR ? 1 : 0];
}

int record_output(struct record *record, int stream, const uint8_t *data, size_t size,
                  struct record_piece *out, struct err *err)
{
    struct stream_state *state = state_of(record, stream);
    *out = (struct record_piece){.stream = stream};
    size_t room = record->limits.output_bytes - state->kept;
    if (size > room) {
        record->truncated = true;
        size = room;
    }
    if (size == 0)
        return 0;
    state->kept += size;
    BUF_AUTO struct buf joined;
    buf_init(&joined, size + TAIL_MAX);
    int result = 0;
    if (state->tail_size > 0) {
        result = buf_append(&joined, state->tail, state->tail_size, err);
        if (result == 0)
            result = buf_append(&joined, data, size, err);
        if (result != 0)
            return result;
        data = joined.data;
        size = joined.size;
    }
    state->tail_size = utf8_incomplete_tail(data, size);
    size -= state->tail_size;
    memcpy(state->tail, data + size, state->tail_size);
    return size > 0 ? add_piece(record, stream, data, size, out, err) : 0;
}

int record_flush(struct record *record, struct record_piece out[static 2], struct err *err)
{
    int result = 0;
    for (int i = 0; i < 2; i++) {
        struct stream_state *state = &record->streams[i];
        out[i] = (struct record_piece){.stream = STREAM_STDOUT + i};
        if (state->tail_size > 0 && result == 0)
            result =
                add_piece(record, STREAM_STDOUT + i, state->tail, state->tail_size, &out[i], err);
        state->tail_size = 0;
    }
    return result;
}

/* The part of a message that is kept, new; NULL: it is none. */
static json_t *message_body(const json_t *message, enum execution_message *kind)
{
    const char *type = json_string_value(json_object_get(message, "type"));
    if (type && strcmp(type, "result") == 0) {
        json_t *data = json_object_get(message, "data");
        *kind = MESSAGE_RESULT;
        return json_is_object(data) && json_object_size(data) > 0 ? json_incref(data) : NULL;
    }
    if (!type || strcmp(type, "error") != 0)
        return NULL;
    *kind = MESSAGE_ERROR;
    json_t *body = json_object();
    static const char *const members[] = {"name", "value", "traceback"};
    for (size_t i = 0; i < ARRAY_SIZE(members); i++) {
        json_t *value = json_object_get(message, members[i]);
        if (json_object_set_new(body, members[i],
                                json_is_string(value) ? json_incref(value) : json_string("")) != 0)
            log_error("no memory for a kernel's message");
    }
    return body;
}

int record_message(struct record *record, const uint8_t *data, size_t size,
                   struct record_piece *out, struct err *err)
{
    enum execution_message kind = MESSAGE_RESULT;
    *out = (struct record_piece){.stream = STREAM_CONTROL};
    JSON_AUTO json_t *message = NULL;
    if (json_parse_large(data, size, MESSAGE_VALUES_MAX, &message, NULL) != 0)
        return 0;
    JSON_AUTO json_t *body = message_body(message, &kind);
    MEM_AUTO char *text = body ? json_dumps(body, JSON_COMPACT | JSON_REAL_PRECISION(15)) : NULL;
    if (!text)
        return 0;
    size_t text_size = strlen(text);
    if (text_size + 1 > record->limits.messages_bytes - record->messages_kept) {
        record->truncated = true;
        return 0;
    }
    BUF_AUTO struct buf piece;
    buf_init(&piece, text_size + 1);
    const char tag = (char)kind;
    int result = buf_append(&piece, &tag, 1, err);
    if (result == 0)
        result = buf_append(&piece, text, text_size, err);
    if (result != 0)
        return result;
    record->messages_kept += piece.size;
    return add_piece(record, STREAM_CONTROL, piece.data, piece.size, out, err);
}

void record_end(struct record *record, const struct buf *object)
{
    (void)pthread_mutex_lock(&record->lock);
    if (object && buf_append(&record->object, object->data, object->size, NULL) != 0)
        record->object.size = 0;
    record->ended = true;
    (void)pthread_cond_broadcast(&record->changed);
    (void)pthread_mutex_unlock(&record->lock);
}

const struct execution_text *record_text(const struct record *record)
{
    return &record->text;
}

const struct execution_text *record_said(const struct record *record)
{
    return record->dropped ? NULL : &record->text;
}

const struct buf *record_object(const struct record *record)
{
    return &record->object;
}

bool record_is_truncated(const struct record *record)
{
    return record->truncated;
}

uint64_t record_kept(const struct record *record, int stream)
{
    return record->streams[stream == STREAM_STDERR ? 1 : 0].kept;
}

/* ---- followers ---- */

static enum record_step step_locked(struct record *record, struct record_cursor *cursor,
                                    int *out_stream, struct buf *out)
{
    struct execution_text_cursor next = cursor->text;
    const uint8_t *data = NULL;
    size_t size = 0;
    if (record->started && !cursor->started) {
        cursor->started = true;
        return RECORD_STARTED;
    }
    if (execution_text_next(&record->text, &next, out_stream, &data, &size)) {
        size_t left = size - cursor->in_piece;
        bool part = *out_stream == STREAM_CONTROL && left > RECORD_PART_MAX;
        (void)buf_append(out, data + cursor->in_piece, part ? RECORD_PART_MAX : left, NULL);
        cursor->in_piece = part ? cursor->in_piece + RECORD_PART_MAX : 0;
        if (part)
            return RECORD_PART;
        cursor->text = next;
        return RECORD_PIECE;
    }
    return record->ended ? RECORD_END : RECORD_NOTHING;
}

enum record_step record_next(struct record *record, struct record_cursor *cursor,
                             int64_t deadline_ns, int *out_stream, struct buf *out)
{
    const struct timespec until = {.tv_sec = (time_t)(deadline_ns / CLOCK_NS_PER_S),
                                   .tv_nsec = (long)(deadline_ns % CLOCK_NS_PER_S)};
    int status = 0;
    (void)pthread_mutex_lock(&record->lock);
    enum record_step step = step_locked(record, cursor, out_stream, out);
    while (step == RECORD_NOTHING && status != ETIMEDOUT) {
        status = pthread_cond_timedwait(&record->changed, &record->lock, &until);
        step = step_locked(record, cursor, out_stream, out);
    }
    (void)pthread_mutex_unlock(&record->lock);
    return step;
}

uint64_t record_cursor_number(const struct record_cursor *cursor)
{
    return (cursor->started ? 1 : 0) + cursor->text.index + (cursor->in_piece > 0 ? 1 : 0);
}
