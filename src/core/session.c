/* Owns the table of sessions and the turns in each: who may use a session's kernel now. */
#include "core/session_libraries.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "wire/json.h"

#define END_SLACK_US 1000000 /* between init's clock for an end and ours */

/* ---- the table ---- */

static int not_found(const char *id, struct err *err)
{
    return err_public(err, ERR_NOT_FOUND, "there is no session \"%.40s\"", id);
}

int session_find(struct core *core, const char *owner, const char *id, struct session **out,
                 struct err *err)
{
    (void)pthread_mutex_lock(&core->lock);
    struct session *session = core->sessions;
    while (session &&
           (strcmp(session->row.id, id) != 0 || (owner && strcmp(session->row.owner, owner) != 0)))
        session = session->next;
    if (session)
        session->references++;
    (void)pthread_mutex_unlock(&core->lock);
    if (!session) {
        (void)not_found(id, err);
        return -ERR_NOT_FOUND;
    }
    *out = session;
    return 0;
}

void session_unref(struct core *core, struct session *session)
{
    if (!session)
        return;
    (void)pthread_mutex_lock(&core->lock);
    bool last = --session->references == 0;
    (void)pthread_mutex_unlock(&core->lock);
    if (!last)
        return;
    channel_close(session->channel);
    session_libraries_done(core, session);
    store_session_done(&session->row);
    free(session->cancels);
    free(session);
}

bool session_exists(struct core *core, const char *id)
{
    struct session *session = NULL;
    int result = session_find(core, NULL, id, &session, NULL);
    session_unref(core, session);
    return result == 0;
}

void session_free_all(struct core *core)
{
    while (core->sessions) {
        struct session *session = core->sessions;
        core->sessions = session->next;
        session_unref(core, session);
    }
}

void session_add(struct core *core, struct session *session)
{
    session->used_us = clock_wall_us();
    if (!session->to_settle) /* else an earlier server made it */
        atomic_fetch_add(&core->metrics.sessions_created, 1);
    (void)pthread_mutex_lock(&core->lock);
    session->references = 2;
    /* At the end: lists are oldest first, and so is what the store gives. */
    struct session **at = &core->sessions;
    while (*at)
        at = &(*at)->next;
    *at = session;
    (void)pthread_mutex_unlock(&core->lock);
}

bool session_is_closed(struct core *core, struct session *session)
{
    (void)pthread_mutex_lock(&core->lock);
    bool closed = session->closed;
    (void)pthread_mutex_unlock(&core->lock);
    return closed;
}

/* Takes it out of the list, whose reference is then the caller's. */
static bool unlink_locked(struct core *core, struct session *session)
{
    for (struct session **at = &core->sessions; *at; at = &(*at)->next) {
        if (*at != session)
            continue;
        *at = session->next;
        session->closed = true;
        return true;
    }
    return false;
}

bool session_close(struct core *core, struct session *session, enum kill_cause cause)
{
    (void)pthread_mutex_lock(&core->lock);
    bool mine = unlink_locked(core, session);
    for (struct session_turn *turn = mine ? session->turns : NULL; turn; turn = turn->next) {
        if (turn->live)
            live_cancel_locked(turn->live, cause);
        if (cause == KILL_OOM)
            cause = KILL_SERVER;
    }
    (void)pthread_cond_broadcast(&core->changed);
    (void)pthread_mutex_unlock(&core->lock);
    if (mine)
        session_unref(core, session);
    return mine;
}

/* What changes, at one moment. */
struct glance {
    uint64_t timeout_ms, idle_ms, executions;
    int64_t lifetime_us, used_us;
    size_t waiting;
    char running[ID_UUID_SIZE]; /* "": nothing */
};

static void look_at(struct core *core, const struct session *session, struct glance *out)
{
    *out = (struct glance){0};
    (void)pthread_mutex_lock(&core->lock);
    out->timeout_ms = session->row.timeout_ms;
    out->idle_ms = session->row.idle_ms;
    out->lifetime_us = session->row.lifetime_us;
    out->executions = session->executions;
    out->used_us = session->used_us;
    out->waiting = session->turn_count > 0 ? session->turn_count - 1 : 0;
    if (session->turns && session->turns->live)
        memcpy(out->running, session->turns->live->id, sizeof(out->running));
    (void)pthread_mutex_unlock(&core->lock);
}

