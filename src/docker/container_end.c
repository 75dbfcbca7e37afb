/* Owns the end of a container: by our will, by itself, by the daemon's. Removal is tried until the
 * daemon says that there is no such container. */
#include <string.h>

#include <jansson.h>

#include "base/clock.h"
#include "base/log.h"
#include "docker/container_internal.h"
#include "docker/service_internal.h"
#include "wire/json.h"

#define ASK_NS (10 * CLOCK_NS_PER_S)
#define AGAIN_FIRST_NS (100 * CLOCK_NS_PER_MS)
#define AGAIN_MAX_NS (5 * CLOCK_NS_PER_S)

/* Between the daemon's word that it is out of memory and the end of its init. */
#define OOM_NS (10 * CLOCK_NS_PER_S)

/* The daemon hears of a death and of what it was by two ways, in either order: so long the second
 * one is waited for. */
#define OOM_LATE_NS (500 * CLOCK_NS_PER_MS)

enum { KILLED = 137 };

static void try_again(struct container *container, void (*what)(void *context))
{
    container->pause_ns = container->pause_ns == 0 ? AGAIN_FIRST_NS : container->pause_ns * 2;
    if (container->pause_ns > AGAIN_MAX_NS)
        container->pause_ns = AGAIN_MAX_NS;
    loop_set_timer(container->service->loop, &container->timer,
                   clock_now_ns() + container->pause_ns, what, container);
}

static void forget(struct container *container)
{
    loop_stop_timer(&container->timer);
    web_cancel(&container->call);
    web_cancel(&container->limit_call);
    web_cancel(&container->layer_call);
    container_drop_attach(container);
    container->made = false;
    container_answer_waiters(container, NULL);
    container->freed = true;
}

/* Who waits need not wait for a daemon that is away; what they asked for is tried all the same. */
static void answer_that_it_is_away(struct container *container)
{
    struct err err = ERR_INIT;
    if (container->service->daemon.is_up)
        return;
    (void)daemon_away(&container->service->daemon, &err);
    container_answer_waiters(container, &err);
}

static void on_removed(void *context, long status, struct buf *body, const struct err *error)
{
    struct container *container = context;
    struct err err = ERR_INIT;
    int result = container_judge(container, status, body, "remove a container", error, &err);
    if (result == 0 || status == 404) {
        forget(container);
        return;
    }
    /* 409: somebody else removes it, or its start is not over. */
    if (result != -ERR_CONFLICT)
        log_warn("sandbox %s: %s", container->create.id, err.message);
    answer_that_it_is_away(container);
    try_again(container, container_remove);
}

void container_remove(void *context)
{
    struct container *container = context;
    struct err err = ERR_INIT;
    if (container->call || container->dying) /* its answer comes first */
        return;
    if (!container->made) {
        forget(container);
        return;
    }
    if (container_call(container, "DELETE", "?force=1&v=1", NULL, CONTAINER_CALL_NS, on_removed,
                       &err) == 0)
        return;
    container_answer_waiters(container, &err);
    try_again(container, container_remove);
}

static void end_other_calls(struct container *container, const struct err *error)
{
    web_cancel(&container->limit_call);
    web_cancel(&container->layer_call);
    if (container->limit_request != 0)
        service_answer_error(container->service, ENGINE_OP_LIMIT, container->limit_request, error);
    if (container->layer_request != 0)
        service_answer_error(container->service, ENGINE_OP_LAYER_ATTACH, container->layer_request,
                             error);
    container->limit_request = container->layer_request = 0;
}

/* What waited for it as something that runs is told that it does not. */
static void leave_running(struct container *container)
{
    struct err err = ERR_INIT;
    (void)err_set(&err, ERR_CONFLICT, "sandbox %s is not running", container->create.id);
    container_answer_channels(container, &err);
    end_other_calls(container, &err);
    container_drop_attach(container);
    loop_stop_timer(&container->timer);
    if (container->create_request != 0)
        service_answer_error(container->service, container->create_op, container->create_request,
                             &err);
    container->create_request = 0;
}

