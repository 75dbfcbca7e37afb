/* Owns the queue between the thread that runs a streamed execution and the connection that reads
 * it. A slow reader slows the execution, for a bounded time; then it falls behind, and reads the
 * rest from what is kept. A reader that leaves ends it. A stream that fails is broken off after an
 * `error` event, so that it never looks whole. */
#include "api/stream.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "core/answer.h"
#include "core/execution_text.h"
#include "wire/frame.h"
#include "wire/json.h"

#define STREAM_STACK_BYTES (512U * 1024U)
#define STREAM_QUEUE_FULL (64U * 1024U) /* past it the execution waits for the reader */
#define STREAM_QUEUE_MAX (64U << 20)    /* one event may still go in when no wait is left */
/* All waits of one stream together: a reader that trickles must not hold a sandbox for longer. Past
 * it the stream falls behind: the rest is read from what is kept, when the execution has ended. */
#define STREAM_PATIENCE_NS (30 * CLOCK_NS_PER_S)
#define STREAM_FOREVER_NS (INT64_MAX / 4)
#define STREAM_PIECE_MAX (32U * 1024U) /* handed to the connection, or put in, at once */

struct api_stream {
    struct core *core;
    struct api_stream_source source;
    struct events events; /* the runner's */
    int64_t patience_ns;  /* the runner's: how long it may still wait for the reader */
    bool in_message;      /* the runner's: a part of one was put in, and not the last */
    bool behind;          /* the runner's: events are left out */
    pthread_t runner;
    bool joinable;

    pthread_mutex_t mutex; /* rank: leaf; guards all below */
    pthread_cond_t changed;
    struct buf queue;
    char execution_id[SANDBOX_ID_MAX + 1];
    bool begun; /* its id was said: it waits, or has started */
    bool started;
    bool done;      /* the runner is through */
    bool abandoned; /* nobody reads any more */
    bool failed;
    struct err err;
};

/* Waits for room as long as the patience lasts. Called with the mutex held. */
static void stream_wait_for_room(struct api_stream *stream)
{
    int64_t begun_ns = clock_now_ns();
    int64_t until_ns = begun_ns + stream->patience_ns;
    const struct timespec until = {.tv_sec = (time_t)(until_ns / CLOCK_NS_PER_S),
                                   .tv_nsec = (long)(until_ns % CLOCK_NS_PER_S)};
    int status = 0;
    while (stream->queue.size > STREAM_QUEUE_FULL && !stream->abandoned && status != ETIMEDOUT)
        status = pthread_cond_clockwait(&stream->changed, &stream->mutex, CLOCK_MONOTONIC, &until);
    int64_t left_ns = stream->patience_ns - (clock_now_ns() - begun_ns);
    stream->patience_ns = left_ns > 0 ? left_ns : 0;
}

/* Before an event of the output: whether it is left to be read later. */
static bool stream_falls_behind(struct api_stream *stream)
{
    pthread_mutex_lock(&stream->mutex);
    if (stream->queue.size > STREAM_QUEUE_FULL)
        stream_wait_for_room(stream);
    bool full = stream->queue.size > STREAM_QUEUE_FULL && !stream->abandoned;
    pthread_mutex_unlock(&stream->mutex);
    stream->behind = stream->behind || full;
    return stream->behind;
}

static int stream_put_bytes(struct api_stream *stream, const uint8_t *data, size_t size,
                            struct err *err)
{
    int result = 0;
    pthread_mutex_lock(&stream->mutex);
    if (stream->queue.size > STREAM_QUEUE_FULL)
        stream_wait_for_room(stream);
    if (stream->abandoned)
        result = err_set(err, ERR_CLOSED, "the reader of the stream has gone");
    else
        result = buf_append(&stream->queue, data, size, err);
    pthread_cond_broadcast(&stream->changed);
    pthread_mutex_unlock(&stream->mutex);
    return result;
}

/* Waits for room and puts all of it in, bit by bit. Takes the mutex. */
static int stream_put_all(struct api_stream *stream, const uint8_t *data, size_t size,
                          struct err *err)
{
    int result = 0;
    for (size_t at = 0; at < size && result == 0; at += STREAM_PIECE_MAX) {
        size_t part = size - at < STREAM_PIECE_MAX ? size - at : STREAM_PIECE_MAX;
        result = stream_put_bytes(stream, data + at, part, err);
    }
    return result;
}

