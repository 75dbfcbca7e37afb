/* The watcher of http.c: one thread that holds the deadlines of all connections, shuts the sockets
 * that pass one, and sees peers that went away while a handler runs.
 *
 * A connection is named by a handle, never by its descriptor: a late event or call for a connection
 * that is gone finds nothing. No function blocks but http_watch_free(). */
#ifndef BERTH_WIRE_HTTP_WATCH_H
#define BERTH_WIRE_HTTP_WATCH_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

struct http_watch;

enum http_watch_state {
    HTTP_WATCH_IDLE,    /* waits for a request */
    HTTP_WATCH_HEAD,    /* a head is being read */
    HTTP_WATCH_BODY,    /* a body is being read */
    HTTP_WATCH_HANDLER, /* a handler runs: no deadline, but the peer's leaving is told */
    HTTP_WATCH_SENDING, /* the timeout starts again whenever the peer took some bytes */
    HTTP_WATCH_LINGER,  /* refused with its body unread: bytes are thrown away for a moment */
};

int http_watch_new(unsigned connection_max, struct http_watch **out, struct err *err);
/* Joins the thread; every connection must have been removed. NULL is allowed. */
void http_watch_free(struct http_watch *watch);

/* Starts to watch fd, which stays the caller's. Returns a handle, 0 when the table is full. */
uint64_t http_watch_add(struct http_watch *watch, int fd, uint64_t timeout_ms);
/* Must be called before fd is closed. linger: keep the connection open for a moment on a duplicate
 * and throw away what comes, so that the answer is not lost to a reset (RFC 9112 section 9.6). */
void http_watch_remove(struct http_watch *watch, uint64_t handle, bool linger);

/* Changes the state; timeout_ms counts from now, 0 is none. */
void http_watch_set(struct http_watch *watch, uint64_t handle, enum http_watch_state state,
                    uint64_t timeout_ms);
/* The descriptor that becomes readable when the peer leaves; lives until http_watch_remove(). -1
 * when the process ran out of descriptors. */
int http_watch_gone_fd(struct http_watch *watch, uint64_t handle);

/* Connections that read a body, run a handler or send. */
unsigned http_watch_busy(struct http_watch *watch);
/* Shuts the connections that are not busy; with busy_too those that read or send as well, and tells
 * all handlers that their peer left. */
void http_watch_shut_all(struct http_watch *watch, bool busy_too);
/* Shuts the connections that wait for a next request. */
void http_watch_shut_idle(struct http_watch *watch);
/* How many connections a deadline has shut. */
uint64_t http_watch_timed_out(struct http_watch *watch);

#endif
