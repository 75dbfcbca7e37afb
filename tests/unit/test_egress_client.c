/* network/egress: the server's side against a socket on which the test itself answers. */
#include "check.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "network/egress.h"
#include "wire/frame.h"

enum { WAIT_MS = 20000 };

struct rig {
    char folder[64], path[96];
    int listen_fd, fd; /* the other end */
    struct egress *egress;
    atomic_int connected, lost;
    char lost_id[SANDBOX_ID_MAX + 1];
    uint8_t bytes[EGRESS_MSG_MAX];
    struct egress_msg got;
    int got_fd;
};

static void on_connected(void *context)
{
    struct rig *rig = context;
    rig->connected++;
}

static void on_lost(void *context, const char *id, const struct egress_counts *counts)
{
    struct rig *rig = context;
    assert_int_equal(counts->bytes_in, 44);
    (void)snprintf(rig->lost_id, sizeof(rig->lost_id), "%s", id);
    rig->lost++;
}

static void listen_again(struct rig *rig)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    (void)snprintf(address.sun_path, sizeof(address.sun_path), "%s", rig->path);
    (void)unlink(rig->path);
    rig->listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(rig->listen_fd, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(rig->listen_fd, 4), 0);
}

static void accept_one(struct rig *rig)
{
    struct pollfd poller = {.fd = rig->listen_fd, .events = POLLIN};
    assert_int_equal(poll(&poller, 1, WAIT_MS), 1);
    rig->fd = accept4(rig->listen_fd, NULL, NULL, SOCK_CLOEXEC);
    assert_true(rig->fd >= 0);
}

static int rig_make(void **state)
{
    struct rig *rig = calloc(1, sizeof(*rig));
    struct err err = ERR_INIT;
    assert_non_null(rig);
    (void)snprintf(rig->folder, sizeof(rig->folder), "/tmp/berth-test-XXXXXX");
    assert_non_null(mkdtemp(rig->folder));
    (void)snprintf(rig->path, sizeof(rig->path), "%s/egress.sock", rig->folder);
    rig->got_fd = rig->fd = -1;
    listen_again(rig);
    const struct egress_events events = {
        .context = rig, .connected = on_connected, .lost = on_lost};
    assert_ok(egress_new(rig->path, &events, &rig->egress, &err), err);
    accept_one(rig);
    *state = rig;
    return 0;
}

static int rig_end(void **state)
{
    struct rig *rig = *state;
    egress_free(rig->egress);
    egress_msg_done(&rig->got);
    fd_close(&rig->got_fd);
    fd_close(&rig->fd);
    fd_close(&rig->listen_fd);
    (void)unlink(rig->path);
    (void)rmdir(rig->folder);
    free(rig);
    return 0;
}

/* The next message of the client is in got; its descriptor in got_fd. */
static void take_message(struct rig *rig, uint32_t op)
{
    struct err err = ERR_INIT;
    size_t count = 1;
    struct pollfd poller = {.fd = rig->fd, .events = POLLIN};
    egress_msg_done(&rig->got);
    fd_close(&rig->got_fd);
    assert_int_equal(poll(&poller, 1, WAIT_MS), 1);
    ssize_t size = fd_recv(rig->fd, rig->bytes, sizeof(rig->bytes), &rig->got_fd, &count, 0, &err);
    assert_ok(size, err);
    assert_ok(egress_msg_decode(rig->bytes, (size_t)size, &rig->got, &err), err);
    assert_int_equal(rig->got.op, op);
}

static void say(struct rig *rig, const struct egress_msg *msg)
{
    struct err err = ERR_INIT;
    BUF_AUTO struct buf out;
    buf_init(&out, EGRESS_MSG_MAX);
    assert_ok(egress_msg_encode(msg, &out, &err), err);
    assert_ok(fd_send(rig->fd, out.data, out.size, NULL, 0, 0, &err), err);
}

static void answer(struct rig *rig, const struct err *failure)
{
    struct egress_msg reply = {.op = rig->got.op | EGRESS_REPLY,
                               .request_id = rig->got.request_id,
                               .counts = {1, 2, 33, 44, 5, 6}};
    if (failure)
        reply.error = *failure;
    say(rig, &reply);
}

static int64_t soon(void)
{
    return clock_now_ns() + WAIT_MS * CLOCK_NS_PER_MS;
}

/* One call on a thread of its own, so that the test can answer it. */
struct calling {
    struct rig *rig;
    pthread_t thread;
    enum egress_op op;
    int channel_fd, peer_fd;
    struct egress_counts counts;
    int result;
    struct err err;
};

