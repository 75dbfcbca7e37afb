/* server/settings: defaults, every variable's kinds and ranges, and what fits with what. */
#include "check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/settings.h"

static const char *const names[] = {"BERTH_MAX_SANDBOXES",
                                    "BERTH_MAX_CREATES",
                                    "BERTH_QUEUE",
                                    "BERTH_QUEUE_WAIT",
                                    "BERTH_TIMEOUT",
                                    "BERTH_TIMEOUT_MAX",
                                    "BERTH_RAM",
                                    "BERTH_STORAGE",
                                    "BERTH_CPU",
                                    "BERTH_PIDS",
                                    "BERTH_OPEN_FILES",
                                    "BERTH_OUTPUT_KEEP",
                                    "BERTH_OUTPUT_MAX",
                                    "BERTH_KEEP_OUTCOME",
                                    "BERTH_MAX_CONNECTIONS",
                                    "BERTH_BODY_MAX",
                                    "BERTH_BODIES_MAX",
                                    "BERTH_PUBLIC_HOST",
                                    "BERTH_AUTH",
                                    "BERTH_REGISTER",
                                    "BERTH_ENGINE",
                                    "BERTH_ENGINES",
                                    "BERTH_ENGINE_EXECUTE",
                                    "BERTH_ENGINE_SESSIONS",
                                    "BERTH_ENGINE_CHOICE",
                                    "BERTH_TESTING",
                                    "BERTH_MEMORY",
                                    "BERTH_MEMORY_OVERCOMMIT",
                                    "BERTH_RESERVE_MIN",
                                    "BERTH_DISK",
                                    "BERTH_DISK_OVERCOMMIT",
                                    "BERTH_KEEP_BYTES",
                                    "BERTH_ANSWERS_MAX",
                                    "BERTH_NETWORK_MODES",
                                    "BERTH_EGRESS_ALLOW",
                                    "BERTH_EGRESS_MAX_BYTES",
                                    "BERTH_EGRESS_CONNECTIONS",
                                    "BERTH_LAYERS_MAX",
                                    "BERTH_LAYERS_BYTES",
                                    "BERTH_LAYERS_GRACE",
                                    "BERTH_LAYERS_TIMEOUT",
                                    "BERTH_LAYERS_RAM",
                                    "BERTH_LAYERS_STORAGE",
                                    "BERTH_LAYERS_ALLOW",
                                    "BERTH_LAYERS_ENV"};

static int clear(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(names); i++)
        (void)unsetenv(names[i]);
    return 0;
}

static struct settings loaded(void)
{
    struct settings settings;
    struct err err = ERR_INIT;
    assert_ok(settings_load(&settings, &err), err);
    return settings;
}

static void test_defaults(void **state)
{
    (void)state;
    struct settings settings = loaded();
    assert_int_equal(settings.sandboxes_max, 512);
    assert_int_equal(settings.memory_budget_bytes, 0); /* by what the host has */
    assert_int_equal(settings.disk_budget_bytes, 0);
    assert_int_equal(settings.reserve_min_bytes, 16U << 20);
    assert_int_equal(settings.memory_overcommit_millis, 16000);
    assert_int_equal(settings.disk_overcommit_millis, 4000);
    assert_in_range(settings.creates_max, 1, 1024);
    assert_int_equal(settings.queue_max, 1024);
    assert_int_equal(settings.queue_wait_ms, 30000);
    assert_int_equal(settings.timeout_ms, 30000);
    assert_int_equal(settings.timeout_max_ms, 3600000);
    assert_int_equal(settings.memory_bytes, 512U << 20);
    assert_int_equal(settings.storage_bytes, 256U << 20);
    assert_int_equal(settings.cpu_millis, 1000);
    assert_int_equal(settings.pids_max, 128);
    assert_int_equal(settings.open_files_max, 1024);
    assert_int_equal(settings.output_keep_bytes, 1U << 20);
    assert_int_equal(settings.output_max_bytes, 64U << 20);
    assert_int_equal(settings.keep_outcome_ms, 3600000);
    assert_int_equal(settings.answers_max_bytes, 256U << 20);
    assert_int_equal(settings.keep_bytes, 1U << 30);
    assert_int_equal(settings.connection_max, 1024);
    assert_int_equal(settings.body_max_bytes, 4U << 20);
    assert_int_equal(settings.bodies_max_bytes, 256U << 20);
    assert_string_equal(settings.public_host, "");
    assert_string_equal(settings.engines[0], "native");
    assert_string_equal(settings.network_modes, "none,egress");
    assert_null(settings.egress_allow);
    assert_int_equal(settings.egress_bytes_max, UINT64_C(16) << 30);
    assert_int_equal(settings.egress_connections_max, 64);
    assert_false(settings.auth_off);
    assert_true(settings.register_open);
    assert_false(settings.testing);
}

