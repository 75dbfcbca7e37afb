/* Owns the table of containers, the one client, and who is asked for what. Single-threaded: a step
 * that could wait is a state, not a call. Trusts no field of a message (see spec_check()). */
#include "docker/service.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/id.h"
#include "base/log.h"
#include "base/parse.h"
#include "docker/service_internal.h"
#include "wire/serve.h"

/* For what is being destroyed, from SIGTERM on: less than the monitor waits (supervise.c). */
#define STOP_NS (8 * CLOCK_NS_PER_S)
#define LISTEN_NS (3 * CLOCK_NS_PER_S)

/* ---- answers ---- */

static void drop_client(struct service *service)
{
    loop_unwatch(service->loop, &service->client_watch);
    fd_close(&service->client_fd);
    for (struct container *container = service->containers; container; container = container->next)
        container_forget_requests(container);
    if (service->layers)
        layers_forget_requests(service->layers);
}

void service_answer(struct service *service, const struct engine_msg *msg, int fd)
{
    if (service->client_fd >= 0 && !serve_send(service->client_fd, msg, fd))
        drop_client(service);
}

void service_answer_error(struct service *service, uint32_t op, uint64_t request_id,
                          const struct err *error)
{
    struct engine_msg msg = {.op = op | ENGINE_REPLY, .request_id = request_id, .error = *error};
    service_answer(service, &msg, -1);
}

void service_answer_done(struct service *service, uint32_t op, uint64_t request_id)
{
    struct engine_msg msg = {.op = op | ENGINE_REPLY, .request_id = request_id};
    service_answer(service, &msg, -1);
}

/* ---- the table ---- */

struct container *service_find(const struct service *service, const char *id)
{
    for (struct container *container = service->containers; container;
         container = container->next) {
        if (!container->freed && strcmp(container->create.id, id) == 0)
            return container;
    }
    return NULL;
}

struct container *service_add(struct service *service, const char *id)
{
    struct container *container = calloc(1, sizeof(*container));
    if (!container)
        return NULL;
    container->service = service;
    (void)snprintf(container->create.id, sizeof(container->create.id), "%s", id);
    spec_name(service->config->instance, id, container->name);
    container->next = service->containers;
    service->containers = container;
    return container;
}

static void sweep_freed(struct service *service)
{
    struct container **link = &service->containers;
    while (*link) {
        struct container *container = *link;
        if (!container->freed) {
            link = &container->next;
            continue;
        }
        *link = container->next;
        container_free(container);
    }
}

/* An unknown id is nobody's only when all that the daemon has is known. NULL: ERR_NOT_FOUND, or
 * ERR_UNAVAILABLE. */
static struct container *find(const struct service *service, const char *id, struct err *err)
{
    struct container *container = service_find(service, id);
    if (!container && service->synced)
        (void)err_set(err, ERR_NOT_FOUND, "no sandbox %s", id);
    else if (!container)
        (void)daemon_away(&service->daemon, err);
    return container;
}

/* ---- requests ---- */

static int find_runtime(const struct service *service, const char *name, const char **out,
                        struct err *err)
{
    const struct daemon_facts *facts = &service->daemon.facts;
    for (size_t i = 0; i < facts->runtime_count; i++) {
        if (name[0] == '\0' || strcmp(facts->runtimes[i].name, name) == 0) {
            *out = facts->runtimes[i].name;
            return 0;
        }
    }
    return err_public(err, ERR_UNSUPPORTED, "the Docker daemon has no runtime \"%s\"", name);
}

/* GPUs that no other sandbox of ours has. */
static int take_gpus(const struct service *service, uint32_t count, uint32_t *out, struct err *err)
{
    uint32_t used = 0;
    uint32_t taken = 0;
    for (const struct container *container = service->containers; container;
         container = container->next)
        used |= container->freed ? 0 : container->gpus;
    for (uint32_t i = 0; i < service->gpu_count && count > 0; i++) {
        if ((used >> i & 1U) != 0)
            continue;
        taken |= 1U << i;
        count--;
    }
    if (count > 0)
        return err_public(err, ERR_UNAVAILABLE, "too few GPUs are free");
    *out = taken;
    return 0;
}

