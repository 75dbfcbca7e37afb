/* What the process gives up before it serves, beside what the monitor took from it. */
#ifndef BERTH_EGRESS_HARDEN_H
#define BERTH_EGRESS_HARDEN_H

#include "base/err.h"

/* No way to gain rights, no core file, not to be looked into; no file but what a resolver reads
 * (Landlock, where the kernel has it); no program, no other process, no socket but of the internet
 * and of a resolver (seccomp(2)). For this thread and those that it starts later. */
int harden_process(struct err *err);

#endif
