/* Owns a connection to another of berth's processes: the thread that connects and reads, and who
 * waits for what. A connection that breaks fails all that wait. Refuses nothing by policy; what a
 * message says is checked by who decodes it. */
#include "wire/peer.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "wire/msg_head.h"

#define BACKOFF_MIN_NS (5 * CLOCK_NS_PER_MS)
#define BACKOFF_MAX_NS (1000 * CLOCK_NS_PER_MS)
#define WATCH_NS (50 * CLOCK_NS_PER_MS) /* how often a wait looks at what may end it */

/* A caller that waits for its reply; on the caller's stack, linked while it waits. */
struct waiter {
    uint64_t number;
    uint32_t op; /* of the request: the reply is of no other */
    pthread_cond_t answered;
    bool done;
    bool broken; /* done without a reply */
    void *reply;
    int fd; /* that came with the reply; -1 none */
    struct waiter *next;
};

struct peer {
    struct peer_config config;
    struct sockaddr_un address;
    pthread_t thread;
    int wake_fd;      /* eventfd: something is due, or time to stop */
    uint8_t *message; /* the thread's */

    pthread_mutex_t lock;         /* see peer_lock(); guards all that follows */
    pthread_cond_t state_changed; /* fd, senders, stop */
    int fd;                       /* -1: not connected */
    unsigned senders;             /* threads that use fd; it is closed when they are gone */
    bool stop;
    uint64_t last_number;
    struct waiter *waiters;
};

void peer_lock(struct peer *peer)
{
    (void)pthread_mutex_lock(&peer->lock);
}

void peer_unlock(struct peer *peer)
{
    (void)pthread_mutex_unlock(&peer->lock);
}

uint64_t peer_number_locked(struct peer *peer)
{
    return ++peer->last_number;
}

void peer_wake(struct peer *peer)
{
    uint64_t one = 1;
    (void)!write(peer->wake_fd, &one, sizeof(one));
}

/* ---- waits ---- */

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
    const struct timespec until = {.tv_sec = (time_t)(deadline_ns / CLOCK_NS_PER_S),
                                   .tv_nsec = (long)(deadline_ns % CLOCK_NS_PER_S)};
    return pthread_cond_timedwait(cond, lock, &until) != ETIMEDOUT;
}

/* Waits on cond, for a moment at most when something may end the wait. Returns false when it is
 * over. Called with the lock held. */
static bool wait_a_while(pthread_cond_t *cond, pthread_mutex_t *lock, const struct peer_wait *wait)
{
    if (!wait->is_over)
        return cond_wait_until(cond, lock, wait->deadline_ns);
    int64_t now_ns = clock_now_ns();
    if (now_ns >= wait->deadline_ns)
        return false;
    int64_t until_ns =
        wait->deadline_ns - now_ns > WATCH_NS ? now_ns + WATCH_NS : wait->deadline_ns;
    return cond_wait_until(cond, lock, until_ns) || !wait->is_over(wait->context);
}

/* ---- a request and its reply ---- */

/* Waits for a connection and holds it; give it back with release(). */
static int acquire(struct peer *peer, const struct peer_wait *wait, int *out_fd, struct err *err)
{
    int fd = -1;
    peer_lock(peer);
    while (peer->fd < 0 && !peer->stop) {
        if (!wait_a_while(&peer->state_changed, &peer->lock, wait))
            break;
    }
    if (peer->fd >= 0 && !peer->stop) {
        fd = peer->fd;
        peer->senders++;
    }
    peer_unlock(peer);
    if (fd < 0)
        return peer->config.set_away(err, "is not there");
    *out_fd = fd;
    return 0;
}

static void release(struct peer *peer)
{
    peer_lock(peer);
    if (--peer->senders == 0)
        (void)pthread_cond_broadcast(&peer->state_changed);
    peer_unlock(peer);
}

/* Sends one message; waits for room in the socket until deadline_ns. */
static int send_message(const struct peer *peer, int fd, const struct buf *bytes, int passed_fd,
                        int64_t deadline_ns, struct err *err)
{
    for (;;) {
        int result = fd_send(fd, bytes->data, bytes->size, &passed_fd, passed_fd >= 0 ? 1 : 0,
                             MSG_DONTWAIT, err);
        if (result != -ERR_UNAVAILABLE)
            return result == -ERR_CLOSED ? peer->config.set_away(err, "went away") : result;
        struct pollfd room = {.fd = fd, .events = POLLOUT};
        int timeout_ms = clock_poll_timeout_ms(deadline_ns);
        if (timeout_ms == 0 || (poll(&room, 1, timeout_ms) < 0 && errno != EINTR))
            return peer->config.set_away(err, "takes no request");
    }
}

