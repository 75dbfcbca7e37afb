/* The native client against a scripted engine process (a thread here): replies out of order,
 * restarts, late replies, destructions that are repeated, garbage. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "engine/engine.h"

static char folder[] = "/tmp/berth-engine-XXXXXX";
static char path[64];
static int listen_fd = -1;

static _Atomic int destroyed_count, connected_count, gone_count;
static char destroyed_id[SANDBOX_ID_MAX + 1];

static void on_gone(void *context, const char *id, enum kill_cause cause)
{
    (void)context;
    (void)cause;
    (void)id;
    gone_count++;
}

static void on_destroyed(void *context, const char *id)
{
    (void)context;
    (void)snprintf(destroyed_id, sizeof(destroyed_id), "%s", id);
    destroyed_count++;
}

static void on_connected(void *context)
{
    (void)context;
    connected_count++;
}

static const struct engine_events events = {
    .gone = on_gone, .destroyed = on_destroyed, .connected = on_connected};

static int open_listener(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    (void)snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    return bind(listen_fd, (const struct sockaddr *)&address, sizeof(address)) != 0 ||
           listen(listen_fd, 8) != 0;
}

static int accept_one(void)
{
    int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

static void receive(int fd, struct engine_msg *msg)
{
    static uint8_t bytes[ENGINE_MSG_MAX];
    size_t fds = 0;
    struct err err = ERR_INIT;
    ssize_t size = fd_recv(fd, bytes, sizeof(bytes), NULL, &fds, 0, &err);
    assert_true(size > 0);
    assert_int_equal(engine_msg_decode(bytes, (size_t)size, msg, &err), 0);
}

static void reply(int fd, struct engine_msg *msg, int pass_fd)
{
    struct buf bytes;
    buf_init(&bytes, ENGINE_MSG_MAX);
    if (msg->request_id != 0)
        msg->op |= ENGINE_REPLY;
    assert_int_equal(engine_msg_encode(msg, &bytes, NULL), 0);
    assert_int_equal(fd_send(fd, bytes.data, bytes.size, &pass_fd, pass_fd >= 0 ? 1 : 0, 0, NULL),
                     0);
    buf_done(&bytes);
}

struct call {
    struct engine *engine;
    pthread_t thread;
    char id[16];
    int64_t deadline_ns;
    int gone_fd; /* -1: nothing but the deadline ends it */
    int status, fd;
    uint8_t nonce[SANDBOX_NONCE_SIZE];
    struct err err;
};

static void *call_main(void *context)
{
    struct call *call = context;
    struct engine_create spec = {.image = "host", .profile = "strict"};
    (void)snprintf(spec.id, sizeof(spec.id), "%s", call->id);
    call->fd = -1;
    const struct engine_wait wait = {
        .deadline_ns = call->deadline_ns, .cancel_fd = -1, .gone_fd = call->gone_fd};
    if (call->gone_fd < 0)
        call->status = engine_create(call->engine, &spec, call->deadline_ns, &call->fd, call->nonce,
                                     &call->err);
    else
        call->status =
            engine_create_watched(call->engine, &spec, &wait, &call->fd, call->nonce, &call->err);
    return NULL;
}

static void call_start_watched(struct call *call, struct engine *engine, const char *id,
                               int64_t wait_ms, int gone_fd)
{
    memset(call, 0, sizeof(*call));
    call->engine = engine;
    call->gone_fd = gone_fd;
    call->deadline_ns = clock_now_ns() + wait_ms * CLOCK_NS_PER_MS;
    (void)snprintf(call->id, sizeof(call->id), "%s", id);
    assert_int_equal(pthread_create(&call->thread, NULL, call_main, call), 0);
}

static void call_start(struct call *call, struct engine *engine, const char *id, int64_t wait_ms)
{
    call_start_watched(call, engine, id, wait_ms, -1);
}

static void wait_count(_Atomic int *count, int at_least)
{
    while (*count < at_least)
        (void)poll(NULL, 0, 1);
}

