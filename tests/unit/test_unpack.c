/* native/unpack with programs in the place of berth-unpack: what they say is bytes, and how they
 * end is all that counts. */
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "child.h"
#include "folder.h"
#include "native/unpack.h"

/* Starts path on a script in the place of the archive, and waits for its end. */
static int run(const char *path, const char *script, char *summary, struct err *err)
{
    struct unpack unpack = {.pidfd = -1, .status_fd = -1};
    char file[64];
    (void)snprintf(file, sizeof(file), "%s/script", folder);
    FD_AUTO int write_fd = open(file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    require(write_fd >= 0 && write(write_fd, script, strlen(script)) == (ssize_t)strlen(script));
    FD_AUTO int tar_fd = open(file, O_RDONLY | O_CLOEXEC);
    FD_AUTO int target_fd = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
    FD_AUTO int program_fd = open(path, O_PATH | O_CLOEXEC);
    const struct unpack_config config = {.program_fd = program_fd,
                                         .tar_fd = tar_fd,
                                         .target_fd = target_fd,
                                         .size_max_bytes = 1000,
                                         .entries_max = 10};
    require_ok(unpack_start(&config, &unpack, err), *err);
    require((fcntl(unpack.pidfd, F_GETFD) & FD_CLOEXEC) != 0);
    require((fcntl(unpack.status_fd, F_GETFD) & FD_CLOEXEC) != 0);
    struct pollfd poller = {.fd = unpack.pidfd, .events = POLLIN};
    require(poll(&poller, 1, 60000) == 1);
    int result = unpack_poll(&unpack, summary, err);
    require(result != 0 && unpack.pid == 0 && unpack.pidfd == -1 && unpack.status_fd == -1);
    return result;
}

/* A shell that reads its standard input runs the archive: sh takes the numbers as $0 and $1. */
static int say(const char *script, char *summary, struct err *err)
{
    char link[64];
    (void)snprintf(link, sizeof(link), "%s/1000", folder);
    /* sh SIZE ENTRIES: a script of that name in the working directory. */
    require(chdir(folder) == 0);
    FD_AUTO int fd = open(link, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0755);
    require(fd >= 0 && write(fd, script, strlen(script)) == (ssize_t)strlen(script));
    require(chmod(folder, 0755) == 0);
    return run("/bin/sh", "", summary, err);
}

static void enter(void)
{
    child_leave_mounts();
}

static void outcomes(void *context)
{
    char summary[UNPACK_STATUS_MAX + 1];
    struct err err = ERR_INIT;
    (void)context;
    enter();
    require(say("printf 'D1 2 3'", summary, &err) == 1);
    require(strcmp(summary, "1 2 3") == 0);
    require(say("printf 'Bthe reason'; exit 1", summary, &err) == -ERR_BAD_INPUT);
    require(strcmp(err.public_message, "the reason") == 0);
    require(say("printf 'Hno room'; exit 1", summary, &err) == -ERR_INTERNAL);
    require(strstr(err.message, "no room") && err.public_message[0] == '\0');
}

static void lies(void *context)
{
    char summary[UNPACK_STATUS_MAX + 1];
    struct err err = ERR_INIT;
    (void)context;
    enter();
    require(say("printf 'D1 2 3'; exit 1", summary, &err) == -ERR_INTERNAL);
    require(say("printf 'D1 2 3'; kill -9 $$; exit 3", summary, &err) == -ERR_INTERNAL);
    require(say("printf 'Devil %%n'", summary, &err) == -ERR_INTERNAL);
    require(say("printf 'Breason'", summary, &err) == -ERR_INTERNAL);
    require(say("exit 0", summary, &err) == -ERR_INTERNAL);
    require(say("exit 1", summary, &err) == -ERR_INTERNAL);
    require(say("printf 'B\\033[2J\\nx\\377'; exit 1", summary, &err) == -ERR_BAD_INPUT);
    require(strcmp(err.public_message, "?[2J?x?") == 0);
    require(say("printf 'B'; printf '%0900d' 0; exit 1", summary, &err) == -ERR_BAD_INPUT);
    require(strlen(err.public_message) <= UNPACK_STATUS_MAX);
}

static void its_world(void *context)
{
    char summary[UNPACK_STATUS_MAX + 1];
    struct err err = ERR_INIT;
    (void)context;
    enter();
    /* Standard error goes nowhere; no descriptor of ours, no variable of ours came along; it is the
     * first process of its pid namespace and the root of its user namespace. */
    (void)setenv("SECRET", "x", 1);
    for (int fd = 4; fd < 10; fd++)
        require(fcntl(fd, F_GETFD) >= 0 || dup2(STDOUT_FILENO, fd) == fd);
    require(say("echo loud >&2\n"
                "for i in 4 5 6 7 8 9; do (true >&$i) && exit 1; done\n"
                "[ -z \"$SECRET\" ] && [ \"$1\" = 10 ] && [ $$ = 1 ] && [ \"$(id -u)\" = 0 ] &&"
                "printf 'D0 0 0'",
                summary, &err) == 1);
}

static void not_a_program(void *context)
{
    char summary[UNPACK_STATUS_MAX + 1];
    struct err err = ERR_INIT;
    (void)context;
    enter();
    require(chdir(folder) == 0);
    require(run("/etc/passwd", "", summary, &err) == -ERR_INTERNAL);
    require(strstr(err.message, "125"));
}

static void killed(void *context)
{
    char summary[UNPACK_STATUS_MAX + 1];
    struct err err = ERR_INIT;
    struct unpack unpack = {.pidfd = -1, .status_fd = -1};
    (void)context;
    enter();
    require(chdir(folder) == 0);
    FD_AUTO int null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    FD_AUTO int target_fd = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
    FD_AUTO int program_fd = open("/bin/sleep", O_PATH | O_CLOEXEC); /* the numbers as seconds */
    const struct unpack_config config = {.program_fd = program_fd,
                                         .tar_fd = null_fd,
                                         .target_fd = target_fd,
                                         .size_max_bytes = 100000,
                                         .entries_max = 100000};
    require_ok(unpack_start(&config, &unpack, &err), err);
    require(unpack_poll(&unpack, summary, &err) == 0);
    unpack_kill(&unpack);
    struct pollfd poller = {.fd = unpack.pidfd, .events = POLLIN};
    require(poll(&poller, 1, 60000) == 1);
    require(unpack_poll(&unpack, summary, &err) == -ERR_INTERNAL);
    require(strstr(err.message, "signal 9"));
}

static void without_id_maps(void *context)
{
    struct err err = ERR_INIT;
    struct unpack unpack = {.pidfd = -1, .status_fd = -1};
    (void)context;
    enter();
    require(mount("proc", folder, "proc", 0, NULL) == 0); /* it can't be id-mapped */
    FD_AUTO int target_fd = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
    FD_AUTO int null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    FD_AUTO int program_fd = open("/bin/true", O_PATH | O_CLOEXEC);
    const struct unpack_config config = {.program_fd = program_fd,
                                         .tar_fd = null_fd,
                                         .target_fd = target_fd,
                                         .size_max_bytes = 1,
                                         .entries_max = 1};
    require(unpack_start(&config, &unpack, &err) == -ERR_UNSUPPORTED);
    require(strstr(err.public_message, "no id-mapped mounts"));
    require(waitpid(-1, NULL, WNOHANG) < 0 && errno == ECHILD); /* nothing is left of it */
}

struct test_case {
    void (*fn)(void *context);
};

static void run_case(void **state)
{
    skip_unless_root();
    const struct test_case *one = *state;
    (void)folder_make(NULL);
    int status = child_run(one->fn, NULL);
    (void)folder_remove(NULL);
    assert_int_equal(status, 0);
}

int main(void)
{
    static struct test_case cases[] = {{outcomes},      {lies},   {its_world},
                                       {not_a_program}, {killed}, {without_id_maps}};
    const struct CMUnitTest tests[] = {
        {"outcomes", run_case, NULL, NULL, &cases[0]},
        {"lies", run_case, NULL, NULL, &cases[1]},
        {"its_world", run_case, NULL, NULL, &cases[2]},
        {"not_a_program", run_case, NULL, NULL, &cases[3]},
        {"killed", run_case, NULL, NULL, &cases[4]},
        {"without_id_maps", run_case, NULL, NULL, &cases[5]},
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
