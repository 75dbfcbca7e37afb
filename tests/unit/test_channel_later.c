/* What a channel sends without waiting for the answer: what leaves with what, who takes the
 * answers, and what a sandbox that did not get its limits is good for. */
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "channel_peer.h"

enum { ALL_CAPS = PEER_CAPS | SANDBOX_CAP_LIMITS, LATER_MOST = 2 * SANDBOX_HELD_MAX };

static const struct sandbox_timers timers = {.lifetime_ms = 1000, .orphan_ms = 7};
static const struct sandbox_limits limits = {.pids_max = 12, .file_size_max = 345};

/* The linker puts this before the one of the library: how often a channel waits. */
static unsigned polls;
int __real_poll(struct pollfd *fds, nfds_t count, int timeout_ms);
int __wrap_poll(struct pollfd *fds, nfds_t count, int timeout_ms);

int __wrap_poll(struct pollfd *fds, nfds_t count, int timeout_ms)
{
    polls++;
    return __real_poll(fds, count, timeout_ms);
}

static int64_t soon_ns(void)
{
    return clock_now_ns() + 20 * CLOCK_NS_PER_S;
}

static int run_script(struct channel *channel, struct channel_exit *out, struct err *err)
{
    const struct channel_run run = {
        .run = {.execution_id = "e",
                .mode = SANDBOX_RUN_SCRIPT,
                .file = "/workspace/main.py",
                .keep_bytes = 1 << 20,
                .output_max_bytes = 1 << 20},
        .code = "code",
        .code_size = 4,
        .stdin_data = "in",
        .stdin_size = 2,
        .watch = {.cancel_fd = -1, .interrupt_fd = -1, .gone_fd = -1, .deadline_ns = soon_ns()}};
    return channel_run(channel, &run, out, err);
}

static int list(struct channel *channel, struct err *err)
{
    struct sandbox_listed listed;
    return channel_list(channel, soon_ns(), &listed, err);
}

/* ---- for the peer ---- */

static void answer_list(struct peer *peer, uint32_t stream)
{
    const struct sandbox_listed listed = {.lifetime_ms = 1, .idle_ms = 1};
    BUF_AUTO struct buf payload;
    buf_init(&payload, FRAME_PAYLOAD_MAX);
    peer_require(sandbox_listed_encode(&listed, &payload, NULL) == 0);
    peer_send(peer, FRAME_LISTED, stream, payload.data, payload.size);
}

static void answer_lists(struct peer *peer, unsigned count)
{
    while (count-- > 0)
        answer_list(peer, peer_expect(peer, FRAME_LIST));
}

static uint32_t expect_timers(struct peer *peer)
{
    struct sandbox_timers got;
    struct frame frame = peer_next(peer);
    peer_require(frame.type == FRAME_TIMERS);
    peer_require(sandbox_timers_decode(frame.payload, frame.size, &got, NULL) == 0);
    peer_require(got.lifetime_ms == 1000 && got.idle_ms == 0 && got.orphan_ms == 7);
    return frame.stream;
}

static uint32_t expect_limits(struct peer *peer)
{
    struct sandbox_limits got;
    struct frame frame = peer_next(peer);
    peer_require(frame.type == FRAME_LIMITS);
    peer_require(sandbox_limits_decode(frame.payload, frame.size, &got, NULL) == 0);
    peer_require(got.pids_max == 12 && got.file_size_max == 345 && got.open_files_max == 0);
    return frame.stream;
}

/* Takes RUN with all that belongs to it. */
static uint32_t expect_run(struct peer *peer)
{
    uint32_t stream = peer_expect(peer, FRAME_RUN);
    peer_require(peer_expect(peer, FRAME_DATA) == stream);
    peer_require(peer_expect(peer, FRAME_CLOSE) == stream);
    peer_require(peer_expect(peer, FRAME_DATA) == stream + STREAM_STDIN);
    peer_require(peer_expect(peer, FRAME_CLOSE) == stream + STREAM_STDIN);
    return stream;
}

/* ---- one write ---- */

/* Takes one message of a socket that keeps the bounds of what was written. */
static void next_write(struct peer *peer)
{
    struct frame frame;
    peer_require(frame_decoder_next(&peer->decoder, &frame, NULL) == 0);
    peer_require(frame_decoder_read(&peer->decoder, peer->fd, NULL) > 0);
}

static struct frame next_of_write(struct peer *peer)
{
    struct frame frame = {0};
    peer_require(frame_decoder_next(&peer->decoder, &frame, NULL) == 1);
    return frame;
}

