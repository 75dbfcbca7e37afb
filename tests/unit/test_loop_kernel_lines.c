/* init/kernel_lines through the loop, with a toy kernel that speaks lines and without cgroups: what
 * runs of it find, and what code in it may do to its descriptors. */
#include "check.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "session_rig.h"

static void send_lines_kernel(struct client *client, uint32_t stream, const char *variable,
                              enum sandbox_kernel_protocol protocol)
{
    const char *argv[] = {"python3", getenv("BERTH_TOY_LINES"), NULL};
    const char *envp[] = {"PATH=/usr/bin:/bin", variable, NULL};
    const struct sandbox_kernel kernel = {.cwd = "/",
                                          .argv = argv,
                                          .argc = 2,
                                          .envp = envp,
                                          .envc = variable ? 2 : 1,
                                          .input = "its text",
                                          .input_size = 8,
                                          .protocol = protocol};
    assert_non_null(argv[1]);
    send_message(client, FRAME_KERNEL, stream, encode_kernel, &kernel);
}

/* A committed sandbox with a kernel that is ready, and a connection. */
static void start_lines(struct rig *rig, struct client *client)
{
    start_committed(rig);
    client_greet(client);
    send_lines_kernel(client, 4, NULL, SANDBOX_KERNEL_LINES);
    assert_int_equal(take_done(client, 4), 0);
}

/* RUN with its code, and standard input that goes on. */
static void begin_run(struct client *client, uint32_t stream, const char *code)
{
    char id[16];
    (void)snprintf(id, sizeof(id), "r%u", stream);
    send_run(client, stream, id, false);
    client_send(client, FRAME_DATA, stream, code, strlen(code));
    client_send(client, FRAME_CLOSE, stream, NULL, 0);
}

static void run_to_end(struct client *client, uint32_t stream, const char *code,
                       struct outcome *outcome)
{
    run_code(client, stream, code, false);
    client_finish(client, stream, outcome);
}

/* The one that is there now has lost nothing; the next one of the session works. */
static void assert_replaced(struct client *client, uint32_t stream, const char *code,
                            enum kill_cause cause)
{
    struct outcome outcome;
    assert_prints(client, stream, "here = 1", "");
    run_to_end(client, stream + 4, code, &outcome);
    assert_int_equal(outcome.exit.cause, cause);
    assert_true(outcome.exit.state_lost);
    assert_prints(client, stream + 8, "print('here' in globals())", "False\n");
}

/* ---- what a run finds ---- */

static void test_runs(void **state)
{
    struct client client;
    struct outcome outcome;
    start_lines(*state, &client);
    assert_prints(&client, 8, "print(text)\nx = 20\na = '\\t\\\\'; b = '\t'\n", "its text\n");
    run_to_end(&client, 12, "import sys; print(x, [a, b], file=sys.stderr); raise SystemExit(3)",
               &outcome);
    assert_string_equal(outcome.text[1], "20 ['\\t\\\\', '\\t']\n");
    assert_int_equal(outcome.exit.exit_code, 3);
    assert_false(outcome.exit.state_lost);
    run_to_end(&client, 16, "1 / 0", &outcome);
    assert_non_null(strstr(outcome.text[1], "File \"<cell>\", line 1"));
    assert_int_equal(outcome.exit.exit_code, 1);
    assert_prints(&client, 20, "print(asked)", "b'r20 0 <cell> print(asked)'\n");
    assert_prints(&client, 24,
                  "import os, signal; print(os.getpid() == os.getpgrp() == os.getsid(0))",
                  "True\n");
    run_to_end(&client, 28, "os._exit(4)", &outcome);
    assert_int_equal(outcome.exit.exit_code, 4);
    assert_int_equal(outcome.exit.cause, KILL_NONE);
    assert_true(outcome.exit.state_lost);
    assert_prints(&client, 32, "print('x' in globals())", "False\n");
    client_close(&client);
}

