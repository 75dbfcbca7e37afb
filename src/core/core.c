/* Owns the core object: its parts, the table of what lives, and the answers about executions that
 * are asked for by id. */
#include "core/core.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "core/answer.h"
#include "core/compile_cache.h"
#include "core/core_internal.h"
#include "core/execution_json.h"
#include "core/kernel_input.h"
#include "core/layers.h"
#include "core/languages.h"
#include "core/network_use.h"
#include "core/pool.h"
#include "core/record.h"
#include "core/session_internal.h"

#define CREATE_BUDGET_NS (10 * CLOCK_NS_PER_S)
#define ANSWER_NS (10 * CLOCK_NS_PER_S)
#define IMAGE_LOOK_NS (5 * CLOCK_NS_PER_S)
#define CAUSE_NS (3 * CLOCK_NS_PER_S)
#define FREE_WAIT_NS (3 * CLOCK_NS_PER_S) /* for sandboxes to go, when the server stops */

int live_begin(struct core *core, const char *owner, const char *id, struct record *record,
               struct live *live, struct err *err)
{
    *live = (struct live){.record = record, .of_session = live->of_session};
    if (id)
        (void)snprintf(live->id, sizeof(live->id), "%s", id);
    else
        id_uuid(live->id);
    if (snprintf(live->owner, sizeof(live->owner), "%s", owner) >= (int)sizeof(live->owner))
        return err_set(err, ERR_INTERNAL, "an owner's name that is too long");
    live->cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    live->interrupt_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (live->cancel_fd < 0 || live->interrupt_fd < 0) {
        int sys_errno = errno;
        fd_close(&live->cancel_fd);
        fd_close(&live->interrupt_fd);
        return err_sys(err, sys_errno, "eventfd of an execution");
    }
    (void)pthread_mutex_lock(&core->lock);
    bool stopping = core->stopping;
    bool draining = core->draining && !id;
    if (!stopping && !draining) {
        live->next = core->lives;
        core->lives = live;
    }
    (void)pthread_mutex_unlock(&core->lock);
    if (!stopping && !draining)
        return 0;
    fd_close(&live->cancel_fd);
    fd_close(&live->interrupt_fd);
    return stopping ? core_say_stopping(err) : core_say_draining(err);
}

int core_say_stopping(struct err *err)
{
    int result = err_public(err, ERR_UNAVAILABLE, "the server is stopping; try again");
    if (err)
        err->retry_after_s = 2;
    return result;
}

bool core_is_stopping(struct core *core)
{
    (void)pthread_mutex_lock(&core->lock);
    bool stopping = core->stopping;
    (void)pthread_mutex_unlock(&core->lock);
    return stopping;
}

void live_end(struct core *core, struct live *live)
{
    (void)pthread_mutex_lock(&core->lock);
    for (struct live **at = &core->lives; *at; at = &(*at)->next) {
        if (*at == live) {
            *at = live->next;
            break;
        }
    }
    (void)pthread_cond_broadcast(&core->changed);
    (void)pthread_mutex_unlock(&core->lock);
    fd_close(&live->cancel_fd);
    fd_close(&live->interrupt_fd);
}

static struct live *find_live_locked(struct core *core, const char *owner, const char *id)
{
    for (struct live *live = core->lives; live; live = live->next) {
        if (strcmp(live->id, id) == 0 && (!owner || strcmp(live->owner, owner) == 0))
            return live;
    }
    return NULL;
}

/* The write to an eventfd never blocks, so it is done under the lock, which keeps the entry from
 * going. */
void live_cancel_locked(struct live *live, enum kill_cause cause)
{
    int none = KILL_NONE;
    uint64_t one = 1;
    if (live->box_lost) /* a better reason, which stays */
        live->cancel_cause = (int)cause;
    live->box_lost = false;
    if (atomic_compare_exchange_strong(&live->cancel_cause, &none, (int)cause))
        (void)!write(live->cancel_fd, &one, sizeof(one));
    if (live->blocked)
        channel_break(live->blocked);
}

void live_set_blocked_locked(struct live *live, struct channel *channel)
{
    live->blocked = channel;
    if (channel && live->cancel_cause != KILL_NONE)
        channel_break(channel);
}

void live_box_gone_locked(struct live *live)
{
    if (live->cancel_cause != KILL_NONE)
        return;
    live_cancel_locked(live, KILL_SERVER);
    live->box_lost = true;
}

