/* Owns the way of one request to its address: head, policy, name, connect. Refuses what the policy
 * does not name and every address that is not public; connects to what it has checked, never to a
 * name. */
#include "egress/flow.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "egress/flow_internal.h"
#include "egress/route.h"

#define HEAD_NS (15 * CLOCK_NS_PER_S)
#define RESOLVE_NS (25 * CLOCK_NS_PER_S) /* with the wait for others of the same owner */
#define CONNECT_NS (10 * CLOCK_NS_PER_S) /* to one address */
#define CLOSING_NS (2 * CLOCK_NS_PER_S)

enum { ALLOWED_SHOWN = 400, ADDRESSES_TRIED_MAX = 4 };

void flow_set_deadline(struct flow *flow, int64_t from_now_ns)
{
    flow->deadline_ns = clock_now_ns() + from_now_ns;
}

struct flow *flow_next(const struct flow *flow)
{
    return flow->next;
}

/* ---- the log ---- */

/* Nothing in it is the code's own words: the method is a token, the host is a name that was
 * checked.
 */
void flow_log(struct flow *flow, const char *outcome)
{
    const struct attached *attached = flow->attached;
    int64_t ms = (clock_now_ns() - flow->started_ns) / CLOCK_NS_PER_MS;
    if (flow->logged || outcome[0] == '\0')
        return;
    flow->logged = true;
    if (!flow->known)
        log_info("sandbox %s of %s: - - %s", attached->id, attached->owner, outcome);
    else
        log_info("sandbox %s of %s: %s %s:%u %s%s%s; %llu bytes out, %llu in, %lld ms",
                 attached->id, attached->owner, flow->request.method, flow->request.host.text,
                 flow->request.port, outcome, flow->address[0] ? ", " : "", flow->address,
                 (unsigned long long)flow->bytes_out, (unsigned long long)flow->bytes_in,
                 (long long)ms);
}

void flow_end(struct flow *flow, const char *why)
{
    struct attached *attached = flow->attached;
    struct proxy *proxy = attached->proxy;
    if (flow->over)
        return;
    flow->over = true;
    flow_log(flow, why);
    resolver_cancel(proxy->resolver, flow->lookup);
    flow->lookup = NULL;
    watch_close(&proxy->poller, &flow->inside);
    watch_close(&proxy->poller, &flow->outside);
    relay_free(&flow->up);
    relay_free(&flow->down);
    for (struct flow **at = &attached->flows; *at; at = &(*at)->next) {
        if (*at != flow)
            continue;
        *at = flow->next;
        attached->flow_count--;
        attached->counts.connections--;
        proxy->flow_count--;
        break;
    }
    proxy_bury(proxy, &flow->dead);
    attached_flows_changed(attached);
}

/* ---- answers of our own ---- */

/* The first words of the text, as the status line's reason: what a client of a tunnel shows. */
static void write_reason(const char *text, char *out, size_t size)
{
    size_t used = strcspn(text, "(;");
    used = used < size ? used : size - 1;
    while (used > 0 && text[used - 1] == ' ')
        used--;
    memcpy(out, text, used);
    out[used] = '\0';
}

/* One line of text, and the end. outcome is for the log. */
__attribute__((format(printf, 4, 5))) static void answer(struct flow *flow, int status,
                                                         const char *outcome, const char *format,
                                                         ...)
{
    char text[1024], reason[160];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    write_reason(text, reason, sizeof(reason));
    flow_log(flow, outcome);
    flow->state = FLOW_CLOSING;
    relay_free(&flow->down);
    if (!relay_reserve(&flow->down)) {
        flow_end(flow, "");
        return;
    }
    int size = snprintf((char *)flow->down.data, FLOW_BUFFER,
                        "HTTP/1.1 %d %s\r\nContent-Type: text/plain; charset=utf-8\r\n"
                        "Content-Length: %zu\r\nConnection: close\r\n\r\nberth: %s\n",
                        status, reason, strlen(text) + strlen("berth: \n"), text);
    flow->down.to = size > 0 ? (size_t)size : 0;
    flow_set_deadline(flow, CLOSING_NS);
    relay_close(flow);
}

static void answer_refused(struct flow *flow, const char *outcome, const char *why)
{
    attached_count_request(flow->attached, true);
    answer(flow, 403, outcome, "%s", why);
}

