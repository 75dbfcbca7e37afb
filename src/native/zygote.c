/* Owns the zygotes as the engine sees them: when there is one, what it is asked, when it goes. */
#include "native/zygote.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "native/host.h"
#include "native/sandbox.h"

#define PROGRAM "/usr/bin/python3"
#define START_NS (20 * CLOCK_NS_PER_S)
#define SILENCE_NS (5 * CLOCK_NS_PER_S) /* far above what one fork takes on a busy host */
#define BACKOFF_MIN_NS (250 * CLOCK_NS_PER_MS)
#define BACKOFF_MAX_NS (60 * CLOCK_NS_PER_S)
#define GROUP_RETRY_US 2000

enum { MESSAGE_MAX = 256, GROUP_TRIES = 100, PENDING_MAX = 64 };

/* As REQUEST in kernels/zygote.py, in this host's byte order, which is little-endian there. */
struct request {
    uint64_t number;
    uint64_t file_size_max;
    uint32_t owner;
    uint32_t uid;
    uint32_t gid;
    uint32_t open_files_max;
};
_Static_assert(sizeof(struct request) == 32, "no padding");

static const struct zygote zygote_none = {
    .pidfd = -1, .fd = -1, .ids = {.lock_fd = -1}, .give_up_ns = INT64_MAX};

void zygotes_init(struct zygotes *zygotes, struct sandbox_host *host, unsigned forks_max,
                  uint64_t source)
{
    memset(zygotes, 0, sizeof(*zygotes));
    zygotes->host = host;
    zygotes->forks_max = forks_max;
    zygotes->source = source;
    zygotes->backoff_ns = BACKOFF_MIN_NS;
    zygotes->at_ns = INT64_MAX;
    for (size_t i = 0; i < ZYGOTE_MAX; i++)
        zygotes->all[i] = zygote_none;
}

static struct zygote *find(struct zygotes *zygotes, enum zygote_state state)
{
    for (size_t i = 0; i < ZYGOTE_MAX; i++) {
        if (zygotes->all[i].state == state)
            return &zygotes->all[i];
    }
    return NULL;
}

bool zygotes_are_ready(const struct zygotes *zygotes)
{
    for (size_t i = 0; i < ZYGOTE_MAX; i++) {
        if (zygotes->all[i].state == ZYGOTE_READY)
            return true;
    }
    return false;
}

/* ---- beginnings and ends ---- */

static void watch(const struct zygotes *zygotes, int fd)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = zygotes->source};
    (void)epoll_ctl(zygotes->host->epoll_fd, EPOLL_CTL_ADD, fd, &event);
}

static void begin(struct zygotes *zygotes)
{
    struct err err = ERR_INIT;
    struct sandbox_host *host = zygotes->host;
    struct zygote *zygote = find(zygotes, ZYGOTE_NONE);
    int64_t now_ns = clock_now_ns();
    zygotes->retry_ns = now_ns + zygotes->backoff_ns;
    if (!zygote)
        return; /* the one before has not ended yet */
    zygotes->backoff_ns *= 2;
    if (zygotes->backoff_ns > BACKOFF_MAX_NS)
        zygotes->backoff_ns = BACKOFF_MAX_NS;
    *zygote = zygote_none;
    int result = stat(PROGRAM, &zygote->program) == 0 ? 0 : err_sys(&err, errno, PROGRAM);
    if (result == 0)
        result = idrange_take(host->ids_fd, &host->ids, &zygote->ids, &err);
    if (result == 0)
        result = zygote_start(host, zygote, &err);
    if (result != 0) {
        log_warn("no warm kernel: %s", err.message);
        idrange_release(&zygote->ids);
        return;
    }
    zygote->state = ZYGOTE_STARTING;
    zygote->give_up_ns = now_ns + START_NS;
    watch(zygotes, zygote->fd);
    watch(zygotes, zygote->pidfd);
}

/* No more is asked of it; the end of its socket ends it once it has answered. */
static void retire(struct zygote *zygote)
{
    zygote->state = ZYGOTE_LEAVING;
    (void)shutdown(zygote->fd, SHUT_WR);
    zygote->give_up_ns = clock_now_ns() + SILENCE_NS;
}

static void kill_one(const struct zygote *zygote)
{
    (void)syscall(SYS_pidfd_send_signal, zygote->pidfd, SIGKILL, NULL, 0);
}

