/* Owns the table of watched connections and the thread that holds their deadlines. Never reads what
 * a client sent (but to throw it away after a refusal) and never closes a socket that it was lent.
 */
#include "wire/http_watch.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"

#define WATCH_TICK_MS 200    /* how late a deadline may be noticed */
#define WATCH_LINGER_MS 2000 /* longest time that a refused connection is drained */
#define WATCH_LINGER_BYTES (16U << 20)
#define WATCH_LINGER_MAX 64   /* lingering at once; their slots are beside connection_max */
#define WATCH_WAKE UINT64_MAX /* epoll data of the wake-up eventfd */

struct watch_slot {
    uint32_t generation; /* odd while in use; the upper half of the handle */
    enum http_watch_state state;
    int fd;      /* lent, but for HTTP_WATCH_LINGER */
    int gone_fd; /* owned; -1 until a handler ran */
    int64_t deadline_ns;
    uint64_t timeout_ms;
    uint64_t progress; /* bytes that the peer had acknowledged; of a lingering one: thrown away */
};

struct http_watch {
    pthread_t thread;
    int epoll_fd;
    int wake_fd;
    unsigned slot_count;
    pthread_mutex_t mutex; /* rank: leaf; guards all below. The calls under it do not block. */
    struct watch_slot *slots;
    bool sleeping; /* the thread waits without a timeout */
    bool stopping;
    unsigned lingering; /* slots in HTTP_WATCH_LINGER */
    uint64_t timed_out;
};

static struct watch_slot *watch_find(struct http_watch *watch, uint64_t handle)
{
    uint32_t index = (uint32_t)handle;
    if (handle == 0 || index >= watch->slot_count)
        return NULL;
    struct watch_slot *slot = &watch->slots[index];
    return slot->generation == (uint32_t)(handle >> 32) ? slot : NULL;
}

static uint64_t watch_handle(const struct http_watch *watch, const struct watch_slot *slot)
{
    return (uint64_t)slot->generation << 32 | (uint64_t)(slot - watch->slots);
}

static void watch_wake(struct http_watch *watch)
{
    uint64_t one = 1;
    ssize_t ignored = write(watch->wake_fd, &one, sizeof(one));
    (void)ignored; /* a full counter has woken it already */
}

static void watch_arm(struct http_watch *watch, struct watch_slot *slot, int operation,
                      uint32_t events)
{
    struct epoll_event event = {.events = events, .data.u64 = watch_handle(watch, slot)};
    if (epoll_ctl(watch->epoll_fd, operation, slot->fd, &event) < 0)
        log_warn("http: epoll_ctl: errno %d", errno);
}

static void watch_set_deadline(struct http_watch *watch, struct watch_slot *slot,
                               uint64_t timeout_ms)
{
    slot->timeout_ms = timeout_ms;
    slot->deadline_ns =
        timeout_ms == 0 ? INT64_MAX : clock_now_ns() + (int64_t)timeout_ms * CLOCK_NS_PER_MS;
    if (timeout_ms > 0 && watch->sleeping) {
        watch->sleeping = false;
        watch_wake(watch);
    }
}

static void watch_release(struct watch_slot *slot)
{
    fd_close(&slot->gone_fd);
    slot->fd = -1;
    slot->generation++;
}

static void watch_end_linger(struct http_watch *watch, struct watch_slot *slot)
{
    (void)close(slot->fd);
    watch->lingering--;
    watch_release(slot);
}

static uint64_t watch_acked(int fd)
{
    struct tcp_info info;
    socklen_t size = sizeof(info);
    memset(&info, 0, sizeof(info));
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) < 0)
        return 0;
    return info.tcpi_bytes_acked;
}

static void watch_tell_gone(struct watch_slot *slot)
{
    uint64_t one = 1;
    if (slot->gone_fd < 0)
        return;
    ssize_t ignored = write(slot->gone_fd, &one, sizeof(one));
    (void)ignored;
}

static void watch_expire(struct http_watch *watch, struct watch_slot *slot)
{
    if (slot->state == HTTP_WATCH_LINGER) {
        watch_end_linger(watch, slot);
        return;
    }
    if (slot->state == HTTP_WATCH_SENDING) {
        uint64_t acked = watch_acked(slot->fd);
        if (acked != slot->progress) {
            slot->progress = acked;
            watch_set_deadline(watch, slot, slot->timeout_ms);
            return;
        }
    }
    slot->deadline_ns = INT64_MAX;
    if (slot->state != HTTP_WATCH_IDLE)
        watch->timed_out++;
    (void)shutdown(slot->fd, SHUT_RDWR); /* its own thread sees the end and closes it */
}

