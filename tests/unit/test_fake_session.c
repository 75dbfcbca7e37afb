/* Sessions on the fake engine, as core will have them: a kernel whose variables stay, interrupts,
 * held executions, files, times that end a sandbox, several channels, and its faults. */
#include "check.h"

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "engine/channel.h"
#include "engine/engine.h"
#include "engine/fake.h"
#include "wire/frame.h"

static struct engine *engine;
static _Atomic unsigned gone_count;
static uint8_t nonce[SANDBOX_NONCE_SIZE];

static void on_gone(void *context, const char *id, enum kill_cause cause)
{
    (void)context;
    (void)cause;
    (void)id;
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

static int64_t soon_ns(void)
{
    return clock_now_ns() + 20 * CLOCK_NS_PER_S;
}

/* What one run came to. */
struct result {
    int status;
    struct channel_exit end;
    struct err err;
    struct buf out, err_out, messages;
    uint64_t events;
    int go_fd; /* written when the first output comes; -1: none */
};

static int on_output(void *context, int stream, const uint8_t *data, size_t size, struct err *err)
{
    struct result *result = context;
    uint64_t one = 1;
    if (result->go_fd >= 0 && result->out.size + result->err_out.size == 0)
        (void)!write(result->go_fd, &one, sizeof(one));
    return buf_append(stream == STREAM_STDERR ? &result->err_out : &result->out, data, size, err);
}

static int on_message(void *context, const uint8_t *data, size_t size, struct err *err)
{
    struct result *result = context;
    int status = buf_append(&result->messages, data, size, err);
    return status == 0 ? buf_append(&result->messages, "\n", 1, err) : status;
}

static void result_init(struct result *result)
{
    *result = (struct result){.go_fd = -1};
    buf_init(&result->out, 1 << 24);
    buf_init(&result->err_out, 1 << 24);
    buf_init(&result->messages, 1 << 24);
}

static void result_done(struct result *result)
{
    buf_done(&result->out);
    buf_done(&result->err_out);
    buf_done(&result->messages);
}

static struct channel *open_box(const struct engine_create *more)
{
    struct engine_create spec = {.id = "box", .image = "host", .profile = "strict"};
    struct channel *channel = NULL;
    struct err err = ERR_INIT;
    int fd = -1;
    if (more) {
        spec.lifetime_ms = more->lifetime_ms;
        spec.orphan_ms = more->orphan_ms;
    }
    assert_ok(engine_create(engine, &spec, INT64_MAX, &fd, nonce, &err), err);
    assert_ok(channel_open(fd, nonce, &channel, &err), err);
    return channel;
}

static struct channel *open_again(void)
{
    struct channel *channel = NULL;
    struct err err = ERR_INIT;
    int fd = -1;
    assert_ok(engine_open_channel(engine, "box", INT64_MAX, &fd, &err), err);
    assert_ok(channel_open(fd, nonce, &channel, &err), err);
    return channel;
}

static const struct channel_watch *soon_watch(void)
{
    static struct channel_watch watch = {.cancel_fd = -1, .interrupt_fd = -1, .gone_fd = -1};
    watch.deadline_ns = soon_ns();
    return &watch;
}

static int start_kernel(struct channel *channel, struct err *err)
{
    const char *argv[] = {"python3", NULL};
    const char *envp[] = {"NAME=kernel", "OTHER=other", NULL};
    const struct sandbox_kernel kernel = {
        .cwd = "/workspace", .argv = argv, .argc = 1, .envp = envp, .envc = 2};
    return channel_kernel(channel, &kernel, soon_watch(), err);
}

static struct channel *open_session(void)
{
    struct channel *channel = open_box(NULL);
    struct err err = ERR_INIT;
    assert_ok(start_kernel(channel, &err), err);
    return channel;
}

struct options {
    const char *id;
    enum sandbox_run_mode mode;
    uint64_t timeout_ms, grace_ms, keep_bytes, messages_max_bytes;
    bool hold;
    int interrupt_fd;
    const char *file;
};

static void run_with(struct channel *channel, const char *code, const struct options *options,
                     struct result *result)
{
    const char *envp[] = {"NAME=run", NULL};
    const struct channel_run run = {
        .run = {.execution_id = options->id ? options->id : "e",
                .mode = options->mode,
                .file = options->file ? options->file : "<cell>",
                .envp = envp,
                .envc = 1,
                .timeout_ms = options->timeout_ms,
                .grace_ms = options->grace_ms,
                .keep_bytes = options->keep_bytes ? options->keep_bytes : 1 << 24,
                .output_max_bytes = 1 << 24,
                .messages_max_bytes =
                    options->messages_max_bytes ? options->messages_max_bytes : 1 << 23,
                .hold = options->hold},
        .code = code,
        .code_size = strlen(code),
        .stdin_data = "typed",
        .stdin_size = 5,
        .watch = {.cancel_fd = -1,
                  .interrupt_fd = options->interrupt_fd > 0 ? options->interrupt_fd : -1,
                  .gone_fd = -1,
                  .deadline_ns = soon_ns(),
                  .output = on_output,
                  .message = on_message,
                  .events = &result->events,
                  .context = result}};
    result->status = channel_run(channel, &run, &result->end, &result->err);
}

/* Runs code and expects its standard output and exit code. */
static void expect_run(struct channel *channel, const char *code, const char *out,
                       uint32_t exit_code, bool state_lost)
{
    struct result result;
    result_init(&result);
    run_with(channel, code, &(struct options){0}, &result);
    if (result.status != 0)
        print_error("%s\n", result.err.message);
    assert_int_equal(result.status, 0);
    assert_string_equal(buf_cstr(&result.out), out);
    assert_int_equal(result.end.exit.exit_code, exit_code);
    assert_int_equal(result.end.exit.state_lost, state_lost);
    result_done(&result);
}

/* With a go_fd, the first output interrupts what was attached to. */
static int attach_to(struct channel *channel, const char *id, uint64_t after, struct result *result)
{
    const struct sandbox_attach attach = {.execution_id = id, .after = after};
    const struct channel_watch watch = {.cancel_fd = -1,
                                        .interrupt_fd = result->go_fd,
                                        .gone_fd = -1,
                                        .deadline_ns = soon_ns(),
                                        .output = on_output,
                                        .message = on_message,
                                        .events = &result->events,
                                        .context = result};
    return channel_attach(channel, &attach, &watch, &result->end, &result->err);
}

/* ---- the kernel ---- */

static void variables_stay(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct channel *channel = open_session();
    expect_run(channel, "set x 1 2\nout a\n", "a\n", 0, false);
    expect_run(channel, "get x\nenv NAME\nenv OTHER\nstdin\n", "1 2\nrunothertyped", 0, false);
    expect_run(channel, "get y\nout never\n", "", 1, false);
    assert_ok(start_kernel(channel, &err), err); /* the same: nothing happens */
    expect_run(channel, "get x\n", "1 2\n", 0, false);
    /* What kills it loses them, and the next run has a fresh one. */
    expect_run(channel, "oom\n", "", 137, true);
    expect_run(channel, "get x\n", "", 1, false);
    expect_run(channel, "set x 3\nsignal 9\n", "", 137, true);
    expect_run(channel, "get x\n", "", 1, false);
    channel_close(channel);
}

static void without_a_kernel_nothing_runs(void **state)
{
    (void)state;
    struct result result;
    struct channel *channel = open_box(NULL);
    result_init(&result);
    run_with(channel, "out x\n", &(struct options){.hold = true}, &result);
    assert_int_equal(result.status, 0);
    assert_int_equal(result.end.exit.exit_code, 126);
    assert_string_equal(result.end.exit.start_error, "no kernel was started");
    assert_int_equal(attach_to(channel, "e", 0, &result), -ERR_NOT_FOUND); /* not kept */
    result_done(&result);
    channel_close(channel);
}

static void a_script_ends_its_kernel(void **state)
{
    (void)state;
    static const struct options script = {.mode = SANDBOX_RUN_SCRIPT, .file = "/workspace/main.py"};
    struct result result;
    struct channel *channel = open_session();
    expect_run(channel, "set x 1\n", "", 0, false);
    result_init(&result);
    run_with(channel, "set y 2\nget y\nresult r\nget x\n", &script, &result);
    assert_int_equal(result.status, 0);
    assert_string_equal(buf_cstr(&result.out), "2\n"); /* names of its own */
    assert_int_equal(result.end.exit.exit_code, 1);
    assert_non_null(strstr(buf_cstr(&result.messages), "text/plain"));
    assert_non_null(strstr(buf_cstr(&result.messages), "NameError"));
    assert_false(result.end.exit.state_lost);
    result_done(&result);
    expect_run(channel, "get x\n", "", 1, false);
    expect_run(channel, "cat main.py\n", "set y 2\nget y\nresult r\nget x\n", 0, false);
    result_init(&result);
    run_with(channel, "oom\n", &script, &result); /* nor is anything lost when it is killed */
    assert_int_equal(result.end.exit.exit_code, 137);
    assert_false(result.end.exit.state_lost);
    result_done(&result);
    expect_run(channel, "out x\n", "x\n", 0, false);
    channel_close(channel);
}

/* ---- one that was made ahead ---- */

static int start_kernel_with(struct channel *channel, const char *program, const char *variable,
                             const char *input, struct err *err)
{
    const char *argv[] = {program, NULL};
    const char *envp[] = {variable, NULL};
    const struct sandbox_kernel kernel = {.cwd = "/workspace",
                                          .argv = argv,
                                          .argc = 1,
                                          .envp = envp,
                                          .envc = 1,
                                          .input = input,
                                          .input_size = strlen(input)};
    return channel_kernel(channel, &kernel, soon_watch(), err);
}

static void an_unused_kernel_gets_other_variables(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct channel *channel = open_box(NULL);
    assert_ok(start_kernel_with(channel, "python3", "OTHER=pool", "text", &err), err);
    assert_ok(start_kernel_with(channel, "python3", "OTHER=mine", "text", &err), err);
    assert_fails(start_kernel_with(channel, "perl", "OTHER=mine", "text", &err), ERR_CONFLICT, err);
    assert_fails(start_kernel_with(channel, "python3", "OTHER=mine", "more", &err), ERR_CONFLICT,
                 err);
    expect_run(channel, "set x 1\nenv OTHER\n", "mine", 0, false);
    assert_ok(start_kernel_with(channel, "python3", "OTHER=mine", "text", &err), err);
    assert_fails(start_kernel_with(channel, "python3", "OTHER=late", "text", &err), ERR_CONFLICT,
                 err);
    expect_run(channel, "get x\n", "1\n", 0, false);
    channel_close(channel);
}

static void times_and_limits_come_with_a_run(void **state)
{
    (void)state;
    const struct sandbox_timers timers = {.lifetime_ms = 3600000};
    const struct sandbox_limits limits = {.pids_max = 9, .file_size_max = 1000};
    const struct sandbox_limits more = {.pids_max = 10, .open_files_max = 64};
    struct sandbox_limits now;
    struct sandbox_listed listed;
    struct err err = ERR_INIT;
    struct channel *channel = open_session();
    assert_true(engine_fake_init_limits(engine, "box", &now));
    assert_int_equal(now.pids_max, 0);
    channel_timers_later(channel, &timers);
    channel_limits_later(channel, &limits);
    expect_run(channel, "out x\n", "x\n", 0, false);
    channel_limits_later(channel, &more); /* what is 0 stays as it is */
    assert_ok(channel_list(channel, soon_ns(), &listed, &err), err);
    assert_true(listed.lifetime_ms <= 3600000);
    assert_true(engine_fake_init_limits(engine, "box", &now));
    assert_int_equal(now.pids_max, 10);
    assert_int_equal(now.file_size_max, 1000);
    assert_int_equal(now.open_files_max, 64);
    assert_false(engine_fake_init_limits(engine, "other", &now));
    channel_close(channel);
}

/* The end of one in the pool shows without a word on the channel. */
static void what_died_is_not_alive(void **state)
{
    (void)state;
    struct channel *channel = open_session();
    assert_true(channel_alive(channel));
    assert_int_equal(engine_destroy(engine, "box", INT64_MAX, NULL), 0);
    assert_false(channel_alive(channel));
    channel_close(channel);
}

/* ---- messages, interrupts ---- */

static void messages_come(void **state)
{
    (void)state;
    struct result result;
    struct channel *channel = open_session();
    result_init(&result);
    run_with(channel, "result a\"b\nmessage {}\nraise ValueError no good\n", &(struct options){0},
             &result);
    assert_int_equal(result.status, 0);
    assert_int_equal(result.end.exit.exit_code, 1);
    assert_string_equal(buf_cstr(&result.err_out), "ValueError: no good\n");
    assert_string_equal(buf_cstr(&result.messages),
                        "{\"type\": \"result\", \"data\": {\"text/plain\": \"a\\\"b\"}}\n{}\n"
                        "{\"type\": \"error\", \"name\": \"ValueError\", \"value\": \"no good\", "
                        "\"traceback\": \"ValueError: no good\"}\n");
    assert_int_equal(result.end.exit.message_bytes, result.messages.size - 3);
    result_done(&result);
    /* Several windows of one message, and more than may be kept. */
    result_init(&result);
    run_with(channel, "resultn 1500000\nresultn 1500000\nout x\n",
             &(struct options){.messages_max_bytes = 2000000}, &result);
    assert_int_equal(result.status, 0);
    assert_true(result.messages.size > 1500000 && result.messages.size < 1600000);
    assert_true(result.end.exit.messages_dropped);
    assert_true(result.end.exit.message_bytes > 3000000);
    assert_string_equal(buf_cstr(&result.out), "x\n");
    result_done(&result);
    channel_close(channel);
}

static void interrupts_and_timeouts(void **state)
{
    (void)state;
    struct result result;
    struct channel *channel = open_session();
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    expect_run(channel, "set x 1\n", "", 0, false);
    result_init(&result);
    result.go_fd = fd; /* interrupted once it runs */
    run_with(channel, "out go\nsleep 60000\n", &(struct options){.interrupt_fd = fd}, &result);
    assert_int_equal(result.status, 0);
    assert_int_equal(result.end.exit.exit_code, 130);
    assert_int_equal(result.end.exit.cause, KILL_NONE);
    assert_string_equal(buf_cstr(&result.err_out), "KeyboardInterrupt\n");
    result_done(&result);
    result_init(&result);
    run_with(channel, "sleep 60000\n", &(struct options){.timeout_ms = 20, .grace_ms = 60000},
             &result);
    assert_int_equal(result.end.exit.cause, KILL_TIMEOUT);
    assert_int_equal(result.end.exit.exit_code, 130);
    assert_false(result.end.exit.state_lost);
    result_done(&result);
    expect_run(channel, "get x\n", "1\n", 0, false);
    result_init(&result);
    result.go_fd = fd;
    run_with(channel, "deaf\nout go\nsleep 60000\n",
             &(struct options){.timeout_ms = 20, .grace_ms = 20, .interrupt_fd = fd}, &result);
    assert_int_equal(result.end.exit.cause, KILL_TIMEOUT);
    assert_int_equal(result.end.exit.exit_code, 137);
    assert_true(result.end.exit.state_lost);
    result_done(&result);
    (void)close(fd);
    channel_close(channel);
}

/* ---- held executions ---- */

static void held_ones_outlive_their_channel(void **state)
{
    (void)state;
    struct result result;
    struct result again;
    struct sandbox_listed listed;
    struct err err = ERR_INIT;
    struct channel *channel = open_session();
    result_init(&result);
    result_init(&again);
    engine_fake_inject(engine, FAKE_FAULT_CLOSE_OUTPUT, 1);
    struct channel *breaking = open_again(); /* it breaks after the next output */
    run_with(breaking, "out one\nout two\nresultn 40000\nout three\n",
             &(struct options){.id = "held", .hold = true}, &result);
    assert_int_equal(result.status, -ERR_CLOSED);
    assert_string_equal(buf_cstr(&result.out), "one\n");
    assert_int_equal(result.events, 1);
    channel_close(breaking);
    assert_int_equal(attach_to(channel, "held", result.events, &again), 0);
    assert_string_equal(buf_cstr(&again.out), "two\nthree\n");
    assert_true(again.messages.size > 40000);
    assert_int_equal(again.end.exit.stdout_bytes, 14);
    assert_ok(channel_list(channel, soon_ns(), &listed, &err), err);
    assert_int_equal(listed.count, 1);
    assert_true(listed.held[0].ended && listed.kernel_lives);
    assert_string_equal(listed.held[0].execution_id, "held");
    assert_int_equal(listed.held[0].events, 1 + again.events);
    assert_int_equal(listed.lifetime_ms, SANDBOX_NEVER);
    assert_int_equal(attach_to(channel, "held", 1000, &again), -ERR_BAD_INPUT);
    assert_int_equal(attach_to(channel, "other", 0, &again), -ERR_NOT_FOUND);
    again.out.size = 0;
    assert_int_equal(attach_to(channel, "held", 0, &again), 0);
    assert_string_equal(buf_cstr(&again.out), "one\ntwo\nthree\n");
    assert_ok(channel_forget(channel, "held", soon_ns(), &err), err);
    assert_fails(channel_forget(channel, "held", soon_ns(), &err), ERR_NOT_FOUND, err);
    assert_ok(channel_list(channel, soon_ns(), &listed, &err), err);
    assert_int_equal(listed.count, 0);
    result_done(&result);
    result_done(&again);
    channel_close(channel);
}

/* A run on a thread of its own, so that another channel sees it run. */
struct background {
    pthread_t thread;
    struct channel *channel;
    const char *code;
    struct options options;
    struct result result;
};

static void *background_main(void *context)
{
    struct background *background = context;
    run_with(background->channel, background->code, &background->options, &background->result);
    return NULL;
}

static void background_begin(struct background *background)
{
    uint64_t count = 0;
    result_init(&background->result);
    background->result.go_fd = eventfd(0, EFD_CLOEXEC);
    assert_int_equal(pthread_create(&background->thread, NULL, background_main, background), 0);
    assert_int_equal(read(background->result.go_fd, &count, sizeof(count)), sizeof(count));
}

static void background_end(struct background *background)
{
    (void)pthread_join(background->thread, NULL);
    (void)close(background->result.go_fd);
    result_done(&background->result);
    channel_close(background->channel);
}

static void a_later_channel_takes_over(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct result result;
    struct channel *channel = open_session();
    struct background first = {.channel = open_again(),
                               .code = "out go\nsleep 60000\n",
                               .options = {.id = "held", .hold = true}};
    background_begin(&first);
    result_init(&result);
    assert_fails(channel_forget(channel, "held", soon_ns(), &err), ERR_NOT_FOUND, err); /* runs */
    /* The first output that comes here interrupts it. */
    result.go_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    assert_int_equal(attach_to(channel, "held", 0, &result), 0);
    assert_string_equal(buf_cstr(&result.out), "go\n");
    assert_string_equal(buf_cstr(&result.err_out), "KeyboardInterrupt\n");
    (void)pthread_join(first.thread, NULL);
    assert_int_equal(first.result.status, -ERR_CONFLICT);
    (void)close(first.result.go_fd);
    (void)close(result.go_fd);
    result_done(&first.result);
    channel_close(first.channel);
    result_done(&result);
    channel_close(channel);
}

/* Runs wait for each other; one that waits is ended by an interrupt, and the kernel lives on. */
static void runs_wait_for_each_other(void **state)
{
    (void)state;
    struct result result;
    struct channel *channel = open_session();
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int other_fd = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);
    uint64_t one = 1;
    struct background first = {.channel = open_again(),
                               .code = "set x first\nout go\nsleep 60000\n",
                               .options = {.interrupt_fd = fd}};
    background_begin(&first);
    result_init(&result);
    run_with(channel, "out never\n", &(struct options){.interrupt_fd = other_fd}, &result);
    assert_int_equal(result.status, 0);
    assert_int_equal(result.end.exit.cause, KILL_USER);
    assert_int_equal(result.end.exit.exit_code, 137);
    assert_int_equal(result.out.size, 0);
    result_done(&result);
    assert_int_equal(write(fd, &one, sizeof(one)), sizeof(one));
    expect_run(channel, "get x\n", "first\n", 0, false); /* after the first one's end */
    background_end(&first);
    (void)close(fd);
    (void)close(other_fd);
    channel_close(channel);
}

