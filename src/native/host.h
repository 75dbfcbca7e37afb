/* What all sandboxes of this engine share, and what this host can do for them. */
#ifndef BERTH_NATIVE_HOST_H
#define BERTH_NATIVE_HOST_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "native/cgroup.h"
#include "native/disk.h"
#include "native/gpu.h"
#include "native/idrange.h"
#include "native/image.h"
#include "native/images.h"
#include "native/layers.h"
#include "native/network.h"
#include "native/runsc.h"
#include "native/sysview.h"
#include "native/userns.h"
#include "wire/engine_msg.h"

enum { HOST_INSTANCE_SIZE = 33 };

struct zygotes;

struct host_config {
    const char *state_path;      /* the state folder; priv/ below it is ours */
    const char *images_path;     /* the operator's images; NULL: images/ of the state folder */
    const char *cgroup;          /* v2 group that ours goes below, "" or NULL for the root */
    const struct userns *userns; /* NULL: this process made none */
    const struct err *refused;   /* why it could make none; NULL: nothing */
};

struct sandbox_host {
    char instance[HOST_INSTANCE_SIZE];
    bool usable;            /* sandboxes can be made */
    struct err unavailable; /* why not. ERR_UNSUPPORTED: this host can't; else ERR_UNAVAILABLE: an
                               accident */
    char missing[ENGINE_TEXT_MAX]; /* what can't be had here, and why; "" nothing */

    struct idrange_space ids;
    bool own_userns;            /* an ordinary user's: root only in a namespace of our own */
    struct cgroup_root cgroups; /* count 0: none; the sockets of the inits are the journal then */
    struct image image;
    struct images *images; /* NULL: only `host` */
    struct layers *layers; /* NULL: this host has none; of the service */
    struct networks networks;
    struct gpus gpus;        /* none where cdi.gpu_count is 0 */
    struct disk_store disks; /* dir_fd -1: none, without the host's root */
    struct runsc runsc;      /* not usable: this host has none */
    struct sysview sysview;
    bool disks_usable;   /* new ones can be made, and kept ones opened; else they are only known */
    uint64_t disk_bytes; /* when the engine started: free where the disks are, or taken by them */
    int stage_fd;        /* where layers are attached for a moment, in our own mount namespace */
    int run_fd;          /* priv/run: the sockets of the inits */
    int ids_fd;          /* folder of id ranges */
    int init_fd;         /* the berth-init program */
    int images_folder_fd, images_store_fd, unpack_fd;
    int layers_store_fd;     /* -1: this host has no layers */
    struct zygotes *zygotes; /* of the service; NULL: none */
    int epoll_fd;            /* of the service: where the descriptors of sandboxes are watched */
};

/* Prepares everything in a mount namespace of this process's own, and makes priv/mnt the working
 * directory, which is where a sandbox puts its root together. Fails for what every host has; what
 * this one lacks is told by host_info(). epoll_fd and zygotes are the caller's to set. */
int host_open(const struct host_config *config, struct sandbox_host *host, struct err *err);
void host_close(struct sandbox_host *host);

/* Opens the layers, if this host has any. */
int host_open_layers(struct sandbox_host *host, layers_imported_fn on_imported, void *context,
                     struct err *err);

/* The answer to a probe. */
void host_info(const struct sandbox_host *host, struct engine_info *out);

#endif
