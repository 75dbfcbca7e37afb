/* Removes folders whose contents somebody hostile made. */
#ifndef BERTH_NATIVE_TREEREMOVE_H
#define BERTH_NATIVE_TREEREMOVE_H

#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"

/* Removes name in parent_fd with all that is below it, however deep; follows no link and uses three
 * descriptors and no path of more than one part. A missing one is fine. Blocks as long as it takes.
 * Nothing else may change the tree meanwhile. */
int treeremove_folder(int parent_fd, const char *name, struct err *err);

/* The same in a child that dies with this process and holds none of its descriptors. The child
 * exits with 0, or 1 after it logged why; *out_pidfd becomes readable then and is the caller's. */
int treeremove_start(int parent_fd, const char *name, pid_t *out_pid, int *out_pidfd,
                     struct err *err);

#define TREEREMOVE_SMALL_BYTES (UINT64_C(2) << 20)

/* Closes the last descriptor of a file that has no name any more: the kernel frees its blocks then,
 * which takes seconds for one that was written all over, so for one that holds more than
 * TREEREMOVE_SMALL_BYTES a process of its own does it. */
void treeremove_release(int *fd);

#endif
