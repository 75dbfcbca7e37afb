/* wire/carrier: two ends with a stream between them that comes in pieces, breaks, is taken up again
 * and lies. */
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/fd.h"
#include "wire/carrier.h"

enum { OPENED_MAX = CARRIER_CHANNEL_MAX + 8, BIG = 1024 * 1024 };

static const uint8_t secret[CARRIER_SECRET_SIZE] = {7, 7, 0, 7, 7, 0, 7, 7, 7, 1, 0, 255, 7, 7, 0};

struct rig {
    struct carrier *outer;
    struct carrier *inner;
    size_t piece; /* of the stream, at once */
    int opened[OPENED_MAX];
    size_t opened_count;
};

static void on_opened(void *context, int fd)
{
    struct rig *rig = context;
    assert_true(rig->opened_count < OPENED_MAX);
    rig->opened[rig->opened_count++] = fd;
}

static void attach(struct rig *rig)
{
    struct err err = ERR_INIT;
    assert_ok(carrier_new_outer(secret, &rig->outer, &err), err);
}

static int setup(void **state)
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

static int teardown(void **state)
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

static bool turn(struct rig *rig)
{
    size_t moved = move(rig->outer, rig->inner, rig->piece);
    return moved + move(rig->inner, rig->outer, rig->piece) > 0;
}

static void run(struct rig *rig)
{
    while (turn(rig))
        ;
}

static int open_channel(struct rig *rig, int *inner_fd)
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

static void expect(int fd, const char *text)
{
    char bytes[256];
    ssize_t got = recv(fd, bytes, sizeof(bytes) - 1, 0);
    if (got < 0)
        fail_msg("\"%s\" is not there: %s", text, strerror(errno));
    bytes[got] = '\0';
    assert_string_equal(bytes, text);
}

static void expect_nothing(int fd)
{
    char byte = 0;
    assert_int_equal(recv(fd, &byte, 1, 0), -1);
    assert_int_equal(errno, EAGAIN);
}

static void expect_end(int fd)
{
    char byte = 0;
    ssize_t got = recv(fd, &byte, 1, 0);
    assert_true(got == 0 || (got < 0 && errno == ECONNRESET));
}

