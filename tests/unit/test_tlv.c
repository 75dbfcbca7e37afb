/* wire/tlv: fields there and back, and cut or lying ones. */
#include "check.h"

#include <string.h>

#include "wire/tlv.h"

static void test_integers(void **state)
{
    (void)state;
    uint8_t bytes[8];
    tlv_store_u16(bytes, 0xbeef);
    assert_int_equal(bytes[0], 0xef);
    assert_int_equal(tlv_load_u16(bytes), 0xbeef);
    tlv_store_u32(bytes, 0xdeadbeef);
    assert_int_equal(bytes[0], 0xef);
    assert_int_equal(tlv_load_u32(bytes), 0xdeadbeef);
    tlv_store_u64(bytes, UINT64_C(0x0123456789abcdef));
    assert_int_equal(bytes[7], 0x01);
    assert_true(tlv_load_u64(bytes) == UINT64_C(0x0123456789abcdef));
}

static void test_round_trip(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    BUF_AUTO struct buf buf;
    buf_init(&buf, 1024);
    struct tlv_writer writer;
    tlv_begin(&writer, &buf);
    tlv_put_u64(&writer, 1, UINT64_MAX);
    tlv_put_str(&writer, 2, "text");
    tlv_put_str(&writer, 3, "");
    tlv_put_bytes(&writer, 65535, NULL, 0);
    assert_ok(tlv_end(&writer, &err), err);

    struct tlv_reader reader;
    struct tlv_field field;
    uint64_t number = 0;
    const char *text = NULL;
    tlv_open(&reader, buf.data, buf.size);
    assert_int_equal(tlv_next(&reader, &field, &err), 1);
    assert_int_equal(field.tag, 1);
    assert_ok(tlv_u64(&field, &number, &err), err);
    assert_true(number == UINT64_MAX);
    assert_fails(tlv_str(&field, &text, &err), ERR_PROTOCOL, err);
    assert_int_equal(tlv_next(&reader, &field, &err), 1);
    assert_ok(tlv_str(&field, &text, &err), err);
    assert_string_equal(text, "text");
    assert_fails(tlv_u64(&field, &number, &err), ERR_PROTOCOL, err);
    assert_int_equal(tlv_next(&reader, &field, &err), 1);
    assert_ok(tlv_str(&field, &text, &err), err);
    assert_string_equal(text, "");
    assert_int_equal(tlv_next(&reader, &field, &err), 1);
    assert_int_equal(field.tag, 65535);
    assert_int_equal(field.size, 0);
    assert_fails(tlv_str(&field, &text, &err), ERR_PROTOCOL, err);
    assert_int_equal(tlv_next(&reader, &field, &err), 0);
}

static void test_every_cut_is_seen(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    BUF_AUTO struct buf buf;
    buf_init(&buf, 64);
    struct tlv_writer writer;
    tlv_begin(&writer, &buf);
    tlv_put_u64(&writer, 9, 1);
    assert_ok(tlv_end(&writer, &err), err);
    for (size_t size = 1; size < buf.size; size++) {
        struct tlv_reader reader;
        struct tlv_field field;
        tlv_open(&reader, buf.data, size);
        assert_fails(tlv_next(&reader, &field, &err), ERR_PROTOCOL, err);
    }
}

static void test_a_size_that_lies(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct tlv_reader reader;
    struct tlv_field field;
    uint8_t bytes[12] = {1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff};
    tlv_open(&reader, bytes, sizeof(bytes));
    assert_fails(tlv_next(&reader, &field, &err), ERR_PROTOCOL, err);
    bytes[4] = 5;
    bytes[5] = bytes[6] = bytes[7] = 0;
    tlv_open(&reader, bytes, sizeof(bytes));
    assert_fails(tlv_next(&reader, &field, &err), ERR_PROTOCOL, err);
}

static void test_text_has_one_nul_at_its_end(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    const char *text = NULL;
    const struct tlv_field inner = {.tag = 1, .data = (const uint8_t *)"a\0b", .size = 4};
    const struct tlv_field missing = {.tag = 1, .data = (const uint8_t *)"abc", .size = 3};
    assert_fails(tlv_str(&inner, &text, &err), ERR_PROTOCOL, err);
    assert_fails(tlv_str(&missing, &text, &err), ERR_PROTOCOL, err);
    assert_null(text);
}

static void test_small_numbers(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    BUF_AUTO struct buf buf;
    buf_init(&buf, 256);
    static const uint64_t values[] = {0, 1, 2, UINT32_MAX, UINT64_C(1) << 32};
    for (size_t i = 0; i < ARRAY_SIZE(values); i++) {
        struct tlv_writer writer;
        struct tlv_reader reader;
        struct tlv_field field;
        uint32_t small = 7;
        bool truth = false;
        buf.size = 0;
        tlv_begin(&writer, &buf);
        tlv_put_u64(&writer, 1, values[i]);
        assert_ok(tlv_end(&writer, &err), err);
        tlv_open(&reader, buf.data, buf.size);
        assert_int_equal(tlv_next(&reader, &field, &err), 1);
        assert_int_equal(tlv_u32(&field, &small, &err), i < 4 ? 0 : -ERR_PROTOCOL);
        assert_int_equal(small, i < 4 ? values[i] : 7);
        assert_int_equal(tlv_bool(&field, &truth, &err), i < 2 ? 0 : -ERR_PROTOCOL);
        assert_int_equal(truth, i == 1);
    }
}

static void test_first_failure_sticks(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    BUF_AUTO struct buf buf;
    buf_init(&buf, 20);
    struct tlv_writer writer;
    tlv_begin(&writer, &buf);
    tlv_put_u64(&writer, 1, 1);
    tlv_put_u64(&writer, 2, 2);
    tlv_put_bytes(&writer, 3, NULL, 0);
    assert_fails(tlv_end(&writer, &err), ERR_TOO_LARGE, err);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_integers),
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_every_cut_is_seen),
        cmocka_unit_test(test_a_size_that_lies),
        cmocka_unit_test(test_text_has_one_nul_at_its_end),
        cmocka_unit_test(test_small_numbers),
        cmocka_unit_test(test_first_failure_sticks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
