/* native/mountfd, in mount namespaces of its own: a tmpfs of its size, clones, restrictions. */
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

#include "base/fd.h"
#include "child.h"
#include "folder.h"
#include "native/mountfd.h"

static int put(int dir_fd, const char *name, mode_t mode)
{
    FD_AUTO int fd = openat(dir_fd, name, O_WRONLY | O_CREAT | O_CLOEXEC, mode);
    return fd < 0 ? -errno : 0;
}

/* A mebibyte of tmpfs with 16 inodes, on the folder. */
static int mount_tmpfs(void)
{
    struct err err = ERR_INIT;
    int fd = -1;
    require_ok(mountfd_tmpfs(1048576, 16, MOUNT_ATTR_NOSUID, &fd, &err), err);
    require((fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
    require_ok(mountfd_attach(fd, AT_FDCWD, folder, &err), err);
    return fd;
}

static void tmpfs_has_its_size(void *context)
{
    struct statvfs info;
    struct stat root;
    (void)context;
    child_leave_mounts();
    FD_AUTO int fd = mount_tmpfs();
    require(statvfs(folder, &info) == 0);
    require(info.f_blocks * info.f_frsize == 1048576);
    require(info.f_files == 16);
    require((info.f_flag & ST_NOSUID) != 0);
    require(stat(folder, &root) == 0);
    require((root.st_mode & 07777) == 0755);
    FD_AUTO int dir_fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    FD_AUTO int file_fd = openat(dir_fd, "big", O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    static char block[256 * 1024];
    ssize_t written = 0;
    size_t total = 0;
    while ((written = write(file_fd, block, sizeof(block))) > 0 && total < 8U << 20)
        total += (size_t)written;
    require(written < 0 && errno == ENOSPC);
    require(total <= 1048576);
    int result = 0;
    for (int i = 0; i < 32 && result == 0; i++) {
        char name[16];
        (void)snprintf(name, sizeof(name), "f%d", i);
        result = put(dir_fd, name, 0644);
    }
    require(result == -ENOSPC);
}

static void wrong_options(void *context)
{
    struct err err = ERR_INIT;
    int fd = -1;
    (void)context;
    const char *const wrong[] = {"size", "not a size", NULL};
    require(mountfd_make("tmpfs", wrong, 0, &fd, &err) == -ERR_INTERNAL);
    require(fd == -1);
    require(mountfd_clone(AT_FDCWD, "/nonexistent/berth", false, &fd, &err) == -ERR_INTERNAL);
    require(mountfd_restrict(-1, MOUNT_ATTR_RDONLY, &err) == -ERR_INTERNAL);
    require(mountfd_attach(-1, AT_FDCWD, folder, &err) == -ERR_INTERNAL);
}

static void read_only_clone(void *context)
{
    struct err err = ERR_INIT;
    (void)context;
    child_leave_mounts();
    FD_AUTO int fd = mount_tmpfs();
    FD_AUTO int dir_fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    require(mkdirat(dir_fd, "source", 0755) == 0 && mkdirat(dir_fd, "target", 0755) == 0);
    require(put(dir_fd, "source/file", 0644) == 0);
    FD_AUTO int clone_fd = -1;
    require_ok(mountfd_clone(dir_fd, "source", false, &clone_fd, &err), err);
    require((fcntl(clone_fd, F_GETFD) & FD_CLOEXEC) != 0);
    require_ok(mountfd_restrict(clone_fd, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOEXEC, &err), err);
    require_ok(mountfd_attach(clone_fd, dir_fd, "target", &err), err);
    require(faccessat(dir_fd, "target/file", F_OK, 0) == 0);
    require(put(dir_fd, "target/new", 0644) == -EROFS);
    /* the mount it came from stays as it was */
    require(put(dir_fd, "source/new", 0644) == 0);
    require(faccessat(dir_fd, "target/new", F_OK, 0) == 0);
}

/* A clone of one folder carries what is mounted below it only when it is asked to. */
static void recursion(void *context)
{
    struct err err = ERR_INIT;
    (void)context;
    child_leave_mounts();
    FD_AUTO int fd = mount_tmpfs();
    FD_AUTO int dir_fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    static const char *const names[] = {"source", "source/inner", "with", "without"};
    for (size_t i = 0; i < ARRAY_SIZE(names); i++)
        require(mkdirat(dir_fd, names[i], 0755) == 0);
    FD_AUTO int inner_fd = -1;
    require_ok(mountfd_tmpfs(65536, 8, 0, &inner_fd, &err), err);
    require_ok(mountfd_attach(inner_fd, dir_fd, "source/inner", &err), err);
    require(put(dir_fd, "source/inner/file", 0644) == 0);
    FD_AUTO int with_fd = -1;
    FD_AUTO int without_fd = -1;
    require_ok(mountfd_clone(dir_fd, "source", true, &with_fd, &err), err);
    require_ok(mountfd_clone(dir_fd, "source", false, &without_fd, &err), err);
    require_ok(mountfd_attach(with_fd, dir_fd, "with", &err), err);
    require_ok(mountfd_attach(without_fd, dir_fd, "without", &err), err);
    require(faccessat(dir_fd, "with/inner/file", F_OK, 0) == 0);
    require(faccessat(dir_fd, "without/inner/file", F_OK, 0) != 0);
    /* "" is the folder itself: what was mounted last lies on top */
    FD_AUTO int top_fd = openat(dir_fd, "without", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    FD_AUTO int again_fd = -1;
    require_ok(mountfd_clone(inner_fd, "", false, &again_fd, &err), err);
    require_ok(mountfd_attach(again_fd, top_fd, "", &err), err);
    require(faccessat(dir_fd, "without/file", F_OK, 0) == 0);
}

static void id_maps(void *context)
{
    struct err err = ERR_INIT;
    struct stat info;
    pid_t pid = 0;
    (void)context;
    child_leave_mounts();
    FD_AUTO int userns_fd = child_open_userns(100000, &pid);
    FD_AUTO int fd = mount_tmpfs();
    FD_AUTO int dir_fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    require(mkdirat(dir_fd, "target", 0755) == 0 && put(dir_fd, "file", 0644) == 0);
    FD_AUTO int clone_fd = -1;
    require_ok(mountfd_clone(dir_fd, "", false, &clone_fd, &err), err);
    int result = mountfd_idmap(clone_fd, userns_fd, &err);
    (void)kill(pid, SIGKILL);
    (void)waitpid(pid, NULL, 0);
    if (result == -ERR_UNSUPPORTED)
        _exit(CHILD_SKIPPED);
    require_ok(result, err);
    require_ok(mountfd_attach(clone_fd, dir_fd, "target", &err), err);
    require(fstatat(dir_fd, "target/file", &info, 0) == 0);
    require(info.st_uid == 100000 && info.st_gid == 100000);
    require(fstatat(dir_fd, "file", &info, 0) == 0);
    require(info.st_uid == 0);
    /* an attached mount is not detached any more, and one of procfs never has ids to map */
    FD_AUTO int proc_fd = -1;
    require_ok(mountfd_clone(AT_FDCWD, "/proc", false, &proc_fd, &err), err);
    FD_AUTO int own_fd = open("/proc/self/ns/user", O_RDONLY | O_CLOEXEC);
    require(mountfd_idmap(proc_fd, own_fd, &err) < 0);
}

static void run_as_root(void (*fn)(void *context))
{
    skip_unless_root();
    int code = child_run(fn, NULL);
    if (code == CHILD_SKIPPED)
        skip_because("tmpfs has no id-mapped mounts on this kernel");
    assert_int_equal(code, 0);
}

static void test_tmpfs_has_its_size(void **state)
{
    (void)state;
    run_as_root(tmpfs_has_its_size);
    assert_int_equal(rmdir(folder), 0); /* nothing is mounted there for us */
}

static void test_wrong_options(void **state)
{
    (void)state;
    run_as_root(wrong_options);
}

static void test_read_only_clone(void **state)
{
    (void)state;
    run_as_root(read_only_clone);
}

static void test_recursion(void **state)
{
    (void)state;
    run_as_root(recursion);
}

static void test_id_maps(void **state)
{
    (void)state;
    run_as_root(id_maps);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        in_folder(test_tmpfs_has_its_size),
        in_folder(test_wrong_options),
        in_folder(test_read_only_clone),
        in_folder(test_recursion),
        in_folder(test_id_maps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
