/* Owns the making of a terminal and what init does to it. */
#include "init/terminal.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"

static struct winsize winsize_of(uint32_t size)
{
    return (struct winsize){.ws_col = (unsigned short)(size >> 16),
                            .ws_row = (unsigned short)(size & 0xffff)};
}

int terminal_enter(int socket_fd, uint32_t size)
{
    const struct winsize winsize = winsize_of(size);
    int unlocked = 0;
    FD_AUTO int other_fd = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (other_fd < 0 || ioctl(other_fd, TIOCSPTLCK, &unlocked) != 0)
        return -1;
    /* By the descriptor, not by the name: /dev/pts may be anything by now. */
    FD_AUTO int fd = ioctl(other_fd, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (fd < 0 || ioctl(fd, TIOCSWINSZ, &winsize) != 0 || ioctl(fd, TIOCSCTTY, 0) != 0)
        return -1;
    for (int i = 0; i < 3; i++) {
        if (dup2(fd, i) < 0)
            return -1;
    }
    return fd_send(socket_fd, "T", 1, &other_fd, 1, 0, NULL) == 0 ? 0 : -1;
}

int terminal_take(int socket_fd, bool *over)
{
    char byte = 0;
    FD_AUTO int fd = -1;
    size_t count = 1;
    ssize_t got = fd_recv(socket_fd, &byte, 1, &fd, &count, MSG_DONTWAIT, NULL);
    *over = got != -ERR_UNAVAILABLE;
    if (got != 1 || count != 1 || fd_set_nonblocking(fd, true, NULL) != 0)
        return -1;
    return fd_take(&fd);
}

void terminal_resize(int fd, uint32_t size)
{
    const struct winsize winsize = winsize_of(size);
    (void)ioctl(fd, TIOCSWINSZ, &winsize);
}

void terminal_interrupt(int fd)
{
    (void)ioctl(fd, TIOCSIG, SIGINT);
}