/* Throws away what a refused client still sends. */
static void watch_drain(struct http_watch *watch, struct watch_slot *slot)
{
    char junk[16 * 1024];
    for (int i = 0; i < 16; i++) {
        ssize_t size = recv(slot->fd, junk, sizeof(junk), MSG_DONTWAIT);
        if (size < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (size > 0)
            slot->progress += (uint64_t)size;
        if (size <= 0 || slot->progress > WATCH_LINGER_BYTES) {
            watch_end_linger(watch, slot);
            return;
        }
    }
}

static void watch_take_event(struct http_watch *watch, uint64_t handle)
{
    if (handle == WATCH_WAKE) {
        uint64_t count;
        ssize_t ignored = read(watch->wake_fd, &count, sizeof(count));
        (void)ignored;
        return;
    }
    struct watch_slot *slot = watch_find(watch, handle);
    if (slot && slot->state == HTTP_WATCH_LINGER)
        watch_drain(watch, slot);
    else if (slot && slot->state == HTTP_WATCH_HANDLER)
        watch_tell_gone(slot);
}

static void *watch_run(void *context)
{
    struct http_watch *watch = context;
    struct epoll_event events[64];
    pthread_mutex_lock(&watch->mutex);
    while (!watch->stopping) {
        bool deadlines = false;
        int64_t now_ns = clock_now_ns();
        for (unsigned i = 0; i < watch->slot_count; i++) {
            struct watch_slot *slot = &watch->slots[i];
            if (slot->generation % 2 == 0 || slot->deadline_ns == INT64_MAX)
                continue;
            if (slot->deadline_ns <= now_ns)
                watch_expire(watch, slot);
            else
                deadlines = true;
        }
        watch->sleeping = !deadlines;
        pthread_mutex_unlock(&watch->mutex);
        int count =
            epoll_wait(watch->epoll_fd, events, ARRAY_SIZE(events), deadlines ? WATCH_TICK_MS : -1);
        pthread_mutex_lock(&watch->mutex);
        watch->sleeping = false;
        for (int i = 0; i < count; i++)
            watch_take_event(watch, events[i].data.u64);
    }
    pthread_mutex_unlock(&watch->mutex);
    return NULL;
}

int http_watch_new(unsigned connection_max, struct http_watch **out, struct err *err)
{
    struct http_watch *watch = calloc(1, sizeof(*watch));
    if (!watch)
        return err_set(err, ERR_INTERNAL, "no memory for the watcher");
    watch->slot_count = connection_max + WATCH_LINGER_MAX;
    watch->slots = calloc(watch->slot_count, sizeof(*watch->slots));
    watch->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    watch->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    pthread_mutex_init(&watch->mutex, NULL);
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = WATCH_WAKE};
    int result = 0;
    for (unsigned i = 0; watch->slots && i < watch->slot_count; i++) {
        watch->slots[i].fd = -1;
        watch->slots[i].gone_fd = -1;
    }
    if (!watch->slots || watch->epoll_fd < 0 || watch->wake_fd < 0 ||
        epoll_ctl(watch->epoll_fd, EPOLL_CTL_ADD, watch->wake_fd, &event) < 0)
        result = err_sys(err, errno, "making the watcher");
    else if (pthread_create(&watch->thread, NULL, watch_run, watch) != 0)
        result = err_set(err, ERR_INTERNAL, "starting the watcher's thread");
    if (result < 0) {
        fd_close(&watch->epoll_fd);
        fd_close(&watch->wake_fd);
        free(watch->slots);
        free(watch);
        return result;
    }
    *out = watch;
    return 0;
}

void http_watch_free(struct http_watch *watch)
{
    if (!watch)
        return;
    pthread_mutex_lock(&watch->mutex);
    watch->stopping = true;
    pthread_mutex_unlock(&watch->mutex);
    watch_wake(watch);
    pthread_join(watch->thread, NULL);
    for (unsigned i = 0; i < watch->slot_count; i++) {
        if (watch->slots[i].generation % 2 == 1 && watch->slots[i].state == HTTP_WATCH_LINGER)
            fd_close(&watch->slots[i].fd);
        fd_close(&watch->slots[i].gone_fd);
    }
    pthread_mutex_destroy(&watch->mutex);
    fd_close(&watch->epoll_fd);
    fd_close(&watch->wake_fd);
    free(watch->slots);
    free(watch);
}

