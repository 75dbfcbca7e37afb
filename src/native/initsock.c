/* Owns the sockets of priv/run. Sends and reads nothing. */
#include "native/initsock.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/fd.h"
#include "native/nspid.h"
#include "native/runfile.h"

#define SUFFIX "sock"

/* A socket's path may be at most 107 bytes (unix(7)): the folder is named by its descriptor. */
static void make_address(int dir_fd, const char *id, struct sockaddr_un *address)
{
    char name[RUNFILE_NAME_SIZE];
    memset(address, 0, sizeof(*address));
    address->sun_family = AF_UNIX;
    runfile_name(id, SUFFIX, name);
    (void)snprintf(address->sun_path, sizeof(address->sun_path), "/proc/self/fd/%d/%s", dir_fd,
                   name);
}

int initsock_bind(int dir_fd, const char *id, int *out_fd, struct err *err)
{
    struct sockaddr_un address;
    make_address(dir_fd, id, &address);
    FD_AUTO int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return err_sys(err, errno, "socket of init");
    if (bind(fd, (const struct sockaddr *)&address, sizeof(address)) != 0)
        return errno == EADDRINUSE ? err_set(err, ERR_CONFLICT, "sandbox %s has a socket", id)
                                   : err_sys(err, errno, "bind the socket of init");
    *out_fd = fd_take(&fd);
    return 0;
}

int initsock_connect(int dir_fd, const char *id, int *out_fd, struct err *err)
{
    struct sockaddr_un address;
    make_address(dir_fd, id, &address);
    FD_AUTO int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return err_sys(err, errno, "socket");
    if (connect(fd, (const struct sockaddr *)&address, sizeof(address)) != 0)
        return err_set(err, ERR_UNAVAILABLE, "init of %s does not listen: %s", id, strerror(errno));
    *out_fd = fd_take(&fd);
    return 0;
}

void initsock_remove(int dir_fd, const char *id)
{
    runfile_remove(dir_fd, id, SUFFIX);
}

bool initsock_exists(int dir_fd, const char *id)
{
    return runfile_exists(dir_fd, id, SUFFIX);
}

/* The credentials are those of the process that called listen(2) (unix(7), SO_PEERCRED). Where more
 * connections wait to be accepted than it wanted, a connect that may not block fails. */
static int ask(int dir_fd, const char *id, struct ucred *out, struct err *err)
{
    struct sockaddr_un address;
    socklen_t size = sizeof(*out);
    make_address(dir_fd, id, &address);
    FD_AUTO int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return err_sys(err, errno, "socket");
    if (connect(fd, (const struct sockaddr *)&address, sizeof(address)) != 0) {
        bool nobody = errno == ECONNREFUSED || errno == ENOENT;
        return err_set(err, nobody ? ERR_NOT_FOUND : ERR_UNAVAILABLE, "init of %s: %s", id,
                       strerror(errno));
    }
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, out, &size) != 0)
        return err_sys(err, errno, "who listens");
    return 0;
}

int initsock_find(int dir_fd, const char *id, struct initsock_peer *out, struct err *err)
{
    struct ucred first = {0};
    struct ucred again = {.pid = 0};
    int result = ask(dir_fd, id, &first, err);
    if (result != 0)
        return result;
    FD_AUTO int pidfd = (int)syscall(SYS_pidfd_open, first.pid, 0);
    if (pidfd < 0)
        return errno == ESRCH ? err_set(err, ERR_NOT_FOUND, "init of %s is gone", id)
                              : err_sys(err, errno, "pidfd_open");
    /* The process may have ended, and its number gone to another, between the two: who still
     * listens after the descriptor was made is who it is for. */
    result = ask(dir_fd, id, &again, err);
    if (result != 0)
        return result;
    if (again.pid != first.pid || !nspid_is_first(first.pid))
        return err_set(err, ERR_NOT_FOUND, "process %d on the socket of %s is no init",
                       (int)again.pid, id);
    *out = (struct initsock_peer){.pid = first.pid, .uid = again.uid, .pidfd = fd_take(&pidfd)};
    return 0;
}

int initsock_each(int dir_fd, void (*fn)(void *context, const char *id), void *context,
                  struct err *err)
{
    return runfile_each(dir_fd, SUFFIX, fn, context, err);
}
