/* native/cgroup on this host's own hierarchies, in an instance of the test's own: limits, ways in,
 * kills, removal, and hosts that lack what is needed. */
#include "check.h"

#include <fcntl.h>
#include <inttypes.h>
#include <linux/sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>

#include "base/fd.h"
#include "base/id.h"
#include "child.h"
#include "native/cgroup.h"

static const struct cgroup_limits limits = {
    .memory_bytes = 64U << 20, .cpu_millis = 500, .pids_max = 16};

struct rig {
    struct cgroup_root root;
    struct init_config config;
    pid_t pid; /* a process in a group */
    bool open;
};

/* Not open where cgroups can't be had: the tests skip then. */
static int rig_open(void **state)
{
    static struct rig rig;
    char instance[13] = "ut";
    struct err err = ERR_INIT;
    memset(&rig, 0, sizeof(rig));
    init_config_clear(&rig.config);
    *state = &rig;
    if (geteuid() != 0)
        return 0;
    id_hex(instance + 2, 5);
    int result = cgroup_open(&rig.root, instance, &err);
    rig.open = result == 0;
    return result == 0 || result == -ERR_UNSUPPORTED ? 0 : -1;
}

static bool folder_is_there(const struct cgroup_hierarchy *hierarchy, const char *folder)
{
    FD_AUTO int mount_fd = openat(hierarchy->base_fd, "..", O_PATH | O_DIRECTORY | O_CLOEXEC);
    return mount_fd < 0 || faccessat(mount_fd, folder, F_OK, 0) == 0;
}

/* Leaves nothing on the host, whatever the test did. */
static int rig_close(void **state)
{
    struct rig *rig = *state;
    static const char *const ids[] = {"one", "two", "three"};
    bool left = false;
    if (!rig->open)
        return 0;
    if (rig->pid > 0) {
        (void)kill(rig->pid, SIGKILL);
        (void)waitpid(rig->pid, NULL, 0);
    }
    cgroup_close_config(&rig->config);
    for (size_t i = 0; i < ARRAY_SIZE(ids); i++) {
        for (int tries = 0; cgroup_remove(&rig->root, ids[i], NULL) != 0 && tries < 500; tries++) {
            cgroup_kill(&rig->root, ids[i]);
            (void)usleep(2000);
        }
    }
    cgroup_retire(&rig->root);
    for (size_t i = 0; i < rig->root.count; i++)
        left |= folder_is_there(&rig->root.hierarchies[i], rig->root.folder);
    cgroup_close(&rig->root);
    return left ? -1 : 0;
}

#define skip_unless_open(rig)                                                                      \
    do {                                                                                           \
        skip_unless_root();                                                                        \
        if (!(rig)->open)                                                                          \
            skip_because("the memory, cpu and pids controllers can't be had here");                \
    } while (0)

static void create(struct rig *rig, const char *id)
{
    struct err err = ERR_INIT;
    assert_ok(cgroup_create(&rig->root, id, &limits, 70000, &rig->config, &err), err);
}

static void assert_file(int dir_fd, const char *file, const char *wanted)
{
    char text[128];
    struct err err = ERR_INIT;
    assert_ok(fd_read_file_at(dir_fd, file, text, sizeof(text), &err), err);
    text[strcspn(text, "\n")] = '\0';
    assert_string_equal(text, wanted);
}

/* A process that sleeps in the init group of a sandbox. */
static pid_t start_inside(const struct rig *rig, const char *id)
{
    struct cgroup_entry entry;
    struct err err = ERR_INIT;
    int ready[2];
    char byte = 0;
    assert_ok(cgroup_open_entry(&rig->root, id, &entry, &err), err);
    assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
    struct clone_args args;
    memset(&args, 0, sizeof(args));
    args.exit_signal = SIGCHLD;
    if (entry.clone_fd >= 0) {
        args.flags = CLONE_INTO_CGROUP;
        args.cgroup = (unsigned)entry.clone_fd;
    }
    pid_t pid = entry.clone_fd >= 0 ? (pid_t)syscall(SYS_clone3, &args, sizeof(args)) : fork();
    if (pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
        require_ok(cgroup_enter(&entry, &err), err);
        require(write(ready[1], "R", 1) == 1);
        for (;;)
            (void)pause();
    }
    (void)close(ready[1]);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    (void)close(ready[0]);
    cgroup_close_entry(&entry);
    assert_true(pid > 0);
    return pid;
}

