/* Owns what is said of a job when it is over. */
#include "init/job_end.h"

#include <errno.h>
#include <linux/magic.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/vfs.h>
#include <sys/wait.h>

#include "base/fault.h"
#include "init/job_table.h"

#define FOLIO_MAX_BYTES (UINT64_C(2) << 20)

enum { SIGNAL_BASE = 128 }; /* death by signal n is exit code 128 + n, as in a shell */

/* A filesystem in memory fills to its last page. ext4 refuses a write for which it can't reserve
 * all of a folio, so up to a folio is left: 1.6 MB were seen after a dd of large blocks. */
static bool is_full(const struct statfs *root)
{
    if ((unsigned long)root->f_type == TMPFS_MAGIC)
        return root->f_bavail == 0;
    uint64_t folio = FOLIO_MAX_BYTES / (uint64_t)root->f_bsize;
    uint64_t part = root->f_blocks / 32; /* of small ones: a folio may be a good part of them */
    return root->f_bavail < (folio < part ? folio : part);
}

static bool is_cut(const struct job *job, int index)
{
    return job->outputs[index].full || job->outputs[index].total > job->keep_bytes;
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
    if (is_cut(job, 0) || is_cut(job, 1) || job->run.messages_dropped || job->cause == KILL_OUTPUT)
        hit |= LIMIT_OUTPUT;
    struct statfs root;
    if (statfs("/", &root) == 0 && root.f_blocks > 0) {
        if (is_full(&root))
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

/* By the wait status of the first process, or of the kernel. */
static uint32_t exit_code_of(const struct job *job)
{
    if (WIFSIGNALED(job->wait_status))
        return (uint32_t)(SIGNAL_BASE + WTERMSIG(job->wait_status));
    /* A program that ended by itself while we were killing it still was ended by us. */
    if (job->cause != KILL_NONE && job->killing)
        return SIGNAL_BASE + SIGKILL;
    return (uint32_t)WEXITSTATUS(job->wait_status);
}

/* What is the same for a program and for a run. Time is what was used since its start. The peaks of
 * memory and processes are those of the group since it was made, with the start of the kernel:
 * setting them back takes the engine's right to write there. */
static void fill_exit(struct job *job, const struct init_config *config,
                      const struct group_usage *used, struct sandbox_exit *exit)
{
    memset(exit, 0, sizeof(*exit));
    exit->cause = job->cause;
    exit->wall_us = (uint64_t)((job->ended_ns - job->started_ns) / 1000);
    exit->cpu_us = used->cpu_us - job->base.cpu_us;
    if (config->cgroup_mode == INIT_CGROUP_NONE)
        exit->cpu_us = group_cpu_us(&job->rusage) - job->base.cpu_us;
    exit->max_rss_bytes = (uint64_t)job->rusage.ru_maxrss * 1024;
    exit->memory_peak_bytes = used->memory_peak_bytes;
    exit->pids_peak = used->pids_peak;
    exit->stdout_bytes = job->outputs[0].total;
    exit->stderr_bytes = job->outputs[1].total;
    exit->message_bytes = job->run.message_bytes;
    exit->messages_dropped = job->run.messages_dropped;
    exit->limits_hit = limits_hit(job, used, exit);
    exit->start_error = job->start_error[0] != '\0' ? job->start_error + 1 : "";
}

void job_end_output(struct job *job, int index)
{
    struct job_output *output = &job->outputs[index];
    if (!output->closed && !job->held) /* the log says it of a held one */
        outlet_send(job->outlet, FRAME_CLOSE, (enum frame_stream)(STREAM_STDOUT + index), NULL, 0);
    output->closed = true;
}

/* The log of a held one says it to whoever is attached. */
static void say_exit(struct job *job, const struct sandbox_exit *exit)
{
    BUF_AUTO struct buf payload;
    buf_init(&payload, FRAME_PAYLOAD_MAX);
    fault_point("init.exit");
    if (sandbox_exit_encode(exit, &payload, NULL) != 0)
        return;
    job_end_output(job, 0);
    job_end_output(job, 1);
    if (job->held)
        held_end(job->held, payload.data, payload.size);
    else
        outlet_send(job->outlet, FRAME_EXIT, STREAM_CONTROL, payload.data, payload.size);
}

void job_end_exec(struct job *job, struct job_table *table)
{
    struct group_usage used;
    struct sandbox_exit exit;
    group_read(table->config, &used);
    settle_cause(job, &used);
    fill_exit(job, table->config, &used, &exit);
    exit.exit_code = exit_code_of(job);
    say_exit(job, &exit);
}

void job_end_run(struct job *job, struct job_table *table)
{
    struct group_usage used;
    struct sandbox_exit exit;
    bool done = job->run.phase == RUN_DRAINING;
    group_read(table->config, &used);
    if (!done && !job->run.last)
        settle_cause(job, &used);
    if (done && table->kernel.pid > 0)
        group_read_process(table->config, table->kernel.pid, &job->rusage);
    fill_exit(job, table->config, &used, &exit);
    exit.exit_code = done || job->run.last ? job->run.exit_code : exit_code_of(job);
    exit.state_lost = table->kernel.lost;
    table->kernel.lost = false;
    say_exit(job, &exit);
}

void job_end_refused(struct job *job, const struct sandbox_exit *exit)
{
    if (job->held)
        say_exit(job, exit);
    else
        outlet_send_refusal(job->outlet, exit);
}

void job_end_file(struct job *job)
{
    int sys_errno = EIO;
    if (WIFEXITED(job->wait_status))
        sys_errno = WEXITSTATUS(job->wait_status);
    else if (job->cause != KILL_NONE)
        sys_errno = job->cause == KILL_TIMEOUT ? ETIMEDOUT : ECANCELED;
    outlet_send_done(job->outlet, sys_errno,
                     job->kind == JOB_GET_FILE ? job->outputs[0].sent : job->stdin_total);
}
