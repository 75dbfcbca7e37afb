/* Owns the steps of one container. Calls to the daemon come back here one at a time; what came too
 * late is told apart by the state. */
#include "docker/container.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/id.h"
#include "base/log.h"
#include "docker/service_internal.h"
#include "wire/json.h"

#define CREATE_NS (60 * CLOCK_NS_PER_S)
/* A pull goes on when those who wait for it have been told to come again. */
#define IMAGE_NS (20 * CLOCK_NS_PER_S)
#define CALL_NS (40 * CLOCK_NS_PER_S)
#define ASK_NS (10 * CLOCK_NS_PER_S)
#define AGAIN_FIRST_NS (100 * CLOCK_NS_PER_MS)
#define AGAIN_MAX_NS (5 * CLOCK_NS_PER_S)

enum { ARCHIVE_MAX = 64 << 20, PATH_SIZE = SPEC_NAME_SIZE + 96, KILLED = 137 };

static void fail(struct container *container, const struct err *error);
static void remove_it(void *context);

static int call(struct container *container, const char *method, const char *what, struct buf *body,
                int64_t timeout_ns, web_done_fn done, struct err *err)
{
    char path[PATH_SIZE];
    (void)snprintf(path, sizeof(path), "/containers/%s%s", container->name, what);
    return daemon_call(&container->service->daemon, method, path, body, timeout_ns, done, container,
                       &container->call, err);
}

static void enter_state(struct container *container, enum engine_state state)
{
    container->state = state;
    container->since_ns = clock_now_ns();
}

/* Of a call whose answer matters: 0 when the daemon did as it was told. */
static int judge(struct container *container, long status, const struct buf *body, const char *what,
                 const struct err *error, struct err *err)
{
    container->call = NULL;
    if (error) {
        daemon_doubt(&container->service->daemon);
        (void)err_copy(err, error);
        return err_wrap(err, "%s", what);
    }
    return status < 300 ? 0 : web_refused(status, body, what, err);
}

static struct spec spec_of(const struct container *container)
{
    return (struct spec){.instance = container->service->config->instance,
                         .create = &container->create,
                         .runtime = container->runtime,
                         .gvisor = container->gvisor,
                         .quota = container->with_quota,
                         .secret = container->secret,
                         .nonce = container->nonce,
                         .gpus = container->gpus};
}

/* ---- who waits ---- */

static void answer_waiters(struct container *container, const struct err *error)
{
    for (size_t i = 0; i < container->waiter_count; i++) {
        const struct container_waiter *waiter = &container->waiters[i];
        if (error)
            service_answer_error(container->service, waiter->op, waiter->request_id, error);
        else
            service_answer_done(container->service, waiter->op, waiter->request_id);
    }
    container->waiter_count = 0;
}

static void answer_channels(struct container *container, const struct err *error)
{
    for (size_t i = 0; i < container->channel_count; i++) {
        struct err err = ERR_INIT;
        FD_AUTO int fd = -1;
        int result =
            error ? err_copy(&err, error) : attach_open_channel(container->attach, &fd, &err);
        struct engine_msg msg = {.op = ENGINE_OP_OPEN_CHANNEL | ENGINE_REPLY,
                                 .request_id = container->channels[i]};
        if (result != 0)
            msg.error = err;
        service_answer(container->service, &msg, fd);
    }
    container->channel_count = 0;
}

int container_wait(struct container *container, uint32_t op, uint64_t request_id, struct err *err)
{
    if (container->waiter_count == CONTAINER_WAITERS_MAX)
        return err_set(err, ERR_UNAVAILABLE, "too many wait for %s", container->create.id);
    container->waiters[container->waiter_count++] =
        (struct container_waiter){.op = op, .request_id = request_id};
    return 0;
}

void container_forget_requests(struct container *container)
{
    container->create_request = 0;
    container->waiter_count = 0;
    container->channel_count = 0;
    container->limit_request = 0;
    container->layer_request = 0;
}