static void test_values(void **state)
{
    (void)state;
    (void)setenv("BERTH_MAX_SANDBOXES", "7", 1);
    (void)setenv("BERTH_MAX_CREATES", "3", 1);
    (void)setenv("BERTH_TIMEOUT", "0.25", 1);
    (void)setenv("BERTH_RAM", "64MiB", 1);
    (void)setenv("BERTH_STORAGE", "1.5GB", 1);
    (void)setenv("BERTH_CPU", "0.5", 1);
    (void)setenv("BERTH_QUEUE", "0", 1);
    (void)setenv("BERTH_MEMORY", "2GiB", 1);
    (void)setenv("BERTH_MEMORY_OVERCOMMIT", "1.25", 1);
    (void)setenv("BERTH_RESERVE_MIN", "64MiB", 1);
    (void)setenv("BERTH_DISK", "100GB", 1);
    (void)setenv("BERTH_DISK_OVERCOMMIT", "1", 1);
    (void)setenv("BERTH_PIDS", "", 1); /* empty is unset */
    (void)setenv("BERTH_PUBLIC_HOST", "berth.example", 1);
    (void)setenv("BERTH_EGRESS_ALLOW", "a.org", 1);
    (void)setenv("BERTH_AUTH", "off", 1);
    (void)setenv("BERTH_REGISTER", "0", 1);
    struct settings settings = loaded();
    assert_int_equal(settings.sandboxes_max, 7);
    assert_int_equal(settings.creates_max, 3);
    assert_int_equal(settings.timeout_ms, 250);
    assert_int_equal(settings.memory_bytes, 64U << 20);
    assert_int_equal(settings.storage_bytes, 1500000000);
    assert_int_equal(settings.cpu_millis, 500);
    assert_int_equal(settings.queue_max, 0);
    assert_int_equal(settings.memory_budget_bytes, UINT64_C(2) << 30);
    assert_int_equal(settings.memory_overcommit_millis, 1250);
    assert_int_equal(settings.reserve_min_bytes, 64U << 20);
    assert_int_equal(settings.disk_budget_bytes, UINT64_C(100000000000));
    assert_int_equal(settings.disk_overcommit_millis, 1000);
    assert_int_equal(settings.pids_max, 128);
    assert_string_equal(settings.public_host, "berth.example");
    assert_string_equal(settings.egress_allow, "a.org");
    assert_true(settings.auth_off);
    assert_false(settings.register_open);
    (void)setenv("BERTH_AUTH", "on", 1);
    (void)setenv("BERTH_REGISTER", "1", 1);
    settings = loaded();
    assert_false(settings.auth_off);
    assert_true(settings.register_open);
}

/* The error names the variable, and nothing is loaded. */
static void refused(const char *name, const char *value)
{
    struct settings settings;
    struct err err = ERR_INIT;
    memset(&settings, 0x5a, sizeof(settings));
    (void)setenv(name, value, 1);
    int result = settings_load(&settings, &err);
    if (result != -ERR_BAD_INPUT || !strstr(err.message, name))
        fail_msg("%s=%s: %d %s", name, value, result, err.message);
    assert_int_equal(settings.pids_max, UINT64_C(0x5a5a5a5a5a5a5a5a));
    (void)unsetenv(name);
}

