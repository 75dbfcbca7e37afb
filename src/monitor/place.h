/* Where sandboxes may have their control groups on a host with cgroup v2 alone.
 *
 * systemd owns the tree and hands parts of it out: a unit with Delegate= has a group below which it
 * alone writes, marked by the attribute trusted.delegate (systemd, docs/CGROUP_DELEGATION.md).
 * Controllers go down from a group only while it has no process of its own
 * (Documentation/admin-guide/cgroup-v2.rst, "No Internal Process Constraint"), so the monitor
 * leaves a group of ours for one of its children before anything else runs. */
#ifndef BERTH_MONITOR_PLACE_H
#define BERTH_MONITOR_PLACE_H

#include <limits.h>

#include "base/err.h"

/* The child that the monitor, the server and the engine live in. */
#define PLACE_LEAF "supervisor"

/* Fills out with the group below which the engine makes its own, as a path from the root of the
 * hierarchy, or with "" for the root itself:
 * - wanted (BERTH_CGROUP), when it is not NULL;
 * - the group that this process was started in, when it was delegated; this process is moved into
 *   its child PLACE_LEAF. Being in that child already is as good (DelegateSubgroup=);
 * - else, and on hosts with v1 controllers, the root.
 * ERR_BAD_INPUT: wanted is no absolute path, or has "..". */
int place_find(const char *wanted, char out[static PATH_MAX], struct err *err);

#endif
