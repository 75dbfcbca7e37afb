/* berth-native as a process, with the server's own client: sandboxes made, listed and ended, what
 * a new engine finds of an old one, and who may say what on its socket. */
#include "check.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/id.h"
#include "child.h"
#include "engine/engine.h"
#include "sandbox_spec.h"
#include "wire/init_config.h"

enum { WAIT_S = 20, WAIT_MS = 20000 };

static char folder[] = "/tmp/berth-test-service-XXXXXX";
static char instance[13];

struct rig {
    int listen_fd;
    pid_t pid;
    struct engine *engine;
};

static const struct engine_events no_events;

static int64_t soon(void)
{
    return clock_now_ns() + WAIT_S * CLOCK_NS_PER_S;
}

static void below(const char *name, char *path, size_t size)
{
    (void)snprintf(path, size, "%s/%s", folder, name);
}

static int make_folder(const char *name, mode_t mode)
{
    char path[96];
    below(name, path, sizeof(path));
    return mkdir(path, mode) == 0 ? chmod(path, mode) : -1;
}

static int make_state(void)
{
    char path[96];
    (void)snprintf(instance, sizeof(instance), "ut");
    id_hex(instance + 2, 3); /* 8 characters, as the monitor makes them */
    if (make_folder("priv", 0700) != 0 || make_folder("priv/mnt", 0755) != 0)
        return -1;
    below("priv/instance", path, sizeof(path));
    FD_AUTO int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    return fd < 0 ? -1 : fd_write_all(fd, instance, strlen(instance), NULL);
}

static int listen_at(const char *name)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    below(name, address.sun_path, sizeof(address.sun_path));
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) != 0 ||
        chmod(address.sun_path, 0666) != 0 || listen(fd, 4) != 0)
        return -1;
    return fd;
}

static void start_engine(struct rig *rig)
{
    rig->pid = fork();
    if (rig->pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
        if (rig->listen_fd != INIT_FD_CONFIG)
            require(dup2(rig->listen_fd, INIT_FD_CONFIG) == INIT_FD_CONFIG);
        else
            require(fcntl(INIT_FD_CONFIG, F_SETFD, 0) == 0);
        (void)execl(getenv("BERTH_NATIVE"), "berth-native", "--state", folder, "--listen-fd", "3",
                    "--client-uid", "65534", (char *)NULL);
        require(!"the engine starts");
    }
}

static void stop_engine(struct rig *rig, int number)
{
    if (rig->pid <= 0)
        return;
    (void)kill(rig->pid, number);
    (void)waitpid(rig->pid, NULL, 0);
    rig->pid = 0;
}

/* The program looks for berth-init beside itself: BERTH_NATIVE is the one in the build's root. */
static int rig_open(void **state)
{
    static struct rig rig;
    memset(&rig, 0, sizeof(rig));
    *state = &rig;
    memcpy(folder + sizeof(folder) - 7, "XXXXXX", 6);
    if (!mkdtemp(folder) || chmod(folder, 0755) != 0)
        return -1;
    if (geteuid() != 0 || !getenv("BERTH_NATIVE"))
        return 0;
    char path[96];
    rig.listen_fd = make_state() == 0 ? listen_at("native.sock") : -1;
    if (rig.listen_fd < 0)
        return -1;
    start_engine(&rig);
    below("native.sock", path, sizeof(path));
    return engine_process_new("native", path, &no_events, &rig.engine, NULL);
}

