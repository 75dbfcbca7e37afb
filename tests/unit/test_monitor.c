/* monitor: its options, the state folder with what could be planted there, the sockets. */
#include "check.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/fd.h"
#include "folder.h"
#include "monitor/listen.h"
#include "monitor/options.h"
#include "monitor/state.h"

static const char *below(const char *name)
{
    static char path[128];
    (void)snprintf(path, sizeof(path), "%s/%s", folder, name);
    return path;
}

static int parse(char *const *words, struct monitor_options *options, struct err *err)
{
    char *argv[16] = {NULL};
    int argc = 0;
    for (; words[argc]; argc++)
        argv[argc] = words[argc];
    return monitor_options_parse(argc, argv, options, err);
}

static void test_options(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct monitor_options options = {0};
    static const char *const names[] = {"HOST",         "API_HOST",      "PORT",
                                        "API_PORT",     "BERTH_STATE",   "BERTH_USER",
                                        "BERTH_ENGINE", "BERTH_ENGINES", "BERTH_CGROUP"};
    for (size_t i = 0; i < ARRAY_SIZE(names); i++)
        (void)unsetenv(names[i]);
    char program[] = "berth-monitor", port[] = "--port", zero[] = "0", host[] = "--host=::1";
    char bad_port[] = "65536", unknown[] = "--what", hold[] = "--hold";
    assert_ok(parse((char *[]){program, NULL}, &options, &err), err);
    assert_string_equal(options.host, "127.0.0.1");
    assert_int_equal(options.port, 8000);
    assert_string_equal(options.user, "berth");
    assert_null(options.cgroup);
    assert_false(options.hold);
    assert_true(options.native);
    assert_false(options.docker);
    assert_ok(parse((char *[]){program, port, zero, host, NULL}, &options, &err), err);
    assert_int_equal(options.port, 0);
    assert_string_equal(options.host, "::1");
    assert_fails(parse((char *[]){program, port, bad_port, NULL}, &options, &err), ERR_BAD_INPUT,
                 err);
    assert_non_null(strstr(err.message, "port"));
    assert_fails(parse((char *[]){program, unknown, NULL}, &options, &err), ERR_BAD_INPUT, err);
    assert_fails(parse((char *[]){program, zero, NULL}, &options, &err), ERR_BAD_INPUT, err);
    assert_ok(parse((char *[]){program, hold, NULL}, &options, &err), err);
    assert_true(options.hold);
    (void)setenv("BERTH_CGROUP", "/a.slice/b.service", 1);
    (void)setenv("PORT", "9001", 1);
    (void)setenv("BERTH_ENGINE", "fake", 1);
    assert_ok(parse((char *[]){program, NULL}, &options, &err), err);
    assert_int_equal(options.port, 9001);
    assert_string_equal(options.cgroup, "/a.slice/b.service");
    assert_false(options.native);
    assert_false(options.docker);
    (void)setenv("BERTH_ENGINES", "docker native", 1); /* the one of several wins */
    assert_ok(parse((char *[]){program, NULL}, &options, &err), err);
    assert_true(options.native);
    assert_true(options.docker);
    (void)setenv("BERTH_ENGINES", " dockers  docker ", 1);
    assert_ok(parse((char *[]){program, NULL}, &options, &err), err);
    assert_false(options.native);
    assert_true(options.docker);
}

static mode_t mode_of(const char *path)
{
    struct stat info;
    assert_int_equal(lstat(path, &info), 0);
    return info.st_mode & 07777;
}

