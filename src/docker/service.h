/* The engine's event loop: one client, many sandboxes, no blocking step. */
#ifndef BERTH_DOCKER_SERVICE_H
#define BERTH_DOCKER_SERVICE_H

#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"

struct service_config {
    const char *instance; /* eight hex digits: whose sandboxes these are */
    int listen_fd;        /* SEQPACKET, listening */
    uid_t client_uid;     /* who may connect, beside root */
    int layers_fd;        /* a folder of ours for library layers; -1: there are none */
    const void *init;     /* the bytes of berth-init */
    size_t init_size;
};

/* Serves until SIGTERM. Sandboxes live on after it returns. ERR_BAD_INPUT: a setting is wrong. */
int service_run(const struct service_config *config, struct err *err);

#endif
