/* What cgroup.c and cgroup_limit.c have of each other. */
#ifndef BERTH_NATIVE_CGROUP_INTERNAL_H
#define BERTH_NATIVE_CGROUP_INTERNAL_H

#include <stdint.h>

#include "native/cgroup.h"

/* Opens `<id>/<group>` in one hierarchy, as a path. */
int cgroup_open_group(const struct cgroup_hierarchy *hierarchy, const char *id, const char *group,
                      int *out_fd, struct err *err);

/* A number of a group; UINT64_MAX for "max", and for a group without that file, which a root is. */
uint64_t cgroup_read_limit(int dir_fd, const char *file);

/* Gives a group that was just made, and has no limit yet, what this hierarchy controls of limits.
 */
int cgroup_set_limits(const struct cgroup_root *root, const struct cgroup_hierarchy *hierarchy,
                      int dir_fd, const struct cgroup_limits *limits, struct err *err);

#endif
