/* init/session, init/run and init/kernel through the loop, with a toy kernel and without cgroups:
 * what a server says, and what no server says. */
#include "check.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "child.h"
#include "session_rig.h"

/* ---- tests ---- */

static void test_runs(void **state)
{
    struct client client;
    struct outcome outcome;
    start_kernel(*state, &client);
    run_code(&client, 8, "x = 20; print('one')", false);
    client_finish(&client, 8, &outcome);
    assert_true(outcome.started);
    assert_string_equal(outcome.text[0], "one\n");
    assert_int_equal(outcome.exit.exit_code, 0);
    assert_false(outcome.exit.state_lost);
    assert_true(outcome.exit.max_rss_bytes > 0 || geteuid() != 0); /* whose /proc it is */
    run_code(&client, 12, "import sys; print(x + 1, file=sys.stderr); raise SystemExit(3)", false);
    client_finish(&client, 12, &outcome);
    assert_string_equal(outcome.text[1], "21\n");
    assert_int_equal(outcome.exit.exit_code, 3);
    run_code(&client, 16, "import os; os._exit(4)", false);
    client_finish(&client, 16, &outcome);
    assert_int_equal(outcome.exit.exit_code, 4);
    assert_int_equal(outcome.exit.cause, KILL_NONE);
    assert_true(outcome.exit.state_lost);
    run_code(&client, 20, "print(x)", false);
    client_finish(&client, 20, &outcome);
    assert_int_equal(outcome.exit.exit_code, 1);
    assert_false(outcome.exit.state_lost);
    client_close(&client);
}

/* What is said of a run that prints nothing, in this order. Of one that is silent STARTED comes all
 * the same. */
static void test_frames_of_a_run(void **state)
{
    struct client client;
    struct outcome outcome;
    start_kernel(*state, &client);
    run_code(&client, 8, "message(b'm')", false);
    assert_frame(&client, FRAME_STARTED, 8);
    assert_frame(&client, FRAME_MESSAGE, 8);
    assert_frame(&client, FRAME_CLOSE, 8 + STREAM_STDOUT);
    assert_frame(&client, FRAME_CLOSE, 8 + STREAM_STDERR);
    assert_frame(&client, FRAME_EXIT, 8);
    run_code(&client, 12, "import time; time.sleep(600)", false);
    assert_frame(&client, FRAME_STARTED, 12);
    client_send_u32(&client, FRAME_KILL, 12, KILL_USER);
    client_finish(&client, 12, &outcome);
    assert_int_equal(outcome.exit.cause, KILL_USER);
    assert_false(outcome.started); /* not twice */
    client_close(&client);
}

/* A code that does not fit into the socket of the kernel goes in pieces, behind its descriptors. */
static void test_large_code(void **state)
{
    static char code[4 << 20];
    struct client client;
    start_kernel(*state, &client);
    memset(code, ' ', sizeof(code) - 1);
    memcpy(code, "print('read')", 13);
    code[13] = '#';
    for (int i = 0; i < 2; i++) {
        uint32_t stream = 8 + 4 * (uint32_t)i;
        struct outcome outcome;
        send_run(&client, stream, "large", false);
        for (size_t at = 0; at < sizeof(code) - 1; at += FRAME_DATA_MAX) {
            size_t left = sizeof(code) - 1 - at;
            client_send(&client, FRAME_DATA, stream, code + at,
                        left < FRAME_DATA_MAX ? left : FRAME_DATA_MAX);
        }
        client_send(&client, FRAME_CLOSE, stream, NULL, 0);
        client_send(&client, FRAME_CLOSE, stream + STREAM_STDIN, NULL, 0);
        client_finish(&client, stream, &outcome);
        assert_string_equal(outcome.text[0], "read\n");
    }
    client_close(&client);
}

static void test_messages_wait_for_credit(void **state)
{
    struct client client;
    struct outcome outcome;
    size_t came = 0;
    start_kernel(*state, &client);
    run_code(&client, 8, "message(b'm' * 300000); print('end')", false);
    assert_frame(&client, FRAME_STARTED, 8);
    while (came < FRAME_WINDOW) {
        assert_true(client_next(&client));
        if (client.frame.type == FRAME_DATA)
            continue; /* "end" may be there by then */
        assert_int_equal(client.frame.type, FRAME_MESSAGE_PART);
        assert_int_equal(client.frame.stream, 8);
        came += client.frame.size;
    }
    assert_int_equal(came, FRAME_WINDOW);
    assert_quiet(&client);
    client_send_u32(&client, FRAME_CREDIT, 8, 100000);
    do {
        assert_true(client_next(&client));
        came += client.frame.type == FRAME_DATA ? 0 : client.frame.size;
    } while (client.frame.type != FRAME_MESSAGE);
    assert_int_equal(came, 300000);
    client_finish(&client, 8, &outcome);
    assert_int_equal(outcome.exit.message_bytes, 300000);
    client_close(&client);
}

