/* Where the Docker daemon is: DOCKER_HOST and its companions, or the sockets that are usual. */
#ifndef BERTH_DOCKER_ADDRESS_H
#define BERTH_DOCKER_ADDRESS_H

#include <limits.h>
#include <stdbool.h>

#include "base/err.h"

struct address {
    char socket_path[PATH_MAX]; /* "": it is reached over TCP */
    char base[512];           /* what a path is put behind: "http://docker", "https://host:2376" */
    bool verify;              /* TLS: whether the daemon's certificate is looked at */
    char ca_path[PATH_MAX];   /* against which; "": those that this host trusts */
    char cert_path[PATH_MAX]; /* "": no certificate of ours */
    char key_path[PATH_MAX];
    char shown[PATH_MAX]; /* for messages */
};

/* Of unix://PATH, tcp://HOST:PORT, http:// and https://. With DOCKER_CERT_PATH TLS is spoken by the
 * certificates in that folder; a non-empty DOCKER_TLS_VERIFY checks the daemon's
 * (docs.docker.com/engine/security/protect-access). Without DOCKER_HOST: the first socket there is,
 * of Docker, of Podman (also those of this user), of Colima; the usual path of Docker where there
 * is none. ERR_BAD_INPUT: DOCKER_HOST can't be read. Does not connect. */
int address_find(struct address *out, struct err *err);

#endif
