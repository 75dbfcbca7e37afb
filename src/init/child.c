/* Owns the way from init's identity down to the code's. Everything here runs after fork(2), in a
 * process that nothing else shares. */
#include "init/child.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/openat2.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fd.h"
#include "init/group.h"
#include "init/strict_filter.h"

#ifndef CLONE_NEWCGROUP
#define CLONE_NEWCGROUP 0x02000000
#endif

enum { EXIT_NOT_RUNNABLE = 126, EXIT_NOT_FOUND = 127, LAST_CAP = 63 };

/* Reports why nothing was started, and ends the child. */
static _Noreturn void fail_start(int status_fd, int exit_code, const char *what, int sys_errno)
{
    char text[256];
    text[0] = (char)exit_code;
    int size = snprintf(text + 1, sizeof(text) - 1, "%s: %s", what, strerror(sys_errno));
    size_t total = 1 + (size > 0 ? (size_t)size : 0);
    if (total > sizeof(text))
        total = sizeof(text);
    (void)fd_write_all(status_fd, text, total, NULL);
    _exit(exit_code);
}

/* The code's own identity: inner user namespace, no capability, no way back. Returns what failed.
 */
static const char *become_code(const struct init_config *config)
{
    if (config->userns_fd >= 0) {
        if (setns(config->userns_fd, CLONE_NEWUSER) != 0)
            return "enter the user namespace";
        /* From here /proc/self/cgroup says "/", whatever the host calls the group. */
        if (unshare(CLONE_NEWCGROUP) != 0)
            return "cgroup namespace";
        for (int cap = 0; cap <= LAST_CAP; cap++)
            (void)prctl(PR_CAPBSET_DROP, cap, 0, 0, 0); /* EINVAL past the kernel's last one */
        if (setgroups(0, NULL) != 0)
            return "drop groups";
        if (setresgid(config->gid, config->gid, config->gid) != 0)
            return "set the group";
        if (setresuid(config->uid, config->uid, config->uid) != 0)
            return "set the user";
        /* Ids that were never 0 in this namespace keep their capabilities through setresuid(2). */
        struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
        struct __user_cap_data_struct none[2];
        memset(none, 0, sizeof(none));
        if (syscall(SYS_capset, &header, none) != 0)
            return "drop capabilities";
    }
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        return "no new privileges";
    return NULL;
}

static void limit(int resource, rlim_t value)
{
    struct rlimit current;
    if (getrlimit(resource, &current) == 0 && value > current.rlim_max)
        value = current.rlim_max;
    struct rlimit wanted = {.rlim_cur = value, .rlim_max = value};
    (void)setrlimit(resource, &wanted);
}

static void set_limits(const struct init_config *config)
{
    limit(RLIMIT_NOFILE, config->open_files_max);
    limit(RLIMIT_FSIZE, config->file_size_max);
    /* 1, not 0: a core pattern that is a pipe ignores 0 and is skipped for 1 (core(5)). */
    limit(RLIMIT_CORE, 1);
    limit(RLIMIT_MEMLOCK, 64 * 1024);
    limit(RLIMIT_MSGQUEUE, 0);
    limit(RLIMIT_RTPRIO, 0);
    limit(RLIMIT_SIGPENDING, 1024);
}

int child_seccomp_strict(void)
{
    struct sock_filter code[STRICT_FILTER_COUNT];
    memcpy(code, strict_filter, sizeof(code));
    struct sock_fprog program = {.len = STRICT_FILTER_COUNT, .filter = code};
    return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program);
}

/* Standard streams in place; nothing else survives exec, since init's descriptors are all
 * close-on-exec and close_range says it once more. */
static int set_streams(const struct child_pipes *pipes)
{
    int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null_fd < 0)
        return -1;
    const int wanted[3] = {pipes->stdin_fd, pipes->stdout_fd, pipes->stderr_fd};
    for (int i = 0; i < 3; i++) {
        if (dup2(wanted[i] >= 0 ? wanted[i] : null_fd, i) < 0)
            return -1;
    }
    return 0;
}

/* By the raw call: libc hides two or three signals for its threads and would leave them ignored
 * when whoever started us had them so. */
static void reset_signals(void)
{
    static const unsigned long by_default[4]; /* handler, flags, restorer, mask: all zero */
    for (int number = 1; number <= 64; number++)
        (void)syscall(SYS_rt_sigaction, number, by_default, NULL, sizeof(by_default[0]));
    sigset_t none;
    (void)sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
}

static const char *env_value(const struct sandbox_exec *exec, const char *name)
{
    size_t size = strlen(name);
    for (size_t i = 0; i < exec->envc; i++) {
        if (strncmp(exec->envp[i], name, size) == 0 && exec->envp[i][size] == '=')
            return exec->envp[i] + size + 1;
    }
    return NULL;
}

/* execve(2) wants arrays of non-const strings and promises not to write to them. */
static void exec_at(const char *path, const struct sandbox_exec *exec)
{
    char *const *argv = NULL;
    char *const *envp = NULL;
    memcpy(&argv, &exec->argv, sizeof(argv));
    memcpy(&envp, &exec->envp, sizeof(envp));
    (void)execve(path, argv, envp);
}

