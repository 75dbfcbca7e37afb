/* base/fd: owners, whole reads and writes, descriptors over sockets, and no leak on the bad paths.
 */
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"

static bool is_open(int fd)
{
    return fcntl(fd, F_GETFD) >= 0;
}

static void test_close_and_take(void **state)
{
    (void)state;
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    int number = fd;
    int taken = fd_take(&fd);
    assert_int_equal(fd, -1);
    assert_int_equal(taken, number);
    errno = EAGAIN;
    fd_close(&taken);
    assert_int_equal(errno, EAGAIN);
    assert_int_equal(taken, -1);
    assert_false(is_open(number));
    fd_close(&taken);
}

static void *drain(void *context)
{
    int fd = *(int *)context;
    static char sink[65536];
    size_t *total = calloc(1, sizeof(*total));
    ssize_t got = 0;
    while (total && (got = read(fd, sink, sizeof(sink))) > 0)
        *total += (size_t)got;
    return total;
}

static void test_write_all(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    int ends[2];
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    pthread_t reader;
    assert_int_equal(pthread_create(&reader, NULL, drain, &ends[0]), 0);
    static const char bytes[300000];
    assert_ok(fd_write_all(ends[1], bytes, sizeof(bytes), &err), err);
    fd_close(&ends[1]);
    void *result = NULL;
    assert_int_equal(pthread_join(reader, &result), 0);
    size_t *total = result;
    assert_non_null(total);
    assert_int_equal(*total, sizeof(bytes));
    free(total);
    fd_close(&ends[0]);
}

static void test_write_to_nobody(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    int ends[2];
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    fd_close(&ends[0]);
    assert_fails(fd_write_all(ends[1], "x", 1, &err), ERR_CLOSED, err);
    fd_close(&ends[1]);
    assert_fails(fd_write_all(-1, "x", 1, &err), ERR_INTERNAL, err);
}