static const uint8_t nonce[SANDBOX_NONCE_SIZE] = {7};
static const char *const rules[] = {"a.org", "*.b.org"};
static const struct egress_policy policy = {rules, 2, 1000, 5};

static void *calling_main(void *context)
{
    struct calling *call = context;
    struct egress *egress = call->rig->egress;
    const struct egress_sandbox sandbox = {"box", "me", nonce, policy};
    if (call->op == EGRESS_OP_ATTACH)
        call->result = egress_attach(egress, &sandbox, call->channel_fd, soon(), &call->err);
    else if (call->op == EGRESS_OP_POLICY)
        call->result = egress_set_policy(egress, "box", &policy, soon(), &call->err);
    else if (call->op == EGRESS_OP_DETACH)
        call->result = egress_detach(egress, "box", soon(), &call->counts, &call->err);
    else
        call->result = egress_counts(egress, NULL, soon(), &call->counts, &call->err);
    return NULL;
}

static void begin(struct rig *rig, struct calling *call, enum egress_op op)
{
    *call = (struct calling){.rig = rig, .op = op, .channel_fd = -1, .peer_fd = -1};
    if (op == EGRESS_OP_ATTACH) {
        int pair[2];
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
        call->channel_fd = pair[0];
        call->peer_fd = pair[1];
    }
    assert_int_equal(pthread_create(&call->thread, NULL, calling_main, call), 0);
    take_message(rig, op);
}

static void end(struct calling *call)
{
    (void)pthread_join(call->thread, NULL);
    fd_close(&call->peer_fd);
}

/* What init hears first, before egress has the channel: that it will say nothing but EGRESS. */
static void expect_hello(int fd)
{
    uint8_t bytes[512];
    struct frame_decoder decoder;
    struct frame frame;
    struct sandbox_hello hello;
    struct err err = ERR_INIT;
    ssize_t size = recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT);
    assert_true(size > 0);
    frame_decoder_init(&decoder);
    assert_ok(frame_decoder_feed(&decoder, bytes, (size_t)size, &err), err);
    assert_int_equal(frame_decoder_next(&decoder, &frame, &err), 1);
    assert_int_equal(frame.type, FRAME_HELLO);
    assert_ok(sandbox_hello_decode(frame.payload, frame.size, &hello, &err), err);
    assert_int_equal(hello.capabilities, SANDBOX_CAP_EGRESS);
    assert_int_equal(frame_decoder_next(&decoder, &frame, &err), 0);
    frame_decoder_done(&decoder);
}

static void attach(struct rig *rig)
{
    struct calling call;
    begin(rig, &call, EGRESS_OP_ATTACH);
    expect_hello(call.peer_fd);
    answer(rig, NULL);
    end(&call);
    assert_ok(call.result, call.err);
}

static void test_calls(void **state)
{
    struct rig *rig = *state;
    struct calling call;
    attach(rig);
    assert_true(rig->got_fd >= 0);
    assert_string_equal(rig->got.attach.id, "box");
    assert_string_equal(rig->got.attach.owner, "me");
    assert_memory_equal(rig->got.attach.nonce, nonce, sizeof(nonce));
    assert_int_equal(rig->got.attach.policy.rule_count, 2);
    assert_int_equal(rig->got.attach.policy.bytes_max, 1000);
    begin(rig, &call, EGRESS_OP_POLICY);
    assert_string_equal(rig->got.attach.policy.rules[1], "*.b.org");
    struct err failure = ERR_INIT;
    (void)err_set(&failure, ERR_NOT_FOUND, "no such");
    answer(rig, &failure);
    end(&call);
    assert_fails(call.result, ERR_NOT_FOUND, call.err);
    begin(rig, &call, EGRESS_OP_COUNTS);
    assert_string_equal(rig->got.attach.id, "");
    answer(rig, NULL);
    end(&call);
    assert_int_equal(call.counts.bytes_in, 44);
    egress_detach_later(rig->egress, "other");
    take_message(rig, EGRESS_OP_DETACH);
    assert_string_equal(rig->got.attach.id, "other");
}

