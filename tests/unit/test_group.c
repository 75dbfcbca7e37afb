/* init/group: the code's cgroup as init sees it, in a group that native/cgroup made; and without
 * cgroups. */
#include "check.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "base/fd.h"
#include "base/id.h"
#include "child.h"
#include "init/group.h"
#include "init/identity.h"
#include "native/cgroup.h"

#define MEMORY_BYTES (32U << 20)
#define PIDS_MAX 12

struct rig {
    struct cgroup_root root;
    struct init_config config;
    bool open;
};

static int rig_open(void **state)
{
    static struct rig rig;
    char instance[13] = "ut";
    struct err err = ERR_INIT;
    const struct cgroup_limits limits = {
        .memory_bytes = MEMORY_BYTES, .cpu_millis = 1000, .pids_max = PIDS_MAX};
    memset(&rig, 0, sizeof(rig));
    init_config_clear(&rig.config);
    *state = &rig;
    if (geteuid() != 0)
        return 0;
    id_hex(instance + 2, 5);
    int result = cgroup_open(&rig.root, instance, &err);
    if (result == -ERR_UNSUPPORTED)
        return 0;
    rig.open = result == 0;
    if (result == 0)
        result = cgroup_create(&rig.root, "one", &limits, 0, &rig.config, &err);
    return result;
}

static int rig_close(void **state)
{
    struct rig *rig = *state;
    if (!rig->open)
        return 0;
    cgroup_close_config(&rig->config);
    for (int tries = 0; cgroup_remove(&rig->root, "one", NULL) != 0 && tries < 500; tries++) {
        cgroup_kill(&rig->root, "one");
        (void)usleep(2000);
    }
    int result = cgroup_remove(&rig->root, "one", NULL);
    cgroup_retire(&rig->root);
    cgroup_close(&rig->root);
    return result;
}

#define skip_unless_open(rig)                                                                      \
    do {                                                                                           \
        skip_unless_root();                                                                        \
        if (!(rig)->open)                                                                          \
            skip_because("the memory, cpu and pids controllers can't be had here");                \
    } while (0)

/* A child in the code group that runs fn after it joined; its parent waits for the join. */
static pid_t start(const struct init_config *config, void (*fn)(void))
{
    int ready[2];
    char byte = 0;
    assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
    pid_t pid = group_fork(config);
    if (pid == 0) {
        struct err err = ERR_INIT;
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
        require_ok(group_join(config, &err), err);
        require(write(ready[1], "R", 1) == 1);
        fn();
        _exit(0);
    }
    (void)close(ready[1]);
    assert_true(pid > 0);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    (void)close(ready[0]);
    return pid;
}

static void sleep_on(void)
{
    for (;;)
        (void)pause();
}

