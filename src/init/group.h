/* The cgroup of the code, as init sees it: join, kill until empty, and what it used.
 *
 * Works on descriptors that the engine opened, on v1, v2 and without cgroups; init itself has no
 * right to change a limit. Kernel: Documentation/admin-guide/cgroup-v2.rst, cgroup-v1/. */
#ifndef BERTH_INIT_GROUP_H
#define BERTH_INIT_GROUP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/types.h>

#include "base/err.h"
#include "wire/init_config.h"

/* Counters of the code group at one moment; 0 where the kernel does not tell. */
struct group_usage {
    uint64_t cpu_us;
    uint64_t memory_peak_bytes;
    uint64_t pids_peak;
    uint64_t oom_kills;    /* processes that the OOM killer ended */
    uint64_t pids_refused; /* forks refused for pids.max */
    uint64_t throttled_us; /* time that processes waited for the cpu quota */
};

/* fork(2) of a child that will be in the code group, and in a user namespace of its own where
 * config->nests: on v2 it is born there, else it has to call group_join(). Neither moves a process
 * by its id, which is slow (see native/cgroup.h). */
pid_t group_fork(const struct init_config *config);

/* Moves the calling process into the code group, unless it was born there. Called in a fresh child.
 */
int group_join(const struct init_config *config, struct err *err);

/* A child of init's own that works on a file: it is in the group, so that its memory counts, but it
 * is not the code. Until group_unspare(), kills leave it out and emptiness does not wait for it. At
 * most GROUP_SPARED_MAX; call unspare when it was reaped, not later: its number may come again. */
#define GROUP_SPARED_MAX 48
void group_spare(pid_t pid);
void group_unspare(pid_t pid);

/* Forbids new processes and kills every process of the group once; call until group_is_empty(). */
void group_kill(const struct init_config *config);

/* Kills, once, every process of the code that is in this session, or that has an ancestor in it
 * that lives. What left the session and lost its parents is not among them: nothing tells it from
 * what another execution left. Returns how many there were. */
size_t group_kill_session(const struct init_config *config, pid_t session);

/* The same signal to every process of the code that is in this session, and to no other. */
void group_signal_session(const struct init_config *config, pid_t session, int number);

/* Whether no living process of the code is left. Without cgroups: of init's children. */
bool group_is_empty(const struct init_config *config);

/* Ends a kill: allows new processes again. */
void group_reopen(const struct init_config *config);

/* For a kernel that counts no refused forks (gVisor): looks how many processes there are. To be
 * called often; gone: so many more have just ended. group_read() then has the most that were seen,
 * and in pids_refused how often there was no room for another. */
void group_look_at_pids(const struct init_config *config, uint64_t gone);

void group_read(const struct init_config *config, struct group_usage *out);
/* What is compared with a later reading: all but the peaks, which are 0. */
void group_read_base(const struct init_config *config, struct group_usage *out);
/* Opens the counters now, and not again at each reading: for a process with one group. */
void group_keep_open(const struct init_config *config);

/* What a living process used so far: its largest resident set and, where no group counts it, its
 * time. 0 where /proc does not tell. */
void group_read_process(const struct init_config *config, pid_t pid, struct rusage *out);

/* User and system time together. */
uint64_t group_cpu_us(const struct rusage *rusage);

/* Only the OOM counter: cheap enough to be asked often. */
uint64_t group_oom_kills(const struct init_config *config);

#endif