static void say(int fd, const char *text)
{
    assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

static void test_both_ways_in_pieces_of_every_size(void **state)
{
    struct rig *rig = *state;
    static const size_t pieces[] = {1, 2, 3, 11, 12, 13, 31, 32, 33, 49, 4096};
    for (size_t i = 0; i < ARRAY_SIZE(pieces); i++) {
        rig->piece = pieces[i];
        carrier_free(rig->outer);
        attach(rig);
        int inner = -1;
        FD_AUTO int fd = open_channel(rig, &inner);
        assert_true(carrier_is_up(rig->outer));
        say(fd, "there");
        run(rig);
        expect(inner, "there");
        say(inner, "and back");
        run(rig);
        expect(fd, "and back");
        assert_int_equal(carrier_channel_count(rig->outer), 1);
        assert_int_equal(carrier_channel_count(rig->inner), 1);
    }
}

static void test_a_channel_opened_before_the_answer(void **state)
{
    struct rig *rig = *state;
    struct err err = ERR_INIT;
    FD_AUTO int fd = -1;
    assert_false(carrier_is_up(rig->outer));
    assert_ok(carrier_open(rig->outer, &fd, &err), err);
    say(fd, "early");
    run(rig);
    assert_int_equal(rig->opened_count, 1);
    expect(rig->opened[0], "early");
}

static void test_bytes_that_look_like_the_secret(void **state)
{
    struct rig *rig = *state;
    int inner = -1;
    FD_AUTO int fd = open_channel(rig, &inner);
    uint8_t said[CARRIER_SECRET_SIZE];
    uint8_t bytes[CARRIER_SECRET_SIZE];
    for (size_t i = 0; i < sizeof(said); i++)
        said[i] = secret[i] != 0 ? secret[i] : 0xff;
    for (size_t piece = 1; piece < 5; piece++) {
        rig->piece = piece;
        for (size_t size = 1; size < sizeof(said); size++) {
            assert_int_equal(send(fd, said, size, 0), size);
            run(rig);
            assert_int_equal(recv(inner, bytes, sizeof(bytes), MSG_WAITALL), size);
            assert_memory_equal(bytes, said, size);
        }
    }
    assert_int_equal(rig->opened_count, 1);
}

static void test_much_in_both_directions_at_once(void **state)
{
    struct rig *rig = *state;
    int inner = -1;
    FD_AUTO int fd = open_channel(rig, &inner);
    size_t sent[2] = {0}, got[2] = {0};
    const int ends[2] = {fd, inner};
    static uint8_t bytes[8192];
    rig->piece = 3000;
    while (got[0] < BIG || got[1] < BIG) {
        for (int i = 0; i < 2; i++) {
            size_t size = BIG - sent[i] < sizeof(bytes) ? BIG - sent[i] : sizeof(bytes);
            for (size_t k = 0; k < size; k++)
                bytes[k] = (uint8_t)((sent[i] + k) * 31 >> 3);
            ssize_t done = size > 0 ? send(ends[i], bytes, size, MSG_DONTWAIT) : 0;
            sent[i] += done > 0 ? (size_t)done : 0;
        }
        (void)turn(rig);
        for (int i = 0; i < 2; i++) {
            ssize_t came = recv(ends[i], bytes, sizeof(bytes), MSG_DONTWAIT);
            for (ssize_t k = 0; k < came; k++)
                assert_int_equal(bytes[k], (uint8_t)((got[i] + (size_t)k) * 31 >> 3));
            got[i] += came > 0 ? (size_t)came : 0;
        }
    }
    assert_int_equal(got[0], BIG);
    assert_int_equal(got[1], BIG);
}

/* Whoever does not read stops at the credit, and nobody else. */
static void test_a_slow_reader_holds_up_nobody(void **state)
{
    struct rig *rig = *state;
    int slow = -1, quick = -1;
    static uint8_t bytes[64 * 1024];
    FD_AUTO int to_slow = open_channel(rig, &slow);
    FD_AUTO int to_quick = open_channel(rig, &quick);
    size_t taken = 0;
    for (int idle = 0; idle < 3;) {
        ssize_t done = send(to_slow, bytes, sizeof(bytes), MSG_DONTWAIT);
        taken += done > 0 ? (size_t)done : 0;
        idle = done > 0 || turn(rig) ? 0 : idle + 1;
    }
    say(to_quick, "still here");
    run(rig);
    expect(quick, "still here");
    size_t got = 0;
    say(to_slow, ""); /* nothing */
    while (got < taken) {
        ssize_t came = recv(slow, bytes, sizeof(bytes), MSG_DONTWAIT);
        got += came > 0 ? (size_t)came : 0;
        (void)turn(rig);
    }
    expect_nothing(slow);
}

static void test_one_side_that_ends_and_then_the_other(void **state)
{
    struct rig *rig = *state;
    int inner = -1;
    FD_AUTO int fd = open_channel(rig, &inner);
    say(fd, "last words");
    assert_int_equal(shutdown(fd, SHUT_WR), 0);
    run(rig);
    expect(inner, "last words");
    expect_end(inner);
    say(inner, "heard");
    run(rig);
    expect(fd, "heard");
    expect_nothing(fd);
    assert_int_equal(carrier_channel_count(rig->outer), 1);
    assert_int_equal(shutdown(inner, SHUT_WR), 0);
    run(rig);
    expect_end(fd);
    assert_int_equal(carrier_channel_count(rig->outer), 0);
    assert_int_equal(carrier_channel_count(rig->inner), 0);
}

static void test_a_close_is_heard_behind_the_last_bytes(void **state)
{
    struct rig *rig = *state;
    int inner = -1;
    int fd = open_channel(rig, &inner);
    say(inner, "on its way while nobody reads");
    run(rig);
    say(fd, "bye");
    (void)close(fd);
    run(rig);
    expect(inner, "bye");
    expect_end(inner);
    assert_int_equal(carrier_channel_count(rig->outer), 0);
    assert_int_equal(carrier_channel_count(rig->inner), 0);
    fd = open_channel(rig, &inner);
    fd_close(&rig->opened[1]);
    run(rig);
    expect_end(fd);
    (void)close(fd);
    run(rig);
    assert_int_equal(carrier_channel_count(rig->outer), 0);
}

/* The last bytes of one that can't be written to any more are read still. */
static void test_a_close_in_the_midst_of_what_comes(void **state)
{
    struct rig *rig = *state;
    int inner = -1;
    static uint8_t bytes[64 * 1024];
    int fd = open_channel(rig, &inner);
    while (send(inner, bytes, sizeof(bytes), MSG_DONTWAIT) > 0 || turn(rig))
        ;
    say(fd, "enough");
    (void)close(fd);
    run(rig);
    expect(inner, "enough");
    expect_end(inner);
    assert_int_equal(carrier_channel_count(rig->inner), 0);
}

/* ---- the engine that goes ---- */

static void test_a_reset_in_the_midst_of_anything(void **state)
{
    struct rig *rig = *state;
    uint8_t noise[600];
    for (size_t lost = 0; lost < 120; lost++) {
        struct err err = ERR_INIT;
        int inner = -1;
        size_t size = 0;
        FD_AUTO int fd = open_channel(rig, &inner);
        FD_AUTO int unheard = -1;
        /* So much of what it had to say comes through, in the midst of a frame or of a reset. */
        memset(noise, secret[0], sizeof(noise));
        assert_ok(carrier_open(rig->outer, &unheard, &err), err);
        assert_int_equal(send(unheard, noise, 60, 0), 60);
        carrier_step(rig->outer);
        const uint8_t *pending = carrier_pending(rig->outer, &size);
        assert_true(size > lost || lost > 80);
        size = lost < size ? lost : size;
        memcpy(noise, pending, size);
        assert_ok(carrier_take(rig->inner, noise, size, &err), err);
        say(inner, "into the void");
        carrier_free(rig->outer);
        attach(rig);
        rig->piece = 1 + lost % 50;
        FD_AUTO int again = open_channel(rig, &inner);
        assert_true(carrier_is_up(rig->outer));
        say(inner, "fresh");
        run(rig);
        expect(again, "fresh");
        assert_int_equal(carrier_channel_count(rig->inner), 1);
        for (size_t i = 0; i + 1 < rig->opened_count; i++) {
            char text[100];
            ssize_t got = recv(rig->opened[i], text, sizeof(text), 0);
            /* Of the last channel what had come whole; never a byte of the secret behind it. */
            for (ssize_t k = 0; k < got; k++)
                assert_int_equal(text[k], secret[0]);
            if (got > 0)
                assert_true(got == 60);
            expect_end(rig->opened[i]);
        }
        for (size_t i = 0; i < rig->opened_count; i++)
            fd_close(&rig->opened[i]);
        rig->opened_count = 0;
        run(rig);
    }
}

static void test_an_answer_to_a_reset_that_was_lost(void **state)
{
    struct rig *rig = *state;
    struct err err = ERR_INIT;
    uint8_t bytes[200];
    size_t size = 0;
    /* The first engine's reset comes through, its answer is still there for the second one. */
    const uint8_t *pending = carrier_pending(rig->outer, &size);
    assert_ok(carrier_take(rig->inner, pending, size, &err), err);
    pending = carrier_pending(rig->inner, &size);
    assert_true(size > CARRIER_TOKEN_SIZE && size <= sizeof(bytes)); /* and to the beat */
    memcpy(bytes, pending, size);
    carrier_sent(rig->inner, size);
    carrier_free(rig->outer);
    attach(rig);
    assert_ok(carrier_take(rig->outer, bytes, size, &err), err);
    assert_ok(carrier_take(rig->outer, "a frame of old", 14, &err), err);
    assert_false(carrier_is_up(rig->outer));
    int inner = -1;
    FD_AUTO int fd = open_channel(rig, &inner);
    assert_true(carrier_is_up(rig->outer));
    say(inner, "now");
    run(rig);
    expect(fd, "now");
}

static void test_init_waits_for_the_next_reset_after_nonsense(void **state)
{
    struct rig *rig = *state;
    struct err err = ERR_INIT;
    int inner = -1;
    FD_AUTO int fd = open_channel(rig, &inner);
    assert_fails(carrier_take(rig->inner, "nonsense of some length", 23, &err), ERR_PROTOCOL, err);
    assert_int_equal(carrier_channel_count(rig->inner), 0);
    expect_end(inner);
    err = ERR_INIT;
    assert_ok(carrier_take(rig->inner, "more of it", 10, &err), err);
    carrier_free(rig->outer);
    attach(rig);
    FD_AUTO int again = open_channel(rig, &inner);
    say(again, "well");
    run(rig);
    expect(inner, "well");
}

static void test_another_secret_is_not_heard(void **state)
{
    struct rig *rig = *state;
    struct err err = ERR_INIT;
    uint8_t wrong[CARRIER_SECRET_SIZE];
    memcpy(wrong, secret, sizeof(wrong));
    wrong[CARRIER_SECRET_SIZE - 1] ^= 1;
    carrier_free(rig->outer);
    rig->outer = NULL;
    assert_ok(carrier_new_outer(wrong, &rig->outer, &err), err);
    FD_AUTO int fd = -1;
    assert_ok(carrier_open(rig->outer, &fd, &err), err);
    run(rig);
    assert_false(carrier_is_up(rig->outer));
    assert_int_equal(rig->opened_count, 0);
}

static void test_an_engine_that_beats_and_one_that_is_gone(void **state)
{
    struct rig *rig = *state;
    int inner = -1;
    FD_AUTO int fd = open_channel(rig, &inner);
    assert_true(carrier_has_beaten(rig->inner)); /* with its reset */
    carrier_drop(rig->inner);
    assert_false(carrier_has_beaten(rig->inner));
    expect_end(inner);
    assert_int_equal(carrier_channel_count(rig->inner), 0);
}

static void beat(struct rig *rig, int64_t now_ms)
{
    struct err err = ERR_INIT;
    assert_ok(carrier_beat(rig->outer, now_ms * CLOCK_NS_PER_MS, &err), err);
}

static void expect_timeout(struct rig *rig, int64_t now_ms)
{
    struct err err = ERR_INIT;
    assert_fails(carrier_beat(rig->outer, now_ms * CLOCK_NS_PER_MS, &err), ERR_TIMEOUT, err);
}

enum { SOON = CARRIER_BEAT_MS, GONE = CARRIER_SILENCE_MS };

static void test_an_init_that_answers_and_one_that_does_not_any_more(void **state)
{
    struct rig *rig = *state;
    int inner = -1;
    FD_AUTO int fd = open_channel(rig, &inner);
    for (int64_t now_ms = SOON; now_ms <= 3 * GONE; now_ms += SOON) {
        beat(rig, now_ms);
        run(rig);
    }
    carrier_drop(rig->inner); /* it says nothing of that */
    int64_t from_ms = 3 * GONE + SOON;
    for (int64_t now_ms = from_ms; now_ms < from_ms + GONE; now_ms += SOON) {
        beat(rig, now_ms);
        run(rig);
    }
    expect_timeout(rig, from_ms + GONE);
    expect_nothing(fd);
    carrier_free(rig->outer);
    attach(rig);
    FD_AUTO int again = open_channel(rig, &inner);
    say(again, "found again");
    run(rig);
    expect(inner, "found again");
}

/* An init that says anything is there; one that never answers the reset is not. */
static void test_what_counts_as_a_word_of_init(void **state)
{
    struct rig *rig = *state;
    struct err err = ERR_INIT;
    static const uint8_t credit[] = {
        CARRIER_CREDIT, 0, 0, 0, 1, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0};
    int inner = -1;
    int64_t now_ms = SOON;
    FD_AUTO int fd = open_channel(rig, &inner);
    for (; now_ms <= 3 * GONE; now_ms += SOON) {
        beat(rig, now_ms);
        if (now_ms % (GONE - SOON) == 0)
            assert_ok(carrier_take(rig->outer, credit, sizeof(credit), &err), err);
    }
    carrier_free(rig->outer);
    attach(rig);
    for (now_ms = SOON; now_ms < SOON + GONE; now_ms += SOON)
        beat(rig, now_ms);
    expect_timeout(rig, now_ms);
}

/* Of before init answered beats: it is never taken for gone. */
static void test_an_init_that_is_older(void **state)
{
    struct rig *rig = *state;
    struct err err = ERR_INIT;
    size_t size = 0;
    const uint8_t *reset = carrier_pending(rig->outer, &size);
    uint8_t token[CARRIER_TOKEN_SIZE];
    assert_int_equal(reset[CARRIER_SECRET_SIZE + CARRIER_TOKEN_SIZE], 0);
    memcpy(token, reset + CARRIER_SECRET_SIZE, sizeof(token));
    carrier_sent(rig->outer, size);
    assert_ok(carrier_take(rig->outer, token, sizeof(token), &err), err);
    for (int64_t now_ms = SOON; now_ms <= 3 * GONE; now_ms += SOON)
        beat(rig, now_ms);
}

/* Who was stopped for so long has been let go by init, whatever that answers. */
static void test_an_engine_that_was_stopped(void **state)
{
    struct rig *rig = *state;
    int inner = -1;
    FD_AUTO int fd = open_channel(rig, &inner);
    beat(rig, SOON);
    run(rig);
    beat(rig, SOON + GONE - 1);
    run(rig);
    expect_timeout(rig, SOON + 2 * GONE - 1);
}

/* ---- sockets that are passed ---- */

static void pass(int fd, const char *text, int passed)
{
    struct err err = ERR_INIT;
    assert_ok(fd_send(fd, text, strlen(text), &passed, 1, 0, &err), err);
}

/* Reads to the end of what is there, and returns the one socket that was beside it. */
static int expect_passed(int fd, const char *text)
{
    struct err err = ERR_INIT;
    char bytes[256];
    int passed = -1;
    size_t size = 0;
    for (;;) {
        size_t count = 1;
        int got_fd = -1;
        ssize_t got = fd_recv(fd, bytes + size, sizeof(bytes) - 1 - size, &got_fd, &count, 0, &err);
        if (got == -ERR_UNAVAILABLE)
            break;
        assert_true(got > 0);
        size += (size_t)got;
        if (count == 1) {
            assert_int_equal(passed, -1);
            passed = got_fd;
        }
    }
    bytes[size] = '\0';
    assert_string_equal(bytes, text);
    return passed;
}

static void test_a_socket_that_is_passed(void **state)
{
    struct rig *rig = *state;
    static const size_t pieces[] = {1, 7, 4096};
    for (size_t i = 0; i < ARRAY_SIZE(pieces); i++) {
        rig->piece = pieces[i];
        int inner = -1;
        int pair[2];
        FD_AUTO int fd = open_channel(rig, &inner);
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
        say(inner, "before ");
        run(rig);
        pass(inner, "with", pair[1]);
        (void)close(pair[1]);
        run(rig);
        FD_AUTO int passed = expect_passed(fd, "before with");
        assert_true(passed >= 0);
        say(passed, "to the code");
        run(rig);
        expect(pair[0], "to the code");
        say(pair[0], "from the code");
        (void)close(pair[0]);
        run(rig);
        expect(passed, "from the code");
        expect_end(passed);
        fd_close(&passed);
        run(rig);
        assert_int_equal(carrier_channel_count(rig->inner), 1);
    }
}

static int tcp_pair(int *other)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000001)};
    socklen_t size = sizeof(address);
    FD_AUTO int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(listener, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(listener, 1), 0);
    assert_int_equal(getsockname(listener, (struct sockaddr *)&address, &size), 0);
    *other = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(*other, (struct sockaddr *)&address, sizeof(address)), 0);
    return accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
}