static int check_create(struct service *service, const struct engine_msg *msg, const char **runtime,
                        struct err *err)
{
    struct image *image = NULL;
    const struct engine_create *create = &msg->create;
    /* What there is already keeps what it was made with. */
    const struct container *made =
        msg->op == ENGINE_OP_START ? service_find(service, create->id) : NULL;
    const char *profile = made && made->create.profile[0] ? made->create.profile : create->profile;
    if (service->stopping)
        return err_set(err, ERR_UNAVAILABLE, "the engine is stopping");
    int result = spec_check(create, err);
    if (result == 0 && (!service->daemon.is_up || !service->synced))
        result = daemon_away(&service->daemon, err);
    if (result == 0)
        result = find_runtime(service, made ? made->runtime : create->runtime, runtime, err);
    if (result == 0 && msg->op == ENGINE_OP_CREATE)
        result = images_find(&service->images, create->image, &image, err);
    if (result == 0 && strcmp(profile, "container") == 0 &&
        (info_capabilities(service, *runtime) & ENGINE_CAP_CONTAINER) == 0)
        result = err_public(err, ERR_UNSUPPORTED, "runtime \"%s\" has no profile \"container\"",
                            *runtime);
    return result;
}

/* NULL: it can't be had. */
static struct container *new_container(struct service *service, const struct engine_create *create,
                                       const char *runtime, struct err *err)
{
    struct image *image = NULL;
    uint32_t gpus = 0;
    if (take_gpus(service, create->gpu_count, &gpus, err) != 0)
        return NULL;
    struct container *container = service_add(service, create->id);
    if (!container) {
        (void)err_set(err, ERR_INTERNAL, "no memory for a sandbox");
        return NULL;
    }
    container->create = *create;
    if (images_find(&service->images, create->image, &image, NULL) == 0)
        memcpy(container->create.image, image->name, sizeof(container->create.image));
    (void)snprintf(container->runtime, sizeof(container->runtime), "%s", runtime);
    container->gvisor = daemon_is_gvisor(&service->daemon.facts, runtime);
    container->with_quota = service->quota;
    container->gpus = gpus;
    id_random(container->secret, sizeof(container->secret));
    id_random(container->nonce, sizeof(container->nonce));
    return container;
}

/* The stopped one of that id. */
static struct container *find_stopped(struct service *service, const struct engine_create *create,
                                      struct err *err)
{
    struct container *container = service_find(service, create->id);
    if (!container || container->state != ENGINE_STATE_STOPPED) {
        (void)err_set(err, container ? ERR_CONFLICT : ERR_NOT_FOUND, "no stopped sandbox %s",
                      create->id);
        return NULL;
    }
    const struct engine_create made = container->create;
    container->create = *create;
    container->create.keep_files = true;
    if (made.profile[0] != '\0')
        memcpy(container->create.profile, made.profile, sizeof(made.profile));
    return container;
}

static void on_create(struct service *service, const struct engine_msg *msg)
{
    struct err err = ERR_INIT;
    const char *runtime = "";
    const struct engine_create *create = &msg->create;
    struct container *container = NULL;
    int result = check_create(service, msg, &runtime, &err);
    if (result == 0 && msg->op == ENGINE_OP_START)
        container = find_stopped(service, create, &err);
    else if (result == 0 && service_find(service, create->id))
        (void)err_set(&err, ERR_CONFLICT, "sandbox %s exists", create->id);
    else if (result == 0)
        container = new_container(service, create, runtime, &err);
    if (container) {
        container_begin(container, msg->op, msg->request_id);
        return;
    }
    log_warn("sandbox %s was not made: %s", create->id, err.message);
    service_answer_error(service, msg->op, msg->request_id, &err);
}

