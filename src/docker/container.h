/* One sandbox of this engine: a container, and where it stands.
 *
 * The steps of a creation: its image is there; the container is made; init is put into it and its
 * streams are attached; it is started; init answers. Each waits for the daemon, none of them holds
 * up another sandbox. Whatever goes wrong removes the container again, for as long as it takes. */
#ifndef BERTH_DOCKER_CONTAINER_H
#define BERTH_DOCKER_CONTAINER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "docker/attach.h"
#include "docker/image.h"
#include "docker/prepare.h"
#include "docker/spec.h"
#include "wire/engine_msg.h"

struct service;

enum { CONTAINER_WAITERS_MAX = 8, CONTAINER_CHANNELS_MAX = 32 };

struct container_waiter {
    uint32_t op;
    uint64_t request_id;
};

enum container_step {
    CONTAINER_STEP_NONE,
    CONTAINER_STEP_IMAGE,
    CONTAINER_STEP_BASE, /* whether what is prepared of the image is still of it */
    CONTAINER_STEP_MAKE,
    CONTAINER_STEP_LIMIT, /* START: it is there, and gets other limits */
    CONTAINER_STEP_FILL,
    CONTAINER_STEP_START,
    CONTAINER_STEP_ANSWER,
};

struct container {
    struct service *service;
    struct container *next;
    struct engine_create create; /* as it was asked for; of an adopted one: its id and keep_files */
    char name[SPEC_NAME_SIZE];
    char runtime[ENGINE_NAME_MAX];
    uint8_t secret[CARRIER_SECRET_SIZE];
    uint8_t nonce[SANDBOX_NONCE_SIZE];
    uint32_t gpus;
    struct prepared *prepared; /* what it is made of; NULL: of the image, and filled */
    enum engine_state state;
    int64_t since_ns; /* it has been in that state */
    int64_t oom_ns;   /* when the daemon last said that it is out of memory; 0: never */
    enum container_step step;
    bool gvisor;
    bool filled;   /* STEP_FILL: init is in it */
    bool attached; /* and its streams are ours */
    bool with_quota;
    bool made;       /* the daemon may have it */
    bool dying;      /* it has ended; what ended it is being asked */
    bool doomed;     /* whatever else becomes of it, nothing of it is kept */
    bool gone_first; /* the server is to hear that it is gone once that is known */
    bool freed;
    uint32_t create_op;
    uint64_t create_request;                                /* 0: nobody waits */
    struct container_waiter waiters[CONTAINER_WAITERS_MAX]; /* for its end, or its stop */
    size_t waiter_count;
    uint64_t channels[CONTAINER_CHANNELS_MAX]; /* requests that wait until init answers */
    size_t channel_count;
    struct web_call *call;
    struct web_call *limit_call;
    uint64_t limit_request;
    struct web_call *layer_call;
    uint64_t layer_request;
    struct attach *attach;
    struct loop_timer timer; /* of a creation: how long it may take; else when to try again */
    int64_t pause_ns;
};

/* Begins a creation, or a start (op) of a stopped one. The answer goes to request_id. */
void container_begin(struct container *container, uint32_t op, uint64_t request_id);
/* It turned out whether an image is there. */
void container_image_changed(struct container *container);

/* Removes the container with all it has; whoever waits is told. Idempotent. */
void container_destroy(struct container *container);
/* Ends its processes and keeps its files; of one that is being made nothing is kept. */
void container_stop(struct container *container);
/* A stopped one runs: somebody started it who is not us, and without its init's configuration. */
void container_stop_again(struct container *container);
/* Notes who waits for either. ERR_UNAVAILABLE: too many do. */
int container_wait(struct container *container, uint32_t op, uint64_t request_id, struct err *err);

/* ENGINE_OP_OPEN_CHANNEL: answers now, or when init has answered. */
void container_open_channel(struct container *container, uint64_t request_id);
/* ENGINE_OP_LIMIT */
void container_limit(struct container *container, const struct engine_create *limits,
                     uint64_t request_id);

/* ENGINE_OP_LAYER_ATTACH, of a tar as berth-unpack makes it; answers when its files are there, in
 * the place of whatever was. */
int container_put_layer(struct container *container, int tar_fd, uint64_t size_bytes,
                        uint64_t request_id, struct err *err);

/* The daemon says: it has ended (with that exit code); it ran out of memory; it was removed; it
 * runs not, and is there. */
void container_died(struct container *container, int exit_code);
void container_oom(struct container *container);
void container_removed(struct container *container);
/* Asks the daemon about one that ought to run. Its list may lag behind a start by a moment, and
 * is no reason to give a container up. One that is lost is killed. */
void container_look(struct container *container);
/* Whether it runs and nobody can speak to it again: Podman closes a container's standard input when
 * who was attached leaves, be it for the death of this engine or of its own service. */
bool container_is_lost(const struct container *container);

/* Nobody who asked is there any more. */
void container_forget_requests(struct container *container);
/* Takes it apart; the container itself lives on at the daemon. */
void container_free(struct container *container);

#endif
