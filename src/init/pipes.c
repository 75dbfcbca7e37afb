/* Owns the making of pipes. */
#include "init/pipes.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"

void pipes_done(struct pipes *pipes)
{
    for (int i = 0; i < 3; i++) {
        fd_close(&pipes->child[i]);
        fd_close(&pipes->ours[i]);
    }
    fd_close(&pipes->status[0]);
    fd_close(&pipes->status[1]);
}

static int make_pipe(int *read_end, int *write_end, const int *ours, struct err *err)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0)
        return err_sys(err, errno, "pipe");
    *read_end = ends[0];
    *write_end = ends[1];
    /* The pipe is init's, and the code may open it again by name: /dev/stdout, /proc/self/fd/1. */
    if (fchmod(ends[0], 0666) != 0 && errno != EPERM) /* gVisor has it for every pipe */
        return err_sys(err, errno, "mode of a pipe");
    /* No other flag of a new one can be set: there is nothing to ask for. */
    return fcntl(*ours, F_SETFL, O_NONBLOCK) == 0 ? 0 : err_sys(err, errno, "F_SETFL");
}

int pipes_make(struct pipes *pipes, unsigned wanted, struct err *err)
{
    int result = 0;
    if ((wanted & PIPES_STDIN) != 0)
        result = make_pipe(&pipes->child[0], &pipes->ours[0], &pipes->ours[0], err);
    if (result == 0 && (wanted & PIPES_STDOUT) != 0)
        result = make_pipe(&pipes->ours[1], &pipes->child[1], &pipes->ours[1], err);
    if (result == 0 && (wanted & PIPES_STDERR) != 0)
        result = make_pipe(&pipes->ours[2], &pipes->child[2], &pipes->ours[2], err);
    if (result == 0 && (wanted & PIPES_STATUS) != 0)
        result = make_pipe(&pipes->status[0], &pipes->status[1], &pipes->status[0], err);
    return result;
}

uint64_t pipes_filled(int fd)
{
    int filled = 0;
    return ioctl(fd, FIONREAD, &filled) == 0 && filled > 0 ? (uint64_t)filled : 0;
}