/* Looks argv[0] up in the PATH of the new environment, as execvp(3) would in ours. */
static int exec_found(const struct sandbox_exec *exec)
{
    const char *name = exec->argv[0];
    if (strchr(name, '/')) {
        exec_at(name, exec);
        return errno;
    }
    const char *path = env_value(exec, "PATH");
    int result = ENOENT;
    for (const char *start = path ? path : "/usr/bin:/bin"; start;) {
        const char *end = strchr(start, ':');
        int size = end ? (int)(end - start) : (int)strlen(start);
        char full[SANDBOX_PATH_MAX];
        if (snprintf(full, sizeof(full), "%.*s/%s", size, start, name) < (int)sizeof(full)) {
            exec_at(full, exec);
            if (errno != ENOENT && errno != ENOTDIR)
                result = errno;
        }
        start = end ? end + 1 : NULL;
    }
    return result;
}

_Noreturn void child_exec(const struct init_config *config, const struct sandbox_exec *exec,
                          const struct child_pipes *pipes)
{
    int status_fd = pipes->status_fd;
    struct err err = ERR_INIT;
    if (group_join(config, &err) != 0)
        fail_start(status_fd, EXIT_NOT_RUNNABLE, "join the cgroup", err.sys_errno);
    (void)setsid();
    if (set_streams(pipes) != 0)
        fail_start(status_fd, EXIT_NOT_RUNNABLE, "standard streams", errno);
    const char *failed = become_code(config);
    if (failed)
        fail_start(status_fd, EXIT_NOT_RUNNABLE, failed, errno);
    set_limits(config);
    (void)umask(022);
    if (chdir(exec->cwd) != 0)
        fail_start(status_fd, EXIT_NOT_RUNNABLE, exec->cwd, errno);
    reset_signals();
    (void)syscall(SYS_close_range, 3U, ~0U, 4U /* CLOSE_RANGE_CLOEXEC */);
    if (child_seccomp_strict() != 0)
        fail_start(status_fd, EXIT_NOT_RUNNABLE, "seccomp filter", errno);
    int sys_errno = exec_found(exec);
    fail_start(status_fd, sys_errno == ENOENT ? EXIT_NOT_FOUND : EXIT_NOT_RUNNABLE, exec->argv[0],
               sys_errno);
}

/* openat2(2) below the root: symbolic links stay inside, /proc and other mounts are refused, so the
 * code can't make us write anywhere but into its own writable root. */
static int open_inside(int dir_fd, const char *path, int flags, mode_t mode)
{
    struct open_how how;
    memset(&how, 0, sizeof(how));
    how.flags = (unsigned)flags | O_CLOEXEC;
    how.mode = (flags & O_CREAT) != 0 ? mode : 0;
    how.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV;
    return (int)syscall(SYS_openat2, dir_fd, path, &how, sizeof(how));
}

/* Opens the folder of an absolute path, making what is missing; *name is its last component.
 * Each prefix is resolved from the root, since a link in the middle may be absolute. */
static int open_parent(int root_fd, char *path, const char **name)
{
    FD_AUTO int parent = open_inside(root_fd, "/", O_PATH | O_DIRECTORY, 0);
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
        int next = open_inside(root_fd, path, O_PATH | O_DIRECTORY, 0);
        if (next < 0 && errno == ENOENT) {
            if (mkdirat(parent, start, 0755) != 0 && errno != EEXIST)
                return -1;
            next = open_inside(root_fd, path, O_PATH | O_DIRECTORY, 0);
        }
        fd_close(&parent);
        parent = next;
        *slash = '/';
        start = slash + 1;
    }
    return -1;
}

/* Returns 0 or an errno. */
static int put_file(const struct sandbox_put_file *put)
{
    char path[2 * SANDBOX_PATH_MAX];
    (void)snprintf(path, sizeof(path), "%s%s", put->path[0] == '/' ? "" : "/workspace/", put->path);
    FD_AUTO int root_fd = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (root_fd < 0)
        return errno;
    const char *name = NULL;
    FD_AUTO int parent_fd = open_parent(root_fd, path, &name);
    if (parent_fd < 0)
        return errno;
    if (*name == '\0')
        return EISDIR;
    /* A FIFO planted here would block an open without O_NONBLOCK. */
    FD_AUTO int fd =
        open_inside(root_fd, path, O_WRONLY | O_CREAT | O_NONBLOCK | O_NOCTTY, (mode_t)put->mode);
    struct stat info;
    if (fd < 0 || fstat(fd, &info) != 0)
        return errno;
    if (!S_ISREG(info.st_mode))
        return EINVAL;
    if (ftruncate(fd, 0) != 0 || fchmod(fd, (mode_t)put->mode) != 0)
        return errno;
    for (;;) {
        char chunk[32 * 1024];
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

_Noreturn void child_put_file(const struct init_config *config, const struct sandbox_put_file *put,
                              const struct child_pipes *pipes)
{
    if (group_join(config, NULL) != 0 || set_streams(pipes) != 0 || become_code(config))
        _exit(errno > 0 && errno < 128 ? errno : EIO);
    /* Among init's descriptors is the other end of our own standard input. */
    (void)syscall(SYS_close_range, 3U, ~0U, 0U);
    set_limits(config);
    reset_signals();
    (void)signal(SIGXFSZ, SIG_IGN); /* EFBIG is an answer, a signal is not */
    (void)umask(022);
    _exit(put_file(put));
}
