/* base/parse: sizes, integers and fractions, and everything that only looks like one. */
#include "check.h"

#include <string.h>

#include "base/parse.h"

static void test_sizes(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        uint64_t bytes;
    } cases[] = {
        {"0", 0},
        {"512", 512},
        {"512B", 512},
        {"64KB", 64000},
        {"64KiB", 65536},
        {"1k", 1024},
        {"512MB", 512000000},
        {"512mb", 512000000},
        {"1GiB", UINT64_C(1) << 30},
        {"1.5GB", 1500000000},
        {"0.5KiB", 512},
        {"2T", UINT64_C(2) << 40},
        {"  1 MiB ", UINT64_C(1) << 20},
        {"999999999999999999", 999999999999999999},
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct err err = ERR_INIT;
        uint64_t bytes = 1;
        assert_ok(parse_size(cases[i].text, &bytes, &err), err);
        /* A double holds 53 bits; the last case is within its rounding. */
        uint64_t off = bytes > cases[i].bytes ? bytes - cases[i].bytes : cases[i].bytes - bytes;
        assert_true(off <= cases[i].bytes >> 52);
    }
}

static void test_bad_sizes(void **state)
{
    (void)state;
    const char *const wrong[] = {
        "",     " ",    "MB",    "-1",        "+1",
        "1.",   ".5",   "1.5",   "1.5B",      "1e3",
        "0x10", "1 XB", "1MBB",  "1 M B",     "1\nMB",
        "nan",  "inf",  "1,5GB", "9999999TB", "1000000000000000000000",
    };
    for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
        struct err err = ERR_INIT;
        uint64_t bytes = 77;
        assert_fails(parse_size(wrong[i], &bytes, &err), ERR_BAD_INPUT, err);
        assert_true(err.public_message[0] != '\0');
        assert_int_equal(bytes, 77);
    }
}

static void test_integers(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    uint64_t value = 0;
    assert_ok(parse_u64("0", 0, 0, &value, &err), err);
    assert_int_equal(value, 0);
    assert_ok(parse_u64("65535", 1, 65535, &value, &err), err);
    assert_int_equal(value, 65535);
    const char *const wrong[] = {"",    "-1",  "+1",    " 1", "1 ",
                                 "0x1", "1.0", "65536", "0",  "99999999999999999999999"};
    for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
        assert_fails(parse_u64(wrong[i], 1, 65535, &value, &err), ERR_BAD_INPUT, err);
        assert_int_equal(value, 65535);
    }
}

static void test_fractions(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    double value = 0;
    assert_ok(parse_fraction("2", &value, &err), err);
    assert_true(value == 2.0);
    assert_ok(parse_fraction("0.5", &value, &err), err);
    assert_true(value > 0.49 && value < 0.51);
    const char *const wrong[] = {"",    "-1",    "1.", ".5", "1e3", "nan",
                                 "inf", "0x1p3", "1 ", " 1", "1,5"};
    for (size_t i = 0; i < ARRAY_SIZE(wrong); i++)
        assert_fails(parse_fraction(wrong[i], &value, &err), ERR_BAD_INPUT, err);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_bad_sizes),
        cmocka_unit_test(test_integers),
        cmocka_unit_test(test_fractions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
