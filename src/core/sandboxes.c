/* Owns the table of sandboxes: making one for an execution, ending it, and destroying those that
 * nobody owns. A place of admission, with what is reserved, belongs to a box until the engine says
 * that nothing is left; it is given back in one place, box_on_destroyed(), or by whoever ends a
 * creation that left no box. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "core/core_internal.h"
#include "core/network_use.h"
#include "core/pool.h"
#include "core/quota.h"
#include "core/session_internal.h"

#define RETRY_PAUSE_MS 20
#define GPU_PAUSE_MS 100
#define GPU_WAIT_NS (2 * CLOCK_NS_PER_S)

struct box *box_find_locked(struct core *core, const char *id)
{
    struct box *box = core->boxes;
    while (box && strcmp(box->id, id) != 0)
        box = box->next;
    return box;
}

int box_engine(struct core *core, const char *id, struct engine **out, struct err *err)
{
    (void)pthread_mutex_lock(&core->lock);
    const struct box *box = box_find_locked(core, id);
    const struct engine_slot *slot = box ? box->slot : NULL;
    (void)pthread_mutex_unlock(&core->lock);
    if (!box)
        return err_set(err, ERR_NOT_FOUND, "there is no sandbox %s any more", id);
    return slot_engine(slot, out, err);
}

/* reserve NULL: it holds no place. */
static void add_box(struct core *core, struct box *box, struct engine_slot *slot, struct live *live,
                    const struct reservation *reserve)
{
    id_hex(box->id, 8);
    box->slot = slot;
    box->state = SANDBOX_CREATING;
    box->holds_place = reserve != NULL;
    if (reserve)
        box->reserve = *reserve;
    (void)pthread_mutex_lock(&core->lock);
    box->next = core->boxes;
    core->boxes = box;
    if (live)
        memcpy(live->sandbox_id, box->id, sizeof(box->id));
    (void)pthread_mutex_unlock(&core->lock);
}

bool box_give(struct core *core, const char *id, struct live *live,
              const struct reservation *reserve)
{
    (void)pthread_mutex_lock(&core->lock);
    struct box *box = box_find_locked(core, id);
    bool lives = box && !box->died && box->state == SANDBOX_READY;
    if (lives) {
        box->holds_place = true;
        box->reserve = *reserve;
        memcpy(live->sandbox_id, box->id, sizeof(box->id));
    }
    (void)pthread_mutex_unlock(&core->lock);
    return lives;
}

static void move_box(struct core *core, const char *id, enum sandbox_state to)
{
    (void)pthread_mutex_lock(&core->lock);
    struct box *box = box_find_locked(core, id);
    if (box)
        (void)sandbox_state_move(&box->state, to);
    (void)pthread_mutex_unlock(&core->lock);
}

void box_busy(struct core *core, const char *id)
{
    move_box(core, id, SANDBOX_BUSY);
}

/* One that is being destroyed meanwhile stays so. */
void box_ready(struct core *core, const char *id)
{
    (void)pthread_mutex_lock(&core->lock);
    struct box *box = box_find_locked(core, id);
    if (box && box->state == SANDBOX_BUSY)
        (void)sandbox_state_move(&box->state, SANDBOX_READY);
    (void)pthread_mutex_unlock(&core->lock);
}

bool box_keep(struct core *core, const char *id)
{
    (void)pthread_mutex_lock(&core->lock);
    struct box *box = box_find_locked(core, id);
    bool lives = box && !box->died;
    if (box)
        box->of_session = true;
    (void)pthread_mutex_unlock(&core->lock);
    return lives;
}

int box_adopt(struct core *core, struct engine_slot *slot, const char *id,
              const struct reservation *reserve, struct err *err)
{
    struct box *box = calloc(1, sizeof(*box));
    if (!box)
        return err_set(err, ERR_INTERNAL, "no memory for a sandbox");
    (void)snprintf(box->id, sizeof(box->id), "%s", id);
    box->slot = slot;
    box->state = SANDBOX_READY;
    box->of_session = box->adopted = true;
    box->reserve = *reserve;
    if (slot) { /* else it is on no host that we know, and nobody here says when it is gone */
        box->holds_place = true;
        box->reserve.engine = slot->index;
        admission_adopt(core->admission, &box->reserve);
    }
    (void)pthread_mutex_lock(&core->lock);
    box->next = core->boxes;
    core->boxes = box;
    (void)pthread_mutex_unlock(&core->lock);
    return 0;
}

/* Ends a box; its place stays with it, or is kept back for another try. Returns whether the caller
 * has the place now: where the engine was first to say that nothing is left, it was given back. */