static void replies_out_of_order(void **state)
{
    (void)state;
    struct engine *engine = NULL;
    struct call calls[2];
    struct engine_msg first, second;
    assert_int_equal(engine_process_new("native", path, &events, &engine, NULL), 0);
    int fd = accept_one();
    call_start(&calls[0], engine, "one", 10000);
    call_start(&calls[1], engine, "two", 10000);
    receive(fd, &first);
    receive(fd, &second);
    second.nonce[0] = 42;
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    struct engine_msg gone = {.op = ENGINE_OP_EVENT_GONE, .id = "someone"};
    reply(fd, &gone, -1);
    /* To a server before this one, whose numbers began as these do. */
    struct engine_msg strange = {.op = ENGINE_OP_LAYER_IMPORT, .request_id = second.request_id};
    reply(fd, &strange, -1);
    reply(fd, &second, pair[0]);
    first.error = (struct err){.kind = ERR_BAD_INPUT, .message = "no", .public_message = "no!"};
    reply(fd, &first, -1);
    for (size_t i = 0; i < 2; i++) {
        (void)pthread_join(calls[i].thread, NULL);
        bool was_second = strcmp(calls[i].id, second.create.id) == 0;
        assert_int_equal(calls[i].status, was_second ? 0 : -ERR_BAD_INPUT);
        if (was_second) {
            assert_int_equal(calls[i].nonce[0], 42);
            (void)close(calls[i].fd);
        } else {
            assert_string_equal(calls[i].err.public_message, "no!");
        }
    }
    wait_count(&gone_count, 1);
    (void)close(pair[0]);
    (void)close(pair[1]);
    (void)close(fd);
    engine_free(engine);
}

static void a_restart_fails_who_waits_and_serves_who_comes(void **state)
{
    (void)state;
    struct engine *engine = NULL;
    struct call call;
    struct engine_msg msg;
    assert_int_equal(engine_process_new("native", path, &events, &engine, NULL), 0);
    int fd = accept_one();
    call_start(&call, engine, "one", 10000);
    receive(fd, &msg);
    (void)close(fd);
    (void)pthread_join(call.thread, NULL);
    assert_int_equal(call.status, -ERR_UNAVAILABLE);
    assert_int_equal(call.err.retry_after_s, 1);
    call_start(&call, engine, "two", 10000); /* comes while nobody is there */
    fd = accept_one();
    receive(fd, &msg);
    assert_string_equal(msg.create.id, "two");
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    reply(fd, &msg, pair[0]);
    (void)pthread_join(call.thread, NULL);
    assert_int_equal(call.status, 0);
    (void)close(call.fd);
    (void)close(pair[0]);
    (void)close(pair[1]);
    /* Garbage ends the connection; the next one works. */
    assert_int_equal(send(fd, "garbage", 7, MSG_NOSIGNAL), 7);
    (void)close(accept_one());
    (void)close(fd);
    engine_free(engine);
}

static void a_late_create_is_destroyed(void **state)
{
    (void)state;
    struct engine *engine = NULL;
    struct call call;
    struct engine_msg create, destroy;
    assert_int_equal(engine_process_new("native", path, &events, &engine, NULL), 0);
    int fd = accept_one();
    call_start(&call, engine, "late", 30);
    receive(fd, &create);
    (void)pthread_join(call.thread, NULL);
    assert_int_equal(call.status, -ERR_UNAVAILABLE);
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    reply(fd, &create, pair[0]);
    (void)close(pair[0]);
    receive(fd, &destroy);
    assert_int_equal(destroy.op, ENGINE_OP_DESTROY);
    assert_string_equal(destroy.id, "late");
    char byte = 0;
    assert_int_equal(read(pair[1], &byte, 1), 0); /* the client closed what came */
    (void)close(pair[1]);
    destroyed_count = 0;
    reply(fd, &destroy, -1);
    wait_count(&destroyed_count, 1);
    (void)close(fd);
    engine_free(engine);
}

/* A caller whose client left waits for no engine: neither for its answer nor for it to come. */
static void a_watched_create_ends_early(void **state)
{
    (void)state;
    enum { HANG_MS = 1000000 };
    struct engine *engine = NULL;
    struct call call;
    struct engine_msg create, destroy;
    uint64_t one = 1;
    int gone_fd = eventfd(0, EFD_CLOEXEC);
    assert_int_equal(engine_process_new("native", path, &events, &engine, NULL), 0);
    int fd = accept_one();
    call_start_watched(&call, engine, "left", HANG_MS, gone_fd);
    receive(fd, &create);
    assert_int_equal(write(gone_fd, &one, sizeof(one)), sizeof(one));
    (void)pthread_join(call.thread, NULL);
    assert_int_equal(call.status, -ERR_CLOSED);
    reply(fd, &create, gone_fd); /* made after all: a channel that is no channel */
    receive(fd, &destroy);
    assert_int_equal(destroy.op, ENGINE_OP_DESTROY);
    assert_string_equal(destroy.id, "left");
    (void)close(listen_fd); /* nobody can connect any more */
    (void)unlink(path);
    (void)close(fd);
    call_start_watched(&call, engine, "again", HANG_MS, gone_fd);
    (void)pthread_join(call.thread, NULL);
    assert_int_equal(call.status, -ERR_CLOSED);
    engine_free(engine);
    (void)close(gone_fd);
    assert_int_equal(open_listener(), 0);
}

