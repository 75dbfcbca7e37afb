/* Owns what the server says of itself: /, /health, /metrics, /languages, /api/v1/info. Tells
 * nothing of the host's paths or of what callers run. */
#include "api/call.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "core/core.h"
#include "core/drain.h"
#include "lang/lang.h"
#include "wire/json.h"

int api_root(struct api_call *call, struct err *err)
{
    return buf_append_str(&call->response->body, "{\"status\":\"ok\"}", err);
}

static int api_append_time(struct buf *out, struct err *err)
{
    char now[CLOCK_ISO8601_SIZE];
    clock_format_iso8601(clock_wall_us(), now);
    return buf_printf(out, err, ",\"timestamp\":\"%s\"", now);
}

static int api_append_engines(struct api_call *call, bool details, struct buf *out, struct err *err)
{
    int result = buf_append_str(out, ",\"engines\":", err);
    return result == 0 ? core_engines_json(call->api->config.core, details, out, err) : result;
}

static int api_append_names(const struct lang *lang, struct buf *out, struct err *err)
{
    int result = buf_append_str(out, "{\"name\":", err);
    if (result == 0)
        result = json_append_string(out, lang->name, strlen(lang->name), err);
    if (result == 0)
        result = buf_append_str(out, ",\"aliases\":[", err);
    for (size_t i = 0; result == 0 && i < LANG_NAMES_MAX && lang->aliases[i]; i++) {
        if (i > 0)
            result = buf_append_str(out, ",", err);
        if (result == 0)
            result = json_append_string(out, lang->aliases[i], strlen(lang->aliases[i]), err);
    }
    return result == 0 ? buf_append_str(out, "]}", err) : result;
}

static int api_append_languages(struct buf *out, struct err *err)
{
    size_t count = 0;
    const struct lang *const *all = lang_all(&count);
    int result = buf_append_str(out, "\"languages\":[", err);
    for (size_t i = 0; result == 0 && i < count; i++) {
        if (i > 0)
            result = buf_append_str(out, ",", err);
        if (result == 0)
            result = api_append_names(all[i], out, err);
    }
    return result == 0 ? buf_append_str(out, "]", err) : result;
}

int api_health(struct api_call *call, struct err *err)
{
    struct buf *out = &call->response->body;
    int64_t uptime_ms = (clock_now_ns() - call->api->started_ns) / CLOCK_NS_PER_MS;
    int result = buf_printf(out, err,
                            "{\"status\":\"ok\",\"version\":\"" BERTH_VERSION
                            "\",\"uptime_secs\":%" PRId64 ".%03d,\"draining\":%s",
                            uptime_ms / 1000, (int)(uptime_ms % 1000),
                            core_is_draining(call->api->config.core) ? "true" : "false");
    if (result == 0)
        result = api_append_engines(call, false, out, err);
    if (result == 0)
        result = api_append_time(out, err);
    return result == 0 ? buf_append_str(out, "}", err) : result;
}

int api_info(struct api_call *call, struct err *err)
{
    struct buf *out = &call->response->body;
    int result = buf_append_str(
        out, "{\"name\":\"berth\",\"version\":\"" BERTH_VERSION "\",\"limits\":", err);
    if (result == 0)
        result = core_limits_json(call->api->config.core, out, err);
    if (result == 0)
        result = api_append_engines(call, true, out, err);
    if (result == 0)
        result = buf_append_str(out, ",\"engine_choice\":", err);
    if (result == 0)
        result = core_engine_choice_json(call->api->config.core, out, err);
    if (result == 0)
        result = buf_append_str(out, ",\"capacity\":", err);
    if (result == 0) /* after the engines: they set the budget */
        result = core_capacity_json(call->api->config.core, out, err);
    if (result == 0)
        result = buf_append_str(out, ",\"network\":", err);
    if (result == 0)
        result = core_network_json(call->api->config.core, out, err);
    if (result == 0)
        result = buf_append_str(out, ",", err);
    if (result == 0)
        result = api_append_languages(out, err);
    if (result == 0)
        result = api_append_time(out, err);
    return result == 0 ? buf_append_str(out, "}", err) : result;
}

static int api_append_http_metrics(struct api *api, struct buf *out, struct err *err)
{
    struct http_stats stats = {0};
    struct http_server *http = api->http;
    if (http)
        http_server_stats(http, &stats);
    int result = buf_printf(
        out, err,
        "# HELP berth_http_connections Connections open now.\n"
        "# TYPE berth_http_connections gauge\nberth_http_connections %" PRIu64 "\n"
        "# HELP berth_http_connections_total Connections accepted.\n"
        "# TYPE berth_http_connections_total counter\nberth_http_connections_total %" PRIu64 "\n"
        "# HELP berth_http_refused_total Requests refused by the HTTP layer.\n"
        "# TYPE berth_http_refused_total counter\nberth_http_refused_total %" PRIu64 "\n"
        "# HELP berth_http_timed_out_total Connections shut by a deadline.\n"
        "# TYPE berth_http_timed_out_total counter\nberth_http_timed_out_total %" PRIu64 "\n"
        "# HELP berth_http_answers_total Answers by the class of their status.\n"
        "# TYPE berth_http_answers_total counter\n",
        stats.open, stats.accepted, stats.refused, stats.timed_out);
    for (int class = 2; result == 0 && class < 6; class ++) {
        uint64_t count = api->answered[class];
        result = buf_printf(out, err, "berth_http_answers_total{class=\"%dxx\"} %" PRIu64 "\n",
                            class, count);
    }
    return result;
}

int api_metrics(struct api_call *call, struct err *err)
{
    int result = core_metrics(call->api->config.core, &call->response->body, err);
    if (result == 0)
        result = api_append_http_metrics(call->api, &call->response->body, err);
    call->response->content_type = "text/plain; version=0.0.4; charset=utf-8";
    return result;
}
