/* Owns what a sandbox may do and has done, and the words with its init. */
#include "egress/attached.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/mem.h"
#include "egress/flow.h"

enum {
    ANSWER_MS = 5000,  /* for init to answer */
    TOKENS_MAX = 128,  /* sockets at once after a rest */
    TOKENS_PER_S = 64, /* in the long run */
    BURST = 16,        /* of one turn: others are to have theirs */
    EGRESS_STREAM = 4,
};

struct attached *attached_find(struct proxy *proxy, const char *id)
{
    for (struct attached *attached = proxy->attached; attached; attached = attached->next) {
        if (strcmp(attached->id, id) == 0)
            return attached;
    }
    return NULL;
}

/* ---- policy and counts ---- */

/* Ends the flows that are not allowed any more. */
static void check_flows(struct attached *attached)
{
    for (struct flow *flow = attached->flows; flow;) {
        struct flow *next = flow_next(flow);
        flow_check(flow);
        flow = next;
    }
}

int attached_set_policy(struct attached *attached, const struct egress_policy *policy,
                        struct err *err)
{
    MEM_AUTO struct egress_rule *rules = calloc(policy->rule_count + 1, sizeof(*rules));
    if (!rules)
        return err_set(err, ERR_INTERNAL, "no memory for rules");
    for (size_t i = 0; i < policy->rule_count; i++) {
        int result = egress_rule_parse(policy->rules[i], &rules[i], err);
        if (result != 0)
            return result;
    }
    free(attached->rules);
    attached->rules = take(rules);
    attached->rule_count = policy->rule_count;
    attached->bytes_max = policy->bytes_max;
    attached->flows_max = EGRESS_CONNECTIONS_MAX;
    if (policy->connections_max > 0 && policy->connections_max < EGRESS_CONNECTIONS_MAX)
        attached->flows_max = policy->connections_max;
    check_flows(attached);
    return 0;
}

bool attached_allows(const struct attached *attached, const struct egress_host *host, uint16_t port)
{
    for (size_t i = 0; i < attached->rule_count; i++) {
        if (egress_rule_matches(&attached->rules[i], host, port))
            return true;
    }
    return false;
}

uint64_t attached_bytes_left(const struct attached *attached)
{
    if (attached->bytes_max == 0)
        return UINT64_MAX;
    return attached->bytes_used < attached->bytes_max ? attached->bytes_max - attached->bytes_used
                                                      : 0;
}

void attached_count(struct attached *attached, uint64_t out, uint64_t in)
{
    struct egress_counts *totals = &attached->proxy->totals;
    attached->counts.bytes_out += out;
    attached->counts.bytes_in += in;
    attached->bytes_used += out + in;
    totals->bytes_out += out;
    totals->bytes_in += in;
}

void attached_count_request(struct attached *attached, bool refused)
{
    attached->counts.requests += !refused;
    attached->counts.refused += refused;
    attached->proxy->totals.requests += !refused;
    attached->proxy->totals.refused += refused;
}

/* ---- sockets of the code ---- */

static void count_tokens(struct attached *attached, int64_t now_ns)
{
    int64_t passed_ns = now_ns - attached->tokens_ns;
    if (passed_ns < CLOCK_NS_PER_S / TOKENS_PER_S)
        return;
    uint64_t more = (uint64_t)passed_ns / (CLOCK_NS_PER_S / TOKENS_PER_S);
    attached->tokens_ns = now_ns;
    attached->tokens =
        more >= TOKENS_MAX - attached->tokens ? TOKENS_MAX : attached->tokens + (unsigned)more;
}

static bool may_accept(const struct attached *attached)
{
    const struct proxy *proxy = attached->proxy;
    size_t most = attached->flows_max;
    if (proxy->flow_count > proxy->flow_max / 2 && most > PROXY_FLOWS_OF_CROWDED)
        most = PROXY_FLOWS_OF_CROWDED;
    return attached->state != ATTACHED_OPEN ||
           (attached->tokens > 0 && attached->flow_count < most &&
            proxy->flow_count < proxy->flow_max);
}

/* Its end is heard of always: what the code opened keeps the sandbox's network alive. */
static void watch_channel(struct attached *attached)
{
    uint32_t events = may_accept(attached) ? EPOLLIN | EPOLLHUP : EPOLLHUP;
    (void)watch_set(&attached->proxy->poller, &attached->channel, events, NULL);
}

void attached_flows_changed(struct attached *attached)
{
    watch_channel(attached);
}

static int option_of(int fd, int name)
{
    int value = -1;
    socklen_t size = sizeof(value);
    return getsockopt(fd, SOL_SOCKET, name, &value, &size) == 0 ? value : -1;
}

/* A connected socket of TCP, or a channel of a carrier (wire/carrier.h), whose other end is an
 * engine's; or nothing that we take. */
