/* Owns the making of a session: place, sandbox, kernel, row. The row comes last, so that what a
 * killed server leaves half-made is nobody's and goes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "core/quota.h"
#include "core/ready.h"
#include "core/record.h"
#include "core/session_libraries.h"
#include "lang/lang.h"

#define CLAIM_TRIES 50
#define CLAIM_NS (10 * CLOCK_NS_PER_MS)
#define DEAD 1 /* beside 0 and negative kinds: one of the pool, and nothing is left of it */
#define HALF_MADE_MS 60000 /* a sandbox whose server died before it was a session */

/* One request as it goes. */
struct making {
    struct core *core;
    const struct session_request *request;
    struct plan plan;
    struct live live;
    uint64_t lifetime_ms, idle_ms;
    struct library_ask libraries;
    struct ready ready; /* sandbox_id "": none, or the session's now */
    bool fresh;         /* the pool's has proved dead */
};

static int plan(struct making *making, struct err *err)
{
    const struct session_request *request = making->request;
    const struct core_config *config = &making->core->config;
    const struct execution_request as_execution = {.owner = request->owner,
                                                   .lang = request->lang,
                                                   .cells = true,
                                                   .of_session = true,
                                                   .engine = request->engine,
                                                   .runtime = request->runtime,
                                                   .env = request->env,
                                                   .env_count = request->env_count,
                                                   .image = request->image,
                                                   .profile = request->profile,
                                                   .network = request->network,
                                                   .memory_bytes = request->memory_bytes,
                                                   .storage_bytes = request->storage_bytes,
                                                   .cpu_millis = request->cpu_millis,
                                                   .gpu_count = request->gpu_count,
                                                   .gone_fd = -1};
    making->lifetime_ms =
        request->lifetime_ms != 0 ? request->lifetime_ms : config->session_timeout_ms;
    making->idle_ms = request->idle_ms != 0 ? request->idle_ms : config->session_idle_ms;
    const struct engine_ask asked = {
        .engine = request->engine, .runtime = request->runtime, .of_session = true};
    int result = engines_allow(making->core, &asked, err);
    if (result == 0)
        result = session_check_times(making->core, &making->lifetime_ms, err);
    return result == 0 ? plan_make(making->core, &as_execution, &making->plan, err) : result;
}

/* The sandbox that was made is no more, or the way to it. DEAD: it was one of the pool's, and the
 * request may have another one. */
static int say_ended(struct making *making, struct err *err)
{
    bool again = making->ready.pooled && live_leave_box(making->core, &making->live);
    return again ? DEAD : err_public(err, ERR_UNAVAILABLE, "the session ended while it was made");
}

/* Libraries and times, and that it lives. */
static int fit_out(struct making *making, struct err *err)
{
    struct core *core = making->core;
    struct ready *ready = &making->ready;
    struct err failure = ERR_INIT;
    int result = library_ask_attach(&making->libraries, core, ready->sandbox_id, &failure);
    if (result == 0)
        result = session_set_timers(ready->channel, making->lifetime_ms, making->idle_ms, &failure);
    if (result == 0 && !box_keep(core, ready->sandbox_id))
        result = -ERR_CLOSED;
    if (result == -ERR_CLOSED)
        return say_ended(making, err);
    return result == 0 ? 0 : err_copy(err, &failure);
}

/* Sandbox and kernel, with a place. What fails leaves no sandbox_id, or one to destroy. */
static int make_sandbox(struct making *making, struct err *err)
{
    struct core *core = making->core;
    struct ready *ready = &making->ready;
    const struct box_life life = {.orphan_ms = HALF_MADE_MS};
    int64_t begun_ns = clock_now_ns();
    const struct ready_want want = {.plan = &making->plan,
                                    .life = &life,
                                    .env = making->request->env,
                                    .env_count = making->request->env_count,
                                    .network_at_start = true,
                                    .fresh = making->fresh};
    int result = ready_make(core, &making->live, making->request->gone_fd, &want, ready, err);
    admission_created(core->admission);
    metrics_observe(&core->metrics.create, (clock_now_ns() - begun_ns) / 1000);
    if (result != 0)
        return result;
    if (making->plan.kernel && !ready->kernel)
        return err_public(err, ERR_UNSUPPORTED, "lang: the kernel of %s can't be started here",
                          making->request->lang->name);
    return fit_out(making, err);
}

