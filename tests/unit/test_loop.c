/* init/loop and init/connection: greeting, connections, the end of the sandbox, and what no server
 * sends. */
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/fd.h"
#include "child.h"
#include "loop_rig.h"

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
    assert_int_equal(hello.capabilities, SANDBOX_CAP_EXEC | SANDBOX_CAP_PUT_FILE |
                                             SANDBOX_CAP_GET_FILE | SANDBOX_CAP_KERNEL |
                                             SANDBOX_CAP_HOLD | SANDBOX_CAP_TIMERS |
                                             SANDBOX_CAP_TERMINAL | SANDBOX_CAP_LIMITS |
                                             SANDBOX_CAP_EGRESS | SANDBOX_CAP_LINES);
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

static void test_ten_connections(void **state)
{
    struct rig *rig = *state;
    struct client clients[9];
    struct client tenth;
    start_committed(rig);
    for (size_t i = 0; i < ARRAY_SIZE(clients); i++)
        client_greet(&clients[i]);
    client_open(&tenth); /* waits to be accepted: an end would look like init's own */
    client_send_hello(&tenth, 1, 1);
    struct pollfd poller = {.fd = tenth.fd, .events = POLLIN};
    assert_int_equal(poll(&poller, 1, 50), 0);
    client_close(&clients[2]);
    assert_true(client_next(&tenth));
    assert_int_equal(tenth.frame.type, FRAME_HELLO);
    client_close(&tenth);
    for (size_t i = 0; i < ARRAY_SIZE(clients); i++) {
        if (i != 2)
            client_close(&clients[i]);
    }
}

/* ---- tests: the end of the sandbox ---- */

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

/* Such a point ends init as a kill would (base/fault.h). */
static void test_fault_at_an_exec(void **state)
{
    struct rig *rig = *state;
    struct client client;
    (void)snprintf(rig->config.fault, sizeof(rig->config.fault), "init.exec");
    start_committed(rig);
    client_greet(&client);
    assert_quiet(&client);
    client_exec(&client, 4, "echo on", NULL);
    assert_false(client_next(&client));
    client_close(&client);
    assert_int_equal(rig_wait(rig), 137);
}

static void test_fault_before_the_exit(void **state)
{
    struct rig *rig = *state;
    struct client client;
    (void)snprintf(rig->config.fault, sizeof(rig->config.fault), "init.exit:2");
    start_committed(rig);
    client_greet(&client);
    client_exec(&client, 4, "exit 3", NULL);
    do
        assert_true(client_next(&client));
    while (client.frame.type != FRAME_EXIT);
    client_exec(&client, 4, "exit 3", NULL);
    while (client_next(&client))
        assert_int_not_equal(client.frame.type, FRAME_EXIT);
    client_close(&client);
    assert_int_equal(rig_wait(rig), 137);
}

static void test_fault_after_the_commit(void **state)
{
    struct rig *rig = *state;
    (void)snprintf(rig->config.fault, sizeof(rig->config.fault), "init.commit");
    start_committed(rig); /* 'R' came */
    assert_int_equal(rig_wait(rig), 137);
}

/* ---- tests: what no server sends ---- */

/* Starts an execution on stream 4, as soon as the one of an earlier connection is gone. */
static void exec_once_free(struct client *client)
{
    for (;;) {
        client_exec(client, 4, "sleep 100", NULL);
        assert_true(client_next(client));
        if (client->frame.type == FRAME_STARTED)
            return;
        while (client->frame.type != FRAME_EXIT)
            assert_true(client_next(client));
    }
}

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
            exec_once_free(&client);
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
        on_rig(test_ten_connections),
        on_rig(test_an_orphan_ends),
        on_rig(test_a_lifetime_ends),
        on_rig(test_an_engine_that_dies_before_the_commit),
        on_rig(test_anything_but_the_commit_ends_it),
        on_rig(test_fault_at_an_exec),
        on_rig(test_fault_before_the_exit),
        on_rig(test_fault_after_the_commit),
        on_rig(test_violations),
        on_rig(test_late_frames_are_dropped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
