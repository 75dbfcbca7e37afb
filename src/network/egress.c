/* Owns the connection to berth-egress: a thread that connects, reads and hands replies to the
 * callers that wait for them. Callers send for themselves. A connection that breaks fails all that
 * wait. */
#include "network/egress.h"

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
#include "wire/frame.h"

#define BACKOFF_MIN_NS (5 * CLOCK_NS_PER_MS)
#define BACKOFF_MAX_NS (1000 * CLOCK_NS_PER_MS)

/* A caller that waits for its reply; on the caller's stack, linked while it waits. */
struct waiter {
    uint64_t request_id;
    pthread_cond_t answered;
    bool done;
    struct err error;
    struct egress_counts counts;
    struct waiter *next;
};

/* What an attached sandbox has used of its cap, as far as was told. */
struct used {
    char id[SANDBOX_ID_MAX + 1];
    uint64_t bytes;
    struct used *next;
};

struct egress {
    struct egress_events events;
    struct sockaddr_un address;
    pthread_t thread;
    int wake_fd;      /* eventfd: time to stop */
    uint8_t *message; /* the reader thread's: EGRESS_MSG_MAX bytes */

    /* Rank 1, below every lock of core. Guards all that follows; not held across I/O or events. */
    pthread_mutex_t lock;
    pthread_cond_t changed; /* fd, senders, stop */
    int fd;                 /* -1: not connected */
    unsigned senders;       /* threads that use fd; it is closed when they are gone */
    bool stop;
    uint64_t next_request_id;
    struct waiter *waiters;
    struct used *used;
};

static void cond_init(pthread_cond_t *cond)
{
    pthread_condattr_t attributes;
    (void)pthread_condattr_init(&attributes);
    (void)pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    (void)pthread_cond_init(cond, &attributes);
    (void)pthread_condattr_destroy(&attributes);
}

/* Returns false when the deadline passed. */
static bool cond_wait_until(pthread_cond_t *cond, pthread_mutex_t *lock, int64_t deadline_ns)
{
    const struct timespec until = {.tv_sec = (time_t)(deadline_ns / CLOCK_NS_PER_S),
                                   .tv_nsec = (long)(deadline_ns % CLOCK_NS_PER_S)};
    return pthread_cond_timedwait(cond, lock, &until) != ETIMEDOUT;
}

static int set_away(struct err *err, const char *why)
{
    int result =
        err_public(err, ERR_UNAVAILABLE, "the way out of the sandboxes %s; try again", why);
    if (err)
        err->retry_after_s = 1;
    return result;
}

/* ---- what they used ---- */

static struct used **find_used_locked(struct egress *egress, const char *id)
{
    struct used **at = &egress->used;
    while (*at && strcmp((*at)->id, id) != 0)
        at = &(*at)->next;
    return at;
}

/* How much to begin with, for one that is attached; it is remembered from here on. */
static uint64_t begin_used(struct egress *egress, const char *id)
{
    struct used *fresh = calloc(1, sizeof(*fresh));
    (void)pthread_mutex_lock(&egress->lock);
    struct used **at = find_used_locked(egress, id);
    if (!*at && fresh) {
        (void)snprintf(fresh->id, sizeof(fresh->id), "%s", id);
        *at = take(fresh);
    }
    uint64_t bytes = *at ? (*at)->bytes : 0;
    (void)pthread_mutex_unlock(&egress->lock);
    free(fresh);
    return bytes;
}

static void set_used(struct egress *egress, const char *id, uint64_t bytes)
{
    (void)pthread_mutex_lock(&egress->lock);
    struct used *used = *find_used_locked(egress, id);
    if (used && bytes > used->bytes)
        used->bytes = bytes;
    (void)pthread_mutex_unlock(&egress->lock);
}

static void forget_used(struct egress *egress, const char *id)
{
    (void)pthread_mutex_lock(&egress->lock);
    struct used **at = find_used_locked(egress, id);
    struct used *used = *at;
    if (used)
        *at = used->next;
    (void)pthread_mutex_unlock(&egress->lock);
    free(used);
}

/* ---- a request and its reply ---- */

/* Waits for a connection and holds it; give it back with release(). */
static int acquire(struct egress *egress, int64_t deadline_ns, int *out_fd, struct err *err)
{
    int fd = -1;
    (void)pthread_mutex_lock(&egress->lock);
    while (egress->fd < 0 && !egress->stop) {
        if (!cond_wait_until(&egress->changed, &egress->lock, deadline_ns))
            break;
    }
    if (egress->fd >= 0 && !egress->stop) {
        fd = egress->fd;
        egress->senders++;
    }
    (void)pthread_mutex_unlock(&egress->lock);
    if (fd < 0)
        return set_away(err, "is not there");
    *out_fd = fd;
    return 0;
}