static void test_what_was_used_goes_along(void **state)
{
    struct rig *rig = *state;
    struct calling call;
    attach(rig);
    assert_int_equal(rig->got.attach.bytes_used, 0);
    say(rig, &(struct egress_msg){.op = EGRESS_OP_EVENT_COUNTS,
                                  .attach = {.id = "box", .bytes_used = 77}});
    say(rig, &(struct egress_msg){.op = EGRESS_OP_EVENT_COUNTS,
                                  .attach = {.id = "nobody", .bytes_used = 5}});
    begin(rig, &call, EGRESS_OP_COUNTS); /* read behind them */
    answer(rig, NULL);
    end(&call);
    attach(rig);
    assert_int_equal(rig->got.attach.bytes_used, 77);
    begin(rig, &call, EGRESS_OP_DETACH);
    answer(rig, NULL);
    end(&call);
    assert_int_equal(call.counts.bytes_out, 33);
    attach(rig); /* it was only taken away for a while */
    assert_int_equal(rig->got.attach.bytes_used, 77);
    egress_detach_later(rig->egress, "box");
    take_message(rig, EGRESS_OP_DETACH);
    attach(rig);
    assert_int_equal(rig->got.attach.bytes_used, 0);
}

static void test_it_is_lost(void **state)
{
    struct rig *rig = *state;
    say(rig, &(struct egress_msg){
                 .op = EGRESS_OP_EVENT_LOST, .attach = {.id = "box"}, .counts = {.bytes_in = 44}});
    for (int i = 0; i < WAIT_MS && rig->lost == 0; i++)
        (void)usleep(1000);
    assert_int_equal(rig->lost, 1);
    assert_string_equal(rig->lost_id, "box");
}

static void test_a_restart(void **state)
{
    struct rig *rig = *state;
    struct calling call;
    begin(rig, &call, EGRESS_OP_COUNTS);
    fd_close(&rig->fd); /* killed while somebody waits */
    end(&call);
    assert_fails(call.result, ERR_UNAVAILABLE, call.err);
    assert_int_equal(call.err.retry_after_s, 1);
    accept_one(rig);
    for (int i = 0; i < WAIT_MS && rig->connected < 2; i++)
        (void)usleep(1000);
    assert_int_equal(rig->connected, 2);
    assert_true(egress_is_connected(rig->egress));
    attach(rig);
}

static void test_nobody_is_there(void **state)
{
    struct rig *rig = *state;
    struct err err = ERR_INIT;
    struct egress_counts counts;
    fd_close(&rig->listen_fd);
    (void)unlink(rig->path);
    fd_close(&rig->fd);
    for (int i = 0; i < WAIT_MS && egress_is_connected(rig->egress); i++)
        (void)usleep(1000);
    int64_t deadline_ns = clock_now_ns() + 20 * CLOCK_NS_PER_MS;
    assert_fails(egress_counts(rig->egress, NULL, deadline_ns, &counts, &err), ERR_UNAVAILABLE,
                 err);
    egress_detach_later(rig->egress, "box"); /* no wait */
    const struct egress_sandbox sandbox = {"box", "me", nonce, policy};
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    assert_fails(egress_attach(rig->egress, &sandbox, pair[0], deadline_ns, &err), ERR_UNAVAILABLE,
                 err);
    char byte;
    expect_hello(pair[1]);
    assert_int_equal(read(pair[1], &byte, 1), 0); /* it was taken over all the same */
    (void)close(pair[1]);
    listen_again(rig);
    accept_one(rig);
    attach(rig);
}

static void test_nonsense_ends_the_connection(void **state)
{
    struct rig *rig = *state;
    assert_int_equal(send(rig->fd, "nonsense", 8, 0), 8);
    fd_close(&rig->fd);
    accept_one(rig);
    attach(rig);
}

static void test_names_that_are_too_long(void **state)
{
    struct rig *rig = *state;
    struct err err = ERR_INIT;
    char name[SANDBOX_ID_MAX + 2];
    memset(name, 'x', sizeof(name) - 1);
    name[sizeof(name) - 1] = '\0';
    struct egress_sandbox sandbox = {name, "me", nonce, policy};
    assert_fails(egress_attach(rig->egress, &sandbox, -1, soon(), &err), ERR_BAD_INPUT, err);
    sandbox = (struct egress_sandbox){"box", name, nonce, policy};
    assert_fails(egress_attach(rig->egress, &sandbox, -1, soon(), &err), ERR_BAD_INPUT, err);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_calls, rig_make, rig_end),
        cmocka_unit_test_setup_teardown(test_what_was_used_goes_along, rig_make, rig_end),
        cmocka_unit_test_setup_teardown(test_it_is_lost, rig_make, rig_end),
        cmocka_unit_test_setup_teardown(test_a_restart, rig_make, rig_end),
        cmocka_unit_test_setup_teardown(test_nobody_is_there, rig_make, rig_end),
        cmocka_unit_test_setup_teardown(test_nonsense_ends_the_connection, rig_make, rig_end),
        cmocka_unit_test_setup_teardown(test_names_that_are_too_long, rig_make, rig_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
