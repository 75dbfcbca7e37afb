/* The sockets on which the inits of sandboxes listen: one file ID.sock for each in priv/run.
 *
 * Where there are no control groups they are the journal of what exists: made before the first
 * process of a sandbox, removed after its last one. */
#ifndef BERTH_NATIVE_INITSOCK_H
#define BERTH_NATIVE_INITSOCK_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/err.h"

/* Makes the socket; init calls listen(2). -ERR_CONFLICT: there is one of that id. */
int initsock_bind(int dir_fd, const char *id, int *out_fd, struct err *err);

/* Connects. ERR_UNAVAILABLE: nobody listens. */
int initsock_connect(int dir_fd, const char *id, int *out_fd, struct err *err);

/* Removes the file; none is fine. */
void initsock_remove(int dir_fd, const char *id);

/* Whether there is a file for id, whatever came of who listened. */
bool initsock_exists(int dir_fd, const char *id);

struct initsock_peer {
    pid_t pid; /* in this process's pid namespace */
    uid_t uid; /* in this process's user namespace */
    int pidfd; /* the caller's */
};

/* Who listens, when it is the first process of a pid namespace of its own. ERR_NOT_FOUND: nobody
 * does, nor will. ERR_UNAVAILABLE: that can't be told now, try later: it has not accepted the
 * connections that wait. Does not block. */
int initsock_find(int dir_fd, const char *id, struct initsock_peer *out, struct err *err);

/* Calls fn, which may remove the file, for every id that has one. */
int initsock_each(int dir_fd, void (*fn)(void *context, const char *id), void *context,
                  struct err *err);

#endif
