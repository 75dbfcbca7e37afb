/* native/treeremove: trees that somebody hostile made go away, and nothing beside them does. */
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/fd.h"
#include "child.h"
#include "folder.h"
#include "native/treeremove.h"

enum { DEEP = 20000, WIDE = 1000 }; /* ten times what a path can say */

/* With `top` in it, which is what is to be removed. */
static int make_top(void **state)
{
    return folder_make(state) == 0 && mkdirat(folder_fd, "top", 0755) == 0 ? 0 : -1;
}

static void put(int dir_fd, const char *name)
{
    FD_AUTO int fd = openat(dir_fd, name, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
}

static int enter(int dir_fd, const char *name)
{
    assert_int_equal(mkdirat(dir_fd, name, 0755), 0);
    int fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

static int open_top(void)
{
    int fd = openat(folder_fd, "top", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

static void remove_top(void)
{
    struct err err = ERR_INIT;
    assert_ok(treeremove_folder(folder_fd, "top", &err), err);
    assert_int_equal(faccessat(folder_fd, "top", F_OK, AT_SYMLINK_NOFOLLOW), -1);
    assert_int_equal(errno, ENOENT);
}

static void deeper_than_any_stack_or_path(void **state)
{
    (void)state;
    int fd = open_top();
    for (int i = 0; i < DEEP; i++) {
        int next = enter(fd, "d");
        fd_close(&fd);
        fd = next;
    }
    put(fd, "file");
    fd_close(&fd);
    remove_top();
}

static void wide_and_branching(void **state)
{
    (void)state;
    FD_AUTO int top_fd = open_top();
    for (int i = 0; i < WIDE; i++) {
        char name[16];
        (void)snprintf(name, sizeof(name), "%d", i); /* names that moved folders would get */
        FD_AUTO int fd = enter(top_fd, name);
        put(fd, "0");
        FD_AUTO int inner_fd = enter(fd, "1");
        put(inner_fd, "2");
        FD_AUTO int empty_fd = enter(inner_fd, "3");
    }
    remove_top();
}

static void links_are_not_followed(void **state)
{
    (void)state;
    FD_AUTO int keep_fd = enter(folder_fd, "keep");
    put(keep_fd, "file");
    FD_AUTO int top_fd = open_top();
    FD_AUTO int fd = enter(top_fd, "d");
    assert_int_equal(symlinkat("../keep", top_fd, "link"), 0);
    assert_int_equal(symlinkat("../../keep", fd, "link"), 0);
    assert_int_equal(symlinkat("/", fd, "slash"), 0);
    assert_int_equal(linkat(keep_fd, "file", fd, "same", 0), 0);
    remove_top();
    assert_int_equal(faccessat(keep_fd, "file", F_OK, 0), 0);
}

static void a_link_is_no_folder(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    FD_AUTO int keep_fd = enter(folder_fd, "keep");
    put(keep_fd, "file");
    assert_int_equal(symlinkat("keep", folder_fd, "link"), 0);
    assert_fails(treeremove_folder(folder_fd, "link", &err), ERR_INTERNAL, err);
    assert_int_equal(faccessat(keep_fd, "file", F_OK, 0), 0);
}

static void missing_is_fine(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    assert_ok(treeremove_folder(folder_fd, "nothing", &err), err);
}

static void folders_without_rights(void **state)
{
    (void)state;
    skip_unless_root();
    FD_AUTO int top_fd = open_top();
    FD_AUTO int fd = enter(top_fd, "d");
    FD_AUTO int inner_fd = enter(fd, "e");
    put(inner_fd, "file");
    assert_int_equal(fchmod(inner_fd, 0), 0);
    assert_int_equal(fchmod(fd, 0), 0);
    assert_int_equal(fchown(fd, 1234, 1234), 0);
    remove_top();
}

static void in_a_child(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    pid_t pid = 0;
    FD_AUTO int pidfd = -1;
    FD_AUTO int top_fd = open_top();
    put(top_fd, "file");
    assert_ok(treeremove_start(folder_fd, "top", &pid, &pidfd, &err), err);
    assert_true((fcntl(pidfd, F_GETFD) & FD_CLOEXEC) != 0);
    struct pollfd poller = {.fd = pidfd, .events = POLLIN};
    assert_int_equal(poll(&poller, 1, 60000), 1);
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    assert_int_equal(faccessat(folder_fd, "top", F_OK, AT_SYMLINK_NOFOLLOW), -1);
}

/* Whether releasing a file of this size forked: what a child that was waited for used is counted.
 */
static bool release_forks(uint64_t size_bytes)
{
    static const char block[1 << 16];
    struct rusage before;
    struct rusage after;
    int fd = openat(folder_fd, "file", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    for (uint64_t done = 0; done < size_bytes; done += sizeof(block))
        assert_int_equal(write(fd, block, sizeof(block)), sizeof(block));
    assert_int_equal(unlinkat(folder_fd, "file", 0), 0);
    assert_int_equal(getrusage(RUSAGE_CHILDREN, &before), 0);
    treeremove_release(&fd);
    assert_int_equal(fd, -1);
    assert_int_equal(getrusage(RUSAGE_CHILDREN, &after), 0);
    return after.ru_minflt > before.ru_minflt;
}

static void only_what_is_large_gets_a_process(void **state)
{
    (void)state;
    int none = -1;
    treeremove_release(&none);
    assert_false(release_forks(0));
    assert_false(release_forks(TREEREMOVE_SMALL_BYTES / 2));
    assert_true(release_forks(2 * TREEREMOVE_SMALL_BYTES));
}

#define on_top(test) cmocka_unit_test_setup_teardown(test, make_top, folder_remove)

int main(void)
{
    const struct CMUnitTest tests[] = {
        on_top(deeper_than_any_stack_or_path),
        on_top(wide_and_branching),
        on_top(links_are_not_followed),
        on_top(a_link_is_no_folder),
        on_top(missing_is_fine),
        on_top(folders_without_rights),
        on_top(in_a_child),
        on_top(only_what_is_large_gets_a_process),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
