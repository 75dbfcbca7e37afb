/* core/execution_json: the execution object has every key of the contract, whatever became of it.
 */
#include "check.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "core/execution_json.h"
#include "core/execution_text.h"
#include "wire/frame.h"

static const char *const contract_keys[] = {"execution_id",
                                            "status",
                                            "stdout",
                                            "stderr",
                                            "output",
                                            "exit_code",
                                            "execution_time_secs",
                                            "timestamp",
                                            "killed_by",
                                            "limits_hit",
                                            "state",
                                            "truncated",
                                            "results",
                                            "error",
                                            "usage"};

static struct execution_outcome some_outcome(void)
{
    return (struct execution_outcome){.id = "id-1",
                                      .lang = "python",
                                      .state = EXECUTION_SUCCESS,
                                      .exit = {.wall_us = 1500000, .start_error = ""},
                                      .created_us = 1000000,
                                      .started_us = 2000000,
                                      .finished_us = 3500000};
}

/* The whole object, as a reader gets it; text NULL: it was dropped. */
static void write_whole(const struct buf *object, const struct execution_text *said, bool omit_text,
                        struct buf *out)
{
    struct execution_writer writer;
    struct err err = ERR_INIT;
    int more = 1;
    execution_writer_init(&writer, object, said, omit_text);
    while (more > 0)
        more = execution_writer_next(&writer, out, &err);
    assert_ok(more, err);
}

/* The object, with what the code said put in (NULL: nothing). */
static void append_object(const struct execution_outcome *outcome,
                          const struct execution_text *said, bool omit_text, struct buf *out)
{
    struct execution_text nothing;
    struct buf plain;
    struct err err = ERR_INIT;
    execution_text_init(&nothing, 0);
    buf_init(&plain, 1U << 16);
    assert_ok(execution_json_outcome(outcome, &plain, &err), err);
    write_whole(&plain, said ? said : &nothing, omit_text, out);
    buf_done(&plain);
}

