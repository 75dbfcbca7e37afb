/* init/loop and init/job: the loop as PID 1 of a pid namespace of its own, without cgroups and
 * without an inner user namespace, spoken to over its socket.
 *
 * It must be PID 1: without cgroups init ends an execution by a signal to every process that it can
 * see, which outside of a namespace would be every process of this machine. */
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/fd.h"
#include "child.h"
#include "init/loop.h"
#include "wire/frame.h"
#include "wire/sandbox.h"

enum { WAIT_MS = 20000 };

static char folder[] = "/tmp/berth-test-loop-XXXXXX";

struct rig {
    struct init_config config;
    bool closed_root; /* the folder becomes the root */
    pid_t helper;     /* waits for PID 1 and ends as it does */
    int setup_fd;
};

struct client {
    int fd;
    struct frame_decoder decoder;
    struct frame frame; /* the last one */
};

static void socket_address(struct sockaddr_un *address)
{
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    (void)snprintf(address->sun_path, sizeof(address->sun_path), "%s/sock", folder);
}

static int rig_make(void **state)
{
    static struct rig rig;
    memset(&rig, 0, sizeof(rig));
    *state = &rig;
    memcpy(folder + sizeof(folder) - 7, "XXXXXX", 6);
    init_config_clear(&rig.config);
    rig.setup_fd = -1;
    memcpy(rig.config.nonce, "0123456789abcdef", SANDBOX_NONCE_SIZE);
    rig.config.open_files_max = 256;
    rig.config.pids_max = 64;
    rig.config.file_size_max = 16U << 20;
    rig.config.orphan_ms = 600000;
    return mkdtemp(folder) && chmod(folder, 0755) == 0 ? 0 : -1;
}

static int rig_end(void **state)
{
    struct rig *rig = *state;
    if (rig->helper > 0) {
        (void)kill(rig->helper, SIGKILL); /* PID 1 dies with it, and all below with that */
        (void)waitpid(rig->helper, NULL, 0);
    }
    fd_close(&rig->config.listen_fd);
    fd_close(&rig->setup_fd);
    child_remove_tree(folder);
    return 0;
}

static void be_init(struct rig *rig)
{
    struct err err = ERR_INIT;
    sigset_t all;
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    require(getpid() == 1);
    if (rig->closed_root)
        require(chroot(folder) == 0 && chdir("/") == 0);
    (void)sigfillset(&all);
    (void)sigprocmask(SIG_SETMASK, &all, NULL);
    (void)signal(SIGPIPE, SIG_IGN);
    require_ok(loop_run(&rig->config, &err), err);
    _exit(0);
}

static void be_helper(struct rig *rig)
{
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    if (unshare(CLONE_NEWPID | (geteuid() == 0 ? 0 : CLONE_NEWUSER)) != 0)
        _exit(CHILD_SKIPPED);
    pid_t pid = fork();
    if (pid == 0)
        be_init(rig);
    int status = 0;
    fd_close(&rig->config.setup_fd);
    require(pid > 0 && waitpid(pid, &status, 0) == pid);
    _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

/* Starts the loop; returns once it listens. */
static void rig_start(struct rig *rig)
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
    if (recv(rig->setup_fd, &byte, 1, 0) != 1)
        skip_because("no pid namespace can be made here");
    assert_int_equal(byte, 'R');
}

/* What an engine does at the end of a creation. */
static void rig_commit(struct rig *rig)
{
    assert_int_equal(send(rig->setup_fd, "C", 1, 0), 1);
    fd_close(&rig->setup_fd);
}

static void start_committed(struct rig *rig)
{
    rig_start(rig);
    rig_commit(rig);
}

/* The loop ends by itself, with success. */
static void assert_loop_ends(struct rig *rig)
{
    int status = -1;
    for (int tries = 0; tries < WAIT_MS; tries++) {
        if (waitpid(rig->helper, &status, WNOHANG) == rig->helper) {
            rig->helper = 0;
            assert_int_equal(status, 0);
            return;
        }
        (void)usleep(1000);
    }
    fail_msg("init lives on");
}

/* ---- the server's side ---- */

static void client_open(struct client *client)
{
    struct sockaddr_un address;
    socket_address(&address);
    client->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(client->fd >= 0);
    assert_int_equal(connect(client->fd, (struct sockaddr *)&address, sizeof(address)), 0);
    frame_decoder_init(&client->decoder);
}

static void client_close(struct client *client)
{
    fd_close(&client->fd);
    frame_decoder_done(&client->decoder);
}

