/* HTTP requests to the Docker daemon, by libcurl's multi interface on a loop.
 *
 * A web is one set of connections to one address. Nothing blocks; whoever is called back may start
 * and cancel calls, and free the web. */
#ifndef BERTH_DOCKER_WEB_H
#define BERTH_DOCKER_WEB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/buf.h"
#include "base/err.h"
#include "docker/address.h"
#include "docker/loop.h"

struct web;
struct web_call;

/* What was answered: any status. body is the callee's until it returns. error is not NULL when
 * nothing was: ERR_UNAVAILABLE, ERR_TIMEOUT, or ERR_TOO_LARGE. The call is over and freed after
 * this. */
typedef void (*web_done_fn)(void *context, long status, struct buf *body, const struct err *error);
/* A piece of a body that comes bit by bit, only of a status below 300; false ends the call, as if
 * that had been all. Must neither start nor cancel a call: libcurl is in the midst of one. */
typedef bool (*web_data_fn)(void *context, const void *data, size_t size);

struct web_request {
    const char *method;
    const char *path;   /* with its query, put behind the address' base */
    const char *type;   /* of the body; NULL: JSON */
    const char *header; /* one more, "Name: value"; is shown to nobody else; NULL: none */
    struct buf *body;   /* its bytes are taken; NULL: none */
    int body_fd;        /* with body_size: the body is this file's; duplicated */
    uint64_t body_size; /* 0: there is none */
    int64_t timeout_ns; /* for all of it; 0: as long as it takes */
    int64_t idle_ns;    /* so long no byte may come; 0: as long as it takes */
    web_data_fn data;   /* NULL: the body is collected */
    web_done_fn done;
    void *context;
};

/* address is borrowed and has to outlive the web. */
int web_new(struct loop *loop, const struct address *address, struct web **out, struct err *err);
/* Cancels what is under way. NULL is allowed. */
void web_free(struct web *web);

int web_start(struct web *web, const struct web_request *request, struct web_call **out,
              struct err *err);
/* done is not called. What the daemon makes of the request is not known. *call becomes NULL; NULL
 * is allowed. */
void web_cancel(struct web_call **call);

/* Ends all calls that are under way with that error. */
void web_fail(struct web *web, const struct err *error);

/* A connection for bytes of another protocol: connected says how it went (error NULL: well), once.
 * Only one in a web, and no calls beside it: libcurl looks after idle connections of a web, and
 * takes bytes that lie there for a fault. */
typedef void (*web_connected_fn)(void *context, const struct err *error);
int web_connect(struct web *web, int64_t timeout_ns, web_connected_fn connected, void *context,
                struct err *err);
/* Of the connection: watch it for readiness; it stays the web's. -1: none */
int web_fd(struct web *web);
/* Bytes moved; -ERR_UNAVAILABLE: it would block; -ERR_CLOSED: it has ended. */
ssize_t web_send(struct web *web, const void *data, size_t size, struct err *err);
ssize_t web_receive(struct web *web, void *data, size_t size, struct err *err);

/* The daemon's answer as an error: what says what was tried. 404 is ERR_NOT_FOUND, 409
 * ERR_CONFLICT; a host that is full or busy, a daemon that ends and a proxy that does not reach it
 * are ERR_UNAVAILABLE in public words; the rest is ERR_INTERNAL. Always fails. */
int web_refused(long status, const struct buf *body, const char *what, struct err *err);

#endif