static void test_attach_on_another_connection(void **state)
{
    struct client client;
    struct client other;
    struct outcome outcome;
    start_kernel(*state, &client);
    run_code(&client, 8, "import time; print('a'); time.sleep(0.2); print('b')", true);
    assert_frame(&client, FRAME_STARTED, 8);
    assert_frame(&client, FRAME_DATA, 8 + STREAM_STDOUT);
    client_close(&client);
    client_greet(&other);
    attach(&other, 4, "r8", 1);
    client_finish(&other, 4, &outcome);
    assert_true(outcome.started);
    assert_string_equal(outcome.text[0], "b\n");
    assert_int_equal(outcome.exit.stdout_bytes, 4);
    attach(&other, 8, "r8", 0);
    client_finish(&other, 8, &outcome);
    assert_string_equal(outcome.text[0], "a\nb\n");
    attach(&other, 12, "unknown", 0);
    assert_int_equal(take_done(&other, 12), ESRCH);
    attach(&other, 16, "r8", 99);
    assert_int_equal(take_done(&other, 16), EINVAL);
    const struct sandbox_attach forgotten = {.execution_id = "r8"};
    send_message(&other, FRAME_FORGET, 20, encode_attach, &forgotten);
    assert_int_equal(take_done(&other, 20), 0);
    send_message(&other, FRAME_FORGET, 24, encode_attach, &forgotten);
    assert_int_equal(take_done(&other, 24), ESRCH);
    client_close(&other);
}

/* A held run whose code never came whole is no one's, and its id is free again. */
static void test_half_a_run_ends_with_its_connection(void **state)
{
    struct client client;
    struct client other;
    struct outcome outcome;
    start_kernel(*state, &client);
    client_greet(&other);
    send_run(&other, 8, "half", true);
    client_send(&other, FRAME_DATA, 8, "print(1)", 8);
    assert_quiet(&other);
    attach(&client, 8, "half", 0);
    assert_int_equal(take_done(&client, 8), ESRCH);
    client_close(&other);
    do { /* until its end was seen */
        send_run(&client, 12, "half", true);
        client_send(&client, FRAME_CLOSE, 12, NULL, 0);
        client_finish(&client, 12, &outcome);
    } while (outcome.exit.exit_code == 126);
    assert_int_equal(outcome.exit.exit_code, 0);
    client_close(&client);
}

static void test_kernels_that_do_not_start(void **state)
{
    struct client client;
    struct outcome outcome;
    start_committed(*state);
    client_greet(&client);
    run_code(&client, 4, "1", false);
    client_finish(&client, 4, &outcome);
    assert_string_equal(outcome.start_error, "no kernel was started");
    send_kernel(&client, 8, "berth-no-such-program");
    assert_int_equal(take_done(&client, 8), ENOENT);
    send_kernel(&client, 12, "false");
    assert_int_equal(take_done(&client, 12), ECHILD);
    run_code(&client, 16, "1", true);
    client_finish(&client, 16, &outcome);
    assert_string_equal(outcome.start_error, "the kernel did not start");
    send_kernel(&client, 20, "python3");
    send_kernel(&client, 24, "python3");
    assert_int_equal(take_done(&client, 20), 0);
    assert_int_equal(take_done(&client, 24), 0);
    send_kernel(&client, 28, "other");
    assert_int_equal(take_done(&client, 28), EEXIST);
    client_close(&client);
}

static void test_a_run_right_behind_its_kernel(void **state)
{
    struct client client;
    struct outcome outcome;
    start_committed(*state);
    client_greet(&client);
    send_kernel(&client, 4, "python3");
    run_code(&client, 8, "print('first')", false);
    assert_int_equal(take_done(&client, 4), 0);
    client_finish(&client, 8, &outcome);
    assert_string_equal(outcome.text[0], "first\n");
    client_close(&client);
}

static void test_an_interrupt_before_the_kernel_is_ready(void **state)
{
    struct client client;
    struct outcome outcome;
    start_committed(*state);
    client_greet(&client);
    send_kernel(&client, 4, "python3");
    run_code(&client, 8, "import time\nwhile True: time.sleep(0.01)", false);
    run_code(&client, 12, "print('second')", false);
    client_send(&client, FRAME_INTERRUPT, 8, NULL, 0);
    client_send(&client, FRAME_INTERRUPT, 8, NULL, 0);
    assert_int_equal(take_done(&client, 4), 0);
    client_finish(&client, 8, &outcome);
    assert_true(outcome.started);
    assert_int_equal(outcome.exit.exit_code, 130);
    assert_int_equal(outcome.exit.cause, KILL_NONE);
    client_finish(&client, 12, &outcome);
    assert_string_equal(outcome.text[0], "second\n");
    client_close(&client);
}

