/* wire/sandbox_session: the messages of kernels, held executions, timers, limits and the network,
 * there and back. */
#include "check.h"

#include <stdio.h>
#include <string.h>

#include "wire/sandbox.h"
#include "wire/tlv.h"

/* Every beginning of the bytes decodes or fails, and nothing else. */
#define try_all_sizes(name, buf)                                                                   \
    for (size_t size = 0; size < (buf).size; size++) {                                             \
        if (sandbox_##name##_decode((buf).data, size, &got, &err) == 0)                            \
            sandbox_##name##_done(&got);                                                           \
    }

static void test_kernel(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    BUF_AUTO struct buf buf;
    buf_init(&buf, 65536);
    const char *argv[] = {"python3", "-u", NULL};
    const char *envp[] = {"PATH=/bin", NULL};
    const struct sandbox_kernel sent = {.cwd = "/workspace",
                                        .argv = argv,
                                        .argc = 2,
                                        .envp = envp,
                                        .envc = 1,
                                        .input = "a\0b",
                                        .input_size = 3,
                                        .protocol = SANDBOX_KERNEL_LINES};
    struct sandbox_kernel got;
    assert_ok(sandbox_kernel_encode(&sent, &buf, &err), err);
    assert_ok(sandbox_kernel_decode(buf.data, buf.size, &got, &err), err);
    assert_string_equal(got.cwd, "/workspace");
    assert_int_equal(got.argc, 2);
    assert_string_equal(got.argv[1], "-u");
    assert_null(got.argv[2]);
    assert_int_equal(got.envc, 1);
    assert_string_equal(got.envp[0], "PATH=/bin");
    assert_int_equal(got.input_size, 3);
    assert_memory_equal(got.input, "a\0b", 3);
    assert_int_equal(got.protocol, SANDBOX_KERNEL_LINES);
    sandbox_kernel_done(&got);
    sandbox_kernel_done(&got);
    sandbox_kernel_done(NULL);
    try_all_sizes(kernel, buf);
    assert_fails(sandbox_kernel_decode(NULL, 0, &got, &err), ERR_PROTOCOL, err);
    buf.size = 0;
    const struct sandbox_kernel bare = {.cwd = "/", .argv = argv, .argc = 1};
    assert_ok(sandbox_kernel_encode(&bare, &buf, &err), err);
    assert_ok(sandbox_kernel_decode(buf.data, buf.size, &got, &err), err);
    assert_non_null(got.envp);
    assert_null(got.envp[0]);
    assert_int_equal(got.input_size, 0);
    assert_int_equal(got.protocol, SANDBOX_KERNEL_FRAMES);
    sandbox_kernel_done(&got);
    struct sandbox_kernel odd = bare;
    odd.protocol = (enum sandbox_kernel_protocol)2;
    buf.size = 0;
    assert_ok(sandbox_kernel_encode(&odd, &buf, &err), err);
    assert_fails(sandbox_kernel_decode(buf.data, buf.size, &got, &err), ERR_PROTOCOL, err);
}

static void test_run(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    BUF_AUTO struct buf buf;
    buf_init(&buf, 65536);
    const char *envp[] = {"A=1", "B=2", NULL};
    struct sandbox_run sent = {.execution_id = "x1",
                               .mode = SANDBOX_RUN_SCRIPT,
                               .file = "/workspace/main.py",
                               .envp = envp,
                               .envc = 2,
                               .timeout_ms = 1,
                               .grace_ms = 2,
                               .keep_bytes = 3,
                               .output_max_bytes = 4,
                               .messages_max_bytes = 5,
                               .hold = true};
    struct sandbox_run got;
    assert_ok(sandbox_run_encode(&sent, &buf, &err), err);
    assert_ok(sandbox_run_decode(buf.data, buf.size, &got, &err), err);
    assert_string_equal(got.execution_id, "x1");
    assert_int_equal(got.mode, SANDBOX_RUN_SCRIPT);
    assert_string_equal(got.file, "/workspace/main.py");
    assert_int_equal(got.envc, 2);
    assert_string_equal(got.envp[1], "B=2");
    assert_null(got.envp[2]);
    assert_int_equal(got.timeout_ms + 10 * got.grace_ms + 100 * got.keep_bytes, 321);
    assert_int_equal(got.output_max_bytes + 10 * got.messages_max_bytes, 54);
    assert_true(got.hold);
    sandbox_run_done(&got);
    sandbox_run_done(&got);
    sandbox_run_done(NULL);
    try_all_sizes(run, buf);
    buf.size = 0;
    sent.mode = (enum sandbox_run_mode)2;
    assert_ok(sandbox_run_encode(&sent, &buf, &err), err);
    assert_fails(sandbox_run_decode(buf.data, buf.size, &got, &err), ERR_PROTOCOL, err);
}

static void test_ids(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    BUF_AUTO struct buf buf;
    buf_init(&buf, 65536);
    char longest[SANDBOX_ID_MAX + 2];
    memset(longest, 'i', sizeof(longest));
    longest[SANDBOX_ID_MAX + 1] = '\0';
    const char *ids[] = {"", longest};
    struct sandbox_run run;
    struct sandbox_attach attach;
    for (size_t i = 0; i < ARRAY_SIZE(ids); i++) {
        const struct sandbox_run sent_run = {.execution_id = ids[i], .file = ""};
        const struct sandbox_attach sent_attach = {.execution_id = ids[i]};
        buf.size = 0;
        assert_ok(sandbox_run_encode(&sent_run, &buf, &err), err);
        assert_fails(sandbox_run_decode(buf.data, buf.size, &run, &err), ERR_PROTOCOL, err);
        buf.size = 0;
        assert_ok(sandbox_attach_encode(&sent_attach, &buf, &err), err);
        assert_fails(sandbox_attach_decode(buf.data, buf.size, &attach, &err), ERR_PROTOCOL, err);
    }
    longest[SANDBOX_ID_MAX] = '\0';
    const struct sandbox_attach sent = {.execution_id = longest, .after = UINT64_C(1) << 40};
    buf.size = 0;
    assert_ok(sandbox_attach_encode(&sent, &buf, &err), err);
    assert_ok(sandbox_attach_decode(buf.data, buf.size, &attach, &err), err);
    assert_string_equal(attach.execution_id, longest);
    assert_true(attach.after == sent.after);
}

static void test_listed(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    BUF_AUTO struct buf buf;
    buf_init(&buf, 65536);
    struct sandbox_listed sent = {.count = 2L * SANDBOX_HELD_MAX,
                                  .kernel_lives = true,
                                  .lifetime_ms = 9,
                                  .idle_ms = SANDBOX_NEVER};
    for (size_t i = 0; i < sent.count; i++) {
        (void)snprintf(sent.held[i].execution_id, sizeof(sent.held[i].execution_id), "e%zu", i);
        sent.held[i].ended = i % 2 == 1;
        sent.held[i].events = i * 7;
    }
    static struct sandbox_listed got;
    assert_ok(sandbox_listed_encode(&sent, &buf, &err), err);
    assert_ok(sandbox_listed_decode(buf.data, buf.size, &got, &err), err);
    assert_int_equal(got.count, sent.count);
    for (size_t i = 0; i < sent.count; i++) {
        assert_string_equal(got.held[i].execution_id, sent.held[i].execution_id);
        assert_int_equal(got.held[i].ended, sent.held[i].ended);
        assert_int_equal(got.held[i].events, sent.held[i].events);
    }
    assert_true(got.kernel_lives);
    assert_int_equal(got.lifetime_ms, 9);
    assert_true(got.idle_ms == SANDBOX_NEVER);
    struct tlv_writer writer; /* one more than there may be */
    tlv_begin(&writer, &buf);
    tlv_put_str(&writer, 1, "more");
    assert_ok(tlv_end(&writer, &err), err);
    assert_fails(sandbox_listed_decode(buf.data, buf.size, &got, &err), ERR_PROTOCOL, err);
    for (uint16_t tag = 2; tag <= 3; tag++) { /* of no entry */
        buf.size = 0;
        tlv_begin(&writer, &buf);
        tlv_put_u64(&writer, tag, 1);
        assert_ok(tlv_end(&writer, &err), err);
        assert_fails(sandbox_listed_decode(buf.data, buf.size, &got, &err), ERR_PROTOCOL, err);
    }
    assert_ok(sandbox_listed_decode(NULL, 0, &got, &err), err);
    assert_int_equal(got.count, 0);
    assert_true(got.lifetime_ms == SANDBOX_NEVER);
}

static void test_timers(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    BUF_AUTO struct buf buf;
    buf_init(&buf, 1024);
    const struct sandbox_timers sent = {.lifetime_ms = 1, .idle_ms = SANDBOX_NEVER, .orphan_ms = 3};
    struct sandbox_timers got;
    assert_ok(sandbox_timers_encode(&sent, &buf, &err), err);
    assert_ok(sandbox_timers_decode(buf.data, buf.size, &got, &err), err);
    assert_int_equal(got.lifetime_ms, 1);
    assert_true(got.idle_ms == SANDBOX_NEVER);
    assert_int_equal(got.orphan_ms, 3);
    assert_ok(sandbox_timers_decode(NULL, 0, &got, &err), err);
    assert_int_equal(got.lifetime_ms + got.idle_ms + got.orphan_ms, 0);
}

static void test_limits(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    BUF_AUTO struct buf buf;
    buf_init(&buf, 1024);
    const struct sandbox_limits sent = {
        .pids_max = 1, .file_size_max = UINT64_C(1) << 40, .open_files_max = 3};
    struct sandbox_limits got;
    assert_ok(sandbox_limits_encode(&sent, &buf, &err), err);
    assert_ok(sandbox_limits_decode(buf.data, buf.size, &got, &err), err);
    assert_int_equal(got.pids_max, 1);
    assert_true(got.file_size_max == sent.file_size_max);
    assert_int_equal(got.open_files_max, 3);
    assert_ok(sandbox_limits_decode(NULL, 0, &got, &err), err);
    assert_int_equal(got.pids_max + got.file_size_max + got.open_files_max, 0);
    struct tlv_writer writer;
    buf.size = 0;
    tlv_begin(&writer, &buf);
    tlv_put_u64(&writer, 1, UINT64_C(1) << 32);
    assert_ok(tlv_end(&writer, &err), err);
    assert_fails(sandbox_limits_decode(buf.data, buf.size, &got, &err), ERR_PROTOCOL, err);
}

/* What an EXEC and an EXIT have since there are sessions; one without them means what it meant. */
static void test_later_fields(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    BUF_AUTO struct buf buf;
    buf_init(&buf, 65536);
    const char *argv[] = {"sh", NULL};
    struct sandbox_exec exec = {.execution_id = "e",
                                .cwd = "/",
                                .argv = argv,
                                .argc = 1,
                                .hold = true,
                                .terminal = 80 << 16};
    struct sandbox_exec got;
    assert_ok(sandbox_exec_encode(&exec, &buf, &err), err);
    assert_ok(sandbox_exec_decode(buf.data, buf.size, &got, &err), err);
    assert_true(got.hold);
    assert_int_equal(got.terminal, 80 << 16);
    sandbox_exec_done(&got);
    buf.size = 0;
    struct tlv_writer writer;
    tlv_begin(&writer, &buf);
    tlv_put_str(&writer, 3, "sh");
    assert_ok(tlv_end(&writer, &err), err);
    assert_ok(sandbox_exec_decode(buf.data, buf.size, &got, &err), err);
    assert_false(got.hold);
    assert_int_equal(got.terminal, 0);
    sandbox_exec_done(&got);
    tlv_begin(&writer, &buf);
    tlv_put_u64(&writer, 8, 2); /* hold is 0 or 1 */
    assert_ok(tlv_end(&writer, &err), err);
    assert_fails(sandbox_exec_decode(buf.data, buf.size, &got, &err), ERR_PROTOCOL, err);
    buf.size = 0;
    struct sandbox_exit end;
    const struct sandbox_exit sent = {
        .message_bytes = 5, .messages_dropped = true, .state_lost = true};
    assert_ok(sandbox_exit_encode(&sent, &buf, &err), err);
    assert_ok(sandbox_exit_decode(buf.data, buf.size, &end, &err), err);
    assert_int_equal(end.message_bytes, 5);
    assert_true(end.messages_dropped && end.state_lost);
}

static void test_network(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    BUF_AUTO struct buf buf;
    buf_init(&buf, 4096);
    const struct sandbox_network sent = {.mode = SANDBOX_NETWORK_EGRESS};
    struct sandbox_network got;
    assert_ok(sandbox_network_encode(&sent, &buf, &err), err);
    assert_ok(sandbox_network_decode(buf.data, buf.size, &got, &err), err);
    assert_int_equal(got.mode, SANDBOX_NETWORK_EGRESS);
    assert_ok(sandbox_network_decode(NULL, 0, &got, &err), err);
    assert_int_equal(got.mode, SANDBOX_NETWORK_NONE);
    buf.size = 0;
    struct tlv_writer writer;
    tlv_begin(&writer, &buf);
    tlv_put_u64(&writer, 1, SANDBOX_NETWORK_COUNT);
    assert_ok(tlv_end(&writer, &err), err);
    assert_fails(sandbox_network_decode(buf.data, buf.size, &got, &err), ERR_PROTOCOL, err);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kernel),       cmocka_unit_test(test_run),
        cmocka_unit_test(test_ids),          cmocka_unit_test(test_listed),
        cmocka_unit_test(test_timers),       cmocka_unit_test(test_limits),
        cmocka_unit_test(test_later_fields), cmocka_unit_test(test_network),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
