/* base/id: what an id looks like, and what is none. */
#include "check.h"

#include <string.h>

#include "base/id.h"

static void test_uuid(void **state)
{
    (void)state;
    char one[ID_UUID_SIZE];
    char two[ID_UUID_SIZE];
    id_uuid(one);
    id_uuid(two);
    assert_true(id_is_uuid(one));
    assert_int_equal(one[14], '4');
    assert_non_null(strchr("89ab", one[19]));
    assert_string_not_equal(one, two);
}

static void test_is_uuid_refuses(void **state)
{
    (void)state;
    const char *const wrong[] = {
        "",
        "00000000-0000-4000-8000-00000000000",
        "00000000-0000-4000-8000-0000000000000",
        "00000000-0000-4000-8000-00000000000G",
        "00000000-0000-4000-8000-00000000000A",
        "0000000000000-4000-8000-000000000000",
        "../../../../etc/passwd/../../../../x",
    };
    for (size_t i = 0; i < ARRAY_SIZE(wrong); i++)
        assert_false(id_is_uuid(wrong[i]));
    assert_true(id_is_uuid("00000000-0000-4000-8000-000000000000"));
}

static void test_hex(void **state)
{
    (void)state;
    char text[ID_HEX_MAX + 1];
    id_hex(text, 4);
    assert_int_equal(strlen(text), 8);
    assert_int_equal(strspn(text, "0123456789abcdef"), 8);
    id_hex(text, ID_HEX_MAX / 2);
    assert_int_equal(strlen(text), ID_HEX_MAX);
    id_hex(text, 0);
    assert_string_equal(text, "");
}

static void test_is_name(void **state)
{
    (void)state;
    assert_true(id_is_name("a", 1));
    assert_true(id_is_name("repo-container-1-2", 64));
    assert_true(id_is_name("0", 8));
    const char *const wrong[] = {"",   "-a",  "A",   "a b",      "a/b",
                                 "..", "a.b", "a_b", "\xc3\xa9", "a\n"};
    for (size_t i = 0; i < ARRAY_SIZE(wrong); i++)
        assert_false(id_is_name(wrong[i], 64));
    assert_false(id_is_name("abcd", 3));
}

static void test_random_fills_all(void **state)
{
    (void)state;
    uint8_t bytes[512];
    memset(bytes, 0, sizeof(bytes));
    id_random(bytes, sizeof(bytes));
    size_t zeros = 0;
    for (size_t i = 0; i < sizeof(bytes); i++)
        zeros += bytes[i] == 0;
    assert_true(zeros < 64);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_uuid),
        cmocka_unit_test(test_is_uuid_refuses),
        cmocka_unit_test(test_hex),
        cmocka_unit_test(test_is_name),
        cmocka_unit_test(test_random_fills_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
