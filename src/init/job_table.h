/* The fixed table of jobs, and what concerns all of them. */
#ifndef BERTH_INIT_JOB_TABLE_H
#define BERTH_INIT_JOB_TABLE_H

#include "init/job.h"

enum { JOB_MAX = 32 };
_Static_assert((int)JOB_MAX <= (int)GROUP_SPARED_MAX, "every job may be a file");

struct job_table {
    const struct init_config *config;
    struct job jobs[JOB_MAX];
};

void job_table_init(struct job_table *table, const struct init_config *config);

/* A job that nobody uses, or NULL. */
struct job *job_table_free_job(struct job_table *table);

/* Whether there is a job of this kind; out: of this connection's only, NULL: of any. */
bool job_table_has(const struct job_table *table, const struct buf *out, enum job_kind kind);

/* The job that a stream of this connection belongs to, or NULL. */
struct job *job_table_find(struct job_table *table, const struct buf *out, uint32_t stream);

/* The connection is gone: its jobs end, and tell nobody. */
void job_table_orphan(struct job_table *table, const struct buf *out);

/* Takes the wait status of every child that ended. */
void job_table_reap(struct job_table *table);

/* The OOM killer was at work: the counters are asked often for a while. */
void job_table_watch_oom(struct job_table *table);

void job_table_step(struct job_table *table);

/* When job_table_step() has to be called again at the latest. */
int64_t job_table_wakeup_ns(const struct job_table *table);

#endif