/* What was left running in one that is closed has its outcome from now on, and not only when it is
 * asked for. What has a thread here gets it from there. */
static void end_rows(struct core *core, const struct session *session)
{
    struct err err = ERR_INIT;
    if (execution_end_unfinished(core, &session->row, &err) != 0)
        log_error("session %s: what ran in it has no outcome yet: %s", session->row.id,
                  err.message);
}

static void end_by_server(struct core *core, struct session *session, enum session_end end,
                          enum kill_cause cause, const char *why)
{
    struct err err = ERR_INIT;
    if (!session_close(core, session, cause))
        return;
    atomic_fetch_add(&core->metrics.sessions_ended[end], 1);
    log_info("session %s has ended: %s", session->row.id, why);
    if (store_session_remove(core->store, session->row.id, &err) != 0)
        log_error("session %s: %s", session->row.id, err.message);
    box_destroy(core, session->row.sandbox_id);
    end_rows(core, session);
}

void session_drop(struct core *core, struct session *session, const char *why)
{
    end_by_server(core, session, SESSION_END_LOST, KILL_SERVER, why);
}

void session_end_all(struct core *core)
{
    for (;;) {
        (void)pthread_mutex_lock(&core->lock);
        struct session *session = core->draining ? core->sessions : NULL;
        if (session)
            session->references++;
        (void)pthread_mutex_unlock(&core->lock);
        if (!session)
            return;
        end_by_server(core, session, SESSION_END_DRAINED, KILL_SERVER,
                      "the server is being drained");
        session_unref(core, session);
    }
}

/* Init says nothing at its end: its own times, when one of them is over, else it died. */
static enum session_end end_of_gone(struct core *core, const struct session *session)
{
    struct glance glance;
    look_at(core, session, &glance);
    int64_t now_us = clock_wall_us() + END_SLACK_US;
    if (glance.lifetime_us != 0 && glance.lifetime_us <= now_us)
        return SESSION_END_TIMEOUT;
    if (glance.idle_ms != 0 && glance.used_us + (int64_t)glance.idle_ms * 1000 <= now_us)
        return SESSION_END_IDLE;
    return SESSION_END_LOST;
}

bool session_on_gone(struct core *core, const char *sandbox_id, enum kill_cause cause)
{
    (void)pthread_mutex_lock(&core->lock);
    struct session *session = core->sessions;
    while (session && strcmp(session->row.sandbox_id, sandbox_id) != 0)
        session = session->next;
    if (session)
        session->references++;
    (void)pthread_mutex_unlock(&core->lock);
    if (!session)
        return false;
    enum session_end end = end_of_gone(core, session);
    if (cause == KILL_OOM)
        end_by_server(core, session, SESSION_END_LOST, KILL_OOM, "its memory was used up");
    else
        end_by_server(core, session, end, KILL_SERVER,
                      end == SESSION_END_LOST ? "its init died" : "its time is over");
    session_unref(core, session);
    return true;
}

/* ---- turns ---- */

static void leave_locked(struct core *core, struct session *session, struct session_turn *turn)
{
    struct session_turn **at = &session->turns;
    while (*at != turn)
        at = &(*at)->next;
    *at = turn->next;
    session->turn_count--;
    (void)pthread_cond_broadcast(&core->changed);
}

/* Who waits goes on when the client leaves, and keeps the server's connection: without the bound on
 * all of them a client that has long gone could leave no connection to anybody. */
static int check_room_locked(const struct core *core, const struct session *session,
                             struct err *err)
{
    uint32_t most = core->config.turns_max;
    int result = 0;
    if (session->turn_count >= SESSION_TURNS_MAX)
        result = err_public(err, ERR_UNAVAILABLE,
                            "%zu executions of this session wait already; the most is %d",
                            session->turn_count, SESSION_TURNS_MAX);
    else if (session->turn_count > 0 && most > 0 && core->turns_waiting >= most)
        result = err_public(err, ERR_UNAVAILABLE,
                            "%u executions wait for their turn in sessions already", most);
    if (result != 0 && err)
        err->retry_after_s = 1;
    return result;
}

