/* Owns the epoll descriptor and the list of timers. A watch that was stopped in the midst of a
 * batch is freed after it, so that no event reaches who is gone. */
#include "docker/loop.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>

#include "base/clock.h"
#include "base/fd.h"

enum { EVENT_BATCH = 64 };

struct loop_watch {
    int fd;
    loop_ready_fn ready; /* NULL: stopped */
    void *context;
    struct loop_watch *next; /* of the stopped ones */
};

struct loop {
    int epoll_fd;
    struct loop_timer *timers; /* by no order: there are few, and most are far away */
    struct loop_watch *stopped;
};

int loop_new(struct loop **out, struct err *err)
{
    struct loop *loop = calloc(1, sizeof(*loop));
    if (!loop)
        return err_set(err, ERR_INTERNAL, "no memory for an event loop");
    loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (loop->epoll_fd < 0) {
        int result = err_sys(err, errno, "epoll");
        free(loop);
        return result;
    }
    *out = loop;
    return 0;
}

static void free_stopped(struct loop *loop)
{
    while (loop->stopped) {
        struct loop_watch *watch = loop->stopped;
        loop->stopped = watch->next;
        free(watch);
    }
}

void loop_free(struct loop *loop)
{
    if (!loop)
        return;
    free_stopped(loop);
    fd_close(&loop->epoll_fd);
    free(loop);
}

int loop_watch(struct loop *loop, int fd, uint32_t events, loop_ready_fn ready, void *context,
               struct loop_watch **out, struct err *err)
{
    struct loop_watch *watch = calloc(1, sizeof(*watch));
    if (!watch)
        return err_set(err, ERR_INTERNAL, "no memory to watch a descriptor");
    *watch = (struct loop_watch){.fd = fd, .ready = ready, .context = context};
    struct epoll_event event = {.events = events, .data.ptr = watch};
    if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0) {
        int result = err_sys(err, errno, "epoll_ctl");
        free(watch);
        return result;
    }
    *out = watch;
    return 0;
}

void loop_watch_change(struct loop *loop, struct loop_watch *watch, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = watch};
    (void)epoll_ctl(loop->epoll_fd, EPOLL_CTL_MOD, watch->fd, &event);
}

void loop_unwatch(struct loop *loop, struct loop_watch **watch)
{
    struct loop_watch *stopped = *watch;
    if (!stopped)
        return;
    *watch = NULL;
    (void)epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, stopped->fd, NULL);
    stopped->ready = NULL;
    stopped->next = loop->stopped;
    loop->stopped = stopped;
}

void loop_set_timer(struct loop *loop, struct loop_timer *timer, int64_t at_ns,
                    void (*due)(void *context), void *context)
{
    timer->at_ns = at_ns;
    timer->due = due;
    timer->context = context;
    if (timer->link)
        return;
    timer->next = loop->timers;
    timer->link = &loop->timers;
    if (timer->next)
        timer->next->link = &timer->next;
    loop->timers = timer;
}

void loop_stop_timer(struct loop_timer *timer)
{
    if (!timer->link)
        return;
    *timer->link = timer->next;
    if (timer->next)
        timer->next->link = timer->link;
    timer->link = NULL;
    timer->next = NULL;
}

/* The timer that is due next; NULL when none is set. */
static struct loop_timer *next_timer(const struct loop *loop)
{
    struct loop_timer *next = NULL;
    for (struct loop_timer *timer = loop->timers; timer; timer = timer->next) {
        if (!next || timer->at_ns < next->at_ns)
            next = timer;
    }
    return next;
}

/* Those that were due when it was called: one that sets itself again for now waits for the next
 * step, or the descriptors would wait for ever. */
static void run_timers(struct loop *loop)
{
    const int64_t now_ns = clock_now_ns();
    for (struct loop_timer *timer = next_timer(loop); timer && timer->at_ns < now_ns;
         timer = next_timer(loop)) {
        loop_stop_timer(timer);
        timer->due(timer->context);
    }
}

int loop_step(struct loop *loop, int64_t deadline_ns, struct err *err)
{
    struct epoll_event events[EVENT_BATCH];
    const struct loop_timer *timer = next_timer(loop);
    if (timer && timer->at_ns < deadline_ns)
        deadline_ns = timer->at_ns;
    int count = epoll_wait(loop->epoll_fd, events, EVENT_BATCH, clock_poll_timeout_ms(deadline_ns));
    if (count < 0 && errno != EINTR)
        return err_sys(err, errno, "epoll_wait");
    for (int i = 0; i < count; i++) {
        struct loop_watch *watch = events[i].data.ptr;
        if (watch->ready)
            watch->ready(watch->context, events[i].events);
    }
    run_timers(loop);
    free_stopped(loop);
    return 0;
}
