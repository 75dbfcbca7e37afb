/* Owns the shelves of sandboxes made ahead, and the threads that refill them. A sandbox on a shelf
 * is in the table of sandboxes and has no place of admission: kept_max bounds them, and what they
 * may use is taken from the budget beforehand (resources.c). */
#include "core/pool.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "core/core_internal.h"
#include "core/drain.h"
#include "core/ready.h"
#include "engine/channel.h"
#include "lang/lang.h"

enum { SHELVES_MAX = 32, WORKERS_MAX = 4, CPU_MILLIS_STEP = 1000 };
#define LOOK_NS (5 * CLOCK_NS_PER_S)         /* between two looks at what was never needed */
#define REMEMBERED_NS (300 * CLOCK_NS_PER_S) /* a kind that was asked for has one that long */
#define AGE_MAX_NS (INT64_C(1800) * CLOCK_NS_PER_S) /* the host's files change now and then */
#define IMAGE_AGE_MAX_NS (10 * CLOCK_NS_PER_S) /* of an image whose name may mean another since */
#define IMAGE_WAIT_NS CLOCK_NS_PER_S           /* for an engine to say it */
#define PAUSE_MIN_NS CLOCK_NS_PER_S            /* after a failure; doubles */
#define PAUSE_MAX_NS (60 * CLOCK_NS_PER_S)
#define EMPTY_NS CLOCK_NS_PER_S         /* it is refilled in haste that long after it was empty */
#define YIELD_NS (10 * CLOCK_NS_PER_MS) /* while requests wait for what a refill would take */

struct stock {
    struct pool_item item;
    char image_id[ENGINE_IMAGE_ID_MAX]; /* what the image's name meant before it was made */
    int64_t made_ns;
    struct stock *next;
};

/* Guarded by pool->lock, but for what never changes: image, profile, kernel, processors, places,
 * and of the plan the engine and the runtime. */
struct shelf {
    char image[ENGINE_IMAGE_MAX], profile[16];
    char image_id[ENGINE_IMAGE_ID_MAX]; /* what the name means now; "": nobody says */
    const struct lang *kernel; /* NULL: none waits in them, and they serve every language */
    struct plan plan;          /* of its sandboxes; its strings are that above and the language's */
    unsigned processors;
    unsigned places;            /* that one of its sandboxes takes of kept_max */
    struct stock *first, **end; /* oldest first */
    unsigned count, filling;
    unsigned target;    /* how many are to stand here */
    unsigned kept_min;  /* whatever the demand */
    unsigned low_water; /* the fewest since looked_ns */
    int64_t looked_ns, asked_ns;
    int64_t missed_ns;               /* when it had nothing for a request */
    int64_t pause_ns, not_before_ns; /* after a failure */
    struct shelf *next;
};

struct pool {
    struct core *core;
    unsigned kept_min; /* of the default kind */
    int stop_fd;       /* eventfd: readable once it stops */
    pthread_t workers[WORKERS_MAX];
    unsigned worker_count;

    /* Rank 2. Guards all that follows; the core's lock is never taken with it held. */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool stopping;
    unsigned kept_max; /* of all; 0: not known yet */
    unsigned engine_max[CORE_ENGINES_MAX];
    struct shelf *shelves;
    unsigned shelf_count;
};

/* ---- shelves ---- */

static unsigned processors_of(const struct plan *plan)
{
    return (plan->resources.cpu_millis + CPU_MILLIS_STEP - 1) / CPU_MILLIS_STEP;
}

/* Whether what a shelf has can get the figures of a plan, or has them. A file may not grow above
 * what the kernel's process began with, so a shelf serves what is smaller. A root on disk keeps the
 * size that it was made with. */
static bool can_have(const struct resources *made, const struct resources *wanted,
                     uint64_t capabilities)
{
    bool limit = (capabilities & ENGINE_CAP_LIMIT) != 0;
    bool resizes = limit && !made->disk;
    if (!limit &&
        (wanted->memory_bytes != made->memory_bytes || wanted->cpu_millis != made->cpu_millis))
        return false;
    return made->disk == wanted->disk && (resizes ? wanted->storage_bytes <= made->storage_bytes
                                                  : wanted->storage_bytes == made->storage_bytes);
}