/* ---- files ---- */

static const struct channel_watch nothing = {.cancel_fd = -1, .interrupt_fd = -1, .gone_fd = -1};

static int put_text(struct channel *channel, const char *path, const char *text, struct err *err)
{
    const struct sandbox_put_file put = {.path = path, .mode = 0644};
    struct channel_writer *writer = NULL;
    uint64_t size = 0;
    int result = channel_write_open(channel, &put, &nothing, 20 * CLOCK_NS_PER_S, &writer, err);
    if (result == 0)
        result = channel_write(writer, text, strlen(text), err);
    if (result == 0)
        result = channel_write_end(writer, &size, err);
    if (result == 0)
        assert_int_equal(size, strlen(text));
    channel_write_close(writer);
    return result;
}

static int get_text(struct channel *channel, const char *path, uint64_t offset, uint64_t size,
                    struct result *result)
{
    const struct sandbox_get_file get = {
        .path = path, .offset = offset, .size_bytes = size, .info = SANDBOX_INFO_FIRST};
    struct channel_reader *reader = NULL;
    struct sandbox_file_info info;
    result->out.size = 0;
    int status = channel_read_open(channel, &get, &nothing, 20 * CLOCK_NS_PER_S, &info, &reader,
                                   &result->err);
    bool more = status == 0;
    while (more) {
        status = channel_read_next(reader, &result->out, &result->err);
        more = status == 1;
    }
    channel_read_close(reader);
    return status;
}

