/* wire/json: bodies that are refused, fields and their errors, strings on the way out, base64. */
#include "check.h"

#include <string.h>

#include "wire/json.h"

static struct json_t *parse(const char *text)
{
    struct err err = ERR_INIT;
    struct json_t *json = NULL;
    assert_ok(json_parse_object((const uint8_t *)text, strlen(text), &json, &err), err);
    return json;
}

static void check_refused(const char *text, const char *part)
{
    struct err err = ERR_INIT;
    struct json_t *json = NULL;
    assert_fails(json_parse_object((const uint8_t *)text, strlen(text), &json, &err), ERR_BAD_INPUT,
                 err);
    assert_null(json);
    if (!strstr(err.public_message, part))
        fail_msg("\"%s\" lacks \"%s\"", err.public_message, part);
}

static void test_bodies(void **state)
{
    (void)state;
    check_refused("", "expected a JSON object");
    check_refused("[]", "got a list");
    check_refused("7", "got a number");
    check_refused("{} x", "not valid JSON");
    check_refused("{\"a\":", "not valid JSON");
    check_refused("{\"a\":NaN}", "not valid JSON");
    check_refused("{\"a\":\"\\u0000\"}", "\\u0000");
    check_refused("{\"a\":\"\xff\"}", "not valid JSON");
    char deep[20001];
    memset(deep, '[', 10000);
    memset(deep + 10000, ']', 10000);
    deep[20000] = '\0';
    check_refused(deep, "nested deeper");
    struct json_t *json JSON_AUTO = parse("{\"a\":\"[[[[{{{{\\\"[\"}");
    assert_non_null(json_member(json, "a"));
}

static void test_durations(void **state)
{
    (void)state;
    struct json_t *json JSON_AUTO =
        parse("{\"a\":1.5,\"b\":\"2\",\"c\":0,\"d\":-1,\"e\":\"x\",\"f\":[],\"g\":1e300,\"h\":null,"
              "\"i\":0.0001,\"j\":3601}");
    struct err err = ERR_INIT;
    uint64_t ms = 7;
    assert_ok(json_get_duration(json, "none", 3600000, &ms, &err), err);
    assert_ok(json_get_duration(json, "h", 3600000, &ms, &err), err);
    assert_int_equal(ms, 7);
    assert_ok(json_get_duration(json, "a", 3600000, &ms, &err), err);
    assert_int_equal(ms, 1500);
    assert_ok(json_get_duration(json, "b", 3600000, &ms, &err), err);
    assert_int_equal(ms, 2000);
    assert_ok(json_get_duration(json, "i", 3600000, &ms, &err), err);
    assert_int_equal(ms, 1);
    static const char *const wrong[] = {"c", "d", "e", "f", "g", "j"};
    for (size_t i = 0; i < ARRAY_SIZE(wrong); i++)
        assert_fails(json_get_duration(json, wrong[i], 3600000, &ms, &err), ERR_BAD_INPUT, err);
    (void)json_get_duration(json, "e", 3600000, &ms, &err);
    assert_string_equal(err.public_message, "e: expected a number of seconds, got a string");
}

static void test_sizes(void **state)
{
    (void)state;
    struct json_t *json JSON_AUTO = parse(
        "{\"a\":512,\"b\":\"1GiB\",\"c\":-1,\"d\":1.5,\"e\":\"1 potato\",\"f\":0,\"cpu\":\"0.5\","
        "\"gpu\":\"2\",\"half\":0.5}");
    struct err err = ERR_INIT;
    uint64_t bytes = 0;
    uint64_t count = 0;
    uint32_t millis = 0;
    assert_ok(json_get_size(json, "a", &bytes, &err), err);
    assert_int_equal(bytes, 512);
    assert_ok(json_get_size(json, "b", &bytes, &err), err);
    assert_int_equal(bytes, 1 << 30);
    static const char *const wrong[] = {"c", "d", "e", "f"};
    for (size_t i = 0; i < ARRAY_SIZE(wrong); i++)
        assert_fails(json_get_size(json, wrong[i], &bytes, &err), ERR_BAD_INPUT, err);
    assert_ok(json_get_cores(json, "cpu", &millis, &err), err);
    assert_int_equal(millis, 500);
    assert_ok(json_get_u64(json, "gpu", 0, 8, &count, &err), err);
    assert_int_equal(count, 2);
    assert_fails(json_get_u64(json, "half", 0, 8, &count, &err), ERR_BAD_INPUT, err);
    assert_fails(json_get_u64(json, "c", 0, 8, &count, &err), ERR_BAD_INPUT, err);
}

static void test_strings(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct buf out BUF_AUTO;
    buf_init(&out, 256);
    static const char text[] = "a\"\\\n\x01\x7f\0\xc3\xa9";
    assert_ok(json_append_string(&out, text, sizeof(text) - 1, &err), err);
    assert_string_equal(buf_cstr(&out), "\"a\\\"\\\\\\n\\u0001\\u007f\\u0000\xc3\xa9\"");
    out.size = 0;
    assert_ok(json_append_bytes(&out, (const uint8_t *)"\xff\n", 2, &err), err);
    assert_string_equal(buf_cstr(&out), "\"\xef\xbf\xbd\\n\"");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bodies),
        cmocka_unit_test(test_durations),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_strings),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
