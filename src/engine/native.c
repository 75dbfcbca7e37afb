/* Owns the server's connection to a berth-native process: one reader thread that connects, hands
 * replies to the callers that wait for them, and repeats destructions until they are done. Refuses
 * nothing by policy; what the engine says is checked by the decoder. */
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

#include "base/buf.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "engine/engine.h"

#define BACKOFF_MIN_NS (5 * CLOCK_NS_PER_MS)
#define BACKOFF_MAX_NS (1000 * CLOCK_NS_PER_MS)
#define WATCH_NS (50 * CLOCK_NS_PER_MS) /* how often a wait looks at what may end it */
#define DESTROY_RETRY_NS (200 * CLOCK_NS_PER_MS)
#define FORGOT_NS                                                                                  \
    CLOCK_NS_PER_S /* from a destruction that could not be noted to events.connected */

/* A caller that waits for its reply; on the caller's stack, linked while it waits. */
struct waiter {
    uint64_t request_id;
    pthread_cond_t answered;
    bool done;
    struct engine_msg reply;
    int fd; /* that came with the reply; -1 none */
    struct waiter *next;
};

/* A create whose caller gave up: its late reply is a sandbox that nobody wants. */
struct abandoned {
    uint64_t request_id;
    char id[SANDBOX_ID_MAX + 1];
    struct abandoned *next;
};

/* A destruction that is not done yet. */
struct destroying {
    char id[SANDBOX_ID_MAX + 1];
    uint64_t request_id; /* 0: not sent on this connection */
    int64_t retry_ns;    /* not to be sent before */
    struct destroying *next;
};

struct native {
    struct engine base;
    struct engine_events events;
    struct sockaddr_un address;
    pthread_t thread;
    int wake_fd;      /* eventfd: something to send, or time to stop */
    uint8_t *message; /* the reader thread's: ENGINE_MSG_MAX bytes */