static void await(struct rig *rig, int fd)
{
    struct pollfd entries[2] = {{.fd = fd, .events = POLLIN},
                                {.fd = carrier_fd(rig->inner), .events = POLLIN}};
    for (;;) {
        run(rig);
        assert_true(poll(entries, 2, 10000) > 0);
        if (entries[0].revents != 0)
            return;
    }
}

static void test_a_connection_of_tcp_that_is_passed(void **state)
{
    struct rig *rig = *state;
    int inner = -1;
    int code = -1;
    FD_AUTO int fd = open_channel(rig, &inner);
    FD_AUTO int accepted = tcp_pair(&code);
    pass(inner, "x", accepted);
    fd_close(&accepted);
    run(rig);
    FD_AUTO int passed = expect_passed(fd, "x");
    say(code, "GET");
    assert_int_equal(shutdown(code, SHUT_WR), 0);
    await(rig, passed);
    expect(passed, "GET");
    await(rig, passed);
    expect_end(passed);
    say(passed, "200");
    fd_close(&passed);
    await(rig, code);
    expect(code, "200");
    expect_end(code);
    (void)close(code);
    assert_int_equal(carrier_channel_count(rig->inner), 1);
    assert_int_equal(carrier_channel_count(rig->outer), 1);
}

static void test_what_is_no_socket_is_over_at_once(void **state)
{
    struct rig *rig = *state;
    int inner = -1;
    FD_AUTO int fd = open_channel(rig, &inner);
    FD_AUTO int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    pass(inner, "x", null);
    run(rig);
    FD_AUTO int passed = expect_passed(fd, "x");
    expect_end(passed);
}

