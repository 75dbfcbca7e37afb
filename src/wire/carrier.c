/* Owns the stream: the reset in it, whole frames, what is pending. Refuses to know a socket. */
#include "wire/carrier.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/mem.h"
#include "wire/carrier_internal.h"

#define SILENCE_NS (CARRIER_SILENCE_MS * CLOCK_NS_PER_MS)

/* ---- what is to be written ---- */

size_t carrier_out_size(const struct carrier *carrier)
{
    return carrier->out.size - carrier->out_sent;
}

static void put_u32(uint8_t *place, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        place[i] = (uint8_t)(value >> (8 * i));
}

void carrier_say(struct carrier *carrier, enum carrier_type type, uint32_t channel,
                 const void *payload, size_t size)
{
    uint8_t *place = buf_reserve(&carrier->out, CARRIER_HEADER_SIZE + size + 1, NULL);
    if (!place) {
        carrier->failed = true;
        return;
    }
    memset(place, 0, CARRIER_HEADER_SIZE);
    place[0] = (uint8_t)type;
    put_u32(place + 4, channel);
    put_u32(place + 8, (uint32_t)size);
    if (size > 0)
        memcpy(place + CARRIER_HEADER_SIZE, payload, size);
    place[CARRIER_HEADER_SIZE + size] = 0;
    carrier->out.size += CARRIER_HEADER_SIZE + size + 1;
}

void carrier_say_u32(struct carrier *carrier, enum carrier_type type, uint32_t channel,
                     uint32_t value)
{
    uint8_t bytes[4];
    put_u32(bytes, value);
    carrier_say(carrier, type, channel, bytes, sizeof(bytes));
}

int carrier_check(const struct carrier *carrier, struct err *err)
{
    if (!carrier->failed)
        return 0;
    return err_set(err, ERR_PROTOCOL, "carrier: the other end does not read");
}

static void forget_pending(struct carrier *carrier)
{
    carrier->out.size = carrier->out_sent = 0;
}

const uint8_t *carrier_pending(struct carrier *carrier, size_t *out_size)
{
    *out_size = carrier->failed ? 0 : carrier_out_size(carrier);
    return *out_size > 0 ? carrier->out.data + carrier->out_sent : NULL;
}

void carrier_sent(struct carrier *carrier, size_t size)
{
    bool was_full = carrier_out_size(carrier) >= CARRIER_OUT_HIGH;
    carrier->out_sent += size;
    if (carrier->out_sent == carrier->out.size) {
        forget_pending(carrier);
    } else if (carrier->out_sent > carrier->out.size / 2) {
        buf_consume(&carrier->out, carrier->out_sent);
        carrier->out_sent = 0;
    }
    if (was_full)
        channel_serve(carrier);
}

/* ---- frames ---- */

static bool is_size(enum carrier_type type, size_t size)
{
    switch (type) {
    case CARRIER_DATA:
        return size > 0 && size <= CARRIER_FRAME_MAX;
    case CARRIER_CREDIT:
    case CARRIER_PASS:
        return size == 4;
    case CARRIER_OPEN:
    case CARRIER_EOF:
    case CARRIER_CLOSE:
    case CARRIER_BEAT:
    case CARRIER_TYPE_COUNT:
        break;
    }
    return size == 0;
}

static int check_header(const struct carrier *carrier, struct err *err)
{
    const uint8_t *head = carrier->frame;
    enum carrier_type type = head[0];
    size_t size = carrier_get_u32(head + 8);
    bool for_channel = type != CARRIER_BEAT;
    if (type == 0 || type >= CARRIER_TYPE_COUNT || head[1] != 0 || head[2] != 0 || head[3] != 0 ||
        !is_size(type, size) || (carrier_get_u32(head + 4) != 0) != for_channel)
        return err_set(err, ERR_PROTOCOL, "carrier: a frame of type %u with %zu bytes", head[0],
                       size);
    if (carrier->outer && type == CARRIER_OPEN)
        return err_set(err, ERR_PROTOCOL, "carrier: init opened a channel");
    return 0;
}

static int on_frame(struct carrier *carrier, size_t size, struct err *err)
{
    const uint8_t *payload = carrier->frame + CARRIER_HEADER_SIZE;
    enum carrier_type type = carrier->frame[0];
    if (payload[size] != 0)
        return err_set(err, ERR_PROTOCOL, "carrier: a frame without its last byte");
    if (type == CARRIER_BEAT) {
        carrier->beaten = true;
        /* The first one is to be answered whatever is pending: it says that we do. */
        if (!carrier->outer && carrier_out_size(carrier) < CARRIER_OUT_HIGH)
            carrier_say(carrier, CARRIER_BEAT, 0, NULL, 0);
        return 0;
    }
    return channel_on_frame(carrier, type, carrier_get_u32(carrier->frame + 4), payload, size, err);
}

