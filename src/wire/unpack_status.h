/* What the engine and berth-unpack agree on: places of descriptors, arguments, one message.
 *
 * Arguments: the largest number of bytes, the largest number of entries, both decimal, and, where
 * the archive holds no root file system, what it holds: UNPACK_KIND_OCI, an image in layers,
 * UNPACK_LAYER, a library layer, or UNPACK_REPACK. The program answers with one message of at most
 * UNPACK_STATUS_MAX bytes: a kind and a text. The text comes from a process that has read a hostile
 * archive: whoever reads it takes it as bytes. */
#ifndef BERTH_WIRE_UNPACK_STATUS_H
#define BERTH_WIRE_UNPACK_STATUS_H

#include <signal.h>
#include <stdint.h>

#include "base/err.h"

#define UNPACK_LAYER "layer"
/* A library layer that becomes a tar again: UNPACK_FD_TARGET is a file, and who reads the archive
 * has the host's namespaces, but no right and no call that takes a path. */
#define UNPACK_REPACK "repack"
/* All that is in that tar lies below this name, which it clears first: it is unpacked beside the
 * folder of that name. */
#define UNPACK_REPACK_ROOT "libraries"

enum {
    UNPACK_FD_TAR = 0,    /* the archive, read-only, at its start */
    UNPACK_FD_STATUS = 1, /* write end of a pipe */
    UNPACK_FD_TARGET = 3, /* a detached id-mapped mount: the folder to unpack into; or a file */
};

#define UNPACK_KIND_OCI "oci"

enum { UNPACK_STATUS_MAX = 400 }; /* below PIPE_BUF: written in one piece */

enum unpack_status {
    UNPACK_STATUS_DONE = 'D', /* "ENTRIES BYTES SKIPPED", decimal */
    UNPACK_STATUS_BAD = 'B',  /* the archive is at fault: what is wrong with it */
    UNPACK_STATUS_HOST = 'H', /* this host is at fault: worth trying again */
};

/* What became of the program that has ended, by its end and by what it wrote; reads status_fd,
 * whose other end nobody has any more. summary: what DONE says. ERR_BAD_INPUT, with a public
 * message: the archive is at fault. */
int unpack_status_judge(const siginfo_t *end, int status_fd,
                        char summary[static UNPACK_STATUS_MAX + 1], struct err *err);

/* The bytes of a summary, most at the most. */
int unpack_status_size(const char *summary, uint64_t most, uint64_t *out, struct err *err);

#endif
