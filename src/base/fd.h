/* File descriptors: owners, whole reads and writes, descriptors over unix sockets.
 *
 * Every descriptor made in this tree is close-on-exec from its creation. A local that owns one is
 * declared `FD_AUTO int fd = -1`; fd_take() gives it away. */
#ifndef BERTH_BASE_FD_H
#define BERTH_BASE_FD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"

#define FD_PASS_MAX 32 /* descriptors in one message, far below SCM_MAX_FD (unix(7)) */

/* Closes *fd when it is not negative, sets it to -1 and keeps errno. */
void fd_close(int *fd);
#define FD_AUTO __attribute__((cleanup(fd_close)))

/* Returns *fd and leaves -1 behind: ownership moves to the caller. */
int fd_take(int *fd);

/* Writes all of size bytes; blocks. ERR_CLOSED on EPIPE or ECONNRESET. */
int fd_write_all(int fd, const void *data, size_t size, struct err *err);

/* Writes a short text to a kernel file in one write(2), which is what sysfs and cgroupfs want. */
int fd_write_file_at(int dir_fd, const char *path, const char *text, struct err *err);

/* Reads a whole small file as text, at most size - 1 bytes, always NUL-terminated.
 * Returns the number of bytes read (>= 0) or a negative error kind. */
ssize_t fd_read_file_at(int dir_fd, const char *path, char *out, size_t size, struct err *err);

/* Reads one unsigned decimal number from a kernel file; "max" reads as UINT64_MAX. */
int fd_read_u64_at(int dir_fd, const char *path, uint64_t *out, struct err *err);

int fd_set_nonblocking(int fd, bool on, struct err *err);

/* Sends one message with up to FD_PASS_MAX descriptors (borrowed). flags as in sendmsg(2);
 * MSG_NOSIGNAL is added. Returns 0, -ERR_UNAVAILABLE when it would block, -ERR_CLOSED, ... */
int fd_send(int socket_fd, const void *data, size_t size, const int *fds, size_t fd_count,
            int flags, struct err *err);
/* The same over a stream, which may take less of it: returns the bytes that were sent. With the
 * first of them the descriptors have gone. */
ssize_t fd_send_some(int socket_fd, const void *data, size_t size, const int *fds, size_t fd_count,
                     int flags, struct err *err);

/* Receives one message. Received descriptors are close-on-exec and the caller's to close;
 * *fd_count holds the room on entry and the number received on return. A message that was cut
 * (MSG_TRUNC, MSG_CTRUNC) is ERR_PROTOCOL and leaks nothing. Returns the bytes received, 0 at the
 * end of the stream, -ERR_UNAVAILABLE when it would block. */
ssize_t fd_recv(int socket_fd, void *data, size_t size, int *fds, size_t *fd_count, int flags,
                struct err *err);

/* Blocks the signals that end a program (SIGTERM, SIGINT, SIGHUP); *out, a signalfd(2) that does
 * not block, has them from here on. */
int fd_open_end_signals(int *out, struct err *err);

/* Raises the soft limit of open files to the hard one; what cannot be raised stays. */
void fd_raise_limit(void);

#endif
