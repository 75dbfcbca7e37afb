/* Owns the walk through a folder that is to be built. Follows no link in it. */
#include "docker/context.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/fd.h"
#include "docker/ignore.h"

enum { DEPTH_MAX = 128, NAMES_MAX = 256 << 20, IGNORE_MAX = 1 << 20, EXIT_MISSING = 127 };

#define IGNORE_FILE ".dockerignore"

int context_temporary(int *out_fd, struct err *err)
{
    const char *folder = getenv("TMPDIR");
    folder = folder && folder[0] == '/' ? folder : "/var/tmp";
    int fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0 && errno == EOPNOTSUPP) { /* not every file system has such */
        char path[PATH_MAX];
        (void)snprintf(path, sizeof(path), "%s/berth-XXXXXX", folder);
        fd = mkostemp(path, O_CLOEXEC);
        if (fd >= 0)
            (void)unlink(path);
    }
    if (fd < 0)
        return err_sys(err, errno, "make a file in %s", folder);
    *out_fd = fd;
    return 0;
}

/* ---- which files ---- */

struct walk {
    struct ignore ignore;
    const char *dockerfile;
    char path[PATH_MAX];
    struct buf names; /* each with its NUL */
    unsigned depth;
};

/* The daemon reads both, and leaves out what it is to leave out of them itself. */
static bool is_needed(const struct walk *walk)
{
    return strcmp(walk->path, walk->dockerfile) == 0 || strcmp(walk->path, IGNORE_FILE) == 0;
}

static bool holds_needed(const struct walk *walk)
{
    size_t size = strlen(walk->path);
    return strncmp(walk->dockerfile, walk->path, size) == 0 && walk->dockerfile[size] == '/';
}

static int walk_folder(struct walk *walk, int parent_fd, const char *name, struct err *err);

static int take_entry(struct walk *walk, int folder_fd, const char *name, struct err *err)
{
    struct stat info;
    if (fstatat(folder_fd, name, &info, AT_SYMLINK_NOFOLLOW) != 0)
        return errno == ENOENT ? 0 : err_sys(err, errno, "look at %s", walk->path);
    if (!S_ISREG(info.st_mode) && !S_ISDIR(info.st_mode) && !S_ISLNK(info.st_mode))
        return 0;
    bool ignored = !is_needed(walk) && ignore_has(&walk->ignore, walk->path);
    if (!ignored && buf_append(&walk->names, walk->path, strlen(walk->path) + 1, NULL) != 0)
        return err_set(err, ERR_TOO_LARGE, "the folder has too many files");
    if (!S_ISDIR(info.st_mode) || (ignored && !walk->ignore.has_exceptions && !holds_needed(walk)))
        return 0;
    return walk_folder(walk, folder_fd, name, err);
}

static int walk_entries(struct walk *walk, DIR *folder, struct err *err)
{
    const size_t before = strlen(walk->path);
    int result = 0;
    while (result == 0) {
        errno = 0;
        const struct dirent *entry = readdir(folder);
        if (!entry)
            return errno == 0 ? 0 : err_sys(err, errno, "read the folder %s", walk->path);
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        int size = snprintf(walk->path + before, sizeof(walk->path) - before, "%s%s",
                            before > 0 ? "/" : "", entry->d_name);
        if (size < 0 || (size_t)size >= sizeof(walk->path) - before)
            result = err_set(err, ERR_BAD_INPUT, "a path below %.100s is too long", walk->path);
        else
            result = take_entry(walk, dirfd(folder), entry->d_name, err);
        walk->path[before] = '\0';
    }
    return result;
}

static int walk_folder(struct walk *walk, int parent_fd, const char *name, struct err *err)
{
    int fd = openat(parent_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *folder = fd >= 0 ? fdopendir(fd) : NULL;
    if (!folder) {
        int result = err_sys(err, errno, "open the folder %s", walk->path);
        fd_close(&fd);
        return result;
    }
    int result = ++walk->depth > DEPTH_MAX
                     ? err_set(err, ERR_BAD_INPUT, "%.100s: more than %d folders in each other",
                               walk->path, DEPTH_MAX)
                     : walk_entries(walk, folder, err);
    walk->depth--;
    (void)closedir(folder);
    return result;
}

static int read_ignore(struct walk *walk, int folder_fd, struct err *err)
{
    struct stat info;
    BUF_AUTO struct buf text;
    buf_init(&text, IGNORE_MAX);
    FD_AUTO int fd = openat(folder_fd, IGNORE_FILE, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? 0 : err_sys(err, errno, "open " IGNORE_FILE);
    if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode) || info.st_size > IGNORE_MAX)
        return err_set(err, ERR_BAD_INPUT, IGNORE_FILE " is no file of at most 1 MiB");
    uint8_t *room = buf_reserve(&text, (size_t)info.st_size + 1, err);
    ssize_t size = room ? read(fd, room, (size_t)info.st_size) : -1;
    if (size < 0)
        return err_sys(err, errno, "read " IGNORE_FILE);
    return ignore_read(&walk->ignore, (const char *)room, (size_t)size, err);
}

