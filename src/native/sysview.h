/* What a sandbox sees in /sys: the number of processors that its limit comes to, and mount points
 * for its cgroups, so that runtimes size themselves by the limits and not by the host.
 *
 * A small read-only tmpfs for each number of processors, made once. Sources of the formats:
 * Documentation/admin-guide/cputopology.rst, cgroup-v2.rst and cgroup-v1/. */
#ifndef BERTH_NATIVE_SYSVIEW_H
#define BERTH_NATIVE_SYSVIEW_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "native/cgroup.h"

enum { SYSVIEW_CPUS_MAX = 64 };

struct sysview {
    int stage_fd;                        /* borrowed */
    const struct cgroup_root *cgroups;   /* borrowed */
    int mount_fds[SYSVIEW_CPUS_MAX + 1]; /* by number of processors; -1: not made yet */
};

/* stage_fd: a folder on a filesystem of the engine's own mount namespace. */
void sysview_init(struct sysview *view, int stage_fd, const struct cgroup_root *cgroups);
void sysview_done(struct sysview *view);

/* The number of processors that a sandbox of that many thousandths of a core sees. */
unsigned sysview_cpus(uint32_t cpu_millis);

/* A detached clone of /sys for a sandbox of that many thousandths of a core. */
int sysview_clone(struct sysview *view, uint32_t cpu_millis, int *out_fd, struct err *err);

#endif