static int wait_for_turn_locked(struct core *core, struct session *session,
                                struct session_turn *turn, struct err *err)
{
    int result = check_room_locked(core, session, err);
    if (result != 0)
        return result;
    unsigned waits = session->turn_count > 0 ? 1 : 0;
    struct session_turn **at = &session->turns;
    while (*at)
        at = &(*at)->next;
    turn->next = NULL;
    *at = turn;
    session->turn_count++;
    core->turns_waiting += waits;
    for (;;) {
        bool cancelled = turn->live && turn->live->cancel_cause != KILL_NONE;
        if (session->closed || cancelled || core->stopping) {
            core->turns_waiting -= waits;
            leave_locked(core, session, turn);
            if (session->closed)
                return not_found(session->row.id, err);
            return cancelled ? err_set(err, ERR_CLOSED, "cancelled before its turn")
                             : core_say_stopping(err);
        }
        if (session->turns == turn) {
            core->turns_waiting -= waits;
            return 0;
        }
        (void)pthread_cond_wait(&core->changed, &core->lock);
    }
}

int session_take_turn(struct core *core, struct session *session, struct session_turn *turn,
                      struct err *err)
{
    (void)pthread_mutex_lock(&core->lock);
    int result = wait_for_turn_locked(core, session, turn, err);
    (void)pthread_mutex_unlock(&core->lock);
    return result;
}

bool session_is_busy(struct core *core, struct session *session)
{
    (void)pthread_mutex_lock(&core->lock);
    bool busy =
        !session->closed && session->turn_count > 0 && check_room_locked(core, session, NULL) == 0;
    (void)pthread_mutex_unlock(&core->lock);
    return busy;
}

void session_give_turn(struct core *core, struct session *session, struct session_turn *turn)
{
    (void)pthread_mutex_lock(&core->lock);
    session->used_us = clock_wall_us();
    leave_locked(core, session, turn);
    (void)pthread_mutex_unlock(&core->lock);
}

void session_set_running(struct core *core, struct session_turn *turn, struct live *live)
{
    (void)pthread_mutex_lock(&core->lock);
    turn->live = live;
    (void)pthread_mutex_unlock(&core->lock);
}

/* ---- what is asked about them ---- */

int session_check_times(const struct core *core, uint64_t *lifetime_ms, struct err *err)
{
    uint64_t most_ms = core->config.session_timeout_max_ms;
    if (*lifetime_ms > most_ms)
        return err_public(err, ERR_BAD_INPUT,
                          "timeout: %" PRIu64 " s were asked for, the most is %" PRIu64 " s",
                          *lifetime_ms / 1000, most_ms / 1000);
    return 0;
}

int core_session_list(struct core *core, const char *owner, struct buf *out, struct err *err)
{
    int result = buf_append_str(out, "{\"sessions\":[", err);
    bool first = true;
    (void)pthread_mutex_lock(&core->lock);
    for (const struct session *session = core->sessions; session && result == 0;
         session = session->next) {
        if (strcmp(session->row.owner, owner) != 0)
            continue;
        result = buf_printf(out, err, "%s\"%s\"", first ? "" : ",", session->row.id);
        first = false;
    }
    (void)pthread_mutex_unlock(&core->lock);
    return result == 0 ? buf_append_str(out, "]}", err) : result;
}

static int put_network(struct core *core, const struct session *session, struct buf *out,
                       struct err *err)
{
    struct network network;
    int result = session_copy_network(core, session, &network, err);
    if (result != 0)
        return result;
    result = buf_append_str(out, ",\"network\":", err);
    if (result == 0)
        result = network_append_json(core->config.network, &network, out, err);
    network_done(&network);
    return result;
}

static int put_time(struct buf *out, const char *key, int64_t wall_us, struct err *err)
{
    char text[CLOCK_ISO8601_SIZE];
    if (wall_us == 0)
        return buf_printf(out, err, ",\"%s\":null", key);
    clock_format_iso8601(wall_us, text);
    return buf_printf(out, err, ",\"%s\":\"%s\"", key, text);
}

static int put_seconds(struct buf *out, const char *key, uint64_t ms, struct err *err)
{
    if (ms == 0)
        return buf_printf(out, err, ",\"%s\":null", key);
    return buf_printf(out, err, ",\"%s\":%" PRIu64 ".%03" PRIu64, key, ms / 1000, ms % 1000);
}