static void test_large_code(void **state)
{
    static char code[1U << 20];
    struct client client;
    struct outcome outcome;
    start_lines(*state, &client);
    memset(code, '\n', sizeof(code) - 1); /* each becomes two bytes */
    (void)snprintf(code, 14, "print('read')");
    code[13] = '\n';
    send_run(&client, 8, "large", false);
    for (size_t at = 0; at < sizeof(code) - 1; at += FRAME_DATA_MAX) {
        size_t left = sizeof(code) - 1 - at;
        client_send(&client, FRAME_DATA, 8, code + at,
                    left < FRAME_DATA_MAX ? left : FRAME_DATA_MAX);
    }
    client_send(&client, FRAME_CLOSE, 8, NULL, 0);
    client_send(&client, FRAME_CLOSE, 8 + STREAM_STDIN, NULL, 0);
    client_finish(&client, 8, &outcome);
    assert_string_equal(outcome.text[0], "read\n");
    client_close(&client);
}

static void test_code_with_a_nul(void **state)
{
    struct client client;
    struct outcome outcome;
    start_lines(*state, &client);
    send_run(&client, 8, "nul", false);
    client_send(&client, FRAME_DATA, 8, "1\0002", 3);
    client_send(&client, FRAME_CLOSE, 8, NULL, 0);
    client_send(&client, FRAME_CLOSE, 8 + STREAM_STDIN, NULL, 0);
    client_finish(&client, 8, &outcome);
    assert_int_equal(outcome.exit.exit_code, 126);
    assert_non_null(strstr(outcome.start_error, "NUL"));
    assert_prints(&client, 12, "print('next')", "next\n");
    client_close(&client);
}

static void test_scripts_are_refused(void **state)
{
    const struct sandbox_run run = {
        .execution_id = "script", .mode = SANDBOX_RUN_SCRIPT, .file = "f"};
    struct client client;
    struct outcome outcome;
    start_lines(*state, &client);
    send_message(&client, FRAME_RUN, 8, encode_run, &run);
    client_send(&client, FRAME_CLOSE, 8, NULL, 0);
    client_send(&client, FRAME_CLOSE, 8 + STREAM_STDIN, NULL, 0);
    client_finish(&client, 8, &outcome);
    assert_int_equal(outcome.exit.exit_code, 126);
    assert_non_null(strstr(outcome.start_error, "no scripts"));
    client_close(&client);
}

static void test_variables(void **state)
{
    static const char print_word[] = "import os; print([os.environ.get('WORD')])";
    struct client client;
    struct outcome outcome;
    start_lines(*state, &client);
    send_lines_kernel(&client, 8, "WORD=one\ntwo \\", SANDBOX_KERNEL_LINES);
    assert_int_equal(take_done(&client, 8), 0);
    send_lines_kernel(&client, 12, NULL, SANDBOX_KERNEL_FRAMES);
    assert_int_equal(take_done(&client, 12), EEXIST); /* another program */
    assert_prints(&client, 16, print_word, "['one\\ntwo \\\\']\n");
    assert_prints(&client, 20, "os.environ['WORD'] = 'mine'", "");
    assert_prints(&client, 24, print_word, "['mine']\n"); /* they came once */
    run_to_end(&client, 28, "os._exit(0)", &outcome);
    assert_prints(&client, 32, print_word, "['one\\ntwo \\\\']\n");
    client_close(&client);
}

/* ---- standard input ---- */

