/* Owns the raw calls of the mount API, which glibc 2.35 and older do not all wrap. */
#include "native/mountfd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
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
    return (int)syscall(SYS_fsconfig, context_fd, value ? FSCONFIG_SET_STRING : FSCONFIG_SET_FLAG,
                        key, value, 0);
}

int mountfd_make(const char *type, const char *const options[], uint64_t attributes, int *out_fd,
                 struct err *err)
{
    FD_AUTO int context_fd = (int)syscall(SYS_fsopen, type, FSOPEN_CLOEXEC);
    if (context_fd < 0)
        return err_sys(err, errno, "fsopen %s", type);
    for (size_t i = 0; options[i]; i += 2) {
        if (configure(context_fd, options[i], options[i + 1]) != 0)
            return err_sys(err, errno, "option %s of %s", options[i], type);
    }
    if (syscall(SYS_fsconfig, context_fd, FSCONFIG_CMD_CREATE, NULL, NULL, 0) != 0)
        return err_sys(err, errno, "make %s", type);
    *out_fd = (int)syscall(SYS_fsmount, context_fd, FSMOUNT_CLOEXEC, attributes);
    return *out_fd < 0 ? err_sys(err, errno, "fsmount %s", type) : 0;
}

static void name_fd(char *out, size_t size, int fd)
{
    (void)snprintf(out, size, "/proc/self/fd/%d", fd);
}

int mountfd_overlay(const char *source, const int *lower_fds, size_t lower_count, int upper_fd,
                    int work_fd, uint64_t attributes, int *out_fd, struct err *err)
{
    char lower[256] = "";
    char upper[32];
    char work[32];
    size_t used = 0;
    for (size_t i = 0; i < lower_count && used < sizeof(lower) - 32; i++)
        used += (size_t)snprintf(lower + used, sizeof(lower) - used, "%s/proc/self/fd/%d",
                                 i > 0 ? ":" : "", lower_fds[i]);
    name_fd(upper, sizeof(upper), upper_fd);
    name_fd(work, sizeof(work), work_fd);
    const char *const options[] = {"source",   source,     "index",
                                   "off",      "metacopy", "off",
                                   "lowerdir", lower,      upper_fd >= 0 ? "upperdir" : NULL,
                                   upper,      "workdir",  work,
                                   NULL};
    return mountfd_make("overlay", source ? options : options + 2, attributes, out_fd, err);
}

void mountfd_detach(int mount_fd)
{
    char path[32];
    name_fd(path, sizeof(path), mount_fd);
    (void)umount2(path, MNT_DETACH);
}

int mountfd_tmpfs(uint64_t size_bytes, uint64_t inodes, uint64_t attributes, int *out_fd,
                  struct err *err)
{
    char size[24];
    char count[24];
    (void)snprintf(size, sizeof(size), "%" PRIu64, size_bytes);
    (void)snprintf(count, sizeof(count), "%" PRIu64, inodes);
    const char *const options[] = {"size", size, "nr_inodes", count, "mode", "0755", NULL};
    return mountfd_make("tmpfs", options, attributes, out_fd, err);
}

int mountfd_resize_tmpfs(int dir_fd, uint64_t size_bytes, uint64_t inodes, struct err *err)
{
    char size[24];
    char count[24];
    FD_AUTO int context_fd =
        (int)syscall(SYS_fspick, dir_fd, "", FSPICK_EMPTY_PATH | FSPICK_CLOEXEC);
    if (context_fd < 0)
        return err_sys(err, errno, "fspick");
    (void)snprintf(size, sizeof(size), "%" PRIu64, size_bytes);
    (void)snprintf(count, sizeof(count), "%" PRIu64, inodes);
    if (configure(context_fd, "size", size) != 0 || configure(context_fd, "nr_inodes", count) != 0)
        return err_sys(err, errno, "size of a tmpfs");
    if (syscall(SYS_fsconfig, context_fd, FSCONFIG_CMD_RECONFIGURE, NULL, NULL, 0) != 0)
        return err_sys(err, errno, "resize a tmpfs");
    return 0;
}
