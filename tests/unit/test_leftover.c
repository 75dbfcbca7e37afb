/* init/leftover: who still writes is neither held up nor cut off by those that ended. */
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "init/leftover.h"

#define LATER_NS (CLOCK_NS_PER_S)

/* Returns the writing end of a pipe whose other end is a leftover now; it never blocks. */
static int add_pipe(struct leftover *leftover, int64_t now_ns)
{
    int ends[2];
    assert_int_equal(pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
    leftover_add(leftover, ends[0], now_ns);
    return ends[1];
}

static void add_ended(struct leftover *leftover, int64_t now_ns)
{
    int fd = add_pipe(leftover, now_ns);
    fd_close(&fd);
}

static bool can_write(int fd)
{
    ssize_t written = write(fd, "x", 1);
    assert_true(written == 1 || errno == EPIPE || errno == EAGAIN);
    return written == 1;
}

static void clear(struct leftover *leftover)
{
    for (size_t i = 0; i < leftover->count; i++)
        fd_close(&leftover->fds[i]);
    leftover_init(leftover);
}

static void test_ended_ones_make_room(void **state)
{
    struct leftover leftover;
    (void)state;
    leftover_init(&leftover);
    FD_AUTO int writer = add_pipe(&leftover, 0);
    for (int i = 0; i < 3 * LEFTOVER_MAX; i++) {
        add_ended(&leftover, 0);
        assert_true(leftover.count <= LEFTOVER_MAX);
    }
    assert_true(can_write(writer));
    clear(&leftover);
}

static void test_the_oldest_is_closed(void **state)
{
    struct leftover leftover;
    int writers[LEFTOVER_MAX + 2];
    (void)state;
    leftover_init(&leftover);
    for (size_t i = 0; i < ARRAY_SIZE(writers); i++)
        writers[i] = add_pipe(&leftover, 0);
    assert_int_equal(leftover.count, LEFTOVER_MAX);
    for (size_t i = 0; i < ARRAY_SIZE(writers); i++) {
        assert_int_equal(can_write(writers[i]), i >= 2);
        fd_close(&writers[i]);
    }
    clear(&leftover);
}

/* A rest begins with what is added or said, and is never made longer. */
static void test_rests(void **state)
{
    struct leftover leftover;
    (void)state;
    leftover_init(&leftover);
    assert_true(leftover_wants(&leftover, 1));
    assert_true(leftover_wakeup_ns(&leftover, 1) == INT64_MAX);
    FD_AUTO int first = add_pipe(&leftover, 1);
    assert_false(leftover_wants(&leftover, 1));
    int64_t wakeup_ns = leftover_wakeup_ns(&leftover, 1);
    assert_true(wakeup_ns > 1 && wakeup_ns < LATER_NS);
    FD_AUTO int second = add_pipe(&leftover, wakeup_ns - 1);
    assert_true(leftover_wakeup_ns(&leftover, wakeup_ns - 1) == wakeup_ns);
    assert_true(leftover_wants(&leftover, wakeup_ns));
    assert_true(leftover_wakeup_ns(&leftover, wakeup_ns) == INT64_MAX);
    clear(&leftover);
}

static void test_reads_what_was_seen(void **state)
{
    struct leftover leftover;
    (void)state;
    leftover_init(&leftover);
    FD_AUTO int first = add_pipe(&leftover, 0);
    add_ended(&leftover, 0);
    FD_AUTO int third = add_pipe(&leftover, 0);
    while (can_write(first) && can_write(third))
        continue;
    leftover_step(&leftover, LATER_NS);
    assert_int_equal(leftover.count, 3); /* nothing was seen */
    leftover.seen[0] = POLLIN;
    leftover.seen[1] = POLLHUP;
    leftover_step(&leftover, LATER_NS);
    assert_int_equal(leftover.count, 2);
    assert_true(can_write(first));
    assert_true(leftover_wakeup_ns(&leftover, LATER_NS) > LATER_NS);
    leftover.seen[1] = POLLIN; /* the third, which moved up */
    leftover_step(&leftover, 2 * LATER_NS);
    assert_true(can_write(third));
    clear(&leftover);
}

int main(void)
{
    (void)signal(SIGPIPE, SIG_IGN);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ended_ones_make_room),
        cmocka_unit_test(test_the_oldest_is_closed),
        cmocka_unit_test(test_rests),
        cmocka_unit_test(test_reads_what_was_seen),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
