/* A terminal on a channel, against a peer that says what a test tells it to: bytes both ways at
 * once, the window, hang-ups from either side, and what init may not say. */
#include "check.h"

#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "channel_peer.h"

static const char *argv[] = {"sh", NULL};

struct person {
    struct buf seen;
    size_t typed_size; /* that it will type */
    uint32_t resize;
    int refuse_input, refuse_output;
    int input_fd, gone_fd;
};

static ssize_t give(void *context, uint8_t *data, size_t size, uint32_t *resize, struct err *err)
{
    struct person *person = context;
    uint64_t count = 0;
    (void)!read(person->input_fd, &count, sizeof(count));
    if (person->refuse_input)
        return err_set(err, ERR_CLOSED, "the person left");
    *resize = person->resize;
    person->resize = 0;
    size_t left = person->typed_size;
    size = size < left ? size : left;
    if (size > 0)
        memset(data, 'k', size);
    person->typed_size -= size;
    return (ssize_t)size;
}

static int see(void *context, int stream, const uint8_t *data, size_t size, struct err *err)
{
    struct person *person = context;
    assert_int_equal(stream, STREAM_STDOUT);
    if (person->refuse_output)
        return err_set(err, ERR_CLOSED, "the person reads no more");
    return buf_append(&person->seen, data, size, err);
}

static int run(void (*play)(struct peer *peer), struct person *person, struct channel_exit *out,
               struct err *err)
{
    struct peer peer;
    buf_init(&person->seen, 1 << 22);
    const struct channel_terminal terminal = {
        .exec =
            {.execution_id = "t", .cwd = "/", .argv = argv, .argc = 1, .terminal = 80 << 16 | 24},
        .watch = {.cancel_fd = -1,
                  .interrupt_fd = -1,
                  .gone_fd = person->gone_fd,
                  .deadline_ns = clock_now_ns() + 20 * CLOCK_NS_PER_S,
                  .output = see,
                  .context = person},
        .input_fd = person->input_fd,
        .input = give};
    peer_start(&peer, play);
    int result = channel_terminal(peer.channel, &terminal, out, err);
    peer_stop(&peer);
    return result;
}

static uint32_t begin(struct peer *peer)
{
    struct sandbox_exec exec;
    peer_hello(peer, PEER_CAPS | SANDBOX_CAP_TERMINAL);
    struct frame frame = peer_next(peer);
    peer_require(frame.type == FRAME_EXEC);
    peer_require(sandbox_exec_decode(frame.payload, frame.size, &exec, NULL) == 0);
    peer_require(exec.terminal == (80 << 16 | 24) && !exec.hold);
    sandbox_exec_done(&exec);
    peer_send(peer, FRAME_STARTED, frame.stream, NULL, 0);
    peer_send(peer, FRAME_CLOSE, frame.stream + STREAM_STDERR, NULL, 0);
    return frame.stream;
}

/* The size comes first, then what is typed, no more than credit allows; output meanwhile. */
static void play_both_ways(struct peer *peer)
{
    uint32_t stream = begin(peer);
    uint32_t size = 0;
    uint64_t typed = 0;
    struct frame frame = peer_next(peer);
    peer_require(frame.type == FRAME_RESIZE && frame.stream == stream);
    peer_require(frame_u32(&frame, &size, NULL) == 0 && size == (132U << 16 | 50U));
    while (typed < FRAME_WINDOW) {
        frame = peer_next(peer);
        peer_require(frame.type == FRAME_DATA && frame.stream == stream + STREAM_STDIN);
        typed += frame.size;
    }
    peer_require(typed == FRAME_WINDOW);
    peer_send(peer, FRAME_DATA, stream + STREAM_STDOUT, "more", 4);
    peer_credit(peer, stream + STREAM_STDIN, 1000);
    while (typed < FRAME_WINDOW + 10)
        typed += peer_next(peer).size;
    peer_require(typed == FRAME_WINDOW + 10);
    peer_send(peer, FRAME_DATA, stream + STREAM_STDOUT, " end", 4);
    peer_send(peer, FRAME_CLOSE, stream + STREAM_STDOUT, NULL, 0);
    peer_exit(peer, stream, 3);
    peer_drain(peer);
}

static struct person person_of(void)
{
    return (struct person){.input_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), .gone_fd = -1};
}

