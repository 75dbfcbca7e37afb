/* docker: where the daemon is, what its answers say, what a container is asked for and filled with.
 */
#include "check.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/encoding.h"
#include "docker/address.h"
#include "docker/daemon.h"
#include "docker/spec.h"
#include "docker/tar.h"
#include "sandbox_spec.h"
#include "wire/init_config.h"
#include "wire/json.h"

static void set(const char *host, const char *certificates, const char *verify)
{
    (void)setenv("DOCKER_HOST", host, 1);
    (void)setenv("DOCKER_CERT_PATH", certificates, 1);
    (void)setenv("DOCKER_TLS_VERIFY", verify, 1);
}

static void test_address(void **state)
{
    static const char *const bad[] = {"ssh://host",      "tcp://",          "tcp:///x",
                                      "tcp://host/path", "unix://relative", "host:2375",
                                      "tcp://user@host", "tcp://host?x=y"};
    struct address address;
    struct err err = ERR_INIT;
    (void)state;
    set("unix:///run/x.sock", "", "");
    assert_ok(address_find(&address, &err), err);
    assert_string_equal(address.socket_path, "/run/x.sock");
    assert_string_equal(address.base, "http://docker");
    set("tcp://10.0.0.1:2375", "", "");
    assert_ok(address_find(&address, &err), err);
    assert_string_equal(address.socket_path, "");
    assert_string_equal(address.base, "http://10.0.0.1:2375");
    set("tcp://build.example:2376", "/certs", "1");
    assert_ok(address_find(&address, &err), err);
    assert_string_equal(address.base, "https://build.example:2376");
    assert_true(address.verify);
    assert_string_equal(address.ca_path, "/certs/ca.pem");
    assert_string_equal(address.key_path, "/certs/key.pem");
    set("tcp://build.example:2376", "/certs", "");
    assert_ok(address_find(&address, &err), err);
    assert_false(address.verify);
    set("https://build.example", "", "");
    assert_ok(address_find(&address, &err), err);
    assert_true(address.verify);
    assert_string_equal(address.ca_path, "");
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        set(bad[i], "", "");
        assert_fails(address_find(&address, &err), ERR_BAD_INPUT, err);
    }
    set("", "", "");
    (void)setenv("HOME", "/nonexistent", 1);
    (void)unsetenv("XDG_RUNTIME_DIR");
    assert_ok(address_find(&address, &err), err); /* some socket, or the usual place */
    assert_int_equal(address.socket_path[0], '/');
}

static int read_version(const char *text, struct daemon_facts *facts, struct err *err)
{
    BUF_AUTO struct buf body;
    buf_init(&body, 4096);
    assert_int_equal(buf_append_str(&body, text, NULL), 0);
    return daemon_read_version(&body, facts, err);
}

static void test_version(void **state)
{
    static const struct {
        const char *text;
        const char *api;
    } cases[] = {
        {"{\"ApiVersion\":\"1.41\",\"MinAPIVersion\":\"1.12\"}", "/v1.41"},
        {"{\"ApiVersion\":\"1.40\"}", "/v1.40"},
        {"{\"ApiVersion\":\"1.46\",\"MinAPIVersion\":\"1.24\"}", "/v1.46"},
        {"{\"ApiVersion\":\"1.60\",\"MinAPIVersion\":\"1.44\"}", "/v1.47"},
        {"{\"ApiVersion\":\"1.60\",\"MinAPIVersion\":\"1.50\"}", "/v1.50"},
    };
    static const char *const bad[] = {
        "{\"ApiVersion\":\"1.39\"}", "{}", "[]", "nothing", "{\"ApiVersion\":\"2.0\"}",
        "{\"ApiVersion\":41}"};
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct daemon_facts facts = {0};
        struct err err = ERR_INIT;
        assert_ok(read_version(cases[i].text, &facts, &err), err);
        assert_string_equal(facts.api, cases[i].api);
    }
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct daemon_facts facts = {0};
        assert_true(read_version(bad[i], &facts, NULL) < 0);
    }
}

static int read_info(const char *text, struct daemon_facts *facts, struct err *err)
{
    BUF_AUTO struct buf body;
    buf_init(&body, 4096);
    assert_int_equal(buf_append_str(&body, text, NULL), 0);
    return daemon_read_info(&body, facts, err);
}

