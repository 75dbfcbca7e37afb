/* Inside src/api: the body of POST /execute, read and checked.
 *
 * Unknown fields are ignored; a wrong type, and a known field with a value that this server does
 * not offer, is ERR_BAD_INPUT or ERR_UNSUPPORTED naming the field. */
#ifndef BERTH_API_REQUEST_H
#define BERTH_API_REQUEST_H

#include "api/call.h"
#include "core/core.h"

struct json_t;

struct api_request {
    struct execution_request execution; /* points into the members below */
    struct json_t *json;
    char *labels;
    char *idempotency_key;
    char *owner;
    char **env; /* execution.env_count heap strings */
    struct execution_file *files;
    struct buf *contents; /* of each file */
};

/* Reads the call's body. Everything is copied: *out outlives the HTTP request, but for gone_fd,
 * which lives as long as the connection. Freed by api_request_free(). Does not block. */
int api_request_new(struct api_call *call, struct api_request **out, struct err *err);
/* NULL is allowed. */
void api_request_free(struct api_request *request);

#endif
