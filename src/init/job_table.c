/* Owns the table: who has which job, whose child was reaped, and the kill of the whole group. */
#include "init/job_table.h"

#include <errno.h>
#include <string.h>
#include <sys/wait.h>

#include "init/child.h"
#include "wire/frame.h"

#define KILL_RETRY_NS (2 * CLOCK_NS_PER_MS)

void job_table_init(struct job_table *table, const struct init_config *config)
{
    memset(table, 0, sizeof(*table));
    table->settings = *config;
    table->config = &table->settings;
    for (size_t i = 0; i < JOB_MAX; i++)
        job_init(&table->jobs[i]);
    kernel_init(&table->kernel);
    held_init(&table->held);
    leftover_init(&table->leftover);
    table->next_pipes = PIPES_INIT;
    timers_init(&table->timers, config->lifetime_ms, config->orphan_ms, clock_now_ns());
    network_init(&table->network);
}

struct job *job_table_free_job(struct job_table *table)
{
    for (size_t i = 0; i < JOB_MAX; i++) {
        if (table->jobs[i].kind == JOB_FREE)
            return &table->jobs[i];
    }
    return NULL;
}

size_t job_table_count(const struct job_table *table, enum job_kind kind)
{
    size_t count = 0;
    for (size_t i = 0; i < JOB_MAX; i++)
        count += table->jobs[i].kind == kind;
    return count;
}

struct job *job_table_find(struct job_table *table, const struct buf *out, uint32_t stream)
{
    for (size_t i = 0; i < JOB_MAX; i++) {
        struct job *job = &table->jobs[i];
        if (job->kind != JOB_FREE && outlet_is(job->outlet, out, stream))
            return job;
    }
    return NULL;
}

bool job_table_is_shared(const struct job_table *table, const struct job *job)
{
    if (table->kernel.state != KERNEL_NONE)
        return true;
    for (size_t i = 0; i < JOB_MAX; i++) {
        if (table->jobs[i].kind == JOB_EXEC && &table->jobs[i] != job)
            return true;
    }
    return false;
}

/* ---- files that somebody waits for ---- */

void job_table_follow_files(struct job_table *table, const struct buf *out, bool *failed)
{
    for (size_t i = 0; i < JOB_MAX; i++) {
        struct job *job = &table->jobs[i];
        if (job->kind == JOB_PUT_FILE && job->outlet->out == out)
            job->failed = failed;
    }
}

bool job_table_awaits_files(const struct job_table *table, const bool *failed)
{
    for (size_t i = 0; i < JOB_MAX; i++) {
        if (table->jobs[i].failed == failed)
            return true;
    }
    return false;
}

void job_table_kill_files(struct job_table *table, const bool *failed, enum kill_cause cause)
{
    for (size_t i = 0; i < JOB_MAX; i++) {
        if (table->jobs[i].failed == failed)
            job_kill(&table->jobs[i], table, cause);
    }
}

void job_table_orphan(struct job_table *table, const struct buf *out)
{
    for (size_t i = 0; i < JOB_MAX; i++) {
        struct job *job = &table->jobs[i];
        if (job->kind != JOB_FREE && job->outlet->out == out)
            job_orphan(job, table);
    }
    held_detach(&table->held, out);
    table->unsettled = true;
}

/* ---- children ---- */

/* A program of its own mostly leaves nothing behind. Who was forked for an execution may not be in
 * the group yet. */
static bool is_all_gone(const struct job_table *table)
{
    return job_table_count(table, JOB_EXEC) == 0 && group_is_empty(table->config);
}

void job_table_reap(struct job_table *table)
{
    bool kernel_died = false;
    int status = 0;
    struct rusage rusage;
    pid_t pid = 0;
    while ((pid = wait4(-1, &status, WNOHANG, &rusage)) > 0) {
        group_look_at_pids(table->config, 1);
        if (kernel_reaped(&table->kernel, table, pid, status, &rusage)) {
            kernel_died = true;
            continue;
        }
        for (size_t i = 0; i < JOB_MAX; i++) {
            if (job_reaped(&table->jobs[i], pid, status, &rusage))
                break;
        }
    }
    if (kernel_died && !is_all_gone(table))
        job_table_kill_group(table, KILL_SERVER);
}

