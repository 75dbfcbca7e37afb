/* Owns the comparison of our table with what the daemon has: its labels are the truth. Never looks
 * at a container of another instance. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/clock.h"
#include "base/encoding.h"
#include "base/fault.h"
#include "base/id.h"
#include "base/log.h"
#include "base/parse.h"
#include "docker/service_internal.h"
#include "wire/json.h"

#define LIST_NS (30 * CLOCK_NS_PER_S)

enum { SWEEP_MS = 30000, SWEEP_MS_MAX = 3600000, VALUES_MAX = 1000000 };

static void sweep(void *context);

static int64_t interval_ns(void)
{
    uint64_t ms = SWEEP_MS;
    const char *text = fault_is_testing() ? getenv("BERTH_SWEEP_MS") : NULL;
    if (text && parse_u64(text, 1, SWEEP_MS_MAX, &ms, NULL) != 0)
        ms = SWEEP_MS;
    return (int64_t)ms * CLOCK_NS_PER_MS;
}

/* One line of the daemon's list. */
struct found {
    const char *id;    /* of the sandbox */
    const char *name;  /* by which the daemon knows it, whatever it is called; NULL: by ours */
    const char *state; /* "created", "running", "paused", "exited", "dead", "removing", ... */
    const json_t *labels;
};

static const char *label(const struct found *found, const char *name)
{
    return json_string_value(json_object_get(found->labels, name));
}

static bool runs(const struct found *found)
{
    return strcmp(found->state, "running") == 0 || strcmp(found->state, "paused") == 0 ||
           strcmp(found->state, "restarting") == 0;
}

static bool was_never_started(const struct found *found)
{
    return strcmp(found->state, "created") == 0 || strcmp(found->state, "configured") == 0 ||
           strcmp(found->state, "initialized") == 0;
}

/* One that nobody of this process made: an earlier one's, or what could not be undone. */
static void adopt(struct service *service, const struct found *found)
{
    const char *keep = label(found, SPEC_LABEL_KEEP);
    const char *runtime = label(found, SPEC_LABEL_RUNTIME);
    const char *profile = label(found, SPEC_LABEL_PROFILE);
    const char *gpus = label(found, SPEC_LABEL_GPUS);
    struct container *container = service_add(service, found->id);
    if (!container)
        return; /* the next sweep */
    container->made = true;
    if (found->name && strlen(found->name) < sizeof(container->name) &&
        strspn(found->name, "0123456789abcdef") == strlen(found->name))
        memcpy(container->name, found->name, strlen(found->name) + 1);
    container->create.keep_files = keep && strcmp(keep, "1") == 0;
    (void)snprintf(container->runtime, sizeof(container->runtime), "%s", runtime ? runtime : "");
    (void)snprintf(container->create.profile, sizeof(container->create.profile), "%s",
                   profile ? profile : "");
    container->gvisor = daemon_is_gvisor(&service->daemon.facts, container->runtime);
    container->gpus = gpus ? (uint32_t)strtoul(gpus, NULL, 16) : 0;
    bool whole =
        hex_read(label(found, SPEC_LABEL_SECRET), container->secret, sizeof(container->secret)) &&
        hex_read(label(found, SPEC_LABEL_NONCE), container->nonce, sizeof(container->nonce));
    container->state = ENGINE_STATE_RUNNING;
    container->since_ns = clock_now_ns();
    /* The list may lag behind a start, and Podman takes one that is being started again for new:
     * asked, and not found to run, it goes or has stopped. */
    if (whole && (runs(found) || was_never_started(found))) {
        if (!runs(found) || container_is_lost(container))
            container_look(container);
        return;
    }
    if (whole && container->create.keep_files) {
        container->state = ENGINE_STATE_STOPPED;
        return;
    }
    log_info("sandbox %s is left over (%s) and is removed", found->id, found->state);
    container_destroy(container);
}

static void compare(struct service *service, const struct found *found)
{
    struct container *container = service_find(service, found->id);
    if (!container) {
        adopt(service, found);
        return;
    }
    if (container->since_ns >= service->listed_ns)
        return;
    if (container->state == ENGINE_STATE_RUNNING && (!runs(found) || container_is_lost(container)))
        container_look(container);
    else if (container->state == ENGINE_STATE_STOPPED && runs(found))
        container_stop_again(container);
}

