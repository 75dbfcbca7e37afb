/* Owns the making of pipes. */
#include "init/pipes.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "init/identity.h"

void pipes_done(struct pipes *pipes)
{
    for (int i = 0; i < 3; i++) {
        fd_close(&pipes->child[i]);
        fd_close(&pipes->ours[i]);
    }
    fd_close(&pipes->status[0]);
    fd_close(&pipes->status[1]);
}

/* gVisor's pipes have no mode that could be changed: there they have to be the code's own. */
static struct {
    bool needed;
    uid_t uid;
    gid_t gid;
} owner;

void pipes_adapt(const struct init_config *config)
{
    int ends[2];
    if (!config->carried || pipe2(ends, O_CLOEXEC) != 0)
        return;
    owner.needed = fchmod(ends[0], 0666) != 0 && errno == EPERM;
    owner.uid = identity_seen(config, config->uid);
    owner.gid = identity_seen(config, config->gid);
    (void)close(ends[0]);
    (void)close(ends[1]);
}

/* For the moment of the call init takes the code's effective ids. Its real and saved ones stay, so
 * that the code may not signal it, and its signals are blocked anyway. */
static int make_as_owner(int ends[2])
{
    bool is_owner = setresgid((gid_t)-1, owner.gid, (gid_t)-1) == 0 &&
                    setresuid((uid_t)-1, owner.uid, (uid_t)-1) == 0;
    int result = is_owner ? pipe2(ends, O_CLOEXEC) : -1;
    int saved = errno;
    if (setresuid((uid_t)-1, 0, (uid_t)-1) != 0 || setresgid((gid_t)-1, 0, (gid_t)-1) != 0)
        _exit(1); /* no init at all is better than one with other ids */
    errno = saved;
    return result;
}

static int make_pipe(int *read_end, int *write_end, const int *ours, struct err *err)
{
    int ends[2];
    if ((owner.needed ? make_as_owner(ends) : pipe2(ends, O_CLOEXEC)) != 0)
        return err_sys(err, errno, "pipe");
    *read_end = ends[0];
    *write_end = ends[1];
    /* The pipe is init's, and the code may open it again by name: /dev/stdout, /proc/self/fd/1. */
    if (!owner.needed && fchmod(ends[0], 0666) != 0)
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