static void test_info(void **state)
{
    struct daemon_facts facts = {0};
    struct err err = ERR_INIT;
    (void)state;
    assert_ok(read_info("{\"Driver\":\"overlay2\",\"DriverStatus\":[[\"Backing Filesystem\","
                        "\"xfs\"]],\"CgroupDriver\":\"cgroupfs\",\"MemoryLimit\":true,\"NCPU\":2,"
                        "\"DefaultRuntime\":\"crun\",\"Runtimes\":{\"Bad Name\":{},\"runc\":{},"
                        "\"crun\":{}}}",
                        &facts, &err),
              err);
    assert_true(facts.quota);
    assert_true(facts.limits_memory);
    assert_false(facts.limits_cpu);
    assert_string_equal(facts.cgroup_mode, "v1");
    assert_int_equal(facts.runtime_count, 2);
    assert_string_equal(facts.runtimes[0].name, "crun");
    assert_string_equal(facts.runtimes[1].name, "runc");
    assert_false(daemon_is_gvisor(&facts, "runc"));
    assert_true(daemon_is_gvisor(&facts, "runsc-kvm")); /* of a container that is left of it */
    assert_ok(read_info("{\"DefaultRuntime\":\"safe\",\"Runtimes\":{\"safe\":{\"path\":"
                        "\"/opt/gvisor/runsc\"},\"shim\":{\"runtimeType\":"
                        "\"io.containerd.runsc.v1\"},\"runc\":{\"path\":\"/runsc/runc\"}}}",
                        &facts, &err),
              err);
    assert_true(daemon_is_gvisor(&facts, "safe"));
    assert_true(daemon_is_gvisor(&facts, "shim"));
    assert_false(daemon_is_gvisor(&facts, "runc"));
    assert_ok(read_info("{\"CgroupDriver\":\"none\",\"MemoryLimit\":true}", &facts, &err), err);
    assert_string_equal(facts.cgroup_mode, "none");
    assert_false(facts.limits_memory);
    assert_false(facts.quota);
    assert_int_equal(facts.runtime_count, 1);
    assert_fails(read_info("{\"OSType\":\"windows\"}", &facts, &err), ERR_UNAVAILABLE, err);
    assert_non_null(strstr(err.public_message, "windows"));
}

/* Podman takes any runtime for a container, silently, and starts its own: that alone is offered. */
static void test_podman(void **state)
{
    struct daemon_facts facts = {0};
    struct err err = ERR_INIT;
    (void)state;
    assert_ok(read_version("{\"Components\":[{\"Name\":\"Podman Engine\",\"Version\":\"4.3.1\"},"
                           "{\"Name\":\"OCI Runtime (runc)\",\"Version\":\"runc version 1.1.5+ds1"
                           "\\ncommit: 1.1.5\"}],\"ApiVersion\":\"1.41\"}",
                           &facts, &err),
              err);
    assert_ok(read_info("{\"DefaultRuntime\":\"runc\",\"Runtimes\":{\"crun\":{},\"runc\":{},"
                        "\"runsc\":{}}}",
                        &facts, &err),
              err);
    assert_true(facts.is_podman);
    assert_int_equal(facts.runtime_count, 1);
    assert_string_equal(facts.runtimes[0].name, "runc");
    assert_string_equal(facts.runtimes[0].version, "1.1.5+ds1");
}

static const uint8_t secret[CARRIER_SECRET_SIZE] = {1, 2, 0xab};
static const uint8_t nonce[SANDBOX_NONCE_SIZE] = {9};

/* The container of a spec, as the daemon is asked for it; the caller frees it. */
static json_t *container_of(const struct engine_create *create, bool gvisor, bool quota,
                            uint32_t gpus)
{
    const struct spec spec = {.instance = "0a1b2c3d",
                              .create = create,
                              .runtime = gvisor ? "runsc" : "runc",
                              .gvisor = gvisor,
                              .quota = quota,
                              .secret = secret,
                              .nonce = nonce,
                              .gpus = gpus};
    struct err err = ERR_INIT;
    BUF_AUTO struct buf body;
    buf_init(&body, 65536);
    assert_ok(spec_put_container(&spec, &body, &err), err);
    return json_loadb((const char *)body.data, body.size, 0, NULL);
}