static bool is_of_the_code(int fd)
{
    struct sockaddr_storage peer;
    socklen_t peer_size = sizeof(peer);
    int domain = option_of(fd, SO_DOMAIN);
    bool is_tcp = domain == AF_INET && option_of(fd, SO_PROTOCOL) == IPPROTO_TCP;
    return (is_tcp || domain == AF_UNIX) && option_of(fd, SO_TYPE) == SOCK_STREAM &&
           getpeername(fd, (struct sockaddr *)&peer, &peer_size) == 0 &&
           fd_set_nonblocking(fd, true, NULL) == 0;
}

/* The code may have hung up by now; and an engine between that had no place for the socket lets the
 * word come without it. */
static void on_accepted(struct attached *attached)
{
    FD_AUTO int fd = fd_take(&attached->pending_fd);
    if (fd < 0)
        return;
    if (attached->tokens > 0)
        attached->tokens--;
    if (is_of_the_code(fd))
        flow_start(attached, fd_take(&fd));
}

/* ---- words with init ---- */

/* The server has said the hello, which holds us to this (src/network/egress.c). */
static int send_egress(struct attached *attached, struct err *err)
{
    BUF_AUTO struct buf out;
    buf_init(&out, FRAME_HEADER_SIZE);
    int result = frame_append(&out, FRAME_EGRESS, EGRESS_STREAM, NULL, 0, err);
    if (result == 0) /* there is room for a frame: it is taken whole */
        result = fd_send(attached->channel.fd, out.data, out.size, NULL, 0, MSG_DONTWAIT, err);
    return result;
}

static int on_hello(struct attached *attached, const struct frame *frame, struct err *err)
{
    const struct sandbox_hello ours = {.version_min = SANDBOX_VERSION_MIN,
                                       .version_max = SANDBOX_VERSION_MAX};
    struct sandbox_hello theirs = {0};
    if (frame->type != FRAME_HELLO)
        return err_set(err, ERR_PROTOCOL, "init sent frame type %d before its hello",
                       (int)frame->type);
    int result = sandbox_hello_decode(frame->payload, frame->size, &theirs, err);
    if (result != 0)
        return result;
    if (memcmp(theirs.nonce, attached->nonce, sizeof(theirs.nonce)) != 0)
        return err_set(err, ERR_PROTOCOL, "the hello is not that of this sandbox");
    result = sandbox_hello_agree(&ours, &theirs, err);
    if (result < 0)
        return result;
    if ((theirs.capabilities & SANDBOX_CAP_EGRESS) == 0)
        return err_set(err, ERR_UNSUPPORTED, "this init has no way out");
    attached->state = ATTACHED_DONE;
    return 0;
}

static int on_done(struct attached *attached, const struct frame *frame, struct err *err)
{
    struct sandbox_done done = {0};
    if (frame->type != FRAME_DONE || frame->stream != EGRESS_STREAM)
        return err_set(err, ERR_PROTOCOL, "init sent frame type %d", (int)frame->type);
    int result = sandbox_done_decode(frame->payload, frame->size, &done, err);
    if (result == 0 && done.sys_errno != 0)
        result = err_set(err, ERR_INTERNAL, "init answered EGRESS with errno %d", done.sys_errno);
    if (result != 0)
        return result;
    attached->state = ATTACHED_OPEN;
    attached->deadline_ns = INT64_MAX;
    attached->changed(attached, NULL);
    return 0;
}

static int on_frame(struct attached *attached, const struct frame *frame, struct err *err)
{
    switch (attached->state) {
    case ATTACHED_HELLO:
        return on_hello(attached, frame, err);
    case ATTACHED_DONE:
        return on_done(attached, frame, err);
    case ATTACHED_OPEN:
        break;
    }
    if (frame->type != FRAME_ACCEPTED || frame->stream != EGRESS_STREAM || frame->size != 0)
        return err_set(err, ERR_PROTOCOL, "init sent frame type %d", (int)frame->type);
    on_accepted(attached);
    return 0;
}

/* One message; a stream with descriptors is cut behind the bytes that they came with (unix(7)).
 * Returns 1, 0 when there is nothing more, or a failure. */
static int read_channel(struct attached *attached, struct err *err)
{
    uint8_t bytes[512];
    FD_AUTO int fd = -1;
    size_t count = 1;
    struct frame frame;
    ssize_t got =
        fd_recv(attached->channel.fd, bytes, sizeof(bytes), &fd, &count, MSG_DONTWAIT, err);
    if (got == -ERR_UNAVAILABLE)
        return 0;
    if (got <= 0)
        return got < 0 ? (int)got : err_set(err, ERR_CLOSED, "init closed the channel");
    if (count > 0 && attached->pending_fd >= 0)
        return err_set(err, ERR_PROTOCOL, "init sent two sockets with one frame");
    if (count > 0)
        attached->pending_fd = fd_take(&fd);
    int result = frame_decoder_feed(&attached->decoder, bytes, (size_t)got, err);
    while (result == 0 && (result = frame_decoder_next(&attached->decoder, &frame, err)) > 0)
        result = on_frame(attached, &frame, err);
    return result < 0 ? result : 1;
}

