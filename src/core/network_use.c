/* Owns the agreement between what sandboxes are to have and what berth-egress was told. One caller
 * at a time tells it of one sandbox, so that the last word is the newest; the thread tells it what
 * nobody else could. */
#include "core/network_use.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "core/core_internal.h"
#include "network/egress.h"

#define TELL_NS (3 * CLOCK_NS_PER_S)
#define FULL_NS (10 * CLOCK_NS_PER_S) /* nft may be slow */
#define RETRY_NS CLOCK_NS_PER_S
#define NO_ENGINE CORE_ENGINES_MAX
#define STATS_NS (CLOCK_NS_PER_S / 5)

/* Of a box; guarded by core->lock. */
struct network_use {
    char owner[STORE_TEXT_SIZE];
    uint8_t nonce[SANDBOX_NONCE_SIZE];
    struct network network; /* what it is to have */
    unsigned version;       /* of it */
    unsigned told;          /* the version that egress was told; 0: none */
    unsigned losses;        /* how often it forgot the sandbox */
    bool attached;          /* egress knows the sandbox */
    bool full;              /* the engine was told to give it "full" */
    bool hopeless;          /* its init has no way out: nobody tries again */
    bool busy;              /* somebody tells egress */
    bool late;              /* it could not be told last: the others go before */
};

/* What one telling needs, copied. */
struct telling {
    char id[SANDBOX_ID_MAX + 1];
    char owner[STORE_TEXT_SIZE];
    uint8_t nonce[SANDBOX_NONCE_SIZE];
    struct network network;
    unsigned version, losses;
    bool attached;
    bool full;
};

void network_use_free(struct network_use *use)
{
    if (!use)
        return;
    network_done(&use->network);
    free(use);
}

int network_check(const struct core *core, const struct engine_slot *slot, uint64_t capabilities,
                  const struct network *network, struct err *err)
{
    if (network->mode == NETWORK_FULL && (capabilities & ENGINE_CAP_FULL) == 0)
        return err_public(err, ERR_UNSUPPORTED,
                          "network: the engine %s has no \"full\" here (GET /api/v1/info says "
                          "why), use \"egress\"",
                          slot ? slot->name : "of it");
    if (network->mode == NETWORK_EGRESS && !core->egress)
        return err_public(err, ERR_UNSUPPORTED,
                          "network: this server has no way out, berth-egress was not started");
    return 0;
}

/* ---- telling ---- */

static bool is_settled(const struct network_use *use)
{
    return use->told == use->version || use->hopeless;
}

/* Waits for the turn of this sandbox. Returns 1 when there is nothing to tell. */
static int begin_locked(struct core *core, const char *id, struct telling *out, struct err *err)
{
    for (;;) {
        const struct box *box = box_find_locked(core, id);
        struct network_use *use = box ? box->network : NULL;
        if (!use || is_settled(use))
            return 1;
        if (use->busy) {
            (void)pthread_cond_wait(&core->changed, &core->lock);
            continue;
        }
        int result = network_copy(&use->network, &out->network, err);
        if (result != 0)
            return result;
        memcpy(out->id, box->id, sizeof(out->id));
        memcpy(out->owner, use->owner, sizeof(out->owner));
        memcpy(out->nonce, use->nonce, sizeof(out->nonce));
        out->version = use->version;
        out->losses = use->losses;
        out->attached = use->attached;
        out->full = use->full;
        use->busy = true;
        return 0;
    }
}

/* Returns whether the box is still there. */
static bool end(struct core *core, const struct telling *telling, int result)
{
    (void)pthread_mutex_lock(&core->lock);
    struct box *box = box_find_locked(core, telling->id);
    struct network_use *use = box ? box->network : NULL;
    if (use) {
        bool egress = telling->network.mode == NETWORK_EGRESS;
        bool knows = result == 0 && use->losses == telling->losses; /* it still does */
        use->busy = false;
        use->late = result != 0;
        use->attached = knows && egress;
        if (telling->network.mode == NETWORK_FULL)
            use->full = true; /* also of a failure something may be there */
        else if (result == 0)
            use->full = false;
        use->hopeless = result == -ERR_UNSUPPORTED || result == -ERR_PROTOCOL;
        if (knows)
            use->told = telling->version;
    }
    (void)pthread_cond_broadcast(&core->changed);
    (void)pthread_mutex_unlock(&core->lock);
    return use != NULL;
}

