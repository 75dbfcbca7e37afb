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

void job_end_exec(struct job *job, const struct init_config *config)
{
    struct sandbox_exit exit;
    fill_exit(job, config, &exit);
    if (job->killing)
        group_reopen(config);
    fault_point("init.exit");
    BUF_AUTO struct buf payload;
    buf_init(&payload, FRAME_PAYLOAD_MAX);
    if (job->out && sandbox_exit_encode(&exit, &payload, NULL) == 0)
        (void)frame_append(job->out, FRAME_EXIT, job->stream, payload.data, payload.size, NULL);
}

void job_end_file(const struct job *job)
{
    struct sandbox_done done = {.size_bytes = job->stdin_total};
    if (job->kind == JOB_GET_FILE)
        done.size_bytes = job->outputs[0].sent;
    if (WIFEXITED(job->wait_status))
        done.sys_errno = WEXITSTATUS(job->wait_status);
    else if (job->cause == KILL_TIMEOUT)
        done.sys_errno = ETIMEDOUT;
    else
        done.sys_errno = job->cause != KILL_NONE ? ECANCELED : EIO;
    BUF_AUTO struct buf payload;
    buf_init(&payload, FRAME_PAYLOAD_MAX);
    if (job->out && sandbox_done_encode(&done, &payload, NULL) == 0)
        (void)frame_append(job->out, FRAME_DONE, job->stream, payload.data, payload.size, NULL);
}
