/* Owns the making of listening sockets. Never accepts. */
#include "monitor/listen.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"

enum { WAIT_MS = 5000, WAIT_STEP_MS = 25, BACKLOG = 1024 };

static void sleep_step(void)
{
    struct timespec step = {.tv_nsec = WAIT_STEP_MS * CLOCK_NS_PER_MS};
    (void)nanosleep(&step, NULL);
}

static int read_port(int fd, uint16_t *out, struct err *err)
{
    struct sockaddr_storage bound = {0};
    socklen_t size = sizeof(bound);
    if (getsockname(fd, (struct sockaddr *)&bound, &size) != 0)
        return err_sys(err, errno, "getsockname");
    in_port_t port = 0;
    if (bound.ss_family == AF_INET6)
        memcpy(&port, (char *)&bound + offsetof(struct sockaddr_in6, sin6_port), sizeof(port));
    else
        memcpy(&port, (char *)&bound + offsetof(struct sockaddr_in, sin_port), sizeof(port));
    *out = ntohs(port);
    return 0;
}

/* Binds one address. Returns the errno of what failed, 0 on success. */
static int bind_address(const struct addrinfo *address, int *out_fd)
{
    FD_AUTO int fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return errno;
    int on = 1;
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (bind(fd, address->ai_addr, address->ai_addrlen) != 0 || listen(fd, BACKLOG) != 0)
        return errno;
    *out_fd = fd_take(&fd);
    return 0;
}

int listen_tcp(const char *host, uint16_t port, int *out_fd, uint16_t *out_port, struct err *err)
{
    char service[8];
    (void)snprintf(service, sizeof(service), "%u", port);
    struct addrinfo hints = {.ai_flags = AI_PASSIVE | AI_NUMERICSERV,
                             .ai_family = AF_UNSPEC,
                             .ai_socktype = SOCK_STREAM};
    struct addrinfo *addresses = NULL;
    int found = getaddrinfo(host, service, &hints, &addresses);
    if (found != 0)
        return err_set(err, ERR_NOT_FOUND, "host \"%s\": %s", host, gai_strerror(found));
    int64_t deadline_ns = clock_now_ns() + WAIT_MS * CLOCK_NS_PER_MS;
    FD_AUTO int fd = -1;
    int failed = 0;
    for (;;) {
        for (const struct addrinfo *a = addresses; a && fd < 0; a = a->ai_next)
            failed = bind_address(a, &fd);
        if (fd >= 0 || failed != EADDRINUSE || clock_now_ns() >= deadline_ns)
            break;
        sleep_step();
    }
    freeaddrinfo(addresses);
    if (fd < 0 && failed == EADDRINUSE)
        return err_set(err, ERR_CONFLICT, "port %u of %s is taken by another program", port, host);
    if (fd < 0)
        return err_sys(err, failed, "listen on %s port %u", host, port);
    int result = read_port(fd, out_port, err);
    if (result == 0)
        *out_fd = fd_take(&fd);
    return result;
}

/* Whether somebody still accepts on the socket at address. */
static bool is_listening(const struct sockaddr_un *address)
{
    FD_AUTO int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return false;
    return connect(fd, (const struct sockaddr *)address, sizeof(*address)) == 0 || errno == EAGAIN;
}

int listen_process(int dir_fd, const char *name, gid_t gid, int *out_fd, struct err *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int size =
        snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/%s", dir_fd, name);
    if (size < 0 || (size_t)size >= sizeof(address.sun_path))
        return err_set(err, ERR_INTERNAL, "the name %s is too long for a socket", name);
    int64_t deadline_ns = clock_now_ns() + WAIT_MS * CLOCK_NS_PER_MS;
    while (is_listening(&address)) {
        if (clock_now_ns() >= deadline_ns)
            return err_set(err, ERR_CONFLICT, "an engine of an earlier berth still runs");
        sleep_step();
    }
    if (unlinkat(dir_fd, name, 0) != 0 && errno != ENOENT)
        return err_sys(err, errno, "remove the old %s", name);
    FD_AUTO int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return err_sys(err, errno, "make the engine's socket");
    if (bind(fd, (const struct sockaddr *)&address, sizeof(address)) != 0)
        return err_sys(err, errno, "bind %s", name);
    /* The folder is ours alone to write, so the name can't have changed hands since bind(2). */
    if (fchownat(dir_fd, name, (uid_t)-1, gid, AT_SYMLINK_NOFOLLOW) != 0)
        return err_sys(err, errno, "give %s to gid %u", name, gid);
    if (fchmodat(dir_fd, name, 0660, 0) != 0)
        return err_sys(err, errno, "set the mode of %s", name);
    if (listen(fd, 16) != 0)
        return err_sys(err, errno, "listen on %s", name);
    *out_fd = fd_take(&fd);
    return 0;
}