static bool fits(const struct shelf *shelf, const struct plan *plan)
{
    return shelf->kernel == plan->kernel && shelf->processors == processors_of(plan) &&
           shelf->plan.slot == plan->slot && strcmp(shelf->plan.runtime, plan->runtime) == 0 &&
           strcmp(shelf->image, plan->image) == 0 && strcmp(shelf->profile, plan->profile) == 0 &&
           can_have(&shelf->plan.resources, &plan->resources, shelf->plan.capabilities);
}

/* The smallest that fits: else one request for a large root would send all the others to its shelf
 * from then on. */
static struct shelf *find_locked(struct pool *pool, const struct plan *plan)
{
    struct shelf *best = NULL;
    for (struct shelf *shelf = pool->shelves; shelf; shelf = shelf->next) {
        if (fits(shelf, plan) &&
            (!best || shelf->plan.resources.storage_bytes < best->plan.resources.storage_bytes))
            best = shelf;
    }
    return best;
}

/* What is set aside for a place is the least that a sandbox reserves. One on a runtime that takes
 * memory itself takes more places. */
static unsigned places_of(const struct core *core, const struct plan *plan)
{
    uint64_t least = core->config.reserve_min_bytes > 0 ? core->config.reserve_min_bytes : 1;
    return (unsigned)(1 + (plan->runtime_memory_bytes + least - 1) / least);
}

static void shelf_free(struct shelf *shelf)
{
    plan_done(&shelf->plan);
    free(shelf);
}

/* A shelf for sandboxes such as plan's, without the request's own variables. NULL: there is none
 * that would serve it. */
static struct shelf *shelf_new(struct core *core, const struct plan *plan)
{
    struct shelf *shelf = calloc(1, sizeof(*shelf));
    if (!shelf)
        return NULL;
    (void)snprintf(shelf->image, sizeof(shelf->image), "%s", plan->image);
    (void)snprintf(shelf->profile, sizeof(shelf->profile), "%s", plan->profile);
    shelf->kernel = plan->kernel;
    shelf->processors = processors_of(plan);
    shelf->end = &shelf->first;
    const struct execution_request request = {.owner = "",
                                              .lang = shelf->kernel,
                                              .cells = true,
                                              .engine = plan->slot->name,
                                              .runtime =
                                                  plan->runtime[0] != '\0' ? plan->runtime : NULL,
                                              .image = shelf->image,
                                              .profile = shelf->profile,
                                              .gone_fd = -1};
    struct err failure = ERR_INIT;
    if (plan_make(core, &request, &shelf->plan, &failure) != 0) {
        log_debug("a shelf for %s: %s", plan->image, failure.message);
        free(shelf);
        return NULL;
    }
    struct resources *resources = &shelf->plan.resources;
    if (processors_of(&shelf->plan) != shelf->processors)
        resources->cpu_millis = plan->resources.cpu_millis;
    if (resources->disk != plan->resources.disk ||
        (!resources->disk && resources->storage_bytes < plan->resources.storage_bytes)) {
        uint64_t memory = resources->memory_bytes;
        *resources = plan->resources;
        if (memory > resources->memory_bytes)
            resources->memory_bytes = memory;
    }
    if (fits(shelf, plan)) {
        shelf->places = places_of(core, &shelf->plan);
        slot_image_id(shelf->plan.slot, shelf->image, shelf->image_id);
        return shelf;
    }
    shelf_free(shelf); /* on a runtime that changes no limits, a request with wishes of its own */
    return NULL;
}

static void put_locked(struct shelf *shelf, struct stock *stock)
{
    stock->next = NULL;
    *shelf->end = stock;
    shelf->end = &stock->next;
    shelf->count++;
}

static struct stock *pop_locked(struct shelf *shelf)
{
    struct stock *stock = shelf->first;
    if (!stock)
        return NULL;
    shelf->first = stock->next;
    if (!shelf->first)
        shelf->end = &shelf->first;
    shelf->count--;
    if (shelf->count < shelf->low_water)
        shelf->low_water = shelf->count;
    return stock;
}

static void discard(struct pool *pool, struct stock *stock)
{
    box_destroy(pool->core, stock->item.sandbox_id);
    channel_close(stock->item.channel);
    free(stock);
}

/* ---- demand ---- */

