/* Owns what the server asks for. One connection of it at a time, the latest; what it attached stays
 * when it goes. */
#include "egress/service.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "egress/attached.h"
#include "egress/flow.h"
#include "egress/harden.h"
#include "wire/egress_msg.h"
#include "wire/serve.h"

#define TICK_NS (250 * CLOCK_NS_PER_MS)
#define TELL_NS (1000 * CLOCK_NS_PER_MS)

enum { FDS_KEPT = 128, MESSAGES_PER_TURN = 64 };

struct service {
    const struct service_config *config;
    struct proxy proxy;
    struct watch signals, names, listener, client;
    uint8_t *message; /* EGRESS_MSG_MAX bytes */
    int64_t tick_ns;  /* the next one */
    bool over;
};

/* ---- out ---- */

static void drop_client(struct service *service)
{
    watch_close(&service->proxy.poller, &service->client);
}

/* A server that does not read its answers is none. */
static void send_message(struct service *service, const struct egress_msg *msg)
{
    BUF_AUTO struct buf out;
    struct err err = ERR_INIT;
    buf_init(&out, EGRESS_MSG_MAX);
    if (service->client.fd < 0)
        return;
    if (egress_msg_encode(msg, &out, &err) == 0 &&
        fd_send(service->client.fd, out.data, out.size, NULL, 0, MSG_DONTWAIT, &err) == 0)
        return;
    log_warn("the server is let go: %s", err.message);
    drop_client(service);
}

static void reply(struct service *service, uint32_t op, uint64_t request_id,
                  const struct egress_counts *counts, const struct err *failure)
{
    struct egress_msg msg = {.op = op | EGRESS_REPLY, .request_id = request_id};
    if (counts)
        msg.counts = *counts;
    if (failure)
        msg.error = *failure;
    send_message(service, &msg);
}

static void tell(struct service *service, enum egress_op op, const struct attached *attached)
{
    struct egress_msg msg = {.op = op, .counts = attached->counts};
    msg.attach.bytes_used = attached->bytes_used;
    memcpy(msg.attach.id, attached->id, sizeof(msg.attach.id));
    send_message(service, &msg);
}

/* So that a cap holds over another attach, and over our own end but for the last second. */
static void tell_used(struct service *service, struct attached *attached)
{
    if (attached->bytes_told == attached->bytes_used)
        return;
    attached->bytes_told = attached->bytes_used;
    tell(service, EGRESS_OP_EVENT_COUNTS, attached);
}

/* ---- operations ---- */

/* Init has taken it, or its channel has ended. */
static void on_changed(struct attached *attached, const struct err *failure)
{
    struct service *service = attached->context;
    uint64_t request_id = attached->request_id;
    attached->request_id = 0;
    if (request_id != 0)
        reply(service, EGRESS_OP_ATTACH, request_id, NULL, failure);
    if (!failure)
        return;
    log_debug("sandbox %s: %s", attached->id, failure->message);
    tell_used(service, attached);
    if (request_id == 0)
        tell(service, EGRESS_OP_EVENT_LOST, attached);
    attached_free(attached, "cut: the sandbox has ended");
}

static void give_up_waiting(struct service *service, const char *id)
{
    struct attached *before = attached_find(&service->proxy, id);
    struct err err = ERR_INIT;
    if (!before || before->request_id == 0)
        return;
    (void)err_set(&err, ERR_CONFLICT, "it was attached once more meanwhile");
    reply(service, EGRESS_OP_ATTACH, before->request_id, NULL, &err);
    before->request_id = 0;
}

static void on_attach(struct service *service, const struct egress_msg *msg, int channel_fd)
{
    FD_AUTO int fd = channel_fd;
    struct attached *attached = NULL;
    struct err err = ERR_INIT;
    if (fd < 0) {
        (void)err_set(&err, ERR_PROTOCOL, "an attach without a channel");
        reply(service, EGRESS_OP_ATTACH, msg->request_id, NULL, &err);
        return;
    }
    give_up_waiting(service, msg->attach.id);
    if (attached_new(&service->proxy, &msg->attach, fd_take(&fd), on_changed, service, &attached,
                     &err) != 0)
        reply(service, EGRESS_OP_ATTACH, msg->request_id, NULL, &err);
    else
        attached->request_id = msg->request_id;
}

