/* Inside src/api: the bodies of calls that run code or make a session, read and checked.
 *
 * Unknown fields are ignored; a wrong type, and a known field with a value that this server does
 * not offer, is ERR_BAD_INPUT or ERR_UNSUPPORTED naming the field. */
#ifndef BERTH_API_REQUEST_H
#define BERTH_API_REQUEST_H

#include "api/call.h"
#include "core/core.h"

struct json_t;

enum api_request_kind {
    API_REQUEST_EXECUTE,
    API_REQUEST_SESSION, /* no code, stdin or files; execution.timeout_ms is its lifetime */
    API_REQUEST_CELL,    /* code, stdin, timeout, labels: the session has the rest */
};

struct api_request {
    struct execution_request execution;  /* points into the members below */
    uint64_t idle_ms;                    /* of a session; 0: not said */
    char session_id[SANDBOX_ID_MAX + 1]; /* of a cell */
    struct json_t *json;
    char *labels;
    char *idempotency_key;
    char *owner;
    const char **libraries; /* point into json */
    char **env;             /* execution.env_count heap strings */
    const char **allow;     /* execution.network.allow */
    struct execution_file *files;
    struct buf *contents; /* of each file */
};

/* Reads the call's body. Everything is copied: *out outlives the HTTP request, but for gone_fd,
 * which lives as long as the connection. Freed by api_request_free(). Does not block. */
int api_request_new(struct api_call *call, enum api_request_kind kind, struct api_request **out,
                    struct err *err);
/* Reads `timeout` and `idle_timeout` of a session's body: milliseconds, 0: not said. */
int api_request_times(struct api_call *call, uint64_t *out_timeout_ms, uint64_t *out_idle_ms,
                      struct err *err);
/* Reads `network` of a body, a mode or an object with `mode` and `allow`, into *out, whose strings
 * are the body's. *out_allow is heap, the caller's, also after a failure. */
int api_network_read(const struct json_t *json, struct network_ask *out, const char ***out_allow,
                     struct err *err);
/* NULL is allowed. */
void api_request_free(struct api_request *request);

#endif
