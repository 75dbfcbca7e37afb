/* auth/access: every rule on who may call, as a table. */
#include "check.h"

#include "auth/access.h"

static void test_rules(void **state)
{
    (void)state;
    static const struct {
        const char *bind, *public_host, *path, *host;
        bool auth_off, forwarded;
        enum access_verdict verdict;
    } cases[] = {
        {"127.0.0.1", NULL, "/execute", "localhost:8000", false, false, ACCESS_OPEN},
        {"127.0.0.1", NULL, "/execute", "127.1.2.3", false, false, ACCESS_OPEN},
        {"127.0.0.1", NULL, "/execute", "[::1]:8000", false, false, ACCESS_OPEN},
        {"127.0.0.1", NULL, "/execute", "LOCALHOST.", false, false, ACCESS_OPEN},
        {"127.0.0.1", "", "/execute", NULL, false, false, ACCESS_OPEN},
        {"127.0.0.1", NULL, "/execute", "evil.example", false, false, ACCESS_BAD_HOST},
        {"127.0.0.1", NULL, "/", "evil.example", false, false, ACCESS_BAD_HOST},
        {"127.0.0.1", NULL, "/execute", "evil.example", true, false, ACCESS_BAD_HOST},
        {"127.0.0.1", NULL, "/execute", "localhost.evil.example", false, false, ACCESS_BAD_HOST},
        {"127.0.0.1", NULL, "/execute", "127.0.0.1.evil.example", false, false, ACCESS_BAD_HOST},
        {"127.0.0.1", NULL, "/execute", "localhost:80:80", false, false, ACCESS_BAD_HOST},
        {"127.0.0.1", NULL, "/execute", "localhost:x", false, false, ACCESS_BAD_HOST},
        {"127.0.0.1", NULL, "/execute", "", false, false, ACCESS_BAD_HOST},
        {"127.0.0.1", NULL, "/execute", "10.0.0.1", false, false, ACCESS_BAD_HOST},
        {"127.0.0.1", NULL, "/execute", "localhost", false, true, ACCESS_NEEDS_TOKEN},
        {"127.0.0.1", NULL, "/health", "localhost", false, true, ACCESS_OPEN},
        {"127.0.0.1", NULL, "/execute", "localhost", true, true, ACCESS_OPEN},
        {"127.0.0.1", NULL, "/api/v1/sandboxes", "localhost", false, false, ACCESS_NEEDS_TOKEN},
        {"127.0.0.1", NULL, "/api/v1/sandboxes/x", "localhost", false, false, ACCESS_NEEDS_TOKEN},
        {"127.0.0.1", NULL, "/api/v1/sandboxesx", "localhost", false, false, ACCESS_OPEN},
        {"127.0.0.1", "box.example", "/execute", "box.example", false, false, ACCESS_NEEDS_TOKEN},
        {"127.0.0.1", "box.example", "/execute", "localhost", false, false, ACCESS_NEEDS_TOKEN},
        {"127.0.0.1", "box.example", "/health", "box.example:443", false, false, ACCESS_OPEN},
        {"10.0.0.1", NULL, "/execute", "10.0.0.1", false, false, ACCESS_NEEDS_TOKEN},
        {"10.0.0.1", NULL, "/metrics", "10.0.0.1", false, false, ACCESS_NEEDS_TOKEN},
        {"10.0.0.1", NULL, "/register", "10.0.0.1", false, false, ACCESS_NEEDS_TOKEN},
        {"0.0.0.0", NULL, "/health", "192.168.1.2:8000", false, false, ACCESS_OPEN},
        {"0.0.0.0", NULL, "/execute", "192.168.1.2:8000", false, false, ACCESS_NEEDS_TOKEN},
        {"0.0.0.0", NULL, "/health", "evil.example", false, false, ACCESS_BAD_HOST},
        {"0.0.0.0", NULL, "/execute", "192.168.1.2", true, false, ACCESS_OPEN},
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct access_policy policy = {.bind_host = cases[i].bind,
                                       .public_host = cases[i].public_host,
                                       .auth_off = cases[i].auth_off};
        struct access_request request = {
            .path = cases[i].path, .host = cases[i].host, .forwarded = cases[i].forwarded};
        if (access_decide(&policy, &request) != cases[i].verdict)
            fail_msg("case %zu: %s at %s", i, cases[i].path, cases[i].host);
    }
}

static void test_register(void **state)
{
    (void)state;
    struct access_policy policy = {.bind_host = "10.0.0.1", .register_open = true};
    struct access_request request = {.path = "/register", .host = "10.0.0.1"};
    assert_int_equal(access_decide(&policy, &request), ACCESS_OPEN);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rules),
        cmocka_unit_test(test_register),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
