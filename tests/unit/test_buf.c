/* base/buf: growth up to the maximum and not a byte further. */
#include "check.h"

#include <string.h>

#include "base/buf.h"

static void test_append_and_text(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    BUF_AUTO struct buf buf;
    buf_init(&buf, 64);
    assert_string_equal(buf_cstr(&buf), "");
    assert_ok(buf_append_str(&buf, "one", &err), err);
    assert_ok(buf_append(&buf, " two", 4, &err), err);
    assert_ok(buf_printf(&buf, &err, " %d", 3), err);
    assert_string_equal(buf_cstr(&buf), "one two 3");
    assert_int_equal(buf.size, 9);
    assert_ok(buf_append(&buf, NULL, 0, &err), err);
    assert_int_equal(buf.size, 9);
}

static void test_maximum_is_exact(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    BUF_AUTO struct buf buf;
    buf_init(&buf, 4);
    assert_ok(buf_append(&buf, "abcd", 4, &err), err);
    assert_fails(buf_append(&buf, "e", 1, &err), ERR_TOO_LARGE, err);
    assert_fails(buf_printf(&buf, &err, "%s", "e"), ERR_TOO_LARGE, err);
    assert_int_equal(buf.size, 4);
    assert_string_equal(buf_cstr(&buf), "abcd");
    assert_null(buf_reserve(&buf, SIZE_MAX, &err));
    assert_int_equal(err.kind, ERR_TOO_LARGE);
    BUF_AUTO struct buf endless;
    buf_init(&endless, SIZE_MAX);
    assert_ok(buf_append(&endless, "abcd", 4, &err), err);
    assert_true(endless.capacity >= 5);
}

static void test_grows_in_many_steps(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    BUF_AUTO struct buf buf;
    buf_init(&buf, 100000);
    for (int i = 0; i < 100000; i++)
        assert_ok(buf_append(&buf, &(char){(char)('a' + i % 26)}, 1, &err), err);
    for (int i = 0; i < 100000; i++)
        assert_int_equal(buf.data[i], 'a' + i % 26);
}

static void test_reserve_then_set_size(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    BUF_AUTO struct buf buf;
    buf_init(&buf, 1000);
    uint8_t *room = buf_reserve(&buf, 1000, &err);
    assert_non_null(room);
    memset(room, 'x', 1000);
    buf.size = 1000;
    assert_int_equal(strlen(buf_cstr(&buf)), 1000);
}

static void test_consume(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    BUF_AUTO struct buf buf;
    buf_init(&buf, 16);
    assert_ok(buf_append_str(&buf, "abcdef", &err), err);
    buf_consume(&buf, 2);
    assert_string_equal(buf_cstr(&buf), "cdef");
    buf_consume(&buf, 100);
    assert_int_equal(buf.size, 0);
    buf_consume(&buf, 1);
    assert_int_equal(buf.size, 0);
}

static void test_done_is_repeatable(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct buf zero = {0};
    buf_done(&zero);
    struct buf buf;
    buf_init(&buf, 8);
    assert_ok(buf_append_str(&buf, "x", &err), err);
    buf_done(&buf);
    buf_done(&buf);
    assert_ok(buf_append_str(&buf, "again", &err), err);
    assert_string_equal(buf_cstr(&buf), "again");
    buf_done(&buf);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_append_and_text),
        cmocka_unit_test(test_maximum_is_exact),
        cmocka_unit_test(test_grows_in_many_steps),
        cmocka_unit_test(test_reserve_then_set_size),
        cmocka_unit_test(test_consume),
        cmocka_unit_test(test_done_is_repeatable),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