/* Whether there is no place for one more of that kind. of NULL: among those of all engines. The
 * first has one where there is any. */
static bool is_full_locked(const struct pool *pool, const struct shelf *one,
                           const struct engine_slot *of, bool of_targets)
{
    unsigned max = of ? pool->engine_max[of->index] : pool->kept_max;
    unsigned sum = 0;
    for (const struct shelf *shelf = pool->shelves; shelf; shelf = shelf->next) {
        if (!of || shelf->plan.slot == of)
            sum += (of_targets ? shelf->target : shelf->count + shelf->filling) * shelf->places;
    }
    return sum > 0 ? sum + one->places > max : max == 0;
}

/* Of the others (of NULL: of all engines) that may have fewer, the one that nobody asked for since
 * longest; NULL: all are in demand. */
static struct shelf *coldest_locked(struct pool *pool, const struct shelf *but,
                                    const struct engine_slot *of)
{
    int64_t before_ns = clock_now_ns() - LOOK_NS;
    struct shelf *coldest = NULL;
    for (struct shelf *other = pool->shelves; other; other = other->next) {
        if (other != but && (!of || other->plan.slot == of) && other->target > other->kept_min &&
            other->asked_ns < before_ns && (!coldest || other->asked_ns < coldest->asked_ns))
            coldest = other;
    }
    return coldest;
}

/* It ran empty: more from now on, when there is no room at the cost of the largest other one, or of
 * one that was asked for once. */
static void want_more_locked(struct pool *pool, struct shelf *shelf)
{
    for (unsigned step = shelf->target / 2 + 1; step > 0;) {
        const struct engine_slot *slot = shelf->plan.slot;
        const struct engine_slot *of = is_full_locked(pool, shelf, slot, true) ? slot : NULL;
        if (!of && !is_full_locked(pool, shelf, NULL, true)) {
            shelf->target++;
            step--;
            continue;
        }
        struct shelf *largest = NULL;
        for (struct shelf *other = pool->shelves; other; other = other->next) {
            if (other != shelf && (!of || other->plan.slot == of) &&
                other->target > other->kept_min && (!largest || other->target > largest->target))
                largest = other;
        }
        if (!largest || largest->target <= shelf->target)
            largest = coldest_locked(pool, shelf, of);
        if (!largest)
            return;
        largest->target--;
    }
}

/* Enters a shelf of that kind, unless another thread was first; shelf is the caller's if so. NULL:
 * there are too many; the next of its kind may find that one has gone. */
static struct shelf *add_locked(struct pool *pool, struct shelf *shelf)
{
    struct shelf *known = find_locked(pool, &shelf->plan);
    if (known && known->plan.resources.storage_bytes == shelf->plan.resources.storage_bytes)
        return known;
    if (pool->stopping)
        return NULL;
    if (pool->shelf_count >= SHELVES_MAX) {
        struct shelf *coldest = coldest_locked(pool, NULL, NULL);
        if (coldest)
            coldest->target = coldest->kept_min;
        return NULL;
    }
    shelf->looked_ns = clock_now_ns();
    shelf->next = pool->shelves;
    pool->shelves = shelf;
    pool->shelf_count++;
    return shelf;
}

/* The first of a kind. */
static void open_shelf(struct pool *pool, const struct plan *plan, unsigned kept_min)
{
    struct shelf *shelf = shelf_new(pool->core, plan);
    if (!shelf)
        return;
    (void)pthread_mutex_lock(&pool->lock);
    struct shelf *entered = add_locked(pool, shelf);
    if (entered) {
        entered->asked_ns = clock_now_ns();
        if (entered->kept_min < kept_min) /* a request may be first of the default kind */
            entered->kept_min = kept_min;
        if (entered->target < kept_min)
            entered->target = kept_min;
        if (entered->target == 0)
            want_more_locked(pool, entered);
    }
    (void)pthread_cond_broadcast(&pool->changed);
    (void)pthread_mutex_unlock(&pool->lock);
    if (entered != shelf)
        shelf_free(shelf);
}