/* What is allowed, as far as it fits, so that whoever reads it knows what to ask for. */
static void list_rules(const struct attached *attached, char *out, size_t size)
{
    size_t used = 0;
    out[0] = '\0';
    for (size_t i = 0; i < attached->rule_count; i++) {
        const struct egress_rule *rule = &attached->rules[i];
        char one[EGRESS_RULE_MAX + 16];
        egress_rule_format(rule, one, sizeof(one));
        int wrote = snprintf(out + used, size - used, "%s%s", used > 0 ? ", " : "", one);
        if (wrote < 0 || (size_t)wrote >= size - used - 8) {
            (void)snprintf(out + used, size - used, ", ...");
            return;
        }
        used += (size_t)wrote;
    }
    if (attached->rule_count == 0)
        (void)snprintf(out, size, "nothing");
}

static void answer_not_listed(struct flow *flow)
{
    char allowed[ALLOWED_SHOWN];
    const char *host = flow->request.host.text;
    bool v6 = flow->request.host.kind == EGRESS_HOST_IPV6;
    list_rules(flow->attached, allowed, sizeof(allowed));
    attached_count_request(flow->attached, true);
    answer(flow, 403, "refused: not on its list",
           "%s%s%s:%u is not on the list of hosts that this sandbox may reach (%s). Ask for it as "
           "\"%s%s%s:%u\" in \"allow\" of the request's \"network\"; the operator's list is the "
           "most that can be asked for.",
           v6 ? "[" : "", host, v6 ? "]" : "", flow->request.port, allowed, v6 ? "[" : "", host,
           v6 ? "]" : "", flow->request.port);
}

/* ---- connect ---- */

static void try_next(struct flow *flow);

static void on_outside(struct watch *watch, uint32_t events)
{
    struct flow *flow = watch->owner;
    if (flow->state == FLOW_OPEN) {
        relay_outside(flow, events);
        return;
    }
    int failure = 0;
    socklen_t size = sizeof(failure);
    if (flow->state != FLOW_CONNECTING)
        return;
    if (getsockopt(watch->fd, SOL_SOCKET, SO_ERROR, &failure, &size) != 0)
        failure = errno;
    if (failure != 0) {
        try_next(flow);
        return;
    }
    (void)watch_set(&flow->attached->proxy->poller, watch, 0, NULL);
    relay_begin(flow, flow->head_size);
}

/* Begins to connect. False: not to this address. */
static bool begin_connect(struct flow *flow, const union address *address)
{
    struct poller *poller = &flow->attached->proxy->poller;
    int on = 1;
    FD_AUTO int fd =
        socket(address->any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_TCP);
    address_format(address, flow->address);
    if (fd < 0 || (connect(fd, &address->any, address_size(address)) != 0 && errno != EINPROGRESS))
        return false;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    watch_close(poller, &flow->outside);
    flow->outside.fd = fd_take(&fd);
    flow_set_deadline(flow, CONNECT_NS);
    if (watch_set(poller, &flow->outside, EPOLLOUT, NULL) == 0)
        return true;
    watch_close(poller, &flow->outside);
    return false;
}

/* The addresses were checked by then (check_addresses()); what is connected to is one of them. */
static void try_next(struct flow *flow)
{
    watch_close(&flow->attached->proxy->poller, &flow->outside);
    flow->state = FLOW_CONNECTING;
    while (flow->tried < flow->resolved.count) {
        union address address = flow->resolved.addresses[flow->tried++];
        if (address.any.sa_family == AF_INET)
            address.v4.sin_port = htons(flow->request.port);
        else
            address.v6.sin6_port = htons(flow->request.port);
        if (begin_connect(flow, &address))
            return;
    }
    answer(flow, 502, "failed: no connection", "no connection to %s port %u",
           flow->request.host.text, flow->request.port);
}

/* ---- addresses ---- */

/* NULL: it may be connected to. */
static const char *refusal_of(const struct flow *flow, const union address *address,
                              bool *unreachable)
{
    struct err err = ERR_INIT;
    if (address_is_excepted(address, &flow->attached->proxy->excepts))
        return NULL;
    const char *refusal = address_refusal(address);
    if (refusal)
        return refusal;
    int result = route_check(address, &err);
    *unreachable = result == -ERR_UNAVAILABLE;
    if (result == 0)
        return NULL;
    if (result == -ERR_INTERNAL)
        log_warn("an address could not be checked: %s", err.message);
    return result == -ERR_FORBIDDEN ? "of this host" : "without a route";
}

