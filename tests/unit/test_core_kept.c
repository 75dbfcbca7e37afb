/* core/kept, core/answer and core/record as readers meet them: what is held is held once and within
 * a budget, and a whole object comes out of its pieces whatever they are. */
#include "check.h"

#include <jansson.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "core/answer.h"
#include "core/kept.h"
#include "core/record.h"
#include "wire/frame.h"

#define KIB 1024U

/* One that has ended, with what it said. */
static struct record *record_with(const struct execution_text *said, bool dropped)
{
    static const char object[] = "{\"execution_id\":\"e\",\"exit_code\":0}";
    struct err err = ERR_INIT;
    struct record *record = NULL;
    struct buf plain, stored;
    buf_init(&plain, sizeof(object));
    buf_init(&stored, 64U << 20);
    assert_ok(buf_append_str(&plain, object, &err), err);
    if (said)
        assert_ok(execution_text_encode(said, &stored, &err), err);
    assert_ok(record_new_ended(&plain, &stored, true, dropped, &record, &err), err);
    buf_done(&plain);
    buf_done(&stored);
    return record;
}

static uint64_t held_of(struct kept *kept)
{
    uint64_t held = 0;
    uint64_t refused = 0;
    kept_figures(kept, &held, &refused);
    return held;
}

/* Opens one that is not there yet and fills it. */
static struct record *loaded(struct kept *kept, const char *id, uint64_t size_bytes)
{
    struct record *record = NULL;
    struct kept_entry *place = NULL;
    struct err err = ERR_INIT;
    assert_int_equal(kept_open(kept, id, size_bytes, &record, &place, &err), 1);
    record = record_with(NULL, false);
    kept_fill(kept, place, record);
    return record;
}

static void test_each_is_held_once(void **state)
{
    (void)state;
    struct kept kept;
    struct record *again = NULL;
    struct kept_entry *place = NULL;
    kept_init(&kept, 100 * KIB);
    struct record *record = loaded(&kept, "one", 60 * KIB);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(kept_open(&kept, "one", 60 * KIB, &again, &place, NULL), 0);
        assert_ptr_equal(again, record);
        record_unref(again);
    }
    assert_int_equal(held_of(&kept), 60 * KIB);
    record_unref(record);
    assert_int_equal(held_of(&kept), 0);
    record_unref(loaded(&kept, "one", 60 * KIB)); /* anew: the first one has gone */
    assert_int_equal(held_of(&kept), 0);
    kept_done(&kept);
}

static void test_budget(void **state)
{
    (void)state;
    struct kept kept;
    struct err err = ERR_INIT;
    struct record *none = NULL;
    struct kept_entry *place = NULL;
    kept_init(&kept, 100 * KIB);
    struct record *only = loaded(&kept, "larger than all", 200 * KIB);
    record_unref(only);
    struct record *first = loaded(&kept, "first", 60 * KIB);
    assert_fails(kept_open(&kept, "second", 41 * KIB, &none, &place, &err), ERR_UNAVAILABLE, err);
    assert_int_equal(err.retry_after_s, 1);
    assert_string_not_equal(err.public_message, "");
    struct record *second = loaded(&kept, "second", 40 * KIB);
    struct record *little = loaded(&kept, "little", 16 * KIB);
    struct record *ran = record_with(NULL, false);
    kept_enter(&kept, "ran", ran, 500 * KIB); /* whatever there is */
    assert_int_equal(held_of(&kept), (60 + 40 + 16 + 500) * KIB);
    assert_int_equal(kept_open(&kept, "third", 17 * KIB, &none, &place, NULL), -ERR_UNAVAILABLE);
    struct record *const all[] = {second, ran, little, first};
    for (size_t i = 0; i < 4; i++)
        record_unref(all[i]);
    assert_int_equal(held_of(&kept), 0);
    kept_done(&kept);
}

struct waiter {
    struct kept *kept;
    int result;
    struct record *record;
    struct kept_entry *place;
};

static void *wait_for_one(void *context)
{
    struct waiter *waiter = context;
    waiter->result = kept_open(waiter->kept, "one", KIB, &waiter->record, &waiter->place, NULL);
    return NULL;
}

/* Who comes while one is loaded gets that one; when nothing came of it, loads it. */
static void test_who_waits(void **state)
{
    (void)state;
    struct kept kept;
    struct waiter waiter = {.kept = &kept};
    struct record *record = NULL;
    struct kept_entry *place = NULL;
    pthread_t thread;
    kept_init(&kept, 0);
    for (int filled = 0; filled < 2; filled++) {
        assert_int_equal(kept_open(&kept, "one", KIB, &record, &place, NULL), 1);
        assert_int_equal(pthread_create(&thread, NULL, wait_for_one, &waiter), 0);
        record = filled ? record_with(NULL, false) : NULL;
        kept_fill(&kept, place, record);
        assert_int_equal(pthread_join(thread, NULL), 0);
        assert_int_equal(waiter.result, filled ? 0 : 1);
        assert_ptr_equal(waiter.record, record);
        if (!filled)
            kept_fill(&kept, waiter.place, NULL);
        record_unref(waiter.record);
        record_unref(record);
        assert_int_equal(held_of(&kept), 0);
    }
    kept_done(&kept);
}

