/* Owns the way to see what an execution says from beside it: while it lives from its record,
 * afterwards from the store, with the same numbers. */
#include <poll.h>
#include <string.h>

#include "base/clock.h"
#include "base/id.h"
#include "core/answer.h"
#include "core/core_internal.h"
#include "core/execution_json.h"
#include "core/record.h"

#define LOOK_NS CLOCK_NS_PER_S /* how often it is asked whether the client has gone */
#define SETTLE_NS                                                                                  \
    (50 * CLOCK_NS_PER_MS) /* between two looks at one that nobody has taken over yet */
#define SHORT_NS CLOCK_NS_PER_MS
#define PIECE_MAX (1U << 20) /* far above what one step of a record gives */

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
                     size_t size, bool more, struct err *err)
{
    const struct execution_sink *sink = follower->sink;
    if (number <= follower->ask.after)
        return 0;
    if (!more)
        follower->ask.after = number;
    return sink->output(sink->context, stream, data, size, more, err);
}

/* For who does not wait: appends the object as it is now. Returns WAITS; DONE when it has ended,
 * and its record is about to say so. */
static int say_open(struct follower *follower, struct answer *out, struct err *err)
{
    struct store_execution row;
    int result = store_execution_get(follower->core->store, follower->ask.owner, follower->ask.id,
                                     &row, NULL, NULL, err);
    if (result != 0 || row.finished_us != 0)
        return result != 0 ? result : DONE;
    result = execution_json_row(row.id, row.status, row.lang, row.created_us, row.started_us, 0,
                                answer_plain(out), err);
    return result != 0 ? result : WAITS;
}

/* Nothing is there now. Returns 0 to go on. */
static int on_nothing(struct follower *follower, struct answer *out, struct err *err)
{
    if (client_has_gone(follower))
        return err_set(err, ERR_CLOSED, "the reader of the events has gone");
    if (!follower->ask.only_known)
        return 0;
    int result = say_open(follower, out, err);
    return result == DONE ? 0 : result;
}

/* 0 when the object is in the store. */
static int follow_record(struct follower *follower, struct record *record, struct answer *out,
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
        else if (step == RECORD_PIECE || step == RECORD_PART)
            result = say_piece(follower, record_cursor_number(&cursor), stream, piece.data,
                               piece.size, step == RECORD_PART, err);
        else if (step == RECORD_NOTHING)
            result = on_nothing(follower, out, err);
        if (step != RECORD_END)
            continue;
        if (result != 0 || record_object(record)->size == 0)
            return result;
        answer_take_record(out, record_ref(record), true);
        return DONE;
    }
    return result;
}

/* One look at it, wherever it is now. */
static int look(struct follower *follower, struct answer *out, struct err *err)
{
    struct core *core = follower->core;
    const struct execution_follow *ask = &follower->ask;
    struct record *record = id_is_uuid(ask->id) ? live_record(core, ask->owner, ask->id) : NULL;
    int result = record ? follow_record(follower, record, out, err) : 0;
    record_unref(record);
    if (result != 0)
        return result;
    /* Ended, of a session that is not settled yet, or none: core_execution_get() tells. */
    ANSWER_AUTO struct answer known = {0};
    result = core_execution_get(core, ask->owner, ask->id, &known, err);
    if (result == 0 && known.record)
        result = follow_record(follower, known.record, out, err);
    if (result == 0 && ask->only_known && !live_exists(core, ask->id))
        result = say_open(follower, out, err);
    return result == DONE && answer_begin(out)->size == 0 ? 0 : result;
}

int core_execution_follow(struct core *core, const struct execution_follow *follow,
                          const struct execution_sink *sink, struct answer *out, struct err *err)
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
