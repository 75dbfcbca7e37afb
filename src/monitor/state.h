/* The state folder: who owns what in it, the lock, and the identity of this installation.
 *
 *   DIR/       root, 0755
 *   DIR/priv/  root, 0700: instance, lock, run/, images/, mnt/ (the engine's)
 *   DIR/db/    the server's user, 0700
 *   DIR/run/   root and the server's group, 0750: native.sock, docker.sock,
 *              egress.sock
 *
 * Every component below DIR is opened by descriptor and never through a symbolic link. */
#ifndef BERTH_MONITOR_STATE_H
#define BERTH_MONITOR_STATE_H

#include <limits.h>
#include <sys/types.h>

#include "base/err.h"

#define STATE_INSTANCE_SIZE 9 /* eight hex digits and a NUL */

struct state {
    char path[PATH_MAX]; /* absolute, without links */
    char instance[STATE_INSTANCE_SIZE];
    int root_fd;
    int run_fd;
    int lock_fd; /* holds the lock while it is open */
};

#define STATE_INIT ((struct state){.root_fd = -1, .run_fd = -1, .lock_fd = -1})

/* Makes what is missing, mends owners and modes, takes the lock and reads (or makes) the instance
 * id. Blocks up to 5 s while a predecessor dies; ERR_CONFLICT then names its process id. uid and
 * gid are the server's. ERR_FORBIDDEN: the folder belongs to somebody else or is a link. */
int state_open(const char *path, uid_t uid, gid_t gid, struct state *out, struct err *err);

/* Lets the lock go. Takes STATE_INIT. */
void state_close(struct state *state);
#define STATE_AUTO __attribute__((cleanup(state_close)))

#endif
