/* Owns the small wrappers around read, write, sendmsg and recvmsg. Keeps no state. */
#include "base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

void fd_close(int *fd)
{
    if (*fd < 0)
        return;
    int saved = errno;
    (void)close(*fd);
    errno = saved;
    *fd = -1;
}

int fd_take(int *fd)
{
    int taken = *fd;
    *fd = -1;
    return taken;
}

int fd_write_all(int fd, const void *data, size_t size, struct err *err)
{
    const char *cursor = data;
    while (size > 0) {
        ssize_t written = write(fd, cursor, size);
        if (written < 0) {
            if (errno == EINTR)
                continue;
            if (errno == EPIPE || errno == ECONNRESET)
                return err_set(err, ERR_CLOSED, "write: the peer closed");
            return err_sys(err, errno, "write of %zu bytes", size);
        }
        cursor += written;
        size -= (size_t)written;
    }
    return 0;
}

int fd_write_file_at(int dir_fd, const char *path, const char *text, struct err *err)
{
    FD_AUTO int fd = openat(dir_fd, path, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return err_sys(err, errno, "open %s for writing", path);
    size_t size = strlen(text);
    ssize_t written = write(fd, text, size);
    if (written < 0)
        return err_sys(err, errno, "write \"%s\" to %s", text, path);
    if ((size_t)written != size)
        return err_set(err, ERR_INTERNAL, "short write to %s", path);
    return 0;
}

ssize_t fd_read_file_at(int dir_fd, const char *path, char *out, size_t size, struct err *err)
{
    FD_AUTO int fd = openat(dir_fd, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_sys(err, errno, "open %s", path);
    size_t used = 0;
    while (used + 1 < size) {
        ssize_t got = read(fd, out + used, size - 1 - used);
        if (got < 0) {
            if (errno == EINTR)
                continue;
            return err_sys(err, errno, "read %s", path);
        }
        if (got == 0)
            break;
        used += (size_t)got;
    }
    out[used] = '\0';
    return (ssize_t)used;
}

int fd_read_u64_at(int dir_fd, const char *path, uint64_t *out, struct err *err)
{
    char text[64];
    ssize_t size = fd_read_file_at(dir_fd, path, text, sizeof(text), err);
    if (size < 0)
        return (int)size;
    if (strncmp(text, "max", 3) == 0) {
        *out = UINT64_MAX;
        return 0;
    }
    char *end = NULL;
    errno = 0;
    uintmax_t value = strtoumax(text, &end, 10);
    if (errno != 0 || end == text)
        return err_set(err, ERR_INTERNAL, "%s does not hold a number", path);
    *out = value;
    return 0;
}

int fd_set_nonblocking(int fd, bool on, struct err *err)
{
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0)
        return err_sys(err, errno, "F_GETFL");
    flags = on ? (flags | O_NONBLOCK) : (flags & ~O_NONBLOCK);
    if (fcntl(fd, F_SETFL, flags) < 0)
        return err_sys(err, errno, "F_SETFL");
    return 0;
}

union control_space {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(sizeof(int) * FD_PASS_MAX)];
};

ssize_t fd_send_some(int socket_fd, const void *data, size_t size, const int *fds, size_t fd_count,
                     int flags, struct err *err)
{
    if (fd_count > FD_PASS_MAX)
        return err_set(err, ERR_INTERNAL, "%zu descriptors in one message", fd_count);
    union control_space control;
    memset(&control, 0, sizeof(control));
    struct iovec vec;
    memset(&vec, 0, sizeof(vec));
    memcpy(&vec.iov_base, &data, sizeof(data)); /* sendmsg(2) does not write through it */
    vec.iov_len = size;
    struct msghdr message;
    memset(&message, 0, sizeof(message));
    message.msg_iov = &vec;
    message.msg_iovlen = 1;
    if (fd_count > 0) {
        message.msg_control = control.bytes;
        message.msg_controllen = (typeof(message.msg_controllen))CMSG_SPACE(sizeof(int) * fd_count);
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = (typeof(header->cmsg_len))CMSG_LEN(sizeof(int) * fd_count);
        memcpy(CMSG_DATA(header), fds, sizeof(int) * fd_count);
    }
    for (;;) {
        ssize_t sent = sendmsg(socket_fd, &message, flags | MSG_NOSIGNAL);
        if (sent >= 0)
            return sent;
        if (errno == EINTR)
            continue;
        if (errno == EAGAIN)
            return err_set(err, ERR_UNAVAILABLE, "sendmsg would block");
        if (errno == EPIPE || errno == ECONNRESET || errno == ENOTCONN || errno == ECONNREFUSED)
            return err_set(err, ERR_CLOSED, "sendmsg: the peer closed");
        return err_sys(err, errno, "sendmsg of %zu bytes", size);
    }
}