static void destructions_are_repeated(void **state)
{
    (void)state;
    struct engine *engine = NULL;
    struct engine_msg msg;
    destroyed_count = 0;
    assert_int_equal(engine_process_new("native", path, &events, &engine, NULL), 0);
    engine_destroy_later(engine, "box"); /* perhaps before there is a connection */
    engine_destroy_later(engine, "box"); /* the same again is one */
    int fd = accept_one();
    receive(fd, &msg);
    assert_string_equal(msg.id, "box");
    (void)close(fd); /* restarts before it is done */
    fd = accept_one();
    receive(fd, &msg);
    assert_string_equal(msg.id, "box");
    msg.error = (struct err){.kind = ERR_INTERNAL, .message = "busy"};
    reply(fd, &msg, -1);
    receive(fd, &msg);
    assert_string_equal(msg.id, "box");
    assert_int_equal(destroyed_count, 0);
    reply(fd, &msg, -1);
    wait_count(&destroyed_count, 1);
    assert_string_equal(destroyed_id, "box");
    engine_free(engine);
    assert_int_equal(destroyed_count, 1);
    (void)close(fd);
}

/* Of the linker (--wrap): what this test takes away is memory for calloc(3) in its own thread. */
void *__real_calloc(size_t count, size_t size);
void *__wrap_calloc(size_t count, size_t size);

static _Thread_local bool no_memory;

void *__wrap_calloc(size_t count, size_t size)
{
    return no_memory ? NULL : __real_calloc(count, size);
}

/* A destruction that could not be noted is asked for again by whoever reconciles. */
static void a_forgotten_destruction_is_asked_for(void **state)
{
    (void)state;
    struct engine *engine = NULL;
    struct engine_msg msg;
    connected_count = destroyed_count = 0;
    assert_int_equal(engine_process_new("native", path, &events, &engine, NULL), 0);
    int fd = accept_one();
    wait_count(&connected_count, 1);
    no_memory = true;
    engine_destroy_later(engine, "box");
    no_memory = false;
    wait_count(&connected_count, 2); /* on the same connection */
    engine_destroy_later(engine, "box");
    receive(fd, &msg);
    assert_string_equal(msg.id, "box");
    reply(fd, &msg, -1);
    wait_count(&destroyed_count, 1);
    assert_int_equal(connected_count, 2);
    (void)close(fd);
    engine_free(engine);
}

struct listing {
    struct engine *engine;
    pthread_t thread;
    char (*ids)[SANDBOX_ID_MAX + 1];
    size_t count;
    int status;
    struct err err;
};

static void *list_main(void *context)
{
    struct listing *list = context;
    list->status = engine_list(list->engine, clock_now_ns() + 10 * CLOCK_NS_PER_S, &list->ids,
                               &list->count, &list->err);
    return NULL;
}

/* Starts a list; the scripted engine gets the first request. */
static void list_start(struct listing *list, struct engine *engine, int fd, struct engine_msg *msg)
{
    memset(list, 0, sizeof(*list));
    list->engine = engine;
    assert_int_equal(pthread_create(&list->thread, NULL, list_main, list), 0);
    receive(fd, msg);
    assert_int_equal(msg->op, ENGINE_OP_LIST);
    assert_string_equal(msg->id, "");
}

static void reply_page(int fd, struct engine_msg *msg, char (*ids)[SANDBOX_ID_MAX + 1],
                       size_t count, bool more)
{
    msg->ids = ids;
    msg->id_count = count;
    msg->more = more;
    reply(fd, msg, -1);
}

static void a_list_comes_in_pages(void **state)
{
    (void)state;
    static char ids[3][SANDBOX_ID_MAX + 1] = {"a", "b", "c"};
    struct engine *engine = NULL;
    struct listing list;
    struct engine_msg msg;
    assert_int_equal(engine_process_new("native", path, &events, &engine, NULL), 0);
    int fd = accept_one();
    list_start(&list, engine, fd, &msg);
    reply_page(fd, &msg, ids, 2, true);
    receive(fd, &msg);
    assert_string_equal(msg.id, "b");
    reply_page(fd, &msg, ids + 2, 1, false);
    (void)pthread_join(list.thread, NULL);
    assert_int_equal(list.status, 0);
    assert_int_equal(list.count, 3);
    for (size_t i = 0; i < list.count; i++)
        assert_string_equal(list.ids[i], ids[i]);
    free(list.ids);
    /* An empty one, and an engine that says "more" for ever. */
    list_start(&list, engine, fd, &msg);
    reply_page(fd, &msg, NULL, 0, false);
    (void)pthread_join(list.thread, NULL);
    assert_int_equal(list.status, 0);
    assert_int_equal(list.count, 0);
    free(list.ids);
    list_start(&list, engine, fd, &msg);
    reply_page(fd, &msg, ids, 1, true);
    receive(fd, &msg);
    reply_page(fd, &msg, ids, 1, true);
    (void)pthread_join(list.thread, NULL);
    assert_int_equal(list.status, -ERR_PROTOCOL);
    (void)close(fd);
    engine_free(engine);
}

