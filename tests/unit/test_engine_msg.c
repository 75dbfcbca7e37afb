/* wire/engine_msg: every operation and reply there and back; what the engine must refuse. */
#include "check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wire/engine_msg.h"
#include "wire/tlv.h"

static void there_and_back(const struct engine_msg *sent, struct buf *buf, struct engine_msg *got)
{
    struct err err = ERR_INIT;
    assert_ok(engine_msg_encode(sent, buf, &err), err);
    assert_ok(engine_msg_decode(buf->data, buf->size, got, &err), err);
    assert_int_equal(got->op, sent->op);
    assert_true(got->request_id == sent->request_id);
}

/* The same, and what is cut short is refused or read, and does no harm. */
static void round_trip(const struct engine_msg *sent, struct engine_msg *got)
{
    struct err err = ERR_INIT;
    BUF_AUTO struct buf buf;
    buf_init(&buf, 2 * ENGINE_MSG_MAX);
    there_and_back(sent, &buf, got);
    for (size_t size = 0; size < buf.size; size++) {
        struct engine_msg cut;
        if (engine_msg_decode(buf.data, size, &cut, &err) == 0)
            engine_msg_done(&cut);
    }
}

static void test_create(void **state)
{
    (void)state;
    struct engine_msg sent = {.op = ENGINE_OP_CREATE, .request_id = UINT64_MAX};
    sent.create = (struct engine_create){.id = "sandbox-1",
                                         .image = "host",
                                         .runtime = "runsc",
                                         .profile = "strict",
                                         .memory_bytes = 1,
                                         .storage_bytes = 2,
                                         .cpu_millis = 3,
                                         .gpu_count = 5,
                                         .pids_max = 4,
                                         .open_files_max = 5,
                                         .lifetime_ms = 6,
                                         .orphan_ms = 7};
    struct engine_msg got;
    round_trip(&sent, &got);
    assert_string_equal(got.create.id, "sandbox-1");
    assert_string_equal(got.id, "sandbox-1");
    assert_string_equal(got.create.image, "host");
    assert_string_equal(got.create.runtime, "runsc");
    assert_string_equal(got.create.profile, "strict");
    assert_int_equal(got.create.memory_bytes, 1);
    assert_int_equal(got.create.storage_bytes, 2);
    assert_int_equal(got.create.cpu_millis, 3);
    assert_int_equal(got.create.gpu_count, 5);
    assert_int_equal(got.create.pids_max, 4);
    assert_int_equal(got.create.open_files_max, 5);
    assert_int_equal(got.create.lifetime_ms, 6);
    assert_int_equal(got.create.orphan_ms, 7);
    engine_msg_done(&got);
}

static void test_operations_with_an_id(void **state)
{
    (void)state;
    static const uint32_t operations[] = {ENGINE_OP_DESTROY, ENGINE_OP_INSPECT,
                                          ENGINE_OP_OPEN_CHANNEL};
    for (size_t i = 0; i < ARRAY_SIZE(operations); i++) {
        struct engine_msg sent = {.op = operations[i], .request_id = i, .id = "a"};
        memset(sent.id, 'x', SANDBOX_ID_MAX);
        struct engine_msg got;
        round_trip(&sent, &got);
        assert_string_equal(got.id, sent.id);
        engine_msg_done(&got);
    }
}

static void test_gone(void **state)
{
    (void)state;
    static const enum kill_cause causes[] = {KILL_NONE, KILL_OOM};
    for (size_t i = 0; i < ARRAY_SIZE(causes); i++) {
        struct engine_msg sent = {.op = ENGINE_OP_EVENT_GONE, .id = "a", .cause = causes[i]};
        struct engine_msg got;
        round_trip(&sent, &got);
        assert_string_equal(got.id, "a");
        assert_int_equal(got.cause, causes[i]);
        engine_msg_done(&got);
    }
}

static void test_probe_reply(void **state)
{
    (void)state;
    struct engine_msg sent = {.op = ENGINE_OP_PROBE | ENGINE_REPLY, .request_id = 9};
    sent.info = (struct engine_info){.name = "native",
                                     .version = "0.1.0",
                                     .capabilities = ENGINE_CAP_MEMORY | ENGINE_CAP_IDMAP,
                                     .cgroup_mode = "hybrid",
                                     .memory_bytes = 10,
                                     .cpu_millis = 2000,
                                     .gpu_count = 4,
                                     .storage_bytes = 11,
                                     .runtimes = {{.name = "native", .version = "6.1"},
                                                  {.name = "runsc",
                                                   .version = "20221219.0",
                                                   .capabilities = ENGINE_CAP_MEMORY,
                                                   .memory_bytes = 33,
                                                   .warning = "old"}},
                                     .runtime_count = 2,
                                     .unavailable = "no user namespaces"};
    struct engine_msg got;
    round_trip(&sent, &got);
    assert_string_equal(got.info.name, "native");
    assert_string_equal(got.info.cgroup_mode, "hybrid");
    assert_string_equal(got.info.unavailable, "no user namespaces");
    assert_true(got.info.capabilities == sent.info.capabilities);
    assert_int_equal(got.info.memory_bytes, 10);
    assert_int_equal(got.info.cpu_millis, 2000);
    assert_int_equal(got.info.gpu_count, 4);
    assert_int_equal(got.info.storage_bytes, 11);
    assert_int_equal(got.info.runtime_count, 2);
    assert_memory_equal(got.info.runtimes, sent.info.runtimes, sizeof(sent.info.runtimes));
    engine_msg_done(&got);
}