static bool end_box(struct core *core, const char *id, bool keep_place)
{
    struct network_use *network = NULL;
    const struct engine_slot *slot = NULL;
    struct engine *engine = NULL;
    (void)pthread_mutex_lock(&core->lock);
    struct box *box = box_find_locked(core, id);
    if (box) {
        (void)sandbox_state_move(&box->state, SANDBOX_DESTROYING);
        if (keep_place)
            box->holds_place = false;
        network = take(box->network);
        slot = box->slot;
        engine = slot ? slot->engine : NULL;
    }
    (void)pthread_mutex_unlock(&core->lock);
    network_forget(core, id, network);
    fault_point("server.destroy");
    if (engine)
        engine_destroy_later(engine, id);
    else if (!slot)
        box_on_destroyed(core, NULL, id);
    return box && keep_place;
}

void box_destroy(struct core *core, const char *id)
{
    (void)end_box(core, id, false);
}

/* One try; live NULL: for the pool, without a place. *out_id is set also on failure, "" when there
 * is nothing to destroy. */
static int try_create(struct core *core, struct live *live, const struct plan *plan,
                      const struct box_life *life, const struct engine_wait *wait,
                      char out_id[static SANDBOX_ID_MAX + 1], int *out_fd,
                      uint8_t out_nonce[static SANDBOX_NONCE_SIZE], struct err *err)
{
    struct engine *engine = NULL;
    out_id[0] = '\0';
    int result = slot_engine(plan->slot, &engine, err);
    if (result != 0)
        return result;
    struct box *box = calloc(1, sizeof(*box));
    if (!box)
        return err_set(err, ERR_INTERNAL, "no memory for a sandbox");
    add_box(core, box, plan->slot, live, live ? &plan->resources.reserve : NULL);
    memcpy(out_id, box->id, sizeof(box->id));
    struct engine_create spec = {.disk = plan->resources.disk,
                                 .memory_bytes = plan->resources.memory_bytes,
                                 .storage_bytes = plan->resources.storage_bytes,
                                 .cpu_millis = plan->resources.cpu_millis,
                                 .gpu_count = plan->resources.gpu_count,
                                 .pids_max = core->config.pids_max,
                                 .open_files_max = core->config.open_files_max,
                                 .lifetime_ms = life->lifetime_ms,
                                 .orphan_ms = life->orphan_ms};
    memcpy(spec.image, plan->image, sizeof(spec.image));
    memcpy(spec.runtime, plan->runtime, sizeof(spec.runtime));
    (void)snprintf(spec.profile, sizeof(spec.profile), "%s", plan->profile);
    (void)snprintf(spec.kernel, sizeof(spec.kernel), "%s", plan->zygote);
    memcpy(spec.id, out_id, sizeof(spec.id));
    store_sandbox_put(core->store, out_id, live ? live->owner : "", plan->slot->name,
                      sandbox_state_name(SANDBOX_CREATING), clock_wall_us());
    fault_point("server.create");
    result = engine_create_watched(engine, &spec, wait, out_fd, out_nonce, err);
    fault_point("server.created");
    if (result != 0) {
        atomic_fetch_add(&core->metrics.creates_failed, 1);
        atomic_fetch_add(&plan->slot->creates_failed, 1);
        return result;
    }
    atomic_fetch_add(&core->metrics.sandboxes_created, 1);
    atomic_fetch_add(&plan->slot->sandboxes_created, 1);
    move_box(core, out_id, SANDBOX_READY);
    return 0;
}

/* Whether another try may end otherwise: nobody answered, or the id was taken. */
static bool is_worth_a_retry(const struct err *failure, const struct plan *plan, int64_t begun_ns)
{
    /* A sandbox that has just ended gives its GPU back a moment after the answer. */
    if (failure->kind == ERR_UNAVAILABLE && plan->resources.gpu_count > 0 &&
        clock_now_ns() - begun_ns < GPU_WAIT_NS)
        return true;
    return engine_is_away(failure) || failure->kind == ERR_CONFLICT ||
           (failure->kind == ERR_UNAVAILABLE && failure->public_message[0] == '\0');
}

/* Turns an engine's failure into what the caller may see: its public words about the request or
 * about now, else that it failed. */
static void make_presentable(struct err *failure)
{
    bool presentable = failure->kind == ERR_BAD_INPUT || failure->kind == ERR_UNSUPPORTED ||
                       failure->kind == ERR_UNAVAILABLE;
    if (presentable && failure->public_message[0] != '\0')
        return;
    failure->kind = ERR_UNAVAILABLE;
    failure->retry_after_s = 1;
    (void)snprintf(failure->public_message, sizeof(failure->public_message),
                   "the engine could not make a sandbox");
}

