/* Owns the one table from error kinds to HTTP statuses and the body of an error. Lets no operator's
 * message out: a client reads the public message, or the sentence of its status. */
#include "api/call.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "wire/json.h"

#define ERROR_BODY_MAX 4096

static const struct {
    int status;
    const char *title;
    const char *detail; /* when nothing public is known */
} api_errors[ERR_KIND_COUNT] = {
    [ERR_NONE] = {500, "internal error", "the server failed"},
    [ERR_BAD_INPUT] = {400, "bad request", "the request is not valid"},
    [ERR_UNAUTHORIZED] = {401, "unauthorized", "a valid token is needed"},
    [ERR_FORBIDDEN] = {403, "forbidden", "this is not allowed"},
    [ERR_NOT_FOUND] = {404, "not found", "there is no such object"},
    [ERR_METHOD] = {405, "method not allowed", "the path does not take this method"},
    [ERR_CONFLICT] = {409, "conflict", "the object is in another state, or the name is taken"},
    [ERR_TOO_LARGE] = {413, "too large", "the request is too large"},
    [ERR_MEDIA_TYPE] = {415, "unsupported media type", "send Content-Type: application/json"},
    [ERR_QUOTA] = {429, "quota exceeded", "try again later"},
    [ERR_HEADERS] = {431, "header fields too large", "send fewer or shorter header fields"},
    [ERR_UNAVAILABLE] = {503, "unavailable", "no capacity now; try again"},
    [ERR_UNSUPPORTED] = {400, "not offered", "this server can't do that"},
    [ERR_TIMEOUT] = {503, "unavailable", "the sandbox engine did not answer in time; try again"},
    [ERR_CLOSED] = {503, "unavailable", "the sandbox went away; try again"},
    [ERR_PROTOCOL] = {500, "internal error", "the server failed; its log says why"},
    [ERR_INTERNAL] = {500, "internal error", "the server failed; its log says why"},
    [ERR_RANGE] = {416, "range not satisfiable", "no byte of this range is there"},
};

static enum err_kind api_error_kind(enum err_kind kind)
{
    return kind > ERR_NONE && kind < ERR_KIND_COUNT ? kind : ERR_INTERNAL;
}

/* What ran out in this process comes back: that is no capacity, not a bug. */
static enum err_kind api_error_shown(const struct err *error)
{
    switch (error->kind == ERR_INTERNAL ? error->sys_errno : 0) {
    case EMFILE:
    case ENFILE:
    case ENOMEM:
    case EAGAIN:
        return ERR_UNAVAILABLE;
    default:
        return api_error_kind(error->kind);
    }
}

int api_error_status(enum err_kind kind)
{
    return api_errors[api_error_kind(kind)].status;
}

int api_error_json(const struct err *error, struct buf *out, struct err *err)
{
    enum err_kind kind = api_error_shown(error);
    const char *detail = *error->public_message ? error->public_message : api_errors[kind].detail;
    char now[CLOCK_ISO8601_SIZE];
    clock_format_iso8601(clock_wall_us(), now);
    int result = buf_printf(out, err, "{\"error\":\"%s\",\"detail\":", api_errors[kind].title);
    if (result == 0) /* cut messages may end inside a character */
        result = json_append_bytes(out, (const uint8_t *)detail, strlen(detail), err);
    if (result == 0)
        result = buf_printf(out, err, ",\"timestamp\":\"%s\"}", now);
    return result;
}

void api_error_respond(const struct err *error, struct http_response *response)
{
    int status = api_error_status(api_error_shown(error));
    char seconds[16];
    buf_done(&response->body);
    buf_init(&response->body, ERROR_BODY_MAX);
    if (status >= 500)
        log_warn("request failed: %s: %s", err_kind_name(error->kind), error->message);
    if (api_error_json(error, &response->body, NULL) < 0)
        buf_done(&response->body);
    response->status = status;
    response->content_type = "application/json";
    if (status == 503 || status == 429) {
        (void)snprintf(seconds, sizeof(seconds), "%u",
                       error->retry_after_s ? error->retry_after_s : 1);
        (void)http_response_header(response, "Retry-After", seconds, NULL);
    }
    if (status == 401)
        (void)http_response_header(response, "WWW-Authenticate", "Bearer", NULL);
}
