/* Owns how a kernel comes to be: forked here, or given by the engine, which had it forked from a
 * process that was warm already. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "init/child.h"
#include "init/job_table.h"

#define READY_NS (30 * CLOCK_NS_PER_S)
#define GIVEN_READY_NS (5 * CLOCK_NS_PER_S)

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

/* ---- one of our own ---- */

/* A file in memory that nobody can change, at its beginning. */
static int make_input(const struct sandbox_kernel *spec, int *out_fd, struct err *err)
{
    if (spec->input_size == 0)
        return 0;
    /* A host may refuse one that could be executed (vm.memfd_noexec); Linux 6.2 and before know no
     * other. */
    FD_AUTO int fd = memfd_create("kernel", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
    if (fd < 0 && errno == EINVAL)
        fd = memfd_create("kernel", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return err_sys(err, errno, "a file in memory");
    int result = fd_write_all(fd, spec->input, spec->input_size, err);
    if (result != 0)
        return result;
    if (lseek(fd, 0, SEEK_SET) != 0 ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) != 0)
        return err_sys(err, errno, "seal a file in memory");
    *out_fd = fd_take(&fd);
    return 0;
}

/* Takes status_fd, ours. */
static int fork_child(struct kernel *kernel, const struct init_config *config,
                      const struct sandbox_exec *exec, const struct child_pipes *passed,
                      int *status_fd, struct err *err)
{
    pid_t pid = group_fork(config);
    if (pid < 0)
        return err_sys(err, errno, "fork");
    if (pid == 0)
        child_exec(config, exec, passed);
    kernel->pid = pid;
    kernel->status_fd = fd_take(status_fd);
    return 0;
}

static int fork_with_lines(struct kernel *kernel, const struct init_config *config,
                           const struct sandbox_exec *exec, const struct sandbox_kernel *spec,
                           struct err *err)
{
    struct kernel_lines_ends ends;
    FD_AUTO int ours = -1;
    int result =
        kernel_lines_make(&kernel->lines, spec->input, spec->input_size, &ends, &ours, err);
    if (result == 0) {
        struct child_pipes passed = CHILD_PIPES_NONE;
        passed.stdin_fd = ends.stdin_fd;
        passed.stdout_fd = ends.outputs.child[1];
        passed.stderr_fd = ends.outputs.child[2];
        passed.status_fd = ends.talk.status[1];
        passed.kernel_fd = ends.talk.child[0];
        passed.kernel_out_fd = ends.talk.child[1];
        result = fork_child(kernel, config, exec, &passed, &ends.talk.status[0], err);
    }
    pipes_done(&ends.talk);
    pipes_done(&ends.outputs);
    if (result == 0)
        kernel->fd = fd_take(&ours);
    else
        kernel_lines_done(&kernel->lines);
    return result;
}

static int fork_with_socket(struct kernel *kernel, const struct init_config *config,
                            const struct sandbox_exec *exec, int input_fd, struct err *err)
{
    int ends[2];
    PIPES_AUTO struct pipes pipes = PIPES_INIT;
    int result = pipes_make(&pipes, PIPES_STATUS, err);
    if (result != 0)
        return result;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
        return err_sys(err, errno, "socketpair");
    FD_AUTO int ours = ends[0];
    FD_AUTO int theirs = ends[1];
    result = fd_set_nonblocking(ours, true, err);
    if (result != 0)
        return result;
    struct child_pipes passed = CHILD_PIPES_NONE;
    passed.stdin_fd = input_fd;
    passed.status_fd = pipes.status[1];
    passed.kernel_fd = theirs;
    result = fork_child(kernel, config, exec, &passed, &pipes.status[0], err);
    if (result == 0)
        kernel->fd = fd_take(&ours);
    return result;
}

static int fork_as_said(struct kernel *kernel, const struct init_config *config, struct err *err)
{
    struct sandbox_kernel spec;
    FD_AUTO int input_fd = -1;
    int result =
        sandbox_kernel_decode(kernel->spec.payload.data, kernel->spec.payload.size, &spec, err);
    if (result != 0)
        return result;
    const struct sandbox_exec exec = {.execution_id = "",
                                      .cwd = spec.cwd,
                                      .argv = spec.argv,
                                      .argc = spec.argc,
                                      .envp = spec.envp,
                                      .envc = spec.envc};
    if (spec.protocol == SANDBOX_KERNEL_LINES) {
        result = fork_with_lines(kernel, config, &exec, &spec, err);
    } else {
        result = make_input(&spec, &input_fd, err);
        if (result == 0)
            result = fork_with_socket(kernel, config, &exec, input_fd, err);
    }
    sandbox_kernel_done(&spec);
    return result;
}

void kernel_start(struct kernel *kernel, const struct init_config *config)
{
    struct err err = ERR_INIT;
    kernel->wanted = false;
    kernel->start_error[0] = '\0';
    kernel->failure = 0;
    kernel->spec.owed = false;
    if (fork_as_said(kernel, config, &err) != 0) {
        kernel->failure = err.sys_errno > 0 ? err.sys_errno : EIO;
        return;
    }
    kernel->state = KERNEL_STARTING;
    kernel->give_up_ns = clock_now_ns() + READY_NS;
}

/* ---- one that was given ---- */

static int set_passcred(int fd, int on)
{
    return setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on));
}

void kernel_take_given(struct kernel *kernel, int fd)
{
    FD_AUTO int owned = fd;
    if (kernel->state != KERNEL_NONE || kernel->wanted || set_passcred(fd, 1) != 0 ||
        fd_set_nonblocking(fd, true, NULL) != 0)
        return;
    kernel->fd = fd_take(&owned);
    kernel->given = true;
    kernel->said_ready = false;
    kernel->sender = 0;
    kernel->state = KERNEL_STARTING;
    kernel->give_up_ns = clock_now_ns() + GIVEN_READY_NS;
}

ssize_t kernel_receive(struct kernel *kernel, void *data, size_t size)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(struct ucred))]; /* no room for a descriptor */
    } control;
    if (!kernel->given || kernel->state != KERNEL_STARTING)
        /* Not recvmsg(2): descriptors that it sends are dropped by the kernel of the host. */
        return recv(kernel->fd, data, size, MSG_DONTWAIT);
    struct iovec vec = {.iov_base = data, .iov_len = size};
    struct msghdr message = {.msg_iov = &vec,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof(control.bytes)};
    ssize_t got = recvmsg(kernel->fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    const struct cmsghdr *header = got > 0 ? CMSG_FIRSTHDR(&message) : NULL;
    if (header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_CREDENTIALS) {
        struct ucred credentials;
        memcpy(&credentials, CMSG_DATA(header), sizeof(credentials));
        kernel->sender = credentials.pid;
    }
    return got;
}

/* The number is the kernel's own translation (unix(7)): 0 is a process outside of our pid
 * namespace, or nobody knows; 1 is init. No code of a caller has run in it yet. */
int kernel_adopt(struct kernel *kernel, const struct init_config *config)
{
    siginfo_t info = {.si_pid = 0};
    pid_t pid = kernel->sender;
    if (pid <= 1)
        return ESRCH;
    if (waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) != 0)
        return kill(pid, 0) != 0 && errno == ESRCH ? ESRCH : EAGAIN;
    int sys_errno = info.si_pid == pid ? ESRCH : child_lower_limits(pid, config);
    if (sys_errno != 0) /* the first: it ended, and is to be reaped */
        return sys_errno;
    kernel->pid = pid;
    kernel->state = KERNEL_ALIVE;
    kernel->give_up_ns = INT64_MAX;
    (void)set_passcred(kernel->fd, 0);
    return 0;
}
