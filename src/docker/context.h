/* What a build is made of: a folder's files as a tar, without what its .dockerignore names. */
#ifndef BERTH_DOCKER_CONTEXT_H
#define BERTH_DOCKER_CONTEXT_H

#include <stdint.h>

#include "base/err.h"

/* A file without a name, in $TMPDIR or /var/tmp. */
int context_temporary(int *out_fd, struct err *err);

/* Writes the tar into such a file, by tar(1); all belongs to root in it, and what is neither file,
 * folder nor link is left out. dockerfile is a path within the folder and is always in it. Blocks
 * until it is whole; for programs that do nothing else. */
int context_make(const char *folder, const char *dockerfile, int *out_fd, uint64_t *out_size,
                 struct err *err);

/* The same of one file that is there already, "-" for standard input; what can't be read from its
 * beginning (a pipe) is copied. ERR_BAD_INPUT: it is empty. */
int context_open(const char *path, int *out_fd, uint64_t *out_size, struct err *err);

#endif
