/* A channel against a peer that says what a test tells it to: what leaves when, what is put
 * together, what is refused, and after what the channel is good for the next thing. */
#include "check.h"

#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "channel_peer.h"
#include "wire/kernel_msg.h"

/* What came out of one execution or file. */
struct heard {
    struct buf out, message;
    unsigned messages;
    uint64_t events;
    bool refuse;
};

static int on_output(void *context, int stream, const uint8_t *data, size_t size, struct err *err)
{
    struct heard *heard = context;
    (void)stream;
    if (heard->refuse)
        return err_set(err, ERR_TOO_LARGE, "nobody takes it");
    return buf_append(&heard->out, data, size, err);
}

static int on_message(void *context, const uint8_t *data, size_t size, struct err *err)
{
    struct heard *heard = context;
    heard->messages++;
    heard->message.size = 0;
    return buf_append(&heard->message, data, size, err);
}

static void heard_init(struct heard *heard)
{
    memset(heard, 0, sizeof(*heard));
    buf_init(&heard->out, 1 << 24);
    buf_init(&heard->message, 1 << 24);
}

static void heard_done(struct heard *heard)
{
    buf_done(&heard->out);
    buf_done(&heard->message);
}

static int64_t soon_ns(void)
{
    return clock_now_ns() + 20 * CLOCK_NS_PER_S;
}

static struct channel_watch watch_for(struct heard *heard)
{
    return (struct channel_watch){.cancel_fd = -1,
                                  .interrupt_fd = -1,
                                  .gone_fd = -1,
                                  .deadline_ns = soon_ns(),
                                  .output = on_output,
                                  .message = on_message,
                                  .events = &heard->events,
                                  .context = heard};
}

static int run_code(struct peer *peer, const struct channel_watch *watch, uint64_t messages_max,
                    struct channel_exit *out, struct err *err)
{
    const struct channel_run run = {.run = {.execution_id = "e",
                                            .mode = SANDBOX_RUN_CELL,
                                            .file = "<cell>",
                                            .keep_bytes = 1 << 20,
                                            .output_max_bytes = 1 << 20,
                                            .messages_max_bytes = messages_max},
                                    .code = "code",
                                    .code_size = 4,
                                    .stdin_data = "in",
                                    .stdin_size = 2,
                                    .watch = *watch};
    return channel_run(peer->channel, &run, out, err);
}

static int exec_code(struct peer *peer, const struct channel_watch *watch, struct channel_exit *out,
                     struct err *err)
{
    const char *argv[] = {"true", NULL};
    const struct channel_exec exec = {
        .exec = {.execution_id = "e", .cwd = "/", .argv = argv, .argc = 1}, .watch = *watch};
    return channel_exec(peer->channel, &exec, out, err);
}

/* Takes RUN, its code and its input; returns the stream. */
static uint32_t take_run(struct peer *peer)
{
    uint32_t stream = peer_expect(peer, FRAME_RUN);
    peer_require(peer_expect(peer, FRAME_DATA) == stream);
    peer_require(peer_expect(peer, FRAME_CLOSE) == stream);
    peer_require(peer_expect(peer, FRAME_DATA) == stream + STREAM_STDIN);
    peer_require(peer_expect(peer, FRAME_CLOSE) == stream + STREAM_STDIN);
    return stream;
}

static uint32_t begin_run(struct peer *peer)
{
    peer_hello(peer, PEER_CAPS);
    uint32_t stream = take_run(peer);
    peer_send(peer, FRAME_STARTED, stream, NULL, 0);
    return stream;
}

/* Runs code against a peer and expects this to come of it. */
static void expect_run(void (*play)(struct peer *peer), enum err_kind kind, struct heard *heard)
{
    struct peer peer;
    struct channel_exit out;
    struct err err = ERR_INIT;
    peer_start(&peer, play);
    const struct channel_watch watch = watch_for(heard);
    int result = run_code(&peer, &watch, 1 << 20, &out, &err);
    if (result != -(int)kind)
        print_error("%s\n", err.message);
    assert_int_equal(result, -(int)kind);
    peer_stop(&peer);
}

