/* Owns the bytes of a flow that is open. Counts all of them, holds one buffer each way, and lets
 * nothing of a second request through. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "egress/flow_internal.h"

#define IDLE_NS (300 * CLOCK_NS_PER_S)     /* without a byte either way */
#define HALF_OPEN_NS (60 * CLOCK_NS_PER_S) /* the same, when one side has ended */
#define EXTRA_NS (2 * CLOCK_NS_PER_S)      /* for the answer, when the code sent a second request */
#define CLOSING_NS (2 * CLOCK_NS_PER_S)

static const char close_field[] = "Connection: close\r\n";
enum { CLOSE_SIZE = sizeof(close_field) - 1 };

bool relay_reserve(struct half *half)
{
    if (!half->data)
        half->data = malloc(FLOW_BUFFER);
    if (half->from == half->to)
        half->from = half->to = 0;
    return half->data != NULL;
}

void relay_free(struct half *half)
{
    free(half->data);
    half->data = NULL;
    half->from = half->to = 0;
}

static size_t room_of(const struct half *half)
{
    return relay_size(half) == 0 ? FLOW_BUFFER : FLOW_BUFFER - half->to;
}

/* ---- one piece ---- */

enum moved { MOVED, WAITS, BROKEN };

/* Sends what is there. */
static enum moved drain(struct half *half, int fd)
{
    while (relay_size(half) > 0) {
        ssize_t sent =
            send(fd, half->data + half->from, relay_size(half), MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0)
            return errno == EAGAIN ? WAITS : BROKEN;
        half->from += (size_t)sent;
    }
    relay_free(half);
    return MOVED;
}

/* Says the end on, once all before it was sent. */
static void pass_end(struct half *half, int fd)
{
    if (!half->ended || half->shut || relay_size(half) > 0)
        return;
    half->shut = true;
    (void)shutdown(fd, SHUT_WR);
}

/* Receives one piece, within the cap. */
static enum moved fill(struct flow *flow, struct half *half, int fd)
{
    uint64_t left = attached_bytes_left(flow->attached);
    if (left == 0)
        return BROKEN;
    if (!relay_reserve(half))
        return BROKEN;
    size_t room = FLOW_BUFFER - half->to;
    if (half == &flow->down && !flow->request.connect && !flow->close_said && room > CLOSE_SIZE)
        room -= CLOSE_SIZE; /* which may be written into it */
    ssize_t got = recv(fd, half->data + half->to, left < room ? (size_t)left : room, MSG_DONTWAIT);
    if (got < 0) {
        if (relay_size(half) == 0)
            relay_free(half);
        return errno == EAGAIN || errno == EINTR ? WAITS : BROKEN;
    }
    half->ended = got == 0;
    half->to += (size_t)got;
    return MOVED;
}

/* ---- both ways ---- */

static bool is_over(const struct flow *flow)
{
    if (flow->request.connect)
        return flow->up.shut && flow->down.shut;
    return flow->down.shut; /* the answer is whole: there is one request */
}

static void settle(struct flow *flow)
{
    if (attached_bytes_left(flow->attached) == 0) {
        flow_end(flow, "cut: the sandbox has used up its bytes");
        return;
    }
    if (is_over(flow)) {
        flow_log(flow, "ok");
        flow->state = FLOW_CLOSING;
        flow_set_deadline(flow, CLOSING_NS);
        relay_close(flow);
        return;
    }
    int64_t wait_ns = flow->up.shut || flow->down.ended ? HALF_OPEN_NS : IDLE_NS;
    flow_set_deadline(flow, flow->extra ? EXTRA_NS : wait_ns);
    relay_watch(flow);
}

/* Of the bytes of an http request that came, those of a second one are dropped. False: its framing
 * is broken. */
static bool bound_body(struct flow *flow, size_t from)
{
    struct half *up = &flow->up;
    ssize_t used = body_take(&flow->body, up->data + from, up->to - from);
    if (used < 0)
        return false;
    if (from + (size_t)used < up->to)
        flow->extra = true;
    up->to = from + (size_t)used;
    return true;
}