static struct stock *take(struct pool *pool, const struct plan *plan, bool *known)
{
    struct stock *stock = NULL;
    (void)pthread_mutex_lock(&pool->lock);
    struct shelf *shelf = pool->stopping ? NULL : find_locked(pool, plan);
    *known = shelf || pool->stopping;
    if (shelf) {
        shelf->asked_ns = clock_now_ns();
        stock = pop_locked(shelf);
        if (!stock)
            shelf->missed_ns = shelf->asked_ns;
        if (shelf->count == 0)
            want_more_locked(pool, shelf);
        (void)pthread_cond_signal(&pool->changed);
    }
    (void)pthread_mutex_unlock(&pool->lock);
    return stock;
}

bool pool_take(struct pool *pool, const struct plan *plan, struct pool_item *out)
{
    bool known = true;
    struct stock *stock = NULL;
    if (!pool || (plan->resources.disk && !plan->resources.disk_only))
        return false;
    struct metrics *metrics = &pool->core->metrics;
    while ((stock = take(pool, plan, &known)) && !channel_alive(stock->item.channel)) {
        atomic_fetch_add(&metrics->pool_discarded, 1);
        discard(pool, stock);
    }
    if (!known)
        open_shelf(pool, plan, 0);
    atomic_fetch_add(stock ? &metrics->pool_hits : &metrics->pool_misses, 1);
    if (!stock)
        return false;
    *out = stock->item;
    free(stock);
    return true;
}

bool pool_on_gone(struct pool *pool, const char *sandbox_id)
{
    struct stock *found = NULL;
    if (!pool)
        return false;
    (void)pthread_mutex_lock(&pool->lock);
    for (struct shelf *shelf = pool->shelves; shelf && !found; shelf = shelf->next) {
        for (struct stock **at = &shelf->first; *at; at = &(*at)->next) {
            if (strcmp((*at)->item.sandbox_id, sandbox_id) != 0)
                continue;
            found = *at;
            *at = found->next;
            if (!*at)
                shelf->end = at;
            shelf->count--;
            break;
        }
    }
    (void)pthread_cond_signal(&pool->changed);
    (void)pthread_mutex_unlock(&pool->lock);
    if (!found)
        return false;
    atomic_fetch_add(&pool->core->metrics.pool_discarded, 1);
    discard(pool, found);
    return true;
}

/* ---- refill ---- */

static unsigned least_of(const struct shelf *shelf, int64_t now_ns)
{
    unsigned asked = now_ns - shelf->asked_ns < REMEMBERED_NS ? 1 : 0;
    return shelf->kept_min > asked ? shelf->kept_min : asked;
}

static bool is_stale(const struct shelf *shelf, const struct stock *stock, int64_t now_ns)
{
    bool known = stock->image_id[0] != '\0' || strcmp(shelf->image, "host") == 0;
    bool other =
        known && shelf->image_id[0] != '\0' && strcmp(stock->image_id, shelf->image_id) != 0;
    return other || now_ns - stock->made_ns > (known ? AGE_MAX_NS : IMAGE_AGE_MAX_NS);
}

/* ---- what images' names mean ---- */

/* An image of a shelf, copied: the pool's lock is not held while an engine is asked. */
struct look {
    struct engine_slot *slot;
    char image[ENGINE_IMAGE_MAX];
};

static size_t list_images(struct pool *pool, struct look out[static SHELVES_MAX])
{
    size_t count = 0;
    (void)pthread_mutex_lock(&pool->lock);
    for (const struct shelf *shelf = pool->shelves; shelf && count < SHELVES_MAX;
         shelf = shelf->next) {
        if (shelf->target + shelf->count == 0)
            continue;
        out[count].slot = shelf->plan.slot;
        memcpy(out[count++].image, shelf->image, sizeof(shelf->image));
    }
    (void)pthread_mutex_unlock(&pool->lock);
    return count;
}

static void set_image_id(struct pool *pool, const struct look *look, const char *image_id)
{
    (void)pthread_mutex_lock(&pool->lock);
    for (struct shelf *shelf = pool->shelves; shelf; shelf = shelf->next) {
        if (shelf->plan.slot == look->slot && strcmp(shelf->image, look->image) == 0)
            (void)snprintf(shelf->image_id, sizeof(shelf->image_id), "%s", image_id);
    }
    (void)pthread_mutex_unlock(&pool->lock);
}