/* Keeps those that may be connected to. Returns why none is left; NULL: some are. */
static const char *check_addresses(struct flow *flow, bool *unreachable)
{
    struct resolved *resolved = &flow->resolved;
    const char *refusal = NULL;
    bool none_reachable = true;
    size_t kept = 0;
    for (size_t i = 0; i < resolved->count; i++) {
        bool away = false;
        const char *why = refusal_of(flow, &resolved->addresses[i], &away);
        if (!why && kept < ADDRESSES_TRIED_MAX)
            resolved->addresses[kept++] = resolved->addresses[i];
        if (!why || away)
            continue;
        refusal = why;
        none_reachable = false;
        address_format(&resolved->addresses[i], flow->address); /* for the operator's log */
    }
    bool any = resolved->count > 0;
    resolved->count = kept;
    *unreachable = any && none_reachable;
    if (kept > 0)
        flow->address[0] = '\0';
    return kept > 0 ? NULL : refusal ? refusal : "without a route";
}

static void connect_checked(struct flow *flow)
{
    bool unreachable = false;
    const char *why = check_addresses(flow, &unreachable);
    if (!why) {
        attached_count_request(flow->attached, false);
        try_next(flow);
        return;
    }
    if (unreachable) {
        attached_count_request(flow->attached, false);
        answer(flow, 502, "failed: no route", "there is no route to %s", flow->request.host.text);
        return;
    }
    char outcome[96];
    (void)snprintf(outcome, sizeof(outcome), "refused: an address that is %s", why);
    attached_count_request(flow->attached, true);
    answer(flow, 403, outcome,
           "%s has an address that is %s; sandboxes reach public addresses only",
           flow->request.host.text, why);
}

static void on_resolved(void *context, const struct resolved *resolved)
{
    struct flow *flow = context;
    flow->lookup = NULL;
    flow->resolved = *resolved;
    if (resolved->failure != 0 || resolved->count == 0) {
        attached_count_request(flow->attached, false);
        answer(flow, 502, "failed: no such name", "the name %s was not found: %s",
               flow->request.host.text, resolve_failure(resolved->failure));
        return;
    }
    connect_checked(flow);
}

static bool set_literal(struct flow *flow)
{
    struct resolved *resolved = &flow->resolved;
    union address *address = &resolved->addresses[0];
    memset(address, 0, sizeof(*address));
    bool v4 = flow->request.host.kind == EGRESS_HOST_IPV4;
    address->any.sa_family = v4 ? AF_INET : AF_INET6;
    resolved->count = 1;
    return inet_pton(address->any.sa_family, flow->request.host.text,
                     v4 ? (void *)&address->v4.sin_addr : (void *)&address->v6.sin6_addr) == 1;
}

static void find_address(struct flow *flow)
{
    const struct attached *attached = flow->attached;
    flow->state = FLOW_RESOLVING;
    flow_set_deadline(flow, RESOLVE_NS);
    if (watch_set(&attached->proxy->poller, &flow->inside, 0, NULL) != 0) {
        flow_end(flow, "failed: no memory to wait");
        return;
    }
    if (flow->request.host.kind != EGRESS_HOST_NAME) {
        if (set_literal(flow))
            connect_checked(flow);
        else
            flow_end(flow, "failed: no address");
        return;
    }
    flow->lookup = resolver_ask(attached->proxy->resolver, flow->request.host.text, attached->id,
                                attached->owner, on_resolved, flow);
    if (!flow->lookup)
        flow_end(flow, "failed: no memory for a name");
}

/* ---- the head ---- */

static void decide(struct flow *flow)
{
    if (!attached_allows(flow->attached, &flow->request.host, flow->request.port)) {
        answer_not_listed(flow);
        return;
    }
    if (attached_bytes_left(flow->attached) == 0) {
        answer_refused(flow, "refused: its bytes are used up",
                       "this sandbox has moved all the bytes that it may");
        return;
    }
    find_address(flow);
}

/* Puts the head for the origin in the place of the one that came, before what came behind it. */
static bool replace_head(struct flow *flow, size_t head_size, const struct buf *head)
{
    struct half *up = &flow->up;
    size_t behind = up->to - head_size;
    if (head->size + behind > FLOW_BUFFER)
        return false;
    memmove(up->data + head->size, up->data + head_size, behind);
    if (head->size > 0)
        memcpy(up->data, head->data, head->size);
    up->from = 0;
    up->to = head->size + behind;
    flow->head_size = head->size;
    return true;
}

