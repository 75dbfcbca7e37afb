/* Owns the table: who has which job, and whose child was reaped. */
#include "init/job_table.h"

#include <sys/wait.h>

#include "wire/frame.h"

void job_table_init(struct job_table *table, const struct init_config *config)
{
    table->config = config;
    for (size_t i = 0; i < JOB_MAX; i++)
        job_init(&table->jobs[i]);
}

struct job *job_table_free_job(struct job_table *table)
{
    for (size_t i = 0; i < JOB_MAX; i++) {
        if (table->jobs[i].kind == JOB_FREE)
            return &table->jobs[i];
    }
    return NULL;
}

bool job_table_has(const struct job_table *table, const struct buf *out, enum job_kind kind)
{
    for (size_t i = 0; i < JOB_MAX; i++) {
        if (table->jobs[i].kind == kind && (!out || table->jobs[i].out == out))
            return true;
    }
    return false;
}

struct job *job_table_find(struct job_table *table, const struct buf *out, uint32_t stream)
{
    for (size_t i = 0; i < JOB_MAX; i++) {
        struct job *job = &table->jobs[i];
        if (job->kind != JOB_FREE && job->out == out &&
            job->stream == stream - stream % STREAM_STEP)
            return job;
    }
    return NULL;
}

void job_table_orphan(struct job_table *table, const struct buf *out)
{
    for (size_t i = 0; i < JOB_MAX; i++) {
        struct job *job = &table->jobs[i];
        if (job->kind == JOB_FREE || job->out != out)
            continue;
        job->out = NULL;
        job->failed = NULL;
        job_feed_end(job);
        job_kill(job, table->config, KILL_SERVER);
    }
}

void job_table_reap(struct job_table *table)
{
    int status = 0;
    struct rusage rusage;
    pid_t pid = 0;
    while ((pid = wait4(-1, &status, WNOHANG, &rusage)) > 0) {
        for (size_t i = 0; i < JOB_MAX; i++) {
            if (job_reaped(&table->jobs[i], pid, status, &rusage))
                break;
        }
    }
}

void job_table_watch_oom(struct job_table *table)
{
    for (size_t i = 0; i < JOB_MAX; i++) {
        if (table->jobs[i].kind == JOB_EXEC)
            table->jobs[i].oom_watch_ns = clock_now_ns() + JOB_OOM_WATCH_NS;
    }
}

void job_table_step(struct job_table *table)
{
    for (size_t i = 0; i < JOB_MAX; i++)
        (void)job_step(&table->jobs[i], table->config);
}

int64_t job_table_wakeup_ns(const struct job_table *table)
{
    int64_t wakeup = INT64_MAX;
    for (size_t i = 0; i < JOB_MAX; i++) {
        int64_t job = job_wakeup_ns(&table->jobs[i]);
        wakeup = job < wakeup ? job : wakeup;
    }
    return wakeup;
}