static void forget(const struct zygotes *zygotes, struct zygote *zygote)
{
    sandbox_unwatch(zygotes->host, &zygote->fd);
    sandbox_unwatch(zygotes->host, &zygote->pidfd);
    idrange_release(&zygote->ids);
    *zygote = zygote_none;
}

static bool has_ended(const struct zygote *zygote, int options)
{
    siginfo_t info;
    memset(&info, 0, sizeof(info));
    return waitid(P_PID, (id_t)zygote->pid, &info, WEXITED | options) != 0 ||
           info.si_pid == zygote->pid;
}

void zygotes_done(struct zygotes *zygotes)
{
    if (!zygotes->host)
        return;
    for (size_t i = 0; i < ZYGOTE_MAX; i++) {
        struct zygote *zygote = &zygotes->all[i];
        if (zygote->state == ZYGOTE_NONE)
            continue;
        kill_one(zygote);
        (void)has_ended(zygote, 0);
        forget(zygotes, zygote);
    }
    /* Also one that an engine before us left. What was being forked ends by itself, at its next
     * step. */
    for (int i = 0; i < GROUP_TRIES && zygote_remove_group(zygotes->host) != 0; i++)
        (void)usleep(GROUP_RETRY_US);
}

/* ---- what they say ---- */

static void on_ready(struct zygotes *zygotes, struct zygote *zygote)
{
    struct zygote *before = find(zygotes, ZYGOTE_READY);
    if (before)
        retire(before);
    zygote->state = ZYGOTE_READY;
    zygote->give_up_ns = INT64_MAX;
    log_debug("a warm kernel is ready");
}

static void take_answer(struct zygotes *zygotes, struct zygote *zygote, bool forked,
                        const char *body, size_t size,
                        void (*answered)(void *context, uint64_t request, bool forked),
                        void *context)
{
    uint64_t request = 0;
    if (size != sizeof(request) || zygote->pending == 0)
        return;
    memcpy(&request, body, sizeof(request));
    if (request == 0)
        return; /* what every sandbox has that awaits none */
    zygote->pending--;
    if (forked) /* not when it was ready: one that ends or hangs with each fork was that too */
        zygotes->backoff_ns = BACKOFF_MIN_NS;
    if (zygote->state == ZYGOTE_READY)
        zygote->give_up_ns = zygote->pending > 0 ? clock_now_ns() + SILENCE_NS : INT64_MAX;
    answered(context, request, forked);
}

static void hear(struct zygotes *zygotes, struct zygote *zygote,
                 void (*answered)(void *context, uint64_t request, bool forked), void *context)
{
    char text[MESSAGE_MAX];
    while (zygote->fd >= 0) {
        ssize_t size = recv(zygote->fd, text, sizeof(text), MSG_DONTWAIT);
        if (size < 0)
            return;
        if (size == 0) { /* its death is seen by its pidfd */
            sandbox_unwatch(zygotes->host, &zygote->fd);
            return;
        }
        if (text[0] == 'L')
            log_warn("warm kernel: %.*s", (int)size - 1, text + 1);
        else if (text[0] == 'R' && zygote->state == ZYGOTE_STARTING)
            on_ready(zygotes, zygote);
        else
            take_answer(zygotes, zygote, text[0] == 'F', text + 1, (size_t)size - 1, answered,
                        context);
    }
}

/* ---- forks ---- */

bool zygotes_want(struct zygotes *zygotes, const struct engine_create *spec)
{
    const struct sandbox_host *host = zygotes ? zygotes->host : NULL;
    if (!host || zygotes->forks_max == 0 || host->cgroups.count == 0 ||
        host->ids.kind != IDRANGE_WHOLE || strcmp(spec->kernel, "python") != 0 ||
        strcmp(spec->image, "host") != 0 || strcmp(spec->profile, "strict") != 0)
        return false;
    if (!zygotes->wanted)
        zygotes->at_ns = 0;
    zygotes->wanted = true;
    return true;
}

/* An update of the interpreter: the old one would go on with the new one's library. */
static bool is_outdated(const struct zygote *zygote)
{
    struct stat now;
    return stat(PROGRAM, &now) != 0 || now.st_ino != zygote->program.st_ino ||
           now.st_dev != zygote->program.st_dev || now.st_size != zygote->program.st_size ||
           now.st_mtim.tv_sec != zygote->program.st_mtim.tv_sec ||
           now.st_mtim.tv_nsec != zygote->program.st_mtim.tv_nsec;
}

