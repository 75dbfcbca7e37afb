/* init/held: the numbers and the pieces of events, whoever reads them and however often. */
#include "check.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "init/held.h"
#include "wire/frame.h"

enum { STREAM = 8 };

/* A connection's end of things: frames to send, and what they are. */
struct reader {
    struct buf out;
    char text[4096]; /* "o:abc e:x m:... p:... S C C X" */
};

static void reader_init(struct reader *reader)
{
    memset(reader, 0, sizeof(*reader));
    buf_init(&reader->out, 64U << 20);
}

static const char *name_of(const struct frame *frame)
{
    switch (frame->type) {
    case FRAME_DATA:
        return frame->stream % STREAM_STEP == STREAM_STDOUT ? "o:" : "e:";
    case FRAME_MESSAGE:
        return "m:";
    case FRAME_MESSAGE_PART:
        return "p:";
    case FRAME_STARTED:
        return "S";
    case FRAME_CLOSE:
        return "C";
    case FRAME_EXIT:
        return "X:";
    default:
        return "D";
    }
}

/* What came since the last call. */
static const char *reader_take(struct reader *reader)
{
    struct frame_decoder decoder;
    struct frame frame;
    struct err err = ERR_INIT;
    size_t used = 0;
    reader->text[0] = '\0';
    while (reader->out.size > 0) {
        size_t size = reader->out.size < 65536 ? reader->out.size : 65536;
        if (used == 0)
            frame_decoder_init(&decoder);
        assert_ok(frame_decoder_feed(&decoder, reader->out.data, size, &err), err);
        buf_consume(&reader->out, size);
        while (frame_decoder_next(&decoder, &frame, &err) == 1) {
            int shown = frame.size < 8 ? (int)frame.size : 0; /* long ones by their size */
            int wrote = snprintf(reader->text + used, sizeof(reader->text) - used, "%s%.*s",
                                 name_of(&frame), shown, (const char *)frame.payload);
            used += (size_t)wrote;
            if (frame.size >= 8)
                used += (size_t)snprintf(reader->text + used, sizeof(reader->text) - used, "%zu",
                                         frame.size);
            used += (size_t)snprintf(reader->text + used, sizeof(reader->text) - used, " ");
        }
    }
    if (used > 0)
        frame_decoder_done(&decoder);
    return reader->text;
}

static struct held_table table;
static struct reader first;
static struct reader second;

static int setup(void **state)
{
    (void)state;
    held_init(&table);
    reader_init(&first);
    reader_init(&second);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    for (size_t i = 0; i < HELD_MAX; i++) {
        if (table.entries[i].used)
            held_close(&table, &table.entries[i]);
    }
    assert_int_equal(table.bytes, 0);
    buf_done(&first.out);
    buf_done(&second.out);
    return 0;
}

static struct held *open_one(const char *id)
{
    const char *why = NULL;
    struct held *held = held_open(&table, id, &first.out, STREAM, &why);
    assert_non_null(held);
    held->begun = held->started = true;
    return held;
}

static void say(struct held *held, enum frame_stream part, const char *text)
{
    assert_true(held_append(&table, held, FRAME_DATA, part, text, strlen(text)));
}

static void test_unseen_neighbours_are_joined(void **state)
{
    (void)state;
    struct held *held = open_one("a");
    say(held, STREAM_STDOUT, "a");
    say(held, STREAM_STDOUT, "b");
    say(held, STREAM_STDERR, "c");
    say(held, STREAM_STDOUT, "d");
    assert_int_equal(held->events, 3);
    held_step(&table);
    assert_string_equal(reader_take(&first), "S o:ab e:c o:d ");
    say(held, STREAM_STDOUT, "e"); /* what was seen does not change */
    assert_int_equal(held->events, 4);
    held_step(&table);
    assert_string_equal(reader_take(&first), "o:e ");
    assert_true(held_append(&table, held, FRAME_MESSAGE_PART, STREAM_CONTROL, "x", 1));
    assert_true(held_append(&table, held, FRAME_MESSAGE, STREAM_CONTROL, "y", 1));
    assert_true(held_append(&table, held, FRAME_MESSAGE, STREAM_CONTROL, "z", 1));
    assert_int_equal(held->events, 7);
    held_end(held, "exit", 4);
    held_step(&table);
    assert_string_equal(reader_take(&first), "p:x m:y m:z C C X:exit ");
    held_step(&table);
    assert_string_equal(reader_take(&first), "");
}

static void test_a_piece_is_bounded(void **state)
{
    (void)state;
    static char block[FRAME_DATA_MAX];
    struct held *held = open_one("a");
    assert_true(held_append(&table, held, FRAME_DATA, STREAM_STDOUT, block, sizeof(block) - 1));
    say(held, STREAM_STDOUT, "x");
    assert_int_equal(held->events, 1);
    say(held, STREAM_STDOUT, "y");
    assert_int_equal(held->events, 2);
    held_step(&table);
    assert_string_equal(reader_take(&first), "S o:32768 o:y ");
}

