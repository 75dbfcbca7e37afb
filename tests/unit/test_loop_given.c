/* init/kernel_start through the loop: kernels that the engine gives. The test plays the engine, and
 * the warm process that is forked into the pid namespace of init from outside. */
#include "check.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/fd.h"
#include "child.h"
#include "session_rig.h"
#include "wire/kernel_msg.h"

/* ---- the engine's side ---- */

/* Both ends of a kernel's socket: init's, and the kernel's. */
static void make_socket(int ends[2])
{
    int on = 1;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    assert_int_equal(setsockopt(ends[0], SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)), 0);
}

static pid_t pid_of_init(const struct rig *rig)
{
    char path[64];
    char text[32];
    (void)snprintf(path, sizeof(path), "/proc/%d/task/%d/children", rig->helper, rig->helper);
    assert_true(fd_read_file_at(AT_FDCWD, path, text, sizeof(text), NULL) > 0);
    return (pid_t)strtol(text, NULL, 10);
}

static void enter(pid_t pid, const char *name, int type)
{
    char path[64];
    (void)snprintf(path, sizeof(path), "/proc/%d/ns/%s", pid, name);
    FD_AUTO int fd = open(path, O_RDONLY | O_CLOEXEC);
    require(fd >= 0 && setns(fd, type) == 0);
}

/* In the pid namespace of init: what a child of it execve()s. */
static void be_forked(int socket_fd, const char *const *argv, bool orphan)
{
    char *const *arguments = NULL;
    memcpy(&arguments, &argv, sizeof(argv));
    if (orphan && fork() != 0)
        _exit(0); /* a parent in init's own namespace: init becomes the next one */
    require(dup2(socket_fd, KERNEL_FD) == KERNEL_FD);
    (void)execvp(arguments[0], arguments);
    _exit(127);
}

/* Forks from outside into the pid namespace of init, and leaves it there: argv with the socket as
 * its descriptor 3. orphan: so that it is init's child. */
static void fork_into(const struct rig *rig, int socket_fd, const char *const *argv, bool orphan)
{
    int status = 0;
    pid_t init = pid_of_init(rig);
    (void)fflush(NULL);
    pid_t middle = fork();
    if (middle == 0) {
        if (geteuid() != 0)
            enter(init, "user", CLONE_NEWUSER);
        enter(init, "pid", CLONE_NEWPID);
        pid_t pid = fork();
        if (pid == 0)
            be_forked(socket_fd, argv, orphan);
        _exit(pid > 0 && (!orphan || waitpid(pid, &status, 0) == pid) ? 0 : CHILD_FAILED);
    }
    assert_true(middle > 0 && waitpid(middle, &status, 0) == middle);
    assert_int_equal(status, 0);
}

static void fork_toy(const struct rig *rig, int socket_fd)
{
    const char *const argv[] = {"python3", getenv("BERTH_TOY_KERNEL"), NULL};
    fork_into(rig, socket_fd, argv, true);
}

static void fork_script(const struct rig *rig, int socket_fd, const char *script)
{
    const char *const argv[] = {"sh", "-c", script, NULL};
    fork_into(rig, socket_fd, argv, true);
}

/* A sandbox with a given toy kernel, and a connection. */
static void start_given(struct rig *rig, struct client *client)
{
    int ends[2];
    rig_start(rig);
    make_socket(ends);
    fork_toy(rig, ends[1]);
    fd_close(&ends[1]);
    rig_commit_with(rig, ends[0]);
    client_greet(client);
}

/* Init starts one of its own, and that works. */
static void assert_started_as_usual(struct client *client, uint32_t stream)
{
    send_kernel_with(client, stream, "python3", "WORD=of the kernel");
    assert_int_equal(take_done(client, stream), 0);
    assert_prints(client, stream + 4, "import os; print(os.environ['WORD'])", "of the kernel\n");
}

/* ---- tests ---- */

