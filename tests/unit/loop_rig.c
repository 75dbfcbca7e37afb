/* Owns the loop in its pid namespace, and the server's side of its socket. */
#include "loop_rig.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/fault.h"
#include "base/fd.h"
#include "child.h"
#include "init/identity.h"
#include "init/loop.h"

char rig_folder[] = "/tmp/berth-test-loop-XXXXXX";

static void socket_address(struct sockaddr_un *address)
{
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    (void)snprintf(address->sun_path, sizeof(address->sun_path), "%s/sock", rig_folder);
}

int rig_make(void **state)
{
    static struct rig rig;
    memset(&rig, 0, sizeof(rig));
    *state = &rig;
    memcpy(rig_folder + sizeof(rig_folder) - 7, "XXXXXX", 6);
    init_config_clear(&rig.config);
    rig.setup_fd = -1;
    memcpy(rig.config.nonce, "0123456789abcdef", SANDBOX_NONCE_SIZE);
    rig.config.open_files_max = 256;
    rig.config.pids_max = 64;
    rig.config.file_size_max = 16U << 20;
    rig.config.orphan_ms = 600000;
    return mkdtemp(rig_folder) && chmod(rig_folder, 0755) == 0 ? 0 : -1;
}

int rig_end(void **state)
{
    struct rig *rig = *state;
    if (rig->helper > 0) {
        (void)kill(rig->helper, SIGKILL); /* PID 1 dies with it, and all below with that */
        (void)waitpid(rig->helper, NULL, 0);
    }
    fd_close(&rig->config.listen_fd);
    fd_close(&rig->setup_fd);
    child_remove_tree(rig_folder);
    return 0;
}

