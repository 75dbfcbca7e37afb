/* An execution that is watched until its end, over broken connections. */
#ifndef BERTH_CLI_WATCH_H
#define BERTH_CLI_WATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "cli/show.h"

/* Zeroed but for the first part. */
struct watch {
    const char *url;            /* of the server */
    const char *interrupt_path; /* what a signal is sent to; NULL: signals do what they always do */
    unsigned interrupts_max;    /* so many signals are passed on; the next one ends the wait */
    bool term_leaves;           /* SIGTERM ends the wait and is not passed on */
    bool only_known;            /* not to the end: what there is so far */
    struct show show;

    unsigned interrupts;
    char cancel_path[160]; /* "" before it was cancelled in its queue */
    bool left;             /* a signal ended the wait; what runs goes on */
    bool terminated;       /* and it was SIGTERM */
};

/* Sends code (a request as JSON) to path, and shows what it says until its end. When the connection
 * breaks after it has an id, goes on with its events. 0: it has ended, watch->show.exit_code says
 * how. ERR_NOT_FOUND: there is no such session (any more); ERR_CLOSED: not seen to its end. */
int watch_code(struct watch *watch, const char *path, const char *body, size_t body_size,
               struct err *err);

/* Shows the events of execution watch->show.id behind watch->show.last until its end. A connection
 * that breaks is made again for as long as events come, and then for about half a minute. With
 * only_known, 0 also when it has not ended: watch->show.open. */
int watch_events(struct watch *watch, struct err *err);

#endif
