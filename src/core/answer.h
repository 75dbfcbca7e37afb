/* One execution object on its way to a client. What the code said stays where it is kept, shared by
 * all who read it, and is written out as it is taken: a reader that stalls holds a few pieces. */
#ifndef BERTH_CORE_ANSWER_H
#define BERTH_CORE_ANSWER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "core/execution_json.h"

struct record;

/* Members are private; all zero: nothing yet. Belongs to one thread. */
struct answer {
    struct buf plain; /* the object, when there is no record */
    size_t given;     /* of plain */
    struct record *record;
    struct execution_writer writer;
};

/* Gives back what it holds and makes it zero. */
void answer_done(struct answer *answer);
#define ANSWER_AUTO __attribute__((cleanup(answer_done)))

/* The object as it begins, with its id: borrowed. */
const struct buf *answer_begin(const struct answer *answer);
/* How many bytes it comes to, found out by writing all of it once: takes time, holds nothing. */
int answer_measure(const struct answer *answer, uint64_t *out_bytes, struct err *err);
/* About how many, without going through it: at most six times as many, and some. */
uint64_t answer_raw_bytes(const struct answer *answer);

#define ANSWER_PIECE_MAX (256U * 1024U) /* far above what one piece comes to */
/* Appends the next piece, some 32 KiB; returns 1, or 0 when all was given. */
int answer_next(struct answer *answer, struct buf *out, struct err *err);
/* Appends all that is left. */
int answer_rest(struct answer *answer, struct buf *out, struct err *err);

/* For core: makes it the object of a record that has ended; takes the reference over. */
void answer_take_record(struct answer *answer, struct record *record, bool omit_text);
/* For core: the place for an object that is text already. */
struct buf *answer_plain(struct answer *answer);

#endif
