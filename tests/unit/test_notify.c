/* monitor/notify: one datagram to where NOTIFY_SOCKET says, and silence without one. */
#include "check.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "monitor/notify.h"

/* A socket with an abstract name, which a leading '@' stands for in the variable. */
static int open_manager(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int size =
        snprintf(address.sun_path + 1, sizeof(address.sun_path) - 1, "berth-ut-%d", (int)getpid());
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    assert_true(fd >= 0);
    socklen_t length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)size);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, length), 0);
    address.sun_path[0] = '@';
    assert_int_equal(setenv("NOTIFY_SOCKET", address.sun_path, 1), 0);
    return fd;
}

static void test_a_message(void **state)
{
    (void)state;
    FD_AUTO int fd = open_manager();
    struct notify notify;
    char text[64] = "";
    notify_init(&notify);
    assert_null(getenv("NOTIFY_SOCKET"));
    notify_send(&notify, "READY=1");
    assert_int_equal(recv(fd, text, sizeof(text), 0), 7);
    assert_memory_equal(text, "READY=1", 7);
}

static void test_nobody_listens(void **state)
{
    (void)state;
    struct notify notify;
    static const char *const names[] = {"", "/", "@", "relative", "/nowhere/at/all"};
    (void)unsetenv("NOTIFY_SOCKET");
    notify_init(&notify);
    assert_int_equal(notify.address_size, 0);
    notify_send(&notify, "READY=1");
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        assert_int_equal(setenv("NOTIFY_SOCKET", names[i], 1), 0);
        notify_init(&notify);
        assert_int_equal(notify.address_size != 0, i == 4);
        notify_send(&notify, "READY=1"); /* said in the log, and no failure */
        assert_null(getenv("NOTIFY_SOCKET"));
    }
    char name[200];
    memset(name, 'a', sizeof(name) - 1);
    name[0] = '/';
    name[sizeof(name) - 1] = '\0';
    assert_int_equal(setenv("NOTIFY_SOCKET", name, 1), 0);
    notify_init(&notify);
    assert_int_equal(notify.address_size, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_message),
        cmocka_unit_test(test_nobody_listens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