static void waiter_add(struct peer *peer, struct waiter *waiter)
{
    cond_init(&waiter->answered);
    peer_lock(peer);
    waiter->number = peer_number_locked(peer);
    waiter->next = peer->waiters;
    peer->waiters = waiter;
    peer_unlock(peer);
}

/* Waits for the reply and unlinks the waiter; false when the deadline passed before. */
static bool waiter_wait(struct peer *peer, struct waiter *waiter, const struct peer_wait *wait)
{
    peer_lock(peer);
    while (!waiter->done) {
        if (!wait_a_while(&waiter->answered, &peer->lock, wait))
            break;
    }
    for (struct waiter **at = &peer->waiters; *at; at = &(*at)->next) {
        if (*at == waiter) {
            *at = waiter->next;
            break;
        }
    }
    if (!waiter->done && wait->given_up)
        wait->given_up(wait->context, waiter->number);
    peer_unlock(peer);
    (void)pthread_cond_destroy(&waiter->answered);
    return waiter->done;
}

int peer_call(struct peer *peer, struct buf *request, int passed_fd, const struct peer_wait *wait,
              void *reply, int *out_fd, struct err *err)
{
    static const struct peer_wait no_wait = {.deadline_ns = 0};
    int fd = -1;
    int result = acquire(peer, wait, &fd, err);
    if (result != 0)
        return result;
    struct waiter waiter = {.op = msg_head_op(request->data), .reply = reply, .fd = -1};
    waiter_add(peer, &waiter);
    msg_head_set_request_id(request->data, waiter.number);
    result = send_message(peer, fd, request, passed_fd, wait->deadline_ns, err);
    release(peer);
    bool answered = waiter_wait(peer, &waiter, result == 0 ? wait : &no_wait);
    FD_AUTO int received = waiter.fd;
    if (result == 0 && !answered)
        result = peer->config.set_away(err, "did not answer in time");
    if (result == 0 && waiter.broken)
        result = peer->config.set_away(err, "was restarted");
    if (result == 0 && out_fd)
        *out_fd = fd_take(&received);
    return result;
}

int peer_post(struct peer *peer, const struct buf *request, struct err *err)
{
    static const struct peer_wait no_wait = {.deadline_ns = 0};
    int fd = -1;
    int result = acquire(peer, &no_wait, &fd, err);
    if (result != 0)
        return result;
    result = send_message(peer, fd, request, -1, 0, err);
    release(peer);
    return result;
}

bool peer_deliver(struct peer *peer, uint32_t op, uint64_t number, const void *reply, int *fd)
{
    peer_lock(peer);
    struct waiter *waiter = peer->waiters;
    while (waiter && (waiter->number != number || waiter->done))
        waiter = waiter->next;
    if (waiter && waiter->op != op)
        waiter = NULL; /* to a server before us, whose numbers began as ours do */
    if (waiter) {
        memcpy(waiter->reply, reply, peer->config.reply_size);
        waiter->fd = fd_take(fd);
        waiter->done = true;
        (void)pthread_cond_signal(&waiter->answered);
    }
    peer_unlock(peer);
    return waiter != NULL;
}

/* ---- the thread ---- */

/* Reads and handles one message. Returns false when the connection is over. */
static bool read_message(struct peer *peer, int fd)
{
    const struct peer_config *config = &peer->config;
    struct err err = ERR_INIT;
    int fds[FD_PASS_MAX];
    size_t fd_count = FD_PASS_MAX;
    ssize_t size =
        fd_recv(fd, peer->message, config->message_max, fds, &fd_count, MSG_DONTWAIT, &err);
    if (size == -ERR_UNAVAILABLE)
        return true;
    if (size <= 0) {
        if (size < 0 && size != -ERR_CLOSED)
            log_error("%s: %s", config->name, err.message);
        return false;
    }
    FD_AUTO int received = fd_count > 0 ? fds[0] : -1;
    for (size_t i = 1; i < fd_count; i++)
        fd_close(&fds[i]);
    int result = config->message(config->context, peer->message, (size_t)size, &received, &err);
    if (result != 0)
        log_error("%s: %s", config->name, err.message);
    return result == 0;
}

bool peer_is_connected(struct peer *peer)
{
    peer_lock(peer);
    bool connected = peer->fd >= 0 && !peer->stop;
    peer_unlock(peer);
    return connected;
}

static bool stopping(struct peer *peer)
{
    peer_lock(peer);
    bool stop = peer->stop;
    peer_unlock(peer);
    return stop;
}

/* Until a wake, for timeout_ms at most (-1: none), or until fd (-1: none) has something to be read:
 * true then. */
