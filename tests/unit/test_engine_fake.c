/* What every engine has to do when sandboxes stop and start, tried on the fake one: files that are
 * kept, ids that are taken, states, and what an engine says that it lacks. */
#include "check.h"

#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/fd.h"
#include "engine/channel.h"
#include "engine/engine.h"
#include "engine/fake.h"

static struct engine *engine;
static _Atomic unsigned gone_count;

static void on_gone(void *context, const char *id, enum kill_cause cause)
{
    (void)context;
    (void)cause;
    assert_string_equal(id, "box");
    gone_count++;
}

static int setup(void **state)
{
    (void)state;
    const struct engine_events events = {.gone = on_gone};
    gone_count = 0;
    return engine_fake_new(&events, &engine, NULL);
}

static int teardown(void **state)
{
    (void)state;
    engine_free(engine);
    return 0;
}

static const struct engine_create kept = {
    .id = "box", .image = "debian", .profile = "strict", .disk = true, .keep_files = true};

static int keep_text(void *context, int stream, const uint8_t *data, size_t size, struct err *err)
{
    (void)stream;
    return buf_append(context, data, size, err);
}

/* Runs a script in the sandbox behind fd, with a file when path is set, and closes the channel. */
static int run_script(int fd, const uint8_t *nonce, const char *path, const char *script,
                      struct buf *out)
{
    struct channel *channel = NULL;
    struct channel_exit exit;
    const char *argv[] = {"run", "main", NULL};
    const struct channel_exec exec = {.exec = {.execution_id = "e",
                                               .cwd = "/workspace",
                                               .argv = argv,
                                               .argc = 2,
                                               .keep_bytes = 4096,
                                               .output_max_bytes = 4096},
                                      .watch = {.cancel_fd = -1,
                                                .interrupt_fd = -1,
                                                .gone_fd = -1,
                                                .deadline_ns = clock_now_ns() + 20 * CLOCK_NS_PER_S,
                                                .output = keep_text,
                                                .context = out}};
    assert_int_equal(channel_open(fd, nonce, &channel, NULL), 0);
    if (path)
        assert_int_equal(channel_put_file(channel, path, 0644, "content", 7, NULL), 0);
    assert_int_equal(
        channel_put_file(channel, "/workspace/main", 0644, script, strlen(script), NULL), 0);
    int result = channel_exec(channel, &exec, &exit, NULL);
    channel_close(channel);
    return result;
}

static enum engine_state state_now(void)
{
    enum engine_state state = ENGINE_STATE_CREATING;
    assert_int_equal(engine_inspect(engine, "box", INT64_MAX, &state, NULL), 0);
    return state;
}

static size_t listed(void)
{
    char(*ids)[SANDBOX_ID_MAX + 1] = NULL;
    size_t count = 0;
    assert_int_equal(engine_list(engine, INT64_MAX, &ids, &count, NULL), 0);
    free(ids);
    return count;
}

static void start_and_expect(const char *text)
{
    int fd = -1;
    uint8_t nonce[SANDBOX_NONCE_SIZE];
    struct err err = ERR_INIT;
    struct buf out;
    buf_init(&out, 4096);
    assert_ok(engine_start(engine, &kept, INT64_MAX, &fd, nonce, &err), err);
    assert_int_equal(state_now(), ENGINE_STATE_RUNNING);
    assert_int_equal(run_script(fd, nonce, NULL, "cat data\ncat /tmp/t\n", &out), 0);
    assert_string_equal(buf_cstr(&out), text);
    buf_done(&out);
}

