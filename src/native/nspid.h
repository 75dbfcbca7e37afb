/* What number a process has in the pid namespaces that it is in. */
#ifndef BERTH_NATIVE_NSPID_H
#define BERTH_NATIVE_NSPID_H

#include <stdbool.h>
#include <sys/types.h>

/* Whether the process is number 1 of another pid namespace than ours: the init of a sandbox, and
 * none of its children. */
bool nspid_is_first(pid_t pid);

#endif
