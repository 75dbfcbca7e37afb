/* Owns the connection to an engine process: a thread that connects, reads and hands replies to the
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
#include "engine/process_internal.h"

#define BACKOFF_MIN_NS (5 * CLOCK_NS_PER_MS)
#define BACKOFF_MAX_NS (1000 * CLOCK_NS_PER_MS)
#define WATCH_NS (50 * CLOCK_NS_PER_MS) /* how often a wait looks at what may end it */

/* A caller that waits for its reply; on the caller's stack, linked while it waits. */
struct waiter {
    uint64_t request_id;
    uint32_t op; /* of the request: the reply is of no other */
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

void process_link_wake(struct process *process)
{
    uint64_t one = 1;
    (void)!write(process->wake_fd, &one, sizeof(one));
}

/* Waits for a connection and holds it; give it back with process_link_release(). */
static int connection_acquire(struct process *process, const struct engine_wait *wait, int *out_fd,
                              struct err *err)
{
    int fd = -1;
    (void)pthread_mutex_lock(&process->lock);
    while (process->fd < 0 && !process->stop) {
        if (!wait_a_while(&process->state_changed, &process->lock, wait))
            break;
    }
    if (process->fd >= 0 && !process->stop) {
        fd = process->fd;
        process->senders++;
    }
    (void)pthread_mutex_unlock(&process->lock);
    if (fd < 0)
        return engine_set_away(err, "is not there");
    *out_fd = fd;
    return 0;
}

void process_link_release(struct process *process)
{
    (void)pthread_mutex_lock(&process->lock);
    if (--process->senders == 0)
        (void)pthread_cond_broadcast(&process->state_changed);
    (void)pthread_mutex_unlock(&process->lock);
}

/* Sends one message; waits for room in the socket until deadline_ns. */
int process_link_send(int fd, const struct engine_msg *msg, int passed_fd, int64_t deadline_ns,
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

static void waiter_add(struct process *process, uint32_t op, struct waiter *waiter)
{
    memset(waiter, 0, sizeof(*waiter));
    waiter->op = op;
    waiter->fd = -1;
    cond_init(&waiter->answered);
    (void)pthread_mutex_lock(&process->lock);
    waiter->request_id = ++process->next_request_id;
    waiter->next = process->waiters;
    process->waiters = waiter;
    (void)pthread_mutex_unlock(&process->lock);
}

/* Waits for the reply and unlinks the waiter; false when the deadline passed before. */
static bool waiter_wait(struct process *process, struct waiter *waiter,
                        const struct engine_wait *wait, const char *create_id)
{
    (void)pthread_mutex_lock(&process->lock);
    while (!waiter->done) {
        if (!wait_a_while(&waiter->answered, &process->lock, wait))
            break;
    }
    for (struct waiter **at = &process->waiters; *at; at = &(*at)->next) {
        if (*at == waiter) {
            *at = waiter->next;
            break;
        }
    }
    if (!waiter->done && create_id)
        process_destroy_abandon_locked(process, waiter->request_id, create_id);
    (void)pthread_mutex_unlock(&process->lock);
    (void)pthread_cond_destroy(&waiter->answered);
    return waiter->done;
}

/* One request and its reply. The reply is the caller's: engine_msg_done(). */
int process_link_call(struct process *process, struct engine_msg *request, int passed_fd,
                      const struct engine_wait *wait, struct engine_msg *reply, int *out_fd,
                      struct err *err)
{
    static const struct engine_wait no_wait = {.cancel_fd = -1, .gone_fd = -1};
    int fd = -1;
    int result = connection_acquire(process, wait, &fd, err);
    if (result != 0)
        return result;
    struct waiter waiter;
    waiter_add(process, request->op, &waiter);
    request->request_id = waiter.request_id;
    result = process_link_send(fd, request, passed_fd, wait->deadline_ns, err);
    process_link_release(process);
    const char *create_id = request->op == ENGINE_OP_CREATE ? request->create.id : NULL;
    bool answered = waiter_wait(process, &waiter, result == 0 ? wait : &no_wait,
                                result == 0 ? create_id : NULL);
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
static bool deliver(struct process *process, struct engine_msg *msg, int *fd)
{
    (void)pthread_mutex_lock(&process->lock);
    struct waiter *waiter = process->waiters;
    while (waiter && (waiter->request_id != msg->request_id || waiter->done))
        waiter = waiter->next;
    if (waiter && waiter->op != (msg->op & ~ENGINE_REPLY))
        waiter = NULL; /* to a server before us, whose numbers began as ours do */
    if (waiter) {
        waiter->reply = *msg;
        waiter->fd = fd_take(fd);
        waiter->done = true;
        msg->ids = NULL;
        msg->layers = NULL;
        (void)pthread_cond_signal(&waiter->answered);
    }
    (void)pthread_mutex_unlock(&process->lock);
    return waiter != NULL;
}

static void on_message(struct process *process, struct engine_msg *msg, int *fd)
{
    if (msg->op == ENGINE_OP_EVENT_GONE && msg->request_id == 0) {
        if (process->events.gone)
            process->events.gone(process->events.context, msg->id, msg->cause);
        return;
    }
    if ((msg->op & ENGINE_REPLY) == 0 || deliver(process, msg, fd) ||
        process_destroy_answered(process, msg))
        return;
    process_destroy_late(process, msg);
}

/* Reads and handles one message. Returns false when the connection is over. */
static bool read_message(struct process *process, int fd)
{
    struct err err = ERR_INIT;
    int fds[FD_PASS_MAX];
    size_t fd_count = FD_PASS_MAX;
    ssize_t size =
        fd_recv(fd, process->message, ENGINE_MSG_MAX, fds, &fd_count, MSG_DONTWAIT, &err);
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
    if (engine_msg_decode(process->message, (size_t)size, &msg, &err) != 0) {
        log_error("engine: %s", err.message);
        return false;
    }
    on_message(process, &msg, &received);
    engine_msg_done(&msg);
    return true;
}

static bool stopping(struct process *process)
{
    (void)pthread_mutex_lock(&process->lock);
    bool stop = process->stop;
    (void)pthread_mutex_unlock(&process->lock);
    return stop;
}

/* Serves a connection until it breaks. Returns whether the engine said anything. */
static bool serve(struct process *process, int fd)
{
    bool heard = false;
    while (!stopping(process)) {
        int64_t next_ns = process_destroy_send_due(process, fd);
        int64_t look_ns = process_destroy_look_due(process);
        next_ns = look_ns < next_ns ? look_ns : next_ns;
        struct pollfd fds[2] = {{.fd = fd, .events = POLLIN},
                                {.fd = process->wake_fd, .events = POLLIN}};
        if (poll(fds, 2, clock_poll_timeout_ms(next_ns)) < 0 && errno != EINTR)
            break;
        if (fds[1].revents != 0) {
            uint64_t count = 0;
            (void)!read(process->wake_fd, &count, sizeof(count));
        }
        if (fds[0].revents == 0)
            continue;
        if (!read_message(process, fd))
            break;
        heard = true;
    }
    return heard;
}

static int connect_once(struct process *process)
{
    FD_AUTO int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    if (connect(fd, (const struct sockaddr *)&process->address, sizeof(process->address)) != 0)
        return -1;
    return fd_take(&fd);
}

static void set_connected(struct process *process, int fd)
{
    (void)pthread_mutex_lock(&process->lock);
    process->fd = fd;
    (void)pthread_cond_broadcast(&process->state_changed);
    (void)pthread_mutex_unlock(&process->lock);
}

/* Fails all that waited on a connection and closes it once nobody sends on it. */
static void disconnect(struct process *process, int *fd)
{
    (void)shutdown(*fd, SHUT_RDWR); /* wakes senders that wait for room */
    (void)pthread_mutex_lock(&process->lock);
    process->fd = -1;
    while (process->senders > 0)
        (void)pthread_cond_wait(&process->state_changed, &process->lock);
    for (struct waiter *waiter = process->waiters; waiter; waiter = waiter->next) {
        if (waiter->done)
            continue;
        (void)engine_set_away(&waiter->reply.error, "was restarted");
        waiter->done = true;
        (void)pthread_cond_signal(&waiter->answered);
    }
    struct abandoned *abandoned = process_destroy_unsend_locked(process);
    (void)pthread_mutex_unlock(&process->lock);
    fd_close(fd);
    process_destroy_abandoned(process, abandoned);
}

static void *reader_main(void *context)
{
    struct process *process = context;
    int64_t backoff_ns = BACKOFF_MIN_NS;
    while (!stopping(process)) {
        int fd = connect_once(process);
        if (fd >= 0) {
            set_connected(process, fd);
            if (process->events.connected)
                process->events.connected(process->events.context);
            if (serve(process, fd))
                backoff_ns = BACKOFF_MIN_NS;
            disconnect(process, &fd);
            if (!stopping(process))
                log_warn("engine: the connection broke");
        }
        struct pollfd stop = {.fd = process->wake_fd, .events = POLLIN};
        (void)poll(&stop, 1, (int)(backoff_ns / CLOCK_NS_PER_MS));
        if (stop.revents != 0) {
            uint64_t count = 0;
            (void)!read(process->wake_fd, &count, sizeof(count));
        }
        backoff_ns = 2 * backoff_ns > BACKOFF_MAX_NS ? BACKOFF_MAX_NS : 2 * backoff_ns;
    }
    return NULL;
}

int process_link_start(struct process *process, struct err *err)
{
    (void)pthread_mutex_init(&process->lock, NULL);
    cond_init(&process->state_changed);
    process->fd = -1;
    int status = pthread_create(&process->thread, NULL, reader_main, process);
    if (status == 0)
        return 0;
    (void)pthread_cond_destroy(&process->state_changed);
    (void)pthread_mutex_destroy(&process->lock);
    return err_sys(err, status, "start the engine's reader");
}

void process_link_stop(struct process *process)
{
    (void)pthread_mutex_lock(&process->lock);
    process->stop = true;
    (void)pthread_cond_broadcast(&process->state_changed);
    (void)pthread_mutex_unlock(&process->lock);
    process_link_wake(process);
    (void)pthread_join(process->thread, NULL);
    (void)pthread_cond_destroy(&process->state_changed);
    (void)pthread_mutex_destroy(&process->lock);
}
