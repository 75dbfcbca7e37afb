/* native/initstream: an init is reached over two FIFOs, by an engine and by the one after it. */
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "folder.h"
#include "native/initstream.h"

#define ID "box"

enum { TURNS = 10000, LARGE = 1 << 20 };
#define BEAT_NS (CARRIER_BEAT_MS * CLOCK_NS_PER_MS)

/* The init's side, as src/init does it. */
struct inner {
    struct initstream_ends ends;
    struct carrier *carrier;
    int channel_fd;
};

static int epoll_fd = -1;

static void on_opened(void *context, int fd)
{
    struct inner *inner = context;
    fd_close(&inner->channel_fd);
    inner->channel_fd = fd;
}

static void begin(struct inner *inner)
{
    struct err err = ERR_INIT;
    uint8_t secret[CARRIER_SECRET_SIZE];
    const struct carrier_events events = {.context = inner, .opened = on_opened};
    *inner = (struct inner){.ends = INITSTREAM_ENDS_INIT, .channel_fd = -1};
    assert_ok(initstream_make(folder_fd, ID, secret, &err), err);
    assert_ok(initstream_open_ends(folder_fd, ID, &inner->ends, &err), err);
    assert_ok(fd_set_nonblocking(inner->ends.stdin_fd, true, &err), err);
    assert_ok(fd_set_nonblocking(inner->ends.stdout_fd, true, &err), err);
    assert_ok(carrier_new_inner(secret, &events, &inner->carrier, &err), err);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
}

static void end(struct inner *inner)
{
    carrier_free(inner->carrier);
    initstream_close_ends(&inner->ends);
    fd_close(&inner->channel_fd);
    fd_close(&epoll_fd);
}

static void inner_step(struct inner *inner)
{
    struct err err = ERR_INIT;
    uint8_t bytes[4096];
    size_t size = 0;
    ssize_t got = read(inner->ends.stdin_fd, bytes, sizeof(bytes));
    if (got > 0)
        assert_ok(carrier_take(inner->carrier, bytes, (size_t)got, &err), err);
    carrier_step(inner->carrier);
    const uint8_t *pending = carrier_pending(inner->carrier, &size);
    ssize_t sent = size > 0 ? write(inner->ends.stdout_fd, pending, size) : 0;
    if (sent > 0)
        carrier_sent(inner->carrier, (size_t)sent);
}

static void both(struct initstream *stream, struct inner *inner)
{
    struct err err = ERR_INIT;
    assert_ok(initstream_step(stream, &err), err);
    inner_step(inner);
}

static struct initstream *open_stream(struct inner *inner)
{
    struct err err = ERR_INIT;
    struct initstream *stream = NULL;
    assert_ok(initstream_open(folder_fd, ID, epoll_fd, 7, &stream, &err), err);
    for (int i = 0; i < TURNS && !initstream_is_up(stream); i++)
        both(stream, inner);
    assert_true(initstream_is_up(stream));
    return stream;
}

/* Sends size bytes into one end and takes them out of the other, nothing waits for anything. */
static void move(struct initstream *stream, struct inner *inner, int from_fd, int to_fd,
                 size_t size)
{
    uint8_t piece[8192];
    size_t sent = 0;
    size_t got = 0;
    memset(piece, 'x', sizeof(piece));
    for (int i = 0; i < TURNS && got < size; i++) {
        size_t room = size - sent < sizeof(piece) ? size - sent : sizeof(piece);
        ssize_t done = room > 0 ? send(from_fd, piece, room, MSG_DONTWAIT) : 0;
        sent += done > 0 ? (size_t)done : 0;
        both(stream, inner);
        uint8_t taken[8192];
        done = recv(to_fd, taken, sizeof(taken), MSG_DONTWAIT);
        got += done > 0 ? (size_t)done : 0;
    }
    assert_int_equal(got, size);
}

static int open_channel(struct initstream *stream, struct inner *inner)
{
    struct err err = ERR_INIT;
    int fd = -1;
    int before = inner->channel_fd;
    assert_ok(initstream_channel(stream, &fd, &err), err);
    for (int i = 0; i < TURNS && (inner->channel_fd < 0 || inner->channel_fd == before); i++)
        both(stream, inner);
    assert_true(inner->channel_fd >= 0);
    return fd;
}

static void test_bytes_go_both_ways(void **state)
{
    (void)state;
    struct inner inner;
    begin(&inner);
    struct initstream *stream = open_stream(&inner);
    FD_AUTO int fd = open_channel(stream, &inner);
    move(stream, &inner, fd, inner.channel_fd, 5);
    move(stream, &inner, inner.channel_fd, fd, 5);
    move(stream, &inner, fd, inner.channel_fd, LARGE);
    move(stream, &inner, inner.channel_fd, fd, LARGE);
    for (int i = 0; i < 100; i++)
        both(stream, &inner); /* credit that is under way */
    struct epoll_event event;
    assert_int_equal(epoll_wait(epoll_fd, &event, 1, 0), 0); /* nothing is left to be done */
    assert_int_equal(write(inner.ends.stdout_fd, "x", 1), 1);
    assert_int_equal(epoll_wait(epoll_fd, &event, 1, 1000), 1);
    assert_int_equal(event.data.u64, 7);
    initstream_close(stream);
    end(&inner);
}

/* Its other end is closed, whatever was on the way. */
static bool is_over(int fd)
{
    uint8_t bytes[64];
    ssize_t got = 1;
    while (got > 0)
        got = recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT);
    return got == 0 || errno == ECONNRESET;
}

