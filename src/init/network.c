/* Owns the listener that is the way out of the sandbox, and who takes what comes. Refuses to read a
 * byte of it. */
#include "init/network.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/fd.h"
#include "wire/frame.h"

enum { BACKLOG = 128, BURST = 16 };
#define ALONE_NS (5 * CLOCK_NS_PER_S) /* a restart of egress is over by then */
#define PAUSE_NS (100 * CLOCK_NS_PER_MS)

static const char nobody_takes_it[] =
    "HTTP/1.1 503 Service Unavailable\r\n"
    "Content-Type: text/plain\r\n"
    "Content-Length: 67\r\n"
    "Connection: close\r\n"
    "\r\n"
    "berth: the way out of this sandbox is away at the moment; try again";

void network_init(struct network *network)
{
    memset(network, 0, sizeof(*network));
    network->listen_fd = network->held_fd = network->taker_fd = -1;
}

static int open_listener(void)
{
    FD_AUTO int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    const struct sockaddr_in address = {.sin_family = AF_INET,
                                        .sin_port = htons(SANDBOX_PROXY_PORT),
                                        .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int on = 1;
    /* Connections of an earlier listener may still be in TIME_WAIT (tcp(7)). It takes no port from
     * code that listens. */
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) != 0 ||
        bind(fd, (const struct sockaddr *)&address, sizeof(address)) != 0 ||
        listen(fd, BACKLOG) != 0)
        return -1;
    return fd_take(&fd);
}

int network_set(struct network *network, enum sandbox_network_mode mode, int64_t now_ns)
{
    if (mode == SANDBOX_NETWORK_NONE) {
        fd_close(&network->listen_fd);
        fd_close(&network->held_fd);
        return 0;
    }
    if (network->listen_fd >= 0)
        return 0;
    network->listen_fd = open_listener();
    network->alone_from = now_ns;
    network->paused_until = 0;
    return network->listen_fd >= 0 ? 0 : errno;
}

void network_give(struct network *network, int taker_fd, struct buf *out, uint32_t stream)
{
    network->taker_fd = taker_fd;
    network->out = out;
    network->stream = stream;
    network->full = false;
}

bool network_is_taker(const struct network *network, const struct buf *out)
{
    return network->taker_fd >= 0 && network->out == out;
}

void network_leave(struct network *network, const struct buf *out, int64_t now_ns)
{
    if (!network_is_taker(network, out))
        return;
    network->taker_fd = -1;
    network->out = NULL;
    network->full = false;
    network->alone_from = now_ns;
}

bool network_may_accept(const struct network *network, int64_t now_ns)
{
    if (network->listen_fd < 0 || now_ns < network->paused_until)
        return false;
    if (network->taker_fd >= 0)
        return !network->full && network->out->size == 0;
    return now_ns >= network->alone_from + ALONE_NS;
}

int64_t network_wakeup_ns(const struct network *network)
{
    int64_t now_ns = clock_now_ns();
    if (network->listen_fd < 0)
        return INT64_MAX;
    if (now_ns < network->paused_until)
        return network->paused_until;
    int64_t over_ns = network->alone_from + ALONE_NS;
    return network->taker_fd < 0 && now_ns < over_ns ? over_ns : INT64_MAX;
}

/* The request is read first: a socket that is closed with bytes unread resets the other end, and
 * with that the answer may be lost. */
static void answer_alone(int fd)
{
    char request[4096];
    (void)recv(fd, request, sizeof(request), MSG_DONTWAIT);
    (void)send(fd, nobody_takes_it, sizeof(nobody_takes_it) - 1, MSG_DONTWAIT | MSG_NOSIGNAL);
    (void)shutdown(fd, SHUT_WR);
}

/* Whether the held socket is gone from here, whatever became of it. A frame of ACCEPTED is smaller
 * than what a stream takes at once, so it is sent whole; else the rest follows in order. */
static bool pass_on(struct network *network)
{
    BUF_AUTO struct buf frame;
    buf_init(&frame, FRAME_HEADER_SIZE);
    if (network->out->size > 0 ||
        frame_append(&frame, FRAME_ACCEPTED, network->stream, NULL, 0, NULL) != 0)
        return false;
    ssize_t sent = fd_send_some(network->taker_fd, frame.data, frame.size, &network->held_fd, 1,
                                MSG_DONTWAIT, NULL);
    if (sent == -ERR_UNAVAILABLE) {
        network->full = true;
        return false;
    }
    if (sent >= 0 && (size_t)sent < frame.size)
        (void)buf_append(network->out, frame.data + sent, frame.size - (size_t)sent, NULL);
    fd_close(&network->held_fd); /* sent, or not to be sent: the taker is closing */
    return true;
}

/* Whether the next one may be taken. */
static bool settle_held(struct network *network, int64_t now_ns)
{
    if (network->held_fd < 0)
        return true;
    if (network->taker_fd >= 0)
        return pass_on(network);
    if (now_ns < network->alone_from + ALONE_NS)
        return false;
    answer_alone(network->held_fd);
    fd_close(&network->held_fd);
    return true;
}

void network_step(struct network *network, int64_t now_ns)
{
    bool readable = network->seen != 0;
    network->seen = 0;
    if (network->listen_fd < 0)
        return;
    network->full = false;
    for (int i = 0; i < BURST && settle_held(network, now_ns); i++) {
        if (!readable || !network_may_accept(network, now_ns))
            return;
        network->held_fd = accept4(network->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (network->held_fd >= 0)
            continue;
        if (errno != EAGAIN && errno != ECONNABORTED && errno != EINTR)
            network->paused_until = now_ns + PAUSE_NS;
        return;
    }
}
