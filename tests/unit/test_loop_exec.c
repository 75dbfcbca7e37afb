/* init/job through the loop: executions, their input and output, their ends. */
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/fd.h"
#include "child.h"
#include "loop_rig.h"

/* ---- tests: executions ---- */

static void test_exec(void **state)
{
    struct rig *rig = *state;
    struct client client;
    struct outcome outcome;
    start_committed(rig);
    client_greet(&client);
    client_exec(&client, 4, "echo $WORD; pwd; echo there >&2; exit 7",
                &(struct exec_options){.cwd = "/usr"});
    client_send(&client, FRAME_CLOSE, 4 + STREAM_STDIN, NULL, 0);
    client_finish(&client, 4, &outcome);
    assert_true(outcome.started);
    assert_string_equal(outcome.text[0], "hello\n/usr\n");
    assert_string_equal(outcome.text[1], "there\n");
    assert_int_equal(outcome.exit.exit_code, 7);
    assert_int_equal(outcome.exit.cause, KILL_NONE);
    assert_int_equal(outcome.exit.stdout_bytes, 11);
    assert_int_equal(outcome.exit.stderr_bytes, 6);
    assert_string_equal(outcome.start_error, "");
    assert_true(outcome.exit.max_rss_bytes > 0);
    /* the connection and the job are free for the next one */
    client_exec(&client, 8, "kill -SEGV $$", NULL);
    client_finish(&client, 8, &outcome);
    assert_int_equal(outcome.exit.exit_code, 128 + SIGSEGV);
    assert_int_equal(outcome.exit.cause, KILL_SIGNAL);
    client_close(&client);
}

static void test_programs_that_do_not_start(void **state)
{
    struct rig *rig = *state;
    struct client client;
    struct outcome outcome;
    const struct exec_options none = {0};
    start_committed(rig);
    client_greet(&client);
    client_exec_argv(&client, 4, (const char *[]){"berth-no-such-program", NULL}, &none);
    client_finish(&client, 4, &outcome);
    assert_int_equal(outcome.exit.exit_code, 127);
    assert_non_null(strstr(outcome.start_error, "berth-no-such-program"));
    client_exec_argv(&client, 4, (const char *[]){"/etc/passwd", NULL}, &none);
    client_finish(&client, 4, &outcome);
    assert_int_equal(outcome.exit.exit_code, 126);
    client_exec(&client, 4, "true", &(struct exec_options){.cwd = "/nonexistent/berth"});
    client_finish(&client, 4, &outcome);
    assert_int_equal(outcome.exit.exit_code, 126);
    assert_non_null(strstr(outcome.start_error, "/nonexistent/berth"));
    client_close(&client);
}

/* What a program finds: three descriptors, no blocked signal, the limits that were asked for. */
static void test_what_a_program_inherits(void **state)
{
    struct rig *rig = *state;
    struct client client;
    struct outcome outcome;
    start_committed(rig);
    client_greet(&client);
    client_exec(&client, 4,
                "for i in 0 1 2 3 4 5 6 7 8 9 20 30; do (: <&$i) 2>/dev/null && "
                "printf %s, $i; done; echo; ulimit -n; ulimit -c",
                NULL);
    client_finish(&client, 4, &outcome);
    assert_string_equal(outcome.text[0], "0,1,2,\n256\n0\n");
    client_exec(&client, 4,
                "while read -r a b; do case $a in SigBlk:|SigIgn:|NoNewPrivs:|Seccomp:) "
                "echo $a$b;; esac; done < /proc/self/status",
                NULL);
    client_finish(&client, 4, &outcome);
    assert_string_equal(outcome.text[0], "SigBlk:0000000000000000\nSigIgn:0000000000000000\n"
                                         "NoNewPrivs:1\nSeccomp:2\n");
    client_close(&client);
}

/* Beside each other, each ends with its own session: the other one goes on. */
static void test_two_executions(void **state)
{
    struct rig *rig = *state;
    struct client client;
    struct client other;
    struct outcome outcome;
    start_committed(rig);
    client_greet(&client);
    client_greet(&other);
    client_exec(&client, 4, "echo on; read x; echo $x", NULL);
    assert_frame(&client, FRAME_STARTED, 4);
    client_exec(&other, 4, "sleep 1000 & echo two; exit 5", NULL);
    client_finish(&other, 4, &outcome);
    assert_string_equal(outcome.text[0], "two\n");
    assert_int_equal(outcome.exit.exit_code, 5);
    assert_int_equal(outcome.exit.cause, KILL_NONE);
    client_exec(&other, 8, "(sleep 1000; echo no) & sleep 1000", NULL);
    assert_frame(&other, FRAME_STARTED, 8);
    client_send_u32(&other, FRAME_KILL, 8, KILL_USER);
    client_finish(&other, 8, &outcome);
    assert_int_equal(outcome.exit.cause, KILL_USER);
    assert_string_equal(outcome.text[0], "");
    /* streams are each connection's own: input of the other one's stream 4 goes nowhere */
    client_send(&other, FRAME_DATA, 4 + STREAM_STDIN, "no\n", 3);
    assert_quiet(&other);
    client_send(&client, FRAME_DATA, 4 + STREAM_STDIN, "yes\n", 4);
    client_finish(&client, 4, &outcome);
    assert_string_equal(outcome.text[0], "on\nyes\n");
    assert_int_equal(outcome.exit.exit_code, 0);
    client_close(&client);
    client_close(&other);
}