static void test_files_outlive_a_stop(void **state)
{
    (void)state;
    int fd = -1;
    uint8_t nonce[SANDBOX_NONCE_SIZE];
    struct err err = ERR_INIT;
    struct buf out;
    buf_init(&out, 4096);
    assert_ok(engine_create(engine, &kept, INT64_MAX, &fd, nonce, &err), err);
    assert_int_equal(run_script(fd, nonce, "/tmp/t", "out x\n", &out), 0);
    for (int i = 0; i < 2; i++) { /* stopping twice is fine */
        assert_ok(engine_stop(engine, "box", INT64_MAX, &err), err);
        assert_int_equal(state_now(), ENGINE_STATE_STOPPED);
        assert_int_equal(engine_fake_living(engine), 0);
        assert_int_equal(listed(), 1);
    }
    assert_fails(engine_create(engine, &kept, INT64_MAX, &fd, nonce, &err), ERR_CONFLICT, err);
    assert_ok(engine_start(engine, &kept, INT64_MAX, &fd, nonce, &err), err);
    out.size = 0;
    assert_int_equal(run_script(fd, nonce, "data", "cat /tmp/t\n", &out), 0);
    assert_string_equal(buf_cstr(&out), "content");
    assert_fails(engine_start(engine, &kept, INT64_MAX, &fd, nonce, &err), ERR_CONFLICT, err);
    assert_ok(engine_stop(engine, "box", INT64_MAX, &err), err);
    start_and_expect("contentcontent");
    assert_ok(engine_stop(engine, "box", INT64_MAX, &err), err);
    /* Destroying takes the files along, of a stopped one too. */
    assert_ok(engine_destroy(engine, "box", INT64_MAX, &err), err);
    assert_int_equal(listed(), 0);
    assert_fails(engine_start(engine, &kept, INT64_MAX, &fd, nonce, &err), ERR_NOT_FOUND, err);
    assert_fails(engine_stop(engine, "box", INT64_MAX, &err), ERR_NOT_FOUND, err);
    buf_done(&out);
}

static void test_a_stop_ends_what_runs(void **state)
{
    (void)state;
    int fd = -1;
    uint8_t nonce[SANDBOX_NONCE_SIZE];
    char byte = 0;
    assert_int_equal(engine_create(engine, &kept, INT64_MAX, &fd, nonce, NULL), 0);
    assert_int_equal(engine_stop(engine, "box", INT64_MAX, NULL), 0);
    while (read(fd, &byte, 1) > 0) /* its hello, then the end */
        ;
    (void)close(fd);
}

/* The files of one that died by itself are kept as well. */
static void test_files_outlive_a_death(void **state)
{
    (void)state;
    int fd = -1;
    uint8_t nonce[SANDBOX_NONCE_SIZE];
    struct buf out;
    buf_init(&out, 4096);
    engine_fake_inject(engine, FAKE_FAULT_DIES, 1);
    assert_int_equal(engine_create(engine, &kept, INT64_MAX, &fd, nonce, NULL), 0);
    assert_int_equal(run_script(fd, nonce, "data", "out x\n", &out), -ERR_CLOSED);
    while (gone_count == 0)
        (void)poll(NULL, 0, 1);
    assert_int_equal(state_now(), ENGINE_STATE_STOPPED);
    start_and_expect("content");
    buf_done(&out);
}

static void test_what_keeps_no_files_does_not_stop(void **state)
{
    (void)state;
    int fd = -1;
    uint8_t nonce[SANDBOX_NONCE_SIZE];
    struct err err = ERR_INIT;
    struct engine_create spec = {.id = "box", .image = "host", .profile = "strict"};
    assert_ok(engine_create(engine, &spec, INT64_MAX, &fd, nonce, &err), err);
    (void)close(fd);
    assert_fails(engine_stop(engine, "box", INT64_MAX, &err), ERR_CONFLICT, err);
    assert_int_equal(state_now(), ENGINE_STATE_RUNNING);
    assert_ok(engine_destroy(engine, "box", INT64_MAX, &err), err);
    spec.keep_files = true; /* in memory */
    assert_fails(engine_create(engine, &spec, INT64_MAX, &fd, nonce, &err), ERR_BAD_INPUT, err);
    (void)snprintf(spec.image, sizeof(spec.image), "deb");
    assert_fails(engine_create(engine, &spec, INT64_MAX, &fd, nonce, &err), ERR_BAD_INPUT, err);
    assert_int_equal(listed(), 0);
}

