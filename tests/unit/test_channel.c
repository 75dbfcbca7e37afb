/* The channel against the fake's init: files, input, output, credit, cancellation; and against
 * peers that break the protocol in every way that the fake knows. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "engine/channel.h"
#include "engine/engine.h"
#include "engine/fake.h"
#include "wire/frame.h"

static struct engine *engine;

struct result {
    int status;
    struct channel_exit exit;
    struct err err;
    struct buf out, err_out;
    int refuse_after; /* output calls; 0: never */
    int calls;
};

static int keep(void *context, int stream, const uint8_t *data, size_t size, struct err *err)
{
    struct result *result = context;
    if (result->refuse_after != 0 && ++result->calls >= result->refuse_after)
        return err_set(err, ERR_CLOSED, "nobody reads");
    return buf_append(stream == STREAM_STDERR ? &result->err_out : &result->out, data, size, err);
}

struct options {
    const char *script;
    const void *stdin_data;
    size_t stdin_size;
    const char *file_path;
    const void *file_data;
    size_t file_size;
    uint64_t timeout_ms, keep_bytes, output_max_bytes;
    int cancel_fd, gone_fd;
    const _Atomic int *cause;
    int64_t backstop_ms;
    enum engine_fake_fault fault;
    int refuse_after;
};

/* Zero stands for: no such descriptor, a backstop of 20 s. */
#define OPTIONS(...) (&(struct options){__VA_ARGS__})

static void run(const struct options *options, struct result *result)
{
    static unsigned serial;
    struct engine_create spec = {.image = "host"};
    int fd = -1;
    uint8_t nonce[SANDBOX_NONCE_SIZE];
    memset(result, 0, sizeof(*result));
    buf_init(&result->out, 64 << 20);
    buf_init(&result->err_out, 1 << 20);
    result->refuse_after = options->refuse_after;
    (void)snprintf(spec.id, sizeof(spec.id), "t%u", ++serial);
    if (options->fault != FAKE_FAULT_NONE)
        engine_fake_inject(engine, options->fault, 1);
    assert_int_equal(engine_create(engine, &spec, INT64_MAX, &fd, nonce, NULL), 0);
    struct channel *channel = NULL;
    assert_int_equal(channel_open(fd, nonce, &channel, NULL), 0);
    if (options->file_path)
        assert_int_equal(channel_put_file(channel, options->file_path, 0644, options->file_data,
                                          options->file_size, NULL),
                         0);
    assert_int_equal(channel_put_file(channel, "/workspace/main", 0644, options->script,
                                      strlen(options->script), NULL),
                     0);
    const char *argv[] = {"run", "main", NULL};
    const char *envp[] = {"NAME=value", NULL};
    const struct channel_exec exec = {
        .exec = {.execution_id = "e",
                 .cwd = "/workspace",
                 .argv = argv,
                 .argc = 2,
                 .envp = envp,
                 .envc = 1,
                 .timeout_ms = options->timeout_ms,
                 .keep_bytes = options->keep_bytes ? options->keep_bytes : UINT64_MAX,
                 .output_max_bytes =
                     options->output_max_bytes ? options->output_max_bytes : UINT64_MAX},
        .stdin_data = options->stdin_data,
        .stdin_size = options->stdin_size,
        .watch = {.cancel_fd = options->cancel_fd > 0 ? options->cancel_fd : -1,
                  .cancel_cause = options->cause,
                  .interrupt_fd = -1,
                  .gone_fd = options->gone_fd > 0 ? options->gone_fd : -1,
                  .deadline_ns =
                      clock_now_ns() +
                      (options->backstop_ms ? options->backstop_ms : 20000) * CLOCK_NS_PER_MS,
                  .output = keep,
                  .context = result}};
    result->status = channel_exec(channel, &exec, &result->exit, &result->err);
    channel_close(channel);
    assert_int_equal(engine_destroy(engine, spec.id, INT64_MAX, NULL), 0);
}

static void done(struct result *result)
{
    buf_done(&result->out);
    buf_done(&result->err_out);
}

static void runs_a_script(void **state)
{
    (void)state;
    struct result result;
    run(OPTIONS(.script = "out hello\nerr oops\nenv NAME\nexit 3\nout never\n"), &result);
    assert_int_equal(result.status, 0);
    assert_int_equal(result.exit.exit.exit_code, 3);
    assert_int_equal(result.exit.exit.cause, KILL_NONE);
    assert_string_equal(buf_cstr(&result.out), "hello\nvalue");
    assert_string_equal(buf_cstr(&result.err_out), "oops\n");
    assert_string_equal(result.exit.exit.start_error, "");
    done(&result);
}

static void moves_more_than_a_window_each_way(void **state)
{
    (void)state;
    size_t size = 5 * FRAME_WINDOW + 17;
    char *data = malloc(size);
    assert_non_null(data);
    for (size_t i = 0; i < size; i++)
        data[i] = (char)('a' + i % 23);
    struct result result;
    run(OPTIONS(.script = "stdin\n", .stdin_data = data, .stdin_size = size), &result);
    assert_int_equal(result.status, 0);
    assert_int_equal(result.out.size, size);
    assert_memory_equal(result.out.data, data, size);
    done(&result);
    run(OPTIONS(.script = "cat sub/big\n", .file_path = "sub/big", .file_data = data,
                .file_size = size),
        &result);
    assert_int_equal(result.status, 0);
    assert_int_equal(result.out.size, size);
    assert_memory_equal(result.out.data, data, size);
    done(&result);
    free(data);
}

