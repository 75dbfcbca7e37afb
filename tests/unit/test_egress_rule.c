/* wire/egress_rule: what is a host and a rule, what matches, what one rule covers of another. */
#include "check.h"

#include <string.h>

#include "wire/egress_rule.h"

static bool parses(const char *text, struct egress_host *host)
{
    struct err err = ERR_INIT;
    int result = egress_host_parse(text, strlen(text), host, &err);
    if (result != 0) {
        assert_int_equal(result, -ERR_BAD_INPUT);
        assert_true(err.public_message[0] != '\0');
    }
    return result == 0;
}

static void test_hosts(void **state)
{
    (void)state;
    static const struct {
        const char *text, *host;
        enum egress_host_kind kind;
    } good[] = {
        {"pypi.org", "pypi.org", EGRESS_HOST_NAME},
        {"PyPI.Org.", "pypi.org", EGRESS_HOST_NAME},
        {"xn--bcher-kva.example", "xn--bcher-kva.example", EGRESS_HOST_NAME},
        {"a_b.c-d.e1", "a_b.c-d.e1", EGRESS_HOST_NAME},
        {"localhost", "localhost", EGRESS_HOST_NAME},
        {"1.2.3.4a", "1.2.3.4a", EGRESS_HOST_NAME},
        {"192.0.2.1", "192.0.2.1", EGRESS_HOST_IPV4},
        {"[::1]", "::1", EGRESS_HOST_IPV6},
        {"[2001:DB8:0:0::1]", "2001:db8::1", EGRESS_HOST_IPV6},
        {"[::ffff:127.0.0.1]", "::ffff:127.0.0.1", EGRESS_HOST_IPV6},
    };
    for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
        struct egress_host host;
        if (!parses(good[i].text, &host))
            fail_msg("%s is refused", good[i].text);
        assert_string_equal(host.text, good[i].host);
        assert_int_equal(host.kind, good[i].kind);
    }
}

static void test_what_is_no_host(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",
        ".",
        "..",
        "a..b",
        ".a",
        "-a.b",
        "a-.b",
        "a b",
        "a@b",
        "a/b",
        "a%2eb",
        "b\xc3\xbc",
        "a\\b",
        "a\tb",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "127.0.0.01",
        "127.0.0.1.",
        "127.0.0.256",
        "1.2.3.4.5",
        "0x7f.1",
        "a.0x10",
        "a.1",
        "foo.0",
        "::1",
        "[::1",
        "[]",
        "[::1%lo]",
        "[fe80::1%25lo]",
        "[1.2.3.4]",
        "[::1]x",
        "*.a",
        "*",
        "a,b",
    };
    struct egress_host host;
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        if (parses(bad[i], &host))
            fail_msg("%s is taken for %s", bad[i], host.text);
    }
    assert_int_equal(egress_host_parse("a\0b", 3, &host, NULL), -ERR_BAD_INPUT);
    assert_int_equal(egress_host_parse("[::1\0]", 6, &host, NULL), -ERR_BAD_INPUT);
    char longest[EGRESS_HOST_MAX + 3];
    memset(longest, 'a', sizeof(longest));
    for (size_t i = 50; i < sizeof(longest); i += 51)
        longest[i] = '.';
    longest[sizeof(longest) - 1] = '\0';
    assert_int_equal(egress_host_parse(longest, EGRESS_HOST_MAX, &host, NULL), 0);
    assert_int_equal(egress_host_parse(longest, EGRESS_HOST_MAX + 1, &host, NULL), -ERR_BAD_INPUT);
    memset(longest, 'a', 64); /* one part of 64 */
    assert_int_equal(egress_host_parse(longest, 64, &host, NULL), -ERR_BAD_INPUT);
    assert_int_equal(egress_host_parse(longest, 63, &host, NULL), 0);
}

static void test_targets(void **state)
{
    (void)state;
    struct egress_host host;
    uint16_t port = 0;
    assert_int_equal(egress_target_parse("a.b:65535", 9, 0, &host, &port, NULL), 0);
    assert_int_equal(port, 65535);
    assert_int_equal(egress_target_parse("[::1]:80", 8, 0, &host, &port, NULL), 0);
    assert_int_equal(port, 80);
    assert_int_equal(egress_target_parse("a.b", 3, 8080, &host, &port, NULL), 0);
    assert_int_equal(port, 8080);
    static const char *const bad[] = {"a.b",     "a.b:",   "a.b:0",  "a.b:65536",        "a.b:080",
                                      ":80",     "a:b:80", "a.b:+1", "a.b: 80",          "a.b:80 ",
                                      "a.b:8e1", "[::1]",  "::1:80", "a.b:1000000000000"};
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_int_equal(egress_target_parse(bad[i], strlen(bad[i]), 0, &host, &port, NULL),
                         -ERR_BAD_INPUT);
}