static int stream_put(struct api_stream *stream, const struct buf *piece, struct err *err)
{
    return stream_put_all(stream, piece->data, piece->size, err);
}

/* Puts the end of an event in that came in parts. */
static int stream_close_event(struct api_stream *stream, struct err *err)
{
    struct buf piece BUF_AUTO;
    buf_init(&piece, 16);
    int result = events_end(&stream->events, &piece, err);
    return result == 0 ? stream_put(stream, &piece, err) : result;
}

static void stream_set_id(struct api_stream *stream, const char *execution_id)
{
    size_t size = strnlen(execution_id, SANDBOX_ID_MAX);
    pthread_mutex_lock(&stream->mutex);
    memcpy(stream->execution_id, execution_id, size);
    stream->execution_id[size] = '\0';
    pthread_mutex_unlock(&stream->mutex);
}

/* Puts the first event in, whichever it is. */
static int stream_put_id(struct api_stream *stream, bool started, const char *execution_id,
                         struct err *err)
{
    struct buf json BUF_AUTO;
    struct buf piece BUF_AUTO;
    buf_init(&json, 512);
    buf_init(&piece, 1024);
    int result = buf_append_str(&json, "{\"execution_id\":", err);
    if (result == 0)
        result = json_append_string(&json, execution_id, strlen(execution_id), err);
    if (result == 0)
        result = buf_append_str(&json, "}", err);
    if (result == 0)
        result =
            started
                ? events_append(&stream->events, "started", json.data, json.size, &piece, err)
                : events_append_aside(&stream->events, "queued", json.data, json.size, &piece, err);
    if (result < 0)
        return result;
    stream_set_id(stream, execution_id);
    pthread_mutex_lock(&stream->mutex);
    stream->started = stream->started || started;
    stream->begun = true;
    pthread_mutex_unlock(&stream->mutex);
    return stream_put(stream, &piece, err);
}

static int stream_on_queued(void *context, const char *execution_id, struct err *err)
{
    return stream_put_id(context, false, execution_id, err);
}

static int stream_on_started(void *context, const char *execution_id, struct err *err)
{
    return stream_put_id(context, true, execution_id, err);
}

/* A message is its kind and the JSON of its event. */
static int stream_put_message(struct api_stream *stream, const uint8_t *data, size_t size,
                              bool more, struct err *err)
{
    int result = 0;
    if (!stream->in_message) {
        struct buf piece BUF_AUTO;
        buf_init(&piece, 256);
        const char *name = data[0] == MESSAGE_ERROR ? "error" : "result";
        result = events_begin(&stream->events, name, &piece, err);
        if (result == 0)
            result = stream_put(stream, &piece, err);
        data++;
        size--;
    }
    stream->in_message = more;
    if (result == 0)
        result = stream_put_all(stream, data, size, err);
    return result == 0 && !more ? stream_close_event(stream, err) : result;
}

static int stream_on_output(void *context, int which, const uint8_t *data, size_t size, bool more,
                            struct err *err)
{
    struct api_stream *stream = context;
    if (!stream->in_message && stream_falls_behind(stream))
        return 0;
    if (which == STREAM_CONTROL)
        return stream_put_message(stream, data, size, more, err);
    struct buf piece BUF_AUTO;
    buf_init(&piece, size * 6 + 512);
    int result = events_append_output(&stream->events, which, data, size, &piece, err);
    return result == 0 && piece.size > 0 ? stream_put(stream, &piece, err) : result;
}

/* A line break between the members of an object would end an event early. */
static void stream_one_line(struct buf *json)
{
    for (size_t i = 0; i < json->size; i++) {
        if (json->data[i] == '\n' || json->data[i] == '\r')
            json->data[i] = ' ';
    }
}

