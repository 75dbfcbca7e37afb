/* init/file through the loop: files written and read for the server. */
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/fd.h"
#include "child.h"
#include "loop_rig.h"

/* The folder as a root, with what a child needs of one. */
static void close_root(struct rig *rig)
{
    FD_AUTO int dir_fd = open(rig_folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_int_equal(mkdirat(dir_fd, "dev", 0755), 0);
    assert_int_equal(mkdirat(dir_fd, "workspace", 0755), 0);
    assert_int_equal(mkdirat(dir_fd, "proc", 0755), 0);
    assert_int_equal(mkdirat(dir_fd, "other", 0755), 0);
    FD_AUTO int null_fd = openat(dir_fd, "dev/null", O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    assert_true(null_fd >= 0);
    rig->closed_root = true;
}

static void begin_put(struct client *client, uint32_t stream, const char *path, uint32_t mode)
{
    const struct sandbox_put_file put = {.path = path, .mode = mode};
    BUF_AUTO struct buf payload;
    struct err err = ERR_INIT;
    buf_init(&payload, FRAME_PAYLOAD_MAX);
    assert_ok(sandbox_put_file_encode(&put, &payload, &err), err);
    client_send(client, FRAME_PUT_FILE, stream, payload.data, payload.size);
}

static void client_put(struct client *client, uint32_t stream, const char *path, uint32_t mode,
                       const char *text)
{
    begin_put(client, stream, path, mode);
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
    (void)snprintf(full, sizeof(full), "%s/%s", rig_folder, path);
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
    (void)snprintf(path, sizeof(path), "%s/deep/er/name", rig_folder);
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
    FD_AUTO int dir_fd = open(rig_folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
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
    (void)snprintf(path, sizeof(path), "%s/tmp/berth-test-escape", rig_folder);
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

/* A file that somebody else owns keeps its bytes when its mode can't be set, or it can't be
 * written: also by a name that the code made, a hard link. */
static void test_put_over_the_file_of_another(void **state)
{
    struct rig *rig = *state;
    struct client client;
    skip_unless_root();
    close_root(rig);
    FD_AUTO int dir_fd = open(rig_folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_int_equal(fchmodat(dir_fd, "workspace", 0777, 0), 0);
    FD_AUTO int open_fd = openat(dir_fd, "open", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    FD_AUTO int closed_fd = openat(dir_fd, "closed", O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    assert_int_equal(write(open_fd, "theirs", 6), 6);
    assert_int_equal(write(closed_fd, "theirs", 6), 6);
    assert_int_equal(fchmod(open_fd, 0666), 0);
    assert_int_equal(linkat(dir_fd, "open", dir_fd, "workspace/open", 0), 0);
    assert_int_equal(linkat(dir_fd, "closed", dir_fd, "workspace/closed", 0), 0);
    pid_t holder = 0;
    rig->config.userns_fd = child_open_userns(7000000, &holder);
    rig->config.uid = rig->config.gid = 1000;
    start_committed(rig);
    client_greet(&client);
    assert_int_equal(put(&client, "open", "ours"), EPERM);
    assert_file("open", "theirs");
    assert_int_equal(put(&client, "closed", "ours"), EACCES);
    assert_file("closed", "theirs");
    assert_int_equal(put(&client, "own", "ours"), 0);
    assert_file("workspace/own", "ours");
    client_close(&client);
    (void)kill(holder, SIGKILL);
    (void)waitpid(holder, NULL, 0);
    fd_close(&rig->config.userns_fd);
}

/* ---- reading ---- */

static void client_get(struct client *client, uint32_t stream, const char *path, uint64_t offset,
                       uint64_t size_bytes)
{
    const struct sandbox_get_file get = {.path = path, .offset = offset, .size_bytes = size_bytes};
    BUF_AUTO struct buf payload;
    struct err err = ERR_INIT;
    buf_init(&payload, FRAME_PAYLOAD_MAX);
    assert_ok(sandbox_get_file_encode(&get, &payload, &err), err);
    client_send(client, FRAME_GET_FILE, stream, payload.data, payload.size);
}

/* Takes a file's frames to their end; returns the errno of the outcome. */
static int finish_get(struct client *client, uint32_t stream, char *text, size_t size,
                      uint64_t *out_size)
{
    struct sandbox_done done;
    struct err err = ERR_INIT;
    uint64_t came = 0;
    for (;;) {
        assert_true(client_next(client));
        const struct frame *frame = &client->frame;
        assert_int_equal(frame->stream, stream + STREAM_STDOUT);
        if (frame->type == FRAME_CLOSE)
            break;
        assert_int_equal(frame->type, FRAME_DATA);
        for (size_t i = 0; i < frame->size && came + i < size - 1; i++)
            text[came + i] = (char)frame->payload[i];
        came += frame->size;
        client_send_u32(client, FRAME_CREDIT, frame->stream, (uint32_t)frame->size);
    }
    text[came < size ? came : size - 1] = '\0';
    assert_frame(client, FRAME_DONE, stream);
    assert_ok(sandbox_done_decode(client->frame.payload, client->frame.size, &done, &err), err);
    assert_int_equal(done.size_bytes, came);
    *out_size = came;
    return done.sys_errno;
}

static int get(struct client *client, const char *path, uint64_t offset, uint64_t size_bytes,
               char text[static 64])
{
    uint64_t came = 0;
    client_get(client, 8, path, offset, size_bytes);
    return finish_get(client, 8, text, 64, &came);
}

static void test_get_file(void **state)
{
    struct rig *rig = *state;
    struct client client;
    char text[64];
    skip_unless_root();
    close_root(rig);
    start_committed(rig);
    client_greet(&client);
    assert_int_equal(put(&client, "name", "0123456789"), 0);
    assert_int_equal(put(&client, "empty", ""), 0);
    assert_int_equal(get(&client, "name", 0, 0, text), 0);
    assert_string_equal(text, "0123456789");
    assert_int_equal(get(&client, "/workspace/name", 7, 0, text), 0);
    assert_string_equal(text, "789");
    assert_int_equal(get(&client, "/workspace/../workspace/name", 2, 3, text), 0);
    assert_string_equal(text, "234");
    assert_int_equal(get(&client, "name", 8, UINT64_MAX, text), 0);
    assert_string_equal(text, "89");
    assert_int_equal(get(&client, "name", 10, 0, text), 0);
    assert_string_equal(text, "");
    assert_int_equal(get(&client, "name", INT64_MAX, 5, text), 0);
    assert_string_equal(text, "");
    assert_int_equal(get(&client, "empty", 0, 0, text), 0);
    assert_string_equal(text, "");
    assert_int_equal(get(&client, "/other/file", 0, 0, text), 0); /* another mount */
    assert_string_equal(text, "elsewhere");
    client_close(&client);
}

/* What the file is comes first, or alone, and is what stat says. */
static void test_get_file_info(void **state)
{
    struct rig *rig = *state;
    struct client client;
    struct sandbox_file_info info;
    struct stat seen;
    struct err err = ERR_INIT;
    uint64_t came = 0;
    char text[64];
    char path[128];
    skip_unless_root();
    close_root(rig);
    start_committed(rig);
    client_greet(&client);
    assert_int_equal(put(&client, "name", "0123456789"), 0);
    (void)snprintf(path, sizeof(path), "%s/workspace/name", rig_folder);
    assert_int_equal(stat(path, &seen), 0);
    for (int mode = SANDBOX_INFO_FIRST; mode < SANDBOX_INFO_COUNT; mode++) {
        const struct sandbox_get_file get = {
            .path = "name", .offset = 2, .size_bytes = 3, .info = (enum sandbox_get_info)mode};
        BUF_AUTO struct buf payload;
        buf_init(&payload, FRAME_PAYLOAD_MAX);
        assert_ok(sandbox_get_file_encode(&get, &payload, &err), err);
        client_send(&client, FRAME_GET_FILE, 8, payload.data, payload.size);
        assert_int_equal(finish_get(&client, 8, text, sizeof(text), &came), 0);
        sandbox_file_info_decode((const uint8_t *)text, &info);
        assert_int_equal(info.size_bytes, 10);
        assert_int_equal(info.inode, seen.st_ino);
        assert_int_equal(info.changed_ns, seen.st_ctim.tv_sec * 1000000000 + seen.st_ctim.tv_nsec);
        assert_int_equal(info.modified_ns, seen.st_mtim.tv_sec * 1000000000 + seen.st_mtim.tv_nsec);
        assert_int_equal(came, SANDBOX_FILE_INFO_SIZE + (mode == SANDBOX_INFO_FIRST ? 3 : 0));
        if (mode == SANDBOX_INFO_FIRST)
            assert_string_equal(text + SANDBOX_FILE_INFO_SIZE, "234");
    }
    client_close(&client);
}

static void test_get_file_errors(void **state)
{
    struct rig *rig = *state;
    struct client client;
    char text[64];
    skip_unless_root();
    close_root(rig);
    FD_AUTO int dir_fd = open(rig_folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_int_equal(mkfifoat(dir_fd, "workspace/pipe", 0666), 0);
    assert_int_equal(symlinkat("/etc/passwd", dir_fd, "workspace/out"), 0);
    assert_int_equal(symlinkat("../../../../../../etc/passwd", dir_fd, "workspace/up"), 0);
    assert_int_equal(symlinkat("/proc/self/status", dir_fd, "workspace/status"), 0);
    assert_int_equal(symlinkat("loop", dir_fd, "workspace/loop"), 0);
    start_committed(rig);
    client_greet(&client);
    assert_int_equal(get(&client, "missing", 0, 0, text), ENOENT);
    assert_int_equal(get(&client, "/", 0, 0, text), EISDIR);
    assert_int_equal(get(&client, "/workspace/", 0, 0, text), EISDIR);
    assert_int_equal(get(&client, "/sock", 0, 0, text), EINVAL);
    assert_int_equal(get(&client, "pipe", 0, 0, text), EINVAL); /* and it did not block */
    assert_int_equal(get(&client, "loop", 0, 0, text), ELOOP);
    assert_int_equal(get(&client, "out", 0, 0, text), ENOENT); /* the host has that file */
    assert_int_equal(get(&client, "up", 0, 0, text), ENOENT);
    assert_int_equal(get(&client, "status", 0, 0, text), EACCES);
    assert_int_equal(get(&client, "/proc/version", 0, 0, text), EACCES);
    assert_int_equal(get(&client, "/proc/self/root/workspace/x", 0, 0, text), ELOOP);
    assert_int_equal(get(&client, "/proc/self/fd/0", 0, 0, text), ELOOP);
    client_close(&client);
}

/* No more comes than there is credit for, and a hole has an end. */
static void test_get_waits_for_credit(void **state)
{
    struct rig *rig = *state;
    struct client client;
    char text[64];
    uint64_t came = 0;
    skip_unless_root();
    close_root(rig);
    FD_AUTO int dir_fd = open(rig_folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    FD_AUTO int fd = openat(dir_fd, "workspace/hole", O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    assert_int_equal(ftruncate(fd, INT64_C(1) << 40), 0);
    start_committed(rig);
    client_greet(&client);
    client_get(&client, 4, "hole", 12345, 3U * FRAME_WINDOW);
    for (uint64_t taken = 0; taken < FRAME_WINDOW; taken += client.frame.size)
        assert_frame(&client, FRAME_DATA, 4 + STREAM_STDOUT);
    assert_quiet(&client);
    (void)usleep(20000); /* more would have come meanwhile */
    assert_quiet(&client);
    /* one that is ended gets no more, and needs no credit to say so */
    client_send_u32(&client, FRAME_KILL, 4, KILL_USER);
    assert_frame(&client, FRAME_CLOSE, 4 + STREAM_STDOUT);
    assert_frame(&client, FRAME_DONE, 4);
    struct sandbox_done done;
    assert_int_equal(
        sandbox_done_decode(client.frame.payload, client.frame.size, &done, &(struct err){0}), 0);
    assert_int_equal(done.sys_errno, ECANCELED);
    assert_int_equal(done.size_bytes, FRAME_WINDOW);
    client_get(&client, 4, "hole", 12345, 3U * FRAME_WINDOW + 7);
    assert_int_equal(finish_get(&client, 4, text, sizeof(text), &came), 0);
    assert_int_equal(came, 3U * FRAME_WINDOW + 7);
    client_close(&client);
}

/* The bytes of a file that another connection gets or puts outlive the end of an execution, and the
 * kill of what it left behind. */
static void test_files_outlive_an_execution(void **state)
{
    struct rig *rig = *state;
    struct client client;
    struct client other;
    struct outcome outcome;
    uint64_t came = 0;
    skip_unless_root(); /* needs a /proc of the namespace */
    FD_AUTO int dir_fd = open(rig_folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    FD_AUTO int fd = openat(dir_fd, "long", O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    assert_int_equal(ftruncate(fd, 2L * FRAME_WINDOW), 0);
    char path[128];
    (void)snprintf(path, sizeof(path), "%s/long", rig_folder);
    start_committed(rig);
    client_greet(&client);
    client_greet(&other);
    client_get(&other, 4, path, 0, 0); /* waits for credit in the middle */
    assert_frame(&other, FRAME_DATA, 4 + STREAM_STDOUT);
    came = other.frame.size;
    client_send_u32(&other, FRAME_CREDIT, 4 + STREAM_STDOUT, (uint32_t)came);
    client_exec(&client, 4, "sleep 1000 & setsid sleep 1000 & exit 3", NULL);
    client_finish(&client, 4, &outcome);
    assert_int_equal(outcome.exit.exit_code, 3);
    client_exec(&client, 4, "sleep 1000", &(struct exec_options){.timeout_ms = 20});
    client_finish(&client, 4, &outcome);
    assert_int_equal(outcome.exit.cause, KILL_TIMEOUT);
    for (; came < 2L * FRAME_WINDOW; came += other.frame.size) {
        assert_frame(&other, FRAME_DATA, 4 + STREAM_STDOUT);
        client_send_u32(&other, FRAME_CREDIT, 4 + STREAM_STDOUT, (uint32_t)other.frame.size);
    }
    assert_frame(&other, FRAME_CLOSE, 4 + STREAM_STDOUT);
    assert_frame(&other, FRAME_DONE, 4);
    struct sandbox_done done;
    assert_int_equal(
        sandbox_done_decode(other.frame.payload, other.frame.size, &done, &(struct err){0}), 0);
    assert_int_equal(done.sys_errno, 0);
    assert_int_equal(done.size_bytes, 2L * FRAME_WINDOW);
    client_close(&client);
    client_close(&other);
}

/* ---- an execution behind its files ---- */

/* Its input is kept meanwhile; a file that comes after it does not hold it. */
static void test_exec_waits_for_its_files(void **state)
{
    struct rig *rig = *state;
    struct client client;
    struct outcome outcome;
    char path[128];
    start_committed(rig);
    client_greet(&client);
    (void)snprintf(path, sizeof(path), "%s/first", rig_folder);
    begin_put(&client, 4, path, 0644);
    client_exec(&client, 8, "cat", NULL);
    client_send(&client, FRAME_DATA, 8 + STREAM_STDIN, "kept", 4);
    client_send(&client, FRAME_CLOSE, 8 + STREAM_STDIN, NULL, 0);
    assert_quiet(&client);
    (void)snprintf(path, sizeof(path), "%s/second", rig_folder);
    begin_put(&client, 12, path, 0644);
    client_send(&client, FRAME_CLOSE, 4, NULL, 0);
    assert_frame(&client, FRAME_DONE, 4);
    client_finish(&client, 8, &outcome);
    assert_true(outcome.started);
    assert_string_equal(outcome.text[0], "kept");
    client_send(&client, FRAME_CLOSE, 12, NULL, 0);
    assert_frame(&client, FRAME_DONE, 12);
    client_close(&client);
}

static void test_a_kill_of_an_exec_that_waits(void **state)
{
    struct rig *rig = *state;
    struct client client;
    struct outcome outcome;
    struct sandbox_done done;
    char path[128];
    start_committed(rig);
    client_greet(&client);
    (void)snprintf(path, sizeof(path), "%s/file", rig_folder);
    begin_put(&client, 4, path, 0644); /* never ends by itself */
    client_exec(&client, 8, "echo ran", NULL);
    client_send_u32(&client, FRAME_KILL, 8, KILL_USER);
    client_send_u32(&client, FRAME_KILL, 8, KILL_TIMEOUT); /* the first cause stays */
    assert_frame(&client, FRAME_DONE, 4);
    assert_int_equal(
        sandbox_done_decode(client.frame.payload, client.frame.size, &done, &(struct err){0}), 0);
    assert_int_equal(done.sys_errno, ECANCELED);
    client_finish(&client, 8, &outcome);
    assert_false(outcome.started);
    assert_int_equal(outcome.exit.cause, KILL_USER);
    assert_int_equal(outcome.exit.exit_code, 128 + SIGKILL);
    client_exec(&client, 12, "echo next", NULL); /* nothing of it stays */
    client_finish(&client, 12, &outcome);
    assert_string_equal(outcome.text[0], "next\n");
    client_close(&client);
}

static void test_violations_while_an_exec_waits(void **state)
{
    struct rig *rig = *state;
    struct client client;
    char path[128];
    static uint8_t block[FRAME_DATA_MAX];
    (void)snprintf(path, sizeof(path), "%s/file", rig_folder);
    start_committed(rig);
    for (int i = 0; i < 5; i++) {
        client_greet(&client);
        begin_put(&client, 4, path, 0644);
        client_exec(&client, 8, "echo ran", NULL);
        if (i == 0)
            client_exec(&client, 12, "echo ran", NULL);
        if (i == 1)
            begin_put(&client, 8, path, 0644);
        if (i == 2)
            client_send_u32(&client, FRAME_CREDIT, 8 + STREAM_STDOUT, 1);
        if (i == 3)
            client_send_u32(&client, FRAME_KILL, 8, KILL_NONE);
        for (uint32_t size = 0; i == 4 && size <= FRAME_WINDOW; size += sizeof(block))
            client_send(&client, FRAME_DATA, 8 + STREAM_STDIN, block, sizeof(block));
        assert_cut_off(&client);
        client_close(&client);
    }
    client_greet(&client);
    client_get(&client, 4, "/etc/passwd", 0, 0);
    client_send(&client, FRAME_DATA, 4, "x", 1); /* it takes none */
    assert_cut_off(&client);
    client_close(&client);
}

#define on_rig(test) cmocka_unit_test_setup_teardown(test, rig_make, rig_end)

/* Takes frames until the DONE of stream 8; returns its errno. */
static int wait_for_done(struct client *client)
{
    struct sandbox_done done;
    struct err err = ERR_INIT;
    do
        assert_true(client_next(client));
    while (client->frame.type != FRAME_DONE);
    assert_int_equal(client->frame.stream, 8);
    assert_ok(sandbox_done_decode(client->frame.payload, client->frame.size, &done, &err), err);
    return done.sys_errno;
}

/* Code that stops the first other process of its user that it finds, says so, and stays. */
static const char stopper[] = "while :; do for p in /proc/[0-9]*; do n=${p#/proc/};"
                              "[ $n = 1 ] || [ $n = $$ ] || { kill -STOP $n && echo stopped &&"
                              " exec sleep 600; }; done; done 2>/dev/null";

/* Returns what came of stream 8 meanwhile, for which no credit is given. */
static uint32_t wait_for_stop(struct client *client)
{
    uint32_t came = 0;
    for (;;) {
        assert_true(client_next(client));
        if (client->frame.type != FRAME_DATA)
            continue;
        if (client->frame.stream == 4 + STREAM_STDOUT)
            return came;
        came += (uint32_t)client->frame.size;
    }
}

/* The code may stop what works on its files: the operation ends all the same, and the next one is
 * served. A server that sends nothing is no reason. */
static void test_a_child_that_the_code_stops(void **state)
{
    struct rig *rig = *state;
    struct client client;
    struct stat root;
    struct stat info;
    char path[128];
    skip_unless_root();
    (void)snprintf(path, sizeof(path), "%s/file", rig_folder);
    if (stat("/", &root) != 0 || stat(rig_folder, &info) != 0 || root.st_dev != info.st_dev)
        skip_because("/tmp is not on the filesystem of /");
    rig->config.file_idle_ms = 100;
    start_committed(rig);
    client_greet(&client);
    client_exec(&client, 4, stopper, NULL);
    begin_put(&client, 8, path, 0644);
    assert_int_equal(wait_for_stop(&client), 0);
    client_send(&client, FRAME_DATA, 8, "text", 4);
    client_send(&client, FRAME_CLOSE, 8, NULL, 0);
    assert_int_equal(wait_for_done(&client), ETIMEDOUT);
    begin_put(&client, 8, path, 0644);
    (void)usleep(300000); /* nothing is the child's to do meanwhile */
    client_send(&client, FRAME_DATA, 8, "text", 4);
    client_send(&client, FRAME_CLOSE, 8, NULL, 0);
    assert_int_equal(wait_for_done(&client), 0);
    client_close(&client);
}

static void test_a_reading_child_that_the_code_stops(void **state)
{
    struct rig *rig = *state;
    struct client client;
    char path[128];
    skip_unless_root();
    (void)snprintf(path, sizeof(path), "%s/file", rig_folder);
    FD_AUTO int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    assert_int_equal(ftruncate(fd, 8 << 20), 0); /* more than a pipe and a window hold */
    rig->config.file_idle_ms = 100;
    start_committed(rig);
    client_greet(&client);
    client_exec(&client, 4, stopper, NULL);
    client_get(&client, 8, path, 0, 0);
    uint32_t came = wait_for_stop(&client);
    (void)usleep(300000); /* without credit it is not the child's turn */
    if (came > 0)
        client_send_u32(&client, FRAME_CREDIT, 8 + STREAM_STDOUT, came);
    assert_int_equal(wait_for_done(&client), ETIMEDOUT);
    client_close(&client);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        on_rig(test_put_file),
        on_rig(test_put_file_errors),
        on_rig(test_put_file_stays_on_its_filesystem),
        on_rig(test_exec_behind_a_failed_file),
        on_rig(test_put_over_the_file_of_another),
        on_rig(test_get_file),
        on_rig(test_get_file_info),
        on_rig(test_get_file_errors),
        on_rig(test_get_waits_for_credit),
        on_rig(test_files_outlive_an_execution),
        on_rig(test_exec_waits_for_its_files),
        on_rig(test_a_kill_of_an_exec_that_waits),
        on_rig(test_violations_while_an_exec_waits),
        on_rig(test_a_child_that_the_code_stops),
        on_rig(test_a_reading_child_that_the_code_stops),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
