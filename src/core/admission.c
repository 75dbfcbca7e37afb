/* Owns the places for sandboxes, the sums of what is reserved, and the queue of those who wait.
 * Those of an engine are served in their order, and nobody overtakes one who waits for what all
 * share. Knows nothing of what the place is for. */
#include "core/admission.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"

/* What is reserved, and what may be. */
struct account {
    struct reservation reserved, budget;
};

/* On the stack of the one who waits. */
struct waiter {
    int fd; /* eventfd, readable when granted */
    struct reservation reserve;
    bool granted;
    struct waiter *next;
};

struct admission {
    struct admission_config config;
    /* Rank 2. Guards all that follows. An eventfd is written under it: that never blocks. */
    pthread_mutex_t lock;
    unsigned living, creating, waiting;
    struct account all, engines[ADMISSION_ENGINES_MAX];
    struct waiter *head, **tail;
    int64_t last_release_ns; /* with interval_ns: how fast places come back */
    int64_t interval_ns;
};

int admission_new(const struct admission_config *config, struct admission **out, struct err *err)
{
    struct admission *admission = calloc(1, sizeof(*admission));
    if (!admission)
        return err_set(err, ERR_INTERNAL, "no memory for admission");
    admission->config = *config;
    admission->tail = &admission->head;
    admission->interval_ns = CLOCK_NS_PER_S;
    (void)pthread_mutex_init(&admission->lock, NULL);
    *out = admission;
    return 0;
}

void admission_free(struct admission *admission)
{
    if (!admission)
        return;
    (void)pthread_mutex_destroy(&admission->lock);
    free(admission);
}

/* Whether size more fits; reserved may be above a budget that was made smaller. */
static bool fits(uint64_t reserved, uint64_t budget, uint64_t size)
{
    return size == 0 || (reserved <= budget && size <= budget - reserved);
}

static bool account_fits(const struct account *account, const struct reservation *reserve)
{
    return fits(account->reserved.memory_bytes, account->budget.memory_bytes,
                reserve->memory_bytes) &&
           fits(account->reserved.disk_bytes, account->budget.disk_bytes, reserve->disk_bytes);
}

static bool engine_has_room(const struct admission *admission, const struct reservation *reserve)
{
    return account_fits(&admission->engines[reserve->engine], reserve);
}

static bool has_room(const struct admission *admission, const struct reservation *reserve)
{
    return admission->living < admission->config.living_max &&
           admission->creating < admission->config.creates_max &&
           account_fits(&admission->all, reserve) && engine_has_room(admission, reserve);
}

/* Whether one who waits already goes before any of that engine. */
static bool is_behind_locked(const struct admission *admission, unsigned of)
{
    bool passed[ADMISSION_ENGINES_MAX] = {false}; /* who waits for his engine, or behind such */
    for (const struct waiter *waiter = admission->head; waiter; waiter = waiter->next) {
        unsigned engine = waiter->reserve.engine;
        passed[engine] = passed[engine] || !engine_has_room(admission, &waiter->reserve);
        if (engine == of || !passed[engine])
            return true;
    }
    return false;
}

static void account_add(struct account *account, const struct reservation *reserve)
{
    account->reserved.memory_bytes += reserve->memory_bytes;
    account->reserved.disk_bytes += reserve->disk_bytes;
}

static void reserve_locked(struct admission *admission, const struct reservation *reserve)
{
    admission->living++;
    account_add(&admission->all, reserve);
    account_add(&admission->engines[reserve->engine], reserve);
}

static void take_locked(struct admission *admission, const struct reservation *reserve)
{
    admission->creating++;
    reserve_locked(admission, reserve);
}

static void account_subtract(struct account *account, const struct reservation *reserve)
{
    account->reserved.memory_bytes -= reserve->memory_bytes;
    account->reserved.disk_bytes -= reserve->disk_bytes;
}

static void give_back_locked(struct admission *admission, const struct reservation *reserve)
{
    admission->living--;
    account_subtract(&admission->all, reserve);
    account_subtract(&admission->engines[reserve->engine], reserve);
}

static void unlink_locked(struct admission *admission, const struct waiter *waiter)
{
    struct waiter **at = &admission->head;
    while (*at && *at != waiter)
        at = &(*at)->next;
    if (!*at)
        return;
    *at = waiter->next;
    admission->waiting--;
    if (!*at)
        admission->tail = at;
}

