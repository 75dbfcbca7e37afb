/* Text files that the build puts into a program (scripts/embed.py). */
#ifndef BERTH_BASE_EMBED_H
#define BERTH_BASE_EMBED_H

#include <stddef.h>

struct embedded_file {
    const char *name; /* file name without its folder; NULL ends an array */
    const char *data; /* size bytes and a NUL */
    size_t size;
};

#endif
