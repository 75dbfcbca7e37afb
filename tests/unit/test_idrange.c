/* native/idrange: a range has one holder, across processes, until the last process that inherited
 * it is gone. */
#include "check.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "child.h"
#include "folder.h"
#include "native/idrange.h"

static const struct idrange_space whole = {IDRANGE_WHOLE, IDRANGE_FIRST, IDRANGE_SIZE,
                                           IDRANGE_COUNT};

static void test_two_of_one_process(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct idrange first = {.lock_fd = -1};
    struct idrange second = {.lock_fd = -1};
    assert_ok(idrange_take(folder_fd, &whole, &first, &err), err);
    assert_ok(idrange_take(folder_fd, &whole, &second, &err), err);
    assert_int_equal(first.base, IDRANGE_FIRST);
    assert_int_equal(second.base, IDRANGE_FIRST + IDRANGE_SIZE);
    assert_true((fcntl(first.lock_fd, F_GETFD) & FD_CLOEXEC) != 0);
    idrange_release(&first);
    assert_int_equal(first.lock_fd, -1);
    idrange_release(&first); /* twice is once */
    assert_ok(idrange_take(folder_fd, &whole, &first, &err), err);
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
        require_ok(idrange_take(folder_fd, &whole, &range, &err), err);
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
    assert_ok(idrange_take(folder_fd, &whole, &ours, &err), err);
    assert_int_not_equal(first.base, second.base);
    assert_int_not_equal(first.base, ours.base);
    assert_int_not_equal(second.base, ours.base);
    idrange_release(&ours);
    kill_holder(&first); /* nothing of ours ran at its end: the kernel gives the range back */
    assert_ok(idrange_take(folder_fd, &whole, &ours, &err), err);
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
    assert_ok(idrange_take(folder_fd, &whole, &first, &err), err);
    uint32_t base = first.base;
    pid_t heir = fork();
    if (heir == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
        for (;;)
            (void)pause();
    }
    assert_true(heir > 0);
    idrange_release(&first);
    assert_ok(idrange_take(folder_fd, &whole, &second, &err), err);
    assert_int_not_equal(second.base, base);
    idrange_release(&second);
    (void)kill(heir, SIGKILL);
    (void)waitpid(heir, NULL, 0);
    assert_ok(idrange_take(folder_fd, &whole, &second, &err), err);
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
        int result = idrange_take(folder_fd, &whole, &range, &err);
        if (result != 0 && err.sys_errno != 0)
            _exit(CHILD_SKIPPED); /* out of descriptors */
        require_ok(result, err);
        require(range.base == next);
        next += IDRANGE_SIZE;
    }
    require(next - 1 <= 0x7fffffffU);
    require(idrange_take(folder_fd, &whole, &range, &err) == -ERR_UNAVAILABLE);
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
    assert_int_equal(symlinkat("/tmp/berth-test-ids-elsewhere", folder_fd, "0"), 0);
    assert_fails(idrange_take(folder_fd, &whole, &range, &err), ERR_INTERNAL, err);
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

static void test_what_ids_are_good_for(void **state)
{
    (void)state;
    struct idrange_space space = idrange_plan(UINT64_C(1) << 32);
    assert_int_equal(space.kind, IDRANGE_WHOLE);
    assert_int_equal(space.first, IDRANGE_FIRST);
    assert_int_equal(space.count, IDRANGE_COUNT);
    space = idrange_plan(65537); /* an ordinary user's own and 65,536 of /etc/subuid */
    assert_int_equal(space.kind, IDRANGE_SPARSE);
    assert_int_equal(space.count, IDRANGE_COUNT);
    assert_int_equal(space.first + space.count * space.size, 65537);
    space = idrange_plan(10);
    assert_int_equal(space.kind, IDRANGE_SPARSE);
    assert_int_equal(space.count, 2);
    assert_int_equal(space.first, 2);
    for (uint64_t ids = 0; ids < 5; ids++)
        assert_int_equal(idrange_plan(ids).kind, IDRANGE_SHARED);
    assert_true(idrange_plan(5).first > 0); /* 0 is the user himself */
}