static int copy_texts(const struct making *making, struct store_session *row, struct err *err)
{
    const struct session_request *request = making->request;
    row->labels = request->labels ? strdup(request->labels) : NULL;
    row->idempotency_key = request->idempotency_key ? strdup(request->idempotency_key) : NULL;
    row->network = network_encode(&making->plan.network);
    bool whole = (row->labels || !request->labels) &&
                 (row->idempotency_key || !request->idempotency_key) && row->network;
    return whole ? 0 : err_set(err, ERR_INTERNAL, "no memory for a session");
}

/* A kernel has the variables from its start on; programs get them one by one, also from the next
 * server. */
static int copy_env(const struct making *making, struct store_session *row, struct err *err)
{
    const struct session_request *request = making->request;
    size_t size = 0;
    for (size_t i = 0; i < request->env_count; i++)
        size += strlen(request->env[i]) + 1;
    if (making->plan.kernel || size == 0)
        return 0;
    row->env = malloc(size);
    if (!row->env)
        return err_set(err, ERR_INTERNAL, "no memory for variables");
    for (size_t i = 0; i < request->env_count; i++) {
        size_t entry = strlen(request->env[i]) + 1;
        memcpy(row->env + row->env_size, request->env[i], entry);
        row->env_size += entry;
    }
    return 0;
}

static int fill_row(const struct making *making, struct store_session *row, struct err *err)
{
    const struct session_request *request = making->request;
    const struct resources *resources = &making->plan.resources;
    int result = copy_texts(making, row, err);
    if (result == 0)
        result = copy_env(making, row, err);
    if (result != 0)
        return result;
    memcpy(row->id, making->live.id, sizeof(making->live.id));
    (void)snprintf(row->owner, sizeof(row->owner), "%s", request->owner);
    (void)snprintf(row->lang, sizeof(row->lang), "%s", request->lang->name);
    (void)snprintf(row->image, sizeof(row->image), "%s", making->plan.image);
    (void)snprintf(row->profile, sizeof(row->profile), "%s", making->plan.profile);
    (void)snprintf(row->engine, sizeof(row->engine), "%s", making->plan.slot->name);
    (void)snprintf(row->runtime, sizeof(row->runtime), "%s", making->plan.runtime);
    (void)snprintf(row->sandbox_id, sizeof(row->sandbox_id), "%s", making->ready.sandbox_id);
    memcpy(row->nonce, making->ready.nonce, sizeof(row->nonce));
    row->memory_bytes = resources->memory_bytes;
    row->storage_bytes = resources->storage_bytes;
    row->cpu_millis = resources->cpu_millis;
    row->disk = resources->disk;
    row->reserve_memory_bytes = resources->reserve.memory_bytes;
    row->reserve_disk_bytes = resources->reserve.disk_bytes;
    row->timeout_ms = making->lifetime_ms;
    row->idle_ms = making->idle_ms;
    /* Else the kernel has them from its start. */
    row->network_env = making->plan.network.mode == NETWORK_NONE
                           ? network_env_unset(request->env, request->env_count)
                           : 0;
    row->created_us = clock_wall_us();
    row->lifetime_us =
        making->lifetime_ms == 0 ? 0 : row->created_us + (int64_t)making->lifetime_ms * 1000;
    return 0;
}

static int write_down(struct making *making, struct session *session, struct err *err)
{
    struct core *core = making->core;
    struct store_session_layer layer;
    BUF_AUTO struct buf list;
    buf_init(&list, SESSION_LIBRARIES_ROW_MAX);
    int found = session_libraries_row(session, &making->libraries, &list, &layer, err);
    if (found < 0)
        return found;
    int result = store_session_insert(core->store, &session->row, found == 0 ? &layer : NULL, err);
    if (result == 0)
        session_libraries_take(core, session, &making->libraries);
    return result;
}