static void person_done(struct person *person)
{
    (void)close(person->input_fd);
    buf_done(&person->seen);
}

static void bytes_both_ways(void **state)
{
    struct person person = person_of();
    struct channel_exit exit;
    struct err err = ERR_INIT;
    (void)state;
    person.resize = 132U << 16 | 50U;
    person.typed_size = FRAME_WINDOW + 10;
    assert_ok(run(play_both_ways, &person, &exit, &err), err);
    assert_int_equal(exit.exit.exit_code, 3);
    assert_string_equal(buf_cstr(&person.seen), "more end");
    person_done(&person);
}

static int gone_fd = -1; /* raised once the shell runs */

/* No KILL: who closes the channel hangs up. */
static void play_until_closed(struct peer *peer)
{
    uint32_t stream = begin(peer);
    struct frame frame;
    uint64_t one = 1;
    peer_send(peer, FRAME_DATA, stream + STREAM_STDOUT, "prompt", 6);
    if (gone_fd >= 0)
        peer_require(write(gone_fd, &one, sizeof(one)) == (ssize_t)sizeof(one));
    for (;;) {
        int got = frame_decoder_next(&peer->decoder, &frame, NULL);
        peer_require(got >= 0 && (got == 0 || frame.type != FRAME_KILL));
        if (got == 0 && frame_decoder_read(&peer->decoder, peer->fd, NULL) <= 0)
            return;
    }
}

static void who_leaves_hangs_up(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++) {
        struct person person = person_of();
        struct channel_exit exit;
        struct err err = ERR_INIT;
        person.refuse_input = i == 0;
        person.refuse_output = i == 1;
        if (i == 2)
            person.gone_fd = gone_fd = eventfd(0, EFD_CLOEXEC);
        assert_fails(run(play_until_closed, &person, &exit, &err), ERR_CLOSED, err);
        assert_non_null(strstr(err.message, "hung up"));
        if (i == 2)
            (void)close(person.gone_fd);
        person_done(&person);
    }
}

#define PLAY(name, body)                                                                           \
    static void name(struct peer *peer)                                                            \
    {                                                                                              \
        uint32_t stream = begin(peer);                                                             \
        body peer_drain(peer);                                                                     \
    }
PLAY(play_stderr, peer_send(peer, FRAME_DATA, stream + STREAM_STDERR, "x", 1);)
PLAY(play_twice, peer_send(peer, FRAME_STARTED, stream, NULL, 0);)
PLAY(play_message, peer_send(peer, FRAME_MESSAGE, stream, "{}", 2);)
PLAY(play_after_close, peer_send(peer, FRAME_CLOSE, stream + STREAM_STDOUT, NULL, 0);
     peer_send(peer, FRAME_DATA, stream + STREAM_STDOUT, "x", 1);)
PLAY(play_close_twice, peer_send(peer, FRAME_CLOSE, stream + STREAM_STDERR, NULL, 0);)
PLAY(play_credit, peer_credit(peer, stream + STREAM_STDIN, 1U << 31);)

static void play_old(struct peer *peer)
{
    peer_hello(peer, PEER_CAPS);
    peer_drain(peer);
}

static void play_death(struct peer *peer)
{
    (void)begin(peer);
}

static void what_init_may_not_say(void **state)
{
    static const struct {
        void (*play)(struct peer *peer);
        enum err_kind kind;
    } cases[] = {{play_stderr, ERR_PROTOCOL},      {play_twice, ERR_PROTOCOL},
                 {play_message, ERR_PROTOCOL},     {play_after_close, ERR_PROTOCOL},
                 {play_close_twice, ERR_PROTOCOL}, {play_credit, ERR_PROTOCOL},
                 {play_old, ERR_UNSUPPORTED},      {play_death, ERR_CLOSED}};
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct person person = person_of();
        struct channel_exit exit;
        struct err err = ERR_INIT;
        int result = run(cases[i].play, &person, &exit, &err);
        if (result != -(int)cases[i].kind)
            fail_msg("case %zu: %d %s", i, result, err.message);
        person_done(&person);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(bytes_both_ways),
                                       cmocka_unit_test(who_leaves_hangs_up),
                                       cmocka_unit_test(what_init_may_not_say)};
    return cmocka_run_group_tests_name("channel_terminal", tests, NULL, NULL);
}