static void test_what_it_lacks(void **state)
{
    (void)state;
    struct engine_info info;
    int fd = -1;
    uint8_t nonce[SANDBOX_NONCE_SIZE];
    struct err err = ERR_INIT;
    assert_ok(engine_probe(engine, INT64_MAX, &info, &err), err);
    assert_true(info.capabilities & ENGINE_CAP_DISK && info.capabilities & ENGINE_CAP_CONTAINER);
    assert_string_equal(info.images, "host debian");
    assert_string_equal(info.missing, "");
    engine_free(engine);
    (void)setenv("BERTH_FAKE_LACKS", "container disk", 1);
    assert_ok(engine_fake_new(NULL, &engine, &err), err);
    (void)unsetenv("BERTH_FAKE_LACKS");
    assert_ok(engine_probe(engine, INT64_MAX, &info, &err), err);
    assert_false(info.capabilities & (ENGINE_CAP_DISK | ENGINE_CAP_CONTAINER));
    assert_true(info.capabilities & ENGINE_CAP_MEMORY);
    assert_int_equal(info.disk_bytes, 0);
    assert_non_null(strstr(info.missing, "container disk"));
    assert_fails(engine_create(engine, &kept, INT64_MAX, &fd, nonce, &err), ERR_UNSUPPORTED, err);
}

static void test_what_it_has(void **state)
{
    (void)state;
    struct engine_info info;
    struct err err = ERR_INIT;
    assert_ok(engine_probe(engine, INT64_MAX, &info, &err), err);
    assert_true(info.capabilities & ENGINE_CAP_LIMIT);
    assert_false(info.capabilities & ENGINE_CAP_ZYGOTE);
    engine_free(engine);
    (void)setenv("BERTH_FAKE_HAS", "zygote", 1);
    (void)setenv("BERTH_FAKE_LACKS", "limit", 1);
    assert_ok(engine_fake_new(NULL, &engine, &err), err);
    (void)unsetenv("BERTH_FAKE_HAS");
    (void)unsetenv("BERTH_FAKE_LACKS");
    assert_ok(engine_probe(engine, INT64_MAX, &info, &err), err);
    assert_true(info.capabilities & ENGINE_CAP_ZYGOTE);
    assert_false(info.capabilities & ENGINE_CAP_LIMIT);
    assert_fails(engine_limit(engine, &kept, INT64_MAX, &err), ERR_UNSUPPORTED, err);
}

static void expect_limits(uint64_t memory_bytes, uint64_t storage_bytes, uint32_t cpu_millis,
                          uint32_t pids_max)
{
    struct engine_create now;
    assert_true(engine_fake_limits(engine, "box", &now));
    assert_int_equal(now.memory_bytes, memory_bytes);
    assert_int_equal(now.storage_bytes, storage_bytes);
    assert_int_equal(now.cpu_millis, cpu_millis);
    assert_int_equal(now.pids_max, pids_max);
}

static void test_limits_change(void **state)
{
    (void)state;
    const struct engine_create spec = {.id = "box",
                                       .image = "host",
                                       .profile = "strict",
                                       .memory_bytes = 100,
                                       .storage_bytes = 200,
                                       .cpu_millis = 300,
                                       .pids_max = 400,
                                       .kernel = "python"};
    const struct engine_create other = {.id = "box", .memory_bytes = 1000, .pids_max = 4000};
    struct engine_create now = {.id = "other"};
    int fd = -1;
    uint8_t nonce[SANDBOX_NONCE_SIZE];
    struct err err = ERR_INIT;
    assert_fails(engine_limit(engine, &spec, INT64_MAX, &err), ERR_NOT_FOUND, err);
    assert_false(engine_fake_limits(engine, "box", &now));
    assert_ok(engine_create(engine, &spec, INT64_MAX, &fd, nonce, &err), err);
    (void)close(fd);
    expect_limits(100, 200, 300, 400);
    assert_ok(engine_limit(engine, &other, INT64_MAX, &err), err);
    expect_limits(1000, 200, 300, 4000);
    engine_fake_last_create(engine, &now);
    assert_string_equal(now.kernel, "python");
    assert_int_equal(now.memory_bytes, 100); /* a change is no creation */
}