/* DESTROY and STOP: they differ in what becomes of the files. */
static void on_end(struct service *service, const struct engine_msg *msg)
{
    struct err err = ERR_INIT;
    bool stop = msg->op == ENGINE_OP_STOP;
    struct container *container = find(service, msg->id, &err);
    int result = 0;
    if (!container && err.kind == ERR_NOT_FOUND && !stop) {
        service_answer_done(service, msg->op, msg->request_id);
        return;
    }
    if (!container) {
        service_answer_error(service, msg->op, msg->request_id, &err);
        return;
    }
    if (stop && (!container->create.keep_files || container->doomed))
        result = err_set(&err, ERR_CONFLICT, "sandbox %s keeps no files", msg->id);
    else if (result == 0 && !service->daemon.is_up)
        result = daemon_away(&service->daemon, &err);
    else if (result == 0)
        result = container_wait(container, msg->op, msg->request_id, &err);
    if (result != 0)
        service_answer_error(service, msg->op, msg->request_id, &err);
    if (!stop) /* also while the daemon is away: it is tried until it is done */
        container_destroy(container);
    else if (result == 0)
        container_stop(container);
}

static void on_probe(struct service *service, const struct engine_msg *request)
{
    struct engine_msg msg = {.op = ENGINE_OP_PROBE | ENGINE_REPLY,
                             .request_id = request->request_id};
    images_look_again(&service->images); /* the next one hears of it */
    info_fill(service, &msg.info);
    service_answer(service, &msg, -1);
}

/* The ids that follow after. */
static void list_after(const struct service *service, const char *after, struct engine_msg *msg)
{
    int result = 0;
    for (const struct container *container = service->containers; container && result == 0;
         container = container->next) {
        if (!container->freed && strcmp(container->create.id, after) > 0)
            result = engine_msg_add_id(msg, container->create.id, &msg->error);
    }
    engine_msg_end_list(msg);
}

static void on_list(struct service *service, const struct engine_msg *request)
{
    struct engine_msg msg = {.op = ENGINE_OP_LIST | ENGINE_REPLY,
                             .request_id = request->request_id};
    if (service->synced)
        list_after(service, request->id, &msg);
    else
        (void)daemon_away(&service->daemon, &msg.error);
    service_answer(service, &msg, -1);
    engine_msg_done(&msg);
}

static void on_inspect(struct service *service, const struct engine_msg *request)
{
    struct engine_msg msg = {.op = ENGINE_OP_INSPECT | ENGINE_REPLY,
                             .request_id = request->request_id};
    const struct container *container = find(service, request->id, &msg.error);
    if (container) {
        msg.state = container->state;
        memcpy(msg.nonce, container->nonce, sizeof(msg.nonce));
    }
    service_answer(service, &msg, -1);
}

/* Operations on one that runs. */
static void on_running(struct service *service, const struct engine_msg *request)
{
    struct err err = ERR_INIT;
    bool limit = request->op == ENGINE_OP_LIMIT;
    struct container *container = find(service, limit ? request->create.id : request->id, &err);
    if (!container)
        service_answer_error(service, request->op, request->request_id, &err);
    else if (limit)
        container_limit(container, &request->create, request->request_id);
    else
        container_open_channel(container, request->request_id);
}

/* Takes *passed_fd where the operation wants it. */
static void on_request(struct service *service, const struct engine_msg *msg, int *passed_fd)
{
    struct err err = ERR_INIT;
    switch ((enum engine_op)msg->op) {
    case ENGINE_OP_PROBE:
        on_probe(service, msg);
        return;
    case ENGINE_OP_CREATE:
    case ENGINE_OP_START:
        on_create(service, msg);
        return;
    case ENGINE_OP_DESTROY:
    case ENGINE_OP_STOP:
        on_end(service, msg);
        return;
    case ENGINE_OP_LIST:
        on_list(service, msg);
        return;
    case ENGINE_OP_INSPECT:
        on_inspect(service, msg);
        return;
    case ENGINE_OP_OPEN_CHANNEL:
    case ENGINE_OP_LIMIT:
        on_running(service, msg);
        return;
    case ENGINE_OP_LAYER_IMPORT:
    case ENGINE_OP_LAYER_ATTACH:
    case ENGINE_OP_LAYER_REMOVE:
    case ENGINE_OP_LAYER_LIST:
        service_on_layer(service, msg, passed_fd);
        return;
    default:
        (void)err_public(&err, ERR_UNSUPPORTED, "the docker engine does not offer this operation");
        service_answer_error(service, msg->op & ~ENGINE_REPLY, msg->request_id, &err);
    }
}