static void push_up(struct flow *flow)
{
    if (drain(&flow->up, flow->outside.fd) == BROKEN) {
        /* The origin reads no more; what it has said is still worth hearing. */
        relay_free(&flow->up);
        flow->up.ended = flow->up.shut = true;
    }
    if (flow->request.connect)
        pass_end(&flow->up, flow->outside.fd);
}

static bool push_down(struct flow *flow)
{
    if (drain(&flow->down, flow->inside.fd) == BROKEN)
        return false;
    pass_end(&flow->down, flow->inside.fd);
    return true;
}

/* Whether the request's own bytes are all there: what else comes is thrown away. */
static bool is_whole(const struct flow *flow)
{
    return !flow->request.connect && flow->body.over;
}

static bool wants_up(const struct flow *flow)
{
    if (is_whole(flow))
        return !flow->up.ended && !flow->extra;
    return !flow->up.ended && room_of(&flow->up) > 0;
}

/* A client that keeps its connection has a second request there, or hangs up. */
static bool throw_up(struct flow *flow)
{
    uint8_t thrown[512];
    ssize_t got = recv(flow->inside.fd, thrown, sizeof(thrown), MSG_DONTWAIT);
    if (got < 0)
        return errno == EAGAIN || errno == EINTR;
    flow->extra = got > 0;
    flow->up.ended = got == 0;
    return true;
}

static bool read_up(struct flow *flow)
{
    if (is_whole(flow))
        return throw_up(flow);
    size_t before = relay_size(&flow->up) == 0 ? 0 : flow->up.to;
    enum moved moved = fill(flow, &flow->up, flow->inside.fd);
    if (moved != MOVED)
        return moved == WAITS;
    uint64_t got = flow->up.to - before;
    flow->bytes_out += got;
    attached_count(flow->attached, got, 0);
    if (flow->request.connect)
        return true;
    /* A request that breaks off in its body is none. */
    return !flow->up.ended && bound_body(flow, before);
}

/* There is one request a connection, which the origin was told and need not repeat (RFC 9112, 9.6):
 * without a word of it the code would send the next one into a connection that ends. The answer at
 * this place of the buffer, which has room, is told so behind its first line; where that did not
 * come in one piece, it is not. Interim answers (1xx) are passed as they are. */
static void say_close(struct half *half, size_t at)
{
    static const char version[] = "HTTP/1.1 ";
    const uint8_t *line = half->data + at;
    size_t size = half->to - at;
    const uint8_t *end = size > sizeof(version) ? memchr(line, '\n', size) : NULL;
    if (!end || memcmp(line, version, sizeof(version) - 1) != 0 ||
        FLOW_BUFFER - half->to < CLOSE_SIZE)
        return;
    size_t behind = (size_t)(end + 1 - half->data);
    memmove(half->data + behind + CLOSE_SIZE, half->data + behind, half->to - behind);
    memcpy(half->data + behind, close_field, CLOSE_SIZE);
    half->to += CLOSE_SIZE;
}

/* Of the bytes from there on those of interim answers are passed over; false: no other is there. */
static bool find_answer(const struct half *half, size_t *at)
{
    static const char interim[] = "HTTP/1.1 1";
    const uint8_t *end = half->data + half->to;
    const uint8_t *head = half->data + *at;
    while (end - head >= (ptrdiff_t)sizeof(interim) &&
           memcmp(head, interim, sizeof(interim) - 1) == 0) {
        head = memmem(head, (size_t)(end - head), "\r\n\r\n", 4);
        if (!head)
            return false;
        head += 4;
    }
    *at = (size_t)(head - half->data);
    return head < end;
}

static bool read_down(struct flow *flow)
{
    size_t before = relay_size(&flow->down) == 0 ? 0 : flow->down.to;
    enum moved moved = fill(flow, &flow->down, flow->outside.fd);
    if (moved != MOVED)
        return moved == WAITS;
    uint64_t got = flow->down.to - before;
    flow->bytes_in += got;
    attached_count(flow->attached, 0, got);
    if (!flow->request.connect && !flow->close_said && got > 0 &&
        find_answer(&flow->down, &before)) {
        flow->close_said = true;
        say_close(&flow->down, before);
    }
    return true;
}