/* ---- what leaves ---- */

static void play_one_write(struct peer *peer)
{
    static const struct {
        enum frame_type type;
        uint32_t stream;
    } frames[] = {{FRAME_HELLO, 0}, {FRAME_PUT_FILE, 4}, {FRAME_DATA, 4},
                  {FRAME_CLOSE, 4}, {FRAME_RUN, 8},      {FRAME_DATA, 8},
                  {FRAME_CLOSE, 8}, {FRAME_DATA, 9},     {FRAME_CLOSE, 9}};
    /* One send(2) is one recv(2) while it fits. */
    peer_require(frame_decoder_read(&peer->decoder, peer->fd, NULL) > 0);
    for (size_t i = 0; i < sizeof(frames) / sizeof(frames[0]); i++) {
        struct frame frame;
        peer_require(frame_decoder_next(&peer->decoder, &frame, NULL) == 1);
        peer_require(frame.type == frames[i].type && frame.stream == frames[i].stream);
        if (frame.type == FRAME_RUN) {
            struct sandbox_run run;
            peer_require(sandbox_run_decode(frame.payload, frame.size, &run, NULL) == 0);
            peer_require(strcmp(run.file, "<cell>") == 0);
            sandbox_run_done(&run);
        }
        if (frame.type == FRAME_DATA && frame.stream == 8)
            peer_require(frame.size == 4 && memcmp(frame.payload, "code", 4) == 0);
    }
}

static void a_run_leaves_in_one_write(void **state)
{
    (void)state;
    struct peer peer;
    struct heard heard;
    struct channel_exit out;
    struct err err = ERR_INIT;
    heard_init(&heard);
    const struct channel_watch watch = watch_for(&heard);
    int pair[2];
    uint8_t nonce[SANDBOX_NONCE_SIZE] = {0};
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    peer = (struct peer){.fd = pair[0]};
    frame_decoder_init(&peer.decoder);
    assert_ok(channel_open(pair[1], nonce, &peer.channel, &err), err);
    assert_ok(channel_put_file(peer.channel, "f", 0644, "x", 1, &err), err);
    struct pollfd quiet = {.fd = peer.fd, .events = POLLIN};
    assert_int_equal(poll(&quiet, 1, 0), 0); /* nothing before the run */
    (void)shutdown(peer.fd, SHUT_WR);        /* so that the run ends as soon as it was written */
    assert_fails(run_code(&peer, &watch, 0, &out, &err), ERR_CLOSED, err);
    play_one_write(&peer);
    channel_close(peer.channel);
    (void)close(peer.fd);
    frame_decoder_done(&peer.decoder);
    heard_done(&heard);
}

static void play_code_without_credit(struct peer *peer)
{
    size_t size = 0;
    peer_hello(peer, PEER_CAPS);
    uint32_t stream = peer_expect(peer, FRAME_RUN);
    for (;;) {
        struct frame frame = peer_next(peer);
        peer_require(frame.stream == stream);
        if (frame.type == FRAME_CLOSE)
            break;
        peer_require(frame.type == FRAME_DATA && frame.size <= FRAME_DATA_MAX);
        size += frame.size;
    }
    peer_require(size == SANDBOX_CODE_MAX);
    peer_require(peer_expect(peer, FRAME_CLOSE) == stream + STREAM_STDIN);
    peer_send(peer, FRAME_STARTED, stream, NULL, 0);
    peer_exit(peer, stream, 0);
    peer_drain(peer);
}

