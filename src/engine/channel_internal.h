/* What the files of the channel share: the connection, and the one thing that it does at a time (a
 * talk). For channel*.c only. */
#ifndef BERTH_ENGINE_CHANNEL_INTERNAL_H
#define BERTH_ENGINE_CHANNEL_INTERNAL_H

#include <stdbool.h>

#include "engine/channel.h"
#include "wire/frame.h"

/* Bytes on their way to init on one stream. */
struct outgoing {
    uint32_t stream;
    const uint8_t *data;
    size_t size;
    size_t sent;
    uint64_t credit;
    bool closed; /* CLOSE is queued */
};

/* What init may still send on one stream. */
struct incoming {
    uint64_t window;
    uint64_t eaten; /* taken and not granted again */
    bool ended;     /* CLOSE was seen */
};

struct put {
    struct outgoing bytes;
    const char *path;
    uint32_t mode;
    bool asked; /* PUT_FILE is queued */
    bool done;  /* init answered */
};

/* More than init keeps of what can be forgotten. */
enum { LATER_MAX = 2 * SANDBOX_HELD_MAX };

/* A request that was queued and whose answer has not come. */
struct later {
    uint32_t stream;  /* 0: none */
    uint64_t needs;   /* capabilities that init has to have */
    const char *what; /* that has to be set; NULL: a failure does not matter */
};

struct channel {
    int fd; /* non-blocking */
    uint8_t nonce[SANDBOX_NONCE_SIZE];
    struct frame_decoder decoder;
    struct buf out;
    uint32_t next_stream;
    bool hello_seen;
    uint64_t capabilities; /* of init, once its hello was seen */
    bool write_broken;     /* the peer reads no more; what it wrote is still worth reading */
    struct put *puts;
    size_t put_count, put_capacity;
    size_t put_current; /* the first whose bytes are not all queued */
    size_t puts_done;
    struct later later[LATER_MAX];
    size_t sent_bytes;   /* since the last talk that ended well */
    unsigned talk_sends; /* that put something on the way in this talk */
    bool reset;          /* init ended with bytes that it never read */
    const char *not_set; /* what init did not get and must have; NULL: nothing */
};

struct talk;

/* The kinds of talk: an execution, a call, a file each way. */
struct talk_type {
    /* Queues what may be sent now. Not called once init has said its last word. */
    int (*queue)(struct talk *talk, struct err *err);
    /* Takes a frame. channel_out_of_turn() has the answer to what is not expected. */
    int (*take)(struct talk *talk, const struct frame *frame, struct err *err);
    bool (*is_over)(const struct talk *talk);
    /* The watch saw a reason to end it; called once at most. NULL: nothing is watched. */
    int (*kill)(struct talk *talk, enum kill_cause cause, struct err *err);
};

/* From the first frame about one stream to the last. */
struct talk {
    struct channel *channel;
    const struct talk_type *type;
    const struct channel_watch *watch; /* NULL: nothing is watched */
    uint32_t stream;
    int64_t deadline_ns;
    uint64_t needs; /* capabilities that init has to have */
    bool asked;     /* the request is queued: init hears of it */
    bool killed;    /* nothing is watched any more */
    bool answered;  /* init said its last word on the stream */
    bool eager;     /* there is more to queue as soon as the socket has taken all */
    bool has_input; /* input_fd is watched, until it is ready */
    bool input_ready;
    int input_fd;
};

/* Talks to the end: 0, or the first failure. */
int channel_talk(struct talk *talk, struct err *err);

uint32_t channel_take_stream(struct channel *channel);

/* Writes what the socket takes. A peer that stopped reading is not a failure yet. */
int channel_flush(struct channel *channel, struct err *err);

/* ERR_CLOSED when init did not get something that it must have. */
int channel_later_check(struct channel *channel, struct err *err);
/* 1: the frame answers a request that nobody waited for; 0: it does not. Fails as
 * channel_later_check(). */
int channel_later_take(struct channel *channel, const struct frame *frame, struct err *err);

/* Queues as much of a stream as credit and room allow, and its CLOSE. */
int channel_queue_bytes(struct channel *channel, struct outgoing *bytes, struct err *err);

/* Queues KILL, and gives init a moment to answer it. */
int channel_queue_kill(struct talk *talk, enum kill_cause cause, struct err *err);

/* Adds what a CREDIT frame grants. */
int channel_add_credit(struct outgoing *bytes, const struct frame *frame, struct err *err);

/* Counts a piece that init sent against its window; ERR_PROTOCOL beyond it. */
int channel_count_data(struct incoming *in, const struct frame *frame, struct err *err);

/* Grants again, now and then, what was taken of the frame's stream. */
int channel_grant(struct channel *channel, struct incoming *in, const struct frame *frame,
                  struct err *err);

/* For a frame that the talk does not expect: 0 for credit of an earlier stream, which was on its
 * way when that one ended; else ERR_PROTOCOL. */
int channel_out_of_turn(const struct talk *talk, const struct frame *frame, struct err *err);

/* The error for a file that could not be "written" or "read": field names what the caller said. */
int channel_file_error(const char *field, const char *verb, const char *path, int sys_errno,
                       struct err *err);

#endif
