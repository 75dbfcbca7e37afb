/* base/log: one line a record, whatever is in the text, and the level from the environment. */
#include "check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"

/* Logs with standard error going to a pipe; returns what came out. */
static void capture(void (*act)(void), char out[static 4096])
{
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    int saved = dup(STDERR_FILENO);
    assert_true(dup2(ends[1], STDERR_FILENO) >= 0);
    act();
    assert_true(dup2(saved, STDERR_FILENO) >= 0);
    (void)close(saved);
    (void)close(ends[1]);
    ssize_t size = read(ends[0], out, 4095);
    out[size < 0 ? 0 : size] = '\0';
    (void)close(ends[0]);
}

static void log_forged(void)
{
    log_info("one\n2026 error berth: forged\x1b[31m\r");
}

static void log_long(void)
{
    char text[3000];
    memset(text, 'a', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    log_error("%s", text);
}

static void log_each(void)
{
    log_debug("d");
    log_info("i");
    log_warn("w");
    log_error("e");
}

static void test_lines_cannot_be_forged(void **state)
{
    (void)state;
    char text[4096];
    capture(log_forged, text);
    assert_non_null(strstr(text, " info tester: one"));
    assert_ptr_equal(strchr(text, '\n'), text + strlen(text) - 1);
    assert_null(strchr(text, '\x1b'));
    assert_null(strchr(text, '\r'));
}

static void test_long_lines_are_cut(void **state)
{
    (void)state;
    char text[4096];
    capture(log_long, text);
    assert_true(strlen(text) < 1400);
    assert_int_equal(text[strlen(text) - 1], '\n');
}

static void test_level(void **state)
{
    (void)state;
    char text[4096];
    assert_int_equal(setenv("BERTH_LOG", "warn", 1), 0);
    log_init("tester");
    capture(log_each, text);
    assert_null(strstr(text, " debug "));
    assert_null(strstr(text, " info "));
    assert_non_null(strstr(text, " warn tester: w\n"));
    assert_non_null(strstr(text, " error tester: e\n"));
    assert_int_equal(setenv("BERTH_LOG", "debug", 1), 0);
    log_init("tester");
    capture(log_each, text);
    assert_non_null(strstr(text, " debug tester: d\n"));
}

int main(void)
{
    (void)unsetenv("BERTH_LOG");
    log_init("tester");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lines_cannot_be_forged),
        cmocka_unit_test(test_long_lines_are_cut),
        cmocka_unit_test(test_level),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