static void large_code_needs_no_credit(void **state)
{
    (void)state;
    struct peer peer;
    struct heard heard;
    struct channel_exit out;
    struct err err = ERR_INIT;
    char *code = calloc(1, SANDBOX_CODE_MAX);
    assert_non_null(code);
    heard_init(&heard);
    peer_start(&peer, play_code_without_credit);
    struct channel_run run = {.run = {.execution_id = "e", .file = ""},
                              .code = code,
                              .code_size = (size_t)SANDBOX_CODE_MAX + 1,
                              .watch = watch_for(&heard)};
    assert_fails(channel_run(peer.channel, &run, &out, &err), ERR_TOO_LARGE, err);
    run.code_size = SANDBOX_CODE_MAX;
    assert_ok(channel_run(peer.channel, &run, &out, &err), err);
    assert_int_equal(out.exit.exit_code, 0);
    assert_string_equal(out.exit.start_error, "");
    peer_stop(&peer);
    heard_done(&heard);
    free(code);
}

/* ---- messages ---- */

enum { LARGE = 5 * FRAME_WINDOW + 7 };

/* A message of several windows, in parts, with output in between, as credit allows. */
static void play_large_message(struct peer *peer)
{
    static uint8_t bytes[FRAME_DATA_MAX];
    uint64_t window = FRAME_WINDOW;
    uint32_t stream = begin_run(peer);
    memset(bytes, 'm', sizeof(bytes));
    for (size_t left = LARGE; left > 0;) {
        size_t piece = left < sizeof(bytes) ? left : sizeof(bytes);
        while (window < piece) {
            struct frame frame;
            uint32_t credit = 0;
            while (frame_decoder_next(&peer->decoder, &frame, NULL) != 1)
                peer_require(frame_decoder_read(&peer->decoder, peer->fd, NULL) > 0);
            peer_require(frame.type == FRAME_CREDIT && frame.stream == stream);
            peer_require(frame_u32(&frame, &credit, NULL) == 0);
            window += credit;
        }
        left -= piece;
        window -= piece;
        peer_send(peer, left > 0 ? FRAME_MESSAGE_PART : FRAME_MESSAGE, stream, bytes, piece);
        if (left == 7)
            peer_send(peer, FRAME_DATA, stream + STREAM_STDOUT, "out", 3);
    }
    peer_send(peer, FRAME_MESSAGE, stream, "", 0);
    peer_send(peer, FRAME_MESSAGE, stream, "{}", 2);
    peer_exit(peer, stream, 3);
    peer_drain(peer);
}

static void messages_are_put_together(void **state)
{
    (void)state;
    struct peer peer;
    struct heard heard;
    struct channel_exit out;
    struct err err = ERR_INIT;
    heard_init(&heard);
    peer_start(&peer, play_large_message);
    const struct channel_watch watch = watch_for(&heard);
    assert_ok(run_code(&peer, &watch, LARGE + 2, &out, &err), err);
    assert_int_equal(out.exit.exit_code, 3);
    assert_int_equal(heard.messages, 3);
    assert_int_equal(heard.message.size, 2);
    assert_memory_equal(heard.message.data, "{}", 2);
    assert_string_equal(buf_cstr(&heard.out), "out");
    assert_int_equal(heard.events, LARGE / FRAME_DATA_MAX + 1 + 1 + 2);
    peer_stop(&peer);
    heard_done(&heard);
}

static void messages_may_be_dropped(void **state)
{
    (void)state;
    struct peer peer;
    struct heard heard;
    struct channel_exit out;
    struct err err = ERR_INIT;
    heard_init(&heard);
    peer_start(&peer, play_large_message);
    struct channel_watch watch = watch_for(&heard);
    watch.message = NULL;
    assert_ok(run_code(&peer, &watch, LARGE + 2, &out, &err), err);
    assert_int_equal(heard.messages, 0);
    peer_stop(&peer);
    heard_done(&heard);
}

