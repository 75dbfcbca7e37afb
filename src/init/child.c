/* Owns what a program finds when it starts: streams, limits, signals, folder. Everything here runs
 * after fork(2), in a process that nothing else shares. */
#include "init/child.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fd.h"
#include "init/group.h"
#include "init/identity.h"
#include "init/terminal.h"
#include "wire/kernel_msg.h"

_Static_assert(KERNEL_FD == 3 && KERNEL_OUT_FD == 4, "STATUS_FD is the next one");

enum {
    EXIT_NOT_RUNNABLE = 126,
    EXIT_NOT_FOUND = 127,
    STATUS_FD = 5,
    OWN_FILES_MIN = 256,         /* init: a pipe a job, and more for the execution */
    OWN_FILES_MIN_CARRIED = 1024 /* and the sockets of a carrier's channels */
};
#define FILES_MOST (1U << 20) /* fs.nr_open, where nobody set it */
#define OWN_FILE_SIZE_MIN                                                                          \
    (1U << 20) /* init: what a kernel reads when it starts is a file in memory */
/* As if it had so many thousandths of the memory more. In a container that somebody else made init
 * is in the code's memory group, and what the engine asked for is on both. */
#define OOM_SCORE_ADJ "500"
#define OOM_SCORE_ADJ_CARRIED "800"

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

static void limit(int resource, rlim_t value)
{
    struct rlimit current;
    if (getrlimit(resource, &current) == 0 && value > current.rlim_max)
        value = current.rlim_max;
    struct rlimit wanted = {.rlim_cur = value, .rlim_max = value};
    (void)setrlimit(resource, &wanted);
}

static void set_common_limits(void)
{
    /* 1, not 0: a core pattern that is a pipe ignores 0 and is skipped for 1 (core(5)). */
    limit(RLIMIT_CORE, 1);
    limit(RLIMIT_NICE, 0);
    limit(RLIMIT_RTPRIO, 0);
    /* Since Linux 5.14 these three and RLIMIT_NPROC are counted for a user in a user namespace,
     * and in each one above it for the user that made it: here init, and then the first id of this
     * sandbox's own range on the host. So nothing that the code queues, locks or forks counts
     * against another sandbox or a user of the host (getrlimit(2), kernel/ucount.c). */
    limit(RLIMIT_SIGPENDING, 1024);
    limit(RLIMIT_MEMLOCK, 64 * 1024);
    limit(RLIMIT_MSGQUEUE, 0);
}

/* The cgroup's pids.max counts better: all users together. Without a user namespace of its own this
 * would count who has the same number in other containers. */
static bool limits_processes(const struct init_config *config)
{
    return config->cgroup_mode == INIT_CGROUP_NONE && !config->carried && config->pids_max > 0;
}

void child_set_limits(const struct init_config *config)
{
    set_common_limits();
    limit(RLIMIT_FSIZE, config->file_size_max);
    limit(RLIMIT_NOFILE, config->open_files_max);
    if (limits_processes(config))
        limit(RLIMIT_NPROC, config->pids_max);
}

/* prlimit(2) of another user's process asks for CAP_SYS_RESOURCE in the user namespace that it
 * lives in, which init has as the owner of that; and in the first one for a hard limit that goes
 * up. So what a start has not set yet can't undo this either. */
static int lower(pid_t pid, int resource, rlim_t value)
{
    struct rlimit current;
    if (prlimit(pid, resource, NULL, &current) != 0)
        return errno;
    const struct rlimit wanted = {
        .rlim_cur = value < current.rlim_cur ? value : current.rlim_cur,
        .rlim_max = value < current.rlim_max ? value : current.rlim_max,
    };
    return prlimit(pid, resource, &wanted, NULL) == 0 ? 0 : errno;
}

static int lower_all(pid_t pid, const struct init_config *config)
{
    int sys_errno = lower(pid, RLIMIT_FSIZE, config->file_size_max);
    if (sys_errno == 0)
        sys_errno = lower(pid, RLIMIT_NOFILE, config->open_files_max);
    if (sys_errno == 0 && limits_processes(config))
        sys_errno = lower(pid, RLIMIT_NPROC, config->pids_max);
    return sys_errno == ESRCH ? 0 : sys_errno;
}

/* In a container that somebody else made init owns no user namespace of the code's; there it is the
 * real ids that have to be the code's. With them alone it can be signalled, and a signal does
 * nothing to it (signals are blocked, and PID 1 is not stopped or killed from inside); and its
 * priority and processors can be set, which root in profile container may always. */
int child_lower_limits(pid_t pid, const struct init_config *config)
{
    int sys_errno = 0;
    if (!config->carried)
        return lower_all(pid, config);
    if (setresgid(identity_seen(config, config->gid), (gid_t)-1, (gid_t)-1) != 0 ||
        setresuid(identity_seen(config, config->uid), (uid_t)-1, (uid_t)-1) != 0)
        sys_errno = errno;
    else
        sys_errno = lower_all(pid, config);
    if (setresuid(0, (uid_t)-1, (uid_t)-1) != 0 || setresgid(0, (gid_t)-1, (gid_t)-1) != 0)
        _exit(1); /* no init at all is better than one with other ids */
    return sys_errno;
}