void container_destroy(struct container *container)
{
    container->doomed = true;
    if (container->state == ENGINE_STATE_DESTROYING)
        return;
    bool making = container->step == CONTAINER_STEP_MAKE && container->call;
    leave_running(container);
    container_enter(container, ENGINE_STATE_DESTROYING);
    container->pause_ns = 0;
    if (!making) /* a request to make it may still be obeyed: its answer is waited for */
        web_cancel(&container->call);
    container->dying = false;
    container->step = CONTAINER_STEP_NONE;
    container_remove(container);
}

static void stop_it(void *context);

static void on_stopped(void *context, long status, struct buf *body, const struct err *error)
{
    struct container *container = context;
    struct err err = ERR_INIT;
    int result = container_judge(container, status, body, "stop a container", error, &err);
    if (status == 404) {
        container_answer_waiters(container, &err);
        forget(container);
    } else if (container->doomed) {
        container_remove(container);
    } else if (result == 0 || status == 304) {
        container_enter(container, ENGINE_STATE_STOPPED);
        container_answer_waiters(container, NULL);
    } else {
        answer_that_it_is_away(container);
        try_again(container, stop_it);
    }
}

static void stop_it(void *context)
{
    struct container *container = context;
    struct err err = ERR_INIT;
    if (container->call)
        return;
    if (container->doomed) {
        container_remove(container);
        return;
    }
    if (container_call(container, "POST", "/stop?t=0", NULL, CONTAINER_CALL_NS, on_stopped, &err) ==
        0)
        return;
    container_answer_waiters(container, &err);
    try_again(container, stop_it);
}

/* DESTROYING until no process is left, as for a reader it is neither there nor to be started. */
void container_stop(struct container *container)
{
    if (container->state == ENGINE_STATE_STOPPED) {
        container_answer_waiters(container, NULL);
        return;
    }
    if (container->state == ENGINE_STATE_DESTROYING)
        return;
    if (container->state == ENGINE_STATE_CREATING && container->create_op == ENGINE_OP_CREATE) {
        container_destroy(container);
        return;
    }
    leave_running(container);
    web_cancel(&container->call);
    container_stop_again(container);
}

void container_stop_again(struct container *container)
{
    container_enter(container, ENGINE_STATE_DESTROYING);
    container->dying = false;
    container->step = CONTAINER_STEP_NONE;
    container->pause_ns = 0;
    stop_it(container);
}

static void tell_gone(struct container *container, enum kill_cause cause)
{
    struct engine_msg msg = {.op = ENGINE_OP_EVENT_GONE, .cause = cause};
    memcpy(msg.id, container->create.id, sizeof(msg.id));
    if (container->gone_first)
        service_answer(container->service, &msg, -1);
    container->gone_first = container->dying = false;
    log_info("sandbox %s has ended%s", container->create.id,
             cause == KILL_OOM ? ": out of memory" : "");
    if (container->create.keep_files && !container->doomed) {
        container_enter(container, ENGINE_STATE_STOPPED);
        container_answer_waiters(container, NULL);
    } else {
        container_remove(container);
    }
}

static void on_no_oom(void *context)
{
    tell_gone(context, KILL_NONE);
}

static void on_died(void *context, long status, struct buf *body, const struct err *error)
{
    struct container *container = context;
    JSON_AUTO json_t *json = NULL;
    bool oom = false;
    container->call = NULL;
    if (!error && status == 200 &&
        json_parse_large(body->data, body->size, JSON_VALUES_MAX, &json, NULL) == 0)
        oom = json_is_true(json_object_get(json_object_get(json, "State"), "OOMKilled"));
    if (oom || container->oom_ns != 0)
        tell_gone(container, KILL_OOM);
    else
        loop_set_timer(container->service->loop, &container->timer, clock_now_ns() + OOM_LATE_NS,
                       on_no_oom, container);
}

