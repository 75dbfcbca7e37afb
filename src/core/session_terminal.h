/* A login shell on a terminal in a session's sandbox, beside what runs in its kernel. It has the
 * files of the session and none of its variables, and ends with whoever opened it. */
#ifndef BERTH_CORE_SESSION_TERMINAL_H
#define BERTH_CORE_SESSION_TERMINAL_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"

struct core;
struct session_terminal;

/* Finds the session and a place, and reaches its init; no shell yet. Fails as
 * core_session_file_open(). */
int core_session_terminal_open(struct core *core, const char *owner, const char *session_id,
                               struct session_terminal **out, struct err *err);
/* Hangs up. NULL is allowed. */
void core_session_terminal_close(struct session_terminal *terminal);

struct session_terminal_io {
    uint32_t size; /* columns << 16 | rows */
    int gone_fd;   /* readable: hang up; -1: none */
    int input_fd;
    void *context;
    /* As of struct channel_terminal: does not wait for input. */
    ssize_t (*input)(void *context, uint8_t *data, size_t size, uint32_t *resize, struct err *err);
    /* As channel_output_fn: may block, which slows the shell. */
    int (*output)(void *context, int stream, const uint8_t *data, size_t size, struct err *err);
};

/* Runs the shell to its end. ERR_CLOSED: somebody hung up. ERR_UNSUPPORTED: no terminals here. */
int core_session_terminal_run(struct session_terminal *terminal,
                              const struct session_terminal_io *io, uint32_t *out_exit_code,
                              struct err *err);

#endif
