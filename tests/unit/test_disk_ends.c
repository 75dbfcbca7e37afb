/* native/disk when something ends too early: the child at any step, the engine, a power cut, a host
 * whose own disk is full, tools that fail. No end leaves a loop device, a process, or a file that
 * disk_remove() does not find, and none takes what was kept. */
#include "check.h"

#include <errno.h>
#include <sys/sysmacros.h>

#include "base/fault.h"
#include "base/id.h"
#include "disk_fixture.h"

#define ABORTS 100
#define ABORT_SPREAD_US 4000 /* about as long as the making of a disk takes */

static const char *const points[] = {"disk.file", "disk.mkfs", "disk.loop", "disk.mount",
                                     "disk.named"};

static int teardown(void **state)
{
    fault_set(NULL);
    return disk_teardown(state);
}

/* Whether the process is gone, or dead and only waits for its parent. */
static bool is_dead(pid_t pid)
{
    char path[64];
    char text[512];
    (void)snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    if (fd_read_file_at(AT_FDCWD, path, text, sizeof(text), NULL) <= 0)
        return true;
    const char *end = strrchr(text, ')');
    return end && (end[2] == 'Z' || end[2] == 'X');
}

static bool dies(pid_t pid)
{
    for (int i = 0; i < 6000 && !is_dead(pid); i++)
        disk_pause();
    return is_dead(pid);
}

static void test_aborts(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    skip_unless_disks();
    for (int i = 0; i < ABORTS; i++) {
        struct disk_job job = DISK_JOB_INIT;
        uint32_t random = 0;
        id_random(&random, sizeof(random));
        assert_ok(disk_begin(&store, "aborted", DISK_BYTES, i % 2 == 1, &job, &err), err);
        pid_t pid = job.pid;
        (void)usleep(random % ABORT_SPREAD_US);
        disk_abort(&job);
        assert_int_equal(job.pid, 0);
        assert_int_equal(job.fd, -1);
        assert_int_equal(kill(pid, 0), -1); /* reaped */
        assert_ok(disk_remove(&store, "aborted", &err), err);
        assert_int_equal(disk_names(), 0);
    }
    assert_true(disk_loops_gone());
}

static void test_cancelled(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    FD_AUTO int first_fd = -1;
    FD_AUTO int second_fd = -1;
    struct disk_job job = DISK_JOB_INIT;
    skip_unless_disks();
    assert_ok(disk_make_now("held", DISK_BYTES, true, &first_fd, &err), err);
    assert_ok(disk_begin_kept(&store, "held", &job, &err), err);
    disk_cancel(&job);
    assert_fails(disk_wait(&job, &second_fd, &err), ERR_INTERNAL, err);
    assert_int_equal(job.pid, 0);
    assert_true(disk_is_kept(&store, "held"));
}

static void test_killed_at_each_step(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    FD_AUTO int mount_fd = -1;
    skip_unless_disks();
    for (size_t i = 0; i < ARRAY_SIZE(points); i++) {
        bool named = strcmp(points[i], "disk.named") == 0;
        fault_set(points[i]);
        assert_fails(disk_make_now("new", DISK_BYTES, false, &mount_fd, &err), ERR_INTERNAL, err);
        fault_set(NULL);
        assert_true(disk_loops_gone());
        assert_int_equal(disk_names(), 1);
        assert_true(disk_has(named ? "new.img" : "new.new"));
        assert_fails(disk_make_now("new", DISK_BYTES, false, &mount_fd, &err), ERR_CONFLICT, err);
        assert_ok(disk_remove(&store, "new", &err), err);
        assert_int_equal(disk_names(), 0);
    }
    assert_ok(disk_make_now("new", DISK_BYTES, false, &mount_fd, &err), err);
}

static void test_kept_survives_each_step(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    FD_AUTO int mount_fd = -1;
    skip_unless_disks();
    assert_ok(disk_make_now("kept", DISK_BYTES, true, &mount_fd, &err), err);
    assert_true(disk_put(mount_fd, "file", 's', MIB));
    fd_close(&mount_fd);
    for (size_t i = 0; i < ARRAY_SIZE(points); i++) {
        fault_set(points[i]);
        assert_fails(disk_open_kept_now("kept", &mount_fd, &err), ERR_INTERNAL, err);
        fault_set(NULL);
        assert_ok(disk_open_kept_now("kept", &mount_fd, &err), err);
        assert_true(disk_holds(mount_fd, "file", 's', MIB));
        fd_close(&mount_fd);
    }
}