static void drop_attach(struct container *container)
{
    attach_free(container->attach);
    container->attach = NULL;
}

/* ---- a creation, step by step ---- */

static void on_late(void *context)
{
    struct container *container = context;
    struct err err = ERR_INIT;
    if (container->step == CONTAINER_STEP_IMAGE) {
        char progress[ENGINE_TEXT_MAX];
        images_progress(&container->service->images, progress, sizeof(progress));
        (void)err_public(&err, ERR_UNAVAILABLE, "%.250s",
                         progress[0] != '\0' ? progress : "the image is being looked for");
        err.retry_after_s = 5;
    } else {
        (void)err_public(&err, ERR_UNAVAILABLE, "the Docker daemon is too slow; try again");
        err.retry_after_s = 5;
    }
    fail(container, &err);
}

static void on_up(void *context)
{
    struct container *container = context;
    struct err err = ERR_INIT;
    FD_AUTO int fd = -1;
    if (container->state == ENGINE_STATE_RUNNING) {
        answer_channels(container, NULL);
        return;
    }
    if (container->state != ENGINE_STATE_CREATING)
        return;
    if (attach_open_channel(container->attach, &fd, &err) != 0) {
        fail(container, &err);
        return;
    }
    struct engine_msg msg = {.op = container->create_op | ENGINE_REPLY,
                             .request_id = container->create_request};
    memcpy(msg.nonce, container->nonce, sizeof(msg.nonce));
    enter_state(container, ENGINE_STATE_RUNNING);
    container->step = CONTAINER_STEP_NONE;
    loop_stop_timer(&container->timer);
    if (container->create_request != 0)
        service_answer(container->service, &msg, fd);
    container->create_request = 0; /* of a client that is gone: the next finds the id in its list */
}

static void on_started(void *context, long status, struct buf *body, const struct err *error)
{
    struct container *container = context;
    struct err err = ERR_INIT;
    if (judge(container, status, body, "start", error, &err) != 0)
        fail(container, &err);
    else
        container->step = CONTAINER_STEP_ANSWER;
}

static void start_when_ready(struct container *container)
{
    struct err err = ERR_INIT;
    if (container->state != ENGINE_STATE_CREATING || !container->filled || !container->attached)
        return;
    container->step = CONTAINER_STEP_START;
    if (call(container, "POST", "/start", NULL, CALL_NS, on_started, &err) != 0)
        fail(container, &err);
}

static void on_filled(void *context, long status, struct buf *body, const struct err *error)
{
    struct container *container = context;
    struct err err = ERR_INIT;
    if (judge(container, status, body, "put init into a container", error, &err) != 0) {
        fail(container, &err);
        return;
    }
    container->filled = true;
    start_when_ready(container);
}

static void on_attached(void *context)
{
    struct container *container = context;
    container->attached = true;
    start_when_ready(container);
}

static void on_inspected(void *context, long status, struct buf *body, const struct err *error);

/* The streams broke, or the container ended: the daemon knows which. */
static void on_detached(void *context, const struct err *error)
{
    struct container *container = context;
    struct err err = *error;
    drop_attach(container);
    if (container->state == ENGINE_STATE_CREATING) {
        (void)err_wrap(&err, "attach");
        fail(container, &err);
        return;
    }
    answer_channels(container, &err);
    daemon_doubt(&container->service->daemon);
    if (container->state == ENGINE_STATE_RUNNING && !container->call)
        (void)call(container, "GET", "/json", NULL, ASK_NS, on_inspected, NULL);
}

static int begin_attach(struct container *container, struct err *err)
{
    const struct attach_events events = {
        .context = container, .attached = on_attached, .up = on_up, .ended = on_detached};
    const struct attach_config config = {.loop = container->service->loop,
                                         .address = &container->service->daemon.address,
                                         .api = container->service->daemon.facts.api,
                                         .container = container->name,
                                         .id = container->create.id,
                                         .secret = container->secret};
    return attach_new(&config, &events, &container->attach, err);
}