/* As root only: without it the loop sees the /proc of the test's own namespace. */
static void mount_all(const struct rig *rig)
{
    char path[64];
    if (geteuid() != 0)
        return;
    (void)snprintf(path, sizeof(path), "%s/proc", rig->closed_root ? rig_folder : "");
    require(mount("proc", path, "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) == 0);
    if (!rig->closed_root)
        return;
    (void)snprintf(path, sizeof(path), "%s/other", rig_folder);
    require(mount("tmpfs", path, "tmpfs", 0, NULL) == 0);
    (void)snprintf(path, sizeof(path), "%s/other/file", rig_folder);
    FD_AUTO int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    require(fd >= 0 && write(fd, "elsewhere", 9) == 9);
}

static void be_init(struct rig *rig)
{
    struct err err = ERR_INIT;
    sigset_t all;
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    require(getpid() == 1);
    mount_all(rig);
    if (rig->closed_root)
        require(chroot(rig_folder) == 0 && chdir("/") == 0);
    (void)sigfillset(&all);
    (void)sigprocmask(SIG_SETMASK, &all, NULL);
    (void)signal(SIGPIPE, SIG_IGN);
    fault_set(rig->config.fault);
    if (rig->shed)
        require_ok(identity_shed(rig->config.profile, &err), err);
    require_ok(loop_run(&rig->config, &err), err);
    _exit(0);
}

static void be_helper(struct rig *rig)
{
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    if (unshare(CLONE_NEWPID | (geteuid() == 0 ? 0 : CLONE_NEWUSER)) != 0)
        _exit(CHILD_SKIPPED);
    if (geteuid() == 0)
        child_leave_mounts();
    pid_t pid = fork();
    if (pid == 0)
        be_init(rig);
    int status = 0;
    fd_close(&rig->config.setup_fd);
    require(pid > 0 && waitpid(pid, &status, 0) == pid);
    _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

int rig_wait(struct rig *rig)
{
    int status = -1;
    for (int tries = 0; tries < WAIT_MS; tries++) {
        if (waitpid(rig->helper, &status, WNOHANG) == rig->helper) {
            rig->helper = 0;
            return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        }
        (void)usleep(1000);
    }
    fail_msg("init lives on");
    return -1;
}

void rig_start(struct rig *rig)
{
    struct sockaddr_un address;
    int pair[2];
    char byte = 0;
    socket_address(&address);
    rig->config.listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    assert_true(rig->config.listen_fd >= 0);
    assert_int_equal(bind(rig->config.listen_fd, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    rig->setup_fd = pair[0];
    rig->config.setup_fd = pair[1];
    (void)fflush(NULL);
    rig->helper = fork();
    if (rig->helper == 0) {
        fd_close(&rig->setup_fd);
        be_helper(rig);
    }
    assert_true(rig->helper > 0);
    fd_close(&rig->config.setup_fd);
    struct pollfd poller = {.fd = rig->setup_fd, .events = POLLIN};
    assert_int_equal(poll(&poller, 1, WAIT_MS), 1);
    if (recv(rig->setup_fd, &byte, 1, 0) != 1) {
        assert_int_equal(rig_wait(rig), CHILD_SKIPPED);
        skip_because("no pid namespace can be made here");
    }
    assert_int_equal(byte, 'R');
}

void rig_commit(struct rig *rig)
{
    assert_int_equal(send(rig->setup_fd, "C", 1, 0), 1);
    fd_close(&rig->setup_fd);
}

void rig_commit_with(struct rig *rig, int fd)
{
    struct err err = ERR_INIT;
    assert_ok(fd_send(rig->setup_fd, "C", 1, &fd, 1, 0, &err), err);
    fd_close(&fd);
    fd_close(&rig->setup_fd);
}

void start_committed(struct rig *rig)
{
    rig_start(rig);
    rig_commit(rig);
}

void assert_loop_ends(struct rig *rig)
{
    assert_int_equal(rig_wait(rig), 0);
}

/* ---- the server's side ---- */

void client_open(struct client *client)
{
    struct sockaddr_un address;
    socket_address(&address);
    client->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(client->fd >= 0);
    assert_int_equal(connect(client->fd, (struct sockaddr *)&address, sizeof(address)), 0);
    frame_decoder_init(&client->decoder);
}

void client_close(struct client *client)
{
    fd_close(&client->fd);
    frame_decoder_done(&client->decoder);
}

void client_send(struct client *client, enum frame_type type, uint32_t stream, const void *payload,
                 size_t size)
{
    BUF_AUTO struct buf out;
    struct err err = ERR_INIT;
    buf_init(&out, 2U * FRAME_PAYLOAD_MAX);
    assert_ok(frame_append(&out, type, stream, payload, size, &err), err);
    assert_ok(fd_write_all(client->fd, out.data, out.size, &err), err);
}

void client_send_u32(struct client *client, enum frame_type type, uint32_t stream, uint32_t value)
{
    uint8_t payload[4] = {(uint8_t)value, (uint8_t)(value >> 8), (uint8_t)(value >> 16),
                          (uint8_t)(value >> 24)};
    client_send(client, type, stream, payload, sizeof(payload));
}

bool client_next(struct client *client)
{
    struct err err = ERR_INIT;
    for (;;) {
        int result = frame_decoder_next(&client->decoder, &client->frame, &err);
        assert_ok(result, err);
        if (result == 1)
            return true;
        struct pollfd poller = {.fd = client->fd, .events = POLLIN};
        if (poll(&poller, 1, WAIT_MS) != 1)
            fail_msg("init says nothing");
        result = frame_decoder_read(&client->decoder, client->fd, &err);
        if (result == 0 || result == -ERR_CLOSED)
            return false;
        assert_ok(result, err);
    }
}

void assert_quiet(struct client *client)
{
    client_send(client, FRAME_PING, 0, NULL, 0);
    assert_true(client_next(client));
    assert_int_equal(client->frame.type, FRAME_PONG);
}

void assert_frame(struct client *client, enum frame_type type, uint32_t stream)
{
    assert_true(client_next(client));
    assert_int_equal(client->frame.type, type);
    assert_int_equal(client->frame.stream, stream);
}

void assert_cut_off(struct client *client)
{
    struct client other;
    while (client_next(client))
        continue;
    client_open(&other);
    const struct sandbox_hello hello = {.version_min = 1, .version_max = 1};
    BUF_AUTO struct buf payload;
    buf_init(&payload, 4096);
    assert_int_equal(sandbox_hello_encode(&hello, &payload, NULL), 0);
    client_send(&other, FRAME_HELLO, 0, payload.data, payload.size);
    assert_frame(&other, FRAME_HELLO, 0);
    client_close(&other);
}

void client_send_hello(struct client *client, uint32_t version_min, uint32_t version_max)
{
    const struct sandbox_hello hello = {.version_min = version_min, .version_max = version_max};
    BUF_AUTO struct buf payload;
    struct err err = ERR_INIT;
    buf_init(&payload, 4096);
    assert_ok(sandbox_hello_encode(&hello, &payload, &err), err);
    client_send(client, FRAME_HELLO, 0, payload.data, payload.size);
}

void client_greet(struct client *client)
{
    client_open(client);
    client_send_hello(client, SANDBOX_VERSION_MIN, SANDBOX_VERSION_MAX);
    assert_frame(client, FRAME_HELLO, 0);
}

void client_exec_argv(struct client *client, uint32_t stream, const char **argv,
                      const struct exec_options *options)
{
    const char *envp[] = {"PATH=/usr/bin:/bin", "WORD=hello", NULL};
    struct sandbox_exec exec = {.execution_id = "one",
                                .cwd = options->cwd ? options->cwd : "/",
                                .argv = argv,
                                .envp = envp,
                                .envc = 2,
                                .timeout_ms = options->timeout_ms,
                                .keep_bytes = options->keep_bytes ? options->keep_bytes : 1U << 20,
                                .output_max_bytes = options->output_max_bytes
                                                        ? options->output_max_bytes
                                                        : UINT64_C(1) << 40};
    BUF_AUTO struct buf payload;
    struct err err = ERR_INIT;
    while (argv[exec.argc])
        exec.argc++;
    buf_init(&payload, FRAME_PAYLOAD_MAX);
    assert_ok(sandbox_exec_encode(&exec, &payload, &err), err);
    client_send(client, FRAME_EXEC, stream, payload.data, payload.size);
}

void client_exec(struct client *client, uint32_t stream, const char *script,
                 const struct exec_options *options)
{
    const char *argv[] = {"sh", "-c", script, NULL};
    client_exec_argv(client, stream, argv, options ? options : &(struct exec_options){0});
}

static void take_data(struct outcome *outcome, const struct frame *frame, int index)
{
    size_t have = outcome->sizes[index];
    for (size_t i = 0; i < frame->size && have + i < sizeof(outcome->text[index]) - 1; i++)
        outcome->text[index][have + i] = (char)frame->payload[i];
    outcome->sizes[index] += frame->size;
}

void client_finish(struct client *client, uint32_t stream, struct outcome *outcome)
{
    struct err err = ERR_INIT;
    memset(outcome, 0, sizeof(*outcome));
    for (;;) {
        assert_true(client_next(client));
        const struct frame *frame = &client->frame;
        uint32_t part = frame->stream - stream;
        int index = (int)part - STREAM_STDOUT;
        assert_true(part < STREAM_STEP);
        if (frame->type == FRAME_STARTED) {
            outcome->started = true;
        } else if (frame->type == FRAME_DATA) {
            assert_true(index >= 0 && !outcome->closed[index]);
            assert_true(frame->size > 0 && frame->size <= FRAME_DATA_MAX);
            take_data(outcome, frame, index);
            client_send_u32(client, FRAME_CREDIT, frame->stream, (uint32_t)frame->size);
        } else if (frame->type == FRAME_CLOSE) {
            assert_true(index >= 0 && !outcome->closed[index]);
            outcome->closed[index] = true;
        } else if (frame->type == FRAME_CREDIT) {
            uint32_t value = 0;
            assert_ok(frame_u32(frame, &value, &err), err);
            assert_int_equal(part, STREAM_STDIN);
            outcome->stdin_credit += value;
        } else {
            assert_int_equal(frame->type, FRAME_EXIT);
            assert_true(outcome->closed[0] && outcome->closed[1]);
            assert_ok(sandbox_exit_decode(frame->payload, frame->size, &outcome->exit, &err), err);
            (void)snprintf(outcome->start_error, sizeof(outcome->start_error), "%s",
                           outcome->exit.start_error);
            return;
        }
    }
}
