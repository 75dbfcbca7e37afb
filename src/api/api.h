/* The HTTP routes: validate, call core, shape the answer.
 *
 * One file a family. A handler returns 0 with the response filled, or a negative error kind; what
 * the client reads of an error is its public message and nothing else. Handlers run on the
 * connection's thread and may block. */
#ifndef BERTH_API_API_H
#define BERTH_API_API_H

#include <stdint.h>

#include "auth/access.h"
#include "base/err.h"

struct api;
struct core;
struct http_handlers;
struct http_server;

struct api_config {
    struct core *core;       /* borrowed; outlives the api */
    uint64_t timeout_max_ms; /* of an execution */
    uint64_t session_timeout_max_ms;
    struct access_policy access; /* strings borrowed */
};

int api_new(const struct api_config *config, struct api **out, struct err *err);
/* After the HTTP server is gone. NULL is allowed. */
void api_free(struct api *api);

/* What the HTTP server calls. */
void api_handlers(struct api *api, struct http_handlers *out);
/* The server whose figures /metrics shows; borrowed, may be NULL. */
void api_set_http(struct api *api, struct http_server *http);

#endif
