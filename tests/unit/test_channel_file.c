/* Files piece by piece, against a peer that says what a test tells it to: what a file is, the pace
 * of the caller, credit, and what init may not say. */
#include "check.h"

#include <errno.h>
#include <semaphore.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "channel_peer.h"

#define STEP_NS (20 * CLOCK_NS_PER_S)

static const struct sandbox_file_info known = {
    .size_bytes = 100000, .inode = 7, .changed_ns = 123456789012, .modified_ns = -5};
static const struct channel_watch nothing = {.cancel_fd = -1, .interrupt_fd = -1, .gone_fd = -1};

/* ---- out of the sandbox ---- */

static struct sandbox_get_file asked;

static uint32_t begin_get(struct peer *peer)
{
    peer_hello(peer, PEER_CAPS);
    struct frame frame = peer_next(peer);
    peer_require(frame.type == FRAME_GET_FILE);
    peer_require(sandbox_get_file_decode(frame.payload, frame.size, &asked, NULL) == 0);
    peer_require(strcmp(asked.path, "f") == 0);
    return frame.stream;
}

static void end_get(struct peer *peer, uint32_t stream, int sys_errno, uint64_t size)
{
    peer_send(peer, FRAME_CLOSE, stream + STREAM_STDOUT, NULL, 0);
    peer_done(peer, stream, sys_errno, size);
    peer_drain(peer);
}

/* The information and size bytes, all in pieces of so many. */
static void send_file(struct peer *peer, uint32_t stream, size_t size, size_t piece)
{
    static uint8_t bytes[SANDBOX_FILE_INFO_SIZE + 200000];
    sandbox_file_info_encode(&known, bytes);
    for (size_t i = 0; i < size; i++)
        bytes[SANDBOX_FILE_INFO_SIZE + i] = (uint8_t)(i % 251);
    size += SANDBOX_FILE_INFO_SIZE;
    for (size_t at = 0; at < size; at += piece)
        peer_send(peer, FRAME_DATA, stream + STREAM_STDOUT, bytes + at,
                  size - at < piece ? size - at : piece);
}

static size_t piece_size = 1000;

static void play_file(struct peer *peer)
{
    uint32_t stream = begin_get(peer);
    send_file(peer, stream, known.size_bytes, piece_size);
    end_get(peer, stream, 0, known.size_bytes + SANDBOX_FILE_INFO_SIZE);
}

/* Reads to the end, checking each byte; returns what the last call did. */
static int read_all(struct channel_reader *reader, size_t *out_size, struct err *err)
{
    BUF_AUTO struct buf bytes;
    buf_init(&bytes, 1 << 20);
    int result = 1;
    while (result == 1)
        result = channel_read_next(reader, &bytes, err);
    for (size_t i = 0; i < bytes.size; i++)
        assert_int_equal(bytes.data[i], i % 251);
    *out_size = bytes.size;
    return result;
}

/* However the pipe of init cut it: information and bytes come apart. */
static void a_file_and_what_it_is(void **state)
{
    static const size_t cuts[] = {7, 31, 32, 33, 1000, FRAME_DATA_MAX};
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cuts); i++) {
        const struct sandbox_get_file get = {.path = "f", .info = SANDBOX_INFO_FIRST};
        struct channel_reader *reader = NULL;
        struct sandbox_file_info info;
        struct err err = ERR_INIT;
        struct peer peer;
        size_t size = 0;
        piece_size = cuts[i];
        peer_start(&peer, play_file);
        assert_ok(channel_read_open(peer.channel, &get, &nothing, STEP_NS, &info, &reader, &err),
                  err);
        assert_int_equal(asked.info, SANDBOX_INFO_FIRST);
        assert_memory_equal(&info, &known, sizeof(info));
        assert_ok(read_all(reader, &size, &err), err);
        assert_int_equal(size, known.size_bytes);
        channel_read_close(reader);
        peer_stop(&peer);
    }
}

static void play_only(struct peer *peer)
{
    uint32_t stream = begin_get(peer);
    send_file(peer, stream, 0, 100);
    end_get(peer, stream, 0, SANDBOX_FILE_INFO_SIZE);
}

