/* What runs in a fresh child of init, with the identity of the code: here a program; one file
 * written or read is in file.h.
 *
 * A child first joins the code group, then enters the inner user namespace and gives everything
 * away; only then does it touch a path or a byte of the caller's. */
#ifndef BERTH_INIT_CHILD_H
#define BERTH_INIT_CHILD_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "wire/init_config.h"
#include "wire/sandbox.h"

struct child_pipes {
    int stdin_fd;      /* becomes 0; -1: /dev/null */
    int stdout_fd;     /* becomes 1; -1: /dev/null */
    int stderr_fd;     /* becomes 2; -1: /dev/null */
    int status_fd;     /* close-on-exec; a start that fails writes an exit code byte and a text */
    int kernel_fd;     /* becomes KERNEL_FD; -1: none */
    int kernel_out_fd; /* becomes KERNEL_OUT_FD; -1: none */
    int terminal_fd;   /* a terminal is put on 0, 1 and 2, its other side goes here; -1: none */
    uint32_t terminal; /* its size, columns << 16 | rows */
};
#define CHILD_PIPES_NONE                                                                           \
    ((struct child_pipes){.stdin_fd = -1,                                                          \
                          .stdout_fd = -1,                                                         \
                          .stderr_fd = -1,                                                         \
                          .status_fd = -1,                                                         \
                          .kernel_fd = -1,                                                         \
                          .kernel_out_fd = -1,                                                     \
                          .terminal_fd = -1})

/* Starts exec->argv. On failure writes to status_fd and exits. */
_Noreturn void child_exec(const struct init_config *config, const struct sandbox_exec *exec,
                          const struct child_pipes *pipes);

/* Steps of every child. Standard streams in place: 0, or -1 with errno. */
int child_set_streams(const struct child_pipes *pipes);
/* The rlimits of the code; none is ever raised. */
void child_set_limits(const struct init_config *config);
/* The same for a process of the code that lives. One that is gone counts as done. 0 or an errno. */
int child_lower_limits(pid_t pid, const struct init_config *config);
/* The same for init itself: Debian's PAM wants to give whoever su or sudo makes the limits of PID
 * 1, and those above the code's own would be refused and complained of. */
void child_set_own_limits(const struct init_config *config);
/* Closes what is open from this descriptor on; on_exec: no sooner than execve(2) does. */
void child_close_from(unsigned first, bool on_exec);
/* Every signal by default, none blocked. */
void child_reset_signals(void);

#endif