static void append_answers(struct buf *out, uint32_t first_done, unsigned count)
{
    const struct sandbox_done done = {.sys_errno = 0};
    BUF_AUTO struct buf payload;
    buf_init(&payload, FRAME_PAYLOAD_MAX);
    peer_require(sandbox_done_encode(&done, &payload, NULL) == 0);
    for (uint32_t i = 0; i < count; i++)
        peer_require(frame_append(out, FRAME_DONE, first_done + i * STREAM_STEP, payload.data,
                                  payload.size, NULL) == 0);
}

static void play_pooled(struct peer *peer)
{
    static const enum frame_type types[] = {FRAME_TIMERS, FRAME_LIMITS, FRAME_PUT_FILE, FRAME_DATA,
                                            FRAME_CLOSE,  FRAME_RUN,    FRAME_DATA,     FRAME_CLOSE,
                                            FRAME_DATA,   FRAME_CLOSE};
    const struct sandbox_exit end = {.exit_code = 3, .start_error = ""};
    BUF_AUTO struct buf out;
    BUF_AUTO struct buf payload;
    uint32_t first = 0;
    uint32_t run = 0;
    buf_init(&out, FRAME_PAYLOAD_MAX);
    buf_init(&payload, FRAME_PAYLOAD_MAX);
    peer_hello(peer, ALL_CAPS);
    next_write(peer);
    answer_list(peer, next_of_write(peer).stream);
    next_write(peer);
    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        struct frame frame = next_of_write(peer);
        peer_require(frame.type == types[i]);
        first = i == 0 ? frame.stream : first;
        run = frame.type == FRAME_RUN ? frame.stream : run;
    }
    append_answers(&out, first, 2); /* of times and limits; the file was numbered before them */
    append_answers(&out, first - STREAM_STEP, 1);
    peer_require(frame_append(&out, FRAME_STARTED, run, NULL, 0, NULL) == 0);
    peer_require(sandbox_exit_encode(&end, &payload, NULL) == 0);
    peer_require(frame_append(&out, FRAME_EXIT, run, payload.data, payload.size, NULL) == 0);
    peer_require(send(peer->fd, out.data, out.size, 0) == (ssize_t)out.size);
    next_write(peer); /* nothing was written after the exit but what is asked next */
    answer_list(peer, next_of_write(peer).stream);
}

static void a_take_is_one_write_and_one_wait(void **state)
{
    (void)state;
    struct peer peer;
    struct channel_exit out;
    struct err err = ERR_INIT;
    peer_start_on(&peer, SOCK_SEQPACKET, play_pooled);
    assert_ok(list(peer.channel, &err), err); /* as one of the pool has seen the hello */
    polls = 0;
    assert_ok(channel_put_file(peer.channel, "f", 0644, "x", 1, &err), err);
    channel_timers_later(peer.channel, &timers);
    channel_limits_later(peer.channel, &limits);
    assert_ok(run_script(peer.channel, &out, &err), err);
    assert_int_equal(out.exit.exit_code, 3);
    assert_int_equal(polls, 1);
    assert_ok(list(peer.channel, &err), err);
    peer_stop(&peer);
}

static void play_fresh(struct peer *peer)
{
    next_write(peer);
    peer_require(next_of_write(peer).type == FRAME_HELLO);
    peer_done(peer, expect_timers(peer), 0, 0); /* in order, but what it says comes after its own */
    peer_done(peer, expect_limits(peer), 0, 0);
}

static void play_hello_late(struct peer *peer)
{
    play_fresh(peer);
    peer_drain(peer);
}

/* Also before the hello; but no answer comes before it. */
static void an_answer_before_the_hello_is_nonsense(void **state)
{
    (void)state;
    struct peer peer;
    struct err err = ERR_INIT;
    peer_start_on(&peer, SOCK_SEQPACKET, play_hello_late);
    channel_timers_later(peer.channel, &timers);
    channel_limits_later(peer.channel, &limits);
    assert_fails(list(peer.channel, &err), ERR_PROTOCOL, err);
    peer_stop(&peer);
}

/* ---- answers ---- */

/* The hello of one that can do that, and what came with ours. */
static void play_new(struct peer *peer, uint64_t capabilities)
{
    peer_hello(peer, capabilities);
    (void)expect_timers(peer);
    (void)expect_limits(peer);
}

static void play_set_at_once(struct peer *peer)
{
    peer_hello(peer, ALL_CAPS);
    peer_done(peer, expect_timers(peer), 0, 0);
    peer_done(peer, expect_limits(peer), 0, 0);
    uint32_t stream = expect_run(peer);
    peer_send(peer, FRAME_STARTED, stream, NULL, 0);
    peer_exit(peer, stream, 0);
    answer_lists(peer, 1);
    peer_drain(peer);
}