static void files_come_and_go(void **state)
{
    (void)state;
    struct result result;
    struct err err = ERR_INIT;
    struct channel *channel = open_session();
    result_init(&result);
    assert_ok(put_text(channel, "data", "some text", &err), err);
    expect_run(channel, "cat data\n", "some text", 0, false);
    assert_ok(put_text(channel, "data", "other", &err), err);
    assert_int_equal(get_text(channel, "data", 0, 0, &result), 0);
    assert_string_equal(buf_cstr(&result.out), "other");
    assert_int_equal(get_text(channel, "/workspace/data", 2, 2, &result), 0);
    assert_string_equal(buf_cstr(&result.out), "he");
    assert_int_equal(get_text(channel, "none", 0, 0, &result), -ERR_NOT_FOUND);
    assert_int_equal(get_text(channel, "/denied/x", 0, 0, &result), -ERR_BAD_INPUT);
    assert_fails(put_text(channel, "/denied/x", "x", &err), ERR_BAD_INPUT, err);
    expect_run(channel, "cat data\n", "other", 0, false);
    result_done(&result);
    channel_close(channel);
}

static void files_move_while_code_runs(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct channel *channel = open_session();
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct background first = {
        .channel = open_again(), .code = "out go\nsleep 60000\n", .options = {.interrupt_fd = fd}};
    background_begin(&first);
    assert_ok(put_text(channel, "data", "x", &err), err);
    uint64_t one = 1;
    assert_int_equal(write(fd, &one, sizeof(one)), sizeof(one));
    background_end(&first);
    (void)close(fd);
    channel_close(channel);
}

