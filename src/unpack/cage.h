/* The cage that the archive is read in: a root of its own, five capabilities in a user namespace of
 * its own, limits, and a list of system calls. */
#ifndef BERTH_UNPACK_CAGE_H
#define BERTH_UNPACK_CAGE_H

#include <stdint.h>

#include "base/err.h"

/* Makes the detached mount the root of this process, which has to be in mount and user namespaces
 * of its own; nothing of the host can be reached by a path afterwards. The working directory is
 * where the mount is attached for a moment. */
int cage_enter_root(int mount_fd, struct err *err);

/* Drops what is not needed for unpacking: capabilities, new privileges, memory, core dumps, file
 * sizes above file_size_max, and every system call that is not on the list. No way back. */
int cage_lock(uint64_t file_size_max, struct err *err);

/* The same for who writes to a descriptor alone, and has no root of its own: no capability is kept,
 * and no call that takes a path. */
int cage_lock_paths(uint64_t file_size_max, struct err *err);

#endif