static void check_a_given_kernel(struct rig *rig)
{
    struct client client;
    struct outcome outcome;
    start_given(rig, &client);
    send_kernel_with(&client, 4, "python3", "WORD=later");
    assert_int_equal(take_done(&client, 4), 0);
    /* Init's own child has another environment. */
    assert_prints(&client, 8,
                  "import os\n"
                  "print(os.environ['WORD'], 'BERTH_TOY_KERNEL' in os.environ, os.getppid())",
                  "later True 1\n");
    send_kernel(&client, 12, "other");
    assert_int_equal(take_done(&client, 12), EEXIST);
    run_code(&client, 16, "print('last', flush=True); os._exit(4)", false);
    client_finish(&client, 16, &outcome);
    assert_string_equal(outcome.text[0], "last\n");
    assert_int_equal(outcome.exit.exit_code, 4);
    assert_true(outcome.exit.state_lost);
    assert_prints(&client, 20,
                  "import os\nprint(os.environ['WORD'], 'BERTH_TOY_KERNEL' in os.environ)",
                  "later False\n");
    client_close(&client);
}

static void test_a_given_kernel(void **state)
{
    check_a_given_kernel(*state);
}

/* With no capability and with the filter of init, nothing more is needed. */
static void test_a_given_kernel_of_an_init_without_rights(void **state)
{
    struct rig *rig = *state;
    skip_unless_root();
    rig->shed = true;
    check_a_given_kernel(rig);
}

static void test_signals_and_limits_of_a_given_kernel(void **state)
{
    const struct sandbox_limits limits = {.open_files_max = 50};
    struct client client;
    struct outcome outcome;
    start_given(*state, &client);
    send_message(&client, FRAME_LIMITS, 4, encode_limits, &limits);
    assert_int_equal(take_done(&client, 4), 0);
    run_code(
        &client, 8,
        "import resource, time\nprint(resource.getrlimit(resource.RLIMIT_NOFILE)[1])\n"
        "while True: time.sleep(0.01)", /* CPython sleeps through a signal on its way into one */
        false);
    assert_frame(&client, FRAME_STARTED, 8);
    assert_frame(&client, FRAME_DATA, 8 + STREAM_STDOUT);
    assert_memory_equal(client.frame.payload, "50\n", 3);
    client_send(&client, FRAME_INTERRUPT, 8, NULL, 0);
    client_finish(&client, 8, &outcome);
    assert_int_equal(outcome.exit.exit_code, 130);
    assert_false(outcome.exit.state_lost);
    run_code(&client, 12, "while True: pass", false);
    assert_frame(&client, FRAME_STARTED, 12);
    client_send_u32(&client, FRAME_KILL, 12, KILL_USER);
    client_finish(&client, 12, &outcome);
    assert_int_equal(outcome.exit.cause, KILL_USER);
    assert_true(outcome.exit.state_lost);
    client_close(&client);
}

/* RUN before it is ready, and without KERNEL: whatever it is, it takes it. */
static void test_a_run_before_a_given_kernel_is_ready(void **state)
{
    struct rig *rig = *state;
    struct client client;
    struct outcome outcome;
    int ends[2];
    rig_start(rig);
    make_socket(ends);
    rig_commit_with(rig, ends[0]);
    client_greet(&client);
    run_code(&client, 4, "import os; print(os.getppid())", false);
    assert_quiet(&client);
    fork_toy(rig, ends[1]);
    fd_close(&ends[1]);
    client_finish(&client, 4, &outcome);
    assert_string_equal(outcome.text[0], "1\n");
    send_kernel(&client, 8, "python3");
    assert_int_equal(take_done(&client, 8), EEXIST); /* of words that nobody knows, and used */
    run_code(&client, 12, "os._exit(0)", false);
    client_finish(&client, 12, &outcome);
    assert_true(outcome.exit.state_lost);
    run_code(&client, 16, "print(1)", false);
    client_finish(&client, 16, &outcome);
    assert_string_equal(outcome.start_error, "no kernel was started"); /* as nobody said how */
    client_close(&client);
}