static void test_limits_that_a_sandbox_cant_have(void **state)
{
    (void)state;
    struct engine_create other = kept;
    int fd = -1;
    uint8_t nonce[SANDBOX_NONCE_SIZE];
    struct err err = ERR_INIT;
    assert_ok(engine_create(engine, &kept, INT64_MAX, &fd, nonce, &err), err);
    (void)close(fd);
    other.memory_bytes = 7;
    assert_ok(engine_limit(engine, &other, INT64_MAX, &err), err);
    other.storage_bytes = 1000; /* on disk */
    assert_fails(engine_limit(engine, &other, INT64_MAX, &err), ERR_CONFLICT, err);
    assert_ok(engine_stop(engine, "box", INT64_MAX, &err), err);
    other.storage_bytes = 0;
    assert_fails(engine_limit(engine, &other, INT64_MAX, &err), ERR_CONFLICT, err);
}

static void test_limits_go_wrong(void **state)
{
    (void)state;
    const struct engine_create spec = {
        .id = "box", .image = "host", .profile = "strict", .memory_bytes = 1};
    const struct engine_create other = {.id = "box", .memory_bytes = 2};
    int fd = -1;
    uint8_t nonce[SANDBOX_NONCE_SIZE];
    struct err err = ERR_INIT;
    assert_ok(engine_create(engine, &spec, INT64_MAX, &fd, nonce, &err), err);
    (void)close(fd);
    engine_fake_inject(engine, FAKE_FAULT_LIMIT_REFUSED, 1);
    assert_fails(engine_limit(engine, &other, INT64_MAX, &err), ERR_CONFLICT, err);
    err = ERR_INIT;
    engine_fake_inject(engine, FAKE_FAULT_LIMIT_AWAY, 1);
    assert_fails(engine_limit(engine, &other, INT64_MAX, &err), ERR_UNAVAILABLE, err);
    assert_true(engine_is_away(&err));
    expect_limits(1, 0, 0, 0);
    err = ERR_INIT;
    engine_fake_inject(engine, FAKE_FAULT_LIMIT_HANGS, 1);
    assert_fails(engine_limit(engine, &other, clock_now_ns() + CLOCK_NS_PER_MS, &err),
                 ERR_UNAVAILABLE, err);
    assert_true(engine_is_away(&err));
    expect_limits(2, 0, 0, 0); /* who gave up does not know */
    assert_ok(engine_limit(engine, &spec, INT64_MAX, &err), err);
    expect_limits(1, 0, 0, 0);
}

static int import_layer(const char *name, int tar_fd, uint64_t size_max_bytes, uint64_t *out_size,
                        struct err *err)
{
    const struct engine_layer_import import = {
        .name = name, .tar_fd = tar_fd, .size_max_bytes = size_max_bytes};
    return engine_layer_import(engine, &import, INT64_MAX, out_size, err);
}

static int open_tar(void)
{
    int fd = memfd_create("tar", MFD_CLOEXEC);
    assert_int_equal(write(fd, "twelve bytes", 12), 12);
    return fd;
}

static void test_layers(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    uint64_t size = 0;
    size_t count = 0;
    struct engine_layer *layers = NULL;
    FD_AUTO int tar_fd = open_tar();
    assert_ok(import_layer("two", tar_fd, 0, &size, &err), err);
    assert_int_equal(size, 12);
    assert_ok(import_layer("one", tar_fd, 12, &size, &err), err);
    assert_fails(import_layer("one", tar_fd, 0, &size, &err), ERR_CONFLICT, err);
    assert_fails(import_layer("../one", tar_fd, 0, &size, &err), ERR_BAD_INPUT, err);
    assert_fails(import_layer("big", tar_fd, 11, &size, &err), ERR_BAD_INPUT, err);
    assert_ok(engine_layer_list(engine, INT64_MAX, &layers, &count, &err), err);
    assert_int_equal(count, 2);
    assert_string_equal(layers[0].name, "one");
    assert_string_equal(layers[1].name, "two");
    assert_int_equal(layers[1].size_bytes, 12);
    free(layers);
    assert_ok(engine_layer_remove(engine, "one", INT64_MAX, &err), err);
    assert_ok(engine_layer_remove(engine, "one", INT64_MAX, &err), err);
    assert_ok(engine_layer_list(engine, INT64_MAX, &layers, &count, &err), err);
    assert_int_equal(count, 1);
    free(layers);
}