/* ---- the tar ---- */

static _Noreturn void run_tar(int folder_fd, int names_fd, int out_fd, pid_t parent)
{
    char names[64];
    (void)snprintf(names, sizeof(names), "/proc/self/fd/%d", names_fd);
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    if (getppid() == parent && fchdir(folder_fd) == 0 && dup2(out_fd, STDOUT_FILENO) >= 0 &&
        fcntl(names_fd, F_SETFD, 0) == 0)
        (void)execlp("tar", "tar", "--create", "--format=pax",
                     "--pax-option=delete=atime,delete=ctime", "--no-recursion",
                     "--hard-dereference", "--numeric-owner", "--owner=0", "--group=0", "--null",
                     "--verbatim-files-from", "--files-from", names, (char *)NULL);
    _exit(EXIT_MISSING);
}

/* Its exit code 1 says that a file changed while it was read. */
static int wait_tar(pid_t pid, struct err *err)
{
    int status = 0;
    while (waitpid(pid, &status, 0) < 0) {
        if (errno != EINTR)
            return err_sys(err, errno, "wait for tar");
    }
    if (WIFEXITED(status) && WEXITSTATUS(status) == EXIT_MISSING)
        return err_set(err, ERR_UNSUPPORTED, "tar can't be run");
    if (!WIFEXITED(status) || WEXITSTATUS(status) > 1)
        return err_set(err, ERR_INTERNAL, "tar failed");
    return 0;
}

static int write_tar(int folder_fd, const struct buf *names, int out_fd, struct err *err)
{
    const pid_t self = getpid();
    FD_AUTO int names_fd = memfd_create("names", MFD_CLOEXEC);
    if (names_fd < 0)
        return err_sys(err, errno, "make a file in memory");
    int result = fd_write_all(names_fd, names->data, names->size, err);
    if (result != 0)
        return result;
    pid_t pid = fork();
    if (pid < 0)
        return err_sys(err, errno, "start tar");
    if (pid == 0)
        run_tar(folder_fd, names_fd, out_fd, self);
    return wait_tar(pid, err);
}

static int measure(int fd, uint64_t *out_size, struct err *err)
{
    struct stat info;
    if (fstat(fd, &info) != 0)
        return err_sys(err, errno, "look at a file");
    *out_size = (uint64_t)info.st_size;
    return info.st_size > 0 ? 0 : err_set(err, ERR_BAD_INPUT, "there is nothing in it");
}

int context_make(const char *folder, const char *dockerfile, int *out_fd, uint64_t *out_size,
                 struct err *err)
{
    struct stat info;
    struct walk walk = {.dockerfile = dockerfile};
    FD_AUTO int fd = -1;
    FD_AUTO int folder_fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder_fd < 0)
        return err_sys(err, errno, "open the folder %s", folder);
    if (fstatat(folder_fd, dockerfile, &info, 0) != 0)
        return err_sys(err, errno, "find %s in %s", dockerfile, folder);
    ignore_init(&walk.ignore);
    buf_init(&walk.names, NAMES_MAX);
    int result = read_ignore(&walk, folder_fd, err);
    if (result == 0)
        result = walk_folder(&walk, folder_fd, ".", err);
    if (result == 0)
        result = context_temporary(&fd, err);
    if (result == 0)
        result = write_tar(folder_fd, &walk.names, fd, err);
    if (result == 0)
        result = measure(fd, out_size, err);
    ignore_done(&walk.ignore);
    buf_done(&walk.names);
    if (result == 0)
        *out_fd = fd_take(&fd);
    return result;
}

/* ---- one file ---- */

static int copy_all(int from_fd, int to_fd, struct err *err)
{
    static uint8_t data[1 << 16];
    for (;;) {
        ssize_t size = read(from_fd, data, sizeof(data));
        if (size < 0 && errno == EINTR)
            continue;
        if (size < 0)
            return err_sys(err, errno, "read it");
        if (size == 0)
            return 0;
        int result = fd_write_all(to_fd, data, (size_t)size, err);
        if (result != 0)
            return result;
    }
}

int context_open(const char *path, int *out_fd, uint64_t *out_size, struct err *err)
{
    struct stat info;
    FD_AUTO int copy_fd = -1;
    FD_AUTO int fd = strcmp(path, "-") == 0 ? fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3)
                                            : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &info) != 0)
        return err_sys(err, errno, "open %s", path);
    if (S_ISDIR(info.st_mode))
        return err_set(err, ERR_BAD_INPUT, "%s is a folder", path);
    if (!S_ISREG(info.st_mode) || lseek(fd, 0, SEEK_CUR) != 0) {
        int result = context_temporary(&copy_fd, err);
        if (result == 0)
            result = copy_all(fd, copy_fd, err);
        if (result != 0)
            return result;
        fd_close(&fd);
        fd = fd_take(&copy_fd);
    }
    int result = measure(fd, out_size, err);
    if (result != 0)
        return err ? err_wrap(err, "%s", path) : result;
    *out_fd = fd_take(&fd);
    return 0;
}