static void play_endless_messages(struct peer *peer)
{
    static uint8_t bytes[FRAME_DATA_MAX];
    uint32_t stream = begin_run(peer);
    for (int i = 0; i < 8; i++) /* the window */
        peer_send(peer, FRAME_MESSAGE_PART, stream, bytes, sizeof(bytes));
    for (int i = 0; i < 4; i++) /* half of it was granted again */
        peer_send(peer, FRAME_MESSAGE_PART, stream, bytes, sizeof(bytes));
    peer_drain(peer);
}

static void messages_are_bounded(void **state)
{
    (void)state;
    struct peer peer;
    struct heard heard;
    struct channel_exit out;
    struct err err = ERR_INIT;
    heard_init(&heard);
    peer_start(&peer, play_endless_messages);
    const struct channel_watch watch = watch_for(&heard);
    assert_fails(run_code(&peer, &watch, 100, &out, &err), ERR_PROTOCOL, err);
    assert_non_null(strstr(err.message, "more messages"));
    peer_stop(&peer);
    heard_done(&heard);
}

/* ---- what is refused in a run ---- */

static void play_message_before_start(struct peer *peer)
{
    peer_hello(peer, PEER_CAPS);
    peer_send(peer, FRAME_MESSAGE, take_run(peer), "{}", 2);
    peer_drain(peer);
}

static void play_message_on_stdout(struct peer *peer)
{
    peer_send(peer, FRAME_MESSAGE, begin_run(peer) + STREAM_STDOUT, "{}", 2);
    peer_drain(peer);
}

static void play_message_beyond_credit(struct peer *peer)
{
    static uint8_t bytes[FRAME_DATA_MAX + 1];
    peer_send(peer, FRAME_MESSAGE_PART, begin_run(peer), bytes, sizeof(bytes));
    peer_drain(peer);
}

static void play_done(struct peer *peer)
{
    peer_done(peer, begin_run(peer), 0, 0);
    peer_drain(peer);
}

static void play_listed(struct peer *peer)
{
    peer_send(peer, FRAME_LISTED, begin_run(peer), NULL, 0);
    peer_drain(peer);
}

static void play_pong(struct peer *peer)
{
    (void)begin_run(peer);
    peer_send(peer, FRAME_PONG, 0, NULL, 0);
    peer_drain(peer);
}

static void play_second_hello(struct peer *peer)
{
    (void)begin_run(peer);
    peer_send(peer, FRAME_HELLO, 0, NULL, 0);
    peer_drain(peer);
}

static void play_data_after_close(struct peer *peer)
{
    uint32_t stream = begin_run(peer);
    peer_send(peer, FRAME_CLOSE, stream + STREAM_STDOUT, NULL, 0);
    peer_send(peer, FRAME_DATA, stream + STREAM_STDOUT, "x", 1);
    peer_drain(peer);
}

static void play_twice_started(struct peer *peer)
{
    peer_send(peer, FRAME_STARTED, begin_run(peer), NULL, 0);
    peer_drain(peer);
}

static void play_credit_for_the_future(struct peer *peer)
{
    peer_credit(peer, begin_run(peer) + STREAM_STEP, 1);
    peer_drain(peer);
}

static void play_large_credit(struct peer *peer)
{
    uint32_t stream = begin_run(peer);
    peer_credit(peer, stream + STREAM_STDIN, UINT32_MAX);
    peer_drain(peer);
}

static void play_close_after_start(struct peer *peer)
{
    (void)begin_run(peer);
}

static void play_taken_over(struct peer *peer)
{
    peer_done(peer, begin_run(peer), ECANCELED, 0);
    peer_drain(peer);
}

static void play_lacking(struct peer *peer)
{
    peer_hello(peer, SANDBOX_CAP_EXEC);
    peer_drain(peer);
}