static void only_what_it_is(void **state)
{
    const struct sandbox_get_file get = {.path = "f", .info = SANDBOX_INFO_ONLY};
    struct channel_reader *reader = NULL;
    struct sandbox_file_info info;
    struct err err = ERR_INIT;
    struct peer peer;
    size_t size = 1;
    (void)state;
    peer_start(&peer, play_only);
    assert_ok(channel_read_open(peer.channel, &get, &nothing, STEP_NS, &info, &reader, &err), err);
    assert_int_equal(info.size_bytes, known.size_bytes);
    assert_ok(read_all(reader, &size, &err), err);
    assert_int_equal(size, 0);
    channel_read_close(reader);
    peer_stop(&peer);
}

#define PLAY(name, body)                                                                           \
    static void name(struct peer *peer)                                                            \
    {                                                                                              \
        uint32_t stream = begin_get(peer);                                                         \
        body                                                                                       \
    }
PLAY(play_enoent, end_get(peer, stream, ENOENT, 0);)
PLAY(play_enotdir, end_get(peer, stream, ENOTDIR, 0);)
PLAY(play_einval, end_get(peer, stream, EINVAL, 0);)
PLAY(play_eisdir, end_get(peer, stream, EISDIR, 0);)
PLAY(play_eacces, end_get(peer, stream, EACCES, 0);)
PLAY(play_eio, end_get(peer, stream, EIO, 0);)
PLAY(play_no_info, end_get(peer, stream, 0, 0);)
PLAY(play_half_info, peer_send(peer, FRAME_DATA, stream + STREAM_STDOUT, "12345", 5);
     end_get(peer, stream, 0, 5);)
PLAY(play_death, (void)stream;)
/* More than was asked for, more than the file has: whatever the client was promised, it holds. */
PLAY(play_beyond_ask, send_file(peer, stream, 51, 1000); peer_drain(peer);)
PLAY(play_beyond_file, send_file(peer, stream, known.size_bytes + 1, 1000);
     end_get(peer, stream, 0, known.size_bytes + 1 + SANDBOX_FILE_INFO_SIZE);)
PLAY(play_cut, send_file(peer, stream, 20, 1000);
     end_get(peer, stream, 0, 20 + SANDBOX_FILE_INFO_SIZE);)
PLAY(play_fails_late, send_file(peer, stream, 20, 1000);
     end_get(peer, stream, EIO, 20 + SANDBOX_FILE_INFO_SIZE);)

PLAY(play_wrong_size, send_file(peer, stream, 20, 1000);
     end_get(peer, stream, 0, 21 + SANDBOX_FILE_INFO_SIZE);)
PLAY(play_data_on_stderr, peer_send(peer, FRAME_DATA, stream + STREAM_STDERR, "x", 1);
     peer_drain(peer);)
PLAY(play_close_twice, peer_send(peer, FRAME_CLOSE, stream + STREAM_STDOUT, NULL, 0);
     end_get(peer, stream, 0, 0);)
PLAY(play_data_after_close, peer_send(peer, FRAME_CLOSE, stream + STREAM_STDOUT, NULL, 0);
     send_file(peer, stream, 1, 1000); peer_drain(peer);)
PLAY(play_exit, peer_exit(peer, stream, 0); peer_drain(peer);)
PLAY(play_credit, peer_credit(peer, stream, 1); peer_drain(peer);)

