/* The GPUs that the host's administrator described for containers: CDI specifications, version 0.x
 * and 1.x (github.com/cncf-tags/container-device-interface, SPEC.md), as JSON.
 *
 * Of a specification only what a sandbox is given is kept: device nodes and mounts. Hooks are
 * programs of the host and are not run; variables are not set; both are counted and told in the
 * log. */
#ifndef BERTH_NATIVE_CDI_H
#define BERTH_NATIVE_CDI_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/err.h"

enum { CDI_NAME_SIZE = 160, CDI_PATH_SIZE = 200, CDI_GPUS_MAX = 64 };

/* Of one device, or of all devices of a specification. */
struct cdi_owner {
    unsigned spec;
    int gpu; /* index in cdi.gpus; -1: all of spec */
};

struct cdi_node {
    struct cdi_owner owner;
    char path[CDI_PATH_SIZE];   /* in a sandbox, relative to /dev */
    char source[CDI_PATH_SIZE]; /* on the host */
    bool read_only;
};

struct cdi_mount {
    struct cdi_owner owner;
    char source[CDI_PATH_SIZE];
    char target[CDI_PATH_SIZE]; /* relative to the root */
};

struct cdi_gpu {
    char name[CDI_NAME_SIZE]; /* "nvidia.com/gpu=0" */
    unsigned spec;
};

struct cdi {
    struct cdi_gpu gpus[CDI_GPUS_MAX];
    size_t gpu_count;
    struct cdi_node *nodes;
    size_t node_count;
    struct cdi_mount *mounts;
    size_t mount_count;
    unsigned spec_count;
    unsigned left_out; /* hooks, variables, nodes that are no character devices, ... */
};

/* Reads the specifications in the folders, which are separated by colons; an earlier folder comes
 * first. Folders that are not there are none. A device that is the same as one before it (of the
 * same name, or with the same nodes) is not counted again, and neither is "all". What can't be
 * believed (not JSON, not root's own, ...) is told in the log and left out. */
void cdi_read(const char *folders, struct cdi *out);
void cdi_free(struct cdi *cdi);

/* Whether what has this owner belongs to the GPU number index. */
bool cdi_is_of(const struct cdi *cdi, const struct cdi_owner *owner, size_t index);

#endif
