/* Owns the connection of the native client: a thread that connects, reads and hands replies to the
 * callers that wait for them. Callers send for themselves. A connection that breaks fails all that
 * wait; refuses nothing by policy; what the engine says is checked by the decoder. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "engine/native_internal.h"

#define BACKOFF_MIN_NS (5 * CLOCK_NS_PER_MS)
#define BACKOFF_MAX_NS (1000 * CLOCK_NS_PER_MS)
#define WATCH_NS (50 * CLOCK_NS_PER_MS) /* how often a wait looks at what may end it */

/* A caller that waits for its reply; on the caller's stack, linked while it waits. */
struct waiter {
    uint64_t request_id;
    pthread_cond_t answered;
    bool done;
    struct engine_msg reply;
    int fd; /* that came with the reply; -1 none */
    struct waiter *next;
};

static struct timespec timespec_of(int64_t ns)
{
    return (struct timespec){.tv_sec = (time_t)(ns / CLOCK_NS_PER_S),
                             .tv_nsec = (long)(ns % CLOCK_NS_PER_S)};
}

static void cond_init(pthread_cond_t *cond)
{
    pthread_condattr_t attributes;
    (void)pthread_condattr_init(&attributes);
    (void)pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    (void)pthread_cond_init(cond, &attributes);
    (void)pthread_condattr_destroy(&attributes);
}

/* Waits on cond until deadline_ns. Returns false when that passed. */
static bool cond_wait_until(pthread_cond_t *cond, pthread_mutex_t *lock, int64_t deadline_ns)
{
    if (deadline_ns == INT64_MAX) {
        (void)pthread_cond_wait(cond, lock);
        return true;
    }
    struct timespec until = timespec_of(deadline_ns);
    return pthread_cond_timedwait(cond, lock, &until) != ETIMEDOUT;
}

static bool is_watched(const struct engine_wait *wait)
{
    return wait->cancel_fd >= 0 || wait->gone_fd >= 0;
}

/* Waits on cond, for a moment at most when descriptors are watched. Returns false when the wait is
 * over: by its deadline, or by a descriptor. Called with the lock held. */
static bool wait_a_while(pthread_cond_t *cond, pthread_mutex_t *lock,
                         const struct engine_wait *wait)
{
    if (!is_watched(wait))
        return cond_wait_until(cond, lock, wait->deadline_ns);
    int64_t now_ns = clock_now_ns();
    if (now_ns >= wait->deadline_ns)
        return false;
    int64_t until_ns =
        wait->deadline_ns - now_ns > WATCH_NS ? now_ns + WATCH_NS : wait->deadline_ns;
    /* A poll(2) that does not wait is no I/O that a lock must not be held across. */
    return cond_wait_until(cond, lock, until_ns) || !engine_wait_is_over(wait, 0);
}

void native_link_wake(struct native *native)
{
    uint64_t one = 1;
    (void)!write(native->wake_fd, &one, sizeof(one));
}

/* Waits for a connection and holds it; give it back with native_link_release(). */
static int connection_acquire(struct native *native, const struct engine_wait *wait, int *out_fd,
                              struct err *err)
{
    int fd = -1;
    (void)pthread_mutex_lock(&native->lock);
    while (native->fd < 0 && !native->stop) {
        if (!wait_a_while(&native->state_changed, &native->lock, wait))
            break;
    }
    if (native->fd >= 0 && !native->stop) {
        fd = native->fd;
        native->senders++;
    }
    (void)pthread_mutex_unlock(&native->lock);
    if (fd < 0)
        return engine_set_away(err, "is not there");
    *out_fd = fd;
    return 0;
}

void native_link_release(struct native *native)
{
    (void)pthread_mutex_lock(&native->lock);
    if (--native->senders == 0)
        (void)pthread_cond_broadcast(&native->state_changed);
    (void)pthread_mutex_unlock(&native->lock);
}

/* Sends one message; waits for room in the socket until deadline_ns. */
int native_link_send(int fd, const struct engine_msg *msg, int passed_fd, int64_t deadline_ns,
                     struct err *err)
{
    BUF_AUTO struct buf bytes;
    buf_init(&bytes, ENGINE_MSG_MAX);
    int result = engine_msg_encode(msg, &bytes, err);
    if (result != 0)
        return result;
    for (;;) {
        result = fd_send(fd, bytes.data, bytes.size, &passed_fd, passed_fd >= 0 ? 1 : 0,
                         MSG_DONTWAIT, err);
        if (result != -ERR_UNAVAILABLE)
            return result == -ERR_CLOSED ? engine_set_away(err, "went away") : result;
        struct pollfd room = {.fd = fd, .events = POLLOUT};
        int timeout_ms = clock_poll_timeout_ms(deadline_ns);
        if (timeout_ms == 0 || (poll(&room, 1, timeout_ms) < 0 && errno != EINTR))
            return engine_set_away(err, "takes no request");
    }
}

