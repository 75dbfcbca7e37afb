/* Tests that need a process of their own: a function run in a forked child, root, a folder that is
 * removed. A child must not use cmocka's asserts, which would jump into the parent's runner: it
 * says what failed by require(). */
#ifndef BERTH_TESTS_UNIT_CHILD_H
#define BERTH_TESTS_UNIT_CHILD_H

#include <fcntl.h>
#include <ftw.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CHILD_FAILED = 1, CHILD_SKIPPED = 77 };

/* In a child: the condition holds, or the child ends as failed and says where. */
#define require(condition)                                                                         \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            (void)fprintf(stderr, "# %s:%d: %s\n", __FILE__, __LINE__, #condition);                \
            _exit(CHILD_FAILED);                                                                   \
        }                                                                                          \
    } while (0)

#define require_ok(call, err)                                                                      \
    do {                                                                                           \
        if ((call) < 0) {                                                                          \
            (void)fprintf(stderr, "# %s:%d: %s: %s\n", __FILE__, __LINE__, #call, (err).message);  \
            _exit(CHILD_FAILED);                                                                   \
        }                                                                                          \
    } while (0)

/* cmocka's skip() knows no reason: it is printed before. */
#define skip_because(reason)                                                                       \
    do {                                                                                           \
        print_message("# skipped: %s\n", reason);                                                  \
        skip();                                                                                    \
    } while (0)

#define skip_unless_root()                                                                         \
    do {                                                                                           \
        if (geteuid() != 0)                                                                        \
            skip_because("needs root");                                                            \
    } while (0)

/* Runs fn in a child that dies with this process; the wait status is the child's exit code, or 128
 * + n for signal n. */
static inline int child_run(void (*fn)(void *context), void *context)
{
    (void)fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
        fn(context);
        _exit(0);
    }
    int status = 0;
    if (pid < 0 || waitpid(pid, &status, 0) != pid)
        return -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* In a child: a mount namespace whose mounts nobody else sees. */
static inline void child_leave_mounts(void)
{
    require(unshare(CLONE_NEWNS) == 0);
    require(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0);
}

/* In a child, as root: a user namespace with 65,536 ids that begin at first, and the process that
 * holds it until it is killed. */
static inline int child_open_userns(unsigned first, pid_t *out_pid)
{
    static const char *const files[] = {"uid_map", "gid_map"};
    int ready[2];
    char byte = 0;
    char path[64];
    char map[64];
    require(pipe2(ready, O_CLOEXEC) == 0);
    /* Not unshare(2): ThreadSanitizer's own thread makes it fail. */
    pid_t pid = (pid_t)syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0L, 0L, 0L, 0L);
    if (pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
        require(write(ready[1], "R", 1) == 1);
        for (;;)
            (void)pause();
    }
    (void)close(ready[1]);
    require(pid > 0 && read(ready[0], &byte, 1) == 1);
    (void)close(ready[0]);
    int size = snprintf(map, sizeof(map), "0 %u 65536\n", first);
    for (int i = 0; i < 2; i++) {
        (void)snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, files[i]);
        int fd = open(path, O_WRONLY | O_CLOEXEC);
        require(fd >= 0 && write(fd, map, (size_t)size) == size);
        (void)close(fd);
    }
    (void)snprintf(path, sizeof(path), "/proc/%d/ns/user", (int)pid);
    *out_pid = pid;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    require(fd >= 0);
    return fd;
}

static inline int child_remove_entry(const char *path, const struct stat *info, int type,
                                     struct FTW *place)
{
    (void)info;
    (void)type;
    (void)place;
    return remove(path);
}

/* Removes a folder with all that is in it; links are not followed, other mounts not entered. */
static inline void child_remove_tree(const char *path)
{
    (void)nftw(path, child_remove_entry, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}

#endif
