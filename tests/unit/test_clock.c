/* base/clock: formats and rounding. Nothing here asserts on how fast time passes. */
#include "check.h"

#include <limits.h>
#include <string.h>

#include "base/clock.h"

static void test_monotonic(void **state)
{
    (void)state;
    int64_t before_ns = clock_now_ns();
    assert_true(before_ns > 0);
    assert_true(clock_now_ns() >= before_ns);
    assert_true(clock_wall_us() > INT64_C(1600000000) * 1000000);
}

static void test_poll_timeout(void **state)
{
    (void)state;
    assert_int_equal(clock_poll_timeout_ms(INT64_MAX), -1);
    assert_int_equal(clock_poll_timeout_ms(0), 0);
    assert_int_equal(clock_poll_timeout_ms(clock_now_ns() - 1), 0);
    int soon_ms = clock_poll_timeout_ms(clock_now_ns() + 3600 * CLOCK_NS_PER_S);
    assert_true(soon_ms > 0 && soon_ms <= 3600 * 1000);
    assert_int_equal(clock_poll_timeout_ms(INT64_MAX - 1), INT_MAX);
}

static void test_iso8601(void **state)
{
    (void)state;
    char text[CLOCK_ISO8601_SIZE];
    clock_format_iso8601(0, text);
    assert_string_equal(text, "1970-01-01T00:00:00.000000Z");
    clock_format_iso8601(INT64_C(1700000000) * 1000000 + 42, text);
    assert_string_equal(text, "2023-11-14T22:13:20.000042Z");
    clock_format_iso8601(INT64_MAX, text);
    assert_true(strlen(text) < CLOCK_ISO8601_SIZE);
    assert_int_equal(text[strlen(text) - 1], 'Z');
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_monotonic),
        cmocka_unit_test(test_poll_timeout),
        cmocka_unit_test(test_iso8601),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
