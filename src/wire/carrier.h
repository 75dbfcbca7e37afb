/* Many local stream sockets over one byte stream: how a sandbox whose engine can pass no descriptor
 * is spoken to (the standard streams of a container, of a remote daemon, of gVisor).
 *
 * Both ends run this: the engine opens channels and hands their sockets to the server; init gets a
 * socket for each and serves it as a connection that it accepted. A socket that is passed over a
 * channel's socket (unix(7), SCM_RIGHTS) becomes a channel of its own, whose other end is passed at
 * the same place of the stream over there. So neither the server nor the rest of init knows of it.
 *
 * The stream may lose what was under way whenever the engine goes or its connection breaks. The
 * engine therefore begins with a reset: CARRIER_SECRET_SIZE bytes that only it and init know, with
 * ff for each byte of 0 (they are looked for in all that comes, whatever it is in the midst of),
 * CARRIER_TOKEN_SIZE random ones and a byte of 0. Init closes all channels and answers with the
 * token, which the engine looks for likewise. Then frames follow: type (u8), three bytes of 0,
 * channel (u32), size (u32), little endian, so many bytes, at most CARRIER_FRAME_MAX, and a byte of
 * 0: since the secret has none, no whole frame ends with what could be the secret's beginning, and
 * none has to wait for the next one. Data needs credit, CARRIER_WINDOW bytes to begin with for each
 * channel and direction, so that no channel holds up another one. Sockets have none: a channel that
 * passes them is not read while there are CARRIER_PASSED_HIGH channels, so that whoever connects
 * waits where it waits without a carrier.
 *
 * Either end hears of the other one's end by beats alone, which the engine says and init answers: a
 * FIFO or a connection that stalls tells nobody. An init that is older than the answers is not
 * expected to give them.
 *
 * Nothing here blocks; one thread. */
#ifndef BERTH_WIRE_CARRIER_H
#define BERTH_WIRE_CARRIER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#define CARRIER_SECRET_SIZE 32
#define CARRIER_TOKEN_SIZE 16
#define CARRIER_FRAME_MAX (16U * 1024U)
#define CARRIER_WINDOW (128U * 1024U)
#define CARRIER_CHANNEL_MAX 144  /* of the engine's, and of sockets that were passed */
#define CARRIER_PASSED_MAX 128   /* from so many channels on no socket is taken any more, ... */
#define CARRIER_PASSED_HIGH 96   /* ... and none is read that is to be passed */
#define CARRIER_BEAT_MS 10000    /* so often the engine says carrier_beat(); ... */
#define CARRIER_SILENCE_MS 60000 /* ... who says nothing for so long is gone, to the other */

enum carrier_type {
    CARRIER_OPEN =
        1,        /* a new channel; the engine's are odd, init's even, each larger than the last */
    CARRIER_DATA, /* at least one byte */
    CARRIER_CREDIT, /* u32: so many bytes more */
    CARRIER_EOF,    /* the writing side was shut down */
    CARRIER_CLOSE,  /* the channel is over, both ways; not answered */
    CARRIER_PASS,   /* u32: a channel that begins, whose socket goes with this one's next byte */
    CARRIER_BEAT,   /* on channel 0: the engine lives; and init's answer */
    CARRIER_TYPE_COUNT
};

struct carrier;

struct carrier_events {
    void *context;
    /* init: the engine opened a channel; fd is the callee's, non-blocking. */
    void (*opened)(void *context, int fd);
};

/* init's end: waits for a reset, whose secret it is given. */
int carrier_new_inner(const uint8_t secret[static CARRIER_SECRET_SIZE],
                      const struct carrier_events *events, struct carrier **out, struct err *err);
/* The engine's end: begins with a reset, and a beat, so that init hears of its end from there on.
 */
int carrier_new_outer(const uint8_t secret[static CARRIER_SECRET_SIZE], struct carrier **out,
                      struct err *err);
/* Closes every channel's socket. NULL is allowed. */
void carrier_free(struct carrier *carrier);

/* The byte stream. What came from it: ERR_PROTOCOL when it is no carrier's, after which the carrier
 * is to be freed (init: its channels are closed and it waits for the next reset). */
int carrier_take(struct carrier *carrier, const void *data, size_t size, struct err *err);
/* What is to be written to it; valid until the next call. *out_size 0: nothing, or the stream has a
 * hole, which carrier_take(), carrier_beat() and carrier_open() say. */
const uint8_t *carrier_pending(struct carrier *carrier, size_t *out_size);
/* So many bytes of that were written. */
void carrier_sent(struct carrier *carrier, size_t size);

/* Outer: whether init has answered the reset: before that nothing is heard of it. */
bool carrier_is_up(const struct carrier *carrier);
/* Outer: a new channel, whose socket is the caller's, non-blocking; may be called before it is up.
 */
int carrier_open(struct carrier *carrier, int *out_fd, struct err *err);
size_t carrier_channel_count(const struct carrier *carrier);

/* Outer: to be called every CARRIER_BEAT_MS, with the monotonic time. ERR_TIMEOUT: one of the two
 * has said nothing for CARRIER_SILENCE_MS, so that init has closed all channels, or is not to be
 * heard; ERR_PROTOCOL as by carrier_take(). The carrier is to be freed then; the next one's reset
 * finds init again. */
int carrier_beat(struct carrier *carrier, int64_t now_ns, struct err *err);
/* Inner: whether the engine that is attached has ever beaten; else it is never taken for gone. */
bool carrier_has_beaten(const struct carrier *carrier);
/* Inner: the engine is gone: all channels are closed, and the next reset is waited for. */
void carrier_drop(struct carrier *carrier);

/* Readable when a channel's socket has something to be seen to: an epoll(7) descriptor of the
 * carrier's, to be watched beside the stream. */
int carrier_fd(const struct carrier *carrier);
/* Sees to the sockets; does not wait. While much is pending for the stream, sockets are not read:
 * that goes on by itself with carrier_sent(). */
void carrier_step(struct carrier *carrier);

#endif
