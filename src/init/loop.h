/* Init's event loop: connections, jobs, children, deadlines. */
#ifndef BERTH_INIT_LOOP_H
#define BERTH_INIT_LOOP_H

#include "base/err.h"
#include "wire/init_config.h"

/* Serves until the sandbox has to end: its lifetime is over, it was orphaned for long enough, or
 * the engine went away before it committed the creation. Returns 0 then, or an error kind. The
 * caller exits, and with PID 1 the kernel ends everything in the sandbox. */
int loop_run(const struct init_config *config, struct err *err);

#endif
