/* Owns the last steps of a creation: the kernel that a zygote may fork, and the commit. */
#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/fd.h"
#include "base/log.h"
#include "native/sandbox.h"
#include "native/zygote.h"

#define KERNEL_NS CLOCK_NS_PER_S /* init starts one itself in less */
#define WITHDRAW_RETRY_NS (2 * CLOCK_NS_PER_MS)

static int ask(struct sandbox_host *host, struct sandbox *sandbox, struct err *err)
{
    int pair[2];
    const int on = 1;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
        return err_sys(err, errno, "kernel socket");
    sandbox->kernel_fd = pair[0];
    FD_AUTO int theirs = pair[1];
    /* Init learns from the first message which process it has (init/kernel_start.c). */
    if (setsockopt(pair[0], SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) != 0)
        return err_sys(err, errno, "SO_PASSCRED");
    sandbox->kernel_pass_fd = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);
    if (sandbox->kernel_pass_fd < 0)
        return err_sys(err, errno, "eventfd");
    struct zygote_target target = {.id = sandbox->id,
                                   .init_pidfd = sandbox->pidfd,
                                   .userns_fd = sandbox->kernel_userns_fd,
                                   .socket_fd = theirs,
                                   .pass_fd = sandbox->kernel_pass_fd,
                                   .owner = sandbox->ids.base,
                                   .code_id = SANDBOX_CODE_ID,
                                   .open_files_max = sandbox->spec.open_files_max,
                                   .file_size_max = sandbox_file_size_max(&sandbox->spec)};
    return zygotes_fork(host->zygotes, &target, &sandbox->kernel_request, err);
}

bool sandbox_ask_kernel(struct sandbox_host *host, struct sandbox *sandbox)
{
    struct err err = ERR_INIT;
    if (sandbox->kernel_userns_fd < 0 || !zygotes_are_ready(host->zygotes))
        return false;
    int result = ask(host, sandbox, &err);
    fd_close(&sandbox->kernel_userns_fd);
    if (result != 0) {
        log_debug("sandbox %s: %s", sandbox->id, err.message);
        return false;
    }
    sandbox->kernel_give_up_ns = clock_now_ns() + KERNEL_NS;
    return true;
}

/* A copy that is late must not come into a sandbox that runs. It takes the pass when it is in the
 * code's groups and before it enters anything: with the pass taken back it ends there, and else it
 * is in the group, where nothing but it can be yet. */
bool sandbox_withdraw_kernel(struct sandbox_host *host, struct sandbox *sandbox)
{
    uint64_t pass = 0;
    if (read(sandbox->kernel_pass_fd, &pass, sizeof(pass)) == (ssize_t)sizeof(pass) ||
        !cgroup_kill_code(&host->cgroups, sandbox->id))
        return true;
    sandbox->kernel_give_up_ns = clock_now_ns() + WITHDRAW_RETRY_NS;
    return false;
}

int sandbox_commit(struct sandbox_host *host, struct sandbox *sandbox, bool forked, struct err *err)
{
    int result = fd_send(sandbox->setup_fd, "C", 1, &sandbox->kernel_fd, forked ? 1 : 0, 0, err);
    fd_close(&sandbox->kernel_fd);
    fd_close(&sandbox->kernel_pass_fd);
    fd_close(&sandbox->kernel_userns_fd);
    sandbox->kernel_request = 0;
    sandbox->kernel_give_up_ns = INT64_MAX;
    if (result != 0)
        return result;
    fault_point("native.commit");
    sandbox_unwatch(host, &sandbox->setup_fd);
    sandbox->state = ENGINE_STATE_RUNNING;
    sandbox->forget = false;
    sandbox->deadline_ns = INT64_MAX;
    return 0;
}
