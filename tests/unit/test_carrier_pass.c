/* wire/carrier: sockets that are passed over a channel. */
#include "carrier_rig.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_RIG(test_a_socket_that_is_passed),
        WITH_RIG(test_a_connection_of_tcp_that_is_passed),
        WITH_RIG(test_what_is_no_socket_is_over_at_once),
        WITH_RIG(test_a_passed_socket_whose_reader_is_gone),
        WITH_RIG(test_more_sockets_than_places),
        WITH_RIG(test_no_channel_beyond_the_table),
    };
    return cmocka_run_group_tests_name("carrier_pass", tests, NULL, NULL);
}