static void release(struct egress *egress)
{
    (void)pthread_mutex_lock(&egress->lock);
    if (--egress->senders == 0)
        (void)pthread_cond_broadcast(&egress->changed);
    (void)pthread_mutex_unlock(&egress->lock);
}

/* Waits for room in the socket until deadline_ns. */
static int send_message(int fd, const struct egress_msg *msg, int channel_fd, int64_t deadline_ns,
                        struct err *err)
{
    BUF_AUTO struct buf bytes;
    buf_init(&bytes, EGRESS_MSG_MAX);
    int result = egress_msg_encode(msg, &bytes, err);
    if (result != 0)
        return result;
    for (;;) {
        result = fd_send(fd, bytes.data, bytes.size, &channel_fd, channel_fd >= 0 ? 1 : 0,
                         MSG_DONTWAIT, err);
        if (result != -ERR_UNAVAILABLE)
            return result == -ERR_CLOSED ? set_away(err, "went away") : result;
        struct pollfd room = {.fd = fd, .events = POLLOUT};
        int timeout_ms = clock_poll_timeout_ms(deadline_ns);
        if (timeout_ms == 0 || (poll(&room, 1, timeout_ms) < 0 && errno != EINTR))
            return set_away(err, "takes no request");
    }
}

static void waiter_add(struct egress *egress, struct waiter *waiter)
{
    memset(waiter, 0, sizeof(*waiter));
    cond_init(&waiter->answered);
    (void)pthread_mutex_lock(&egress->lock);
    waiter->request_id = ++egress->next_request_id;
    waiter->next = egress->waiters;
    egress->waiters = waiter;
    (void)pthread_mutex_unlock(&egress->lock);
}

/* Waits for the reply and unlinks the waiter; false when the deadline passed before. */
static bool waiter_wait(struct egress *egress, struct waiter *waiter, int64_t deadline_ns)
{
    (void)pthread_mutex_lock(&egress->lock);
    while (!waiter->done) {
        if (!cond_wait_until(&waiter->answered, &egress->lock, deadline_ns))
            break;
    }
    for (struct waiter **at = &egress->waiters; *at; at = &(*at)->next) {
        if (*at == waiter) {
            *at = waiter->next;
            break;
        }
    }
    (void)pthread_mutex_unlock(&egress->lock);
    (void)pthread_cond_destroy(&waiter->answered);
    return waiter->done;
}

static int call(struct egress *egress, struct egress_msg *request, int channel_fd,
                int64_t deadline_ns, struct egress_counts *out_counts, struct err *err)
{
    int fd = -1;
    int result = acquire(egress, deadline_ns, &fd, err);
    if (result != 0)
        return result;
    struct waiter waiter;
    waiter_add(egress, &waiter);
    request->request_id = waiter.request_id;
    result = send_message(fd, request, channel_fd, deadline_ns, err);
    release(egress);
    bool answered = waiter_wait(egress, &waiter, result == 0 ? deadline_ns : 0);
    if (result == 0 && !answered)
        result = set_away(err, "did not answer in time");
    if (result == 0 && waiter.error.kind != ERR_NONE)
        result = err_copy(err, &waiter.error);
    if (result == 0 && out_counts)
        *out_counts = waiter.counts;
    return result;
}

/* ---- the reader ---- */

static void deliver(struct egress *egress, const struct egress_msg *msg)
{
    (void)pthread_mutex_lock(&egress->lock);
    struct waiter *waiter = egress->waiters;
    while (waiter && (waiter->request_id != msg->request_id || waiter->done))
        waiter = waiter->next;
    if (waiter) { /* else its caller has given up */
        waiter->error = msg->error;
        waiter->counts = msg->counts;
        waiter->done = true;
        (void)pthread_cond_signal(&waiter->answered);
    }
    (void)pthread_mutex_unlock(&egress->lock);
}

static void on_message(struct egress *egress, const struct egress_msg *msg)
{
    const struct egress_events *events = &egress->events;
    if ((msg->op & EGRESS_REPLY) != 0) {
        deliver(egress, msg);
    } else if (msg->op == EGRESS_OP_EVENT_COUNTS) {
        set_used(egress, msg->attach.id, msg->attach.bytes_used);
    } else if (msg->op == EGRESS_OP_EVENT_LOST && events->lost) {
        events->lost(events->context, msg->attach.id, &msg->counts);
    }
}

/* Returns false when the connection is over. */
static bool read_message(struct egress *egress, int fd)
{
    struct err err = ERR_INIT;
    struct egress_msg msg;
    ssize_t size = fd_recv(fd, egress->message, EGRESS_MSG_MAX, NULL, NULL, MSG_DONTWAIT, &err);
    if (size == -ERR_UNAVAILABLE)
        return true;
    if (size <= 0 || egress_msg_decode(egress->message, (size_t)size, &msg, &err) != 0) {
        if (size != 0 && size != -ERR_CLOSED)
            log_error("egress: %s", err.message);
        return false;
    }
    on_message(egress, &msg);
    egress_msg_done(&msg);
    return true;
}

