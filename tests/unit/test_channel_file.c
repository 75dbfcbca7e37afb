/* Files as streams, against a peer that says what a test tells it to: credit both ways, callbacks
 * that refuse or block, and what init may not say. */
#include "check.h"

#include <errno.h>
#include <semaphore.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "channel_peer.h"

static const struct sandbox_get_file get = {.path = "dir/f", .size_bytes = 1 << 24};
static const struct sandbox_put_file put = {.path = "dir/f", .mode = 0600};

static int64_t soon_ns(void)
{
    return clock_now_ns() + 20 * CLOCK_NS_PER_S;
}

/* ---- out of the sandbox ---- */

struct taken {
    size_t size;
    size_t refuse_at; /* 0: never */
};

static int take_bytes(void *context, int stream, const uint8_t *data, size_t size, struct err *err)
{
    struct taken *taken = context;
    (void)data;
    assert_int_equal(stream, STREAM_STDOUT);
    taken->size += size;
    if (taken->refuse_at != 0 && taken->size >= taken->refuse_at)
        return err_set(err, ERR_TOO_LARGE, "full");
    return 0;
}

static int get_from(void (*play)(struct peer *peer), struct taken *taken, int gone_fd,
                    uint64_t *out_size, struct err *err)
{
    struct peer peer;
    const struct channel_watch watch = {.cancel_fd = -1,
                                        .interrupt_fd = -1,
                                        .gone_fd = gone_fd,
                                        .deadline_ns = soon_ns(),
                                        .output = take_bytes,
                                        .context = taken};
    peer_start(&peer, play);
    int result = channel_get_file(peer.channel, &get, &watch, out_size, err);
    peer_stop(&peer);
    return result;
}

static uint32_t begin_get(struct peer *peer)
{
    struct sandbox_get_file asked;
    peer_hello(peer, PEER_CAPS);
    struct frame frame = peer_next(peer);
    peer_require(frame.type == FRAME_GET_FILE);
    peer_require(sandbox_get_file_decode(frame.payload, frame.size, &asked, NULL) == 0);
    peer_require(strcmp(asked.path, get.path) == 0 && asked.size_bytes == get.size_bytes);
    return frame.stream;
}

static void end_get(struct peer *peer, uint32_t stream, int sys_errno, uint64_t size)
{
    peer_send(peer, FRAME_CLOSE, stream + STREAM_STDOUT, NULL, 0);
    peer_done(peer, stream, sys_errno, size);
    peer_drain(peer);
}

enum { LARGE = 6 * FRAME_WINDOW };

/* Sends a large file as credit allows; the first KILL ends it. */
static void play_large(struct peer *peer)
{
    static uint8_t bytes[FRAME_DATA_MAX];
    uint32_t stream = begin_get(peer);
    uint64_t window = FRAME_WINDOW;
    size_t sent = 0;
    while (sent < LARGE) {
        struct frame frame;
        if (window >= sizeof(bytes)) {
            peer_send(peer, FRAME_DATA, stream + STREAM_STDOUT, bytes, sizeof(bytes));
            window -= sizeof(bytes);
            sent += sizeof(bytes);
            continue;
        }
        while (frame_decoder_next(&peer->decoder, &frame, NULL) != 1)
            peer_require(frame_decoder_read(&peer->decoder, peer->fd, NULL) > 0);
        if (frame.type == FRAME_KILL) {
            peer_require(frame.stream == stream);
            end_get(peer, stream, ECANCELED, sent);
            return;
        }
        uint32_t credit = 0;
        peer_require(frame.type == FRAME_CREDIT && frame.stream == stream + STREAM_STDOUT);
        peer_require(frame_u32(&frame, &credit, NULL) == 0);
        window += credit;
    }
    end_get(peer, stream, 0, sent);
}

static void a_large_file_comes_out(void **state)
{
    (void)state;
    struct taken taken = {0};
    struct err err = ERR_INIT;
    uint64_t size = 0;
    assert_ok(get_from(play_large, &taken, -1, &size, &err), err);
    assert_int_equal(size, LARGE);
    assert_int_equal(taken.size, LARGE);
}

static void whoever_takes_it_may_refuse(void **state)
{
    (void)state;
    struct taken taken = {.refuse_at = 1};
    struct err err = ERR_INIT;
    uint64_t size = 77;
    assert_fails(get_from(play_large, &taken, -1, &size, &err), ERR_TOO_LARGE, err);
    assert_string_equal(err.message, "full");
    assert_int_equal(size, 77);
    assert_int_equal(taken.size, FRAME_DATA_MAX); /* not called again */
}

static int gone_fd = -1;