static void test_refusals(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        const char *value;
    } table[] = {
        {"BERTH_MAX_SANDBOXES", "0"},
        {"BERTH_MAX_SANDBOXES", "2049"},
        {"BERTH_MAX_SANDBOXES", "many"},
        {"BERTH_MAX_SANDBOXES", "1.5"},
        {"BERTH_MAX_SANDBOXES", "-1"},
        {"BERTH_MAX_SANDBOXES", " 1"},
        {"BERTH_MAX_CREATES", "0"},
        {"BERTH_QUEUE", "100001"},
        {"BERTH_QUEUE_WAIT", "0"},
        {"BERTH_QUEUE_WAIT", "soon"},
        {"BERTH_TIMEOUT", "0"},
        {"BERTH_TIMEOUT", "1e3"},
        {"BERTH_TIMEOUT", "-3"},
        {"BERTH_TIMEOUT_MAX", "99999999999999999999"},
        {"BERTH_MEMORY", "1MiB"},
        {"BERTH_MEMORY", "0"},
        {"BERTH_MEMORY", "80%"},
        {"BERTH_MEMORY_OVERCOMMIT", "0.99"},
        {"BERTH_MEMORY_OVERCOMMIT", "0"},
        {"BERTH_MEMORY_OVERCOMMIT", "1001"},
        {"BERTH_MEMORY_OVERCOMMIT", "much"},
        {"BERTH_MEMORY_OVERCOMMIT", "-2"},
        {"BERTH_RESERVE_MIN", "1KiB"},
        {"BERTH_KEEP_BYTES", "1000"},
        {"BERTH_EGRESS_MAX_BYTES", "1023"},
        {"BERTH_EGRESS_CONNECTIONS", "0"},
        {"BERTH_EGRESS_CONNECTIONS", "65"}, /* egress takes no more, whatever it is told */
        {"BERTH_LAYERS_MAX", "-1"},
        {"BERTH_LAYERS_BYTES", "1KiB"},
        {"BERTH_LAYERS_TIMEOUT", "0"},
        {"BERTH_LAYERS_ENV", "PIP_INDEX_URL"},
        {"BERTH_LAYERS_ENV", "A=1 =2"},
        {"BERTH_DISK", "1MiB"},
        {"BERTH_DISK_OVERCOMMIT", "0.5"},
        {"BERTH_RAM", "1MiB"},
        {"BERTH_RAM", "2TiB"},
        {"BERTH_RAM", "lots"},
        {"BERTH_STORAGE", "1"},
        {"BERTH_CPU", "0.001"},
        {"BERTH_CPU", "1025"},
        {"BERTH_CPU", "two"},
        {"BERTH_PIDS", "1"},
        {"BERTH_PIDS", "65537"},
        {"BERTH_OPEN_FILES", "15"},
        {"BERTH_OUTPUT_KEEP", "5MiB"},
        {"BERTH_OUTPUT_MAX", "0"},
        {"BERTH_KEEP_OUTCOME", "0.5"},
        {"BERTH_MAX_CONNECTIONS", "0"},
        {"BERTH_BODY_MAX", "1"},
        {"BERTH_BODY_MAX", "65MiB"},
        {"BERTH_BODIES_MAX", "65GiB"},
        {"BERTH_ANSWERS_MAX", "1023KiB"},
        {"BERTH_AUTH", "no"},
        {"BERTH_AUTH", "OFF"},
        {"BERTH_REGISTER", "maybe"},
        {"BERTH_ENGINE", "podman"},
        {"BERTH_ENGINE", "fake"},
        {"BERTH_TIMEOUT", "3601"}, /* above BERTH_TIMEOUT_MAX */
    };
    for (size_t i = 0; i < ARRAY_SIZE(table); i++)
        refused(table[i].name, table[i].value);
    (void)setenv("BERTH_BODIES_MAX", "1MiB", 1);
    refused("BERTH_BODY_MAX", "2MiB");
    (void)unsetenv("BERTH_BODIES_MAX");
    (void)setenv("BERTH_MEMORY", "128MiB", 1);
    refused("BERTH_RESERVE_MIN", "129MiB");
}

