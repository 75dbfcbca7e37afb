/* Images of the operator's that have init and its folders in them already: one layer more, made
 * once and kept by the daemon, so that a sandbox needs no archive of its own (moby starts a program
 * for each). Made in the background; nobody waits for it, and where the daemon lets none be made
 * sandboxes are filled one by one. */
#ifndef BERTH_DOCKER_PREPARE_H
#define BERTH_DOCKER_PREPARE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "docker/daemon.h"
#include "docker/image.h"
#include "wire/engine_msg.h"

#define PREPARE_REPOSITORY "berth-prepared"
#define PREPARE_LABEL_INSTANCE "berth.prepared"
#define PREPARE_LABEL_BASE "berth.base"
#define PREPARE_LABEL_INIT "berth.init"
#define PREPARE_LABEL_PROFILE "berth.prepared-for"

enum { PREPARE_ID_SIZE = 80 };

/* One image, for one profile. */
struct prepared {
    struct prepares *prepares;
    char image[ENGINE_IMAGE_MAX];
    bool container; /* the profile */
    char tag[64];
    char base[PREPARE_ID_SIZE]; /* the id that the image had */
    char id[PREPARE_ID_SIZE];   /* of what was made of it */
    bool ready;
    bool made;       /* there may be a container that it is made in */
    bool failed;     /* said already */
    bool distrusted; /* what the daemon has is not taken */
    int64_t retry_ns;
    struct web_call *call;
};

struct prepares {
    struct daemon *daemon;
    const char *instance;
    const void *init;
    size_t init_size;
    char init_hash[17];
    bool stopping;
    struct prepared list[2 * IMAGE_LIST_MAX]; /* of each of the operator's images two */
};

void prepares_init(struct prepares *prepares, struct daemon *daemon, const char *instance,
                   const void *init, size_t init_size);
/* The daemon is gone: what it has is looked for anew. */
void prepares_forget(struct prepares *prepares);
/* Something is being made. */
bool prepares_are_busy(const struct prepares *prepares);
/* Lets go of what is half-made; it takes a moment (prepares_are_busy()). */
void prepares_stop(struct prepares *prepares);

/* What sandboxes of this image and profile may be made of; NULL: nothing yet, and it is begun. */
struct prepared *prepare_want(struct prepares *prepares, const struct image *image, bool container);
/* What the daemon says of the image now (GET /images/NAME/json): whether it is still the one that
 * was prepared. If not, another one is begun. */
bool prepare_is_of(struct prepared *prepared, long status, const struct buf *body);
/* The daemon has it no more. */
void prepare_is_missing(struct prepared *prepared);
/* A sandbox could not be made of it, perhaps for its sake: none is any more, and after a while it
 * is made anew. */
void prepare_distrust(struct prepared *prepared);

#endif