static void what_ends_a_run(void **state)
{
    (void)state;
    static const struct {
        void (*play)(struct peer *peer);
        enum err_kind kind;
    } cases[] = {{play_message_before_start, ERR_PROTOCOL},
                 {play_message_on_stdout, ERR_PROTOCOL},
                 {play_message_beyond_credit, ERR_PROTOCOL},
                 {play_done, ERR_PROTOCOL},
                 {play_listed, ERR_PROTOCOL},
                 {play_pong, ERR_PROTOCOL},
                 {play_second_hello, ERR_PROTOCOL},
                 {play_data_after_close, ERR_PROTOCOL},
                 {play_twice_started, ERR_PROTOCOL},
                 {play_credit_for_the_future, ERR_PROTOCOL},
                 {play_large_credit, ERR_PROTOCOL},
                 {play_close_after_start, ERR_CLOSED},
                 {play_taken_over, ERR_CONFLICT},
                 {play_lacking, ERR_UNSUPPORTED}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct heard heard;
        heard_init(&heard);
        expect_run(cases[i].play, cases[i].kind, &heard);
        heard_done(&heard);
    }
}

static void play_exec_message(struct peer *peer)
{
    peer_hello(peer, PEER_CAPS);
    uint32_t stream = peer_expect(peer, FRAME_EXEC);
    peer_send(peer, FRAME_STARTED, stream, NULL, 0);
    peer_send(peer, FRAME_MESSAGE, stream, "{}", 2);
    peer_drain(peer);
}

/* A program has no kernel; and what it asks for of init is looked at in the hello. */
static void what_ends_an_execution(void **state)
{
    (void)state;
    const char *argv[] = {"true", NULL};
    struct peer peer;
    struct heard heard;
    struct channel_exit out;
    struct err err = ERR_INIT;
    heard_init(&heard);
    const struct channel_watch watch = watch_for(&heard);
    peer_start(&peer, play_exec_message);
    assert_fails(exec_code(&peer, &watch, &out, &err), ERR_PROTOCOL, err);
    peer_stop(&peer);
    struct channel_exec exec = {
        .exec = {.execution_id = "e", .cwd = "/", .argv = argv, .argc = 1, .terminal = 80U << 16},
        .watch = watch};
    int idle_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    for (int i = 0; i < 3; i++) {
        peer_start(&peer, play_lacking);
        assert_fails(channel_exec(peer.channel, &exec, &out, &err), ERR_UNSUPPORTED, err);
        peer_stop(&peer);
        exec.exec.terminal = 0;
        exec.exec.hold = i == 0;
        exec.watch.interrupt_fd = i == 0 ? -1 : idle_fd;
    }
    (void)close(idle_fd);
    heard_done(&heard);
}

/* ---- watching ---- */

static int interrupt_fd = -1;
static _Atomic int cancel_cause;

static void play_interrupts(struct peer *peer)
{
    uint64_t one = 1;
    uint32_t stream = begin_run(peer);
    for (int i = 0; i < 3; i++) {
        peer_require(write(interrupt_fd, &one, sizeof(one)) == (ssize_t)sizeof(one));
        peer_require(peer_expect(peer, FRAME_INTERRUPT) == stream);
    }
    peer_exit(peer, stream, 1);
    peer_drain(peer);
}

static void interrupts_as_often_as_asked(void **state)
{
    (void)state;
    struct peer peer;
    struct heard heard;
    struct channel_exit out;
    struct err err = ERR_INIT;
    heard_init(&heard);
    struct channel_watch watch = watch_for(&heard);
    watch.interrupt_fd = interrupt_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    peer_start(&peer, play_interrupts);
    assert_ok(run_code(&peer, &watch, 0, &out, &err), err);
    assert_int_equal(out.exit.exit_code, 1);
    peer_stop(&peer);
    (void)close(interrupt_fd);
    heard_done(&heard);
}

static void play_kill(struct peer *peer)
{
    peer_hello(peer, PEER_CAPS);
    uint32_t cause = 0;
    struct frame frame = peer_next(peer);
    while (frame.type != FRAME_KILL)
        frame = peer_next(peer);
    peer_require(frame_u32(&frame, &cause, NULL) == 0 && cause == (uint32_t)cancel_cause);
    peer_exit(peer, frame.stream, 137);
    peer_drain(peer);
}