/* Out of range: the range is said, in the words of a setting, and both of its ends are taken. */
static void test_ranges_are_said(void **state)
{
    (void)state;
    static const struct {
        const char *name, *wrong, *low, *high;
    } table[] = {
        {"BERTH_MAX_SANDBOXES", "2049", "1", "2048"},
        {"BERTH_QUEUE", "100001", "0", "100000"},
        {"BERTH_QUEUE_WAIT", "86401", "0.001", "86400"},
        {"BERTH_KEEP_OUTCOME", "0.5", "1", "2592000"},
        {"BERTH_MEMORY", "1MiB", "64MiB", "64TiB"},
        {"BERTH_BODY_MAX", "1", "1KiB", "64MiB"},
        {"BERTH_OUTPUT_KEEP", "5MiB", "1", "2MiB"},
        {"BERTH_CPU", "0.001", "0.01", "1024"},
        {"BERTH_DISK_OVERCOMMIT", "0.5", "1", "1000"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        struct settings settings;
        struct err err = ERR_INIT;
        char range[64];
        (void)setenv(table[i].name, table[i].wrong, 1);
        assert_fails(settings_load(&settings, &err), ERR_BAD_INPUT, err);
        (void)snprintf(range, sizeof(range), "from %s to %s", table[i].low, table[i].high);
        if (!strstr(err.message, range) || !strstr(err.message, table[i].wrong))
            fail_msg("\"%s\" does not say \"%s\"", err.message, range);
        (void)setenv(table[i].name, table[i].low, 1);
        (void)loaded();
        (void)setenv(table[i].name, table[i].high, 1);
        (void)loaded();
        (void)unsetenv(table[i].name);
    }
}

static void test_the_fake_engine_is_for_tests(void **state)
{
    (void)state;
    (void)setenv("BERTH_ENGINE", "fake", 1);
    (void)setenv("BERTH_TESTING", "1", 1);
    struct settings settings = loaded();
    assert_string_equal(settings.engines[0], "fake");
    assert_true(settings.testing);
    (void)unsetenv("BERTH_ENGINE");
    (void)setenv("BERTH_TESTING", "yes", 1);
    refused("BERTH_ENGINE", "fake");
}

static void test_engines_are_a_list(void **state)
{
    (void)state;
    (void)setenv("BERTH_ENGINE", "native", 1); /* the earlier name counts for less */
    (void)setenv("BERTH_ENGINES", " docker  native ", 1);
    (void)setenv("BERTH_ENGINE_EXECUTE", "native", 1);
    (void)setenv("BERTH_ENGINE_SESSIONS", "docker/runsc", 1);
    struct settings settings = loaded();
    assert_int_equal(settings.engine_count, 2);
    assert_string_equal(settings.engines[0], "docker");
    assert_string_equal(settings.engines[1], "native");
    assert_string_equal(settings.engine_execute, "native");
    assert_string_equal(settings.engine_sessions, "docker/runsc");
    assert_false(settings.engine_choice_said);
    (void)setenv("BERTH_ENGINE_CHOICE", "off", 1);
    settings = loaded();
    assert_true(settings.engine_choice_said);
    assert_false(settings.engine_choice);
    refused("BERTH_ENGINE_EXECUTE", "podman");
    refused("BERTH_ENGINE_EXECUTE", "doc");
    refused("BERTH_ENGINE_SESSIONS", "docker/");
    refused("BERTH_ENGINES", "native native");
    refused("BERTH_ENGINES", "native,docker");
    refused("BERTH_ENGINES", " ");
    refused("BERTH_ENGINE_CHOICE", "perhaps");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_defaults, clear),
        cmocka_unit_test_setup(test_values, clear),
        cmocka_unit_test_setup(test_refusals, clear),
        cmocka_unit_test_setup(test_ranges_are_said, clear),
        cmocka_unit_test_setup(test_the_fake_engine_is_for_tests, clear),
        cmocka_unit_test_setup(test_engines_are_a_list, clear),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
