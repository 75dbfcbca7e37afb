/* Owns the stream of events: lines of JSON that come for as long as the daemon lives. */
#include "docker/events.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/clock.h"
#include "base/log.h"
#include "docker/spec.h"
#include "wire/json.h"

enum { LINES_MAX = 4 << 20 };
#define AGAIN_FIRST_NS CLOCK_NS_PER_S
#define AGAIN_MAX_NS (30 * CLOCK_NS_PER_S)

static void take_line(const struct events *events, const uint8_t *line, size_t size)
{
    JSON_AUTO json_t *json = NULL;
    if (json_parse_object(line, size, &json, NULL) != 0)
        return;
    const json_t *attributes = json_object_get(json_object_get(json, "Actor"), "Attributes");
    const char *action = json_string_value(json_object_get(json, "Action"));
    const char *instance = json_string_value(json_object_get(attributes, SPEC_LABEL_INSTANCE));
    const char *sandbox = json_string_value(json_object_get(attributes, SPEC_LABEL_SANDBOX));
    const char *code = json_string_value(json_object_get(attributes, "exitCode"));
    /* Not every daemon filters as it is asked to. */
    if (!action || !sandbox || !instance || strcmp(instance, events->instance) != 0)
        return;
    int exit_code = code ? (int)strtol(code, NULL, 10) : -1;
    if (strcmp(action, "died") == 0) /* Podman */
        action = "die";
    if (strcmp(action, "remove") == 0)
        action = "destroy";
    events->happened(events->context, sandbox, action, exit_code);
}

void events_take(struct events *events)
{
    size_t from = 0;
    for (size_t at = 0; at < events->lines.size; at++) {
        if (events->lines.data[at] != '\n')
            continue;
        if (at > from)
            take_line(events, events->lines.data + from, at - from);
        from = at + 1;
    }
    buf_consume(&events->lines, from);
}

static void on_timer(void *context)
{
    events_take(context);
}

/* libcurl is in the midst of a call: what the events lead to waits for its end. */
static bool on_piece(void *context, const void *data, size_t size)
{
    struct events *events = context;
    if (buf_append(&events->lines, data, size, NULL) != 0)
        events->lines.size = 0; /* a sweep sees what they said */
    loop_set_timer(events->daemon->loop, &events->timer, 0, on_timer, events);
    return true;
}

/* A daemon that is down says itself when it is up. */
static void on_again(void *context)
{
    struct events *events = context;
    if (events->daemon->is_up && !events->call)
        events->missed(events->context);
}

static void on_end(void *context, long status, struct buf *body, const struct err *error)
{
    struct events *events = context;
    struct err err = ERR_INIT;
    int64_t now_ns = clock_now_ns();
    events->call = NULL;
    if (!error && status != 200)
        (void)web_refused(status, body, "events", &err);
    log_debug("the events of the Docker daemon ended: %s", error ? error->message : err.message);
    if (now_ns - events->begun_ns >= events->pause_ns)
        events->pause_ns = AGAIN_FIRST_NS;
    else
        events->pause_ns *= 2;
    if (events->pause_ns > AGAIN_MAX_NS)
        events->pause_ns = AGAIN_MAX_NS;
    loop_set_timer(events->daemon->loop, &events->again, now_ns + events->pause_ns, on_again,
                   events);
    daemon_doubt(events->daemon);
}

int events_start(struct events *events, struct err *err)
{
    char path[512];
    struct daemon *daemon = events->daemon;
    /* {"type":["container"],"label":["berth.instance=NAME"]} */
    (void)snprintf(path, sizeof(path),
                   "%s/events?filters=%%7B%%22type%%22%%3A%%5B%%22container%%22%%5D%%2C"
                   "%%22label%%22%%3A%%5B%%22" SPEC_LABEL_INSTANCE "%%3D%s%%22%%5D%%7D",
                   daemon->facts.api, events->instance);
    events_stop(events);
    events->begun_ns = clock_now_ns();
    buf_init(&events->lines, LINES_MAX);
    const struct web_request request = {
        .method = "GET", .path = path, .data = on_piece, .done = on_end, .context = events};
    return web_start(daemon->web, &request, &events->call, err);
}

void events_stop(struct events *events)
{
    web_cancel(&events->call);
    loop_stop_timer(&events->timer);
    loop_stop_timer(&events->again);
    buf_done(&events->lines);
}