static void client_send(struct client *client, enum frame_type type, uint32_t stream,
                        const void *payload, size_t size)
{
    BUF_AUTO struct buf out;
    struct err err = ERR_INIT;
    buf_init(&out, 2U * FRAME_PAYLOAD_MAX);
    assert_ok(frame_append(&out, type, stream, payload, size, &err), err);
    assert_ok(fd_write_all(client->fd, out.data, out.size, &err), err);
}

static void client_send_u32(struct client *client, enum frame_type type, uint32_t stream,
                            uint32_t value)
{
    uint8_t payload[4] = {(uint8_t)value, (uint8_t)(value >> 8), (uint8_t)(value >> 16),
                          (uint8_t)(value >> 24)};
    client_send(client, type, stream, payload, sizeof(payload));
}

/* Takes the next frame; false at the end of the connection. */
static bool client_next(struct client *client)
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

/* No frame is there, after a PING came back: whatever init had to say was said before it. */
static void assert_quiet(struct client *client)
{
    client_send(client, FRAME_PING, 0, NULL, 0);
    assert_true(client_next(client));
    assert_int_equal(client->frame.type, FRAME_PONG);
}

static void assert_frame(struct client *client, enum frame_type type, uint32_t stream)
{
    assert_true(client_next(client));
    assert_int_equal(client->frame.type, type);
    assert_int_equal(client->frame.stream, stream);
}

/* Init closes this connection, and nothing else: a new one is served. */
static void assert_cut_off(struct client *client)
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

static void client_send_hello(struct client *client, uint32_t version_min, uint32_t version_max)
{
    const struct sandbox_hello hello = {.version_min = version_min, .version_max = version_max};
    BUF_AUTO struct buf payload;
    struct err err = ERR_INIT;
    buf_init(&payload, 4096);
    assert_ok(sandbox_hello_encode(&hello, &payload, &err), err);
    client_send(client, FRAME_HELLO, 0, payload.data, payload.size);
}

static void client_greet(struct client *client)
{
    client_open(client);
    client_send_hello(client, SANDBOX_VERSION_MIN, SANDBOX_VERSION_MAX);
    assert_frame(client, FRAME_HELLO, 0);
}

struct exec_options {
    const char *cwd; /* NULL: / */
    uint64_t timeout_ms;
    uint64_t keep_bytes; /* 0: a mebibyte */
    uint64_t output_max_bytes;
};