static void test_limits_are_what_was_asked(void **state)
{
    struct rig *rig = *state;
    skip_unless_open(rig);
    create(rig, "one");
    const struct init_config *config = &rig->config;
    assert_int_equal(config->cgroup_mode, rig->root.mode);
    assert_int_equal(config->pids_max, 16);
    assert_int_equal(config->procs_count, rig->root.count);
    assert_file(config->pids_dir_fd, "pids.max", "16");
    if (rig->root.mode == INIT_CGROUP_V1) {
        assert_file(config->memory_dir_fd, "memory.limit_in_bytes", "67108864");
        if (faccessat(config->memory_dir_fd, "memory.memsw.limit_in_bytes", F_OK, 0) == 0)
            assert_file(config->memory_dir_fd, "memory.memsw.limit_in_bytes", "67108864");
        assert_file(config->cpu_dir_fd, "cpu.cfs_quota_us", "50000");
        assert_file(config->cpu_dir_fd, "cpu.cfs_period_us", "100000");
        assert_true(config->cpuacct_dir_fd >= 0);
    } else {
        assert_file(config->memory_dir_fd, "memory.max", "67108864");
        assert_file(config->memory_dir_fd, "memory.oom.group", "1");
        assert_file(config->cpu_dir_fd, "cpu.max", "50000 100000");
    }
    assert_true(config->oom_event_fd >= 0);
    /* What init gets may be written, and is closed on exec. */
    assert_int_equal(pwrite(config->pids_max_fd, "7", 1, 0), 1);
    assert_file(config->pids_dir_fd, "pids.max", "7");
    assert_true((fcntl(config->pids_max_fd, F_GETFD) & FD_CLOEXEC) != 0);
    for (size_t i = 0; i < config->procs_count; i++)
        assert_true((fcntl(config->procs_fds[i], F_GETFD) & FD_CLOEXEC) != 0);
}

static void assert_memory(const struct rig *rig, const char *wanted)
{
    bool v1 = rig->root.mode == INIT_CGROUP_V1;
    int dir_fd = rig->config.memory_dir_fd;
    assert_file(dir_fd, v1 ? "memory.limit_in_bytes" : "memory.max", wanted);
    if (v1 && faccessat(dir_fd, "memory.memsw.limit_in_bytes", F_OK, 0) == 0)
        assert_file(dir_fd, "memory.memsw.limit_in_bytes", wanted);
}

static void test_limits_change_both_ways(void **state)
{
    struct rig *rig = *state;
    struct err err = ERR_INIT;
    skip_unless_open(rig);
    create(rig, "one");
    assert_int_equal(cgroup_cpu_millis(&rig->root, "one"), 500);
    assert_int_equal(cgroup_cpu_millis(&rig->root, "none"), 0);
    struct cgroup_limits others = {.memory_bytes = 128U << 20, .cpu_millis = 1250, .pids_max = 20};
    assert_ok(cgroup_change(&rig->root, "one", &others, &err), err);
    assert_memory(rig, "134217728");
    assert_file(rig->config.pids_dir_fd, "pids.max", "20");
    assert_int_equal(cgroup_cpu_millis(&rig->root, "one"), 1250);
    others = (struct cgroup_limits){.memory_bytes = 32U << 20};
    assert_ok(cgroup_change(&rig->root, "one", &others, &err), err);
    assert_memory(rig, "33554432");
    assert_file(rig->config.pids_dir_fd, "pids.max", "20");
    assert_int_equal(cgroup_cpu_millis(&rig->root, "one"), 1250);
    assert_fails(cgroup_change(&rig->root, "none", &others, &err), ERR_CONFLICT, err);
}

