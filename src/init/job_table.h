/* All that a sandbox has to do: the fixed table of jobs, the kernel, what is held, and the kill of
 * the whole code group, which concerns all of them. */
#ifndef BERTH_INIT_JOB_TABLE_H
#define BERTH_INIT_JOB_TABLE_H

#include "init/held.h"
#include "init/job.h"
#include "init/kernel.h"
#include "init/leftover.h"
#include "init/network.h"
#include "init/timers.h"

enum { JOB_MAX = 48, JOB_EXEC_MAX = 8 };
_Static_assert((int)JOB_MAX <= (int)GROUP_SPARED_MAX, "every job may be a file");

struct job_table {
    const struct init_config *config;
    struct init_config settings; /* what config points to: a copy, which LIMITS changes */
    struct job jobs[JOB_MAX];
    struct kernel kernel;
    struct held_table held;
    struct leftover leftover;
    struct timers timers;
    struct network network;
    struct pipes next_pipes; /* of the next run */
    uint64_t turns;          /* of runs, so far */
    bool killing;            /* the group, until it is empty: nothing is started meanwhile */
    int64_t next_kill_ns;    /* when to try again */
    bool unsettled; /* something was done that a step before it has to see: it does not wait */
};

void job_table_init(struct job_table *table, const struct init_config *config);

/* A job that nobody uses, or NULL. */
struct job *job_table_free_job(struct job_table *table);

/* How many there are of this kind. */
size_t job_table_count(const struct job_table *table, enum job_kind kind);

/* The job that a stream of this connection belongs to, or NULL. */
struct job *job_table_find(struct job_table *table, const struct buf *out, uint32_t stream);

/* Whether an execution is not the only thing in the sandbox: a kernel lives, or another one. */
bool job_table_is_shared(const struct job_table *table, const struct job *job);

/* Files of this connection that are being written: they say in *failed that they were not. */
void job_table_follow_files(struct job_table *table, const struct buf *out, bool *failed);
/* Whether a file is still written that says so there. */
bool job_table_awaits_files(const struct job_table *table, const bool *failed);

/* Ends the files that say so there: they were for nothing else, and one that the code holds up (it
 * may stop a process of its own user) holds up nobody. */
void job_table_kill_files(struct job_table *table, const bool *failed, enum kill_cause cause);

/* The connection is gone: its jobs end, and tell nobody; the held ones go on. */
void job_table_orphan(struct job_table *table, const struct buf *out);

/* Takes the wait status of every child that ended. */
void job_table_reap(struct job_table *table);

/* The OOM killer was at work: the counters are asked often for a while. */
void job_table_watch_oom(struct job_table *table);

/* Takes the limits of a LIMITS frame, for what starts from now on and for the kernel that lives.
 * They only go down, but for pids_max of a cgroup, which is the engine's to set. 0, or EINVAL:
 * nothing was changed. */
int job_table_set_limits(struct job_table *table, const struct sandbox_limits *limits);

/* Kills every process of the code, until there is none. cause: what their executions say. */
void job_table_kill_group(struct job_table *table, enum kill_cause cause);

void job_table_step(struct job_table *table);

/* When job_table_step() has to be called again at the latest. */
int64_t job_table_wakeup_ns(const struct job_table *table);

#endif
