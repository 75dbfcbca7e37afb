/* What runs in a fresh child of init, with the identity of the code: a program, or one file
 * written.
 *
 * The functions never return. A child first joins the code group, then enters the inner user
 * namespace and gives everything away; only then does it touch a path or a byte of the caller's. */
#ifndef BERTH_INIT_CHILD_H
#define BERTH_INIT_CHILD_H

#include "wire/init_config.h"
#include "wire/sandbox.h"

struct child_pipes {
    int stdin_fd;  /* becomes 0 */
    int stdout_fd; /* becomes 1; -1: /dev/null */
    int stderr_fd; /* becomes 2; -1: /dev/null */
    int status_fd; /* close-on-exec; a start that fails writes an exit code byte and a text */
};

/* Starts exec->argv. On failure writes to status_fd and exits. */
_Noreturn void child_exec(const struct init_config *config, const struct sandbox_exec *exec,
                          const struct child_pipes *pipes);

/* Writes standard input to put->path; exits with 0 or the errno of what failed. */
_Noreturn void child_put_file(const struct init_config *config, const struct sandbox_put_file *put,
                              const struct child_pipes *pipes);

/* Installs the seccomp filter of the strict profile in the calling process (seccomp(2)). */
int child_seccomp_strict(void);

#endif
