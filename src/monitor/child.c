/* Owns what happens between fork and exec. Everything that the child gives up, it gives up before
 * the other program runs. */
#include "monitor/child.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/close_range.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"

enum { EXIT_SETUP = 127 };

int child_open_program(const char *name, int *out_fd, struct err *err)
{
    char path[PATH_MAX];
    ssize_t size = readlink("/proc/self/exe", path, sizeof(path) - 1);
    if (size < 0)
        return err_sys(err, errno, "find this program's own path");
    path[size] = '\0';
    char *slash = strrchr(path, '/');
    if (!slash)
        return err_set(err, ERR_INTERNAL, "this program has no folder");
    *slash = '\0';
    FD_AUTO int dir_fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (dir_fd < 0)
        return err_sys(err, errno, "open %s", path);
    FD_AUTO int fd = openat(dir_fd, name, O_PATH | O_CLOEXEC);
    if (fd < 0)
        return err_sys(err, errno, "open the program %s in %s", name, path);
    *out_fd = fd_take(&fd);
    return 0;
}

/* Puts the descriptors where the child expects them and leaves no other open past exec. */
static int place_fds(const struct child_spec *spec, struct err *err)
{
    int high[CHILD_FDS_MAX];
    for (size_t i = 0; i < spec->fd_count; i++) {
        /* Above all targets first: a source may lie where another one has to go. */
        high[i] = fcntl(spec->fds[i], F_DUPFD_CLOEXEC, CHILD_FIRST_FD + CHILD_FDS_MAX);
        if (high[i] < 0)
            return err_sys(err, errno, "duplicate a descriptor");
    }
    int program_fd = fcntl(spec->program_fd, F_DUPFD_CLOEXEC, CHILD_FIRST_FD + CHILD_FDS_MAX);
    if (program_fd < 0)
        return err_sys(err, errno, "duplicate a descriptor");
    if (close_range(CHILD_FIRST_FD, ~0U, CLOSE_RANGE_CLOEXEC) != 0)
        return err_sys(err, errno, "close_range");
    for (size_t i = 0; i < spec->fd_count; i++) {
        if (dup2(high[i], CHILD_FIRST_FD + (int)i) < 0)
            return err_sys(err, errno, "place a descriptor");
    }
    int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null_fd < 0 || dup2(null_fd, STDIN_FILENO) < 0 || dup2(STDERR_FILENO, STDOUT_FILENO) < 0)
        return err_sys(err, errno, "set up standard input and output");
    return program_fd;
}

/* Gives up root for good (capabilities(7), "Effect of user ID changes on capabilities"). */
static int drop_privileges(const struct child_spec *spec, struct err *err)
{
    for (unsigned long cap = 0; cap < 64; cap++) {
        if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) != 0 && errno == EINVAL)
            break; /* past the last capability of this kernel */
    }
    if (setgroups(1, &spec->gid) != 0 || setresgid(spec->gid, spec->gid, spec->gid) != 0 ||
        setresuid(spec->uid, spec->uid, spec->uid) != 0)
        return err_sys(err, errno, "become uid %u", spec->uid);
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3];
    memset(none, 0, sizeof(none));
    if (syscall(SYS_capset, &header, none) != 0)
        return err_sys(err, errno, "drop all capabilities");
    if (spec->uid != 0 && setresuid(0, 0, 0) == 0)
        return err_set(err, ERR_INTERNAL, "root could be had back");
    (void)umask(077);
    return 0;
}

static int set_up(const struct child_spec *spec, pid_t parent, struct err *err)
{
    int program_fd = place_fds(spec, err);
    if (program_fd < 0)
        return program_fd;
    (void)setsid();
    if (chdir("/") != 0)
        return err_sys(err, errno, "chdir");
    if (spec->drop) {
        int result = drop_privileges(spec, err);
        if (result != 0)
            return result;
    }
    if (spec->drop && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        return err_sys(err, errno, "no_new_privs");
    /* A change of ids clears the death signal, so it comes after; a parent that died before this
     * line is seen by its process id. */
    if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) != 0)
        return err_sys(err, errno, "set the death signal");
    if (getppid() != parent)
        return err_set(err, ERR_CLOSED, "the monitor died");
    if (spec->must_write && access(spec->must_write, W_OK | X_OK) != 0)
        return err_sys(err, errno,
                       "uid %u cannot use %s (every folder above it needs x for others)", getuid(),
                       spec->must_write);
    sigset_t none;
    (void)sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    (void)signal(SIGPIPE, SIG_DFL);
    return program_fd;
}

int child_spawn(const struct child_spec *spec, pid_t *out_pid, struct err *err)
{
    if (spec->fd_count > CHILD_FDS_MAX)
        return err_set(err, ERR_INTERNAL, "too many descriptors for a child");
    pid_t parent = getpid();
    pid_t pid = fork();
    if (pid < 0)
        return err_sys(err, errno, "fork");
    if (pid == 0) {
        struct err failure = ERR_INIT;
        int program_fd = set_up(spec, parent, &failure);
        if (program_fd >= 0) {
            (void)syscall(SYS_execveat, program_fd, "", spec->argv,
                          spec->envp ? spec->envp : (const char *const *)environ, AT_EMPTY_PATH);
            (void)err_sys(&failure, errno, "execute it");
        }
        log_error("%s: %s", spec->name, failure.message);
        _exit(EXIT_SETUP);
    }
    *out_pid = pid;
    return 0;
}