static bool matches(const char *rule_text, const char *host_text, uint16_t port)
{
    struct egress_rule rule;
    struct egress_host host;
    struct err err = ERR_INIT;
    assert_ok(egress_rule_parse(rule_text, &rule, &err), err);
    assert_ok(egress_host_parse(host_text, strlen(host_text), &host, &err), err);
    return egress_rule_matches(&rule, &host, port);
}

static void test_matches(void **state)
{
    (void)state;
    assert_true(matches("pypi.org", "PYPI.ORG.", 443) && matches("pypi.org", "pypi.org", 80));
    assert_false(matches("pypi.org", "pypi.org", 22) || matches("pypi.org", "a.pypi.org", 443));
    assert_false(matches("pypi.org", "notpypi.org", 443) || matches("pypi.org", "org", 443));
    assert_true(matches("pypi.org:22", "pypi.org", 22));
    assert_false(matches("pypi.org:22", "pypi.org", 443));
    assert_true(matches("*.a.org", "b.a.org", 443) && matches("*.a.org", "c.b.a.org", 443));
    assert_false(matches("*.a.org", "a.org", 443) || matches("*.a.org", "ba.org", 443));
    assert_true(matches("*", "a.org", 443) && matches("*", "localhost", 80));
    assert_false(matches("*", "a.org", 22) || matches("*", "1.1.1.1", 443));
    assert_false(matches("*", "[2606::1]", 443));
    assert_true(matches("*:22", "a.org", 22));
    assert_true(matches("1.1.1.1", "1.1.1.1", 443) && matches("[::1]:5", "[0::1]", 5));
    assert_false(matches("1.1.1.1", "1.1.1.11", 443) || matches("[::1]", "[::2]", 443));
}

static void test_rules_there_and_back(void **state)
{
    (void)state;
    static const char *const rules[] = {"a.b",  "a.b:22",  "*.a.b", "*.a.b:8", "*",
                                        "*:22", "1.2.3.4", "[::1]", "[::1]:80"};
    for (size_t i = 0; i < ARRAY_SIZE(rules); i++) {
        struct egress_rule rule;
        char text[EGRESS_RULE_MAX + 1];
        struct err err = ERR_INIT;
        assert_ok(egress_rule_parse(rules[i], &rule, &err), err);
        egress_rule_format(&rule, text, sizeof(text));
        assert_string_equal(text, rules[i]);
    }
    static const char *const bad[] = {"",      "*.",        "*a.b",    "**",   "*.*.b",
                                      "a.*",   "*.1.2.3.4", "*.[::1]", "a.b:", "http://a.b",
                                      "a.b/c", "a b",       ":80",     "*:0",  "a.b:1:2"};
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct egress_rule rule;
        assert_int_equal(egress_rule_parse(bad[i], &rule, NULL), -ERR_BAD_INPUT);
    }
}

static bool covered(const char *narrow, const char *first, const char *second)
{
    const char *const wide[] = {first, second};
    struct err err = ERR_INIT;
    bool found = false;
    assert_ok(egress_rule_check_narrow(narrow, wide, second ? 2 : 1, &found, &err), err);
    return found;
}

static void test_narrowing(void **state)
{
    (void)state;
    assert_true(covered("a.org", "a.org", NULL) && covered("A.org.", "a.org", NULL));
    assert_true(covered("a.org:443", "a.org", NULL) && covered("a.org:80", "a.org", NULL));
    assert_false(covered("a.org:22", "a.org", NULL) || covered("a.org", "a.org:443", NULL));
    assert_true(covered("a.org", "a.org:443", "a.org:80"));
    assert_true(covered("b.a.org", "*.a.org", NULL) && covered("*.b.a.org", "*.a.org", NULL));
    assert_true(covered("*.a.org", "*.a.org", NULL) && covered("*", "*", NULL));
    assert_false(covered("a.org", "*.a.org", NULL) || covered("*.org", "*.a.org", NULL));
    assert_false(covered("*", "*.a.org", NULL) || covered("*.a.org", "a.org", NULL));
    assert_false(covered("1.1.1.1", "*", NULL) || covered("[::1]", "*", NULL));
    assert_true(covered("1.1.1.1", "1.1.1.1", NULL) && covered("a.org", "*", NULL));
    assert_true(covered("a.org", "nonsense:", "a.org"));
    bool found = true;
    assert_int_equal(egress_rule_check_narrow("a b", NULL, 0, &found, NULL), -ERR_BAD_INPUT);
    assert_int_equal(egress_rule_check_narrow("a.b", NULL, 0, &found, NULL), 0);
    assert_false(found);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hosts),     cmocka_unit_test(test_what_is_no_host),
        cmocka_unit_test(test_targets),   cmocka_unit_test(test_matches),
        cmocka_unit_test(test_narrowing), cmocka_unit_test(test_rules_there_and_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