static void test_a_passed_socket_whose_reader_is_gone(void **state)
{
    struct rig *rig = *state;
    int inner = -1;
    int pair[2];
    int fd = open_channel(rig, &inner);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
    pass(inner, "x", pair[1]);
    (void)close(pair[1]);
    (void)close(fd);
    run(rig);
    expect_end(pair[0]);
    (void)close(pair[0]);
    run(rig);
    assert_int_equal(carrier_channel_count(rig->inner), 0);
    assert_int_equal(carrier_channel_count(rig->outer), 0);
}

enum { MANY = 300 };

/* Passes one more; false when there is no room for it. */
static bool try_pass(int fd, int *out_code)
{
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
    ssize_t sent = fd_send_some(fd, "x", 1, &pair[1], 1, MSG_DONTWAIT, NULL);
    (void)close(pair[1]);
    *out_code = pair[0];
    if (sent != 1)
        fd_close(out_code);
    return sent == 1;
}

/* What the code opens beyond the bound waits; it is not ended, and takes nobody's place. */
static void test_more_sockets_than_places(void **state)
{
    struct rig *rig = *state;
    int code[MANY];
    int taken[MANY];
    int inner = -1, other = -1;
    size_t count = 0, most = 0;
    FD_AUTO int fd = open_channel(rig, &inner);
    for (size_t passed = 0; count < MANY;) {
        while (passed < MANY && try_pass(inner, &code[passed]))
            passed++;
        run(rig);
        most = carrier_channel_count(rig->outer) > most ? carrier_channel_count(rig->outer) : most;
        FD_AUTO int spare = open_channel(rig, &other); /* a place for another server */
        fd_close(&rig->opened[--rig->opened_count]);
        char byte = 0;
        size_t got_count = 1;
        ssize_t got = fd_recv(fd, &byte, 1, &taken[count], &got_count, MSG_DONTWAIT, NULL);
        assert_int_equal(got, 1);
        assert_int_equal(got_count, 1);
        say(code[count], "hello");
        run(rig);
        expect(taken[count], "hello");
        expect_nothing(code[count]);
        if (count >= 64) { /* as many at once as egress takes */
            fd_close(&taken[count - 64]);
            fd_close(&code[count - 64]);
        }
        count++;
    }
    assert_true(most >= 64 && most <= CARRIER_PASSED_HIGH + FD_PASS_MAX);
    for (size_t i = MANY - 64; i < MANY; i++) {
        fd_close(&taken[i]);
        fd_close(&code[i]);
    }
    run(rig);
    assert_int_equal(carrier_channel_count(rig->outer), 1);
    assert_int_equal(carrier_channel_count(rig->inner), 1);
}