/* Asks each engine once. */
static void look_at_images(struct pool *pool)
{
    struct look looks[SHELVES_MAX];
    size_t count = list_images(pool, looks);
    bool away[CORE_ENGINES_MAX] = {false};
    for (size_t i = 0; i < count; i++) {
        struct engine_slot *slot = looks[i].slot;
        struct engine_info info;
        char image_id[ENGINE_IMAGE_ID_MAX];
        if (away[slot->index])
            continue;
        away[slot->index] = slot_info(slot, pool->core->image_look_ns,
                                      clock_now_ns() + IMAGE_WAIT_NS, &info, NULL) != 0;
        if (away[slot->index])
            continue;
        plan_image_id(&info, looks[i].image, image_id);
        set_image_id(pool, &looks[i], image_id);
    }
}

/* Fewer, when some of them were not needed for a while. One that is too many, or too old, is
 * returned: off the shelf. */
static struct stock *look_locked(struct shelf *shelf, bool drains, int64_t now_ns)
{
    if (now_ns - shelf->looked_ns >= LOOK_NS) {
        unsigned least = least_of(shelf, now_ns);
        unsigned spare = (shelf->low_water + 1) / 2;
        if (shelf->target > least)
            shelf->target = shelf->target - least > spare ? shelf->target - spare : least;
        shelf->looked_ns = now_ns;
        shelf->low_water = shelf->count;
    }
    bool over = shelf->count > (drains ? 0 : shelf->target);
    bool stale = shelf->first && is_stale(shelf, shelf->first, now_ns);
    return over || stale ? pop_locked(shelf) : NULL;
}

static struct stock *look_at_all_locked(struct pool *pool, bool drains, int64_t now_ns)
{
    struct stock *spare = NULL;
    for (struct shelf **at = &pool->shelves; *at && !spare;) {
        struct shelf *shelf = *at;
        spare = look_locked(shelf, drains, now_ns);
        if (!spare && shelf->target + shelf->count + shelf->filling == 0) {
            *at = shelf->next;
            pool->shelf_count--;
            shelf_free(shelf);
        } else {
            at = &shelf->next;
        }
    }
    return spare;
}

/* The shelf that lacks most and may be filled now. */
static struct shelf *neediest_locked(struct pool *pool, int64_t now_ns)
{
    struct shelf *neediest = NULL;
    unsigned most = 0;
    for (struct shelf *shelf = pool->shelves; shelf; shelf = shelf->next) {
        unsigned has = shelf->count + shelf->filling;
        if (shelf->pause_ns > 0 && shelf->filling > 0) /* one thread tries; the others have work */
            continue;
        if (has < shelf->target && shelf->target - has > most && now_ns >= shelf->not_before_ns &&
            !is_full_locked(pool, shelf, shelf->plan.slot, false) &&
            !is_full_locked(pool, shelf, NULL, false)) {
            neediest = shelf;
            most = shelf->target - has;
        }
    }
    return neediest;
}

/* Whether requests want what a refill would take from them. */
static bool requests_wait(struct core *core)
{
    struct admission_stats stats;
    admission_stats(core->admission, &stats);
    return stats.waiting > 0;
}

static void pause_locked(struct shelf *shelf, int64_t now_ns)
{
    shelf->pause_ns = shelf->pause_ns == 0                 ? PAUSE_MIN_NS
                      : 2 * shelf->pause_ns < PAUSE_MAX_NS ? 2 * shelf->pause_ns
                                                           : PAUSE_MAX_NS;
    shelf->not_before_ns = now_ns + shelf->pause_ns;
}

/* Makes one for the shelf, which stays while it is being filled. An engine that is away is not
 * asked for each of its kinds. */
