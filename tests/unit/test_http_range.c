/* wire/http_range: one range of bytes, and all that is none. */
#include "check.h"

#include "base/mem.h"
#include "wire/http_range.h"

static void test_parts(void **state)
{
    static const struct {
        const char *field;
        uint64_t size, offset, count;
    } cases[] = {
        {"bytes=0-0", 10, 0, 1},
        {"bytes=0-", 10, 0, 10},
        {"bytes=2-4", 10, 2, 3},
        {"BYTES= 2-4 ", 10, 2, 3},
        {"bytes=9-9", 10, 9, 1},
        {"bytes=5-100", 10, 5, 5},
        {"bytes=5-99999999999999999999999999", 10, 5, 5},
        {"bytes=-3", 10, 7, 3},
        {"bytes=-10", 10, 0, 10},
        {"bytes=-11", 10, 0, 10},
        {"bytes=4294967296-", UINT64_C(1) << 33, UINT64_C(1) << 32, UINT64_C(1) << 32},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        uint64_t offset = 77;
        uint64_t count = 77;
        if (http_range_parse(cases[i].field, cases[i].size, &offset, &count) != HTTP_RANGE_PART ||
            offset != cases[i].offset || count != cases[i].count)
            fail_msg("%s: %llu %llu", cases[i].field, (unsigned long long)offset,
                     (unsigned long long)count);
    }
}

static void test_the_rest(void **state)
{
    static const struct {
        const char *field;
        uint64_t size;
        enum http_range range;
    } cases[] = {
        {NULL, 10, HTTP_RANGE_ALL},
        {"", 10, HTTP_RANGE_ALL},
        {"bytes", 10, HTTP_RANGE_ALL},
        {"bytes=", 10, HTTP_RANGE_ALL},
        {"bytes=-", 10, HTTP_RANGE_ALL},
        {"bytes=1", 10, HTTP_RANGE_ALL},
        {"bytes=a-b", 10, HTTP_RANGE_ALL},
        {"bytes=4-2", 10, HTTP_RANGE_ALL},
        {"bytes=1-2x", 10, HTTP_RANGE_ALL},
        {"bytes=1--2", 10, HTTP_RANGE_ALL},
        {"bytes=+1-2", 10, HTTP_RANGE_ALL},
        {"bytes=0-1,3-4", 10, HTTP_RANGE_ALL},
        {"lines=0-1", 10, HTTP_RANGE_ALL},
        {"bytes=10-", 10, HTTP_RANGE_NONE},
        {"bytes=10-12", 10, HTTP_RANGE_NONE},
        {"bytes=99999999999999999999999-", 10, HTTP_RANGE_NONE},
        {"bytes=-0", 10, HTTP_RANGE_NONE},
        {"bytes=0-0", 0, HTTP_RANGE_NONE},
        {"bytes=-1", 0, HTTP_RANGE_NONE},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        uint64_t offset = 77;
        uint64_t count = 77;
        enum http_range range = http_range_parse(cases[i].field, cases[i].size, &offset, &count);
        if (range != cases[i].range || offset != 77 || count != 77)
            fail_msg("%s: %d", cases[i].field ? cases[i].field : "(none)", (int)range);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_parts),
                                       cmocka_unit_test(test_the_rest)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
