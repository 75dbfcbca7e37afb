/* wire/utf8: what is valid, what becomes U+FFFD, and what may still be completed. */
#include "check.h"

#include <string.h>

#include "wire/utf8.h"

#define BYTES(text) (const uint8_t *)(text), sizeof(text) - 1

static void check_clean(const uint8_t *data, size_t size, const char *expected)
{
    struct err err = ERR_INIT;
    struct buf out BUF_AUTO;
    buf_init(&out, 1024);
    assert_ok(utf8_sanitize(data, size, &out, &err), err);
    assert_string_equal(buf_cstr(&out), expected);
    assert_true(utf8_is_valid(out.data, out.size));
}

static void test_sanitize(void **state)
{
    (void)state;
    check_clean(BYTES("plain"), "plain");
    check_clean(BYTES(""), "");
    check_clean(BYTES("h\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80"),
                "h\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80");
    check_clean(BYTES("a\xff"
                      "b"),
                "a\xef\xbf\xbd"
                "b");
    /* One mark for each maximal subpart (Unicode 15, table 3-8). */
    check_clean(BYTES("\xf0\x80\x80\x41"), "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"
                                           "A");
    check_clean(BYTES("\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41"),
                "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"
                "A");
    check_clean(BYTES("\xed\xa0\x80"), "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");
    check_clean(BYTES("\xf4\x90\x80\x80"), "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");
}

static void test_valid(void **state)
{
    (void)state;
    assert_true(utf8_is_valid(BYTES("\xf4\x8f\xbf\xbf")));
    assert_false(utf8_is_valid(BYTES("\xc0\xaf")));
    assert_false(utf8_is_valid(BYTES("\xe2\x82")));
    assert_false(utf8_is_valid(BYTES("\xed\xa0\x80")));
}

static void test_tail(void **state)
{
    (void)state;
    assert_int_equal(utf8_incomplete_tail(BYTES("")), 0);
    assert_int_equal(utf8_incomplete_tail(BYTES("abc")), 0);
    assert_int_equal(utf8_incomplete_tail(BYTES("a\xc3")), 1);
    assert_int_equal(utf8_incomplete_tail(BYTES("a\xe2\x82")), 2);
    assert_int_equal(utf8_incomplete_tail(BYTES("\xf0\x9f\x98")), 3);
    assert_int_equal(utf8_incomplete_tail(BYTES("\xf0\x9f\x98\x80")), 0);
    assert_int_equal(utf8_incomplete_tail(BYTES("\xff")), 0);
    assert_int_equal(utf8_incomplete_tail(BYTES("\xe2\x28")), 0);
    assert_int_equal(utf8_incomplete_tail(BYTES("\xed\xa0")), 0);
    assert_int_equal(utf8_incomplete_tail(BYTES("\x80\x80\x80\x80")), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sanitize),
        cmocka_unit_test(test_valid),
        cmocka_unit_test(test_tail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