static void test_no_channel_beyond_the_table(void **state)
{
    struct rig *rig = *state;
    struct err err = ERR_INIT;
    int fds[CARRIER_CHANNEL_MAX];
    int one_more = -1;
    int inner = -1;
    for (size_t i = 0; i < CARRIER_CHANNEL_MAX; i++)
        fds[i] = open_channel(rig, &inner);
    assert_fails(carrier_open(rig->outer, &one_more, &err), ERR_UNAVAILABLE, err);
    /* A socket of init's finds no place over there either: its reader gets the byte alone. */
    FD_AUTO int code = -1;
    assert_true(try_pass(inner, &code));
    run(rig);
    expect_end(code);
    expect(fds[CARRIER_CHANNEL_MAX - 1], "x");
    for (size_t i = 0; i < CARRIER_CHANNEL_MAX; i++)
        (void)close(fds[i]);
    run(rig);
    assert_int_equal(carrier_channel_count(rig->inner), 0);
    FD_AUTO int fd = open_channel(rig, &inner);
    say(fd, "again");
    run(rig);
    expect(inner, "again");
}

/* ---- an init that lies ---- */

struct lie {
    const char *what;
    size_t size;
    const char *bytes; /* NULL-ended names don't hold zeros: size says */
};
#define LIE(what, bytes)                                                                           \
    {                                                                                              \
        what, sizeof(bytes) - 1, bytes                                                             \
    }

