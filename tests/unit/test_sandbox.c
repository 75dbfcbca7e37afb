/* wire/sandbox: every message there and back; what a hostile init could send. */
#include "check.h"

#include <string.h>

#include "wire/sandbox.h"
#include "wire/tlv.h"

static void test_hello(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    BUF_AUTO struct buf buf;
    buf_init(&buf, 1024);
    struct sandbox_hello sent = {
        .version_min = 1, .version_max = 3, .capabilities = SANDBOX_CAP_EXEC | SANDBOX_CAP_CGROUP};
    memset(sent.nonce, 0xa5, sizeof(sent.nonce));
    struct sandbox_hello got;
    assert_ok(sandbox_hello_encode(&sent, &buf, &err), err);
    assert_ok(sandbox_hello_decode(buf.data, buf.size, &got, &err), err);
    assert_int_equal(got.version_min, 1);
    assert_int_equal(got.version_max, 3);
    assert_true(got.capabilities == sent.capabilities);
    assert_memory_equal(got.nonce, sent.nonce, sizeof(sent.nonce));
    for (size_t size = 0; size < buf.size; size++)
        (void)sandbox_hello_decode(buf.data, size, &got, &err);
    assert_fails(sandbox_hello_decode(NULL, 0, &got, &err), ERR_PROTOCOL, err);
}

static void test_versions(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    const struct sandbox_hello low = {.version_min = 1, .version_max = 2};
    const struct sandbox_hello high = {.version_min = 2, .version_max = 5};
    const struct sandbox_hello future = {.version_min = 3, .version_max = 9};
    assert_int_equal(sandbox_hello_agree(&low, &high, &err), 2);
    assert_int_equal(sandbox_hello_agree(&high, &low, &err), 2);
    assert_int_equal(sandbox_hello_agree(&high, &future, &err), 5);
    assert_fails(sandbox_hello_agree(&low, &future, &err), ERR_PROTOCOL, err);
}

static void test_exec(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    BUF_AUTO struct buf buf;
    buf_init(&buf, 65536);
    const char *argv[] = {"python3", "-c", "", NULL};
    const char *envp[] = {"PATH=/bin", "A=b=c", NULL};
    struct sandbox_exec sent = {.execution_id = "abc",
                                .cwd = "/workspace",
                                .argv = argv,
                                .argc = 3,
                                .envp = envp,
                                .envc = 2,
                                .timeout_ms = 1500,
                                .keep_bytes = 10,
                                .output_max_bytes = 20};
    struct sandbox_exec got;
    assert_ok(sandbox_exec_encode(&sent, &buf, &err), err);
    assert_ok(sandbox_exec_decode(buf.data, buf.size, &got, &err), err);
    assert_string_equal(got.execution_id, "abc");
    assert_string_equal(got.cwd, "/workspace");
    assert_int_equal(got.argc, 3);
    assert_string_equal(got.argv[0], "python3");
    assert_string_equal(got.argv[2], "");
    assert_null(got.argv[3]);
    assert_int_equal(got.envc, 2);
    assert_string_equal(got.envp[1], "A=b=c");
    assert_null(got.envp[2]);
    assert_int_equal(got.timeout_ms, 1500);
    assert_int_equal(got.keep_bytes, 10);
    assert_int_equal(got.output_max_bytes, 20);
    sandbox_exec_done(&got);
    sandbox_exec_done(&got);
    sandbox_exec_done(NULL);
    for (size_t size = 0; size < buf.size; size++) {
        if (sandbox_exec_decode(buf.data, size, &got, &err) == 0)
            sandbox_exec_done(&got);
    }
}

static void test_exec_counts(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    static const char *argv[SANDBOX_ARGS_MAX + 2];
    for (size_t i = 0; i <= SANDBOX_ARGS_MAX; i++)
        argv[i] = "x";
    struct sandbox_exec sent = {
        .execution_id = "e", .cwd = "/", .argv = argv, .argc = SANDBOX_ARGS_MAX};
    struct sandbox_exec got;
    BUF_AUTO struct buf buf;
    buf_init(&buf, 1 << 20);
    assert_ok(sandbox_exec_encode(&sent, &buf, &err), err);
    assert_ok(sandbox_exec_decode(buf.data, buf.size, &got, &err), err);
    assert_int_equal(got.argc, SANDBOX_ARGS_MAX);
    assert_non_null(got.envp);
    assert_null(got.envp[0]);
    sandbox_exec_done(&got);
    buf.size = 0;
    sent.argc = SANDBOX_ARGS_MAX + 1;
    assert_ok(sandbox_exec_encode(&sent, &buf, &err), err);
    assert_fails(sandbox_exec_decode(buf.data, buf.size, &got, &err), ERR_PROTOCOL, err);
    buf.size = 0;
    sent.argc = 0;
    assert_ok(sandbox_exec_encode(&sent, &buf, &err), err);
    assert_fails(sandbox_exec_decode(buf.data, buf.size, &got, &err), ERR_PROTOCOL, err);
}