static void test_input(void **state)
{
    struct client client;
    struct outcome outcome;
    start_lines(*state, &client);
    begin_run(&client, 12, "import os, sys; print(sys.stdin.read().split())");
    assert_quiet(&client); /* it waits for the rest */
    client_send(&client, FRAME_DATA, 12 + STREAM_STDIN, "one ", 4);
    assert_quiet(&client);
    client_send(&client, FRAME_DATA, 12 + STREAM_STDIN, "two", 3);
    client_send(&client, FRAME_CLOSE, 12 + STREAM_STDIN, NULL, 0);
    client_finish(&client, 12, &outcome);
    assert_string_equal(outcome.text[0], "['one', 'two']\n");
    assert_prints(&client, 16, "print([sys.stdin.read()])", "['']\n"); /* nothing of the last one */
    begin_run(&client, 20, "print([os.read(0, 3)])");
    client_send(&client, FRAME_DATA, 20 + STREAM_STDIN, "a longer one", 12);
    client_send(&client, FRAME_CLOSE, 20 + STREAM_STDIN, NULL, 0);
    client_finish(&client, 20, &outcome);
    assert_string_equal(outcome.text[0], "[b'a l']\n");
    begin_run(&client, 24, "print([sys.stdin.read()])");
    client_send(&client, FRAME_DATA, 24 + STREAM_STDIN, "short", 5);
    client_send(&client, FRAME_CLOSE, 24 + STREAM_STDIN, NULL, 0);
    client_finish(&client, 24, &outcome);
    assert_string_equal(outcome.text[0], "['short']\n");
    client_close(&client);
}

/* More than one window of it: credit comes while the run waits. */
static void test_large_input(void **state)
{
    static const char zeros[FRAME_DATA_MAX];
    struct client client;
    struct outcome outcome;
    struct err err = ERR_INIT;
    uint32_t window = FRAME_WINDOW;
    start_lines(*state, &client);
    begin_run(&client, 8, "import sys; print(len(sys.stdin.buffer.read()))");
    for (size_t sent = 0; sent < 8U * FRAME_WINDOW; sent += sizeof(zeros)) {
        while (window < sizeof(zeros)) {
            uint32_t credit = 0;
            assert_frame(&client, FRAME_CREDIT, 8 + STREAM_STDIN);
            assert_ok(frame_u32(&client.frame, &credit, &err), err);
            window += credit;
        }
        client_send(&client, FRAME_DATA, 8 + STREAM_STDIN, zeros, sizeof(zeros));
        window -= (uint32_t)sizeof(zeros);
    }
    client_send(&client, FRAME_CLOSE, 8 + STREAM_STDIN, NULL, 0);
    client_finish(&client, 8, &outcome);
    assert_string_equal(outcome.text[0], "2097152\n");
    client_close(&client);
}

/* It is killed or interrupted while its input comes, and another one goes on. */
static void test_ends_while_input_comes(void **state)
{
    struct client client;
    struct outcome outcome;
    start_lines(*state, &client);
    begin_run(&client, 8, "print('never')");
    client_send_u32(&client, FRAME_KILL, 8, KILL_USER);
    client_finish(&client, 8, &outcome);
    assert_int_equal(outcome.exit.cause, KILL_USER);
    begin_run(&client, 12, "print('never')");
    client_send(&client, FRAME_INTERRUPT, 12, NULL, 0);
    client_finish(&client, 12, &outcome);
    assert_int_equal(outcome.exit.cause, KILL_USER);
    assert_prints(&client, 16, "print('next')", "next\n");
    client_close(&client);
}

