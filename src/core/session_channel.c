/* Owns the way to a session's init: opening channels, and settling what init held while nobody was
 * there to hear it. */
#include "core/session_internal.h"

#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "core/attempt.h"

#define UNFINISHED_MAX 256
#define RETRY_NS (10 * CLOCK_NS_PER_MS)
#define CALL_NS (10 * CLOCK_NS_PER_S) /* for init to answer a small question */
#define HELD_NS                                                                                    \
    (3600 * 24 * CLOCK_NS_PER_S) /* for one that still runs; init enforces its timeout */

bool session_is_lost(int result)
{
    return result == -ERR_CLOSED || result == -ERR_TIMEOUT || result == -ERR_PROTOCOL;
}

int session_open_channel(struct core *core, struct session *session, struct channel **out,
                         struct err *err)
{
    struct engine *engine = NULL;
    FD_AUTO int fd = -1;
    int result = core_engine(core, &engine, err);
    if (result == 0)
        result = engine_open_channel(engine, session->row.sandbox_id, clock_now_ns() + CALL_NS, &fd,
                                     err);
    return result == 0 ? channel_open(fd_take(&fd), session->row.nonce, out, err) : result;
}

/* Takes over an execution that began under an earlier server: its events from the first on, and its
 * end. */
static int follow_held(struct core *core, struct session *session, struct channel *channel,
                       const struct store_execution *row, struct session_turn *turn,
                       struct err *err)
{
    struct attempt attempt;
    const struct attempt_subject subject = {.owner = row->owner,
                                            .lang = row->lang,
                                            .session_id = session->row.id,
                                            .gone_fd = -1,
                                            .outlives_client = true};
    int result = attempt_resume(&attempt, core, &subject, row, err);
    if (result != 0)
        return result;
    struct live *waits = turn->live; /* only this thread changes it */
    session_set_running(core, turn, &attempt.live);
    const struct sandbox_attach attach = {.execution_id = row->id};
    struct channel_watch watch;
    struct err failure = ERR_INIT;
    attempt_watch(&attempt, (uint64_t)(HELD_NS / CLOCK_NS_PER_MS), &watch);
    result = channel_attach(channel, &attach, &watch, &attempt.exit, &failure);
    if (result == 0)
        attempt.outcome.exit = attempt.exit.exit;
    else if (core_is_stopping(core))
        result = err_copy(err, &failure); /* the next server takes it over */
    else
        (void)attempt_is_lost(&attempt, -ERR_CLOSED, &failure);
    if (result == 0 || !core_is_stopping(core)) {
        BUF_AUTO struct buf object;
        buf_init(&object, CORE_OBJECT_MAX);
        int answered = attempt_answer(&attempt, true, &object, result == 0 ? err : NULL);
        result = result == 0 ? answered : err_copy(err, &failure);
        if (result == 0 && !attempt.stored)
            result = err_set(err, ERR_UNAVAILABLE, "the outcome of %s can't be stored", row->id);
    }
    session_set_running(core, turn, waits);
    attempt_end(&attempt);
    return result;
}

/* A server died before it wrote down what it had begun: nobody was told of it, but it runs. */
static int enter_row(struct core *core, const struct session *session, const char *id,
                     struct store_execution *out, struct err *err)
{
    const struct store_execution_new row = {.id = id,
                                            .owner = session->row.owner,
                                            .lang = session->row.lang,
                                            .status = execution_state_name(EXECUTION_QUEUED),
                                            .session_id = session->row.id,
                                            .created_us = clock_wall_us()};
    struct store_job job;
    store_execution_insert_begin(core->store, &row, &job);
    int result = store_job_wait(core->store, &job, err);
    return result == 0 ? store_execution_get(core->store, NULL, id, out, NULL, NULL, err) : result;
}

/* One execution that init holds. */
static int settle_held(struct core *core, struct session *session, struct channel *channel,
                       const struct sandbox_held *held, struct session_turn *turn, struct err *err)
{
    struct store_execution row;
    int result = store_execution_get(core->store, NULL, held->execution_id, &row, NULL, NULL, err);
    bool unknown = result == -ERR_NOT_FOUND; /* nobody was told of it */
    if (unknown)
        result = held->ended ? 0 : enter_row(core, session, held->execution_id, &row, err);
    if (result == 0 && !(unknown && held->ended) && row.finished_us == 0)
        result = follow_held(core, session, channel, &row, turn, err);
    if (result != 0)
        return result;
    result = channel_forget(channel, held->execution_id, clock_now_ns() + CALL_NS, err);
    return result == -ERR_NOT_FOUND ? 0 : result;
}

/* What an earlier server had begun, and init does not hold, never ran. */
static int end_unheld(struct core *core, struct session *session, struct err *err)
{
    MEM_AUTO struct store_execution *rows = NULL;
    size_t count = 0;
    int result = store_execution_unfinished(core->store, session->row.id, UNFINISHED_MAX, &rows,
                                            &count, err);
    for (size_t i = 0; i < count && result == 0; i++) {
        if (!live_exists(core, rows[i].id))
            result = execution_end_orphan(core, &rows[i], err);
    }
    return result;
}

