/* wire/http_watch: deadlines that shut, peers that leave, handles that outlive their connection. */
#include "check.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "wire/http_watch.h"

enum { WAIT_MS = 20000, CONNECTIONS = 2, LONG_MS = 600000 };

struct rig {
    struct http_watch *watch;
    int ours[4];
    int peers[4];
};

static int rig_open(void **state)
{
    static struct rig rig;
    *state = &rig;
    for (int i = 0; i < 4; i++) {
        int pair[2];
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
            return -1;
        rig.ours[i] = pair[0];
        rig.peers[i] = pair[1];
    }
    return http_watch_new(CONNECTIONS, &rig.watch, NULL);
}

static int rig_close(void **state)
{
    struct rig *rig = *state;
    http_watch_free(rig->watch);
    for (int i = 0; i < 4; i++) {
        fd_close(&rig->ours[i]);
        fd_close(&rig->peers[i]);
    }
    return 0;
}

static bool readable(int fd, int timeout_ms)
{
    struct pollfd poller = {.fd = fd, .events = POLLIN};
    return poll(&poller, 1, timeout_ms) == 1;
}

static void test_a_deadline_shuts(void **state)
{
    struct rig *rig = *state;
    uint64_t handle = http_watch_add(rig->watch, rig->ours[0], 1);
    uint64_t other = http_watch_add(rig->watch, rig->ours[1], LONG_MS);
    assert_true(handle != 0 && other != 0 && handle != other);
    char byte = 0;
    assert_true(readable(rig->peers[0], WAIT_MS));
    assert_int_equal(read(rig->peers[0], &byte, 1), 0); /* the end, not a byte */
    assert_false(readable(rig->peers[1], 0));
    assert_int_equal(http_watch_timed_out(rig->watch), 1);
    assert_true(fcntl(rig->ours[0], F_GETFD) >= 0); /* closing is its owner's */
    http_watch_remove(rig->watch, handle, false);
    http_watch_remove(rig->watch, other, false);
}

static void test_a_full_table(void **state)
{
    struct rig *rig = *state;
    uint64_t first = http_watch_add(rig->watch, rig->ours[0], 0);
    uint64_t second = http_watch_add(rig->watch, rig->ours[1], 0);
    assert_true(first != 0 && second != 0);
    uint64_t third = http_watch_add(rig->watch, rig->ours[2], 0);
    if (third != 0) /* a slot beside connection_max may be there; the table still has an end */
        http_watch_remove(rig->watch, third, false);
    http_watch_remove(rig->watch, first, false);
    uint64_t again = http_watch_add(rig->watch, rig->ours[2], 0);
    assert_true(again != 0 && again != first);             /* a handle is used once */
    http_watch_set(rig->watch, first, HTTP_WATCH_HEAD, 1); /* late: names nothing */
    http_watch_remove(rig->watch, first, false);
    assert_int_equal(http_watch_gone_fd(rig->watch, first), -1);
    (void)usleep(300000); /* longer than a tick of the watcher */
    assert_int_equal(http_watch_timed_out(rig->watch), 0);
    http_watch_remove(rig->watch, second, false);
    http_watch_remove(rig->watch, again, false);
}

static void test_a_peer_that_leaves(void **state)
{
    struct rig *rig = *state;
    uint64_t closed = http_watch_add(rig->watch, rig->ours[0], LONG_MS);
    uint64_t half = http_watch_add(rig->watch, rig->ours[1], LONG_MS);
    http_watch_set(rig->watch, closed, HTTP_WATCH_HANDLER, 0);
    http_watch_set(rig->watch, half, HTTP_WATCH_HANDLER, 0);
    int closed_fd = http_watch_gone_fd(rig->watch, closed);
    int half_fd = http_watch_gone_fd(rig->watch, half);
    assert_true(closed_fd >= 0 && half_fd >= 0);
    assert_false(readable(closed_fd, 0));
    assert_false(readable(half_fd, 0));
    assert_int_equal(http_watch_busy(rig->watch), 2);
    fd_close(&rig->peers[0]);
    assert_true(readable(closed_fd, WAIT_MS));
    assert_false(readable(half_fd, 0));
    assert_int_equal(shutdown(rig->peers[1], SHUT_WR), 0); /* half-closed counts as gone */
    assert_true(readable(half_fd, WAIT_MS));
    http_watch_remove(rig->watch, closed, false);
    http_watch_remove(rig->watch, half, false);
}

static void test_shut_all(void **state)
{
    struct rig *rig = *state;
    uint64_t idle = http_watch_add(rig->watch, rig->ours[0], LONG_MS);
    uint64_t busy = http_watch_add(rig->watch, rig->ours[1], LONG_MS);
    http_watch_set(rig->watch, busy, HTTP_WATCH_HANDLER, 0);
    int gone_fd = http_watch_gone_fd(rig->watch, busy);
    assert_int_equal(http_watch_busy(rig->watch), 1);
    http_watch_shut_all(rig->watch, false);
    assert_true(readable(rig->peers[0], WAIT_MS));
    assert_false(readable(gone_fd, 0));
    http_watch_shut_all(rig->watch, true);
    assert_true(readable(gone_fd, WAIT_MS));
    http_watch_remove(rig->watch, idle, false);
    http_watch_remove(rig->watch, busy, false);
    http_watch_free(NULL);
}

#define on_rig(test) cmocka_unit_test_setup_teardown(test, rig_open, rig_close)

int main(void)
{
    const struct CMUnitTest tests[] = {
        on_rig(test_a_deadline_shuts),
        on_rig(test_a_full_table),
        on_rig(test_a_peer_that_leaves),
        on_rig(test_shut_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