/* The rig has no other user for the code, so it may do all that to the file. */
static void test_the_code_harms_its_input(void **state)
{
    static const char *const harms[] = {
        "open('/proc/self/fd/0', 'w').write('left behind')",
        "os.ftruncate(os.open('/proc/self/fd/0', os.O_RDWR), 1 << 20)",
        "fcntl.fcntl(os.open('/proc/self/fd/0', os.O_RDWR), 1033, 15)", /* F_ADD_SEALS */
        "fcntl.fcntl(0, fcntl.F_SETFL, os.O_APPEND | os.O_NONBLOCK)",
        "os.lseek(0, 100, 0)",
        "os.dup2(os.open('/dev/null', 0), 0)",
        "os.close(0)",
    };
    struct client client;
    struct outcome outcome;
    start_lines(*state, &client);
    assert_prints(&client, 8, "import fcntl, os, sys", "");
    for (uint32_t i = 0; i < ARRAY_SIZE(harms); i++) {
        uint32_t stream = 12 + 12 * i;
        run_to_end(&client, stream, harms[i], &outcome);
        begin_run(&client, stream + 4, "import sys; print([sys.stdin.read()])");
        client_send(&client, FRAME_DATA, stream + 4 + STREAM_STDIN, "in", 2);
        client_send(&client, FRAME_CLOSE, stream + 4 + STREAM_STDIN, NULL, 0);
        client_finish(&client, stream + 4, &outcome);
        assert_false(outcome.exit.state_lost);
        if (i < 5)
            assert_string_equal(outcome.text[0], "['in']\n");
    }
    client_close(&client);
}

/* ---- outputs ---- */

static void test_output_of_the_background(void **state)
{
    static const char starts[] = "import os, threading\n"
                                 "go, said = threading.Event(), threading.Event()\n"
                                 "def late():\n go.wait(); os.write(1, b'late\\n'); said.set()\n"
                                 "threading.Thread(target=late, daemon=True).start()";
    struct client client;
    struct outcome outcome;
    start_lines(*state, &client);
    run_to_end(&client, 8, starts, &outcome);
    assert_prints(&client, 12,
                  "print('mine'); go.set(); _ = said.wait(); print('rest', flush=True)",
                  "late\nmine\nrest\n");
    client_close(&client);
}

/* What is written between two runs blocks nobody and is heard by nobody. */
static void test_output_between_runs(void **state)
{
    static const char floods[] =
        "import subprocess\n"
        "p = subprocess.Popen('read x; head -c 1000000 /dev/zero; head -c 1000000 /dev/zero >&2',"
        " shell=True, stdin=subprocess.PIPE)";
    struct client client;
    struct outcome outcome;
    start_lines(*state, &client);
    assert_prints(&client, 8, floods, "");
    assert_prints(&client, 12,
                  "import threading, time\n"
                  "def go():\n time.sleep(0.05); p.stdin.write(b'\\n'); p.stdin.flush(); p.wait()\n"
                  "t = threading.Thread(target=go); t.start()",
                  "");
    for (uint32_t stream = 16; stream < 16 + 4 * 4000; stream += 4) {
        struct timespec pause = {.tv_nsec = 5000000};
        (void)nanosleep(&pause, NULL); /* nobody listens now */
        run_to_end(&client, stream, "print(t.is_alive())", &outcome);
        assert_string_equal(outcome.text[1], "");
        if (strcmp(outcome.text[0], "False\n") == 0)
            break;
    }
    assert_string_equal(outcome.text[0], "False\n");
    client_close(&client);
}

static void test_large_output(void **state)
{
    struct client client;
    struct outcome outcome;
    start_lines(*state, &client);
    run_to_end(&client, 8, "import sys; print('x' * 999999); print('y' * 999999, file=sys.stderr)",
               &outcome);
    assert_int_equal(outcome.sizes[0], 1000000);
    assert_int_equal(outcome.sizes[1], 1000000);
    client_close(&client);
}

static void test_closed_outputs(void **state)
{
    struct client client;
    struct outcome outcome;
    start_lines(*state, &client);
    run_to_end(&client, 8, "import os; print('seen', flush=True); os.close(1); os.close(2)",
               &outcome);
    assert_string_equal(outcome.text[0], "seen\n");
    assert_int_equal(outcome.exit.exit_code, 0);
    run_to_end(&client, 12, "os.write(1, b'x')", &outcome);
    assert_int_equal(outcome.exit.exit_code, 1);
    assert_false(outcome.exit.state_lost);
    client_close(&client);
}

/* ---- what it says ---- */

