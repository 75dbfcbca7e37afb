/* The images of the daemon that sandboxes may be made of: the operator's list, and pulling those
 * that are not there. One pull of an image at a time, for all who wait. */
#ifndef BERTH_DOCKER_IMAGE_H
#define BERTH_DOCKER_IMAGE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "docker/daemon.h"
#include "docker/progress.h"
#include "docker/registry.h"
#include "wire/engine_msg.h"

#define IMAGE_LIST_MAX 32

struct image {
    char name[ENGINE_IMAGE_MAX];
    struct images *images;
    bool is_there;
    bool looks_again;             /* call asks only what the name means now */
    char id[ENGINE_IMAGE_ID_MAX]; /* what it means; "" not known */
    int64_t looked_ns;            /* when that was said */
    struct web_call *call;        /* looks for it, or pulls it */
    struct progress lines;        /* of a pull */
    struct registry_login login;
    char progress[128]; /* "" nothing is being pulled */
    struct err failure; /* of the last pull; kind ERR_NONE: none */
    int64_t retry_at_ns;
    int64_t logged_at_ns;
};

struct images {
    struct daemon *daemon;
    struct image list[IMAGE_LIST_MAX]; /* the first is taken when none is named */
    size_t count;
    int64_t stall_ns; /* a pull that says nothing for so long is ended; images_init() sets it */
    /* Called when it turned out whether an image is there. */
    void (*on_change)(void *context);
    void *context;
};

/* Reads DOCKER_BASE_IMAGE and BERTH_DOCKER_IMAGES; the names are checked. daemon, on_change and
 * context are set by the caller before. */
int images_init(struct images *images, struct err *err);
void images_done(struct images *images);

/* The daemon is (again) there: looks whether it has the first image, which is pulled if it is
 * missing. Of the others it is asked when one of them is wanted. */
void images_look(struct images *images);
/* The daemon is gone. */
void images_forget(struct images *images);

/* The image of that name, "" the first. ERR_UNSUPPORTED (public): the operator allows no such. */
int images_find(struct images *images, const char *name, struct image **out, struct err *err);
/* 1: it is there. 0: it is being looked for or pulled, on_change follows. Else why it can't be had
 * (public). */
int image_want(struct image *image, struct err *err);
/* The daemon has said that it has no such image. */
void image_is_missing(struct image *image);

/* Asks anew what the names of those that are there mean, unless that was done a moment ago. Does
 * not block. */
void images_look_again(struct images *images);
/* What each name means as far as it is known, in the words of engine_info. */
void images_ids(const struct images *images, char out[static ENGINE_IMAGE_IDS_MAX]);

/* The names, separated by spaces, and what is being pulled, for info. */
void images_names(const struct images *images, char *out, size_t size);
void images_progress(const struct images *images, char *out, size_t size);

#endif