/* ---- the client ---- */

static void on_client(void *context, uint32_t events)
{
    struct service *service = context;
    FD_AUTO int passed_fd = -1;
    struct engine_msg msg;
    (void)events;
    int result = serve_receive(service->client_fd, &msg, &passed_fd);
    if (result < 0)
        drop_client(service);
    if (result <= 0)
        return;
    on_request(service, &msg, &passed_fd);
    engine_msg_done(&msg);
}

/* One client at a time: a new server is there because the old one died. */
static void on_listen(void *context, uint32_t events)
{
    struct service *service = context;
    struct err err = ERR_INIT;
    FD_AUTO int fd = -1;
    (void)events;
    if (!serve_accept(service->config->listen_fd, service->config->client_uid, &fd))
        return;
    drop_client(service);
    if (loop_watch(service->loop, fd, EPOLLIN, on_client, service, &service->client_watch, &err) !=
        0) {
        log_error("%s", err.message);
        return;
    }
    service->client_fd = fd_take(&fd);
}

static void on_listen_late(void *context)
{
    service_listen(context);
}

void service_listen(struct service *service)
{
    struct err err = ERR_INIT;
    loop_stop_timer(&service->listen_timer);
    if (!service->listen_watch && loop_watch(service->loop, service->config->listen_fd, EPOLLIN,
                                             on_listen, service, &service->listen_watch, &err) != 0)
        log_error("%s", err.message);
}

/* ---- the daemon ---- */

/* First the events: what the list then says is not older than they are. */
static void follow(void *context)
{
    struct service *service = context;
    struct err err = ERR_INIT;
    if (events_start(&service->events, &err) != 0)
        log_warn("events: %s", err.message);
    sweep_start(service);
}

static void on_up(void *context)
{
    struct service *service = context;
    service->quota = service->daemon.facts.quota;
    for (size_t i = 0; i < service->daemon.facts.runtime_count; i++) {
        struct engine_info info;
        info_fill(service, &info);
        if (info.runtimes[i].warning[0] != '\0')
            log_warn("%s", info.runtimes[i].warning);
    }
    follow(service);
    images_look(&service->images);
}

static void on_down(void *context)
{
    struct service *service = context;
    events_stop(&service->events);
    sweep_stop(service);
    images_forget(&service->images);
    prepares_forget(&service->prepares);
    service_listen(service);
}

static void on_happened(void *context, const char *sandbox, const char *action, int exit_code)
{
    struct container *container = service_find(context, sandbox);
    if (!container)
        return;
    if (strcmp(action, "oom") == 0)
        container_oom(container);
    else if (strcmp(action, "die") == 0)
        container_died(container, exit_code);
    else if (strcmp(action, "destroy") == 0)
        container_removed(container);
}

static void on_images(void *context)
{
    struct service *service = context;
    for (struct container *container = service->containers; container;
         container = container->next) {
        if (!container->freed)
            container_image_changed(container);
    }
}

/* ---- its beginning and its end ---- */

/* What is half-made would be left to an engine that may never come. */
static void on_signal(void *context, uint32_t events)
{
    struct service *service = context;
    (void)events;
    service->stopping = true;
    service->stop_ns = clock_now_ns() + STOP_NS;
    loop_unwatch(service->loop, &service->signal_watch);
    prepares_stop(&service->prepares);
    for (struct container *container = service->containers; container;
         container = container->next) {
        if (!container->freed && container->state == ENGINE_STATE_CREATING &&
            container->create_op == ENGINE_OP_CREATE)
            container_destroy(container);
    }
}

