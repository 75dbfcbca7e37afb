/* Owns the life of a fake sandbox: the thread that moves the bytes of its connections, its clocks
 * and its end. What frames mean is in fake_protocol.c, what scripts do in fake_job.c. */
#include "engine/fake_sandbox.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/id.h"
#include "engine/fake_internal.h"

/* ---- for the other files ---- */

void fake_wake(struct fake_sandbox *box)
{
    uint64_t one = 1;
    (void)!write(box->wake_fd, &one, sizeof(one));
}

void fake_die(struct fake_sandbox *box)
{
    box->by_self = box->by_self || !box->over;
    box->over = true;
    (void)pthread_cond_broadcast(&box->changed);
    fake_wake(box);
}

void fake_send(struct fake_connection *connection, enum frame_type type, uint32_t stream,
               const void *payload, size_t size)
{
    if (!connection->closing)
        (void)frame_append(&connection->out, type, stream, payload, size, NULL);
}

void fake_send_done(struct fake_connection *connection, uint32_t stream, int sys_errno,
                    uint64_t size_bytes)
{
    const struct sandbox_done done = {.sys_errno = sys_errno, .size_bytes = size_bytes};
    BUF_AUTO struct buf payload;
    buf_init(&payload, FRAME_PAYLOAD_MAX);
    (void)sandbox_done_encode(&done, &payload, NULL);
    fake_send(connection, FRAME_DONE, stream, payload.data, payload.size);
}

int64_t fake_in_ms(uint64_t from_now_ms)
{
    int64_t now_ns = clock_now_ns();
    if (from_now_ms > (uint64_t)((INT64_MAX - now_ns) / CLOCK_NS_PER_MS))
        return INT64_MAX;
    return now_ns + (int64_t)from_now_ms * CLOCK_NS_PER_MS;
}

struct fake_file *fake_find_file(struct fake_sandbox *box, const char *cwd, const char *path)
{
    char full[512];
    (void)snprintf(full, sizeof(full), "%s%s%s", path[0] == '/' ? "" : cwd,
                   path[0] == '/' ? "" : "/", path);
    for (size_t i = 0; i < box->file_count; i++) {
        if (strcmp(box->files[i].path, full) == 0)
            return &box->files[i];
    }
    return NULL;
}

/* ---- connections ---- */

static void close_connection(struct fake_sandbox *box, struct fake_connection *connection)
{
    for (size_t i = 0; i < FAKE_JOBS_MAX; i++) {
        if (box->jobs[i].used && box->jobs[i].connection == connection)
            fake_job_detach(&box->jobs[i]);
    }
    (void)shutdown(connection->fd, SHUT_RDWR);
    fd_close(&connection->fd);
    frame_decoder_done(&connection->decoder);
    buf_done(&connection->out);
    buf_done(&connection->get.bytes);
    *connection = (struct fake_connection){.fd = -1};
}

/* False: the server is gone. */
static bool read_connection(struct fake_sandbox *box, struct fake_connection *connection)
{
    struct frame frame;
    int result = frame_decoder_read(&connection->decoder, connection->fd, NULL);
    if (result == -ERR_UNAVAILABLE)
        return true;
    if (result <= 0)
        return false;
    while (!connection->closing && !box->silent &&
           (result = frame_decoder_next(&connection->decoder, &frame, NULL)) > 0)
        fake_on_frame(box, connection, &frame);
    return result >= 0;
}

static bool write_connection(struct fake_connection *connection)
{
    struct buf *out = &connection->out;
    while (out->size > 0) {
        ssize_t sent = send(connection->fd, out->data, out->size, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0)
            return errno == EAGAIN || errno == EINTR;
        buf_consume(out, (size_t)sent);
    }
    return !connection->closing;
}