/* An engine of our own: makes a disk, begins to open one that the test has mounted, so that its
 * child waits, tells the child's process id, and is killed. */
static _Noreturn void be_engine(int told_fd)
{
    struct err err = ERR_INIT;
    FD_AUTO int mount_fd = -1;
    struct disk_job job = DISK_JOB_INIT;
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    require_ok(disk_make_now("own", DISK_BYTES, true, &mount_fd, &err), err);
    require(disk_put(mount_fd, "file", 'e', MIB));
    FD_AUTO int extra_fd = dup(mount_fd); /* stays open over exec: the child has to close it */
    require(extra_fd >= 0);
    require_ok(disk_begin_kept(&store, "held", &job, &err), err);
    require(write(told_fd, &job.pid, sizeof(job.pid)) == (ssize_t)sizeof(job.pid));
    for (;;)
        (void)pause();
}

/* What the child holds once it waits for the lock: the usual three, and the three it works with. */
static bool holds_only_its_own(pid_t pid)
{
    char path[64];
    int count = 0;
    for (int i = 0; i < 6000; i++) {
        (void)snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
        DIR *dir = opendir(path);
        count = 0;
        for (const struct dirent *entry = dir ? readdir(dir) : NULL; entry; entry = readdir(dir))
            count += entry->d_name[0] != '.' ? 1 : 0;
        if (dir)
            (void)closedir(dir);
        if (count > 0 && count <= 6)
            return true;
        disk_pause(); /* it has just been forked */
    }
    return false;
}

static void test_the_engine_is_killed(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    FD_AUTO int held_fd = -1;
    FD_AUTO int own_fd = -1;
    int told[2];
    pid_t child = 0;
    skip_unless_disks();
    assert_ok(disk_make_now("held", DISK_BYTES, true, &held_fd, &err), err);
    assert_int_equal(pipe2(told, O_CLOEXEC), 0);
    pid_t engine = fork();
    if (engine == 0)
        be_engine(told[1]);
    (void)close(told[1]);
    assert_int_equal(read(told[0], &child, sizeof(child)), sizeof(child));
    (void)close(told[0]);
    assert_true(holds_only_its_own(child));
    assert_int_equal(disk_loops(), 2);
    assert_int_equal(kill(engine, SIGKILL), 0);
    assert_int_equal(waitpid(engine, NULL, 0), engine);
    assert_true(dies(child)); /* while what it waits for goes on */
    assert_ok(disk_open_kept_now("own", &own_fd, &err), err);
    assert_true(disk_holds(own_fd, "file", 'e', MIB));
    fd_close(&held_fd);
    assert_ok(disk_open_kept_now("held", &held_fd, &err), err);
}

