/* Owns the sessions of an earlier server: they are in the table before the first request, and
 * checked when the engine says what lives. What ran meanwhile is settled by a thread a session,
 * which has its turn before any new execution. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "core/session_libraries.h"

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
    struct engine_slot *slot = engines_find(core, session->row.engine);
    if (!slot)
        log_warn("session %s is of the engine %s, which is not one of BERTH_ENGINES",
                 session->row.id, session->row.engine);
    int result = box_adopt(core, slot, session->row.sandbox_id, &reserve, err);
    if (result == 0)
        result = session_libraries_load(core, session, err);
    if (result == 0)
        result = session_give_network(core, session, err);
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

/* An idle one may have worked meanwhile, for as long as code may run. */
static bool is_over(const struct core *core, const struct session *session, int64_t now_us)
{
    int64_t longest_ms = (int64_t)(session->row.idle_ms + core->config.timeout_max_ms);
    if (session->row.lifetime_us != 0 && session->row.lifetime_us <= now_us)
        return true;
    return session->row.idle_ms != 0 && session->used_us + longest_ms * 1000 <= now_us;
}

void session_end_strays(struct core *core)
{
    for (;;) {
        char sandbox_id[STORE_ID_SIZE] = "";
        int64_t now_us = clock_wall_us();
        (void)pthread_mutex_lock(&core->lock);
        for (const struct session *session = core->sessions; session && !sandbox_id[0];
             session = session->next) {
            if (!engines_find(core, session->row.engine) && is_over(core, session, now_us))
                memcpy(sandbox_id, session->row.sandbox_id, sizeof(sandbox_id));
        }
        (void)pthread_mutex_unlock(&core->lock);
        if (sandbox_id[0] == '\0')
            return;
        (void)session_on_gone(core, sandbox_id, KILL_NONE);
    }
}

/* One more, unless the server stops: whoever waits for them has counted them by then. */
static bool settlers_begin(struct core *core)
{
    (void)pthread_mutex_lock(&core->lock);
    bool stopping = core->stopping;
    core->settlers += stopping ? 0 : 1;
    (void)pthread_mutex_unlock(&core->lock);
    return !stopping;
}

static void settlers_end(struct core *core)
{
    (void)pthread_mutex_lock(&core->lock);
    core->settlers--;
    (void)pthread_cond_broadcast(&core->changed);
    (void)pthread_mutex_unlock(&core->lock);
}

/* One try, in a turn of its own: who waits for the session is not to wait for a slow host too.
 * Returns whether another one is to be made. */
static bool try_to_settle(struct settler *settler)
{
    struct core *core = settler->core;
    struct session *session = settler->session;
    struct err err = ERR_INIT;
    if (session_take_turn(core, session, &settler->turn, &err) != 0)
        return err.kind == ERR_UNAVAILABLE && !core_is_stopping(core); /* too many wait */
    int result = session_see_channel(core, session, &settler->turn, &err);
    bool again = result != 0 && !core_is_stopping(core);
    if (again && session_has_ended(core, session, result)) {
        session_drop(core, session, err.message);
        again = false;
    }
    session_give_turn(core, session, &settler->turn);
    return again;
}

static void *settle(void *context)
{
    struct settler *settler = context;
    struct core *core = settler->core;
    while (try_to_settle(settler))
        clock_sleep_ns(RETRY_NS); /* the engine went away, or the host is slow */
    session_unref(core, settler->session);
    free(settler);
    settlers_end(core); /* core may go from here on */
    return NULL;
}

/* With a settler of its own, which takes over the reference. */
static bool start_thread(struct core *core, struct session *session)
{
    pthread_t thread;
    pthread_attr_t attributes;
    struct settler *settler = calloc(1, sizeof(*settler));
    if (!settler)
        return false;
    *settler = (struct settler){.core = core, .session = session};
    (void)pthread_attr_init(&attributes);
    (void)pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    (void)pthread_attr_setstacksize(&attributes, SETTLER_STACK_BYTES);
    int failed = pthread_create(&thread, &attributes, settle, settler);
    (void)pthread_attr_destroy(&attributes);
    if (failed)
        free(settler);
    return !failed;
}

/* Starts the thread that settles a session, which takes over the reference. A server that stops
 * leaves it to the next one. */
static void start_settler(struct core *core, struct session *session)
{
    bool may = settlers_begin(core);
    if (may && start_thread(core, session))
        return;
    if (may)
        log_error("session %s: no thread to settle it; its next execution does", session->row.id);
    session_unref(core, session);
    if (may)
        settlers_end(core);
}

static bool take_settling(struct core *core, struct session *session)
{
    (void)pthread_mutex_lock(&core->lock);
    bool wanted = session->to_settle;
    session->to_settle = false;
    (void)pthread_mutex_unlock(&core->lock);
    return wanted;
}

/* The sessions of an engine, each with a reference. */
static struct session **collect(struct core *core, const char *engine, size_t *out_count)
{
    (void)pthread_mutex_lock(&core->lock);
    size_t count = 0;
    for (const struct session *session = core->sessions; session; session = session->next)
        count++;
    struct session **all = calloc(count > 0 ? count : 1, sizeof(struct session *));
    size_t filled = 0;
    for (struct session *session = all ? core->sessions : NULL; session; session = session->next) {
        if (strcmp(session->row.engine, engine) != 0)
            continue;
        session->references++;
        all[filled++] = session;
    }
    (void)pthread_mutex_unlock(&core->lock);
    *out_count = filled;
    return all;
}

void session_reconcile(struct core *core, const struct engine_slot *slot)
{
    size_t count = 0;
    MEM_AUTO struct session **all = collect(core, slot->name, &count);
    for (size_t i = 0; i < count; i++) {
        struct session *session = all[i];
        bool stops = core_is_stopping(core); /* each look may wait for an engine that is away */
        bool ended = !stops && session_sandbox_ended(core, session);
        if (ended)
            session_drop(core, session, "its sandbox is gone");
        if (!stops && !ended && take_settling(core, session))
            start_settler(core, session);
        else
            session_unref(core, session);
    }
}

void session_note_cancel_locked(struct session *session, const char *id, enum kill_cause cause)
{
    for (size_t i = 0; i < session->cancel_count; i++) {
        if (strcmp(session->cancels[i].id, id) == 0)
            return;
    }
    struct session_cancel *cancels =
        reallocarray(session->cancels, session->cancel_count + 1, sizeof(*cancels));
    if (!cancels) {
        log_error("session %s: no memory for the cancellation of %s", session->row.id, id);
        return;
    }
    session->cancels = cancels;
    struct session_cancel *last = &cancels[session->cancel_count++];
    (void)snprintf(last->id, sizeof(last->id), "%s", id);
    last->cause = cause;
}

void session_settle_again(struct core *core, struct session *session)
{
    struct engine_slot *slot = engines_find(core, session->row.engine);
    (void)pthread_mutex_lock(&core->lock);
    session->unsettled = session->to_settle = true;
    if (slot)
        slot_reconcile_locked(slot);
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