static bool sleep_until_woken(const struct peer *peer, int fd, int timeout_ms)
{
    struct pollfd fds[2] = {{.fd = fd, .events = POLLIN}, {.fd = peer->wake_fd, .events = POLLIN}};
    if (poll(fds, 2, timeout_ms) < 0)
        return false;
    if (fds[1].revents != 0) {
        uint64_t count = 0;
        (void)!read(peer->wake_fd, &count, sizeof(count));
    }
    return fds[0].revents != 0;
}

/* Serves a connection until it breaks. Returns whether the peer said anything. */
static bool serve(struct peer *peer, int fd)
{
    const struct peer_config *config = &peer->config;
    bool heard = false;
    while (!stopping(peer)) {
        int64_t next_ns = config->due ? config->due(config->context) : INT64_MAX;
        if (!sleep_until_woken(peer, fd, clock_poll_timeout_ms(next_ns)))
            continue;
        if (!read_message(peer, fd))
            break;
        heard = true;
    }
    return heard;
}

static int connect_once(const struct peer *peer)
{
    FD_AUTO int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (const struct sockaddr *)&peer->address, sizeof(peer->address)) != 0)
        return -1;
    return fd_take(&fd);
}

static void set_connected(struct peer *peer, int fd)
{
    peer_lock(peer);
    peer->fd = fd;
    (void)pthread_cond_broadcast(&peer->state_changed);
    peer_unlock(peer);
}

/* Fails all that waited on a connection and closes it once nobody sends on it. */
static void disconnect(struct peer *peer, int *fd)
{
    (void)shutdown(*fd, SHUT_RDWR); /* wakes senders that wait for room */
    peer_lock(peer);
    peer->fd = -1;
    while (peer->senders > 0)
        (void)pthread_cond_wait(&peer->state_changed, &peer->lock);
    for (struct waiter *waiter = peer->waiters; waiter; waiter = waiter->next) {
        if (waiter->done)
            continue;
        waiter->broken = waiter->done = true;
        (void)pthread_cond_signal(&waiter->answered);
    }
    peer_unlock(peer);
    fd_close(fd);
    if (peer->config.broken)
        peer->config.broken(peer->config.context);
}

static void *thread_main(void *context)
{
    struct peer *peer = context;
    int64_t backoff_ns = BACKOFF_MIN_NS;
    while (!stopping(peer)) {
        int fd = connect_once(peer);
        if (fd >= 0) {
            set_connected(peer, fd);
            if (peer->config.connected)
                peer->config.connected(peer->config.context);
            if (serve(peer, fd))
                backoff_ns = BACKOFF_MIN_NS;
            disconnect(peer, &fd);
            if (!stopping(peer))
                log_warn("%s: the connection broke", peer->config.name);
        }
        (void)sleep_until_woken(peer, -1, (int)(backoff_ns / CLOCK_NS_PER_MS));
        backoff_ns = 2 * backoff_ns > BACKOFF_MAX_NS ? BACKOFF_MAX_NS : 2 * backoff_ns;
    }
    return NULL;
}

/* ---- beginning and end ---- */

static void free_unstarted(struct peer *peer)
{
    (void)pthread_cond_destroy(&peer->state_changed);
    (void)pthread_mutex_destroy(&peer->lock);
    fd_close(&peer->wake_fd);
    free(peer->message);
    free(peer);
}

int peer_new(const struct peer_config *config, struct peer **out, struct err *err)
{
    const char *path = config->socket_path;
    if (strlen(path) >= sizeof(((struct sockaddr_un *)NULL)->sun_path))
        return err_set(err, ERR_BAD_INPUT, "the path of the socket of %s is too long: %s",
                       config->name, path);
    struct peer *peer = calloc(1, sizeof(*peer));
    if (!peer)
        return err_set(err, ERR_INTERNAL, "no memory for a connection");
    peer->config = *config;
    peer->config.socket_path = peer->address.sun_path;
    peer->address.sun_family = AF_UNIX;
    (void)snprintf(peer->address.sun_path, sizeof(peer->address.sun_path), "%s", path);
    peer->fd = -1;
    peer->message = malloc(config->message_max);
    peer->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    (void)pthread_mutex_init(&peer->lock, NULL);
    cond_init(&peer->state_changed);
    if (!peer->message || peer->wake_fd < 0) {
        free_unstarted(peer);
        return err_set(err, ERR_INTERNAL, "no memory or descriptors for a connection");
    }
    *out = peer;
    int status = pthread_create(&peer->thread, NULL, thread_main, peer);
    if (status == 0)
        return 0;
    *out = NULL;
    free_unstarted(peer);
    return err_sys(err, status, "start the reader of %s", config->name);
}

void peer_free(struct peer *peer)
{
    if (!peer)
        return;
    peer_lock(peer);
    peer->stop = true;
    (void)pthread_cond_broadcast(&peer->state_changed);
    peer_unlock(peer);
    peer_wake(peer);
    (void)pthread_join(peer->thread, NULL);
    free_unstarted(peer);
}
