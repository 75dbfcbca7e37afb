/* init/lines: lines to messages in whatever pieces they come, and runs to lines. */
#include "check.h"

#include <stdio.h>
#include <string.h>

#include "init/lines.h"
#include "wire/kernel_msg.h"
#include "wire/tlv.h"

/* The messages as text: type, size and body of each, "?" for noise, "..." for one that is open. */
static void describe(const struct buf *in, char *text, size_t room)
{
    size_t used = 0;
    text[0] = '\0';
    for (size_t at = 0; at < in->size && used < room;) {
        uint32_t size = tlv_load_u32(in->data + at);
        char type = (char)in->data[at + 4];
        const char *body = (const char *)in->data + at + KERNEL_HEADER_SIZE;
        bool whole = in->size - at - KERNEL_HEADER_SIZE >= size;
        if (!whole || size > KERNEL_BODY_MAX) {
            (void)snprintf(text + used, room - used, whole ? "!" : "...");
            return;
        }
        if (type == KERNEL_DONE || type == KERNEL_END)
            used += (size_t)snprintf(text + used, room - used, "%c=%u;", type, (uint8_t)*body);
        else
            used += (size_t)snprintf(text + used, room - used, "%c%u(%.*s);",
                                     type == LINES_NOISE ? '?' : type, size, (int)size, body);
        at += KERNEL_HEADER_SIZE + size;
    }
}

static const struct {
    const char *lines, *messages;
} said[] = {
    {"R\n", "R0();"},
    {"R \n", "R0();"},
    {"M {\"a\": 1}\nD 0\n", "M8({\"a\": 1});D=0;"},
    {"D 255\nE 3\n", "D=255;E=3;"},
    {"M\n", "M0();"},
    {"\n", "?0();"},
    {"D\n", "?0();"},
    {"D 256\n", "?3(256);"},
    {"D -1\n", "?2(-1);"},
    {"D 0x\n", "?2(0x);"},
    {"D 0001\n", "?4(0001);"},
    {"D  1\n", "?2( 1);"},
    {"E\n", "?0();"},
    {"D3\n", "?2(D3);"},
    {"Done 3\n", "?6(Done 3);"},
    {"X a 0 f code\n", "?12(X a 0 f code);"},
    {"I a\n", "?3(I a);"},
    {"hello\nD 1\n", "?5(hello);D=1;"},
    {"M abc", "..."},
    {"D 0\nM", "D=0;..."},
};

static void test_what_is_said(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(said); i++) {
        const uint8_t *data = (const uint8_t *)said[i].lines;
        size_t size = strlen(said[i].lines);
        for (size_t step = 1; step <= size; step++) {
            struct lines_reader reader = {0};
            BUF_AUTO struct buf in;
            char text[256];
            buf_init(&in, 4096);
            for (size_t at = 0; at < size; at += step) {
                size_t piece = size - at < step ? size - at : step;
                assert_int_equal(lines_read(&reader, data + at, piece, &in, NULL), 0);
                assert_true(in.size <= (at + piece + 1) * LINES_GROWTH);
            }
            describe(&in, text, sizeof(text));
            assert_string_equal(text, said[i].messages);
        }
    }
}

static void test_a_nul_is_a_byte(void **state)
{
    (void)state;
    struct lines_reader reader = {0};
    BUF_AUTO struct buf in;
    buf_init(&in, 4096);
    assert_int_equal(lines_read(&reader, (const uint8_t *)"M a\0b\nD 0\0\n", 11, &in, NULL), 0);
    assert_int_equal(tlv_load_u32(in.data), 3);
    assert_memory_equal(in.data + KERNEL_HEADER_SIZE, "a\0b", 3);
    assert_int_equal(in.data[KERNEL_HEADER_SIZE + 3 + 4], LINES_NOISE);
}

static void read_text(struct lines_reader *reader, struct buf *in, const char *text)
{
    assert_int_equal(lines_read(reader, (const uint8_t *)text, strlen(text), in, NULL), 0);
}

