/* What http.c asks of a request's head beyond libmicrohttpd: no head that could be read in two ways
 * (RFC 9112 sections 3.2, 5.1, 5.2, 6.1, 6.3), and the path and query decoded by hand. */
#ifndef BERTH_WIRE_HTTP_HEAD_H
#define BERTH_WIRE_HTTP_HEAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct MHD_Connection;
struct http_config;

struct http_head {
    bool chunked;
    bool has_length;
    uint64_t length; /* of the body, when has_length */
};

/* Checks all header fields. raw_target is where the request target lies in libmicrohttpd's buffer,
 * raw_size its length up to the first NUL; method and version are the pointers that the handler
 * got.
 * ERR_BAD_INPUT or ERR_HEADERS, public. */
int http_head_check(struct MHD_Connection *connection, const struct http_config *config,
                    const char *method, const char *raw_target, size_t raw_size,
                    const char *version, struct http_head *out, struct err *err);

/* Splits and decodes an origin-form or absolute-form target. *path loses its trailing slash and
 * never holds NUL; *query_text stays undecoded. Both heap, the caller's. */
int http_head_target(const char *target, char **path, char **query_text, struct err *err);

/* Decodes a query into name, value, name, value, ..., NULL; at most HTTP_QUERY_MAX arguments. Heap,
 * freed by http_head_free_query(). */
#define HTTP_QUERY_MAX 64
int http_head_query(const char *query_text, char ***out, struct err *err);
void http_head_free_query(char **query);

#endif
