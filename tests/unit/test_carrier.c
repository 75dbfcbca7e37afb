/* wire/carrier: two ends with a stream between them that comes in pieces, breaks, is taken up again
 * and lies. */
#include "carrier_rig.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"

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
        WITH_RIG(test_frames_that_no_init_may_send),
        WITH_RIG(test_more_than_the_credit),
        WITH_RIG(test_an_init_that_does_not_read),
    };
    return cmocka_run_group_tests_name("carrier", tests, NULL, NULL);
}
