/* Owns the way to a session's init: opening channels, and settling what init held while nobody was
 * there to hear it. */
#include "core/session_internal.h"

#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "core/attempt.h"

#define RETRY_NS (10 * CLOCK_NS_PER_MS)
#define TIMERS_NS (10 * CLOCK_NS_PER_S)
#define INSPECT_NS (5 * CLOCK_NS_PER_S)
#define ENDING_NS CLOCK_NS_PER_S /* between the end of an init and the engine's word for it */
#define SLOW_RETRY_S 5
#define HELD_NS                                                                                    \
    (3600 * 24 * CLOCK_NS_PER_S) /* for one that still runs; init enforces its timeout */

int session_engine(struct core *core, const struct session *session, struct engine **out,
                   struct err *err)
{
    return slot_engine(engines_find(core, session->row.engine), out, err);
}

bool session_sandbox_ended(struct core *core, const struct session *session)
{
    struct engine *engine = NULL;
    enum engine_state state = ENGINE_STATE_RUNNING;
    if (session_engine(core, session, &engine, NULL) != 0)
        return false;
    int result =
        engine_inspect(engine, session->row.sandbox_id, clock_now_ns() + INSPECT_NS, &state, NULL);
    return result == -ERR_NOT_FOUND ||
           (result == 0 && (state == ENGINE_STATE_DESTROYING || state == ENGINE_STATE_STOPPED));
}

bool session_has_ended(struct core *core, struct session *session, int result)
{
    /* Its socket closes a moment before the engine hears that init has ended. */
    bool likely = result == -ERR_CLOSED || result == -ERR_NOT_FOUND || result == -ERR_CONFLICT;
    int64_t until_ns = clock_now_ns() + (likely ? ENDING_NS : 0);
    bool tells_nothing = !likely && result != -ERR_TIMEOUT && result != -ERR_INTERNAL;
    for (;;) {
        if (result == -ERR_PROTOCOL || session_is_closed(core, session))
            return true;
        if (tells_nothing || core_is_stopping(core))
            return false;
        if (session_sandbox_ended(core, session))
            return true;
        if (clock_now_ns() >= until_ns)
            return false;
        clock_sleep_ns(RETRY_NS);
    }
}

int session_explain(struct core *core, struct session *session, int result,
                    const struct err *failure, struct err *err)
{
    if (session_has_ended(core, session, result)) {
        session_drop(core, session, failure->message);
        return err_public(err, ERR_NOT_FOUND, "session %.40s has just ended", session->row.id);
    }
    if (result != -ERR_CLOSED && result != -ERR_TIMEOUT && result != -ERR_NOT_FOUND &&
        result != -ERR_CONFLICT)
        return err_copy(err, failure);
    if (core_is_stopping(core))
        return core_say_stopping(err);
    log_warn("session %s does not answer: %s", session->row.id, failure->message);
    result =
        err_public(err, ERR_UNAVAILABLE, "session %.40s does not answer now; it is kept, try again",
                   session->row.id);
    if (err)
        err->retry_after_s = SLOW_RETRY_S;
    return result;
}

int session_open_channel(struct core *core, struct session *session, struct channel **out,
                         struct err *err)
{
    struct engine *engine = NULL;
    FD_AUTO int fd = -1;
    int result = session_engine(core, session, &engine, err);
    if (result == 0)
        result = engine_open_channel(engine, session->row.sandbox_id,
                                     clock_now_ns() + core->answer_ns, &fd, err);
    return result == 0 ? channel_open(fd_take(&fd), session->row.nonce, out, err) : result;
}

/* The events and the end of one that was taken over. It stays without an outcome for as long as it
 * is not known to have ended: then whoever settles next hears it. */
static int hear_held(struct attempt *attempt, struct session *session, struct channel *channel,
                     struct err *err)
{
    const struct sandbox_attach attach = {.execution_id = attempt->live.id};
    struct channel_watch watch;
    struct err failure = ERR_INIT;
    ANSWER_AUTO struct answer object = {0};
    attempt_watch(attempt, (uint64_t)(HELD_NS / CLOCK_NS_PER_MS), &watch);
    int result = channel_attach(channel, &attach, &watch, &attempt->exit, &failure);
    if (result == -ERR_NOT_FOUND) /* it was listed */
        result = err_set(&failure, ERR_PROTOCOL, "init lost execution %s", attempt->live.id);
    if (result != 0 && !session_has_ended(attempt->core, session, result))
        return err_copy(err, &failure);
    if (result == 0)
        attempt->outcome.exit = attempt->exit.exit;
    else
        (void)attempt_is_lost(attempt, -ERR_CLOSED, &failure);
    attempt->outcome.exit.state_lost |= result != 0;
    int answered = attempt_answer(attempt, true, &object, result == 0 ? err : NULL);
    if (result != 0)
        return err_copy(err, &failure);
    if (answered == 0 && !attempt->stored)
        return err_set(err, ERR_UNAVAILABLE, "the outcome of %s can't be stored", attempt->live.id);
    return answered;
}

/* Takes over an execution that began under an earlier server, or that its caller left: its events
 * from the first on, and its end. */
