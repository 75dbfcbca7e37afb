/* The byte stream to the init of a sandbox that shares no socket with us (wire/carrier.h): two
 * FIFOs of priv/run, ID.in and ID.out, which are the standard streams of its init, and ID.secret.
 *
 * Some process of the sandbox holds both ends of both open for as long as it lives, so that no
 * death of an engine is an end of file for its init, and a new engine opens them by their names. */
#ifndef BERTH_NATIVE_INITSTREAM_H
#define BERTH_NATIVE_INITSTREAM_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "wire/carrier.h"

/* Makes the files, with a new secret; none may be there. */
int initstream_make(int run_fd, const char *id, uint8_t out_secret[static CARRIER_SECRET_SIZE],
                    struct err *err);

/* Whether there are files for id. */
bool initstream_exists(int run_fd, const char *id);

/* Removes them; none is fine. */
void initstream_remove(int run_fd, const char *id);

/* Calls fn, which may remove the files, for every id that has some. */
int initstream_each(int run_fd, void (*fn)(void *context, const char *id), void *context,
                    struct err *err);

/* What a sandbox is started with. */
struct initstream_ends {
    int stdin_fd;
    int stdout_fd;
    int held_fds[2]; /* both ends of each, to be held open */
};
#define INITSTREAM_ENDS_INIT ((struct initstream_ends){-1, -1, {-1, -1}})

/* The descriptors are the caller's, to be closed with initstream_close_ends(). */
int initstream_open_ends(int run_fd, const char *id, struct initstream_ends *out, struct err *err);
void initstream_close_ends(struct initstream_ends *ends);

/* The engine's end. */
struct initstream;

/* Opens it and begins with a reset. What is to be waited for is watched by epoll_fd with data,
 * until initstream_close(). ERR_NOT_FOUND: there are no files, or nobody holds their other ends. */
int initstream_open(int run_fd, const char *id, int epoll_fd, uint64_t data,
                    struct initstream **out, struct err *err);
/* Closes all channels. NULL is allowed. */
void initstream_close(struct initstream *stream);

/* Moves what can be moved; does not block. On failure it is to be closed: what came was no
 * carrier's, or the sandbox is gone. */
int initstream_step(struct initstream *stream, struct err *err);

/* Tells init that we live; to be called every CARRIER_BEAT_MS, with the monotonic time. Fails as
 * initstream_step(), and as carrier_beat() when init is not to be heard. */
int initstream_beat(struct initstream *stream, int64_t now_ns, struct err *err);

/* Whether init has answered. */
bool initstream_is_up(const struct initstream *stream);

/* A further channel, whose socket is the caller's; it may be opened before init has answered.
 * initstream_step() sends word of it. On failure the others stay. */
int initstream_channel(struct initstream *stream, int *out_fd, struct err *err);

#endif
