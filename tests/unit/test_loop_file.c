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

/* The folder as a root, with what a child needs of one; false without the right to it. */
static void close_root(struct rig *rig)
{
    FD_AUTO int dir_fd = open(rig_folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
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

#define on_rig(test) cmocka_unit_test_setup_teardown(test, rig_make, rig_end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        on_rig(test_put_file),
        on_rig(test_put_file_errors),
        on_rig(test_put_file_stays_on_its_filesystem),
        on_rig(test_exec_behind_a_failed_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
