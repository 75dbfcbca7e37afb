/* The way to the init of a container: its standard streams over a hijacked connection of the Docker
 * Engine API (docs.docker.com/engine/api, ContainerAttach), and on them a carrier. */
#ifndef BERTH_DOCKER_ATTACH_H
#define BERTH_DOCKER_ATTACH_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "docker/address.h"
#include "docker/loop.h"
#include "wire/carrier.h"

struct attach;

struct attach_events {
    void *context;
    /* The daemon has agreed: the container's streams are ours, and it may be started. */
    void (*attached)(void *context);
    /* Init has answered. */
    void (*up)(void *context);
    /* It is over, all channels are closed; attach_free() is all that is left to do. Never called by
     * attach_free(). */
    void (*ended)(void *context, const struct err *error);
};

struct attach_config {
    struct loop *loop;
    const struct address *address; /* has to outlive the attach */
    const char *api;               /* "/v1.41" */
    const char *container;         /* a name or an id; copied */
    const char *id;                /* of the sandbox, for the log; borrowed for its life */
    const uint8_t *secret;         /* CARRIER_SECRET_SIZE bytes */
};

/* Begins to connect. One event of attached or ended follows, then up or ended, then ended. How long
 * init may take is counted from attach_expect() on. */
int attach_new(const struct attach_config *config, const struct attach_events *events,
               struct attach **out, struct err *err);
/* Once attached: init runs, and is to answer. */
void attach_expect(struct attach *attach);
/* Closes all channels. NULL is allowed; may be called by an event. */
void attach_free(struct attach *attach);

bool attach_is_up(const struct attach *attach);
/* A new channel to init; the socket is the caller's. */
int attach_open_channel(struct attach *attach, int *out_fd, struct err *err);

#endif