static void test_frames_that_no_init_may_send(void **state)
{
    struct rig *rig = *state;
    static const struct lie lies[] = {
        LIE("type 0", "\0\0\0\0\1\0\0\0\0\0\0\0\0"),
        LIE("a type that is none", "\x8\0\0\0\1\0\0\0\0\0\0\0\0"),
        LIE("bytes that are to be 0", "\2\1\0\0\1\0\0\0\1\0\0\0x\0"),
        LIE("DATA of nothing", "\2\0\0\0\1\0\0\0\0\0\0\0\0"),
        LIE("DATA of too much", "\2\0\0\0\1\0\0\0\1\x40\0\0x\0"),
        LIE("a size beyond all", "\2\0\0\0\1\0\0\0\xff\xff\xff\xffx\0"),
        LIE("no last byte", "\2\0\0\0\1\0\0\0\1\0\0\0xy"),
        LIE("OPEN", "\1\0\0\0\2\0\0\0\0\0\0\0\0"),
        LIE("BEAT of a channel", "\7\0\0\0\1\0\0\0\0\0\0\0\0"),
        LIE("channel 0", "\2\0\0\0\0\0\0\0\1\0\0\0x\0"),
        LIE("a channel that never was, ours", "\2\0\0\0\3\0\0\0\1\0\0\0x\0"),
        LIE("a channel that never was, theirs", "\2\0\0\0\2\0\0\0\1\0\0\0x\0"),
        LIE("more credit than there can be", "\3\0\0\0\1\0\0\0\4\0\0\0\1\0\0\0\0"),
        LIE("CREDIT of two bytes", "\3\0\0\0\1\0\0\0\2\0\0\0\1\0\0"),
        LIE("EOF with bytes", "\4\0\0\0\1\0\0\0\1\0\0\0x\0"),
        LIE("DATA behind EOF", "\4\0\0\0\1\0\0\0\0\0\0\0\0\2\0\0\0\1\0\0\0\1\0\0\0x\0"),
        LIE("PASS of one of ours", "\6\0\0\0\1\0\0\0\4\0\0\0\3\0\0\0\0"),
        LIE("PASS of the same twice",
            "\6\0\0\0\1\0\0\0\4\0\0\0\2\0\0\0\0\6\0\0\0\1\0\0\0\4\0\0\0\2\0\0\0\0"),
    };
    for (size_t i = 0; i < ARRAY_SIZE(lies); i++) {
        struct err err = ERR_INIT;
        int inner = -1;
        FD_AUTO int fd = open_channel(rig, &inner);
        if (carrier_take(rig->outer, lies[i].bytes, lies[i].size, &err) != -ERR_PROTOCOL)
            fail_msg("%s is taken", lies[i].what);
        assert_true(err.message[0] != '\0');
        carrier_free(rig->outer);
        expect_end(fd);
        attach(rig);
    }
}

