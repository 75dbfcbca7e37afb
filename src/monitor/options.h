/* The command line of berth-monitor, which is also what `berth serve` takes. */
#ifndef BERTH_MONITOR_OPTIONS_H
#define BERTH_MONITOR_OPTIONS_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

#define OPTIONS_EGRESS_USER "berth-egress" /* when none is named; need not be there */

struct monitor_options {
    const char *host;             /* name or address to listen on */
    uint16_t port;                /* 0: the kernel chooses */
    const char *state_path;       /* the state folder; made when missing, with what is above it */
    char state_default[PATH_MAX]; /* what state_path may point to */
    const char *user;             /* system user that the server runs as */
    const char *egress_user;      /* the same of berth-egress */
    const char *images_path;      /* the operator's folder of images; NULL: images/ of the state */
    const char *cgroup;           /* group for the sandboxes' groups; NULL: found (place.h) */
    bool native;                  /* BERTH_ENGINES has "native", or there is no such setting */
    bool docker;                  /* BERTH_ENGINES has "docker" */
    bool hold;                    /* only keep a control group (hold.h) */
    bool help;                    /* only the help text is wanted */
};

/* Fills options from the environment (HOST or API_HOST, PORT or API_PORT, BERTH_STATE, BERTH_USER,
 * BERTH_EGRESS_USER, BERTH_CGROUP) and then from argv, which wins. The state folder of an ordinary
 * user is below XDG_STATE_HOME (XDG Base Directory Specification). The strings are borrowed,
 * state_path may point into *out. ERR_BAD_INPUT names the option. */
int monitor_options_parse(int argc, char **argv, struct monitor_options *out, struct err *err);

/* The help text. */
const char *monitor_options_help(void);

#endif