static void code_that_reads_no_input_ends_all_the_same(void **state)
{
    (void)state;
    size_t size = 3 * FRAME_WINDOW;
    char *data = calloc(1, size);
    struct result result;
    run(OPTIONS(.script = "out x\n", .stdin_data = data, .stdin_size = size), &result);
    assert_int_equal(result.status, 0);
    done(&result);
    free(data);
}

static void a_refused_file_is_named(void **state)
{
    (void)state;
    struct result result;
    run(OPTIONS(.script = "sleep 5000\n", .file_path = "/denied/x", .file_data = "a",
                .file_size = 1),
        &result);
    assert_int_equal(result.status, -ERR_BAD_INPUT);
    assert_non_null(strstr(result.err.public_message, "/denied/x"));
    assert_non_null(strstr(result.err.public_message, "Permission denied"));
    done(&result);
}

static void timeout_and_caps_come_from_init(void **state)
{
    (void)state;
    struct result result;
    run(OPTIONS(.script = "sleep 60000\n", .timeout_ms = 20), &result);
    assert_int_equal(result.status, 0);
    assert_int_equal(result.exit.exit.cause, KILL_TIMEOUT);
    done(&result);
    run(OPTIONS(.script = "flood 1000000\n", .keep_bytes = 1000), &result);
    assert_int_equal(result.status, 0);
    assert_int_equal(result.out.size, 1000);
    assert_int_equal(result.exit.exit.stdout_bytes, 1000000);
    done(&result);
    run(OPTIONS(.script = "flood 1000000\n", .output_max_bytes = 300000), &result);
    assert_int_equal(result.exit.exit.cause, KILL_OUTPUT);
    done(&result);
    run(OPTIONS(.script = "oom\n"), &result);
    assert_int_equal(result.exit.exit.cause, KILL_OOM);
    assert_int_equal(result.exit.exit.limits_hit, LIMIT_MEMORY);
    done(&result);
}

static void cancels(void **state)
{
    (void)state;
    struct result result;
    int fd = eventfd(1, EFD_CLOEXEC);
    _Atomic int cause = KILL_SERVER;
    run(OPTIONS(.script = "sleep 60000\n", .cancel_fd = fd, .cause = &cause), &result);
    assert_int_equal(result.status, 0);
    assert_int_equal(result.exit.exit.cause, KILL_SERVER);
    done(&result);
    run(OPTIONS(.script = "sleep 60000\n", .gone_fd = fd), &result);
    assert_int_equal(result.status, 0);
    assert_int_equal(result.exit.exit.cause, KILL_USER);
    done(&result);
    run(OPTIONS(.script = "flood 9000000\nsleep 60000\n", .refuse_after = 3), &result);
    assert_int_equal(result.status, 0);
    assert_int_equal(result.exit.exit.cause, KILL_USER);
    done(&result);
    (void)close(fd);
}

static void hostile_peers(void **state)
{
    (void)state;
    const struct {
        enum engine_fake_fault fault;
        int status;
    } cases[] = {
        {FAKE_FAULT_CLOSE_EARLY, -ERR_CLOSED},    {FAKE_FAULT_CLOSE_OUTPUT, -ERR_CLOSED},
        {FAKE_FAULT_CLOSE_EXIT, -ERR_CLOSED},     {FAKE_FAULT_DIES, -ERR_CLOSED},
        {FAKE_FAULT_GARBAGE, -ERR_PROTOCOL},      {FAKE_FAULT_OVERSIZED, -ERR_PROTOCOL},
        {FAKE_FAULT_WRONG_NONCE, -ERR_PROTOCOL},  {FAKE_FAULT_WRONG_EXIT, -ERR_PROTOCOL},
        {FAKE_FAULT_WRONG_STREAM, -ERR_PROTOCOL}, {FAKE_FAULT_MUTE, -ERR_TIMEOUT},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct result result;
        run(OPTIONS(.script = "out x\n", .fault = cases[i].fault, .backstop_ms = 200), &result);
        if (result.status != cases[i].status)
            print_error("%s: %s\n", engine_fake_fault_name(cases[i].fault), result.err.message);
        assert_int_equal(result.status, cases[i].status);
        done(&result);
    }
}

static void slow_reader_bounds_what_is_sent(void **state)
{
    (void)state;
    /* Data beyond the credit is refused: the fake sends 640 KiB at once, a window is 256. */
    struct result result;
    run(OPTIONS(.script = "fault no-credit\n"), &result);
    /* Credit is given as the output is taken, so the peer may be legal or caught; never a crash. */
    assert_true(result.status == -ERR_PROTOCOL || result.status == 0);
    done(&result);
}

static int setup(void **state)
{
    (void)state;
    return engine_fake_new(NULL, &engine, NULL);
}

static int teardown(void **state)
{
    (void)state;
    engine_free(engine);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(runs_a_script),
        cmocka_unit_test(moves_more_than_a_window_each_way),
        cmocka_unit_test(code_that_reads_no_input_ends_all_the_same),
        cmocka_unit_test(a_refused_file_is_named),
        cmocka_unit_test(timeout_and_caps_come_from_init),
        cmocka_unit_test(cancels),
        cmocka_unit_test(hostile_peers),
        cmocka_unit_test(slow_reader_bounds_what_is_sent),
    };
    return cmocka_run_group_tests_name("channel", tests, setup, teardown);
}
