/* core/metrics and core/quota: buckets, the text of the exposition format, and the one rule that a
 * quota knows so far. */
#include "check.h"

#include <stdlib.h>
#include <string.h>

#include "core/metrics.h"
#include "core/quota.h"

static struct metrics metrics;

static int clear(void **state)
{
    (void)state;
    memset(&metrics, 0, sizeof(metrics));
    return 0;
}

static char *written(void)
{
    const struct metrics_gauges gauges = {
        .sandboxes = 3, .sandboxes_max = 8, .creating = 1, .waiting = 2, .executions = 4};
    struct buf out;
    struct err err = ERR_INIT;
    buf_init(&out, 1U << 20);
    assert_ok(metrics_write(&metrics, &gauges, &out, &err), err);
    char *text = strdup(buf_cstr(&out));
    buf_done(&out);
    return text;
}

static void test_buckets(void **state)
{
    (void)state;
    metrics_observe(&metrics.run, -5);
    metrics_observe(&metrics.run, 0);
    metrics_observe(&metrics.run, 1000);
    assert_int_equal(metrics.run.buckets[0], 3); /* a bound belongs to its own bucket */
    metrics_observe(&metrics.run, 1001);
    assert_int_equal(metrics.run.buckets[1], 1);
    metrics_observe(&metrics.run, 60000000);
    assert_int_equal(metrics.run.buckets[METRICS_BUCKETS - 1], 1);
    metrics_observe(&metrics.run, 60000001);
    metrics_observe(&metrics.run, INT64_MAX / 2);
    assert_int_equal(metrics.run.buckets[METRICS_BUCKETS], 2);
    assert_int_equal(metrics.queue.buckets[0], 0);
}

/* Each sample line is NAME[{labels}] NUMBER, behind the HELP and TYPE of its family. */
static void test_the_text(void **state)
{
    (void)state;
    metrics_observe(&metrics.run, 2000);
    metrics_observe(&metrics.run, 2000000);
    metrics.killed[KILL_OOM] = 5;
    char *text = written();
    static const char *const wanted[] = {
        "le=\"0.001\"} 0\n", "le=\"0.0025\"} 1\n", "le=\"2.5\"} 2\n", "le=\"+Inf\"} 2\n",
        "_sum 2.002000\n",   "_count 2\n",         "\"oom\"} 5\n"};
    for (size_t i = 0; i < ARRAY_SIZE(wanted); i++) {
        if (!strstr(text, wanted[i]))
            fail_msg("no %s in\n%s", wanted[i], text);
    }
    const char *family = NULL;
    size_t family_size = 0;
    for (const char *line = text; *line; line = strchr(line, '\n') + 1) {
        assert_non_null(strchr(line, '\n'));
        if (strncmp(line, "# TYPE ", 7) == 0) {
            family = line + 7;
            family_size = strcspn(family, " ");
        }
        if (*line == '#')
            continue;
        assert_non_null(family);
        assert_int_equal(strncmp(line, family, family_size), 0);
        const char *number = line + strcspn(line, "\n");
        while (number[-1] != ' ')
            number--;
        char *end = NULL;
        (void)strtod(number, &end);
        assert_true(end != number && *end == '\n');
    }
    free(text);
}

static void test_quota(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    const struct quota_use use = {.memory_bytes = 1, .cpu_millis = 1};
    assert_ok(quota_check("local", QUOTA_EXECUTION, &use, &err), err);
    assert_ok(quota_check("local", QUOTA_SANDBOX, &use, &err), err);
    assert_fails(quota_check("", QUOTA_EXECUTION, &use, &err), ERR_INTERNAL, err);
    assert_fails(quota_check(NULL, QUOTA_EXECUTION, &use, &err), ERR_INTERNAL, err);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_buckets, clear),
        cmocka_unit_test_setup(test_the_text, clear),
        cmocka_unit_test(test_quota),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
