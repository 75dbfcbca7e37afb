/* What a command prints. All that came from elsewhere is printed with everything replaced that is
 * not printable: it is not to move a terminal's cursor. */
#ifndef BERTH_DOCKER_COMMAND_SHOW_H
#define BERTH_DOCKER_COMMAND_SHOW_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "docker/progress.h"
#include "docker/registry.h"

/* Of one pull, build, load or import. Zeroed before. */
struct command_show {
    const struct registry_login *login; /* what must not be shown; may be NULL */
    char error[256];                    /* what the daemon said went wrong; "" nothing */
    bool loaded;                        /* it said that it loaded something */
    int64_t shown_at_ns;
};

/* Replaces what is not printable; of a text that is too long the end is left out. */
void command_show_clean(const char *text, char *out, size_t size);

enum { COMMAND_SIZE_SIZE = 24 };

/* "1.5 MB" */
void command_show_size(double bytes, char out[static COMMAND_SIZE_SIZE]);

/* A progress_fn, with a command_show: prints to standard error, as it comes; of the bytes that go
 * by, one line a second. */
void command_show_line(void *context, const struct progress_line *line);

/* The answer of GET /images/json, as a table or as it is. */
int command_show_list(const struct buf *reply, bool as_json, struct err *err);
/* That of GET /images/NAME/json in one line, to standard error. */
int command_show_image(const char *name, const struct buf *reply, struct err *err);

#endif
