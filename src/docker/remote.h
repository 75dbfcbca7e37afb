/* The daemon for a command: one request at a time, waited for. */
#ifndef BERTH_DOCKER_REMOTE_H
#define BERTH_DOCKER_REMOTE_H

#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "docker/address.h"
#include "docker/progress.h"

struct remote {
    struct address address;
    struct loop *loop;
    struct web *web;
};

struct remote_call {
    const char *what; /* is tried, for errors */
    const char *method;
    const char *path;   /* without a version: the daemon's own newest is taken */
    const char *header; /* see struct web_request; NULL: none */
    int body_fd;        /* with body_size: a tar */
    uint64_t body_size;
    int64_t stall_ns; /* what may pass without a byte of the answer; 0: as long as it takes */
    progress_fn take; /* NULL: the answer is kept */
    void *context;
};

/* Finds the daemon as the engine does; does not connect. */
int remote_open(struct remote *remote, struct err *err);
/* Takes a zeroed struct. */
void remote_close(struct remote *remote);
#define REMOTE_AUTO __attribute__((cleanup(remote_close)))

/* Until the answer is whole. Any status but those of success is an error: ERR_NOT_FOUND of 404,
 * else see web_refused(). An error within a stream of progress is the callback's. reply may be
 * NULL. */
int remote_do(struct remote *remote, const struct remote_call *call, struct buf *reply,
              struct err *err);

#endif