static void send_hello(struct fake_sandbox *box, struct fake_connection *connection)
{
    struct sandbox_hello hello = {
        .version_min = SANDBOX_VERSION_MIN,
        .version_max = SANDBOX_VERSION_MAX,
        .capabilities = SANDBOX_CAP_EXEC | SANDBOX_CAP_PUT_FILE | SANDBOX_CAP_GET_FILE |
                        SANDBOX_CAP_KERNEL | SANDBOX_CAP_HOLD | SANDBOX_CAP_TIMERS |
                        SANDBOX_CAP_LIMITS | SANDBOX_CAP_EGRESS | SANDBOX_CAP_LINES};
    memcpy(hello.nonce, box->nonce, sizeof(hello.nonce));
    if (box->fault == FAKE_FAULT_WRONG_NONCE) {
        box->fault = FAKE_FAULT_NONE;
        hello.nonce[0] ^= 1;
    }
    if (box->fault == FAKE_FAULT_CLOSE_EARLY) {
        box->fault = FAKE_FAULT_NONE;
        connection->closing = true;
        return;
    }
    BUF_AUTO struct buf payload;
    buf_init(&payload, FRAME_PAYLOAD_MAX);
    (void)sandbox_hello_encode(&hello, &payload, NULL);
    fake_send(connection, FRAME_HELLO, 0, payload.data, payload.size);
}

/* ---- clocks ---- */

static bool has_connection(const struct fake_sandbox *box)
{
    for (size_t i = 0; i < FAKE_CONNECTIONS_MAX; i++) {
        if (box->connections[i].fd >= 0 && !box->connections[i].egress)
            return true;
    }
    return false;
}

static bool is_busy(const struct fake_sandbox *box)
{
    for (size_t i = 0; i < FAKE_JOBS_MAX; i++) {
        if (box->jobs[i].used && !box->jobs[i].ended)
            return true;
    }
    for (size_t i = 0; i < FAKE_CONNECTIONS_MAX; i++) {
        const struct fake_connection *connection = &box->connections[i];
        if (connection->fd >= 0 && (connection->put.stream != 0 || connection->get.stream != 0))
            return true;
    }
    return false;
}

static int64_t after_ms(int64_t since_ns, uint64_t time_ms)
{
    if (since_ns == INT64_MAX || time_ms > (uint64_t)((INT64_MAX - since_ns) / CLOCK_NS_PER_MS))
        return INT64_MAX;
    return since_ns + (int64_t)time_ms * CLOCK_NS_PER_MS;
}

int64_t fake_idle_end_ns(const struct fake_sandbox *box)
{
    return is_busy(box) ? INT64_MAX : after_ms(box->idle_since_ns, box->idle_ms);
}

/* Notices what began or ended, ends the sandbox when it is time, and says when to look again. */
static int64_t step_clocks(struct fake_sandbox *box)
{
    int64_t now_ns = clock_now_ns();
    if (is_busy(box))
        box->idle_since_ns = INT64_MAX;
    else if (box->idle_since_ns == INT64_MAX)
        box->idle_since_ns = now_ns;
    if (has_connection(box))
        box->orphaned_at_ns = INT64_MAX;
    else if (box->orphaned_at_ns == INT64_MAX)
        box->orphaned_at_ns = now_ns;
    int64_t end_ns = box->lifetime_end_ns;
    int64_t idle_ns = fake_idle_end_ns(box);
    int64_t orphan_ns = after_ms(box->orphaned_at_ns, box->orphan_ms);
    end_ns = idle_ns < end_ns ? idle_ns : end_ns;
    end_ns = orphan_ns < end_ns ? orphan_ns : end_ns;
    if (now_ns >= end_ns)
        fake_die(box);
    return end_ns;
}

/* ---- its thread ---- */

/* Joins the threads of jobs that ended, and frees those that nobody will ask for. */
static void step_jobs(struct fake_sandbox *box)
{
    for (size_t i = 0; i < FAKE_JOBS_MAX; i++) {
        struct fake_job *job = &box->jobs[i];
        if (!job->used)
            continue;
        fake_job_deliver(job);
        if (!job->ended)
            continue;
        if (!job->joined) /* all it does once it ended is to let go of the lock, which we have */
            (void)pthread_join(job->thread, NULL);
        job->joined = true;
        if (!job->hold && (job->exit_sent || !job->connection))
            fake_job_free(job);
    }
}

static void step_connections(struct fake_sandbox *box,
                             const struct pollfd fds[static FAKE_CONNECTIONS_MAX])
{
    for (size_t i = 0; i < FAKE_CONNECTIONS_MAX; i++) {
        struct fake_connection *connection = &box->connections[i];
        if (connection->fd < 0 || fds[i].fd != connection->fd)
            continue; /* it came while we waited */
        bool there = true;
        if ((fds[i].revents & ~POLLOUT) != 0)
            there = read_connection(box, connection);
        if (!there)
            close_connection(box, connection);
    }
    step_jobs(box);
    for (size_t i = 0; i < FAKE_CONNECTIONS_MAX; i++) {
        struct fake_connection *connection = &box->connections[i];
        if (connection->fd >= 0 && !box->silent && !write_connection(connection))
            close_connection(box, connection);
    }
}