/* Hands free places to those who wait, in their order. Called with the lock held. */
static void grant_locked(struct admission *admission)
{
    bool passed[ADMISSION_ENGINES_MAX] = {false};
    struct waiter *next = NULL;
    for (struct waiter *waiter = admission->head; waiter; waiter = next) {
        unsigned engine = waiter->reserve.engine;
        next = waiter->next;
        passed[engine] = passed[engine] || !engine_has_room(admission, &waiter->reserve);
        if (passed[engine])
            continue;
        if (!has_room(admission, &waiter->reserve))
            return;
        unlink_locked(admission, waiter);
        take_locked(admission, &waiter->reserve);
        waiter->granted = true;
        uint64_t one = 1;
        (void)!write(waiter->fd, &one, sizeof(one));
    }
}

static uint64_t larger(uint64_t one, uint64_t other)
{
    return one > other ? one : other;
}

void admission_set_budget(struct admission *admission, const struct reservation *budget)
{
    (void)pthread_mutex_lock(&admission->lock);
    struct reservation all = {0};
    admission->engines[budget->engine].budget = *budget;
    for (size_t i = 0; i < ADMISSION_ENGINES_MAX; i++) {
        const struct reservation *one = &admission->engines[i].budget;
        all.memory_bytes = larger(all.memory_bytes, one->memory_bytes);
        all.disk_bytes = larger(all.disk_bytes, one->disk_bytes);
    }
    admission->all.budget = all;
    grant_locked(admission);
    (void)pthread_mutex_unlock(&admission->lock);
}

/* How long until the queue as it is has been served, by the pace of late; 1 to 60 s. */
static unsigned retry_after_locked(const struct admission *admission)
{
    int64_t wait_s = admission->interval_ns * (int64_t)(admission->waiting + 1) / CLOCK_NS_PER_S;
    return wait_s < 1 ? 1 : wait_s > 60 ? 60 : (unsigned)wait_s;
}

/* Memory, or the disk when that is what is short; of the engine when all have more. */
static int refuse_locked(const struct admission *admission, const struct reservation *reserve,
                         const char *why, struct err *err)
{
    const struct account *account = engine_has_room(admission, reserve)
                                        ? &admission->all
                                        : &admission->engines[reserve->engine];
    const struct reservation *reserved = &account->reserved;
    const struct reservation *budget = &account->budget;
    bool disk = !fits(reserved->disk_bytes, budget->disk_bytes, reserve->disk_bytes);
    int result = err_public(
        err, ERR_UNAVAILABLE,
        "no capacity: %s (%u of %u sandboxes live, %u of %u places in the queue are taken; %" PRIu64
        " bytes of %s to reserve, %" PRIu64 " of %" PRIu64 " are reserved)",
        why, admission->living, admission->config.living_max, admission->waiting,
        admission->config.queue_max, disk ? reserve->disk_bytes : reserve->memory_bytes,
        disk ? "disk" : "memory", disk ? reserved->disk_bytes : reserved->memory_bytes,
        disk ? budget->disk_bytes : budget->memory_bytes);
    if (err)
        err->retry_after_s = retry_after_locked(admission);
    return result;
}

/* What never fits is not worth waiting for. */
static int check_budget_locked(const struct admission *admission, const struct reservation *reserve,
                               struct err *err)
{
    const struct reservation *budget = &admission->engines[reserve->engine].budget;
    if (fits(0, budget->memory_bytes, reserve->memory_bytes) &&
        fits(0, budget->disk_bytes, reserve->disk_bytes))
        return 0;
    return err_public(
        err, ERR_BAD_INPUT,
        "resources: %" PRIu64 " bytes of memory and %" PRIu64
        " of disk to reserve, all sandboxes together may have %" PRIu64 " and %" PRIu64,
        reserve->memory_bytes, reserve->disk_bytes, budget->memory_bytes, budget->disk_bytes);
}

/* Waits in the queue. Returns 1 when granted, 0 past the deadline, -1 when cancelled. */
static int wait_for_grant(int fd, int64_t deadline_ns, int cancel_fd, int gone_fd)
{
    for (;;) {
        struct pollfd fds[3] = {
            {.fd = fd, .events = POLLIN},
            {.fd = cancel_fd, .events = POLLIN},
            {.fd = gone_fd, .events = POLLIN | POLLRDHUP},
        };
        int timeout_ms = clock_poll_timeout_ms(deadline_ns);
        if (poll(fds, 3, timeout_ms) < 0 && errno != EINTR)
            return 0;
        if (fds[1].revents != 0 || fds[2].revents != 0)
            return -1;
        if (fds[0].revents != 0)
            return 1;
        if (timeout_ms == 0)
            return 0;
    }
}

