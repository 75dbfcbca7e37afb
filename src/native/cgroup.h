/* cgroups of the sandboxes: v1, v2 and hybrid hosts behind one interface.
 *
 * Every sandbox has the groups `<id>/init` and `<id>/code` below `berth-<instance>`; limits are on
 * `code`. Hierarchies of v1 without the pids controller have init in `<id>`. On v2 that folder is
 * at the root of the hierarchy or below a group that was delegated to us. A group of another name
 * is never touched. Groups are the journal of what exists: their names carry instance and id, and a
 * sweep reads them back. Kernel: Documentation/admin-guide/cgroup-v1/ and cgroup-v2.rst. */
#ifndef BERTH_NATIVE_CGROUP_H
#define BERTH_NATIVE_CGROUP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "wire/init_config.h"

enum { CGROUP_HIERARCHY_MAX = 4 };

struct cgroup_hierarchy {
    int base_fd;   /* the folder berth-<instance> */
    char name[32]; /* v1: the folder that it is mounted on, "cpu,cpuacct"; v2: "" */
    bool memory;
    bool pids;
    bool cpu;
    bool cpuacct;
};

struct cgroup_root {
    enum init_cgroup_mode mode;
    bool hybrid; /* v1 controllers beside a v2 mount */
    struct cgroup_hierarchy hierarchies[CGROUP_HIERARCHY_MAX];
    size_t count;
    char folder[48]; /* berth-<instance> */
};

struct cgroup_limits {
    uint64_t memory_bytes;
    uint32_t cpu_millis;
    uint32_t pids_max;
};

/* Finds the controllers and makes this instance's folder in each hierarchy. ERR_UNSUPPORTED
 * (public) when memory, cpu or pids can't be had; says which. */
int cgroup_open(struct cgroup_root *root, const char *instance, struct err *err);

/* The same, but on a host with cgroup v2 alone the folder is made below the group place, a path
 * from the hierarchy's root ("" or NULL: the root): one that was delegated to us, that is there,
 * has no process of its own and offers the controllers. Groups above it are not written. A later
 * engine finds what lives by the same place. */
int cgroup_open_below(struct cgroup_root *root, const char *place, const char *instance,
                      struct err *err);
void cgroup_close(struct cgroup_root *root);

/* Removes this instance's folders where no sandbox is left in them. */
void cgroup_retire(const struct cgroup_root *root);

/* "v1", "v2", "hybrid" or "none". */
const char *cgroup_mode_name(const struct cgroup_root *root);

/* Makes the groups of a sandbox with their limits and opens what its init needs into *config (the
 * descriptors are the caller's to close with cgroup_close_config). init_uid is init's id on the
 * host: on v2 it may put processes into `code`, and change no limit. On failure nothing is left. */
int cgroup_create(const struct cgroup_root *root, const char *id,
                  const struct cgroup_limits *limits, uid_t init_uid, struct init_config *config,
                  struct err *err);
void cgroup_close_config(struct init_config *config);

/* Gives a sandbox that runs other limits; 0 leaves one as it is. ERR_CONFLICT: it uses more
 * already, or has no groups; some may be changed then. Lowering memory may take a moment, in which
 * the kernel writes out what it can. */
int cgroup_change(const struct cgroup_root *root, const char *id,
                  const struct cgroup_limits *limits, struct err *err);

/* The limit that a sandbox has; 0 when it can't be told. */
uint32_t cgroup_cpu_millis(const struct cgroup_root *root, const char *id);

/* The way into the init group for a process that is about to be made. Moving another process by its
 * id takes a lock over all processes of the host, which after a quiet moment waits for an RCU grace
 * period (5 to 8 ms measured); a v1 task that writes "0" into `tasks` of itself, and a v2 process
 * that is born in its group (CLONE_INTO_CGROUP), do not (kernel/cgroup/cgroup.c,
 * cgroup_attach_lock). */
struct cgroup_entry {
    int tasks_fds[CGROUP_HIERARCHY_MAX]; /* v1: the child writes "0" into each */
    size_t tasks_count;
    int clone_fd; /* v2: for clone3(2); else -1 */
};

int cgroup_open_entry(const struct cgroup_root *root, const char *id, struct cgroup_entry *out,
                      struct err *err);
/* The way into the code group, for a process that is there already. */
int cgroup_open_code(const struct cgroup_root *root, const char *id, struct cgroup_entry *out,
                     struct err *err);
void cgroup_close_entry(struct cgroup_entry *entry);
/* Called in the child. */
int cgroup_enter(const struct cgroup_entry *entry, struct err *err);

/* A group of this engine's own beside those of the sandboxes, made when it is missing. Its name is
 * no id of a sandbox, so that a sweep passes it over. */
int cgroup_open_aside(const struct cgroup_root *root, const char *name,
                      const struct cgroup_limits *limits, struct cgroup_entry *out,
                      struct err *err);
/* -ERR_CONFLICT while a process is left in it. */
int cgroup_remove_aside(const struct cgroup_root *root, const char *name);

/* Kills every process in the groups of a sandbox, once. */
void cgroup_kill(const struct cgroup_root *root, const char *id);

/* Kills every process in the code group of a sandbox, once; false when there was none. */
bool cgroup_kill_code(const struct cgroup_root *root, const char *id);

/* Removes the groups. Idempotent; -ERR_CONFLICT while a process is left in them. */
int cgroup_remove(const struct cgroup_root *root, const char *id, struct err *err);

/* Calls fn for the id of every sandbox that has a group. */
int cgroup_each(const struct cgroup_root *root, void (*fn)(void *context, const char *id),
                void *context, struct err *err);

/* The smallest memory limit (memory.max, memory.limit_in_bytes) of this instance's folder and the
 * groups above it, as far as they can be seen from here: what all sandboxes together may use. Far
 * above any host's memory where there is none. Read anew each time, since an operator may change
 * it. */
uint64_t cgroup_memory_bound(const struct cgroup_root *root);

/* Whether the kernel has killed anything in a sandbox's code group for want of memory. */
bool cgroup_had_oom(const struct cgroup_root *root, const char *id);

/* The init of a sandbox by its group: *out is its process id, or 0 when none is left. A failure
 * says nothing of whether there is one. */
int cgroup_init_pid(const struct cgroup_root *root, const char *id, pid_t *out, struct err *err);

#endif