static void test_inspect_and_create_replies(void **state)
{
    (void)state;
    struct engine_msg sent = {.op = ENGINE_OP_INSPECT | ENGINE_REPLY,
                              .state = ENGINE_STATE_RUNNING};
    memset(sent.nonce, 0x5a, sizeof(sent.nonce));
    struct engine_msg got;
    round_trip(&sent, &got);
    assert_int_equal(got.state, ENGINE_STATE_RUNNING);
    assert_memory_equal(got.nonce, sent.nonce, sizeof(sent.nonce));
    engine_msg_done(&got);
    sent.op = ENGINE_OP_CREATE | ENGINE_REPLY;
    round_trip(&sent, &got);
    assert_memory_equal(got.nonce, sent.nonce, sizeof(sent.nonce));
    engine_msg_done(&got);
}

static void test_error_reply(void **state)
{
    (void)state;
    struct engine_msg sent = {.op = ENGINE_OP_CREATE | ENGINE_REPLY, .request_id = 3};
    (void)err_public(&sent.error, ERR_UNAVAILABLE, "no room");
    sent.error.sys_errno = 12;
    sent.error.retry_after_s = 5;
    struct engine_msg got;
    round_trip(&sent, &got);
    assert_int_equal(got.error.kind, ERR_UNAVAILABLE);
    assert_int_equal(got.error.sys_errno, 12);
    assert_int_equal(got.error.retry_after_s, 5);
    assert_string_equal(got.error.message, "no room");
    assert_string_equal(got.error.public_message, "no room");
    engine_msg_done(&got);
}

static void test_list(void **state)
{
    (void)state;
    static char ids[600][SANDBOX_ID_MAX + 1];
    for (size_t i = 0; i < ARRAY_SIZE(ids); i++)
        (void)snprintf(ids[i], sizeof(ids[i]), "sandbox-%zu", i);
    struct engine_msg sent = {
        .op = ENGINE_OP_LIST | ENGINE_REPLY, .ids = ids, .id_count = ARRAY_SIZE(ids)};
    struct engine_msg got;
    round_trip(&sent, &got);
    assert_int_equal(got.id_count, ARRAY_SIZE(ids));
    for (size_t i = 0; i < got.id_count; i++)
        assert_string_equal(got.ids[i], ids[i]);
    engine_msg_done(&got);
    engine_msg_done(&got);
    engine_msg_done(NULL);
}

/* A list of the longest ids that is said to have room for them is a message. */
static void test_a_full_list(void **state)
{
    (void)state;
    static char ids[ENGINE_LIST_MAX][SANDBOX_ID_MAX + 1];
    struct engine_msg sent = {.op = ENGINE_OP_LIST | ENGINE_REPLY, .ids = ids, .more = true};
    struct engine_msg got;
    while (engine_msg_list_has_room(sent.id_count)) {
        (void)snprintf(ids[sent.id_count], sizeof(ids[0]), "%064zu", sent.id_count);
        sent.id_count++;
    }
    assert_true(sent.id_count > 800);
    round_trip(&sent, &got);
    assert_int_equal(got.id_count, sent.id_count);
    assert_true(got.more);
    assert_string_equal(got.ids[got.id_count - 1], ids[sent.id_count - 1]);
    engine_msg_done(&got);
}

static void test_layer_requests(void **state)
{
    (void)state;
    static const uint32_t operations[] = {ENGINE_OP_LAYER_IMPORT, ENGINE_OP_LAYER_ATTACH,
                                          ENGINE_OP_LAYER_REMOVE, ENGINE_OP_LAYER_LIST};
    for (size_t i = 0; i < ARRAY_SIZE(operations); i++) {
        struct engine_msg sent = {.op = operations[i],
                                  .request_id = i,
                                  .id = "sandbox-1",
                                  .size_max_bytes = UINT64_MAX,
                                  .entries_max = 7};
        memset(sent.layer.name, 'x', ENGINE_LAYER_NAME_MAX);
        struct engine_msg got;
        round_trip(&sent, &got);
        assert_string_equal(got.id, sent.id);
        assert_string_equal(got.layer.name, sent.layer.name);
        assert_true(got.size_max_bytes == UINT64_MAX);
        assert_int_equal(got.entries_max, 7);
        engine_msg_done(&got);
    }
}

static void test_a_network_request(void **state)
{
    (void)state;
    for (int full = 0; full < 2; full++) {
        struct engine_msg sent = {.op = ENGINE_OP_NETWORK, .id = "sandbox-1", .full = full == 1};
        struct engine_msg got;
        round_trip(&sent, &got);
        assert_string_equal(got.id, sent.id);
        assert_int_equal(got.full, full);
        engine_msg_done(&got);
    }
}

