/* wire/frame: frames in pieces of any size, and frames that no peer may send. */
#include "check.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "wire/frame.h"
#include "wire/tlv.h"

enum { ROOM = 4 * 1024 * 1024 };

static void fill_sample(struct buf *buf)
{
    struct err err = ERR_INIT;
    static const uint8_t big[FRAME_DATA_MAX];
    assert_ok(frame_append(buf, FRAME_HELLO, 0, "hi", 2, &err), err);
    assert_ok(frame_append(buf, FRAME_PING, 0, NULL, 0, &err), err);
    assert_ok(frame_append_u32(buf, FRAME_CREDIT, 6, 12345, &err), err);
    assert_ok(frame_append(buf, FRAME_DATA, 7, big, sizeof(big), &err), err);
}

static void check_sample(struct frame_decoder *decoder, size_t index, const struct frame *frame)
{
    (void)decoder;
    struct err err = ERR_INIT;
    uint32_t value = 0;
    static const enum frame_type types[] = {FRAME_HELLO, FRAME_PING, FRAME_CREDIT, FRAME_DATA};
    static const uint32_t streams[] = {0, 0, 6, 7};
    static const size_t sizes[] = {2, 0, 4, FRAME_DATA_MAX};
    assert_true(index < ARRAY_SIZE(types));
    assert_int_equal(frame->type, types[index]);
    assert_int_equal(frame->stream, streams[index]);
    assert_int_equal(frame->size, sizes[index]);
    if (index == 2) {
        assert_ok(frame_u32(frame, &value, &err), err);
        assert_int_equal(value, 12345);
    } else {
        assert_fails(frame_u32(frame, &value, &err), ERR_PROTOCOL, err);
    }
}

static void test_pieces_of_every_size(void **state)
{
    (void)state;
    BUF_AUTO struct buf sample;
    buf_init(&sample, ROOM);
    fill_sample(&sample);
    static const size_t pieces[] = {1, 2, 3, 7, 11, 12, 13, 1000, 40000};
    for (size_t p = 0; p < ARRAY_SIZE(pieces); p++) {
        struct err err = ERR_INIT;
        struct frame_decoder decoder;
        struct frame frame;
        size_t seen = 0;
        frame_decoder_init(&decoder);
        for (size_t at = 0; at < sample.size; at += pieces[p]) {
            size_t left = sample.size - at;
            size_t size = left < pieces[p] ? left : pieces[p];
            assert_ok(frame_decoder_feed(&decoder, sample.data + at, size, &err), err);
            int result = 0;
            while ((result = frame_decoder_next(&decoder, &frame, &err)) == 1)
                check_sample(&decoder, seen++, &frame);
            assert_int_equal(result, 0);
        }
        assert_int_equal(seen, 4);
        frame_decoder_done(&decoder);
    }
}

static void test_bad_headers(void **state)
{
    (void)state;
    static const uint8_t bad[][FRAME_HEADER_SIZE] = {
        {0, 0, 0, 0, 0},                      /* type 0 */
        {0, 0, 0, 0, FRAME_TYPE_COUNT},       /* a type past the last */
        {0, 0, 0, 0, FRAME_PING, 1},          /* a reserved byte */
        {0, 0, 0, 0, FRAME_PING, 0, 1},       /* another */
        {1, 0, 8, 0, FRAME_DATA},             /* one byte over the maximum */
        {0xff, 0xff, 0xff, 0xff, FRAME_DATA}, /* far over */
    };
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct err err = ERR_INIT;
        struct frame_decoder decoder;
        struct frame frame;
        frame_decoder_init(&decoder);
        assert_ok(frame_decoder_feed(&decoder, bad[i], sizeof(bad[i]), &err), err);
        assert_fails(frame_decoder_next(&decoder, &frame, &err), ERR_PROTOCOL, err);
        frame_decoder_done(&decoder);
    }
}

static void test_largest_frame(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    BUF_AUTO struct buf out;
    buf_init(&out, ROOM);
    static const uint8_t bytes[FRAME_PAYLOAD_MAX + 1];
    assert_fails(frame_append(&out, FRAME_DATA, 1, bytes, sizeof(bytes), &err), ERR_TOO_LARGE, err);
    assert_int_equal(out.size, 0);
    assert_ok(frame_append(&out, FRAME_DATA, 1, bytes, FRAME_PAYLOAD_MAX, &err), err);
    struct frame_decoder decoder;
    struct frame frame;
    frame_decoder_init(&decoder);
    assert_ok(frame_decoder_feed(&decoder, out.data, out.size, &err), err);
    assert_int_equal(frame_decoder_next(&decoder, &frame, &err), 1);
    assert_int_equal(frame.size, FRAME_PAYLOAD_MAX);
    assert_int_equal(frame_decoder_next(&decoder, &frame, &err), 0);
    frame_decoder_done(&decoder);
}

static void test_read_from_a_pipe(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    int ends[2];
    assert_int_equal(pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
    struct frame_decoder decoder;
    struct frame frame;
    frame_decoder_init(&decoder);
    assert_fails(frame_decoder_read(&decoder, ends[0], &err), ERR_UNAVAILABLE, err);
    BUF_AUTO struct buf out;
    buf_init(&out, 1024);
    assert_ok(frame_append(&out, FRAME_PONG, 0, NULL, 0, &err), err);
    assert_ok(fd_write_all(ends[1], out.data, out.size, &err), err);
    assert_int_equal(frame_decoder_read(&decoder, ends[0], &err), FRAME_HEADER_SIZE);
    assert_int_equal(frame_decoder_next(&decoder, &frame, &err), 1);
    assert_int_equal(frame.type, FRAME_PONG);
    fd_close(&ends[1]);
    assert_int_equal(frame_decoder_read(&decoder, ends[0], &err), 0);
    fd_close(&ends[0]);
    frame_decoder_done(&decoder);
}

/* A peer that never ends a frame can't make the decoder hold more than its maximum. */
static void test_memory_is_bounded(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    static const uint8_t chunk[65536];
    struct frame_decoder decoder;
    frame_decoder_init(&decoder);
    int result = 0;
    size_t fed = 0;
    while (result == 0 && fed < ROOM) {
        result = frame_decoder_feed(&decoder, chunk, sizeof(chunk), &err);
        fed += sizeof(chunk);
    }
    assert_int_equal(result, -ERR_TOO_LARGE);
    frame_decoder_done(&decoder);
    frame_decoder_done(&decoder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pieces_of_every_size), cmocka_unit_test(test_bad_headers),
        cmocka_unit_test(test_largest_frame),        cmocka_unit_test(test_read_from_a_pipe),
        cmocka_unit_test(test_memory_is_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
