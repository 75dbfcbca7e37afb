/* Owns the life of one job from fork to its last frame. Never blocks. */
#include "init/job.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/mem.h"
#include "init/child.h"

#define KILL_RETRY_NS (2 * CLOCK_NS_PER_MS)
#define OOM_POLL_NS (2 * CLOCK_NS_PER_MS)
#define OUT_HIGH_WATER (256U * 1024U) /* past it the job waits for the connection to drain */
#define CREDIT_STEP (64U * 1024U)     /* credit is given back in pieces of at least this */
#define READ_STEP FRAME_DATA_MAX

enum { SIGNAL_BASE = 128 }; /* death by signal n is exit code 128 + n, as in a shell */

void job_table_init(struct job *jobs, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        memset(&jobs[i], 0, sizeof(jobs[i]));
        jobs[i].stdin_fd = jobs[i].status_fd = -1;
        jobs[i].outputs[0].fd = jobs[i].outputs[1].fd = -1;
        jobs[i].pid = -1;
    }
}

static void job_clear(struct job *job)
{
    fd_close(&job->stdin_fd);
    fd_close(&job->status_fd);
    fd_close(&job->outputs[0].fd);
    fd_close(&job->outputs[1].fd);
    buf_done(&job->stdin_queue);
    job_table_init(job, 1);
}

/* A job's pipe ends; the child's side is closed in the parent once it runs. */
struct pipe_set {
    int child[3];
    int ours[3];
    int status[2];
};

static void pipe_set_done(struct pipe_set *set)
{
    for (int i = 0; i < 3; i++) {
        fd_close(&set->child[i]);
        fd_close(&set->ours[i]);
    }
    fd_close(&set->status[0]);
    fd_close(&set->status[1]);
}

static int make_pipe(int *read_end, int *write_end, int *ours, struct err *err)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0)
        return err_sys(err, errno, "pipe");
    *read_end = ends[0];
    *write_end = ends[1];
    /* The pipe is init's, and the code may open it again by name: /dev/stdout, /proc/self/fd/1. */
    if (fchmod(ends[0], 0666) != 0)
        return err_sys(err, errno, "mode of a pipe");
    return fd_set_nonblocking(*ours, true, err);
}

static int pipe_set_make(struct pipe_set *set, bool outputs, struct err *err)
{
    int result = make_pipe(&set->child[0], &set->ours[0], &set->ours[0], err);
    if (result == 0 && outputs)
        result = make_pipe(&set->ours[1], &set->child[1], &set->ours[1], err);
    if (result == 0 && outputs)
        result = make_pipe(&set->ours[2], &set->child[2], &set->ours[2], err);
    if (result == 0 && outputs)
        result = make_pipe(&set->status[0], &set->status[1], &set->status[0], err);
    return result;
}

static void job_begin(struct job *job, enum job_kind kind, uint32_t stream, struct buf *out,
                      struct pipe_set *set)
{
    job->kind = kind;
    job->stream = stream;
    job->out = out;
    job->stdin_fd = fd_take(&set->ours[0]);
    job->outputs[0] = (struct job_output){.fd = fd_take(&set->ours[1]), .credit = FRAME_WINDOW};
    job->outputs[1] = (struct job_output){.fd = fd_take(&set->ours[2]), .credit = FRAME_WINDOW};
    job->status_fd = fd_take(&set->status[0]);
    buf_init(&job->stdin_queue, FRAME_WINDOW);
    job->deadline_ns = INT64_MAX;
    job->keep_bytes = UINT64_MAX;
    job->output_max_bytes = UINT64_MAX;
    job->started_ns = clock_now_ns();
}