void child_set_own_limits(const struct init_config *config)
{
    set_common_limits();
    limit(RLIMIT_FSIZE,
          config->file_size_max < OWN_FILE_SIZE_MIN ? OWN_FILE_SIZE_MIN : config->file_size_max);
    rlim_t files = config->carried ? OWN_FILES_MIN_CARRIED : OWN_FILES_MIN;
    limit(RLIMIT_NOFILE, config->open_files_max < files ? files : config->open_files_max);
}

/* When the host runs out of memory, the code goes before init and before the host's services. A
 * preference, no protection: the code may take it back down to what init has (proc(5)). Fails where
 * there is no /proc. */
static void offer_to_oom(const struct init_config *config)
{
    (void)fd_write_file_at(AT_FDCWD, "/proc/self/oom_score_adj",
                           config->carried ? OOM_SCORE_ADJ_CARRIED : OOM_SCORE_ADJ, NULL);
}

int child_set_streams(const struct child_pipes *pipes)
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
void child_reset_signals(void)
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

static void close_one(int fd, bool on_exec)
{
    if (on_exec)
        (void)fcntl(fd, F_SETFD, FD_CLOEXEC);
    else
        (void)close(fd);
}

/* All that are open, by their names; without /proc, all that there may be. */
static void close_each(unsigned first, bool on_exec)
{
    DIR *dir = opendir("/proc/self/fd");
    const struct dirent *entry = NULL;
    struct rlimit limit = {.rlim_cur = FILES_MOST};
    while (dir && (entry = readdir(dir))) {
        char *end = NULL;
        long number = strtol(entry->d_name, &end, 10);
        if (end != entry->d_name && number >= (long)first && number != dirfd(dir))
            close_one((int)number, on_exec);
    }
    if (dir) {
        (void)closedir(dir);
        return;
    }
    (void)getrlimit(RLIMIT_NOFILE, &limit);
    unsigned most = limit.rlim_cur < FILES_MOST ? (unsigned)limit.rlim_cur : FILES_MOST;
    for (unsigned fd = first; fd < most; fd++)
        close_one((int)fd, on_exec);
}

/* The call is of Linux 5.9, its flag of 5.11, and a filter of the engine's may lack it. */
void child_close_from(unsigned first, bool on_exec)
{
    unsigned flags = on_exec ? 4U /* CLOSE_RANGE_CLOEXEC */ : 0;
    if (syscall(SYS_close_range, first, ~0U, flags) != 0 &&
        syscall(SYS_close_range, first, (unsigned)INT_MAX, flags) != 0) /* the most for gVisor */
        close_each(first, on_exec);
}

/* Init's descriptors are close-on-exec. Here they go earlier, before a path of the caller's is
 * touched: all but the one that tells of a failure, and a kernel's. Returns the former. */
static int keep_needed(const struct child_pipes *pipes)
{
    /* First out of the way of each other. */
    int status_fd = fcntl(pipes->status_fd, F_DUPFD_CLOEXEC, STATUS_FD + 1);
    const int wanted[2] = {pipes->kernel_fd, pipes->kernel_out_fd};
    int kept[2];
    for (int i = 0; i < 2; i++)
        kept[i] = wanted[i] >= 0 ? fcntl(wanted[i], F_DUPFD_CLOEXEC, STATUS_FD + 1) : -1;
    if (status_fd < 0 || dup3(status_fd, STATUS_FD, O_CLOEXEC) < 0)
        return pipes->status_fd;
    for (int i = 0; i < 2; i++) {
        if (kept[i] >= 0)
            (void)dup2(kept[i], KERNEL_FD + i);
        else
            (void)close(KERNEL_FD + i);
    }
    child_close_from(STATUS_FD + 1U, false);
    return STATUS_FD;
}

_Noreturn void child_exec(const struct init_config *config, const struct sandbox_exec *exec,
                          const struct child_pipes *pipes)
{
    int status_fd = pipes->status_fd;
    struct err err = ERR_INIT;
    if (group_join(config, &err) != 0)
        fail_start(status_fd, EXIT_NOT_RUNNABLE, "join the cgroup", err.sys_errno);
    offer_to_oom(config);
    (void)setsid();
    if (child_set_streams(pipes) != 0)
        fail_start(status_fd, EXIT_NOT_RUNNABLE, "standard streams", errno);
    const char *failed = identity_become_code(config, true);
    if (failed)
        fail_start(status_fd, EXIT_NOT_RUNNABLE, failed, errno);
    if (pipes->terminal_fd >= 0 && terminal_enter(pipes->terminal_fd, pipes->terminal) != 0)
        fail_start(status_fd, EXIT_NOT_RUNNABLE, "make a terminal", errno);
    status_fd = keep_needed(pipes);
    child_set_limits(config);
    (void)umask(022);
    if (chdir(exec->cwd) != 0)
        fail_start(status_fd, EXIT_NOT_RUNNABLE, exec->cwd, errno);
    child_reset_signals();
    int sys_errno = exec_found(exec);
    fail_start(status_fd, sys_errno == ENOENT ? EXIT_NOT_FOUND : EXIT_NOT_RUNNABLE, exec->argv[0],
               sys_errno);
}
