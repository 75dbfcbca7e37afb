/* The monitor's loop: children are started, watched, restarted and, in the end, stopped in order.
 */
#ifndef BERTH_MONITOR_SUPERVISE_H
#define BERTH_MONITOR_SUPERVISE_H

#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "monitor/options.h"
#include "monitor/state.h"

struct supervise_config {
    const struct monitor_options *options;
    const struct state *state;
    int http_fd;   /* listening TCP socket */
    uint16_t port; /* its real port */
    int engine_fd; /* listening engine socket; -1 without a native engine */
    int docker_fd; /* the same of berth-docker; -1 without */
    int egress_fd; /* listening socket of berth-egress */
    uid_t uid;     /* of the server */
    gid_t gid;
    uid_t egress_uid;
    gid_t egress_gid;
    const char *place; /* control group for the sandboxes' groups; "" for the root (place.h) */
};

/* Runs until SIGTERM or SIGINT, then ends the server first and the engines after it. Prints
 * `ready http://HOST:PORT` on standard output, and tells a service manager, when the server serves
 * for the first time. Children
 * that die are restarted: at once, then after growing pauses of up to a second. ERR_UNAVAILABLE
 * when the server can't be brought up even once; ERR_BAD_INPUT when a child exits with 2, which
 * says that its options or settings are wrong. Blocks. */
int supervise_run(const struct supervise_config *config, struct err *err);

#endif