/* ---- times ---- */

static void wait_until_gone(void)
{
    while (gone_count == 0)
        (void)poll(NULL, 0, 1);
}

static void times_end_a_sandbox(void **state)
{
    (void)state;
    static const struct sandbox_timers ends[] = {{.lifetime_ms = 20}, {.idle_ms = 20}};
    struct err err = ERR_INIT;
    struct sandbox_listed listed;
    int fd = -1;
    for (size_t i = 0; i < 2; i++) {
        struct channel *channel = open_session();
        const struct sandbox_timers far = {.lifetime_ms = 3600000, .idle_ms = 1800000};
        assert_ok(channel_timers(channel, &far, soon_ns(), &err), err);
        assert_ok(channel_list(channel, soon_ns(), &listed, &err), err);
        assert_true(listed.lifetime_ms <= 3600000 && listed.lifetime_ms > 3500000);
        assert_true(listed.idle_ms <= 1800000 && listed.idle_ms > 1700000);
        assert_int_equal(gone_count, 0);
        assert_ok(channel_timers(channel, &ends[i], soon_ns(), &err), err);
        wait_until_gone();
        assert_fails(engine_open_channel(engine, "box", INT64_MAX, &fd, &err), ERR_NOT_FOUND, err);
        assert_true(channel_list(channel, soon_ns(), &listed, &err) < 0);
        channel_close(channel);
        assert_ok(engine_destroy(engine, "box", INT64_MAX, &err), err);
        gone_count = 0;
    }
    channel_close(open_box(&(struct engine_create){.orphan_ms = 20}));
    wait_until_gone();
}