static void how_reading_ends(void **state)
{
    static const struct {
        void (*play)(struct peer *peer);
        uint64_t size_bytes;
        enum err_kind opens, reads;
    } cases[] = {
        {play_enotdir, 0, ERR_NOT_FOUND, ERR_NONE},
        {play_einval, 0, ERR_BAD_INPUT, ERR_NONE},
        {play_eacces, 0, ERR_BAD_INPUT, ERR_NONE},
        {play_eio, 0, ERR_UNAVAILABLE, ERR_NONE},
        {play_wrong_size, 0, ERR_NONE, ERR_PROTOCOL},
        {play_data_on_stderr, 0, ERR_PROTOCOL, ERR_NONE},
        {play_close_twice, 0, ERR_PROTOCOL, ERR_NONE},
        {play_data_after_close, 0, ERR_PROTOCOL, ERR_NONE},
        {play_exit, 0, ERR_PROTOCOL, ERR_NONE},
        {play_credit, 0, ERR_PROTOCOL, ERR_NONE},
        {play_enoent, 0, ERR_NOT_FOUND, ERR_NONE},
        {play_eisdir, 0, ERR_BAD_INPUT, ERR_NONE},
        {play_no_info, 0, ERR_PROTOCOL, ERR_NONE},
        {play_half_info, 0, ERR_PROTOCOL, ERR_NONE},
        {play_death, 0, ERR_CLOSED, ERR_NONE},
        {play_beyond_ask, 50, ERR_PROTOCOL, ERR_NONE},
        {play_beyond_file, 0, ERR_NONE, ERR_PROTOCOL},
        {play_cut, 0, ERR_NONE, ERR_NONE},
        {play_cut, 50, ERR_NONE, ERR_NONE},
        {play_fails_late, 0, ERR_NONE, ERR_UNAVAILABLE},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        const struct sandbox_get_file get = {
            .path = "f", .size_bytes = cases[i].size_bytes, .info = SANDBOX_INFO_FIRST};
        struct channel_reader *reader = NULL;
        struct sandbox_file_info info;
        struct err err = ERR_INIT;
        struct peer peer;
        size_t size = 0;
        peer_start(&peer, cases[i].play);
        int result = channel_read_open(peer.channel, &get, &nothing, STEP_NS, &info, &reader, &err);
        if (result != -(int)cases[i].opens)
            fail_msg("case %zu opens: %d %s", i, result, err.message);
        bool is_told = result == -ERR_NOT_FOUND || result == -ERR_BAD_INPUT;
        assert_int_equal(err.public_message[0] != '\0', is_told);
        if (result == 0) {
            result = read_all(reader, &size, &err);
            if (result != -(int)cases[i].reads)
                fail_msg("case %zu reads: %d %s", i, result, err.message);
        }
        channel_read_close(reader);
        peer_stop(&peer);
    }
}

static int gone_fd = -1;

static void play_get_until_killed(struct peer *peer)
{
    uint32_t stream = begin_get(peer);
    uint64_t one = 1;
    peer_require(write(gone_fd, &one, sizeof(one)) == (ssize_t)sizeof(one));
    peer_require(peer_expect(peer, FRAME_KILL) == stream);
    end_get(peer, stream, ECANCELED, 0);
}

/* While init looks for the file, and before it heard of it. */
static void who_left_reads_no_more(void **state)
{
    const struct sandbox_get_file get = {.path = "f", .info = SANDBOX_INFO_FIRST};
    struct channel_watch watch = nothing;
    (void)state;
    watch.gone_fd = gone_fd = eventfd(0, EFD_CLOEXEC);
    for (int i = 0; i < 2; i++) {
        struct channel_reader *reader = NULL;
        struct sandbox_file_info info;
        struct err err = ERR_INIT;
        struct peer peer;
        peer_start(&peer, i == 0 ? play_get_until_killed : peer_drain);
        assert_fails(channel_read_open(peer.channel, &get, &watch, STEP_NS, &info, &reader, &err),
                     ERR_CLOSED, err);
        assert_non_null(strstr(err.message, "cancelled"));
        peer_stop(&peer);
    }
    (void)close(gone_fd);
}

/* Init is given credit for what the caller took, and for no more. */
enum { LARGE = 5 * FRAME_WINDOW };

static void play_large(struct peer *peer)
{
    static uint8_t bytes[FRAME_DATA_MAX];
    uint32_t stream = begin_get(peer);
    struct sandbox_file_info large = known;
    large.size_bytes = LARGE - SANDBOX_FILE_INFO_SIZE;
    uint64_t granted = FRAME_WINDOW;
    sandbox_file_info_encode(&large, bytes);
    for (uint64_t sent = 0; sent < LARGE; sent += sizeof(bytes)) {
        while (granted - sent < sizeof(bytes)) {
            struct frame frame;
            uint32_t credit = 0;
            while (frame_decoder_next(&peer->decoder, &frame, NULL) != 1)
                peer_require(frame_decoder_read(&peer->decoder, peer->fd, NULL) > 0);
            peer_require(frame.type == FRAME_CREDIT && frame.stream == stream + STREAM_STDOUT);
            peer_require(frame_u32(&frame, &credit, NULL) == 0);
            granted += credit;
            peer_require(granted <= sent + FRAME_WINDOW);
        }
        peer_send(peer, FRAME_DATA, stream + STREAM_STDOUT, bytes, sizeof(bytes));
    }
    end_get(peer, stream, 0, LARGE);
}