/* From every number, also by a reader who claims what was not sent to anybody yet. */
static void test_attach(void **state)
{
    (void)state;
    struct held *held = open_one("a");
    say(held, STREAM_STDOUT, "a");
    say(held, STREAM_STDERR, "b");
    held_step(&table);
    assert_string_equal(reader_take(&first), "S o:a e:b ");
    held_detach(&table, &first.out);
    say(held, STREAM_STDOUT, "c");
    say(held, STREAM_STDOUT, "d");
    assert_int_equal(held_attach(held, &second.out, 12, 4), EINVAL);
    assert_int_equal(held_attach(held, &second.out, 12, 1), 0);
    held_step(&table);
    assert_string_equal(reader_take(&second), "S e:b o:cd ");
    assert_int_equal(held_attach(held, &second.out, 16, 0), 0);
    held_step(&table);
    assert_string_equal(reader_take(&second), "D32 S o:a e:b o:cd ");
    held_end(held, "end", 3);
    assert_int_equal(held_attach(held, &first.out, 20, 3), 0);
    assert_string_equal(reader_take(&second), "D32 "); /* it was taken over */
    held_step(&table);
    assert_string_equal(reader_take(&first), "S C C X:end ");
    assert_ptr_equal(held_find(&table, "a"), held);
    assert_null(held_find_stream(&table, &first.out, 20)); /* nobody is attached any more */
}

static void test_a_reader_without_credit(void **state)
{
    (void)state;
    static char block[FRAME_DATA_MAX];
    uint8_t payload[4] = {0, 128, 0, 0}; /* 32768 */
    struct err err = ERR_INIT;
    struct held *held = open_one("a");
    const struct frame credit = {
        .type = FRAME_CREDIT, .stream = STREAM + STREAM_STDOUT, .payload = payload, .size = 4};
    assert_fails(outlet_take_credit(&held->outlet, &credit, &err), ERR_PROTOCOL, err);
    for (int i = 0; i < 10; i++)
        assert_true(held_append(&table, held, FRAME_DATA, STREAM_STDOUT, block, sizeof(block)));
    say(held, STREAM_STDERR, "behind it");
    held_step(&table);
    assert_string_equal(reader_take(&first), "S o:32768 o:32768 o:32768 o:32768 o:32768 o:32768 "
                                             "o:32768 o:32768 "); /* a window */
    assert_true(held_is_behind(held));
    assert_false(held_may_send(&table));
    assert_ok(outlet_take_credit(&held->outlet, &credit, &err), err);
    assert_true(held_may_send(&table));
    held_step(&table);
    assert_string_equal(reader_take(&first), "o:32768 ");
    assert_false(held_is_behind(held));
    held_detach(&table, &first.out);
    assert_int_equal(held_attach(held, &second.out, 4, 9), 0); /* with a window of its own */
    held_step(&table);
    assert_string_equal(reader_take(&second), "S o:32768 e:9 ");
}

static void test_ids_and_numbers(void **state)
{
    (void)state;
    const char *why = NULL;
    char id[8];
    assert_null(held_open(&table, "", &first.out, STREAM, &why));
    assert_non_null(strstr(why, "id"));
    struct held *held = open_one("h0");
    held->begun = false; /* not whole yet: it can't be found, but its id is taken */
    assert_null(held_find(&table, "h0"));
    assert_null(held_open(&table, "h0", &first.out, STREAM, &why));
    assert_non_null(strstr(why, "already"));
    for (int i = 1; i < HELD_MAX; i++) {
        (void)snprintf(id, sizeof(id), "h%d", i);
        (void)open_one(id);
    }
    assert_null(held_open(&table, "more", &first.out, STREAM, &why));
    assert_non_null(strstr(why, "too many"));
    held_close(&table, held_find(&table, "h7"));
    for (int i = 8; i < 8 + SANDBOX_HELD_MAX; i++) {
        (void)snprintf(id, sizeof(id), "h%d", i);
        held_end(held_find(&table, id), "", 0);
    }
    assert_null(held_open(&table, "more", &first.out, STREAM, &why)); /* that many have ended */
    held_close(&table, held_find(&table, "h9"));
    (void)open_one("more");
}

static void test_all_logs_are_bounded_together(void **state)
{
    (void)state;
    static char block[FRAME_DATA_MAX];
    const char *why = NULL;
    struct held *one = open_one("one");
    struct held *other = open_one("other");
    size_t kept = 0;
    while (held_append(&table, kept % 2 == 0 ? one : other, FRAME_DATA, STREAM_STDOUT, block,
                       sizeof(block)))
        kept++;
    assert_in_range(kept * sizeof(block), HELD_BYTES_MAX - (1U << 20), HELD_BYTES_MAX);
    assert_true(table.bytes <= HELD_BYTES_MAX);
    assert_null(held_open(&table, "third", &first.out, STREAM, &why));
    held_close(&table, one);
    assert_true(held_append(&table, other, FRAME_DATA, STREAM_STDOUT, block, sizeof(block)));
    (void)open_one("third");
}

#define of_log(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        of_log(test_unseen_neighbours_are_joined),
        of_log(test_a_piece_is_bounded),
        of_log(test_attach),
        of_log(test_a_reader_without_credit),
        of_log(test_ids_and_numbers),
        of_log(test_all_logs_are_bounded_together),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
