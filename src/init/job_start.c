/* Owns the forking of a job's child. */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/fd.h"
#include "init/child.h"
#include "init/file.h"
#include "init/job_table.h"

enum { ALL_PIPES = PIPES_STDIN | PIPES_STDOUT | PIPES_STDERR | PIPES_STATUS };

void job_begin(struct job *job, enum job_kind kind, struct buf *out, uint32_t stream)
{
    job_init(job);
    job->kind = kind;
    outlet_open(&job->own, out, stream);
    buf_init(&job->stdin_queue, FRAME_WINDOW + 1); /* and the end of a terminal's */
    job->deadline_ns = INT64_MAX;
    job->keep_bytes = UINT64_MAX;
    job->output_max_bytes = UINT64_MAX;
    job->run.grace_ns = INT64_MAX;
    job->started_ns = clock_now_ns();
}

void job_begin_usage(struct job *job, const struct init_config *config)
{
    group_read_base(config, &job->base);
    /* A container's group of v1 has a counter, but no event that init may ask for. */
    if (config->carried && config->cgroup_mode == INIT_CGROUP_V1)
        job->oom_watch_ns = INT64_MAX;
}

void job_say_started(struct job *job)
{
    struct held *held = job->held;
    if (held) /* who attaches later hears of it at once */
        held->begun = held->started = held->said_started = true;
    outlet_owe_started(job->outlet, job->started_ns);
    if (job->terminal) /* its other side waits to type */
        outlet_step(job->outlet, INT64_MAX);
}

void job_take_pipes(struct job *job, struct pipes *pipes)
{
    job->stdin_fd = fd_take(&pipes->ours[0]);
    job->outputs[0].fd = fd_take(&pipes->ours[1]);
    job->outputs[1].fd = fd_take(&pipes->ours[2]);
    job->status_fd = fd_take(&pipes->status[0]);
}

/* Forks the program; ends[] is the socket over which its terminal comes, if it gets one. */
static int fork_exec(struct job *job, const struct init_config *config,
                     const struct sandbox_exec *exec, const struct pipes *pipes, int terminal_fd,
                     struct err *err)
{
    fault_point("init.exec");
    job_begin_usage(job, config);
    pid_t pid = group_fork(config);
    if (pid < 0)
        return err_sys(err, errno, "fork");
    if (pid == 0) {
        struct child_pipes ends = CHILD_PIPES_NONE;
        ends.stdin_fd = pipes->child[0];
        ends.stdout_fd = pipes->child[1];
        ends.stderr_fd = pipes->child[2];
        ends.status_fd = pipes->status[1];
        ends.terminal_fd = terminal_fd;
        ends.terminal = exec->terminal;
        child_exec(config, exec, &ends);
    }
    job->pid = job->session = pid;
    return 0;
}

static int start_child(struct job *job, const struct init_config *config,
                       const struct sandbox_exec *exec, struct err *err)
{
    PIPES_AUTO struct pipes pipes = PIPES_INIT;
    FD_AUTO int ours = -1;
    FD_AUTO int theirs = -1;
    int ends[2] = {-1, -1};
    if (exec->terminal != 0 && socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
        return err_sys(err, errno, "socketpair");
    ours = ends[0];
    theirs = ends[1];
    int result = pipes_make(&pipes, exec->terminal != 0 ? PIPES_STATUS : ALL_PIPES, err);
    if (result == 0)
        result = fork_exec(job, config, exec, &pipes, theirs, err);
    if (result != 0)
        return result;
    job_take_pipes(job, &pipes);
    job->terminal = exec->terminal != 0;
    job->terminal_fd = fd_take(&ours);
    return 0;
}

int job_start_exec(struct job *job, struct job_table *table, const struct sandbox_exec *exec,
                   uint32_t stream, struct buf *out, struct err *err)
{
    const char *why = NULL;
    struct held *held = NULL;
    if (exec->hold) {
        held = held_open(&table->held, exec->execution_id, out, stream, &why);
        if (!held)
            return err_set(err, ERR_QUOTA, "%s", why);
    }
    job_begin(job, JOB_EXEC, out, stream);
    int result = start_child(job, table->config, exec, err);
    if (result != 0) {
        if (held)
            held_close(&table->held, held);
        job_clear(job);
        return result;
    }
    job->keep_bytes = exec->keep_bytes;
    job->output_max_bytes = exec->output_max_bytes;
    if (exec->timeout_ms > 0 && exec->timeout_ms < UINT64_C(1) << 40)
        job->deadline_ns = job->started_ns + (int64_t)exec->timeout_ms * CLOCK_NS_PER_MS;
    if (held) {
        job->held = held;
        job->outlet = &held->outlet;
    }
    job_say_started(job);
    if (job->terminal && !held)
        outlet_send(job->outlet, FRAME_CLOSE, STREAM_STDERR, NULL, 0);
    job->outputs[1].closed = job->terminal;
    return 0;
}

/* What the child of a file job is to do. It does not return. */
struct file_work {
    const struct sandbox_put_file *put; /* one of the two */
    const struct sandbox_get_file *get;
};

/* The child works on a file, and is spared by the kills of an execution (group.h). */
static int start_file(struct job *job, const struct init_config *config, enum job_kind kind,
                      const struct file_work *work, uint32_t stream, struct buf *out,
                      struct err *err)
{
    PIPES_AUTO struct pipes pipes = PIPES_INIT;
    int result = pipes_make(&pipes, kind == JOB_PUT_FILE ? PIPES_STDIN : PIPES_STDOUT, err);
    if (result != 0)
        return result;
    pid_t pid = group_fork(config);
    if (pid < 0)
        return err_sys(err, errno, "fork");
    if (pid == 0) {
        struct child_pipes ends = CHILD_PIPES_NONE;
        ends.stdin_fd = pipes.child[0];
        ends.stdout_fd = pipes.child[1];
        if (work->put)
            file_put(config, work->put, &ends);
        file_get(config, work->get, &ends);
    }
    job_begin(job, kind, out, stream);
    job_take_pipes(job, &pipes);
    job->pid = pid;
    group_spare(pid);
    return 0;
}

int job_start_put_file(struct job *job, const struct init_config *config,
                       const struct sandbox_put_file *put, uint32_t stream, struct buf *out,
                       struct err *err)
{
    const struct file_work work = {.put = put};
    return start_file(job, config, JOB_PUT_FILE, &work, stream, out, err);
}

int job_start_get_file(struct job *job, const struct init_config *config,
                       const struct sandbox_get_file *get, uint32_t stream, struct buf *out,
                       struct err *err)
{
    const struct file_work work = {.get = get};
    int result = start_file(job, config, JOB_GET_FILE, &work, stream, out, err);
    if (result == 0)
        job->stdin_closed_by_peer = true; /* it has none */
    return result;
}