static int send_request(const struct zygotes *zygotes, const struct zygote *zygote,
                        const struct zygote_target *target, struct err *err)
{
    struct cgroup_entry code;
    int fds[4 + CGROUP_HIERARCHY_MAX] = {target->init_pidfd, target->userns_fd, target->socket_fd,
                                         target->pass_fd};
    size_t count = 4;
    const struct request request = {.number = zygotes->request,
                                    .file_size_max = target->file_size_max,
                                    .owner = target->owner,
                                    .uid = target->code_id,
                                    .gid = target->code_id,
                                    .open_files_max = target->open_files_max};
    int result = cgroup_open_code(&zygotes->host->cgroups, target->id, &code, err);
    if (result != 0)
        return result;
    for (size_t i = 0; i < code.tasks_count; i++)
        fds[count++] = code.tasks_fds[i];
    result = fd_send(zygote->fd, &request, sizeof(request), fds, count, MSG_DONTWAIT, err);
    cgroup_close_entry(&code);
    return result;
}

int zygotes_fork(struct zygotes *zygotes, const struct zygote_target *target, uint64_t *out_request,
                 struct err *err)
{
    struct zygote *zygote = find(zygotes, ZYGOTE_READY);
    if (!zygote || zygote->pending >= PENDING_MAX)
        return err_set(err, ERR_UNAVAILABLE, "no warm kernel is ready");
    if (is_outdated(zygote)) {
        retire(zygote);
        zygotes->at_ns = 0;
        return err_set(err, ERR_UNAVAILABLE, "the interpreter was replaced");
    }
    zygotes->request++;
    int result = send_request(zygotes, zygote, target, err);
    if (result != 0)
        return result;
    if (zygote->pending++ == 0)
        zygote->give_up_ns = clock_now_ns() + SILENCE_NS;
    zygote->forks++;
    if (zygote->forks >= zygotes->forks_max)
        zygotes->at_ns = 0;
    else if (zygote->give_up_ns < zygotes->at_ns)
        zygotes->at_ns = zygote->give_up_ns;
    *out_request = zygotes->request;
    return 0;
}

static bool needs_one(struct zygotes *zygotes)
{
    const struct zygote *ready = find(zygotes, ZYGOTE_READY);
    return zygotes->wanted && !find(zygotes, ZYGOTE_STARTING) &&
           (!ready || ready->forks >= zygotes->forks_max);
}

static void step_one(struct zygotes *zygotes, struct zygote *zygote, int64_t now_ns,
                     void (*answered)(void *context, uint64_t request, bool forked), void *context)
{
    bool ended = has_ended(zygote, WNOHANG); /* first: what it said before is heard */
    hear(zygotes, zygote, answered, context);
    if (ended) {
        if (zygote->state != ZYGOTE_LEAVING)
            log_warn("a warm kernel ended by itself");
        forget(zygotes, zygote);
    } else if (zygote->give_up_ns <= now_ns) {
        if (zygote->state != ZYGOTE_LEAVING)
            log_warn("a warm kernel does not answer");
        kill_one(zygote);
        zygote->state = ZYGOTE_LEAVING;
        zygote->give_up_ns = INT64_MAX;
    }
}

void zygotes_step(struct zygotes *zygotes,
                  void (*answered)(void *context, uint64_t request, bool forked), void *context)
{
    int64_t now_ns = clock_now_ns();
    for (size_t i = 0; i < ZYGOTE_MAX; i++) {
        if (zygotes->all[i].state != ZYGOTE_NONE)
            step_one(zygotes, &zygotes->all[i], now_ns, answered, context);
    }
    if (needs_one(zygotes) && zygotes->retry_ns <= now_ns)
        begin(zygotes);
    zygotes->at_ns = needs_one(zygotes) ? zygotes->retry_ns : INT64_MAX;
    for (size_t i = 0; i < ZYGOTE_MAX; i++) {
        if (zygotes->all[i].give_up_ns < zygotes->at_ns)
            zygotes->at_ns = zygotes->all[i].give_up_ns;
    }
}