static void test_more_than_the_credit(void **state)
{
    struct rig *rig = *state;
    struct err err = ERR_INIT;
    int inner = -1;
    static uint8_t frame[12 + CARRIER_FRAME_MAX + 1] = {CARRIER_DATA, 0, 0, 0, 1, 0, 0, 0, 0, 0x40};
    FD_AUTO int fd = open_channel(rig, &inner);
    int result = 0;
    size_t count = 0;
    while (result == 0 && count < 1000) {
        result = carrier_take(rig->outer, frame, sizeof(frame), &err);
        count++;
    }
    assert_int_equal(result, -ERR_PROTOCOL);
    assert_true(count <= (CARRIER_WINDOW + 4U * BIG) / CARRIER_FRAME_MAX);
}

/* Who never reads can't make us hold ever more words for it. */
static void test_an_init_that_does_not_read(void **state)
{
    struct rig *rig = *state;
    struct err err = ERR_INIT;
    int inner = -1;
    FD_AUTO int fd = open_channel(rig, &inner);
    int result = 0;
    uint32_t number = 2;
    while (result == 0 && number < 1000000) {
        uint8_t pass_it[17] = {CARRIER_PASS, 0, 0, 0, 1, 0, 0, 0, 4};
        for (int k = 0; k < 4; k++)
            pass_it[12 + k] = (uint8_t)(number >> (8 * k));
        result = carrier_take(rig->outer, pass_it, sizeof(pass_it), &err);
        number += 2;
    }
    assert_int_equal(result, -ERR_PROTOCOL);
    assert_int_equal(carrier_channel_count(rig->outer), CARRIER_PASSED_MAX);
    /* The stream has a hole: nothing is said behind it. */
    int one_more = -1;
    size_t size = 1;
    err = (struct err)ERR_INIT;
    assert_fails(carrier_open(rig->outer, &one_more, &err), ERR_PROTOCOL, err);
    err = (struct err)ERR_INIT;
    assert_fails(carrier_beat(rig->outer, 1, &err), ERR_PROTOCOL, err);
    assert_null(carrier_pending(rig->outer, &size));
    assert_int_equal(size, 0);
}