void relay_watch(struct flow *flow)
{
    struct poller *poller = &flow->attached->proxy->poller;
    uint32_t inside = relay_size(&flow->down) > 0 ? EPOLLOUT : 0;
    uint32_t outside = relay_size(&flow->up) > 0 ? EPOLLOUT : 0;
    if (wants_up(flow))
        inside |= EPOLLIN;
    if (!flow->down.ended && room_of(&flow->down) > 0)
        outside |= EPOLLIN;
    if (watch_set(poller, &flow->inside, inside, NULL) != 0 ||
        watch_set(poller, &flow->outside, outside, NULL) != 0)
        flow_end(flow, "failed: no memory to wait");
}

void relay_inside(struct flow *flow, uint32_t events)
{
    bool good = true;
    if ((events & ~(uint32_t)EPOLLOUT) != 0 && wants_up(flow)) {
        good = read_up(flow);
        if (good)
            push_up(flow);
    } else if ((events & (EPOLLERR | EPOLLHUP)) != 0) {
        good = false;
    }
    good = good && push_down(flow);
    if (good || attached_bytes_left(flow->attached) == 0)
        settle(flow);
    else
        flow_end(flow, "ended by the code");
}

void relay_outside(struct flow *flow, uint32_t events)
{
    bool good = true;
    bool wants = !flow->down.ended && room_of(&flow->down) > 0;
    if ((events & ~(uint32_t)EPOLLOUT) != 0 && wants)
        good = read_down(flow);
    else if ((events & (EPOLLERR | EPOLLHUP)) != 0 && flow->down.ended)
        flow->up.ended = flow->up.shut = true; /* it takes nothing any more */
    if (!good && attached_bytes_left(flow->attached) > 0) {
        flow_end(flow, "cut by the other end"); /* a reset: the code hears it as one */
        return;
    }
    if (!push_down(flow)) {
        flow_end(flow, "ended by the code");
        return;
    }
    push_up(flow);
    settle(flow);
}

void relay_begin(struct flow *flow, size_t head_size)
{
    static const char established[] = "HTTP/1.1 200 Connection established\r\n\r\n";
    size_t size = relay_size(&flow->up);
    flow->state = FLOW_OPEN;
    flow->bytes_out = size;
    attached_count(flow->attached, size, 0);
    if (flow->request.connect) {
        if (!relay_reserve(&flow->down)) {
            flow_end(flow, "failed: no memory");
            return;
        }
        memcpy(flow->down.data, established, sizeof(established) - 1);
        flow->down.to = sizeof(established) - 1;
    } else if (!bound_body(flow, flow->up.from + head_size)) {
        flow_end(flow, "refused: a body that can't be read");
        return;
    }
    if (!push_down(flow)) {
        flow_end(flow, "ended by the code");
        return;
    }
    push_up(flow);
    settle(flow);
}

/* ---- the end ---- */

/* A socket that is closed with bytes unread resets the other end, which may then lose the answer:
 * so the end is said, and what comes is thrown away for a moment. */
void relay_close(struct flow *flow)
{
    struct poller *poller = &flow->attached->proxy->poller;
    uint8_t thrown[4096];
    watch_close(poller, &flow->outside);
    relay_free(&flow->up);
    enum moved moved = drain(&flow->down, flow->inside.fd);
    if (moved == BROKEN) {
        flow_end(flow, "");
        return;
    }
    if (moved == MOVED && !flow->down.shut) {
        flow->down.shut = true;
        (void)shutdown(flow->inside.fd, SHUT_WR);
    }
    for (int i = 0; i < 8; i++) {
        ssize_t got = recv(flow->inside.fd, thrown, sizeof(thrown), MSG_DONTWAIT);
        if (got > 0)
            continue;
        bool ended = got == 0 || (errno != EAGAIN && errno != EINTR);
        if (ended && moved == MOVED) {
            flow_end(flow, "");
            return;
        }
        break;
    }
    uint32_t events = moved == WAITS ? EPOLLOUT : EPOLLIN;
    if (watch_set(poller, &flow->inside, events, NULL) != 0)
        flow_end(flow, "");
}