/* Characters of one to four bytes, control bytes and bytes that are none, in pieces of any size. */
static void say_mixed(struct execution_text *said, int stream, size_t pieces, struct buf *all)
{
    static const char *const some[] = {"a",  "\x01", "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80",
                                       "\"", "\n",   "\x7f"};
    struct err err = ERR_INIT;
    for (size_t i = 0; i < pieces; i++) {
        size_t begin = all->size;
        for (size_t count = 0; count < (i * 977) % 9000 + 1; count++)
            assert_ok(buf_append_str(all, some[(count * 5 + i) % ARRAY_SIZE(some)], &err), err);
        assert_ok(execution_text_add(said, stream, all->data + begin, all->size - begin, &err),
                  err);
    }
}

static void test_whole_out_of_pieces(void **state)
{
    (void)state;
    struct execution_text said;
    struct buf out, err_out, whole, piece;
    struct err err = ERR_INIT;
    execution_text_init(&said, 8U << 20);
    buf_init(&out, 1U << 20);
    buf_init(&err_out, 1U << 20);
    buf_init(&whole, 16U << 20);
    buf_init(&piece, ANSWER_PIECE_MAX);
    char *result = malloc(300 * KIB);
    memset(result, 'x', 300 * KIB);
    memcpy(result, "r{\"text/plain\":\"", 16);
    memcpy(result + 300 * KIB - 2, "\"}", 2);
    say_mixed(&said, STREAM_STDOUT, 20, &out);
    assert_ok(execution_text_add(&said, STREAM_CONTROL, result, 300 * KIB, &err), err);
    assert_ok(execution_text_add(&said, STREAM_CONTROL, "e{\"name\":\"first\"}", 17, &err), err);
    say_mixed(&said, STREAM_STDERR, 20, &err_out);
    assert_ok(execution_text_add(&said, STREAM_CONTROL, "r{\"text/plain\":\"2\"}", 19, &err), err);
    assert_ok(execution_text_add(&said, STREAM_CONTROL, "e{\"name\":\"last\"}", 16, &err), err);
    struct answer answer = {0};
    uint64_t measured = 0;
    answer_take_record(&answer, record_with(&said, false), false);
    assert_ok(answer_measure(&answer, &measured, &err), err);
    int more = 1;
    while ((more = answer_next(&answer, &piece, &err)) > 0) {
        assert_in_range(piece.size, 1, 64 * KIB); /* what a stalled reader holds */
        assert_ok(buf_append(&whole, piece.data, piece.size, &err), err);
        piece.size = 0;
    }
    assert_ok(more, err);
    assert_int_equal(whole.size, measured);
    json_error_t problem;
    json_t *json = json_loadb((const char *)whole.data, whole.size, JSON_ALLOW_NUL, &problem);
    assert_non_null(json);
    assert_string_equal(json_string_value(json_object_get(json, "stdout")), buf_cstr(&out));
    assert_string_equal(json_string_value(json_object_get(json, "stderr")), buf_cstr(&err_out));
    assert_int_equal(json_string_length(json_object_get(json, "output")), out.size + err_out.size);
    assert_int_equal(json_array_size(json_object_get(json, "results")), 2);
    assert_string_equal(json_string_value(json_object_get(json_object_get(json, "error"), "name")),
                        "last");
    json_decref(json);
    answer_done(&answer);
    execution_text_done(&said);
    struct buf *const bufs[] = {&out, &err_out, &whole, &piece};
    for (size_t i = 0; i < ARRAY_SIZE(bufs); i++)
        buf_done(bufs[i]);
    free(result);
}

/* A message that is large comes in parts, all of the same number; the last one is told. */
static void test_parts_of_a_message(void **state)
{
    (void)state;
    struct execution_text said;
    struct err err = ERR_INIT;
    size_t size = 2 * RECORD_PART_MAX + 1;
    char *message = malloc(size);
    execution_text_init(&said, 1U << 20);
    memset(message, 'r', size);
    assert_ok(execution_text_add(&said, STREAM_STDOUT, "a", 1, &err), err);
    assert_ok(execution_text_add(&said, STREAM_CONTROL, message, size, &err), err);
    struct record *record = record_with(&said, false);
    static const struct {
        enum record_step step;
        size_t size;
        uint64_t number;
    } expected[] = {{RECORD_STARTED, 0, 1},
                    {RECORD_PIECE, 1, 2},
                    {RECORD_PART, RECORD_PART_MAX, 3},
                    {RECORD_PART, RECORD_PART_MAX, 3},
                    {RECORD_PIECE, 1, 3},
                    {RECORD_END, 0, 3}};
    struct record_cursor cursor = {0};
    for (size_t i = 0; i < ARRAY_SIZE(expected); i++) {
        struct buf out;
        int stream = 0;
        buf_init(&out, RECORD_PART_MAX);
        assert_int_equal(record_next(record, &cursor, 0, &stream, &out), expected[i].step);
        assert_int_equal(out.size, expected[i].size);
        assert_int_equal(record_cursor_number(&cursor), expected[i].number);
        buf_done(&out);
    }
    record_unref(record);
    execution_text_done(&said);
    free(message);
}

static void test_dropped(void **state)
{
    (void)state;
    struct answer answer = {0};
    struct buf out;
    struct err err = ERR_INIT;
    buf_init(&out, 4096);
    answer_take_record(&answer, record_with(NULL, true), false);
    assert_ok(answer_rest(&answer, &out, &err), err);
    assert_non_null(strstr(buf_cstr(&out), "\"stdout\":\"\",\"stderr\":\"\",\"output\":\"\","
                                           "\"results\":[],\"error\":null,\"note\":"));
    answer_done(&answer);
    buf_done(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_is_held_once),  cmocka_unit_test(test_budget),
        cmocka_unit_test(test_who_waits),          cmocka_unit_test(test_whole_out_of_pieces),
        cmocka_unit_test(test_parts_of_a_message), cmocka_unit_test(test_dropped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