static void play_until_killed(struct peer *peer)
{
    uint32_t stream = begin_get(peer);
    uint64_t one = 1;
    peer_require(write(gone_fd, &one, sizeof(one)) == (ssize_t)sizeof(one));
    peer_require(peer_expect(peer, FRAME_KILL) == stream);
    end_get(peer, stream, ECANCELED, 0);
}

static void who_left_cancels_it(void **state)
{
    (void)state;
    struct taken taken = {0};
    struct err err = ERR_INIT;
    uint64_t size = 0;
    gone_fd = eventfd(0, EFD_CLOEXEC);
    for (int i = 0; i < 2; i++) { /* while it goes on, and before init heard of it */
        assert_fails(
            get_from(i == 0 ? play_until_killed : peer_drain, &taken, gone_fd, &size, &err),
            ERR_CLOSED, err);
        assert_non_null(strstr(err.message, "cancelled"));
    }
    (void)close(gone_fd);
}

#define PLAY_DONE(name, number)                                                                    \
    static void name(struct peer *peer)                                                            \
    {                                                                                              \
        end_get(peer, begin_get(peer), number, 0);                                                 \
    }
PLAY_DONE(play_enoent, ENOENT)
PLAY_DONE(play_enotdir, ENOTDIR)
PLAY_DONE(play_einval, EINVAL)
PLAY_DONE(play_eisdir, EISDIR)
PLAY_DONE(play_eacces, EACCES)
PLAY_DONE(play_eio, EIO)
PLAY_DONE(play_empty, 0)

static void play_wrong_size(struct peer *peer)
{
    uint32_t stream = begin_get(peer);
    peer_send(peer, FRAME_DATA, stream + STREAM_STDOUT, "x", 1);
    end_get(peer, stream, 0, 2);
}

static void play_data_on_stderr(struct peer *peer)
{
    peer_send(peer, FRAME_DATA, begin_get(peer) + STREAM_STDERR, "x", 1);
    peer_drain(peer);
}

static void play_close_twice(struct peer *peer)
{
    uint32_t stream = begin_get(peer);
    peer_send(peer, FRAME_CLOSE, stream + STREAM_STDOUT, NULL, 0);
    end_get(peer, stream, 0, 0);
}

static void play_data_after_close(struct peer *peer)
{
    uint32_t stream = begin_get(peer);
    peer_send(peer, FRAME_CLOSE, stream + STREAM_STDOUT, NULL, 0);
    peer_send(peer, FRAME_DATA, stream + STREAM_STDOUT, "x", 1);
    peer_drain(peer);
}

static void play_exit(struct peer *peer)
{
    peer_exit(peer, begin_get(peer), 0);
    peer_drain(peer);
}

static void play_credit(struct peer *peer)
{
    peer_credit(peer, begin_get(peer), 1);
    peer_drain(peer);
}

static void play_end(struct peer *peer)
{
    (void)begin_get(peer);
}

static void how_reading_ends(void **state)
{
    (void)state;
    static const struct {
        void (*play)(struct peer *peer);
        enum err_kind kind;
        bool is_public;
    } cases[] = {{play_enoent, ERR_NOT_FOUND, true},
                 {play_enotdir, ERR_NOT_FOUND, true},
                 {play_einval, ERR_BAD_INPUT, true},
                 {play_eisdir, ERR_BAD_INPUT, true},
                 {play_eacces, ERR_BAD_INPUT, true},
                 {play_eio, ERR_UNAVAILABLE, false},
                 {play_wrong_size, ERR_PROTOCOL, false},
                 {play_data_on_stderr, ERR_PROTOCOL, false},
                 {play_close_twice, ERR_PROTOCOL, false},
                 {play_exit, ERR_PROTOCOL, false},
                 {play_data_after_close, ERR_PROTOCOL, false},
                 {play_credit, ERR_PROTOCOL, false},
                 {play_end, ERR_CLOSED, false},
                 {play_empty, ERR_NONE, false}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct taken taken = {0};
        struct err err = ERR_INIT;
        uint64_t size = 1;
        int result = get_from(cases[i].play, &taken, -1, &size, &err);
        if (result != -(int)cases[i].kind)
            print_error("case %zu: %s\n", i, err.message);
        assert_int_equal(result, -(int)cases[i].kind);
        assert_int_equal(err.public_message[0] != '\0', cases[i].is_public);
        assert_int_equal(size, result == 0 ? 0 : 1);
    }
}

static void play_more_than_asked(struct peer *peer)
{
    peer_hello(peer, PEER_CAPS);
    uint32_t stream = peer_expect(peer, FRAME_GET_FILE);
    peer_send(peer, FRAME_DATA, stream + STREAM_STDOUT, "abcdef", 6);
    peer_drain(peer);
}