/* Init goes in and its streams come out, both at once. */
static void fill(struct container *container)
{
    const struct service_config *config = container->service->config;
    const struct spec spec = spec_of(container);
    struct err err = ERR_INIT;
    BUF_AUTO struct buf archive;
    buf_init(&archive, ARCHIVE_MAX);
    container->step = CONTAINER_STEP_FILL;
    container->filled = container->attached = false;
    int result = spec_put_archive(&spec, config->init, config->init_size, &archive, &err);
    if (result == 0)
        result = call(container, "PUT", "/archive?path=%2F", &archive, CALL_NS, on_filled, &err);
    if (result == 0)
        result = begin_attach(container, &err);
    if (result != 0)
        fail(container, &err);
}

static void make(struct container *container);

static void on_made(void *context, long status, struct buf *body, const struct err *error)
{
    struct container *container = context;
    struct service *service = container->service;
    struct err err = ERR_INIT;
    int result = judge(container, status, body, "make a container", error, &err);
    if (container->state != ENGINE_STATE_CREATING) { /* somebody wants it gone by now */
        remove_it(container);
        return;
    }
    if (result == 0) {
        fill(container);
        return;
    }
    if (container->with_quota && strstr(err.message, "storage-opt")) {
        log_info("the Docker daemon's storage knows no sizes: they are not enforced");
        service->quota = container->with_quota = false;
        make(container);
        return;
    }
    struct image *image = NULL;
    if (result == -ERR_NOT_FOUND && container->step == CONTAINER_STEP_MAKE &&
        images_find(&service->images, container->create.image, &image, NULL) == 0 &&
        strstr(err.message, "mage")) {
        image_is_missing(image);
        (void)err_public(&err, ERR_UNAVAILABLE, "image \"%.150s\" is not there any more; try again",
                         image->name);
    }
    fail(container, &err);
}

static void make(struct container *container)
{
    char path[PATH_SIZE];
    struct err err = ERR_INIT;
    const struct spec spec = spec_of(container);
    BUF_AUTO struct buf body;
    buf_init(&body, 64 << 10);
    container->step = CONTAINER_STEP_MAKE;
    (void)snprintf(path, sizeof(path), "/containers/create?name=%s", container->name);
    int result = spec_put_container(&spec, &body, &err);
    if (result == 0)
        result = daemon_call(&container->service->daemon, "POST", path, &body, CALL_NS, on_made,
                             container, &container->call, &err);
    if (result != 0) {
        fail(container, &err);
        return;
    }
    container->made = true;
    loop_set_timer(container->service->loop, &container->timer, clock_now_ns() + CREATE_NS, on_late,
                   container);
}

static void on_limited(void *context, long status, struct buf *body, const struct err *error)
{
    struct container *container = context;
    struct err err = ERR_INIT;
    if (judge(container, status, body, "limit a container", error, &err) != 0)
        fail(container, &err);
    else
        fill(container);
}

/* A stopped one gets the limits that are asked for now. */
static void restart(struct container *container)
{
    struct err err = ERR_INIT;
    BUF_AUTO struct buf body;
    buf_init(&body, 4096);
    container->step = CONTAINER_STEP_MAKE;
    int result = spec_put_limits(&container->create, container->gvisor, &body, &err);
    if (result == 0)
        result = call(container, "POST", "/update", &body, CALL_NS, on_limited, &err);
    if (result != 0)
        fail(container, &err);
}

void container_image_changed(struct container *container)
{
    struct err err = ERR_INIT;
    struct image *image = NULL;
    if (container->state != ENGINE_STATE_CREATING || container->step != CONTAINER_STEP_IMAGE)
        return;
    int result = images_find(&container->service->images, container->create.image, &image, &err);
    if (result == 0)
        result = image_want(image, &err);
    if (result < 0)
        fail(container, &err);
    else if (result > 0)
        make(container);
}

