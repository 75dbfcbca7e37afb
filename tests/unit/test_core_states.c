/* The transition tables allow what the design says and nothing else. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/states.h"

static void executions_move_forward_only(void **state)
{
    (void)state;
    const enum execution_state ends[] = {EXECUTION_SUCCESS, EXECUTION_ERROR, EXECUTION_TIMEOUT,
                                         EXECUTION_KILLED};
    for (size_t i = 0; i < 4; i++) {
        enum execution_state at = EXECUTION_QUEUED;
        assert_true(execution_state_move(&at, EXECUTION_RUNNING));
        assert_true(execution_state_move(&at, ends[i]));
        for (int to = 0; to < EXECUTION_STATE_COUNT; to++)
            assert_false(execution_state_move(&at, (enum execution_state)to));
        assert_int_equal(at, ends[i]);
    }
    enum execution_state at = EXECUTION_QUEUED;
    assert_false(execution_state_move(&at, EXECUTION_SUCCESS));
    assert_true(execution_state_move(&at, EXECUTION_KILLED));
}

static void sandboxes_end_once(void **state)
{
    (void)state;
    enum sandbox_state at = SANDBOX_CREATING;
    assert_false(sandbox_state_move(&at, SANDBOX_BUSY));
    assert_true(sandbox_state_move(&at, SANDBOX_READY));
    assert_true(sandbox_state_move(&at, SANDBOX_BUSY));
    assert_true(sandbox_state_move(&at, SANDBOX_READY));
    assert_true(sandbox_state_move(&at, SANDBOX_DESTROYING));
    assert_false(sandbox_state_move(&at, SANDBOX_DESTROYING));
    assert_true(sandbox_state_move(&at, SANDBOX_GONE));
}

static void a_stopped_sandbox_starts_or_goes(void **state)
{
    (void)state;
    const enum sandbox_state from[] = {SANDBOX_READY, SANDBOX_BUSY};
    for (size_t i = 0; i < 2; i++) {
        enum sandbox_state at = from[i];
        assert_true(sandbox_state_move(&at, SANDBOX_STOPPED));
        assert_false(sandbox_state_move(&at, SANDBOX_BUSY));
        assert_false(sandbox_state_move(&at, SANDBOX_STOPPED));
        assert_false(sandbox_state_move(&at, SANDBOX_GONE));
        assert_true(sandbox_state_move(&at, SANDBOX_READY));
        assert_true(sandbox_state_move(&at, SANDBOX_STOPPED));
        assert_true(sandbox_state_move(&at, SANDBOX_DESTROYING));
        assert_false(sandbox_state_move(&at, SANDBOX_STOPPED));
    }
    enum sandbox_state at = SANDBOX_CREATING;
    assert_false(sandbox_state_move(&at, SANDBOX_STOPPED));
}

static void names_are_the_contracts(void **state)
{
    (void)state;
    assert_string_equal(execution_state_name(EXECUTION_TIMEOUT), "timeout");
    assert_string_equal(sandbox_state_name(SANDBOX_CREATING), "creating");
    assert_string_equal(sandbox_state_name(SANDBOX_STOPPED), "stopped");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(executions_move_forward_only),
        cmocka_unit_test(sandboxes_end_once),
        cmocka_unit_test(a_stopped_sandbox_starts_or_goes),
        cmocka_unit_test(names_are_the_contracts),
    };
    return cmocka_run_group_tests_name("core_states", tests, NULL, NULL);
}