/* What left the session and lost its parents lives on beside another execution, and does not hold
 * the end of its own; it ends with whoever has the sandbox for themselves. */
static void test_a_daemon_beside_another_execution(void **state)
{
    struct rig *rig = *state;
    struct client client;
    struct client other;
    struct outcome outcome;
    skip_unless_root(); /* for a /proc of the namespace */
    start_committed(rig);
    client_greet(&client);
    client_greet(&other);
    client_exec(&client, 4, "read x", NULL);
    assert_frame(&client, FRAME_STARTED, 4);
    client_exec(&other, 4, "(setsid sh -c 'echo $$; exec sleep 1000' &); sleep 0.3", NULL);
    client_finish(&other, 4, &outcome);
    assert_int_equal(outcome.exit.exit_code, 0);
    char probe[64];
    (void)snprintf(probe, sizeof(probe), "kill -0 %d && echo lives",
                   (int)strtol(outcome.text[0], NULL, 10));
    client_exec(&other, 8, probe, NULL);
    client_finish(&other, 8, &outcome);
    assert_string_equal(outcome.text[0], "lives\n");
    client_send(&client, FRAME_CLOSE, 4 + STREAM_STDIN, NULL, 0);
    client_finish(&client, 4, &outcome); /* alone by now: everything ends */
    client_exec(&other, 12, probe, NULL);
    client_finish(&other, 12, &outcome);
    assert_string_equal(outcome.text[0], "");
    client_close(&client);
    client_close(&other);
}

static void test_too_many_executions(void **state)
{
    struct rig *rig = *state;
    struct client client;
    struct outcome outcome;
    start_committed(rig);
    client_greet(&client);
    for (uint32_t i = 1; i <= 8; i++) {
        client_exec(&client, 4 * i, "read x", NULL);
        assert_frame(&client, FRAME_STARTED, 4 * i);
    }
    client_exec(&client, 36, "echo nine", NULL);
    client_finish(&client, 36, &outcome);
    assert_false(outcome.started);
    assert_int_equal(outcome.exit.exit_code, 126);
    assert_string_equal(outcome.start_error, "too many executions are running");
    client_close(&client);
}

/* ---- tests: input ---- */

static void test_stdin_with_credit(void **state)
{
    struct rig *rig = *state;
    struct client client;
    struct outcome outcome;
    static uint8_t block[FRAME_DATA_MAX];
    uint64_t sent = 0;
    uint64_t credit = FRAME_WINDOW;
    const uint64_t total = 4U * FRAME_WINDOW;
    struct err err = ERR_INIT;
    start_committed(rig);
    client_greet(&client);
    client_exec(&client, 4, "wc -c", NULL);
    assert_frame(&client, FRAME_STARTED, 4);
    while (sent < total) {
        while (credit >= sizeof(block) && sent < total) {
            client_send(&client, FRAME_DATA, 4 + STREAM_STDIN, block, sizeof(block));
            credit -= sizeof(block);
            sent += sizeof(block);
        }
        if (sent == total)
            break;
        uint32_t value = 0;
        assert_frame(&client, FRAME_CREDIT, 4 + STREAM_STDIN);
        assert_ok(frame_u32(&client.frame, &value, &err), err);
        credit += value;
        assert_true(credit <= FRAME_WINDOW);
    }
    client_send(&client, FRAME_CLOSE, 4 + STREAM_STDIN, NULL, 0);
    client_finish(&client, 4, &outcome);
    assert_int_equal(strtoull(outcome.text[0], NULL, 10), total);
    client_close(&client);
}