/* It is written down, then entered. ERR_CONFLICT: another one has the key meanwhile. */
static int enter(struct making *making, struct buf *out, struct err *err)
{
    struct core *core = making->core;
    struct session *session = calloc(1, sizeof(*session));
    if (!session)
        return err_set(err, ERR_INTERNAL, "no memory for a session");
    fault_point("server.session");
    int result = fill_row(making, &session->row, err);
    if (result == 0)
        result = write_down(making, session, err);
    if (result != 0) {
        store_session_done(&session->row);
        free(session);
        return result;
    }
    fault_point("server.session_stored");
    session->channel = take(making->ready.channel);
    making->ready.sandbox_id[0] = '\0';
    session_add(core, session);
    if (box_keep(core, session->row.sandbox_id)) {
        result = session_append_json(core, session, out, err);
    } else { /* nobody would hear of it any more */
        session_drop(core, session, "its sandbox died while it was made");
        result = err_public(err, ERR_UNAVAILABLE, "the session ended while it was made");
    }
    session_unref(core, session);
    return result;
}

/* The session of a key that is known already: 1 then. */
static int answer_known_key(struct core *core, const struct session_request *request,
                            struct buf *out, struct err *err)
{
    char id[STORE_ID_SIZE];
    if (!request->idempotency_key)
        return 0;
    int result =
        store_session_by_key(core->store, request->owner, request->idempotency_key, id, err);
    if (result == -ERR_NOT_FOUND)
        return 0;
    if (result == 0)
        result = core_session_get(core, request->owner, id, out, err);
    return result == 0 ? 1 : result == -ERR_NOT_FOUND ? 0 : result;
}

static int try_to_make(struct making *making, struct buf *out, struct err *err)
{
    struct core *core = making->core;
    int64_t wait_ns = (int64_t)core->config.queue_wait_ms * CLOCK_NS_PER_MS;
    int result = admission_acquire(core->admission, &making->plan.resources.reserve,
                                   clock_now_ns() + wait_ns, making->live.cancel_fd,
                                   making->request->gone_fd, err);
    if (result != 0)
        return result;
    result = make_sandbox(making, err);
    if (result == 0)
        result = enter(making, out, err);
    if (making->ready.sandbox_id[0] != '\0')
        box_destroy(core, making->ready.sandbox_id);
    channel_close(making->ready.channel);
    making->ready = (struct ready){0};
    return result;
}

/* With another one, made now, when that of the pool had died: nobody has heard of it. */
static int make(struct making *making, struct buf *out, struct err *err)
{
    int result = try_to_make(making, out, err);
    if (result != DEAD)
        return result;
    log_warn("session %s: its sandbox of the pool had died", making->live.id);
    making->fresh = true;
    return try_to_make(making, out, err);
}

/* With the plan made. */
static int create(struct making *making, struct buf *out, struct err *err)
{
    struct core *core = making->core;
    const struct session_request *request = making->request;
    const struct record_limits nothing = {0};
    const struct quota_use use = {.memory_bytes = making->plan.resources.memory_bytes,
                                  .cpu_millis = making->plan.resources.cpu_millis};
    int result = quota_check(request->owner, QUOTA_SESSION, &use, err);
    struct record *record = result == 0 ? record_new(&nothing) : NULL;
    if (result == 0 && !record)
        result = err_set(err, ERR_INTERNAL, "no memory for a session");
    if (result == 0)
        result = live_begin(core, request->owner, NULL, record, &making->live, err);
    if (result == 0) {
        result = session_libraries_wait(core, request, &making->plan, &making->live,
                                        &making->libraries, err);
        if (result == 0)
            result = make(making, out, err);
        live_end(core, &making->live);
    }
    record_unref(record);
    return result;
}

int core_session_create(struct core *core, const struct session_request *request, struct buf *out,
                        struct err *err)
{
    struct making making = {.core = core, .request = request};
    struct err failure = ERR_INIT;
    int result = answer_known_key(core, request, out, &failure);
    if (result == 0)
        result = library_ask_make(request->lang, request->libraries, request->library_count,
                                  request->env, request->env_count, &making.libraries, &failure);
    if (result == 0)
        result = plan(&making, &failure);
    if (result == 0)
        result = create(&making, out, &failure);
    plan_done(&making.plan);
    library_ask_done(core, &making.libraries);
    if (result == -ERR_CONFLICT) {              /* another request with this key was first */
        for (int i = 0; i < CLAIM_TRIES; i++) { /* its row is there before it is in the table */
            int known = answer_known_key(core, request, out, &failure);
            if (known != 0) {
                result = known;
                break;
            }
            clock_sleep_ns(CLAIM_NS);
        }
    }
    if (result >= 0)
        return 0;
    atomic_fetch_add(&core->metrics.refused[failure.kind], 1);
    return err_copy(err, &failure);
}