int main(void)
{
#define WITH_RIG(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {
        WITH_RIG(test_both_ways_in_pieces_of_every_size),
        WITH_RIG(test_a_channel_opened_before_the_answer),
        WITH_RIG(test_bytes_that_look_like_the_secret),
        WITH_RIG(test_much_in_both_directions_at_once),
        WITH_RIG(test_a_slow_reader_holds_up_nobody),
        WITH_RIG(test_one_side_that_ends_and_then_the_other),
        WITH_RIG(test_a_close_is_heard_behind_the_last_bytes),
        WITH_RIG(test_a_close_in_the_midst_of_what_comes),
        WITH_RIG(test_a_reset_in_the_midst_of_anything),
        WITH_RIG(test_an_answer_to_a_reset_that_was_lost),
        WITH_RIG(test_init_waits_for_the_next_reset_after_nonsense),
        WITH_RIG(test_another_secret_is_not_heard),
        WITH_RIG(test_an_engine_that_beats_and_one_that_is_gone),
        WITH_RIG(test_an_init_that_answers_and_one_that_does_not_any_more),
        WITH_RIG(test_what_counts_as_a_word_of_init),
        WITH_RIG(test_an_init_that_is_older),
        WITH_RIG(test_an_engine_that_was_stopped),
        WITH_RIG(test_a_socket_that_is_passed),
        WITH_RIG(test_a_connection_of_tcp_that_is_passed),
        WITH_RIG(test_what_is_no_socket_is_over_at_once),
        WITH_RIG(test_a_passed_socket_whose_reader_is_gone),
        WITH_RIG(test_more_sockets_than_places),
        WITH_RIG(test_no_channel_beyond_the_table),
        WITH_RIG(test_frames_that_no_init_may_send),
        WITH_RIG(test_more_than_the_credit),
        WITH_RIG(test_an_init_that_does_not_read),
    };
    return cmocka_run_group_tests_name("carrier", tests, NULL, NULL);
}