static void waiter_add(struct native *native, struct waiter *waiter)
{
    memset(waiter, 0, sizeof(*waiter));
    waiter->fd = -1;
    cond_init(&waiter->answered);
    (void)pthread_mutex_lock(&native->lock);
    waiter->request_id = ++native->next_request_id;
    waiter->next = native->waiters;
    native->waiters = waiter;
    (void)pthread_mutex_unlock(&native->lock);
}

/* Waits for the reply and unlinks the waiter; false when the deadline passed before. */
static bool waiter_wait(struct native *native, struct waiter *waiter,
                        const struct engine_wait *wait, const char *create_id)
{
    (void)pthread_mutex_lock(&native->lock);
    while (!waiter->done) {
        if (!wait_a_while(&waiter->answered, &native->lock, wait))
            break;
    }
    for (struct waiter **at = &native->waiters; *at; at = &(*at)->next) {
        if (*at == waiter) {
            *at = waiter->next;
            break;
        }
    }
    if (!waiter->done && create_id)
        native_destroy_abandon_locked(native, waiter->request_id, create_id);
    (void)pthread_mutex_unlock(&native->lock);
    (void)pthread_cond_destroy(&waiter->answered);
    return waiter->done;
}

/* One request and its reply. The reply is the caller's: engine_msg_done(). */
int native_link_call(struct native *native, struct engine_msg *request, int passed_fd,
                     const struct engine_wait *wait, struct engine_msg *reply, int *out_fd,
                     struct err *err)
{
    static const struct engine_wait no_wait = {.cancel_fd = -1, .gone_fd = -1};
    int fd = -1;
    int result = connection_acquire(native, wait, &fd, err);
    if (result != 0)
        return result;
    struct waiter waiter;
    waiter_add(native, &waiter);
    request->request_id = waiter.request_id;
    result = native_link_send(fd, request, passed_fd, wait->deadline_ns, err);
    native_link_release(native);
    const char *create_id = request->op == ENGINE_OP_CREATE ? request->create.id : NULL;
    bool answered =
        waiter_wait(native, &waiter, result == 0 ? wait : &no_wait, result == 0 ? create_id : NULL);
    FD_AUTO int received = waiter.fd;
    if (result == 0 && !answered)
        result = engine_set_away(err, "did not answer in time");
    if (result == 0 && waiter.reply.error.kind != ERR_NONE)
        result = err_copy(err, &waiter.reply.error);
    if (result != 0) {
        engine_msg_done(&waiter.reply);
        return result;
    }
    *reply = waiter.reply;
    if (out_fd)
        *out_fd = fd_take(&received);
    return 0;
}

/* Hands a reply to its waiter. Takes *msg and *fd when there is one. */
static bool deliver(struct native *native, struct engine_msg *msg, int *fd)
{
    (void)pthread_mutex_lock(&native->lock);
    struct waiter *waiter = native->waiters;
    while (waiter && (waiter->request_id != msg->request_id || waiter->done))
        waiter = waiter->next;
    if (waiter) {
        waiter->reply = *msg;
        waiter->fd = fd_take(fd);
        waiter->done = true;
        msg->ids = NULL;
        msg->layers = NULL;
        (void)pthread_cond_signal(&waiter->answered);
    }
    (void)pthread_mutex_unlock(&native->lock);
    return waiter != NULL;
}

static void on_message(struct native *native, struct engine_msg *msg, int *fd)
{
    if (msg->op == ENGINE_OP_EVENT_GONE && msg->request_id == 0) {
        if (native->events.gone)
            native->events.gone(native->events.context, msg->id, msg->cause);
        return;
    }
    if ((msg->op & ENGINE_REPLY) == 0 || deliver(native, msg, fd) ||
        native_destroy_answered(native, msg))
        return;
    native_destroy_late(native, msg);
}

/* Reads and handles one message. Returns false when the connection is over. */
static bool read_message(struct native *native, int fd)
{
    struct err err = ERR_INIT;
    int fds[FD_PASS_MAX];
    size_t fd_count = FD_PASS_MAX;
    ssize_t size = fd_recv(fd, native->message, ENGINE_MSG_MAX, fds, &fd_count, MSG_DONTWAIT, &err);
    if (size == -ERR_UNAVAILABLE)
        return true;
    if (size <= 0) {
        if (size < 0 && size != -ERR_CLOSED)
            log_error("engine: %s", err.message);
        return false;
    }
    FD_AUTO int received = fd_count > 0 ? fds[0] : -1;
    for (size_t i = 1; i < fd_count; i++)
        fd_close(&fds[i]);
    struct engine_msg msg;
    if (engine_msg_decode(native->message, (size_t)size, &msg, &err) != 0) {
        log_error("engine: %s", err.message);
        return false;
    }
    on_message(native, &msg, &received);
    engine_msg_done(&msg);
    return true;
}

