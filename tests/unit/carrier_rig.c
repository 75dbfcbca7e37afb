#include "carrier_rig.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/fd.h"

const uint8_t secret[CARRIER_SECRET_SIZE] = {7, 7, 0, 7, 7, 0, 7, 7, 7, 1, 0, 255, 7, 7, 0};

static void on_opened(void *context, int fd)
{
    struct rig *rig = context;
    assert_true(rig->opened_count < OPENED_MAX);
    rig->opened[rig->opened_count++] = fd;
}

void attach(struct rig *rig)
{
    struct err err = ERR_INIT;
    assert_ok(carrier_new_outer(secret, &rig->outer, &err), err);
}

int setup(void **state)
{
    struct err err = ERR_INIT;
    struct rig *rig = calloc(1, sizeof(*rig));
    assert_non_null(rig);
    rig->piece = BIG;
    const struct carrier_events events = {rig, on_opened};
    assert_ok(carrier_new_inner(secret, &events, &rig->inner, &err), err);
    attach(rig);
    *state = rig;
    return 0;
}

int teardown(void **state)
{
    struct rig *rig = *state;
    carrier_free(rig->outer);
    carrier_free(rig->inner);
    for (size_t i = 0; i < rig->opened_count; i++)
        fd_close(&rig->opened[i]);
    free(rig);
    return 0;
}

/* One piece from one end to the other. Returns what was moved. */
static size_t move(struct carrier *from, struct carrier *to, size_t piece)
{
    struct err err = ERR_INIT;
    uint8_t bytes[4096];
    size_t size = 0;
    carrier_step(from);
    const uint8_t *pending = carrier_pending(from, &size);
    size = size < piece ? size : piece;
    size = size < sizeof(bytes) ? size : sizeof(bytes);
    if (size == 0)
        return 0;
    memcpy(bytes, pending, size);
    carrier_sent(from, size);
    assert_ok(carrier_take(to, bytes, size, &err), err);
    return size;
}

bool turn(struct rig *rig)
{
    size_t moved = move(rig->outer, rig->inner, rig->piece);
    return moved + move(rig->inner, rig->outer, rig->piece) > 0;
}

void run(struct rig *rig)
{
    while (turn(rig))
        ;
}

int open_channel(struct rig *rig, int *inner_fd)
{
    struct err err = ERR_INIT;
    int fd = -1;
    size_t before = rig->opened_count;
    assert_ok(carrier_open(rig->outer, &fd, &err), err);
    run(rig);
    assert_int_equal(rig->opened_count, before + 1);
    *inner_fd = rig->opened[before];
    return fd;
}

void expect(int fd, const char *text)
{
    char bytes[256];
    ssize_t got = recv(fd, bytes, sizeof(bytes) - 1, 0);
    if (got < 0)
        fail_msg("\"%s\" is not there: %s", text, strerror(errno));
    bytes[got] = '\0';
    assert_string_equal(bytes, text);
}

void expect_nothing(int fd)
{
    char byte = 0;
    assert_int_equal(recv(fd, &byte, 1, 0), -1);
    assert_int_equal(errno, EAGAIN);
}

void expect_end(int fd)
{
    char byte = 0;
    ssize_t got = recv(fd, &byte, 1, 0);
    assert_true(got == 0 || (got < 0 && errno == ECONNRESET));
}

void say(int fd, const char *text)
{
    assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}
