/* Owns the connections and the table of jobs. One thread, poll(2), no blocking call. A frame from a
 * connection is trusted to be the server's, since the socket is outside of the sandbox's reach, but
 * a malformed one only costs that connection. */
#include "init/loop.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/fd.h"
#include "init/job.h"
#include "wire/frame.h"
#include "wire/sandbox.h"

enum { CONNECTION_MAX = 4, JOB_MAX = 32, POLL_MAX = 4 + CONNECTION_MAX + 4 * JOB_MAX };
#define OUT_MAX (8U * 1024U * 1024U)
#define CONNECT_GRACE_NS (10 * CLOCK_NS_PER_S) /* from the commit to the first connection */

struct connection {
    int fd; /* -1: free */
    bool greeted;
    bool put_failed; /* a file of the next execution could not be written */
    struct frame_decoder decoder;
    struct buf out;
    bool exec_waiting; /* an EXEC frame that waits for file writes to end */
    uint32_t exec_stream;
    struct buf exec_payload;
};

struct loop {
    const struct init_config *config;
    int signal_fd;
    int listen_fd;
    int setup_fd; /* -1 once committed */
    int oom_fd;
    int64_t end_ns;      /* lifetime */
    int64_t orphaned_ns; /* since when there is no connection; INT64_MAX: there is one */
    bool orphan_counts;  /* a server was there once */
    bool over;
    struct connection connections[CONNECTION_MAX];
    struct job jobs[JOB_MAX];
};

static bool jobs_of(const struct loop *loop, const struct connection *connection,
                    enum job_kind kind)
{
    for (size_t i = 0; i < JOB_MAX; i++) {
        if (loop->jobs[i].kind == kind && (!connection || loop->jobs[i].out == &connection->out))
            return true;
    }
    return false;
}

static struct job *free_job(struct loop *loop)
{
    for (size_t i = 0; i < JOB_MAX; i++) {
        if (loop->jobs[i].kind == JOB_FREE)
            return &loop->jobs[i];
    }
    return NULL;
}

/* The job that a stream of this connection belongs to. */
static struct job *find_job(struct loop *loop, const struct connection *connection, uint32_t stream)
{
    for (size_t i = 0; i < JOB_MAX; i++) {
        struct job *job = &loop->jobs[i];
        if (job->kind != JOB_FREE && job->out == &connection->out &&
            job->stream == stream - stream % STREAM_STEP)
            return job;
    }
    return NULL;
}

static bool has_connection(const struct loop *loop)
{
    for (size_t i = 0; i < CONNECTION_MAX; i++) {
        if (loop->connections[i].fd >= 0)
            return true;
    }
    return false;
}

static void connection_close(struct loop *loop, struct connection *connection)
{
    for (size_t i = 0; i < JOB_MAX; i++) {
        struct job *job = &loop->jobs[i];
        if (job->kind == JOB_FREE || job->out != &connection->out)
            continue;
        job->out = NULL;
        job_feed_end(job);
        job_kill(job, loop->config, KILL_SERVER);
    }
    fd_close(&connection->fd);
    frame_decoder_done(&connection->decoder);
    buf_done(&connection->out);
    buf_done(&connection->exec_payload);
    memset(connection, 0, sizeof(*connection));
    connection->fd = -1;
    if (has_connection(loop))
        return;
    loop->orphaned_ns = clock_now_ns();
    loop->orphan_counts = true;
}