/* Settles all that init holds, over a channel that was just opened. */
static int settle(struct core *core, struct session *session, struct session_turn *turn,
                  struct err *err)
{
    struct channel *channel = session->channel;
    struct sandbox_listed listed = {0};
    int result = channel_list(channel, clock_now_ns() + CALL_NS, &listed, err);
    for (size_t i = 0; i < listed.count && result == 0; i++)
        result = settle_held(core, session, channel, &listed.held[i], turn, err);
    if (result == 0 && session->unsettled)
        result = end_unheld(core, session, err);
    return result;
}

int session_see_channel(struct core *core, struct session *session, struct session_turn *turn,
                        struct err *err)
{
    struct channel *channel = NULL;
    if (session->channel)
        return 0;
    int result = session_open_channel(core, session, &channel, err);
    if (result != 0)
        return result;
    session_set_channel(core, session, channel); /* channel_break() is to find it */
    result = settle(core, session, turn, err);
    if (result != 0) {
        session_set_channel(core, session, NULL);
        return result;
    }
    session->unsettled = false;
    return 0;
}

void session_set_channel(struct core *core, struct session *session, struct channel *channel)
{
    (void)pthread_mutex_lock(&core->lock);
    struct channel *old = session->channel;
    session->channel = channel;
    if (channel && core->stopping) /* session_leave_all() did not see it */
        channel_break(channel);
    (void)pthread_mutex_unlock(&core->lock);
    channel_close(old);
}

/* The times as init takes them. */
static struct sandbox_timers timers_of(uint64_t lifetime_ms, uint64_t idle_ms)
{
    return (struct sandbox_timers){.lifetime_ms = lifetime_ms == 0 ? SANDBOX_NEVER : lifetime_ms,
                                   .idle_ms = idle_ms == 0 ? SANDBOX_NEVER : idle_ms,
                                   .orphan_ms = SANDBOX_NEVER};
}

int session_set_timers(struct channel *channel, uint64_t lifetime_ms, uint64_t idle_ms,
                       struct err *err)
{
    const struct sandbox_timers timers = timers_of(lifetime_ms, idle_ms);
    return channel_timers(channel, &timers, clock_now_ns() + CALL_NS, err);
}

/* Tells init, again while the engine can't reach it: it may be about to end, or the engine new. */
static int tell_times(struct core *core, struct session *session, uint64_t lifetime_ms,
                      uint64_t idle_ms, struct err *err)
{
    int64_t until_ns = clock_now_ns() + CALL_NS;
    for (;;) {
        struct channel *channel = NULL;
        struct err failure = ERR_INIT;
        int result = session_open_channel(core, session, &channel, &failure);
        if (result == 0)
            result = session_set_timers(channel, lifetime_ms, idle_ms, &failure);
        channel_close(channel);
        if (result == 0)
            return 0;
        if (session_is_lost(result) || result == -ERR_NOT_FOUND || session_is_closed(core, session))
            return err_public(err, ERR_NOT_FOUND, "session %.40s has just ended", session->row.id);
        if (result != -ERR_UNAVAILABLE || clock_now_ns() > until_ns)
            return err_copy(err, &failure);
        clock_sleep_ns(RETRY_NS);
    }
}

/* Tells init, then the books. */
static int renew(struct core *core, struct session *session, uint64_t lifetime_ms, uint64_t idle_ms,
                 struct err *err)
{
    int result = tell_times(core, session, lifetime_ms, idle_ms, err);
    if (result != 0)
        return result;
    int64_t lifetime_us = lifetime_ms == 0 ? 0 : clock_wall_us() + (int64_t)lifetime_ms * 1000;
    (void)pthread_mutex_lock(&core->lock);
    session->row.idle_ms = idle_ms;
    session->row.timeout_ms = lifetime_ms;
    session->row.lifetime_us = lifetime_us;
    session->used_us = clock_wall_us();
    (void)pthread_mutex_unlock(&core->lock);
    return store_session_renew(core->store, session->row.id, lifetime_ms, idle_ms, lifetime_us,
                               err);
}

int core_session_renew(struct core *core, const char *owner, const char *id, uint64_t lifetime_ms,
                       uint64_t idle_ms, struct buf *out, struct err *err)
{
    struct session *session = NULL;
    int result = session_check_times(core, &lifetime_ms, err);
    if (result == 0)
        result = session_find(core, owner, id, &session, err);
    if (result != 0)
        return result;
    (void)pthread_mutex_lock(&core->lock);
    if (lifetime_ms == 0)
        lifetime_ms = session->row.timeout_ms;
    if (idle_ms == 0)
        idle_ms = session->row.idle_ms;
    (void)pthread_mutex_unlock(&core->lock);
    result = renew(core, session, lifetime_ms, idle_ms, err);
    if (result == 0)
        result = session_append_json(core, session, out, err);
    session_unref(core, session);
    return result;
}
