/* The root of one sandbox, put together from mounts that the engine makes.
 *
 * Profile strict on image `host` with files in memory is the fast path: the setup stage mounts the
 * tmpfs itself, and only the image's binds come from here. Everything else has its writable part on
 * one filesystem (a tmpfs or the sandbox's disk): a folder `root` that is bound as /, and for each
 * overlay the folders NAME.upper and NAME.work beside it, which the code never sees. Mount points
 * are folders of the writable part, made by the engine: nothing is looked up in an image. */
#ifndef BERTH_NATIVE_ROOTFS_H
#define BERTH_NATIVE_ROOTFS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "native/cgroup.h"
#include "native/gpu.h"
#include "native/image.h"
#include "native/sysview.h"

enum {
    ROOTFS_MOUNT_MAX = IMAGE_TREE_MAX + CGROUP_HIERARCHY_MAX + 4 + GPU_BINDS_MAX,
    ROOTFS_TARGET_SIZE = CDI_PATH_SIZE
};

struct rootfs_mount {
    char target[ROOTFS_TARGET_SIZE]; /* relative to the root; "" is the root itself and comes first
                                      */
    int fd;                          /* detached */
};

struct rootfs {
    struct rootfs_mount mounts[ROOTFS_MOUNT_MAX]; /* in the order that they are attached */
    size_t count;
};

struct rootfs_spec {
    struct image *host;
    struct sysview *sysview;
    const struct cgroup_root *cgroups;
    const char *id;
    int stage_fd;   /* a folder of the engine's own mount namespace where layers are attached for a
                       moment */
    int folder_fd;  /* the rootfs folder of another image; -1: image `host` */
    bool on_disk;   /* the files; else they are in memory */
    int disk_fd;    /* detached, not id-mapped; -1: none, or not yet */
    int userns_fd;  /* the inner user namespace */
    uid_t first_id; /* on the host: id 0 of that namespace */
    bool container;
    uint64_t storage_bytes;
    uint32_t cpu_millis;
    const struct gpus *gpus;       /* NULL: this host has none */
    const struct gpu_set *gpu_set; /* those of this sandbox */
};

/* How many files a root in memory of that many bytes may hold. */
uint64_t rootfs_inodes(uint64_t storage_bytes);

/* Whether the setup stage makes the root by itself. */
bool rootfs_is_plain(const struct rootfs_spec *spec);

/* Makes the mounts; on success they are the caller's, to be closed by rootfs_close(). Errors of an
 * image that can't be used here are public. */
int rootfs_build(const struct rootfs_spec *spec, struct rootfs *out, struct err *err);
void rootfs_close(struct rootfs *rootfs);

/* Only the mounts of the image `host` as profile strict has them, with the host's own ids. */
int rootfs_build_image(struct image *host, int stage_fd, struct rootfs *out, struct err *err);

/* Makes the folders that every root has below root_fd, and what the image's trees and links need.
 * owner, code: as whom the caller sees the ids 0 and 1000 of the inner namespace. What is there and
 * no folder is replaced: a stopped sandbox's code may have left a link. */
int rootfs_make_folders(int root_fd, const struct image *host, uid_t owner, uid_t code,
                        struct err *err);

#endif
