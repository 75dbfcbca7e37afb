/* Owns the steps by which a container is made, and what they have in common with the others. Calls
 * to the daemon come back here one at a time; what came too late is told apart by the state. */
#include "docker/container.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "docker/container_internal.h"
#include "docker/service_internal.h"

#define CREATE_NS (60 * CLOCK_NS_PER_S)
/* A pull goes on when those who wait for it have been told to come again: while they listen, which
 * the server does for ten seconds. */
#define IMAGE_NS (7 * CLOCK_NS_PER_S)

enum { ARCHIVE_MAX = 64 << 20, AGAIN_S = 5 };

int container_call(struct container *container, const char *method, const char *what,
                   struct buf *body, int64_t timeout_ns, web_done_fn done, struct err *err)
{
    char path[CONTAINER_PATH_SIZE];
    (void)snprintf(path, sizeof(path), "/containers/%s%s", container->name, what);
    return daemon_call(&container->service->daemon, method, path, body, timeout_ns, done, container,
                       &container->call, err);
}

void container_enter(struct container *container, enum engine_state state)
{
    container->state = state;
    container->since_ns = clock_now_ns();
}

/* Of a call whose answer matters: 0 when the daemon did as it was told. */
int container_judge(struct container *container, long status, const struct buf *body,
                    const char *what, const struct err *error, struct err *err)
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
                         .again = container->create_op == ENGINE_OP_START,
                         .quota = container->with_quota,
                         .secret = container->secret,
                         .nonce = container->nonce,
                         .prepared = container->prepared ? container->prepared->id : NULL,
                         .gpus = container->gpus};
}

/* ---- who waits ---- */

void container_answer_waiters(struct container *container, const struct err *error)
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

void container_answer_channels(struct container *container, const struct err *error)
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
        /* Of the stream, which the next attach makes anew; to the server it would be the sandbox's.
         */
        if (msg.error.kind == ERR_PROTOCOL)
            msg.error.kind = ERR_UNAVAILABLE;
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

void container_drop_attach(struct container *container)
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
        err.retry_after_s = AGAIN_S;
    } else {
        (void)err_set(&err, ERR_TIMEOUT, "the Docker daemon is too slow");
    }
    container_fail(container, &err);
}

static void on_up(void *context)
{
    struct container *container = context;
    struct err err = ERR_INIT;
    FD_AUTO int fd = -1;
    if (container->state == ENGINE_STATE_RUNNING) {
        container_answer_channels(container, NULL);
        return;
    }
    if (container->state != ENGINE_STATE_CREATING)
        return;
    if (attach_open_channel(container->attach, &fd, &err) != 0) {
        container_fail(container, &err);
        return;
    }
    struct engine_msg msg = {.op = container->create_op | ENGINE_REPLY,
                             .request_id = container->create_request};
    memcpy(msg.nonce, container->nonce, sizeof(msg.nonce));
    container_enter(container, ENGINE_STATE_RUNNING);
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
    int result = container_judge(container, status, body, "start", error, &err);
    if (container->state != ENGINE_STATE_CREATING)
        return;                         /* init was faster */
    if (result != 0 && status != 304) { /* 304: it runs already */
        container_fail(container, &err);
        return;
    }
    container->step = CONTAINER_STEP_ANSWER;
    attach_expect(container->attach);
}

static void start_when_ready(struct container *container)
{
    struct err err = ERR_INIT;
    if (container->state != ENGINE_STATE_CREATING || !container->filled || !container->attached)
        return;
    container->step = CONTAINER_STEP_START;
    if (container_call(container, "POST", "/start", NULL, CONTAINER_CALL_NS, on_started, &err) != 0)
        container_fail(container, &err);
}

static void on_filled(void *context, long status, struct buf *body, const struct err *error)
{
    struct container *container = context;
    struct err err = ERR_INIT;
    if (container_judge(container, status, body, "put init into a container", error, &err) != 0) {
        container_fail(container, &err);
        return;
    }
    container->filled = true;
    if (!container->attach && container_attach(container, &err) != 0)
        container_fail(container, &err);
    else
        start_when_ready(container);
}

static void on_attached(void *context)
{
    struct container *container = context;
    container->attached = true;
    if (container->state == ENGINE_STATE_CREATING)
        start_when_ready(container);
    else
        attach_expect(container->attach);
}

/* The streams broke, or the container ended: the daemon knows which. */
static void on_detached(void *context, const struct err *error)
{
    struct container *container = context;
    struct err err = *error;
    container_drop_attach(container);
    if (container->state == ENGINE_STATE_CREATING) {
        (void)err_wrap(&err, "attach");
        container_fail(container, &err);
        return;
    }
    container_answer_channels(container, &err);
    daemon_doubt(&container->service->daemon);
    container_look(container);
}

int container_attach(struct container *container, struct err *err)
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

/* Init goes in and its streams come out, both at once; with Podman one after the other, since to it
 * attaching is a start that stops short of the program, which has to be there. */
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
        result = container_call(container, "PUT", "/archive?path=%2F", &archive, CONTAINER_CALL_NS,
                                on_filled, &err);
    if (result == 0 && !container->service->daemon.facts.is_podman)
        result = container_attach(container, &err);
    if (result != 0)
        container_fail(container, &err);
}

/* Init is in its image already. */
static void attach_filled(struct container *container)
{
    struct err err = ERR_INIT;
    container->step = CONTAINER_STEP_FILL;
    container->filled = true;
    container->attached = false;
    if (container_attach(container, &err) != 0)
        container_fail(container, &err);
}

static void make(struct container *container);

