/* What channel_file.c and channel_piece.c share: one file on its way through a channel. */
#ifndef BERTH_ENGINE_CHANNEL_TRANSFER_H
#define BERTH_ENGINE_CHANNEL_TRANSFER_H

#include "engine/channel_internal.h"

struct transfer {
    struct talk talk; /* first: a talk is one */
    enum frame_type request;
    struct buf payload;
    struct sandbox_done done;
    uint64_t moved;    /* bytes that came, or that were queued */
    struct err broken; /* why our side gave up; ERR_NONE: it did not */
    /* out of the sandbox */
    struct incoming in;
    uint64_t size_max; /* bytes that were asked for */
    /* into it */
    struct outgoing bytes; /* its data is not used: pieces are asked for one by one */
    channel_input_fn input;
    void *context;
};

void transfer_init(struct transfer *transfer, struct channel *channel, const struct talk_type *type,
                   enum frame_type request);
void transfer_done(struct transfer *transfer);
#define TRANSFER_AUTO __attribute__((cleanup(transfer_done)))

/* The bytes that may come for what was asked. */
uint64_t transfer_most(const struct sandbox_get_file *get);
/* Asks once; false: not yet, as init has not said hello. */
bool transfer_ask(struct transfer *transfer, int *result, struct err *err);
/* The outcome of a talk that came to its end. verb: "written" or "read". */
int transfer_judge(const struct transfer *transfer, const char *verb, const char *path,
                   uint64_t *out_size, struct err *err);

/* Of a talk_type. */
int transfer_kill(struct talk *talk, enum kill_cause cause, struct err *err);
int transfer_get_queue(struct talk *talk, struct err *err);
int transfer_get_take(struct talk *talk, const struct frame *frame, struct err *err);
int transfer_put_take(struct talk *talk, const struct frame *frame, struct err *err);

#endif
