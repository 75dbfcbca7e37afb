/* The daemon's events about our containers, as they come (GET /events). */
#ifndef BERTH_DOCKER_EVENTS_H
#define BERTH_DOCKER_EVENTS_H

#include "base/buf.h"
#include "docker/daemon.h"

struct events {
    struct daemon *daemon;
    const char *instance;
    /* action: "die", "oom", "destroy"; exit_code of "die", else -1. */
    void (*happened)(void *context, const char *sandbox, const char *action, int exit_code);
    /* The stream ended, and the daemon is up (again or still): what happened meanwhile was missed.
     */
    void (*missed)(void *context);
    void *context;
    struct web_call *call;
    struct buf lines; /* that came, the last one perhaps not whole yet */
    struct loop_timer timer;
    struct loop_timer again; /* after an end */
    int64_t begun_ns;
    int64_t pause_ns; /* before the last beginning again; 0: none yet */
};

/* The first five are set by the caller before. When the stream ends, the daemon is doubted, and a
 * second later (up to half a minute where it ends sooner than that) missed() is called unless it is
 * down. */
int events_start(struct events *events, struct err *err);
void events_stop(struct events *events);
/* For tests: looks through the lines that came. */
void events_take(struct events *events);

#endif