/* Init stops all forks while it kills: nothing else may allow them again. */
static void test_no_limit_in_the_midst_of_a_kill(void **state)
{
    struct rig *rig = *state;
    const struct cgroup_limits others = {.pids_max = 20};
    struct err err = ERR_INIT;
    skip_unless_open(rig);
    create(rig, "one");
    assert_ok(fd_write_file_at(rig->config.pids_dir_fd, "pids.max", "0", &err), err);
    assert_fails(cgroup_change(&rig->root, "one", &others, &err), ERR_CONFLICT, err);
    assert_file(rig->config.pids_dir_fd, "pids.max", "0");
}

struct found {
    unsigned one, two, other;
};

static void note(void *context, const char *id)
{
    struct found *found = context;
    found->one += strcmp(id, "one") == 0;
    found->two += strcmp(id, "two") == 0;
    found->other += strcmp(id, "one") != 0 && strcmp(id, "two") != 0;
}

static void test_each_names_what_is_there(void **state)
{
    struct rig *rig = *state;
    struct err err = ERR_INIT;
    struct found found = {0};
    skip_unless_open(rig);
    assert_ok(cgroup_each(&rig->root, note, &found, &err), err);
    assert_int_equal(found.one + found.two + found.other, 0);
    create(rig, "one");
    cgroup_close_config(&rig->config);
    create(rig, "two");
    assert_ok(cgroup_each(&rig->root, note, &found, &err), err);
    assert_int_equal(found.one, rig->root.count); /* once a hierarchy */
    assert_int_equal(found.two, rig->root.count);
    assert_int_equal(found.other, 0);
    assert_ok(cgroup_remove(&rig->root, "one", &err), err);
    assert_ok(cgroup_remove(&rig->root, "one", &err), err); /* idempotent */
    memset(&found, 0, sizeof(found));
    assert_ok(cgroup_each(&rig->root, note, &found, &err), err);
    assert_int_equal(found.one, 0);
    assert_int_equal(found.two, rig->root.count);
}

static pid_t init_pid(struct rig *rig, const char *id)
{
    struct err err = ERR_INIT;
    pid_t pid = -1;
    assert_ok(cgroup_init_pid(&rig->root, id, &pid, &err), err);
    return pid;
}

static void test_enter_kill_remove(void **state)
{
    struct rig *rig = *state;
    struct err err = ERR_INIT;
    int status = 0;
    skip_unless_open(rig);
    create(rig, "one");
    assert_int_equal(init_pid(rig, "one"), 0);
    rig->pid = start_inside(rig, "one");
    assert_int_equal(init_pid(rig, "one"), rig->pid);
    assert_int_equal(init_pid(rig, "two"), 0);
    assert_fails(cgroup_remove(&rig->root, "one", &err), ERR_CONFLICT, err);
    cgroup_retire(&rig->root); /* a sandbox lives: the folder has to stay */
    for (size_t i = 0; i < rig->root.count; i++)
        assert_true(folder_is_there(&rig->root.hierarchies[i], rig->root.folder));
    cgroup_kill(&rig->root, "two"); /* another one's groups, and none of them there */
    assert_int_equal(waitpid(rig->pid, &status, WNOHANG), 0);
    cgroup_kill(&rig->root, "one");
    assert_int_equal(waitpid(rig->pid, &status, 0), rig->pid);
    rig->pid = 0;
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    for (int tries = 0; cgroup_remove(&rig->root, "one", &err) != 0 && tries < 500; tries++)
        (void)usleep(2000);
    assert_ok(cgroup_remove(&rig->root, "one", &err), err);
}

/* Every controller has the process, not only the one that lists it first. */
static void test_all_hierarchies_are_entered(void **state)
{
    struct rig *rig = *state;
    skip_unless_open(rig);
    create(rig, "one");
    rig->pid = start_inside(rig, "one");
    for (size_t i = 0; i < rig->root.count; i++) {
        const struct cgroup_hierarchy *hierarchy = &rig->root.hierarchies[i];
        bool own = hierarchy->pids || rig->root.mode == INIT_CGROUP_V2;
        const char *file = own ? "one/init/cgroup.procs" : "one/cgroup.procs";
        char text[64];
        struct err err = ERR_INIT;
        assert_ok(fd_read_file_at(hierarchy->base_fd, file, text, sizeof(text), &err), err);
        assert_int_equal(strtol(text, NULL, 10), rig->pid);
    }
}

