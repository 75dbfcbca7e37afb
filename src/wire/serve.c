/* Owns nothing: who may connect, and the way of a message through the socket. */
#include "wire/serve.h"

#include <sys/socket.h>

#include "base/fd.h"
#include "base/log.h"
#include "wire/engine_msg.h"

/* For bursts of answers; a server that reads nothing is dropped. */
enum { SEND_ROOM = 1 << 20 };

bool serve_accept(int listen_fd, uid_t client_uid, int *out_fd)
{
    const int room = SEND_ROOM;
    struct ucred peer;
    socklen_t size = sizeof(peer);
    FD_AUTO int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0 || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0)
        return false;
    if (peer.uid != 0 && peer.uid != client_uid) {
        log_warn("uid %u may not be served", peer.uid);
        return false;
    }
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
    *out_fd = fd_take(&fd);
    return true;
}

bool serve_send(int client_fd, const struct engine_msg *msg, int passed_fd)
{
    struct err err = ERR_INIT;
    BUF_AUTO struct buf bytes;
    buf_init(&bytes, ENGINE_MSG_MAX);
    int result = engine_msg_encode(msg, &bytes, &err);
    if (result == 0)
        result = fd_send(client_fd, bytes.data, bytes.size, &passed_fd, passed_fd >= 0 ? 1 : 0,
                         MSG_DONTWAIT, &err);
    if (result != 0)
        log_warn("the server does not take answers: %s", err.message);
    return result == 0;
}

int serve_receive(int client_fd, struct engine_msg *msg, int *out_fd)
{
    static uint8_t bytes[ENGINE_MSG_MAX]; /* an engine has one thread, and one server */
    struct err err = ERR_INIT;
    FD_AUTO int passed_fd = -1;
    size_t fd_count = 1;
    ssize_t size =
        fd_recv(client_fd, bytes, sizeof(bytes), &passed_fd, &fd_count, MSG_DONTWAIT, &err);
    if (size == -ERR_UNAVAILABLE)
        return 0;
    if (size == 0)
        return -ERR_CLOSED;
    if (size < 0 || engine_msg_decode(bytes, (size_t)size, msg, &err) != 0) {
        log_warn("the server was cut off: %s", err.message);
        return -ERR_PROTOCOL;
    }
    *out_fd = fd_take(&passed_fd);
    return 1;
}