int job_start_exec(struct job *job, const struct init_config *config,
                   const struct sandbox_exec *exec, uint32_t stream, struct buf *out,
                   struct err *err)
{
    struct pipe_set set
        __attribute__((cleanup(pipe_set_done))) = {{-1, -1, -1}, {-1, -1, -1}, {-1, -1}};
    int result = pipe_set_make(&set, true, err);
    if (result != 0)
        return result;
    struct group_usage base;
    group_read(config, &base);
    pid_t pid = group_fork(config);
    if (pid < 0)
        return err_sys(err, errno, "fork");
    if (pid == 0) {
        const struct child_pipes pipes = {set.child[0], set.child[1], set.child[2], set.status[1]};
        child_exec(config, exec, &pipes);
    }
    job_begin(job, JOB_EXEC, stream, out, &set);
    job->pid = pid;
    job->base = base;
    job->keep_bytes = exec->keep_bytes;
    job->output_max_bytes = exec->output_max_bytes;
    if (exec->timeout_ms > 0 && exec->timeout_ms < UINT64_C(1) << 40)
        job->deadline_ns = job->started_ns + (int64_t)exec->timeout_ms * CLOCK_NS_PER_MS;
    return frame_append(out, FRAME_STARTED, stream, NULL, 0, err);
}

int job_start_put_file(struct job *job, const struct init_config *config,
                       const struct sandbox_put_file *put, uint32_t stream, struct buf *out,
                       struct err *err)
{
    struct pipe_set set
        __attribute__((cleanup(pipe_set_done))) = {{-1, -1, -1}, {-1, -1, -1}, {-1, -1}};
    int result = pipe_set_make(&set, false, err);
    if (result != 0)
        return result;
    pid_t pid = group_fork(config);
    if (pid < 0)
        return err_sys(err, errno, "fork");
    if (pid == 0) {
        const struct child_pipes pipes = {set.child[0], -1, -1, -1};
        child_put_file(config, put, &pipes);
    }
    job_begin(job, JOB_PUT_FILE, stream, out, &set);
    job->pid = pid;
    return 0;
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
        fd_close(&output->fd);
        uint32_t stream = job->stream + STREAM_STDOUT + (uint32_t)index;
        if (job->out)
            (void)frame_append(job->out, FRAME_CLOSE, stream, NULL, 0, NULL);
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
    if (job->kind == JOB_PUT_FILE) {
        if (job->pid > 0)
            (void)kill(job->pid, SIGKILL);
        return;
    }
    if (job->cause == KILL_NONE && job->pid > 0)
        job->cause = cause;
    if (job->killing)
        return;
    job->killing = true;
    group_kill(config);
    job->next_kill_ns = clock_now_ns() + KILL_RETRY_NS;
}

bool job_reaped(struct job *job, pid_t pid, int wait_status, const struct rusage *rusage)
{
    if (job->kind == JOB_FREE || job->pid != pid)
        return false;
    job->pid = -1;
    job->wait_status = wait_status;
    job->rusage = *rusage;
    job->ended_ns = clock_now_ns();
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
    if (job->pid < 0 && !job->killing && group_is_empty(config)) {
        job->group_empty = true;
        return;
    }
    if (job->pid < 0)
        job_kill(job, config, KILL_NONE);
    if (!job->killing)
        return;
    if (group_is_empty(config)) {
        job->group_empty = true;
    } else if (now_ns >= job->next_kill_ns) {
        group_kill(config);
        job->next_kill_ns = now_ns + KILL_RETRY_NS;
    }
}

static uint32_t limits_hit(const struct job *job, const struct group_usage *used,
                           const struct sandbox_exit *exit)
{
    uint32_t hit = 0;
    if (used->oom_kills > job->base.oom_kills)
        hit |= LIMIT_MEMORY;
    if (used->pids_refused > job->base.pids_refused)
        hit |= LIMIT_PIDS;
    /* Short waits for the quota are how it works; a tenth of the time is a limit that was felt. */
    if ((used->throttled_us - job->base.throttled_us) * 10 > exit->wall_us)
        hit |= LIMIT_CPU;
    if (job->outputs[0].total > job->keep_bytes || job->outputs[1].total > job->keep_bytes ||
        job->cause == KILL_OUTPUT)
        hit |= LIMIT_OUTPUT;
    struct statvfs root;
    if (statvfs("/", &root) == 0 && root.f_blocks > 0) {
        if (root.f_bavail == 0)
            hit |= LIMIT_DISK;
        if (root.f_files > 0 && root.f_ffree == 0)
            hit |= LIMIT_FILES;
    }
    return hit;
}