/* Its name is no id: a sweep must not take it for a sandbox. */
static void test_a_group_aside(void **state)
{
    struct rig *rig = *state;
    const struct cgroup_limits small = {.memory_bytes = 32U << 20, .pids_max = 5};
    struct cgroup_entry entry;
    struct err err = ERR_INIT;
    skip_unless_open(rig);
    for (int i = 0; i < 2; i++) { /* one that was left is taken again */
        assert_ok(cgroup_open_aside(&rig->root, "aside.1", &small, &entry, &err), err);
        assert_int_equal(entry.tasks_count + (entry.clone_fd >= 0 ? 1 : 0), rig->root.count);
        cgroup_close_entry(&entry);
    }
    struct found found = {0};
    assert_ok(cgroup_each(&rig->root, note, &found, &err), err);
    assert_int_equal(found.one + found.two + found.other, 0);
    for (size_t i = 0; i < rig->root.count; i++) {
        char text[32];
        if (rig->root.hierarchies[i].pids)
            assert_true(fd_read_file_at(rig->root.hierarchies[i].base_fd, "aside.1/pids.max", text,
                                        sizeof(text), &err) > 0);
    }
    assert_int_equal(cgroup_remove_aside(&rig->root, "aside.1"), 0);
    assert_int_equal(cgroup_remove_aside(&rig->root, "aside.1"), 0);
}

static void test_entry_of_nothing_fails(void **state)
{
    struct rig *rig = *state;
    struct cgroup_entry entry;
    struct err err = ERR_INIT;
    skip_unless_open(rig);
    assert_fails(cgroup_open_entry(&rig->root, "three", &entry, &err), ERR_INTERNAL, err);
    assert_int_equal(entry.tasks_count, 0);
    assert_int_equal(entry.clone_fd, -1);
}

/* A limit that the kernel refuses: the groups made until then are gone again. */
static void test_failed_creation_leaves_nothing(void **state)
{
    struct rig *rig = *state;
    struct err err = ERR_INIT;
    struct found found = {0};
    skip_unless_open(rig);
    struct cgroup_limits wrong = limits;
    wrong.pids_max = UINT32_MAX; /* above PID_MAX_LIMIT */
    assert_fails(cgroup_create(&rig->root, "one", &wrong, 70000, &rig->config, &err), ERR_INTERNAL,
                 err);
    assert_int_equal(rig->config.procs_count, 0);
    assert_int_equal(rig->config.pids_max_fd, -1);
    assert_int_equal(rig->config.oom_event_fd, -1);
    assert_ok(cgroup_each(&rig->root, note, &found, &err), err);
    assert_int_equal(found.one, 0);
}

/* A group that was given to us. On v1 there is no such thing, and the folders stay at the roots. */
static void test_below_a_group(void **state)
{
    struct rig *rig = *state;
    struct cgroup_root below;
    struct err err = ERR_INIT;
    skip_unless_open(rig);
    bool v2 = rig->root.mode == INIT_CGROUP_V2;
    char place[64];
    char path[128];
    (void)snprintf(place, sizeof(place), "/%s/given", rig->root.folder);
    if (v2)
        assert_int_equal(mkdirat(rig->root.hierarchies[0].base_fd, "given", 0755), 0);
    assert_ok(cgroup_open_below(&below, v2 ? place : "/nowhere", "utbelow", &err), err);
    for (size_t i = 0; i < below.count; i++) {
        int place_fd = rig->root.hierarchies[i].base_fd;
        (void)snprintf(path, sizeof(path), v2 ? "given/%s" : "../%s", below.folder);
        assert_int_equal(faccessat(place_fd, path, F_OK, 0), 0);
    }
    assert_ok(cgroup_create(&below, "one", &limits, 70000, &rig->config, &err), err);
    cgroup_close_config(&rig->config);
    cgroup_retire(&below);
    assert_true(folder_is_there(&below.hierarchies[0], below.folder)); /* "one" is in it */
    assert_ok(cgroup_remove(&below, "one", &err), err);
    cgroup_retire(&below);
    assert_false(folder_is_there(&below.hierarchies[0], below.folder));
    cgroup_close(&below);
    if (v2) /* what was given is not ours to remove */
        assert_int_equal(unlinkat(rig->root.hierarchies[0].base_fd, "given", AT_REMOVEDIR), 0);
}

