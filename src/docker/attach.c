/* Owns one hijacked connection: the head of the answer, the daemon's frames around what the
 * container writes, the carrier inside. What init says on standard error goes to the log, so much
 * of it. The bytes are a sandbox's: nothing of them is believed before the carrier has checked it.
 */
#include "docker/attach.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/log.h"
#include "docker/web.h"

#define CONNECT_NS (20 * CLOCK_NS_PER_S)
/* Init may be busy, or its host. */
#define ANSWER_NS (20 * CLOCK_NS_PER_S)
#define BEAT_NS (CARRIER_BEAT_MS * CLOCK_NS_PER_MS)
enum {
    HEAD_MAX = 8192,
    READ_SIZE = 32 << 10,
    READS_MAX = 32, /* before others have their turn */
    FRAME_HEADER = 8,
    LOGGED_MAX = 2000, /* bytes of standard error */
};

enum stage { STAGE_CONNECT, STAGE_HEAD, STAGE_STREAM, STAGE_OVER };

struct attach {
    struct loop *loop;
    struct web *web;
    struct carrier *carrier;
    struct attach_events events;
    struct loop_watch *socket_watch;
    struct loop_watch *carrier_watch;
    struct loop_timer timer; /* how long to wait for what is next */
    struct loop_timer beat;  /* init is told that we live */
    struct loop_timer again; /* bytes may lie in libcurl, where epoll does not see them */
    char api[16];
    char container[160];
    const char *id;
    enum stage stage;
    bool wants_out;
    bool told_up;
    bool freed;
    unsigned inside;             /* of a callback: one that is freed there lives until it ends */
    struct buf out;              /* the request */
    struct buf head;             /* of the answer */
    uint8_t frame[FRAME_HEADER]; /* of Docker's */
    size_t frame_have;
    uint32_t frame_left; /* of its bytes */
    size_t logged;
};

static void free_attach(struct attach *attach)
{
    web_free(attach->web);
    buf_done(&attach->out);
    buf_done(&attach->head);
    free(attach);
}

static void enter(struct attach *attach)
{
    attach->inside++;
}

static void leave(struct attach *attach)
{
    attach->inside--;
    if (attach->inside == 0 && attach->freed)
        free_attach(attach);
}

static void shut(struct attach *attach)
{
    attach->stage = STAGE_OVER;
    loop_unwatch(attach->loop, &attach->carrier_watch);
    loop_unwatch(attach->loop, &attach->socket_watch);
    loop_stop_timer(&attach->timer);
    loop_stop_timer(&attach->beat);
    loop_stop_timer(&attach->again);
    carrier_free(attach->carrier);
    attach->carrier = NULL;
}

static void end(struct attach *attach, const struct err *error)
{
    if (attach->stage == STAGE_OVER)
        return;
    shut(attach);
    attach->events.ended(attach->events.context, error);
}

static void on_timeout(void *context)
{
    struct attach *attach = context;
    struct err err = ERR_INIT;
    (void)err_set(&err, ERR_TIMEOUT, "%s of sandbox %s did not answer in time",
                  attach->stage == STAGE_STREAM ? "init" : "the attached container", attach->id);
    enter(attach);
    end(attach, &err);
    leave(attach);
}

/* ---- what goes out ---- */

static const uint8_t *pending(struct attach *attach, size_t *size)
{
    if (attach->stage == STAGE_HEAD) {
        *size = attach->out.size;
        return attach->out.data;
    }
    return carrier_pending(attach->carrier, size);
}

/* Returns 0, or an error after which the connection is of no use. */
static int flush(struct attach *attach, struct err *err)
{
    size_t size = 0;
    bool blocked = false;
    const uint8_t *data = pending(attach, &size);
    while (size > 0 && !blocked) {
        ssize_t sent = web_send(attach->web, data, size, err);
        blocked = sent == -ERR_UNAVAILABLE;
        if (sent < 0 && !blocked)
            return (int)sent;
        if (!blocked && attach->stage == STAGE_HEAD)
            buf_consume(&attach->out, (size_t)sent);
        else if (!blocked)
            carrier_sent(attach->carrier, (size_t)sent);
        data = pending(attach, &size);
    }
    if (attach->wants_out != blocked)
        loop_watch_change(attach->loop, attach->socket_watch,
                          EPOLLIN | (blocked ? (uint32_t)EPOLLOUT : 0U));
    attach->wants_out = blocked;
    return 0;
}

/* ---- what comes ---- */