static void test_container(void **state)
{
    struct engine_create create = small_sandbox;
    (void)state;
    JSON_AUTO json_t *strict = container_of(&create, false, false, 0);
    const json_t *host = json_object_get(strict, "HostConfig");
    assert_non_null(host);
    assert_int_equal(json_array_size(json_object_get(host, "CapAdd")), 4);
    assert_non_null(json_object_get(host, "SecurityOpt"));
    assert_null(json_object_get(host, "StorageOpt"));
    assert_null(json_object_get(host, "DeviceRequests"));
    assert_string_equal(json_string_value(json_object_get(host, "Runtime")), "runc");
    json_int_t memory = json_integer_value(json_object_get(host, "Memory"));
    assert_true(memory == (json_int_t)create.memory_bytes);
    json_int_t pids = json_integer_value(json_object_get(host, "PidsLimit"));
    assert_true(pids > create.pids_max);
    const char *label =
        json_string_value(json_object_get(json_object_get(strict, "Labels"), SPEC_LABEL_SECRET));
    uint8_t back[CARRIER_SECRET_SIZE];
    assert_true(hex_read(label, back, sizeof(back)));
    assert_memory_equal(back, secret, sizeof(back));

    (void)snprintf(create.profile, sizeof(create.profile), "container");
    JSON_AUTO json_t *container = container_of(&create, true, true, 5);
    host = json_object_get(container, "HostConfig");
    assert_int_equal(json_array_size(json_object_get(host, "CapAdd")), 14);
    assert_null(json_object_get(host, "SecurityOpt"));
    assert_string_equal(
        json_string_value(json_object_get(json_object_get(host, "StorageOpt"), "size")),
        "16777216");
    assert_true(json_integer_value(json_object_get(host, "Memory")) > memory);
    const json_t *ids =
        json_object_get(json_array_get(json_object_get(host, "DeviceRequests"), 0), "DeviceIDs");
    assert_int_equal(json_array_size(ids), 2);
    assert_string_equal(json_string_value(json_array_get(ids, 1)), "2");
}

static void test_limits(void **state)
{
    const struct engine_create limits = {.cpu_millis = 500};
    struct err err = ERR_INIT;
    BUF_AUTO struct buf body;
    (void)state;
    buf_init(&body, 4096);
    assert_ok(spec_put_limits(&limits, false, &body, &err), err);
    assert_string_equal(buf_cstr(&body), "{\"NanoCpus\":500000000}");
}

/* What is in the archive is what init reads; tar itself says whether its headers are right. */
static void test_archive(void **state)
{
    const struct spec spec = {.instance = "0a1b2c3d",
                              .create = &small_sandbox,
                              .runtime = "runc",
                              .secret = secret,
                              .nonce = nonce};
    struct init_config config;
    struct err err = ERR_INIT;
    BUF_AUTO struct buf archive;
    (void)state;
    buf_init(&archive, 1 << 20);
    assert_ok(spec_put_archive(&spec, "INIT", 4, &archive, &err), err);
    assert_int_equal(archive.size % 512, 0);
    assert_string_equal((const char *)archive.data, ".berth/");
    assert_string_equal((const char *)archive.data + 512, ".berth/init");
    assert_memory_equal(archive.data + 1024, "INIT", 4);
    assert_string_equal((const char *)archive.data + 1536, ".berth/config");
    size_t size = strtoul((const char *)archive.data + 1536 + 124, NULL, 8);
    assert_ok(init_config_decode(archive.data + 2048, size, &config, &err), err);
    assert_string_equal(config.id, small_sandbox.id);
    assert_true(config.carried);
    assert_memory_equal(config.secret, secret, sizeof(secret));
    assert_memory_equal(config.nonce, nonce, sizeof(nonce));
    assert_int_equal(config.uid, 1000);
    /* The sum of the first header, its own field as spaces. */
    unsigned long sum = 0;
    for (size_t i = 0; i < 512; i++)
        sum += i >= 148 && i < 156 ? ' ' : archive.data[i];
    assert_int_equal(strtoul((const char *)archive.data + 148, NULL, 8), sum);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_address), cmocka_unit_test(test_version),
        cmocka_unit_test(test_info),    cmocka_unit_test(test_container),
        cmocka_unit_test(test_limits),  cmocka_unit_test(test_archive),
        cmocka_unit_test(test_podman),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