static void no_more_than_was_asked_for(void **state)
{
    (void)state;
    const struct sandbox_get_file few = {.path = "f", .size_bytes = 5};
    struct peer peer;
    struct taken taken = {0};
    struct err err = ERR_INIT;
    uint64_t size = 0;
    const struct channel_watch watch = {.cancel_fd = -1,
                                        .interrupt_fd = -1,
                                        .gone_fd = -1,
                                        .deadline_ns = soon_ns(),
                                        .output = take_bytes,
                                        .context = &taken};
    peer_start(&peer, play_more_than_asked);
    assert_fails(channel_get_file(peer.channel, &few, &watch, &size, &err), ERR_PROTOCOL, err);
    assert_int_equal(taken.size, 0);
    peer_stop(&peer);
}

/* ---- into the sandbox ---- */

struct given {
    size_t left;
    size_t fail_at; /* what is left when it breaks off; SIZE_MAX: never */
    sem_t *wait;    /* NULL: it does not block */
};

static ssize_t give_bytes(void *context, uint8_t *data, size_t size, struct err *err)
{
    struct given *given = context;
    if (given->left <= given->fail_at && given->fail_at != SIZE_MAX)
        return err_set(err, ERR_BAD_INPUT, "the client broke off");
    if (given->wait)
        (void)sem_wait(given->wait);
    size = size < given->left ? size : given->left;
    memset(data, 'u', size);
    given->left -= size;
    return (ssize_t)size;
}

static int put_to(void (*play)(struct peer *peer), struct given *given, int64_t deadline_ns,
                  uint64_t *out_size, struct err *err)
{
    struct peer peer;
    peer_start(&peer, play);
    int result =
        channel_put_stream(peer.channel, &put, give_bytes, given, deadline_ns, out_size, err);
    peer_stop(&peer);
    return result;
}

static uint32_t begin_put(struct peer *peer)
{
    struct sandbox_put_file asked;
    peer_hello(peer, PEER_CAPS);
    struct frame frame = peer_next(peer);
    peer_require(frame.type == FRAME_PUT_FILE);
    peer_require(sandbox_put_file_decode(frame.payload, frame.size, &asked, NULL) == 0);
    peer_require(strcmp(asked.path, put.path) == 0 && asked.mode == put.mode);
    return frame.stream;
}

/* Takes all of a file; grants credit only when none is left. */
static void play_take_all(struct peer *peer)
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
        size += frame.size;
        window -= frame.size;
        if (window == 0) {
            peer_credit(peer, stream, 1000);
            window = 1000;
        }
    }
    peer_done(peer, stream, 0, size);
    peer_drain(peer);
}

static void a_large_file_goes_in(void **state)
{
    (void)state;
    struct given given = {.left = 2 * FRAME_WINDOW + 13, .fail_at = SIZE_MAX};
    struct err err = ERR_INIT;
    uint64_t size = 0;
    assert_ok(put_to(play_take_all, &given, soon_ns(), &size, &err), err);
    assert_int_equal(size, 2 * FRAME_WINDOW + 13);
    given.left = 0;
    assert_ok(put_to(play_take_all, &given, soon_ns(), &size, &err), err);
    assert_int_equal(size, 0);
}

/* The second piece is given only when init has the first, and the third only after the second:
 * nothing is held back while the input blocks. */
static sem_t pieces;

static void play_piece_by_piece(struct peer *peer)
{
    uint32_t stream = begin_put(peer);
    for (int i = 0; i < 4; i++) {
        (void)sem_post(&pieces);
        struct frame frame = peer_next(peer);
        peer_require(frame.stream == stream);
        if (i < 3)
            peer_require(frame.type == FRAME_DATA && frame.size == FRAME_DATA_MAX);
        else
            peer_require(frame.type == FRAME_CLOSE);
    }
    peer_done(peer, stream, 0, 3 * FRAME_DATA_MAX);
    peer_drain(peer);
}

static void nothing_is_held_while_input_blocks(void **state)
{
    (void)state;
    struct given given = {.left = 3 * FRAME_DATA_MAX, .fail_at = SIZE_MAX, .wait = &pieces};
    struct err err = ERR_INIT;
    uint64_t size = 0;
    assert_int_equal(sem_init(&pieces, 0, 0), 0);
    assert_ok(put_to(play_piece_by_piece, &given, soon_ns(), &size, &err), err);
    (void)sem_destroy(&pieces);
}

static void play_broken_off(struct peer *peer)
{
    uint32_t stream = begin_put(peer);
    peer_require(peer_expect(peer, FRAME_DATA) == stream);
    peer_require(peer_expect(peer, FRAME_KILL) == stream);
    peer_done(peer, stream, ECANCELED, FRAME_DATA_MAX);
    peer_drain(peer);
}

