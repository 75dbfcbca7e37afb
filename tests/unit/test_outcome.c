/* wire/outcome: the contract's words, and none for what is no word of it. */
#include "check.h"

#include "wire/outcome.h"

static void test_causes(void **state)
{
    (void)state;
    assert_null(outcome_cause_name(KILL_NONE));
    assert_string_equal(outcome_cause_name(KILL_TIMEOUT), "timeout");
    assert_string_equal(outcome_cause_name(KILL_OOM), "oom");
    assert_string_equal(outcome_cause_name(KILL_OUTPUT), "output");
    assert_string_equal(outcome_cause_name(KILL_SIGNAL), "signal");
    assert_string_equal(outcome_cause_name(KILL_USER), "user");
    assert_string_equal(outcome_cause_name(KILL_SERVER), "server");
    assert_null(outcome_cause_name(KILL_CAUSE_COUNT));
    assert_null(outcome_cause_name((enum kill_cause)1000));
}

static void test_limits(void **state)
{
    (void)state;
    static const char *const words[LIMIT_HIT_COUNT] = {"memory", "cpu",    "pids",
                                                       "disk",   "output", "files"};
    for (unsigned i = 0; i < LIMIT_HIT_COUNT; i++)
        assert_string_equal(outcome_limit_name(i), words[i]);
    assert_null(outcome_limit_name(LIMIT_HIT_COUNT));
    assert_int_equal(LIMIT_FILES, 1 << (LIMIT_HIT_COUNT - 1));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_causes),
        cmocka_unit_test(test_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
