/* GPUs of the host, given to sandboxes whole and one sandbox at a time.
 *
 * Which there are is read from CDI specifications when the engine starts. A GPU that is in use is
 * locked with flock(2) on a file beside the id ranges, which all servers of the host share; the
 * locked description is inherited by the sandbox's init, so the kernel gives the GPU back when the
 * sandbox is gone, whoever died before. */
#ifndef BERTH_NATIVE_GPU_H
#define BERTH_NATIVE_GPU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "native/cdi.h"

enum { GPU_SET_MAX = 16, GPU_BINDS_MAX = 160 };

struct gpus {
    struct cdi cdi;
    int lock_dir_fd; /* borrowed */
};

/* The GPUs of one sandbox. */
struct gpu_set {
    size_t count;
    size_t index[GPU_SET_MAX];
    int lock_fds[GPU_SET_MAX];
};

/* A file or folder of the host that a sandbox sees, read-only. */
struct gpu_bind {
    char source[CDI_PATH_SIZE];
    char target[CDI_PATH_SIZE]; /* relative to the root */
    bool folder;
};

/* Reads $BERTH_CDI, folders separated by colons; not set: /etc/cdi and /var/run/cdi. */
void gpus_open(struct gpus *gpus, int lock_dir_fd);
void gpus_close(struct gpus *gpus);

/* Locks count GPUs. ERR_UNSUPPORTED: there are not as many; ERR_UNAVAILABLE with retry_after_s:
 * others have them now; both public. *out is the caller's to release. */
int gpus_take(const struct gpus *gpus, uint32_t count, struct gpu_set *out, struct err *err);

/* Closes our part of the locks. A zeroed set is allowed. */
void gpu_set_release(struct gpu_set *set);

/* Makes the device nodes of the set below dev_fd, a folder of a filesystem where nodes work. They
 * are for everybody there: who may not use them has no such folder. */
int gpus_make_nodes(const struct gpus *gpus, const struct gpu_set *set, int dev_fd,
                    struct err *err);

/* Lists what the set's specifications mount, each target once: files and folders that are on the
 * host. Returns their number, at most GPU_BINDS_MAX. */
size_t gpus_list_binds(const struct gpus *gpus, const struct gpu_set *set, struct gpu_bind *out);

#endif