static void fill(struct pool *pool, struct shelf *shelf, bool hurries)
{
    struct plan plan = shelf->plan; /* borrows all of it */
    /* A copy of a zygote is made sooner, an interpreter of its own runs sooner
     * (docs/benchmarks.md): the one for requests that wait, the other at leisure. */
    if (!hurries && pool->core->config.zygote == CORE_ZYGOTE_AUTO)
        plan.zygote = "";
    struct stock *stock = calloc(1, sizeof(*stock));
    struct err failure = ERR_INIT;
    int64_t begun_ns = clock_now_ns();
    (void)pthread_mutex_lock(&pool->lock);
    if (stock)
        memcpy(stock->image_id, shelf->image_id, sizeof(stock->image_id));
    (void)pthread_mutex_unlock(&pool->lock);
    int result = stock ? ready_make_ahead(pool->core, &plan, pool->stop_fd, &stock->item, &failure)
                       : err_set(&failure, ERR_INTERNAL, "no memory for a sandbox made ahead");
    int64_t now_ns = clock_now_ns();
    bool made = stock && result == 0;
    if (made)
        metrics_observe(&pool->core->metrics.pool_fill, (now_ns - begun_ns) / 1000);
    (void)pthread_mutex_lock(&pool->lock);
    shelf->filling--;
    if (!made) {
        pause_locked(shelf, now_ns);
        for (struct shelf *other = pool->shelves; other && engine_is_away(&failure);
             other = other->next) {
            if (other != shelf && other->plan.slot == shelf->plan.slot)
                pause_locked(other, now_ns);
        }
    } else {
        shelf->pause_ns = 0;
    }
    bool kept = made && !pool->stopping;
    if (kept) {
        stock->made_ns = now_ns;
        put_locked(shelf, stock);
    }
    (void)pthread_mutex_unlock(&pool->lock);
    if (!made)
        log_warn("a sandbox made ahead: %s", failure.message);
    if (made && !kept)
        discard(pool, stock);
    else if (!made)
        free(stock);
}

static void sleep_locked(struct pool *pool, int64_t until_ns)
{
    const struct timespec until = {.tv_sec = (time_t)(until_ns / CLOCK_NS_PER_S),
                                   .tv_nsec = (long)(until_ns % CLOCK_NS_PER_S)};
    (void)pthread_cond_timedwait(&pool->changed, &pool->lock, &until);
}

/* The kinds that requests without wishes ask for: in sandboxes of their own, and for sessions where
 * these go elsewhere. False: it is not known yet what there is. */
static bool open_default(struct pool *pool, bool of_session)
{
    const struct lang *lang = NULL;
    struct plan plan;
    struct engine_slot *slot = NULL;
    const char *runtime = NULL;
    const struct engine_ask ask = {.of_session = of_session};
    if (pool->kept_min == 0 || lang_find("python", &lang, NULL) != 0 ||
        engines_choose(pool->core, &ask, &slot, &runtime, NULL) != 0)
        return true;
    if (!slot_knows_info(slot))
        return false;
    const struct execution_request request = {
        .owner = "", .lang = lang, .cells = of_session, .of_session = of_session, .gone_fd = -1};
    if (plan_make(pool->core, &request, &plan, NULL) != 0)
        return false;
    if (!plan.resources.disk || plan.resources.disk_only)
        open_shelf(pool, &plan, pool->kept_min);
    plan_done(&plan);
    return true;
}

static void *worker_main(void *context)
{
    struct pool *pool = context;
    (void)pthread_mutex_lock(&pool->lock);
    bool leads = pthread_equal(pthread_self(), pool->workers[0]) != 0;
    bool opened[2] = {!leads, !leads};
    int64_t looked_ns = clock_now_ns();
    while (!pool->stopping) {
        (void)pthread_mutex_unlock(&pool->lock);
        if (leads && clock_now_ns() - looked_ns >= pool->core->image_look_ns) {
            look_at_images(pool);
            looked_ns = clock_now_ns();
        }
        for (int family = 0; family < 2; family++)
            opened[family] = opened[family] || open_default(pool, family > 0);
        bool yields = requests_wait(pool->core);
        bool drains = core_is_draining(pool->core);
        (void)pthread_mutex_lock(&pool->lock);
        int64_t now_ns = clock_now_ns();
        struct stock *spare = leads ? look_at_all_locked(pool, drains, now_ns) : NULL;
        struct shelf *shelf = yields || drains || spare ? NULL : neediest_locked(pool, now_ns);
        if (!spare && !shelf) {
            if (!pool->stopping)
                sleep_locked(pool, now_ns + (yields ? YIELD_NS : CLOCK_NS_PER_S));
            continue;
        }
        bool hurries = shelf && now_ns - shelf->missed_ns < EMPTY_NS;
        if (shelf)
            shelf->filling++;
        (void)pthread_mutex_unlock(&pool->lock);
        if (spare)
            discard(pool, spare);
        if (shelf)
            fill(pool, shelf, hurries);
        (void)pthread_mutex_lock(&pool->lock);
    }
    (void)pthread_mutex_unlock(&pool->lock);
    return NULL;
}

