/* Owns what a frame of the server means. */
#include "init/connection.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/fd.h"
#include "init/session.h"
#include "init/terminal.h"
#include "wire/sandbox.h"

#define OUT_MAX (8U * 1024U * 1024U)

enum { EXIT_REFUSED = 126, EXIT_KILLED = 128 + SIGKILL };

void connection_init(struct connection *connection)
{
    memset(connection, 0, sizeof(*connection));
    connection->fd = -1;
}

void connection_open(struct connection *connection, int fd)
{
    connection->fd = fd;
    frame_decoder_init(&connection->decoder);
    buf_init(&connection->out, OUT_MAX);
    buf_init(&connection->exec.payload, FRAME_PAYLOAD_MAX);
    buf_init(&connection->exec.input, FRAME_WINDOW);
}

void connection_close(struct connection *connection, struct job_table *jobs)
{
    job_table_orphan(jobs, &connection->out);
    network_leave(&jobs->network, &connection->out, clock_now_ns());
    fd_close(&connection->fd);
    frame_decoder_done(&connection->decoder);
    buf_done(&connection->out);
    buf_done(&connection->exec.payload);
    buf_done(&connection->exec.input);
    connection_init(connection);
}

static int on_hello(struct connection *connection, const struct job_table *jobs,
                    const struct frame *frame, struct err *err)
{
    struct sandbox_hello theirs;
    struct sandbox_hello ours = {.version_min = SANDBOX_VERSION_MIN,
                                 .version_max = SANDBOX_VERSION_MAX,
                                 .capabilities = SANDBOX_CAP_EXEC | SANDBOX_CAP_PUT_FILE |
                                                 SANDBOX_CAP_GET_FILE | SANDBOX_CAP_KERNEL |
                                                 SANDBOX_CAP_HOLD | SANDBOX_CAP_TIMERS |
                                                 SANDBOX_CAP_TERMINAL | SANDBOX_CAP_LIMITS |
                                                 SANDBOX_CAP_EGRESS | SANDBOX_CAP_LINES};
    if (jobs->config->cgroup_mode != INIT_CGROUP_NONE)
        ours.capabilities |= SANDBOX_CAP_CGROUP;
    memcpy(ours.nonce, jobs->config->nonce, sizeof(ours.nonce));
    int result = sandbox_hello_decode(frame->payload, frame->size, &theirs, err);
    if (result == 0 && connection->greeted)
        result = err_set(err, ERR_PROTOCOL, "a second hello");
    if (result == 0)
        result = sandbox_hello_agree(&ours, &theirs, err);
    if (result < 0)
        return result;
    connection->greeted = true;
    connection->only_egress = theirs.capabilities == SANDBOX_CAP_EGRESS;
    BUF_AUTO struct buf payload;
    buf_init(&payload, FRAME_PAYLOAD_MAX);
    result = sandbox_hello_encode(&ours, &payload, err);
    if (result == 0)
        result = frame_append(&connection->out, FRAME_HELLO, 0, payload.data, payload.size, err);
    return result;
}

/* ---- executions ---- */

/* An execution that could not even begin: STARTED is left out, the ends and EXIT are sent. */
static void send_exit(struct connection *connection, const struct sandbox_exit *exit)
{
    struct outlet outlet;
    outlet_open(&outlet, &connection->out, connection->exec.stream);
    outlet_send_refusal(&outlet, exit);
}

static void refuse_exec(struct connection *connection, const char *why)
{
    const struct sandbox_exit exit = {.exit_code = EXIT_REFUSED, .start_error = why};
    send_exit(connection, &exit);
}

