/* Shared by layers.c, layers_tidy.c and layer_build.c. */
#ifndef BERTH_CORE_LAYERS_INTERNAL_H
#define BERTH_CORE_LAYERS_INTERNAL_H

#include <pthread.h>

#include "base/id.h"
#include "core/layers.h"
#include "core/libraries.h"
#include "store/store.h"

/* Guarded by layers->lock, but for what of the row never changes: all but used_us and keep. */
struct layer {
    struct store_layer row;
    unsigned users;
    bool removed;       /* not in the list: it is freed with its last user */
    int64_t written_us; /* used_us in the store */
    struct layer *next;
};

/* One that is being made, by a thread of its own. */
struct layer_build {
    struct core *core;
    /* Fixed */
    char name[STORE_ID_SIZE];
    char owner[STORE_TEXT_SIZE];
    char image[STORE_IMAGE_SIZE];
    struct engine_slot *slot;
    char runtime[STORE_TEXT_SIZE]; /* that its sandbox has; "": the engine's first */
    const struct lang *lang;
    struct library_set set;
    char *key;
    int done_fd; /* eventfd: readable once it is over */
    /* Of its thread until it is over, then fixed */
    int result; /* 0, LAYER_FAILED or negative */
    struct err err;
    struct layer_failure failure;
    /* Guarded by layers->lock */
    char live_id[ID_UUID_SIZE]; /* "": not yet */
    struct layer *layer;        /* with a use of its own */
    bool keep, over;
    bool abandoned;      /* nobody waits for it any more */
    unsigned references; /* of its thread, and of those that wait or look at its failure */
    unsigned waiting;
    int64_t begun_us;
    struct layer_build *next;
};

struct layers {
    pthread_t keeper;
    bool keeper_runs;

    /* Rank 2, never held together with another of that rank. Guards all that follows. */
    pthread_mutex_t lock;
    pthread_cond_t changed; /* for the keeper */
    bool stop;
    struct layer *list; /* oldest first */
    struct layer_build *builds;
    unsigned count;
    uint64_t bytes;
    uint64_t spooled_bytes; /* of archives on their way to the engine, on the host's disk */
};

#define LAYERS_BUSY_RETRY_S 30

/* layers.c */
struct layer *layers_find_locked(struct layers *layers, const char *name);
/* Takes it out of the list. */
void layers_unlink_locked(struct layers *layers, struct layer *layer);
/* Enters one with a first user. */
struct layer *layers_enter(struct core *core, struct store_layer *row);
void layer_free(struct layer *layer);

/* layers_tidy.c */
/* Lets go what is too much, until count layers and size_bytes more have room; ERR_UNAVAILABLE
 * (public): the others are in use. */
int layers_make_room(struct core *core, unsigned count, uint64_t size_bytes, struct err *err);
/* Takes the row and the engine's layer away, of one that is in no list. */
void layers_drop(struct core *core, const char *engine, const char *name);

/* layer_build.c: makes the layer; blocks. live_id is set by it. Returns 0 with *out_row filled
 * (not in the store yet), LAYER_FAILED or a failure. */
int layer_build_run(struct layer_build *build, struct store_layer *out_row, struct err *err);

#endif