static bool is_ending(const struct service *service)
{
    if (!service->daemon.is_up)
        return false;
    if (prepares_are_busy(&service->prepares))
        return true;
    for (const struct container *container = service->containers; container;
         container = container->next) {
        if (!container->freed && container->state == ENGINE_STATE_DESTROYING)
            return true;
    }
    return false;
}

static int serve(struct service *service, struct err *err)
{
    for (;;) {
        if (service->stopping && (!is_ending(service) || clock_now_ns() >= service->stop_ns))
            return 0;
        int result =
            loop_step(service->loop, service->stopping ? service->stop_ns : INT64_MAX, err);
        sweep_freed(service);
        if (result != 0)
            return result;
    }
}

static int read_settings(struct service *service, struct err *err)
{
    const char *gpus = getenv("BERTH_DOCKER_GPUS");
    const char *accepted = getenv("BERTH_DOCKER_RUNC_OK");
    uint64_t count = 0;
    if (gpus && gpus[0] != '\0' && parse_u64(gpus, 0, SPEC_GPUS_MAX, &count, err) != 0)
        return err ? err_wrap(err, "BERTH_DOCKER_GPUS") : -ERR_BAD_INPUT;
    service->gpu_count = (uint32_t)count;
    service->runc_accepted = accepted && strcmp(accepted, "1") == 0;
    struct address address;
    int result = address_find(&address, err); /* a wrong DOCKER_HOST is said at once */
    return result == 0 ? images_init(&service->images, err) : result;
}

static int begin(struct service *service, struct err *err)
{
    const struct service_config *config = service->config;
    int result = fd_set_nonblocking(config->listen_fd, true, err);
    if (result == 0)
        result = service_open_layers(service, err);
    if (result == 0)
        result = fd_open_end_signals(&service->signal_fd, err);
    if (result == 0)
        result = loop_watch(service->loop, service->signal_fd, EPOLLIN, on_signal, service,
                            &service->signal_watch, err);
    if (result != 0)
        return result;
    daemon_start(&service->daemon);
    /* One that takes its time is found to be away by who asks now. */
    loop_set_timer(service->loop, &service->listen_timer, clock_now_ns() + LISTEN_NS,
                   on_listen_late, service);
    return 0;
}

int service_run(const struct service_config *config, struct err *err)
{
    static struct service service; /* large: the list of images */
    memset(&service, 0, sizeof(service));
    service.config = config;
    service.client_fd = service.signal_fd = -1;
    service.daemon.on_up = on_up;
    service.daemon.on_down = on_down;
    service.daemon.context = &service;
    prepares_init(&service.prepares, &service.daemon, config->instance, config->init,
                  config->init_size);
    service.images.daemon = &service.daemon;
    service.images.on_change = on_images;
    service.images.context = &service;
    service.events.daemon = &service.daemon;
    service.events.instance = config->instance;
    service.events.happened = on_happened;
    service.events.missed = follow;
    service.events.context = &service;
    int result = read_settings(&service, err);
    if (result == 0)
        result = loop_new(&service.loop, err);
    if (result != 0)
        return result;
    service.daemon.loop = service.loop;
    result = begin(&service, err);
    if (result == 0) {
        log_info("instance %s", config->instance);
        result = serve(&service, err);
    }
    drop_client(&service);
    for (struct container *container = service.containers; container; container = container->next)
        container->freed = true;
    sweep_freed(&service);
    events_stop(&service.events);
    sweep_stop(&service);
    loop_stop_timer(&service.listen_timer);
    layers_free(service.layers);
    images_done(&service.images);
    prepares_forget(&service.prepares);
    daemon_stop(&service.daemon);
    loop_unwatch(service.loop, &service.listen_watch);
    loop_unwatch(service.loop, &service.signal_watch);
    loop_free(service.loop);
    fd_close(&service.signal_fd);
    return result;
}