static void on_channel(struct watch *watch, uint32_t events)
{
    struct attached *attached = watch->owner;
    struct err err = ERR_INIT;
    int result = 1;
    if (!may_accept(attached)) { /* then all that there is to hear is its end */
        if ((events & (EPOLLHUP | EPOLLERR)) != 0)
            result = err_set(&err, ERR_CLOSED, "init closed the channel");
    }
    for (int i = 0; i < BURST && result > 0 && may_accept(attached); i++)
        result = read_channel(attached, &err);
    if (result < 0)
        attached->changed(attached, &err);
    else
        watch_channel(attached);
}

/* ---- its life ---- */

static void unlink_attached(struct attached *attached)
{
    struct proxy *proxy = attached->proxy;
    for (struct attached **at = &proxy->attached; *at; at = &(*at)->next) {
        if (*at != attached)
            continue;
        *at = attached->next;
        proxy->attached_count--;
        return;
    }
}

void attached_free(struct attached *attached, const char *why)
{
    if (!attached)
        return;
    while (attached->flows)
        flow_end(attached->flows, why);
    unlink_attached(attached);
    watch_close(&attached->proxy->poller, &attached->channel);
    fd_close(&attached->pending_fd);
    frame_decoder_done(&attached->decoder);
    free(take(attached->rules));
    proxy_bury(attached->proxy, &attached->dead);
}

/* What goes on under a new channel: the same sandbox, as its nonce says. What it has open is held
 * against the new policy. */
static void inherit(struct attached *attached, struct attached *before)
{
    if (memcmp(attached->nonce, before->nonce, sizeof(attached->nonce)) != 0)
        return;
    attached->counts = before->counts;
    if (before->bytes_used > attached->bytes_used)
        attached->bytes_used = before->bytes_used;
    flow_adopt(attached, before);
    check_flows(attached);
}

static int check_attach(const struct proxy *proxy, const struct egress_attach *attach,
                        struct err *err)
{
    if (attach->id[0] == '\0' || attach->owner[0] == '\0')
        return err_set(err, ERR_BAD_INPUT, "an attach without an id or an owner");
    if (proxy->attached_count >= proxy->attached_max)
        return err_set(err, ERR_UNAVAILABLE, "too many sandboxes have the network");
    return 0;
}

int attached_new(struct proxy *proxy, const struct egress_attach *attach, int channel_fd,
                 attached_changed_fn changed, void *context, struct attached **out, struct err *err)
{
    FD_AUTO int fd = channel_fd;
    int result = check_attach(proxy, attach, err);
    if (result != 0)
        return result;
    struct attached *attached = calloc(1, sizeof(*attached));
    if (!attached)
        return err_set(err, ERR_INTERNAL, "no memory for a sandbox");
    attached->proxy = proxy;
    memcpy(attached->id, attach->id, sizeof(attached->id));
    memcpy(attached->owner, attach->owner, sizeof(attached->owner));
    memcpy(attached->nonce, attach->nonce, sizeof(attached->nonce));
    attached->bytes_used = attach->bytes_used;
    attached->pending_fd = -1;
    attached->changed = changed;
    attached->context = context;
    attached->tokens = TOKENS_MAX;
    attached->tokens_ns = clock_now_ns();
    attached->deadline_ns = attached->tokens_ns + ANSWER_MS * CLOCK_NS_PER_MS;
    watch_init(&attached->channel, on_channel, attached);
    frame_decoder_init(&attached->decoder);
    attached->channel.fd = fd_take(&fd);
    result = attached_set_policy(attached, &attach->policy, err);
    if (result == 0)
        result = send_egress(attached, err);
    if (result == 0)
        result = watch_set(&proxy->poller, &attached->channel, EPOLLIN | EPOLLHUP, err);
    if (result != 0) {
        attached_free(attached, "");
        return result;
    }
    struct attached *before = attached_find(proxy, attached->id);
    if (before) {
        inherit(attached, before);
        attached_free(before, "cut: another sandbox has this id");
    }
    attached->next = proxy->attached;
    proxy->attached = attached;
    proxy->attached_count++;
    *out = attached;
    return 0;
}

void attached_step(struct attached *attached, int64_t now_ns)
{
    if (now_ns >= attached->deadline_ns) {
        struct err err = ERR_INIT;
        (void)err_set(&err, ERR_TIMEOUT, "init did not answer in time");
        attached->changed(attached, &err);
        return;
    }
    count_tokens(attached, now_ns);
    watch_channel(attached);
}
