/* Owns the table of routes and what holds for every request: Host, tokens, content type, methods,
 * and the shape of errors. Refuses before the body is read whatever the head alone forbids. */
#include "api/call.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "core/core.h"

struct api_route {
    const char *method;
    const char *pattern; /* one segment may be {id} */
    api_handler_fn handler;
};

static const struct api_route routes[] = {
    {"GET", "/", api_root},
    {"GET", "/health", api_health},
    {"GET", "/metrics", api_metrics},
    {"GET", "/languages", api_languages},
    {"GET", "/api/v1/info", api_info},
    {"GET", "/api/v1/drain", api_drain_get},
    {"PUT", "/api/v1/drain", api_drain_begin},
    {"DELETE", "/api/v1/drain", api_drain_lift},
    {"GET", "/api/v1/layers", api_layers_list},
    {"DELETE", "/api/v1/layers/{id}", api_layers_remove},
    {"POST", "/execute", api_execute},
    {"GET", "/executions", api_executions_list},
    {"GET", "/executions/{id}", api_executions_get},
    {"DELETE", "/executions/{id}", api_executions_cancel},
    {"GET", "/executions/{id}/events", api_executions_events},
    {"POST", "/sessions", api_sessions_create},
    {"GET", "/sessions", api_sessions_list},
    {"GET", "/sessions/{id}", api_sessions_get},
    {"DELETE", "/sessions/{id}", api_sessions_delete},
    {"POST", "/sessions/{id}/execute", api_sessions_execute},
    {"POST", "/sessions/{id}/interrupt", api_sessions_interrupt},
    {"POST", "/sessions/{id}/renew", api_sessions_renew},
    {"PUT", "/sessions/{id}/network", api_session_network_put},
    {"GET", "/sessions/{id}/files", api_session_files_get},
    {"PUT", "/sessions/{id}/files", api_session_files_put},
    {"GET", "/sessions/{id}/terminal", api_session_terminal},
};

/* The routes whose body is raw bytes of any content type, taken by pieces. That a body needs JSON
 * elsewhere keeps web pages out, whose forms can't send that type. A form can't send a PUT either,
 * and for the PUT of a script a browser asks first (CORS) and gets no leave here: PUT only. */
static const struct {
    api_handler_fn handler;
    api_intake_fn begin;
} api_intakes[] = {
    {api_session_files_put, api_session_files_begin},
};

/* id gets the segment that stands at {id}, cut when it is too long to be an id. */
static bool api_match(const char *pattern, const char *path, char id[static SANDBOX_ID_MAX + 1])
{
    while (*pattern) {
        if (*pattern != '{') {
            if (*pattern++ != *path++)
                return false;
            continue;
        }
        size_t size = strcspn(path, "/");
        if (size == 0 || size > SANDBOX_ID_MAX)
            return false;
        memcpy(id, path, size);
        id[size] = '\0';
        path += size;
        pattern += strcspn(pattern, "}") + 1;
    }
    return *path == '\0';
}

static bool api_method_is(const char *wanted, const char *method)
{
    return strcmp(wanted, method) == 0 ||
           (strcmp(method, "HEAD") == 0 && strcmp(wanted, "GET") == 0);
}

/* Finds the route. ERR_NOT_FOUND, or ERR_METHOD with the Allow field in the response. */
static int api_find(const struct http_request *request, struct http_response *response,
                    const struct api_route **out, char id[static SANDBOX_ID_MAX + 1],
                    struct err *err)
{
    const char *path = http_request_path(request);
    const char *method = http_request_method(request);
    struct buf allow BUF_AUTO;
    buf_init(&allow, 128);
    for (size_t i = 0; i < ARRAY_SIZE(routes); i++) {
        if (!api_match(routes[i].pattern, path, id))
            continue;
        if (api_method_is(routes[i].method, method)) {
            *out = &routes[i];
            return 0;
        }
        (void)buf_printf(&allow, NULL, "%s%s%s", allow.size ? ", " : "", routes[i].method,
                         strcmp(routes[i].method, "GET") == 0 ? ", HEAD" : "");
    }
    if (allow.size == 0)
        return err_public(err, ERR_NOT_FOUND, "there is nothing at this path");
    const char *methods = buf_cstr(&allow);
    if (methods)
        (void)http_response_header(response, "Allow", methods, NULL);
    return err_public(err, ERR_METHOD, "this path takes %s", methods ? methods : "another method");
}