static bool stopping(struct egress *egress)
{
    (void)pthread_mutex_lock(&egress->lock);
    bool stop = egress->stop;
    (void)pthread_mutex_unlock(&egress->lock);
    return stop;
}

/* Serves a connection until it breaks. Returns whether egress said anything. */
static bool serve(struct egress *egress, int fd)
{
    bool heard = false;
    while (!stopping(egress)) {
        struct pollfd fds[2] = {{.fd = fd, .events = POLLIN},
                                {.fd = egress->wake_fd, .events = POLLIN}};
        if (poll(fds, 2, -1) < 0 && errno != EINTR)
            break;
        if (fds[0].revents == 0)
            continue;
        if (!read_message(egress, fd))
            break;
        heard = true;
    }
    return heard;
}

static int connect_once(const struct egress *egress)
{
    FD_AUTO int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0 ||
        connect(fd, (const struct sockaddr *)&egress->address, sizeof(egress->address)) != 0)
        return -1;
    return fd_take(&fd);
}

static void set_connected(struct egress *egress, int fd)
{
    (void)pthread_mutex_lock(&egress->lock);
    egress->fd = fd;
    (void)pthread_cond_broadcast(&egress->changed);
    (void)pthread_mutex_unlock(&egress->lock);
}

/* Fails all that waited on a connection and closes it once nobody sends on it. */
static void disconnect(struct egress *egress, int *fd)
{
    (void)shutdown(*fd, SHUT_RDWR); /* wakes senders that wait for room */
    (void)pthread_mutex_lock(&egress->lock);
    egress->fd = -1;
    while (egress->senders > 0)
        (void)pthread_cond_wait(&egress->changed, &egress->lock);
    for (struct waiter *waiter = egress->waiters; waiter; waiter = waiter->next) {
        if (waiter->done)
            continue;
        (void)set_away(&waiter->error, "was restarted");
        waiter->done = true;
        (void)pthread_cond_signal(&waiter->answered);
    }
    (void)pthread_mutex_unlock(&egress->lock);
    fd_close(fd);
}

static void *reader_main(void *context)
{
    struct egress *egress = context;
    int64_t backoff_ns = BACKOFF_MIN_NS;
    while (!stopping(egress)) {
        int fd = connect_once(egress);
        if (fd >= 0) {
            set_connected(egress, fd);
            if (egress->events.connected)
                egress->events.connected(egress->events.context);
            if (serve(egress, fd))
                backoff_ns = BACKOFF_MIN_NS;
            disconnect(egress, &fd);
            if (!stopping(egress))
                log_warn("egress: the connection broke");
        }
        struct pollfd stop = {.fd = egress->wake_fd, .events = POLLIN};
        (void)poll(&stop, 1, (int)(backoff_ns / CLOCK_NS_PER_MS));
        backoff_ns = 2 * backoff_ns > BACKOFF_MAX_NS ? BACKOFF_MAX_NS : 2 * backoff_ns;
    }
    return NULL;
}

/* ---- for everybody ---- */

int egress_new(const char *socket_path, const struct egress_events *events, struct egress **out,
               struct err *err)
{
    if (strlen(socket_path) >= sizeof(((struct sockaddr_un *)NULL)->sun_path))
        return err_set(err, ERR_BAD_INPUT, "the path of egress's socket is too long: %s",
                       socket_path);
    MEM_AUTO struct egress *egress = calloc(1, sizeof(*egress));
    MEM_AUTO uint8_t *message = malloc(EGRESS_MSG_MAX);
    FD_AUTO int wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (!egress || !message || wake_fd < 0)
        return err_set(err, ERR_INTERNAL, "no memory or descriptors for egress");
    if (events)
        egress->events = *events;
    egress->address.sun_family = AF_UNIX;
    (void)snprintf(egress->address.sun_path, sizeof(egress->address.sun_path), "%s", socket_path);
    egress->wake_fd = wake_fd;
    egress->message = message;
    egress->fd = -1;
    (void)pthread_mutex_init(&egress->lock, NULL);
    cond_init(&egress->changed);
    int status = pthread_create(&egress->thread, NULL, reader_main, egress);
    if (status != 0) {
        (void)pthread_cond_destroy(&egress->changed);
        (void)pthread_mutex_destroy(&egress->lock);
        return err_sys(err, status, "start egress's reader");
    }
    (void)take(message);
    (void)fd_take(&wake_fd);
    *out = take(egress);
    return 0;
}