uint64_t http_watch_add(struct http_watch *watch, int fd, uint64_t timeout_ms)
{
    uint64_t handle = 0;
    pthread_mutex_lock(&watch->mutex);
    for (unsigned i = 0; i < watch->slot_count && handle == 0; i++) {
        struct watch_slot *slot = &watch->slots[i];
        if (slot->generation % 2 == 1)
            continue;
        slot->generation++;
        slot->fd = fd;
        slot->state = HTTP_WATCH_HEAD;
        slot->progress = 0;
        handle = watch_handle(watch, slot);
        watch_arm(watch, slot, EPOLL_CTL_ADD, EPOLLONESHOT);
        watch_set_deadline(watch, slot, timeout_ms);
    }
    pthread_mutex_unlock(&watch->mutex);
    return handle;
}

void http_watch_remove(struct http_watch *watch, uint64_t handle, bool linger)
{
    pthread_mutex_lock(&watch->mutex);
    struct watch_slot *slot = watch_find(watch, handle);
    if (slot) {
        (void)epoll_ctl(watch->epoll_fd, EPOLL_CTL_DEL, slot->fd, NULL);
        /* Bounded, so that every connection that is let in finds a slot, which is its deadline. */
        linger = linger && !watch->stopping && watch->lingering < WATCH_LINGER_MAX;
        int copy = linger ? fcntl(slot->fd, F_DUPFD_CLOEXEC, 3) : -1;
        if (copy >= 0) {
            watch->lingering++;
            (void)shutdown(copy, SHUT_WR);
            slot->fd = copy;
            slot->state = HTTP_WATCH_LINGER;
            slot->progress = 0;
            watch_arm(watch, slot, EPOLL_CTL_ADD, EPOLLIN);
            watch_set_deadline(watch, slot, WATCH_LINGER_MS);
        } else {
            watch_release(slot);
        }
    }
    pthread_mutex_unlock(&watch->mutex);
}

void http_watch_set(struct http_watch *watch, uint64_t handle, enum http_watch_state state,
                    uint64_t timeout_ms)
{
    pthread_mutex_lock(&watch->mutex);
    struct watch_slot *slot = watch_find(watch, handle);
    if (slot) {
        slot->state = state;
        watch_set_deadline(watch, slot, timeout_ms);
        if (state == HTTP_WATCH_SENDING)
            slot->progress = watch_acked(slot->fd);
        if (state == HTTP_WATCH_HANDLER) {
            if (slot->gone_fd < 0)
                slot->gone_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
            /* Level-triggered once: a peer that left before this moment is told as well. */
            watch_arm(watch, slot, EPOLL_CTL_MOD, EPOLLRDHUP | EPOLLONESHOT);
        }
    }
    pthread_mutex_unlock(&watch->mutex);
}

int http_watch_gone_fd(struct http_watch *watch, uint64_t handle)
{
    pthread_mutex_lock(&watch->mutex);
    struct watch_slot *slot = watch_find(watch, handle);
    int fd = slot ? slot->gone_fd : -1;
    pthread_mutex_unlock(&watch->mutex);
    return fd;
}

static bool watch_is_busy(const struct watch_slot *slot)
{
    return slot->generation % 2 == 1 &&
           (slot->state == HTTP_WATCH_BODY || slot->state == HTTP_WATCH_HANDLER ||
            slot->state == HTTP_WATCH_SENDING);
}

unsigned http_watch_busy(struct http_watch *watch)
{
    unsigned count = 0;
    pthread_mutex_lock(&watch->mutex);
    for (unsigned i = 0; i < watch->slot_count; i++)
        count += watch_is_busy(&watch->slots[i]);
    pthread_mutex_unlock(&watch->mutex);
    return count;
}

void http_watch_shut_all(struct http_watch *watch, bool busy_too)
{
    pthread_mutex_lock(&watch->mutex);
    for (unsigned i = 0; i < watch->slot_count; i++) {
        struct watch_slot *slot = &watch->slots[i];
        if (slot->generation % 2 == 0 || (watch_is_busy(slot) && !busy_too))
            continue;
        if (slot->state == HTTP_WATCH_HANDLER)
            watch_tell_gone(slot);
        else
            (void)shutdown(slot->fd, SHUT_RDWR);
    }
    pthread_mutex_unlock(&watch->mutex);
}

void http_watch_shut_idle(struct http_watch *watch)
{
    pthread_mutex_lock(&watch->mutex);
    for (unsigned i = 0; i < watch->slot_count; i++) {
        struct watch_slot *slot = &watch->slots[i];
        if (slot->generation % 2 == 1 && slot->state == HTTP_WATCH_IDLE)
            (void)shutdown(slot->fd, SHUT_RDWR);
    }
    pthread_mutex_unlock(&watch->mutex);
}

uint64_t http_watch_timed_out(struct http_watch *watch)
{
    pthread_mutex_lock(&watch->mutex);
    uint64_t count = watch->timed_out;
    pthread_mutex_unlock(&watch->mutex);
    return count;
}