static void turn(struct fake_sandbox *box)
{
    struct pollfd fds[FAKE_CONNECTIONS_MAX + 1];
    int64_t wakeup_ns = box->silent ? INT64_MAX : step_clocks(box);
    if (box->over)
        return;
    for (size_t i = 0; i < FAKE_CONNECTIONS_MAX; i++) {
        const struct fake_connection *connection = &box->connections[i];
        short events = connection->out.size > 0 ? POLLIN | POLLOUT : POLLIN;
        fds[i] = (struct pollfd){.fd = box->silent ? -1 : connection->fd, .events = events};
    }
    fds[FAKE_CONNECTIONS_MAX] = (struct pollfd){.fd = box->wake_fd, .events = POLLIN};
    int timeout_ms = clock_poll_timeout_ms(wakeup_ns);
    (void)pthread_mutex_unlock(&box->lock);
    (void)poll(fds, FAKE_CONNECTIONS_MAX + 1, timeout_ms);
    uint64_t count = 0;
    if (fds[FAKE_CONNECTIONS_MAX].revents != 0)
        (void)!read(box->wake_fd, &count, sizeof(count));
    (void)pthread_mutex_lock(&box->lock);
    if (!box->silent && !box->over)
        step_connections(box, fds);
}

static void *box_main(void *context)
{
    struct fake_sandbox *box = context;
    (void)pthread_mutex_lock(&box->lock);
    while (!box->over)
        turn(box);
    (void)pthread_cond_broadcast(&box->changed);
    for (size_t i = 0; i < FAKE_JOBS_MAX; i++) {
        struct fake_job *job = &box->jobs[i];
        if (!job->used)
            continue;
        (void)pthread_mutex_unlock(&box->lock);
        if (!job->joined)
            (void)pthread_join(job->thread, NULL);
        (void)pthread_mutex_lock(&box->lock);
        fake_job_free(job);
    }
    for (size_t i = 0; i < FAKE_CONNECTIONS_MAX; i++) {
        if (box->connections[i].fd >= 0)
            close_connection(box, &box->connections[i]);
    }
    bool by_self = box->by_self;
    enum kill_cause cause = box->fault == FAKE_FAULT_DIES_OF_MEMORY ? KILL_OOM : KILL_NONE;
    (void)pthread_mutex_unlock(&box->lock);
    if (by_self)
        box->died(box->context, box->id, cause);
    return NULL;
}

/* ---- for fake.c ---- */

int fake_sandbox_connect(struct fake_sandbox *box, enum engine_fake_fault fault, int *out_fd,
                         struct err *err)
{
    struct fake_connection *connection = NULL;
    FD_AUTO int ours = -1;
    int pair[2] = {-1, -1};
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
        return err_sys(err, errno, "fake channel");
    ours = pair[0];
    int result = fd_set_nonblocking(ours, true, err);
    (void)pthread_mutex_lock(&box->lock);
    for (size_t i = 0; i < FAKE_CONNECTIONS_MAX && !connection; i++)
        connection = box->connections[i].fd < 0 ? &box->connections[i] : NULL;
    if (result == 0 && box->over)
        result = err_set(err, ERR_NOT_FOUND, "the sandbox has ended");
    if (result == 0 && !connection)
        result = err_set(err, ERR_INTERNAL, "too many channels");
    if (result == 0) {
        *connection = (struct fake_connection){.fd = fd_take(&ours)};
        frame_decoder_init(&connection->decoder);
        buf_init(&connection->out, FAKE_BYTES_MAX);
        if (fault != FAKE_FAULT_NONE)
            box->fault = fault;
        send_hello(box, connection);
        fake_wake(box);
    }
    (void)pthread_mutex_unlock(&box->lock);
    if (result != 0)
        fd_close(&pair[1]);
    else
        *out_fd = pair[1];
    return result;
}

