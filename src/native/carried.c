/* Owns the files of carried inits and the moving of bytes between them and a carrier. Knows nothing
 * of what the bytes say. */
#include "native/carried.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/id.h"
#include "base/mem.h"
#include "wire/sandbox.h"

enum {
    PIECE = 64 * 1024,
    TURNS = 16,             /* of one step, so that no sandbox holds up the others */
    FIFO_SIZE = 256 * 1024, /* the kernel's own is 64 KiB (pipe(7)) */
    NAME_SIZE = SANDBOX_ID_MAX + 16
};

static const char *const suffixes[] = {"in", "out", "secret"};
enum { FILE_IN, FILE_OUT, FILE_SECRET };

static void name_file(const char *id, int which, char out[static NAME_SIZE])
{
    (void)snprintf(out, NAME_SIZE, "%.64s.%s", id, suffixes[which]);
}

/* ---- the files ---- */

static int make_secret(int run_fd, const char *id, uint8_t secret[static CARRIER_SECRET_SIZE],
                       struct err *err)
{
    char name[NAME_SIZE];
    name_file(id, FILE_SECRET, name);
    FD_AUTO int fd = openat(run_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_sys(err, errno, "make %s", name);
    id_random(secret, CARRIER_SECRET_SIZE);
    return fd_write_all(fd, secret, CARRIER_SECRET_SIZE, err);
}

int carried_make(int run_fd, const char *id, uint8_t out_secret[static CARRIER_SECRET_SIZE],
                 struct err *err)
{
    uint8_t secret[CARRIER_SECRET_SIZE];
    carried_remove(run_fd, id);
    for (int which = FILE_IN; which <= FILE_OUT; which++) {
        char name[NAME_SIZE];
        name_file(id, which, name);
        if (mkfifoat(run_fd, name, 0600) != 0)
            return err_sys(err, errno, "make %s", name);
    }
    int result = make_secret(run_fd, id, secret, err);
    if (result == 0)
        memcpy(out_secret, secret, sizeof(secret));
    return result;
}

bool carried_exists(int run_fd, const char *id)
{
    char name[NAME_SIZE];
    if (!id_is_name(id, SANDBOX_ID_MAX))
        return false;
    name_file(id, FILE_IN, name);
    return faccessat(run_fd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

void carried_remove(int run_fd, const char *id)
{
    /* The first of them, which says that it is there, goes last. */
    for (int which = FILE_SECRET; which >= FILE_IN; which--) {
        char name[NAME_SIZE];
        name_file(id, which, name);
        (void)unlinkat(run_fd, name, 0);
    }
}

int carried_each(int run_fd, void (*fn)(void *context, const char *id), void *context,
                 struct err *err)
{
    int copy_fd = openat(run_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = copy_fd < 0 ? NULL : fdopendir(copy_fd);
    if (!dir) {
        fd_close(&copy_fd);
        return err_sys(err, errno, "list priv/run");
    }
    const struct dirent *entry = NULL;
    while ((entry = readdir(dir))) {
        char id[SANDBOX_ID_MAX + 1];
        const char *dot = strrchr(entry->d_name, '.');
        if (!dot || strcmp(dot + 1, suffixes[FILE_IN]) != 0 ||
            (size_t)(dot - entry->d_name) > SANDBOX_ID_MAX)
            continue;
        (void)snprintf(id, sizeof(id), "%.*s", (int)(dot - entry->d_name), entry->d_name);
        if (id_is_name(id, SANDBOX_ID_MAX))
            fn(context, id);
    }
    (void)closedir(dir);
    return 0;
}

static int open_file(int run_fd, const char *id, int which, int flags, int *out_fd, struct err *err)
{
    char name[NAME_SIZE];
    name_file(id, which, name);
    *out_fd = openat(run_fd, name, flags | O_NOFOLLOW | O_CLOEXEC);
    if (*out_fd >= 0)
        return 0;
    return errno == ENOENT || errno == ENXIO /* no reader (fifo(7)) */
               ? err_set(err, ERR_NOT_FOUND, "%s: %s", name, strerror(errno))
               : err_sys(err, errno, "open %s", name);
}

/* Those that are held come first: then the others find somebody at the other end. */
int carried_open_ends(int run_fd, const char *id, struct carried_ends *out, struct err *err)
{
    struct carried_ends ends = CARRIED_ENDS_INIT;
    int result = 0;
    for (int which = FILE_IN; which <= FILE_OUT && result == 0; which++) {
        result = open_file(run_fd, id, which, O_RDWR | O_NONBLOCK, &ends.held_fds[which], err);
        if (result == 0) /* a wish: only so many bytes of pipes are anybody's */
            (void)fcntl(ends.held_fds[which], F_SETPIPE_SZ, (int)FIFO_SIZE);
    }
    if (result == 0)
        result = open_file(run_fd, id, FILE_IN, O_RDONLY, &ends.stdin_fd, err);
    if (result == 0)
        result = open_file(run_fd, id, FILE_OUT, O_WRONLY, &ends.stdout_fd, err);
    if (result != 0) {
        carried_close_ends(&ends);
        return result;
    }
    *out = ends;
    return 0;
}

void carried_close_ends(struct carried_ends *ends)
{
    fd_close(&ends->stdin_fd);
    fd_close(&ends->stdout_fd);
    fd_close(&ends->held_fds[0]);
    fd_close(&ends->held_fds[1]);
}

/* ---- the engine's end ---- */

struct carried {
    int epoll_fd; /* the service's */
    uint64_t data;
    int in_fd;    /* to init */
    int out_fd;   /* from it */
    bool waits;   /* in_fd is watched: there was no room */
    bool watched; /* the carrier's own descriptor is */
    struct carrier *carrier;
};

/* Also taken out of the epoll by hand: copies of the descriptor in a child that is being forked
 * would keep it there (epoll(7), Q6). */
static void unwatch(const struct carried *carried, int fd)
{
    if (fd >= 0)
        (void)epoll_ctl(carried->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
}

static int watch(const struct carried *carried, int fd, uint32_t events, struct err *err)
{
    struct epoll_event event = {.events = events, .data.u64 = carried->data};
    if (epoll_ctl(carried->epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0)
        return err_sys(err, errno, "watch the stream of an init");
    return 0;
}

static int read_secret(int run_fd, const char *id, uint8_t out[static CARRIER_SECRET_SIZE],
                       struct err *err)
{
    FD_AUTO int fd = -1;
    int result = open_file(run_fd, id, FILE_SECRET, O_RDONLY, &fd, err);
    if (result == 0 && read(fd, out, CARRIER_SECRET_SIZE) != CARRIER_SECRET_SIZE)
        result = err_set(err, ERR_NOT_FOUND, "%s has no secret", id);
    return result;
}

static int open_streams(struct carried *carried, int run_fd, const char *id, struct err *err)
{
    uint8_t secret[CARRIER_SECRET_SIZE];
    int result = read_secret(run_fd, id, secret, err);
    if (result == 0)
        result = open_file(run_fd, id, FILE_IN, O_WRONLY | O_NONBLOCK, &carried->in_fd, err);
    if (result == 0)
        result = open_file(run_fd, id, FILE_OUT, O_RDONLY | O_NONBLOCK, &carried->out_fd, err);
    if (result == 0)
        result = carrier_new_outer(secret, &carried->carrier, err);
    explicit_bzero(secret, sizeof(secret));
    if (result == 0)
        result = watch(carried, carried->out_fd, EPOLLIN, err);
    if (result == 0)
        result = watch(carried, carrier_fd(carried->carrier), EPOLLIN, err);
    carried->watched = result == 0;
    return result == 0 ? carried_step(carried, err) : result;
}

int carried_open(int run_fd, const char *id, int epoll_fd, uint64_t data, struct carried **out,
                 struct err *err)
{
    struct carried *carried = calloc(1, sizeof(*carried));
    if (!carried)
        return err_set(err, ERR_INTERNAL, "no memory for the stream of an init");
    carried->epoll_fd = epoll_fd;
    carried->data = data;
    carried->in_fd = carried->out_fd = -1;
    int result = open_streams(carried, run_fd, id, err);
    if (result != 0) {
        carried_close(carried);
        return result;
    }
    *out = carried;
    return 0;
}

void carried_close(struct carried *carried)
{
    if (!carried)
        return;
    unwatch(carried, carried->out_fd);
    unwatch(carried, carried->in_fd);
    if (carried->watched)
        unwatch(carried, carrier_fd(carried->carrier));
    fd_close(&carried->in_fd);
    fd_close(&carried->out_fd);
    carrier_free(carried->carrier);
    free(carried);
}

bool carried_is_up(const struct carried *carried)
{
    return carrier_is_up(carried->carrier);
}

void carried_beat(struct carried *carried)
{
    carrier_beat(carried->carrier);
}

/* Returns whether there may be more, or an error kind. */
static int take_some(struct carried *carried, struct err *err)
{
    static uint8_t piece[PIECE];
    ssize_t size = read(carried->out_fd, piece, sizeof(piece));
    if (size < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : err_sys(err, errno, "read from an init");
    if (size == 0)
        return err_set(err, ERR_CLOSED, "nobody holds the stream of an init");
    int result = carrier_take(carried->carrier, piece, (size_t)size, err);
    return result != 0 ? result : 1;
}

/* The same. */
static int give_some(struct carried *carried, struct err *err)
{
    size_t size = 0;
    const uint8_t *data = carrier_pending(carried->carrier, &size);
    if (size == 0)
        return 0;
    ssize_t written = write(carried->in_fd, data, size);
    if (written < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    if (written < 0)
        return err_sys(err, errno, "write to an init");
    carrier_sent(carried->carrier, (size_t)written);
    return 1;
}

static int watch_room(struct carried *carried, struct err *err)
{
    size_t size = 0;
    (void)carrier_pending(carried->carrier, &size);
    const bool waits = size > 0;
    if (waits == carried->waits)
        return 0;
    carried->waits = waits;
    if (waits)
        return watch(carried, carried->in_fd, EPOLLOUT, err);
    unwatch(carried, carried->in_fd);
    return 0;
}

int carried_step(struct carried *carried, struct err *err)
{
    int taken = 1;
    int given = 1;
    for (int turn = 0; turn < TURNS && (taken > 0 || given > 0); turn++) {
        taken = take_some(carried, err);
        if (taken < 0)
            return taken;
        carrier_step(carried->carrier);
        given = give_some(carried, err);
        if (given < 0)
            return given;
    }
    return watch_room(carried, err);
}

int carried_channel(struct carried *carried, int *out_fd, struct err *err)
{
    FD_AUTO int fd = -1;
    int result = carrier_open(carried->carrier, &fd, err);
    if (result == 0)
        result = carried_step(carried, err);
    if (result == 0)
        *out_fd = fd_take(&fd);
    return result;
}