static void what_runs_is_not_idle(void **state)
{
    (void)state;
    const struct sandbox_timers timers = {.idle_ms = 5, .lifetime_ms = SANDBOX_NEVER};
    struct err err = ERR_INIT;
    struct channel *channel = open_session();
    struct background first = {.channel = open_again(), .code = "out go\nsleep 100\nout end\n"};
    background_begin(&first);
    assert_ok(channel_timers(channel, &timers, soon_ns(), &err), err);
    (void)pthread_join(first.thread, NULL);
    assert_int_equal(first.result.status, 0); /* it came to its end */
    wait_until_gone();
    (void)close(first.result.go_fd);
    result_done(&first.result);
    channel_close(first.channel);
    channel_close(channel);
}

/* ---- faults ---- */

static void kernels_fail_and_die(void **state)
{
    (void)state;
    struct result result;
    struct err err = ERR_INIT;
    const char *argv[] = {"run", "main", NULL};
    result_init(&result);
    const struct channel_exec exec = {
        .exec = {.execution_id = "x", .cwd = "/workspace", .argv = argv, .argc = 2},
        .watch = {.cancel_fd = -1,
                  .interrupt_fd = -1,
                  .gone_fd = -1,
                  .deadline_ns = soon_ns(),
                  .context = &result}};
    engine_fake_inject(engine, FAKE_FAULT_KERNEL_FAILS, 1);
    struct channel *channel = open_box(NULL);
    assert_fails(start_kernel(channel, &err), ERR_BAD_INPUT, err);
    channel_close(channel);
    assert_ok(engine_destroy(engine, "box", INT64_MAX, &err), err);
    channel = open_session();
    expect_run(channel, "set x 1\nout a\nfault kernel-dies\nout b\n", "a\n", 139, true);
    expect_run(channel, "get x\n", "", 1, false);
    /* Between two runs: the next one says so, and only that one. */
    assert_ok(channel_put_file(channel, "main", 0644, "fault kernel-dies\n", 18, &err), err);
    assert_ok(channel_exec(channel, &exec, &result.end, &err), err);
    expect_run(channel, "out x\n", "x\n", 0, true);
    expect_run(channel, "out x\n", "x\n", 0, false);
    result_done(&result);
    channel_close(channel);
}