static void on_made(void *context, long status, struct buf *body, const struct err *error)
{
    struct container *container = context;
    struct service *service = container->service;
    struct err err = ERR_INIT;
    int result = container_judge(container, status, body, "make a container", error, &err);
    if (container->state != ENGINE_STATE_CREATING) { /* somebody wants it gone by now */
        container_remove(container);
        return;
    }
    if (result == 0) {
        if (container->prepared)
            attach_filled(container);
        else
            fill(container);
        return;
    }
    if (container->prepared && result == -ERR_NOT_FOUND) {
        prepare_is_missing(container->prepared);
        container->prepared = NULL;
        make(container);
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
    container_fail(container, &err);
}

static void make(struct container *container)
{
    char path[CONTAINER_PATH_SIZE];
    struct err err = ERR_INIT;
    const struct spec spec = spec_of(container);
    BUF_AUTO struct buf body;
    buf_init(&body, 64 << 10);
    container->step = CONTAINER_STEP_MAKE;
    (void)snprintf(path, sizeof(path), "/containers/create?name=%s", container->name);
    int result = spec_put_container(&spec, &body, &err);
    if (result == 0)
        result = daemon_call(&container->service->daemon, "POST", path, &body, CONTAINER_CALL_NS,
                             on_made, container, &container->call, &err);
    if (result != 0) {
        container_fail(container, &err);
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
    int result = container_judge(container, status, body, "limit a container", error, &err);
    /* Podman has no such call: the container has the limits that it was made with. */
    if (result == 0 || (status == 404 && container->service->daemon.facts.is_podman))
        fill(container);
    else
        container_fail(container, &err);
}

/* A stopped one gets the limits that are asked for now. */
static void restart(struct container *container)
{
    struct err err = ERR_INIT;
    BUF_AUTO struct buf body;
    buf_init(&body, 4096);
    container->step = CONTAINER_STEP_LIMIT;
    int result = spec_put_limits(&container->create, container->gvisor, &body, &err);
    if (result == 0)
        result = container_call(container, "POST", "/update", &body, CONTAINER_CALL_NS, on_limited,
                                &err);
    if (result != 0)
        container_fail(container, &err);
}

static void on_base(void *context, long status, struct buf *body, const struct err *error)
{
    struct container *container = context;
    container->call = NULL;
    if (container->state != ENGINE_STATE_CREATING)
        return;
    if (error || !prepare_is_of(container->prepared, status, body))
        container->prepared = NULL;
    make(container);
}

/* Of what is prepared, if the operator's image is still the one that it was prepared of: its name
 * may be another's by now. */
static void make_of(struct container *container, const struct image *image)
{
    char path[ENGINE_IMAGE_MAX + 32];
    container->prepared = prepare_want(&container->service->prepares, image,
                                       strcmp(container->create.profile, "container") == 0);
    container->step = CONTAINER_STEP_BASE;
    (void)snprintf(path, sizeof(path), "/images/%s/json", image->name);
    if (container->prepared &&
        daemon_call(&container->service->daemon, "GET", path, NULL, CONTAINER_CALL_NS, on_base,
                    container, &container->call, NULL) == 0)
        return;
    container->prepared = NULL;
    make(container);
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
        container_fail(container, &err);
    else if (result > 0)
        make_of(container, image);
}

void container_begin(struct container *container, uint32_t op, uint64_t request_id)
{
    container->create_op = op;
    container->create_request = request_id;
    container_enter(container, ENGINE_STATE_CREATING);
    container->dying = container->gone_first = false;
    container->oom_ns = 0;
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

/* Whatever the daemon made of a creation, whoever asked for one can only try again: that a
 * container or its name is not there is told to nobody as if it were their session. */
static void put_publicly(const struct container *container, const struct err *error,
                         struct err *told)
{
    *told = *error;
    if (told->public_message[0] != '\0')
        return;
    if (!container->service->daemon.is_up) {
        (void)daemon_away(&container->service->daemon, told);
        return;
    }
    (void)err_public(told, ERR_UNAVAILABLE,
                     error->kind == ERR_TIMEOUT ? "the Docker daemon is too slow; try again"
                                                : "the Docker daemon could not make the sandbox");
    told->retry_after_s = AGAIN_S;
    (void)snprintf(told->message, sizeof(told->message), "%s", error->message);
}

/* Whether it may be for what it was made of that a creation failed. That the daemon was slow before
 * anything of it ran is no sign of that. */
static bool may_be_for_its_image(const struct container *container, const struct err *error)
{
    return container->prepared && container->create_op == ENGINE_OP_CREATE &&
           container->service->daemon.is_up &&
           container->step >=
               (error->kind == ERR_TIMEOUT ? CONTAINER_STEP_START : CONTAINER_STEP_MAKE);
}

/* A start that fails keeps the files; of a creation that fails nothing is kept. */
void container_fail(struct container *container, const struct err *error)
{
    struct err told;
    if (container->state != ENGINE_STATE_CREATING)
        return;
    log_warn("sandbox %s was not made: %s", container->create.id, error->message);
    if (may_be_for_its_image(container, error))
        prepare_distrust(container->prepared);
    put_publicly(container, error, &told);
    if (container->create_request != 0)
        service_answer_error(container->service, container->create_op, container->create_request,
                             &told);
    container->create_request = 0;
    if (container->create_op == ENGINE_OP_START)
        container_stop(container);
    else
        container_destroy(container);
}

void container_free(struct container *container)
{
    if (!container)
        return;
    loop_stop_timer(&container->timer);
    web_cancel(&container->call);
    web_cancel(&container->limit_call);
    web_cancel(&container->layer_call);
    container_drop_attach(container);
    free(container);
}