static const struct engine_create limits = {
    .id = "box", .memory_bytes = 1, .storage_bytes = 2, .cpu_millis = 3, .pids_max = 4};

struct limiting {
    struct engine *engine;
    pthread_t thread;
    int64_t deadline_ns;
    int status;
    struct err err;
};

static void *limit_main(void *context)
{
    struct limiting *limit = context;
    limit->status = engine_limit(limit->engine, &limits, limit->deadline_ns, &limit->err);
    return NULL;
}

/* Asks for other limits; the scripted engine gets the request. */
static void limit_start(struct limiting *limit, struct engine *engine, int fd, int64_t wait_ms,
                        struct engine_msg *msg)
{
    memset(limit, 0, sizeof(*limit));
    limit->engine = engine;
    limit->deadline_ns = clock_now_ns() + wait_ms * CLOCK_NS_PER_MS;
    assert_int_equal(pthread_create(&limit->thread, NULL, limit_main, limit), 0);
    receive(fd, msg);
    assert_int_equal(msg->op, ENGINE_OP_LIMIT);
    assert_string_equal(msg->create.id, "box");
    assert_int_equal(msg->create.memory_bytes, 1);
    assert_int_equal(msg->create.storage_bytes, 2);
    assert_int_equal(msg->create.cpu_millis, 3);
    assert_int_equal(msg->create.pids_max, 4);
}

static void expect_limit(struct limiting *limit, int status)
{
    (void)pthread_join(limit->thread, NULL);
    assert_int_equal(limit->status, status);
}

/* One that is not answered is left alone: its caller destroys the sandbox, or does not. */
static void limits_have_one_answer(void **state)
{
    (void)state;
    struct engine *engine = NULL;
    struct limiting limit;
    struct engine_msg msg, late;
    assert_int_equal(engine_process_new("native", path, &events, &engine, NULL), 0);
    int fd = accept_one();
    limit_start(&limit, engine, fd, 10000, &msg);
    reply(fd, &msg, -1);
    expect_limit(&limit, 0);
    limit_start(&limit, engine, fd, 10000, &msg);
    msg.error = (struct err){.kind = ERR_CONFLICT, .message = "it uses more"};
    reply(fd, &msg, -1);
    expect_limit(&limit, -ERR_CONFLICT);
    assert_string_equal(limit.err.message, "it uses more");
    limit_start(&limit, engine, fd, 30, &late);
    expect_limit(&limit, -ERR_UNAVAILABLE);
    assert_true(engine_is_away(&limit.err));
    reply(fd, &late, -1);
    limit_start(&limit, engine, fd, 10000, &msg); /* the next thing that the engine hears of */
    (void)close(fd);
    expect_limit(&limit, -ERR_UNAVAILABLE);
    assert_true(engine_is_away(&limit.err));
    engine_free(engine);
}

static void calls_have_deadlines(void **state)
{
    (void)state;
    struct engine *engine = NULL;
    struct engine_info info;
    assert_int_equal(engine_process_new("native", "/nonexistent/socket", &events, &engine, NULL),
                     0);
    struct err err = ERR_INIT;
    assert_int_equal(engine_probe(engine, clock_now_ns() + 20 * CLOCK_NS_PER_MS, &info, &err),
                     -ERR_UNAVAILABLE);
    assert_int_equal(err.retry_after_s, 1);
    engine_free(engine);
}

static int setup(void **state)
{
    (void)state;
    if (!mkdtemp(folder))
        return -1;
    (void)snprintf(path, sizeof(path), "%s/native.sock", folder);
    return open_listener();
}

static int teardown(void **state)
{
    (void)state;
    (void)close(listen_fd);
    (void)unlink(path);
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(replies_out_of_order),
        cmocka_unit_test(a_restart_fails_who_waits_and_serves_who_comes),
        cmocka_unit_test(a_late_create_is_destroyed),
        cmocka_unit_test(a_watched_create_ends_early),
        cmocka_unit_test(destructions_are_repeated),
        cmocka_unit_test(a_forgotten_destruction_is_asked_for),
        cmocka_unit_test(a_list_comes_in_pages),
        cmocka_unit_test(limits_have_one_answer),
        cmocka_unit_test(calls_have_deadlines),
    };
    return cmocka_run_group_tests_name("engine_client", tests, setup, teardown);
}
