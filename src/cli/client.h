/* HTTP to a berth server: one request at a time, answers whole or line by line. */
#ifndef BERTH_CLI_CLIENT_H
#define BERTH_CLI_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

#define CLIENT_DEFAULT_URL "http://127.0.0.1:8000"

/* Called with each whole line of a streamed answer, without its newline. A negative result breaks
 * the request off with that error. */
typedef int (*client_line_fn)(void *context, const char *line, size_t size, struct err *err);

/* What a signal makes the client send beside the request that it waits for. Borrowed. */
struct client_aside {
    const char *method; /* NULL: nothing, and the request ends at once */
    const char *path;
};

/* Called on each SIGINT and SIGTERM while a request is under way. */
typedef struct client_aside (*client_signal_fn)(void *context, int signal_number);

struct client_request {
    const char *url;    /* of the server, without the path */
    const char *method; /* "GET", "POST", "PUT" or "DELETE" */
    const char *path;
    const char *accept; /* NULL: application/json */
    const void *body;   /* NULL: none */
    size_t body_size;
    client_line_fn line;     /* for a 200 answer; NULL: gather it whole in *answer */
    client_signal_fn signal; /* NULL: signals do what they always do */
    void *context;
};

/* $BERTH_URL without a slash at its end, else the default. *is_default says which. Borrowed. */
const char *client_url(bool *is_default);

/* Sends and waits for the end of the answer. *status is the HTTP status; answers other than 200 are
 * gathered in *answer. ERR_UNAVAILABLE: nobody listens there; ERR_CLOSED: the answer broke off, or
 * a signal ended the wait. */
int client_send(const struct client_request *request, struct buf *answer, long *status,
                struct err *err);

/* Turns an error answer into one line for the terminal: its "detail", else its "error". A 404
 * is ERR_NOT_FOUND. */
int client_refused(long status, struct buf *answer, struct err *err);

#endif