bool live_leave_box(struct core *core, struct live *live)
{
    uint64_t count = 0;
    (void)pthread_mutex_lock(&core->lock);
    live->sandbox_id[0] = '\0';
    if (live->box_lost) {
        live->box_lost = false;
        live->cancel_cause = KILL_NONE;
        (void)!read(live->cancel_fd, &count, sizeof(count));
    }
    bool goes_on = live->cancel_cause == KILL_NONE;
    (void)pthread_mutex_unlock(&core->lock);
    return goes_on;
}

bool live_cancel(struct core *core, const char *owner, const char *id, enum kill_cause cause)
{
    (void)pthread_mutex_lock(&core->lock);
    struct live *live = find_live_locked(core, owner, id);
    if (live)
        live_cancel_locked(live, cause);
    (void)pthread_cond_broadcast(&core->changed); /* it may wait for its turn in a session */
    (void)pthread_mutex_unlock(&core->lock);
    return live != NULL;
}

bool live_interrupt(struct core *core, const char *owner, const char *id)
{
    uint64_t one = 1;
    (void)pthread_mutex_lock(&core->lock);
    struct live *live = find_live_locked(core, owner, id);
    if (live)
        (void)!write(live->interrupt_fd, &one, sizeof(one));
    (void)pthread_mutex_unlock(&core->lock);
    return live != NULL;
}

struct record *live_record(struct core *core, const char *owner, const char *id)
{
    (void)pthread_mutex_lock(&core->lock);
    const struct live *live = find_live_locked(core, owner, id);
    struct record *record = live ? record_ref(live->record) : NULL;
    (void)pthread_mutex_unlock(&core->lock);
    return record;
}

bool live_exists(struct core *core, const char *id)
{
    (void)pthread_mutex_lock(&core->lock);
    bool exists = find_live_locked(core, NULL, id) != NULL;
    (void)pthread_mutex_unlock(&core->lock);
    return exists;
}

void live_wait(struct core *core, const char *id)
{
    (void)pthread_mutex_lock(&core->lock);
    while (find_live_locked(core, NULL, id))
        (void)pthread_cond_wait(&core->changed, &core->lock);
    (void)pthread_mutex_unlock(&core->lock);
}

/* Ends what an earlier server left. A full disk must not keep the server from starting: executions
 * are ended when they are asked for (read_execution()), the table of sandboxes is only for people.
 */
static int settle_books(struct core *core, struct err *err)
{
    struct err failure = ERR_INIT;
    int result = layers_open(core, err); /* sessions use them */
    if (result == 0)
        result = session_load(core, err); /* without them their sandboxes would be nobody's */
    if (result == 0)
        result = layers_start(core, err);
    if (result != 0)
        return result;
    result = execution_end_orphans(core, &failure);
    if (result == 0)
        result = store_sandbox_clear(core->store, &failure);
    if (result == -ERR_UNAVAILABLE) {
        log_error("what an earlier server left could not be ended: %s", failure.message);
        return 0;
    }
    return result == 0 ? 0 : err_copy(err, &failure);
}

/* Beside the store. Without it every program is compiled, so that it is missing stops nobody. */
static void open_compile_cache(struct core *core)
{
    char path[PATH_MAX];
    struct err failure = ERR_INIT;
    const char *slash = strrchr(core->config.db_path, '/');
    int folder = slash ? (int)(slash - core->config.db_path) + 1 : 0;
    (void)snprintf(path, sizeof(path), "%.*scompiled", folder, core->config.db_path);
    if (compile_cache_open(path, core->config.compile_cache_bytes, &core->compiled, &failure) != 0)
        log_warn("compiled programs are not kept: %s", failure.message);
}

static int open_parts(struct core *core, struct err *err)
{
    const struct admission_config places = {.living_max = core->config.sandboxes_max,
                                            .creates_max = core->config.creates_max,
                                            .queue_max = core->config.queue_max};
    int result = engines_open(core, err);
    if (result == 0)
        result = admission_new(&places, &core->admission, err);
    if (result == 0)
        result = store_open(core->config.db_path, &core->store, err);
    if (result == 0 && core->config.keep_bytes != 0)
        store_set_text_max(core->store, core->config.keep_bytes);
    if (result == 0)
        result = settle_books(core, err);
    core->languages = languages_new();
    if (result == 0 && !core->languages)
        result = err_set(err, ERR_INTERNAL, "no memory for languages");
    if (result != 0)
        return result;
    if (core->config.compile_cache_bytes != 0)
        open_compile_cache(core);
    if (core->config.pool_max == 0)
        return 0;
    return pool_new(core, core->config.pool_min, &core->pool, err);
}

