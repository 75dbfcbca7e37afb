/* native/initsock: whose a socket is, and who listens on it. */
#include "check.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/fd.h"
#include "child.h"
#include "folder.h"
#include "native/asuser.h"
#include "native/initsock.h"

static void test_a_name_is_taken_once(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    FD_AUTO int fd = -1;
    int other = -1;
    assert_ok(initsock_bind(folder_fd, "one", &fd, &err), err);
    assert_fails(initsock_bind(folder_fd, "one", &other, &err), ERR_CONFLICT, err);
    fd_close(&fd); /* a file without a socket is still somebody's, until it is removed */
    assert_fails(initsock_bind(folder_fd, "one", &other, &err), ERR_CONFLICT, err);
    initsock_remove(folder_fd, "one");
    initsock_remove(folder_fd, "one");
    assert_ok(initsock_bind(folder_fd, "one", &fd, &err), err);
}

static void test_nobody_listens(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct initsock_peer peer;
    FD_AUTO int fd = -1;
    int other = -1;
    assert_fails(initsock_find(folder_fd, "none", &peer, &err), ERR_NOT_FOUND, err);
    assert_ok(initsock_bind(folder_fd, "one", &fd, &err), err);
    assert_fails(initsock_find(folder_fd, "one", &peer, &err), ERR_NOT_FOUND, err);
    assert_fails(initsock_connect(folder_fd, "one", &other, &err), ERR_UNAVAILABLE, err);
}

/* What listens in our own pid namespace is no init: it must not be taken for one, and killed. */
static void test_a_listener_that_is_no_init(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct initsock_peer peer;
    FD_AUTO int fd = -1;
    FD_AUTO int connected = -1;
    assert_ok(initsock_bind(folder_fd, "one", &fd, &err), err);
    assert_int_equal(listen(fd, 8), 0);
    assert_fails(initsock_find(folder_fd, "one", &peer, &err), ERR_NOT_FOUND, err);
    assert_ok(initsock_connect(folder_fd, "one", &connected, &err), err);
}

/* A first process of a pid namespace that listens until it is killed. */
static pid_t start_init(int listen_fd)
{
    int ready[2];
    char byte = 0;
    assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
    pid_t pid = (pid_t)syscall(SYS_clone, CLONE_NEWUSER | CLONE_NEWPID | SIGCHLD, 0L, 0L, 0L, 0L);
    if (pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
        require(listen(listen_fd, 1) == 0);
        require(write(ready[1], "R", 1) == 1);
        for (;;)
            (void)pause();
    }
    (void)close(ready[1]);
    if (pid > 0)
        assert_int_equal(read(ready[0], &byte, 1), 1);
    (void)close(ready[0]);
    return pid;
}

static void test_an_init_is_found(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct initsock_peer peer;
    FD_AUTO int fd = -1;
    assert_ok(initsock_bind(folder_fd, "one", &fd, &err), err);
    pid_t pid = start_init(fd);
    if (pid < 0)
        skip_because("no namespaces can be made");
    fd_close(&fd);
    /* Asked twice, with room for two connections that nobody accepts. */
    assert_ok(initsock_find(folder_fd, "one", &peer, &err), err);
    assert_int_equal(peer.pid, pid);
    assert_int_equal(syscall(SYS_pidfd_send_signal, peer.pidfd, SIGKILL, NULL, 0), 0);
    struct pollfd poller = {.fd = peer.pidfd, .events = POLLIN};
    assert_int_equal(poll(&poller, 1, -1), 1);
    (void)close(peer.pidfd);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    assert_fails(initsock_find(folder_fd, "one", &peer, &err), ERR_NOT_FOUND, err);
}

/* One that lives and accepts nothing is not taken for dead; and nobody waits for it, however many
 * there are: a second for each would be past the alarm. */
static void test_a_busy_init_is_for_later(void **state)
{
    enum { ASKED = 200, HANG_S = 60 };
    (void)state;
    struct err err = ERR_INIT;
    struct initsock_peer peer;
    FD_AUTO int fd = -1;
    FD_AUTO int first = -1;
    FD_AUTO int second = -1;
    assert_false(initsock_exists(folder_fd, "one"));
    assert_ok(initsock_bind(folder_fd, "one", &fd, &err), err);
    assert_true(initsock_exists(folder_fd, "one"));
    assert_false(initsock_exists(folder_fd, "../one"));
    assert_int_equal(listen(fd, 1), 0);
    assert_ok(initsock_connect(folder_fd, "one", &first, &err), err);
    assert_ok(initsock_connect(folder_fd, "one", &second, &err), err);
    (void)alarm(HANG_S);
    for (int i = 0; i < ASKED; i++)
        assert_fails(initsock_find(folder_fd, "one", &peer, &err), ERR_UNAVAILABLE, err);
    (void)alarm(0);
}

static void count(void *context, const char *id)
{
    unsigned *seen = context;
    *seen += strcmp(id, "one") == 0 ? 1 : strcmp(id, "two") == 0 ? 10 : 100;
}

static void test_each(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    FD_AUTO int one = -1;
    FD_AUTO int two = -1;
    unsigned seen = 0;
    assert_ok(initsock_bind(folder_fd, "one", &one, &err), err);
    assert_ok(initsock_bind(folder_fd, "two", &two, &err), err);
    assert_int_equal(mkdirat(folder_fd, "other", 0700), 0);
    assert_int_equal(mkdirat(folder_fd, ".sock", 0700), 0);
    assert_ok(initsock_each(folder_fd, count, &seen, &err), err);
    assert_int_equal(seen, 11);
}

/* A change of the user that loses neither the death signal nor who may look at us. */
static void act_as_another(void *context)
{
    (void)context;
    struct asuser saved;
    int signal_number = 0;
    require(prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) == 0);
    require(asuser_begin(&saved, 61234) == 0);
    require(geteuid() == 61234 && getuid() == 0);
    require(prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) == 1);
    errno = ENOTTY;
    asuser_end(&saved);
    require(errno == ENOTTY && geteuid() == 0);
    require(prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) == 1);
    require(prctl(PR_GET_PDEATHSIG, &signal_number, 0, 0, 0) == 0 && signal_number == SIGKILL);
    require(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == 0);
    require(asuser_begin(&saved, 61234) == 0);
    asuser_end(&saved);
    require(prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) == 0);
}

static void test_acting_as_another(void **state)
{
    (void)state;
    skip_unless_root();
    assert_int_equal(child_run(act_as_another, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        in_folder(test_a_name_is_taken_once),       in_folder(test_nobody_listens),
        in_folder(test_a_listener_that_is_no_init), in_folder(test_an_init_is_found),
        in_folder(test_a_busy_init_is_for_later),   in_folder(test_each),
        cmocka_unit_test(test_acting_as_another),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
