/* What the kernel lets this process do, found out by doing it in children that end at once. */
#ifndef BERTH_NATIVE_TRIAL_H
#define BERTH_NATIVE_TRIAL_H

#include "base/err.h"
#include "native/idrange.h"
#include "native/image.h"

/* Mounts a /proc in namespaces as a sandbox has them. ERR_UNSUPPORTED (public) says why not;
 * any other failure is an accident. */
int trial_proc(struct err *err);

/* Takes every tree of the image once, which notes in it what can't be id-mapped or layered.
 * stage_fd: see image_overlay(). */
int trial_image(struct image *image, const struct idrange_space *space, int stage_fd,
                struct err *err);

/* Whether sandboxes can be shown a folder of store_fd. ERR_UNSUPPORTED: not with other ids. */
int trial_layers(int store_fd, const struct idrange_space *space, int stage_fd, struct err *err);

#endif