int core_new(const struct core_config *config, struct core **out, struct err *err)
{
    struct core *core = calloc(1, sizeof(*core));
    if (!core)
        return err_set(err, ERR_INTERNAL, "no memory for the core");
    core->config = *config;
    kept_init(&core->kept, config->answers_max_bytes);
    core->create_budget_ns = CREATE_BUDGET_NS;
    core->answer_ns = ANSWER_NS;
    core->image_look_ns = IMAGE_LOOK_NS;
    core->cause_wait_ns = CAUSE_NS;
    (void)pthread_mutex_init(&core->lock, NULL);
    pthread_condattr_t attributes;
    (void)pthread_condattr_init(&attributes);
    (void)pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&core->changed, &attributes);
    (void)pthread_cond_init(&core->network_changed, &attributes);
    (void)pthread_condattr_destroy(&attributes);
    int result = open_parts(core, err);
    if (result != 0) {
        core_free(core);
        return result;
    }
    *out = core;
    return 0;
}

void core_stop(struct core *core)
{
    (void)pthread_mutex_lock(&core->lock);
    core->stopping = true;
    struct pool *pool = core->pool;
    for (struct live *live = core->lives; live; live = live->next) {
        if (!live->of_session)
            live_cancel_locked(live, KILL_SERVER);
    }
    (void)pthread_cond_broadcast(&core->changed);
    (void)pthread_mutex_unlock(&core->lock);
    session_leave_all(core);
    pool_stop(pool);
}

/* Whether there is a sandbox that is not to stay. */
static bool has_own_box_locked(const struct core *core)
{
    for (const struct box *box = core->boxes; box; box = box->next) {
        if (!box->of_session || box->state == SANDBOX_DESTROYING)
            return true;
    }
    return false;
}

/* Ends what runs and waits for it; then waits a little for the sandboxes to go. What is left then
 * is destroyed by the next server. */
static void drain(struct core *core)
{
    core_stop(core);
    (void)pthread_mutex_lock(&core->lock);
    while (core->lives || core->settlers > 0)
        (void)pthread_cond_wait(&core->changed, &core->lock);
    int64_t until_ns = clock_now_ns() + FREE_WAIT_NS;
    const struct timespec until = {.tv_sec = (time_t)(until_ns / CLOCK_NS_PER_S),
                                   .tv_nsec = (long)(until_ns % CLOCK_NS_PER_S)};
    int status = 0;
    while (has_own_box_locked(core) && status != ETIMEDOUT)
        status = pthread_cond_timedwait(&core->changed, &core->lock, &until);
    (void)pthread_mutex_unlock(&core->lock);
}

void core_free(struct core *core)
{
    if (!core)
        return;
    drain(core);
    engines_stop(core);
    pool_join(core->pool);
    network_stop(core);
    layers_stop(core);
    engines_free(core);
    network_close(core); /* after the engines, whose threads may still say that a sandbox ended */
    pool_free(core->pool);
    session_free_all(core);
    layers_close(core);
    kernel_input_free_all(core);
    languages_free(core->languages);
    compile_cache_close(core->compiled);
    while (core->boxes) {
        struct box *next = core->boxes->next;
        network_use_free(core->boxes->network);
        free(core->boxes);
        core->boxes = next;
    }
    store_close(core->store);
    admission_free(core->admission);
    kept_done(&core->kept);
    (void)pthread_cond_destroy(&core->network_changed);
    engines_close(core);
    (void)pthread_cond_destroy(&core->changed);
    (void)pthread_mutex_destroy(&core->lock);
    free(core);
}

static int not_found(const char *id, struct err *err)
{
    return err_public(err, ERR_NOT_FOUND, "there is no execution \"%.40s\"", id);
}

/* Reads a row. One that has not ended and does not live ended since it was read, or its outcome
 * could not be stored: then it gets one now. */
