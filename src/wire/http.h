/* HTTP over libmicrohttpd, the only place that knows it: requests in, responses out.
 *
 * One thread a connection: a handler is a straight line that may block. Requests that could be read
 * in two ways (Content-Length with Transfer-Encoding, two lengths, two Hosts, none) are refused and
 * closed. A watcher thread shuts sockets past a deadline of head or body, and tells handlers of
 * peers that went away; a half-closed connection counts as gone. */
#ifndef BERTH_WIRE_HTTP_H
#define BERTH_WIRE_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

struct http_server;
struct http_request;

struct http_config {
    int listen_fd;           /* listening TCP socket, borrowed */
    size_t body_max;         /* bytes of one body; above it 413 (contract: 4 MB) */
    size_t bodies_total_max; /* bytes of all bodies being held; above it 503 */
    size_t head_max;         /* bytes of request line and header fields; above it 431 */
    unsigned header_count_max;
    unsigned connection_max;
    uint64_t head_timeout_ms; /* from accept, or from the first byte of a later request */
    uint64_t body_timeout_ms; /* from the end of the head */
    uint64_t idle_timeout_ms; /* keep-alive, and a reader that makes no progress */
};

/* Accessors; the strings live as long as the request. */
const char *http_request_method(const struct http_request *request);
/* The decoded path without its trailing slash ("/" stays); never holds NUL. */
const char *http_request_path(const struct http_request *request);
/* A header field's value by name, case-insensitive; NULL when absent. */
const char *http_request_header(const struct http_request *request, const char *name);
/* A query argument, decoded; NULL when absent. */
const char *http_request_query(const struct http_request *request, const char *name);
const uint8_t *http_request_body(const struct http_request *request, size_t *out_size);
/* A descriptor that becomes readable when the peer has gone; borrowed, lives as long as the
 * request; -1 when there was none left. */
int http_request_gone_fd(const struct http_request *request);

/* Takes a body by pieces, on the connection's thread, instead of holding it: of any size, and with
 * no deadline but one for each piece (idle_timeout_ms), since one that blocks slows the client.
 * While it blocks, the descriptor above tells of a peer that left. */
struct http_intake {
    void *context;
    /* A negative result is answered at once, and closes the connection. */
    int (*piece)(void *context, const uint8_t *data, size_t size, struct err *err);
    /* Called once, behind the answer or when the connection broke, whatever came of it. */
    void (*free)(void *context);
};
/* The context of the intake that admit() chose; NULL: the body is held. */
void *http_request_intake(const struct http_request *request);

/* Produces the next piece of a streamed body on the connection's thread; may block. Appends to out
 * and returns 1, or returns 0 at the end; negative breaks the connection off, so that the client
 * sees that the body is not whole. */
typedef int (*http_stream_fn)(void *context, struct buf *out, struct err *err);

/* Has the connection, which is no HTTP any more, on its thread until it returns; may block. early:
 * bytes that came behind the head already. socket_fd is borrowed, and may be non-blocking or not.
 * http_request_gone_fd() tells of a peer that left and of a server that stops. */
typedef void (*http_upgrade_fn)(void *context, int socket_fd, const uint8_t *early,
                                size_t early_size);

struct http_response {
    int status; /* 200 when left 0 */
    const char *content_type;
    struct buf body;
    struct buf headers;    /* "Name: value\r\n" lines beside Content-Type and Content-Length */
    bool close;            /* close the connection after it */
    http_stream_fn stream; /* set: the body is streamed, `body` is not used */
    bool stream_sized;     /* with Content-Length stream_size, else chunked */
    uint64_t stream_size;  /* no more may be produced; less breaks the connection off */
    http_upgrade_fn
        upgrade;          /* set: 101, and then this; `stream` and `body` are not used. Not called
                             when the answer can't be sent. stream_free comes in any case. */
    void *stream_context; /* of either */
    void (*stream_free)(void *context);
};

/* Adds a header field; CR, LF and NUL in the value make it fail with ERR_INTERNAL. */
int http_response_header(struct http_response *response, const char *name, const char *value,
                         struct err *err);

struct http_handlers {
    void *context;
    /* Called when the head is whole, before any body byte is read: returns true to read on, or
     * fills the response and returns false, which answers at once and closes if a body was
     * announced. May set *intake, which is zero before, in the first case only; may block then. */
    bool (*admit)(void *context, const struct http_request *request, struct http_intake *intake,
                  struct http_response *response);
    /* Answers a whole request. */
    void (*handle)(void *context, const struct http_request *request,
                   struct http_response *response);
    /* Shapes the error body for what http.c itself refuses (400, 413, 431, 503, ...). */
    void (*refuse)(void *context, const struct err *error, struct http_response *response);
};

/* Starts serving on config->listen_fd. Does not block. */
int http_server_new(const struct http_config *config, const struct http_handlers *handlers,
                    struct http_server **out, struct err *err);
/* Stops accepting, waits for the running handlers, frees all. NULL is allowed. */
void http_server_free(struct http_server *server);

/* Figures for /metrics: connections open now, accepted ever, refused, shut by a deadline. */
struct http_stats {
    uint64_t open, accepted, refused, timed_out;
};
void http_server_stats(struct http_server *server, struct http_stats *out);

#endif