static void take_head(struct flow *flow, size_t head_size)
{
    struct err err = ERR_INIT;
    BUF_AUTO struct buf head;
    buf_init(&head, FLOW_BUFFER);
    int result = request_parse(flow->up.data, head_size, &flow->request, &head, &err);
    if (result == 0 && !replace_head(flow, head_size, &head))
        result = err_public(&err, ERR_HEADERS, "the request's head is too long");
    if (result != 0) {
        attached_count_request(flow->attached, true);
        answer(flow, result == -ERR_HEADERS ? 431 : 400, "refused: a request that can't be read",
               "%s", err.public_message[0] ? err.public_message : "the request can't be read");
        return;
    }
    flow->known = true;
    body_init(&flow->body, flow->request.body, flow->request.length);
    decide(flow);
}

static void read_head(struct flow *flow)
{
    struct half *up = &flow->up;
    if (!relay_reserve(up)) {
        flow_end(flow, "failed: no memory");
        return;
    }
    ssize_t got = recv(flow->inside.fd, up->data + up->to, REQUEST_HEAD_MAX - up->to, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got <= 0) {
        flow_end(flow, up->to > 0 ? "ended by the code" : "");
        return;
    }
    up->to += (size_t)got;
    size_t head_size = request_head_size(up->data, up->to);
    if (head_size > 0) {
        take_head(flow, head_size);
    } else if (up->to == REQUEST_HEAD_MAX) {
        attached_count_request(flow->attached, true);
        answer(flow, 431, "refused: its head is too long", "the request's head is too long");
    }
}

static void on_inside(struct watch *watch, uint32_t events)
{
    struct flow *flow = watch->owner;
    switch (flow->state) {
    case FLOW_HEAD:
        read_head(flow);
        return;
    case FLOW_OPEN:
        relay_inside(flow, events);
        return;
    case FLOW_CLOSING:
        relay_close(flow);
        return;
    case FLOW_RESOLVING:
    case FLOW_CONNECTING:
        return;
    }
}

/* ---- its life ---- */

void flow_start(struct attached *attached, int fd)
{
    FD_AUTO int inside = fd;
    int on = 1;
    struct flow *flow = calloc(1, sizeof(*flow));
    if (!flow)
        return;
    flow->attached = attached;
    flow->started_ns = clock_now_ns();
    flow_set_deadline(flow, HEAD_NS);
    watch_init(&flow->inside, on_inside, flow);
    watch_init(&flow->outside, on_outside, flow);
    (void)setsockopt(inside, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    flow->inside.fd = fd_take(&inside);
    flow->next = attached->flows;
    attached->flows = flow;
    attached->flow_count++;
    attached->counts.connections++;
    attached->proxy->flow_count++;
    if (watch_set(&attached->proxy->poller, &flow->inside, EPOLLIN, NULL) != 0)
        flow_end(flow, "failed: no memory to wait");
}

void flow_adopt(struct attached *to, struct attached *from)
{
    while (from->flows) {
        struct flow *flow = from->flows;
        from->flows = flow->next;
        flow->attached = to;
        flow->next = to->flows;
        to->flows = flow;
        to->flow_count++;
    }
    from->flow_count = 0;
}

void flow_check(struct flow *flow)
{
    if (flow->known && flow->state != FLOW_CLOSING &&
        !attached_allows(flow->attached, &flow->request.host, flow->request.port))
        flow_end(flow, "cut: its policy changed");
}

void flow_step(struct flow *flow, int64_t now_ns)
{
    if (now_ns < flow->deadline_ns)
        return;
    switch (flow->state) {
    case FLOW_HEAD:
        answer(flow, 503, "ended: no request came in time", "no request came in time");
        return;
    case FLOW_RESOLVING:
        resolver_cancel(flow->attached->proxy->resolver, flow->lookup);
        flow->lookup = NULL;
        attached_count_request(flow->attached, false);
        answer(flow, 504, "failed: no answer about its name", "the name %s was not found in time",
               flow->request.host.text);
        return;
    case FLOW_CONNECTING:
        try_next(flow);
        return;
    case FLOW_OPEN:
        flow_end(flow, flow->extra ? "ok" : "cut: idle for too long");
        return;
    case FLOW_CLOSING:
        flow_end(flow, "");
        return;
    }
}
