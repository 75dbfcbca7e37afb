/* Outputs of executions that are over while something that they left behind still writes to them.
 *
 * They are read and dropped, so that a background process neither waits nor gets SIGPIPE early, and
 * nothing of it ever shows in a later execution. Read seldom: what is written for nobody does not
 * take init's time. */
#ifndef BERTH_INIT_LEFTOVER_H
#define BERTH_INIT_LEFTOVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LEFTOVER_MAX 32 /* outputs; past it one of them is closed, in turn */

struct leftover {
    int fds[LEFTOVER_MAX];
    size_t next;      /* place of the one that is closed when there is no free one */
    int64_t rests_ns; /* until then none of them is read */
};

void leftover_init(struct leftover *leftover);
/* Owns fd from here; -1 is nothing. */
void leftover_add(struct leftover *leftover, int fd);
/* Whether they are to be looked at for input now. */
bool leftover_wants(const struct leftover *leftover, int64_t now_ns);
void leftover_step(struct leftover *leftover, int64_t now_ns);
/* When leftover_step() has to be called again at the latest; INT64_MAX: on an event only. */
int64_t leftover_wakeup_ns(const struct leftover *leftover, int64_t now_ns);

#endif
