/* Owns what a sandbox has of a layer: the child that brings it, and its lock. */
#include <errno.h>
#include <sys/epoll.h>

#include "base/fd.h"
#include "native/imagewaste.h"
#include "native/sandbox.h"

static int watch(const struct sandbox_host *host, struct sandbox *sandbox, struct err *err)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = sandbox};
    if (epoll_ctl(host->epoll_fd, EPOLL_CTL_ADD, sandbox->attach.pidfd, &event) != 0)
        return err_sys(err, errno, "watch a child");
    return 0;
}

int sandbox_attach_layer(struct sandbox_host *host, struct sandbox *sandbox, const char *name,
                         uint64_t request_id, struct err *err)
{
    struct layer layer;
    const struct layer_target target = {
        .pid = sandbox->pid, .pidfd = sandbox->pidfd, .stage_fd = host->stage_fd};
    if (sandbox->attach.pid != 0)
        return err_set(err, ERR_CONFLICT, "sandbox %s is being given a layer", sandbox->id);
    int result = layers_take(host->layers, name, &layer, err);
    if (result == 0)
        result = layer_attach_start(&target, &layer, &sandbox->attach, err);
    if (result != 0)
        return result;
    result = watch(host, sandbox, err);
    if (result != 0) {
        layer_attach_abort(&sandbox->attach);
        return result;
    }
    sandbox->attach.request_id = request_id;
    return 0;
}

int sandbox_layer_event(const struct sandbox_host *host, struct sandbox *sandbox, struct err *err)
{
    int lock_fd = -1;
    if (sandbox->attach.pid == 0)
        return 0;
    /* Before its descriptor is closed: see sandbox_unwatch(). */
    (void)epoll_ctl(host->epoll_fd, EPOLL_CTL_DEL, sandbox->attach.pidfd, NULL);
    int result = layer_attach_poll(&sandbox->attach, &lock_fd, err);
    if (result == 0)
        (void)watch(host, sandbox, NULL); /* else its deadline, or the cleanup, looks again */
    if (result == 1) {
        fd_close(&sandbox->layer_lock_fd);
        sandbox->layer_lock_fd = lock_fd;
    }
    return result;
}

int sandbox_adopt_layer(const struct sandbox_host *host, struct sandbox *sandbox, struct err *err)
{
    if (!host->layers || sandbox->pid == 0)
        return 0;
    int result = layer_attach_adopt(host->layers, sandbox->pid, &sandbox->layer_lock_fd, err);
    /* One that has just ended shows nothing, and is no reason to remove no layer any more. */
    return result != 0 && imagewaste_has_ended(sandbox->pidfd) ? 0 : result;
}
