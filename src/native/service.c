/* Owns the table of sandboxes, the one client, and the order of events. Single-threaded: a step
 * that could wait is a state, not a call. Trusts no field of a message (see sandbox_begin()). */
#include "native/service.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/id.h"
#include "base/log.h"
#include "base/mem.h"
#include "native/initsock.h"
#include "native/limit.h"
#include "native/service_internal.h"
#include "wire/serve.h"

/* For what is being destroyed, from SIGTERM on: less than the monitor waits (supervise.c). */
#define STOP_NS (8 * CLOCK_NS_PER_S)

enum { EVENT_BATCH = 64 };

/* Who an epoll event is for: one of the service's own descriptors, or a sandbox. */
enum source {
    SOURCE_LISTEN = 1,
    SOURCE_CLIENT,
    SOURCE_SIGNAL,
    SOURCE_IMAGES,
    SOURCE_LAYERS,
    SOURCE_ZYGOTE
};

int service_watch(struct service *service, int fd, uint64_t data, uint32_t events, struct err *err)
{
    struct epoll_event event = {.events = events, .data.u64 = data};
    if (epoll_ctl(service->host.epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0)
        return err_sys(err, errno, "epoll_ctl");
    return 0;
}

struct sandbox *service_find(const struct service *service, const char *id)
{
    for (struct sandbox *sandbox = service->sandboxes; sandbox; sandbox = sandbox->next) {
        if (!sandbox->freed && strcmp(sandbox->id, id) == 0)
            return sandbox;
    }
    return NULL;
}

void service_add(struct service *service, struct sandbox *sandbox)
{
    sandbox->next = service->sandboxes;
    service->sandboxes = sandbox;
}

/* ---- answers ---- */

static void drop_client(struct service *service)
{
    if (service->client_fd >= 0)
        (void)shutdown(service->client_fd, SHUT_RDWR); /* a setup stage may hold a copy */
    sandbox_unwatch(&service->host, &service->client_fd);
    for (struct sandbox *sandbox = service->sandboxes; sandbox; sandbox = sandbox->next) {
        sandbox->create_request = 0;
        sandbox->waiter_count = 0;
    }
    service_forget_layers(service);
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

/* ---- sandboxes ---- */

static void settle(struct service *service, struct sandbox *sandbox);

static void fail_creation(struct service *service, struct sandbox *sandbox, const struct err *error)
{
    log_warn("sandbox %s was not made: %s", sandbox->id, error->message);
    if (sandbox->runsc && (error->kind == ERR_INTERNAL || error->kind == ERR_CLOSED))
        service->host.runsc.failed = true;
    if (sandbox->create_request != 0)
        service_answer_error(service, sandbox->create_op, sandbox->create_request, error);
    sandbox->create_request = 0;
    /* Also after the commit: of a creation that failed nothing is kept. */
    sandbox->forget = sandbox->forget || sandbox->create_op == ENGINE_OP_CREATE;
    sandbox_kill(&service->host, sandbox);
    settle(service, sandbox);
}

static void finish_creation(struct service *service, struct sandbox *sandbox)
{
    struct engine_msg msg = {.op = sandbox->create_op | ENGINE_REPLY,
                             .request_id = sandbox->create_request};
    struct err err = ERR_INIT;
    FD_AUTO int channel_fd = -1;
    memcpy(msg.nonce, sandbox->nonce, sizeof(msg.nonce));
    if (sandbox_connect(&service->host, sandbox, &channel_fd, &err) != 0) {
        fail_creation(service, sandbox, &err);
        return;
    }
    if (sandbox->create_request == 0)
        return; /* the client that asked is gone; the next one finds the id in its list */
    if (sandbox->runsc)
        service->host.runsc.failed = false;
    sandbox->create_request = 0;
    service_answer(service, &msg, channel_fd);
}

/* The kernel that it waited for was forked, or will not be. */
static void go_on(struct service *service, struct sandbox *sandbox, bool forked)
{
    struct err err = ERR_INIT;
    if (sandbox_commit(&service->host, sandbox, forked, &err) == 0)
        finish_creation(service, sandbox);
    else
        fail_creation(service, sandbox, &err);
}

static void on_forked(void *context, uint64_t request, bool forked)
{
    struct service *service = context;
    for (struct sandbox *sandbox = service->sandboxes; sandbox; sandbox = sandbox->next) {
        if (!sandbox->freed && sandbox->kernel_request == request) {
            go_on(service, sandbox, forked);
            return;
        }
    }
}

/* Tells everybody who waits that nothing of the sandbox runs, and forgets it when nothing is left.
 */
static void settle(struct service *service, struct sandbox *sandbox)
{
    service_attach_event(service, sandbox);
    const bool had_layer = sandbox->layer_lock_fd >= 0;
    if (!sandbox_cleanup(&service->host, sandbox))
        return;
    if (had_layer) /* not for each sandbox: all folders are looked at */
        service_layer_let_go(service);
    for (size_t i = 0; i < sandbox->waiter_count; i++)
        service_answer_done(service, sandbox->waiters[i].op, sandbox->waiters[i].request_id);
    sandbox->waiter_count = 0;
    sandbox->freed = sandbox->state != ENGINE_STATE_STOPPED;
}

static void sweep_freed(struct service *service)
{
    struct sandbox **link = &service->sandboxes;
    while (*link) {
        struct sandbox *sandbox = *link;
        if (!sandbox->freed) {
            link = &sandbox->next;
            continue;
        }
        *link = sandbox->next;
        sandbox_free(sandbox);
    }
}

/* Its init ended, by our kill or by itself. */
static void on_death(struct service *service, struct sandbox *sandbox)
{
    if (sandbox->state == ENGINE_STATE_CREATING) {
        struct err err = ERR_INIT;
        (void)err_set(&err, ERR_INTERNAL, "sandbox %s died while it was made", sandbox->id);
        /* The stage's last words are in the socket. */
        struct err last = ERR_INIT;
        if (sandbox_setup_event(&service->host, sandbox, &last) < 0 && last.message[0] != '\0')
            err = last;
        fail_creation(service, sandbox, &err);
        return;
    }
    if (sandbox->state == ENGINE_STATE_RUNNING) {
        struct engine_msg msg = {.op = ENGINE_OP_EVENT_GONE};
        memcpy(msg.id, sandbox->id, sizeof(msg.id));
        /* Of a kernel of its own nothing is left then that could tell. */
        sandbox_runsc_drain(sandbox);
        if (sandbox->runsc && cgroup_had_oom(&service->host.cgroups, sandbox->id))
            msg.cause = KILL_OOM;
        sandbox_kill(&service->host, sandbox);
        service_answer(service, &msg, -1);
    }
    settle(service, sandbox);
}

static void on_sandbox_event(struct service *service, struct sandbox *sandbox)
{
    if (sandbox->freed)
        return;
    service_attach_event(service, sandbox);
    if (sandbox->state == ENGINE_STATE_CREATING && sandbox->setup_fd >= 0) {
        struct err err = ERR_INIT;
        int result = sandbox_setup_event(&service->host, sandbox, &err);
        if (result < 0)
            fail_creation(service, sandbox, &err);
        else if (result > 0)
            finish_creation(service, sandbox);
        if (result != 0 || sandbox->runsc)
            return; /* that its init answers is looked for there alone; its end is, too */
    }
    sandbox_runsc_step(sandbox);
    siginfo_t info;
    struct pollfd init = {.fd = sandbox->pidfd, .events = POLLIN};
    memset(&info, 0, sizeof(info));
    bool dead = sandbox->state == ENGINE_STATE_DESTROYING;
    if (!dead && sandbox->child && sandbox->pid > 0)
        dead = waitid(P_PID, (id_t)sandbox->pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
               info.si_pid == sandbox->pid;
    else if (!dead) /* an adopted one: its pidfd is readable, or that of a child that attaches */
        dead = poll(&init, 1, 0) > 0;
    if (dead)
        on_death(service, sandbox);
}

/* Nobody could look yet. */
static int say_unknown(const struct service *service, struct err *err)
{
    const struct sandbox_host *host = &service->host;
    return err_set(err, ERR_UNAVAILABLE, "it is not known what lives here%s%s",
                   host->usable ? "" : ": ", host->usable ? "" : host->unavailable.message);
}

int service_find_or_adopt(struct service *service, const char *id, struct sandbox **out,
                          struct err *err)
{
    const struct sandbox_host *host = &service->host;
    *out = service_find(service, id);
    if (*out)
        return 0;
    if (!service->swept) /* who is told that there is none forgets it, and its files */
        return say_unknown(service, err);
    if (host->cgroups.count > 0 || !initsock_exists(host->run_fd, id))
        return 0;
    service_adopt(service, id);
    *out = service_find(service, id);
    return *out ? 0 : err_set(err, ERR_UNAVAILABLE, "init of %s is busy", id);
}

/* ---- requests ---- */

static int watch_creation(struct service *service, struct sandbox *sandbox, struct err *err)
{
    uint64_t data = (uint64_t)(uintptr_t)sandbox;
    int result = service_watch(service, sandbox->setup_fd, data, EPOLLIN, err);
    if (result == 0)
        result = service_watch(service, sandbox->pidfd, data, EPOLLIN, err);
    if (result == 0 && sandbox->disk_job.fd >= 0)
        result = service_watch(service, sandbox->disk_job.fd, data, EPOLLIN, err);
    return result;
}

/* CREATE and START. */
static void on_create(struct service *service, const struct engine_msg *msg)
{
    struct err err = ERR_INIT;
    struct sandbox *sandbox = NULL;
    struct sandbox *known = service_find(service, msg->create.id);
    bool restart = msg->op == ENGINE_OP_START && known && known->state == ENGINE_STATE_STOPPED;
    int result = 0;
    if (service->stopping)
        result = err_set(&err, ERR_UNAVAILABLE, "the engine is stopping");
    else if (!service->host.usable)
        result = err_copy(&err, &service->host.unavailable);
    else if (known && !restart)
        result = err_set(&err, ERR_CONFLICT, "sandbox %s exists", msg->create.id);
    else
        result = sandbox_begin(&service->host, msg->op, &msg->create, &sandbox, &err);
    if (result == 0 && sandbox) {
        if (known)
            known->freed = true;
        service_add(service, sandbox);
        sandbox->create_request = msg->request_id;
        if (!sandbox->runsc)
            (void)zygotes_want(&service->zygotes, &sandbox->spec);
        result = watch_creation(service, sandbox, &err);
        if (result != 0) {
            fail_creation(service, sandbox, &err);
            return;
        }
    }
    if (result != 0) {
        log_warn("sandbox %s was not made: %s", msg->create.id, err.message);
        service_answer_error(service, msg->op, msg->request_id, &err);
    }
}

/* A creation that nobody needs any more. */
static void cancel_creation(struct service *service, struct sandbox *sandbox)
{
    if (sandbox->create_request == 0)
        return;
    struct err err = ERR_INIT;
    (void)err_set(&err, ERR_CONFLICT, "sandbox %s was ended while it was made", sandbox->id);
    service_answer_error(service, sandbox->create_op, sandbox->create_request, &err);
    sandbox->create_request = 0;
}

/* DESTROY and STOP: they differ in what becomes of a disk that is kept. */
static void on_end(struct service *service, const struct engine_msg *msg)
{
    struct err err = ERR_INIT;
    bool stop = msg->op == ENGINE_OP_STOP;
    struct sandbox *sandbox = NULL;
    int result = service_find_or_adopt(service, msg->id, &sandbox, &err);
    if (result == 0 && !sandbox && stop)
        result = err_set(&err, ERR_NOT_FOUND, "no sandbox %s", msg->id);
    else if (sandbox && stop && (!sandbox->keeps || sandbox->forget))
        result = err_set(&err, ERR_CONFLICT, "sandbox %s keeps no files", msg->id);
    else if (sandbox && sandbox->waiter_count == SANDBOX_WAITERS_MAX)
        result = err_set(&err, ERR_CONFLICT, "sandbox %s is being ended", msg->id);
    if (result != 0) {
        service_answer_error(service, msg->op, msg->request_id, &err);
        return;
    }
    if (!sandbox || (stop && sandbox->state == ENGINE_STATE_STOPPED)) {
        service_answer_done(service, msg->op, msg->request_id);
        return;
    }
    sandbox->waiters[sandbox->waiter_count++] =
        (struct sandbox_waiter){.op = msg->op, .request_id = msg->request_id};
    sandbox->forget = sandbox->forget || !stop;
    if (sandbox->state == ENGINE_STATE_DESTROYING)
        return;
    cancel_creation(service, sandbox);
    sandbox_kill(&service->host, sandbox);
    settle(service, sandbox);
}

static void on_probe(struct service *service, const struct engine_msg *request)
{
    struct engine_msg msg = {.op = ENGINE_OP_PROBE | ENGINE_REPLY,
                             .request_id = request->request_id};
    host_info(&service->host, &msg.info);
    service_answer(service, &msg, -1);
}

/* The ids that follow after. */
static void list_after(const struct service *service, const char *after, struct engine_msg *msg)
{
    int result = 0;
    for (const struct sandbox *sandbox = service->sandboxes; sandbox && result == 0;
         sandbox = sandbox->next) {
        if (!sandbox->freed && strcmp(sandbox->id, after) > 0)
            result = engine_msg_add_id(msg, sandbox->id, &msg->error);
    }
    engine_msg_end_list(msg);
}

static void on_list(struct service *service, const struct engine_msg *request)
{
    struct engine_msg msg = {.op = ENGINE_OP_LIST | ENGINE_REPLY,
                             .request_id = request->request_id};
    const struct sandbox_host *host = &service->host;
    /* A host that can't make any has none; any other list without what was not looked at is taken
     * for whole. */
    if (service->swept || (!host->usable && host->unavailable.kind == ERR_UNSUPPORTED))
        list_after(service, request->id, &msg);
    else
        (void)say_unknown(service, &msg.error);
    service_answer(service, &msg, -1);
    engine_msg_done(&msg);
}

static void on_named(struct service *service, const struct engine_msg *request)
{
    struct err err = ERR_INIT;
    FD_AUTO int channel_fd = -1;
    struct engine_msg msg = {.op = request->op | ENGINE_REPLY, .request_id = request->request_id};
    struct sandbox *sandbox = NULL;
    if (service_find_or_adopt(service, request->id, &sandbox, &msg.error) != 0) {
        /* the answer says so */
    } else if (!sandbox) {
        (void)err_set(&msg.error, ERR_NOT_FOUND, "no sandbox %s", request->id);
    } else if (request->op == ENGINE_OP_INSPECT) {
        msg.state = sandbox->state;
        memcpy(msg.nonce, sandbox->nonce, sizeof(msg.nonce));
    } else if (sandbox->state != ENGINE_STATE_RUNNING) {
        (void)err_set(&msg.error, ERR_CONFLICT, "sandbox %s is not running", request->id);
    } else if (sandbox_connect(&service->host, sandbox, &channel_fd, &err) != 0) {
        msg.error = err;
    }
    service_answer(service, &msg, channel_fd);
}

static void on_limit(struct service *service, const struct engine_msg *request)
{
    struct err err = ERR_INIT;
    struct sandbox *sandbox = NULL;
    const struct engine_create *spec = &request->create;
    int result = service_find_or_adopt(service, spec->id, &sandbox, &err);
    if (result == 0 && !sandbox)
        result = err_set(&err, ERR_NOT_FOUND, "no sandbox %s", spec->id);
    if (result == 0)
        result = limit_change(&service->host, sandbox, spec, &err);
    if (result != 0)
        service_answer_error(service, request->op, request->request_id, &err);
    else
        service_answer_done(service, request->op, request->request_id);
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
    case ENGINE_OP_OPEN_CHANNEL:
        on_named(service, msg);
        return;
    case ENGINE_OP_LIMIT:
        on_limit(service, msg);
        return;
    case ENGINE_OP_LAYER_IMPORT:
    case ENGINE_OP_LAYER_ATTACH:
    case ENGINE_OP_LAYER_REMOVE:
    case ENGINE_OP_LAYER_LIST:
        service_on_layer(service, msg, passed_fd);
        return;
    case ENGINE_OP_NETWORK:
        service_on_network(service, msg);
        return;
    default:
        (void)err_public(&err, ERR_UNSUPPORTED, "the native engine does not offer this operation");
        service_answer_error(service, msg->op & ~ENGINE_REPLY, msg->request_id, &err);
    }
}

static void on_client(struct service *service)
{
    FD_AUTO int passed_fd = -1;
    struct engine_msg msg;
    int result = serve_receive(service->client_fd, &msg, &passed_fd);
    if (result < 0)
        drop_client(service);
    if (result <= 0)
        return;
    on_request(service, &msg, &passed_fd);
    engine_msg_done(&msg);
}

/* One client at a time: a new server is there because the old one died. */
static void on_listen(struct service *service)
{
    struct err err = ERR_INIT;
    FD_AUTO int fd = -1;
    if (!serve_accept(service->config->listen_fd, service->config->client_uid, &fd))
        return;
    drop_client(service);
    if (service_watch(service, fd, SOURCE_CLIENT, EPOLLIN, &err) != 0) {
        log_error("%s", err.message);
        return;
    }
    service->client_fd = fd_take(&fd);
}

static int64_t run_due(struct service *service)
{
    int64_t next = INT64_MAX;
    int64_t now_ns = clock_now_ns();
    if (service->sweep_at_ns <= now_ns)
        service_sweep(service); /* first: what it finds without life is due at once */
    if (service->zygotes.at_ns <= now_ns)
        zygotes_step(&service->zygotes, on_forked, service);
    for (struct sandbox *sandbox = service->sandboxes; sandbox; sandbox = sandbox->next) {
        if (!sandbox->freed && sandbox->kernel_give_up_ns <= now_ns &&
            sandbox_withdraw_kernel(&service->host, sandbox))
            go_on(service, sandbox, false);
        if (!sandbox->freed && sandbox->kernel_give_up_ns < next)
            next = sandbox->kernel_give_up_ns;
        if (!sandbox->freed && sandbox->attach.deadline_ns <= now_ns)
            layer_attach_kill(&sandbox->attach);
        else if (!sandbox->freed && sandbox->attach.deadline_ns < next)
            next = sandbox->attach.deadline_ns;
        if (!sandbox->freed) {
            int64_t beat_ns = sandbox_runsc_beat(sandbox, now_ns);
            next = beat_ns < next ? beat_ns : next;
        }
        if (sandbox->freed || sandbox->deadline_ns == INT64_MAX)
            continue;
        if (sandbox->deadline_ns <= now_ns && sandbox->state == ENGINE_STATE_CREATING) {
            struct err err = ERR_INIT;
            (void)err_set(&err, ERR_INTERNAL, "sandbox %s took too long to make", sandbox->id);
            fail_creation(service, sandbox, &err);
        } else if (sandbox->deadline_ns <= now_ns) {
            settle(service, sandbox);
        }
        if (!sandbox->freed && sandbox->deadline_ns < next)
            next = sandbox->deadline_ns;
    }
    if (service->host.images && service->images_at_ns <= now_ns)
        service->images_at_ns = images_step(service->host.images);
    int64_t layers_ns = service_step_layers(service);
    next = layers_ns < next ? layers_ns : next;
    int64_t networks_ns = service_step_networks(service, now_ns);
    next = networks_ns < next ? networks_ns : next;
    if (service->sweep_at_ns < next)
        next = service->sweep_at_ns;
    if (service->zygotes.at_ns < next)
        next = service->zygotes.at_ns;
    return service->host.images && service->images_at_ns < next ? service->images_at_ns : next;
}

/* What is half-made would end with us, and leave its groups to an engine that may never come. */
static void stop(struct service *service)
{
    struct err err = ERR_INIT;
    (void)err_set(&err, ERR_UNAVAILABLE, "the engine is stopping");
    service->stopping = true;
    service->stop_ns = clock_now_ns() + STOP_NS;
    sandbox_unwatch(&service->host, &service->signal_fd); /* it stays readable */
    for (struct sandbox *sandbox = service->sandboxes; sandbox; sandbox = sandbox->next) {
        if (!sandbox->freed && sandbox->state == ENGINE_STATE_CREATING)
            fail_creation(service, sandbox, &err);
    }
}

static bool is_ending(const struct service *service)
{
    for (const struct sandbox *sandbox = service->sandboxes; sandbox; sandbox = sandbox->next) {
        if (!sandbox->freed && sandbox->state == ENGINE_STATE_DESTROYING)
            return true;
    }
    return false;
}

static void dispatch(struct service *service, const struct epoll_event *event)
{
    switch (event->data.u64) {
    case SOURCE_LISTEN:
        on_listen(service);
        return;
    case SOURCE_CLIENT:
        if (service->client_fd >= 0)
            on_client(service);
        return;
    case SOURCE_SIGNAL:
        stop(service);
        return;
    case SOURCE_IMAGES:
        service->images_at_ns = 0;
        return;
    case SOURCE_LAYERS:
        service->layers_at_ns = 0;
        return;
    case SOURCE_ZYGOTE:
        service->zygotes.at_ns = 0;
        return;
    default:
        on_sandbox_event(service, (struct sandbox *)(uintptr_t)event->data.u64);
    }
}

/* Told to stop, it first takes what was sent before, and finishes what is being destroyed: the one
 * that says so may be gone already, and nobody may come after us. */
static void serve(struct service *service)
{
    struct epoll_event events[EVENT_BATCH];
    bool over = false;
    bool accident = !service->host.usable && service->host.unavailable.kind == ERR_UNAVAILABLE;
    int64_t give_up_ns = accident ? clock_now_ns() + service->sweep_ns : INT64_MAX;
    while (!over) {
        int64_t next = run_due(service);
        next = give_up_ns < next ? give_up_ns : next;
        if (give_up_ns <= clock_now_ns()) {
            log_warn("ending, so that the next engine tries again what failed");
            give_up_ns = INT64_MAX;
            stop(service);
        }
        sweep_freed(service);
        bool ending = is_ending(service);
        if (service->stopping && (!ending || service->stop_ns < next))
            next = ending ? service->stop_ns : 0;
        int count =
            epoll_wait(service->host.epoll_fd, events, EVENT_BATCH, clock_poll_timeout_ms(next));
        for (int i = 0; i < count; i++)
            dispatch(service, &events[i]);
        over = service->stopping && ((count <= 0 && !ending) || service->stop_ns <= clock_now_ns());
    }
}

/* Listens only when what is there already is known. */
static int begin(struct service *service, struct err *err)
{
    const struct service_config *config = service->config;
    int result = fd_set_nonblocking(config->listen_fd, true, err);
    if (result == 0)
        result = service_watch(service, config->listen_fd, SOURCE_LISTEN, EPOLLIN, err);
    if (result == 0)
        result = service_watch(service, service->signal_fd, SOURCE_SIGNAL, EPOLLIN, err);
    if (result == 0 && service->host.images)
        result = service_watch(service, images_event_fd(service->host.images), SOURCE_IMAGES,
                               EPOLLIN, err);
    if (result == 0)
        result = service_open_layers(service, err);
    if (result == 0 && service->host.layers)
        result = service_watch(service, layers_event_fd(service->host.layers), SOURCE_LAYERS,
                               EPOLLIN, err);
    return result;
}

int service_run(const struct service_config *config, struct err *err)
{
    struct service service;
    memset(&service, 0, sizeof(service));
    service.config = config;
    service.client_fd = service.signal_fd = -1;
    service.networks_at_ns = INT64_MAX;
    service.sweep_ns = service_sweep_interval_ns();
    const struct host_config host_config = {.state_path = config->state_path,
                                            .images_path = config->images_path,
                                            .cgroup = config->cgroup,
                                            .userns = config->userns,
                                            .refused = config->refused};
    /* First: what is made from here on has to be removed by whoever is told to end. */
    int result = fd_open_end_signals(&service.signal_fd, err);
    if (result == 0)
        result = host_open(&host_config, &service.host, err);
    if (result != 0) {
        fd_close(&service.signal_fd);
        return result;
    }
    service.host.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    zygotes_init(&service.zygotes, &service.host, config->zygote_forks, SOURCE_ZYGOTE);
    service.host.zygotes = &service.zygotes;
    if (service.host.epoll_fd < 0)
        result = err_sys(err, errno, "epoll");
    if (result == 0)
        result = begin(&service, err);
    if (result == 0) {
        log_info("instance %s, cgroups %s", service.host.instance,
                 cgroup_mode_name(&service.host.cgroups));
        serve(&service);
        service_sweep_networks(&service);
    }
    drop_client(&service);
    for (struct sandbox *sandbox = service.sandboxes; sandbox; sandbox = sandbox->next)
        sandbox->freed = true;
    sweep_freed(&service);
    zygotes_done(&service.zygotes);
    host_close(&service.host);
    fd_close(&service.host.epoll_fd);
    fd_close(&service.signal_fd);
    return result;
}