static void init_dies_or_hangs(void **state)
{
    (void)state;
    struct result result;
    struct sandbox_listed listed;
    struct err err = ERR_INIT;
    struct channel *channel = open_session();
    result_init(&result);
    run_with(channel, "out x\nfault dies\n", &(struct options){0}, &result);
    assert_int_equal(result.status, -ERR_CLOSED);
    wait_until_gone();
    channel_close(channel);
    assert_ok(engine_destroy(engine, "box", INT64_MAX, &err), err);
    result_done(&result);
    result_init(&result);
    engine_fake_inject(engine, FAKE_FAULT_SILENT, 1);
    channel = open_box(NULL);
    assert_ok(start_kernel(channel, &err), err); /* it is well until something runs */
    const struct channel_run run = {.run = {.execution_id = "e", .file = ""},
                                    .watch = {.cancel_fd = -1,
                                              .interrupt_fd = -1,
                                              .gone_fd = -1,
                                              .deadline_ns = clock_now_ns() + 50 * CLOCK_NS_PER_MS,
                                              .output = on_output,
                                              .context = &result}};
    assert_fails(channel_run(channel, &run, &result.end, &err), ERR_TIMEOUT, err);
    channel_close(channel);
    channel = open_again();
    assert_fails(channel_list(channel, clock_now_ns() + 50 * CLOCK_NS_PER_MS, &listed, &err),
                 ERR_TIMEOUT, err);
    channel_close(channel);
    result_done(&result);
}

