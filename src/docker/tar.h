/* The archive that is put into a container before it starts: init, its configuration, and the
 * folders that the code finds. ustar (POSIX.1-1988), written by hand: a handful of entries. */
#ifndef BERTH_DOCKER_TAR_H
#define BERTH_DOCKER_TAR_H

#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

/* A folder (path ends in '/') or a file. path has less than 100 bytes. */
struct tar_entry {
    const char *path;
    unsigned mode;
    unsigned owner; /* user and group */
    const void *data;
    size_t size;
};

int tar_put(struct buf *out, const struct tar_entry *entry, struct err *err);
/* What ends an archive. */
int tar_end(struct buf *out, struct err *err);

#endif
