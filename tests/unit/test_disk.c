/* native/disk: a disk holds what was asked for and no more, is empty at first, has its files again
 * when it was kept, and is mounted once at a time. */
#include "check.h"

#include <errno.h>
#include <grp.h>
#include <linux/magic.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>

#include "disk_fixture.h"
#include "native/mountfd.h"

#define USER_ID 1000
#define OVER_MAX (8 * MIB) /* what may fit beyond the size */

static void test_a_new_disk(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct stat info;
    struct statfs kind;
    struct statvfs flags;
    FD_AUTO int mount_fd = -1;
    skip_unless_disks();
    assert_ok(disk_make_now("one", DISK_BYTES, false, &mount_fd, &err), err);
    assert_true((fcntl(mount_fd, F_GETFD) & FD_CLOEXEC) != 0);
    assert_int_equal(fstat(mount_fd, &info), 0);
    assert_int_equal(info.st_mode, S_IFDIR | 0755);
    assert_int_equal(info.st_uid, 0);
    assert_int_equal(info.st_nlink, 2); /* no lost+found */
    assert_int_equal(fstatfs(mount_fd, &kind), 0);
    assert_int_equal(kind.f_type, EXT4_SUPER_MAGIC);
    assert_int_equal(fstatvfs(mount_fd, &flags), 0);
    assert_int_equal(flags.f_flag & (ST_NODEV | ST_NOSUID | ST_RDONLY), ST_NODEV);
    assert_int_equal(disk_loops(), 1);
    assert_true(disk_has("one.img"));
    assert_false(disk_is_kept(&store, "one"));
    assert_int_equal(disk_names(), 1);
    /* its name may go before it does */
    assert_ok(disk_remove(&store, "one", &err), err);
    assert_ok(disk_remove(&store, "one", &err), err);
    assert_int_equal(disk_names(), 0);
    assert_true(disk_put(mount_fd, "file", 'a', 100000));
    assert_true(disk_holds(mount_fd, "file", 'a', 100000));
    fd_close(&mount_fd);
    assert_true(disk_loops_gone());
}

struct fill {
    int mount_fd;
    uint64_t size_bytes;
    bool write; /* else only blocks are taken, which is quick */
};

