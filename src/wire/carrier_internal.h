/* What the carrier's stream (carrier.c) and its channels (carrier_channel.c) know of each other. */
#ifndef BERTH_WIRE_CARRIER_INTERNAL_H
#define BERTH_WIRE_CARRIER_INTERNAL_H

#include "base/buf.h"
#include "base/fd.h"
#include "wire/carrier.h"

enum { CARRIER_HEADER_SIZE = 12, CARRIER_PASS_MAX = FD_PASS_MAX };
#define CARRIER_OUT_HIGH (128U * 1024U) /* from here on sockets are not read */
/* Beyond that only words on channels come, which no honest peer lets grow: it reads them. */
#define CARRIER_OUT_MAX (CARRIER_OUT_HIGH + 256U * 1024U)

struct carrier_channel {
    uint32_t number; /* 0: free */
    int fd;          /* our end of a pair, or the socket that was passed */
    bool readable;   /* as far as is known: an edge of epoll(7) said so, and no EAGAIN since */
    bool writable;
    bool hung_up;    /* nobody reads or writes at its other end any more */
    bool unread;     /* a send said so: nothing more is written to it */
    bool passes;     /* a socket has come out of it */
    bool sent_eof;   /* there is nothing more to read from fd */
    bool got_eof;    /* fd is to be shut down behind `in` */
    bool shut;       /* it was */
    bool got_close;  /* it ends behind `in` */
    uint32_t credit; /* that we have */
    uint32_t window; /* that the other end has */
    uint32_t taken;  /* bytes that fd took, and that the other end was not told of */
    struct buf in;   /* bytes for fd */
    uint64_t put;    /* bytes that fd took in all */
    /* Of one that a PASS began: the end that goes to the reader of another channel. */
    int pass_fd; /* -1: gone, or none */
    uint32_t pass_on;
    uint64_t pass_at; /* behind so many bytes of that channel */
};

enum carrier_state { CARRIER_DOWN, CARRIER_TOKEN, CARRIER_UP };

struct carrier {
    bool outer;
    bool failed;        /* memory, or a peer that does not read: the stream has a hole */
    bool beaten;        /* init: the engine; outer: init has answered a beat */
    int64_t beat_ns;    /* outer: when it last beat; 0: not yet */
    int64_t awaited_ns; /* outer: since which beat nothing was heard; 0: none */
    enum carrier_state state;
    struct carrier_events events;
    int epoll_fd;

    /* What is looked for in the stream: init: the secret; the engine: its token. */
    uint8_t pattern[CARRIER_SECRET_SIZE];
    uint8_t borders[CARRIER_SECRET_SIZE + 1]; /* of its first n bytes, the longest that is both
                                                 their beginning and their end */
    size_t pattern_size;
    size_t matched; /* bytes of the pattern that came last; they are held back */
    uint8_t token[CARRIER_TOKEN_SIZE + 1];
    size_t token_size;

    uint8_t frame[CARRIER_HEADER_SIZE + CARRIER_FRAME_MAX + 1];
    size_t frame_size; /* so much of it has come */
    struct buf out;
    size_t out_sent; /* of `out`, from its front */

    uint32_t next_number;  /* of our next channel */
    uint32_t their_number; /* the largest that they have used */
    size_t channel_count;
    size_t used;  /* channels[] from here on are free */
    size_t first; /* to be served next */
    uint8_t chunk[CARRIER_FRAME_MAX];
    struct carrier_channel channels[CARRIER_CHANNEL_MAX];
};

static inline uint32_t carrier_get_u32(const uint8_t *place)
{
    return (uint32_t)place[0] | (uint32_t)place[1] << 8 | (uint32_t)place[2] << 16 |
           (uint32_t)place[3] << 24;
}

/* Puts a frame behind what is pending; `failed` when it finds no place. */
void carrier_say(struct carrier *carrier, enum carrier_type type, uint32_t channel,
                 const void *payload, size_t size);
void carrier_say_u32(struct carrier *carrier, enum carrier_type type, uint32_t channel,
                     uint32_t value);
size_t carrier_out_size(const struct carrier *carrier);
/* Whether it has `failed`, in words. */
int carrier_check(const struct carrier *carrier, struct err *err);

/* What a frame means; it is whole, and its type and size are such as may be. */
int channel_on_frame(struct carrier *carrier, enum carrier_type type, uint32_t number,
                     const uint8_t *payload, size_t size, struct err *err);
/* Reads and writes sockets as far as it goes. */
void channel_serve(struct carrier *carrier);
void channel_close_all(struct carrier *carrier);

#endif
