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

static json_t *object(const struct execution_outcome *outcome, bool with_text)
{
    struct buf out;
    struct err err = ERR_INIT;
    json_error_t error;
    buf_init(&out, 1U << 20);
    assert_ok(execution_json_outcome(outcome, with_text, &out, &err), err);
    json_t *json = json_loads(buf_cstr(&out), JSON_REJECT_DUPLICATES, &error);
    if (!json)
        fail_msg("%s: %s", error.text, buf_cstr(&out));
    buf_done(&out);
    return json;
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

/* Output is bytes: what is no UTF-8 becomes U+FFFD, and quotes stay inside. */
static void test_output_is_bytes(void **state)
{
    (void)state;
    struct execution_outcome outcome = some_outcome();
    struct buf out;
    buf_init(&out, 64);
    assert_int_equal(buf_append(&out, "a\"\\\n\0\xff\342\202", 8, NULL), 0);
    outcome.out = &out;
    json_t *json = NULL;
    struct buf body;
    json_error_t error;
    buf_init(&body, 1U << 16);
    assert_int_equal(execution_json_outcome(&outcome, true, &body, NULL), 0);
    json = json_loads(buf_cstr(&body), JSON_ALLOW_NUL, &error);
    assert_non_null(json);
    const json_t *value = json_object_get(json, "stdout");
    assert_int_equal(json_string_length(value), 11);
    assert_memory_equal(json_string_value(value), "a\"\\\n\0\357\277\275\357\277\275", 11);
    json_decref(json);
    buf_done(&body);
    buf_done(&out);
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
    assert_ok(execution_json_outcome(&outcome, true, &whole, &err), err);
    size_t size = whole.size;
    buf_done(&whole);
    for (size_t room = 0; room < size; room++) {
        struct buf out;
        buf_init(&out, room);
        assert_fails(execution_json_outcome(&outcome, true, &out, &err), ERR_TOO_LARGE, err);
        buf_done(&out);
    }
}

static void add(struct execution_text *text, int stream, const char *words)
{
    assert_int_equal(execution_text_add(text, stream, words, strlen(words), NULL), 0);
}

/* What is stored gives both streams and their order back, each byte stored once. */
static void test_kept_text(void **state)
{
    (void)state;
    struct execution_text text;
    struct buf stored, out, err_out, both;
    struct err err = ERR_INIT;
    execution_text_init(&text, 100);
    buf_init(&stored, 1000);
    buf_init(&out, 100);
    buf_init(&err_out, 100);
    buf_init(&both, 100);
    assert_ok(execution_text_encode(&text, &stored, &err), err);
    assert_int_equal(stored.size, 0);
    assert_ok(execution_text_decode(&stored, &out, &err_out, &both, &err), err);
    assert_int_equal(both.size, 0);
    add(&text, STREAM_STDOUT, "one ");
    add(&text, STREAM_STDOUT, "two ");
    add(&text, STREAM_STDERR, "bad ");
    add(&text, STREAM_STDERR, "");
    add(&text, STREAM_STDOUT, "three");
    assert_int_equal(text.runs.size, 3 * 4); /* neighbours of one stream are one run */
    char more[101] = "";
    memset(more, 'x', 100);
    assert_int_equal(execution_text_add(&text, STREAM_STDERR, more, 100, NULL), -ERR_TOO_LARGE);
    assert_ok(execution_text_encode(&text, &stored, &err), err);
    assert_int_equal(stored.size, 4 + 3 * 4 + 17);
    assert_ok(execution_text_decode(&stored, &out, &err_out, &both, &err), err);
    assert_string_equal(buf_cstr(&out), "one two three");
    assert_string_equal(buf_cstr(&err_out), "bad ");
    assert_string_equal(buf_cstr(&both), "one two bad three");
    for (size_t cut = 1; cut < stored.size; cut++) { /* a broken one is told, never read past */
        struct buf part;
        buf_init(&part, 1000);
        assert_int_equal(buf_append(&part, stored.data, cut, NULL), 0);
        out.size = err_out.size = both.size = 0;
        assert_fails(execution_text_decode(&part, &out, &err_out, &both, &err), ERR_INTERNAL, err);
        buf_done(&part);
    }
    execution_text_done(&text);
    struct buf *all[] = {&stored, &out, &err_out, &both};
    for (size_t i = 0; i < ARRAY_SIZE(all); i++)
        buf_done(all[i]);
}

/* An object with its text put back is the object with text, byte for byte. */
static void test_text_is_put_back(void **state)
{
    (void)state;
    struct execution_outcome outcome = some_outcome();
    struct buf out, err_out, plain, wanted, whole;
    struct err err = ERR_INIT;
    struct buf *all[] = {&out, &err_out, &plain, &wanted, &whole};
    for (size_t i = 0; i < ARRAY_SIZE(all); i++)
        buf_init(all[i], 1U << 16);
    assert_ok(buf_append_str(&out, "\"exit_code\":\"stdout\":\n\xff", &err), err);
    assert_ok(buf_append_str(&err_out, "oh", &err), err);
    outcome.labels = "{\"exit_code\":\"stdout\"}";
    outcome.out = &out;
    outcome.err_out = &err_out;
    outcome.both = &out;
    assert_ok(execution_json_outcome(&outcome, false, &plain, &err), err);
    assert_ok(execution_json_outcome(&outcome, true, &wanted, &err), err);
    assert_ok(execution_json_whole(&plain, &outcome, &whole, &err), err);
    assert_string_equal(buf_cstr(&whole), buf_cstr(&wanted));
    whole.size = 0; /* an earlier version stored it whole */
    assert_ok(execution_json_whole(&wanted, NULL, &whole, &err), err);
    assert_string_equal(buf_cstr(&whole), buf_cstr(&wanted));
    whole.size = 0;
    assert_ok(execution_json_whole(&plain, NULL, &whole, &err), err);
    json_error_t error;
    json_t *json = json_loads(buf_cstr(&whole), JSON_REJECT_DUPLICATES, &error);
    assert_non_null(json);
    assert_string_equal(text(json, "stdout"), "");
    assert_string_equal(text(json, "output"), "");
    assert_non_null(strstr(text(json, "note"), "dropped"));
    for (size_t i = 0; i < ARRAY_SIZE(contract_keys); i++)
        assert_non_null(json_object_get(json, contract_keys[i]));
    json_decref(json);
    for (size_t i = 0; i < ARRAY_SIZE(all); i++)
        buf_done(all[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_keys),         cmocka_unit_test(test_killed),
        cmocka_unit_test(test_output_is_bytes),  cmocka_unit_test(test_rows),
        cmocka_unit_test(test_no_room),          cmocka_unit_test(test_kept_text),
        cmocka_unit_test(test_text_is_put_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
