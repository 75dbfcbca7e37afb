/* A private server for one command, when no other one runs. */
#ifndef BERTH_CLI_LOCAL_H
#define BERTH_CLI_LOCAL_H

#include <limits.h>
#include <sys/types.h>

#include "base/err.h"

struct local_server {
    pid_t pid; /* of the monitor; 0 none */
    char url[160];
    char state_path[PATH_MAX]; /* "" none */
};

/* Starts a monitor with a temporary state folder and a free port and waits until it serves (up to
 * 20 s). ERR_FORBIDDEN without root, in words that say what else to do. */
int local_server_start(struct local_server *out, struct err *err);

/* Stops it, waits for its end and removes its folder. Takes a zeroed struct. */
void local_server_stop(struct local_server *server);
#define LOCAL_SERVER_AUTO __attribute__((cleanup(local_server_stop)))

/* Replaces this process with the program called name, which lies beside this one. argv[0] is
 * replaced by the name. Returns only on failure. */
int local_exec(const char *name, char **argv, struct err *err);

#endif
