/* docker/web: an answer that stalls has an end, and what the daemon's answers mean. */
#include "check.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "docker/loop.h"
#include "docker/web.h"
#include "folder.h"

struct outcome {
    bool over;
    bool failed;
    size_t bytes;
    struct err error;
};

static bool on_piece(void *context, const void *data, size_t size)
{
    struct outcome *outcome = context;
    (void)data;
    outcome->bytes += size;
    return true;
}

static void on_done(void *context, long status, struct buf *body, const struct err *error)
{
    struct outcome *outcome = context;
    (void)status;
    (void)body;
    outcome->over = true;
    outcome->failed = error != NULL;
    if (error)
        outcome->error = *error;
}

/* Begins an answer, and says no more. */
static void *stall(void *context)
{
    static const char head[] = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nso far";
    const int *listen_fd = context;
    char request[4096];
    FD_AUTO int fd = accept4(*listen_fd, NULL, NULL, SOCK_CLOEXEC);
    (void)!read(fd, request, sizeof(request));
    (void)fd_write_all(fd, head, sizeof(head) - 1, NULL);
    while (read(fd, request, sizeof(request)) > 0) /* until the other end goes */
        continue;
    return NULL;
}

static void test_an_answer_that_stalls_ends(void **state)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    struct address address = {.base = "http://docker", .shown = "here"};
    struct outcome outcome = {0};
    struct loop *loop = NULL;
    struct web *web = NULL;
    struct web_call *call = NULL;
    struct err err = ERR_INIT;
    pthread_t thread;
    (void)state;
    (void)snprintf(name.sun_path, sizeof(name.sun_path), "%s/sock", folder);
    (void)snprintf(address.socket_path, sizeof(address.socket_path), "%s", name.sun_path);
    FD_AUTO int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&name, sizeof(name)), 0);
    assert_int_equal(listen(fd, 4), 0);
    assert_int_equal(pthread_create(&thread, NULL, stall, &fd), 0);
    assert_ok(loop_new(&loop, &err), err);
    assert_ok(web_new(loop, &address, &web, &err), err);
    const struct web_request request = {.method = "GET",
                                        .path = "/",
                                        .idle_ns = CLOCK_NS_PER_S,
                                        .data = on_piece,
                                        .done = on_done,
                                        .context = &outcome};
    assert_ok(web_start(web, &request, &call, &err), err);
    int64_t until_ns = clock_now_ns() + 60 * CLOCK_NS_PER_S;
    while (!outcome.over && clock_now_ns() < until_ns)
        assert_ok(loop_step(loop, until_ns, &err), err);
    assert_true(outcome.over && outcome.failed);
    assert_int_equal(outcome.error.kind, ERR_TIMEOUT);
    assert_int_equal(outcome.bytes, 6);
    web_free(web);
    loop_free(loop);
    assert_int_equal(pthread_join(thread, NULL), 0);
}

static void test_refusals(void **state)
{
    static const struct {
        long status;
        const char *said;
        enum err_kind kind;
        bool is_public;
    } cases[] = {
        {404, "{\"message\":\"No such container\"}", ERR_NOT_FOUND, false},
        {409, "{\"message\":\"in use\"}", ERR_CONFLICT, false},
        {500, "{\"message\":\"it broke\"}", ERR_INTERNAL, false},
        {500, "{\"message\":\"write: no space left on device\"}", ERR_UNAVAILABLE, true},
        {500, "{\"message\":\"fork: cannot allocate memory\"}", ERR_UNAVAILABLE, true},
        {500, "{\"message\":\"open: too many open files\"}", ERR_UNAVAILABLE, true},
        {503, "{\"message\":\"shutting down\"}", ERR_UNAVAILABLE, true},
        {502, "<html>Bad Gateway</html>", ERR_UNAVAILABLE, true},
        {429, "", ERR_UNAVAILABLE, true},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct err err = ERR_INIT;
        BUF_AUTO struct buf body;
        buf_init(&body, 1024);
        assert_int_equal(buf_append_str(&body, cases[i].said, NULL), 0);
        assert_fails(web_refused(cases[i].status, &body, "try", &err), cases[i].kind, err);
        assert_int_equal(err.public_message[0] != '\0', cases[i].is_public);
        assert_int_equal(err.retry_after_s > 0, cases[i].is_public);
        assert_non_null(strstr(err.message, "try"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_an_answer_that_stalls_ends, folder_make,
                                        folder_remove),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
