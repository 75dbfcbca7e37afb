/* Owns the way from this process to berth-unpack: its namespaces, its ids, its three descriptors.
 * Believes nothing of what comes back but whether it ended well. */
#include "native/unpack.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <inttypes.h>
#include <linux/mount.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/fd.h"
#include "base/mem.h"
#include "native/idrange.h"
#include "native/mountfd.h"

enum { EXIT_NOT_STARTED = 125, CLEAR_OF_PLACES = 16 };

/* ---- in the child ---- */

/* Puts the descriptors where the program looks for them; no other survives. */
static int place_descriptors(const struct unpack_config *config, int status_fd, int mount_fd)
{
    FD_AUTO int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    const int from[] = {config->tar_fd, status_fd, null_fd, mount_fd};
    const int to[] = {UNPACK_FD_TAR, UNPACK_FD_STATUS, STDERR_FILENO, UNPACK_FD_TARGET};
    int moved[ARRAY_SIZE(from)];
    for (size_t i = 0; i < ARRAY_SIZE(from); i++) {
        moved[i] = fcntl(from[i], F_DUPFD_CLOEXEC, CLEAR_OF_PLACES);
        if (moved[i] < 0)
            return -1;
    }
    int program_fd = fcntl(config->program_fd, F_DUPFD_CLOEXEC, CLEAR_OF_PLACES);
    if (program_fd < 0)
        return -1;
    for (size_t i = 0; i < ARRAY_SIZE(from); i++) {
        if (dup2(moved[i], to[i]) < 0)
            return -1;
    }
    (void)syscall(SYS_close_range, 4U, ~0U, 4U /* CLOSE_RANGE_CLOEXEC */);
    return program_fd;
}

static void execute(int program_fd, const struct unpack_config *config)
{
    char name[] = "berth-unpack";
    char size[24];
    char entries[24];
    char kind[] = UNPACK_KIND_OCI;
    char fault[96];
    char testing[] = "BERTH_TESTING=1";
    (void)snprintf(size, sizeof(size), "%" PRIu64, config->size_max_bytes);
    (void)snprintf(entries, sizeof(entries), "%" PRIu64, config->entries_max);
    (void)snprintf(fault, sizeof(fault), "BERTH_FAULT=%s", fault_text());
    char layer[] = UNPACK_LAYER;
    char *const mode = config->layer ? layer : config->oci ? kind : NULL;
    char *const argv[] = {name, size, entries, mode, NULL};
    char *const none[] = {NULL};
    char *const faulty[] = {testing, fault, NULL};
    (void)syscall(SYS_execveat, program_fd, "", argv, fault_text()[0] != '\0' ? faulty : none,
                  AT_EMPTY_PATH);
}

static _Noreturn void child_run(const struct unpack_config *config, int go_fd, int status_fd,
                                int mount_fd)
{
    char go = 0;
    /* The end of the pipe is the death of the engine, and ours. */
    if (read(go_fd, &go, 1) != 1 || setresgid(0, 0, 0) != 0 || setgroups(0, NULL) != 0 ||
        setresuid(0, 0, 0) != 0)
        _exit(EXIT_NOT_STARTED);
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0); /* after the ids, which clear it */
    /* The engine may have died before that: nobody else reads the status. */
    struct pollfd reader = {.fd = status_fd};
    if (poll(&reader, 1, 0) != 0)
        _exit(EXIT_NOT_STARTED);
    sigset_t none;
    (void)sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    int program_fd = place_descriptors(config, status_fd, mount_fd);
    if (program_fd >= 0)
        execute(program_fd, config);
    _exit(EXIT_NOT_STARTED);
}

/* ---- in the engine ---- */