static int attach(struct core *core, const struct telling *telling,
                  const struct egress_policy *policy, struct err *err)
{
    const struct egress_sandbox sandbox = {
        .id = telling->id, .owner = telling->owner, .nonce = telling->nonce, .policy = *policy};
    struct engine *engine = NULL;
    FD_AUTO int fd = -1;
    int64_t deadline_ns = clock_now_ns() + TELL_NS;
    int result = box_engine(core, telling->id, &engine, err);
    if (result == 0)
        result = engine_open_channel(engine, telling->id, deadline_ns, &fd, err);
    return result == 0 ? egress_attach(core->egress, &sandbox, fd_take(&fd), deadline_ns, err)
                       : result;
}

/* An egress that is away has nothing to end but what ends with it. */
static int detach(struct core *core, const struct telling *telling, struct err *err)
{
    bool full = telling->network.mode == NETWORK_FULL;
    if (full && core->egress && !telling->attached)
        egress_detach_later(core->egress, telling->id);
    if (!core->egress || (full && !telling->attached))
        return 0;
    return egress_detach(core->egress, telling->id, clock_now_ns() + TELL_NS, NULL, err);
}

int network_tell_engine(struct core *core, const char *sandbox_id, bool full, struct err *err)
{
    struct engine *engine = NULL;
    int result = box_engine(core, sandbox_id, &engine, err);
    return result == 0 ? engine_network(engine, sandbox_id, full, clock_now_ns() + FULL_NS, err)
                       : result;
}

static int tell(struct core *core, const struct telling *telling, struct err *err)
{
    const struct network_rules *rules = core->config.network;
    NETWORK_LIST_AUTO struct network_list allow = {0};
    bool full = telling->network.mode == NETWORK_FULL;
    int result = 0;
    if (full || telling->full)
        result = network_tell_engine(core, telling->id, full, err);
    if (result != 0)
        return result;
    if (telling->network.mode != NETWORK_EGRESS)
        return detach(core, telling, err);
    if (!core->egress)
        return err_set(err, ERR_UNSUPPORTED, "there is no egress process");
    result = network_effective(rules, &telling->network, &allow, err);
    if (result != 0)
        return result;
    const struct egress_policy policy = {.rules = allow.items,
                                         .rule_count = allow.count,
                                         .bytes_max = rules ? rules->bytes_max : 0,
                                         .connections_max = rules ? rules->connections_max : 0};
    struct err failure = ERR_INIT;
    if (telling->attached) {
        result = egress_set_policy(core->egress, telling->id, &policy, clock_now_ns() + TELL_NS,
                                   &failure);
        if (result != -ERR_NOT_FOUND)
            return result == 0 ? 0 : err_copy(err, &failure);
    }
    return attach(core, telling, &policy, err);
}

int network_settle(struct core *core, const char *sandbox_id, struct err *err)
{
    struct telling telling = {0};
    struct err failure = ERR_INIT;
    (void)pthread_mutex_lock(&core->lock);
    int result = begin_locked(core, sandbox_id, &telling, err);
    (void)pthread_mutex_unlock(&core->lock);
    if (result != 0)
        return result < 0 ? result : 0;
    result = tell(core, &telling, &failure);
    if (!end(core, &telling, result) && core->egress)
        egress_detach_later(core->egress, sandbox_id); /* it went meanwhile */
    network_done(&telling.network);
    if (result == 0)
        return 0;
    network_try_again(core);
    return err_copy(err, &failure);
}

/* ---- what a sandbox is to have ---- */

/* Whether egress is known to know nothing of it. */
static bool has_none(const struct box *box)
{
    const struct network_use *use = box->network;
    return use ? use->network.mode == NETWORK_NONE && is_settled(use) : !box->adopted;
}

/* Once there is a use it stays with the box: what the sandbox has used of its cap is forgotten at
 * its end alone. */
