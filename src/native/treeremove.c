/* Owns the removal of trees. A folder that is not empty is moved up beside the others of the top,
 * so that there is never a way down to remember, and ".." is never followed. */
#include "native/treeremove.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"

enum { NICE = 10 };

struct removal {
    int top_fd;
    uint64_t counter; /* names for what is moved up */
};

static bool is_dots(const char *name)
{
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

/* Removes a file, a link or an empty folder. Returns 0, or an errno: ENOTEMPTY for a folder that
 * has something in it. */
static int remove_one(int dir_fd, const char *name)
{
    if (unlinkat(dir_fd, name, 0) == 0 || errno == ENOENT)
        return 0;
    if (errno != EISDIR && errno != EPERM)
        return errno;
    if (unlinkat(dir_fd, name, AT_REMOVEDIR) == 0 || errno == ENOENT)
        return 0;
    return errno == EEXIST ? ENOTEMPTY : errno;
}

static int move_up(struct removal *removal, int dir_fd, const char *name, struct err *err)
{
    char target[32];
    do {
        (void)snprintf(target, sizeof(target), "%" PRIu64, removal->counter++);
        if (renameat2(dir_fd, name, removal->top_fd, target, RENAME_NOREPLACE) == 0)
            return 0;
    } while (errno == EEXIST);
    return err_sys(err, errno, "move a folder up");
}

static DIR *open_dir(int parent_fd, const char *name)
{
    int fd = openat(parent_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    if (!dir)
        fd_close(&fd);
    return dir;
}

/* What becomes of a folder that has something in it. */
typedef int (*full_fn)(struct removal *removal, int dir_fd, const char *name, struct err *err);

/* Removes the entries of a folder, and leaves the full folders among them to on_full. *left tells
 * whether anything was there. */
static int remove_entries(struct removal *removal, const char *name, full_fn on_full, bool *left,
                          struct err *err)
{
    DIR *dir = open_dir(removal->top_fd, name);
    if (!dir)
        return err_sys(err, errno, "open a folder to remove it");
    int result = 0;
    const struct dirent *entry = NULL;
    *left = false;
    while (result == 0 && (entry = readdir(dir))) {
        if (is_dots(entry->d_name))
            continue;
        *left = true;
        int failed = remove_one(dirfd(dir), entry->d_name);
        if (failed == ENOTEMPTY)
            result = on_full(removal, dirfd(dir), entry->d_name, err);
        else if (failed != 0)
            result = err_sys(err, failed, "remove an entry");
    }
    (void)closedir(dir);
    return result;
}

/* Removes one folder of the top: what is in it goes, or moves up. */
static int remove_child(struct removal *removal, int dir_fd, const char *name, struct err *err)
{
    bool left = false;
    int result = remove_entries(removal, name, move_up, &left, err);
    if (result != 0)
        return result;
    int failed = remove_one(dir_fd, name);
    /* A folder may show less than it has while it is changed: the next round sees the rest. */
    return failed == 0 || failed == ENOTEMPTY ? 0 : err_sys(err, failed, "remove a folder");
}

int treeremove_folder(int parent_fd, const char *name, struct err *err)
{
    FD_AUTO int top_fd = openat(parent_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (top_fd < 0)
        return errno == ENOENT ? 0 : err_sys(err, errno, "open %s", name);
    struct removal removal = {.top_fd = top_fd};
    bool left = true;
    while (left) {
        int result = remove_entries(&removal, ".", remove_child, &left, err);
        if (result != 0)
            return err_wrap(err, "remove %s", name);
    }
    if (unlinkat(parent_fd, name, AT_REMOVEDIR) != 0 && errno != ENOENT)
        return err_sys(err, errno, "remove %s", name);
    return 0;
}

/* In the child. */
static _Noreturn void remove_and_exit(pid_t engine, int parent_fd, const char *name)
{
    struct err err = ERR_INIT;
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    if (getppid() != engine)
        _exit(1);
    (void)setpriority(PRIO_PROCESS, 0, NICE); /* sandboxes come first */
    /* With copies of the engine's sockets others would take a dead engine for a living one. */
    if (dup2(parent_fd, 3) < 0)
        _exit(1);
    (void)syscall(SYS_close_range, 4U, ~0U, 0U);
    if (treeremove_folder(3, name, &err) == 0)
        _exit(0);
    log_warn("%s", err.message);
    _exit(1);
}

int treeremove_start(int parent_fd, const char *name, pid_t *out_pid, int *out_pidfd,
                     struct err *err)
{
    pid_t engine = getpid();
    pid_t pid = fork();
    if (pid < 0)
        return err_sys(err, errno, "fork");
    if (pid == 0)
        remove_and_exit(engine, parent_fd, name);
    int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (pidfd < 0) {
        int saved = errno;
        (void)kill(pid, SIGKILL);
        (void)waitpid(pid, NULL, 0);
        return err_sys(err, saved, "pidfd_open");
    }
    *out_pid = pid;
    *out_pidfd = pidfd;
    return 0;
}

/* Waits until the engine has closed its copy: only then is ours the last. */
static _Noreturn void release_and_exit(int fd, int wait_fd)
{
    char byte = 0;
    if (dup2(fd, 3) < 0 || dup2(wait_fd, 4) < 0)
        _exit(1);
    (void)syscall(SYS_close_range, 5U, ~0U, 0U);
    (void)setpriority(PRIO_PROCESS, 0, NICE);
    while (read(4, &byte, 1) < 0 && errno == EINTR) {
    }
    _exit(0);
}

/* At the worst rate that was seen (24 s for 2 GiB that code wrote all over) what is smaller takes
 * as long as the forks of a few sandboxes do; most disks hold little, and need no process. */
static bool is_large(int fd)
{
    struct stat info;
    return fstat(fd, &info) != 0 || (uint64_t)info.st_blocks * 512 > TREEREMOVE_SMALL_BYTES;
}

void treeremove_release(int *fd)
{
    int ends[2];
    if (*fd < 0 || !is_large(*fd) || pipe2(ends, O_CLOEXEC) != 0) {
        fd_close(fd);
        return;
    }
    /* Twice, so that nobody has to wait for it. The first copies are out of the way of dup2(). */
    pid_t pid = fork();
    if (pid == 0) {
        (void)prctl(PR_SET_NAME, "berth-release", 0, 0, 0); /* it is no second engine */
        int file_fd = fcntl(*fd, F_DUPFD_CLOEXEC, 8);
        int wait_fd = fcntl(ends[0], F_DUPFD_CLOEXEC, 8);
        if (fork() == 0)
            release_and_exit(file_fd, wait_fd);
        _exit(0);
    }
    while (pid > 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR) {
    }
    fd_close(fd);
    (void)close(ends[0]);
    (void)close(ends[1]);
}
