/* The process's loop: the server's socket, who is attached, and time. */
#ifndef BERTH_EGRESS_SERVICE_H
#define BERTH_EGRESS_SERVICE_H

#include <sys/types.h>

#include "base/err.h"

struct service_config {
    int listen_fd;      /* SEQPACKET, listening */
    uid_t client_uid;   /* who may connect, beside root */
    const char *except; /* addresses that are no public ones and may be reached: CIDRs; "" none */
};

/* Serves until SIGTERM or SIGINT. Its connections end with it, the sandboxes do not. ERR_BAD_INPUT:
 * except can't be read. */
int service_run(const struct service_config *config, struct err *err);

#endif