/* Ends all sandboxes of the instance, and sees that nothing is left of them. */
static int rig_close(void **state)
{
    struct rig *rig = *state;
    int result = 0;
    if (rig->engine) {
        char(*ids)[SANDBOX_ID_MAX + 1] = NULL;
        size_t count = 0;
        result = engine_list(rig->engine, soon(), &ids, &count, NULL);
        for (size_t i = 0; i < count && result == 0; i++)
            result = engine_destroy(rig->engine, ids[i], soon(), NULL);
        free(ids);
        engine_free(rig->engine);
    }
    stop_engine(rig, SIGTERM);
    char path[96];
    (void)snprintf(path, sizeof(path), "/sys/fs/cgroup/pids/berth-%s", instance);
    if (access(path, F_OK) == 0)
        result = -1;
    if (rig->listen_fd > 0)
        fd_close(&rig->listen_fd);
    child_remove_tree(folder);
    return result;
}

/* Skips where the engine says that it can't make any sandbox. */
static void skip_unless_able(struct rig *rig)
{
    struct engine_info info;
    struct err err = ERR_INIT;
    skip_unless_root();
    if (!rig->engine)
        skip_because("no berth-native (BERTH_NATIVE)");
    assert_ok(engine_probe(rig->engine, soon(), &info, &err), err);
    if (info.unavailable[0] != '\0') {
        print_message("# %s\n", info.unavailable);
        skip_because("no sandbox can be made here");
    }
}

static struct engine_create spec_of(const char *id)
{
    struct engine_create spec = small_sandbox;
    (void)snprintf(spec.id, sizeof(spec.id), "%s", id);
    return spec;
}

static int create(struct rig *rig, const char *id, struct err *err)
{
    const struct engine_create spec = spec_of(id);
    uint8_t nonce[SANDBOX_NONCE_SIZE];
    int fd = -1;
    int result = engine_create(rig->engine, &spec, soon(), &fd, nonce, err);
    fd_close(&fd);
    return result;
}

static size_t count_sandboxes(struct rig *rig)
{
    char(*ids)[SANDBOX_ID_MAX + 1] = NULL;
    size_t count = 0;
    struct err err = ERR_INIT;
    assert_ok(engine_list(rig->engine, soon(), &ids, &count, &err), err);
    free(ids);
    return count;
}

static void test_probe(void **state)
{
    struct rig *rig = *state;
    struct engine_info info;
    struct err err = ERR_INIT;
    skip_unless_able(rig);
    assert_ok(engine_probe(rig->engine, soon(), &info, &err), err);
    assert_string_equal(info.name, "native");
    assert_true((info.capabilities & ENGINE_CAP_ISOLATED) != 0);
    assert_true((info.capabilities & ENGINE_CAP_MEMORY) != 0);
    assert_true(info.memory_bytes > 0 && info.cpu_millis > 0);
}

static void test_make_list_end(void **state)
{
    struct rig *rig = *state;
    enum engine_state now = ENGINE_STATE_CREATING;
    struct err err = ERR_INIT;
    int fd = -1;
    skip_unless_able(rig);
    assert_int_equal(count_sandboxes(rig), 0);
    assert_ok(create(rig, "one", &err), err);
    assert_ok(create(rig, "two", &err), err);
    assert_int_equal(count_sandboxes(rig), 2);
    assert_fails(create(rig, "one", &err), ERR_CONFLICT, err);
    assert_ok(engine_inspect(rig->engine, "one", soon(), &now, &err), err);
    assert_int_equal(now, ENGINE_STATE_RUNNING);
    assert_fails(engine_inspect(rig->engine, "none", soon(), &now, &err), ERR_NOT_FOUND, err);
    assert_ok(engine_open_channel(rig->engine, "one", soon(), &fd, &err), err);
    fd_close(&fd);
    assert_fails(engine_open_channel(rig->engine, "none", soon(), &fd, &err), ERR_NOT_FOUND, err);
    assert_ok(engine_destroy(rig->engine, "one", soon(), &err), err);
    assert_ok(engine_destroy(rig->engine, "one", soon(), &err), err);
    assert_ok(engine_destroy(rig->engine, "none", soon(), &err), err);
    assert_fails(engine_inspect(rig->engine, "one", soon(), &now, &err), ERR_NOT_FOUND, err);
    assert_int_equal(count_sandboxes(rig), 1);
}

