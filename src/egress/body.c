/* Owns the reading of bodies. Refuses the parts of chunked coding that readers disagree about. */
#include "egress/body.h"

#include "base/encoding.h"

enum { DIGITS_MAX = 15 };

void body_init(struct body *body, enum body_kind kind, uint64_t length)
{
    *body = (struct body){.kind = kind, .left = kind == BODY_LENGTH ? length : 0};
    body->over = kind == BODY_NONE || (kind == BODY_LENGTH && length == 0);
}

static bool take_size(struct body *body, uint8_t c)
{
    int digit = hex_digit((char)c);
    if (digit >= 0 && body->digits < DIGITS_MAX) {
        body->left = body->left * 16 + (uint64_t)digit;
        body->digits++;
        return true;
    }
    body->place = BODY_SIZE_LF;
    return c == '\r' && body->digits > 0;
}

/* One byte that is no data. False: it does not belong there. */
static bool take_mark(struct body *body, uint8_t c)
{
    switch (body->place) {
    case BODY_SIZE:
        return take_size(body, c);
    case BODY_SIZE_LF:
        body->place = body->left > 0 ? BODY_DATA : BODY_LAST_CR;
        body->digits = 0;
        return c == '\n';
    case BODY_DATA_CR:
        body->place = BODY_DATA_LF;
        return c == '\r';
    case BODY_DATA_LF:
        body->place = BODY_SIZE;
        return c == '\n';
    case BODY_LAST_CR:
        body->place = BODY_LAST_LF;
        return c == '\r';
    case BODY_LAST_LF:
        body->over = true;
        return c == '\n';
    case BODY_DATA:
        break;
    }
    return false;
}

static size_t take_data(struct body *body, size_t size)
{
    size_t piece = body->left < size ? (size_t)body->left : size;
    body->left -= piece;
    if (body->left == 0) {
        body->place = BODY_DATA_CR;
        body->over = body->kind == BODY_LENGTH;
    }
    return piece;
}

ssize_t body_take(struct body *body, const uint8_t *data, size_t size)
{
    size_t used = 0;
    while (used < size && !body->over) {
        if (body->kind == BODY_LENGTH || body->place == BODY_DATA)
            used += take_data(body, size - used);
        else if (!take_mark(body, data[used++]))
            return -1;
    }
    return (ssize_t)used;
}
