/* The patterns of a .dockerignore: what of a folder is not sent to be built
 * (docs.docker.com/build/concepts/context, ".dockerignore files"). */
#ifndef BERTH_DOCKER_IGNORE_H
#define BERTH_DOCKER_IGNORE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"
#include "base/err.h"

struct ignore {
    struct buf patterns; /* texts, each with its NUL, in the file's order; '!' first: not ignored */
    bool has_exceptions; /* so that a folder which is ignored may hold what is not */
};

void ignore_init(struct ignore *ignore);
void ignore_done(struct ignore *ignore);

/* The text of the file. ERR_BAD_INPUT: a line that is too long. */
int ignore_read(struct ignore *ignore, const char *text, size_t size, struct err *err);

/* Whether the last pattern that fits this path (relative, no "." in it) or a folder above it says
 * so. The time it takes grows with length of path times length of patterns. */
bool ignore_has(const struct ignore *ignore, const char *path);

#endif