static void test_messages(void **state)
{
    struct client client;
    start_lines(*state, &client);
    run_code(&client, 8, "tell(b'M {\"a\": 1}\\nM ' + b'x' * 40000 + b'\\n')", false);
    assert_frame(&client, FRAME_STARTED, 8);
    assert_frame(&client, FRAME_MESSAGE, 8);
    assert_int_equal(client.frame.size, 8);
    assert_memory_equal(client.frame.payload, "{\"a\": 1}", 8);
    assert_frame(&client, FRAME_MESSAGE_PART, 8);
    assert_int_equal(client.frame.size, FRAME_DATA_MAX);
    assert_frame(&client, FRAME_MESSAGE, 8);
    assert_int_equal(client.frame.size, 40000 - FRAME_DATA_MAX);
    assert_frame(&client, FRAME_CLOSE, 8 + STREAM_STDOUT);
    assert_frame(&client, FRAME_CLOSE, 8 + STREAM_STDERR);
    assert_frame(&client, FRAME_EXIT, 8);
    client_close(&client);
}

/* What is said between two runs is for nobody, also what ends in the next one. */
static void test_what_nobody_hears(void **state)
{
    static const char *const words[] = {"D 7\\n",        "M {}\\n",
                                        "D 7\\nM {}\\n", "R\\nR\\n",
                                        "\\n\\n",        "nonsense\\nD x\\nD 300\\nD\\nE\\n",
                                        "M half of a",   "D 7\\nE 5\\n"};
    struct client client;
    struct outcome outcome;
    start_lines(*state, &client);
    for (uint32_t i = 0; i < ARRAY_SIZE(words); i++) {
        char code[128];
        (void)snprintf(code, sizeof(code), "tell(b'D 0\\n%s'); quiet = True", words[i]);
        run_to_end(&client, 12 + 8 * i, code, &outcome);
        assert_int_equal(outcome.exit.exit_code, 0);
        run_to_end(&client, 16 + 8 * i, "tell(b'\\n'); raise SystemExit(9)", &outcome);
        assert_int_equal(outcome.exit.exit_code, 9);
        assert_false(outcome.exit.state_lost);
    }
    client_close(&client);
}

static void test_noise_ends_a_run(void **state)
{
    struct client client;
    struct outcome outcome;
    const struct sandbox_run run = {
        .execution_id = "noise", .file = "f", .output_max_bytes = 100000};
    static const char code[] = "while True: tell(b'\\n' * 10000)";
    start_lines(*state, &client);
    send_message(&client, FRAME_RUN, 8, encode_run, &run);
    client_send(&client, FRAME_DATA, 8, code, strlen(code));
    client_send(&client, FRAME_CLOSE, 8, NULL, 0);
    client_send(&client, FRAME_CLOSE, 8 + STREAM_STDIN, NULL, 0);
    client_finish(&client, 8, &outcome);
    assert_int_equal(outcome.exit.cause, KILL_OUTPUT);
    client_close(&client);
}

static void test_kernels_that_are_given_up(void **state)
{
    struct client client;
    start_lines(*state, &client);
    assert_replaced(&client, 8, "import os\nfor i in range(40): tell(b'M' * (1 << 20))",
                    KILL_OUTPUT);
    assert_replaced(&client, 20, "import os, time; os.close(4); time.sleep(600)", KILL_SIGNAL);
    assert_replaced(&client, 32, "import os, time; os.close(3); os.close(4); time.sleep(600)",
                    KILL_SIGNAL);
    client_close(&client);
}

/* It hears nothing any more: the next run gets another kernel, and is told. */
static void test_a_deaf_kernel(void **state)
{
    struct client client;
    struct outcome outcome;
    start_lines(*state, &client);
    run_to_end(&client, 8, "import os, time\nos.close(3)\ntell(b'D 0\\n')\ntime.sleep(600)",
               &outcome);
    assert_int_equal(outcome.exit.exit_code, 0);
    run_to_end(&client, 12, "print('time' in globals())", &outcome);
    assert_string_equal(outcome.text[0], "False\n");
    assert_true(outcome.exit.state_lost);
    assert_int_equal(outcome.exit.cause, KILL_NONE);
    client_close(&client);
}

