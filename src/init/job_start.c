/* Owns the forking of a job's child and the pipes between the two. */
#include "init/job.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/fd.h"
#include "init/child.h"
#include "init/file.h"

/* A job's pipe ends; the child's side is closed in the parent once it runs. */
struct pipe_set {
    int child[3];
    int ours[3];
    int status[2];
};

#define PIPE_SET_AUTO __attribute__((cleanup(pipe_set_done)))
#define PIPE_SET_INIT                                                                              \
    {                                                                                              \
        {-1, -1, -1}, {-1, -1, -1},                                                                \
        {                                                                                          \
            -1, -1                                                                                 \
        }                                                                                          \
    }

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

/* The pipes that this kind of job has. */
static int pipe_set_make(struct pipe_set *set, enum job_kind kind, struct err *err)
{
    int result = 0;
    if (kind != JOB_GET_FILE)
        result = make_pipe(&set->child[0], &set->ours[0], &set->ours[0], err);
    if (result == 0 && kind != JOB_PUT_FILE)
        result = make_pipe(&set->ours[1], &set->child[1], &set->ours[1], err);
    if (result == 0 && kind == JOB_EXEC)
        result = make_pipe(&set->ours[2], &set->child[2], &set->ours[2], err);
    if (result == 0 && kind == JOB_EXEC)
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
    PIPE_SET_AUTO struct pipe_set set = PIPE_SET_INIT;
    int result = pipe_set_make(&set, JOB_EXEC, err);
    if (result != 0)
        return result;
    struct group_usage base;
    group_read(config, &base);
    fault_point("init.exec");
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
    PIPE_SET_AUTO struct pipe_set set = PIPE_SET_INIT;
    int result = pipe_set_make(&set, kind, err);
    if (result != 0)
        return result;
    pid_t pid = group_fork(config);
    if (pid < 0)
        return err_sys(err, errno, "fork");
    if (pid == 0) {
        const struct child_pipes pipes = {set.child[0], set.child[1], -1, -1};
        if (work->put)
            file_put(config, work->put, &pipes);
        file_get(config, work->get, &pipes);
    }
    job_begin(job, kind, stream, out, &set);
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
