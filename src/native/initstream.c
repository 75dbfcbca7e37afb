/* Owns the files of the streams and the moving of bytes between them and a carrier. Knows nothing
 * of what the bytes say. */
#include "native/initstream.h"

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
#include "native/runfile.h"

enum {
    PIECE = 64 * 1024,
    TURNS = 2, /* of one step: what is in 64 KiB of frames may take some ms, and others wait */
    FIFO_SIZE = 256 * 1024 /* the kernel's own is 64 KiB (pipe(7)) */
};

static const char *const suffixes[] = {"in", "out", "secret"};
enum { FILE_IN, FILE_OUT, FILE_SECRET };

/* ---- the files ---- */

static int make_secret(int run_fd, const char *id, uint8_t secret[static CARRIER_SECRET_SIZE],
                       struct err *err)
{
    char name[RUNFILE_NAME_SIZE];
    runfile_name(id, suffixes[FILE_SECRET], name);
    FD_AUTO int fd = openat(run_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_sys(err, errno, "make %s", name);
    id_random(secret, CARRIER_SECRET_SIZE);
    return fd_write_all(fd, secret, CARRIER_SECRET_SIZE, err);
}

int initstream_make(int run_fd, const char *id, uint8_t out_secret[static CARRIER_SECRET_SIZE],
                    struct err *err)
{
    uint8_t secret[CARRIER_SECRET_SIZE];
    for (int which = FILE_IN; which <= FILE_OUT; which++) {
        char name[RUNFILE_NAME_SIZE];
        runfile_name(id, suffixes[which], name);
        if (mkfifoat(run_fd, name, 0600) != 0)
            return err_sys(err, errno, "make %s", name);
    }
    int result = make_secret(run_fd, id, secret, err);
    if (result == 0)
        memcpy(out_secret, secret, sizeof(secret));
    return result;
}

bool initstream_exists(int run_fd, const char *id)
{
    return runfile_exists(run_fd, id, suffixes[FILE_IN]);
}

void initstream_remove(int run_fd, const char *id)
{
    /* The first of them, which says that it is there, goes last. */
    for (int which = FILE_SECRET; which >= FILE_IN; which--)
        runfile_remove(run_fd, id, suffixes[which]);
}

int initstream_each(int run_fd, void (*fn)(void *context, const char *id), void *context,
                    struct err *err)
{
    return runfile_each(run_fd, suffixes[FILE_IN], fn, context, err);
}

static int open_file(int run_fd, const char *id, int which, int flags, int *out_fd, struct err *err)
{
    char name[RUNFILE_NAME_SIZE];
    runfile_name(id, suffixes[which], name);
    *out_fd = openat(run_fd, name, flags | O_NOFOLLOW | O_CLOEXEC);
    if (*out_fd >= 0)
        return 0;
    return errno == ENOENT || errno == ENXIO /* no reader (fifo(7)) */
               ? err_set(err, ERR_NOT_FOUND, "%s: %s", name, strerror(errno))
               : err_sys(err, errno, "open %s", name);
}

/* Those that are held come first: then the others find somebody at the other end. */
int initstream_open_ends(int run_fd, const char *id, struct initstream_ends *out, struct err *err)
{
    struct initstream_ends ends = INITSTREAM_ENDS_INIT;
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
        initstream_close_ends(&ends);
        return result;
    }
    *out = ends;
    return 0;
}

void initstream_close_ends(struct initstream_ends *ends)
{
    fd_close(&ends->stdin_fd);
    fd_close(&ends->stdout_fd);
    fd_close(&ends->held_fds[0]);
    fd_close(&ends->held_fds[1]);
}

/* ---- the engine's end ---- */