/* An idle session ends when it was idle for so long; one that works has only its lifetime. */
static int64_t expiry_of(const struct glance *glance)
{
    int64_t idle_us = glance->idle_ms != 0 && glance->running[0] == '\0'
                          ? glance->used_us + (int64_t)glance->idle_ms * 1000
                          : 0;
    if (idle_us == 0 || (glance->lifetime_us != 0 && glance->lifetime_us < idle_us))
        return glance->lifetime_us;
    return idle_us;
}

int session_append_json(struct core *core, const struct session *session, struct buf *out,
                        struct err *err)
{
    const struct store_session *row = &session->row;
    struct glance glance;
    look_at(core, session, &glance);
    const char *quote = row->runtime[0] != '\0' ? "\"" : "";
    int result = buf_printf(out, err,
                            "{\"session_id\":\"%s\",\"status\":\"active\",\"lang\":\"%s\","
                            "\"image\":\"%s\",\"profile\":\"%s\",\"engine\":\"%s\","
                            "\"runtime\":%s%s%s,\"labels\":%s",
                            row->id, row->lang, row->image, row->profile, row->engine, quote,
                            row->runtime[0] != '\0' ? row->runtime : "null", quote,
                            row->labels ? row->labels : "{}");
    if (result == 0)
        result = put_time(out, "created_at", row->created_us, err);
    if (result == 0)
        result = put_time(out, "last_used_at", glance.used_us, err);
    if (result == 0)
        result = put_time(out, "expires_at", expiry_of(&glance), err);
    if (result == 0)
        result = put_seconds(out, "timeout", glance.timeout_ms, err);
    if (result == 0)
        result = put_seconds(out, "idle_timeout", glance.idle_ms, err);
    if (result == 0)
        result =
            buf_printf(out, err,
                       ",\"resources\":{\"cpu\":%u.%03u,\"ram\":%" PRIu64 ",\"storage\":%" PRIu64
                       "},\"execution_count\":%" PRIu64 ",\"waiting\":%zu",
                       row->cpu_millis / 1000, row->cpu_millis % 1000, row->memory_bytes,
                       row->storage_bytes, glance.executions, glance.waiting);
    if (result == 0)
        result = session_libraries_json(core, session, out, err);
    if (result == 0)
        result = put_network(core, session, out, err);
    if (result != 0)
        return result;
    return glance.running[0] != '\0' ? buf_printf(out, err, ",\"running\":\"%s\"}", glance.running)
                                     : buf_append_str(out, ",\"running\":null}", err);
}

int core_session_get(struct core *core, const char *owner, const char *id, struct buf *out,
                     struct err *err)
{
    struct session *session = NULL;
    int result = session_find(core, owner, id, &session, err);
    if (result == 0)
        result = session_append_json(core, session, out, err);
    session_unref(core, session);
    return result;
}

int core_session_interrupt(struct core *core, const char *owner, const char *id, struct buf *out,
                           struct err *err)
{
    struct session *session = NULL;
    struct glance glance;
    int result = session_find(core, owner, id, &session, err);
    if (result != 0)
        return result;
    look_at(core, session, &glance);
    bool interrupted = glance.running[0] != '\0' && live_interrupt(core, NULL, glance.running);
    session_unref(core, session);
    return buf_printf(out, err, "{\"session_id\":\"%s\",\"interrupted\":%s%s%s}", id,
                      interrupted ? "\"" : "", interrupted ? glance.running : "null",
                      interrupted ? "\"" : "");
}

int core_session_delete(struct core *core, const char *owner, const char *id, struct buf *out,
                        struct err *err)
{
    struct session *session = NULL;
    int result = session_find(core, owner, id, &session, err);
    if (result != 0)
        return result;
    /* The row first: a server that dies after it finds a sandbox that nobody owns. */
    result = store_session_remove(core->store, id, err);
    if (result == 0 && session_close(core, session, KILL_USER)) {
        atomic_fetch_add(&core->metrics.sessions_ended[SESSION_END_DELETED], 1);
        box_destroy(core, session->row.sandbox_id);
        end_rows(core, session);
    }
    session_unref(core, session);
    return result == 0 ? buf_printf(out, err, "{\"session_id\":\"%s\",\"status\":\"closed\"}", id)
                       : result;
}
