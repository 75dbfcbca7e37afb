/* wire/events: both formats, what Accept asks for, and characters that are cut by a read. */
#include "check.h"

#include <string.h>

#include "wire/events.h"
#include "wire/frame.h"

static void test_negotiate(void **state)
{
    (void)state;
    assert_int_equal(events_negotiate(NULL), EVENTS_NONE);
    assert_int_equal(events_negotiate("*/*"), EVENTS_NONE);
    assert_int_equal(events_negotiate("application/json"), EVENTS_NONE);
    assert_int_equal(events_negotiate("text/event-stream"), EVENTS_SSE);
    assert_int_equal(events_negotiate("Text/Event-Stream; charset=utf-8"), EVENTS_SSE);
    assert_int_equal(events_negotiate("application/x-ndjson, */*"), EVENTS_NDJSON);
    assert_int_equal(events_negotiate("application/x-ndjson, text/event-stream"), EVENTS_NDJSON);
    assert_int_equal(events_negotiate("application/json, text/event-stream"), EVENTS_NONE);
    assert_int_equal(events_negotiate("text/event-stream;q=0"), EVENTS_NONE);
    assert_int_equal(events_negotiate("text/event-stream;q=0.5"), EVENTS_SSE);
    assert_int_equal(events_negotiate("text/event-streams"), EVENTS_NONE);
}

static void test_formats(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct events events;
    struct buf out BUF_AUTO;
    buf_init(&out, 1024);
    events_init(&events, EVENTS_SSE);
    assert_ok(events_append(&events, "end", "{}", 2, &out, &err), err);
    assert_ok(events_append_output(&events, STREAM_STDERR, (const uint8_t *)"a\n", 2, &out, &err),
              err);
    assert_string_equal(buf_cstr(&out), "event: end\nid: 1\ndata: {}\n\n"
                                        "event: stderr\nid: 2\ndata: {\"text\":\"a\\n\"}\n\n");
    out.size = 0;
    events_init(&events, EVENTS_NDJSON);
    assert_ok(events_append_output(&events, STREAM_STDOUT, (const uint8_t *)"a", 1, &out, &err),
              err);
    assert_string_equal(buf_cstr(&out),
                        "{\"event\":\"stdout\",\"id\":1,\"data\":{\"text\":\"a\"}}\n");
}

static void test_cut_characters(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct events events;
    struct buf out BUF_AUTO;
    static const uint8_t euro[] = {0xe2, 0x82, 0xac};
    buf_init(&out, 1024);
    events_init(&events, EVENTS_NDJSON);
    assert_ok(events_append_output(&events, STREAM_STDOUT, euro, 1, &out, &err), err);
    assert_ok(events_append_output(&events, STREAM_STDERR, euro, 2, &out, &err), err);
    assert_ok(events_append_output(&events, STREAM_STDOUT, euro + 1, 1, &out, &err), err);
    assert_int_equal(out.size, 0);
    assert_ok(events_append_output(&events, STREAM_STDOUT, euro + 2, 1, &out, &err), err);
    assert_string_equal(buf_cstr(&out),
                        "{\"event\":\"stdout\",\"id\":1,\"data\":{\"text\":\"\xe2\x82\xac\"}}\n");
    out.size = 0;
    assert_ok(events_flush(&events, &out, &err), err);
    assert_string_equal(buf_cstr(&out),
                        "{\"event\":\"stderr\",\"id\":2,\"data\":{\"text\":\"\xef\xbf\xbd\"}}\n");
    out.size = 0;
    assert_ok(events_flush(&events, &out, &err), err);
    assert_int_equal(out.size, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_negotiate),
        cmocka_unit_test(test_formats),
        cmocka_unit_test(test_cut_characters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