/* Only who was killed may have been so for its memory. The daemon says when that happens to any
 * process of the container, and keeps in mind that it once did: its memory is asked only when it
 * has not been heard to say so. */
void container_died(struct container *container, int exit_code)
{
    struct err err = ERR_INIT;
    if (container->state == ENGINE_STATE_CREATING && container->step >= CONTAINER_STEP_START) {
        (void)err_set(&err, ERR_INTERNAL, "sandbox %s died while it was made (exit code %d)",
                      container->create.id, exit_code);
        container_fail(container, &err);
    }
    if (container->state != ENGINE_STATE_RUNNING)
        return;
    log_debug("sandbox %s: exit code %d", container->create.id, exit_code);
    leave_running(container);
    web_cancel(&container->call);
    container_enter(container, ENGINE_STATE_DESTROYING);
    container->gone_first = container->dying = true;
    container->pause_ns = 0;
    bool oom = container->oom_ns != 0 && clock_now_ns() - container->oom_ns < OOM_NS;
    if (exit_code != KILLED || container->oom_ns != 0 ||
        container_call(container, "GET", "/json", NULL, ASK_NS, on_died, &err) != 0)
        tell_gone(container, exit_code == KILLED && oom ? KILL_OOM : KILL_NONE);
}

void container_oom(struct container *container)
{
    container->oom_ns = clock_now_ns();
    if (!container->dying || container->call)
        return;
    loop_stop_timer(&container->timer);
    tell_gone(container, KILL_OOM);
}

void container_removed(struct container *container)
{
    if (container->state == ENGINE_STATE_CREATING && container->step <= CONTAINER_STEP_MAKE)
        return; /* an older one of that name */
    if (container->state == ENGINE_STATE_CREATING) {
        struct err err = ERR_INIT;
        (void)err_set(&err, ERR_INTERNAL, "sandbox %s was removed while it was made",
                      container->create.id);
        container_fail(container, &err);
    } else if (container->state == ENGINE_STATE_RUNNING) {
        container_died(container, -1);
    } else if (container->state == ENGINE_STATE_STOPPED) {
        forget(container);
    }
}

/* What becomes of it, events tell; and a sweep looks again. */
static void on_killed(void *context, long status, struct buf *body, const struct err *error)
{
    struct container *container = context;
    struct err err = ERR_INIT;
    if (container_judge(container, status, body, "kill a container", error, &err) != 0)
        log_warn("sandbox %s: %s", container->create.id, err.message);
}

bool container_is_lost(const struct container *container)
{
    return container->service->daemon.facts.is_podman && !container->attach &&
           container->state == ENGINE_STATE_RUNNING;
}

static void on_looked(void *context, long status, struct buf *body, const struct err *error)
{
    struct container *container = context;
    JSON_AUTO json_t *json = NULL;
    container->call = NULL;
    if (error || container->state != ENGINE_STATE_RUNNING)
        return; /* the next sweep looks again */
    if (status == 404) {
        container_removed(container);
        return;
    }
    if (status != 200 ||
        json_parse_large(body->data, body->size, JSON_VALUES_MAX, &json, NULL) != 0)
        return;
    const json_t *state = json_object_get(json, "State");
    if (json_is_true(json_object_get(state, "Running"))) {
        if (container_is_lost(container))
            (void)container_call(container, "POST", "/kill", NULL, CONTAINER_CALL_NS, on_killed,
                                 NULL);
        return;
    }
    if (!json_is_false(json_object_get(state, "Running")))
        return; /* that was no daemon's answer */
    container_died(container, (int)json_integer_value(json_object_get(state, "ExitCode")));
}

void container_look(struct container *container)
{
    if (container->state == ENGINE_STATE_RUNNING && !container->call)
        (void)container_call(container, "GET", "/json", NULL, ASK_NS, on_looked, NULL);
}