static int stream_put_object(struct api_stream *stream, struct answer *object, struct err *err)
{
    struct buf piece BUF_AUTO;
    buf_init(&piece, ANSWER_PIECE_MAX);
    int more = answer_next(object, &piece, err);
    while (more > 0) {
        stream_one_line(&piece);
        more = stream_put(stream, &piece, err);
        piece.size = 0;
        if (more == 0)
            more = answer_next(object, &piece, err);
    }
    return more;
}

/* open: it goes on, and its reader does not wait for the end. */
static int stream_put_end(struct api_stream *stream, bool open, struct answer *object,
                          struct err *err)
{
    char id[SANDBOX_ID_MAX + 1];
    struct buf piece BUF_AUTO;
    buf_init(&piece, 4096);
    if (api_execution_id(answer_begin(object), id))
        stream_set_id(stream, id);
    int result = events_flush(&stream->events, &piece, err);
    if (result == 0)
        result = open ? events_begin_aside(&stream->events, "open", &piece, err)
                      : events_begin(&stream->events, "end", &piece, err);
    if (result == 0)
        result = stream_put(stream, &piece, err);
    if (result == 0)
        result = stream_put_object(stream, object, err);
    return result == 0 ? stream_close_event(stream, err) : result;
}

/* The events that the reader lacks of an execution that has ended: all of a known idempotency key,
 * which are those of the first request, or what it fell behind. It holds up nothing any more. */
static int stream_replay(struct api_stream *stream, const struct execution_sink *sink,
                         const struct answer *object, struct err *err)
{
    char id[SANDBOX_ID_MAX + 1];
    ANSWER_AUTO struct answer again = {0};
    if (!api_execution_id(answer_begin(object), id))
        return err_set(err, ERR_INTERNAL, "an outcome without its id");
    stream->behind = false;
    stream->patience_ns = STREAM_FOREVER_NS;
    const struct execution_follow follow = {.owner = stream->source.owner,
                                            .id = id,
                                            .after = stream->events.next_id - 1,
                                            .gone_fd = -1};
    return core_execution_follow(stream->core, &follow, sink, &again, err);
}

static void stream_put_error(struct api_stream *stream, const struct err *error)
{
    struct buf json BUF_AUTO;
    struct buf piece BUF_AUTO;
    buf_init(&json, 4096);
    buf_init(&piece, 8192);
    if (error->kind != ERR_CLOSED)
        log_warn("streamed execution %s failed: %s", stream->execution_id, error->message);
    if (api_error_json(error, &json, NULL) == 0 &&
        events_flush(&stream->events, &piece, NULL) == 0 &&
        events_append(&stream->events, "error", json.data, json.size, &piece, NULL) == 0)
        (void)stream_put(stream, &piece, NULL);
}

static void *stream_run(void *context)
{
    struct api_stream *stream = context;
    struct err err = ERR_INIT;
    struct answer object ANSWER_AUTO = {0};
    struct execution_sink sink = {.context = stream,
                                  .queued = stream_on_queued,
                                  .started = stream_on_started,
                                  .output = stream_on_output};
    int result = stream->source.run(stream->core, stream->source.subject, &sink, &object, &err);
    if (result == 0 && (stream->behind || (!stream->begun && !stream->source.follows)))
        result = stream_replay(stream, &sink, &object, &err);
    if (result >= 0)
        result = stream_put_end(stream, result > 0, &object, &err);
    if (result < 0 && stream->begun) /* written by this thread alone */
        stream_put_error(stream, &err);
    pthread_mutex_lock(&stream->mutex);
    stream->done = true;
    stream->failed = result < 0;
    stream->err = err;
    pthread_cond_broadcast(&stream->changed);
    pthread_mutex_unlock(&stream->mutex);
    return NULL;
}

static int stream_produce(void *context, struct buf *out, struct err *err)
{
    struct api_stream *stream = context;
    int result = 1;
    pthread_mutex_lock(&stream->mutex);
    while (stream->queue.size == 0 && !stream->done)
        pthread_cond_wait(&stream->changed, &stream->mutex);
    size_t size = stream->queue.size < STREAM_PIECE_MAX ? stream->queue.size : STREAM_PIECE_MAX;
    if (size > 0) {
        result = buf_append(out, stream->queue.data, size, err);
        buf_consume(&stream->queue, size);
        pthread_cond_broadcast(&stream->changed);
        result = result < 0 ? result : 1;
    } else {
        result = stream->failed ? err_copy(err, &stream->err) : 0;
    }
    pthread_mutex_unlock(&stream->mutex);
    return result;
}