/* Gives the waiting child its ids, maps the mount for them, and lets it go on. */
static int release_child(pid_t pid, int mount_fd, int go_fd, struct err *err)
{
    char path[64];
    char map[64];
    (void)snprintf(map, sizeof(map), "0 %u %u\n", IDRANGE_UNPACK, IDRANGE_SIZE);
    int result = idrange_write_maps(pid, map, err);
    if (result != 0)
        return result;
    (void)snprintf(path, sizeof(path), "/proc/%d/ns/user", (int)pid);
    FD_AUTO int userns_fd = open(path, O_RDONLY | O_CLOEXEC);
    if (userns_fd < 0)
        return err_sys(err, errno, "open %s", path);
    result = mountfd_idmap(mount_fd, userns_fd, err);
    if (result == -ERR_UNSUPPORTED)
        return err_public(
            err, ERR_UNSUPPORTED,
            "the filesystem of the state folder has no id-mapped mounts, which images "
            "from a tar and library layers need");
    if (result == 0 && write(go_fd, "G", 1) != 1)
        result = err_sys(err, errno, "start berth-unpack");
    return result;
}

static int open_mount(int target_fd, int *out_fd, struct err *err)
{
    FD_AUTO int fd = -1;
    int result = mountfd_clone(target_fd, "", false, &fd, err);
    if (result == 0)
        result = mountfd_restrict(
            fd, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC | MOUNT_ATTR_NOSYMFOLLOW,
            err);
    if (result == 0)
        *out_fd = fd_take(&fd);
    return result;
}

static int open_pipes(int status[2], int go[2], struct err *err)
{
    if (pipe2(status, O_CLOEXEC) != 0)
        return err_sys(err, errno, "pipe");
    if (pipe2(go, O_CLOEXEC) != 0) {
        int saved = errno;
        fd_close(&status[0]);
        fd_close(&status[1]);
        return err_sys(err, saved, "pipe");
    }
    return 0;
}

int unpack_start(const struct unpack_config *config, struct unpack *out, struct err *err)
{
    FD_AUTO int mount_fd = -1;
    int status[2] = {-1, -1};
    int go[2] = {-1, -1};
    int result = open_mount(config->target_fd, &mount_fd, err);
    if (result == 0)
        result = open_pipes(status, go, err);
    if (result != 0)
        return err_wrap(err, "start berth-unpack");
    FD_AUTO int status_read_fd = status[0];
    FD_AUTO int status_write_fd = status[1];
    FD_AUTO int go_read_fd = go[0];
    FD_AUTO int go_write_fd = go[1];
    FD_AUTO int pidfd = -1;
    result = fd_set_nonblocking(status_read_fd, true, err);
    if (result != 0)
        return result;
    struct clone_args args;
    memset(&args, 0, sizeof(args));
    args.flags = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC |
                 CLONE_NEWUTS | CLONE_PIDFD;
    args.pidfd = (uintptr_t)&pidfd;
    args.exit_signal = SIGCHLD;
    pid_t pid = (pid_t)syscall(SYS_clone3, &args, sizeof(args));
    if (pid < 0)
        return err_sys(err, errno, "clone berth-unpack into new namespaces");
    if (pid == 0) {
        fd_close(&go_write_fd); /* or the engine's end would never be seen */
        fd_close(&status_read_fd);
        child_run(config, go_read_fd, status_write_fd, mount_fd);
    }
    result = release_child(pid, mount_fd, go_write_fd, err);
    if (result != 0) {
        (void)kill(pid, SIGKILL);
        (void)waitpid(pid, NULL, 0); /* it has done nothing but wait: this takes no time */
        return err_wrap(err, "start berth-unpack");
    }
    *out = (struct unpack){
        .pid = pid, .pidfd = fd_take(&pidfd), .status_fd = fd_take(&status_read_fd)};
    return 0;
}

void unpack_kill(const struct unpack *unpack)
{
    if (unpack->pidfd >= 0)
        (void)syscall(SYS_pidfd_send_signal, unpack->pidfd, SIGKILL, NULL, 0);
}

int unpack_poll(struct unpack *unpack, char *summary, struct err *err)
{
    siginfo_t end;
    memset(&end, 0, sizeof(end));
    if (waitid(P_PIDFD, (id_t)unpack->pidfd, &end, WEXITED | WNOHANG) != 0)
        end.si_pid = unpack->pid; /* no child of ours any more: it can't be waited for again */
    if (end.si_pid == 0)
        return 0;
    int result = unpack_status_judge(&end, unpack->status_fd, summary, err);
    fd_close(&unpack->pidfd);
    fd_close(&unpack->status_fd);
    unpack->pid = 0;
    return result == 0 ? 1 : result;
}
