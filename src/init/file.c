/* Owns the way from a caller's path to the bytes of one regular file. */
#include "init/file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "init/group.h"
#include "init/identity.h"

#define INSIDE ((uint64_t)(RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS))
#define CHUNK (64U * 1024U)
#define OPEN_TRIES 1000 /* renames without a pause are to end too */

#ifndef MQUEUE_MAGIC
#define MQUEUE_MAGIC 0x19800202
#endif

/* gVisor has no openat2(2), nor has Linux before 5.6. We are the code's user there, in the code's
 * own root, and what a link leads to the code could open itself; what is_kernels_own() is refused
 * to writers as well then. */
static bool is_plain;

/* A filter of the engine's may know no such call, and says EPERM then (runc before 1.0.0-rc93). */
static bool is_forbidden(int root_fd)
{
    struct open_how how = {.flags = O_PATH | O_CLOEXEC};
    FD_AUTO int fd = (int)syscall(SYS_openat2, root_fd, ".", &how, sizeof(how));
    return fd < 0 && errno == EPERM;
}

/* A ".." in the path is EAGAIN when anything of the host was renamed or mounted meanwhile, since
 * the kernel then can't tell that it stayed inside; to be tried again (openat2(2)). */
static int open_inside(int root_fd, const char *path, int flags, mode_t mode, uint64_t resolve)
{
    struct open_how how;
    memset(&how, 0, sizeof(how));
    how.flags = (unsigned)flags | O_CLOEXEC;
    how.mode = (flags & O_CREAT) != 0 ? mode : 0;
    how.resolve = resolve;
    int fd = -1;
    for (int i = 0; i < OPEN_TRIES; i++) {
        fd = (int)syscall(SYS_openat2, root_fd, path, &how, sizeof(how));
        if (fd >= 0 || errno != EAGAIN)
            break;
    }
    is_plain = fd < 0 && (errno == ENOSYS || (errno == EPERM && is_forbidden(root_fd)));
    return is_plain ? openat(root_fd, path, flags | O_CLOEXEC, mode) : fd;
}

/* Writing stays on the root's own mount: nothing below it is the code's to write but what the code
 * could write itself, and a path of the caller's has no business there. */
static int open_own(int root_fd, const char *path, int flags, mode_t mode)
{
    return open_inside(root_fd, path, flags, mode, INSIDE | RESOLVE_NO_XDEV);
}

static void full_path(const char *path, char *out, size_t size)
{
    (void)snprintf(out, size, "%s%s", path[0] == '/' ? "" : "/workspace/", path);
}

/* Opens the folder of an absolute path, making what is missing; *name is its last component.
 * Each prefix is resolved from the root, since a link in the middle may be absolute. */
static int open_parent(int root_fd, char *path, const char **name)
{
    FD_AUTO int parent = open_own(root_fd, "/", O_PATH | O_DIRECTORY, 0);
    char *start = path;
    while (parent >= 0) {
        while (*start == '/')
            start++;
        char *slash = strchr(start, '/');
        if (!slash) {
            *name = start;
            return fd_take(&parent);
        }
        *slash = '\0';
        int next = open_own(root_fd, path, O_PATH | O_DIRECTORY, 0);
        if (next < 0 && errno == ENOENT) {
            if (mkdirat(parent, start, 0755) != 0 && errno != EEXIST)
                return -1;
            next = open_own(root_fd, path, O_PATH | O_DIRECTORY, 0);
        }
        fd_close(&parent);
        parent = next;
        *slash = '/';
        start = slash + 1;
    }
    return -1;
}

/* Returns 0 or an errno. */
static int copy_in(int fd)
{
    for (;;) {
        char chunk[CHUNK / 2];
        ssize_t got = read(STDIN_FILENO, chunk, sizeof(chunk));
        if (got == 0)
            return 0;
        if (got < 0)
            return errno;
        const char *cursor = chunk;
        while (got > 0) {
            ssize_t written = write(fd, cursor, (size_t)got);
            if (written < 0)
                return errno;
            cursor += written;
            got -= written;
        }
    }
}

/* A file that the kernel makes up when it is read: no bytes of the sandbox's. */
static bool is_kernels_own(int fd)
{
    static const uint32_t types[] = {PROC_SUPER_MAGIC,    SYSFS_MAGIC,        CGROUP_SUPER_MAGIC,
                                     CGROUP2_SUPER_MAGIC, DEVPTS_SUPER_MAGIC, MQUEUE_MAGIC,
                                     NSFS_MAGIC,          SECURITYFS_MAGIC,   DEBUGFS_MAGIC,
                                     TRACEFS_MAGIC,       BPF_FS_MAGIC,       EFIVARFS_MAGIC,
                                     PSTOREFS_MAGIC,      BINFMTFS_MAGIC};
    struct statfs info;
    if (fstatfs(fd, &info) != 0)
        return true;
    for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
        if ((uint32_t)info.f_type == types[i])
            return true;
    }
    return false;
}