/* The answers of both come after the exit, and among those of the talks that follow. */
static void play_set_late(struct peer *peer)
{
    peer_hello(peer, ALL_CAPS);
    uint32_t first = expect_timers(peer);
    uint32_t second = expect_limits(peer);
    uint32_t stream = expect_run(peer);
    peer_send(peer, FRAME_STARTED, stream, NULL, 0);
    peer_exit(peer, stream, 0);
    peer_done(peer, second, 0, 0);
    uint32_t asked = peer_expect(peer, FRAME_LIST);
    peer_done(peer, first, 0, 0);
    answer_list(peer, asked);
    peer_drain(peer);
}

static void expect_set(void (*play)(struct peer *peer))
{
    struct peer peer;
    struct channel_exit out;
    struct err err = ERR_INIT;
    peer_start(&peer, play);
    channel_timers_later(peer.channel, &timers);
    channel_limits_later(peer.channel, &limits);
    assert_ok(run_script(peer.channel, &out, &err), err);
    assert_ok(list(peer.channel, &err), err);
    assert_true(channel_alive(peer.channel));
    peer_stop(&peer);
}

static void answers_come_when_they_come(void **state)
{
    (void)state;
    expect_set(play_set_at_once);
    expect_set(play_set_late);
}

static void play_refused(struct peer *peer)
{
    peer_hello(peer, ALL_CAPS);
    peer_done(peer, expect_timers(peer), 0, 0);
    peer_done(peer, expect_limits(peer), EINVAL, 0);
    peer_drain(peer);
}

static void play_no_limits(struct peer *peer)
{
    play_new(peer, PEER_CAPS);
    peer_drain(peer);
}

static void play_no_timers(struct peer *peer)
{
    play_new(peer, ALL_CAPS & ~SANDBOX_CAP_TIMERS);
    peer_drain(peer);
}

static void expect_not_set(void (*play)(struct peer *peer), const char *what)
{
    struct peer peer;
    struct channel_exit out;
    struct err err = ERR_INIT;
    peer_start(&peer, play);
    channel_timers_later(peer.channel, &timers);
    channel_limits_later(peer.channel, &limits);
    assert_fails(run_script(peer.channel, &out, &err), ERR_CLOSED, err);
    assert_non_null(strstr(err.message, what));
    assert_false(channel_alive(peer.channel));
    assert_fails(list(peer.channel, &err), ERR_CLOSED, err); /* nor for anything else */
    peer_stop(&peer);
}

static void nothing_runs_without_its_limits(void **state)
{
    (void)state;
    expect_not_set(play_refused, "limits");
    expect_not_set(play_no_limits, "limits");
    expect_not_set(play_no_timers, "times");
}

/* The exit is there before the refusal: what comes next hears of it. */
static void play_refused_late(struct peer *peer)
{
    peer_hello(peer, ALL_CAPS);
    uint32_t times = expect_timers(peer);
    uint32_t stream = expect_run(peer);
    peer_send(peer, FRAME_STARTED, stream, NULL, 0);
    peer_exit(peer, stream, 0);
    peer_done(peer, times, EINVAL, 0);
    peer_drain(peer);
}

static void a_late_refusal_is_that_of_the_next_call(void **state)
{
    (void)state;
    struct peer peer;
    struct channel_exit out;
    struct err err = ERR_INIT;
    peer_start(&peer, play_refused_late);
    channel_timers_later(peer.channel, &timers);
    assert_ok(run_script(peer.channel, &out, &err), err);
    assert_fails(list(peer.channel, &err), ERR_CLOSED, err);
    peer_stop(&peer);
}

/* After the hello: what init lacks is not sent. */
static void play_exec_only(struct peer *peer)
{
    peer_hello(peer, SANDBOX_CAP_EXEC | SANDBOX_CAP_HOLD);
    answer_lists(peer, 1);
    peer_require(frame_decoder_read(&peer->decoder, peer->fd, NULL) == 0);
}

static void what_init_lacks_is_not_sent(void **state)
{
    (void)state;
    struct peer peer;
    struct err err = ERR_INIT;
    peer_start(&peer, play_exec_only);
    assert_ok(list(peer.channel, &err), err);
    channel_limits_later(peer.channel, &limits);
    channel_flush_later(peer.channel);
    assert_false(channel_alive(peer.channel));
    assert_fails(list(peer.channel, &err), ERR_CLOSED, err);
    peer_stop(&peer);
}