static void test_a_child_speaks_for_it(void **state)
{
    struct client client;
    struct outcome outcome;
    start_lines(*state, &client);
    run_to_end(&client, 8,
               "import subprocess, time\n"
               "subprocess.run('echo \"M {}\"; echo \"D 5\" >&4; exec sleep 600', shell=True,"
               " pass_fds=[4])",
               &outcome);
    assert_int_equal(outcome.exit.exit_code, 5); /* it ended the run, no other one */
    assert_string_equal(outcome.text[0], "M {}\n");
    client_send(&client, FRAME_PING, 0, NULL, 0);
    assert_frame(&client, FRAME_PONG, 0);
    client_close(&client);
}

static void test_the_last_run_of_a_kernel(void **state)
{
    struct client client;
    struct outcome outcome;
    start_lines(*state, &client);
    assert_prints(&client, 8, "x = 1", "");
    run_to_end(&client, 12,
               "import subprocess, time\nprint('said', flush=True)\n"
               "subprocess.Popen(['sleep', '600'])\ntell(b'E 3\\n')\ntime.sleep(600)",
               &outcome);
    assert_string_equal(outcome.text[0], "said\n");
    assert_int_equal(outcome.exit.exit_code, 3);
    assert_int_equal(outcome.exit.cause, KILL_NONE);
    assert_true(outcome.exit.state_lost);
    run_to_end(&client, 16, "print('x' in globals())", &outcome);
    assert_string_equal(outcome.text[0], "False\n");
    assert_false(outcome.exit.state_lost);
    client_close(&client);
}

/* It has ended, though its output is still on the way: what comes then did not end it. */
static void test_a_kill_behind_the_end(void **state)
{
    const struct timespec pause = {.tv_nsec = 100000000};
    static const char *const ends[] = {"os._exit(3)", "tell(b'E 3\\n')\ntime.sleep(600)"};
    struct client client;
    struct outcome outcome;
    start_lines(*state, &client);
    for (uint32_t i = 0; i < ARRAY_SIZE(ends); i++) {
        uint32_t stream = 8 + 8 * i;
        char code[200];
        (void)snprintf(code, sizeof(code), "import os, time\nos.write(1, b'x' * %u)\n%s",
                       FRAME_WINDOW + 1000, ends[i]);
        run_code(&client, stream, code, false);
        assert_frame(&client, FRAME_STARTED, stream);
        for (size_t came = 0; came < FRAME_WINDOW; came += client.frame.size)
            assert_frame(&client, FRAME_DATA, stream + STREAM_STDOUT);
        (void)nanosleep(&pause, NULL); /* the rest and the end, which it can't tell us yet */
        client_send_u32(&client, FRAME_KILL, stream, KILL_SERVER);
        client_send_u32(&client, FRAME_CREDIT, stream + STREAM_STDOUT, FRAME_WINDOW);
        client_finish(&client, stream, &outcome);
        assert_int_equal(outcome.exit.cause, KILL_NONE);
        assert_int_equal(outcome.exit.exit_code, 3);
        assert_int_equal(outcome.exit.stdout_bytes, FRAME_WINDOW + 1000);
    }
    client_close(&client);
}

/* ---- interrupts and timeouts ---- */

