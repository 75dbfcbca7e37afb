/* The server's connection to another of berth's processes: one SEQPACKET socket, requests with
 * numbers, and replies in any order (engine_msg.h, egress_msg.h).
 *
 * Thread-safe. A thread of its own connects, again whenever the connection breaks, and reads;
 * callers send for themselves and sleep until it hands them their reply. Deadlines are absolute, on
 * the monotonic clock. */
#ifndef BERTH_WIRE_PEER_H
#define BERTH_WIRE_PEER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

struct peer;

/* The functions are called on the peer's thread without a lock held. */
struct peer_config {
    const char *socket_path; /* need not outlive peer_new(); the rest does */
    const char *name;        /* in the log */
    size_t message_max;      /* bytes of a datagram */
    size_t reply_size;       /* of the struct that a message is decoded to */
    void *context;
    /* "... %s; try again": ERR_UNAVAILABLE. err may be NULL. */
    int (*set_away)(struct err *err, const char *why);
    /* NULL: nobody wants to know. */
    void (*connected)(void *context);
    /* The connection is closed, and who waited has failed. NULL as above. */
    void (*broken)(void *context);
    /* Sends what is due and returns when it wants to be called again (also called after every
     * message and wake). NULL: nothing ever is. */
    int64_t (*due)(void *context);
    /* A message came, and perhaps a descriptor (-1: none), which may be taken. Replies go to
     * peer_deliver(). A failure ends the connection. */
    int (*message)(void *context, const void *data, size_t size, int *fd, struct err *err);
};

/* *out is set before the thread begins, for its functions to use. Does not block. ERR_BAD_INPUT:
 * the path is too long. */
int peer_new(const struct peer_config *config, struct peer **out, struct err *err);
/* Ends the connection. Nobody may be in a call. NULL is allowed. */
void peer_free(struct peer *peer);

bool peer_is_connected(struct peer *peer);
/* Has `due` called soon. */
void peer_wake(struct peer *peer);

/* How long a caller waits. */
struct peer_wait {
    int64_t deadline_ns; /* INT64_MAX: none */
    /* What may end the wait before, looked at every few hundredths of a second with the lock held;
     * NULL: nothing. */
    bool (*is_over)(void *context);
    /* The request was sent and nobody waits for its reply any more; with the lock held. NULL:
     * nobody wants to know. */
    void (*given_up)(void *context, uint64_t number);
    void *context;
};

/* One request, encoded with any number, which is replaced. passed_fd goes along (-1: none);
 * borrowed. Blocks for a connection, for room in the socket and for the reply, which is then moved
 * to *reply (config.reply_size bytes), with the descriptor that came along in *out_fd (-1: none;
 * NULL: closed). Fails by config.set_away alone: what the reply says is for the caller. */
int peer_call(struct peer *peer, struct buf *request, int passed_fd, const struct peer_wait *wait,
              void *reply, int *out_fd, struct err *err);

/* One request whose reply nobody waits for, as encoded; does not block. */
int peer_post(struct peer *peer, const struct buf *request, struct err *err);

/* Hands a decoded reply to who waits for the request of that number and operation. Returns whether
 * there is one: then *reply and *fd are its own. */
bool peer_deliver(struct peer *peer, uint32_t op, uint64_t number, const void *reply, int *fd);

/* The lock (rank 1, below every lock of core; not held across I/O or events), which guards as well
 * what the owner of the peer keeps beside it. */
void peer_lock(struct peer *peer);
void peer_unlock(struct peer *peer);
/* A number for peer_post(), with the lock held. */
uint64_t peer_number_locked(struct peer *peer);

#endif