/* Of ours, and no sandbox's: it goes by a name of its own. */
static void compare_stray(struct service *service, const struct found *found)
{
    char id[SANDBOX_ID_MAX + 1];
    (void)snprintf(id, sizeof(id), "stray-%.50s", found->name);
    const struct found stray = {.id = id, .name = found->name, .state = found->state};
    compare(service, &stray);
}

static bool is_listed(const json_t *list, const char *id)
{
    size_t index = 0;
    const json_t *entry = NULL;
    json_array_foreach(list, index, entry)
    {
        const char *listed = json_string_value(
            json_object_get(json_object_get(entry, "Labels"), SPEC_LABEL_SANDBOX));
        if (listed && strcmp(listed, id) == 0)
            return true;
    }
    return false;
}

/* What the daemon does not have any more. */
static void miss(struct service *service, const json_t *list)
{
    for (struct container *container = service->containers; container;
         container = container->next) {
        bool settled =
            container->state == ENGINE_STATE_RUNNING || container->state == ENGINE_STATE_STOPPED;
        if (!container->freed && settled && container->since_ns < service->listed_ns &&
            !is_listed(list, container->create.id)) {
            container_look(container);
            if (container->state == ENGINE_STATE_STOPPED)
                container_removed(container);
        }
    }
}

int sweep_take(struct service *service, const struct buf *body, struct err *err)
{
    json_error_t error;
    size_t index = 0;
    const json_t *entry = NULL;
    JSON_AUTO json_t *list =
        json_loadb((const char *)body->data, body->size, JSON_REJECT_DUPLICATES, &error);
    if (!json_is_array(list))
        return err_set(err, ERR_PROTOCOL, "the Docker daemon's list is none");
    json_array_foreach(list, index, entry)
    {
        const struct found found = {.labels = json_object_get(entry, "Labels"),
                                    .state = json_string_value(json_object_get(entry, "State")),
                                    .name = json_string_value(json_object_get(entry, "Id")),
                                    .id = json_string_value(json_object_get(
                                        json_object_get(entry, "Labels"), SPEC_LABEL_SANDBOX))};
        const char *instance = label(&found, SPEC_LABEL_INSTANCE);
        if (!found.state || !instance || strcmp(instance, service->config->instance) != 0)
            continue;
        if (found.id && id_is_name(found.id, SANDBOX_ID_MAX))
            compare(service, &found);
        else if (found.name)
            compare_stray(service, &found);
    }
    miss(service, list);
    return 0;
}

static void on_listed(void *context, long status, struct buf *body, const struct err *error)
{
    struct service *service = context;
    struct err err = ERR_INIT;
    bool again = service->list_again;
    service->list_call = NULL;
    service->list_again = false;
    int result = error           ? err_copy(&err, error)
                 : status != 200 ? web_refused(status, body, "list", &err)
                                 : sweep_take(service, body, &err);
    if (result == 0) {
        service->synced = true;
        service_listen(service);
        if (again)
            sweep(service);
        return;
    }
    log_warn("the Docker daemon's containers: %s", err.message);
    daemon_doubt(&service->daemon);
    if (!service->synced || again)
        loop_set_timer(service->loop, &service->sweep_timer, clock_now_ns() + CLOCK_NS_PER_S, sweep,
                       service);
}

static void sweep(void *context)
{
    struct service *service = context;
    char path[256];
    loop_set_timer(service->loop, &service->sweep_timer, clock_now_ns() + service->sweep_ns, sweep,
                   service);
    if (service->list_call || !service->daemon.is_up)
        return;
    /* {"label":["berth.instance=NAME"]} */
    (void)snprintf(
        path, sizeof(path),
        "/containers/json?all=1&filters=%%7B%%22label%%22%%3A%%5B%%22" SPEC_LABEL_INSTANCE
        "%%3D%s%%22%%5D%%7D",
        service->config->instance);
    service->listed_ns = clock_now_ns();
    (void)daemon_call(&service->daemon, "GET", path, NULL, LIST_NS, on_listed, service,
                      &service->list_call, NULL);
}

void sweep_start(struct service *service)
{
    service->sweep_ns = interval_ns();
    /* One that is under way is let through, however often this is asked for. */
    service->list_again = service->list_call != NULL;
    sweep(service);
}

void sweep_stop(struct service *service)
{
    loop_stop_timer(&service->sweep_timer);
    web_cancel(&service->list_call);
    service->list_again = false;
}
