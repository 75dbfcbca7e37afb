/* base/err: what is written where, truncation, context, copying. */
#include "check.h"

#include <errno.h>
#include <string.h>

static void test_kinds_have_names(void **state)
{
    (void)state;
    for (int kind = 0; kind < ERR_KIND_COUNT; kind++)
        assert_non_null(err_kind_name((enum err_kind)kind));
    assert_string_equal(err_kind_name(ERR_BAD_INPUT), "bad_input");
    assert_string_equal(err_kind_name(ERR_KIND_COUNT), "unknown");
}

static void test_set_is_private(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    err.retry_after_s = 7;
    assert_fails(err_set(&err, ERR_CONFLICT, "name %s", "x"), ERR_CONFLICT, err);
    assert_string_equal(err.message, "name x");
    assert_string_equal(err.public_message, "");
    assert_int_equal(err.retry_after_s, 0);
    assert_int_equal(err_set(NULL, ERR_CONFLICT, "nobody listens"), -ERR_CONFLICT);
}

static void test_public_is_both(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    assert_fails(err_public(&err, ERR_BAD_INPUT, "field %d", 3), ERR_BAD_INPUT, err);
    assert_string_equal(err.message, "field 3");
    assert_string_equal(err.public_message, "field 3");
}

static void test_sys_names_the_errno(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    assert_fails(err_sys(&err, ENOENT, "open %s", "f"), ERR_INTERNAL, err);
    assert_int_equal(err.sys_errno, ENOENT);
    assert_non_null(strstr(err.message, "open f: "));
    assert_non_null(strstr(err.message, strerror(ENOENT)));
    assert_string_equal(err.public_message, "");
}

static void test_wrap_keeps_the_kind(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    (void)err_public(&err, ERR_NOT_FOUND, "no such id");
    assert_int_equal(err_wrap(&err, "look up %s", "abc"), -ERR_NOT_FOUND);
    assert_string_equal(err.message, "look up abc: no such id");
    assert_string_equal(err.public_message, "no such id");
}

static void test_long_texts_are_cut(void **state)
{
    (void)state;
    char text[3 * ERR_MESSAGE_MAX];
    memset(text, 'a', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    struct err err = ERR_INIT;
    (void)err_public(&err, ERR_INTERNAL, "%s", text);
    assert_int_equal(strlen(err.message), ERR_MESSAGE_MAX - 1);
    (void)err_wrap(&err, "%s", text);
    assert_int_equal(strlen(err.message), ERR_MESSAGE_MAX - 1);
    (void)err_sys(&err, EIO, "%s", text);
    assert_int_equal(strlen(err.message), ERR_MESSAGE_MAX - 1);
}

static void test_copy(void **state)
{
    (void)state;
    struct err from = ERR_INIT;
    struct err to = ERR_INIT;
    (void)err_set(&from, ERR_TIMEOUT, "late");
    assert_int_equal(err_copy(&to, &from), -ERR_TIMEOUT);
    assert_string_equal(to.message, "late");
    assert_int_equal(err_copy(NULL, &from), -ERR_TIMEOUT);
    assert_int_equal(err_copy(&from, &from), -ERR_TIMEOUT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kinds_have_names),
        cmocka_unit_test(test_set_is_private),
        cmocka_unit_test(test_public_is_both),
        cmocka_unit_test(test_sys_names_the_errno),
        cmocka_unit_test(test_wrap_keeps_the_kind),
        cmocka_unit_test(test_long_texts_are_cut),
        cmocka_unit_test(test_copy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
