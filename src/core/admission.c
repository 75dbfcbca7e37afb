/* Owns the places for sandboxes and the queue of those who wait for one. A place is handed to the
 * one who waits longest, so nobody who comes later overtakes. Knows nothing of what the place is
 * for. */
#include "core/admission.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"

/* On the stack of the one who waits. */
struct waiter {
    int fd; /* eventfd, readable when granted */
    bool granted;
    struct waiter *next;
};

struct admission {
    struct admission_config config;
    /* Rank 2. Guards all that follows. An eventfd is written under it: that never blocks. */
    pthread_mutex_t lock;
    unsigned living, creating, waiting;
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

static bool has_room(const struct admission *admission)
{
    return admission->living < admission->config.living_max &&
           admission->creating < admission->config.creates_max;
}

/* Hands free places to those who wait. Called with the lock held. */
static void grant_locked(struct admission *admission)
{
    while (admission->head && has_room(admission)) {
        struct waiter *waiter = admission->head;
        admission->head = waiter->next;
        if (!admission->head)
            admission->tail = &admission->head;
        admission->waiting--;
        admission->living++;
        admission->creating++;
        waiter->granted = true;
        uint64_t one = 1;
        (void)!write(waiter->fd, &one, sizeof(one));
    }
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

/* How long until the queue as it is has been served, by the pace of late; 1 to 60 s. */
static unsigned retry_after_locked(const struct admission *admission)
{
    int64_t wait_s = admission->interval_ns * (int64_t)(admission->waiting + 1) / CLOCK_NS_PER_S;
    return wait_s < 1 ? 1 : wait_s > 60 ? 60 : (unsigned)wait_s;
}

static int refuse_locked(const struct admission *admission, const char *why, struct err *err)
{
    int result = err_public(err, ERR_UNAVAILABLE,
                            "no capacity: %s (%u of %u sandboxes live, %u of %u places in the"
                            " queue are taken)",
                            why, admission->living, admission->config.living_max,
                            admission->waiting, admission->config.queue_max);
    if (err)
        err->retry_after_s = retry_after_locked(admission);
    return result;
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
            admission->living--;
            admission->creating--;
            grant_locked(admission);
        }
        result = err_set(err, ERR_CLOSED, "cancelled in the queue");
    } else if (!waiter->granted) {
        result = refuse_locked(admission, "waited too long for a sandbox", err);
    }
    if (!waiter->granted)
        unlink_locked(admission, waiter);
    (void)pthread_mutex_unlock(&admission->lock);
    return result;
}

int admission_acquire(struct admission *admission, int64_t deadline_ns, int cancel_fd, int gone_fd,
                      struct err *err)
{
    FD_AUTO int fd = -1;
    struct waiter waiter = {.fd = -1};
    (void)pthread_mutex_lock(&admission->lock);
    bool granted = !admission->head && has_room(admission);
    int result = 0;
    if (granted) {
        admission->living++;
        admission->creating++;
    } else if (admission->waiting >= admission->config.queue_max) {
        result = refuse_locked(admission, "the queue is full", err);
    } else {
        fd = eventfd(0, EFD_CLOEXEC);
        if (fd < 0)
            result = err_sys(err, errno, "eventfd for the queue");
    }
    if (fd >= 0) {
        waiter.fd = fd;
        *admission->tail = &waiter;
        admission->tail = &waiter.next;
        admission->waiting++;
    }
    (void)pthread_mutex_unlock(&admission->lock);
    if (granted || result != 0)
        return result;
    return wait_in_queue(admission, &waiter, deadline_ns, cancel_fd, gone_fd, err);
}

void admission_created(struct admission *admission)
{
    (void)pthread_mutex_lock(&admission->lock);
    admission->creating--;
    grant_locked(admission);
    (void)pthread_mutex_unlock(&admission->lock);
}

void admission_release(struct admission *admission)
{
    int64_t now_ns = clock_now_ns();
    (void)pthread_mutex_lock(&admission->lock);
    admission->living--;
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
                                    .living_max = admission->config.living_max};
    (void)pthread_mutex_unlock(&admission->lock);
}