static void set_locked(struct box *box, const char *owner, const uint8_t *nonce,
                       struct network *network, struct network_use **spare)
{
    struct network_use *use = box->network;
    if (network->mode == NETWORK_NONE && has_none(box))
        return;
    if (!use) {
        use = take(*spare);
        box->network = use;
    }
    (void)snprintf(use->owner, sizeof(use->owner), "%s", owner);
    memcpy(use->nonce, nonce, sizeof(use->nonce));
    network_done(&use->network);
    use->network = *network;
    *network = (struct network){0};
    use->version++;
    use->hopeless = false;
}

int network_give(struct core *core, const char *sandbox_id, const char *owner,
                 const uint8_t nonce[static SANDBOX_NONCE_SIZE], const struct network *network,
                 struct err *err)
{
    struct network copy = {0};
    struct network_use *spare = calloc(1, sizeof(*spare));
    if (!spare)
        return err_set(err, ERR_INTERNAL, "no memory for a network");
    int result = network_copy(network, &copy, err);
    if (result != 0) {
        free(spare);
        return result;
    }
    (void)pthread_mutex_lock(&core->lock);
    struct box *box = box_find_locked(core, sandbox_id);
    if (box)
        set_locked(box, owner, nonce, &copy, &spare);
    (void)pthread_mutex_unlock(&core->lock);
    network_done(&copy);
    free(spare);
    return 0;
}

void network_forget(struct core *core, const char *sandbox_id, struct network_use *use)
{
    if (!use)
        return;
    if (core->egress)
        egress_detach_later(core->egress, sandbox_id);
    network_use_free(use);
}

/* ---- the thread ---- */

void network_try_again(struct core *core)
{
    (void)pthread_mutex_lock(&core->lock);
    core->network_wanted = true;
    (void)pthread_cond_signal(&core->network_changed);
    (void)pthread_mutex_unlock(&core->lock);
}

static void forgotten(struct network_use *use)
{
    use->told = 0;
    use->losses++;
    use->attached = false;
}

static void on_connected(void *context)
{
    struct core *core = context;
    (void)pthread_mutex_lock(&core->lock);
    for (struct box *box = core->boxes; box; box = box->next) {
        if (box->network)
            forgotten(box->network);
    }
    core->network_wanted = true;
    (void)pthread_cond_signal(&core->network_changed);
    (void)pthread_mutex_unlock(&core->lock);
}

static void on_lost(void *context, const char *id, const struct egress_counts *counts)
{
    struct core *core = context;
    (void)counts;
    (void)pthread_mutex_lock(&core->lock);
    struct box *box = box_find_locked(core, id);
    if (box && box->network && box->state != SANDBOX_DESTROYING) {
        forgotten(box->network);
        core->network_wanted = true;
        (void)pthread_cond_signal(&core->network_changed);
    }
    (void)pthread_mutex_unlock(&core->lock);
}

/* A sandbox that egress has to be told of. */
struct due {
    char id[SANDBOX_ID_MAX + 1];
    unsigned engine; /* NO_ENGINE: of one that is not there */
};

/* The later, the more likely it is to keep the others waiting. */
static unsigned rank_of(const struct box *box, const bool slow[static CORE_ENGINES_MAX])
{
    return (box->slot && slow[box->slot->index] ? 2U : 0U) + (box->network->late ? 1U : 0U);
}

/* All of them in the order in which they are told; heap. slow: engines that did not answer. */
static struct due *collect_locked(const struct core *core, const bool slow[static CORE_ENGINES_MAX],
                                  size_t *out_count)
{
    size_t count = 0;
    for (const struct box *box = core->boxes; box; box = box->next)
        count += box->network && !is_settled(box->network) ? 1 : 0;
    struct due *all = calloc(count + 1, sizeof(*all));
    *out_count = 0;
    for (unsigned rank = 0; all && rank < 4; rank++) {
        for (const struct box *box = core->boxes; box; box = box->next) {
            if (!box->network || is_settled(box->network) || rank_of(box, slow) != rank)
                continue;
            struct due *due = &all[(*out_count)++];
            memcpy(due->id, box->id, sizeof(due->id));
            due->engine = box->slot ? box->slot->index : NO_ENGINE;
        }
    }
    return all;
}

