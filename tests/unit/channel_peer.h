/* A peer that plays init for the tests of a channel: a thread with a function for each test, frame
 * by frame, at the other end of a socket pair. What it requires and does not get ends the program:
 * an assertion of cmocka works on its own thread only. */
#ifndef BERTH_TESTS_CHANNEL_PEER_H
#define BERTH_TESTS_CHANNEL_PEER_H

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/buf.h"
#include "engine/channel.h"
#include "wire/frame.h"

#define PEER_CAPS                                                                                  \
    (SANDBOX_CAP_EXEC | SANDBOX_CAP_PUT_FILE | SANDBOX_CAP_GET_FILE | SANDBOX_CAP_KERNEL |         \
     SANDBOX_CAP_HOLD | SANDBOX_CAP_TIMERS)

#define peer_require(condition)                                                                    \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            (void)fprintf(stderr, "%s:%d: peer: %s\n", __FILE__, __LINE__, #condition);            \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

struct peer {
    int fd;
    pthread_t thread;
    void (*play)(struct peer *peer);
    struct frame_decoder decoder;
    struct channel *channel; /* the server's end */
};

/* Opens a channel whose peer plays; capabilities are those of its hello, which it sends first. */
void peer_start(struct peer *peer, void (*play)(struct peer *peer));
/* The same over a socket of this type: SOCK_SEQPACKET keeps the bounds of what was written. */
void peer_start_on(struct peer *peer, int type, void (*play)(struct peer *peer));
/* Closes the channel and waits for the peer. */
void peer_stop(struct peer *peer);

/* For the peer's thread. */
void peer_hello(struct peer *peer, uint64_t capabilities);
/* The next frame; its payload is valid until the next call. Skips CREDIT. */
struct frame peer_next(struct peer *peer);
/* The next frame has to be of this type; returns its stream. */
uint32_t peer_expect(struct peer *peer, enum frame_type type);
/* Reads until the server closes. */
void peer_drain(struct peer *peer);
void peer_send(struct peer *peer, enum frame_type type, uint32_t stream, const void *payload,
               size_t size);
void peer_credit(struct peer *peer, uint32_t stream, uint32_t credit);
void peer_done(struct peer *peer, uint32_t stream, int sys_errno, uint64_t size_bytes);
void peer_exit(struct peer *peer, uint32_t stream, uint32_t exit_code);

#endif