void job_table_watch_oom(struct job_table *table)
{
    for (size_t i = 0; i < JOB_MAX; i++) {
        if (table->jobs[i].kind == JOB_EXEC || table->jobs[i].kind == JOB_RUN)
            table->jobs[i].oom_watch_ns = clock_now_ns() + JOB_OOM_WATCH_NS;
    }
}

/* ---- limits ---- */

static bool may_have(const struct init_config *config, const struct sandbox_limits *limits)
{
    bool counted =
        config->cgroup_mode != INIT_CGROUP_NONE || config->carried || config->pids_max == 0;
    return limits->file_size_max <= config->file_size_max &&
           limits->open_files_max <= config->open_files_max &&
           limits->pids_max <= (counted ? SANDBOX_PIDS_MAX : config->pids_max);
}

int job_table_set_limits(struct job_table *table, const struct sandbox_limits *limits)
{
    struct init_config *settings = &table->settings;
    if (!may_have(settings, limits))
        return EINVAL;
    if (limits->file_size_max > 0)
        settings->file_size_max = limits->file_size_max;
    if (limits->open_files_max > 0)
        settings->open_files_max = limits->open_files_max;
    if (limits->pids_max > 0) {
        settings->pids_max = limits->pids_max;
        if (!table->killing) /* a kill that was over before has written the old one back */
            group_reopen(settings);
    }
    child_set_own_limits(settings);
    return table->kernel.pid > 0 ? child_lower_limits(table->kernel.pid, settings) : 0;
}

/* ---- the kill of the group ---- */

void job_table_kill_group(struct job_table *table, enum kill_cause cause)
{
    if (table->killing)
        return;
    table->killing = true; /* before the jobs are told, which would ask for the same */
    for (size_t i = 0; i < JOB_MAX; i++) {
        struct job *job = &table->jobs[i];
        if ((job->kind == JOB_EXEC && job->pid > 0) ||
            (job->kind == JOB_RUN && job->run.phase == RUN_RUNNING))
            job_kill(job, table, cause);
    }
    kernel_doom(&table->kernel);
    group_kill(table->config);
    table->unsettled = true; /* the group may be empty */
    table->next_kill_ns = clock_now_ns() + KILL_RETRY_NS;
}

static void step_kill(struct job_table *table)
{
    if (!table->killing)
        return;
    if (group_is_empty(table->config)) {
        table->killing = false;
        group_reopen(table->config);
    } else if (clock_now_ns() >= table->next_kill_ns) {
        group_kill(table->config);
        table->next_kill_ns = clock_now_ns() + KILL_RETRY_NS;
    }
}

void job_table_step(struct job_table *table)
{
    group_look_at_pids(table->config, 0);
    step_kill(table);
    kernel_step(&table->kernel, table);
    leftover_step(&table->leftover, clock_now_ns());
    for (size_t i = 0; i < JOB_MAX; i++)
        job_step(&table->jobs[i], table);
    kernel_settle(&table->kernel, table);
    run_schedule(table);
    held_step(&table->held);
}

int64_t job_table_wakeup_ns(const struct job_table *table)
{
    int64_t wakeup = leftover_wakeup_ns(&table->leftover, clock_now_ns());
    int64_t kernel = kernel_wakeup_ns(&table->kernel, table);
    wakeup = kernel < wakeup ? kernel : wakeup;
    if (held_may_send(&table->held))
        wakeup = 0;
    if (table->killing && table->next_kill_ns < wakeup)
        wakeup = table->next_kill_ns;
    for (size_t i = 0; i < JOB_MAX; i++) {
        int64_t job = job_wakeup_ns(&table->jobs[i], table);
        wakeup = job < wakeup ? job : wakeup;
    }
    return wakeup;
}