void container_begin(struct container *container, uint32_t op, uint64_t request_id)
{
    container->create_op = op;
    container->create_request = request_id;
    enter_state(container, ENGINE_STATE_CREATING);
    container->oom = container->dying = container->gone_first = false;
    container->pause_ns = 0;
    if (op == ENGINE_OP_START) {
        loop_set_timer(container->service->loop, &container->timer, clock_now_ns() + CREATE_NS,
                       on_late, container);
        restart(container);
        return;
    }
    container->step = CONTAINER_STEP_IMAGE;
    loop_set_timer(container->service->loop, &container->timer, clock_now_ns() + IMAGE_NS, on_late,
                   container);
    container_image_changed(container);
}

/* A start that fails keeps the files; of a creation that fails nothing is kept. */
static void fail(struct container *container, const struct err *error)
{
    struct err told = *error;
    if (container->state != ENGINE_STATE_CREATING)
        return;
    log_warn("sandbox %s was not made: %s", container->create.id, error->message);
    if (!container->service->daemon.is_up && told.public_message[0] == '\0') {
        (void)daemon_away(&container->service->daemon, &told);
    } else if (error->kind == ERR_TIMEOUT) {
        (void)err_public(&told, ERR_UNAVAILABLE, "the Docker daemon is too slow; try again");
        told.retry_after_s = 5;
    }
    if (container->create_request != 0)
        service_answer_error(container->service, container->create_op, container->create_request,
                             &told);
    container->create_request = 0;
    if (container->create_op == ENGINE_OP_START)
        container_stop(container);
    else
        container_destroy(container);
}

/* ---- its end ---- */

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
    drop_attach(container);
    container->made = false;
    answer_waiters(container, NULL);
    container->freed = true;
}

static void on_removed(void *context, long status, struct buf *body, const struct err *error)
{
    struct container *container = context;
    struct err err = ERR_INIT;
    int result = judge(container, status, body, "remove a container", error, &err);
    if (result == 0 || status == 404) {
        forget(container);
        return;
    }
    /* 409: somebody else removes it, or its start is not over. */
    if (result != -ERR_CONFLICT)
        log_warn("sandbox %s: %s", container->create.id, err.message);
    if (!container->service->daemon.is_up)
        answer_waiters(container, &err);
    try_again(container, remove_it);
}

static void remove_it(void *context)
{
    struct container *container = context;
    struct err err = ERR_INIT;
    if (container->call || container->dying) /* its answer comes first */
        return;
    if (!container->made) {
        forget(container);
        return;
    }
    if (call(container, "DELETE", "?force=1&v=1", NULL, CALL_NS, on_removed, &err) == 0)
        return;
    answer_waiters(container, &err);
    try_again(container, remove_it);
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
    answer_channels(container, &err);
    end_other_calls(container, &err);
    drop_attach(container);
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
    enter_state(container, ENGINE_STATE_DESTROYING);
    container->pause_ns = 0;
    if (!making) /* a request to make it may still be obeyed: its answer is waited for */
        web_cancel(&container->call);
    container->dying = false;
    container->step = CONTAINER_STEP_NONE;
    remove_it(container);
}

static void stop_it(void *context);

static void on_stopped(void *context, long status, struct buf *body, const struct err *error)
{
    struct container *container = context;
    struct err err = ERR_INIT;
    int result = judge(container, status, body, "stop a container", error, &err);
    if (status == 404) {
        answer_waiters(container, &err);
        forget(container);
    } else if (container->doomed) {
        remove_it(container);
    } else if (result == 0 || status == 304) {
        enter_state(container, ENGINE_STATE_STOPPED);
        answer_waiters(container, NULL);
    } else {
        if (!container->service->daemon.is_up)
            answer_waiters(container, &err);
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
        remove_it(container);
        return;
    }
    if (call(container, "POST", "/stop?t=0", NULL, CALL_NS, on_stopped, &err) == 0)
        return;
    answer_waiters(container, &err);
    try_again(container, stop_it);
}