static int take_frames(struct carrier *carrier, const uint8_t *data, size_t size, struct err *err)
{
    int result = 0;
    while (size > 0 && result == 0) {
        size_t payload = 0;
        size_t whole = CARRIER_HEADER_SIZE;
        if (carrier->frame_size >= CARRIER_HEADER_SIZE) {
            payload = carrier_get_u32(carrier->frame + 8);
            whole += payload + 1;
        }
        size_t part = whole - carrier->frame_size;
        part = part < size ? part : size;
        memcpy(carrier->frame + carrier->frame_size, data, part);
        carrier->frame_size += part;
        data += part;
        size -= part;
        if (carrier->frame_size < whole)
            break;
        if (whole == CARRIER_HEADER_SIZE) {
            result = check_header(carrier, err);
        } else {
            carrier->frame_size = 0;
            result = on_frame(carrier, payload, err);
        }
    }
    return result;
}

/* ---- the reset ---- */

/* Knuth, Morris and Pratt's: so that no byte of the stream is ever looked at again. */
static void look_for(struct carrier *carrier, const uint8_t *pattern, size_t size)
{
    memcpy(carrier->pattern, pattern, size);
    carrier->pattern_size = size;
    size_t border = 0;
    for (size_t i = 1; i < size; i++) {
        while (border > 0 && pattern[i] != pattern[border])
            border = carrier->borders[border];
        if (pattern[i] == pattern[border])
            border++;
        carrier->borders[i + 1] = (uint8_t)border;
    }
}

static void go_down(struct carrier *carrier)
{
    carrier->state = CARRIER_DOWN;
    carrier->beaten = false;
    carrier->failed = false;
    carrier->frame_size = carrier->token_size = 0;
    channel_close_all(carrier);
    forget_pending(carrier);
}

/* Init: the token is behind the secret, and then the stream is an engine's again. */
static int take_token(struct carrier *carrier, const uint8_t **data, size_t *size, struct err *err)
{
    while (*size > 0 && carrier->token_size < sizeof(carrier->token)) {
        carrier->token[carrier->token_size++] = *(*data)++;
        (*size)--;
    }
    if (carrier->token_size < sizeof(carrier->token))
        return 0;
    if (carrier->token[CARRIER_TOKEN_SIZE] != 0)
        return err_set(err, ERR_PROTOCOL, "carrier: a reset without its last byte");
    carrier->state = CARRIER_UP;
    carrier->next_number = 2;
    carrier->their_number = 0;
    return buf_append(&carrier->out, carrier->token, CARRIER_TOKEN_SIZE, err);
}

/* Bytes that are no secret. One that can't be of a carrier takes init down until the next reset. */
static int take_plain(struct carrier *carrier, const uint8_t *data, size_t size, struct err *err)
{
    int result = 0;
    if (carrier->state == CARRIER_TOKEN)
        result = take_token(carrier, &data, &size, err);
    if (result == 0 && carrier->state == CARRIER_UP)
        result = take_frames(carrier, data, size, err);
    if (result == 0)
        result = carrier_check(carrier, err);
    if (result != 0 && !carrier->outer)
        go_down(carrier);
    return result;
}

/* One byte that may go on with the pattern. Returns 1 when that is whole. */
static int match_byte(struct carrier *carrier, uint8_t byte, struct err *err)
{
    int result = 0;
    while (carrier->matched > 0 && carrier->pattern[carrier->matched] != byte) {
        size_t still = carrier->borders[carrier->matched];
        int taken = take_plain(carrier, carrier->pattern, carrier->matched - still, err);
        result = taken != 0 ? taken : result;
        carrier->matched = still;
    }
    if (carrier->pattern[carrier->matched] == byte) {
        if (++carrier->matched < carrier->pattern_size)
            return result;
        carrier->matched = 0;
        return 1;
    }
    int taken = take_plain(carrier, &byte, 1, err);
    return taken != 0 ? taken : result;
}

/* A failure does not keep a reset from being found behind it; the last one is told. */
static int take_as_inner(struct carrier *carrier, const uint8_t *data, size_t size, struct err *err)
{
    int result = 0;
    while (size > 0) {
        if (carrier->matched == 0) {
            const uint8_t *hit = memchr(data, carrier->pattern[0], size);
            size_t plain = hit ? (size_t)(hit - data) : size;
            int taken = plain > 0 ? take_plain(carrier, data, plain, err) : 0;
            result = taken != 0 ? taken : result;
            data += plain;
            size -= plain;
            if (size == 0)
                break;
        }
        int matched = match_byte(carrier, *data++, err);
        size--;
        if (matched == 1) {
            go_down(carrier);
            carrier->state = CARRIER_TOKEN;
            result = 0;
        } else if (matched != 0) {
            result = matched;
        }
    }
    return result;
}

/* Before the token all is of another time. It is random and was never said, so it comes once. */
static int take_as_outer(struct carrier *carrier, const uint8_t *data, size_t size, struct err *err)
{
    while (size > 0 && carrier->state == CARRIER_DOWN) {
        uint8_t byte = *data++;
        size--;
        while (carrier->matched > 0 && carrier->pattern[carrier->matched] != byte)
            carrier->matched = carrier->borders[carrier->matched];
        if (carrier->pattern[carrier->matched] == byte &&
            ++carrier->matched == carrier->pattern_size)
            carrier->state = CARRIER_UP;
    }
    if (carrier->state == CARRIER_UP)
        carrier->awaited_ns = 0;
    return size > 0 ? take_plain(carrier, data, size, err) : 0;
}

