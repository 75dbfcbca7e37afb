/* `berth-monitor --hold`: the one process of the unit whose group holds all sandboxes
 * (deploy/systemd/berth-sandboxes.service). systemd removes the group of a unit without a process,
 * and that group may not have one itself: it sits in a child of it. */
#ifndef BERTH_MONITOR_HOLD_H
#define BERTH_MONITOR_HOLD_H

#include "base/err.h"

/* Moves into the child (place.h), tells the service manager, and blocks until SIGTERM or SIGINT. On
 * hosts with v1 controllers there is nothing to hold, and it waits all the same. */
int hold_run(struct err *err);

#endif