static void connection_accept(struct loop *loop)
{
    int fd = accept4(loop->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return;
    for (size_t i = 0; i < CONNECTION_MAX; i++) {
        struct connection *connection = &loop->connections[i];
        if (connection->fd >= 0)
            continue;
        connection->fd = fd;
        frame_decoder_init(&connection->decoder);
        buf_init(&connection->out, OUT_MAX);
        buf_init(&connection->exec_payload, FRAME_PAYLOAD_MAX);
        loop->orphaned_ns = INT64_MAX;
        return;
    }
    (void)close(fd);
}

/* ---- frames ---- */

static int on_hello(struct loop *loop, struct connection *connection, const struct frame *frame,
                    struct err *err)
{
    struct sandbox_hello theirs;
    struct sandbox_hello ours = {.version_min = SANDBOX_VERSION_MIN,
                                 .version_max = SANDBOX_VERSION_MAX,
                                 .capabilities = SANDBOX_CAP_EXEC | SANDBOX_CAP_PUT_FILE};
    if (loop->config->cgroup_mode != INIT_CGROUP_NONE)
        ours.capabilities |= SANDBOX_CAP_CGROUP;
    memcpy(ours.nonce, loop->config->nonce, sizeof(ours.nonce));
    int result = sandbox_hello_decode(frame->payload, frame->size, &theirs, err);
    if (result == 0 && connection->greeted)
        result = err_set(err, ERR_PROTOCOL, "a second hello");
    if (result == 0)
        result = sandbox_hello_agree(&ours, &theirs, err);
    if (result < 0)
        return result;
    connection->greeted = true;
    BUF_AUTO struct buf payload;
    buf_init(&payload, FRAME_PAYLOAD_MAX);
    result = sandbox_hello_encode(&ours, &payload, err);
    if (result == 0)
        result = frame_append(&connection->out, FRAME_HELLO, 0, payload.data, payload.size, err);
    return result;
}

/* An execution that could not even begin: STARTED is left out, the ends and EXIT are sent. */
static int refuse_exec(struct connection *connection, uint32_t stream, const char *why,
                       struct err *err)
{
    struct sandbox_exit exit = {.exit_code = 126, .start_error = why};
    BUF_AUTO struct buf payload;
    buf_init(&payload, FRAME_PAYLOAD_MAX);
    int result = sandbox_exit_encode(&exit, &payload, err);
    for (uint32_t i = STREAM_STDOUT; result == 0 && i <= STREAM_STDERR; i++)
        result = frame_append(&connection->out, FRAME_CLOSE, stream + i, NULL, 0, err);
    if (result == 0)
        result =
            frame_append(&connection->out, FRAME_EXIT, stream, payload.data, payload.size, err);
    return result;
}

static int start_exec(struct loop *loop, struct connection *connection, const void *payload,
                      size_t size, uint32_t stream, struct err *err)
{
    struct sandbox_exec exec;
    int result = sandbox_exec_decode(payload, size, &exec, err);
    if (result != 0)
        return result;
    struct job *job = free_job(loop);
    struct err failure = ERR_INIT;
    if (connection->put_failed)
        result = refuse_exec(connection, stream, "a file of this execution was not written", err);
    else if (!job || jobs_of(loop, NULL, JOB_EXEC))
        result = refuse_exec(connection, stream, "another execution is running", err);
    else if (job_start_exec(job, loop->config, &exec, stream, &connection->out, &failure) != 0)
        result = refuse_exec(connection, stream, failure.message, err);
    connection->put_failed = false;
    sandbox_exec_done(&exec);
    return result;
}

static int on_exec(struct loop *loop, struct connection *connection, const struct frame *frame,
                   struct err *err)
{
    if (frame->stream == 0 || frame->stream % STREAM_STEP != 0 || connection->exec_waiting ||
        find_job(loop, connection, frame->stream))
        return err_set(err, ERR_PROTOCOL, "EXEC on stream %u", frame->stream);
    if (!jobs_of(loop, connection, JOB_PUT_FILE))
        return start_exec(loop, connection, frame->payload, frame->size, frame->stream, err);
    connection->exec_waiting = true;
    connection->exec_stream = frame->stream;
    connection->exec_payload.size = 0;
    return buf_append(&connection->exec_payload, frame->payload, frame->size, err);
}

static int on_put_file(struct loop *loop, struct connection *connection, const struct frame *frame,
                       struct err *err)
{
    struct sandbox_put_file put;
    if (frame->stream == 0 || frame->stream % STREAM_STEP != 0 ||
        find_job(loop, connection, frame->stream))
        return err_set(err, ERR_PROTOCOL, "PUT_FILE on stream %u", frame->stream);
    int result = sandbox_put_file_decode(frame->payload, frame->size, &put, err);
    if (result != 0)
        return result;
    struct job *job = free_job(loop); /* there is one: read_frames() looked */
    if (!job)
        return err_set(err, ERR_INTERNAL, "no free job");
    return job_start_put_file(job, loop->config, &put, frame->stream, &connection->out, err);
}

/* Input for an execution that still waits for its files is kept back by not reading: see
 * read_frames(). Input for a job that ended meanwhile is dropped. */
static int on_stream(struct loop *loop, struct connection *connection, const struct frame *frame,
                     struct err *err)
{
    struct job *job = find_job(loop, connection, frame->stream);
    uint32_t part = frame->stream % STREAM_STEP;
    uint32_t value = 0;
    int result = 0;
    if (!job)
        return 0;
    switch (frame->type) {
    case FRAME_DATA:
        return job_feed(job, frame->payload, frame->size, err);
    case FRAME_CLOSE:
        job_feed_end(job);
        return 0;
    case FRAME_CREDIT:
        result = frame_u32(frame, &value, err);
        if (result != 0)
            return result;
        if (part < STREAM_STDOUT || value > FRAME_WINDOW ||
            job->outputs[part - STREAM_STDOUT].credit > FRAME_WINDOW - value)
            return err_set(err, ERR_PROTOCOL, "credit %u on stream %u", value, frame->stream);
        job->outputs[part - STREAM_STDOUT].credit += value;
        return 0;
    case FRAME_KILL:
        result = frame_u32(frame, &value, err);
        if (result == 0 && (value == KILL_NONE || value >= KILL_CAUSE_COUNT))
            result = err_set(err, ERR_PROTOCOL, "kill cause %u", value);
        if (result == 0)
            job_kill(job, loop->config, (enum kill_cause)value);
        return result;
    default:
        return err_set(err, ERR_PROTOCOL, "frame type %d", (int)frame->type);
    }
}

static int on_frame(struct loop *loop, struct connection *connection, const struct frame *frame,
                    struct err *err)
{
    if (!connection->greeted && frame->type != FRAME_HELLO)
        return err_set(err, ERR_PROTOCOL, "the first frame is no hello");
    switch (frame->type) {
    case FRAME_HELLO:
        return on_hello(loop, connection, frame, err);
    case FRAME_EXEC:
        return on_exec(loop, connection, frame, err);
    case FRAME_PUT_FILE:
        return on_put_file(loop, connection, frame, err);
    case FRAME_PING:
        return frame_append(&connection->out, FRAME_PONG, frame->stream, NULL, 0, err);
    default:
        return on_stream(loop, connection, frame, err);
    }
}

/* Takes frames while there is a free job for what they may start. A KILL behind a waiting EXEC
 * waits with it, which is short: file writes end by themselves. */
static int read_frames(struct loop *loop, struct connection *connection, struct err *err)
{
    while (free_job(loop) && !connection->exec_waiting) {
        struct frame frame;
        int result = frame_decoder_next(&connection->decoder, &frame, err);
        if (result == 0)
            return 0;
        if (result > 0)
            result = on_frame(loop, connection, &frame, err);
        if (result < 0)
            return result;
    }
    return 0;
}

static bool connection_may_read(struct loop *loop, const struct connection *connection)
{
    return free_job(loop) && !connection->exec_waiting && connection->out.size < OUT_MAX / 2;
}

static int connection_read(struct loop *loop, struct connection *connection, struct err *err)
{
    int got = frame_decoder_read(&connection->decoder, connection->fd, err);
    if (got == 0)
        return err_set(err, ERR_CLOSED, "the server closed");
    if (got == -ERR_UNAVAILABLE)
        return 0;
    return got < 0 ? got : read_frames(loop, connection, err);
}

static int connection_write(struct connection *connection, struct err *err)
{
    while (connection->out.size > 0) {
        ssize_t sent = send(connection->fd, connection->out.data, connection->out.size,
                            MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0) {
            if (errno == EAGAIN)
                return 0;
            if (errno == EINTR)
                continue;
            return err_sys(err, errno, "send");
        }
        buf_consume(&connection->out, (size_t)sent);
    }
    return 0;
}

/* ---- jobs ---- */

static void reap_children(struct loop *loop)
{
    struct signalfd_siginfo info;
    while (read(loop->signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info))
        continue; /* one SIGCHLD may stand for many children */
    int status = 0;
    struct rusage rusage;
    pid_t pid = 0;
    while ((pid = wait4(-1, &status, WNOHANG, &rusage)) > 0) {
        for (size_t i = 0; i < JOB_MAX; i++) {
            struct job *job = &loop->jobs[i];
            if (!job_reaped(job, pid, status, &rusage))
                continue;
            if (job->kind != JOB_PUT_FILE || (WIFEXITED(status) && WEXITSTATUS(status) == 0))
                break;
            for (size_t k = 0; k < CONNECTION_MAX; k++) {
                if (job->out == &loop->connections[k].out)
                    loop->connections[k].put_failed = true;
            }
            break;
        }
    }
}

static void on_oom_event(struct loop *loop)
{
    char text[512];
    /* v1: the eventfd's count. v2: memory.events stays "changed" for poll(2) until it is read, from
     * its opening on (cgroup-v2.rst, "file modified event"). */
    ssize_t size = loop->config->cgroup_mode == INIT_CGROUP_V2
                       ? pread(loop->oom_fd, text, sizeof(text), 0)
                       : read(loop->oom_fd, text, sizeof(uint64_t));
    if (size <= 0)
        return;
    for (size_t i = 0; i < JOB_MAX; i++) {
        if (loop->jobs[i].kind == JOB_EXEC)
            loop->jobs[i].oom_watch_ns = clock_now_ns() + JOB_OOM_WATCH_NS;
    }
}

static void step_jobs(struct loop *loop)
{
    for (size_t i = 0; i < JOB_MAX; i++)
        (void)job_step(&loop->jobs[i], loop->config);
}

static int step_connection(struct loop *loop, struct connection *connection, struct err *err)
{
    int result = 0;
    if (connection->exec_waiting && !jobs_of(loop, connection, JOB_PUT_FILE)) {
        connection->exec_waiting = false;
        result = start_exec(loop, connection, connection->exec_payload.data,
                            connection->exec_payload.size, connection->exec_stream, err);
    }
    if (result == 0)
        result = read_frames(loop, connection, err);
    if (result == 0)
        result = connection_write(connection, err);
    return result;
}

/* ---- the loop ---- */

struct poll_set {
    struct pollfd entries[POLL_MAX];
    nfds_t count;
};

static struct pollfd *poll_add(struct poll_set *set, int fd, short events)
{
    struct pollfd *entry = &set->entries[set->count++];
    *entry = (struct pollfd){.fd = fd, .events = events};
    return entry;
}

static void poll_add_jobs(const struct loop *loop, struct poll_set *set)
{
    for (size_t i = 0; i < JOB_MAX; i++) {
        const struct job *job = &loop->jobs[i];
        if (job->kind == JOB_FREE)
            continue;
        if (job->stdin_fd >= 0 && job->stdin_queue.size > 0)
            (void)poll_add(set, job->stdin_fd, POLLOUT);
        if (job->status_fd >= 0)
            (void)poll_add(set, job->status_fd, POLLIN);
        for (int k = 0; k < 2; k++) {
            if (job_wants_output(job, k))
                (void)poll_add(set, job->outputs[k].fd, POLLIN);
        }
    }
}

static int64_t next_wakeup(const struct loop *loop)
{
    int64_t wakeup = loop->end_ns;
    if (loop->orphan_counts && loop->orphaned_ns != INT64_MAX) {
        int64_t orphan = loop->orphaned_ns + (int64_t)loop->config->orphan_ms * CLOCK_NS_PER_MS;
        wakeup = orphan < wakeup ? orphan : wakeup;
    }
    for (size_t i = 0; i < JOB_MAX; i++) {
        int64_t job = job_wakeup_ns(&loop->jobs[i]);
        wakeup = job < wakeup ? job : wakeup;
    }
    return wakeup;
}

static void check_end(struct loop *loop)
{
    int64_t now_ns = clock_now_ns();
    if (now_ns >= loop->end_ns)
        loop->over = true;
    if (loop->orphan_counts && loop->orphaned_ns != INT64_MAX &&
        now_ns - loop->orphaned_ns >= (int64_t)loop->config->orphan_ms * CLOCK_NS_PER_MS)
        loop->over = true;
}

/* Until the engine says 'C', its end of the setup socket stands for its life: with it goes a
 * creation that nobody knows of. */
static void on_setup(struct loop *loop)
{
    char byte = 0;
    ssize_t got = recv(loop->setup_fd, &byte, 1, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got != 1 || byte != 'C')
        loop->over = true;
    /* The engine connects next; should it die in between, nobody else ever does. */
    if (!has_connection(loop)) {
        loop->orphaned_ns = clock_now_ns() + CONNECT_GRACE_NS;
        loop->orphan_counts = true;
    }
    fd_close(&loop->setup_fd);
}

static void turn(struct loop *loop, struct poll_set *set)
{
    set->count = 0;
    (void)poll_add(set, loop->signal_fd, POLLIN);
    (void)poll_add(set, loop->listen_fd, POLLIN);
    (void)poll_add(set, loop->setup_fd, POLLIN); /* -1 is ignored by poll(2) */
    (void)poll_add(set, loop->oom_fd,
                   loop->config->cgroup_mode == INIT_CGROUP_V2 ? POLLPRI : POLLIN);
    struct pollfd *of_connection[CONNECTION_MAX];
    for (size_t i = 0; i < CONNECTION_MAX; i++) {
        const struct connection *connection = &loop->connections[i];
        short events = connection_may_read(loop, connection) ? POLLIN : 0;
        events = (short)(events | (connection->out.size > 0 ? POLLOUT : 0));
        of_connection[i] = poll_add(set, connection->fd, events);
    }
    poll_add_jobs(loop, set);
    if (poll(set->entries, set->count, clock_poll_timeout_ms(next_wakeup(loop))) < 0)
        return; /* EINTR: no handler is installed, so only a stop and continue */
    if (set->entries[0].revents != 0)
        reap_children(loop);
    if (set->entries[2].revents != 0)
        on_setup(loop);
    if (set->entries[3].revents != 0)
        on_oom_event(loop);
    for (size_t i = 0; i < CONNECTION_MAX; i++) {
        struct connection *connection = &loop->connections[i];
        short events = of_connection[i]->revents;
        if (connection->fd < 0 || events == 0)
            continue;
        bool readable = (events & (POLLIN | POLLHUP | POLLERR)) != 0;
        if (readable && connection_read(loop, connection, NULL) < 0)
            connection_close(loop, connection);
    }
    if (set->entries[1].revents != 0)
        connection_accept(loop);
    step_jobs(loop);
    for (size_t i = 0; i < CONNECTION_MAX; i++) {
        struct connection *connection = &loop->connections[i];
        if (connection->fd >= 0 && step_connection(loop, connection, NULL) < 0)
            connection_close(loop, connection);
    }
    check_end(loop);
}

int loop_run(const struct init_config *config, struct err *err)
{
    static struct loop loop; /* too large for the stack of a small static program */
    static struct poll_set set;
    memset(&loop, 0, sizeof(loop));
    loop.config = config;
    loop.listen_fd = config->listen_fd;
    loop.setup_fd = config->setup_fd;
    loop.oom_fd = config->oom_event_fd;
    loop.orphaned_ns = INT64_MAX;
    loop.end_ns = config->lifetime_ms == 0
                      ? INT64_MAX
                      : clock_now_ns() + (int64_t)config->lifetime_ms * CLOCK_NS_PER_MS;
    for (size_t i = 0; i < CONNECTION_MAX; i++)
        loop.connections[i].fd = -1;
    job_table_init(loop.jobs, JOB_MAX);

    sigset_t children;
    (void)sigemptyset(&children);
    (void)sigaddset(&children, SIGCHLD);
    loop.signal_fd = signalfd(-1, &children, SFD_CLOEXEC | SFD_NONBLOCK);
    if (loop.signal_fd < 0)
        return err_sys(err, errno, "signalfd");
    if (listen(loop.listen_fd, CONNECTION_MAX) != 0)
        return err_sys(err, errno, "listen");
    if (loop.setup_fd >= 0 && send(loop.setup_fd, "R", 1, MSG_NOSIGNAL) != 1)
        return err_sys(err, errno, "tell the engine that init is ready");
    while (!loop.over)
        turn(&loop, &set);
    return 0;
}