/* DESTROYING until no process is left, as for a reader it is neither there nor to be started. */
void container_stop(struct container *container)
{
    if (container->state == ENGINE_STATE_STOPPED) {
        answer_waiters(container, NULL);
        return;
    }
    if (container->state == ENGINE_STATE_DESTROYING)
        return;
    leave_running(container);
    web_cancel(&container->call);
    enter_state(container, ENGINE_STATE_DESTROYING);
    container->dying = false;
    container->step = CONTAINER_STEP_NONE;
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
        enter_state(container, ENGINE_STATE_STOPPED);
        answer_waiters(container, NULL);
    } else {
        remove_it(container);
    }
}

static void on_died(void *context, long status, struct buf *body, const struct err *error)
{
    struct container *container = context;
    JSON_AUTO json_t *json = NULL;
    container->call = NULL;
    bool oom = container->oom;
    if (!error && status == 200 &&
        json_parse_large(body->data, body->size, JSON_VALUES_MAX, &json, NULL) == 0)
        oom = oom || json_is_true(json_object_get(json_object_get(json, "State"), "OOMKilled"));
    tell_gone(container, oom ? KILL_OOM : KILL_NONE);
}

/* Only who was killed may have been so for its memory; whether it was, the daemon knows. */
void container_died(struct container *container, int exit_code)
{
    struct err err = ERR_INIT;
    if (container->state == ENGINE_STATE_CREATING && container->step >= CONTAINER_STEP_START) {
        (void)err_set(&err, ERR_INTERNAL, "sandbox %s died while it was made (exit code %d)",
                      container->create.id, exit_code);
        fail(container, &err);
    }
    if (container->state != ENGINE_STATE_RUNNING)
        return;
    leave_running(container);
    web_cancel(&container->call);
    enter_state(container, ENGINE_STATE_DESTROYING);
    container->gone_first = container->dying = true;
    container->pause_ns = 0;
    if (exit_code != KILLED || container->oom ||
        call(container, "GET", "/json", NULL, ASK_NS, on_died, &err) != 0)
        tell_gone(container, exit_code == KILLED && container->oom ? KILL_OOM : KILL_NONE);
}

void container_oom(struct container *container)
{
    container->oom = true;
}

void container_removed(struct container *container)
{
    if (container->state == ENGINE_STATE_CREATING && container->step <= CONTAINER_STEP_MAKE)
        return; /* an older one of that name */
    if (container->state == ENGINE_STATE_CREATING) {
        struct err err = ERR_INIT;
        (void)err_set(&err, ERR_INTERNAL, "sandbox %s was removed while it was made",
                      container->create.id);
        fail(container, &err);
    } else if (container->state == ENGINE_STATE_RUNNING) {
        container_died(container, -1);
    } else if (container->state == ENGINE_STATE_STOPPED) {
        forget(container);
    }
}

static void on_inspected(void *context, long status, struct buf *body, const struct err *error)
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
    if (json_is_true(json_object_get(state, "Running")))
        return;
    container->oom = container->oom || json_is_true(json_object_get(state, "OOMKilled"));
    container_died(container, (int)json_integer_value(json_object_get(state, "ExitCode")));
}

/* ---- requests about one that runs ---- */

void container_open_channel(struct container *container, uint64_t request_id)
{
    struct err err = ERR_INIT;
    int result = 0;
    if (container->state != ENGINE_STATE_RUNNING)
        result = err_set(&err, ERR_CONFLICT, "sandbox %s is not running", container->create.id);
    else if (container->channel_count == CONTAINER_CHANNELS_MAX)
        result = err_set(&err, ERR_UNAVAILABLE, "too many wait for %s", container->create.id);
    else if (!container->attach && !container->service->daemon.is_up)
        result = daemon_away(&container->service->daemon, &err);
    else if (!container->attach)
        result = begin_attach(container, &err);
    if (result != 0) {
        service_answer_error(container->service, ENGINE_OP_OPEN_CHANNEL, request_id, &err);
        return;
    }
    container->channels[container->channel_count++] = request_id;
    if (attach_is_up(container->attach))
        answer_channels(container, NULL);
}