void egress_free(struct egress *egress)
{
    uint64_t one = 1;
    if (!egress)
        return;
    (void)pthread_mutex_lock(&egress->lock);
    egress->stop = true;
    (void)pthread_cond_broadcast(&egress->changed);
    (void)pthread_mutex_unlock(&egress->lock);
    (void)!write(egress->wake_fd, &one, sizeof(one));
    (void)pthread_join(egress->thread, NULL);
    (void)pthread_cond_destroy(&egress->changed);
    (void)pthread_mutex_destroy(&egress->lock);
    while (egress->used) {
        struct used *used = egress->used;
        egress->used = used->next;
        free(used);
    }
    fd_close(&egress->wake_fd);
    free(egress->message);
    free(egress);
}

bool egress_is_connected(struct egress *egress)
{
    (void)pthread_mutex_lock(&egress->lock);
    bool connected = egress->fd >= 0;
    (void)pthread_mutex_unlock(&egress->lock);
    return connected;
}

static int copy_text(char *out, size_t size, const char *text, const char *what, struct err *err)
{
    if (text[0] == '\0' || strlen(text) >= size)
        return err_set(err, ERR_BAD_INPUT, "%s is empty or too long", what);
    (void)snprintf(out, size, "%s", text);
    return 0;
}

/* Who is attacked by what comes from the world is to have no other power over a sandbox than to
 * take its sockets: init knows from here on. */
static int say_hello(int channel_fd, struct err *err)
{
    const struct sandbox_hello hello = {.version_min = SANDBOX_VERSION_MIN,
                                        .version_max = SANDBOX_VERSION_MAX,
                                        .capabilities = SANDBOX_CAP_EGRESS};
    BUF_AUTO struct buf payload, out;
    buf_init(&payload, FRAME_PAYLOAD_MAX);
    buf_init(&out, FRAME_PAYLOAD_MAX);
    int result = sandbox_hello_encode(&hello, &payload, err);
    if (result == 0)
        result = frame_append(&out, FRAME_HELLO, 0, payload.data, payload.size, err);
    if (result == 0) /* into an empty socket: it is taken whole */
        result = fd_send(channel_fd, out.data, out.size, NULL, 0, MSG_DONTWAIT, err);
    return result;
}

int egress_attach(struct egress *egress, const struct egress_sandbox *sandbox, int channel_fd,
                  int64_t deadline_ns, struct err *err)
{
    FD_AUTO int fd = channel_fd;
    struct egress_msg request = {.op = EGRESS_OP_ATTACH, .attach.policy = sandbox->policy};
    struct egress_attach *attach = &request.attach;
    int result = copy_text(attach->id, sizeof(attach->id), sandbox->id, "the sandbox's id", err);
    if (result == 0)
        result = copy_text(attach->owner, sizeof(attach->owner), sandbox->owner, "the owner", err);
    if (result != 0)
        return result;
    result = say_hello(fd, err);
    if (result != 0)
        return result;
    memcpy(attach->nonce, sandbox->nonce, sizeof(attach->nonce));
    attach->bytes_used = begin_used(egress, sandbox->id);
    return call(egress, &request, fd, deadline_ns, NULL, err);
}

int egress_set_policy(struct egress *egress, const char *id, const struct egress_policy *policy,
                      int64_t deadline_ns, struct err *err)
{
    struct egress_msg request = {.op = EGRESS_OP_POLICY, .attach.policy = *policy};
    int result = copy_text(request.attach.id, sizeof(request.attach.id), id, "an id", err);
    return result == 0 ? call(egress, &request, -1, deadline_ns, NULL, err) : result;
}

int egress_detach(struct egress *egress, const char *id, int64_t deadline_ns,
                  struct egress_counts *out_counts, struct err *err)
{
    struct egress_msg request = {.op = EGRESS_OP_DETACH};
    int result = copy_text(request.attach.id, sizeof(request.attach.id), id, "an id", err);
    return result == 0 ? call(egress, &request, -1, deadline_ns, out_counts, err) : result;
}

void egress_detach_later(struct egress *egress, const char *id)
{
    struct egress_msg request = {.op = EGRESS_OP_DETACH};
    int fd = -1;
    forget_used(egress, id);
    if (copy_text(request.attach.id, sizeof(request.attach.id), id, "an id", NULL) != 0 ||
        acquire(egress, 0, &fd, NULL) != 0)
        return;
    (void)send_message(fd, &request, -1, 0, NULL);
    release(egress);
}

int egress_counts(struct egress *egress, const char *id, int64_t deadline_ns,
                  struct egress_counts *out, struct err *err)
{
    struct egress_msg request = {.op = EGRESS_OP_COUNTS};
    int result = id ? copy_text(request.attach.id, sizeof(request.attach.id), id, "an id", err) : 0;
    return result == 0 ? call(egress, &request, -1, deadline_ns, out, err) : result;
}