static void test_the_next_engine_takes_over(void **state)
{
    (void)state;
    struct inner inner;
    begin(&inner);
    struct initstream *first = open_stream(&inner);
    FD_AUTO int old_fd = open_channel(first, &inner);
    /* It dies with half of something said, on both ways. */
    assert_int_equal(send(inner.channel_fd, "half", 4, 0), 4);
    assert_int_equal(send(old_fd, "half", 4, 0), 4);
    inner_step(&inner);
    initstream_close(first);
    assert_true(is_over(old_fd));
    int inner_old_fd = inner.channel_fd;
    inner.channel_fd = -1;
    struct initstream *second = open_stream(&inner);
    FD_AUTO int fd = open_channel(second, &inner);
    move(second, &inner, fd, inner.channel_fd, 100);
    move(second, &inner, inner.channel_fd, fd, 100);
    assert_true(is_over(inner_old_fd));
    fd_close(&inner_old_fd);
    initstream_close(second);
    end(&inner);
}

static void test_nobody_there(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct initstream *stream = NULL;
    struct inner inner;
    epoll_fd = -1;
    assert_fails(initstream_open(folder_fd, ID, epoll_fd, 7, &stream, &err), ERR_NOT_FOUND, err);
    begin(&inner);
    initstream_close_ends(&inner.ends);
    err = (struct err)ERR_INIT;
    assert_fails(initstream_open(folder_fd, ID, epoll_fd, 7, &stream, &err), ERR_NOT_FOUND, err);
    initstream_close(NULL);
    end(&inner);
}

static void test_the_end_of_the_sandbox_is_seen(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct inner inner;
    struct epoll_event event;
    begin(&inner);
    struct initstream *stream = open_stream(&inner);
    FD_AUTO int fd = open_channel(stream, &inner);
    initstream_close_ends(&inner.ends);
    assert_int_equal(epoll_wait(epoll_fd, &event, 1, 1000), 1);
    assert_fails(initstream_step(stream, &err), ERR_CLOSED, err);
    initstream_close(stream);
    assert_int_equal(epoll_wait(epoll_fd, &event, 1, 0), 0);
    end(&inner);
}

/* Its FIFOs stay as they are, so only beats tell. */
static void test_an_init_that_has_let_go(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct inner inner;
    int64_t now_ns = 1;
    begin(&inner);
    struct initstream *stream = open_stream(&inner);
    FD_AUTO int fd = open_channel(stream, &inner);
    carrier_drop(inner.carrier);
    for (; now_ns < CARRIER_SILENCE_MS * CLOCK_NS_PER_MS; now_ns += BEAT_NS) {
        assert_ok(initstream_beat(stream, now_ns, &err), err);
        both(stream, &inner);
    }
    assert_fails(initstream_beat(stream, now_ns, &err), ERR_TIMEOUT, err);
    initstream_close(stream);
    assert_true(is_over(fd));
    fd_close(&inner.channel_fd);
    stream = open_stream(&inner);
    FD_AUTO int again = open_channel(stream, &inner);
    move(stream, &inner, again, inner.channel_fd, 100);
    initstream_close(stream);
    end(&inner);
}

static void test_what_is_no_carriers_is_refused(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct inner inner;
    uint8_t junk[64];
    begin(&inner);
    struct initstream *stream = open_stream(&inner);
    memset(junk, 0xff, sizeof(junk));
    assert_int_equal(write(inner.ends.stdout_fd, junk, sizeof(junk)), sizeof(junk));
    assert_fails(initstream_step(stream, &err), ERR_PROTOCOL, err);
    initstream_close(stream);
    /* The next channel opens another way, and what is left of that is passed over. */
    assert_int_equal(write(inner.ends.stdout_fd, junk, sizeof(junk)), sizeof(junk));
    stream = open_stream(&inner);
    initstream_close(stream);
    end(&inner);
}

static void count(void *context, const char *id)
{
    assert_string_equal(id, ID);
    ++*(int *)context;
}

static void test_the_files(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    uint8_t secret[CARRIER_SECRET_SIZE];
    uint8_t other[CARRIER_SECRET_SIZE];
    int seen = 0;
    assert_false(initstream_exists(folder_fd, ID));
    assert_ok(initstream_make(folder_fd, ID, secret, &err), err);
    assert_true(initstream_exists(folder_fd, ID));
    assert_false(initstream_exists(folder_fd, "../" ID));
    assert_ok(initstream_each(folder_fd, count, &seen, &err), err);
    assert_int_equal(seen, 1);
    initstream_remove(folder_fd, ID);
    initstream_remove(folder_fd, ID);
    assert_false(initstream_exists(folder_fd, ID));
    assert_ok(initstream_make(folder_fd, ID, other, &err), err);
    assert_memory_not_equal(secret, other, sizeof(secret));
}

int main(void)
{
    const struct CMUnitTest tests[] = {in_folder(test_bytes_go_both_ways),
                                       in_folder(test_the_next_engine_takes_over),
                                       in_folder(test_nobody_there),
                                       in_folder(test_the_end_of_the_sandbox_is_seen),
                                       in_folder(test_an_init_that_has_let_go),
                                       in_folder(test_what_is_no_carriers_is_refused),
                                       in_folder(test_the_files)};
    return cmocka_run_group_tests_name("initstream", tests, NULL, NULL);
}
