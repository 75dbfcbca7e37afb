/* egress/address and egress/route: what is public, what the operator excepts, what is this host's.
 */
#include "check.h"

#include <arpa/inet.h>
#include <string.h>

#include "egress/address.h"
#include "egress/route.h"

static union address address_of(const char *text)
{
    union address address;
    memset(&address, 0, sizeof(address));
    bool v6 = strchr(text, ':') != NULL;
    address.any.sa_family = v6 ? AF_INET6 : AF_INET;
    void *bytes = v6 ? (void *)&address.v6.sin6_addr : (void *)&address.v4.sin_addr;
    assert_int_equal(inet_pton(address.any.sa_family, text, bytes), 1);
    return address;
}

static const char *refusal_of(const char *text)
{
    const union address address = address_of(text);
    return address_refusal(&address);
}

static void test_public(void **state)
{
    (void)state;
    static const char *const good[] = {
        "1.1.1.1",         "8.8.8.8",         "9.255.255.255", "11.0.0.0",        "100.63.255.255",
        "100.128.0.0",     "126.255.255.255", "128.0.0.0",     "169.253.255.255", "169.255.0.0",
        "172.15.255.255",  "172.32.0.0",      "192.0.1.0",     "192.0.3.0",       "192.167.255.255",
        "192.169.0.0",     "198.17.255.255",  "198.20.0.0",    "203.0.112.255",   "223.255.255.255",
        "168.63.129.15",   "2606:4700::1111", "2a00::1",       "2001:4860::8888", "2001:200::1",
        "64:ff9b::808:808"};
    for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
        if (refusal_of(good[i]))
            fail_msg("%s is refused: %s", good[i], refusal_of(good[i]));
    }
}

static void test_not_public(void **state)
{
    (void)state;
    static const char *const bad[] = {"0.0.0.0",
                                      "0.255.255.255",
                                      "10.0.0.0",
                                      "10.255.255.255",
                                      "100.64.0.0",
                                      "100.127.255.255",
                                      "127.0.0.1",
                                      "127.255.255.255",
                                      "169.254.169.254",
                                      "172.16.0.0",
                                      "172.31.255.255",
                                      "192.0.0.1",
                                      "192.0.2.1",
                                      "192.88.99.1",
                                      "192.168.0.0",
                                      "192.168.255.255",
                                      "198.18.0.0",
                                      "198.19.255.255",
                                      "198.51.100.1",
                                      "203.0.113.1",
                                      "224.0.0.1",
                                      "239.255.255.255",
                                      "240.0.0.1",
                                      "255.255.255.255",
                                      "168.63.129.16",
                                      "::",
                                      "::1",
                                      "::ffff:1.1.1.1",
                                      "::ffff:127.0.0.1",
                                      "::127.0.0.1",
                                      "64:ff9b::7f00:1",
                                      "64:ff9b::a9fe:a9fe",
                                      "64:ff9b:1::1",
                                      "100::1",
                                      "2001::1",
                                      "2001:0:7f00:1::",
                                      "2001:10::1",
                                      "2001:1ff:ffff::1",
                                      "2001:db8::1",
                                      "2002:7f00:1::1",
                                      "3fff::1",
                                      "3fff:fff::1",
                                      "4000::1",
                                      "5f00::1",
                                      "fc00::1",
                                      "fd00:ec2::254",
                                      "fe80::1",
                                      "fec0::1",
                                      "ff02::1",
                                      "1000::1"};
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        if (!refusal_of(bad[i]))
            fail_msg("%s is taken for public", bad[i]);
    }
    union address scoped = address_of("2606:4700::1111");
    scoped.v6.sin6_scope_id = 2;
    assert_non_null(address_refusal(&scoped));
    scoped.any.sa_family = AF_UNIX;
    assert_non_null(address_refusal(&scoped));
}

static void test_excepts(void **state)
{
    (void)state;
    struct address_excepts excepts;
    struct err err = ERR_INIT;
    assert_ok(
        address_excepts_parse(" 10.1.0.0/16,192.0.2.7  fd00::/12, 10.2.3.128/25", &excepts, &err),
        err);
    assert_int_equal(excepts.count, 4);
    static const char *const in[] = {"10.1.255.255", "192.0.2.7", "fd0f:ffff::1", "10.2.3.200"};
    static const char *const not_in[] = {"10.2.0.0", "192.0.2.8", "fd10::1", "10.2.3.127",
                                         "::10.1.0.1"};
    for (size_t i = 0; i < ARRAY_SIZE(in); i++) {
        const union address address = address_of(in[i]);
        assert_true(address_is_excepted(&address, &excepts));
    }
    for (size_t i = 0; i < ARRAY_SIZE(not_in); i++) {
        const union address address = address_of(not_in[i]);
        assert_false(address_is_excepted(&address, &excepts));
    }
    assert_ok(address_excepts_parse("", &excepts, &err), err);
    assert_int_equal(excepts.count, 0);
    static const char *const bad[] = {"10.1/16",      "10.0.0.0/33", "10.0.0.0/",
                                      "fd00::/129",   "web",         "10.0.0.0/8x",
                                      "0x0a.0.0.0/8", "10.0.0.0/-1", "/8"};
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_fails(address_excepts_parse(bad[i], &excepts, &err), ERR_BAD_INPUT, err);
}

static void test_routes(void **state)
{
    (void)state;
    static const char *const ours[] = {"127.0.0.1", "127.9.9.9"};
    for (size_t i = 0; i < ARRAY_SIZE(ours); i++) {
        struct err err = ERR_INIT;
        const union address address = address_of(ours[i]);
        assert_fails(route_check(&address, &err), ERR_FORBIDDEN, err);
    }
    struct err err = ERR_INIT;
    const union address broadcast = address_of("255.255.255.255");
    assert_true(route_check(&broadcast, &err) < 0); /* forbidden, or without a route */
    const union address elsewhere = address_of("1.1.1.1");
    int result = route_check(&elsewhere, &err);
    assert_true(result == 0 || result == -ERR_UNAVAILABLE);
}

static void test_texts(void **state)
{
    (void)state;
    char text[ADDRESS_TEXT_SIZE];
    const union address v6 = address_of("2606::1");
    union address copy;
    assert_true(address_set(&copy, &v6.any, 443));
    address_format(&copy, text);
    assert_string_equal(text, "2606::1");
    assert_int_equal(ntohs(copy.v6.sin6_port), 443);
    assert_int_equal(address_size(&copy), sizeof(copy.v6));
    const struct sockaddr other = {.sa_family = AF_UNIX};
    assert_false(address_set(&copy, &other, 443));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_public),  cmocka_unit_test(test_not_public),
        cmocka_unit_test(test_excepts), cmocka_unit_test(test_routes),
        cmocka_unit_test(test_texts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