static int write_file(const struct sandbox_put_file *put)
{
    char path[2 * SANDBOX_PATH_MAX];
    mode_t mode = (mode_t)put->mode;
    full_path(put->path, path, sizeof(path));
    FD_AUTO int root_fd = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (root_fd < 0)
        return errno;
    const char *name = NULL;
    FD_AUTO int parent_fd = open_parent(root_fd, path, &name);
    if (parent_fd < 0)
        return errno;
    if (*name == '\0')
        return EISDIR;
    /* A FIFO planted here would block an open without O_NONBLOCK, and so would a lease. */
    FD_AUTO int fd = open_own(root_fd, path, O_WRONLY | O_CREAT | O_NONBLOCK | O_NOCTTY, mode);
    struct stat info;
    if (fd < 0 || fstat(fd, &info) != 0)
        return errno;
    if (!S_ISREG(info.st_mode))
        return EINVAL;
    if (is_plain && is_kernels_own(fd))
        return EXDEV;
    /* First what may fail: another user's file that we may write, but not change the mode of, keeps
     * its bytes. From here on the name plays no part: whatever the code does to it, the bytes go
     * into the file that was checked. */
    if ((info.st_mode & 07777) != mode && fchmod(fd, mode) != 0)
        return errno;
    if (ftruncate(fd, 0) != 0)
        return errno;
    return copy_in(fd);
}

/* Returns 0 or an errno. */
static int check_readable(int fd, struct stat *info)
{
    if (fd < 0 || fstat(fd, info) != 0)
        return errno;
    if (S_ISDIR(info->st_mode))
        return EISDIR;
    if (!S_ISREG(info->st_mode))
        return EINVAL;
    return is_kernels_own(fd) ? EACCES : 0;
}

/* To open is already to act, on a device or a FIFO: looked at first by O_PATH, which does not. The
 * name is resolved a second time then, since only /proc could turn the one descriptor into the
 * other, and what it leads to must be the same file still. */
static int open_readable(const char *path, int *out_fd, struct stat *info)
{
    struct stat seen = {0};
    FD_AUTO int root_fd = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (root_fd < 0)
        return errno;
    FD_AUTO int seen_fd = open_inside(root_fd, path, O_PATH, 0, INSIDE);
    int result = check_readable(seen_fd, &seen);
    if (result != 0)
        return result;
    FD_AUTO int fd = open_inside(root_fd, path, O_RDONLY | O_NONBLOCK | O_NOCTTY, 0, INSIDE);
    result = check_readable(fd, info);
    if (result != 0)
        return result;
    if (info->st_dev != seen.st_dev || info->st_ino != seen.st_ino)
        return ESTALE;
    *out_fd = fd_take(&fd);
    return 0;
}

/* Returns 0 or an errno. */
static int send_bytes(const void *data, size_t size)
{
    struct err err = ERR_INIT;
    if (fd_write_all(STDOUT_FILENO, data, size, &err) == 0)
        return 0;
    return err.sys_errno > 0 ? err.sys_errno : EPIPE;
}

static int64_t time_ns(const struct timespec *time)
{
    return (int64_t)((uint64_t)time->tv_sec * 1000000000U + (uint64_t)time->tv_nsec);
}

static int send_info(const struct stat *info)
{
    const struct sandbox_file_info told = {.size_bytes = (uint64_t)info->st_size,
                                           .inode = info->st_ino,
                                           .changed_ns = time_ns(&info->st_ctim),
                                           .modified_ns = time_ns(&info->st_mtim)};
    uint8_t bytes[SANDBOX_FILE_INFO_SIZE];
    sandbox_file_info_encode(&told, bytes);
    return send_bytes(bytes, sizeof(bytes));
}

static int read_file(const struct sandbox_get_file *get)
{
    static char chunk[CHUNK];
    char path[2 * SANDBOX_PATH_MAX];
    FD_AUTO int fd = -1;
    struct stat info = {0};
    full_path(get->path, path, sizeof(path));
    int result = open_readable(path, &fd, &info);
    if (result == 0 && get->info != SANDBOX_INFO_NONE)
        result = send_info(&info);
    if (result != 0 || get->info == SANDBOX_INFO_ONLY)
        return result;
    uint64_t end = (uint64_t)info.st_size;
    if (get->size_bytes > 0 && get->offset < end && get->size_bytes < end - get->offset)
        end = get->offset + get->size_bytes;
    for (uint64_t offset = get->offset; offset < end;) {
        size_t size = end - offset < sizeof(chunk) ? (size_t)(end - offset) : sizeof(chunk);
        ssize_t got = pread(fd, chunk, size, (off_t)offset);
        if (got < 0)
            return errno;
        if (got == 0)
            return 0; /* it was cut meanwhile */
        result = send_bytes(chunk, (size_t)got);
        if (result != 0)
            return result;
        offset += (uint64_t)got;
    }
    return 0;
}

/* No filter of the code's is added: nothing of the code's runs here, and init's own is on. */
static void begin(const struct init_config *config, const struct child_pipes *pipes)
{
    errno = 0;
    if (group_join(config, NULL) != 0 || child_set_streams(pipes) != 0 ||
        identity_become_code(config, false))
        _exit(errno > 0 && errno < 128 ? errno : EIO);
    /* Among init's descriptors is the other end of our own pipe. */
    child_close_from(3, false);
    child_set_limits(config);
    child_reset_signals();
    (void)umask(022);
}

_Noreturn void file_put(const struct init_config *config, const struct sandbox_put_file *put,
                        const struct child_pipes *pipes)
{
    begin(config, pipes);
    (void)signal(SIGXFSZ, SIG_IGN); /* EFBIG is an answer, a signal is not */
    _exit(write_file(put));
}

_Noreturn void file_get(const struct init_config *config, const struct sandbox_get_file *get,
                        const struct child_pipes *pipes)
{
    begin(config, pipes);
    _exit(read_file(get));
}