static void a_cancelled_run_is_killed(void **state)
{
    (void)state;
    struct peer peer;
    struct heard heard;
    struct channel_exit out;
    struct err err = ERR_INIT;
    heard_init(&heard);
    struct channel_watch watch = watch_for(&heard);
    cancel_cause = KILL_SERVER;
    watch.cancel_cause = &cancel_cause;
    watch.cancel_fd = eventfd(1, EFD_CLOEXEC);
    peer_start(&peer, play_kill);
    assert_ok(run_code(&peer, &watch, 0, &out, &err), err);
    assert_int_equal(out.exit.exit_code, 137);
    peer_stop(&peer);
    (void)close(watch.cancel_fd);
    heard_done(&heard);
}

static void play_silence(struct peer *peer)
{
    (void)begin_run(peer);
    peer_drain(peer);
}

static void silence_has_an_end(void **state)
{
    (void)state;
    struct peer peer;
    struct heard heard;
    struct channel_exit out;
    struct sandbox_listed listed;
    struct err err = ERR_INIT;
    heard_init(&heard);
    struct channel_watch watch = watch_for(&heard);
    watch.deadline_ns = clock_now_ns() + 50 * CLOCK_NS_PER_MS;
    peer_start(&peer, play_silence);
    assert_fails(run_code(&peer, &watch, 0, &out, &err), ERR_TIMEOUT, err);
    peer_stop(&peer);
    peer_start(&peer, peer_drain);
    assert_fails(channel_list(peer.channel, clock_now_ns() + 50 * CLOCK_NS_PER_MS, &listed, &err),
                 ERR_TIMEOUT, err);
    peer_stop(&peer);
    heard_done(&heard);
}

/* ---- one after the other ---- */

/* Every kind of talk on one channel, with credit that comes late after each. */
static void play_all(struct peer *peer)
{
    uint8_t info[SANDBOX_FILE_INFO_SIZE];
    peer_hello(peer, PEER_CAPS);
    uint32_t stream = take_run(peer);
    peer_send(peer, FRAME_STARTED, stream, NULL, 0);
    peer_exit(peer, stream, 0);
    peer_credit(peer, stream + STREAM_STDIN, 2);
    peer_done(peer, peer_expect(peer, FRAME_KERNEL), ENOENT, 0);
    peer_done(peer, peer_expect(peer, FRAME_KERNEL), EEXIST, 0);
    peer_done(peer, peer_expect(peer, FRAME_KERNEL), 0, 0);
    peer_done(peer, peer_expect(peer, FRAME_FORGET), ESRCH, 0);
    peer_done(peer, peer_expect(peer, FRAME_FORGET), EBUSY, 0);
    peer_done(peer, peer_expect(peer, FRAME_FORGET), 0, 0);
    peer_done(peer, peer_expect(peer, FRAME_TIMERS), 0, 0);
    peer_done(peer, peer_expect(peer, FRAME_TIMERS), EINVAL, 0);
    peer_done(peer, peer_expect(peer, FRAME_ATTACH), ESRCH, 0);
    peer_done(peer, peer_expect(peer, FRAME_ATTACH), EINVAL, 0);
    stream = peer_expect(peer, FRAME_PUT_FILE);
    peer_require(peer_expect(peer, FRAME_DATA) == stream);
    peer_require(peer_expect(peer, FRAME_CLOSE) == stream);
    peer_credit(peer, stream, 1);
    peer_done(peer, stream, 0, 3);
    peer_credit(peer, stream, 2);
    stream = peer_expect(peer, FRAME_GET_FILE);
    sandbox_file_info_encode(&(struct sandbox_file_info){.size_bytes = 3}, info);
    peer_send(peer, FRAME_DATA, stream + STREAM_STDOUT, info, sizeof(info));
    peer_send(peer, FRAME_DATA, stream + STREAM_STDOUT, "abc", 3);
    peer_send(peer, FRAME_CLOSE, stream + STREAM_STDOUT, NULL, 0);
    peer_done(peer, stream, 0, sizeof(info) + 3);
    stream = peer_expect(peer, FRAME_EXEC);
    peer_require(peer_expect(peer, FRAME_CLOSE) == stream + STREAM_STDIN);
    peer_send(peer, FRAME_STARTED, stream, NULL, 0);
    peer_exit(peer, stream, 9);
    peer_drain(peer);
}

