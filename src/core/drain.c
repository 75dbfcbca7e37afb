/* Owns the draining of a server: nothing new begins, what is there ends, and somebody waits for it.
 * Draining is a state of this process alone: a server that starts anew does not drain. */
#include "core/drain.h"

#include <inttypes.h>
#include <poll.h>

#include "base/clock.h"
#include "core/session_internal.h"

#define GRACE_NS (2 * CLOCK_NS_PER_S) /* for executions to end before their sessions do */
#define LOOK_MS 10
#define RETRY_AFTER_S 10

struct left {
    unsigned executions, sessions, sandboxes;
};

int core_say_draining(struct err *err)
{
    int result = err_public(err, ERR_UNAVAILABLE,
                            "the server is being drained: nothing new begins here until its "
                            "operator lifts that, or starts it anew");
    if (err)
        err->retry_after_s = RETRY_AFTER_S;
    return result;
}

static struct left count_left(struct core *core)
{
    struct left left = {0};
    (void)pthread_mutex_lock(&core->lock);
    for (const struct live *live = core->lives; live; live = live->next)
        left.executions++;
    for (const struct session *session = core->sessions; session; session = session->next)
        left.sessions++;
    for (const struct box *box = core->boxes; box; box = box->next)
        left.sandboxes++; /* also those of the pool, which empties itself while we drain */
    (void)pthread_mutex_unlock(&core->lock);
    return left;
}

static bool is_empty(const struct left *left)
{
    return left->executions == 0 && left->sessions == 0 && left->sandboxes == 0;
}

static void begin(struct core *core)
{
    (void)pthread_mutex_lock(&core->lock);
    if (!core->draining) {
        core->draining = true;
        core->drain_killed = core->metrics.killed[KILL_SERVER];
        core->drain_sessions = core->metrics.sessions_ended[SESSION_END_DRAINED];
    }
    (void)pthread_mutex_unlock(&core->lock);
}

/* Returns whether it still drains: who lifted it begins anew beside whoever waits here. */
static bool cancel_all(struct core *core)
{
    (void)pthread_mutex_lock(&core->lock);
    bool draining = core->draining;
    for (struct live *live = draining ? core->lives : NULL; live; live = live->next)
        live_cancel_locked(live, KILL_SERVER);
    (void)pthread_cond_broadcast(&core->changed); /* some wait for their turn */
    (void)pthread_mutex_unlock(&core->lock);
    return draining;
}

static int append_state(struct core *core, struct buf *out, struct err *err)
{
    const struct left left = count_left(core);
    (void)pthread_mutex_lock(&core->lock);
    bool draining = core->draining;
    uint64_t killed = draining ? core->metrics.killed[KILL_SERVER] - core->drain_killed : 0;
    uint64_t sessions =
        draining ? core->metrics.sessions_ended[SESSION_END_DRAINED] - core->drain_sessions : 0;
    (void)pthread_mutex_unlock(&core->lock);
    const char *status = !draining ? "active" : is_empty(&left) ? "drained" : "draining";
    return buf_printf(out, err,
                      "{\"status\":\"%s\",\"ended\":{\"executions\":%" PRIu64
                      ",\"sessions\":%" PRIu64 "},\"left\":{\"executions\":%u,\"sessions\":%u,"
                      "\"sandboxes\":%u}}",
                      status, killed, sessions, left.executions, left.sessions, left.sandboxes);
}

int core_drain(struct core *core, uint64_t wait_ms, int gone_fd, struct buf *out, struct err *err)
{
    int64_t begun_ns = clock_now_ns();
    begin(core);
    for (;;) {
        if (!cancel_all(core)) /* also what has come from the queue of the store since */
            return append_state(core, out, err);
        struct left left = count_left(core);
        if (left.executions == 0 || clock_now_ns() - begun_ns > GRACE_NS)
            session_end_all(core);
        if (core_is_stopping(core))
            return core_say_stopping(err);
        if (is_empty(&left) || clock_now_ns() - begun_ns >= (int64_t)wait_ms * CLOCK_NS_PER_MS)
            return append_state(core, out, err);
        struct pollfd gone = {.fd = gone_fd, .events = POLLIN | POLLRDHUP};
        if (poll(&gone, 1, LOOK_MS) > 0)
            return err_set(err, ERR_CLOSED, "who waited for the drain has gone; it goes on");
    }
}

int core_drain_lift(struct core *core, struct buf *out, struct err *err)
{
    (void)pthread_mutex_lock(&core->lock);
    core->draining = false;
    (void)pthread_mutex_unlock(&core->lock);
    return append_state(core, out, err);
}

int core_drain_get(struct core *core, struct buf *out, struct err *err)
{
    return append_state(core, out, err);
}

bool core_is_draining(struct core *core)
{
    (void)pthread_mutex_lock(&core->lock);
    bool draining = core->draining;
    (void)pthread_mutex_unlock(&core->lock);
    return draining;
}