static void a_large_file_takes_credit(void **state)
{
    const struct sandbox_get_file get = {.path = "f", .info = SANDBOX_INFO_FIRST};
    struct channel_reader *reader = NULL;
    struct sandbox_file_info info;
    struct err err = ERR_INIT;
    struct peer peer;
    uint64_t came = 0;
    (void)state;
    peer_start(&peer, play_large);
    assert_ok(channel_read_open(peer.channel, &get, &nothing, STEP_NS, &info, &reader, &err), err);
    for (int result = 1; result == 1;) {
        BUF_AUTO struct buf bytes;
        buf_init(&bytes, FRAME_DATA_MAX + SANDBOX_FILE_INFO_SIZE); /* no piece is larger */
        result = channel_read_next(reader, &bytes, &err);
        assert_true(result >= 0);
        came += bytes.size;
    }
    assert_int_equal(came, info.size_bytes);
    channel_read_close(reader);
    peer_stop(&peer);
}

/* ---- into it ---- */

static const struct sandbox_put_file put = {.path = "f", .mode = 0640};

static uint32_t begin_put(struct peer *peer)
{
    struct sandbox_put_file into;
    peer_hello(peer, PEER_CAPS);
    struct frame frame = peer_next(peer);
    peer_require(frame.type == FRAME_PUT_FILE);
    peer_require(sandbox_put_file_decode(frame.payload, frame.size, &into, NULL) == 0);
    peer_require(strcmp(into.path, "f") == 0 && into.mode == 0640);
    return frame.stream;
}

static void play_take(struct peer *peer)
{
    uint32_t stream = begin_put(peer);
    uint64_t window = FRAME_WINDOW;
    uint64_t size = 0;
    for (;;) {
        struct frame frame = peer_next(peer);
        peer_require(frame.stream == stream);
        if (frame.type == FRAME_CLOSE)
            break;
        peer_require(frame.type == FRAME_DATA && frame.size <= window);
        for (size_t i = 0; i < frame.size; i++)
            peer_require(frame.payload[i] == (uint8_t)((size + i) % 251));
        size += frame.size;
        window -= frame.size;
        if (window == 0) {
            peer_credit(peer, stream, 5000);
            window = 5000;
        }
    }
    peer_done(peer, stream, 0, size);
    peer_drain(peer);
}

static void fill(uint8_t *data, size_t from, size_t size)
{
    for (size_t i = 0; i < size; i++)
        data[i] = (uint8_t)((from + i) % 251);
}

static void a_file_goes_in(void **state)
{
    static const size_t sizes[] = {0, 1, 4096, 100000};
    static uint8_t data[100000];
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        struct channel_writer *writer = NULL;
        struct err err = ERR_INIT;
        struct peer peer;
        uint64_t size = 1;
        peer_start(&peer, play_take);
        assert_ok(channel_write_open(peer.channel, &put, &nothing, STEP_NS, &writer, &err), err);
        for (size_t at = 0; at < 20 * sizes[i]; at += sizes[i]) {
            fill(data, at, sizes[i]);
            assert_ok(channel_write(writer, data, sizes[i], &err), err);
        }
        assert_ok(channel_write_end(writer, &size, &err), err);
        assert_int_equal(size, 20 * sizes[i]);
        channel_write_close(writer);
        peer_stop(&peer);
    }
}

/* A piece is on its way when its call returns: init takes it before the next one is given. */
static sem_t taken;

static void play_piece_by_piece(struct peer *peer)
{
    uint32_t stream = begin_put(peer);
    uint64_t size = 0;
    while (size < 6) {
        struct frame frame = peer_next(peer);
        peer_require(frame.type == FRAME_DATA && frame.stream == stream && frame.size == 2);
        size += frame.size;
        peer_require(sem_post(&taken) == 0);
    }
    peer_require(peer_expect(peer, FRAME_CLOSE) == stream);
    peer_done(peer, stream, 0, size);
    peer_drain(peer);
}

