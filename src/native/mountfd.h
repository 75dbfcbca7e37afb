/* The mount API of descriptors (open_tree(2), fsmount(2), mount_setattr(2), move_mount(2)). */
#ifndef BERTH_NATIVE_MOUNTFD_H
#define BERTH_NATIVE_MOUNTFD_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

/* A detached clone of the mount that path (relative to dir_fd; "" names dir_fd itself) is on,
 * rooted there; recursive: with the mounts below it. */
int mountfd_clone(int dir_fd, const char *path, bool recursive, int *out_fd, struct err *err);

/* Adds MOUNT_ATTR_* flags to a mount. */
int mountfd_restrict(int mount_fd, uint64_t attributes, struct err *err);

/* Id-maps a detached tree. ERR_UNSUPPORTED where a filesystem in it cannot. */
int mountfd_idmap(int mount_fd, int userns_fd, struct err *err);

/* Attaches a detached mount at path; "" means dir_fd itself (AT_FDCWD: the working directory), for
 * which no right to look anything up is needed. */
int mountfd_attach(int mount_fd, int dir_fd, const char *path, struct err *err);

/* A detached tmpfs, mode 0755, no set-uid files, of size_bytes and inodes (decimal texts). Its
 * nodes work when the caller is the host's root. */
int mountfd_tmpfs(const char *size_bytes, const char *inodes, int *out_fd, struct err *err);

#endif