/* Waits for something to tell. Returns false at the end. */
static bool wait_for_work(struct core *core, int64_t not_before_ns)
{
    (void)pthread_mutex_lock(&core->lock);
    while (!core->network_stop && (!core->network_wanted || clock_now_ns() < not_before_ns)) {
        if (clock_now_ns() >= not_before_ns) {
            (void)pthread_cond_wait(&core->network_changed, &core->lock);
            continue;
        }
        const struct timespec until = {.tv_sec = (time_t)(not_before_ns / CLOCK_NS_PER_S),
                                       .tv_nsec = (long)(not_before_ns % CLOCK_NS_PER_S)};
        (void)pthread_cond_timedwait(&core->network_changed, &core->lock, &until);
    }
    core->network_wanted = false;
    bool go_on = !core->network_stop;
    (void)pthread_mutex_unlock(&core->lock);
    return go_on;
}

/* Returns how many could not be told. An engine that does not answer is asked for one sandbox, not
 * for each: slow says of which that was so, now and the last time. */
static size_t tell_all(struct core *core, bool slow[static CORE_ENGINES_MAX])
{
    size_t count = 0;
    size_t failed = 0;
    (void)pthread_mutex_lock(&core->lock);
    MEM_AUTO struct due *all = collect_locked(core, slow, &count);
    (void)pthread_mutex_unlock(&core->lock);
    memset(slow, 0, CORE_ENGINES_MAX * sizeof(*slow));
    for (size_t i = 0; i < count; i++) {
        struct err err = ERR_INIT;
        const struct due *due = &all[i];
        if (!egress_is_connected(core->egress))
            return 0; /* its return is heard of */
        bool skipped = due->engine != NO_ENGINE && slow[due->engine];
        if (!skipped && network_settle(core, due->id, &err) == 0)
            continue;
        failed++;
        if (skipped)
            continue;
        log_info("sandbox %s has no way out yet: %s", due->id, err.message);
        if (due->engine != NO_ENGINE && (engine_is_away(&err) || err.kind == ERR_TIMEOUT))
            slow[due->engine] = true;
    }
    return failed;
}

static void *network_main(void *context)
{
    struct core *core = context;
    int64_t not_before_ns = 0;
    bool slow[CORE_ENGINES_MAX] = {false};
    while (wait_for_work(core, not_before_ns))
        not_before_ns = tell_all(core, slow) > 0 ? clock_now_ns() + RETRY_NS : 0;
    return NULL;
}

int core_open_egress(struct core *core, const char *socket_path, struct err *err)
{
    const struct egress_events events = {
        .context = core, .connected = on_connected, .lost = on_lost};
    int result = egress_new(socket_path, &events, &core->egress, err);
    if (result != 0)
        return result;
    int status = pthread_create(&core->network_thread, NULL, network_main, core);
    if (status != 0)
        return err_sys(err, status, "start the thread of networks");
    core->network_runs = true;
    return 0;
}

void network_stop(struct core *core)
{
    (void)pthread_mutex_lock(&core->lock);
    core->network_stop = true;
    (void)pthread_cond_signal(&core->network_changed);
    (void)pthread_mutex_unlock(&core->lock);
    if (core->network_runs)
        (void)pthread_join(core->network_thread, NULL);
    core->network_runs = false;
}

void network_close(struct core *core)
{
    egress_free(core->egress);
    core->egress = NULL;
}

void network_stats(struct core *core, struct network_stats *out)
{
    struct egress_counts counts = {0};
    *out = (struct network_stats){0};
    if (!core->egress)
        return;
    out->connected = egress_is_connected(core->egress);
    (void)pthread_mutex_lock(&core->lock);
    for (const struct box *box = core->boxes; box; box = box->next) {
        if (box->network && box->network->network.mode == NETWORK_EGRESS)
            out->sandboxes++;
    }
    (void)pthread_mutex_unlock(&core->lock);
    if (!out->connected ||
        egress_counts(core->egress, NULL, clock_now_ns() + STATS_NS, &counts, NULL) != 0)
        return;
    out->requests = counts.requests;
    out->refused = counts.refused;
    out->bytes_out = counts.bytes_out;
    out->bytes_in = counts.bytes_in;
    out->connections = counts.connections;
}