static void log_error_stream(struct attach *attach, const uint8_t *data, size_t size)
{
    char line[256];
    if (attach->logged >= LOGGED_MAX)
        return;
    attach->logged += size;
    if (size >= sizeof(line))
        size = sizeof(line) - 1;
    memcpy(line, data, size);
    line[size] = '\0';
    log_warn("sandbox %s says: %s", attach->id, line);
}

/* Frames of the daemon's: which stream (u8), 0, 0, 0, size (u32, big endian), so many bytes. */
static int take_stream(struct attach *attach, const uint8_t *data, size_t size, struct err *err)
{
    while (size > 0) {
        if (attach->frame_left == 0) {
            attach->frame[attach->frame_have++] = *data++;
            size--;
            if (attach->frame_have < FRAME_HEADER)
                continue;
            const uint8_t *at = attach->frame + 4;
            attach->frame_have = 0;
            attach->frame_left = (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 |
                                 (uint32_t)at[2] << 8 | (uint32_t)at[3];
            if (attach->frame[0] > 3)
                return err_set(err, ERR_PROTOCOL, "stream %u of a container", attach->frame[0]);
            continue;
        }
        size_t part = size < attach->frame_left ? size : attach->frame_left;
        int result = 0;
        if (attach->frame[0] == 1)
            result = carrier_take(attach->carrier, data, part, err);
        else
            log_error_stream(attach, data, part);
        if (result != 0)
            return result;
        data += part;
        size -= part;
        attach->frame_left -= (uint32_t)part;
    }
    return 0;
}

static void on_carrier(void *context, uint32_t events)
{
    struct attach *attach = context;
    struct err err = ERR_INIT;
    (void)events;
    enter(attach);
    carrier_step(attach->carrier);
    if (flush(attach, &err) != 0)
        end(attach, &err);
    leave(attach);
}

static void beat(void *context)
{
    struct attach *attach = context;
    struct err err = ERR_INIT;
    int64_t now_ns = clock_now_ns();
    enter(attach);
    loop_set_timer(attach->loop, &attach->beat, now_ns + BEAT_NS, beat, attach);
    int result = carrier_beat(attach->carrier, now_ns, &err);
    if (result == 0)
        result = flush(attach, &err);
    if (result != 0)
        end(attach, &err);
    leave(attach);
}

static int begin_stream(struct attach *attach, struct err *err)
{
    attach->stage = STAGE_STREAM;
    loop_stop_timer(&attach->timer);
    return loop_watch(attach->loop, carrier_fd(attach->carrier), EPOLLIN, on_carrier, attach,
                      &attach->carrier_watch, err);
}

/* Whether the whole head of the answer is there; *rest is what follows it. */
static int take_head(struct attach *attach, const uint8_t *data, size_t size, size_t *rest,
                     struct err *err)
{
    size_t before = attach->head.size;
    int result = buf_append(&attach->head, data, size, err);
    if (result != 0)
        return err ? err_wrap(err, "attach") : result;
    const char *text = buf_cstr(&attach->head);
    const char *over = text ? strstr(text, "\r\n\r\n") : NULL;
    if (!over)
        return 0;
    *rest = size - ((size_t)(over + 4 - text) - before);
    /* Docker: "HTTP/1.1 101 UPGRADED", Podman and older ones: 200. */
    if (strncmp(text, "HTTP/1.", 7) == 0 &&
        (strncmp(text + 8, " 101", 4) == 0 || strncmp(text + 8, " 200", 4) == 0))
        return 1;
    const char *status = strchr(text, ' ');
    return err_set(err, status && strncmp(status, " 404", 4) == 0 ? ERR_NOT_FOUND : ERR_CONFLICT,
                   "the Docker daemon lets nobody attach: %.*s", (int)strcspn(text, "\r\n"), text);
}

static int take(struct attach *attach, const uint8_t *data, size_t size, struct err *err)
{
    if (attach->stage == STAGE_HEAD) {
        size_t rest = 0;
        int result = take_head(attach, data, size, &rest, err);
        if (result <= 0)
            return result;
        result = begin_stream(attach, err);
        if (result != 0)
            return result;
        data += size - rest;
        size = rest;
        attach->events.attached(attach->events.context);
    }
    return attach->stage == STAGE_STREAM ? take_stream(attach, data, size, err) : 0;
}

static void read_more(void *context);

/* Reads until it would block. Returns 0, or an error after which it is over. */
static int receive(struct attach *attach, struct err *err)
{
    static uint8_t bytes[READ_SIZE];
    for (unsigned i = 0; i < READS_MAX; i++) {
        ssize_t size = web_receive(attach->web, bytes, sizeof(bytes), err);
        if (size == -ERR_UNAVAILABLE)
            return 0;
        int result = size < 0 ? (int)size : take(attach, bytes, (size_t)size, err);
        if (result != 0 || attach->stage == STAGE_OVER)
            return result;
    }
    loop_set_timer(attach->loop, &attach->again, clock_now_ns(), read_more, attach);
    return 0;
}

static void see_to(struct attach *attach)
{
    struct err err = ERR_INIT;
    int result = receive(attach, &err);
    if (result == 0 && attach->stage == STAGE_STREAM)
        carrier_step(attach->carrier);
    if (result == 0 && attach->stage != STAGE_OVER)
        result = flush(attach, &err);
    if (result != 0) {
        end(attach, &err);
        return;
    }
    if (attach->stage == STAGE_STREAM && !attach->told_up && carrier_is_up(attach->carrier)) {
        attach->told_up = true;
        loop_stop_timer(&attach->timer);
        loop_set_timer(attach->loop, &attach->beat, clock_now_ns(), beat, attach);
        attach->events.up(attach->events.context);
    }
}

static void read_more(void *context)
{
    enter(context);
    see_to(context);
    leave(context);
}

static void on_socket(void *context, uint32_t events)
{
    (void)events;
    read_more(context);
}

/* ---- its beginning and its end ---- */

static int send_request(struct attach *attach, struct err *err)
{
    int result = buf_printf(&attach->out, err,
                            "POST %s/containers/%s/attach?stream=1&stdin=1&stdout=1&stderr=1 "
                            "HTTP/1.1\r\nHost: docker\r\nUser-Agent: berth/" BERTH_VERSION
                            "\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n",
                            attach->api, attach->container);
    attach->stage = STAGE_HEAD;
    if (result == 0)
        result = loop_watch(attach->loop, web_fd(attach->web), EPOLLIN, on_socket, attach,
                            &attach->socket_watch, err);
    return result == 0 ? flush(attach, err) : result;
}

static void on_connected(void *context, const struct err *error)
{
    struct attach *attach = context;
    struct err err = ERR_INIT;
    enter(attach);
    int result = error ? err_copy(&err, error) : send_request(attach, &err);
    if (result != 0)
        end(attach, &err);
    leave(attach);
}

int attach_new(const struct attach_config *config, const struct attach_events *events,
               struct attach **out, struct err *err)
{
    struct attach *attach = calloc(1, sizeof(*attach));
    if (!attach)
        return err_set(err, ERR_INTERNAL, "no memory to attach");
    attach->loop = config->loop;
    attach->events = *events;
    attach->id = config->id;
    buf_init(&attach->out, HEAD_MAX);
    buf_init(&attach->head, HEAD_MAX + READ_SIZE);
    (void)snprintf(attach->api, sizeof(attach->api), "%s", config->api);
    (void)snprintf(attach->container, sizeof(attach->container), "%s", config->container);
    int result = carrier_new_outer(config->secret, &attach->carrier, err);
    if (result == 0)
        result = web_new(config->loop, config->address, &attach->web, err);
    if (result == 0)
        result = web_connect(attach->web, CONNECT_NS, on_connected, attach, err);
    if (result != 0) {
        attach_free(attach);
        return result;
    }
    loop_set_timer(attach->loop, &attach->timer, clock_now_ns() + CONNECT_NS, on_timeout, attach);
    *out = attach;
    return 0;
}

void attach_free(struct attach *attach)
{
    if (!attach)
        return;
    shut(attach);
    attach->freed = true;
    if (attach->inside == 0)
        free_attach(attach);
}

void attach_expect(struct attach *attach)
{
    if (attach->stage == STAGE_STREAM && !attach->told_up)
        loop_set_timer(attach->loop, &attach->timer, clock_now_ns() + ANSWER_NS, on_timeout,
                       attach);
}

bool attach_is_up(const struct attach *attach)
{
    return attach && attach->stage == STAGE_STREAM && attach->told_up;
}

int attach_open_channel(struct attach *attach, int *out_fd, struct err *err)
{
    if (!attach_is_up(attach))
        return err_set(err, ERR_UNAVAILABLE, "init of sandbox %s is not spoken to", attach->id);
    int result = carrier_open(attach->carrier, out_fd, err);
    /* What says so to init goes with the next turn of the loop. */
    if (result == 0)
        loop_set_timer(attach->loop, &attach->again, clock_now_ns(), read_more, attach);
    return result;
}