static void test_a_kernel_frame_before_a_given_one_is_ready(void **state)
{
    struct rig *rig = *state;
    struct client client;
    struct outcome outcome;
    int ends[2];
    rig_start(rig);
    make_socket(ends);
    rig_commit_with(rig, ends[0]);
    client_greet(&client);
    send_kernel_with(&client, 4, "no-such-program", "WORD=later");
    run_code(&client, 8, "import os; print(os.environ['WORD'])", false);
    assert_quiet(&client);
    fork_toy(rig, ends[1]);
    fd_close(&ends[1]);
    assert_int_equal(take_done(&client, 4), 0);
    client_finish(&client, 8, &outcome);
    assert_string_equal(outcome.text[0], "later\n");
    client_close(&client);
}

/* Its socket ends before READY: before KERNEL comes, and while that waits. */
static void test_a_given_kernel_that_never_was(void **state)
{
    struct rig *rig = *state;
    struct client client;
    struct outcome outcome;
    int ends[2];
    rig_start(rig);
    make_socket(ends);
    fd_close(&ends[1]);
    rig_commit_with(rig, ends[0]);
    client_greet(&client);
    do { /* until the end was seen a run is taken in, and refused by then */
        run_code(&client, 4, "1", false);
        client_finish(&client, 4, &outcome);
        assert_false(outcome.started);
    } while (strcmp(outcome.start_error, "no kernel was started") != 0);
    assert_started_as_usual(&client, 8);
    client_close(&client);
}

static void test_a_given_kernel_that_ends_while_it_is_awaited(void **state)
{
    struct rig *rig = *state;
    struct client client;
    int ends[2];
    rig_start(rig);
    make_socket(ends);
    rig_commit_with(rig, ends[0]);
    client_greet(&client);
    send_kernel_with(&client, 4, "python3", "WORD=of the kernel");
    assert_quiet(&client);
    fork_script(rig, ends[1], "exit 3");
    fd_close(&ends[1]);
    assert_int_equal(take_done(&client, 4), 0);
    assert_prints(&client, 8, "import os; print(os.environ['WORD'])", "of the kernel\n");
    client_close(&client);
}

/* READY, and it is dead. Whatever init has seen of that when KERNEL comes, a kernel is there; what
 * it had not seen when a run came, that run tells. */
static void test_a_given_kernel_that_dies_when_it_is_ready(void **state)
{
    struct rig *rig = *state;
    struct client client;
    struct outcome outcome;
    int ends[2];
    rig_start(rig);
    make_socket(ends);
    fork_script(rig, ends[1], "printf '\\0\\0\\0\\0R' >&3");
    fd_close(&ends[1]);
    rig_commit_with(rig, ends[0]);
    client_greet(&client);
    send_kernel_with(&client, 4, "python3", "WORD=of the kernel");
    assert_int_equal(take_done(&client, 4), 0);
    run_code(&client, 8, "pass", false);
    client_finish(&client, 8, &outcome);
    assert_int_equal(outcome.exit.exit_code, 0);
    assert_prints(&client, 12, "import os; print(os.environ['WORD'])", "of the kernel\n");
    client_close(&client);
}

/* READY of a process that init can't see, and of one that nobody knows of. */
static void test_a_given_kernel_outside(void **state)
{
    struct rig *rig = *state;
    struct client client;
    int ends[2];
    const uint8_t ready[KERNEL_HEADER_SIZE] = {0, 0, 0, 0, (uint8_t)KERNEL_READY};
    rig_start(rig);
    make_socket(ends);
    assert_int_equal(write(ends[1], ready, sizeof(ready)), sizeof(ready));
    rig_commit_with(rig, ends[0]);
    client_greet(&client);
    assert_started_as_usual(&client, 4);
    struct pollfd poller = {.fd = ends[1], .events = POLLIN};
    assert_int_equal(poll(&poller, 1, WAIT_MS), 1); /* init has let go of it */
    assert_int_equal(recv(ends[1], &poller, 1, 0), 0);
    fd_close(&ends[1]);
    client_close(&client);
}