static int follow_held(struct core *core, struct session *session, struct channel *channel,
                       const struct store_execution *row, struct session_turn *turn,
                       struct err *err)
{
    struct attempt attempt;
    const struct attempt_subject subject = {.owner = row->owner,
                                            .lang = row->lang,
                                            .session_id = session->row.id,
                                            .engine = session->row.engine,
                                            .runtime = session->row.runtime,
                                            .sandbox_id = session->row.sandbox_id,
                                            .gone_fd = -1,
                                            .outlives_client = true};
    live_wait(core, row->id); /* whoever left it is about to go */
    int result = attempt_resume(&attempt, core, &subject, row, err);
    if (result != 0)
        return result;
    (void)pthread_mutex_lock(&core->lock);
    for (size_t i = 0; i < session->cancel_count; i++) {
        if (strcmp(session->cancels[i].id, row->id) == 0)
            live_cancel_locked(&attempt.live, session->cancels[i].cause);
    }
    (void)pthread_mutex_unlock(&core->lock);
    struct live *waits = turn->live; /* only this thread changes it */
    session_set_running(core, turn, &attempt.live);
    result = hear_held(&attempt, session, channel, err);
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
    result = channel_forget(channel, held->execution_id, clock_now_ns() + core->answer_ns, err);
    return result == -ERR_NOT_FOUND ? 0 : result;
}

/* Sets whether there is something to settle; returns what was set before. */
static bool take_unsettled(struct core *core, struct session *session, bool unsettled)
{
    (void)pthread_mutex_lock(&core->lock);
    bool before = session->unsettled;
    session->unsettled = unsettled;
    (void)pthread_mutex_unlock(&core->lock);
    return before;
}

/* Nothing is left that a word was left for. */
static void forget_cancels(struct core *core, struct session *session)
{
    (void)pthread_mutex_lock(&core->lock);
    session->cancel_count = 0;
    (void)pthread_mutex_unlock(&core->lock);
}

/* Settles all that init holds. */
static int settle(struct core *core, struct session *session, struct session_turn *turn,
                  struct err *err)
{
    struct channel *channel = session->channel;
    struct sandbox_listed listed = {0};
    bool unsettled = take_unsettled(core, session, false);
    int result = channel_list(channel, clock_now_ns() + core->answer_ns, &listed, err);
    for (size_t i = 0; i < listed.count && result == 0; i++)
        result = settle_held(core, session, channel, &listed.held[i], turn, err);
    if (result == 0 && unsettled)
        result = execution_end_unfinished(core, &session->row, err); /* they never ran */
    if (result == 0)
        forget_cancels(core, session);
    else if (unsettled)
        (void)take_unsettled(core, session, true);
    return result;
}

static bool is_settled(struct core *core, struct session *session)
{
    (void)pthread_mutex_lock(&core->lock);
    bool settled = session->channel && !session->unsettled;
    (void)pthread_mutex_unlock(&core->lock);
    return settled;
}

int session_see_channel(struct core *core, struct session *session, struct session_turn *turn,
                        struct err *err)
{
    struct channel *channel = NULL;
    if (is_settled(core, session))
        return 0;
    int result = session->channel ? 0 : session_open_channel(core, session, &channel, err);
    if (result != 0)
        return result;
    if (channel)
        session_set_channel(core, session, channel); /* channel_break() is to find it */
    result = settle(core, session, turn, err);
    if (result != 0)
        session_set_channel(core, session, NULL);
    return result;
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
    return channel_timers(channel, &timers, clock_now_ns() + TIMERS_NS, err);
}

int session_tell(struct core *core, struct session *session, session_tell_fn tell, void *what,
                 struct err *err)
{
    int64_t until_ns = clock_now_ns() + core->answer_ns;
    for (;;) {
        struct channel *channel = NULL;
        struct err failure = ERR_INIT;
        int result = session_open_channel(core, session, &channel, &failure);
        if (result == 0)
            result = tell(channel, what, &failure);
        channel_close(channel);
        if (result == 0)
            return 0;
        bool again = result == -ERR_UNAVAILABLE && clock_now_ns() < until_ns;
        if (!again || session_is_closed(core, session))
            return session_explain(core, session, result, &failure, err);
        clock_sleep_ns(RETRY_NS);
    }
}

struct times {
    uint64_t lifetime_ms, idle_ms;
};

static int tell_times(struct channel *channel, void *what, struct err *err)
{
    const struct times *times = what;
    return session_set_timers(channel, times->lifetime_ms, times->idle_ms, err);
}

/* Tells init, then the books. */
static int renew(struct core *core, struct session *session, uint64_t lifetime_ms, uint64_t idle_ms,
                 struct err *err)
{
    struct times times = {.lifetime_ms = lifetime_ms, .idle_ms = idle_ms};
    int result = session_tell(core, session, tell_times, &times, err);
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

int session_begin_change(struct core *core, struct session *session, struct err *err)
{
    (void)pthread_mutex_lock(&core->lock);
    while (session->renewing && !core->stopping)
        (void)pthread_cond_wait(&core->changed, &core->lock);
    bool mine = !session->renewing;
    session->renewing = true;
    (void)pthread_mutex_unlock(&core->lock);
    return mine ? 0 : core_say_stopping(err);
}

void session_end_change(struct core *core, struct session *session)
{
    (void)pthread_mutex_lock(&core->lock);
    session->renewing = false;
    (void)pthread_cond_broadcast(&core->changed);
    (void)pthread_mutex_unlock(&core->lock);
}

/* The times that are to stay. */
static void fill_in_times(struct core *core, const struct session *session, uint64_t *lifetime_ms,
                          uint64_t *idle_ms)
{
    (void)pthread_mutex_lock(&core->lock);
    if (*lifetime_ms == 0)
        *lifetime_ms = session->row.timeout_ms;
    if (*idle_ms == 0)
        *idle_ms = session->row.idle_ms;
    (void)pthread_mutex_unlock(&core->lock);
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
    result = session_begin_change(core, session, err);
    if (result == 0) {
        fill_in_times(core, session, &lifetime_ms, &idle_ms);
        result = renew(core, session, lifetime_ms, idle_ms, err);
        if (result == 0)
            result = session_append_json(core, session, out, err);
        session_end_change(core, session);
    }
    session_unref(core, session);
    return result;
}
