/* Owns the accessors of wire/http.h for requests that a test made by hand. */
#include "fake_http.h"

#include <string.h>
#include <strings.h>

const char *http_request_method(const struct http_request *request)
{
    return request->method;
}

const char *http_request_path(const struct http_request *request)
{
    return request->path;
}

const char *http_request_header(const struct http_request *request, const char *name)
{
    for (const char *const *at = request->headers; at && *at; at += 2) {
        if (strcasecmp(at[0], name) == 0)
            return at[1];
    }
    return NULL;
}

const char *http_request_query(const struct http_request *request, const char *name)
{
    for (const char *const *at = request->query; at && *at; at += 2) {
        if (strcmp(at[0], name) == 0)
            return at[1];
    }
    return NULL;
}

const uint8_t *http_request_body(const struct http_request *request, size_t *out_size)
{
    *out_size = request->body_size;
    return request->body;
}

int http_request_gone_fd(const struct http_request *request)
{
    (void)request;
    return -1;
}

void *http_request_intake(const struct http_request *request)
{
    return request->intake;
}

int http_response_header(struct http_response *response, const char *name, const char *value,
                         struct err *err)
{
    if (strpbrk(name, "\r\n: ") || strpbrk(value, "\r\n"))
        return err_set(err, ERR_INTERNAL, "header field %.40s with a line break", name);
    if (response->headers.max == 0)
        buf_init(&response->headers, 4096);
    return buf_printf(&response->headers, err, "%s: %s\r\n", name, value);
}

void http_server_stats(struct http_server *server, struct http_stats *out)
{
    (void)server;
    *out = (struct http_stats){0};
}