void fake_sandbox_strike(struct fake_sandbox *box, enum engine_fake_fault fault)
{
    (void)pthread_mutex_lock(&box->lock);
    box->fault = fault;
    (void)pthread_mutex_unlock(&box->lock);
}

void fake_sandbox_network(struct fake_sandbox *box, struct sandbox_network *out)
{
    (void)pthread_mutex_lock(&box->lock);
    *out = box->network;
    (void)pthread_mutex_unlock(&box->lock);
}

void fake_sandbox_limits(struct fake_sandbox *box, struct sandbox_limits *out)
{
    (void)pthread_mutex_lock(&box->lock);
    *out = box->limits;
    (void)pthread_mutex_unlock(&box->lock);
}

static void take_files(struct fake_sandbox *box, struct fake_sandbox *left)
{
    memcpy(box->files, left->files, sizeof(box->files));
    box->file_count = left->file_count;
    left->file_count = 0;
}

static struct fake_sandbox *make_box(const struct fake_spec *spec)
{
    struct fake_sandbox *box = calloc(1, sizeof(*box));
    pthread_condattr_t monotonic;
    if (!box)
        return NULL;
    (void)snprintf(box->id, sizeof(box->id), "%s", spec->id);
    box->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    box->died = spec->died;
    box->context = spec->context;
    id_random(box->nonce, sizeof(box->nonce));
    buf_init(&box->kernel.payload, FRAME_PAYLOAD_MAX);
    for (size_t i = 0; i < FAKE_CONNECTIONS_MAX; i++)
        box->connections[i].fd = -1;
    box->lifetime_end_ns = spec->lifetime_ms == 0 ? INT64_MAX : fake_in_ms(spec->lifetime_ms);
    box->orphan_ms = spec->orphan_ms == 0 ? SANDBOX_NEVER : spec->orphan_ms;
    box->idle_ms = SANDBOX_NEVER;
    box->idle_since_ns = box->orphaned_at_ns = INT64_MAX;
    (void)pthread_mutex_init(&box->lock, NULL);
    (void)pthread_condattr_init(&monotonic);
    (void)pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&box->changed, &monotonic);
    (void)pthread_condattr_destroy(&monotonic);
    return box;
}

int fake_sandbox_new(const struct fake_spec *spec, struct fake_sandbox **out, int *out_fd,
                     uint8_t out_nonce[static SANDBOX_NONCE_SIZE], struct err *err)
{
    FD_AUTO int fd = -1;
    struct fake_sandbox *box = make_box(spec);
    if (!box)
        return err_set(err, ERR_INTERNAL, "no memory for a fake sandbox");
    int result = fake_sandbox_connect(box, spec->fault, &fd, err);
    if (result == 0 && spec->left)
        take_files(box, spec->left);
    int status = result == 0 ? pthread_create(&box->thread, NULL, box_main, box) : 0;
    if (status != 0) {
        if (spec->left)
            take_files(spec->left, box);
        result = err_sys(err, status, "fake sandbox");
    }
    if (result != 0) {
        fake_sandbox_free(box);
        return result;
    }
    box->runs = true;
    memcpy(out_nonce, box->nonce, SANDBOX_NONCE_SIZE);
    *out = box;
    *out_fd = fd_take(&fd);
    return 0;
}

void fake_sandbox_end(struct fake_sandbox *box)
{
    if (!box->runs)
        return;
    box->runs = false;
    (void)pthread_mutex_lock(&box->lock);
    box->over = true;
    (void)pthread_cond_broadcast(&box->changed);
    (void)pthread_mutex_unlock(&box->lock);
    fake_wake(box);
    (void)pthread_join(box->thread, NULL);
}

void fake_sandbox_free(struct fake_sandbox *box)
{
    if (!box)
        return;
    fake_sandbox_end(box);
    for (size_t i = 0; i < FAKE_CONNECTIONS_MAX; i++) { /* its thread may never have been there */
        if (box->connections[i].fd >= 0)
            close_connection(box, &box->connections[i]);
    }
    sandbox_kernel_done(&box->kernel.spec);
    buf_done(&box->kernel.payload);
    for (size_t i = 0; i < box->file_count; i++)
        buf_done(&box->files[i].bytes);
    fd_close(&box->wake_fd);
    (void)pthread_cond_destroy(&box->changed);
    (void)pthread_mutex_destroy(&box->lock);
    free(box);
}
