/* native/cdi: which devices of a specification count, and what is believed of it. */
#include "check.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "folder.h"
#include "native/cdi.h"

#define NODE(path) "{\"path\":\"" path "\"}"
#define DEVICE(name, nodes)                                                                        \
    "{\"name\":\"" name "\",\"containerEdits\":{\"deviceNodes\":[" nodes "]}}"
#define SPEC(devices, edits)                                                                       \
    "{\"cdiVersion\":\"0.6.0\",\"kind\":\"acme.com/gpu\",\"devices\":[" devices                    \
    "],\"containerEdits\":{" edits "}}"

static void put(const char *name, const char *text)
{
    struct err err = ERR_INIT;
    FD_AUTO int fd = openat(folder_fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    assert_true(fd >= 0);
    assert_ok(fd_write_all(fd, text, strlen(text), &err), err);
    assert_int_equal(fchmod(fd, 0644), 0);
}

static void read_one(const char *text, struct cdi *out)
{
    put("one.json", text);
    cdi_read(folder, out);
}

static void test_devices_count_once(void **state)
{
    (void)state;
    struct cdi cdi;
    read_one(
        SPEC(DEVICE("0", NODE("/dev/a0")) "," DEVICE("1", NODE("/dev/a1")) "," DEVICE(
                 "GPU-1", NODE("/dev/a1")) "," DEVICE("all", NODE("/dev/a0") "," NODE("/dev/a1")),
             "\"deviceNodes\":[" NODE("/dev/ctl") "]"),
        &cdi);
    assert_int_equal(cdi.gpu_count, 2);
    assert_string_equal(cdi.gpus[1].name, "acme.com/gpu=1");
    assert_int_equal(cdi.node_count, 3);
    for (size_t i = 0; i < cdi.node_count; i++) {
        bool all = strcmp(cdi.nodes[i].path, "ctl") == 0;
        bool second = strcmp(cdi.nodes[i].path, "a1") == 0;
        assert_int_equal(cdi_is_of(&cdi, &cdi.nodes[i].owner, 1), all || second);
    }
    cdi_free(&cdi);
    cdi_free(&cdi);
    read_one(SPEC(DEVICE("all", NODE("/dev/a0")), ""), &cdi); /* the only one */
    assert_int_equal(cdi.gpu_count, 1);
    cdi_free(&cdi);
}

static void test_earlier_folder_comes_first(void **state)
{
    (void)state;
    struct cdi cdi;
    char folders[3 * PATH_MAX];
    put("a.json", SPEC(DEVICE("0", NODE("/dev/a0")), ""));
    put("b.json", SPEC(DEVICE("0", NODE("/dev/b0")) "," DEVICE("9", NODE("/dev/b9")), ""));
    put("notes.txt", "no specification");
    (void)snprintf(folders, sizeof(folders), "/nonexistent::%s:%s", folder, folder);
    cdi_read(folders, &cdi);
    assert_int_equal(cdi.gpu_count, 2);
    assert_string_equal(cdi.gpus[1].name, "acme.com/gpu=9");
    assert_string_equal(cdi.nodes[0].path, "a0");
    cdi_free(&cdi);
}

static void test_what_is_left_out(void **state)
{
    (void)state;
    struct cdi cdi;
    read_one(
        SPEC(DEVICE("0", NODE("/dev/a0") "," NODE("/etc/shadow") "," NODE("/dev/../etc/x") "," NODE(
                             "/dev/") ",{\"path\":\"/dev/b\",\"type\":"
                                      "\"b\"},5"),
             "\"hooks\":[{}],\"env\":[\"A=1\",\"B=2\"],\"mounts\":[{\"hostPath\":\"/x\"},"
             "{\"hostPath\":\"x\",\"containerPath\":\"/x\"},{\"hostPath\":\"/x\","
             "\"containerPath\":\"/a/../b\"},{\"hostPath\":\"/x\",\"containerPath\":\"/a/"
             "b\"}]"),
        &cdi);
    assert_int_equal(cdi.gpu_count, 1);
    assert_int_equal(cdi.node_count, 1);
    assert_int_equal(cdi.mount_count, 1);
    assert_string_equal(cdi.mounts[0].target, "a/b");
    assert_int_equal(cdi.left_out, 5 + 3 + 3);
    cdi_free(&cdi);
}

static void test_rights(void **state)
{
    (void)state;
    struct cdi cdi;
    read_one(SPEC(DEVICE("0", "{\"path\":\"/dev/a\",\"permissions\":\"r\"},{\"path\":\"/dev/b\","
                              "\"hostPath\":\"/dev/other\",\"permissions\":\"rw\"}"),
                  ""),
             &cdi);
    assert_int_equal(cdi.node_count, 2);
    assert_true(cdi.nodes[0].read_only);
    assert_false(cdi.nodes[1].read_only);
    assert_string_equal(cdi.nodes[0].source, "/dev/a");
    assert_string_equal(cdi.nodes[1].source, "/dev/other");
    cdi_free(&cdi);
}

/* As people write them; what mounts them takes one name at a time. */
static void test_slashes(void **state)
{
    (void)state;
    struct cdi cdi;
    read_one(SPEC(DEVICE("0", NODE("/dev//a//b/") "," NODE("/dev///")),
                  "\"mounts\":[{\"hostPath\":\"/x\",\"containerPath\":\"//usr//lib/x/\"},"
                  "{\"hostPath\":\"/x\",\"containerPath\":\"///\"},"
                  "{\"hostPath\":\"/x\",\"containerPath\":\"//..\"}]"),
             &cdi);
    assert_int_equal(cdi.node_count, 1);
    assert_string_equal(cdi.nodes[0].path, "a/b");
    assert_int_equal(cdi.mount_count, 1);
    assert_string_equal(cdi.mounts[0].target, "usr/lib/x");
    cdi_free(&cdi);
}

static void test_nonsense(void **state)
{
    static const char *const texts[] = {
        "",
        "{",
        "[]",
        "{}",
        "{\"cdiVersion\":\"0.6.0\"}",
        "{\"cdiVersion\":\"0.6.0\",\"kind\":\"acme.com/nic\",\"devices\":[" DEVICE(
            "0", NODE("/dev/a")) "]}",
        "{\"cdiVersion\":\"0.6.0\",\"kind\":\"/gpu\",\"devices\":[" DEVICE("0",
                                                                           NODE("/dev/a")) "]}",
        "{\"kind\":\"acme.com/gpu\",\"devices\":[" DEVICE("0", NODE("/dev/a")) "]}",
        SPEC("5,null,{},{\"name\":5}," DEVICE("0", ""), "\"mounts\":5,\"hooks\":{}"),
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        struct cdi cdi;
        read_one(texts[i], &cdi);
        assert_int_equal(cdi.gpu_count, 0);
        cdi_free(&cdi);
    }
}

static void test_more_than_there_is_room_for(void **state)
{
    (void)state;
    struct cdi cdi;
    static char text[64 * 1024];
    size_t used = (size_t)snprintf(text, sizeof(text),
                                   "{\"cdiVersion\":\"1.0\",\"kind\":\"acme.com/gpu\","
                                   "\"devices\":[");
    for (int i = 0; i < 2 * CDI_GPUS_MAX; i++)
        used +=
            (size_t)snprintf(text + used, sizeof(text) - used,
                             "%s{\"name\":\"%d\",\"containerEdits\":{\"deviceNodes\":[{\"path\":"
                             "\"/dev/a%d\"}]}}",
                             i > 0 ? "," : "", i, i);
    (void)snprintf(text + used, sizeof(text) - used, "]}");
    read_one(text, &cdi);
    assert_int_equal(cdi.gpu_count, CDI_GPUS_MAX);
    cdi_free(&cdi);
}

static void test_owner_and_mode(void **state)
{
    (void)state;
    struct cdi cdi;
    read_one(SPEC(DEVICE("0", NODE("/dev/a0")), ""), &cdi);
    assert_int_equal(cdi.gpu_count, 1);
    cdi_free(&cdi);
    assert_int_equal(fchmodat(folder_fd, "one.json", 0664, 0), 0);
    cdi_read(folder, &cdi);
    assert_int_equal(cdi.gpu_count, 0);
    cdi_free(&cdi);
    assert_int_equal(fchmodat(folder_fd, "one.json", 0644, 0), 0);
    assert_int_equal(fchmod(folder_fd, 0775), 0);
    cdi_read(folder, &cdi);
    assert_int_equal(cdi.gpu_count, 0);
    cdi_free(&cdi);
    assert_int_equal(fchmod(folder_fd, 0755), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        in_folder(test_devices_count_once), in_folder(test_earlier_folder_comes_first),
        in_folder(test_what_is_left_out),   in_folder(test_rights),
        in_folder(test_nonsense),           in_folder(test_more_than_there_is_room_for),
        in_folder(test_owner_and_mode),     in_folder(test_slashes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