static void test_exit(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    BUF_AUTO struct buf buf;
    buf_init(&buf, 4096);
    struct sandbox_exit sent = {.exit_code = 137,
                                .cause = KILL_OOM,
                                .limits_hit = LIMIT_MEMORY | LIMIT_FILES,
                                .cpu_us = 1,
                                .wall_us = 2,
                                .max_rss_bytes = 3,
                                .memory_peak_bytes = 4,
                                .stdout_bytes = 5,
                                .stderr_bytes = 6,
                                .pids_peak = 7};
    struct sandbox_exit got;
    assert_ok(sandbox_exit_encode(&sent, &buf, &err), err);
    assert_ok(sandbox_exit_decode(buf.data, buf.size, &got, &err), err);
    assert_int_equal(got.exit_code, 137);
    assert_int_equal(got.cause, KILL_OOM);
    assert_int_equal(got.limits_hit, LIMIT_MEMORY | LIMIT_FILES);
    assert_int_equal(got.cpu_us + 10 * got.wall_us + 100 * got.max_rss_bytes, 321);
    assert_int_equal(got.memory_peak_bytes + 10 * got.stdout_bytes, 54);
    assert_int_equal(got.stderr_bytes + 10 * got.pids_peak, 76);
    assert_string_equal(got.start_error, "");
    buf.size = 0;
    sent.exit_code = 256;
    assert_ok(sandbox_exit_encode(&sent, &buf, &err), err);
    assert_fails(sandbox_exit_decode(buf.data, buf.size, &got, &err), ERR_PROTOCOL, err);
    buf.size = 0;
    sent.exit_code = 0;
    sent.cause = (enum kill_cause)KILL_CAUSE_COUNT;
    assert_ok(sandbox_exit_encode(&sent, &buf, &err), err);
    assert_fails(sandbox_exit_decode(buf.data, buf.size, &got, &err), ERR_PROTOCOL, err);
}

static void test_put_file(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    BUF_AUTO struct buf buf;
    buf_init(&buf, 65536);
    struct sandbox_put_file sent = {.path = "a/b", .mode = 0755};
    struct sandbox_put_file got;
    assert_ok(sandbox_put_file_encode(&sent, &buf, &err), err);
    assert_ok(sandbox_put_file_decode(buf.data, buf.size, &got, &err), err);
    assert_string_equal(got.path, "a/b");
    assert_int_equal(got.mode, 0755);
    char longest[SANDBOX_PATH_MAX + 1];
    memset(longest, 'a', sizeof(longest));
    longest[SANDBOX_PATH_MAX] = '\0';
    const struct sandbox_put_file wrong[] = {
        {.path = "", .mode = 0644}, {.path = "a", .mode = 04755}, {.path = longest, .mode = 0644}};
    for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
        buf.size = 0;
        assert_ok(sandbox_put_file_encode(&wrong[i], &buf, &err), err);
        assert_fails(sandbox_put_file_decode(buf.data, buf.size, &got, &err), ERR_PROTOCOL, err);
    }
    longest[SANDBOX_PATH_MAX - 1] = '\0';
    buf.size = 0;
    assert_ok(sandbox_put_file_encode(&wrong[2], &buf, &err), err);
    assert_ok(sandbox_put_file_decode(buf.data, buf.size, &got, &err), err);
}

static void test_done(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    BUF_AUTO struct buf buf;
    buf_init(&buf, 1024);
    struct sandbox_done sent = {.sys_errno = 28, .size_bytes = UINT64_C(1) << 40};
    struct sandbox_done got;
    assert_ok(sandbox_done_encode(&sent, &buf, &err), err);
    assert_ok(sandbox_done_decode(buf.data, buf.size, &got, &err), err);
    assert_int_equal(got.sys_errno, 28);
    assert_true(got.size_bytes == UINT64_C(1) << 40);
    buf.size = 0;
    sent.sys_errno = -1;
    assert_ok(sandbox_done_encode(&sent, &buf, &err), err);
    assert_fails(sandbox_done_decode(buf.data, buf.size, &got, &err), ERR_PROTOCOL, err);
}

static void test_unknown_fields_are_skipped(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    BUF_AUTO struct buf buf;
    buf_init(&buf, 1024);
    struct tlv_writer writer;
    tlv_begin(&writer, &buf);
    tlv_put_str(&writer, 60000, "from the future");
    assert_ok(tlv_end(&writer, &err), err);
    struct sandbox_done sent = {.sys_errno = 2};
    struct sandbox_done got;
    assert_ok(sandbox_done_encode(&sent, &buf, &err), err);
    assert_ok(sandbox_done_decode(buf.data, buf.size, &got, &err), err);
    assert_int_equal(got.sys_errno, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hello), cmocka_unit_test(test_versions),
        cmocka_unit_test(test_exec),  cmocka_unit_test(test_exec_counts),
        cmocka_unit_test(test_exit),  cmocka_unit_test(test_put_file),
        cmocka_unit_test(test_done),  cmocka_unit_test(test_unknown_fields_are_skipped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
