/* Owns the life of one job while it runs: its bytes, its kill. Never blocks. */
#include "init/job.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "init/job_end.h"

#define KILL_RETRY_NS (2 * CLOCK_NS_PER_MS)
#define OOM_POLL_NS (2 * CLOCK_NS_PER_MS)
#define OUT_HIGH_WATER (256U * 1024U) /* past it the job waits for the connection to drain */
#define CREDIT_STEP (64U * 1024U)     /* credit is given back in pieces of at least this */
#define READ_STEP FRAME_DATA_MAX
#define FILE_IDLE_MS 30000 /* without one byte, while the child could move some */
#define FILE_IDLE_MAX_MS (UINT64_C(1) << 40)

void job_init(struct job *job)
{
    memset(job, 0, sizeof(*job));
    job->stdin_fd = job->status_fd = -1;
    job->outputs[0].fd = job->outputs[1].fd = -1;
    job->pid = -1;
}

static void job_clear(struct job *job)
{
    fd_close(&job->stdin_fd);
    fd_close(&job->status_fd);
    fd_close(&job->outputs[0].fd);
    fd_close(&job->outputs[1].fd);
    buf_done(&job->stdin_queue);
    job_init(job);
}

/* ---- input ---- */

int job_feed(struct job *job, const void *data, size_t size, struct err *err)
{
    if (job->stdin_closed_by_peer)
        return err_set(err, ERR_PROTOCOL, "bytes after the end of standard input");
    if (buf_append(&job->stdin_queue, data, size, NULL) != 0)
        return err_set(err, ERR_PROTOCOL, "standard input beyond its credit");
    return 0;
}

static void give_credit(struct job *job, uint32_t size)
{
    job->stdin_consumed += size;
    if (job->stdin_consumed < CREDIT_STEP || job->stdin_closed_by_peer || !job->out)
        return;
    uint32_t stream = job->kind == JOB_EXEC ? job->stream + STREAM_STDIN : job->stream;
    if (frame_append_u32(job->out, FRAME_CREDIT, stream, job->stdin_consumed, NULL) == 0)
        job->stdin_consumed = 0;
}

static void step_input(struct job *job)
{
    while (job->stdin_queue.size > 0) {
        size_t size = job->stdin_queue.size;
        if (job->stdin_fd >= 0) {
            ssize_t written = write(job->stdin_fd, job->stdin_queue.data, size);
            if (written < 0 && (errno == EAGAIN || errno == EINTR))
                return;
            if (written < 0)
                fd_close(&job->stdin_fd); /* nobody reads: drop what comes, the code may be right */
            else
                size = (size_t)written;
            job->stdin_total += written > 0 ? (uint64_t)written : 0;
        }
        buf_consume(&job->stdin_queue, size);
        give_credit(job, (uint32_t)size);
    }
    if (job->stdin_closed_by_peer)
        fd_close(&job->stdin_fd);
}

void job_feed_end(struct job *job)
{
    job->stdin_closed_by_peer = true;
    step_input(job); /* with nothing queued no event would come to do it */
}

/* ---- output ---- */

bool job_wants_output(const struct job *job, int index)
{
    const struct job_output *output = &job->outputs[index];
    if (output->fd < 0)
        return false;
    if (!job->out || output->sent >= job->keep_bytes)
        return true; /* read and dropped: the code goes on */
    return output->credit > 0 && job->out->size < OUT_HIGH_WATER;
}

static void send_output(struct job *job, int index, const uint8_t *data, size_t size)
{
    struct job_output *output = &job->outputs[index];
    output->total += size;
    uint64_t keep = job->keep_bytes - output->sent;
    size_t wanted = size < keep ? size : (size_t)keep;
    if (!job->out || wanted == 0)
        return;
    uint32_t stream = job->stream + STREAM_STDOUT + (uint32_t)index;
    if (frame_append(job->out, FRAME_DATA, stream, data, wanted, NULL) != 0)
        return;
    output->sent += wanted;
    output->credit -= (uint32_t)wanted;
}

static void end_output(struct job *job, int index)
{
    fd_close(&job->outputs[index].fd);
    uint32_t stream = job->stream + STREAM_STDOUT + (uint32_t)index;
    if (job->out)
        (void)frame_append(job->out, FRAME_CLOSE, stream, NULL, 0, NULL);
}

/* Reads one piece; false when nothing more can be read now. */
static bool read_output(struct job *job, int index)
{
    struct job_output *output = &job->outputs[index];
    uint8_t chunk[READ_STEP];
    size_t size = sizeof(chunk);
    if (output->sent < job->keep_bytes && output->credit < size)
        size = output->credit;
    ssize_t got = read(output->fd, chunk, size);
    if (got < 0)
        return errno == EINTR;
    if (got == 0) {
        end_output(job, index);
        return false;
    }
    send_output(job, index, chunk, (size_t)got);
    return true;
}

/* Both streams in turn, a piece each, so that their order is kept as well as two pipes can tell. */
static void step_output(struct job *job, const struct init_config *config)
{
    bool more = true;
    for (int round = 0; more && round < 16; round++) {
        more = false;
        for (int i = 0; i < 2; i++) {
            if (job_wants_output(job, i))
                more |= read_output(job, i);
        }
        if (job->outputs[0].total + job->outputs[1].total > job->output_max_bytes)
            job_kill(job, config, KILL_OUTPUT);
    }
}

/* ---- the end ---- */

