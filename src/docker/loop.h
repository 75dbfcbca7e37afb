/* The event loop of berth-docker: descriptors and times, one thread.
 *
 * Whoever is called may start and stop any watch and any timer, its own too. */
#ifndef BERTH_DOCKER_LOOP_H
#define BERTH_DOCKER_LOOP_H

#include <stdint.h>

#include "base/err.h"

struct loop;
struct loop_watch;

/* events: as epoll_wait(2) reports them. */
typedef void (*loop_ready_fn)(void *context, uint32_t events);

/* Embedded in what owns it, zeroed before its first use; is to be stopped before that is freed. */
struct loop_timer {
    int64_t at_ns; /* CLOCK_MONOTONIC */
    void (*due)(void *context);
    void *context;
    struct loop_timer *next;
    struct loop_timer **link; /* NULL: it is not set */
};

int loop_new(struct loop **out, struct err *err);
/* Of what is still watched nobody hears any more. NULL is allowed. */
void loop_free(struct loop *loop);

/* Watches a descriptor, which stays the caller's, level-triggered. */
int loop_watch(struct loop *loop, int fd, uint32_t events, loop_ready_fn ready, void *context,
               struct loop_watch **out, struct err *err);
void loop_watch_change(struct loop *loop, struct loop_watch *watch, uint32_t events);
/* To be called before the descriptor is closed. *watch becomes NULL; NULL is allowed. */
void loop_unwatch(struct loop *loop, struct loop_watch **watch);

/* Sets a timer, or sets it anew; it is due once. */
void loop_set_timer(struct loop *loop, struct loop_timer *timer, int64_t at_ns,
                    void (*due)(void *context), void *context);
void loop_stop_timer(struct loop_timer *timer);

/* Waits for what is next, at most until deadline_ns, and sees to it. */
int loop_step(struct loop *loop, int64_t deadline_ns, struct err *err);

#endif
