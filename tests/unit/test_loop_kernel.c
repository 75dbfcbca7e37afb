/* init/kernel_spec, init/kernel_start and the limits, through the loop: what a kernel finds that is
 * started before anybody knows for whom. */
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "session_rig.h"

/* ---- limits ---- */

static int set_limits(struct client *client, uint32_t stream, struct sandbox_limits limits)
{
    send_message(client, FRAME_LIMITS, stream, encode_limits, &limits);
    return take_done(client, stream);
}

static const char print_limits[] = "import resource\n"
                                   "print(*(resource.getrlimit(one) for one in"
                                   " (resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE)))";

static void test_limits_of_a_kernel_that_lives(void **state)
{
    struct client client;
    struct outcome outcome;
    start_kernel(*state, &client);
    const struct sandbox_limits limits = {.file_size_max = 1U << 20, .open_files_max = 100};
    assert_int_equal(set_limits(&client, 8, limits), 0);
    assert_prints(&client, 12, print_limits, "(1048576, 1048576) (100, 100)\n");
    client_exec(&client, 16, "ulimit -Hf; ulimit -Hn", NULL);
    client_finish(&client, 16, &outcome);
    assert_string_equal(outcome.text[0], "2048\n100\n"); /* blocks of 512 bytes */
    run_code(&client, 20, "import os; os._exit(0)", false);
    client_finish(&client, 20, &outcome);
    assert_prints(&client, 24, print_limits, "(1048576, 1048576) (100, 100)\n");
    assert_int_equal(set_limits(&client, 28, (struct sandbox_limits){.open_files_max = 99}), 0);
    assert_prints(&client, 32, print_limits, "(1048576, 1048576) (99, 99)\n");
    client_close(&client);
}

/* Without cgroups a limit of processes is one of the kernel's too. */
static void test_limit_of_processes(void **state)
{
    static const char print_processes[] =
        "import resource; print(resource.getrlimit(resource.RLIMIT_NPROC))";
    struct client client;
    start_kernel(*state, &client);
    assert_prints(&client, 8, print_processes, "(64, 64)\n");
    assert_int_equal(set_limits(&client, 12, (struct sandbox_limits){.pids_max = 10}), 0);
    assert_prints(&client, 16, print_processes, "(10, 10)\n");
    assert_int_equal(set_limits(&client, 20, (struct sandbox_limits){.pids_max = 11}), EINVAL);
    client_close(&client);
}

static void test_limits_never_go_up(void **state)
{
    struct client client;
    start_kernel(*state, &client);
    const struct sandbox_limits more[] = {
        {.open_files_max = 257, .file_size_max = 100},
        {.open_files_max = 100, .file_size_max = (16U << 20) + 1},
        {.open_files_max = 100, .pids_max = 65},
    };
    for (uint32_t i = 0; i < ARRAY_SIZE(more); i++)
        assert_int_equal(set_limits(&client, 8 + 4 * i, more[i]), EINVAL);
    assert_prints(&client, 40, print_limits, "(16777216, 16777216) (256, 256)\n");
    assert_int_equal(set_limits(&client, 44, (struct sandbox_limits){0}), 0);
    client_close(&client);
}

/* ---- variables ---- */

#define PRINT_WORD "import os; print(os.environ.get('WORD'))"

static void test_variables_come_with_the_first_run(void **state)
{
    struct client client;
    struct outcome outcome;
    start_kernel(*state, &client);
    send_kernel_with(&client, 8, "python3", "WORD=one");
    assert_int_equal(take_done(&client, 8), 0);
    send_kernel_with(&client, 12, "python3", "WORD=two");
    assert_int_equal(take_done(&client, 12), 0);
    assert_prints(&client, 16, PRINT_WORD, "two\n");
    send_kernel_with(&client, 20, "python3", "WORD=three");
    assert_int_equal(take_done(&client, 20), EEXIST); /* it was used */
    send_kernel_with(&client, 24, "python3", "WORD=two");
    assert_int_equal(take_done(&client, 24), 0);
    assert_prints(&client, 28, "os.environ['WORD'] = 'mine'", "");
    assert_prints(&client, 32, PRINT_WORD, "mine\n"); /* they came once */
    run_code(&client, 36, "os._exit(0)", false);
    client_finish(&client, 36, &outcome);
    assert_prints(&client, 40, PRINT_WORD, "two\n"); /* the next one was started with them */
    client_close(&client);
}