static void nothing_is_held_back(void **state)
{
    struct channel_writer *writer = NULL;
    struct err err = ERR_INIT;
    struct peer peer;
    uint64_t size = 0;
    (void)state;
    assert_int_equal(sem_init(&taken, 0, 0), 0);
    peer_start(&peer, play_piece_by_piece);
    assert_ok(channel_write_open(peer.channel, &put, &nothing, STEP_NS, &writer, &err), err);
    for (int i = 0; i < 3; i++) {
        assert_ok(channel_write(writer, "xy", 2, &err), err);
        assert_int_equal(sem_wait(&taken), 0);
    }
    assert_ok(channel_write_end(writer, &size, &err), err);
    assert_int_equal(size, 6);
    channel_write_close(writer);
    peer_stop(&peer);
    (void)sem_destroy(&taken);
}

#define PLAY_PUT(name, body)                                                                       \
    static void name(struct peer *peer)                                                            \
    {                                                                                              \
        uint32_t stream = begin_put(peer);                                                         \
        body peer_drain(peer);                                                                     \
    }
PLAY_PUT(play_put_enospc, peer_done(peer, stream, ENOSPC, 0);)
PLAY_PUT(play_put_eio, peer_done(peer, stream, EIO, 0);)
PLAY_PUT(play_put_eacces, peer_done(peer, stream, EACCES, 0);)
PLAY_PUT(play_put_other, peer_done(peer, stream + 1, 0, 0);)
PLAY_PUT(play_put_too_early, peer_done(peer, stream, 0, 0);)
PLAY_PUT(play_put_data, peer_send(peer, FRAME_DATA, stream, "x", 1);)

static void play_put_death(struct peer *peer)
{
    (void)begin_put(peer);
}

/* Whatever init says shows at one of the next pieces, without an end of them. */
static void how_writing_ends(void **state)
{
    static const struct {
        void (*play)(struct peer *peer);
        enum err_kind kind;
    } cases[] = {{play_put_enospc, ERR_BAD_INPUT},   {play_put_eio, ERR_UNAVAILABLE},
                 {play_put_too_early, ERR_PROTOCOL}, {play_put_data, ERR_PROTOCOL},
                 {play_put_eacces, ERR_BAD_INPUT},   {play_put_other, ERR_PROTOCOL},
                 {play_put_death, ERR_CLOSED}};
    static const uint8_t data[4096];
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct channel_writer *writer = NULL;
        struct err err = ERR_INIT;
        struct peer peer;
        peer_start(&peer, cases[i].play);
        int result = channel_write_open(peer.channel, &put, &nothing, STEP_NS, &writer, &err);
        while (result == 0)
            result = channel_write(writer, data, sizeof(data), &err);
        if (result != -(int)cases[i].kind)
            fail_msg("case %zu: %d %s", i, result, err.message);
        channel_write_close(writer);
        peer_stop(&peer);
    }
}

static void play_wrong_length(struct peer *peer)
{
    uint32_t stream = begin_put(peer);
    while (peer_next(peer).type != FRAME_CLOSE)
        continue;
    peer_done(peer, stream, 0, 1);
    peer_drain(peer);
}

static void all_of_it_has_to_arrive(void **state)
{
    struct channel_writer *writer = NULL;
    struct err err = ERR_INIT;
    struct peer peer;
    uint64_t size = 77;
    (void)state;
    peer_start(&peer, play_wrong_length);
    assert_ok(channel_write_open(peer.channel, &put, &nothing, STEP_NS, &writer, &err), err);
    assert_ok(channel_write(writer, "xy", 2, &err), err);
    assert_fails(channel_write_end(writer, &size, &err), ERR_PROTOCOL, err);
    assert_int_equal(size, 77);
    channel_write_close(writer);
    peer_stop(&peer);
}