static void test_stdin_beyond_credit(void **state)
{
    struct rig *rig = *state;
    struct client client;
    static uint8_t block[FRAME_DATA_MAX];
    start_committed(rig);
    client_greet(&client);
    client_exec(&client, 4, "sleep 100", NULL);
    /* its pipe takes some as well: two windows are too much in any case */
    for (uint32_t i = 0; i < 2 * FRAME_WINDOW / FRAME_DATA_MAX + 4; i++) {
        BUF_AUTO struct buf out;
        buf_init(&out, 2U * FRAME_DATA_MAX);
        assert_int_equal(
            frame_append(&out, FRAME_DATA, 4 + STREAM_STDIN, block, sizeof(block), NULL), 0);
        if (fd_write_all(client.fd, out.data, out.size, NULL) < 0)
            break;
    }
    assert_cut_off(&client);
    client_close(&client);
}

static void test_stdin_that_nobody_reads(void **state)
{
    struct rig *rig = *state;
    struct client client;
    struct outcome outcome;
    static uint8_t block[FRAME_DATA_MAX];
    start_committed(rig);
    client_greet(&client);
    client_exec(&client, 4, "exec <&-; sleep 0.2; echo done", NULL);
    for (uint32_t i = 0; i < FRAME_WINDOW / FRAME_DATA_MAX; i++)
        client_send(&client, FRAME_DATA, 4 + STREAM_STDIN, block, sizeof(block));
    client_finish(&client, 4, &outcome);
    assert_string_equal(outcome.text[0], "done\n");
    assert_int_equal(outcome.exit.exit_code, 0);
    client_close(&client);
}

static void test_bytes_after_the_end_of_stdin(void **state)
{
    struct rig *rig = *state;
    struct client client;
    start_committed(rig);
    client_greet(&client);
    client_exec(&client, 4, "sleep 100", NULL);
    client_send(&client, FRAME_CLOSE, 4 + STREAM_STDIN, NULL, 0);
    client_send(&client, FRAME_DATA, 4 + STREAM_STDIN, "x", 1);
    assert_cut_off(&client);
    client_close(&client);
}

/* ---- tests: output ---- */

static const char *const flood =
    "while :; do echo "
    "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
    "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; "
    "done";

static void test_output_waits_for_credit(void **state)
{
    struct rig *rig = *state;
    struct client client;
    struct outcome outcome;
    size_t came = 0;
    start_committed(rig);
    client_greet(&client);
    client_exec(&client, 4, "head -c 600000 /dev/zero", NULL);
    assert_frame(&client, FRAME_STARTED, 4);
    while (came < FRAME_WINDOW) {
        assert_frame(&client, FRAME_DATA, 4 + STREAM_STDOUT);
        came += client.frame.size;
    }
    assert_int_equal(came, FRAME_WINDOW);
    assert_quiet(&client);
    (void)usleep(20000); /* more would have come meanwhile */
    assert_quiet(&client);
    client_send_u32(&client, FRAME_CREDIT, 4 + STREAM_STDOUT, 1000);
    for (came = 0; came < 1000; came += client.frame.size)
        assert_frame(&client, FRAME_DATA, 4 + STREAM_STDOUT);
    assert_int_equal(came, 1000);
    assert_quiet(&client);
    client_send_u32(&client, FRAME_CREDIT, 4 + STREAM_STDOUT, FRAME_WINDOW);
    client_finish(&client, 4, &outcome);
    assert_int_equal(outcome.sizes[0], 600000 - FRAME_WINDOW - 1000);
    assert_int_equal(outcome.exit.stdout_bytes, 600000);
    client_close(&client);
}

static void test_output_past_keep_is_counted(void **state)
{
    struct rig *rig = *state;
    struct client client;
    struct outcome outcome;
    start_committed(rig);
    client_greet(&client);
    client_exec(&client, 4, "head -c 500000 /dev/zero; echo end >&2",
                &(struct exec_options){.keep_bytes = 1000});
    client_finish(&client, 4, &outcome);
    assert_int_equal(outcome.sizes[0], 1000);
    assert_int_equal(outcome.exit.stdout_bytes, 500000);
    assert_string_equal(outcome.text[1], "end\n");
    assert_int_equal(outcome.exit.exit_code, 0);
    assert_int_equal(outcome.exit.cause, KILL_NONE);
    assert_true((outcome.exit.limits_hit & LIMIT_OUTPUT) != 0);
    client_close(&client);
}

static void test_output_past_the_hard_cap_is_killed(void **state)
{
    struct rig *rig = *state;
    struct client client;
    struct outcome outcome;
    start_committed(rig);
    client_greet(&client);
    client_exec(&client, 4, flood,
                &(struct exec_options){.keep_bytes = 1000, .output_max_bytes = 300000});
    client_finish(&client, 4, &outcome);
    assert_int_equal(outcome.exit.cause, KILL_OUTPUT);
    assert_int_equal(outcome.exit.exit_code, 128 + SIGKILL);
    assert_true(outcome.exit.stdout_bytes > 300000);
    assert_true((outcome.exit.limits_hit & LIMIT_OUTPUT) != 0);
    client_close(&client);
}