static void client_exec_argv(struct client *client, uint32_t stream, const char **argv,
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

static void client_exec(struct client *client, uint32_t stream, const char *script,
                        const struct exec_options *options)
{
    const char *argv[] = {"sh", "-c", script, NULL};
    client_exec_argv(client, stream, argv, options ? options : &(struct exec_options){0});
}

/* What came of one execution. */
struct outcome {
    bool started;
    bool closed[2];
    char text[2][256]; /* the beginning of stdout and stderr */
    size_t sizes[2];   /* bytes that came */
    uint64_t stdin_credit;
    struct sandbox_exit exit;
    char start_error[256];
};

static void take_data(struct outcome *outcome, const struct frame *frame, int index)
{
    size_t have = outcome->sizes[index];
    for (size_t i = 0; i < frame->size && have + i < sizeof(outcome->text[index]) - 1; i++)
        outcome->text[index][have + i] = (char)frame->payload[i];
    outcome->sizes[index] += frame->size;
}

/* Takes frames of an execution until its EXIT, giving back credit for what came. */
static void client_finish(struct client *client, uint32_t stream, struct outcome *outcome)
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

/* ---- tests: greeting ---- */

static void test_hello(void **state)
{
    struct rig *rig = *state;
    struct client client;
    struct sandbox_hello hello;
    struct err err = ERR_INIT;
    start_committed(rig);
    client_greet(&client);
    assert_ok(sandbox_hello_decode(client.frame.payload, client.frame.size, &hello, &err), err);
    assert_memory_equal(hello.nonce, rig->config.nonce, SANDBOX_NONCE_SIZE);
    assert_int_equal(hello.version_max, SANDBOX_VERSION_MAX);
    assert_int_equal(hello.capabilities,
                     SANDBOX_CAP_EXEC | SANDBOX_CAP_PUT_FILE | SANDBOX_CAP_GET_FILE);
    assert_quiet(&client);
    client_send_hello(&client, 1, 1); /* a second one */
    assert_cut_off(&client);
    client_close(&client);
}

static void test_no_version_in_common(void **state)
{
    struct rig *rig = *state;
    struct client client;
    start_committed(rig);
    client_open(&client);
    client_send_hello(&client, SANDBOX_VERSION_MAX + 1, SANDBOX_VERSION_MAX + 3);
    assert_cut_off(&client);
    client_close(&client);
}

/* ---- tests: executions ---- */

static void test_exec(void **state)
{
    struct rig *rig = *state;
    struct client client;
    struct outcome outcome;
    start_committed(rig);
    client_greet(&client);
    client_exec(&client, 4, "echo $WORD; pwd; echo there >&2; exit 7",
                &(struct exec_options){.cwd = "/usr"});
    client_send(&client, FRAME_CLOSE, 4 + STREAM_STDIN, NULL, 0);
    client_finish(&client, 4, &outcome);
    assert_true(outcome.started);
    assert_string_equal(outcome.text[0], "hello\n/usr\n");
    assert_string_equal(outcome.text[1], "there\n");
    assert_int_equal(outcome.exit.exit_code, 7);
    assert_int_equal(outcome.exit.cause, KILL_NONE);
    assert_int_equal(outcome.exit.stdout_bytes, 11);
    assert_int_equal(outcome.exit.stderr_bytes, 6);
    assert_string_equal(outcome.start_error, "");
    assert_true(outcome.exit.max_rss_bytes > 0);
    /* the connection and the job are free for the next one */
    client_exec(&client, 8, "kill -SEGV $$", NULL);
    client_finish(&client, 8, &outcome);
    assert_int_equal(outcome.exit.exit_code, 128 + SIGSEGV);
    assert_int_equal(outcome.exit.cause, KILL_SIGNAL);
    client_close(&client);
}

static void test_programs_that_do_not_start(void **state)
{
    struct rig *rig = *state;
    struct client client;
    struct outcome outcome;
    const struct exec_options none = {0};
    start_committed(rig);
    client_greet(&client);
    client_exec_argv(&client, 4, (const char *[]){"berth-no-such-program", NULL}, &none);
    client_finish(&client, 4, &outcome);
    assert_int_equal(outcome.exit.exit_code, 127);
    assert_non_null(strstr(outcome.start_error, "berth-no-such-program"));
    client_exec_argv(&client, 4, (const char *[]){"/etc/passwd", NULL}, &none);
    client_finish(&client, 4, &outcome);
    assert_int_equal(outcome.exit.exit_code, 126);
    client_exec(&client, 4, "true", &(struct exec_options){.cwd = "/nonexistent/berth"});
    client_finish(&client, 4, &outcome);
    assert_int_equal(outcome.exit.exit_code, 126);
    assert_non_null(strstr(outcome.start_error, "/nonexistent/berth"));
    client_close(&client);
}

/* What a program finds: three descriptors, no blocked signal, the limits that were asked for. */
static void test_what_a_program_inherits(void **state)
{
    struct rig *rig = *state;
    struct client client;
    struct outcome outcome;
    start_committed(rig);
    client_greet(&client);
    client_exec(&client, 4,
                "for i in 0 1 2 3 4 5 6 7 8 9 20 30; do (: <&$i) 2>/dev/null && "
                "printf %s, $i; done; echo; ulimit -n; ulimit -c",
                NULL);
    client_finish(&client, 4, &outcome);
    assert_string_equal(outcome.text[0], "0,1,2,\n256\n0\n");
    client_exec(&client, 4,
                "while read -r a b; do case $a in SigBlk:|SigIgn:|NoNewPrivs:|Seccomp:) "
                "echo $a$b;; esac; done < /proc/self/status",
                NULL);
    client_finish(&client, 4, &outcome);
    assert_string_equal(outcome.text[0], "SigBlk:0000000000000000\nSigIgn:0000000000000000\n"
                                         "NoNewPrivs:1\nSeccomp:2\n");
    client_close(&client);
}

static void test_one_execution_at_a_time(void **state)
{
    struct rig *rig = *state;
    struct client client;
    struct client other;
    struct outcome outcome;
    start_committed(rig);
    client_greet(&client);
    client_greet(&other);
    client_exec(&client, 4, "echo on; read x; echo $x", NULL);
    assert_frame(&client, FRAME_STARTED, 4);
    client_exec(&other, 4, "echo two", NULL);
    client_finish(&other, 4, &outcome);
    assert_false(outcome.started);
    assert_int_equal(outcome.exit.exit_code, 126);
    assert_string_equal(outcome.start_error, "another execution is running");
    /* streams are each connection's own: input of the other one's stream 4 goes nowhere */
    client_send(&other, FRAME_DATA, 4 + STREAM_STDIN, "no\n", 3);
    assert_quiet(&other);
    client_send(&client, FRAME_DATA, 4 + STREAM_STDIN, "yes\n", 4);
    client_finish(&client, 4, &outcome);
    assert_string_equal(outcome.text[0], "on\nyes\n");
    client_exec(&other, 8, "echo two", NULL);
    client_finish(&other, 8, &outcome);
    assert_string_equal(outcome.text[0], "two\n");
    client_close(&client);
    client_close(&other);
}

static void test_five_connections(void **state)
{
    struct rig *rig = *state;
    struct client clients[4];
    struct client fifth;
    start_committed(rig);
    for (size_t i = 0; i < ARRAY_SIZE(clients); i++)
        client_greet(&clients[i]);
    client_open(&fifth);
    assert_false(client_next(&fifth));
    client_close(&fifth);
    client_close(&clients[2]);
    for (int tries = 0; tries < 1000; tries++) { /* until its end was seen */
        client_open(&fifth);
        client_send_hello(&fifth, 1, 1);
        if (client_next(&fifth))
            break;
        client_close(&fifth);
        (void)usleep(1000);
    }
    assert_int_equal(fifth.frame.type, FRAME_HELLO);
    client_close(&fifth);
    clients[2].fd = -1;
    for (size_t i = 0; i < ARRAY_SIZE(clients); i++) {
        if (clients[i].fd >= 0)
            client_close(&clients[i]);
    }
}

/* ---- tests: input ---- */

static void test_stdin_with_credit(void **state)
{
    struct rig *rig = *state;
    struct client client;
    struct outcome outcome;
    static uint8_t block[FRAME_DATA_MAX];
    uint64_t sent = 0;
    uint64_t credit = FRAME_WINDOW;
    const uint64_t total = 4U * FRAME_WINDOW;
    struct err err = ERR_INIT;
    start_committed(rig);
    client_greet(&client);
    client_exec(&client, 4, "wc -c", NULL);
    assert_frame(&client, FRAME_STARTED, 4);
    while (sent < total) {
        while (credit >= sizeof(block) && sent < total) {
            client_send(&client, FRAME_DATA, 4 + STREAM_STDIN, block, sizeof(block));
            credit -= sizeof(block);
            sent += sizeof(block);
        }
        if (sent == total)
            break;
        uint32_t value = 0;
        assert_frame(&client, FRAME_CREDIT, 4 + STREAM_STDIN);
        assert_ok(frame_u32(&client.frame, &value, &err), err);
        credit += value;
        assert_true(credit <= FRAME_WINDOW);
    }
    client_send(&client, FRAME_CLOSE, 4 + STREAM_STDIN, NULL, 0);
    client_finish(&client, 4, &outcome);
    assert_int_equal(strtoull(outcome.text[0], NULL, 10), total);
    client_close(&client);
}

static void test_stdin_beyond_credit(void **state)
{
    struct rig *rig = *state;
    struct client client;
    static uint8_t block[FRAME_DATA_MAX];
    start_committed(rig);
    client_greet(&client);
    client_exec(&client, 4, "sleep 100", NULL);
    /* its pipe takes some as well: two windows are too much in any case */
    for (uint32_t i = 0; i < 2 * FRAME_WINDOW / FRAME_DATA_MAX + 4; i++) {
        BUF_AUTO struct buf out;
        buf_init(&out, 2U * FRAME_DATA_MAX);
        assert_int_equal(
            frame_append(&out, FRAME_DATA, 4 + STREAM_STDIN, block, sizeof(block), NULL), 0);
        if (fd_write_all(client.fd, out.data, out.size, NULL) < 0)
            break;
    }
    assert_cut_off(&client);
    client_close(&client);
}

static void test_stdin_that_nobody_reads(void **state)
{
    struct rig *rig = *state;
    struct client client;
    struct outcome outcome;
    static uint8_t block[FRAME_DATA_MAX];
    start_committed(rig);
    client_greet(&client);
    client_exec(&client, 4, "exec <&-; sleep 0.2; echo done", NULL);
    for (uint32_t i = 0; i < FRAME_WINDOW / FRAME_DATA_MAX; i++)
        client_send(&client, FRAME_DATA, 4 + STREAM_STDIN, block, sizeof(block));
    client_finish(&client, 4, &outcome);
    assert_string_equal(outcome.text[0], "done\n");
    assert_int_equal(outcome.exit.exit_code, 0);
    client_close(&client);
}

static void test_bytes_after_the_end_of_stdin(void **state)
{
    struct rig *rig = *state;
    struct client client;
    start_committed(rig);
    client_greet(&client);
    client_exec(&client, 4, "sleep 100", NULL);
    client_send(&client, FRAME_CLOSE, 4 + STREAM_STDIN, NULL, 0);
    client_send(&client, FRAME_DATA, 4 + STREAM_STDIN, "x", 1);
    assert_cut_off(&client);
    client_close(&client);
}

/* ---- tests: output ---- */

static const char *const flood =
    "while :; do echo "
    "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
    "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; "
    "done";

static void test_output_waits_for_credit(void **state)
{
    struct rig *rig = *state;
    struct client client;
    struct outcome outcome;
    size_t came = 0;
    start_committed(rig);
    client_greet(&client);
    client_exec(&client, 4, "head -c 600000 /dev/zero", NULL);
    assert_frame(&client, FRAME_STARTED, 4);
    while (came < FRAME_WINDOW) {
        assert_frame(&client, FRAME_DATA, 4 + STREAM_STDOUT);
        came += client.frame.size;
    }
    assert_int_equal(came, FRAME_WINDOW);
    assert_quiet(&client);
    (void)usleep(20000); /* more would have come meanwhile */
    assert_quiet(&client);
    client_send_u32(&client, FRAME_CREDIT, 4 + STREAM_STDOUT, 1000);
    for (came = 0; came < 1000; came += client.frame.size)
        assert_frame(&client, FRAME_DATA, 4 + STREAM_STDOUT);
    assert_int_equal(came, 1000);
    assert_quiet(&client);
    client_send_u32(&client, FRAME_CREDIT, 4 + STREAM_STDOUT, FRAME_WINDOW);
    client_finish(&client, 4, &outcome);
    assert_int_equal(outcome.sizes[0], 600000 - FRAME_WINDOW - 1000);
    assert_int_equal(outcome.exit.stdout_bytes, 600000);
    client_close(&client);
}

static void test_output_past_keep_is_counted(void **state)
{
    struct rig *rig = *state;
    struct client client;
    struct outcome outcome;
    start_committed(rig);
    client_greet(&client);
    client_exec(&client, 4, "head -c 500000 /dev/zero; echo end >&2",
                &(struct exec_options){.keep_bytes = 1000});
    client_finish(&client, 4, &outcome);
    assert_int_equal(outcome.sizes[0], 1000);
    assert_int_equal(outcome.exit.stdout_bytes, 500000);
    assert_string_equal(outcome.text[1], "end\n");
    assert_int_equal(outcome.exit.exit_code, 0);
    assert_int_equal(outcome.exit.cause, KILL_NONE);
    assert_true((outcome.exit.limits_hit & LIMIT_OUTPUT) != 0);
    client_close(&client);
}

static void test_output_past_the_hard_cap_is_killed(void **state)
{
    struct rig *rig = *state;
    struct client client;
    struct outcome outcome;
    start_committed(rig);
    client_greet(&client);
    client_exec(&client, 4, flood,
                &(struct exec_options){.keep_bytes = 1000, .output_max_bytes = 300000});
    client_finish(&client, 4, &outcome);
    assert_int_equal(outcome.exit.cause, KILL_OUTPUT);
    assert_int_equal(outcome.exit.exit_code, 128 + SIGKILL);
    assert_true(outcome.exit.stdout_bytes > 300000);
    assert_true((outcome.exit.limits_hit & LIMIT_OUTPUT) != 0);
    client_close(&client);
}

static void test_too_much_credit(void **state)
{
    struct rig *rig = *state;
    struct client client;
    start_committed(rig);
    client_greet(&client);
    client_exec(&client, 4, "sleep 100", NULL);
    client_send_u32(&client, FRAME_CREDIT, 4 + STREAM_STDOUT, 1);
    assert_cut_off(&client);
    client_close(&client);
}

/* ---- tests: ends ---- */

static void test_kill(void **state)
{
    struct rig *rig = *state;
    struct client client;
    struct outcome outcome;
    start_committed(rig);
    client_greet(&client);
    client_exec(&client, 4, "trap '' TERM INT; sleep 100 & echo on; wait", NULL);
    assert_frame(&client, FRAME_STARTED, 4);
    assert_frame(&client, FRAME_DATA, 4 + STREAM_STDOUT);
    client_send_u32(&client, FRAME_KILL, 4, KILL_USER);
    client_send_u32(&client, FRAME_KILL, 4, KILL_SERVER); /* the first cause stays */
    client_finish(&client, 4, &outcome);
    assert_int_equal(outcome.exit.cause, KILL_USER);
    assert_int_equal(outcome.exit.exit_code, 128 + SIGKILL);
    client_send_u32(&client, FRAME_KILL, 4, KILL_USER); /* too late: nothing is there */
    assert_quiet(&client);
    client_close(&client);
}

static void test_timeout(void **state)
{
    struct rig *rig = *state;
    struct client client;
    struct outcome outcome;
    start_committed(rig);
    client_greet(&client);
    client_exec(&client, 4, "echo on; sleep 100", &(struct exec_options){.timeout_ms = 50});
    client_finish(&client, 4, &outcome);
    assert_int_equal(outcome.exit.cause, KILL_TIMEOUT);
    assert_int_equal(outcome.exit.exit_code, 128 + SIGKILL);
    assert_true(outcome.exit.wall_us >= 50000);
    client_exec(&client, 4, "echo next", NULL);
    client_finish(&client, 4, &outcome);
    assert_string_equal(outcome.text[0], "next\n");
    client_close(&client);
}

/* What the first process leaves behind ends with it, also when it holds the pipes open. */
static void test_leavings_end(void **state)
{
    struct rig *rig = *state;
    struct client client;
    struct outcome outcome;
    start_committed(rig);
    client_greet(&client);
    client_exec(&client, 4, "sleep 1000 & setsid sleep 1000 & echo first; exit 3", NULL);
    client_finish(&client, 4, &outcome);
    assert_int_equal(outcome.exit.exit_code, 3);
    assert_int_equal(outcome.exit.cause, KILL_NONE);
    assert_string_equal(outcome.text[0], "first\n");
    client_close(&client);
}

static void test_a_lost_connection_ends_its_execution(void **state)
{
    struct rig *rig = *state;
    struct client client;
    struct outcome outcome;
    char marker[64];
    start_committed(rig);
    client_greet(&client);
    client_exec(&client, 4, "echo on; sleep 100", NULL);
    assert_frame(&client, FRAME_STARTED, 4);
    client_close(&client);
    client_greet(&client);
    (void)snprintf(marker, sizeof(marker), "echo after");
    do { /* until the old one is gone */
        client_exec(&client, 4, marker, NULL);
        client_finish(&client, 4, &outcome);
    } while (outcome.exit.exit_code == 126);
    assert_string_equal(outcome.text[0], "after\n");
    client_close(&client);
}

static void test_an_orphan_ends(void **state)
{
    struct rig *rig = *state;
    struct client client;
    rig->config.orphan_ms = 30;
    start_committed(rig);
    client_greet(&client);
    (void)usleep(100000); /* not while a server is there */
    assert_quiet(&client);
    client_close(&client);
    assert_loop_ends(rig);
}

static void test_a_lifetime_ends(void **state)
{
    struct rig *rig = *state;
    struct client client;
    rig->config.lifetime_ms = 200;
    start_committed(rig);
    client_greet(&client);
    client_exec(&client, 4, "sleep 100", NULL);
    assert_loop_ends(rig);
    client_close(&client);
}

static void test_an_engine_that_dies_before_the_commit(void **state)
{
    struct rig *rig = *state;
    rig_start(rig);
    fd_close(&rig->setup_fd);
    assert_loop_ends(rig);
}

static void test_anything_but_the_commit_ends_it(void **state)
{
    struct rig *rig = *state;
    rig_start(rig);
    assert_int_equal(send(rig->setup_fd, "X", 1, 0), 1);
    assert_loop_ends(rig);
}

/* ---- tests: files ---- */

/* The folder as a root, with what a child needs of one; false without the right to it. */
static void close_root(struct rig *rig)
{
    FD_AUTO int dir_fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_int_equal(mkdirat(dir_fd, "dev", 0755), 0);
    assert_int_equal(mkdirat(dir_fd, "workspace", 0755), 0);
    FD_AUTO int null_fd = openat(dir_fd, "dev/null", O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    assert_true(null_fd >= 0);
    rig->closed_root = true;
}

static void client_put(struct client *client, uint32_t stream, const char *path, uint32_t mode,
                       const char *text)
{
    const struct sandbox_put_file put = {.path = path, .mode = mode};
    BUF_AUTO struct buf payload;
    struct err err = ERR_INIT;
    buf_init(&payload, FRAME_PAYLOAD_MAX);
    assert_ok(sandbox_put_file_encode(&put, &payload, &err), err);
    client_send(client, FRAME_PUT_FILE, stream, payload.data, payload.size);
    client_send(client, FRAME_DATA, stream, text, strlen(text));
    client_send(client, FRAME_CLOSE, stream, NULL, 0);
}

/* Puts a file and returns the errno of the outcome. */
static int put(struct client *client, const char *path, const char *text)
{
    struct sandbox_done done;
    struct err err = ERR_INIT;
    client_put(client, 4, path, 0640, text);
    assert_frame(client, FRAME_DONE, 4);
    assert_ok(sandbox_done_decode(client->frame.payload, client->frame.size, &done, &err), err);
    if (done.sys_errno == 0)
        assert_int_equal(done.size_bytes, strlen(text));
    return done.sys_errno;
}

static void assert_file(const char *path, const char *wanted)
{
    char full[128];
    char text[128];
    struct err err = ERR_INIT;
    (void)snprintf(full, sizeof(full), "%s/%s", folder, path);
    assert_ok(fd_read_file_at(AT_FDCWD, full, text, sizeof(text), &err), err);
    assert_string_equal(text, wanted);
}

static void test_put_file(void **state)
{
    struct rig *rig = *state;
    struct client client;
    struct stat info;
    char path[128];
    skip_unless_root();
    close_root(rig);
    start_committed(rig);
    client_greet(&client);
    assert_int_equal(put(&client, "name", "relative"), 0);
    assert_file("workspace/name", "relative");
    assert_int_equal(put(&client, "/deep/er/name", "absolute"), 0);
    assert_file("deep/er/name", "absolute");
    (void)snprintf(path, sizeof(path), "%s/deep/er/name", folder);
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_mode & 07777, 0640);
    assert_int_equal(put(&client, "/deep/er/name", "cut"), 0); /* shorter than it was */
    assert_file("deep/er/name", "cut");
    assert_int_equal(put(&client, "empty", ""), 0);
    assert_file("workspace/empty", "");
    client_close(&client);
}

static void test_put_file_errors(void **state)
{
    struct rig *rig = *state;
    struct client client;
    char path[128];
    skip_unless_root();
    close_root(rig);
    FD_AUTO int dir_fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_int_equal(mkfifoat(dir_fd, "workspace/pipe", 0666), 0);
    assert_int_equal(symlinkat("/tmp", dir_fd, "workspace/out"), 0);
    assert_int_equal(symlinkat("loop", dir_fd, "workspace/loop"), 0);
    start_committed(rig);
    client_greet(&client);
    assert_int_equal(put(&client, "/workspace/", "x"), EISDIR);
    assert_int_equal(put(&client, "/workspace", "x"), EISDIR);
    assert_int_equal(put(&client, "/dev/null/under", "x"), ENOTDIR);
    assert_int_equal(put(&client, "loop", "x"), ELOOP);
    assert_int_not_equal(put(&client, "pipe", "x"), 0); /* and it did not block */
    /* an absolute link leads to a place inside: the host's /tmp is out of reach */
    assert_int_equal(put(&client, "out/berth-test-escape", "x"), ENOENT);
    assert_int_not_equal(access("/tmp/berth-test-escape", F_OK), 0);
    assert_int_equal(put(&client, "/../../../../tmp/berth-test-escape", "x"), 0);
    assert_int_not_equal(access("/tmp/berth-test-escape", F_OK), 0);
    (void)snprintf(path, sizeof(path), "%s/tmp/berth-test-escape", folder);
    assert_int_equal(access(path, F_OK), 0);
    client_close(&client);
}

/* Other mounts are refused, so that no file of /proc or of the image is written. */
static void test_put_file_stays_on_its_filesystem(void **state)
{
    struct rig *rig = *state;
    struct client client;
    start_committed(rig);
    client_greet(&client);
    assert_int_equal(put(&client, "/proc/self/comm", "x"), EXDEV);
    assert_int_equal(put(&client, "/proc/sys/kernel/berth", "x"), EXDEV);
    client_close(&client);
}

/* The execution behind a file that was not written does not run without it. */
static void test_exec_behind_a_failed_file(void **state)
{
    struct rig *rig = *state;
    struct client client;
    struct outcome outcome;
    start_committed(rig);
    client_greet(&client);
    client_put(&client, 4, "/proc/self/comm", 0644, "x");
    client_exec(&client, 8, "echo ran", NULL);
    assert_frame(&client, FRAME_DONE, 4);
    client_finish(&client, 8, &outcome);
    assert_false(outcome.started);
    assert_int_equal(outcome.exit.exit_code, 126);
    assert_string_equal(outcome.start_error, "a file of this execution was not written");
    client_exec(&client, 8, "echo ran", NULL); /* only that one */
    client_finish(&client, 8, &outcome);
    assert_string_equal(outcome.text[0], "ran\n");
    client_close(&client);
}

/* ---- tests: what no server sends ---- */

static void test_violations(void **state)
{
    struct rig *rig = *state;
    struct client client;
    static const struct {
        enum frame_type type;
        uint32_t stream;
        const char *payload;
        size_t size;
        bool behind_exec;
    } table[] = {
        {FRAME_EXEC, 0, "", 0, false}, /* no stream */
        {FRAME_EXEC, 6, "", 0, false}, /* no multiple of 4 */
        {FRAME_EXEC, 4, "", 0, false}, /* no fields */
        {FRAME_EXEC, 4, "\1\0\0\0\377\377\377\377", 8, false},
        {FRAME_PUT_FILE, 5, "", 0, false},
        {FRAME_PUT_FILE, 4, "", 0, false},
        {FRAME_HELLO, 0, "xx", 2, false},
        {FRAME_EXEC, 4, "", 0, true}, /* the stream is in use */
        {FRAME_PUT_FILE, 4, "", 0, true},
        {FRAME_KILL, 4, "\0\0\0\0", 4, true},   /* KILL_NONE */
        {FRAME_KILL, 4, "\143\0\0\0", 4, true}, /* no cause */
        {FRAME_KILL, 4, "\1", 1, true},         /* cut */
        {FRAME_CREDIT, 4, "\1\0\0\0", 4, true}, /* for the control stream */
        {FRAME_CREDIT, 6, "\377\377\377\377", 4, true},
        {FRAME_STARTED, 4, "", 0, true}, /* init's own frames */
        {FRAME_EXIT, 4, "", 0, true},
        {FRAME_DONE, 4, "", 0, true},
        {FRAME_PONG, 4, "", 0, true},
    };
    start_committed(rig);
    client_open(&client); /* no hello before it */
    client_send(&client, FRAME_PING, 0, NULL, 0);
    assert_cut_off(&client);
    client_close(&client);
    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        client_greet(&client);
        if (table[i].behind_exec)
            client_exec(&client, 4, "sleep 100", NULL);
        client_send(&client, table[i].type, table[i].stream, table[i].payload, table[i].size);
        assert_cut_off(&client);
        client_close(&client);
    }
    static const uint8_t garbage[64] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    client_greet(&client);
    assert_int_equal(send(client.fd, garbage, sizeof(garbage), MSG_NOSIGNAL), sizeof(garbage));
    assert_cut_off(&client);
    client_close(&client);
}

