/* The parent-death signal across a change of ids.
 *
 * The kernel clears it whenever a process changes its effective or filesystem ids or gains
 * capabilities, also when it changes them back (prctl(2), PR_SET_PDEATHSIG). An engine without it
 * outlives its monitor, and the next monitor refuses to start beside it. */
#ifndef BERTH_NATIVE_PARENT_H
#define BERTH_NATIVE_PARENT_H

#include <sys/types.h>

struct parent_watch {
    pid_t parent;
    int death_signal; /* 0: none was set */
};

/* Reads what is set, before ids change. */
struct parent_watch parent_watch_save(void);

/* Sets it again, once the ids are what they were; a parent that died in between ends us now. */
void parent_watch_restore(const struct parent_watch *watch);

#endif