static bool api_is_json(const char *content_type)
{
    static const char json[] = "application/json";
    return content_type && strncasecmp(content_type, json, sizeof(json) - 1) == 0 &&
           strchr(" \t;", content_type[sizeof(json) - 1]);
}

/* A form of a web page can post without asking, but not with this content type. */
static int api_check_content(const struct http_request *request, struct err *err)
{
    const char *length = http_request_header(request, "Content-Length");
    bool has_body = http_request_header(request, "Transfer-Encoding") ||
                    (length && strspn(length, "0") != strlen(length));
    if (has_body && !api_is_json(http_request_header(request, "Content-Type")))
        return err_public(err, ERR_MEDIA_TYPE,
                          "a body needs Content-Type: application/json on this path");
    return 0;
}

/* What is to be done with the head of an admitted request. */
static int api_begin(struct api_call *call, const struct api_route *route,
                     struct http_intake *intake, struct err *err)
{
    for (size_t i = 0; i < ARRAY_SIZE(api_intakes); i++) {
        if (api_intakes[i].handler == route->handler)
            return api_intakes[i].begin(call, intake, err);
    }
    return api_check_content(call->request, err);
}

static int api_check_access(struct api *api, const struct http_request *request, struct err *err)
{
    struct access_request question = {
        .path = http_request_path(request),
        .host = http_request_header(request, "Host"),
    };
    for (size_t i = 0; access_forwarding_headers[i] && !question.forwarded; i++)
        question.forwarded = http_request_header(request, access_forwarding_headers[i]) != NULL;
    switch (access_decide(&api->config.access, &question)) {
    case ACCESS_OPEN:
        return 0;
    case ACCESS_BAD_HOST:
        return err_public(
            err, ERR_FORBIDDEN,
            "the Host field does not name this server; use localhost or 127.0.0.1, or "
            "let the operator set BERTH_PUBLIC_HOST");
    case ACCESS_NEEDS_TOKEN:
        break;
    }
    return err_public(err, ERR_UNAUTHORIZED,
                      "this call needs a token, and this server can't issue any yet; call it on a "
                      "loopback address without a proxy, or let the operator set BERTH_AUTH=off");
}

static void api_finish(struct api *api, struct http_response *response)
{
    int status = response->status ? response->status : 200;
    api->answered[status / 100 % 6]++;
    if (!response->content_type && !response->upgrade)
        response->content_type = "application/json";
    (void)http_response_header(response, "X-Content-Type-Options", "nosniff", NULL);
    (void)http_response_header(response, "Cache-Control", "no-store", NULL);
}

static void api_refuse(void *context, const struct err *error, struct http_response *response)
{
    struct api *api = context;
    api_error_respond(error, response);
    api_finish(api, response);
}

static bool api_admit(void *context, const struct http_request *request, struct http_intake *intake,
                      struct http_response *response)
{
    struct api *api = context;
    struct err err = ERR_INIT;
    const struct api_route *route = NULL;
    struct api_call call = {
        .api = api, .request = request, .response = response, .owner = CORE_OWNER_LOCAL};
    int result = api_check_access(api, request, &err);
    if (result == 0)
        result = api_find(request, response, &route, call.id, &err);
    if (result == 0)
        result = api_begin(&call, route, intake, &err);
    if (result == 0)
        return true;
    api_refuse(api, &err, response);
    return false;
}

static void api_handle(void *context, const struct http_request *request,
                       struct http_response *response)
{
    struct api *api = context;
    struct err err = ERR_INIT;
    const struct api_route *route = NULL;
    struct api_call call = {
        .api = api, .request = request, .response = response, .owner = CORE_OWNER_LOCAL};
    int result = api_find(request, response, &route, call.id, &err);
    buf_init(&response->body, API_BODY_MAX);
    if (result == 0)
        result = route->handler(&call, &err);
    if (result < 0)
        api_error_respond(&err, response);
    api_finish(api, response);
}

int api_new(const struct api_config *config, struct api **out, struct err *err)
{
    struct api *api = calloc(1, sizeof(*api));
    if (!api)
        return err_set(err, ERR_INTERNAL, "no memory for the routes");
    api->config = *config;
    api->started_ns = clock_now_ns();
    *out = api;
    return 0;
}

void api_free(struct api *api)
{
    free(api);
}

void api_handlers(struct api *api, struct http_handlers *out)
{
    *out = (struct http_handlers){
        .context = api, .admit = api_admit, .handle = api_handle, .refuse = api_refuse};
}

void api_set_http(struct api *api, struct http_server *http)
{
    api->http = http;
}
