/* What a daemon says while it pulls, builds, loads or imports: lines of JSON, as they come. */
#ifndef BERTH_DOCKER_PROGRESS_H
#define BERTH_DOCKER_PROGRESS_H

#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

/* One line; texts are "" where it has none, and valid until the callback returns. They are the
 * daemon's, or a registry's, and may hold anything but NUL. */
struct progress_line {
    const char *status; /* "Downloading" */
    const char *layer;
    uint64_t current; /* of total bytes; total 0: not known */
    uint64_t total;
    const char *text;  /* of a build, or of what was loaded */
    const char *image; /* the id of what was built */
    const char *error; /* why it failed */
};

typedef void (*progress_fn)(void *context, const struct progress_line *line);

struct progress {
    struct buf line; /* what has come of one that is not whole */
    progress_fn take;
    void *context;
};

/* Lines longer than max_bytes, and what is no JSON, are passed over. */
void progress_init(struct progress *progress, size_t max_bytes, progress_fn take, void *context);
void progress_done(struct progress *progress);

void progress_take(struct progress *progress, const void *data, size_t size);
/* All has come: the last line may have no end. */
void progress_end(struct progress *progress);

#endif