/* Tries until there is a sandbox, a reason to stop trying, or the budget of time is used up. */
static int create_in_tries(struct core *core, struct live *live, int gone_fd,
                           const struct plan *plan, const struct box_life *life,
                           char out_id[static SANDBOX_ID_MAX + 1], int *out_fd,
                           uint8_t out_nonce[static SANDBOX_NONCE_SIZE], struct err *err)
{
    const int64_t begun_ns = clock_now_ns();
    const int pause_ms = plan->resources.gpu_count > 0 ? GPU_PAUSE_MS : RETRY_PAUSE_MS;
    const struct engine_wait wait = {.deadline_ns = begun_ns + core->create_budget_ns,
                                     .cancel_fd = live->cancel_fd,
                                     .gone_fd = gone_fd};
    for (;;) {
        struct err failure = ERR_INIT;
        int result = try_create(core, live, plan, life, &wait, out_id, out_fd, out_nonce, &failure);
        bool cancelled = engine_wait_is_over(&wait, 0);
        if (result == 0 && !cancelled)
            return 0;
        bool again = !cancelled && is_worth_a_retry(&failure, plan, begun_ns) &&
                     clock_now_ns() < wait.deadline_ns;
        fd_close(out_fd);
        if (out_id[0] != '\0')
            again = end_box(core, out_id, again);
        else if (!again)
            admission_release(core->admission, &plan->resources.reserve);
        if (cancelled)
            return err_set(err, ERR_CLOSED, "cancelled while a sandbox was made");
        if (!again) {
            log_warn("sandbox for %s: %s", live->id, failure.message);
            make_presentable(&failure);
            return err_copy(err, &failure);
        }
        if (engine_wait_is_over(&wait, pause_ms)) {
            admission_release(core->admission, &plan->resources.reserve);
            return err_set(err, ERR_CLOSED, "cancelled while a sandbox was made");
        }
    }
}

int box_create(struct core *core, struct live *live, int gone_fd, const struct plan *plan,
               const struct box_life *life, char out_id[static SANDBOX_ID_MAX + 1], int *out_fd,
               uint8_t out_nonce[static SANDBOX_NONCE_SIZE], struct err *err)
{
    const struct quota_use use = {.memory_bytes = plan->resources.memory_bytes,
                                  .cpu_millis = plan->resources.cpu_millis};
    int result = quota_check(live->owner, QUOTA_SANDBOX, &use, err);
    if (result != 0) {
        admission_release(core->admission, &plan->resources.reserve);
        return result;
    }
    return create_in_tries(core, live, gone_fd, plan, life, out_id, out_fd, out_nonce, err);
}

int box_create_ahead(struct core *core, const struct plan *plan, int cancel_fd,
                     char out_id[static SANDBOX_ID_MAX + 1], int *out_fd,
                     uint8_t out_nonce[static SANDBOX_NONCE_SIZE], struct err *err)
{
    const struct box_life life = {0}; /* it ends with its channel, which is ours */
    const struct engine_wait wait = {.deadline_ns = clock_now_ns() + core->create_budget_ns,
                                     .cancel_fd = cancel_fd,
                                     .gone_fd = -1};
    int result = try_create(core, NULL, plan, &life, &wait, out_id, out_fd, out_nonce, err);
    if (result != 0 && out_id[0] != '\0')
        (void)end_box(core, out_id, false);
    return result;
}

void box_on_destroyed(struct core *core, const struct engine_slot *slot, const char *id)
{
    struct box *found = NULL;
    (void)pthread_mutex_lock(&core->lock);
    for (struct box **at = &core->boxes; *at; at = &(*at)->next) {
        if (strcmp((*at)->id, id) == 0 && (!slot || (*at)->slot == slot)) {
            found = *at;
            *at = found->next;
            (void)sandbox_state_move(&found->state, SANDBOX_GONE);
            break;
        }
    }
    if (found)
        (void)pthread_cond_broadcast(&core->changed);
    (void)pthread_mutex_unlock(&core->lock);
    if (!found)
        return;
    store_sandbox_remove(core->store, id);
    if (found->holds_place)
        admission_release(core->admission, &found->reserve);
    network_forget(core, id, found->network);
    free(found);
}