static json_t *object_with(const struct execution_outcome *outcome,
                           const struct execution_text *said, bool omit_text)
{
    struct buf out;
    json_error_t error;
    buf_init(&out, 1U << 20);
    append_object(outcome, said, omit_text, &out);
    json_t *json = json_loads(buf_cstr(&out), JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
    if (!json)
        fail_msg("%s: %s", error.text, buf_cstr(&out));
    buf_done(&out);
    return json;
}

static json_t *object(const struct execution_outcome *outcome, bool with_text)
{
    return object_with(outcome, NULL, !with_text);
}

static const char *text(const json_t *json, const char *key)
{
    return json_string_value(json_object_get(json, key));
}

static void test_all_keys(void **state)
{
    (void)state;
    struct execution_outcome outcome = some_outcome();
    json_t *json = object(&outcome, true);
    for (size_t i = 0; i < ARRAY_SIZE(contract_keys); i++) {
        if (!json_object_get(json, contract_keys[i]))
            fail_msg("no %s", contract_keys[i]);
    }
    assert_string_equal(text(json, "execution_id"), "id-1");
    assert_string_equal(text(json, "status"), "success");
    assert_string_equal(text(json, "stdout"), ""); /* no buffer is an empty text */
    assert_true(json_is_null(json_object_get(json, "killed_by")));
    assert_int_equal(json_array_size(json_object_get(json, "limits_hit")), 0);
    assert_true(json_real_value(json_object_get(json, "execution_time_secs")) == 1.5);
    assert_string_equal(text(json, "timestamp"), "1970-01-01T00:00:03.500000Z");
    assert_true(json_is_object(json_object_get(json, "labels")));
    json_decref(json);
    json = object(&outcome, false);
    assert_null(json_object_get(json, "stdout"));
    assert_null(json_object_get(json, "stderr"));
    assert_null(json_object_get(json, "output"));
    assert_string_equal(text(json, "status"), "success");
    json_decref(json);
}

static void test_killed(void **state)
{
    (void)state;
    struct execution_outcome outcome = some_outcome();
    outcome.state = EXECUTION_KILLED;
    outcome.exit.cause = KILL_OOM;
    outcome.exit.exit_code = 137;
    outcome.exit.limits_hit = LIMIT_MEMORY | LIMIT_OUTPUT;
    outcome.truncated = true;
    outcome.labels = "{\"a\":\"b\"}";
    json_t *json = object(&outcome, true);
    assert_string_equal(text(json, "status"), "killed");
    assert_string_equal(text(json, "killed_by"), "oom");
    const json_t *hit = json_object_get(json, "limits_hit");
    assert_int_equal(json_array_size(hit), 2);
    assert_string_equal(json_string_value(json_array_get(hit, 0)), "memory");
    assert_string_equal(json_string_value(json_array_get(hit, 1)), "output");
    assert_true(json_is_true(json_object_get(json, "truncated")));
    assert_int_equal(json_integer_value(json_object_get(json, "exit_code")), 137);
    assert_string_equal(text(json_object_get(json, "labels"), "a"), "b");
    json_decref(json);
}

static void add(struct execution_text *text, int stream, const char *words)
{
    assert_int_equal(execution_text_add(text, stream, words, strlen(words), NULL), 0);
}

/* Output is bytes: what is no UTF-8 becomes U+FFFD, and quotes stay inside. */
static void test_output_is_bytes(void **state)
{
    (void)state;
    struct execution_outcome outcome = some_outcome();
    struct execution_text said;
    execution_text_init(&said, 64);
    assert_int_equal(execution_text_add(&said, STREAM_STDOUT, "a\"\\\n\0\xff\342\202", 8, NULL), 0);
    json_t *json = object_with(&outcome, &said, false);
    const json_t *value = json_object_get(json, "stdout");
    assert_int_equal(json_string_length(value), 11);
    assert_memory_equal(json_string_value(value), "a\"\\\n\0\357\277\275\357\277\275", 11);
    json_decref(json);
    execution_text_done(&said);
}

/* Messages of a kernel are results in their order, and the last error. */
static void test_messages(void **state)
{
    (void)state;
    struct execution_outcome outcome = some_outcome();
    struct execution_text said;
    execution_text_init(&said, 1000);
    outcome.session_id = "s-1";
    outcome.exit.state_lost = true;
    add(&said, STREAM_CONTROL, "r{\"text/plain\":\"1\"}");
    add(&said, STREAM_STDOUT, "between");
    add(&said, STREAM_CONTROL, "r{\"text/html\":\"<b>\"}");
    add(&said, STREAM_CONTROL, "e{\"name\":\"A\"}");
    add(&said, STREAM_CONTROL, "e{\"name\":\"B\"}");
    for (int omit = 0; omit < 2; omit++) {
        json_t *json = object_with(&outcome, &said, omit != 0);
        const json_t *results = json_object_get(json, "results");
        assert_int_equal(json_array_size(results), 2);
        assert_string_equal(text(json_array_get(results, 0), "text/plain"), "1");
        assert_string_equal(text(json_array_get(results, 1), "text/html"), "<b>");
        assert_string_equal(text(json_object_get(json, "error"), "name"), "B");
        assert_string_equal(text(json, "state"), "lost");
        assert_string_equal(text(json, "session_id"), "s-1");
        assert_int_equal(json_object_get(json, "stdout") != NULL, omit == 0);
        json_decref(json);
    }
    outcome.exit.state_lost = false;
    json_t *json = object_with(&outcome, NULL, false);
    assert_string_equal(text(json, "state"), "kept");
    assert_true(json_is_null(json_object_get(json, "error")));
    json_decref(json);
    execution_text_done(&said);
}

static void test_rows(void **state)
{
    (void)state;
    struct buf out;
    struct err err = ERR_INIT;
    json_error_t error;
    buf_init(&out, 4096);
    assert_ok(execution_json_row("id-2", "running", "python", 1000000, 0, 0, &out, &err), err);
    json_t *json = json_loads(buf_cstr(&out), 0, &error);
    assert_non_null(json);
    assert_string_equal(text(json, "execution_id"), "id-2");
    assert_string_equal(text(json, "status"), "running");
    assert_string_equal(text(json, "created_at"), "1970-01-01T00:00:01.000000Z");
    assert_true(json_is_null(json_object_get(json, "started_at")));
    assert_true(json_is_null(json_object_get(json, "finished_at")));
    json_decref(json);
    buf_done(&out);
}

static void test_no_room(void **state)
{
    (void)state;
    struct execution_outcome outcome = some_outcome();
    struct err err = ERR_INIT;
    struct buf whole;
    buf_init(&whole, 1U << 16);
    assert_ok(execution_json_outcome(&outcome, &whole, &err), err);
    size_t size = whole.size;
    buf_done(&whole);
    for (size_t room = 0; room < size; room++) {
        struct buf out;
        buf_init(&out, room);
        assert_fails(execution_json_outcome(&outcome, &out, &err), ERR_TOO_LARGE, err);
        buf_done(&out);
    }
}

/* What is stored gives the streams, their order and their pieces back, each byte stored once. */
static void test_kept_text(void **state)
{
    (void)state;
    struct execution_text said, back;
    struct buf stored, taken;
    struct err err = ERR_INIT;
    execution_text_init(&said, 100);
    execution_text_init(&back, 100);
    buf_init(&stored, 1000);
    buf_init(&taken, 1000);
    assert_ok(execution_text_encode(&said, &stored, &err), err);
    assert_int_equal(stored.size, 0);
    assert_ok(execution_text_decode(&stored, &back, &err), err);
    assert_int_equal(execution_text_count(&back), 0);
    add(&said, STREAM_STDOUT, "one ");
    add(&said, STREAM_STDOUT, "two ");
    add(&said, STREAM_STDERR, "bad ");
    add(&said, STREAM_STDERR, "");
    add(&said, STREAM_STDOUT, "three");
    assert_int_equal(execution_text_count(&said), 4); /* a piece stays a piece: they are numbered */
    char more[101] = "";
    memset(more, 'x', 100);
    assert_int_equal(execution_text_add(&said, STREAM_STDERR, more, 100, NULL), -ERR_TOO_LARGE);
    assert_ok(execution_text_encode(&said, &stored, &err), err);
    assert_int_equal(stored.size, 4 + 4 * 4 + 17);
    assert_ok(buf_append(&taken, stored.data, stored.size, &err), err);
    assert_ok(execution_text_decode(&taken, &back, &err), err);
    assert_int_equal(taken.size, 0);
    assert_int_equal(execution_text_count(&back), 4);
    assert_int_equal(back.pieces.size, said.pieces.size);
    assert_memory_equal(back.pieces.data, said.pieces.data, said.pieces.size);
    assert_int_equal(back.bytes.size, said.bytes.size);
    assert_memory_equal(back.bytes.data, said.bytes.data, said.bytes.size);
    for (size_t cut = 1; cut < stored.size; cut++) { /* a broken one is told, never read past */
        struct execution_text broken;
        struct buf part;
        buf_init(&part, 1000);
        execution_text_init(&broken, 100);
        assert_int_equal(buf_append(&part, stored.data, cut, NULL), 0);
        assert_fails(execution_text_decode(&part, &broken, &err), ERR_INTERNAL, err);
        execution_text_done(&broken);
        buf_done(&part);
    }
    execution_text_done(&said);
    execution_text_done(&back);
    buf_done(&stored);
}

/* What the code said goes to its place, whatever else has the same words; dropped, a note says so.
 */
static void test_text_is_put_back(void **state)
{
    (void)state;
    struct execution_outcome outcome = some_outcome();
    struct execution_text said;
    struct buf plain, whole;
    struct err err = ERR_INIT;
    json_error_t error;
    buf_init(&plain, 1U << 16);
    buf_init(&whole, 1U << 16);
    execution_text_init(&said, 100);
    outcome.labels = "{\"exit_code\":\"stdout\"}";
    add(&said, STREAM_STDOUT, "\"exit_code\":\"stdout\":\n\xff");
    json_t *json = object_with(&outcome, &said, false);
    assert_string_equal(text(json, "stdout"), "\"exit_code\":\"stdout\":\n\357\277\275");
    assert_string_equal(text(json_object_get(json, "labels"), "exit_code"), "stdout");
    json_decref(json);
    assert_ok(execution_json_outcome(&outcome, &plain, &err), err);
    write_whole(&plain, NULL, false, &whole);
    json = json_loads(buf_cstr(&whole), 0, &error);
    assert_non_null(json);
    assert_string_equal(text(json, "stdout"), "");
    assert_non_null(strstr(text(json, "note"), "dropped"));
    json_decref(json);
    execution_text_done(&said);
    buf_done(&plain);
    buf_done(&whole);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_keys),
        cmocka_unit_test(test_killed),
        cmocka_unit_test(test_output_is_bytes),
        cmocka_unit_test(test_messages),
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_no_room),
        cmocka_unit_test(test_kept_text),
        cmocka_unit_test(test_text_is_put_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
