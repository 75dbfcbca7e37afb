/* wire/init_config: there and back, descriptors that are none, and values out of range. */
#include "check.h"

#include <string.h>

#include "wire/init_config.h"
#include "wire/tlv.h"

static struct init_config sample(void)
{
    struct init_config config;
    init_config_clear(&config);
    memcpy(config.id, "sandbox-1", 10);
    memset(config.nonce, 0x5a, sizeof(config.nonce));
    config.uid = 1000;
    config.gid = 1001;
    config.open_files_max = 1024;
    config.pids_max = 128;
    config.file_size_max = UINT64_C(1) << 40;
    config.lifetime_ms = 60000;
    config.orphan_ms = 5000;
    config.file_idle_ms = 700;
    config.listen_fd = 4;
    config.setup_fd = 5;
    config.userns_fd = 6;
    config.cgroup_mode = INIT_CGROUP_V1;
    config.procs_fds[0] = 7;
    config.procs_fds[1] = 8;
    config.procs_count = 2;
    config.pids_max_fd = 9;
    config.carried = config.nests = true;
    memset(config.secret, 0x77, sizeof(config.secret));
    return config;
}

static void test_clear(void **state)
{
    (void)state;
    struct init_config config;
    memset(&config, 0x5a, sizeof(config));
    init_config_clear(&config);
    assert_string_equal(config.id, "");
    assert_int_equal(config.listen_fd, -1);
    assert_int_equal(config.kill_fd, -1);
    assert_int_equal(config.oom_event_fd, -1);
    assert_int_equal(config.procs_count, 0);
    assert_int_equal(config.cgroup_mode, INIT_CGROUP_NONE);
    assert_false(config.carried || config.nests);
}

static void test_round_trip(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    BUF_AUTO struct buf buf;
    buf_init(&buf, 4096);
    const struct init_config sent = sample();
    struct init_config got;
    assert_ok(init_config_encode(&sent, &buf, &err), err);
    assert_ok(init_config_decode(buf.data, buf.size, &got, &err), err);
    assert_string_equal(got.id, "sandbox-1");
    assert_memory_equal(got.nonce, sent.nonce, sizeof(sent.nonce));
    assert_true(got.carried && got.nests);
    assert_memory_equal(got.secret, sent.secret, sizeof(sent.secret));
    assert_int_equal(got.uid, 1000);
    assert_int_equal(got.gid, 1001);
    assert_int_equal(got.open_files_max, 1024);
    assert_int_equal(got.pids_max, 128);
    assert_true(got.file_size_max == sent.file_size_max);
    assert_int_equal(got.lifetime_ms, 60000);
    assert_int_equal(got.orphan_ms, 5000);
    assert_int_equal(got.file_idle_ms, 700);
    assert_int_equal(got.listen_fd, 4);
    assert_int_equal(got.setup_fd, 5);
    assert_int_equal(got.userns_fd, 6);
    assert_int_equal(got.cgroup_mode, INIT_CGROUP_V1);
    assert_int_equal(got.procs_count, 2);
    assert_int_equal(got.procs_fds[1], 8);
    assert_int_equal(got.pids_max_fd, 9);
    assert_int_equal(got.kill_fd, -1);
    assert_int_equal(got.oom_event_fd, -1);
}

static void test_every_cut(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    BUF_AUTO struct buf buf;
    buf_init(&buf, 4096);
    const struct init_config sent = sample();
    struct init_config got;
    assert_ok(init_config_encode(&sent, &buf, &err), err);
    for (size_t size = 0; size < buf.size; size++)
        (void)init_config_decode(buf.data, size, &got, &err);
    assert_fails(init_config_decode(buf.data, buf.size - 1, &got, &err), ERR_PROTOCOL, err);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_clear),
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_every_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
