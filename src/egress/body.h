/* Where the body of one request ends: what comes behind it is another request, and is not passed
 * on.
 */
#ifndef BERTH_EGRESS_BODY_H
#define BERTH_EGRESS_BODY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum body_kind { BODY_NONE, BODY_LENGTH, BODY_CHUNKED };

enum body_place {
    BODY_SIZE,    /* digits of a chunk's size */
    BODY_SIZE_LF, /* the CR behind them came */
    BODY_DATA,
    BODY_DATA_CR,
    BODY_DATA_LF,
    BODY_LAST_CR, /* the size was 0 */
    BODY_LAST_LF,
};

struct body {
    enum body_kind kind;
    uint64_t left; /* bytes of the body, or of the chunk */
    enum body_place place;
    unsigned digits;
    bool over; /* the request is whole */
};

void body_init(struct body *body, enum body_kind kind, uint64_t length);

/* How many of the bytes belong to the request; less than size only at its end. -1: they can't be
 * read in one way alone (RFC 9112, 7.1): sizes of up to 15 digits, no extension, no trailer. */
ssize_t body_take(struct body *body, const uint8_t *data, size_t size);

#endif
