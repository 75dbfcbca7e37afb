/* What a sandbox writes on its standard output, to the engine's end of a carrier; then the same
 * bytes to init's end, behind a reset. The first byte says how large the pieces are, and whether
 * the other side reads. */
#include "fuzz.h"

#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "wire/carrier.h"

enum { OURS = 3, HELD_MAX = 64, PENDING_MAX = 512 * 1024 };

static const uint8_t secret[CARRIER_SECRET_SIZE] = {1, 2, 1, 2, 3, 0, 4};

struct held {
    int fds[HELD_MAX];
    size_t count;
};

static void on_opened(void *context, int fd)
{
    struct held *held = context;
    if (held->count < HELD_MAX)
        held->fds[held->count++] = fd;
    else
        (void)close(fd);
}

static void feed(struct carrier *carrier, const uint8_t *data, size_t size, uint8_t seed)
{
    size_t piece = (seed & 0x7f) == 0 ? size : (seed & 0x7f);
    while (size > 0) {
        size_t part = size < piece ? size : piece;
        size_t pending = 0;
        int result = carrier_take(carrier, data, part, NULL);
        data += part;
        size -= part;
        carrier_step(carrier);
        (void)carrier_pending(carrier, &pending);
        fuzz_require(pending <= PENDING_MAX);
        fuzz_require(carrier_channel_count(carrier) <= CARRIER_CHANNEL_MAX);
        if ((seed & 0x80) != 0)
            carrier_sent(carrier, pending);
        if (result != 0)
            break;
    }
}

static void close_all(struct held *held)
{
    for (size_t i = 0; i < held->count; i++)
        fd_close(&held->fds[i]);
}

static void try_outer(const uint8_t *data, size_t size, uint8_t seed)
{
    struct held held = {.count = 0};
    struct carrier *carrier = NULL;
    size_t reset = 0;
    fuzz_require(carrier_new_outer(secret, &carrier, NULL) == 0);
    const uint8_t *bytes = carrier_pending(carrier, &reset);
    uint8_t token[CARRIER_TOKEN_SIZE];
    fuzz_require(reset > CARRIER_SECRET_SIZE + CARRIER_TOKEN_SIZE);
    memcpy(token, bytes + CARRIER_SECRET_SIZE, sizeof(token));
    for (int i = 0; i < OURS; i++)
        fuzz_require(carrier_open(carrier, &held.fds[held.count++], NULL) == 0);
    fuzz_require(carrier_take(carrier, token, sizeof(token), NULL) == 0);
    fuzz_require(carrier_is_up(carrier));
    feed(carrier, data, size, seed);
    carrier_free(carrier);
    close_all(&held);
}

static void try_inner(const uint8_t *data, size_t size, uint8_t seed)
{
    struct held held = {.count = 0};
    const struct carrier_events events = {&held, on_opened};
    struct carrier *inner = NULL;
    struct carrier *outer = NULL;
    size_t reset = 0;
    fuzz_require(carrier_new_inner(secret, &events, &inner, NULL) == 0);
    fuzz_require(carrier_new_outer(secret, &outer, NULL) == 0);
    const uint8_t *bytes = carrier_pending(outer, &reset);
    fuzz_require(carrier_take(inner, bytes, reset, NULL) == 0);
    feed(inner, data, size, seed);
    carrier_free(inner);
    carrier_free(outer);
    close_all(&held);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    try_outer(data + 1, size - 1, data[0]);
    try_inner(data + 1, size - 1, data[0]);
    return 0;
}
