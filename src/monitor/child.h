/* Starting one of berth's programs with exactly the privileges and descriptors that it should have.
 */
#ifndef BERTH_MONITOR_CHILD_H
#define BERTH_MONITOR_CHILD_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/err.h"

#define CHILD_FIRST_FD 3 /* the first descriptor passed; the others follow it */
#define CHILD_FDS_MAX 4

struct child_spec {
    const char *name;        /* for the log */
    int program_fd;          /* the program, opened by us: its folder may be closed to the child */
    const char *const *argv; /* NULL-ended */
    const char *const *envp; /* NULL-ended; NULL: ours */
    int fds[CHILD_FDS_MAX];  /* borrowed; become descriptors 3, 4, ... of the child */
    size_t fd_count;
    bool drop; /* run as uid and gid, without capabilities or a way to get any; uid 0 is allowed:
                  it owns root's files then, and has no other right of root's */
    uid_t uid;
    gid_t gid;
    const char *must_write; /* a folder that the child has to be able to write; NULL none */
};

/* Opens the program called name in the folder that this program itself lies in. */
int child_open_program(const char *name, int *out_fd, struct err *err);

/* Forks and executes. The child dies with us (PR_SET_PDEATHSIG), has /dev/null as standard input,
 * our standard error as standard output, and a session of its own, so that a terminal's Ctrl-C
 * reaches the monitor alone. A child that can't be set up logs why and exits with 127. Does not
 * block. */
int child_spawn(const struct child_spec *spec, pid_t *out_pid, struct err *err);

#endif