static void test_variables_of_a_run_win(void **state)
{
    static const char code[] = PRINT_WORD;
    const char *envp[] = {"WORD=of the run", NULL};
    const struct sandbox_run run = {.execution_id = "r",
                                    .file = "<cell>",
                                    .envp = envp,
                                    .envc = 1,
                                    .keep_bytes = 1000,
                                    .output_max_bytes = 1000};
    struct client client;
    struct outcome outcome;
    start_kernel(*state, &client);
    send_kernel_with(&client, 8, "python3", "WORD=of the kernel");
    assert_int_equal(take_done(&client, 8), 0);
    send_message(&client, FRAME_RUN, 12, encode_run, &run);
    client_send(&client, FRAME_DATA, 12, code, strlen(code));
    client_send(&client, FRAME_CLOSE, 12, NULL, 0);
    client_finish(&client, 12, &outcome);
    assert_string_equal(outcome.text[0], "of the run\n");
    client_close(&client);
}

/* While it starts, and one that is started itself with what was asked for last. */
static void test_variables_before_it_is_ready(void **state)
{
    struct client client;
    start_committed(*state);
    client_greet(&client);
    send_kernel_with(&client, 4, "python3", "WORD=one");
    send_kernel_with(&client, 8, "python3", "WORD=two");
    send_kernel_with(&client, 12, "other", "WORD=three");
    run_code(&client, 16, PRINT_WORD, false);
    struct outcome outcome;
    assert_int_equal(take_done(&client, 12), EEXIST);
    assert_int_equal(take_done(&client, 4), 0);
    assert_int_equal(take_done(&client, 8), 0);
    client_finish(&client, 16, &outcome);
    assert_string_equal(outcome.text[0], "two\n");
    client_close(&client);
}

/* ---- input ---- */

static void send_reader(struct client *client, uint32_t stream, const char *input)
{
    const char *argv[] = {"python3", "-c",
                          "import fcntl, os, sys\n"
                          "seals, size = fcntl.fcntl(0, 1034), os.fstat(0).st_size\n"
                          "try:\n os.write(0, b'x')\n"
                          "except OSError as problem:\n refused = problem.errno\n"
                          "exec(sys.stdin.read())",
                          NULL};
    const char *envp[] = {"PATH=/usr/bin:/bin", NULL};
    const struct sandbox_kernel kernel = {.cwd = "/",
                                          .argv = argv,
                                          .argc = 3,
                                          .envp = envp,
                                          .envc = 1,
                                          .input = input,
                                          .input_size = strlen(input)};
    send_message(client, FRAME_KERNEL, stream, encode_kernel, &kernel);
}

static void test_input(void **state)
{
    static char text[8192];
    struct client client;
    struct outcome outcome;
    const char *toy = getenv("BERTH_TOY_KERNEL");
    assert_non_null(toy);
    assert_true(fd_read_file_at(AT_FDCWD, toy, text, sizeof(text), NULL) > 0);
    assert_true(strlen(text) < sizeof(text) - 1); /* it is whole */
    start_committed(*state);
    client_greet(&client);
    send_reader(&client, 4, text);
    assert_int_equal(take_done(&client, 4), 0);
    for (uint32_t stream = 8; stream <= 40; stream += 16) { /* each new one finds all of it */
        char printed[32];
        (void)snprintf(printed, sizeof(printed), "True %zu True\n", strlen(text));
        assert_prints(&client, stream,
                      "found = say.__globals__\n"
                      "print(found['seals'] & 15 == 15, found['size'], found['refused'] == 1)",
                      printed);
        run_code(&client, stream + 4, "import os; os._exit(0)", false);
        client_finish(&client, stream + 4, &outcome);
    }
    send_reader(&client, 60, text);
    assert_int_equal(take_done(&client, 60), 0);
    text[strlen(text) - 1] = '#';
    send_reader(&client, 64, text);
    assert_int_equal(take_done(&client, 64), EEXIST); /* another program */
    client_close(&client);
}

#define on_rig(test) cmocka_unit_test_setup_teardown(test, rig_make, rig_end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        on_rig(test_limits_of_a_kernel_that_lives),
        on_rig(test_limit_of_processes),
        on_rig(test_limits_never_go_up),
        on_rig(test_variables_come_with_the_first_run),
        on_rig(test_variables_of_a_run_win),
        on_rig(test_variables_before_it_is_ready),
        on_rig(test_input),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
