/* Owns the outputs that nobody reads any more. */
#include "init/leftover.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"

#define REST_NS (5 * CLOCK_NS_PER_MS)
enum { CHUNK = 64 * 1024 };

void leftover_init(struct leftover *leftover)
{
    memset(leftover, 0, sizeof(*leftover));
}

bool leftover_wants(const struct leftover *leftover, int64_t now_ns)
{
    return now_ns >= leftover->rests_ns;
}

static void rest(struct leftover *leftover, int64_t now_ns)
{
    if (now_ns >= leftover->rests_ns) /* a rest is never made longer: somebody may wait for it */
        leftover->rests_ns = now_ns + REST_NS;
}

/* Reads those that were seen, and forgets those that ended. Whether any had something to say. */
static bool read_seen(struct leftover *leftover)
{
    static char dropped[CHUNK];
    bool said = false;
    size_t kept = 0;
    for (size_t i = 0; i < leftover->count; i++) {
        int fd = leftover->fds[i];
        ssize_t got = leftover->seen[i] != 0 ? read(fd, dropped, sizeof(dropped)) : -1;
        leftover->seen[i] = 0;
        said |= got > 0;
        if (got == 0)
            fd_close(&fd);
        else
            leftover->fds[kept++] = fd;
    }
    leftover->count = kept;
    return said;
}

/* Most have ended by then: a kernel closes the pipes of a run when it has said that it is done. */
static void make_room(struct leftover *leftover)
{
    struct pollfd entries[LEFTOVER_MAX];
    for (size_t i = 0; i < leftover->count; i++)
        entries[i] = (struct pollfd){.fd = leftover->fds[i], .events = POLLIN};
    if (poll(entries, leftover->count, 0) > 0) {
        for (size_t i = 0; i < leftover->count; i++)
            leftover->seen[i] = entries[i].revents;
        (void)read_seen(leftover);
    }
    if (leftover->count < LEFTOVER_MAX)
        return;
    fd_close(&leftover->fds[0]);
    memmove(leftover->fds, leftover->fds + 1, --leftover->count * sizeof(leftover->fds[0]));
}

void leftover_add(struct leftover *leftover, int fd, int64_t now_ns)
{
    if (fd < 0)
        return;
    if (leftover->count == LEFTOVER_MAX)
        make_room(leftover);
    leftover->seen[leftover->count] = 0;
    leftover->fds[leftover->count++] = fd;
    rest(leftover, now_ns);
}

void leftover_step(struct leftover *leftover, int64_t now_ns)
{
    if (read_seen(leftover))
        rest(leftover, now_ns);
}

int64_t leftover_wakeup_ns(const struct leftover *leftover, int64_t now_ns)
{
    bool sleeps = leftover->count > 0 && now_ns < leftover->rests_ns;
    return sleeps ? leftover->rests_ns : INT64_MAX;
}
