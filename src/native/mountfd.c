/* Owns the raw calls of the mount API, which glibc 2.35 and older do not all wrap. */
#include "native/mountfd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fd.h"

int mountfd_clone(int dir_fd, const char *path, bool recursive, int *out_fd, struct err *err)
{
    unsigned flags = OPEN_TREE_CLONE | (unsigned)OPEN_TREE_CLOEXEC | (unsigned)AT_EMPTY_PATH;
    if (recursive)
        flags |= (unsigned)AT_RECURSIVE;
    *out_fd = (int)syscall(SYS_open_tree, dir_fd, path, flags);
    return *out_fd < 0 ? err_sys(err, errno, "open_tree %s", path) : 0;
}

static int set_attributes(int mount_fd, const struct mount_attr *attributes)
{
    const unsigned flags = (unsigned)AT_EMPTY_PATH | (unsigned)AT_RECURSIVE;
    return (int)syscall(SYS_mount_setattr, mount_fd, "", flags, attributes, sizeof(*attributes));
}

int mountfd_restrict(int mount_fd, uint64_t attributes, struct err *err)
{
    struct mount_attr wanted = {.attr_set = attributes, .propagation = 0};
    return set_attributes(mount_fd, &wanted) != 0 ? err_sys(err, errno, "mount_setattr") : 0;
}

int mountfd_idmap(int mount_fd, int userns_fd, struct err *err)
{
    struct mount_attr wanted = {.attr_set = MOUNT_ATTR_IDMAP, .userns_fd = (unsigned)userns_fd};
    if (set_attributes(mount_fd, &wanted) == 0)
        return 0;
    if (errno == EINVAL)
        return err_set(err, ERR_UNSUPPORTED, "the filesystem has no id-mapped mounts");
    return err_sys(err, errno, "mount_setattr with an id map");
}

int mountfd_attach(int mount_fd, int dir_fd, const char *path, struct err *err)
{
    unsigned flags = MOVE_MOUNT_F_EMPTY_PATH | (path[0] == '\0' ? MOVE_MOUNT_T_EMPTY_PATH : 0U);
    if (syscall(SYS_move_mount, mount_fd, "", dir_fd, path, flags) != 0)
        return err_sys(err, errno, "move_mount to %s", path);
    return 0;
}

static int configure(int context_fd, const char *key, const char *value)
{
    return (int)syscall(SYS_fsconfig, context_fd, FSCONFIG_SET_STRING, key, value, 0);
}

int mountfd_tmpfs(const char *size_bytes, const char *inodes, int *out_fd, struct err *err)
{
    FD_AUTO int context_fd = (int)syscall(SYS_fsopen, "tmpfs", FSOPEN_CLOEXEC);
    if (context_fd < 0)
        return err_sys(err, errno, "fsopen tmpfs");
    if (configure(context_fd, "size", size_bytes) != 0 ||
        configure(context_fd, "nr_inodes", inodes) != 0 ||
        configure(context_fd, "mode", "0755") != 0)
        return err_sys(err, errno, "options of tmpfs");
    if (syscall(SYS_fsconfig, context_fd, FSCONFIG_CMD_CREATE, NULL, NULL, 0) != 0)
        return err_sys(err, errno, "make a tmpfs");
    *out_fd = (int)syscall(SYS_fsmount, context_fd, FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID);
    return *out_fd < 0 ? err_sys(err, errno, "fsmount tmpfs") : 0;
}