static bool stopping(struct native *native)
{
    (void)pthread_mutex_lock(&native->lock);
    bool stop = native->stop;
    (void)pthread_mutex_unlock(&native->lock);
    return stop;
}

/* Serves a connection until it breaks. Returns whether the engine said anything. */
static bool serve(struct native *native, int fd)
{
    bool heard = false;
    while (!stopping(native)) {
        int64_t next_ns = native_destroy_send_due(native, fd);
        int64_t look_ns = native_destroy_look_due(native);
        next_ns = look_ns < next_ns ? look_ns : next_ns;
        struct pollfd fds[2] = {{.fd = fd, .events = POLLIN},
                                {.fd = native->wake_fd, .events = POLLIN}};
        if (poll(fds, 2, clock_poll_timeout_ms(next_ns)) < 0 && errno != EINTR)
            break;
        if (fds[1].revents != 0) {
            uint64_t count = 0;
            (void)!read(native->wake_fd, &count, sizeof(count));
        }
        if (fds[0].revents == 0)
            continue;
        if (!read_message(native, fd))
            break;
        heard = true;
    }
    return heard;
}

static int connect_once(struct native *native)
{
    FD_AUTO int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    if (connect(fd, (const struct sockaddr *)&native->address, sizeof(native->address)) != 0)
        return -1;
    return fd_take(&fd);
}

static void set_connected(struct native *native, int fd)
{
    (void)pthread_mutex_lock(&native->lock);
    native->fd = fd;
    (void)pthread_cond_broadcast(&native->state_changed);
    (void)pthread_mutex_unlock(&native->lock);
}

/* Fails all that waited on a connection and closes it once nobody sends on it. */
static void disconnect(struct native *native, int *fd)
{
    (void)shutdown(*fd, SHUT_RDWR); /* wakes senders that wait for room */
    (void)pthread_mutex_lock(&native->lock);
    native->fd = -1;
    while (native->senders > 0)
        (void)pthread_cond_wait(&native->state_changed, &native->lock);
    for (struct waiter *waiter = native->waiters; waiter; waiter = waiter->next) {
        if (waiter->done)
            continue;
        (void)engine_set_away(&waiter->reply.error, "was restarted");
        waiter->done = true;
        (void)pthread_cond_signal(&waiter->answered);
    }
    struct abandoned *abandoned = native_destroy_unsend_locked(native);
    (void)pthread_mutex_unlock(&native->lock);
    fd_close(fd);
    native_destroy_abandoned(native, abandoned);
}

static void *reader_main(void *context)
{
    struct native *native = context;
    int64_t backoff_ns = BACKOFF_MIN_NS;
    while (!stopping(native)) {
        int fd = connect_once(native);
        if (fd >= 0) {
            set_connected(native, fd);
            if (native->events.connected)
                native->events.connected(native->events.context);
            if (serve(native, fd))
                backoff_ns = BACKOFF_MIN_NS;
            disconnect(native, &fd);
            if (!stopping(native))
                log_warn("engine: the connection broke");
        }
        struct pollfd stop = {.fd = native->wake_fd, .events = POLLIN};
        (void)poll(&stop, 1, (int)(backoff_ns / CLOCK_NS_PER_MS));
        if (stop.revents != 0) {
            uint64_t count = 0;
            (void)!read(native->wake_fd, &count, sizeof(count));
        }
        backoff_ns = 2 * backoff_ns > BACKOFF_MAX_NS ? BACKOFF_MAX_NS : 2 * backoff_ns;
    }
    return NULL;
}

int native_link_start(struct native *native, struct err *err)
{
    (void)pthread_mutex_init(&native->lock, NULL);
    cond_init(&native->state_changed);
    native->fd = -1;
    int status = pthread_create(&native->thread, NULL, reader_main, native);
    if (status == 0)
        return 0;
    (void)pthread_cond_destroy(&native->state_changed);
    (void)pthread_mutex_destroy(&native->lock);
    return err_sys(err, status, "start the engine's reader");
}

void native_link_stop(struct native *native)
{
    (void)pthread_mutex_lock(&native->lock);
    native->stop = true;
    (void)pthread_cond_broadcast(&native->state_changed);
    (void)pthread_mutex_unlock(&native->lock);
    native_link_wake(native);
    (void)pthread_join(native->thread, NULL);
    (void)pthread_cond_destroy(&native->state_changed);
    (void)pthread_mutex_destroy(&native->lock);
}