int carrier_take(struct carrier *carrier, const void *data, size_t size, struct err *err)
{
    int result = carrier->outer ? take_as_outer(carrier, data, size, err)
                                : take_as_inner(carrier, data, size, err);
    channel_serve(carrier); /* with the credit that came */
    return result;
}

/* ---- its life ---- */

static int new_carrier(bool outer, struct carrier **out, struct err *err)
{
    struct carrier *carrier = calloc(1, sizeof(*carrier));
    if (!carrier)
        return err_sys(err, errno, "memory for a carrier");
    carrier->outer = outer;
    carrier->next_number = outer ? 1 : 2;
    buf_init(&carrier->out, CARRIER_OUT_MAX);
    carrier->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (carrier->epoll_fd < 0) {
        int result = err_sys(err, errno, "epoll_create1");
        carrier_free(carrier);
        return result;
    }
    *out = carrier;
    return 0;
}

/* The secret as it is said. */
static void make_pattern(const uint8_t *secret, uint8_t *out)
{
    for (size_t i = 0; i < CARRIER_SECRET_SIZE; i++)
        out[i] = secret[i] != 0 ? secret[i] : 0xff;
}

int carrier_new_inner(const uint8_t secret[static CARRIER_SECRET_SIZE],
                      const struct carrier_events *events, struct carrier **out, struct err *err)
{
    uint8_t pattern[CARRIER_SECRET_SIZE];
    struct carrier *carrier = NULL;
    int result = new_carrier(false, &carrier, err);
    if (!carrier)
        return result;
    carrier->events = *events;
    make_pattern(secret, pattern);
    look_for(carrier, pattern, sizeof(pattern));
    *out = carrier;
    return 0;
}

int carrier_new_outer(const uint8_t secret[static CARRIER_SECRET_SIZE], struct carrier **out,
                      struct err *err)
{
    uint8_t reset[CARRIER_SECRET_SIZE + CARRIER_TOKEN_SIZE + 1] = {0};
    struct carrier *carrier = NULL;
    int result = new_carrier(true, &carrier, err);
    if (!carrier)
        return result;
    make_pattern(secret, reset);
    if (getrandom(reset + CARRIER_SECRET_SIZE, CARRIER_TOKEN_SIZE, 0) != CARRIER_TOKEN_SIZE)
        result = err_sys(err, errno, "getrandom");
    else
        result = buf_append(&carrier->out, reset, sizeof(reset), err);
    if (result == 0) {
        carrier_say(carrier, CARRIER_BEAT, 0, NULL, 0);
        result = carrier_check(carrier, err);
    }
    if (result != 0) {
        carrier_free(carrier);
        return result;
    }
    look_for(carrier, reset + CARRIER_SECRET_SIZE, CARRIER_TOKEN_SIZE);
    *out = carrier;
    return 0;
}

void carrier_free(struct carrier *carrier)
{
    if (!carrier)
        return;
    channel_close_all(carrier);
    buf_done(&carrier->out);
    fd_close(&carrier->epoll_fd);
    free(carrier);
}

bool carrier_is_up(const struct carrier *carrier)
{
    return carrier->state == CARRIER_UP;
}

size_t carrier_channel_count(const struct carrier *carrier)
{
    return carrier->channel_count;
}

/* A reset is answered by every init, a beat only by one that ever did. */
int carrier_beat(struct carrier *carrier, int64_t now_ns, struct err *err)
{
    int result = carrier_check(carrier, err);
    if (result != 0)
        return result;
    if (carrier->beat_ns > 0 && now_ns - carrier->beat_ns >= SILENCE_NS)
        return err_set(err, ERR_TIMEOUT, "carrier: init has heard nothing for %d s, and let go",
                       CARRIER_SILENCE_MS / 1000);
    carrier->beat_ns = now_ns;
    bool answers = carrier->state != CARRIER_UP || carrier->beaten;
    if (carrier->awaited_ns > 0 && answers && now_ns - carrier->awaited_ns >= SILENCE_NS)
        return err_set(err, ERR_TIMEOUT, "carrier: init has said nothing for %d s",
                       CARRIER_SILENCE_MS / 1000);
    if (carrier->awaited_ns == 0)
        carrier->awaited_ns = now_ns;
    /* What is pending is sign enough; and who reads nothing is not to be told ever more. */
    if (carrier_out_size(carrier) == 0)
        carrier_say(carrier, CARRIER_BEAT, 0, NULL, 0);
    return carrier_check(carrier, err);
}

bool carrier_has_beaten(const struct carrier *carrier)
{
    return carrier->beaten;
}

void carrier_drop(struct carrier *carrier)
{
    go_down(carrier);
}

int carrier_fd(const struct carrier *carrier)
{
    return carrier->epoll_fd;
}
