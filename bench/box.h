/* The least that a sandbox of this kind can be: what `make bench` compares berth with.
 *
 * New user, mount, pid, net, ipc, uts and cgroup namespaces; a tmpfs as root with /usr bound in,
 * a /proc of its own, pivot_root, exec. No cgroup limits, no seccomp filter, no second user
 * namespace, no protocol: a floor, not a sandbox. */
#ifndef BERTH_BENCH_BOX_H
#define BERTH_BENCH_BOX_H

#include <sys/types.h>

#include "base/err.h"

/* Starts argv in fresh namespaces with stdout_fd as its standard output, as root. The child is the
 * caller's to reap. A child that fails says so on standard error and exits with 125. */
int box_start(char *const *argv, char *const *envp, int stdout_fd, pid_t *out_pid, struct err *err);

#endif