int fd_send(int socket_fd, const void *data, size_t size, const int *fds, size_t fd_count,
            int flags, struct err *err)
{
    ssize_t sent = fd_send_some(socket_fd, data, size, fds, fd_count, flags, err);
    if (sent < 0)
        return (int)sent;
    if ((size_t)sent != size)
        return err_set(err, ERR_INTERNAL, "message cut to %zd of %zu bytes", sent, size);
    return 0;
}

static size_t collect_fds(struct msghdr *message, int *out, size_t room)
{
    size_t count = 0;
    for (struct cmsghdr *header = CMSG_FIRSTHDR(message); header;
         header = CMSG_NXTHDR(message, header)) {
        if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
            continue;
        size_t received = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < received; i++) {
            int fd = -1;
            memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof(int));
            if (count < room)
                out[count++] = fd;
            else
                (void)close(fd);
        }
    }
    return count;
}

ssize_t fd_recv(int socket_fd, void *data, size_t size, int *fds, size_t *fd_count, int flags,
                struct err *err)
{
    union control_space control;
    memset(&control, 0, sizeof(control));
    struct iovec vec = {.iov_base = data, .iov_len = size};
    struct msghdr message;
    memset(&message, 0, sizeof(message));
    message.msg_iov = &vec;
    message.msg_iovlen = 1;
    message.msg_control = control.bytes;
    message.msg_controllen = sizeof(control.bytes);
    ssize_t received = -1;
    do {
        received = recvmsg(socket_fd, &message, flags | MSG_CMSG_CLOEXEC);
    } while (received < 0 && errno == EINTR);
    if (received < 0) {
        if (errno == EAGAIN)
            return err_set(err, ERR_UNAVAILABLE, "recvmsg would block");
        if (errno == ECONNRESET || errno == ENOTCONN)
            return err_set(err, ERR_CLOSED, "recvmsg: the peer closed");
        return err_sys(err, errno, "recvmsg");
    }
    size_t room = fd_count ? *fd_count : 0;
    int collected[FD_PASS_MAX];
    size_t count = collect_fds(&message, collected, FD_PASS_MAX);
    if ((message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0 || count > room) {
        for (size_t i = 0; i < count; i++)
            (void)close(collected[i]);
        return err_set(err, ERR_PROTOCOL, "a message was larger than the protocol allows");
    }
    if (count > 0)
        memcpy(fds, collected, count * sizeof(int));
    if (fd_count)
        *fd_count = count;
    return received;
}

int fd_open_end_signals(int *out, struct err *err)
{
    sigset_t wanted;
    (void)sigemptyset(&wanted);
    (void)sigaddset(&wanted, SIGTERM);
    (void)sigaddset(&wanted, SIGINT);
    (void)sigaddset(&wanted, SIGHUP);
    if (sigprocmask(SIG_BLOCK, &wanted, NULL) != 0)
        return err_sys(err, errno, "block signals");
    *out = signalfd(-1, &wanted, SFD_CLOEXEC | SFD_NONBLOCK);
    return *out < 0 ? err_sys(err, errno, "signalfd") : 0;
}

void fd_raise_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return;
    limit.rlim_cur = limit.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &limit);
}