static int wait_for(pid_t pid)
{
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

static void test_join_and_kill_until_empty(void **state)
{
    struct rig *rig = *state;
    skip_unless_open(rig);
    assert_true(group_is_empty(&rig->config));
    pid_t first = start(&rig->config, sleep_on);
    pid_t second = start(&rig->config, sleep_on);
    assert_false(group_is_empty(&rig->config));
    group_kill(&rig->config);
    int status = wait_for(first);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    (void)wait_for(second);
    assert_true(group_is_empty(&rig->config));
}

/* A child that works on a file for init: not the code, although it is in its group. */
static void test_who_is_spared(void **state)
{
    struct rig *rig = *state;
    skip_unless_open(rig);
    pid_t file = start(&rig->config, sleep_on);
    group_spare(file);
    assert_true(group_is_empty(&rig->config));
    pid_t code = start(&rig->config, sleep_on);
    assert_false(group_is_empty(&rig->config));
    group_kill(&rig->config);
    int status = wait_for(code);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    assert_true(group_is_empty(&rig->config));
    assert_int_equal(waitpid(file, &status, WNOHANG), 0); /* it lives */
    group_unspare(file);
    assert_false(group_is_empty(&rig->config));
    group_kill(&rig->config);
    (void)wait_for(file);
    assert_true(group_is_empty(&rig->config));
    group_reopen(&rig->config);
}

static void fork_without_end(void)
{
    for (;;)
        (void)fork();
}

/* Forks fail from the kill on, so that it ends; afterwards they are allowed again. */
static void test_a_fork_bomb_ends(void **state)
{
    struct rig *rig = *state;
    char text[32];
    struct err err = ERR_INIT;
    skip_unless_open(rig);
    pid_t pid = start(&rig->config, fork_without_end);
    int tries = 0;
    do {
        group_kill(&rig->config);
        (void)usleep(1000);
        (void)waitpid(pid, NULL, WNOHANG);
    } while (!group_is_empty(&rig->config) && ++tries < 5000);
    assert_true(group_is_empty(&rig->config));
    assert_ok(fd_read_file_at(rig->config.pids_dir_fd, "pids.max", text, sizeof(text), &err), err);
    assert_string_equal(text, "0\n");
    group_reopen(&rig->config);
    assert_ok(fd_read_file_at(rig->config.pids_dir_fd, "pids.max", text, sizeof(text), &err), err);
    assert_int_equal(strtol(text, NULL, 10), PIDS_MAX);
}

static void fork_past_the_limit(void)
{
    pid_t pids[2 * PIDS_MAX];
    int refused = 0;
    for (int i = 0; i < 2 * PIDS_MAX; i++) {
        pids[i] = fork();
        if (pids[i] == 0)
            sleep_on();
        refused += pids[i] < 0;
    }
    for (int i = 0; i < 2 * PIDS_MAX; i++) {
        if (pids[i] > 0)
            (void)kill(pids[i], SIGKILL);
    }
    while (wait(NULL) > 0)
        continue;
    require(refused > PIDS_MAX);
}

static void test_refused_forks_are_counted(void **state)
{
    struct rig *rig = *state;
    struct group_usage before;
    struct group_usage after;
    skip_unless_open(rig);
    group_read(&rig->config, &before);
    assert_int_equal(before.pids_refused, 0);
    assert_int_equal(wait_for(start(&rig->config, fork_past_the_limit)), 0);
    group_read(&rig->config, &after);
    assert_true(after.pids_refused > 0);
    if (faccessat(rig->config.pids_dir_fd, "pids.peak", F_OK, 0) == 0)
        assert_int_equal(after.pids_peak, PIDS_MAX);
}

static void burn(void)
{
    size_t size = MEMORY_BYTES / 4;
    volatile char *memory =
        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    require(memory != MAP_FAILED);
    for (int round = 0; round < 20; round++) {
        for (size_t i = 0; i < size; i += 4096)
            memory[i] = (char)(memory[i] + 1);
    }
}

static void test_usage_is_told(void **state)
{
    struct rig *rig = *state;
    struct group_usage used;
    skip_unless_open(rig);
    assert_int_equal(wait_for(start(&rig->config, burn)), 0);
    group_read(&rig->config, &used);
    assert_true(used.cpu_us > 0);
    assert_in_range(used.memory_peak_bytes, MEMORY_BYTES / 4, MEMORY_BYTES);
    assert_int_equal(used.oom_kills, 0);
    assert_int_equal(used.pids_refused, 0);
}

static void take_too_much(void)
{
    size_t size = 8U * MEMORY_BYTES;
    volatile char *memory =
        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    require(memory != MAP_FAILED);
    for (size_t i = 0; i < size; i += 4096)
        memory[i] = 1;
}

static void test_oom_is_told(void **state)
{
    struct rig *rig = *state;
    struct group_usage used;
    skip_unless_open(rig);
    assert_int_equal(group_oom_kills(&rig->config), 0);
    int status = wait_for(start(&rig->config, take_too_much));
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    assert_true(group_oom_kills(&rig->config) >= 1);
    group_read(&rig->config, &used);
    assert_int_equal(used.oom_kills, group_oom_kills(&rig->config));
    assert_true(used.memory_peak_bytes <= MEMORY_BYTES);
    struct pollfd poller = {.fd = rig->config.oom_event_fd,
                            .events = rig->root.mode == INIT_CGROUP_V1 ? POLLIN : POLLPRI};
    assert_int_equal(poll(&poller, 1, 10000), 1);
}

/* Not group_kill(): without cgroups it signals every process that this one may signal, which is
 * right for PID 1 of a sandbox only. */
static void test_without_cgroups(void **state)
{
    (void)state;
    struct init_config config;
    struct group_usage used;
    struct err err = ERR_INIT;
    init_config_clear(&config);
    assert_true(group_is_empty(&config));
    assert_ok(group_join(&config, &err), err);
    pid_t pid = group_fork(&config);
    if (pid == 0)
        _exit(3);
    assert_true(pid > 0);
    assert_false(group_is_empty(&config));
    assert_int_equal(WEXITSTATUS(wait_for(pid)), 3);
    assert_true(group_is_empty(&config));
    group_read(&config, &used);
    const struct group_usage none = {0};
    assert_memory_equal(&used, &none, sizeof(used));
    assert_int_equal(group_oom_kills(&config), 0);
    group_reopen(&config);
}

/* Root in there, and for init somebody else. */
static void test_a_child_in_a_namespace_of_its_own(void **state)
{
    (void)state;
    struct init_config config;
    int status = 0;
    if (geteuid() != 0)
        skip();
    init_config_clear(&config);
    config.carried = config.nests = true;
    assert_int_equal(identity_seen(&config, 1000), 1001);
    pid_t pid = group_fork(&config);
    if (pid == 0) {
        char map[128];
        char *next = NULL;
        bool mapped = fd_read_file_at(AT_FDCWD, "/proc/self/uid_map", map, sizeof(map), NULL) > 0 &&
                      strtoul(map, &next, 10) == 0 && strtoul(next, NULL, 10) == 1;
        bool ids = setresgid(0, 0, 0) == 0 && setresuid(0, 0, 0) == 0 && setuid(65535) != 0;
        _exit(mapped && ids ? 0 : 1);
    }
    assert_true(pid > 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    config.nests = false;
    assert_int_equal(identity_seen(&config, 1000), 1000);
}

static void test_a_wrong_descriptor_fails_the_join(void **state)
{
    (void)state;
    struct init_config config;
    struct err err = ERR_INIT;
    init_config_clear(&config);
    FD_AUTO int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    config.procs_fds[0] = fd;
    config.procs_count = 1;
    assert_fails(group_join(&config, &err), ERR_INTERNAL, err);
}

static void spin(void)
{
    for (volatile unsigned i = 0; i < 20000000U; i++)
        continue;
}

/* In a process of its own: it keeps them for good. */
static void join_and_read(void *context)
{
    const struct init_config *config = context;
    struct err err = ERR_INIT;
    struct group_usage before;
    struct group_usage after;
    require_ok(group_join(config, &err), err);
    group_keep_open(config);
    group_read(config, &before);
    spin();
    group_read(config, &after);
    require(after.cpu_us > before.cpu_us);
    require(after.memory_peak_bytes >= before.memory_peak_bytes && after.oom_kills == 0);
}

static void test_counters_that_are_kept_open(void **state)
{
    struct rig *rig = *state;
    skip_unless_open(rig);
    assert_int_equal(child_run(join_and_read, &rig->config), 0);
}

#define on_rig(test) cmocka_unit_test_setup_teardown(test, rig_open, rig_close)

int main(void)
{
    const struct CMUnitTest tests[] = {
        on_rig(test_join_and_kill_until_empty),
        on_rig(test_who_is_spared),
        on_rig(test_a_fork_bomb_ends),
        on_rig(test_refused_forks_are_counted),
        on_rig(test_usage_is_told),
        on_rig(test_oom_is_told),
        on_rig(test_counters_that_are_kept_open),
        cmocka_unit_test(test_without_cgroups),
        cmocka_unit_test(test_a_child_in_a_namespace_of_its_own),
        cmocka_unit_test(test_a_wrong_descriptor_fails_the_join),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
