/* The catalogue of images: what the operator put into the folder of images, and, for archives, what
 * they were unpacked to.
 *
 * A name of the catalogue means what the folder holds now: a changed archive is unpacked anew, and
 * until that is done the image is unavailable; sandboxes that live keep the version they began
 * with. Single-threaded; nothing here waits for a child. */
#ifndef BERTH_NATIVE_IMAGES_H
#define BERTH_NATIVE_IMAGES_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct images_config {
    int folder_fd;           /* the operator's folder; -1: none */
    int store_fd;            /* root's own, where archives are unpacked to */
    int unpack_fd;           /* the program berth-unpack, O_PATH */
    uint64_t size_max_bytes; /* of one unpacked image */
    uint64_t entries_max;    /* files and folders of one */
    unsigned timeout_s;      /* for unpacking one */
};

struct images;

/* The descriptors of config stay the caller's and have to outlive the catalogue; store_fd was
 * opened in the mount namespace that this process is in now, or its mount can't be cloned. */
int images_open(const struct images_config *config, struct images **out, struct err *err);

/* Kills children that still run; what they leave is swept by the next images_open(). NULL is
 * allowed. */
void images_free(struct images *images);

/* Looks for new, changed and vanished images, starts and reaps children. Returns the
 * CLOCK_MONOTONIC time at which it wants to be called again; sooner when images_event_fd() is
 * readable. The working directory has to be fit for unpack_start(). */
int64_t images_step(struct images *images);

/* Readable when a child has ended: to be watched for EPOLLIN. Owned by the catalogue. */
int images_event_fd(const struct images *images);

struct image_folder {
    int root_fd; /* O_PATH; the ids on the disk count from 0 */
    int lock_fd; /* keeps an unpacked folder there for as long as any process holds it, so the
                    sandbox's init inherits it; -1 for a folder of the operator */
};

/* The rootfs of an image; the descriptors are the caller's. ERR_BAD_INPUT: unknown, refused, or its
 * archive can't be unpacked; ERR_UNAVAILABLE with retry_after_s: it is being unpacked;
 * ERR_UNSUPPORTED: not on this host's filesystem. All with public texts. */
int images_take(struct images *images, const char *name, struct image_folder *out, struct err *err);

/* The names of all that can be had now or soon, separated by spaces; cut at a whole name. */
void images_names(const struct images *images, char *out, size_t size);

#endif
