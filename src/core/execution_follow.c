/* Owns the way to see what an execution says from beside it: while it lives from its record,
 * afterwards from the store, with the same numbers. */
#include <poll.h>
#include <string.h>

#include "base/clock.h"
#include "base/id.h"
#include "core/core_internal.h"
#include "core/execution_json.h"
#include "core/execution_text.h"
#include "core/record.h"

#define LOOK_NS CLOCK_NS_PER_S /* how often it is asked whether the client has gone */
#define SETTLE_NS                                                                                  \
    (50 * CLOCK_NS_PER_MS) /* between two looks at one that nobody has taken over yet */
#define SHORT_NS CLOCK_NS_PER_MS
#define STORED_MAX (128U << 20)
#define PIECE_MAX (64U << 20)

struct follower {
    struct core *core;
    struct execution_follow ask; /* its `after` becomes the last event that was given out */
    const struct execution_sink *sink;
};

/* What the steps below return beside 0, which is "not yet", and errors. */
enum { DONE = 1, WAITS = 2 };

static bool client_has_gone(const struct follower *follower)
{
    struct pollfd entry = {.fd = follower->ask.gone_fd, .events = POLLIN | POLLRDHUP};
    return follower->ask.gone_fd >= 0 && poll(&entry, 1, 0) > 0;
}

static int say_started(struct follower *follower, struct err *err)
{
    const struct execution_sink *sink = follower->sink;
    if (follower->ask.after >= 1 || !sink->started)
        return 0;
    follower->ask.after = 1;
    return sink->started(sink->context, follower->ask.id, err);
}

static int say_piece(struct follower *follower, uint64_t number, int stream, const uint8_t *data,
                     size_t size, struct err *err)
{
    const struct execution_sink *sink = follower->sink;
    if (number <= follower->ask.after)
        return 0;
    follower->ask.after = number;
    return sink->output(sink->context, stream, data, size, err);
}

/* For who does not wait: appends the object as it is now. Returns WAITS; DONE when it has ended,
 * and its record is about to say so. */
static int say_open(struct follower *follower, struct buf *out, struct err *err)
{
    struct store_execution row;
    int result = store_execution_get(follower->core->store, follower->ask.owner, follower->ask.id,
                                     &row, NULL, NULL, err);
    if (result != 0 || row.finished_us != 0)
        return result != 0 ? result : DONE;
    result = execution_json_row(row.id, row.status, row.lang, row.created_us, row.started_us, 0,
                                out, err);
    return result != 0 ? result : WAITS;
}

/* Nothing is there now. Returns 0 to go on. */
static int on_nothing(struct follower *follower, struct buf *out, struct err *err)
{
    if (client_has_gone(follower))
        return err_set(err, ERR_CLOSED, "the reader of the events has gone");
    if (!follower->ask.only_known)
        return 0;
    int result = say_open(follower, out, err);
    return result == DONE ? 0 : result;
}

/* 0 when the object is in the store. */
static int follow_record(struct follower *follower, struct record *record, struct buf *out,
                         struct err *err)
{
    struct record_cursor cursor = {0};
    int result = 0;
    while (result == 0) {
        BUF_AUTO struct buf piece;
        int stream = 0;
        buf_init(&piece, PIECE_MAX);
        int64_t until_ns = clock_now_ns() + (follower->ask.only_known ? SHORT_NS : LOOK_NS);
        enum record_step step = record_next(record, &cursor, until_ns, &stream, &piece);
        if (step == RECORD_STARTED)
            result = say_started(follower, err);
        else if (step == RECORD_PIECE)
            result = say_piece(follower, record_cursor_number(&cursor), stream, piece.data,
                               piece.size, err);
        else if (step == RECORD_NOTHING)
            result = on_nothing(follower, out, err);
        if (step != RECORD_END)
            continue;
        if (piece.size == 0)
            return 0;
        struct execution_streams streams;
        result = execution_streams_make(record_text(record), &streams, err);
        if (result != 0)
            return result;
        result = execution_json_whole(&piece, &streams, true, out, err);
        execution_streams_done(&streams);
        return result == 0 ? DONE : result;
    }
    return result;
}

static int say_text(struct follower *follower, const struct execution_text *text, struct err *err)
{
    struct execution_text_cursor cursor = {0};
    const uint8_t *data = NULL;
    size_t size = 0;
    int stream = 0;
    int result = 0;
    while (result == 0 && execution_text_next(text, &cursor, &stream, &data, &size))
        result = say_piece(follower, cursor.index + 1, stream, data, size, err);
    return result;
}

/* 0 when it has not ended. */
static int follow_stored(struct follower *follower, struct buf *out, struct err *err)
{
    struct store_execution row;
    struct execution_text text;
    BUF_AUTO struct buf object;
    buf_init(&object, CORE_OBJECT_MAX);
    execution_text_init(&text, STORED_MAX);
    int result = execution_read_parts(follower->core, follower->ask.owner, follower->ask.id, &row,
                                      &object, &text, err);
    if (result == 0 && row.has_outcome) {
        struct execution_streams streams;
        result = row.started_us != 0 ? say_started(follower, err) : 0;
        if (result == 0)
            result = say_text(follower, &text, err);
        if (result == 0)
            result = execution_streams_make(&text, &streams, err);
        if (result == 0) {
            result = execution_json_whole(&object, row.has_text ? &streams : NULL, true, out, err);
            execution_streams_done(&streams);
        }
        result = result == 0 ? DONE : result;
    }
    execution_text_done(&text);
    return result;
}

/* One look at it, wherever it is now. */
static int look(struct follower *follower, struct buf *out, struct err *err)
{
    struct core *core = follower->core;
    const struct execution_follow *ask = &follower->ask;
    struct record *record = id_is_uuid(ask->id) ? live_record(core, ask->owner, ask->id) : NULL;
    int result = record ? follow_record(follower, record, out, err) : 0;
    record_unref(record);
    if (result != 0)
        return result;
    /* Ended, of a session that is not settled yet, or none: core_execution_get() tells. */
    BUF_AUTO struct buf ignored;
    buf_init(&ignored, CORE_OBJECT_MAX);
    result = core_execution_get(core, ask->owner, ask->id, &ignored, err);
    if (result == 0)
        result = follow_stored(follower, out, err);
    if (result == 0 && ask->only_known && !live_exists(core, ask->id))
        result = say_open(follower, out, err);
    return result == DONE && out->size == 0 ? 0 : result;
}

int core_execution_follow(struct core *core, const struct execution_follow *follow,
                          const struct execution_sink *sink, struct buf *out, struct err *err)
{
    struct follower follower = {.core = core, .ask = *follow, .sink = sink};
    for (;;) {
        int result = look(&follower, out, err);
        if (result != 0)
            return result < 0 ? result : result == WAITS;
        if (client_has_gone(&follower))
            return err_set(err, ERR_CLOSED, "the reader of the events has gone");
        if (core_is_stopping(core))
            return core_say_stopping(err);
        clock_sleep_ns(SETTLE_NS);
    }
}