static void test_state_is_made_and_kept(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct state first = STATE_INIT;
    char instance[STATE_INSTANCE_SIZE];
    assert_ok(state_open(below("new/"), geteuid(), getegid(), &first, &err), err);
    assert_string_equal(first.path, below("new"));
    assert_int_equal(strlen(first.instance), 8);
    memcpy(instance, first.instance, sizeof(instance));
    assert_int_equal(mode_of(below("new")), 0755);
    assert_int_equal(mode_of(below("new/priv")), 0700);
    assert_int_equal(mode_of(below("new/db")), 0700);
    assert_int_equal(mode_of(below("new/run")), 0750);
    state_close(&first);
    assert_int_equal(chmod(below("new/priv"), 0777), 0);
    assert_ok(state_open(below("new"), geteuid(), getegid(), &first, &err), err);
    assert_string_equal(first.instance, instance);
    assert_int_equal(mode_of(below("new/priv")), 0700);
    state_close(&first);
    state_close(&first);
}

static void test_the_lock_excludes(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct state first = STATE_INIT;
    struct state second = STATE_INIT;
    assert_ok(state_open(folder, geteuid(), getegid(), &first, &err), err);
    assert_fails(state_open(folder, geteuid(), getegid(), &second, &err), ERR_CONFLICT, err);
    char pid[32];
    (void)snprintf(pid, sizeof(pid), "process %d", (int)getpid());
    assert_non_null(strstr(err.message, pid));
    state_close(&first);
    assert_ok(state_open(folder, geteuid(), getegid(), &second, &err), err);
    state_close(&second);
}

static void test_planted_links_are_refused(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct state opened = STATE_INIT;
    assert_int_equal(mkdir(below("real"), 0755), 0);
    assert_int_equal(symlink("real", below("link")), 0);
    assert_true(state_open(below("link"), geteuid(), getegid(), &opened, &err) < 0);
    assert_true(state_open(below("link/"), geteuid(), getegid(), &opened, &err) < 0);
    static const char *const names[] = {"real/priv", "real/db", "real/run"};
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        assert_int_equal(symlink("/etc", below(names[i])), 0);
        assert_fails(state_open(below("real"), geteuid(), getegid(), &opened, &err), ERR_FORBIDDEN,
                     err);
        assert_int_equal(unlink(below(names[i])), 0);
    }
    assert_int_equal(mode_of("/etc") & 07777, 0755);
}

static void test_tcp(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    FD_AUTO int fd = -1;
    FD_AUTO int other_fd = -1;
    uint16_t port = 0;
    uint16_t other_port = 0;
    assert_ok(listen_tcp("127.0.0.1", 0, &fd, &port, &err), err);
    assert_true(port != 0);
    assert_true((fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
    assert_fails(listen_tcp("127.0.0.1", port, &other_fd, &other_port, &err), ERR_CONFLICT, err);
    assert_fails(listen_tcp("256.0.0.1.invalid", 0, &other_fd, &other_port, &err), ERR_NOT_FOUND,
                 err);
}

static void test_engine_socket(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    char longest[200];
    memset(longest, 'd', sizeof(longest)); /* far longer than sun_path */
    longest[sizeof(longest) - 1] = '\0';
    assert_int_equal(mkdirat(folder_fd, longest, 0700), 0);
    FD_AUTO int dir_fd = openat(folder_fd, longest, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    FD_AUTO int fd = -1;
    for (int round = 0; round < 2; round++) { /* the second finds the first one's leavings */
        fd_close(&fd);
        assert_ok(listen_process(dir_fd, "native.sock", getegid(), &fd, &err), err);
    }
    struct stat info;
    assert_int_equal(fstatat(dir_fd, "native.sock", &info, AT_SYMLINK_NOFOLLOW), 0);
    assert_true(S_ISSOCK(info.st_mode));
    assert_int_equal(info.st_mode & 07777, 0660);
    int type = 0;
    socklen_t size = sizeof(type);
    assert_int_equal(getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size), 0);
    assert_int_equal(type, SOCK_SEQPACKET);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_options),    in_folder(test_state_is_made_and_kept),
        in_folder(test_the_lock_excludes), in_folder(test_planted_links_are_refused),
        cmocka_unit_test(test_tcp),        in_folder(test_engine_socket),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
