/* One run of berth-unpack: the archive of an image or a library layer into a folder, in namespaces
 * of its own.
 *
 * The program gets the archive, a pipe for one message, and an id-mapped mount of the folder: what
 * it makes as its own root belongs to user 0 on the disk. Nothing here waits for it. */
#ifndef BERTH_NATIVE_UNPACK_H
#define BERTH_NATIVE_UNPACK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "wire/unpack_status.h"

struct unpack_config {
    int program_fd; /* berth-unpack, O_PATH */
    int tar_fd;     /* read-only, at its start */
    int target_fd;  /* the folder, of user 0 and empty */
    uint64_t size_max_bytes;
    uint64_t entries_max;
    bool layer; /* a library layer: see unpack/tree.h for what is kept of it */
    bool oci;   /* an image in layers; neither: a root file system */
};

struct unpack {
    pid_t pid; /* 0: none */
    int pidfd; /* readable when the program has ended; -1: none */
    int status_fd;
};

/* Starts the program; the descriptors of config are borrowed. The working directory of the caller
 * is in its own mount namespace and is where the mount is attached for a moment. ERR_UNSUPPORTED,
 * with a public text, where the folder's filesystem has no id-mapped mounts. */
int unpack_start(const struct unpack_config *config, struct unpack *out, struct err *err);

/* Looks whether the program has ended. Returns 1: it is done, and summary (at least
 * UNPACK_STATUS_MAX + 1 bytes) holds "ENTRIES BYTES SKIPPED"; 0: it goes on; or an error kind,
 * after which nothing of it is left: ERR_BAD_INPUT with a public text when the archive is at fault,
 * ERR_INTERNAL when this host is. Texts are printable whatever the program sent. */
int unpack_poll(struct unpack *unpack, char *summary, struct err *err);

/* Kills the program; unpack_poll() tells when it is gone. */
void unpack_kill(const struct unpack *unpack);

#endif