static void test_bad_specs(void **state)
{
    struct rig *rig = *state;
    struct err err = ERR_INIT;
    uint8_t nonce[SANDBOX_NONCE_SIZE];
    int fd = -1;
    skip_unless_able(rig);
    struct engine_create spec = spec_of("one");
    (void)snprintf(spec.image, sizeof(spec.image), "/etc");
    assert_fails(engine_create(rig->engine, &spec, soon(), &fd, nonce, &err), ERR_BAD_INPUT, err);
    spec = spec_of("one");
    spec.memory_bytes = 1;
    assert_fails(engine_create(rig->engine, &spec, soon(), &fd, nonce, &err), ERR_BAD_INPUT, err);
    assert_int_equal(fd, -1);
    assert_int_equal(count_sandboxes(rig), 0);
}

/* kill -9 of the engine ends no sandbox; the next engine has it, and can end it. */
static void test_sandboxes_outlive_the_engine(void **state)
{
    struct rig *rig = *state;
    enum engine_state now = ENGINE_STATE_CREATING;
    struct engine_info info;
    struct err err = ERR_INIT;
    skip_unless_able(rig);
    assert_ok(create(rig, "one", &err), err);
    stop_engine(rig, SIGKILL);
    start_engine(rig);
    while (engine_probe(rig->engine, soon(), &info, &err) != 0) /* until the client is back */
        (void)usleep(10000);
    assert_ok(engine_inspect(rig->engine, "one", soon(), &now, &err), err);
    assert_int_equal(now, ENGINE_STATE_RUNNING);
    assert_fails(create(rig, "one", &err), ERR_CONFLICT, err);
    assert_ok(engine_destroy(rig->engine, "one", soon(), &err), err);
    assert_int_equal(count_sandboxes(rig), 0);
}

static int connect_raw(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    below("native.sock", address.sun_path, sizeof(address.sun_path));
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    return connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0 ? fd : -1;
}

static bool is_closed(int fd)
{
    char byte = 0;
    struct pollfd poller = {.fd = fd, .events = POLLIN};
    return poll(&poller, 1, WAIT_MS) == 1 && recv(fd, &byte, 1, 0) <= 0;
}

static void be_another_user(void *context)
{
    (void)context;
    require(setresgid(12345, 12345, 12345) == 0 && setresuid(12345, 12345, 12345) == 0);
    int fd = connect_raw();
    require(fd >= 0);
    require(is_closed(fd));
}

static void test_who_may_speak(void **state)
{
    struct rig *rig = *state;
    struct err err = ERR_INIT;
    skip_unless_able(rig);
    assert_int_equal(child_run(be_another_user, NULL), 0);
    assert_int_equal(count_sandboxes(rig), 0); /* the server was not cut off for it */
    static const char *const garbage[] = {"", "x", "\377\377\377\377\377\377\377\377",
                                          "0123456789abcdef0123456789abcdef"};
    for (size_t i = 1; i < ARRAY_SIZE(garbage); i++) {
        FD_AUTO int fd = connect_raw(); /* as root, who takes the place of the server */
        assert_int_equal(send(fd, garbage[i], strlen(garbage[i]), MSG_NOSIGNAL),
                         strlen(garbage[i]));
        assert_true(is_closed(fd));
    }
    struct engine_info info;
    int tries = 0;
    while (engine_probe(rig->engine, soon(), &info, &err) != 0 && ++tries < 1000)
        (void)usleep(10000);
    assert_ok(create(rig, "one", &err), err);
}

#define on_rig(test) cmocka_unit_test_setup_teardown(test, rig_open, rig_close)

int main(void)
{
    const struct CMUnitTest tests[] = {
        on_rig(test_probe),         on_rig(test_make_list_end),
        on_rig(test_bad_specs),     on_rig(test_sandboxes_outlive_the_engine),
        on_rig(test_who_may_speak),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