static void on_policy(struct service *service, const struct egress_msg *msg)
{
    struct attached *attached = attached_find(&service->proxy, msg->attach.id);
    struct err err = ERR_INIT;
    int result = attached ? attached_set_policy(attached, &msg->attach.policy, &err)
                          : err_set(&err, ERR_NOT_FOUND, "this sandbox is not attached");
    reply(service, EGRESS_OP_POLICY, msg->request_id, NULL, result == 0 ? NULL : &err);
}

static void on_detach(struct service *service, const struct egress_msg *msg)
{
    struct attached *attached = attached_find(&service->proxy, msg->attach.id);
    struct egress_counts counts = {0};
    give_up_waiting(service, msg->attach.id);
    if (attached) {
        counts = attached->counts;
        tell_used(service, attached);
        attached_free(attached, "cut: the sandbox has no network any more");
    }
    reply(service, EGRESS_OP_DETACH, msg->request_id, &counts, NULL);
}

static void on_counts(struct service *service, const struct egress_msg *msg)
{
    const struct proxy *proxy = &service->proxy;
    struct egress_counts counts = proxy->totals;
    struct err err = ERR_INIT;
    counts.connections = proxy->flow_count;
    counts.sandboxes = proxy->attached_count;
    if (msg->attach.id[0] != '\0') {
        const struct attached *attached = attached_find(&service->proxy, msg->attach.id);
        if (!attached)
            (void)err_set(&err, ERR_NOT_FOUND, "this sandbox is not attached");
        else
            counts = attached->counts;
    }
    reply(service, EGRESS_OP_COUNTS, msg->request_id, &counts, err.kind == ERR_NONE ? NULL : &err);
}

static void on_message(struct service *service, const struct egress_msg *msg, int channel_fd)
{
    FD_AUTO int fd = channel_fd;
    switch (msg->op) {
    case EGRESS_OP_ATTACH:
        on_attach(service, msg, fd_take(&fd));
        return;
    case EGRESS_OP_POLICY:
        on_policy(service, msg);
        return;
    case EGRESS_OP_DETACH:
        on_detach(service, msg);
        return;
    case EGRESS_OP_COUNTS:
        on_counts(service, msg);
        return;
    default:
        log_warn("the server sent operation %u", msg->op);
        drop_client(service);
        return;
    }
}

/* Whether there may be more. */
static bool read_message(struct service *service)
{
    struct err err = ERR_INIT;
    struct egress_msg msg;
    FD_AUTO int fd = -1;
    size_t count = 1;
    ssize_t got = fd_recv(service->client.fd, service->message, EGRESS_MSG_MAX, &fd, &count,
                          MSG_DONTWAIT, &err);
    if (got == -ERR_UNAVAILABLE)
        return false;
    if (got > 0 && egress_msg_decode(service->message, (size_t)got, &msg, &err) == 0) {
        on_message(service, &msg, fd_take(&fd));
        egress_msg_done(&msg);
        return service->client.fd >= 0;
    }
    if (got != 0)
        log_warn("the server is let go: %s", err.message);
    drop_client(service);
    return false;
}

static void on_client(struct watch *watch, uint32_t events)
{
    struct service *service = watch->owner;
    (void)events;
    for (int i = 0; i < MESSAGES_PER_TURN && read_message(service); i++)
        ;
}

static void on_listener(struct watch *watch, uint32_t events)
{
    struct service *service = watch->owner;
    FD_AUTO int fd = -1;
    (void)events;
    if (!serve_accept(watch->fd, service->config->client_uid, &fd))
        return;
    drop_client(service);
    /* Answers to the one before are nobody's. */
    for (struct attached *a = service->proxy.attached; a; a = a->next)
        a->request_id = 0;
    service->client.fd = fd_take(&fd);
    if (watch_set(&service->proxy.poller, &service->client, EPOLLIN, NULL) != 0)
        drop_client(service);
}

static void on_signal(struct watch *watch, uint32_t events)
{
    struct service *service = watch->owner;
    (void)events;
    service->over = true;
}

static void on_names(struct watch *watch, uint32_t events)
{
    struct service *service = watch->owner;
    uint64_t count = 0;
    (void)events;
    (void)!read(watch->fd, &count, sizeof(count));
    resolver_finish(service->proxy.resolver);
}

/* ---- time ---- */

