/* Owns the sessions of an earlier server: they are in the table before the first request, and
 * checked when the engine says what lives. What ran meanwhile is settled by a thread a session,
 * which has its turn before any new execution. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "core/session_internal.h"

#define SETTLER_STACK_BYTES (256U * 1024U)
#define RETRY_NS (200 * CLOCK_NS_PER_MS)

/* Waits for its session's executions; on the heap while its thread runs. */
struct settler {
    struct core *core;
    struct session *session;
    struct session_turn turn;
};

static int load_one(struct core *core, struct store_session *row, struct err *err)
{
    struct session *session = calloc(1, sizeof(*session));
    if (!session)
        return err_set(err, ERR_INTERNAL, "no memory for a session");
    session->row = *row;
    memset(row, 0, sizeof(*row)); /* its texts are the session's now */
    session->unsettled = session->to_settle = true;
    const struct reservation reserve = {.memory_bytes = session->row.reserve_memory_bytes,
                                        .disk_bytes = session->row.reserve_disk_bytes};
    int result = box_adopt(core, session->row.sandbox_id, &reserve, err);
    session_add(core, session);
    session_unref(core, session);
    return result;
}

int session_load(struct core *core, struct err *err)
{
    struct store_session *rows = NULL;
    size_t count = 0;
    int result = store_session_all(core->store, &rows, &count, err);
    for (size_t i = 0; i < count; i++) {
        if (result == 0)
            result = load_one(core, &rows[i], err);
        store_session_done(&rows[i]);
    }
    free(rows);
    if (result == 0 && count > 0)
        log_info("%zu sessions of an earlier server are taken over", count);
    return result;
}

/* Whether its sandbox runs no more; unknown counts as running. */
static bool has_ended(struct core *core, const char *sandbox_id)
{
    struct engine *engine = NULL;
    enum engine_state state = ENGINE_STATE_RUNNING;
    if (core_engine(core, &engine, NULL) != 0)
        return false;
    int result =
        engine_inspect(engine, sandbox_id, clock_now_ns() + 5 * CLOCK_NS_PER_S, &state, NULL);
    return result == -ERR_NOT_FOUND || (result == 0 && state != ENGINE_STATE_RUNNING);
}

static void settlers_add(struct core *core, int count)
{
    (void)pthread_mutex_lock(&core->lock);
    core->settlers += count;
    (void)pthread_cond_broadcast(&core->changed);
    (void)pthread_mutex_unlock(&core->lock);
}

static void *settle(void *context)
{
    struct settler *settler = context;
    struct core *core = settler->core;
    struct session *session = settler->session;
    struct err err = ERR_INIT;
    int result = session_take_turn(core, session, &settler->turn, &err);
    bool in_turn = result == 0;
    while (in_turn && (result = session_see_channel(core, session, &settler->turn, &err)) != 0) {
        if (core_is_stopping(core) || session_is_closed(core, session))
            break;
        if (session_is_lost(result) || result == -ERR_NOT_FOUND) {
            session_drop(core, session, err.message);
            break;
        }
        clock_sleep_ns(RETRY_NS); /* the engine went away; it comes back, or reconciles again */
    }
    if (in_turn)
        session_give_turn(core, session, &settler->turn);
    session_unref(core, session);
    free(settler);
    settlers_add(core, -1); /* core may go from here on */
    return NULL;
}

/* Starts the thread that settles a session, which takes over the reference. */
static void start_settler(struct core *core, struct session *session)
{
    pthread_t thread;
    pthread_attr_t attributes;
    struct settler *settler = calloc(1, sizeof(*settler));
    if (settler) {
        *settler = (struct settler){.core = core, .session = session};
        settlers_add(core, 1);
        (void)pthread_attr_init(&attributes);
        (void)pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
        (void)pthread_attr_setstacksize(&attributes, SETTLER_STACK_BYTES);
        int failed = pthread_create(&thread, &attributes, settle, settler);
        (void)pthread_attr_destroy(&attributes);
        if (!failed)
            return;
        settlers_add(core, -1);
    }
    log_error("session %s: no thread to settle it; its next execution does", session->row.id);
    free(settler);
    session_unref(core, session);
}

static bool take_settling(struct core *core, struct session *session)
{
    (void)pthread_mutex_lock(&core->lock);
    bool wanted = session->to_settle;
    session->to_settle = false;
    (void)pthread_mutex_unlock(&core->lock);
    return wanted;
}

/* The sessions that there are, each with a reference. */
static struct session **collect(struct core *core, size_t *out_count)
{
    (void)pthread_mutex_lock(&core->lock);
    size_t count = 0;
    for (const struct session *session = core->sessions; session; session = session->next)
        count++;
    struct session **all = calloc(count > 0 ? count : 1, sizeof(struct session *));
    size_t filled = 0;
    for (struct session *session = all ? core->sessions : NULL; session; session = session->next) {
        session->references++;
        all[filled++] = session;
    }
    (void)pthread_mutex_unlock(&core->lock);
    *out_count = filled;
    return all;
}

void session_reconcile(struct core *core)
{
    size_t count = 0;
    MEM_AUTO struct session **all = collect(core, &count);
    for (size_t i = 0; i < count; i++) {
        struct session *session = all[i];
        if (has_ended(core, session->row.sandbox_id)) {
            session_drop(core, session, "its sandbox is gone");
            session_unref(core, session);
        } else if (take_settling(core, session)) {
            start_settler(core, session);
        } else {
            session_unref(core, session);
        }
    }
}

void session_settle_again(struct core *core, struct session *session)
{
    session_set_channel(core, session, NULL);
    (void)pthread_mutex_lock(&core->lock);
    session->to_settle = core->reconcile_wanted = true;
    (void)pthread_cond_signal(&core->housekeeper_wanted);
    (void)pthread_mutex_unlock(&core->lock);
}

void session_leave_all(struct core *core)
{
    (void)pthread_mutex_lock(&core->lock);
    for (struct session *session = core->sessions; session; session = session->next) {
        if (session->turns && session->channel)
            channel_break(session->channel);
    }
    (void)pthread_mutex_unlock(&core->lock);
}