void job_kill(struct job *job, const struct init_config *config, enum kill_cause cause)
{
    if (job->cause == KILL_NONE && job->pid > 0)
        job->cause = cause;
    if (job->killing)
        return;
    /* By its number too: a child that was just forked is not in the group yet. */
    if (job->pid > 0)
        (void)kill(job->pid, SIGKILL);
    if (job->kind != JOB_EXEC) {
        if (job->outputs[0].fd >= 0) /* no credit may ever come for the rest */
            end_output(job, 0);
        return;
    }
    job->killing = true;
    group_kill(config);
    job->next_kill_ns = clock_now_ns() + KILL_RETRY_NS;
}

bool job_reaped(struct job *job, pid_t pid, int wait_status, const struct rusage *rusage)
{
    if (job->kind == JOB_FREE || job->pid != pid)
        return false;
    group_unspare(pid);
    job->pid = -1;
    job->wait_status = wait_status;
    job->rusage = *rusage;
    job->ended_ns = clock_now_ns();
    bool well = WIFEXITED(wait_status) && WEXITSTATUS(wait_status) == 0;
    if (job->failed && !well)
        *job->failed = true;
    return true;
}

static void step_oom(struct job *job, const struct init_config *config, int64_t now_ns)
{
    if (job->oom_watch_ns == 0)
        return;
    if (group_oom_kills(config) > job->base.oom_kills) {
        job->oom_watch_ns = 0;
        job_kill(job, config, KILL_OOM);
    } else if (now_ns >= job->oom_watch_ns) {
        job->oom_watch_ns = 0;
    }
}

static void step_status(struct job *job)
{
    if (job->status_fd < 0)
        return;
    ssize_t got = read(job->status_fd, job->start_error, sizeof(job->start_error) - 1);
    if (got < 0)
        return;
    job->start_error[got] = '\0';
    fd_close(&job->status_fd);
}

/* After the first process ended, everything it left behind ends too. */
static void step_kill(struct job *job, const struct init_config *config, int64_t now_ns)
{
    if (job->pid > 0 && !job->killing)
        return;
    job->group_empty = group_is_empty(config);
    if (job->group_empty)
        return;
    if (!job->killing) {
        job_kill(job, config, KILL_NONE);
    } else if (now_ns >= job->next_kill_ns) {
        group_kill(config);
        job->next_kill_ns = now_ns + KILL_RETRY_NS;
    }
}

/* Whether it is the child's turn, and not the server's to send or to take bytes. */
static bool waits_for_child(const struct job *job)
{
    if (job->pid < 0 || job->cause != KILL_NONE)
        return false;
    if (job->kind == JOB_PUT_FILE)
        return job->stdin_queue.size > 0 || job->stdin_closed_by_peer;
    return job->outputs[0].fd < 0 || job_wants_output(job, 0);
}

/* The child has the code's ids: code of its own user may stop it, and nobody else would notice. */
static void step_file_deadline(struct job *job, const struct init_config *config)
{
    if (!waits_for_child(job)) {
        job->deadline_ns = INT64_MAX;
        return;
    }
    int64_t now_ns = clock_now_ns();
    uint64_t moved = job->stdin_total + job->outputs[0].total;
    if (job->deadline_ns == INT64_MAX || moved != job->moved) {
        uint64_t idle_ms = config->file_idle_ms;
        if (idle_ms == 0 || idle_ms > FILE_IDLE_MAX_MS)
            idle_ms = FILE_IDLE_MS;
        job->moved = moved;
        job->deadline_ns = now_ns + (int64_t)idle_ms * CLOCK_NS_PER_MS;
    } else if (now_ns >= job->deadline_ns) {
        job->deadline_ns = INT64_MAX;
        job_kill(job, config, KILL_TIMEOUT);
    }
}

static bool step_file(struct job *job, const struct init_config *config)
{
    step_output(job, config);
    step_file_deadline(job, config);
    bool input_over = job->stdin_closed_by_peer || job->cause != KILL_NONE;
    if (job->pid > 0 || !input_over || job->outputs[0].fd >= 0)
        return false;
    job_end_file(job);
    job_clear(job);
    return true;
}

bool job_step(struct job *job, const struct init_config *config)
{
    if (job->kind == JOB_FREE)
        return false;
    step_input(job);
    if (job->kind != JOB_EXEC)
        return step_file(job, config);
    int64_t now_ns = clock_now_ns();
    if (now_ns >= job->deadline_ns && job->pid > 0)
        job_kill(job, config, KILL_TIMEOUT);
    step_oom(job, config, now_ns);
    step_status(job);
    step_output(job, config);
    step_kill(job, config, now_ns);
    if (!job->group_empty || job->pid > 0)
        return false;
    step_status(job);
    step_output(job, config); /* what was still in the pipes when the last writer died */
    if (job->outputs[0].fd >= 0 || job->outputs[1].fd >= 0)
        return false;
    job_end_exec(job, config);
    job_clear(job);
    return true;
}

int64_t job_wakeup_ns(const struct job *job)
{
    if (job->kind != JOB_EXEC)
        return job->kind == JOB_FREE ? INT64_MAX : job->deadline_ns;
    int64_t wakeup = job->pid > 0 && !job->killing ? job->deadline_ns : INT64_MAX;
    if (job->killing && !job->group_empty && job->next_kill_ns < wakeup)
        wakeup = job->next_kill_ns;
    if (job->oom_watch_ns != 0) {
        int64_t poll = clock_now_ns() + OOM_POLL_NS;
        wakeup = poll < wakeup ? poll : wakeup;
    }
    return wakeup;
}