static void stream_free(void *context)
{
    struct api_stream *stream = context;
    uint64_t one = 1;
    pthread_mutex_lock(&stream->mutex);
    bool cut = !stream->done;
    stream->abandoned = true;
    pthread_cond_broadcast(&stream->changed);
    pthread_mutex_unlock(&stream->mutex);
    if (cut && stream->source.gone_fd >= 0) {
        /* The code may be silent: it is the descriptor of a peer that left that ends it. */
        ssize_t ignored = write(stream->source.gone_fd, &one, sizeof(one));
        (void)ignored;
    }
    if (stream->joinable)
        pthread_join(stream->runner, NULL);
    pthread_cond_destroy(&stream->changed);
    pthread_mutex_destroy(&stream->mutex);
    buf_done(&stream->queue);
    stream->source.free(stream->source.subject);
    free(stream);
}

static int stream_launch(struct api_stream *stream, struct err *err)
{
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    (void)pthread_attr_setstacksize(&attributes, STREAM_STACK_BYTES);
    int failed = pthread_create(&stream->runner, &attributes, stream_run, stream);
    pthread_attr_destroy(&attributes);
    if (failed) {
        stream->done = true;
        return err_sys(err, failed, "starting the thread of a stream");
    }
    stream->joinable = true;
    return 0;
}

/* Blocks until the first event is there or the execution has failed before it. */
static int stream_wait(struct api_stream *stream, struct err *err)
{
    pthread_mutex_lock(&stream->mutex);
    while (stream->queue.size == 0 && !stream->done)
        pthread_cond_wait(&stream->changed, &stream->mutex);
    int result = stream->failed && !stream->begun ? err_copy(err, &stream->err) : 0;
    pthread_mutex_unlock(&stream->mutex);
    return result;
}

static int stream_put_header(struct api_stream *stream, struct http_response *response,
                             struct err *err)
{
    char id[SANDBOX_ID_MAX + 1];
    pthread_mutex_lock(&stream->mutex);
    memcpy(id, stream->execution_id, sizeof(id));
    pthread_mutex_unlock(&stream->mutex);
    return id[0] != '\0' ? http_response_header(response, "X-Execution-Id", id, err) : 0;
}

int api_stream_start(struct api_call *call, enum events_format format,
                     const struct api_stream_source *source, struct err *err)
{
    struct api_stream *stream = calloc(1, sizeof(*stream));
    if (!stream) {
        source->free(source->subject);
        return err_set(err, ERR_INTERNAL, "no memory for a stream");
    }
    stream->core = call->api->config.core;
    stream->source = *source;
    events_init(&stream->events, format);
    stream->events.next_id = source->after + 1;
    stream->patience_ns = source->waits ? STREAM_FOREVER_NS : STREAM_PATIENCE_NS;
    pthread_mutex_init(&stream->mutex, NULL);
    pthread_cond_init(&stream->changed, NULL);
    buf_init(&stream->queue, STREAM_QUEUE_MAX);
    int result = stream_launch(stream, err);
    if (result == 0)
        result = stream_wait(stream, err);
    if (result == 0)
        result = stream_put_header(stream, call->response, err);
    if (result < 0) {
        stream_free(stream);
        return result;
    }
    call->response->content_type = events_content_type(format);
    call->response->stream = stream_produce;
    call->response->stream_context = stream;
    call->response->stream_free = stream_free;
    return 0;
}

static void free_request(void *subject)
{
    api_request_free(subject);
}

int api_stream_request(struct api_call *call, enum events_format format,
                       struct api_request *request,
                       int (*run)(struct core *core, void *request,
                                  const struct execution_sink *sink, struct answer *out,
                                  struct err *err),
                       struct err *err)
{
    const struct api_stream_source source = {.subject = request,
                                             .run = run,
                                             .free = free_request,
                                             .owner = request->owner,
                                             .gone_fd = request->execution.gone_fd};
    return api_stream_start(call, format, &source, err);
}