static void input_may_break_off(void **state)
{
    (void)state;
    struct given given = {.left = 2 * FRAME_DATA_MAX, .fail_at = FRAME_DATA_MAX};
    struct err err = ERR_INIT;
    uint64_t size = 0;
    assert_fails(put_to(play_broken_off, &given, soon_ns(), &size, &err), ERR_BAD_INPUT, err);
    assert_string_equal(err.message, "the client broke off");
}

#define PLAY_REFUSED(name, number)                                                                 \
    static void name(struct peer *peer)                                                            \
    {                                                                                              \
        uint32_t stream = begin_put(peer);                                                         \
        peer_done(peer, stream, number, 0);                                                        \
        peer_drain(peer);                                                                          \
    }
PLAY_REFUSED(play_put_enospc, ENOSPC)
PLAY_REFUSED(play_put_eacces, EACCES)
PLAY_REFUSED(play_put_eio, EIO)
PLAY_REFUSED(play_put_too_early, 0)

static void play_put_wrong_size(struct peer *peer)
{
    uint32_t stream = begin_put(peer);
    while (peer_next(peer).type != FRAME_CLOSE)
        continue;
    peer_done(peer, stream, 0, 1);
    peer_drain(peer);
}

static void play_put_data(struct peer *peer)
{
    peer_send(peer, FRAME_DATA, begin_put(peer), "x", 1);
    peer_drain(peer);
}

static void play_put_other(struct peer *peer)
{
    peer_done(peer, begin_put(peer) + 1, 0, 0);
    peer_drain(peer);
}

static void play_put_end(struct peer *peer)
{
    (void)begin_put(peer);
}

/* The file has no end before init answers: credit runs out. */
static void how_writing_ends(void **state)
{
    (void)state;
    static const struct {
        void (*play)(struct peer *peer);
        enum err_kind kind;
        size_t size;
    } cases[] = {
        {play_put_enospc, ERR_BAD_INPUT, 1 << 24}, {play_put_eacces, ERR_BAD_INPUT, 1 << 24},
        {play_put_eio, ERR_UNAVAILABLE, 1 << 24},  {play_put_too_early, ERR_PROTOCOL, 1 << 24},
        {play_put_data, ERR_PROTOCOL, 1 << 24},    {play_put_other, ERR_PROTOCOL, 1 << 24},
        {play_put_end, ERR_CLOSED, 1 << 24},       {play_put_wrong_size, ERR_PROTOCOL, 100}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct given given = {.left = cases[i].size, .fail_at = SIZE_MAX};
        struct err err = ERR_INIT;
        uint64_t size = 0;
        int result = put_to(cases[i].play, &given, soon_ns(), &size, &err);
        if (result != -(int)cases[i].kind)
            print_error("case %zu: %s\n", i, err.message);
        assert_int_equal(result, -(int)cases[i].kind);
    }
}

static void play_put_silence(struct peer *peer)
{
    (void)begin_put(peer);
    peer_drain(peer);
}

static void silence_has_an_end(void **state)
{
    (void)state;
    struct given given = {.left = 10, .fail_at = SIZE_MAX};
    struct err err = ERR_INIT;
    uint64_t size = 0;
    int64_t deadline_ns = clock_now_ns() + 50 * CLOCK_NS_PER_MS;
    assert_fails(put_to(play_put_silence, &given, deadline_ns, &size, &err), ERR_TIMEOUT, err);
}

/* The client's time is not init's: the deadline passes while the input blocks. */
static ssize_t give_late(void *context, uint8_t *data, size_t size, struct err *err)
{
    const int64_t *deadline_ns = context;
    while (clock_now_ns() <= *deadline_ns)
        (void)usleep(1000);
    (void)data;
    (void)size;
    (void)err;
    return 0;
}

static void a_slow_client_is_not_inits_fault(void **state)
{
    (void)state;
    struct peer peer;
    struct err err = ERR_INIT;
    uint64_t size = 1;
    int64_t deadline_ns = clock_now_ns() + 2 * CLOCK_NS_PER_S;
    peer_start(&peer, play_take_all);
    assert_ok(
        channel_put_stream(peer.channel, &put, give_late, &deadline_ns, deadline_ns, &size, &err),
        err);
    assert_int_equal(size, 0);
    peer_stop(&peer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_large_file_comes_out),
        cmocka_unit_test(whoever_takes_it_may_refuse),
        cmocka_unit_test(who_left_cancels_it),
        cmocka_unit_test(how_reading_ends),
        cmocka_unit_test(no_more_than_was_asked_for),
        cmocka_unit_test(a_large_file_goes_in),
        cmocka_unit_test(nothing_is_held_while_input_blocks),
        cmocka_unit_test(input_may_break_off),
        cmocka_unit_test(how_writing_ends),
        cmocka_unit_test(silence_has_an_end),
        cmocka_unit_test(a_slow_client_is_not_inits_fault),
    };
    return cmocka_run_group_tests_name("channel_file", tests, NULL, NULL);
}
