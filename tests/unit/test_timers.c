/* init/timers: when a sandbox ends by itself. */
#include "check.h"

#include "base/clock.h"
#include "init/timers.h"

#define MS CLOCK_NS_PER_MS
enum { START = 1000 };

static void test_without_times_it_never_ends(void **state)
{
    (void)state;
    struct timers timers;
    uint64_t lifetime_ms = 0;
    uint64_t idle_ms = 0;
    timers_init(&timers, 0, UINT64_MAX, START);
    timers.orphan_from = START;
    assert_true(timers_end_ns(&timers) == INT64_MAX);
    timers_left(&timers, START, &lifetime_ms, &idle_ms);
    assert_true(lifetime_ms == SANDBOX_NEVER && idle_ms == SANDBOX_NEVER);
}

static void test_a_lifetime(void **state)
{
    (void)state;
    struct timers timers;
    uint64_t lifetime_ms = 0;
    uint64_t idle_ms = 0;
    timers_init(&timers, 50, 1000, START);
    assert_int_equal(timers_end_ns(&timers), START + 50 * MS);
    timers_left(&timers, START + 20 * MS, &lifetime_ms, &idle_ms);
    assert_int_equal(lifetime_ms, 30);
    timers_left(&timers, START + 60 * MS, &lifetime_ms, &idle_ms);
    assert_int_equal(lifetime_ms, 0);
    timers_renew(&timers, &(struct sandbox_timers){.lifetime_ms = 70}, START + 40 * MS);
    assert_int_equal(timers_end_ns(&timers), START + 110 * MS);
    timers_renew(&timers, &(struct sandbox_timers){.idle_ms = SANDBOX_NEVER}, START + 50 * MS);
    assert_int_equal(timers_end_ns(&timers), START + 110 * MS); /* 0: as it is */
    timers_renew(&timers, &(struct sandbox_timers){.lifetime_ms = SANDBOX_NEVER}, START);
    assert_true(timers_end_ns(&timers) == INT64_MAX);
    timers_renew(&timers, &(struct sandbox_timers){.lifetime_ms = SANDBOX_NEVER - 1}, START);
    assert_true(timers_end_ns(&timers) == INT64_MAX);
}

static void test_idleness(void **state)
{
    (void)state;
    struct timers timers;
    uint64_t lifetime_ms = 0;
    uint64_t idle_ms = 0;
    timers_init(&timers, 0, 1000, START);
    timers_renew(&timers, &(struct sandbox_timers){.idle_ms = 10}, START + 5 * MS);
    assert_int_equal(timers_end_ns(&timers), START + 15 * MS);
    timers_set_idle(&timers, true, START + 8 * MS); /* it was before: since then */
    assert_int_equal(timers_end_ns(&timers), START + 15 * MS);
    timers_set_idle(&timers, false, START + 9 * MS);
    assert_true(timers_end_ns(&timers) == INT64_MAX);
    timers_left(&timers, START + 50 * MS, &lifetime_ms, &idle_ms);
    assert_int_equal(idle_ms, 10); /* all of it, from whenever it ends */
    timers_renew(&timers, &(struct sandbox_timers){.idle_ms = 20}, START + 60 * MS);
    assert_true(timers_end_ns(&timers) == INT64_MAX);
    timers_set_idle(&timers, true, START + 70 * MS);
    assert_int_equal(timers_end_ns(&timers), START + 90 * MS);
}

static void test_an_orphan(void **state)
{
    (void)state;
    struct timers timers;
    timers_init(&timers, 500, 100, START);
    assert_int_equal(timers_end_ns(&timers), START + 500 * MS);
    timers.orphan_from = START + 10 * MS;
    assert_int_equal(timers_end_ns(&timers), START + 110 * MS);
    timers_renew(&timers, &(struct sandbox_timers){.orphan_ms = 200}, START + 20 * MS);
    assert_int_equal(timers_end_ns(&timers), START + 210 * MS);
    timers.orphan_from = INT64_MAX;
    assert_int_equal(timers_end_ns(&timers), START + 500 * MS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_without_times_it_never_ends),
        cmocka_unit_test(test_a_lifetime),
        cmocka_unit_test(test_idleness),
        cmocka_unit_test(test_an_orphan),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