static void play_nonsense(struct peer *peer)
{
    peer_hello(peer, ALL_CAPS);
    uint32_t stream = expect_timers(peer);
    peer_done(peer, stream, 0, 0);
    peer_done(peer, stream, 0, 0); /* once is enough */
    peer_drain(peer);
}

static void an_answer_comes_once(void **state)
{
    (void)state;
    struct peer peer;
    struct err err = ERR_INIT;
    peer_start(&peer, play_nonsense);
    channel_timers_later(peer.channel, &timers);
    assert_fails(list(peer.channel, &err), ERR_PROTOCOL, err);
    peer_stop(&peer);
}

/* ---- what is forgotten ---- */

static void play_forgetful(struct peer *peer)
{
    peer_hello(peer, ALL_CAPS);
    answer_lists(peer, 1);
    for (int i = 0; i < LATER_MOST; i++) {
        struct sandbox_attach attach;
        struct frame frame = peer_next(peer);
        peer_require(frame.type == FRAME_FORGET);
        peer_require(sandbox_attach_decode(frame.payload, frame.size, &attach, NULL) == 0);
        peer_require(strcmp(attach.execution_id, "done") == 0);
        peer_done(peer, frame.stream, i % 2 == 0 ? ESRCH : 0, 0);
    }
    answer_lists(peer, 1);
    peer_done(peer, peer_expect(peer, FRAME_FORGET), EBUSY, 0); /* there is room for more again */
    answer_lists(peer, 1);
    peer_drain(peer);
}

/* As many as init can hold, and whether it knew them or not; without a call in between. */
static void what_is_forgotten_leaves_by_itself(void **state)
{
    (void)state;
    struct peer peer;
    struct err err = ERR_INIT;
    peer_start(&peer, play_forgetful);
    assert_ok(list(peer.channel, &err), err);
    for (int i = 0; i < LATER_MOST + 3; i++) {
        channel_forget_later(peer.channel, "done");
        channel_flush_later(peer.channel);
    }
    assert_true(channel_alive(peer.channel));
    assert_ok(list(peer.channel, &err), err);
    channel_forget_later(peer.channel, "done");
    assert_ok(list(peer.channel, &err), err);
    peer_stop(&peer);
}

/* Fills the way to the peer. Returns the bytes that fit. */
static size_t fill(int fd)
{
    char junk[4096] = {0};
    size_t filled = 0;
    ssize_t sent = 0;
    while ((sent = send(fd, junk, sizeof(junk), MSG_DONTWAIT)) > 0)
        filled += (size_t)sent;
    return filled;
}

static void drain(int fd, size_t size)
{
    char junk[4096];
    while (size > 0) {
        ssize_t got = recv(fd, junk, size < sizeof(junk) ? size : sizeof(junk), 0);
        assert_true(got > 0);
        size -= (size_t)got;
    }
}

static void a_flush_does_not_wait(void **state)
{
    (void)state;
    struct peer peer = {.fd = -1};
    struct err err = ERR_INIT;
    int pair[2];
    uint8_t nonce[SANDBOX_NONCE_SIZE] = {0};
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    FD_AUTO int ours = fcntl(pair[1], F_DUPFD_CLOEXEC, 0);
    assert_true(ours >= 0);
    peer.fd = pair[0];
    frame_decoder_init(&peer.decoder);
    assert_ok(channel_open(pair[1], nonce, &peer.channel, &err), err);
    size_t filled = fill(ours);
    channel_forget_later(peer.channel, "done");
    channel_flush_later(peer.channel); /* there is no room, and nobody reads */
    drain(peer.fd, filled);
    struct pollfd quiet = {.fd = peer.fd, .events = POLLIN};
    assert_int_equal(poll(&quiet, 1, 0), 0);
    channel_flush_later(peer.channel);
    assert_int_equal(poll(&quiet, 1, 0), 1);
    assert_int_equal(peer_expect(&peer, FRAME_HELLO), 0);
    (void)peer_expect(&peer, FRAME_FORGET);
    channel_close(peer.channel);
    fd_close(&peer.fd);
    frame_decoder_done(&peer.decoder);
}

/* ---- whether it lives ---- */

static void the_end_shows_behind_what_came(void **state)
{
    (void)state;
    struct channel *channel = NULL;
    struct err err = ERR_INIT;
    int pair[2];
    uint8_t nonce[SANDBOX_NONCE_SIZE] = {0};
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    FD_AUTO int theirs = pair[0];
    assert_ok(channel_open(pair[1], nonce, &channel, &err), err);
    assert_true(channel_alive(channel));
    assert_int_equal(send(theirs, "bytes", 5, 0), 5); /* as answers that nobody took yet */
    assert_true(channel_alive(channel));
    assert_int_equal(shutdown(theirs, SHUT_WR), 0);
    assert_false(channel_alive(channel));
    fd_close(&theirs);
    assert_false(channel_alive(channel));
    channel_close(channel);
}