static void test_a_layer_is_attached(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    uint64_t size = 0;
    FD_AUTO int fd = -1;
    FD_AUTO int tar_fd = open_tar();
    uint8_t nonce[SANDBOX_NONCE_SIZE];
    char name[ENGINE_LAYER_NAME_MAX + 1];
    assert_ok(import_layer("one", tar_fd, 0, &size, &err), err);
    assert_fails(engine_layer_attach(engine, "box", "one", INT64_MAX, &err), ERR_CONFLICT, err);
    assert_false(engine_fake_layer(engine, "box", name));
    assert_ok(engine_create(engine, &kept, INT64_MAX, &fd, nonce, &err), err);
    assert_fails(engine_layer_attach(engine, "box", "two", INT64_MAX, &err), ERR_NOT_FOUND, err);
    assert_true(engine_fake_layer(engine, "box", name));
    assert_string_equal(name, "");
    assert_ok(engine_layer_attach(engine, "box", "one", INT64_MAX, &err), err);
    assert_true(engine_fake_layer(engine, "box", name));
    assert_string_equal(name, "one");
    assert_ok(engine_stop(engine, "box", INT64_MAX, &err), err);
    assert_fails(engine_layer_attach(engine, "box", "one", INT64_MAX, &err), ERR_CONFLICT, err);
    fd_close(&fd);
    assert_ok(engine_start(engine, &kept, INT64_MAX, &fd, nonce, &err), err);
    assert_true(engine_fake_layer(engine, "box", name));
    assert_string_equal(name, "");
}

static void test_layers_go_wrong(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    uint64_t size = 0;
    FD_AUTO int tar_fd = open_tar();
    engine_fake_inject(engine, FAKE_FAULT_LAYER_REFUSED, 1);
    assert_fails(import_layer("one", tar_fd, 0, &size, &err), ERR_BAD_INPUT, err);
    assert_true(err.public_message[0] != '\0');
    err = ERR_INIT;
    engine_fake_inject(engine, FAKE_FAULT_LAYER_AWAY, 1);
    assert_fails(import_layer("one", tar_fd, 0, &size, &err), ERR_UNAVAILABLE, err);
    assert_true(engine_is_away(&err));
    engine_fake_inject(engine, FAKE_FAULT_LAYER_FAILS, 1);
    assert_fails(engine_layer_attach(engine, "box", "one", INT64_MAX, &err), ERR_INTERNAL, err);
    struct engine_info info = {.images = "host"};
    engine_fake_set_info(engine, &info);
    assert_fails(import_layer("one", tar_fd, 0, &size, &err), ERR_UNSUPPORTED, err);
}

/* An engine that is away, and one that answers that it can't now, are told apart. */
static void test_who_says_unavailable(void **state)
{
    (void)state;
    int fd = -1;
    uint8_t nonce[SANDBOX_NONCE_SIZE];
    struct err err = ERR_INIT;
    engine_fake_inject(engine, FAKE_FAULT_RESTART, 1);
    assert_fails(engine_create(engine, &kept, INT64_MAX, &fd, nonce, &err), ERR_UNAVAILABLE, err);
    assert_true(engine_is_away(&err));
    err = ERR_INIT;
    engine_fake_inject(engine, FAKE_FAULT_UNPACKING, 1);
    assert_fails(engine_create(engine, &kept, INT64_MAX, &fd, nonce, &err), ERR_UNAVAILABLE, err);
    assert_false(engine_is_away(&err));
    assert_int_equal(err.retry_after_s, 7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_files_outlive_a_stop, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_stop_ends_what_runs, setup, teardown),
        cmocka_unit_test_setup_teardown(test_files_outlive_a_death, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_keeps_no_files_does_not_stop, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_it_lacks, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_it_has, setup, teardown),
        cmocka_unit_test_setup_teardown(test_limits_change, setup, teardown),
        cmocka_unit_test_setup_teardown(test_limits_that_a_sandbox_cant_have, setup, teardown),
        cmocka_unit_test_setup_teardown(test_limits_go_wrong, setup, teardown),
        cmocka_unit_test_setup_teardown(test_layers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_layer_is_attached, setup, teardown),
        cmocka_unit_test_setup_teardown(test_layers_go_wrong, setup, teardown),
        cmocka_unit_test_setup_teardown(test_who_says_unavailable, setup, teardown),
    };
    return cmocka_run_group_tests_name("engine_fake", tests, NULL, NULL);
}
