/* base/fault: which point strikes, when, and how often. */
#include "check.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/fd.h"

static char once[] = "/tmp/berth-test-fault-XXXXXX";

static void set_environment(const char *testing, const char *fault, const char *file)
{
    (void)setenv("BERTH_TESTING", testing, 1);
    (void)setenv("BERTH_FAULT", fault, 1);
    if (file)
        (void)setenv("BERTH_FAULT_ONCE", file, 1);
    else
        (void)unsetenv("BERTH_FAULT_ONCE");
}

/* Whether a process that passes the points a, b and b is killed by one of them. */
static bool is_struck(void)
{
    pid_t pid = fork();
    if (pid == 0) {
        fault_init();
        fault_point("a.one");
        fault_point("b.two");
        fault_point("b.two");
        _exit(0);
    }
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
}

static void test_names(void **state)
{
    (void)state;
    set_environment("1", "b.two", NULL);
    assert_true(is_struck());
    set_environment("1", "b.two:2", NULL);
    assert_true(is_struck());
    set_environment("1", "b.two:3", NULL);
    assert_false(is_struck());
    set_environment("1", "b.tw", NULL);
    assert_false(is_struck());
    set_environment("1", "b.two.more", NULL);
    assert_false(is_struck());
    set_environment("1", "", NULL);
    assert_false(is_struck());
}

static void test_only_in_tests(void **state)
{
    (void)state;
    set_environment("0", "b.two", NULL);
    assert_false(fault_is_testing());
    assert_false(is_struck());
    (void)unsetenv("BERTH_TESTING");
    assert_false(is_struck());
}

static void test_once(void **state)
{
    (void)state;
    FD_AUTO int fd = mkstemp(once);
    assert_true(fd >= 0);
    set_environment("1", "a.one", once);
    assert_true(is_struck());
    assert_int_equal(access(once, F_OK), -1); /* removed by whoever struck */
    assert_false(is_struck());
    char byte = 0;
    assert_int_equal(pread(fd, &byte, 1, 0), 1);
    assert_int_equal(byte, 1);
}

/* A test arms the point while the processes run: passing it before does not count. */
static void test_armed_later(void **state)
{
    (void)state;
    memcpy(once + sizeof(once) - 7, "XXXXXX", 6);
    FD_AUTO int fd = mkstemp(once);
    assert_int_equal(write(fd, "\1", 1), 1);
    set_environment("1", "a.one", once);
    pid_t pid = fork();
    if (pid == 0) {
        fault_init();
        fault_point("a.one");
        if (pwrite(fd, "\0", 1, 0) != 1)
            _exit(1);
        fault_point("a.one");
        _exit(2);
    }
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
    (void)unlink(once);
}

/* What is passed on to a process that can't see the file: only its own points, and only once. */
static void test_passed_on(void **state)
{
    (void)state;
    memcpy(once + sizeof(once) - 7, "XXXXXX", 6);
    FD_AUTO int fd = mkstemp(once);
    assert_true(fd >= 0);
    set_environment("1", "b.two:2", once);
    fault_init();
    assert_string_equal(fault_text(), "b.two:2");
    assert_string_equal(fault_text_for("a."), "");
    assert_string_equal(fault_text_for("b."), "b.two:2");
    assert_string_equal(fault_text_for("b."), "");
    fault_set(NULL);
    assert_string_equal(fault_text_for("b."), "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),     cmocka_unit_test(test_only_in_tests),
        cmocka_unit_test(test_once),      cmocka_unit_test(test_armed_later),
        cmocka_unit_test(test_passed_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