/* Frames for streams that nobody opened are late ones of an execution that ended: dropped. */
static void test_late_frames_are_dropped(void **state)
{
    struct rig *rig = *state;
    struct client client;
    start_committed(rig);
    client_greet(&client);
    client_send(&client, FRAME_DATA, 40 + STREAM_STDIN, "late", 4);
    client_send(&client, FRAME_CLOSE, 40 + STREAM_STDIN, NULL, 0);
    client_send_u32(&client, FRAME_CREDIT, 40 + STREAM_STDOUT, 100);
    client_send_u32(&client, FRAME_KILL, 40, KILL_USER);
    assert_quiet(&client);
    client_close(&client);
}

#define on_rig(test) cmocka_unit_test_setup_teardown(test, rig_make, rig_end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        on_rig(test_hello),
        on_rig(test_no_version_in_common),
        on_rig(test_exec),
        on_rig(test_programs_that_do_not_start),
        on_rig(test_what_a_program_inherits),
        on_rig(test_one_execution_at_a_time),
        on_rig(test_five_connections),
        on_rig(test_stdin_with_credit),
        on_rig(test_stdin_beyond_credit),
        on_rig(test_stdin_that_nobody_reads),
        on_rig(test_bytes_after_the_end_of_stdin),
        on_rig(test_output_waits_for_credit),
        on_rig(test_output_past_keep_is_counted),
        on_rig(test_output_past_the_hard_cap_is_killed),
        on_rig(test_too_much_credit),
        on_rig(test_kill),
        on_rig(test_timeout),
        on_rig(test_leavings_end),
        on_rig(test_a_lost_connection_ends_its_execution),
        on_rig(test_an_orphan_ends),
        on_rig(test_a_lifetime_ends),
        on_rig(test_an_engine_that_dies_before_the_commit),
        on_rig(test_anything_but_the_commit_ends_it),
        on_rig(test_put_file),
        on_rig(test_put_file_errors),
        on_rig(test_put_file_stays_on_its_filesystem),
        on_rig(test_exec_behind_a_failed_file),
        on_rig(test_violations),
        on_rig(test_late_frames_are_dropped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