static void test_files(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    char folder[] = "/tmp/berth-test-fd-XXXXXX";
    assert_non_null(mkdtemp(folder));
    FD_AUTO int dir_fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    FD_AUTO int file_fd = openat(dir_fd, "number", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    char text[8];
    uint64_t value = 0;
    assert_ok(fd_write_file_at(dir_fd, "number", "123456789\n", &err), err);
    assert_int_equal(fd_read_file_at(dir_fd, "number", text, sizeof(text), &err), 7);
    assert_string_equal(text, "1234567");
    assert_ok(fd_read_u64_at(dir_fd, "number", &value, &err), err);
    assert_int_equal(value, 123456789);
    assert_int_equal(ftruncate(file_fd, 0), 0);
    assert_fails(fd_read_u64_at(dir_fd, "number", &value, &err), ERR_INTERNAL, err);
    assert_ok(fd_write_file_at(dir_fd, "number", "max\n", &err), err);
    assert_ok(fd_read_u64_at(dir_fd, "number", &value, &err), err);
    assert_true(value == UINT64_MAX);
    assert_int_equal(symlinkat("number", dir_fd, "link"), 0);
    assert_fails(fd_write_file_at(dir_fd, "link", "1", &err), ERR_INTERNAL, err);
    assert_int_equal(err.sys_errno, ELOOP);
    assert_fails((int)fd_read_file_at(dir_fd, "none", text, sizeof(text), &err), ERR_INTERNAL, err);
    assert_int_equal(err.sys_errno, ENOENT);
    (void)unlinkat(dir_fd, "link", 0);
    (void)unlinkat(dir_fd, "number", 0);
    (void)rmdir(folder);
}

static void test_nonblocking(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    int ends[2];
    char byte = 0;
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    assert_ok(fd_set_nonblocking(ends[0], true, &err), err);
    assert_int_equal(read(ends[0], &byte, 1), -1);
    assert_int_equal(errno, EAGAIN);
    assert_ok(fd_set_nonblocking(ends[0], false, &err), err);
    assert_int_equal(fcntl(ends[0], F_GETFL) & O_NONBLOCK, 0);
    fd_close(&ends[0]);
    fd_close(&ends[1]);
    assert_fails(fd_set_nonblocking(-1, true, &err), ERR_INTERNAL, err);
}

static void test_pass_descriptors(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    int sent[FD_PASS_MAX];
    for (size_t i = 0; i < FD_PASS_MAX; i++)
        sent[i] = STDERR_FILENO;
    assert_ok(fd_send(pair[0], "hello", 5, sent, FD_PASS_MAX, 0, &err), err);
    int received[FD_PASS_MAX];
    size_t count = FD_PASS_MAX;
    char text[16];
    assert_int_equal(fd_recv(pair[1], text, sizeof(text), received, &count, 0, &err), 5);
    assert_int_equal(count, FD_PASS_MAX);
    for (size_t i = 0; i < count; i++) {
        assert_true((fcntl(received[i], F_GETFD) & FD_CLOEXEC) != 0);
        fd_close(&received[i]);
    }
    assert_fails(fd_send(pair[0], "x", 1, sent, FD_PASS_MAX + 1, 0, &err), ERR_INTERNAL, err);
    fd_close(&pair[0]);
    assert_int_equal(fd_recv(pair[1], text, sizeof(text), NULL, NULL, 0, &err), 0);
    assert_fails(fd_send(pair[1], "x", 1, NULL, 0, 0, &err), ERR_CLOSED, err);
    fd_close(&pair[1]);
}

static void test_would_block(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    int pair[2];
    char text[4];
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    assert_int_equal(fd_recv(pair[1], text, sizeof(text), NULL, NULL, MSG_DONTWAIT, &err),
                     -ERR_UNAVAILABLE);
    int result = 0;
    for (int i = 0; i < 100000 && result == 0; i++)
        result = fd_send(pair[0], text, sizeof(text), NULL, 0, MSG_DONTWAIT, &err);
    assert_int_equal(result, -ERR_UNAVAILABLE);
    fd_close(&pair[0]);
    fd_close(&pair[1]);
}

/* A message with more bytes or more descriptors than expected is refused and leaves none open. */
static void test_refused_messages_leak_nothing(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    int sent[3] = {STDERR_FILENO, STDERR_FILENO, STDERR_FILENO};
    char text[8];
    int lowest_before = dup(STDERR_FILENO);
    (void)close(lowest_before);
    assert_ok(fd_send(pair[0], "hello", 5, sent, 3, 0, &err), err);
    size_t none = 0;
    assert_fails((int)fd_recv(pair[1], text, sizeof(text), NULL, &none, 0, &err), ERR_PROTOCOL,
                 err);
    assert_ok(fd_send(pair[0], "hello", 5, sent, 3, 0, &err), err);
    int received[2];
    size_t room = 2;
    assert_fails((int)fd_recv(pair[1], text, sizeof(text), received, &room, 0, &err), ERR_PROTOCOL,
                 err);
    assert_ok(fd_send(pair[0], "longer than the room", 20, sent, 1, 0, &err), err);
    room = 2;
    assert_fails((int)fd_recv(pair[1], text, sizeof(text), received, &room, 0, &err), ERR_PROTOCOL,
                 err);
    int lowest_after = dup(STDERR_FILENO);
    (void)close(lowest_after);
    assert_int_equal(lowest_after, lowest_before);
    fd_close(&pair[0]);
    fd_close(&pair[1]);
}

/* What does not fit is left, and the descriptors have gone with the first byte. */
static void test_send_some(void **state)
{
    static char large[4 << 20];
    int pair[2];
    char first = 0;
    int received = -1;
    size_t room = 1;
    struct err err = ERR_INIT;
    (void)state;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    const int passed = STDERR_FILENO;
    ssize_t sent = fd_send_some(pair[0], large, sizeof(large), &passed, 1, MSG_DONTWAIT, &err);
    assert_true(sent > 0 && sent < (ssize_t)sizeof(large));
    assert_fails((int)fd_send_some(pair[0], large, 1, NULL, 0, MSG_DONTWAIT, &err), ERR_UNAVAILABLE,
                 err);
    assert_int_equal(fd_recv(pair[1], &first, 1, &received, &room, 0, &err), 1);
    assert_int_equal(room, 1);
    assert_true(received >= 0);
    fd_close(&received);
    fd_close(&pair[0]);
    fd_close(&pair[1]);
}

static void test_raise_limit(void **state)
{
    (void)state;
    fd_raise_limit();
}

int main(void)
{
    (void)signal(SIGPIPE, SIG_IGN);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_close_and_take),
        cmocka_unit_test(test_write_all),
        cmocka_unit_test(test_write_to_nobody),
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_nonblocking),
        cmocka_unit_test(test_pass_descriptors),
        cmocka_unit_test(test_would_block),
        cmocka_unit_test(test_refused_messages_leak_nothing),
        cmocka_unit_test(test_send_some),
        cmocka_unit_test(test_raise_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