/* ---- life ---- */

static int start_workers(struct pool *pool, struct err *err)
{
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    unsigned least = pool->core->slot_count > 1 ? 2 : 1; /* one may wait for an engine */
    unsigned wanted = cores < (long)least   ? least
                      : cores > WORKERS_MAX ? WORKERS_MAX
                                            : (unsigned)cores;
    (void)pthread_mutex_lock(&pool->lock); /* they look at pool->workers when they have it */
    int status = 0;
    while (status == 0 && pool->worker_count < wanted) {
        status = pthread_create(&pool->workers[pool->worker_count], NULL, worker_main, pool);
        pool->worker_count += status == 0 ? 1 : 0;
    }
    (void)pthread_mutex_unlock(&pool->lock);
    return pool->worker_count > 0 ? 0 : err_sys(err, status, "start the pool's refill");
}

int pool_new(struct core *core, unsigned kept_min, struct pool **out, struct err *err)
{
    struct pool *pool = calloc(1, sizeof(*pool));
    if (!pool)
        return err_set(err, ERR_INTERNAL, "no memory for the pool");
    pool->core = core;
    pool->kept_min = kept_min;
    (void)pthread_mutex_init(&pool->lock, NULL);
    pthread_condattr_t attributes;
    (void)pthread_condattr_init(&attributes);
    (void)pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&pool->changed, &attributes);
    (void)pthread_condattr_destroy(&attributes);
    pool->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int result =
        pool->stop_fd < 0 ? err_sys(err, errno, "eventfd of the pool") : start_workers(pool, err);
    if (result != 0) {
        pool_free(pool);
        return result;
    }
    *out = pool;
    return 0;
}

void pool_set_max(struct pool *pool, const struct engine_slot *slot, unsigned kept_max)
{
    if (!pool)
        return;
    (void)pthread_mutex_lock(&pool->lock);
    pool->engine_max[slot->index] = kept_max;
    pool->kept_max = 0;
    for (size_t i = 0; i < CORE_ENGINES_MAX; i++) {
        if (pool->engine_max[i] > pool->kept_max)
            pool->kept_max = pool->engine_max[i];
    }
    (void)pthread_cond_broadcast(&pool->changed);
    (void)pthread_mutex_unlock(&pool->lock);
}

void pool_stop(struct pool *pool)
{
    struct stock *stock = NULL;
    if (!pool)
        return;
    (void)pthread_mutex_lock(&pool->lock);
    pool->stopping = true;
    uint64_t one = 1;
    (void)!write(pool->stop_fd, &one, sizeof(one));
    (void)pthread_cond_broadcast(&pool->changed);
    do {
        stock = NULL;
        for (struct shelf *shelf = pool->shelves; shelf && !stock; shelf = shelf->next)
            stock = pop_locked(shelf);
        (void)pthread_mutex_unlock(&pool->lock);
        if (stock)
            discard(pool, stock);
        (void)pthread_mutex_lock(&pool->lock);
    } while (stock);
    (void)pthread_mutex_unlock(&pool->lock);
}

void pool_join(struct pool *pool)
{
    for (unsigned i = 0; pool && i < pool->worker_count; i++)
        (void)pthread_join(pool->workers[i], NULL);
    if (pool)
        pool->worker_count = 0;
}

void pool_free(struct pool *pool)
{
    if (!pool)
        return;
    pool_join(pool);
    while (pool->shelves) {
        struct shelf *next = pool->shelves->next;
        shelf_free(pool->shelves);
        pool->shelves = next;
    }
    fd_close(&pool->stop_fd);
    (void)pthread_cond_destroy(&pool->changed);
    (void)pthread_mutex_destroy(&pool->lock);
    free(pool);
}

void pool_stats(struct pool *pool, struct pool_stats *out)
{
    *out = (struct pool_stats){0};
    if (!pool)
        return;
    (void)pthread_mutex_lock(&pool->lock);
    for (const struct shelf *shelf = pool->shelves; shelf; shelf = shelf->next) {
        out->ready += shelf->count;
        out->wanted += shelf->target;
        out->filling += shelf->filling;
    }
    (void)pthread_mutex_unlock(&pool->lock);
}
