/* native/sandbox and native/setup: what is refused, and the life of real sandboxes of an instance
 * of the test's own, with the real init. */
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/id.h"
#include "child.h"
#include "native/sandbox.h"
#include "sandbox_spec.h"
#include "wire/frame.h"
#include "wire/sandbox.h"

enum { WAIT_MS = 20000 };

static char folder[] = "/tmp/berth-test-native-XXXXXX";

/* ---- refusals, without any privilege ---- */

static void empty_host(struct sandbox_host *host)
{
    memset(host, 0, sizeof(*host));
    host->run_fd = host->ids_fd = host->init_fd = host->stage_fd = host->epoll_fd = -1;
    host->disks.dir_fd = -1;
    sysview_init(&host->sysview, -1, &host->cgroups);
}

static void assert_refused(const struct engine_create *spec, enum err_kind kind, const char *word)
{
    struct sandbox_host host;
    struct sandbox *sandbox = NULL;
    struct err err = ERR_INIT;
    empty_host(&host);
    assert_fails(sandbox_begin(&host, ENGINE_OP_CREATE, spec, &sandbox, &err), kind, err);
    assert_null(sandbox);
    if (!strstr(err.message, word))
        fail_msg("no \"%s\" in: %s", word, err.message);
}

#define REFUSE(kind, word, ...)                                                                    \
    do {                                                                                           \
        struct engine_create spec = small_sandbox;                                                 \
        __VA_ARGS__;                                                                               \
        assert_refused(&spec, kind, word);                                                         \
    } while (0)

static void test_ids(void **state)
{
    (void)state;
    static const char *const ids[] = {"",    ".",   "..",  "a/b",         "../x", "-a",
                                      "A",   "a b", "a.b", "a\nb",        "a_b",  "\303\244",
                                      "a%s", "~",   "/",   "sb-1/../../x"};
    for (size_t i = 0; i < ARRAY_SIZE(ids); i++)
        REFUSE(ERR_BAD_INPUT, "sandbox id", (void)snprintf(spec.id, sizeof(spec.id), "%s", ids[i]));
}

static void test_numbers(void **state)
{
    (void)state;
    REFUSE(ERR_BAD_INPUT, "memory", spec.memory_bytes = 0);
    REFUSE(ERR_BAD_INPUT, "memory", spec.memory_bytes = (4U << 20) - 1);
    REFUSE(ERR_BAD_INPUT, "memory", spec.memory_bytes = UINT64_MAX);
    REFUSE(ERR_BAD_INPUT, "storage", spec.storage_bytes = (64U << 10) - 1);
    REFUSE(ERR_BAD_INPUT, "storage", spec.storage_bytes = (UINT64_C(1) << 50) + 1);
    REFUSE(ERR_BAD_INPUT, "core", spec.cpu_millis = 9);
    REFUSE(ERR_BAD_INPUT, "core", spec.cpu_millis = UINT32_MAX);
    REFUSE(ERR_BAD_INPUT, "processes", spec.pids_max = 1);
    REFUSE(ERR_BAD_INPUT, "processes", spec.pids_max = 65537);
    REFUSE(ERR_BAD_INPUT, "open files", spec.open_files_max = 15);
    REFUSE(ERR_BAD_INPUT, "open files", spec.open_files_max = UINT32_MAX);
}

static void test_names(void **state)
{
    (void)state;
    REFUSE(ERR_BAD_INPUT, "image", (void)snprintf(spec.image, sizeof(spec.image), "/etc"));
    REFUSE(ERR_BAD_INPUT, "image", spec.image[0] = '\0');
    REFUSE(ERR_UNSUPPORTED, "profile", (void)snprintf(spec.profile, sizeof(spec.profile), "root"));
    /* what a host without id-mapped mounts, and without disks, has not */
    REFUSE(ERR_UNSUPPORTED, "id-mapped",
           (void)snprintf(spec.profile, sizeof(spec.profile), "container"));
    REFUSE(ERR_UNSUPPORTED, "disks", spec.disk = true);
    REFUSE(ERR_UNSUPPORTED, "disks", spec.keep_files = true);
}