static void on_limit(void *context, long status, struct buf *body, const struct err *error)
{
    struct container *container = context;
    struct err err = ERR_INIT;
    uint64_t request_id = container->limit_request;
    container->limit_call = NULL;
    container->limit_request = 0;
    if (error)
        (void)err_copy(&err, error);
    else if (status >= 300)
        (void)web_refused(status, body, "limit a container", &err);
    if (request_id == 0)
        return;
    /* It uses more than that, or the host can't have it: another one is to be made. */
    if (!error && err.kind != ERR_NONE && err.kind != ERR_UNAVAILABLE)
        err.kind = ERR_CONFLICT;
    if (err.kind != ERR_NONE)
        service_answer_error(container->service, ENGINE_OP_LIMIT, request_id, &err);
    else
        service_answer_done(container->service, ENGINE_OP_LIMIT, request_id);
}

void container_limit(struct container *container, const struct engine_create *limits,
                     uint64_t request_id)
{
    char path[PATH_SIZE];
    struct err err = ERR_INIT;
    BUF_AUTO struct buf body;
    buf_init(&body, 4096);
    int result = spec_check_limits(limits, true, &err);
    if (result == 0 && (container->state != ENGINE_STATE_RUNNING || container->limit_call))
        result = err_set(&err, ERR_CONFLICT, "sandbox %s can't be given limits now",
                         container->create.id);
    if (result == 0 && container->gvisor)
        result = err_set(&err, ERR_UNSUPPORTED, "runsc changes no limits");
    if (result == 0)
        result = spec_put_limits(limits, container->gvisor, &body, &err);
    (void)snprintf(path, sizeof(path), "/containers/%s/update", container->name);
    if (result == 0)
        result = daemon_call(&container->service->daemon, "POST", path, &body, CALL_NS, on_limit,
                             container, &container->limit_call, &err);
    if (result != 0)
        service_answer_error(container->service, ENGINE_OP_LIMIT, request_id, &err);
    else
        container->limit_request = request_id;
}

static void on_layer(void *context, long status, struct buf *body, const struct err *error)
{
    struct container *container = context;
    struct err err = ERR_INIT;
    uint64_t request_id = container->layer_request;
    container->layer_call = NULL;
    container->layer_request = 0;
    if (error)
        (void)err_copy(&err, error);
    else if (status >= 300)
        (void)web_refused(status, body, "put a layer into a container", &err);
    if (request_id == 0)
        return;
    /* Of the operation: no such layer. Here it is the container, or what its code made there. */
    if (!error && (err.kind == ERR_NOT_FOUND || err.kind == ERR_INTERNAL))
        err.kind = ERR_CONFLICT;
    if (err.kind != ERR_NONE)
        service_answer_error(container->service, ENGINE_OP_LAYER_ATTACH, request_id, &err);
    else
        service_answer_done(container->service, ENGINE_OP_LAYER_ATTACH, request_id);
}

int container_put_layer(struct container *container, int tar_fd, uint64_t size_bytes,
                        uint64_t request_id, struct err *err)
{
    char path[PATH_SIZE];
    if (container->state != ENGINE_STATE_RUNNING || container->layer_call)
        return err_set(err, ERR_CONFLICT, "sandbox %s can't be given a layer now",
                       container->create.id);
    if (container->gvisor)
        return err_set(err, ERR_UNSUPPORTED, "runsc does not see what is put into its files");
    (void)snprintf(path, sizeof(path), "/containers/%s/archive?path=%%2Fopt%%2Flibraries",
                   container->name);
    int result = daemon_upload(&container->service->daemon, path, tar_fd, size_bytes, CALL_NS,
                               on_layer, container, &container->layer_call, err);
    if (result == 0)
        container->layer_request = request_id;
    return result;
}

void container_free(struct container *container)
{
    if (!container)
        return;
    loop_stop_timer(&container->timer);
    web_cancel(&container->call);
    web_cancel(&container->limit_call);
    web_cancel(&container->layer_call);
    drop_attach(container);
    free(container);
}
