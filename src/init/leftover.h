/* Outputs of executions that are over while something that they left behind still writes to them.
 *
 * They are read and dropped, so that a background process neither waits nor gets SIGPIPE early, and
 * nothing of it ever shows in a later execution. Looked at seldom: what is written for nobody does
 * not take init's time, nor does the end of each pipe. */
#ifndef BERTH_INIT_LEFTOVER_H
#define BERTH_INIT_LEFTOVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LEFTOVER_MAX 32 /* outputs; past it the oldest is closed */

struct leftover {
    int fds[LEFTOVER_MAX];    /* the oldest first */
    short seen[LEFTOVER_MAX]; /* what poll(2) said of each in this turn */
    size_t count;
    int64_t rests_ns; /* until then none of them is looked at */
};

void leftover_init(struct leftover *leftover);
/* Owns fd from here; -1 is nothing. */
void leftover_add(struct leftover *leftover, int fd, int64_t now_ns);
/* Whether they are to be looked at now. */
bool leftover_wants(const struct leftover *leftover, int64_t now_ns);
/* Reads those of which poll(2) said something. */
void leftover_step(struct leftover *leftover, int64_t now_ns);
/* When they are to be looked at next; INT64_MAX: always, or there are none. */
int64_t leftover_wakeup_ns(const struct leftover *leftover, int64_t now_ns);

#endif
