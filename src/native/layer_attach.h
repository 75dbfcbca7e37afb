/* A layer comes into a sandbox that runs.
 *
 * The engine makes the mount: a read-only overlay over the layer's folder, mapped so that its files
 * belong to the code's root. A child enters the sandbox's user and mount namespaces, where it has
 * no right to anything outside, and puts the mount at ENGINE_LAYER_PLACE. Of what the code left
 * there nothing is believed and no link is followed: what is no folder is put aside under another
 * name. */
#ifndef BERTH_NATIVE_LAYER_ATTACH_H
#define BERTH_NATIVE_LAYER_ATTACH_H

#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "native/layers.h"

struct layer_attach {
    pid_t pid; /* 0: none */
    int pidfd; /* readable when the child has ended; -1: none */
    int status_fd;
    int lock_fd; /* of the layer */
    uint64_t request_id;
    int64_t deadline_ns;
};

#define LAYER_ATTACH_INIT                                                                          \
    ((struct layer_attach){.pidfd = -1, .status_fd = -1, .lock_fd = -1, .deadline_ns = INT64_MAX})

struct layer_target {
    pid_t pid;    /* of the sandbox's init ... */
    int pidfd;    /* ... which is this process */
    int stage_fd; /* see image_overlay() */
};

/* Starts it; takes the layer's descriptors, also when it fails. The working directory is as for
 * images. ERR_CONFLICT: the sandbox has ended. */
int layer_attach_start(const struct layer_target *target, struct layer *layer,
                       struct layer_attach *out, struct err *err);

/* Looks whether it has ended. Returns 1: the layer is seen, and *out_lock_fd is the lock to be held
 * for as long as the sandbox lives; 0: it goes on; or an error kind. ERR_CONFLICT: what the
 * sandbox's code left or does lets no layer be shown; it has none then. */
int layer_attach_poll(struct layer_attach *attach, int *out_lock_fd, struct err *err);

/* Kills the child; layer_attach_poll() tells when it is gone. */
void layer_attach_kill(const struct layer_attach *attach);

/* Kills it and waits for nothing. */
void layer_attach_abort(struct layer_attach *attach);

/* The lock of the layer that a sandbox of an earlier engine shows; *out_lock_fd is -1 when it shows
 * none. */
int layer_attach_adopt(const struct layers *layers, pid_t init_pid, int *out_lock_fd,
                       struct err *err);

#endif