static int run_exec(struct connection *connection, struct job_table *jobs, struct err *err)
{
    struct waiting_exec *waiting = &connection->exec;
    struct sandbox_exec exec;
    int result = sandbox_exec_decode(waiting->payload.data, waiting->payload.size, &exec, err);
    if (result != 0)
        return result;
    struct job *job = job_table_free_job(jobs);
    struct err failure = ERR_INIT;
    if (waiting->files_failed)
        refuse_exec(connection, "a file of this execution was not written");
    else if (!job || job_table_count(jobs, JOB_EXEC) >= JOB_EXEC_MAX)
        refuse_exec(connection, "too many executions are running");
    else if (job_start_exec(job, jobs, &exec, waiting->stream, &connection->out, &failure) != 0)
        refuse_exec(connection, failure.message);
    else if (waiting->input.size > 0)
        result = job_feed(job, waiting->input.data, waiting->input.size, err);
    if (job && job->kind == JOB_EXEC && waiting->input_closed)
        job_feed_end(job);
    sandbox_exec_done(&exec);
    return result;
}

/* Starts, or ends, the EXEC that came when nothing holds it any more. */
static int step_exec(struct connection *connection, struct job_table *jobs, struct err *err)
{
    struct waiting_exec *exec = &connection->exec;
    if (!exec->waiting || job_table_awaits_files(jobs, &exec->files_failed))
        return 0;
    if (exec->killed == KILL_NONE && (jobs->killing || !job_table_free_job(jobs)))
        return 0;
    exec->waiting = false;
    jobs->unsettled = true;
    if (exec->killed == KILL_NONE)
        return run_exec(connection, jobs, err);
    const struct sandbox_exit exit = {
        .exit_code = EXIT_KILLED, .cause = exec->killed, .start_error = "ended before its start"};
    send_exit(connection, &exit);
    return 0;
}

static bool is_new_stream(const struct connection *connection, struct job_table *jobs,
                          uint32_t stream)
{
    bool waits = connection->exec.waiting && connection->exec.stream == stream;
    return stream != 0 && stream % STREAM_STEP == 0 && !waits &&
           !job_table_find(jobs, &connection->out, stream) &&
           !held_find_stream(&jobs->held, &connection->out, stream);
}

static int on_exec(struct connection *connection, struct job_table *jobs, const struct frame *frame,
                   struct err *err)
{
    struct waiting_exec *exec = &connection->exec;
    if (exec->waiting || !is_new_stream(connection, jobs, frame->stream))
        return err_set(err, ERR_PROTOCOL, "EXEC on stream %u", frame->stream);
    exec->waiting = true;
    exec->stream = frame->stream;
    exec->killed = KILL_NONE;
    exec->input_closed = false;
    exec->files_failed = connection->file_failed;
    connection->file_failed = false;
    exec->payload.size = exec->input.size = 0;
    job_table_follow_files(jobs, &connection->out, &exec->files_failed);
    int result = buf_append(&exec->payload, frame->payload, frame->size, err);
    return result == 0 ? step_exec(connection, jobs, err) : result;
}

static void kill_waiting(struct connection *connection, struct job_table *jobs,
                         enum kill_cause cause)
{
    if (connection->exec.killed != KILL_NONE)
        return;
    connection->exec.killed = cause;
    job_table_kill_files(jobs, &connection->exec.files_failed, cause);
}

/* ---- files ---- */

static int on_put_file(struct connection *connection, struct job_table *jobs,
                       const struct frame *frame, struct err *err)
{
    struct sandbox_put_file put;
    if (!is_new_stream(connection, jobs, frame->stream))
        return err_set(err, ERR_PROTOCOL, "PUT_FILE on stream %u", frame->stream);
    int result = sandbox_put_file_decode(frame->payload, frame->size, &put, err);
    if (result != 0)
        return result;
    struct job *job = job_table_free_job(jobs); /* there is one: read_frames() looked */
    if (!job)
        return err_set(err, ERR_INTERNAL, "no free job");
    result = job_start_put_file(job, jobs->config, &put, frame->stream, &connection->out, err);
    if (result == 0)
        job->failed = &connection->file_failed;
    return result;
}

static int on_get_file(struct connection *connection, struct job_table *jobs,
                       const struct frame *frame, struct err *err)
{
    struct sandbox_get_file get;
    if (!is_new_stream(connection, jobs, frame->stream))
        return err_set(err, ERR_PROTOCOL, "GET_FILE on stream %u", frame->stream);
    int result = sandbox_get_file_decode(frame->payload, frame->size, &get, err);
    if (result != 0)
        return result;
    struct job *job = job_table_free_job(jobs);
    if (!job)
        return err_set(err, ERR_INTERNAL, "no free job");
    return job_start_get_file(job, jobs->config, &get, frame->stream, &connection->out, err);
}