/* It waits for another one: what that waits for may never come. */
static void test_an_interrupt_of_the_one_behind_the_next(void **state)
{
    struct client client;
    struct outcome outcome;
    start_committed(*state);
    client_greet(&client);
    send_kernel(&client, 4, "python3");
    run_code(&client, 8, "print('first')", false);
    run_code(&client, 12, "print('second')", false);
    client_send(&client, FRAME_INTERRUPT, 12, NULL, 0);
    client_finish(&client, 12, &outcome);
    assert_false(outcome.started);
    assert_int_equal(outcome.exit.cause, KILL_USER);
    assert_int_equal(take_done(&client, 4), 0);
    client_finish(&client, 8, &outcome);
    assert_string_equal(outcome.text[0], "first\n");
    client_close(&client);
}

static void test_a_terminal(void **state)
{
    struct client client;
    struct outcome outcome;
    const char *argv[] = {"sh", "-c", "read x; stty size; exit 6", NULL};
    const char *envp[] = {"PATH=/usr/bin:/bin", NULL};
    const struct sandbox_exec exec = {.execution_id = "t",
                                      .cwd = "/",
                                      .argv = argv,
                                      .argc = 3,
                                      .envp = envp,
                                      .envc = 1,
                                      .keep_bytes = 1000,
                                      .output_max_bytes = 1U << 20,
                                      .terminal = 100 << 16 | 30};
    BUF_AUTO struct buf payload;
    struct err err = ERR_INIT;
    start_committed(*state);
    client_greet(&client);
    buf_init(&payload, FRAME_PAYLOAD_MAX);
    assert_ok(sandbox_exec_encode(&exec, &payload, &err), err);
    client_send(&client, FRAME_EXEC, 4, payload.data, payload.size);
    client_send_u32(&client, FRAME_RESIZE, 4, 120 << 16 | 40); /* before it is there */
    client_send(&client, FRAME_DATA, 4 + STREAM_STDIN, "go\n", 3);
    client_finish(&client, 4, &outcome);
    assert_string_equal(outcome.text[0], "go\r\n40 120\r\n");
    assert_int_equal(outcome.exit.exit_code, 6);
    client_close(&client);
}

static void test_idleness_ends_it(void **state)
{
    struct rig *rig = *state;
    struct client client;
    struct outcome outcome;
    const struct sandbox_timers timers = {.idle_ms = 100};
    start_committed(rig);
    client_greet(&client);
    client_exec(&client, 4, "sleep 0.5; echo on", NULL);
    assert_frame(&client, FRAME_STARTED, 4);
    send_message(&client, FRAME_TIMERS, 8, encode_timers, &timers);
    assert_int_equal(take_done(&client, 8), 0);
    client_finish(&client, 4, &outcome);
    assert_string_equal(outcome.text[0], "on\n");
    assert_loop_ends(rig);
    client_close(&client);
}

/* ---- what no server sends ---- */

static void test_code_behind_its_end(void **state)
{
    struct client client;
    start_kernel(*state, &client);
    run_code(&client, 8, "import time; time.sleep(100)", false);
    client_send(&client, FRAME_DATA, 8, "x", 1);
    assert_cut_off(&client);
    client_close(&client);
}

static void test_more_code_than_there_may_be(void **state)
{
    struct client client;
    static char block[FRAME_PAYLOAD_MAX];
    start_kernel(*state, &client);
    send_run(&client, 8, "r", false);
    for (size_t sent = 0; sent < SANDBOX_CODE_MAX; sent += sizeof(block))
        client_send(&client, FRAME_DATA, 8, block, sizeof(block));
    assert_quiet(&client);
    client_send(&client, FRAME_DATA, 8, block, 1);
    assert_cut_off(&client);
    client_close(&client);
}

static void test_frames_on_wrong_streams(void **state)
{
    static const enum frame_type types[] = {FRAME_KERNEL, FRAME_RUN,    FRAME_ATTACH, FRAME_FORGET,
                                            FRAME_LIST,   FRAME_TIMERS, FRAME_LIMITS};
    struct client client;
    start_kernel(*state, &client);
    client_close(&client);
    for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
        for (int used = 0; used < 2; used++) {
            client_greet(&client);
            send_run(&client, 4, "r", false);
            client_send(&client, types[i], used ? 4 : 9, NULL, 0);
            assert_cut_off(&client);
            client_close(&client);
        }
    }
}

#define on_rig(test) cmocka_unit_test_setup_teardown(test, rig_make, rig_end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        on_rig(test_runs),
        on_rig(test_frames_of_a_run),
        on_rig(test_large_code),
        on_rig(test_messages_wait_for_credit),
        on_rig(test_attach_on_another_connection),
        on_rig(test_half_a_run_ends_with_its_connection),
        on_rig(test_kernels_that_do_not_start),
        on_rig(test_a_run_right_behind_its_kernel),
        on_rig(test_an_interrupt_before_the_kernel_is_ready),
        on_rig(test_an_interrupt_of_the_one_behind_the_next),
        on_rig(test_a_terminal),
        on_rig(test_idleness_ends_it),
        on_rig(test_code_behind_its_end),
        on_rig(test_more_code_than_there_may_be),
        on_rig(test_frames_on_wrong_streams),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
