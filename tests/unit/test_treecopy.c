/* native/treecopy: what everybody may read is copied, and nothing else. */
#include "check.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "child.h"
#include "folder.h"
#include "native/treecopy.h"

static char from[64];
static int from_fd = -1;
static int to_fd = -1;

static int make_folders(void **state)
{
    if (folder_make(state) != 0 || mkdirat(folder_fd, "from", 0755) != 0 ||
        mkdirat(folder_fd, "to", 0755) != 0)
        return -1;
    (void)snprintf(from, sizeof(from), "%s/from", folder);
    from_fd = openat(folder_fd, "from", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    to_fd = openat(folder_fd, "to", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return from_fd < 0 || to_fd < 0 ? -1 : 0;
}

static int remove_folders(void **state)
{
    fd_close(&from_fd);
    fd_close(&to_fd);
    return folder_remove(state);
}

static void put(const char *path, const char *text, mode_t mode)
{
    FD_AUTO int fd = openat(from_fd, path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    assert_int_equal(fchmod(fd, mode), 0);
}

static void put_folder(const char *path, mode_t mode)
{
    assert_int_equal(mkdirat(from_fd, path, 0755), 0);
    assert_int_equal(fchmodat(from_fd, path, mode, 0), 0);
}

static bool copied(const char *path)
{
    struct stat info;
    return fstatat(to_fd, path, &info, AT_SYMLINK_NOFOLLOW) == 0;
}

static void assert_text(const char *path, const char *wanted)
{
    char text[128];
    struct err err = ERR_INIT;
    assert_ok(fd_read_file_at(to_fd, path, text, sizeof(text), &err), err);
    assert_string_equal(text, wanted);
}

static void test_files_and_folders(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct stat info;
    put("plain", "text", 0644);
    put_folder("deep", 0755);
    put_folder("deep/er", 0755);
    put("deep/er/file", "inside", 0755);
    assert_ok(treecopy_public(from, "plain", to_fd, &err), err);
    assert_ok(treecopy_public(from, "deep", to_fd, &err), err);
    assert_text("plain", "text");
    assert_text("deep/er/file", "inside");
    assert_int_equal(fstatat(to_fd, "deep/er/file", &info, 0), 0);
    assert_int_equal(info.st_mode & 07777, 0755);
    /* again, over what is there: the image is rebuilt at each start */
    put("deep/er/file", "changed", 0755);
    assert_ok(treecopy_public(from, "deep", to_fd, &err), err);
    assert_text("deep/er/file", "changed");
}

static void test_secrets_stay_out(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    put_folder("ssl", 0755);
    put("ssl/cert", "public", 0644);
    put("ssl/key", "secret", 0600);
    put("ssl/group", "secret", 0640);
    put_folder("ssl/private", 0710);
    put("ssl/private/open", "readable in a closed folder", 0644);
    put_folder("ssl/listed", 0754); /* others may list it and not enter it */
    put("ssl/listed/open", "readable in a closed folder", 0644);
    assert_int_equal(mkfifoat(from_fd, "ssl/pipe", 0666), 0);
    assert_ok(treecopy_public(from, "ssl", to_fd, &err), err);
    assert_true(copied("ssl/cert"));
    assert_false(copied("ssl/key"));
    assert_false(copied("ssl/group"));
    assert_false(copied("ssl/private"));
    assert_false(copied("ssl/listed"));
    assert_false(copied("ssl/pipe"));
    put("top", "secret", 0600);
    assert_ok(treecopy_public(from, "top", to_fd, &err), err);
    assert_false(copied("top"));
}

static void test_no_mode_lets_the_sandbox_in(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct stat info;
    put("setuid", "program", 06777);
    assert_ok(treecopy_public(from, "setuid", to_fd, &err), err);
    assert_int_equal(fstatat(to_fd, "setuid", &info, 0), 0);
    assert_int_equal(info.st_mode & 07022, 0);
}

/* For a sandbox: everything, whose owners are counted from its first id. */
static void test_all_of_it_for_other_owners(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct stat info;
    if (geteuid() != 0)
        skip();
    put_folder("tree", 0750);
    put("tree/secret", "text", 0600);
    assert_int_equal(symlinkat("secret", from_fd, "tree/link"), 0);
    assert_int_equal(fchownat(from_fd, "tree/secret", 3, 42, 0), 0);
    FD_AUTO int tree_fd = openat(from_fd, "tree", O_PATH | O_DIRECTORY | O_CLOEXEC);
    assert_ok(treecopy_owned(tree_fd, to_fd, 100000, &err), err);
    assert_int_equal(fstatat(to_fd, "secret", &info, 0), 0);
    assert_int_equal(info.st_uid, 100003);
    assert_int_equal(info.st_gid, 100042);
    assert_int_equal(info.st_mode & 07777, 0600);
    assert_int_equal(info.st_size, 4);
    assert_int_equal(fstatat(to_fd, "link", &info, AT_SYMLINK_NOFOLLOW), 0);
    assert_true(S_ISLNK(info.st_mode));
    assert_int_equal(info.st_uid, 100000);
    assert_int_equal(fstat(to_fd, &info), 0);
    assert_int_equal(info.st_uid, 100000);
    assert_int_equal(info.st_mode & 0777, 0750);
}

static void test_links_stay_links(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    char target[64] = "";
    put_folder("links", 0755);
    assert_int_equal(symlinkat("/etc/shadow", from_fd, "links/outside"), 0);
    assert_int_equal(symlinkat("nowhere", from_fd, "links/dangling"), 0);
    assert_int_equal(symlinkat(".", from_fd, "links/itself"), 0);
    assert_ok(treecopy_public(from, "links", to_fd, &err), err);
    assert_true(readlinkat(to_fd, "links/outside", target, sizeof(target) - 1) > 0);
    assert_string_equal(target, "/etc/shadow");
    assert_true(copied("links/dangling"));
    assert_true(readlinkat(to_fd, "links/itself", target, sizeof(target) - 1) == 1);
    assert_ok(treecopy_public(from, "links", to_fd, &err), err);
}

/* A link where the copy would go is not written through. */
static void test_links_in_the_way_are_refused(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    put("file", "new", 0644);
    put("victim", "old", 0644);
    assert_int_equal(symlinkat("../from/victim", to_fd, "file"), 0);
    assert_fails(treecopy_public(from, "file", to_fd, &err), ERR_INTERNAL, err);
    char text[16];
    assert_ok(fd_read_file_at(from_fd, "victim", text, sizeof(text), &err), err);
    assert_string_equal(text, "old");
    put_folder("dir", 0755);
    put("dir/inner", "new", 0644);
    assert_int_equal(symlinkat("../from", to_fd, "dir"), 0);
    assert_fails(treecopy_public(from, "dir", to_fd, &err), ERR_INTERNAL, err);
    assert_int_not_equal(faccessat(from_fd, "inner", F_OK, 0), 0);
}

static void test_missing(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    assert_ok(treecopy_public(from, "nothing", to_fd, &err), err);
    assert_false(copied("nothing"));
    assert_ok(treecopy_public(from, "no/thing", to_fd, &err), err);
    assert_fails(treecopy_public("/nonexistent/berth", "x", to_fd, &err), ERR_INTERNAL, err);
}

static void test_one_name_of_a_folder(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    put_folder("ssl", 0755);
    put("ssl/wanted", "yes", 0644);
    put("ssl/other", "no", 0644);
    assert_ok(treecopy_public(from, "ssl/wanted", to_fd, &err), err);
    assert_text("ssl/wanted", "yes");
    assert_false(copied("ssl/other"));
}

/* Makes folders d/d/d/... that many levels deep. */
static void make_deep(unsigned levels)
{
    FD_AUTO int fd = fcntl(from_fd, F_DUPFD_CLOEXEC, 0);
    for (unsigned i = 0; i < levels; i++) {
        assert_int_equal(mkdirat(fd, "d", 0755), 0);
        int next = openat(fd, "d", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        fd_close(&fd);
        fd = next;
        assert_true(fd >= 0);
    }
}

static void test_depth(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    make_deep(65); /* at levels 0 to 64 */
    assert_ok(treecopy_public(from, "d", to_fd, &err), err);
    char path[2 * 66] = "d";
    for (unsigned i = 1; i < 65; i++)
        (void)strncat(path, "/d", sizeof(path) - strlen(path) - 1);
    assert_true(copied(path));
}

static void test_too_deep(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    make_deep(66);
    assert_fails(treecopy_public(from, "d", to_fd, &err), ERR_TOO_LARGE, err);
}

#define on_folders(test) cmocka_unit_test_setup_teardown(test, make_folders, remove_folders)

int main(void)
{
    const struct CMUnitTest tests[] = {
        on_folders(test_files_and_folders),
        on_folders(test_secrets_stay_out),
        on_folders(test_no_mode_lets_the_sandbox_in),
        on_folders(test_all_of_it_for_other_owners),
        on_folders(test_links_stay_links),
        on_folders(test_links_in_the_way_are_refused),
        on_folders(test_missing),
        on_folders(test_one_name_of_a_folder),
        on_folders(test_depth),
        on_folders(test_too_deep),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
