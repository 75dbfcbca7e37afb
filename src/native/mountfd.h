/* The mount API of descriptors (open_tree(2), fsmount(2), mount_setattr(2), move_mount(2)). */
#ifndef BERTH_NATIVE_MOUNTFD_H
#define BERTH_NATIVE_MOUNTFD_H

#include <stdbool.h>
#include <stddef.h>
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

/* A detached mount of a new filesystem. options: name, value, ..., NULL; value NULL for a flag.
 * attributes: MOUNT_ATTR_* flags. */
int mountfd_make(const char *type, const char *const options[], uint64_t attributes, int *out_fd,
                 struct err *err);

/* A detached overlay of lower_fds, the topmost first, with the folders upper_fd and work_fd on one
 * mount; -1 and -1: read-only, of at least two lower ones. All have to be on attached mounts (Linux
 * before 6.15 wants that). What
 * mountinfo then says of the layers are numbers of descriptors; source, if not NULL, is what it
 * calls the whole. Ids come from the layers' mounts. Documentation/filesystems/overlayfs.rst. */
int mountfd_overlay(const char *source, const int *lower_fds, size_t lower_count, int upper_fd,
                    int work_fd, uint64_t attributes, int *out_fd, struct err *err);

/* Takes an attached mount off its place; it goes when nothing uses it any more. */
void mountfd_detach(int mount_fd);

/* A detached tmpfs, mode 0755. Its device nodes work when the caller is the host's root. */
int mountfd_tmpfs(uint64_t size_bytes, uint64_t inodes, uint64_t attributes, int *out_fd,
                  struct err *err);

/* Gives the tmpfs whose mount's root dir_fd is another size; fails below what is used. */
int mountfd_resize_tmpfs(int dir_fd, uint64_t size_bytes, uint64_t inodes, struct err *err);

#endif
