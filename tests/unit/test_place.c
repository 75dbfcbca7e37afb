/* monitor/place: what counts as a delegated group, and the move out of it. Each test runs in a
 * child of its own; where /sys/fs/cgroup has v1 controllers, the child mounts v2 over it for
 * itself. The group is made and removed by the test. */
#include "check.h"

#include <errno.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/vfs.h>
#include <sys/xattr.h>

#include "base/fd.h"
#include "base/id.h"
#include "child.h"
#include "monitor/place.h"

#define ROOT "/sys/fs/cgroup"

struct group {
    char path[32]; /* from the root of the hierarchy */
    char folder[64];
    char leaf[80];
};

static void join(const char *folder)
{
    char path[128];
    struct err err = ERR_INIT;
    (void)snprintf(path, sizeof(path), "%s/cgroup.procs", folder);
    require_ok(fd_write_file_at(AT_FDCWD, path, "0", &err), err);
}

static const char *own_path(void)
{
    static char text[4096];
    struct err err = ERR_INIT;
    require_ok(fd_read_file_at(AT_FDCWD, "/proc/self/cgroup", text, sizeof(text), &err), err);
    char *line = strstr(text, "0::");
    require(line != NULL);
    line[strcspn(line, "\n")] = '\0';
    return line + 3;
}

/* Enters a new group of this test. */
static void enter_group(struct group *group)
{
    char name[11];
    child_leave_mounts();
    struct statfs info;
    require(statfs(ROOT, &info) == 0);
    if (info.f_type != CGROUP2_SUPER_MAGIC && mount("cgroup2", ROOT, "cgroup2", 0, NULL) != 0)
        _exit(CHILD_SKIPPED);
    id_hex(name, 5);
    (void)snprintf(group->path, sizeof(group->path), "/berth-ut-%s", name);
    (void)snprintf(group->folder, sizeof(group->folder), ROOT "%s", group->path);
    (void)snprintf(group->leaf, sizeof(group->leaf), "%s/" PLACE_LEAF, group->folder);
    require(mkdir(group->folder, 0755) == 0);
    join(group->folder);
}

/* A test that fails before this leaves an empty group behind, never a process. */
static void leave_group(const struct group *group)
{
    join(ROOT);
    require(rmdir(group->leaf) == 0 || errno == ENOENT);
    require(rmdir(group->folder) == 0);
}

static void delegated(void *context)
{
    struct group group;
    char place[PATH_MAX] = "x";
    char wanted[64];
    struct err err = ERR_INIT;
    (void)context;
    enter_group(&group);
    require(setxattr(group.folder, "trusted.delegate", "1", 1, 0) == 0);
    require_ok(place_find(NULL, place, &err), err);
    require(strcmp(place, group.path) == 0);
    (void)snprintf(wanted, sizeof(wanted), "%s/" PLACE_LEAF, group.path);
    require(strcmp(own_path(), wanted) == 0);
    /* Started again from there, or put there by DelegateSubgroup=. */
    memcpy(place, "x", 2);
    require_ok(place_find(NULL, place, &err), err);
    require(strcmp(place, group.path) == 0);
    require(strcmp(own_path(), wanted) == 0);
    leave_group(&group);
}

static void not_delegated(void *context)
{
    struct group group;
    char place[PATH_MAX] = "x";
    struct err err = ERR_INIT;
    (void)context;
    enter_group(&group);
    require_ok(place_find(NULL, place, &err), err);
    require(place[0] == '\0');
    /* Marks that say no, or that others than root can set. */
    require(setxattr(group.folder, "trusted.delegate", "0", 1, 0) == 0);
    (void)setxattr(group.folder, "user.delegate", "1", 1, 0);
    require_ok(place_find(NULL, place, &err), err);
    require(place[0] == '\0');
    require(strcmp(own_path(), group.path) == 0);
    require(access(group.leaf, F_OK) != 0);
    leave_group(&group);
}

/* A child of that name below a group that is nobody's to give is no sign. */
static void leaf_of_another(void *context)
{
    struct group group;
    char place[PATH_MAX] = "x";
    struct err err = ERR_INIT;
    (void)context;
    enter_group(&group);
    require(mkdir(group.leaf, 0755) == 0);
    join(group.leaf);
    require_ok(place_find(NULL, place, &err), err);
    require(place[0] == '\0');
    leave_group(&group);
}

static void wanted_wins(void *context)
{
    struct group group;
    char place[PATH_MAX] = "x";
    struct err err = ERR_INIT;
    (void)context;
    enter_group(&group);
    require(setxattr(group.folder, "trusted.delegate", "1", 1, 0) == 0);
    require_ok(place_find("/a/b", place, &err), err);
    require(strcmp(place, "/a/b") == 0);
    require(strcmp(own_path(), group.path) == 0);
    leave_group(&group);
}

static void run(void (*fn)(void *context))
{
    skip_unless_root();
    int code = child_run(fn, NULL);
    if (code == CHILD_SKIPPED)
        skip_because("cgroup v2 can't be mounted here");
    assert_int_equal(code, 0);
}

static void test_a_delegated_group(void **state)
{
    (void)state;
    run(delegated);
}

static void test_a_group_that_is_not_delegated(void **state)
{
    (void)state;
    run(not_delegated);
}

static void test_a_leaf_of_another(void **state)
{
    (void)state;
    run(leaf_of_another);
}

static void test_what_is_wanted_wins(void **state)
{
    (void)state;
    run(wanted_wins);
}

static void test_bad_paths(void **state)
{
    (void)state;
    static const char *const bad[] = {"", "/", "a", "a/b", "/a/../b", "/..", "/a/.."};
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        char place[PATH_MAX] = "x";
        struct err err = ERR_INIT;
        assert_fails(place_find(bad[i], place, &err), ERR_BAD_INPUT, err);
        assert_string_equal(place, "x");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_delegated_group),
        cmocka_unit_test(test_a_group_that_is_not_delegated),
        cmocka_unit_test(test_a_leaf_of_another),
        cmocka_unit_test(test_what_is_wanted_wins),
        cmocka_unit_test(test_bad_paths),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
