/* native/idrange: a range has one holder, across processes, until the last process that inherited
 * it is gone. */
#include "check.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "child.h"
#include "native/idrange.h"

static char folder[] = "/tmp/berth-test-ids-XXXXXX";
static int dir_fd = -1;
static const struct idrange_space whole = {IDRANGE_WHOLE, IDRANGE_FIRST, IDRANGE_SIZE,
                                           IDRANGE_COUNT};

static int make_folder(void **state)
{
    (void)state;
    memcpy(folder + sizeof(folder) - 7, "XXXXXX", 6);
    dir_fd = mkdtemp(folder) ? open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    return dir_fd < 0 ? -1 : 0;
}

static int remove_folder(void **state)
{
    (void)state;
    fd_close(&dir_fd);
    child_remove_tree(folder);
    return 0;
}

static void test_two_of_one_process(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct idrange first = {.lock_fd = -1};
    struct idrange second = {.lock_fd = -1};
    assert_ok(idrange_take(dir_fd, &whole, &first, &err), err);
    assert_ok(idrange_take(dir_fd, &whole, &second, &err), err);
    assert_int_equal(first.base, IDRANGE_FIRST);
    assert_int_equal(second.base, IDRANGE_FIRST + IDRANGE_SIZE);
    assert_true((fcntl(first.lock_fd, F_GETFD) & FD_CLOEXEC) != 0);
    idrange_release(&first);
    assert_int_equal(first.lock_fd, -1);
    idrange_release(&first); /* twice is once */
    assert_ok(idrange_take(dir_fd, &whole, &first, &err), err);
    assert_int_equal(first.base, IDRANGE_FIRST);
    idrange_release(&first);
    idrange_release(&second);
}

/* A process that takes a range, tells its base, and holds it until the pipe is closed. */
struct holder {
    pid_t pid;
    int stop_fd;
    uint32_t base;
};

static struct holder start_holder(void)
{
    struct holder holder = {0};
    int told[2];
    int stop[2];
    assert_int_equal(pipe2(told, O_CLOEXEC), 0);
    assert_int_equal(pipe2(stop, O_CLOEXEC), 0);
    holder.pid = fork();
    if (holder.pid == 0) {
        struct idrange range = {.lock_fd = -1};
        struct err err = ERR_INIT;
        char byte = 0;
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
        (void)close(stop[1]);
        require_ok(idrange_take(dir_fd, &whole, &range, &err), err);
        require(write(told[1], &range.base, sizeof(range.base)) == (ssize_t)sizeof(range.base));
        require(read(stop[0], &byte, 1) == 0);
        _exit(0);
    }
    (void)close(told[1]);
    (void)close(stop[0]);
    holder.stop_fd = stop[1];
    assert_int_equal(read(told[0], &holder.base, sizeof(holder.base)), sizeof(holder.base));
    (void)close(told[0]);
    return holder;
}

static void kill_holder(struct holder *holder)
{
    assert_int_equal(kill(holder->pid, SIGKILL), 0);
    assert_int_equal(waitpid(holder->pid, NULL, 0), holder->pid);
    (void)close(holder->stop_fd);
}

static void test_two_processes_never_share(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct idrange ours = {.lock_fd = -1};
    struct holder first = start_holder();
    struct holder second = start_holder();
    assert_ok(idrange_take(dir_fd, &whole, &ours, &err), err);
    assert_int_not_equal(first.base, second.base);
    assert_int_not_equal(first.base, ours.base);
    assert_int_not_equal(second.base, ours.base);
    idrange_release(&ours);
    kill_holder(&first); /* nothing of ours ran at its end: the kernel gives the range back */
    assert_ok(idrange_take(dir_fd, &whole, &ours, &err), err);
    assert_int_equal(ours.base, first.base);
    idrange_release(&ours);
    kill_holder(&second);
}

/* What an engine's death must not do: the sandbox's init, which inherited the lock, keeps it. */
static void test_an_inherited_lock_keeps_the_range(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct idrange first = {.lock_fd = -1};
    struct idrange second = {.lock_fd = -1};
    assert_ok(idrange_take(dir_fd, &whole, &first, &err), err);
    uint32_t base = first.base;
    pid_t heir = fork();
    if (heir == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
        for (;;)
            (void)pause();
    }
    assert_true(heir > 0);
    idrange_release(&first);
    assert_ok(idrange_take(dir_fd, &whole, &second, &err), err);
    assert_int_not_equal(second.base, base);
    idrange_release(&second);
    (void)kill(heir, SIGKILL);
    (void)waitpid(heir, NULL, 0);
    assert_ok(idrange_take(dir_fd, &whole, &second, &err), err);
    assert_int_equal(second.base, base);
    idrange_release(&second);
}

/* All ranges, all apart, inside the ids that nobody hands out; then the refusal. */
static void take_all(void *context)
{
    (void)context;
    fd_raise_limit();
    struct idrange range = {.lock_fd = -1};
    struct err err = ERR_INIT;
    uint32_t next = IDRANGE_FIRST;
    for (unsigned i = 0; i < IDRANGE_COUNT; i++) {
        int result = idrange_take(dir_fd, &whole, &range, &err);
        if (result != 0 && err.sys_errno != 0)
            _exit(CHILD_SKIPPED); /* out of descriptors */
        require_ok(result, err);
        require(range.base == next);
        next += IDRANGE_SIZE;
    }
    require(next - 1 <= 0x7fffffffU);
    require(idrange_take(dir_fd, &whole, &range, &err) == -ERR_UNAVAILABLE);
    require(err.public_message[0] != '\0');
}

static void test_all_in_use(void **state)
{
    (void)state;
    int code = child_run(take_all, NULL);
    if (code == CHILD_SKIPPED)
        skip_because("too few descriptors for all ranges");
    assert_int_equal(code, 0);
}

static void test_a_planted_link_is_refused(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct idrange range = {.lock_fd = -1};
    assert_int_equal(symlinkat("/tmp/berth-test-ids-elsewhere", dir_fd, "0"), 0);
    assert_fails(idrange_take(dir_fd, &whole, &range, &err), ERR_INTERNAL, err);
    assert_int_not_equal(access("/tmp/berth-test-ids-elsewhere", F_OK), 0);
}

static void test_the_hosts_folder(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct stat info;
    FD_AUTO int fd = -1;
    skip_unless_root();
    assert_ok(idrange_open(&whole, 0, -1, &fd, &err), err);
    assert_int_equal(fstat(fd, &info), 0);
    assert_int_equal(info.st_mode & 07777, 0700);
    assert_true((fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_two_of_one_process, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(test_two_processes_never_share, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(test_an_inherited_lock_keeps_the_range, make_folder,
                                        remove_folder),
        cmocka_unit_test_setup_teardown(test_all_in_use, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(test_a_planted_link_is_refused, make_folder, remove_folder),
        cmocka_unit_test(test_the_hosts_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