static void test_too_much_credit(void **state)
{
    struct rig *rig = *state;
    struct client client;
    start_committed(rig);
    client_greet(&client);
    client_exec(&client, 4, "sleep 100", NULL);
    client_send_u32(&client, FRAME_CREDIT, 4 + STREAM_STDOUT, 1);
    assert_cut_off(&client);
    client_close(&client);
}

/* ---- tests: ends ---- */

static void test_kill(void **state)
{
    struct rig *rig = *state;
    struct client client;
    struct outcome outcome;
    start_committed(rig);
    client_greet(&client);
    client_exec(&client, 4, "trap '' TERM INT; sleep 100 & echo on; wait", NULL);
    assert_frame(&client, FRAME_STARTED, 4);
    assert_frame(&client, FRAME_DATA, 4 + STREAM_STDOUT);
    client_send_u32(&client, FRAME_KILL, 4, KILL_USER);
    client_send_u32(&client, FRAME_KILL, 4, KILL_SERVER); /* the first cause stays */
    client_finish(&client, 4, &outcome);
    assert_int_equal(outcome.exit.cause, KILL_USER);
    assert_int_equal(outcome.exit.exit_code, 128 + SIGKILL);
    client_send_u32(&client, FRAME_KILL, 4, KILL_USER); /* too late: nothing is there */
    assert_quiet(&client);
    client_close(&client);
}

static void test_timeout(void **state)
{
    struct rig *rig = *state;
    struct client client;
    struct outcome outcome;
    start_committed(rig);
    client_greet(&client);
    client_exec(&client, 4, "echo on; sleep 100", &(struct exec_options){.timeout_ms = 50});
    client_finish(&client, 4, &outcome);
    assert_int_equal(outcome.exit.cause, KILL_TIMEOUT);
    assert_int_equal(outcome.exit.exit_code, 128 + SIGKILL);
    assert_true(outcome.exit.wall_us >= 50000);
    client_exec(&client, 4, "echo next", NULL);
    client_finish(&client, 4, &outcome);
    assert_string_equal(outcome.text[0], "next\n");
    client_close(&client);
}

/* What the first process leaves behind ends with it, also when it holds the pipes open. */
static void test_leavings_end(void **state)
{
    struct rig *rig = *state;
    struct client client;
    struct outcome outcome;
    start_committed(rig);
    client_greet(&client);
    client_exec(&client, 4, "sleep 1000 & setsid sleep 1000 & echo first; exit 3", NULL);
    client_finish(&client, 4, &outcome);
    assert_int_equal(outcome.exit.exit_code, 3);
    assert_int_equal(outcome.exit.cause, KILL_NONE);
    assert_string_equal(outcome.text[0], "first\n");
    client_close(&client);
}

static void test_a_lost_connection_ends_its_execution(void **state)
{
    struct rig *rig = *state;
    struct client client;
    struct outcome outcome;
    char marker[64];
    start_committed(rig);
    client_greet(&client);
    client_exec(&client, 4, "echo on; sleep 100", NULL);
    assert_frame(&client, FRAME_STARTED, 4);
    client_close(&client);
    client_greet(&client);
    (void)snprintf(marker, sizeof(marker), "echo after");
    do { /* until the old one is gone */
        client_exec(&client, 4, marker, NULL);
        client_finish(&client, 4, &outcome);
    } while (outcome.exit.exit_code == 126);
    assert_string_equal(outcome.text[0], "after\n");
    client_close(&client);
}

#define on_rig(test) cmocka_unit_test_setup_teardown(test, rig_make, rig_end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        on_rig(test_exec),
        on_rig(test_programs_that_do_not_start),
        on_rig(test_what_a_program_inherits),
        on_rig(test_two_executions),
        on_rig(test_a_daemon_beside_another_execution),
        on_rig(test_too_many_executions),
        on_rig(test_stdin_with_credit),
        on_rig(test_stdin_beyond_credit),
        on_rig(test_stdin_that_nobody_reads),
        on_rig(test_bytes_after_the_end_of_stdin),
        on_rig(test_output_waits_for_credit),
        on_rig(test_output_past_keep_is_counted),
        on_rig(test_output_past_the_hard_cap_is_killed),
        on_rig(test_too_much_credit),
        on_rig(test_kill),
        on_rig(test_timeout),
        on_rig(test_leavings_end),
        on_rig(test_a_lost_connection_ends_its_execution),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