void box_on_gone(struct core *core, const struct engine_slot *slot, const char *id,
                 enum kill_cause cause)
{
    (void)pthread_mutex_lock(&core->lock);
    struct box *box = box_find_locked(core, id);
    if (box && slot && box->slot != slot)
        box = NULL; /* it is not that engine's to speak of */
    bool expected = !box || box->state == SANDBOX_DESTROYING;
    bool of_session = box && box->of_session;
    struct engine_slot *died_of = box ? box->slot : NULL;
    if (box) {
        box->died = true;
        box->died_of_memory = cause == KILL_OOM;
        (void)pthread_cond_broadcast(&core->changed); /* box_cause() */
    }
    /* Its channel ends too; this is for a descriptor that somebody else still holds. Under this
     * lock, as an execution that nobody heard of goes on in another sandbox. */
    for (struct live *live = core->lives; live && !expected && !of_session; live = live->next) {
        if (strcmp(live->sandbox_id, id) == 0)
            live_box_gone_locked(live);
    }
    (void)pthread_mutex_unlock(&core->lock);
    if (expected)
        return; /* its init saw our channel close before the engine read our destroy */
    if (of_session && session_on_gone(core, id, cause))
        return;
    (void)pool_on_gone(core->pool, id);
    atomic_fetch_add(&core->metrics.sandboxes_died, 1);
    if (died_of)
        atomic_fetch_add(&died_of->sandboxes_died, 1);
    log_warn("sandbox %s died by itself%s", id, cause == KILL_OOM ? ", of its memory" : "");
}

enum kill_cause box_cause(struct core *core, const char *id, bool waits)
{
    enum kill_cause cause = KILL_NONE;
    int64_t until_ns = clock_now_ns() + core->cause_wait_ns;
    const struct timespec until = {.tv_sec = (time_t)(until_ns / CLOCK_NS_PER_S),
                                   .tv_nsec = (long)(until_ns % CLOCK_NS_PER_S)};
    (void)pthread_mutex_lock(&core->lock);
    for (int status = 0; status == 0 && !core->stopping;) {
        const struct box *box = box_find_locked(core, id);
        if (!box || box->died || box->state == SANDBOX_DESTROYING) {
            cause = box && box->died_of_memory ? KILL_OOM : KILL_NONE;
            break;
        }
        if (!waits)
            break;
        status = pthread_cond_timedwait(&core->changed, &core->lock, &until);
    }
    (void)pthread_mutex_unlock(&core->lock);
    return cause;
}

/* Asks again for what is to be destroyed: the engine may have had no memory for it, and a box that
 * it has forgotten would hold its place for ever. An id that is gone succeeds. */
static int repeat_destructions(struct core *core, const struct engine_slot *slot,
                               struct engine *engine, struct err *err)
{
    MEM_AUTO char(*ids)[SANDBOX_ID_MAX + 1] = NULL;
    size_t count = 0;
    (void)pthread_mutex_lock(&core->lock);
    for (const struct box *box = core->boxes; box; box = box->next)
        count += box->slot == slot && box->state == SANDBOX_DESTROYING ? 1 : 0;
    ids = calloc(count + 1, sizeof(*ids));
    count = 0;
    for (const struct box *box = core->boxes; box && ids; box = box->next) {
        if (box->slot == slot && box->state == SANDBOX_DESTROYING)
            memcpy(ids[count++], box->id, sizeof(box->id));
    }
    (void)pthread_mutex_unlock(&core->lock);
    if (!ids)
        return err_set(err, ERR_INTERNAL, "no memory for a list of ids");
    for (size_t i = 0; i < count; i++)
        engine_destroy_later(engine, ids[i]);
    return 0;
}

int box_reconcile(struct core *core, struct engine_slot *slot, struct err *err)
{
    struct engine *engine = NULL;
    int result = slot_engine(slot, &engine, err);
    if (result == 0)
        result = repeat_destructions(core, slot, engine, err);
    if (result != 0)
        return result;
    MEM_AUTO char(*ids)[SANDBOX_ID_MAX + 1] = NULL;
    size_t count = 0;
    result = engine_list(engine, clock_now_ns() + 5 * CLOCK_NS_PER_S, &ids, &count, err);
    if (result != 0)
        return result;
    /* A box is entered before it is made, and those of sessions before there is an engine: what is
     * listed and not in the table is nobody's. */
    for (size_t i = 0; i < count; i++) {
        (void)pthread_mutex_lock(&core->lock);
        const struct box *box = box_find_locked(core, ids[i]);
        bool owned = box && box->slot == slot;
        (void)pthread_mutex_unlock(&core->lock);
        if (owned)
            continue;
        log_info("sandbox %s is nobody's: destroying it", ids[i]);
        atomic_fetch_add(&core->metrics.orphans_destroyed, 1);
        engine_destroy_later(engine, ids[i]);
    }
    return 0;
}