static void test_an_import_reply(void **state)
{
    (void)state;
    struct engine_msg sent = {.op = ENGINE_OP_LAYER_IMPORT | ENGINE_REPLY,
                              .layer.size_bytes = UINT64_C(1) << 40};
    struct engine_msg got;
    round_trip(&sent, &got);
    assert_true(got.layer.size_bytes == UINT64_C(1) << 40);
    engine_msg_done(&got);
}

static void test_a_full_list_of_layers(void **state)
{
    (void)state;
    static struct engine_layer layers[ENGINE_LIST_MAX];
    struct engine_msg sent = {
        .op = ENGINE_OP_LAYER_LIST | ENGINE_REPLY, .layers = layers, .more = true};
    struct engine_msg got;
    while (engine_msg_layers_have_room(sent.layer_count)) {
        struct engine_layer *layer = &layers[sent.layer_count];
        (void)snprintf(layer->name, sizeof(layer->name), "%064zu", sent.layer_count);
        layer->size_bytes = sent.layer_count;
        sent.layer_count++;
    }
    assert_true(sent.layer_count > 600);
    BUF_AUTO struct buf buf;
    buf_init(&buf, 2 * ENGINE_MSG_MAX);
    there_and_back(&sent, &buf, &got);
    assert_int_equal(got.layer_count, sent.layer_count);
    assert_true(got.more);
    for (size_t i = 0; i < got.layer_count; i++) {
        assert_string_equal(got.layers[i].name, layers[i].name);
        assert_int_equal(got.layers[i].size_bytes, i);
    }
    engine_msg_done(&got);
}

static void test_bad_headers(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct engine_msg got;
    static uint8_t bytes[ENGINE_MSG_MAX + 1];
    tlv_store_u32(bytes, ENGINE_MSG_VERSION);
    tlv_store_u32(bytes + 4, ENGINE_OP_PROBE);
    assert_ok(engine_msg_decode(bytes, MSG_HEAD_SIZE, &got, &err), err);
    assert_fails(engine_msg_decode(bytes, MSG_HEAD_SIZE - 1, &got, &err), ERR_PROTOCOL, err);
    assert_fails(engine_msg_decode(bytes, sizeof(bytes), &got, &err), ERR_PROTOCOL, err);
    static const uint32_t operations[] = {0, ENGINE_OP_COUNT, ENGINE_REPLY, UINT32_MAX, 0x10001};
    for (size_t i = 0; i < ARRAY_SIZE(operations); i++) {
        tlv_store_u32(bytes + 4, operations[i]);
        assert_fails(engine_msg_decode(bytes, MSG_HEAD_SIZE, &got, &err), ERR_PROTOCOL, err);
    }
    tlv_store_u32(bytes + 4, ENGINE_OP_PROBE);
    tlv_store_u32(bytes, ENGINE_MSG_VERSION + 1);
    assert_fails(engine_msg_decode(bytes, MSG_HEAD_SIZE, &got, &err), ERR_PROTOCOL, err);
}

static void test_long_texts_are_refused(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct engine_msg got;
    BUF_AUTO struct buf buf;
    buf_init(&buf, 4096);
    struct engine_msg sent = {.op = ENGINE_OP_DESTROY, .id = "a"};
    assert_ok(engine_msg_encode(&sent, &buf, &err), err);
    uint16_t tag = tlv_load_u16(buf.data + MSG_HEAD_SIZE);
    buf.size = MSG_HEAD_SIZE;
    char text[SANDBOX_ID_MAX + 2];
    memset(text, 'a', sizeof(text));
    text[sizeof(text) - 1] = '\0';
    struct tlv_writer writer;
    tlv_begin(&writer, &buf);
    tlv_put_str(&writer, tag, text);
    assert_ok(tlv_end(&writer, &err), err);
    assert_fails(engine_msg_decode(buf.data, buf.size, &got, &err), ERR_PROTOCOL, err);
}

static void test_capability_names(void **state)
{
    (void)state;
    for (unsigned i = 0; i < ENGINE_CAP_COUNT; i++)
        assert_non_null(engine_cap_name(i));
    assert_string_equal(engine_cap_name(4), "isolated");
    assert_null(engine_cap_name(ENGINE_CAP_COUNT));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_create),
        cmocka_unit_test(test_operations_with_an_id),
        cmocka_unit_test(test_gone),
        cmocka_unit_test(test_probe_reply),
        cmocka_unit_test(test_inspect_and_create_replies),
        cmocka_unit_test(test_error_reply),
        cmocka_unit_test(test_list),
        cmocka_unit_test(test_a_full_list),
        cmocka_unit_test(test_layer_requests),
        cmocka_unit_test(test_a_network_request),
        cmocka_unit_test(test_an_import_reply),
        cmocka_unit_test(test_a_full_list_of_layers),
        cmocka_unit_test(test_bad_headers),
        cmocka_unit_test(test_long_texts_are_refused),
        cmocka_unit_test(test_capability_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