static const struct sandbox_put_file put = {.path = "f", .mode = 0600};
static const struct sandbox_get_file get = {.path = "f", .info = SANDBOX_INFO_FIRST};
static const struct channel_watch nothing = {.cancel_fd = -1, .interrupt_fd = -1, .gone_fd = -1};

static int write_abc(struct peer *peer, struct err *err)
{
    struct channel_writer *writer = NULL;
    uint64_t size = 0;
    int result =
        channel_write_open(peer->channel, &put, &nothing, 20 * CLOCK_NS_PER_S, &writer, err);
    if (result == 0)
        result = channel_write(writer, "abc", 3, err);
    if (result == 0)
        result = channel_write_end(writer, &size, err);
    if (result == 0)
        assert_int_equal(size, 3);
    channel_write_close(writer);
    return result;
}

static int read_all(struct peer *peer, struct buf *out, struct err *err)
{
    struct channel_reader *reader = NULL;
    struct sandbox_file_info info;
    int result =
        channel_read_open(peer->channel, &get, &nothing, 20 * CLOCK_NS_PER_S, &info, &reader, err);
    bool more = result == 0;
    while (more) {
        result = channel_read_next(reader, out, err);
        more = result == 1;
    }
    channel_read_close(reader);
    return result;
}

static void a_channel_is_used_again(void **state)
{
    (void)state;
    const char *argv[] = {"python", NULL};
    const struct sandbox_kernel kernel = {.cwd = "/", .argv = argv, .argc = 1};
    const struct sandbox_timers timers = {.idle_ms = 1};
    const struct sandbox_attach attach = {.execution_id = "e"};
    struct peer peer;
    struct heard heard;
    struct channel_exit out;
    struct err err = ERR_INIT;
    heard_init(&heard);
    const struct channel_watch watch = watch_for(&heard);
    peer_start(&peer, play_all);
    assert_ok(run_code(&peer, &watch, 0, &out, &err), err);
    assert_fails(channel_kernel(peer.channel, &kernel, &watch, &err), ERR_BAD_INPUT, err);
    assert_non_null(strstr(err.public_message, "No such file"));
    assert_fails(channel_kernel(peer.channel, &kernel, &watch, &err), ERR_CONFLICT, err);
    assert_ok(channel_kernel(peer.channel, &kernel, &watch, &err), err);
    assert_fails(channel_forget(peer.channel, "e", soon_ns(), &err), ERR_NOT_FOUND, err);
    assert_fails(channel_forget(peer.channel, "e", soon_ns(), &err), ERR_NOT_FOUND, err);
    assert_ok(channel_forget(peer.channel, "e", soon_ns(), &err), err);
    assert_ok(channel_timers(peer.channel, &timers, soon_ns(), &err), err);
    assert_fails(channel_timers(peer.channel, &timers, soon_ns(), &err), ERR_BAD_INPUT, err);
    assert_fails(channel_attach(peer.channel, &attach, &watch, &out, &err), ERR_NOT_FOUND, err);
    assert_fails(channel_attach(peer.channel, &attach, &watch, &out, &err), ERR_BAD_INPUT, err);
    assert_ok(write_abc(&peer, &err), err);
    assert_ok(read_all(&peer, &heard.out, &err), err);
    assert_string_equal(buf_cstr(&heard.out), "abc");
    assert_ok(exec_code(&peer, &watch, &out, &err), err);
    assert_int_equal(out.exit.exit_code, 9);
    peer_stop(&peer);
    heard_done(&heard);
}

