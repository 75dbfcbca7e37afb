/* A store of disks in a folder of its own, for the tests of native/disk. Its teardown fails a test
 * that left a loop device behind. For processes that use cmocka as for those that must not. */
#ifndef BERTH_TESTS_UNIT_DISK_FIXTURE_H
#define BERTH_TESTS_UNIT_DISK_FIXTURE_H

#include <dirent.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "child.h"
#include "native/disk.h"

#define MIB (UINT64_C(1) << 20)
#define DISK_BYTES (16 * MIB)

static char disk_folder[] = "/tmp/berth-test-disk-XXXXXX";
static struct disk_store store = {.dir_fd = -1};

static inline void disk_pause(void)
{
    (void)poll(NULL, 0, 5);
}

/* Loop devices on files of our folder, removed ones too. */
static inline int disk_loops(void)
{
    int count = 0;
    DIR *dir = opendir("/sys/block");
    for (const struct dirent *entry = dir ? readdir(dir) : NULL; entry; entry = readdir(dir)) {
        char path[300];
        char file[512];
        (void)snprintf(path, sizeof(path), "/sys/block/%s/loop/backing_file", entry->d_name);
        if (strncmp(entry->d_name, "loop", 4) == 0 &&
            fd_read_file_at(AT_FDCWD, path, file, sizeof(file), NULL) > 0 &&
            strncmp(file, disk_folder, strlen(disk_folder)) == 0)
            count++;
    }
    if (dir)
        (void)closedir(dir);
    return count;
}

/* The last mount may be closed by a process that is just dying: waits, 30 s at the most. */
static inline bool disk_loops_gone(void)
{
    for (int i = 0; i < 6000 && disk_loops() > 0; i++)
        disk_pause();
    return disk_loops() == 0;
}

static inline void disk_count_one(void *context, const char *id, bool kept)
{
    (void)id;
    (void)kept;
    ++*(int *)context;
}

/* Names in the store; -1 when it can't be read. */
static inline int disk_names(void)
{
    int count = 0;
    return disk_each(&store, disk_count_one, &count, NULL) == 0 ? count : -1;
}

static inline bool disk_has(const char *name)
{
    return faccessat(store.dir_fd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

/* Waits for the end of a job. */
static inline int disk_wait(struct disk_job *job, int *out_mount_fd, struct err *err)
{
    int result = disk_finish(job, out_mount_fd, err);
    while (result == -ERR_UNAVAILABLE && job->pid > 0) {
        struct pollfd poller = {.fd = job->fd, .events = POLLIN};
        (void)poll(&poller, 1, -1);
        result = disk_finish(job, out_mount_fd, err);
    }
    return result;
}

static inline int disk_make_now(const char *id, uint64_t size_bytes, bool keep, int *out_mount_fd,
                                struct err *err)
{
    struct disk_job job = DISK_JOB_INIT;
    int result = disk_begin(&store, id, size_bytes, keep, &job, err);
    return result == 0 ? disk_wait(&job, out_mount_fd, err) : result;
}

static inline int disk_open_kept_now(const char *id, int *out_mount_fd, struct err *err)
{
    struct disk_job job = DISK_JOB_INIT;
    int result = disk_begin_kept(&store, id, &job, err);
    return result == 0 ? disk_wait(&job, out_mount_fd, err) : result;
}

/* Writes a file of size bytes that only fill knows, and syncs it; false with errno. */
static inline bool disk_put(int dir_fd, const char *name, char fill, size_t size)
{
    char block[65536];
    memset(block, fill, sizeof(block));
    FD_AUTO int fd = openat(dir_fd, name, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    while (fd >= 0 && size > 0) {
        size_t part = size < sizeof(block) ? size : sizeof(block);
        if (write(fd, block, part) != (ssize_t)part)
            return false;
        size -= part;
    }
    return fd >= 0 && fsync(fd) == 0;
}

static inline bool disk_holds(int dir_fd, const char *name, char fill, size_t size)
{
    char block[65536];
    FD_AUTO int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t got = 0;
    while ((got = read(fd, block, sizeof(block))) > 0) {
        for (ssize_t i = 0; i < got; i++) {
            if (block[i] != fill)
                return false;
        }
        size -= (size_t)got;
    }
    return got == 0 && size == 0;
}

static inline int disk_setup(void **state)
{
    struct err err = ERR_INIT;
    (void)state;
    memcpy(disk_folder + sizeof(disk_folder) - 7, "XXXXXX", 6);
    FD_AUTO int fd =
        mkdtemp(disk_folder) ? open(disk_folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    return fd < 0 ? -1 : disk_open(fd, &store, &err);
}

static inline int disk_teardown(void **state)
{
    (void)state;
    bool gone = disk_loops_gone();
    disk_close(&store);
    child_remove_tree(disk_folder);
    if (!gone)
        print_error("a loop device was left behind\n");
    return gone ? 0 : -1;
}

/* Disks need root and loop devices. */
#define skip_unless_disks()                                                                        \
    do {                                                                                           \
        struct err reason = ERR_INIT;                                                              \
        skip_unless_root();                                                                        \
        if (disk_check(&reason) != 0)                                                              \
            skip_because(reason.message);                                                          \
    } while (0)

#define on_store(test) cmocka_unit_test_setup_teardown(test, disk_setup, disk_teardown)

#endif
