/* monitor/child: what a program that it starts has, and what it has not. The test starts itself. */
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "child.h"
#include "monitor/child.h"

enum { NOBODY = 65534 };

/* ---- what runs as the started program ---- */

static int count_open(int from)
{
    int open_count = 0;
    for (int fd = from; fd < 256; fd++)
        open_count += fcntl(fd, F_GETFD) >= 0;
    return open_count;
}

static void be_started(const char *how)
{
    char byte = 0;
    require(read(STDIN_FILENO, &byte, 1) == 0); /* /dev/null */
    require(read(3, &byte, 1) == 1 && byte == 'a');
    require(read(4, &byte, 1) == 1 && byte == 'b');
    require(count_open(5) == 0);
    require(getsid(0) == getpid());
    int number = 0;
    require(prctl(PR_GET_PDEATHSIG, &number) == 0 && number == SIGKILL);
    sigset_t blocked;
    require(sigprocmask(SIG_BLOCK, NULL, &blocked) == 0);
    require(!sigismember(&blocked, SIGTERM));
    char where[8];
    require(getcwd(where, sizeof(where)) && strcmp(where, "/") == 0);
    if (strcmp(how, "dropped") == 0) {
        require(getuid() == NOBODY && geteuid() == NOBODY && getgid() == NOBODY);
        require(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1);
        require(setuid(0) != 0);
        for (int cap = 0; cap < 40; cap++)
            require(prctl(PR_CAPBSET_READ, cap, 0, 0, 0) <= 0);
    }
    _exit(42);
}

/* ---- the tests ---- */

static int pipe_with(const char *byte)
{
    int ends[2];
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    assert_int_equal(write(ends[1], byte, 1), 1);
    (void)close(ends[1]);
    return ends[0];
}

static int spawn_and_wait(struct child_spec *spec)
{
    struct err err = ERR_INIT;
    pid_t pid = 0;
    int status = 0;
    assert_ok(child_spawn(spec, &pid, &err), err);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void start(const char *how, bool drop)
{
    FD_AUTO int program_fd = open("/proc/self/exe", O_PATH | O_CLOEXEC);
    FD_AUTO int a = pipe_with("a");
    FD_AUTO int b = pipe_with("b");
    FD_AUTO int inheritable = open("/dev/null", O_RDONLY); /* somebody forgot O_CLOEXEC */
    const char *const argv[] = {"test", "--started", how, NULL};
    struct child_spec spec = {.name = "test",
                              .program_fd = program_fd,
                              .argv = argv,
                              .fds = {a, b},
                              .fd_count = 2,
                              .drop = drop,
                              .uid = NOBODY,
                              .gid = NOBODY};
    assert_true(inheritable >= 0);
    sigset_t term;
    (void)sigemptyset(&term);
    (void)sigaddset(&term, SIGTERM);
    (void)sigprocmask(SIG_BLOCK, &term, NULL);
    assert_int_equal(spawn_and_wait(&spec), 42);
    /* crossed: each lies where the other one has to go */
    FD_AUTO int a_again = pipe_with("a");
    FD_AUTO int b_again = pipe_with("b");
    FD_AUTO int high = fcntl(b_again, F_DUPFD_CLOEXEC, 50);
    assert_int_equal(dup3(a_again, 104, O_CLOEXEC), 104);
    spec.fds[0] = 104;
    spec.fds[1] = high;
    assert_int_equal(spawn_and_wait(&spec), 42);
    (void)close(104);
    (void)sigprocmask(SIG_UNBLOCK, &term, NULL);
}

static void test_what_it_has(void **state)
{
    (void)state;
    start("kept", false);
}

static void test_what_it_has_not(void **state)
{
    (void)state;
    skip_unless_root();
    start("dropped", true);
}

static void test_failures(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    pid_t pid = 0;
    FD_AUTO int program_fd = open("/etc/passwd", O_PATH | O_CLOEXEC); /* no program */
    const char *const argv[] = {"test", NULL};
    struct child_spec spec = {.name = "test", .program_fd = program_fd, .argv = argv};
    assert_int_equal(spawn_and_wait(&spec), 127);
    spec.must_write = "/nonexistent/berth";
    assert_int_equal(spawn_and_wait(&spec), 127);
    spec.fd_count = CHILD_FDS_MAX + 1;
    assert_fails(child_spawn(&spec, &pid, &err), ERR_INTERNAL, err);
}

static void test_programs_are_found_beside_this_one(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    FD_AUTO int fd = -1;
    assert_ok(child_open_program("test_monitor_child", &fd, &err), err);
    assert_true((fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
    FD_AUTO int other_fd = -1;
    assert_fails(child_open_program("berth-no-such-program", &other_fd, &err), ERR_INTERNAL, err);
    assert_non_null(strstr(err.message, "berth-no-such-program"));
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "--started") == 0)
        be_started(argv[2]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_it_has),
        cmocka_unit_test(test_what_it_has_not),
        cmocka_unit_test(test_failures),
        cmocka_unit_test(test_programs_are_found_beside_this_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