static void who_answers_may_be_another(void **state)
{
    (void)state;
    struct result result;
    struct sandbox_listed listed;
    struct err err = ERR_INIT;
    result_init(&result);
    struct channel *channel = open_session();
    run_with(channel, "out x\n", &(struct options){.id = "held", .hold = true}, &result);
    assert_int_equal(result.status, 0);
    engine_fake_inject(engine, FAKE_FAULT_WRONG_NONCE, 1);
    struct channel *second = open_again();
    assert_fails(channel_list(second, soon_ns(), &listed, &err), ERR_PROTOCOL, err);
    channel_close(second);
    engine_fake_inject(engine, FAKE_FAULT_ATTACH_UNKNOWN, 1);
    second = open_again();
    assert_int_equal(attach_to(second, "held", 0, &result), -ERR_NOT_FOUND);
    channel_close(second);
    result_done(&result);
    channel_close(channel);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(variables_stay, setup, teardown),
        cmocka_unit_test_setup_teardown(without_a_kernel_nothing_runs, setup, teardown),
        cmocka_unit_test_setup_teardown(a_script_ends_its_kernel, setup, teardown),
        cmocka_unit_test_setup_teardown(an_unused_kernel_gets_other_variables, setup, teardown),
        cmocka_unit_test_setup_teardown(times_and_limits_come_with_a_run, setup, teardown),
        cmocka_unit_test_setup_teardown(what_died_is_not_alive, setup, teardown),
        cmocka_unit_test_setup_teardown(messages_come, setup, teardown),
        cmocka_unit_test_setup_teardown(interrupts_and_timeouts, setup, teardown),
        cmocka_unit_test_setup_teardown(held_ones_outlive_their_channel, setup, teardown),
        cmocka_unit_test_setup_teardown(a_later_channel_takes_over, setup, teardown),
        cmocka_unit_test_setup_teardown(runs_wait_for_each_other, setup, teardown),
        cmocka_unit_test_setup_teardown(files_come_and_go, setup, teardown),
        cmocka_unit_test_setup_teardown(files_move_while_code_runs, setup, teardown),
        cmocka_unit_test_setup_teardown(times_end_a_sandbox, setup, teardown),
        cmocka_unit_test_setup_teardown(what_runs_is_not_idle, setup, teardown),
        cmocka_unit_test_setup_teardown(kernels_fail_and_die, setup, teardown),
        cmocka_unit_test_setup_teardown(init_dies_or_hangs, setup, teardown),
        cmocka_unit_test_setup_teardown(who_answers_may_be_another, setup, teardown),
    };
    return cmocka_run_group_tests_name("fake_session", tests, NULL, NULL);
}