    /* Rank 1, below every lock of core. Guards all that follows; not held across I/O or events. */
    pthread_mutex_t lock;
    pthread_cond_t state_changed; /* fd, senders, stop */
    int fd;                       /* -1: not connected */
    unsigned senders;             /* threads that use fd; it is closed when they are gone */
    bool stop;
    uint64_t next_request_id;
    struct waiter *waiters;
    struct abandoned *abandoned;
    struct destroying *destroying;
    int64_t forgot_ns; /* when to have a forgotten destruction looked for; INT64_MAX: none is */
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

static void wake(struct native *native)
{
    uint64_t one = 1;
    (void)!write(native->wake_fd, &one, sizeof(one));
}

/* Waits for a connection and holds it; give it back with connection_release(). */
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

static void connection_release(struct native *native)
{
    (void)pthread_mutex_lock(&native->lock);
    if (--native->senders == 0)
        (void)pthread_cond_broadcast(&native->state_changed);
    (void)pthread_mutex_unlock(&native->lock);
}

/* Sends one message; waits for room in the socket until deadline_ns. */
static int send_message(int fd, const struct engine_msg *msg, int64_t deadline_ns, struct err *err)
{
    BUF_AUTO struct buf bytes;
    buf_init(&bytes, ENGINE_MSG_MAX);
    int result = engine_msg_encode(msg, &bytes, err);
    if (result != 0)
        return result;
    for (;;) {
        result = fd_send(fd, bytes.data, bytes.size, NULL, 0, MSG_DONTWAIT, err);
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

/* Remembers a create that nobody waits for any more. Called with the lock held. */
static void abandon_locked(struct native *native, uint64_t request_id, const char *id)
{
    struct abandoned *entry = calloc(1, sizeof(*entry));
    if (!entry)
        return; /* the next reconciliation destroys it */
    entry->request_id = request_id;
    (void)snprintf(entry->id, sizeof(entry->id), "%s", id);
    entry->next = native->abandoned;
    native->abandoned = entry;
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
        abandon_locked(native, waiter->request_id, create_id);
    (void)pthread_mutex_unlock(&native->lock);
    (void)pthread_cond_destroy(&waiter->answered);
    return waiter->done;
}

/* One request and its reply. The reply is the caller's: engine_msg_done(). */
static int call_watched(struct native *native, struct engine_msg *request,
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
    result = send_message(fd, request, wait->deadline_ns, err);
    connection_release(native);
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

static int call(struct native *native, struct engine_msg *request, int64_t deadline_ns,
                struct engine_msg *reply, int *out_fd, struct err *err)
{
    const struct engine_wait wait = {.deadline_ns = deadline_ns, .cancel_fd = -1, .gone_fd = -1};
    return call_watched(native, request, &wait, reply, out_fd, err);
}

static struct native *native_of(struct engine *engine)
{
    return (struct native *)engine;
}

static int native_probe(struct engine *engine, int64_t deadline_ns, struct engine_info *out,
                        struct err *err)
{
    struct engine_msg request = {.op = ENGINE_OP_PROBE};
    struct engine_msg reply = {0};
    int result = call(native_of(engine), &request, deadline_ns, &reply, NULL, err);
    if (result == 0)
        *out = reply.info;
    return result;
}

/* CREATE or START. */
static int make(struct engine *engine, enum engine_op op, const struct engine_create *spec,
                const struct engine_wait *wait, int *out_channel_fd,
                uint8_t out_nonce[static SANDBOX_NONCE_SIZE], struct err *err)
{
    struct engine_msg request = {.op = op, .create = *spec};
    struct engine_msg reply = {0};
    FD_AUTO int fd = -1;
    int result = call_watched(native_of(engine), &request, wait, &reply, &fd, err);
    if (result != 0 && engine_wait_is_over(wait, 0))
        return err_set(err, ERR_CLOSED, "cancelled while the engine made a sandbox");
    if (result != 0)
        return result;
    if (fd < 0)
        return err_set(err, ERR_PROTOCOL, "the engine made a sandbox without a channel");
    memcpy(out_nonce, reply.nonce, SANDBOX_NONCE_SIZE);
    *out_channel_fd = fd_take(&fd);
    return 0;
}

static int native_create(struct engine *engine, const struct engine_create *spec,
                         const struct engine_wait *wait, int *out_channel_fd,
                         uint8_t out_nonce[static SANDBOX_NONCE_SIZE], struct err *err)
{
    return make(engine, ENGINE_OP_CREATE, spec, wait, out_channel_fd, out_nonce, err);
}

/* A start that is not answered in time is left alone: destroying it would destroy its files. */
static int native_start(struct engine *engine, const struct engine_create *spec,
                        int64_t deadline_ns, int *out_channel_fd,
                        uint8_t out_nonce[static SANDBOX_NONCE_SIZE], struct err *err)
{
    const struct engine_wait wait = {.deadline_ns = deadline_ns, .cancel_fd = -1, .gone_fd = -1};
    return make(engine, ENGINE_OP_START, spec, &wait, out_channel_fd, out_nonce, err);
}

static void set_id(struct engine_msg *msg, const char *id)
{
    (void)snprintf(msg->id, sizeof(msg->id), "%s", id);
}

static int native_stop(struct engine *engine, const char *id, int64_t deadline_ns, struct err *err)
{
    struct engine_msg request = {.op = ENGINE_OP_STOP};
    struct engine_msg reply = {0};
    set_id(&request, id);
    return call(native_of(engine), &request, deadline_ns, &reply, NULL, err);
}

static int native_destroy(struct engine *engine, const char *id, int64_t deadline_ns,
                          struct err *err)
{
    struct engine_msg request = {.op = ENGINE_OP_DESTROY};
    struct engine_msg reply = {0};
    set_id(&request, id);
    return call(native_of(engine), &request, deadline_ns, &reply, NULL, err);
}

static int native_inspect(struct engine *engine, const char *id, int64_t deadline_ns,
                          enum engine_state *out, struct err *err)
{
    struct engine_msg request = {.op = ENGINE_OP_INSPECT};
    struct engine_msg reply = {0};
    set_id(&request, id);
    int result = call(native_of(engine), &request, deadline_ns, &reply, NULL, err);
    if (result == 0)
        *out = reply.state;
    return result;
}

static int native_limit(struct engine *engine, const struct engine_create *spec,
                        int64_t deadline_ns, struct err *err)
{
    struct engine_msg request = {.op = ENGINE_OP_LIMIT, .create = *spec};
    struct engine_msg reply = {0};
    return call(native_of(engine), &request, deadline_ns, &reply, NULL, err);
}

/* Appends what one reply listed, and takes its ids. */
static int append_ids(struct engine_msg *reply, char (**ids)[SANDBOX_ID_MAX + 1], size_t *count,
                      struct err *err)
{
    void *grown = reallocarray(*ids, *count + reply->id_count + 1, sizeof(**ids));
    if (!grown) {
        engine_msg_done(reply);
        return err_set(err, ERR_INTERNAL, "no memory for a list of ids");
    }
    *ids = grown;
    if (reply->id_count > 0)
        memcpy(*ids + *count, reply->ids, reply->id_count * sizeof(**ids));
    *count += reply->id_count;
    engine_msg_done(reply);
    return 0;
}

/* In as many replies as it takes. Each begins after the last id of the one before, so what is made
 * or ends meanwhile leaves no gap and no id comes twice. */
static int native_list(struct engine *engine, int64_t deadline_ns,
                       char (**out_ids)[SANDBOX_ID_MAX + 1], size_t *out_count, struct err *err)
{
    struct engine_msg request = {.op = ENGINE_OP_LIST};
    MEM_AUTO char(*ids)[SANDBOX_ID_MAX + 1] = NULL;
    size_t count = 0;
    for (bool more = true; more;) {
        struct engine_msg reply = {0};
        int result = call(native_of(engine), &request, deadline_ns, &reply, NULL, err);
        if (result != 0)
            return result;
        more = reply.more;
        result = append_ids(&reply, &ids, &count, err);
        if (result != 0)
            return result;
        if (more && (count == 0 || strcmp(ids[count - 1], request.id) <= 0))
            return err_set(err, ERR_PROTOCOL, "a list that does not go on");
        if (more)
            set_id(&request, ids[count - 1]);
    }
    *out_ids = take(ids);
    *out_count = count;
    return 0;
}

static int native_open_channel(struct engine *engine, const char *id, int64_t deadline_ns,
                               int *out_channel_fd, struct err *err)
{
    struct engine_msg request = {.op = ENGINE_OP_OPEN_CHANNEL};
    struct engine_msg reply = {0};
    FD_AUTO int fd = -1;
    set_id(&request, id);
    int result = call(native_of(engine), &request, deadline_ns, &reply, &fd, err);
    if (result != 0)
        return result;
    if (fd < 0)
        return err_set(err, ERR_PROTOCOL, "the engine opened a channel without a descriptor");
    *out_channel_fd = fd_take(&fd);
    return 0;
}

/* Picks a destruction that is due and marks it sent. Returns false when there is none; *out_next_ns
 * is then when one will be. */
static bool take_due(struct native *native, struct engine_msg *out, int64_t *out_next_ns)
{
    bool found = false;
    int64_t now_ns = clock_now_ns();
    *out_next_ns = INT64_MAX;
    (void)pthread_mutex_lock(&native->lock);
    for (struct destroying *entry = native->destroying; entry && !found; entry = entry->next) {
        if (entry->request_id != 0)
            continue;
        if (entry->retry_ns > now_ns) {
            *out_next_ns = entry->retry_ns < *out_next_ns ? entry->retry_ns : *out_next_ns;
            continue;
        }
        entry->request_id = ++native->next_request_id;
        *out = (struct engine_msg){.op = ENGINE_OP_DESTROY, .request_id = entry->request_id};
        set_id(out, entry->id);
        found = true;
    }
    (void)pthread_mutex_unlock(&native->lock);
    return found;
}

/* Marks a destruction as not sent, to be tried after retry_ns. */
static void put_back(struct native *native, uint64_t request_id, int64_t retry_ns)
{
    (void)pthread_mutex_lock(&native->lock);
    for (struct destroying *entry = native->destroying; entry; entry = entry->next) {
        if (entry->request_id == request_id) {
            entry->request_id = 0;
            entry->retry_ns = retry_ns;
        }
    }
    (void)pthread_mutex_unlock(&native->lock);
}

/* Sends the destructions that are due over fd. Returns when the next one is. */
static int64_t send_due(struct native *native, int fd)
{
    struct engine_msg request = {0};
    int64_t next_ns = INT64_MAX;
    while (take_due(native, &request, &next_ns)) {
        if (send_message(fd, &request, 0, NULL) == 0)
            continue;
        next_ns = clock_now_ns() + BACKOFF_MIN_NS;
        put_back(native, request.request_id, next_ns);
        break;
    }
    return next_ns;
}

/* For want of memory a destruction can't be noted: whoever reconciles has to ask for it again. */
static void forget(struct native *native, const char *id)
{
    log_error("engine: no memory to destroy %s; left to the next reconciliation", id);
    (void)pthread_mutex_lock(&native->lock);
    if (native->forgot_ns == INT64_MAX)
        native->forgot_ns = clock_now_ns() + FORGOT_NS;
    (void)pthread_mutex_unlock(&native->lock);
    wake(native);
}

/* Has a forgotten destruction looked for when it is time. Returns when that is. */
static int64_t remember_due(struct native *native)
{
    (void)pthread_mutex_lock(&native->lock);
    int64_t at_ns = native->forgot_ns;
    bool due = at_ns <= clock_now_ns();
    if (due)
        native->forgot_ns = INT64_MAX;
    (void)pthread_mutex_unlock(&native->lock);
    if (!due)
        return at_ns;
    if (native->events.connected)
        native->events.connected(native->events.context);
    return INT64_MAX;
}

static void native_destroy_later(struct engine *engine, const char *id)
{
    struct native *native = native_of(engine);
    struct destroying *entry = calloc(1, sizeof(*entry));
    if (!entry) {
        forget(native, id);
        return;
    }
    (void)snprintf(entry->id, sizeof(entry->id), "%s", id);
    (void)pthread_mutex_lock(&native->lock);
    bool known = false;
    for (struct destroying *other = native->destroying; other && !known; other = other->next)
        known = strcmp(other->id, entry->id) == 0;
    int fd = -1;
    if (!known) {
        entry->next = native->destroying;
        native->destroying = entry;
        if (native->fd >= 0 && !native->stop) {
            fd = native->fd;
            native->senders++;
        }
    }
    (void)pthread_mutex_unlock(&native->lock);
    if (known)
        free(entry);
    if (fd < 0)
        return; /* the reader sends it when it has connected */
    bool all_sent = send_due(native, fd) == INT64_MAX;
    connection_release(native);
    if (!all_sent)
        wake(native);
}

/* A reply to a destruction; false when request_id is not one. */
static bool on_destroyed(struct native *native, const struct engine_msg *msg)
{
    struct destroying *found = NULL;
    (void)pthread_mutex_lock(&native->lock);
    struct destroying **at = &native->destroying;
    while (*at && (*at)->request_id != msg->request_id)
        at = &(*at)->next;
    if (*at) {
        found = *at;
        *at = found->next;
        if (msg->error.kind != ERR_NONE) {
            found->request_id = 0;
            found->retry_ns = clock_now_ns() + DESTROY_RETRY_NS;
            found->next = native->destroying;
            native->destroying = found;
        }
    }
    (void)pthread_mutex_unlock(&native->lock);
    if (!found)
        return false;
    if (msg->error.kind != ERR_NONE) {
        log_warn("engine: destroying failed, will be repeated: %s", msg->error.message);
        return true;
    }
    if (native->events.destroyed)
        native->events.destroyed(native->events.context, found->id);
    free(found);
    return true;
}

/* The late reply to an abandoned create. */
static void on_late(struct native *native, const struct engine_msg *msg)
{
    struct abandoned *found = NULL;
    (void)pthread_mutex_lock(&native->lock);
    for (struct abandoned **at = &native->abandoned; *at; at = &(*at)->next) {
        if ((*at)->request_id == msg->request_id) {
            found = *at;
            *at = found->next;
            break;
        }
    }
    (void)pthread_mutex_unlock(&native->lock);
    if (found && msg->error.kind == ERR_NONE)
        native_destroy_later(&native->base, found->id);
    free(found);
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
        (void)pthread_cond_signal(&waiter->answered);
    }
    (void)pthread_mutex_unlock(&native->lock);
    return waiter != NULL;
}

static void on_message(struct native *native, struct engine_msg *msg, int *fd)
{
    if (msg->op == ENGINE_OP_EVENT_GONE && msg->request_id == 0) {
        if (native->events.gone)
            native->events.gone(native->events.context, msg->id);
        return;
    }
    if ((msg->op & ENGINE_REPLY) == 0 || deliver(native, msg, fd) || on_destroyed(native, msg))
        return;
    on_late(native, msg);
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
        int64_t next_ns = send_due(native, fd);
        int64_t look_ns = remember_due(native);
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
    for (struct destroying *entry = native->destroying; entry; entry = entry->next)
        entry->request_id = 0;
    struct abandoned *abandoned = native->abandoned;
    native->abandoned = NULL;
    (void)pthread_mutex_unlock(&native->lock);
    fd_close(fd);
    while (abandoned) { /* whether they exist is not known any more: destroying is idempotent */
        struct abandoned *next = abandoned->next;
        native_destroy_later(&native->base, abandoned->id);
        free(abandoned);
        abandoned = next;
    }
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

static void native_free(struct engine *engine)
{
    struct native *native = native_of(engine);
    (void)pthread_mutex_lock(&native->lock);
    native->stop = true;
    (void)pthread_cond_broadcast(&native->state_changed);
    (void)pthread_mutex_unlock(&native->lock);
    wake(native);
    (void)pthread_join(native->thread, NULL);
    while (native->destroying) {
        struct destroying *next = native->destroying->next;
        free(native->destroying);
        native->destroying = next;
    }
    fd_close(&native->wake_fd);
    (void)pthread_cond_destroy(&native->state_changed);
    (void)pthread_mutex_destroy(&native->lock);
    free(native->message);
    free(native);
}

static const struct engine_operations native_operations = {
    .probe = native_probe,
    .create = native_create,
    .start = native_start,
    .stop = native_stop,
    .destroy = native_destroy,
    .destroy_later = native_destroy_later,
    .inspect = native_inspect,
    .list = native_list,
    .limit = native_limit,
    .open_channel = native_open_channel,
    .free = native_free,
};

int engine_native_new(const char *socket_path, const struct engine_events *events,
                      struct engine **out, struct err *err)
{
    if (strlen(socket_path) >= sizeof(((struct sockaddr_un *)NULL)->sun_path))
        return err_set(err, ERR_BAD_INPUT, "the path of the engine's socket is too long: %s",
                       socket_path);
    MEM_AUTO struct native *native = calloc(1, sizeof(*native));
    MEM_AUTO uint8_t *message = malloc(ENGINE_MSG_MAX);
    FD_AUTO int wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (!native || !message || wake_fd < 0)
        return err_set(err, ERR_INTERNAL, "no memory or descriptors for an engine");
    native->base = (struct engine){.operations = &native_operations, .name = "native"};
    if (events)
        native->events = *events;
    native->address.sun_family = AF_UNIX;
    (void)snprintf(native->address.sun_path, sizeof(native->address.sun_path), "%s", socket_path);
    native->fd = -1;
    native->forgot_ns = INT64_MAX;
    native->wake_fd = wake_fd;
    native->message = message;
    (void)pthread_mutex_init(&native->lock, NULL);
    cond_init(&native->state_changed);
    int status = pthread_create(&native->thread, NULL, reader_main, native);
    if (status != 0)
        return err_sys(err, status, "start the engine's reader");
    (void)take(message);
    (void)fd_take(&wake_fd);
    *out = &take(native)->base;
    return 0;
}