static void test_few_ids_are_handed_out_apart(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    const struct idrange_space space = idrange_plan(10);
    struct idrange ranges[3] = {{.lock_fd = -1}, {.lock_fd = -1}, {.lock_fd = -1}};
    assert_ok(idrange_take(folder_fd, &space, &ranges[0], &err), err);
    assert_ok(idrange_take(folder_fd, &space, &ranges[1], &err), err);
    assert_int_equal(ranges[0].base, 2);
    assert_int_equal(ranges[1].base, 6);
    assert_fails(idrange_take(folder_fd, &space, &ranges[2], &err), ERR_UNAVAILABLE, err);
    idrange_release(&ranges[0]);
    idrange_release(&ranges[1]);
}

static void test_one_id_is_everybodys(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    const struct idrange_space space = idrange_plan(1);
    struct idrange ranges[2] = {{.lock_fd = -1}, {.lock_fd = -1}};
    for (size_t i = 0; i < 2; i++) {
        assert_ok(idrange_take(folder_fd, &space, &ranges[i], &err), err);
        assert_int_equal(ranges[i].base, 0);
    }
    idrange_release(&ranges[0]);
    assert_ok(idrange_take(folder_fd, &space, &ranges[0], &err), err);
    idrange_release(&ranges[0]);
    idrange_release(&ranges[1]);
}

static void test_the_maps_of_a_sandbox(void **state)
{
    (void)state;
    struct idrange_maps maps;
    idrange_describe(&whole, IDRANGE_FIRST, &maps);
    assert_string_equal(maps.outer, "0 1879048192 65536\n");
    assert_string_equal(maps.inner, "0 1 65535\n");
    assert_int_equal(maps.code_id, 1001);
    struct idrange_space space = idrange_plan(65537);
    idrange_describe(&space, 4294967200U, &maps);
    assert_string_equal(maps.outer, "0 4294967200 1\n1 4294967201 1\n1001 4294967202 1\n"
                                    "65535 4294967203 1\n");
    assert_int_equal(maps.root_id, 1);
    assert_int_equal(maps.tty_gid, -1);
    space = idrange_plan(1);
    idrange_describe(&space, 0, &maps);
    assert_string_equal(maps.outer, "0 0 1\n");
    assert_string_equal(maps.inner, "1000 0 1\n");
    assert_int_equal(maps.root_id, 0);
    assert_int_equal(maps.code_id, 0);
}

/* Where no folder is the user's alone, the locks lie in his state folder. */
static void open_as_ordinary_user(void *context)
{
    (void)context;
    struct err err = ERR_INIT;
    const struct idrange_space space = {IDRANGE_SPARSE, 1, IDRANGE_SPARSE_SIZE, 1};
    int fd = -1;
    char path[64];
    (void)snprintf(path, sizeof(path), "%s/open", folder);
    if (geteuid() == 0)
        require(fchown(folder_fd, 61234, 61234) == 0 && setresuid(61234, 61234, 61234) == 0);
    require(mkdirat(folder_fd, "open", 0777) == 0 && fchmodat(folder_fd, "open", 0777, 0) == 0);
    require(setenv("XDG_RUNTIME_DIR", path, 1) == 0); /* others could write there */
    require_ok(idrange_open(&space, 4294967294U, folder_fd, &fd, &err), err);
    require(faccessat(folder_fd, "ids", F_OK, 0) == 0);
    require(faccessat(folder_fd, "open/berth", F_OK, 0) != 0);
    fd_close(&fd);
    require(fchmodat(folder_fd, "open", 0700, 0) == 0);
    require_ok(idrange_open(&space, 4294967294U, folder_fd, &fd, &err), err);
    require(faccessat(folder_fd, "open/berth/ids", F_OK, 0) == 0);
    fd_close(&fd);
}

static void test_folders_of_an_ordinary_user(void **state)
{
    (void)state;
    assert_int_equal(child_run(open_as_ordinary_user, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_ids_are_good_for),
        in_folder(test_few_ids_are_handed_out_apart),
        in_folder(test_one_id_is_everybodys),
        cmocka_unit_test(test_the_maps_of_a_sandbox),
        in_folder(test_folders_of_an_ordinary_user),
        in_folder(test_two_of_one_process),
        in_folder(test_two_processes_never_share),
        in_folder(test_an_inherited_lock_keeps_the_range),
        in_folder(test_all_in_use),
        in_folder(test_a_planted_link_is_refused),
        cmocka_unit_test(test_the_hosts_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