struct initstream {
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
static void unwatch(const struct initstream *stream, int fd)
{
    if (fd >= 0)
        (void)epoll_ctl(stream->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
}

static int watch(const struct initstream *stream, int fd, uint32_t events, struct err *err)
{
    struct epoll_event event = {.events = events, .data.u64 = stream->data};
    if (epoll_ctl(stream->epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0)
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

static int open_streams(struct initstream *stream, int run_fd, const char *id, struct err *err)
{
    uint8_t secret[CARRIER_SECRET_SIZE];
    int result = read_secret(run_fd, id, secret, err);
    if (result == 0)
        result = open_file(run_fd, id, FILE_IN, O_WRONLY | O_NONBLOCK, &stream->in_fd, err);
    if (result == 0)
        result = open_file(run_fd, id, FILE_OUT, O_RDONLY | O_NONBLOCK, &stream->out_fd, err);
    if (result == 0)
        result = carrier_new_outer(secret, &stream->carrier, err);
    explicit_bzero(secret, sizeof(secret));
    if (result == 0)
        result = watch(stream, stream->out_fd, EPOLLIN, err);
    if (result == 0)
        result = watch(stream, carrier_fd(stream->carrier), EPOLLIN, err);
    stream->watched = result == 0;
    return result == 0 ? initstream_step(stream, err) : result;
}

int initstream_open(int run_fd, const char *id, int epoll_fd, uint64_t data,
                    struct initstream **out, struct err *err)
{
    struct initstream *stream = calloc(1, sizeof(*stream));
    if (!stream)
        return err_set(err, ERR_INTERNAL, "no memory for the stream of an init");
    stream->epoll_fd = epoll_fd;
    stream->data = data;
    stream->in_fd = stream->out_fd = -1;
    int result = open_streams(stream, run_fd, id, err);
    if (result != 0) {
        initstream_close(stream);
        return result;
    }
    *out = stream;
    return 0;
}

void initstream_close(struct initstream *stream)
{
    if (!stream)
        return;
    unwatch(stream, stream->out_fd);
    unwatch(stream, stream->in_fd);
    if (stream->watched)
        unwatch(stream, carrier_fd(stream->carrier));
    fd_close(&stream->in_fd);
    fd_close(&stream->out_fd);
    carrier_free(stream->carrier);
    free(stream);
}

bool initstream_is_up(const struct initstream *stream)
{
    return carrier_is_up(stream->carrier);
}

int initstream_beat(struct initstream *stream, int64_t now_ns, struct err *err)
{
    int result = carrier_beat(stream->carrier, now_ns, err);
    return result == 0 ? initstream_step(stream, err) : result;
}

/* Returns whether there may be more, or an error kind. */
static int take_some(struct initstream *stream, struct err *err)
{
    static uint8_t piece[PIECE];
    ssize_t size = read(stream->out_fd, piece, sizeof(piece));
    if (size < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : err_sys(err, errno, "read from an init");
    if (size == 0)
        return err_set(err, ERR_CLOSED, "nobody holds the stream of an init");
    int result = carrier_take(stream->carrier, piece, (size_t)size, err);
    return result != 0 ? result : 1;
}

/* The same. */
static int give_some(struct initstream *stream, struct err *err)
{
    size_t size = 0;
    const uint8_t *data = carrier_pending(stream->carrier, &size);
    if (size == 0)
        return 0;
    ssize_t written = write(stream->in_fd, data, size);
    if (written < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    if (written < 0 && errno == EPIPE) { /* it has ended; what it said before is still to be read */
        carrier_sent(stream->carrier, size);
        return 0;
    }
    if (written < 0)
        return err_sys(err, errno, "write to an init");
    carrier_sent(stream->carrier, (size_t)written);
    return 1;
}

static int watch_room(struct initstream *stream, struct err *err)
{
    size_t size = 0;
    (void)carrier_pending(stream->carrier, &size);
    const bool waits = size > 0;
    if (waits == stream->waits)
        return 0;
    stream->waits = waits;
    if (waits)
        return watch(stream, stream->in_fd, EPOLLOUT, err);
    unwatch(stream, stream->in_fd);
    return 0;
}

int initstream_step(struct initstream *stream, struct err *err)
{
    int taken = 1;
    int given = 1;
    for (int turn = 0; turn < TURNS && (taken > 0 || given > 0); turn++) {
        taken = take_some(stream, err);
        if (taken < 0)
            return taken;
        carrier_step(stream->carrier);
        given = give_some(stream, err);
        if (given < 0)
            return given;
    }
    return watch_room(stream, err);
}

int initstream_channel(struct initstream *stream, int *out_fd, struct err *err)
{
    return carrier_open(stream->carrier, out_fd, err);
}