/* ---- streams ---- */

static int read_cause(const struct frame *frame, enum kill_cause *out, struct err *err)
{
    uint32_t value = 0;
    int result = frame_u32(frame, &value, err);
    if (result == 0 && (value == KILL_NONE || value >= KILL_CAUSE_COUNT))
        result = err_set(err, ERR_PROTOCOL, "kill cause %u", value);
    if (result == 0)
        *out = (enum kill_cause)value;
    return result;
}

/* Into the code of a run, or into standard input. */
static int on_data(struct job *job, struct job_table *jobs, const struct frame *frame,
                   struct err *err)
{
    if (job->kind == JOB_RUN && frame->stream % STREAM_STEP == STREAM_CONTROL)
        return run_feed_code(job, frame->payload, frame->size, err);
    int result = job_feed(job, frame->payload, frame->size, err);
    if (result == 0)
        job_watch_typing(job, jobs, frame->payload, frame->size);
    return result;
}

static void on_close(struct job *job, struct job_table *jobs, const struct frame *frame)
{
    if (job->kind == JOB_RUN && frame->stream % STREAM_STEP == STREAM_CONTROL)
        run_end_code(job, jobs);
    else
        job_feed_end(job);
}

static int on_resize(struct job *job, const struct frame *frame, struct err *err)
{
    uint32_t size = 0;
    int result = frame_u32(frame, &size, err);
    if (result != 0 || !job->terminal)
        return result;
    job->resize = size; /* the terminal may not have come yet */
    if (job->outputs[0].fd >= 0)
        terminal_resize(job->outputs[0].fd, size);
    return 0;
}

static int on_waiting_stream(struct connection *connection, struct job_table *jobs,
                             const struct frame *frame, struct err *err)
{
    struct waiting_exec *exec = &connection->exec;
    enum kill_cause cause = KILL_NONE;
    int result = 0;
    switch (frame->type) {
    case FRAME_DATA:
        if (exec->input_closed || buf_append(&exec->input, frame->payload, frame->size, NULL) != 0)
            return err_set(err, ERR_PROTOCOL, "standard input beyond its credit or end");
        return 0;
    case FRAME_CLOSE:
        exec->input_closed = true;
        return 0;
    case FRAME_KILL:
        result = read_cause(frame, &cause, err);
        if (result == 0)
            kill_waiting(connection, jobs, cause);
        return result;
    case FRAME_INTERRUPT:
        kill_waiting(connection, jobs, KILL_USER); /* nothing is there that could hear it */
        return 0;
    case FRAME_RESIZE:
        return 0;
    default:
        return err_set(err, ERR_PROTOCOL, "frame type %d", (int)frame->type);
    }
}

/* Credit for an execution that ended, whose log is still sent. */
static int on_held_stream(struct job_table *jobs, struct connection *connection,
                          const struct frame *frame, struct err *err)
{
    struct held *held = held_find_stream(&jobs->held, &connection->out, frame->stream);
    return held && frame->type == FRAME_CREDIT ? outlet_take_credit(&held->outlet, frame, err) : 0;
}

/* Frames for a job that ended meanwhile are dropped. */
static int on_stream(struct connection *connection, struct job_table *jobs,
                     const struct frame *frame, struct err *err)
{
    const struct waiting_exec *exec = &connection->exec;
    if (exec->waiting && exec->stream == frame->stream - frame->stream % STREAM_STEP)
        return on_waiting_stream(connection, jobs, frame, err);
    struct job *job = job_table_find(jobs, &connection->out, frame->stream);
    enum kill_cause cause = KILL_NONE;
    int result = 0;
    if (!job)
        return on_held_stream(jobs, connection, frame, err);
    switch (frame->type) {
    case FRAME_DATA:
        return on_data(job, jobs, frame, err);
    case FRAME_CLOSE:
        on_close(job, jobs, frame);
        return 0;
    case FRAME_CREDIT:
        return outlet_take_credit(job->outlet, frame, err);
    case FRAME_KILL:
        result = read_cause(frame, &cause, err);
        if (result == 0)
            job_kill(job, jobs, cause);
        return result;
    case FRAME_INTERRUPT:
        job_interrupt(job, jobs);
        return 0;
    case FRAME_RESIZE:
        return on_resize(job, frame, err);
    default:
        return err_set(err, ERR_PROTOCOL, "frame type %d", (int)frame->type);
    }
}