/* As an ordinary user: the whole size fits into one file, and little more. */
static void fill_up(void *context)
{
    const struct fill *fill = context;
    require(setgroups(0, NULL) == 0 && setresgid(USER_ID, USER_ID, USER_ID) == 0 &&
            setresuid(USER_ID, USER_ID, USER_ID) == 0);
    if (fill->write) {
        require(disk_put(fill->mount_fd, "all", 'f', fill->size_bytes));
        require(disk_holds(fill->mount_fd, "all", 'f', fill->size_bytes));
    }
    FD_AUTO int fd = openat(fill->mount_fd, "all", O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    require(fd >= 0 && fallocate(fd, 0, 0, (off_t)fill->size_bytes) == 0);
    FD_AUTO int more_fd = openat(fill->mount_fd, "more", O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    static char block[65536];
    uint64_t over = 0;
    ssize_t written = 0;
    while ((written = write(more_fd, block, sizeof(block))) > 0 && over <= OVER_MAX)
        over += (uint64_t)written;
    require(written < 0 && errno == ENOSPC);
    require(over <= OVER_MAX && over <= fill->size_bytes / 4);
}

static void check_size(uint64_t size_bytes, bool keep, bool write)
{
    struct err err = ERR_INIT;
    struct fill fill = {.mount_fd = -1, .size_bytes = size_bytes, .write = write};
    assert_ok(disk_make_now("sized", size_bytes, keep, &fill.mount_fd, &err), err);
    assert_int_equal(fchmodat(fill.mount_fd, ".", 01777, 0), 0);
    int code = child_run(fill_up, &fill);
    fd_close(&fill.mount_fd);
    assert_ok(disk_remove(&store, "sized", &err), err);
    if (code != 0)
        fail_msg("a disk of %llu bytes, keep %d: %d", (unsigned long long)size_bytes, keep, code);
}

static void test_the_size_is_true(void **state)
{
    (void)state;
    skip_unless_disks();
    for (int keep = 0; keep < 2; keep++) {
        check_size(64 * MIB, keep == 1, true);
        check_size(DISK_SIZE_MIN, keep == 1, true);
        check_size(DISK_SIZE_MIN + 1, keep == 1, false);
        check_size(256 * MIB, keep == 1, false);
        check_size(1024 * MIB, keep == 1, false);
        check_size(1000000000, keep == 1, false);
        /* about where mke2fs begins a second and a third group of blocks, and drops small ones */
        for (uint64_t size = 112 * MIB; size <= 132 * MIB; size += MIB)
            check_size(size, keep == 1, false);
        for (uint64_t size = 236 * MIB; size <= 252 * MIB; size += 2 * MIB)
            check_size(size, keep == 1, false);
    }
}

static void test_files_run_out(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct statvfs info;
    FD_AUTO int mount_fd = -1;
    skip_unless_disks();
    assert_ok(disk_make_now("files", DISK_BYTES, false, &mount_fd, &err), err);
    assert_int_equal(fstatvfs(mount_fd, &info), 0);
    assert_in_range(info.f_ffree, DISK_BYTES / DISK_BYTES_PER_INODE - 16, 3000);
    uint64_t made = 0;
    while (made < 10000) {
        char name[16];
        (void)snprintf(name, sizeof(name), "f%d", (int)made);
        FD_AUTO int fd = openat(mount_fd, name, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
        if (fd < 0)
            break;
        made++;
    }
    assert_int_equal(errno, ENOSPC);
    assert_int_equal(made, info.f_ffree);
    assert_int_equal(unlinkat(mount_fd, "f7", 0), 0);
    assert_true(disk_put(mount_fd, "again", 'a', 5000));
}

struct seen {
    int kept;
    int other;
};

static void see(void *context, const char *id, bool kept)
{
    struct seen *seen = context;
    struct err err = ERR_INIT;
    if (kept && strcmp(id, "stays") == 0)
        seen->kept++;
    else
        seen->other++;
    assert_ok(disk_remove(&store, id, &err), err);
}

static void test_a_kept_one_has_its_files(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    FD_AUTO int mount_fd = -1;
    skip_unless_disks();
    assert_ok(disk_make_now("stays", DISK_BYTES, true, &mount_fd, &err), err);
    assert_true(disk_put(mount_fd, "file", 'k', 3 * MIB));
    assert_int_equal(fchownat(mount_fd, "file", 17, 18, 0), 0);
    for (int i = 0; i < 3; i++) {
        struct stat info;
        fd_close(&mount_fd);
        assert_true(disk_loops_gone());
        assert_true(disk_is_kept(&store, "stays"));
        assert_ok(disk_open_kept_now("stays", &mount_fd, &err), err);
        assert_true(disk_holds(mount_fd, "file", 'k', 3 * MIB));
        assert_int_equal(fstatat(mount_fd, "file", &info, 0), 0);
        assert_int_equal(info.st_uid, 17);
    }
    fd_close(&mount_fd);
    /* another of the same id is refused; the journal tells it */
    assert_fails(disk_make_now("stays", DISK_BYTES, false, &mount_fd, &err), ERR_CONFLICT, err);
    FD_AUTO int foreign_fd = openat(store.dir_fd, "x.other", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(foreign_fd >= 0);
    struct seen seen = {0};
    assert_ok(disk_each(&store, see, &seen, &err), err);
    assert_int_equal(seen.kept, 1);
    assert_int_equal(seen.other, 0);
    assert_false(disk_is_kept(&store, "stays"));
    assert_true(disk_has("x.other"));
    assert_fails(disk_open_kept_now("stays", &mount_fd, &err), ERR_NOT_FOUND, err);
}

/* What deleted files took goes back to the host. */
static void test_a_kept_one_shrinks(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct stat full;
    struct stat empty;
    FD_AUTO int mount_fd = -1;
    skip_unless_disks();
    assert_ok(disk_make_now("less", 64 * MIB, true, &mount_fd, &err), err);
    assert_true(disk_put(mount_fd, "big", 'b', 40 * MIB));
    assert_int_equal(fstatat(store.dir_fd, "less.keep", &full, 0), 0);
    assert_true(full.st_blocks * 512 >= (off_t)(40 * MIB));
    assert_int_equal(unlinkat(mount_fd, "big", 0), 0);
    fd_close(&mount_fd);
    assert_true(disk_loops_gone());
    assert_int_equal(fstatat(store.dir_fd, "less.keep", &empty, 0), 0);
    assert_true(empty.st_blocks * 512 <= (off_t)(10 * MIB));
}

/* Two loop devices on one file would destroy it: the second mount waits for the end of the first.
 */
static void test_mounted_once_at_a_time(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    FD_AUTO int first_fd = -1;
    FD_AUTO int second_fd = -1;
    struct disk_job job = DISK_JOB_INIT;
    skip_unless_disks();
    assert_ok(disk_make_now("once", DISK_BYTES, true, &first_fd, &err), err);
    assert_ok(disk_begin_kept(&store, "once", &job, &err), err);
    struct pollfd poller = {.fd = job.fd, .events = POLLIN};
    assert_int_equal(poll(&poller, 1, 150), 0);
    assert_int_equal(disk_finish(&job, &second_fd, &err), -ERR_UNAVAILABLE);
    assert_true(job.pid > 0);
    assert_true(disk_put(first_fd, "late", 'l', 4096));
    fd_close(&first_fd);
    assert_ok(disk_wait(&job, &second_fd, &err), err);
    assert_int_equal(job.pid, 0);
    assert_int_equal(job.fd, -1);
    assert_true(disk_holds(second_fd, "late", 'l', 4096));
    assert_int_equal(disk_loops(), 1);
}

static void test_many_at_once(void **state)
{
    enum { COUNT = 12 };
    (void)state;
    struct err err = ERR_INIT;
    struct disk_job jobs[COUNT];
    int mount_fds[COUNT];
    dev_t devices[COUNT];
    skip_unless_disks();
    for (int i = 0; i < COUNT; i++) {
        char id[8];
        (void)snprintf(id, sizeof(id), "d%d", i);
        assert_ok(disk_begin(&store, id, DISK_BYTES, i % 2 == 1, &jobs[i], &err), err);
    }
    assert_fails(disk_begin(&store, "d3", DISK_BYTES, true, &jobs[3], &err), ERR_CONFLICT, err);
    for (int i = 0; i < COUNT; i++) {
        struct stat info;
        assert_ok(disk_wait(&jobs[i], &mount_fds[i], &err), err);
        assert_true(disk_put(mount_fds[i], "file", (char)('a' + i), 50000));
        assert_int_equal(fstat(mount_fds[i], &info), 0);
        devices[i] = info.st_dev;
        for (int j = 0; j < i; j++)
            assert_int_not_equal(devices[i], devices[j]);
    }
    assert_int_equal(disk_loops(), COUNT);
    assert_int_equal(disk_names(), COUNT);
    for (int i = 0; i < COUNT; i++) {
        assert_true(disk_holds(mount_fds[i], "file", (char)('a' + i), 50000));
        fd_close(&mount_fds[i]);
    }
}

static void test_bad_requests(void **state)
{
    char long_id[DISK_ID_MAX + 2] = "";
    memset(long_id, 'a', DISK_ID_MAX + 1);
    const char *const bad[] = {"",      ".",  "..",  "a/b", "../a", "A",
                               "a.img", "-a", "a b", "a\n", long_id};
    (void)state;
    struct err err = ERR_INIT;
    struct disk_job job = DISK_JOB_INIT;
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        assert_fails(disk_begin(&store, bad[i], DISK_BYTES, false, &job, &err), ERR_BAD_INPUT, err);
        assert_fails(disk_begin_kept(&store, bad[i], &job, &err), ERR_BAD_INPUT, err);
        assert_fails(disk_remove(&store, bad[i], &err), ERR_BAD_INPUT, err);
        assert_false(disk_is_kept(&store, bad[i]));
    }
    assert_fails(disk_begin(&store, "a", DISK_SIZE_MIN - 1, false, &job, &err), ERR_BAD_INPUT, err);
    assert_fails(disk_begin(&store, "a", DISK_SIZE_MAX + 1, false, &job, &err), ERR_BAD_INPUT, err);
    assert_fails(disk_begin(&store, "a", UINT64_MAX, false, &job, &err), ERR_BAD_INPUT, err);
    assert_fails(disk_begin_kept(&store, "a", &job, &err), ERR_NOT_FOUND, err);
    assert_int_equal(job.pid, 0);
    assert_int_equal(symlinkat("/dev/zero", store.dir_fd, "b.keep"), 0);
    assert_fails(disk_begin_kept(&store, "b", &job, &err), ERR_INTERNAL, err);
    disk_abort(&job); /* of none */
    disk_cancel(&job);
}

static void test_the_folder(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct stat info;
    struct disk_store other = {.dir_fd = -1};
    assert_int_equal(fstat(store.dir_fd, &info), 0);
    assert_int_equal(info.st_mode, S_IFDIR | 0700);
    assert_true((fcntl(store.dir_fd, F_GETFD) & FD_CLOEXEC) != 0);
    assert_int_equal(symlinkat("/tmp", store.dir_fd, "disks"), 0);
    assert_fails(disk_open(store.dir_fd, &other, &err), ERR_INTERNAL, err);
}

static void test_space(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct disk_space before;
    struct disk_space after;
    struct disk_space written;
    FD_AUTO int mount_fd = -1;
    skip_unless_disks();
    assert_ok(disk_measure(&store, &before, &err), err);
    assert_int_equal(before.promised_bytes, 0);
    assert_int_equal(before.written_bytes, 0);
    assert_true(before.free_bytes > 0 && before.free_bytes <= before.total_bytes);
    assert_ok(disk_make_now("sparse", 64 * MIB, false, &mount_fd, &err), err);
    assert_ok(disk_measure(&store, &after, &err), err);
    assert_in_range(after.promised_bytes, 63 * MIB, 72 * MIB);
    assert_true(disk_put(mount_fd, "file", 'w', 20 * MIB));
    assert_ok(disk_measure(&store, &written, &err), err);
    assert_in_range(after.promised_bytes - written.promised_bytes, 19 * MIB, 24 * MIB);
    assert_in_range(written.written_bytes - after.written_bytes, 19 * MIB, 24 * MIB);
    assert_int_equal(written.written_bytes + written.promised_bytes,
                     after.written_bytes + after.promised_bytes);
}

static void id_maps(void *context)
{
    struct err err = ERR_INIT;
    struct stat info;
    pid_t pid = 0;
    FD_AUTO int mount_fd = -1;
    (void)context;
    child_leave_mounts();
    FD_AUTO int userns_fd = child_open_userns(100000, &pid);
    require_ok(disk_make_now("mapped", DISK_BYTES, false, &mount_fd, &err), err);
    require_ok(mountfd_idmap(mount_fd, userns_fd, &err), err);
    /* by its path: what was opened before belongs to the mount namespace that we left */
    FD_AUTO int place_fd = open(disk_folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    require_ok(mountfd_attach(mount_fd, place_fd, "disks", &err), err);
    FD_AUTO int root_fd = openat(place_fd, "disks", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    require(fstat(root_fd, &info) == 0 && info.st_uid == 100000 && info.st_gid == 100000);
    /* an id that the map lacks can make no file, one that it has can */
    require(!disk_put(root_fd, "mine", 'm', 1) && errno == EOVERFLOW);
    require(setresgid(100000, 100000, 100000) == 0 && setresuid(100000, 100000, 0) == 0);
    require(disk_put(root_fd, "mine", 'm', 1));
    require(fstatat(root_fd, "mine", &info, 0) == 0 && info.st_uid == 100000);
    require(setresuid(0, 0, 0) == 0);
    (void)kill(pid, SIGKILL);
    (void)waitpid(pid, NULL, 0);
}

static void test_id_maps(void **state)
{
    (void)state;
    skip_unless_disks();
    assert_int_equal(child_run(id_maps, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        on_store(test_a_new_disk),
        on_store(test_the_size_is_true),
        on_store(test_files_run_out),
        on_store(test_a_kept_one_has_its_files),
        on_store(test_a_kept_one_shrinks),
        on_store(test_mounted_once_at_a_time),
        on_store(test_many_at_once),
        on_store(test_bad_requests),
        on_store(test_the_folder),
        on_store(test_space),
        on_store(test_id_maps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
