/* The setup stage: what the first process of a sandbox does before it becomes init.
 *
 * It runs in fresh namespaces, talks to the engine over one SEQPACKET socket, builds the root, and
 * executes init. Messages: engine 'G' (ids are mapped, go on); stage 'U' + the inner user
 * namespace; engine 'M', the mounts' targets, each ended by NUL, + one descriptor a mount, after
 * any number of 'N', the same with more to come; init 'R' (listening); engine 'C' (commit).
 * Anything else from the stage is a text that says what failed. */
#ifndef BERTH_NATIVE_SETUP_H
#define BERTH_NATIVE_SETUP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "native/initstream.h"
#include "native/cgroup.h"
#include "native/idrange.h"
#include "native/image.h"
#include "native/runsc.h"
#include "wire/init_config.h"

/* For a sandbox that the runtime "runsc" runs: the engine gets the stage's own user namespace with
 * 'U', and 'R' comes from the keeper of the sandbox (init/keep.h), when the program has started. */
struct setup_runsc {
    const struct runsc *runsc;
    uint64_t memory_bytes;       /* that the sandbox sees */
    struct initstream_ends ends; /* standard streams of its init */
    struct buf bundle;           /* config.json */
    struct buf config;           /* of its init, encoded */
};

struct setup {
    const struct cgroup_entry *entry; /* into the init group */
    const struct image *image;
    struct init_config *config; /* its descriptors survive into init; setup adds userns_fd */
    int socket_fd;              /* the stage's end */
    int init_fd;                /* the program, for execveat(2) */
    int id_lock_fd;             /* stays open in init: it holds the id range */
    int image_lock_fd;          /* the same for an unpacked image; -1: none */
    const int *gpu_lock_fds;    /* the same for each GPU */
    size_t gpu_count;
    bool own_root;          /* the stage mounts a tmpfs as root; else it comes with 'M' */
    uint64_t storage_bytes; /* of that tmpfs */
    const struct idrange_maps *maps;
    const struct setup_runsc *runsc; /* NULL: the kernel itself runs the sandbox */
};

/* Runs in the child; never returns. The working directory is where the root is put together. */
_Noreturn void setup_run(const struct setup *setup);

#endif
