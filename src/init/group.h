/* The cgroup of the code, as init sees it: join, kill until empty, and what it used.
 *
 * Works on descriptors that the engine opened, on v1, v2 and without cgroups; init itself has no
 * right to change a limit. Kernel: Documentation/admin-guide/cgroup-v2.rst, cgroup-v1/. */
#ifndef BERTH_INIT_GROUP_H
#define BERTH_INIT_GROUP_H

#include <stdbool.h>
#include <stdint.h>
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

/* fork(2) of a child that will be in the code group: on v2 it is born there, else it has to call
 * group_join(). Neither moves a process by its id, which is slow (see native/cgroup.h). */
pid_t group_fork(const struct init_config *config);

/* Moves the calling process into the code group, unless it was born there. Called in a fresh child.
 */
int group_join(const struct init_config *config, struct err *err);

/* Forbids new processes and kills every process of the group once; call until group_is_empty(). */
void group_kill(const struct init_config *config);

/* Whether no living process is left. Without cgroups: whether init has no child left. */
bool group_is_empty(const struct init_config *config);

/* Allows new processes again after group_kill(). */
void group_reopen(const struct init_config *config);

void group_read(const struct init_config *config, struct group_usage *out);

/* Only the OOM counter: cheap enough to be asked often. */
uint64_t group_oom_kills(const struct init_config *config);

#endif