static void a_broken_one_is_not_alive(void **state)
{
    (void)state;
    struct channel *channel = NULL;
    struct err err = ERR_INIT;
    int pair[2];
    uint8_t nonce[SANDBOX_NONCE_SIZE] = {0};
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    FD_AUTO int theirs = pair[0];
    assert_ok(channel_open(pair[1], nonce, &channel, &err), err);
    channel_break(channel);
    assert_false(channel_alive(channel));
    assert_fails(list(channel, &err), ERR_CLOSED, err);
    channel_close(channel);
}

/* ---- whether it was heard ---- */

struct ending {
    int fd;
    void (*end)(int fd);
};

static void *end_main(void *context)
{
    const struct ending *ending = context;
    ending->end(ending->fd);
    (void)close(ending->fd);
    return NULL;
}

static void wait_for_bytes(int fd)
{
    struct pollfd there = {.fd = fd, .events = POLLIN};
    peer_require(__real_poll(&there, 1, -1) == 1);
}

/* Before anything was written. */
static void end_before(int fd)
{
    (void)fd;
}

/* It was killed before it could look. */
static void end_unread(int fd)
{
    wait_for_bytes(fd);
}

static void end_read(int fd)
{
    char bytes[64 * 1024];
    peer_require(recv(fd, bytes, sizeof(bytes), 0) > 0);
}

/* It was killed after its first look, as init takes one. */
static void end_looked(int fd)
{
    struct frame_decoder decoder;
    wait_for_bytes(fd);
    frame_decoder_init(&decoder);
    peer_require(frame_decoder_read(&decoder, fd, NULL) > 0);
    frame_decoder_done(&decoder);
}

/* A script of this size, to an init that does this when the script is there. */
static bool is_unheard(size_t code_size, void (*end)(int fd))
{
    static const uint8_t code[1 << 20];
    uint8_t nonce[SANDBOX_NONCE_SIZE] = {0};
    struct channel *channel = NULL;
    struct channel_exit out;
    struct err err = ERR_INIT;
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    assert_ok(channel_open(pair[1], nonce, &channel, &err), err);
    const struct channel_run run = {
        .run = {.execution_id = "e", .file = "f"},
        .code = code,
        .code_size = code_size,
        .watch = {.cancel_fd = -1, .interrupt_fd = -1, .gone_fd = -1, .deadline_ns = soon_ns()}};
    pthread_t thread;
    struct ending ending = {.fd = pair[0], .end = end};
    bool before = end == end_before;
    if (before)
        (void)end_main(&ending);
    else
        assert_int_equal(pthread_create(&thread, NULL, end_main, &ending), 0);
    assert_fails(channel_run(channel, &run, &out, &err), ERR_CLOSED, err);
    if (!before)
        (void)pthread_join(thread, NULL);
    bool unheard = channel_unheard(channel);
    channel_close(channel);
    return unheard;
}

static void what_was_never_read_was_not_done(void **state)
{
    (void)state;
    assert_true(is_unheard(10, end_before));
    assert_true(is_unheard(10, end_unread));
    assert_false(is_unheard(10, end_read));
    assert_false(is_unheard(10, end_looked));
    assert_false(is_unheard(20 << 10, end_looked)); /* it has the first part */
    assert_false(is_unheard(20 << 10, end_unread)); /* which is the same from here */
    assert_false(is_unheard(1 << 20, end_read));
    assert_false(
        is_unheard(1 << 20, end_unread)); /* of several writes it may have read the first */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_take_is_one_write_and_one_wait),
        cmocka_unit_test(an_answer_before_the_hello_is_nonsense),
        cmocka_unit_test(answers_come_when_they_come),
        cmocka_unit_test(nothing_runs_without_its_limits),
        cmocka_unit_test(a_late_refusal_is_that_of_the_next_call),
        cmocka_unit_test(what_init_lacks_is_not_sent),
        cmocka_unit_test(an_answer_comes_once),
        cmocka_unit_test(what_is_forgotten_leaves_by_itself),
        cmocka_unit_test(a_flush_does_not_wait),
        cmocka_unit_test(the_end_shows_behind_what_came),
        cmocka_unit_test(what_was_never_read_was_not_done),
        cmocka_unit_test(a_broken_one_is_not_alive),
    };
    return cmocka_run_group_tests_name("channel_later", tests, NULL, NULL);
}
