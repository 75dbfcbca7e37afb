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
    void *context;
    struct web_call *call;
    struct buf lines; /* that came, the last one perhaps not whole yet */
    struct loop_timer timer;
};

/* The first four are set by the caller before. When the stream ends, the daemon is doubted.
 */
int events_start(struct events *events, struct err *err);
void events_stop(struct events *events);
/* For tests: looks through the lines that came. */
void events_take(struct events *events);

#endif