static void play_more_after_exit(struct peer *peer)
{
    uint32_t stream = begin_run(peer);
    peer_exit(peer, stream, 0);
    peer_send(peer, FRAME_DATA, stream + STREAM_STDOUT, "x", 1);
    peer_drain(peer);
}

static void what_is_left_over_is_looked_at(void **state)
{
    (void)state;
    struct peer peer;
    struct heard heard;
    struct channel_exit out;
    struct err err = ERR_INIT;
    heard_init(&heard);
    const struct channel_watch watch = watch_for(&heard);
    peer_start(&peer, play_more_after_exit);
    assert_ok(run_code(&peer, &watch, 0, &out, &err), err);
    assert_fails(channel_forget(peer.channel, "e", soon_ns(), &err), ERR_PROTOCOL, err);
    peer_stop(&peer);
    heard_done(&heard);
}

/* An init that lacks an operation is not asked for it, and is good for the next thing. */
static void play_exec_only(struct peer *peer)
{
    peer_hello(peer, SANDBOX_CAP_EXEC);
    uint32_t stream = peer_expect(peer, FRAME_EXEC);
    peer_send(peer, FRAME_STARTED, stream, NULL, 0);
    peer_exit(peer, stream, 0);
    peer_drain(peer);
}

static void what_init_lacks_is_not_asked(void **state)
{
    (void)state;
    const char *argv[] = {"python", NULL};
    const struct sandbox_kernel kernel = {.cwd = "/", .argv = argv, .argc = 1};
    const struct sandbox_timers timers = {.idle_ms = 1};
    struct sandbox_listed listed;
    struct peer peer;
    struct heard heard;
    struct channel_exit out;
    struct err err = ERR_INIT;
    heard_init(&heard);
    const struct channel_watch watch = watch_for(&heard);
    peer_start(&peer, play_exec_only);
    for (int i = 0; i < 2; i++) { /* before its hello was seen, and after */
        assert_fails(channel_kernel(peer.channel, &kernel, &watch, &err), ERR_UNSUPPORTED, err);
        assert_fails(channel_forget(peer.channel, "e", soon_ns(), &err), ERR_UNSUPPORTED, err);
        assert_fails(channel_list(peer.channel, soon_ns(), &listed, &err), ERR_UNSUPPORTED, err);
        assert_fails(channel_timers(peer.channel, &timers, soon_ns(), &err), ERR_UNSUPPORTED, err);
        assert_fails(read_all(&peer, &heard.out, &err), ERR_UNSUPPORTED, err);
        assert_fails(write_abc(&peer, &err), ERR_UNSUPPORTED, err);
        assert_fails(run_code(&peer, &watch, 0, &out, &err), ERR_UNSUPPORTED, err);
    }
    assert_ok(exec_code(&peer, &watch, &out, &err), err);
    peer_stop(&peer);
    heard_done(&heard);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_run_leaves_in_one_write),
        cmocka_unit_test(large_code_needs_no_credit),
        cmocka_unit_test(messages_are_put_together),
        cmocka_unit_test(messages_may_be_dropped),
        cmocka_unit_test(messages_are_bounded),
        cmocka_unit_test(what_ends_a_run),
        cmocka_unit_test(what_ends_an_execution),
        cmocka_unit_test(interrupts_as_often_as_asked),
        cmocka_unit_test(a_cancelled_run_is_killed),
        cmocka_unit_test(silence_has_an_end),
        cmocka_unit_test(a_channel_is_used_again),
        cmocka_unit_test(what_is_left_over_is_looked_at),
        cmocka_unit_test(what_init_lacks_is_not_asked),
    };
    return cmocka_run_group_tests_name("channel_peer", tests, NULL, NULL);
}