/* What a power cut leaves is what the file holds while it is mounted. */
static void test_power_cut(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    FD_AUTO int mount_fd = -1;
    FD_AUTO int after_fd = -1;
    skip_unless_disks();
    assert_ok(disk_make_now("before", DISK_BYTES, true, &mount_fd, &err), err);
    assert_int_equal(mkdirat(mount_fd, "folder", 0755), 0);
    assert_true(disk_put(mount_fd, "folder/synced", 'p', 2 * MIB));
    FD_AUTO int from_fd = openat(store.dir_fd, "before.keep", O_RDONLY | O_CLOEXEC);
    FD_AUTO int to_fd =
        openat(store.dir_fd, "after.keep", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    for (;;) {
        ssize_t copied = copy_file_range(from_fd, NULL, to_fd, NULL, 1 << 20, 0);
        assert_true(copied >= 0);
        if (copied == 0)
            break;
    }
    assert_ok(disk_open_kept_now("after", &after_fd, &err), err);
    assert_true(disk_holds(after_fd, "folder/synced", 'p', 2 * MIB));
}

/* The store on a small tmpfs of its own: what was written before the host ran full is there after.
 */
static void host_runs_full(void *context)
{
    struct err err = ERR_INIT;
    FD_AUTO int mount_fd = -1;
    (void)context;
    child_leave_mounts();
    require(mount("none", disk_folder, "tmpfs", 0, "size=24m") == 0);
    FD_AUTO int folder_fd = open(disk_folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    disk_close(&store);
    require_ok(disk_open(folder_fd, &store, &err), err);
    require_ok(disk_make_now("kept", 64 * MIB, true, &mount_fd, &err), err);
    require(disk_put(mount_fd, "good", 'g', 8 * MIB));
    require(!disk_put(mount_fd, "bad", 'b', 40 * MIB));
    require(errno == ENOSPC || errno == EIO || errno == EROFS);
    for (int i = 0; i < 300; i++) { /* until it can't even write its journal */
        char name[16];
        (void)snprintf(name, sizeof(name), "d%d", i);
        (void)mkdirat(mount_fd, name, 0755);
        (void)disk_put(mount_fd, "more", 'm', 65536);
    }
    fd_close(&mount_fd);
    require(mount("none", disk_folder, "tmpfs", MS_REMOUNT, "size=200m") == 0);
    require_ok(disk_open_kept_now("kept", &mount_fd, &err), err);
    require(disk_holds(mount_fd, "good", 'g', 8 * MIB));
    require(disk_put(mount_fd, "new", 'n', 40 * MIB));
    fd_close(&mount_fd);
    require_ok(disk_open_kept_now("kept", &mount_fd, &err), err);
    require(disk_holds(mount_fd, "new", 'n', 40 * MIB));
}

/* A container's /dev, in which nobody makes the nodes of loop devices. */
static void no_nodes(void *context)
{
    struct err err = ERR_INIT;
    struct stat info;
    FD_AUTO int mount_fd = -1;
    (void)context;
    child_leave_mounts();
    require(mount("none", "/dev", "tmpfs", 0, "size=1m") == 0);
    require(mknod("/dev/null", S_IFCHR | 0666, makedev(1, 3)) == 0);
    require_ok(disk_check(&err), err);
    require_ok(disk_make_now("one", DISK_BYTES, false, &mount_fd, &err), err);
    require(stat("/dev/loop-control", &info) == 0 && S_ISCHR(info.st_mode));
    require(disk_put(mount_fd, "file", 'n', 1000));
}

/* A tool that fails is named, with its exit code, and nothing is mounted. */
static void tool_fails(void *context)
{
    struct err err = ERR_INIT;
    FD_AUTO int mount_fd = -1;
    (void)context;
    child_leave_mounts();
    require(mount("/bin/false", "/usr/sbin/mke2fs", NULL, MS_BIND, NULL) == 0);
    require(disk_make_now("one", DISK_BYTES, false, &mount_fd, &err) == -ERR_INTERNAL);
    require(strstr(err.message, "mke2fs ended with 1") != NULL);
    require(mount_fd == -1 && disk_has("one.new") && disk_loops() == 0);
}

static void run_in_child(void (*fn)(void *context))
{
    assert_int_equal(child_run(fn, NULL), 0);
}

static void test_host_runs_full(void **state)
{
    (void)state;
    skip_unless_disks();
    run_in_child(host_runs_full);
}

static void test_no_nodes(void **state)
{
    (void)state;
    skip_unless_disks();
    run_in_child(no_nodes);
}

static void test_tool_fails(void **state)
{
    (void)state;
    skip_unless_disks();
    run_in_child(tool_fails);
}

static void test_damaged(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    FD_AUTO int mount_fd = -1;
    skip_unless_disks();
    assert_ok(disk_make_now("kept", DISK_BYTES, true, &mount_fd, &err), err);
    fd_close(&mount_fd);
    assert_true(disk_loops_gone());
    FD_AUTO int fd = openat(store.dir_fd, "kept.keep", O_WRONLY | O_CLOEXEC);
    assert_int_equal(pwrite(fd, "no superblock", 13, 1024 + 56), 13);
    assert_fails(disk_open_kept_now("kept", &mount_fd, &err), ERR_INTERNAL, err);
    assert_non_null(strstr(err.message, "e2fsck"));
    assert_true(disk_is_kept(&store, "kept"));
}

#define ending(test) cmocka_unit_test_setup_teardown(test, disk_setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        ending(test_aborts),
        ending(test_cancelled),
        ending(test_killed_at_each_step),
        ending(test_kept_survives_each_step),
        ending(test_the_engine_is_killed),
        ending(test_power_cut),
        ending(test_host_runs_full),
        ending(test_no_nodes),
        ending(test_tool_fails),
        ending(test_damaged),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