static void write_limit(const struct cgroup_root *root, int dir_fd, uint64_t bytes)
{
    char text[32];
    struct err err = ERR_INIT;
    bool v2 = root->mode == INIT_CGROUP_V2;
    (void)snprintf(text, sizeof(text), "%" PRIu64, bytes);
    assert_ok(fd_write_file_at(dir_fd, v2 ? "memory.max" : "memory.limit_in_bytes", text, &err),
              err);
}

/* The least of a group and those above it: an operator's MemoryMax=, a container's limit. */
static void test_memory_is_bounded_above(void **state)
{
    struct rig *rig = *state;
    skip_unless_open(rig);
    size_t at = 0;
    while (!rig->root.hierarchies[at].memory)
        at++;
    int base_fd = rig->root.hierarchies[at].base_fd;
    uint64_t outer = cgroup_memory_bound(&rig->root);
    assert_true(outer > 64U << 20);
    assert_int_equal(mkdirat(base_fd, "deep", 0755), 0);
    FD_AUTO int deep_fd = openat(base_fd, "deep", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct cgroup_root deep = {.mode = rig->root.mode, .count = 1};
    deep.hierarchies[0] = (struct cgroup_hierarchy){.base_fd = deep_fd, .memory = true};
    assert_true(cgroup_memory_bound(&deep) == outer);
    write_limit(&rig->root, base_fd, 48U << 20);
    assert_int_equal(cgroup_memory_bound(&rig->root), 48U << 20);
    assert_int_equal(cgroup_memory_bound(&deep), 48U << 20);
    write_limit(&rig->root, deep_fd, 40U << 20);
    assert_int_equal(cgroup_memory_bound(&deep), 40U << 20);
    assert_int_equal(cgroup_memory_bound(&rig->root), 48U << 20); /* not what is below */
    write_limit(&rig->root, base_fd, 32U << 20);
    assert_int_equal(cgroup_memory_bound(&deep), 32U << 20);
    deep.hierarchies[0].memory = false;
    assert_true(cgroup_memory_bound(&deep) == UINT64_MAX);
    assert_int_equal(unlinkat(base_fd, "deep", AT_REMOVEDIR), 0);
}

/* v2: what is named is not there, or can't hand limits down. */
static void test_a_group_that_is_unfit(void **state)
{
    struct rig *rig = *state;
    struct cgroup_root below;
    struct err err = ERR_INIT;
    skip_unless_open(rig);
    if (rig->root.mode != INIT_CGROUP_V2) { /* there the place has no meaning: see above */
        assert_int_not_equal(rig->root.mode, INIT_CGROUP_NONE);
        return;
    }
    char place[64];
    (void)snprintf(place, sizeof(place), "/%s/one/init", rig->root.folder);
    assert_fails(cgroup_open_below(&below, place, "utbelow", &err), ERR_UNSUPPORTED, err);
    assert_non_null(strstr(err.public_message, place));
    create(rig, "one");
    rig->pid = start_inside(rig, "one");
    assert_fails(cgroup_open_below(&below, place, "utbelow", &err), ERR_UNSUPPORTED, err);
    assert_non_null(strstr(err.public_message, "processes of its own"));
    (void)snprintf(place, sizeof(place), "/%s/one/code/low", rig->root.folder);
    assert_int_equal(mkdirat(rig->root.hierarchies[0].base_fd, "one/code/low", 0755), 0);
    assert_fails(cgroup_open_below(&below, place, "utbelow", &err), ERR_UNSUPPORTED, err);
    assert_non_null(strstr(err.public_message, "does not offer"));
    assert_int_equal(unlinkat(rig->root.hierarchies[0].base_fd, "one/code/low", AT_REMOVEDIR), 0);
}

/* As in a container: cgroups are there to look at. */
static void read_only_cgroups(void *context)
{
    struct cgroup_root root;
    struct err err = ERR_INIT;
    char line[1024];
    (void)context;
    child_leave_mounts();
    FILE *file = fopen("/proc/self/mountinfo", "re");
    require(file != NULL);
    while (fgets(line, sizeof(line), file)) {
        char path[256];
        if (strstr(line, " - cgroup") && sscanf(line, "%*d %*d %*s %*s %255s", path) == 1)
            require(mount(NULL, path, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL) == 0);
    }
    (void)fclose(file);
    require(cgroup_open(&root, "utnone", &err) == -ERR_UNSUPPORTED);
    require(strstr(err.public_message, "read-only") != NULL);
    require(root.count == 0);
}

static void test_read_only_cgroups(void **state)
{
    struct rig *rig = *state;
    skip_unless_open(rig);
    assert_int_equal(child_run(read_only_cgroups, NULL), 0);
}

static void without_cgroups(void *context)
{
    struct cgroup_root root;
    struct err err = ERR_INIT;
    (void)context;
    child_leave_mounts();
    if (umount2("/sys/fs/cgroup", MNT_DETACH) != 0)
        _exit(CHILD_SKIPPED);
    require(cgroup_open(&root, "utnone", &err) == -ERR_UNSUPPORTED);
    require(err.public_message[0] != '\0');
    require(root.count == 0);
    require(strcmp(cgroup_mode_name(&root), "none") == 0);
}

static void test_a_host_without_cgroups(void **state)
{
    (void)state;
    skip_unless_root();
    int code = child_run(without_cgroups, NULL);
    if (code == CHILD_SKIPPED)
        skip_because("/sys/fs/cgroup is no mount here");
    assert_int_equal(code, 0);
}

static void test_mode_names(void **state)
{
    (void)state;
    struct cgroup_root root = {.mode = INIT_CGROUP_V1};
    assert_string_equal(cgroup_mode_name(&root), "v1");
    root.hybrid = true;
    assert_string_equal(cgroup_mode_name(&root), "hybrid");
    root.mode = INIT_CGROUP_V2;
    assert_string_equal(cgroup_mode_name(&root), "v2");
    root.mode = INIT_CGROUP_NONE;
    assert_string_equal(cgroup_mode_name(&root), "none");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_limits_are_what_was_asked, rig_open, rig_close),
        cmocka_unit_test_setup_teardown(test_limits_change_both_ways, rig_open, rig_close),
        cmocka_unit_test_setup_teardown(test_no_limit_in_the_midst_of_a_kill, rig_open, rig_close),
        cmocka_unit_test_setup_teardown(test_each_names_what_is_there, rig_open, rig_close),
        cmocka_unit_test_setup_teardown(test_enter_kill_remove, rig_open, rig_close),
        cmocka_unit_test_setup_teardown(test_all_hierarchies_are_entered, rig_open, rig_close),
        cmocka_unit_test_setup_teardown(test_a_group_aside, rig_open, rig_close),
        cmocka_unit_test_setup_teardown(test_entry_of_nothing_fails, rig_open, rig_close),
        cmocka_unit_test_setup_teardown(test_failed_creation_leaves_nothing, rig_open, rig_close),
        cmocka_unit_test_setup_teardown(test_below_a_group, rig_open, rig_close),
        cmocka_unit_test_setup_teardown(test_memory_is_bounded_above, rig_open, rig_close),
        cmocka_unit_test_setup_teardown(test_a_group_that_is_unfit, rig_open, rig_close),
        cmocka_unit_test_setup_teardown(test_read_only_cgroups, rig_open, rig_close),
        cmocka_unit_test(test_a_host_without_cgroups),
        cmocka_unit_test(test_mode_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
