/* Owns the making of a terminal and what init does to it. */
#include "init/terminal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/major.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <termios.h>
#include <unistd.h>

#include "base/fd.h"

static struct winsize winsize_of(uint32_t size)
{
    return (struct winsize){.ws_col = (unsigned short)(size >> 16),
                            .ws_row = (unsigned short)(size & 0xffff)};
}

/* The other side by its descriptor, not by its name: /dev/pts may be anything by now. gVisor has
 * only the name; its code can put nothing else there but by what would be its own terminal. */
static int open_peer(int ptmx_fd)
{
    char path[32];
    unsigned number = 0;
    struct stat info;
    int fd = ioctl(ptmx_fd, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (fd >= 0 || errno != ENOTTY || ioctl(ptmx_fd, TIOCGPTN, &number) != 0)
        return fd;
    (void)snprintf(path, sizeof(path), "/dev/pts/%u", number);
    FD_AUTO int named = open(path, O_RDWR | O_NOCTTY | O_NOFOLLOW | O_CLOEXEC);
    if (named < 0 || fstat(named, &info) != 0 || !S_ISCHR(info.st_mode) ||
        info.st_rdev != makedev(UNIX98_PTY_SLAVE_MAJOR, number))
        return -1;
    return fd_take(&named);
}

int terminal_enter(int socket_fd, uint32_t size)
{
    const struct winsize winsize = winsize_of(size);
    int unlocked = 0;
    FD_AUTO int other_fd = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (other_fd < 0 || ioctl(other_fd, TIOCSPTLCK, &unlocked) != 0)
        return -1;
    FD_AUTO int fd = open_peer(other_fd);
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

bool terminal_makes_signals(int fd)
{
    return ioctl(fd, TIOCSIG, 0) == 0 || errno != ENOTTY; /* 0 is no signal: another error */
}

bool terminal_is_interrupt(int fd, const void *typed, size_t size)
{
    struct termios modes;
    return ioctl(fd, TCGETS, &modes) == 0 && (modes.c_lflag & ISIG) != 0 &&
           modes.c_cc[VINTR] != _POSIX_VDISABLE && memchr(typed, modes.c_cc[VINTR], size) != NULL;
}