static int read_execution(struct core *core, const char *owner, const char *id,
                          struct store_execution *row, struct answer *out, struct err *err)
{
    int result = execution_read(core, owner, id, row, out, err);
    if (result != 0 || row->finished_us != 0 || live_exists(core, id))
        return result;
    if (session_exists(core, row->session_id)) /* init may hold it */
        return 0;
    result = execution_read(core, owner, id, row, out, err);
    if (result == 0 && row->finished_us == 0 && execution_end_orphan(core, row, NULL) == 0)
        result = execution_read(core, owner, id, row, out, err);
    return result;
}

int core_execution_get(struct core *core, const char *owner, const char *id, struct answer *out,
                       struct err *err)
{
    struct store_execution row;
    int result = id_is_uuid(id) ? read_execution(core, owner, id, &row, out, err) : -ERR_NOT_FOUND;
    if (result == -ERR_NOT_FOUND)
        return not_found(id, err);
    if (result != 0 || row.has_outcome)
        return result;
    if (row.finished_us != 0)
        return err_public(err, ERR_NOT_FOUND,
                          "the outcome of execution %s has expired: it is kept for %" PRIu64 " s",
                          row.id, core->config.keep_outcome_ms / 1000);
    return execution_json_row(row.id, row.status, row.lang, row.created_us, row.started_us, 0,
                              answer_plain(out), err);
}

/* Notes for one that nobody follows now, and that init may have, that it is to end. Returns whether
 * somebody follows it after all. */
static bool note_cancel(struct core *core, const char *owner, const char *id)
{
    struct store_execution row;
    struct session *session = NULL;
    if (store_execution_get(core->store, owner, id, &row, NULL, NULL, NULL) != 0 ||
        row.finished_us != 0 || session_find(core, owner, row.session_id, &session, NULL) != 0)
        return false;
    (void)pthread_mutex_lock(&core->lock);
    struct live *live = find_live_locked(core, owner, id);
    if (live)
        live_cancel_locked(live, KILL_USER);
    else
        session_note_cancel_locked(session, id, KILL_USER);
    (void)pthread_cond_broadcast(&core->changed);
    (void)pthread_mutex_unlock(&core->lock);
    session_unref(core, session);
    return live != NULL;
}

int core_execution_cancel(struct core *core, const char *owner, const char *id, struct answer *out,
                          struct err *err)
{
    if (id_is_uuid(id) && (live_cancel(core, owner, id, KILL_USER) || note_cancel(core, owner, id)))
        live_wait(core, id);
    return core_execution_get(core, owner, id, out, err);
}

/* A filter that nothing can match, or a place that is not there, must not look like the end. */
static int check_list(struct core *core, const char *owner, const char *status, const char *after,
                      struct err *err)
{
    struct store_execution row;
    bool known = !status;
    for (int state = 0; state < EXECUTION_STATE_COUNT && !known; state++)
        known = strcmp(status, execution_state_name((enum execution_state)state)) == 0;
    if (!known)
        return err_public(err, ERR_BAD_INPUT,
                          "status: expected queued, running, success, error, timeout or killed");
    int result = after ? store_execution_get(core->store, owner, after, &row, NULL, NULL, err) : 0;
    if (result == -ERR_NOT_FOUND)
        return err_public(err, ERR_BAD_INPUT, "after: expected the id of an execution");
    return result;
}

int core_execution_list(struct core *core, const char *owner, const char *status, const char *after,
                        unsigned limit, struct buf *out, struct err *err)
{
    MEM_AUTO struct store_execution *rows = NULL;
    size_t count = 0;
    if (limit == 0 || limit > 1000)
        limit = 1000;
    int result = check_list(core, owner, status, after, err);
    if (result == 0)
        result =
            store_execution_list(core->store, owner, status, after, limit + 1, &rows, &count, err);
    if (result != 0)
        return result;
    bool more = count > limit;
    count = more ? limit : count;
    result = buf_append_str(out, "{\"executions\":[", err);
    for (size_t i = 0; i < count && result == 0; i++) {
        const struct store_execution *row = &rows[i];
        if (i > 0)
            result = buf_append_str(out, ",", err);
        if (result == 0)
            result = execution_json_row(row->id, row->status, row->lang, row->created_us,
                                        row->started_us, row->finished_us, out, err);
    }
    if (result != 0)
        return result;
    return more ? buf_printf(out, err, "],\"next\":\"%s\"}", rows[count - 1].id)
                : buf_append_str(out, "],\"next\":null}", err);
}
