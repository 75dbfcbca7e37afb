/* native/image in a mount namespace of its own: what a sandbox would see, and what it would not. */
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "base/fd.h"
#include "child.h"
#include "folder.h"
#include "native/image.h"

static const struct image_tree *find(const struct image *image, const char *target)
{
    for (size_t i = 0; i < image->tree_count; i++) {
        if (strcmp(image->trees[i].target, target) == 0)
            return &image->trees[i];
    }
    require(!"the image has this tree");
    return NULL;
}

static bool has(int dir_fd, const char *path)
{
    struct stat info;
    return fstatat(dir_fd, path, &info, AT_SYMLINK_NOFOLLOW) == 0;
}

static void open_image(struct image *image)
{
    struct err err = ERR_INIT;
    child_leave_mounts();
    require_ok(image_open_host(image, folder, "", &err), err);
}

static void etc_is_made_for_the_sandbox(void *context)
{
    struct image image;
    struct err err = ERR_INIT;
    char text[1024];
    (void)context;
    open_image(&image);
    int etc_fd = find(&image, "etc")->fd;
    require_ok(fd_read_file_at(etc_fd, "passwd", text, sizeof(text), &err), err);
    require(strstr(text, "sandbox:x:1000:1000:") != NULL);
    require_ok(fd_read_file_at(etc_fd, "hostname", text, sizeof(text), &err), err);
    require(strcmp(text, "sandbox\n") == 0);
    static const char *const wanted[] = {"group", "hosts", "resolv.conf", "os-release"};
    for (size_t i = 0; i < ARRAY_SIZE(wanted); i++)
        require(has(etc_fd, wanted[i]));
    static const char *const unwanted[] = {"shadow",     "gshadow", "sudoers",     "ssh",
                                           "machine-id", "fstab",   "ssl/private", "crontab"};
    for (size_t i = 0; i < ARRAY_SIZE(unwanted); i++)
        require(!has(etc_fd, unwanted[i]));
    image_close(&image);
    image_close(&image);
    require(image.tree_count == 0);
}

static void all_is_read_only(void *context)
{
    struct image image;
    (void)context;
    open_image(&image);
    require(image.tree_count >= 4);
    for (size_t i = 0; i < image.tree_count; i++) {
        int fd = openat(image.trees[i].fd, "berth-test", O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
        require(fd < 0 && errno == EROFS);
        require((fcntl(image.trees[i].fd, F_GETFD) & FD_CLOEXEC) != 0);
    }
    require(has(find(&image, "usr")->fd, "bin"));
    image_close(&image);
}

static void usr_local_is_empty(void *context)
{
    struct image image;
    (void)context;
    open_image(&image);
    int local_fd = find(&image, "usr/local")->fd;
    require(!has(local_fd, "bin") && !has(local_fd, "lib"));
    image_close(&image);
}

static void devices_are_the_harmless_ones(void *context)
{
    struct image image;
    struct stat info;
    (void)context;
    open_image(&image);
    int dev_fd = find(&image, "dev")->fd;
    require(fstatat(dev_fd, "null", &info, 0) == 0);
    require(S_ISCHR(info.st_mode) && info.st_rdev == makedev(1, 3));
    require((info.st_mode & 07777) == 0666);
    FD_AUTO int null_fd = openat(dev_fd, "null", O_WRONLY | O_CLOEXEC);
    require(null_fd >= 0 && write(null_fd, "x", 1) == 1);
    char target[64] = "";
    require(readlinkat(dev_fd, "fd", target, sizeof(target) - 1) > 0);
    require(strcmp(target, "/proc/self/fd") == 0);
    static const char *const unwanted[] = {"kmsg", "mem", "kvm", "fuse", "sda", "loop0", "console"};
    for (size_t i = 0; i < ARRAY_SIZE(unwanted); i++)
        require(!has(dev_fd, unwanted[i]));
    image_close(&image);
}

static void links_lead_into_usr(void *context)
{
    struct image image;
    (void)context;
    open_image(&image);
    for (size_t i = 0; i < image.link_count; i++) {
        char path[32];
        char target[64] = "";
        (void)snprintf(path, sizeof(path), "/%s", image.links[i].target);
        require(readlink(path, target, sizeof(target) - 1) > 0);
        require(strcmp(target, image.links[i].to) == 0);
    }
    image_close(&image);
}

static void clones_are_of_their_own(void *context)
{
    struct image image;
    struct err err = ERR_INIT;
    struct stat info;
    pid_t pid = 0;
    (void)context;
    open_image(&image);
    FD_AUTO int userns_fd = child_open_userns(200000, &pid);
    for (size_t i = 0; i < image.tree_count; i++) {
        FD_AUTO int clone_fd = -1;
        require_ok(image_clone(&image.trees[i], true, userns_fd, &clone_fd, &err), err);
        require((fcntl(clone_fd, F_GETFD) & FD_CLOEXEC) != 0);
        require(fstatat(clone_fd, ".", &info, 0) == 0);
        /* id-mapped or not, nothing belongs to an id of the host that is not the namespace's */
        require(info.st_uid == (image.trees[i].idmap ? 200000 : 0));
        int fd = openat(clone_fd, "berth-test", O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
        require(fd < 0 && (errno == EROFS || errno == EOVERFLOW));
    }
    require(image_keeps_owners(&image) == image.trees[0].idmap);
    (void)kill(pid, SIGKILL);
    (void)waitpid(pid, NULL, 0);
    image_close(&image);
    require(!image_keeps_owners(&image));
}

static void no_stage(void *context)
{
    struct image image;
    struct err err = ERR_INIT;
    (void)context;
    child_leave_mounts();
    require(image_open_host(&image, "/nonexistent/berth", "", &err) == -ERR_INTERNAL);
    require(strstr(err.message, "image host") != NULL);
    require(image.tree_count == 0);
}

static void run_as_root(void (*fn)(void *context))
{
    skip_unless_root();
    assert_int_equal(child_run(fn, NULL), 0);
    assert_int_equal(rmdir(folder), 0); /* the stage was mounted for the child alone */
    assert_int_equal(mkdir(folder, 0700), 0);
}

#define root_test(name)                                                                            \
    static void test_##name(void **state)                                                          \
    {                                                                                              \
        (void)state;                                                                               \
        run_as_root(name);                                                                         \
    }
root_test(etc_is_made_for_the_sandbox) root_test(all_is_read_only) root_test(usr_local_is_empty)
    root_test(devices_are_the_harmless_ones) root_test(links_lead_into_usr)
        root_test(clones_are_of_their_own) root_test(no_stage)

            int main(void)
{
    const struct CMUnitTest tests[] = {
        in_folder(test_etc_is_made_for_the_sandbox),
        in_folder(test_all_is_read_only),
        in_folder(test_usr_local_is_empty),
        in_folder(test_devices_are_the_harmless_ones),
        in_folder(test_links_lead_into_usr),
        in_folder(test_clones_are_of_their_own),
        in_folder(test_no_stage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
