/* Owns the outputs that nobody reads any more. */
#include "init/leftover.h"

#include <errno.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"

#define REST_NS (5 * CLOCK_NS_PER_MS)
enum { CHUNK = 64 * 1024 };

void leftover_init(struct leftover *leftover)
{
    for (size_t i = 0; i < LEFTOVER_MAX; i++)
        leftover->fds[i] = -1;
    leftover->next = 0;
    leftover->rests_ns = 0;
}

void leftover_add(struct leftover *leftover, int fd)
{
    if (fd < 0)
        return;
    /* Most are over at once: they must not push out what a background process still writes to. */
    for (size_t i = 0; i < LEFTOVER_MAX; i++) {
        if (leftover->fds[i] < 0) {
            leftover->fds[i] = fd;
            return;
        }
    }
    fd_close(&leftover->fds[leftover->next]);
    leftover->fds[leftover->next] = fd;
    leftover->next = (leftover->next + 1) % LEFTOVER_MAX;
}

bool leftover_wants(const struct leftover *leftover, int64_t now_ns)
{
    return now_ns >= leftover->rests_ns;
}

void leftover_step(struct leftover *leftover, int64_t now_ns)
{
    static char dropped[CHUNK];
    if (!leftover_wants(leftover, now_ns))
        return;
    for (size_t i = 0; i < LEFTOVER_MAX; i++) {
        ssize_t got = leftover->fds[i] >= 0 ? read(leftover->fds[i], dropped, sizeof(dropped)) : -1;
        if (got > 0)
            leftover->rests_ns = now_ns + REST_NS;
        else if (got == 0)
            fd_close(&leftover->fds[i]);
    }
}

int64_t leftover_wakeup_ns(const struct leftover *leftover, int64_t now_ns)
{
    if (now_ns >= leftover->rests_ns)
        return INT64_MAX;
    for (size_t i = 0; i < LEFTOVER_MAX; i++) {
        if (leftover->fds[i] >= 0)
            return leftover->rests_ns;
    }
    return INT64_MAX;
}