/* The cause as the kernel and we know it; what the code says of itself plays no part. */
static void settle_cause(struct job *job, const struct group_usage *used)
{
    if (job->cause != KILL_NONE || !WIFSIGNALED(job->wait_status))
        return;
    if (WTERMSIG(job->wait_status) == SIGKILL && used->oom_kills > job->base.oom_kills)
        job->cause = KILL_OOM;
    else
        job->cause = KILL_SIGNAL;
}

static void fill_exit(struct job *job, const struct init_config *config, struct sandbox_exit *exit)
{
    struct group_usage used;
    group_read(config, &used);
    settle_cause(job, &used);
    memset(exit, 0, sizeof(*exit));
    exit->exit_code = WIFSIGNALED(job->wait_status)
                          ? (uint32_t)(SIGNAL_BASE + WTERMSIG(job->wait_status))
                          : (uint32_t)WEXITSTATUS(job->wait_status);
    exit->cause = job->cause;
    /* A program that ended by itself while we were killing it still was ended by us. */
    if (job->cause != KILL_NONE && !WIFSIGNALED(job->wait_status) && job->killing)
        exit->exit_code = SIGNAL_BASE + SIGKILL;
    exit->wall_us = (uint64_t)((job->ended_ns - job->started_ns) / 1000);
    exit->cpu_us = used.cpu_us - job->base.cpu_us;
    if (config->cgroup_mode == INIT_CGROUP_NONE)
        exit->cpu_us =
            (uint64_t)(job->rusage.ru_utime.tv_sec + job->rusage.ru_stime.tv_sec) * 1000000 +
            (uint64_t)(job->rusage.ru_utime.tv_usec + job->rusage.ru_stime.tv_usec);
    exit->max_rss_bytes = (uint64_t)job->rusage.ru_maxrss * 1024;
    exit->memory_peak_bytes = used.memory_peak_bytes;
    exit->pids_peak = used.pids_peak;
    exit->stdout_bytes = job->outputs[0].total;
    exit->stderr_bytes = job->outputs[1].total;
    exit->limits_hit = limits_hit(job, &used, exit);
    exit->start_error = job->start_error[0] != '\0' ? job->start_error + 1 : "";
}

static void finish_exec(struct job *job, const struct init_config *config)
{
    struct sandbox_exit exit;
    fill_exit(job, config, &exit);
    if (job->killing)
        group_reopen(config);
    BUF_AUTO struct buf payload;
    buf_init(&payload, FRAME_PAYLOAD_MAX);
    if (job->out && sandbox_exit_encode(&exit, &payload, NULL) == 0)
        (void)frame_append(job->out, FRAME_EXIT, job->stream, payload.data, payload.size, NULL);
}

static void finish_put_file(struct job *job)
{
    struct sandbox_done done = {.size_bytes = job->stdin_total};
    done.sys_errno = WIFEXITED(job->wait_status) ? WEXITSTATUS(job->wait_status) : EIO;
    BUF_AUTO struct buf payload;
    buf_init(&payload, FRAME_PAYLOAD_MAX);
    if (job->out && sandbox_done_encode(&done, &payload, NULL) == 0)
        (void)frame_append(job->out, FRAME_DONE, job->stream, payload.data, payload.size, NULL);
}

bool job_step(struct job *job, const struct init_config *config)
{
    if (job->kind == JOB_FREE)
        return false;
    step_input(job);
    if (job->kind == JOB_PUT_FILE) {
        if (job->pid > 0 || !job->stdin_closed_by_peer)
            return false;
        finish_put_file(job);
        job_clear(job);
        return true;
    }
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
    finish_exec(job, config);
    job_clear(job);
    return true;
}

int64_t job_wakeup_ns(const struct job *job)
{
    if (job->kind != JOB_EXEC)
        return INT64_MAX;
    int64_t wakeup = job->pid > 0 && !job->killing ? job->deadline_ns : INT64_MAX;
    if (job->killing && !job->group_empty && job->next_kill_ns < wakeup)
        wakeup = job->next_kill_ns;
    if (job->oom_watch_ns != 0) {
        int64_t poll = clock_now_ns() + OOM_POLL_NS;
        wakeup = poll < wakeup ? poll : wakeup;
    }
    return wakeup;
}
