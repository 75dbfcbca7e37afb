/* The engine's event loop: one client, many sandboxes, no blocking step. */
#ifndef BERTH_NATIVE_SERVICE_H
#define BERTH_NATIVE_SERVICE_H

#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "native/userns.h"

struct service_config {
    const char *state_path;      /* the state folder; priv/ below it is ours */
    const char *images_path;     /* the operator's images; NULL: images/ of the state folder */
    int listen_fd;               /* SEQPACKET, listening */
    uid_t client_uid;            /* who may connect, beside root */
    const char *cgroup;          /* v2 group that ours goes below, "" or NULL for the root */
    unsigned zygote_forks;       /* of one zygote (native/zygote.h); 0: there are none */
    const struct userns *userns; /* whether this process is root in a namespace of its own */
    const struct err *refused;   /* why it could not become that; NULL: it is, or is the host's */
};

/* Prepares image, cgroups and ids, finds what an earlier engine left, and serves until SIGTERM.
 * Sandboxes live on after it returns. */
int service_run(const struct service_config *config, struct err *err);

#endif
