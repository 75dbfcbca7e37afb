/* Owns the epoll descriptor. */
#include "egress/poller.h"

#include <errno.h>

#include "base/clock.h"
#include "base/fd.h"

enum { EVENTS_MAX = 128 };

int poller_open(struct poller *poller, struct err *err)
{
    poller->fd = epoll_create1(EPOLL_CLOEXEC);
    return poller->fd >= 0 ? 0 : err_sys(err, errno, "epoll_create1");
}

void poller_close(struct poller *poller)
{
    fd_close(&poller->fd);
}

void watch_init(struct watch *watch, watch_fn ready, void *owner)
{
    *watch = (struct watch){.fd = -1, .ready = ready, .owner = owner};
}

int watch_set(struct poller *poller, struct watch *watch, uint32_t events, struct err *err)
{
    struct epoll_event event = {.events = events, .data.ptr = watch};
    if (watch->fd < 0 || events == watch->events)
        return 0;
    int operation = EPOLL_CTL_MOD;
    if (events == 0)
        operation = EPOLL_CTL_DEL;
    else if (watch->events == 0)
        operation = EPOLL_CTL_ADD;
    if (epoll_ctl(poller->fd, operation, watch->fd, &event) != 0)
        return err_sys(err, errno, "epoll_ctl");
    watch->events = events;
    return 0;
}

/* It is taken out by hand: a descriptor that was passed to us lives on elsewhere, maybe, and then
 * closing it does not end its registration (epoll(7)). */
void watch_close(struct poller *poller, struct watch *watch)
{
    (void)watch_set(poller, watch, 0, NULL);
    watch->events = 0;
    fd_close(&watch->fd);
}

int poller_turn(struct poller *poller, int64_t deadline_ns, struct err *err)
{
    struct epoll_event events[EVENTS_MAX];
    int count = epoll_wait(poller->fd, events, EVENTS_MAX, clock_poll_timeout_ms(deadline_ns));
    if (count < 0 && errno != EINTR)
        return err_sys(err, errno, "epoll_wait");
    for (int i = 0; i < count; i++) {
        struct watch *watch = events[i].data.ptr;
        if (watch->fd >= 0)
            watch->ready(watch, events[i].events);
    }
    return 0;
}
