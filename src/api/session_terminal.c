/* Owns GET /sessions/{id}/terminal: a WebSocket on one side, a shell's terminal on the other, one
 * thread between them. Binary messages are bytes; a text message is {"resize": [columns, rows]}.
 *
 * A client that reads slowly slows the shell; one that reads nothing for IDLE_MS is gone. */
#include <jansson.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "api/call.h"
#include "base/log.h"
#include "core/session_terminal.h"
#include "wire/json.h"
#include "wire/websocket.h"

enum {
    MESSAGE_MAX = 64 * 1024,
    TYPED_MAX = 3 * MESSAGE_MAX, /* what one read can bring, on top of what waits */
    IDLE_MS = 30000,
    CLOSE_MS = 2000, /* for the client to take our goodbye */
    SIZE_MAX_CELLS = 1000
};

enum { STATUS_NORMAL = 1000, STATUS_GOING_AWAY = 1001, STATUS_ERROR = 1011 };

struct link {
    struct session_terminal *terminal;
    struct websocket *socket;
    int fd, gone_fd;
    struct buf typed; /* came and was not asked for yet */
    uint32_t size;    /* columns << 16 | rows: a new one of the window; 0: none */
    bool closed;      /* no more comes */
};

/* ---- from the client ---- */

static int take_resize(struct link *link, const uint8_t *data, size_t size, struct err *err)
{
    JSON_AUTO json_t *object = NULL;
    json_t *pair = NULL;
    int result = json_parse_object(data, size, &object, err);
    if (result == 0)
        result = json_get_array(object, "resize", &pair, err);
    if (result != 0)
        return result;
    json_int_t columns = json_integer_value(json_array_get(pair, 0));
    json_int_t rows = json_integer_value(json_array_get(pair, 1));
    if (columns < 1 || columns > SIZE_MAX_CELLS || rows < 1 || rows > SIZE_MAX_CELLS)
        return err_public(err, ERR_BAD_INPUT, "resize: [columns, rows], each from 1 to %d",
                          SIZE_MAX_CELLS);
    link->size = (uint32_t)columns << 16 | (uint32_t)rows;
    return 0;
}

static int take_message(void *context, bool is_text, const uint8_t *data, size_t size,
                        struct err *err)
{
    struct link *link = context;
    return is_text ? take_resize(link, data, size, err) : buf_append(&link->typed, data, size, err);
}

static void read_client(struct link *link)
{
    struct err err = ERR_INIT;
    if (!link->closed && websocket_read(link->socket, take_message, link, &err) != 0)
        link->closed = true;
}

/* ---- to the client ---- */

/* Sends what is queued. Meanwhile the client is listened to, since one that only writes until it
 * has written all would wait for us, and we for it. */
static int drain(struct link *link, int wait_ms, struct err *err)
{
    int result = websocket_flush(link->socket, err);
    while (result == 0 && websocket_wants_write(link->socket)) {
        bool listens = !link->closed && link->typed.size < MESSAGE_MAX;
        struct pollfd fds[] = {
            {.fd = link->fd, .events = (short)(POLLOUT | (listens ? POLLIN : 0))},
            {.fd = link->gone_fd, .events = POLLIN},
        };
        int count = poll(fds, 2, wait_ms);
        if (count == 0 || fds[1].revents != 0)
            return err_set(err, ERR_CLOSED, "the client reads no more");
        if ((fds[0].revents & POLLIN) != 0 && listens)
            read_client(link);
        result = websocket_flush(link->socket, err);
    }
    return result;
}

static int send_output(void *context, int stream, const uint8_t *data, size_t size, struct err *err)
{
    struct link *link = context;
    (void)stream;
    int result = websocket_send(link->socket, data, size, err);
    return result == 0 ? drain(link, IDLE_MS, err) : result;
}

static ssize_t give_input(void *context, uint8_t *data, size_t size, uint32_t *resize,
                          struct err *err)
{
    struct link *link = context;
    if (link->typed.size == 0)
        read_client(link);
    if (websocket_wants_write(link->socket) && drain(link, IDLE_MS, err) != 0)
        return -ERR_CLOSED;
    *resize = link->size;
    link->size = 0;
    if (link->typed.size == 0)
        return link->closed ? err_set(err, ERR_CLOSED, "the client closed") : 0;
    size = size < link->typed.size ? size : link->typed.size;
    memcpy(data, link->typed.data, size);
    buf_consume(&link->typed, size);
    return (ssize_t)size;
}

/* ---- one connection ---- */

/* A client that vanished without a word is noticed after about two minutes. */
static void keep_alive(int fd)
{
    static const struct {
        int level, name, value;
    } options[] = {
        {SOL_SOCKET, SO_KEEPALIVE, 1},    {IPPROTO_TCP, TCP_KEEPIDLE, 60},
        {IPPROTO_TCP, TCP_KEEPINTVL, 15}, {IPPROTO_TCP, TCP_KEEPCNT, 4},
        {IPPROTO_TCP, TCP_NODELAY, 1},
    };
    for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++)
        (void)setsockopt(fd, options[i].level, options[i].name, &options[i].value,
                         sizeof(options[i].value));
}

static void say_goodbye(struct link *link, int result, uint32_t exit_code)
{
    char reason[64] = "the terminal was hung up";
    unsigned status = result == -ERR_CLOSED ? STATUS_GOING_AWAY : STATUS_ERROR;
    if (result == 0) {
        status = STATUS_NORMAL;
        (void)snprintf(reason, sizeof(reason), "exit %u", exit_code);
    } else if (status == STATUS_ERROR) {
        (void)snprintf(reason, sizeof(reason), "the terminal failed");
    }
    websocket_send_close(link->socket, status, reason);
    (void)drain(link, CLOSE_MS, NULL);
}

static void run_link(void *context, int socket_fd, const uint8_t *early, size_t early_size)
{
    struct link *link = context;
    struct err err = ERR_INIT;
    uint32_t exit_code = 0;
    link->fd = socket_fd;
    keep_alive(socket_fd);
    if (websocket_new(socket_fd, early, early_size, MESSAGE_MAX, &link->socket, &err) != 0)
        return;
    const struct session_terminal_io io = {.size = 80U << 16 | 24U,
                                           .gone_fd = link->gone_fd,
                                           .input_fd = socket_fd,
                                           .context = link,
                                           .input = give_input,
                                           .output = send_output};
    int result = core_session_terminal_run(link->terminal, &io, &exit_code, &err);
    if (result != 0 && result != -ERR_CLOSED)
        log_warn("a terminal failed: %s", err.message);
    say_goodbye(link, result, exit_code);
}

static void free_link(void *context)
{
    struct link *link = context;
    core_session_terminal_close(link->terminal);
    websocket_free(link->socket);
    buf_done(&link->typed);
    free(link);
}

int api_session_terminal(struct api_call *call, struct err *err)
{
    struct http_response *response = call->response;
    struct session_terminal *terminal = NULL;
    int result = websocket_accept(call->request, response, err);
    if (result == 0)
        result = core_session_terminal_open(call->api->config.core, call->owner, call->id,
                                            &terminal, err);
    if (result != 0)
        return result;
    struct link *link = calloc(1, sizeof(*link));
    if (!link) {
        core_session_terminal_close(terminal);
        return err_set(err, ERR_INTERNAL, "no memory for a terminal");
    }
    link->terminal = terminal;
    link->gone_fd = http_request_gone_fd(call->request);
    buf_init(&link->typed, TYPED_MAX);
    response->upgrade = run_link;
    response->stream_context = link;
    response->stream_free = free_link;
    return 0;
}