static void test_interrupts(void **state)
{
    static const char *const codes[] = {
        "print('on', flush=True)\nwhile True: pass",
        /* CPython sleeps through a signal on its way into one. */
        "import time\nprint('on', flush=True)\nwhile True: time.sleep(0.01)",
        "import subprocess; subprocess.run(['sh', '-c', 'echo on; sleep 600'])",
    };
    struct client client;
    struct outcome outcome;
    start_lines(*state, &client);
    assert_prints(&client, 8, "x = 1", "");
    for (uint32_t i = 0; i < ARRAY_SIZE(codes); i++) {
        uint32_t stream = 12 + 8 * i;
        run_code(&client, stream, codes[i], false);
        assert_frame(&client, FRAME_STARTED, stream);
        assert_frame(&client, FRAME_DATA, stream + STREAM_STDOUT);
        client_send(&client, FRAME_INTERRUPT, stream, NULL, 0);
        client_send(&client, FRAME_INTERRUPT, stream, NULL, 0);
        client_finish(&client, stream, &outcome);
        assert_int_equal(outcome.exit.exit_code, 130);
        assert_false(outcome.exit.state_lost);
        assert_prints(&client, stream + 4, "print(x)", "1\n");
    }
    client_close(&client);
}

/* It comes with the run, and before the kernel can have read that. */
static void test_an_interrupt_at_once(void **state)
{
    struct client client;
    struct outcome outcome;
    start_lines(*state, &client);
    for (uint32_t stream = 8; stream < 8 + 8 * 50; stream += 8) {
        run_code(&client, stream, "import time\nwhile True: time.sleep(0.01)", false);
        client_send(&client, FRAME_INTERRUPT, stream, NULL, 0);
        client_finish(&client, stream, &outcome);
        assert_int_equal(outcome.exit.exit_code, 130);
        assert_prints(&client, stream + 4, "print('next')", "next\n");
    }
    client_close(&client);
}

static void test_timeouts(void **state)
{
    struct sandbox_run run = {.execution_id = "soft",
                              .file = "f",
                              .timeout_ms = 50,
                              .grace_ms = 20000,
                              .output_max_bytes = 1000};
    static const char *const codes[] = {
        "x = 1\nwhile True: pass",
        "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass"};
    struct client client;
    struct outcome outcome;
    start_lines(*state, &client);
    for (uint32_t i = 0; i < 2; i++) {
        uint32_t stream = 8 + 8 * i;
        send_message(&client, FRAME_RUN, stream, encode_run, &run);
        client_send(&client, FRAME_DATA, stream, codes[i], strlen(codes[i]));
        client_send(&client, FRAME_CLOSE, stream, NULL, 0);
        client_send(&client, FRAME_CLOSE, stream + STREAM_STDIN, NULL, 0);
        client_finish(&client, stream, &outcome);
        assert_int_equal(outcome.exit.cause, KILL_TIMEOUT);
        assert_int_equal(outcome.exit.state_lost, i == 1);
        assert_prints(&client, stream + 4, "print('x' in globals())",
                      i == 0 ? "True\n" : "False\n");
        run.grace_ms = 50;
        run.execution_id = "hard";
    }
    client_close(&client);
}

#define on_rig(test) cmocka_unit_test_setup_teardown(test, rig_make, rig_end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        on_rig(test_runs),
        on_rig(test_large_code),
        on_rig(test_code_with_a_nul),
        on_rig(test_scripts_are_refused),
        on_rig(test_variables),
        on_rig(test_input),
        on_rig(test_large_input),
        on_rig(test_ends_while_input_comes),
        on_rig(test_the_code_harms_its_input),
        on_rig(test_output_of_the_background),
        on_rig(test_output_between_runs),
        on_rig(test_large_output),
        on_rig(test_closed_outputs),
        on_rig(test_messages),
        on_rig(test_what_nobody_hears),
        on_rig(test_noise_ends_a_run),
        on_rig(test_kernels_that_are_given_up),
        on_rig(test_a_deaf_kernel),
        on_rig(test_a_child_speaks_for_it),
        on_rig(test_the_last_run_of_a_kernel),
        on_rig(test_a_kill_behind_the_end),
        on_rig(test_interrupts),
        on_rig(test_an_interrupt_at_once),
        on_rig(test_timeouts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
