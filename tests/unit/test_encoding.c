/* base/encoding: texts that stand for bytes, and what stands for none. */
#include "check.h"

#include <string.h>

#include "base/encoding.h"

static void test_hex(void **state)
{
    uint8_t bytes[2] = {0};
    char text[5];
    (void)state;
    hex_write((const uint8_t[]){0x0f, 0xa0}, 2, text);
    assert_string_equal(text, "0fa0");
    assert_true(hex_read("0fa0", bytes, 2));
    assert_int_equal(bytes[1], 0xa0);
    assert_false(hex_read("0fa", bytes, 2));
    assert_false(hex_read("0fag", bytes, 2));
    assert_false(hex_read("0fa00", bytes, 2));
    assert_true(hex_read("0FA0", bytes, 2));
    assert_false(hex_read(NULL, bytes, 2));
}

static void test_base64_decode(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        const char *bytes;
    } cases[] = {{"", ""}, {"Zg==", "f"}, {"Zm8=", "fo"}, {"Zm9v", "foo"}, {"Zm9vYg==", "foob"}};
    static const char *const wrong[] = {"Z",    "Zg",       "Zg=",    "Zh==", "Zm9=", "Z===",
                                        "====", "Zg==Zg==", "Zm9v\n", "Zm-v", "Zm9 ", "=Zm9"};
    struct err err = ERR_INIT;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct buf out BUF_AUTO;
        buf_init(&out, 64);
        assert_ok(base64_decode(cases[i].text, strlen(cases[i].text), &out, &err), err);
        assert_string_equal(buf_cstr(&out), cases[i].bytes);
    }
    for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
        struct buf out BUF_AUTO;
        buf_init(&out, 64);
        assert_fails(base64_decode(wrong[i], strlen(wrong[i]), &out, &err), ERR_BAD_INPUT, err);
    }
}

/* RFC 4648 section 10, and the last two digits. */
static void test_base64_append(void **state)
{
    static const struct {
        const char *bytes;
        enum base64_alphabet alphabet;
        const char *text;
    } cases[] = {
        {"", BASE64_STANDARD, ""},
        {"f", BASE64_STANDARD, "Zg=="},
        {"fo", BASE64_STANDARD, "Zm8="},
        {"foo", BASE64_STANDARD, "Zm9v"},
        {"foobar", BASE64_STANDARD, "Zm9vYmFy"},
        {"\xfb\xff", BASE64_STANDARD, "+/8="},
        {"\xfb\xff", BASE64_URL, "-_8="},
    };
    struct err err = ERR_INIT;
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        BUF_AUTO struct buf out;
        buf_init(&out, 64);
        assert_ok(buf_append_str(&out, "> ", &err), err);
        assert_ok(
            base64_append(&out, cases[i].bytes, strlen(cases[i].bytes), cases[i].alphabet, &err),
            err);
        assert_string_equal(buf_cstr(&out) + 2, cases[i].text);
    }
    BUF_AUTO struct buf small;
    buf_init(&small, 4);
    assert_true(base64_append(&small, "foobar", 6, BASE64_STANDARD, &err) < 0);
    assert_int_equal(small.size, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_hex),
                                       cmocka_unit_test(test_base64_decode),
                                       cmocka_unit_test(test_base64_append)};
    return cmocka_run_group_tests_name("encoding", tests, NULL, NULL);
}