/* In our namespace, but a process of another one is handed its end: init would never hear of it. */
static void test_a_given_kernel_that_is_no_child(void **state)
{
    struct rig *rig = *state;
    struct client client;
    int ends[2];
    const char *const argv[] = {"python3", getenv("BERTH_TOY_KERNEL"), NULL};
    rig_start(rig);
    make_socket(ends);
    fork_into(rig, ends[1], argv, false);
    fd_close(&ends[1]);
    rig_commit_with(rig, ends[0]);
    client_greet(&client);
    assert_started_as_usual(&client, 4);
    assert_prints(&client, 12, "print(os.getppid())", "1\n");
    client_close(&client);
}

/* READY comes while a parent in our namespace goes on: init's child it is only then. */
static void test_a_given_kernel_whose_parent_ends_late(void **state)
{
    struct rig *rig = *state;
    struct client client;
    int ends[2];
    rig_start(rig);
    make_socket(ends);
    fork_script(rig, ends[1], "python3 \"$BERTH_TOY_KERNEL\" & sleep 0.5");
    fd_close(&ends[1]);
    rig_commit_with(rig, ends[0]);
    client_greet(&client);
    send_kernel_with(&client, 4, "python3", "WORD=later");
    assert_int_equal(take_done(&client, 4), 0);
    assert_prints(&client, 8,
                  "import os\n"
                  "print(os.environ['WORD'], 'BERTH_TOY_KERNEL' in os.environ, os.getppid())",
                  "later True 1\n");
    client_close(&client);
}

/* It says nothing: after its time it is killed, and KERNEL has one all the same. */
static void test_a_given_kernel_that_hangs(void **state)
{
    struct rig *rig = *state;
    struct client client;
    int ends[2];
    int life[2]; /* the hanging one inherits its writing end */
    char byte = 0;
    rig_start(rig);
    make_socket(ends);
    assert_int_equal(pipe2(life, 0), 0);
    fork_script(rig, ends[1], "exec sleep 1000");
    fd_close(&life[1]);
    rig_commit_with(rig, ends[0]);
    client_greet(&client);
    assert_started_as_usual(&client, 4);
    struct pollfd poller = {.fd = life[0], .events = POLLIN};
    assert_int_equal(poll(&poller, 1, WAIT_MS), 1);
    assert_int_equal(read(life[0], &byte, 1), 0);
    fd_close(&life[0]);
    fd_close(&ends[1]);
    client_close(&client);
}

static void test_an_execution_beside_a_given_kernel_that_fails(void **state)
{
    struct rig *rig = *state;
    struct client client;
    struct outcome outcome;
    int ends[2];
    rig_start(rig);
    make_socket(ends);
    rig_commit_with(rig, ends[0]);
    client_greet(&client);
    client_exec(&client, 4, "read x; exit 5", NULL);
    assert_frame(&client, FRAME_STARTED, 4);
    fd_close(&ends[1]);
    assert_quiet(&client);
    client_send(&client, FRAME_DATA, 4 + STREAM_STDIN, "on\n", 3);
    client_finish(&client, 4, &outcome);
    assert_int_equal(outcome.exit.exit_code, 5);
    assert_started_as_usual(&client, 8);
    client_close(&client);
}

#define on_rig(test) cmocka_unit_test_setup_teardown(test, rig_make, rig_end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        on_rig(test_a_given_kernel),
        on_rig(test_a_given_kernel_of_an_init_without_rights),
        on_rig(test_signals_and_limits_of_a_given_kernel),
        on_rig(test_a_run_before_a_given_kernel_is_ready),
        on_rig(test_a_kernel_frame_before_a_given_one_is_ready),
        on_rig(test_a_given_kernel_that_never_was),
        on_rig(test_a_given_kernel_that_ends_while_it_is_awaited),
        on_rig(test_a_given_kernel_that_dies_when_it_is_ready),
        on_rig(test_a_given_kernel_outside),
        on_rig(test_a_given_kernel_that_is_no_child),
        on_rig(test_a_given_kernel_whose_parent_ends_late),
        on_rig(test_a_given_kernel_that_hangs),
        on_rig(test_an_execution_beside_a_given_kernel_that_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
