/* native/runsc: which program is trusted, and what it is told. */
#include "check.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jansson.h>

#include "folder.h"
#include "native/runsc.h"
#include "wire/init_config.h"

#define MIB (UINT64_C(1) << 20)

static json_t *make_bundle(void)
{
    struct err err = ERR_INIT;
    const struct engine_create spec = {.memory_bytes = 256 * MIB, .profile = "strict"};
    BUF_AUTO struct buf text;
    buf_init(&text, 65536);
    assert_ok(runsc_write_bundle(&spec, &text, &err), err);
    json_t *bundle = json_loads(buf_cstr(&text), 0, NULL);
    assert_non_null(bundle);
    return bundle;
}

static bool has_text(const json_t *list, const char *text)
{
    size_t i;
    const json_t *item;
    json_array_foreach(list, i, item)
    {
        if (strcmp(json_string_value(item), text) == 0)
            return true;
    }
    return false;
}

static void test_a_bundle_gives_init_its_rights(void **state)
{
    (void)state;
    json_t *bundle = make_bundle();
    const json_t *process = json_object_get(bundle, "process");
    const json_t *rights = json_object_get(json_object_get(process, "capabilities"), "bounding");
    assert_int_equal(json_array_size(rights), 7);
    assert_true(has_text(rights, "CAP_SETUID"));
    assert_true(json_is_true(json_object_get(process, "noNewPrivileges")));
    const json_t *args = json_object_get(process, "args");
    assert_string_equal(json_string_value(json_array_get(args, 0)), INIT_CARRIED_PROGRAM);
    assert_string_equal(json_string_value(json_array_get(args, 1)), INIT_CARRIED_WORD);
    assert_int_equal(json_array_size(json_object_get(process, "env")), 0);
    json_decref(bundle);
}

/* Whatever is bound is of the sandbox's own root, or is init. */
static void test_a_bundle_binds_nothing_of_the_host(void **state)
{
    (void)state;
    json_t *bundle = make_bundle();
    size_t i;
    size_t binds = 0;
    const json_t *mount;
    json_array_foreach(json_object_get(bundle, "mounts"), i, mount)
    {
        const char *source = json_string_value(json_object_get(mount, "source"));
        if (strcmp(json_string_value(json_object_get(mount, "type")), "bind") != 0)
            continue;
        binds++;
        assert_true(strcmp(source, RUNSC_INIT) == 0 || strcmp(source, RUNSC_SHARED) == 0 ||
                    strncmp(source, RUNSC_ROOT "/", strlen(RUNSC_ROOT) + 1) == 0);
    }
    assert_int_equal(binds, 4);
    json_decref(bundle);
}

static void test_what_it_lacks_is_refused(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    const struct engine_create gpu = {.profile = "strict", .gpu_count = 1};
    const struct engine_create plain = {.profile = "strict"};
    assert_fails(runsc_check(&gpu, &err), ERR_UNSUPPORTED, err);
    assert_int_equal(runsc_check(&plain, &err), 0);
    assert_int_equal(runsc_capabilities(ENGINE_CAP_GPU | ENGINE_CAP_MEMORY), ENGINE_CAP_MEMORY);
}

static void test_limits_leave_room_for_gvisor(void **state)
{
    (void)state;
    const struct engine_create spec = {
        .memory_bytes = 64 * MIB, .cpu_millis = 500, .pids_max = 100};
    const struct cgroup_limits limits = runsc_limits(&spec);
    assert_int_equal(limits.memory_bytes, 64 * MIB + RUNSC_MEMORY_BYTES);
    assert_int_equal(limits.cpu_millis, 500);
    assert_true(limits.pids_max > 7 * spec.pids_max);
    const struct engine_create none = {.cpu_millis = 0};
    const struct cgroup_limits same = runsc_limits(&none);
    assert_int_equal(same.memory_bytes, 0);
    assert_int_equal(same.pids_max, 0);
}