/* A right spec on a host where nothing was prepared: the next step fails, and nothing is left. */
static void test_a_host_without_ids(void **state)
{
    (void)state;
    assert_refused(&small_sandbox, ERR_UNAVAILABLE, "id range");
}

static void test_free_takes_nothing(void **state)
{
    (void)state;
    sandbox_free(NULL);
}

/* ---- real sandboxes; all of it in a child with mounts of its own ---- */

static struct sandbox_host host;
static char instance[13]; /* of this test; made and swept by the parent */

static int open_below(const char *name)
{
    char path[96];
    (void)snprintf(path, sizeof(path), "%s/%s", folder, name);
    require(mkdir(path, 0700) == 0);
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    require(fd >= 0);
    return fd;
}

static void open_host(void)
{
    char stage[96];
    struct err err = ERR_INIT;
    const char *init = getenv("BERTH_INIT");
    if (!init)
        _exit(CHILD_SKIPPED);
    empty_host(&host);
    /* Init's configuration will lie on this number; in the engine the listening socket has it. */
    require(fcntl(open("/dev/null", O_RDONLY | O_CLOEXEC), F_GETFD) >= 0);
    require(fcntl(INIT_FD_CONFIG, F_GETFD) >= 0);
    host.init_fd = open(init, O_PATH | O_CLOEXEC);
    require(host.init_fd >= 0);
    host.run_fd = open_below("run");
    FD_AUTO int stage_fd = open_below("stage");
    FD_AUTO int mnt_fd = open_below("mnt");
    require(fchmod(mnt_fd, 0755) == 0);
    child_leave_mounts();
    (void)snprintf(stage, sizeof(stage), "%s/mnt", folder);
    require(chdir(stage) == 0);
    (void)snprintf(stage, sizeof(stage), "%s/stage", folder);
    int result = cgroup_open(&host.cgroups, instance, &err);
    if (result == -ERR_UNSUPPORTED)
        _exit(CHILD_SKIPPED);
    require_ok(result, err);
    require_ok(idrange_find(&host.ids, &err), err);
    require_ok(idrange_open(&host.ids, 0, -1, &host.ids_fd, &err), err);
    require_ok(image_open_host(&host.image, stage, "", &err), err);
    (void)snprintf(stage, sizeof(stage), "%s/stage/layers", folder);
    require(mkdir(stage, 0700) == 0);
    host.stage_fd = open(stage, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    require(host.stage_fd >= 0);
    require(mkdirat(host.stage_fd, "lower-0", 0700) == 0);
    require(mkdirat(host.stage_fd, "empty", 0700) == 0);
    sysview_init(&host.sysview, host.stage_fd, &host.cgroups);
}

static void count(void *context, const char *id)
{
    (void)id;
    ++*(int *)context;
}

/* Closes the host; no group of the instance may be left. */
static void close_host(void)
{
    int left = 0;
    require(cgroup_each(&host.cgroups, count, &left, NULL) == 0);
    require(left == 0);
    cgroup_retire(&host.cgroups);
    cgroup_close(&host.cgroups);
    image_close(&host.image);
}

static struct sandbox *begin(const struct engine_create *spec)
{
    struct sandbox *sandbox = NULL;
    struct err err = ERR_INIT;
    require_ok(sandbox_begin(&host, ENGINE_OP_CREATE, spec, &sandbox, &err), err);
    require(sandbox->state == ENGINE_STATE_CREATING);
    require(sandbox->pid > 0 && sandbox->pidfd >= 0 && sandbox->setup_fd >= 0);
    require(sandbox->ids.base >= IDRANGE_FIRST);
    return sandbox;
}

/* Goes on until the sandbox runs. */
static struct sandbox *make(const struct engine_create *spec)
{
    struct sandbox *sandbox = begin(spec);
    struct err err = ERR_INIT;
    for (int result = 0; result == 0;) {
        struct pollfd poller = {.fd = sandbox->setup_fd, .events = POLLIN};
        require(poll(&poller, 1, WAIT_MS) == 1);
        result = sandbox_setup_event(&host, sandbox, &err);
        require_ok(result, err);
    }
    require(sandbox->state == ENGINE_STATE_RUNNING);
    require(sandbox->setup_fd == -1);
    return sandbox;
}

static void unmake(struct sandbox *sandbox)
{
    sandbox_kill(&host, sandbox);
    require(sandbox->state == ENGINE_STATE_DESTROYING);
    for (int tries = 0; !sandbox_cleanup(&host, sandbox); tries++) {
        require(tries < WAIT_MS);
        (void)usleep(1000);
    }
    char path[SANDBOX_ID_MAX + 8];
    (void)snprintf(path, sizeof(path), "%s.sock", sandbox->id);
    require(faccessat(host.run_fd, path, F_OK, 0) != 0);
    sandbox_free(sandbox);
}

static struct frame_decoder decoder;

static void next_frame(int fd, struct frame *frame)
{
    struct err err = ERR_INIT;
    int result = 0;
    while ((result = frame_decoder_next(&decoder, frame, &err)) == 0) {
        struct pollfd poller = {.fd = fd, .events = POLLIN};
        require(poll(&poller, 1, WAIT_MS) == 1);
        require(frame_decoder_read(&decoder, fd, &err) > 0);
    }
    require_ok(result, err);
}

static int connect_to(struct sandbox *sandbox)
{
    struct err err = ERR_INIT;
    struct frame frame;
    struct sandbox_hello hello = {.version_min = 1, .version_max = 1};
    int fd = -1;
    BUF_AUTO struct buf payload;
    BUF_AUTO struct buf out;
    buf_init(&payload, 4096);
    buf_init(&out, 4096);
    require_ok(sandbox_connect(&host, sandbox, &fd, &err), err);
    require((fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
    require(sandbox_hello_encode(&hello, &payload, NULL) == 0);
    require(frame_append(&out, FRAME_HELLO, 0, payload.data, payload.size, NULL) == 0);
    require_ok(fd_write_all(fd, out.data, out.size, &err), err);
    frame_decoder_done(&decoder);
    frame_decoder_init(&decoder);
    next_frame(fd, &frame);
    require(frame.type == FRAME_HELLO);
    require_ok(sandbox_hello_decode(frame.payload, frame.size, &hello, &err), err);
    require((hello.capabilities & SANDBOX_CAP_CGROUP) != 0);
    return fd;
}

/* Runs a script in the sandbox; returns its exit code, with the beginning of its stdout. */
static int run(int fd, const char *script, char *text, size_t size)
{
    const char *argv[] = {"sh", "-c", script, NULL};
    const char *envp[] = {"PATH=/usr/bin:/bin", NULL};
    const struct sandbox_exec exec = {.execution_id = "one",
                                      .cwd = "/workspace",
                                      .argv = argv,
                                      .argc = 3,
                                      .envp = envp,
                                      .envc = 1,
                                      .keep_bytes = 65536,
                                      .output_max_bytes = 1U << 20};
    struct frame frame;
    struct sandbox_exit end;
    struct err err = ERR_INIT;
    size_t used = 0;
    BUF_AUTO struct buf payload;
    BUF_AUTO struct buf out;
    buf_init(&payload, 65536);
    buf_init(&out, 65536);
    require(sandbox_exec_encode(&exec, &payload, NULL) == 0);
    require(frame_append(&out, FRAME_EXEC, 4, payload.data, payload.size, NULL) == 0);
    require_ok(fd_write_all(fd, out.data, out.size, &err), err);
    do {
        next_frame(fd, &frame);
        if (frame.type == FRAME_DATA && frame.stream == 4 + STREAM_STDERR)
            (void)fprintf(stderr, "# stderr: %.*s\n", (int)frame.size, (const char *)frame.payload);
        for (size_t i = 0; frame.type == FRAME_DATA && i < frame.size && used < size - 1; i++)
            text[used++] = (char)frame.payload[i];
    } while (frame.type != FRAME_EXIT);
    text[used] = '\0';
    require_ok(sandbox_exit_decode(frame.payload, frame.size, &end, &err), err);
    return (int)end.exit_code;
}

static void a_life(void *context)
{
    char text[256];
    (void)context;
    open_host();
    struct sandbox *sandbox = make(&small_sandbox);
    pid_t pid = 0;
    require(cgroup_init_pid(&host.cgroups, small_sandbox.id, &pid, NULL) == 0);
    require(pid == sandbox->pid);
    FD_AUTO int fd = connect_to(sandbox);
    require(run(fd, "id -u; pwd; hostname; echo $$ > file && cat file > copy; exit 9", text,
                sizeof(text)) == 9);
    require(strcmp(text, "1000\n/workspace\nsandbox\n") == 0);
    /* no signal reaches init, and nothing of the image is written */
    require(run(fd, "kill -9 1 2>/dev/null; echo $?; test -w /usr || test -w /etc || echo closed",
                text, sizeof(text)) == 0);
    require(strcmp(text, "1\nclosed\n") == 0);
    require(run(fd, "true", text, sizeof(text)) == 0);
    unmake(sandbox);
    close_host();
}

/* Two at once have different ids; a second one of the same id is the caller's to refuse. */
static void two_lives(void *context)
{
    struct engine_create second = small_sandbox;
    (void)context;
    open_host();
    (void)snprintf(second.id, sizeof(second.id), "sb-2");
    struct sandbox *a = make(&small_sandbox);
    struct sandbox *b = make(&second);
    require(a->ids.base != b->ids.base);
    require(a->pid != b->pid);
    require(memcmp(a->nonce, b->nonce, SANDBOX_NONCE_SIZE) != 0);
    unmake(a);
    FD_AUTO int fd = connect_to(b);
    char text[16];
    require(run(fd, "echo alive", text, sizeof(text)) == 0);
    require(strcmp(text, "alive\n") == 0);
    unmake(b);
    close_host();
}

/* An engine that dies before the commit takes the half-made sandbox with it. */
static void half_made(void *context)
{
    (void)context;
    open_host();
    struct sandbox *sandbox = begin(&small_sandbox);
    struct pollfd poller = {.fd = sandbox->pidfd, .events = POLLIN};
    require(poll(&poller, 1, 0) == 0);
    fd_close(&sandbox->setup_fd);
    require(poll(&poller, 1, WAIT_MS) == 1);
    unmake(sandbox);
    close_host();
}

/* Adopts while so many descriptors can be had; NULL when that failed. */
static struct sandbox *adopt_with(rlim_t free_count)
{
    struct rlimit before;
    int lowest = dup(host.run_fd);
    require(lowest >= 0 && close(lowest) == 0);
    require(getrlimit(RLIMIT_NOFILE, &before) == 0);
    const struct rlimit few = {.rlim_cur = (rlim_t)lowest + free_count,
                               .rlim_max = before.rlim_max};
    require(setrlimit(RLIMIT_NOFILE, &few) == 0);
    struct sandbox *found = sandbox_adopt(&host, small_sandbox.id);
    require(setrlimit(RLIMIT_NOFILE, &before) == 0);
    return found;
}

/* What another engine left: found by its group, connected to, ended without being our child. */
static void an_adopted_life(void *context)
{
    (void)context;
    open_host();
    struct sandbox *first = make(&small_sandbox);
    pid_t pid = first->pid;
    struct sandbox *found = sandbox_adopt(&host, small_sandbox.id);
    require(found && found->pid == pid && found->pidfd >= 0 && !found->child);
    require(found->state == ENGINE_STATE_RUNNING);
    for (rlim_t count = 0; count < 3; count++) { /* what can't be looked at is not taken for dead */
        struct sandbox *seen = adopt_with(count);
        require((count > 0 || !seen) && (!seen || seen->pid == pid));
        sandbox_free(seen);
    }
    sandbox_free(first); /* the first engine forgets it; its init is our child and needs a reaper */
    FD_AUTO int fd = connect_to(found);
    char text[16];
    require(run(fd, "echo alive", text, sizeof(text)) == 0);
    sandbox_kill(&host, found);
    require(waitpid(pid, NULL, 0) == pid);
    unmake(found);
    struct sandbox *gone = sandbox_adopt(&host, "never-was");
    require(gone && gone->pid == 0 && gone->pidfd == -1);
    unmake(gone);
    close_host();
}

/* A kill that is refused (of an init below another user namespace, while its user can't be taken)
 * is repeated until the init is gone. */
static void a_kill_that_was_refused(void *context)
{
    (void)context;
    empty_host(&host);
    pid_t pid = fork();
    if (pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
        for (;;)
            (void)pause();
    }
    struct sandbox *sandbox = sandbox_adopt_stopped("sb-1");
    require(pid > 0 && sandbox);
    sandbox->state = ENGINE_STATE_RUNNING;
    sandbox->child = true;
    sandbox->pid = pid;
    sandbox->uid = 54321;
    sandbox->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    require(sandbox->pidfd >= 0);
    require(setresuid(12345, 12345, 0) == 0); /* no right over it, nor to become another */
    sandbox_kill(&host, sandbox);
    require(!sandbox_cleanup(&host, sandbox));
    struct pollfd poller = {.fd = sandbox->pidfd, .events = POLLIN};
    require(poll(&poller, 1, 0) == 0);
    require(setresuid(0, 0, 0) == 0);
    for (int tries = 0; !sandbox_cleanup(&host, sandbox); tries++) {
        require(tries < WAIT_MS);
        (void)usleep(1000);
    }
    require(sandbox->state == ENGINE_STATE_STOPPED);
    sandbox_free(sandbox);
}

/* The stage says what failed, and nothing of it is left. */
static void a_setup_that_fails(void *context)
{
    struct err err = ERR_INIT;
    int result = 0;
    (void)context;
    open_host();
    fd_close(&host.init_fd);
    host.init_fd = open("/etc/passwd", O_PATH | O_CLOEXEC); /* no program */
    struct sandbox *sandbox = begin(&small_sandbox);
    while (result == 0) {
        struct pollfd poller = {.fd = sandbox->setup_fd, .events = POLLIN};
        require(poll(&poller, 1, WAIT_MS) == 1);
        result = sandbox_setup_event(&host, sandbox, &err);
    }
    require(result == -ERR_INTERNAL);
    require(strstr(err.message, small_sandbox.id) != NULL);
    unmake(sandbox);
    close_host();
}

static int make_folder(void **state)
{
    (void)state;
    memcpy(folder + sizeof(folder) - 7, "XXXXXX", 6);
    (void)snprintf(instance, sizeof(instance), "ut");
    id_hex(instance + 2, 5);
    return mkdtemp(folder) ? 0 : -1;
}

/* A test that failed half-way leaves sandboxes: their groups tell which. */
static int remove_folder(void **state)
{
    static const char *const ids[] = {"sb-1", "sb-2"};
    struct cgroup_root root;
    (void)state;
    if (geteuid() == 0 && cgroup_open(&root, instance, NULL) == 0) {
        for (size_t i = 0; i < ARRAY_SIZE(ids); i++) {
            for (int tries = 0; cgroup_remove(&root, ids[i], NULL) != 0 && tries < 500; tries++) {
                cgroup_kill(&root, ids[i]);
                (void)usleep(2000);
            }
        }
        cgroup_retire(&root);
        cgroup_close(&root);
    }
    child_remove_tree(folder);
    return 0;
}

static void run_as_root(void (*fn)(void *context))
{
    skip_unless_root();
    int code = child_run(fn, NULL);
    if (code == CHILD_SKIPPED)
        skip_because("no berth-init (BERTH_INIT) or no cgroup controllers here");
    assert_int_equal(code, 0);
}

#define root_test(name)                                                                            \
    static void test_##name(void **state)                                                          \
    {                                                                                              \
        (void)state;                                                                               \
        run_as_root(name);                                                                         \
    }
root_test(a_life) root_test(two_lives) root_test(half_made) root_test(an_adopted_life)
    root_test(a_setup_that_fails) root_test(a_kill_that_was_refused)

#define on_folder(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)

        int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ids),
        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_a_host_without_ids),
        cmocka_unit_test(test_free_takes_nothing),
        on_folder(test_a_life),
        on_folder(test_two_lives),
        on_folder(test_half_made),
        on_folder(test_an_adopted_life),
        on_folder(test_a_setup_that_fails),
        cmocka_unit_test(test_a_kill_that_was_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