/* Init takes nothing any more, and the client leaves: the call comes back. */
static void play_until_killed(struct peer *peer)
{
    uint32_t stream = begin_put(peer);
    uint64_t one = 1;
    for (size_t size = 0; size < FRAME_WINDOW;)
        size += peer_next(peer).size;
    peer_require(write(gone_fd, &one, sizeof(one)) == (ssize_t)sizeof(one));
    peer_require(peer_expect(peer, FRAME_KILL) == stream);
    peer_done(peer, stream, ECANCELED, FRAME_WINDOW);
    peer_drain(peer);
}

static void who_left_ends_it(void **state)
{
    static const uint8_t data[2 * FRAME_WINDOW];
    struct channel_writer *writer = NULL;
    struct err err = ERR_INIT;
    struct peer peer;
    (void)state;
    gone_fd = eventfd(0, EFD_CLOEXEC);
    struct channel_watch watch = nothing;
    watch.gone_fd = gone_fd;
    peer_start(&peer, play_until_killed);
    assert_ok(channel_write_open(peer.channel, &put, &watch, STEP_NS, &writer, &err), err);
    assert_fails(channel_write(writer, data, sizeof(data), &err), ERR_CLOSED, err);
    assert_non_null(strstr(err.message, "cancelled"));
    channel_write_close(writer);
    peer_stop(&peer);
    (void)close(gone_fd);
}

static void play_silence(struct peer *peer)
{
    (void)begin_put(peer);
    peer_drain(peer);
}

static void silence_has_an_end(void **state)
{
    struct channel_writer *writer = NULL;
    struct err err = ERR_INIT;
    struct peer peer;
    uint64_t size = 0;
    (void)state;
    peer_start(&peer, play_silence);
    assert_ok(channel_write_open(peer.channel, &put, &nothing, CLOCK_NS_PER_S / 2, &writer, &err),
              err);
    assert_ok(channel_write(writer, "x", 1, &err), err);
    assert_fails(channel_write_end(writer, &size, &err), ERR_TIMEOUT, err);
    channel_write_close(writer);
    peer_stop(&peer);
}

/* ---- ahead of a program ---- */

/* Gives no credit: the file's first window is all that may be sent. */
static void play_no_credit(struct peer *peer)
{
    peer_hello(peer, PEER_CAPS);
    (void)peer_expect(peer, FRAME_PUT_FILE);
    peer_drain(peer);
}

/* Init never heard of the program, but waits for the rest of its file: what comes next on that
 * channel would wait with it. */
static void a_program_that_is_cancelled_amid_its_files_ends_the_channel(void **state)
{
    static const char source[2 * FRAME_WINDOW];
    const char *argv[] = {"true", NULL};
    struct channel_exec exec = {.exec = {.execution_id = "e", .cwd = "/", .argv = argv, .argc = 1},
                                .watch = nothing};
    struct channel_exit out;
    struct err err = ERR_INIT;
    struct peer peer;
    (void)state;
    exec.watch.cancel_fd = eventfd(1, EFD_CLOEXEC);
    exec.watch.deadline_ns = clock_now_ns() + STEP_NS;
    peer_start(&peer, play_no_credit);
    assert_ok(channel_put_file(peer.channel, "/f", 0644, source, sizeof(source), &err), err);
    assert_ok(channel_exec(peer.channel, &exec, &out, &err), err);
    assert_int_equal(out.exit.exit_code, 137);
    (void)close(exec.watch.cancel_fd);
    exec.watch.cancel_fd = -1;
    assert_fails(channel_exec(peer.channel, &exec, &out, &err), ERR_CLOSED, err);
    peer_stop(&peer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_file_and_what_it_is),
        cmocka_unit_test(only_what_it_is),
        cmocka_unit_test(how_reading_ends),
        cmocka_unit_test(who_left_reads_no_more),
        cmocka_unit_test(a_large_file_takes_credit),
        cmocka_unit_test(a_file_goes_in),
        cmocka_unit_test(nothing_is_held_back),
        cmocka_unit_test(how_writing_ends),
        cmocka_unit_test(all_of_it_has_to_arrive),
        cmocka_unit_test(who_left_ends_it),
        cmocka_unit_test(silence_has_an_end),
        cmocka_unit_test(a_program_that_is_cancelled_amid_its_files_ends_the_channel),
    };
    return cmocka_run_group_tests_name("channel_file", tests, NULL, NULL);
}
