/* Owns the child that removes folders of a store. Decides nothing about what is waste. */
#include "native/imagewaste.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "native/treeremove.h"

#define RETRY_NS (60 * CLOCK_NS_PER_S)

void imagewaste_init(struct imagewaste *waste, int store_fd, int epoll_fd)
{
    memset(waste, 0, sizeof(*waste));
    waste->store_fd = store_fd;
    waste->epoll_fd = epoll_fd;
    waste->pidfd = -1;
}

void imagewaste_done(struct imagewaste *waste)
{
    if (waste->pid > 0)
        (void)kill(waste->pid, SIGKILL);
    fd_close(&waste->pidfd);
}

void imagewaste_watch(const struct imagewaste *waste, int fd)
{
    struct epoll_event event = {.events = EPOLLIN};
    if (epoll_ctl(waste->epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0)
        log_warn("epoll_ctl: %s", strerror(errno)); /* the next look finds it as well */
}

void imagewaste_unwatch(const struct imagewaste *waste, int fd)
{
    (void)epoll_ctl(waste->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
}

bool imagewaste_has_ended(int pidfd)
{
    struct pollfd poller = {.fd = pidfd, .events = POLLIN};
    return poll(&poller, 1, 0) > 0;
}

void imagewaste_reap(struct imagewaste *waste)
{
    siginfo_t end;
    if (waste->pid == 0 || !imagewaste_has_ended(waste->pidfd))
        return;
    memset(&end, 0, sizeof(end));
    (void)waitid(P_PIDFD, (id_t)waste->pidfd, &end, WEXITED | WNOHANG);
    imagewaste_unwatch(waste, waste->pidfd);
    fd_close(&waste->pidfd);
    waste->pid = 0;
    waste->due = true;
    if (end.si_code == CLD_EXITED && end.si_status == 0)
        return;
    memcpy(waste->stuck, waste->removing, sizeof(waste->stuck));
    waste->after_ns = clock_now_ns() + RETRY_NS;
}

struct question {
    const struct imagewaste *waste;
    bool (*wanted)(const char *name, const void *context);
    const void *context;
};

static bool is_kept(const char *name, const void *context)
{
    const struct question *question = context;
    return strcmp(name, question->waste->stuck) == 0 || question->wanted(name, question->context);
}

static bool find(struct imagewaste *waste, const struct question *question)
{
    if (imagestore_find_waste(waste->store_fd, is_kept, question, waste->removing))
        return true;
    if (waste->stuck[0] == '\0')
        return false;
    waste->stuck[0] = '\0'; /* its turn again */
    return imagestore_find_waste(waste->store_fd, is_kept, question, waste->removing);
}

void imagewaste_start(struct imagewaste *waste,
                      bool (*wanted)(const char *name, const void *context), const void *context)
{
    struct err err = ERR_INIT;
    const struct question question = {.waste = waste, .wanted = wanted, .context = context};
    if (waste->pid != 0 || !waste->due || clock_now_ns() < waste->after_ns)
        return;
    waste->due = false;
    if (!find(waste, &question))
        return;
    if (treeremove_start(waste->store_fd, waste->removing, &waste->pid, &waste->pidfd, &err) != 0) {
        log_warn("remove %s: %s", waste->removing, err.message);
        waste->after_ns = clock_now_ns() + RETRY_NS;
        return;
    }
    imagewaste_watch(waste, waste->pidfd);
}