static int wait_in_queue(struct admission *admission, struct waiter *waiter, int64_t deadline_ns,
                         int cancel_fd, int gone_fd, struct err *err)
{
    int status = wait_for_grant(waiter->fd, deadline_ns, cancel_fd, gone_fd);
    int result = 0;
    (void)pthread_mutex_lock(&admission->lock);
    if (status < 0) {
        if (waiter->granted) {
            admission->creating--;
            give_back_locked(admission, &waiter->reserve);
        }
        result = err_set(err, ERR_CLOSED, "cancelled in the queue");
    } else if (!waiter->granted) {
        result = refuse_locked(admission, &waiter->reserve, "waited too long for a sandbox", err);
    }
    if (!waiter->granted)
        unlink_locked(admission, waiter);
    if (result != 0)
        grant_locked(admission); /* the one behind may ask for less */
    (void)pthread_mutex_unlock(&admission->lock);
    return result;
}

static void enqueue_locked(struct admission *admission, struct waiter *waiter)
{
    *admission->tail = waiter;
    admission->tail = &waiter->next;
    admission->waiting++;
}

int admission_acquire(struct admission *admission, const struct reservation *reserve,
                      int64_t deadline_ns, int cancel_fd, int gone_fd, struct err *err)
{
    FD_AUTO int fd = -1;
    struct waiter waiter = {.fd = -1, .reserve = *reserve};
    (void)pthread_mutex_lock(&admission->lock);
    int result = check_budget_locked(admission, reserve, err);
    bool granted = result == 0 && !is_behind_locked(admission, reserve->engine) &&
                   has_room(admission, reserve);
    if (granted) {
        take_locked(admission, reserve);
    } else if (result == 0 && admission->waiting >= admission->config.queue_max) {
        result = refuse_locked(admission, reserve, "the queue is full", err);
    } else if (result == 0) {
        fd = eventfd(0, EFD_CLOEXEC);
        if (fd < 0)
            result = err_sys(err, errno, "eventfd for the queue");
    }
    if (fd >= 0) {
        waiter.fd = fd;
        enqueue_locked(admission, &waiter);
    }
    (void)pthread_mutex_unlock(&admission->lock);
    if (granted || result != 0)
        return result;
    return wait_in_queue(admission, &waiter, deadline_ns, cancel_fd, gone_fd, err);
}

bool admission_would_wait(struct admission *admission, const struct reservation *reserve)
{
    (void)pthread_mutex_lock(&admission->lock);
    bool waits = admission->waiting < admission->config.queue_max &&
                 check_budget_locked(admission, reserve, NULL) == 0 &&
                 (is_behind_locked(admission, reserve->engine) || !has_room(admission, reserve));
    (void)pthread_mutex_unlock(&admission->lock);
    return waits;
}

bool admission_has_waiters(struct admission *admission, unsigned engine)
{
    (void)pthread_mutex_lock(&admission->lock);
    bool some = is_behind_locked(admission, engine);
    (void)pthread_mutex_unlock(&admission->lock);
    return some;
}

void admission_created(struct admission *admission)
{
    (void)pthread_mutex_lock(&admission->lock);
    admission->creating--;
    grant_locked(admission);
    (void)pthread_mutex_unlock(&admission->lock);
}

void admission_adopt(struct admission *admission, const struct reservation *reserve)
{
    (void)pthread_mutex_lock(&admission->lock);
    reserve_locked(admission, reserve);
    (void)pthread_mutex_unlock(&admission->lock);
}

void admission_release(struct admission *admission, const struct reservation *reserve)
{
    int64_t now_ns = clock_now_ns();
    (void)pthread_mutex_lock(&admission->lock);
    give_back_locked(admission, reserve);
    if (admission->last_release_ns != 0 && admission->waiting > 0) {
        int64_t sample_ns = now_ns - admission->last_release_ns;
        admission->interval_ns += (sample_ns - admission->interval_ns) / 16;
    }
    admission->last_release_ns = now_ns;
    grant_locked(admission);
    (void)pthread_mutex_unlock(&admission->lock);
}

void admission_stats(struct admission *admission, struct admission_stats *out)
{
    (void)pthread_mutex_lock(&admission->lock);
    *out = (struct admission_stats){.living = admission->living,
                                    .creating = admission->creating,
                                    .waiting = admission->waiting,
                                    .living_max = admission->config.living_max,
                                    .reserved = admission->all.reserved,
                                    .budget = admission->all.budget};
    (void)pthread_mutex_unlock(&admission->lock);
}