static void put_program(const char *text, mode_t mode)
{
    struct err err = ERR_INIT;
    FD_AUTO int fd = openat(folder_fd, RUNSC_NAME, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
    assert_true(fd >= 0);
    assert_ok(fd_write_all(fd, text, strlen(text), &err), err);
    assert_int_equal(fchmod(fd, mode), 0);
}

/* A program that says its version, and its flags as Go's flag package lists them. */
#define SAYS(flags)                                                                                \
    "#!/bin/sh\ncase $1 in --version) echo 'runsc version release-1'; echo 'spec: 1.0';;\n"        \
    "flags) printf '" flags "' >&2;; esac\n"
#define IS_KNOWN "  -ignore-cgroups\\n    \tdo not.\\n"
#define SAYS_VERSION SAYS(IS_KNOWN)

static void test_which_program_is_taken(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct runsc runsc;
    if (geteuid() != 0)
        skip();
    (void)unsetenv("BERTH_RUNSC");
    (void)unsetenv("BERTH_RUNSC_PLATFORM");
    assert_int_equal(setenv("PATH", folder, 1), 0);
    assert_fails(runsc_find(&runsc, &err), ERR_NOT_FOUND, err);
    assert_false(runsc.usable);
    put_program(SAYS_VERSION, 0757); /* anybody's */
    assert_fails(runsc_find(&runsc, &err), ERR_NOT_FOUND, err);
    put_program(SAYS_VERSION, 0755);
    assert_ok(runsc_find(&runsc, &err), err);
    assert_true(runsc.usable);
    assert_string_equal(runsc.version, "release-1");
    assert_string_equal(runsc.platform, "ptrace");
    assert_int_equal(setenv("BERTH_RUNSC", "/etc/passwd", 1), 0);
    assert_fails(runsc_find(&runsc, &err), ERR_BAD_INPUT, err);
    assert_int_equal(setenv("BERTH_RUNSC", runsc.path, 1), 0); /* empty: the call cleared it */
    assert_ok(runsc_find(&runsc, &err), err);
    put_program("#!/bin/sh\necho nothing\n", 0755);
    assert_fails(runsc_find(&runsc, &err), ERR_UNSUPPORTED, err);
    assert_int_equal(setenv("BERTH_RUNSC_PLATFORM", "--kvm", 1), 0);
    assert_fails(runsc_find(&runsc, &err), ERR_BAD_INPUT, err);
}

/* One that knows of an overlay is told to make none: else what a sandbox writes would not be kept.
 */
static void test_flags_are_those_that_it_knows(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    struct runsc runsc;
    if (geteuid() != 0)
        skip();
    (void)unsetenv("BERTH_RUNSC");
    (void)unsetenv("BERTH_RUNSC_PLATFORM");
    assert_int_equal(setenv("PATH", folder, 1), 0);
    put_program(SAYS("  -overlay\\n" IS_KNOWN "  -overlay2-size int\\n  see -overlay2 \\n"), 0755);
    assert_ok(runsc_find(&runsc, &err), err);
    assert_int_equal(runsc.flag_count, 0);
    put_program(SAYS("  -directfs\\n" IS_KNOWN "  -overlay2 value\\n"), 0755);
    assert_ok(runsc_find(&runsc, &err), err);
    assert_int_equal(runsc.flag_count, 2);
    assert_string_equal(runsc.flags[0], "--overlay2=none");
    assert_string_equal(runsc.flags[1], "--directfs=false");
    put_program(SAYS("  -overlay2 value\\n"), 0755); /* no list that we know how to read */
    assert_fails(runsc_find(&runsc, &err), ERR_UNSUPPORTED, err);
    assert_false(runsc.usable);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_a_bundle_gives_init_its_rights),

                                       cmocka_unit_test(test_a_bundle_binds_nothing_of_the_host),
                                       cmocka_unit_test(test_what_it_lacks_is_refused),
                                       cmocka_unit_test(test_limits_leave_room_for_gvisor),
                                       in_folder(test_which_program_is_taken),
                                       in_folder(test_flags_are_those_that_it_knows)};
    return cmocka_run_group_tests_name("runsc", tests, NULL, NULL);
}