static void tell_counts(struct service *service, struct attached *attached, int64_t now_ns)
{
    if (attached->bytes_told == attached->bytes_used || now_ns < attached->told_ns + TELL_NS)
        return;
    attached->told_ns = now_ns;
    tell_used(service, attached);
}

/* Also for one that may not be read from now: it is for others, or for time, to change that. */
static bool needs_ticks(const struct attached *attached)
{
    return attached->bytes_told != attached->bytes_used || attached->flows ||
           attached->deadline_ns != INT64_MAX || (attached->channel.events & EPOLLIN) == 0;
}

static void tick(struct service *service, int64_t now_ns)
{
    for (struct attached *attached = service->proxy.attached; attached;) {
        struct attached *next = attached->next;
        for (struct flow *flow = attached->flows; flow;) {
            struct flow *next_flow = flow_next(flow);
            flow_step(flow, now_ns);
            flow = next_flow;
        }
        tell_counts(service, attached, now_ns);
        attached_step(attached, now_ns);
        attached = next;
    }
    service->tick_ns = now_ns + TICK_NS;
}

static int64_t next_tick_ns(const struct service *service)
{
    for (const struct attached *a = service->proxy.attached; a; a = a->next) {
        if (needs_ticks(a))
            return service->tick_ns;
    }
    return INT64_MAX;
}

/* ---- its life ---- */

static int open_watch(struct service *service, struct watch *watch, int fd, watch_fn ready,
                      struct err *err)
{
    watch_init(watch, ready, service);
    watch->fd = fd;
    return watch_set(&service->proxy.poller, watch, EPOLLIN, err);
}

/* A flow has two descriptors, a sandbox one; the rest is for names and for us. */
static void set_bounds(struct proxy *proxy)
{
    struct rlimit limit = {0};
    fd_raise_limit();
    proxy->flow_max = PROXY_FLOWS_MAX;
    proxy->attached_max = PROXY_ATTACHED_MAX;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 ||
        limit.rlim_cur >= FDS_KEPT + 3 * PROXY_FLOWS_MAX + PROXY_ATTACHED_MAX)
        return;
    size_t left = limit.rlim_cur > FDS_KEPT ? limit.rlim_cur - FDS_KEPT : 0;
    proxy->flow_max = left / 6;
    proxy->attached_max = left / 2;
}

static int start(struct service *service, struct err *err)
{
    FD_AUTO int signal_fd = -1;
    FD_AUTO int names_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int result = address_excepts_parse(service->config->except, &service->proxy.excepts, err);
    if (result == 0)
        result = names_fd >= 0 ? 0 : err_sys(err, errno, "eventfd");
    if (result == 0)
        result = fd_open_end_signals(&signal_fd, err);
    if (result == 0)
        result = poller_open(&service->proxy.poller, err);
    if (result == 0)
        result = fd_set_nonblocking(service->config->listen_fd, true, err);
    if (result == 0 && fcntl(service->config->listen_fd, F_SETFD, FD_CLOEXEC) != 0)
        result = err_sys(err, errno, "close the listener on exec");
    if (result == 0)
        result = harden_process(err); /* before the threads: they get it from here */
    if (result == 0)
        result = resolver_new(names_fd, &service->proxy.resolver, err);
    if (result != 0)
        return result;
    result = open_watch(service, &service->signals, fd_take(&signal_fd), on_signal, err);
    if (result == 0)
        result = open_watch(service, &service->names, fd_take(&names_fd), on_names, err);
    if (result == 0)
        result =
            open_watch(service, &service->listener, service->config->listen_fd, on_listener, err);
    return result;
}

int service_run(const struct service_config *config, struct err *err)
{
    struct service service = {.config = config, .proxy.poller.fd = -1};
    watch_init(&service.client, on_client, &service);
    set_bounds(&service.proxy);
    service.message = malloc(EGRESS_MSG_MAX);
    int result = service.message ? start(&service, err)
                                 : err_set(err, ERR_INTERNAL, "no memory for messages");
    while (result == 0 && !service.over) {
        result = poller_turn(&service.proxy.poller, next_tick_ns(&service), err);
        int64_t now_ns = clock_now_ns();
        if (now_ns >= service.tick_ns)
            tick(&service, now_ns);
        proxy_free_dead(&service.proxy);
    }
    while (service.proxy.attached)
        attached_free(service.proxy.attached, "cut: the way out is closing");
    proxy_free_dead(&service.proxy);
    drop_client(&service);
    free(service.message);
    return result;
}