/* From here on it gets what the code connects to; DONE comes before the first of it. */
static int on_egress(struct connection *connection, struct job_table *jobs,
                     const struct frame *frame, struct err *err)
{
    if (connection->said_egress || !is_new_stream(connection, jobs, frame->stream))
        return err_set(err, ERR_PROTOCOL, "EGRESS on stream %u", frame->stream);
    struct outlet outlet;
    outlet_open(&outlet, &connection->out, frame->stream);
    outlet_send_done(&outlet, 0, 0);
    connection->said_egress = true;
    network_give(&jobs->network, connection->fd, &connection->out, frame->stream);
    return 0;
}

static int on_frame(struct connection *connection, struct job_table *jobs,
                    const struct frame *frame, struct err *err)
{
    if (!connection->greeted && frame->type != FRAME_HELLO)
        return err_set(err, ERR_PROTOCOL, "the first frame is no hello");
    if (connection->only_egress && frame->type != FRAME_EGRESS)
        return err_set(err, ERR_PROTOCOL, "frame type %d from the way out", (int)frame->type);
    switch (frame->type) {
    case FRAME_HELLO:
        return on_hello(connection, jobs, frame, err);
    case FRAME_EXEC:
        return on_exec(connection, jobs, frame, err);
    case FRAME_PUT_FILE:
        return on_put_file(connection, jobs, frame, err);
    case FRAME_GET_FILE:
        return on_get_file(connection, jobs, frame, err);
    case FRAME_EGRESS:
        return on_egress(connection, jobs, frame, err);
    case FRAME_PING:
        connection->file_failed = false;
        return frame_append(&connection->out, FRAME_PONG, frame->stream, NULL, 0, err);
    default:
        break;
    }
    if (!session_begins(frame->type))
        return on_stream(connection, jobs, frame, err);
    if (!is_new_stream(connection, jobs, frame->stream))
        return err_set(err, ERR_PROTOCOL, "frame type %d on stream %u", (int)frame->type,
                       frame->stream);
    return session_begin(jobs, &connection->out, &connection->file_failed, frame, err);
}

/* Takes frames while there is a free job for what they may start. */
static int read_frames(struct connection *connection, struct job_table *jobs, struct err *err)
{
    while (job_table_free_job(jobs)) {
        struct frame frame;
        int result = frame_decoder_next(&connection->decoder, &frame, err);
        if (result == 0)
            return 0;
        jobs->unsettled = true;
        if (result > 0)
            result = on_frame(connection, jobs, &frame, err);
        if (result < 0)
            return result;
    }
    return 0;
}

bool connection_may_read(const struct connection *connection, struct job_table *jobs)
{
    return connection->fd >= 0 && job_table_free_job(jobs) && connection->out.size < OUT_MAX / 2;
}

int connection_read(struct connection *connection, struct job_table *jobs, struct err *err)
{
    int got = frame_decoder_read(&connection->decoder, connection->fd, err);
    if (got == 0)
        return err_set(err, ERR_CLOSED, "the server closed");
    if (got == -ERR_UNAVAILABLE)
        return 0;
    return got < 0 ? got : read_frames(connection, jobs, err);
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

int connection_step(struct connection *connection, struct job_table *jobs, struct err *err)
{
    int result = step_exec(connection, jobs, err);
    if (result == 0)
        result = read_frames(connection, jobs, err);
    if (result == 0)
        result = connection_write(connection, err);
    return result;
}