static void test_skipping(void **state)
{
    (void)state;
    struct lines_reader reader = {0};
    BUF_AUTO struct buf in;
    char text[256];
    buf_init(&in, 4096);
    read_text(&reader, &in, "D 0\nM half");
    lines_skip(&reader, &in);
    lines_skip(&reader, &in);
    describe(&in, text, sizeof(text));
    assert_string_equal(text, "D=0;");
    read_text(&reader, &in, " of it");
    read_text(&reader, &in, ", the rest\nD 1\nM");
    describe(&in, text, sizeof(text));
    assert_string_equal(text, "D=0;D=1;...");
    lines_skip(&reader, &in);
    read_text(&reader, &in, "\n");
    read_text(&reader, &in, "D 2\n");
    lines_skip(&reader, &in); /* none is open */
    read_text(&reader, &in, "D 3\n");
    describe(&in, text, sizeof(text));
    assert_string_equal(text, "D=0;D=1;D=2;D=3;");
}

/* What was taken from the front of the buffer does not matter to the line that is open. */
static void test_taking_beside_an_open_line(void **state)
{
    (void)state;
    struct lines_reader reader = {0};
    BUF_AUTO struct buf in;
    char text[256];
    buf_init(&in, 4096);
    read_text(&reader, &in, "M one\nM tw");
    buf_consume(&in, KERNEL_HEADER_SIZE + 3);
    read_text(&reader, &in, "o\n");
    describe(&in, text, sizeof(text));
    assert_string_equal(text, "M3(two);");
}

static void test_a_line_that_is_too_long(void **state)
{
    (void)state;
    static uint8_t piece[1U << 20];
    struct lines_reader reader = {0};
    BUF_AUTO struct buf in;
    buf_init(&in, KERNEL_BODY_MAX + 2 * sizeof(piece));
    memset(piece, 'M', sizeof(piece));
    for (size_t size = sizeof(piece); size < KERNEL_BODY_MAX; size += sizeof(piece))
        assert_int_equal(lines_read(&reader, piece, sizeof(piece), &in, NULL), 0);
    assert_int_equal(tlv_load_u32(in.data), KERNEL_BODY_MAX);
    assert_true(in.size < KERNEL_BODY_MAX);
    assert_int_equal(lines_read(&reader, piece, sizeof(piece), &in, NULL), 0);
    assert_int_equal(tlv_load_u32(in.data), KERNEL_BODY_MAX + 1);
    read_text(&reader, &in, "\n");
    assert_int_equal(tlv_load_u32(in.data), KERNEL_BODY_MAX + 1);
}

static void test_a_full_buffer(void **state)
{
    (void)state;
    struct lines_reader reader = {0};
    BUF_AUTO struct buf in;
    struct err err = ERR_INIT;
    buf_init(&in, 16);
    assert_fails(lines_read(&reader, (const uint8_t *)"M 0123456789abcdef", 18, &in, &err),
                 ERR_TOO_LARGE, err);
}

static void test_what_is_said_to_it(void **state)
{
    (void)state;
    static const char code[] = "a\\n = 'x\ty'\r\nprint(a)\n";
    BUF_AUTO struct buf out;
    struct err err = ERR_INIT;
    buf_init(&out, 4096);
    assert_ok(lines_put_variable(&out, "A=1 \\ 2\n", &err), err);
    assert_ok(lines_put_run(&out, "id 1", 1500, "<cell 3>\\", code, strlen(code), &err), err);
    assert_ok(lines_put_run(&out, "id", 0, "", NULL, 0, &err), err);
    assert_ok(lines_put_interrupt(&out, "id\n2", &err), err);
    assert_string_equal(buf_cstr(&out), "V A=1 \\\\ 2\\n\n"
                                        "X id_1 1500 <cell_3>_ a\\\\n = 'x\\ty'\\r\\nprint(a)\\n\n"
                                        "X id 0 - \n"
                                        "I id_2\n");
    assert_fails(lines_put_run(&out, "id", 0, "f", "a\0b", 3, &err), ERR_BAD_INPUT, err);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_said),
        cmocka_unit_test(test_a_nul_is_a_byte),
        cmocka_unit_test(test_skipping),
        cmocka_unit_test(test_taking_beside_an_open_line),
        cmocka_unit_test(test_a_line_that_is_too_long),
        cmocka_unit_test(test_a_full_buffer),
        cmocka_unit_test(test_what_is_said_to_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
