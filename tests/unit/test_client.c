/* cli/client against a server that says what it was told to: answers whole and line by line, broken
 * off, refused, and not there at all. */
#include "check.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "cli/client.h"

/* One connection: reads until the end of the head (and of a body that ends in '}'), writes the
 * pieces, closes. */
struct server {
    int listen_fd;
    char url[64];
    const char *const *pieces;
    char request[4096];
    pthread_t thread;
};

static bool is_whole(const char *request, size_t size)
{
    if (!strstr(request, "\r\n\r\n"))
        return false;
    return !strstr(request, "Content-Length: ") || request[size - 1] == '}';
}

static void *serve(void *context)
{
    struct server *server = context;
    FD_AUTO int fd = accept4(server->listen_fd, NULL, NULL, SOCK_CLOEXEC);
    size_t used = 0;
    while (fd >= 0 && !is_whole(server->request, used)) {
        ssize_t got = read(fd, server->request + used, sizeof(server->request) - 1 - used);
        if (got <= 0)
            break;
        used += (size_t)got;
        server->request[used] = '\0';
    }
    for (const char *const *piece = server->pieces; fd >= 0 && *piece; piece++) {
        (void)fd_write_all(fd, *piece, strlen(*piece), NULL);
        (void)usleep(2000); /* so that they come apart */
    }
    return NULL;
}

static void start(struct server *server, const char *const *pieces)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(address);
    memset(server, 0, sizeof(*server));
    server->pieces = pieces;
    server->listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr *any = (struct sockaddr *)(void *)&address;
    assert_int_equal(bind(server->listen_fd, any, size), 0);
    assert_int_equal(listen(server->listen_fd, 1), 0);
    assert_int_equal(getsockname(server->listen_fd, any, &size), 0);
    (void)snprintf(server->url, sizeof(server->url), "http://127.0.0.1:%u",
                   ntohs(address.sin_port));
    assert_int_equal(pthread_create(&server->thread, NULL, serve, server), 0);
}

static void stop(struct server *server)
{
    assert_int_equal(pthread_join(server->thread, NULL), 0);
    fd_close(&server->listen_fd);
}

struct sent {
    int result;
    long status;
    char answer[256];
    char lines[256]; /* each line and '|' */
    struct err err;
};

static int take_line(void *context, const char *line, size_t size, struct err *err)
{
    struct sent *sent = context;
    size_t used = strlen(sent->lines);
    assert_int_equal(strlen(line), size);
    (void)snprintf(sent->lines + used, sizeof(sent->lines) - used, "%s|", line);
    return strcmp(line, "enough") == 0 ? err_set(err, ERR_CONFLICT, "enough") : 0;
}

static struct sent send_to(const char *url, const char *body, bool by_line)
{
    struct sent sent = {0};
    struct buf answer;
    const struct client_request request = {.url = url,
                                           .method = body ? "POST" : "GET",
                                           .path = "/path?x=1",
                                           .body = body,
                                           .body_size = body ? strlen(body) : 0,
                                           .line = by_line ? take_line : NULL,
                                           .context = &sent};
    buf_init(&answer, 128);
    sent.result = client_send(&request, &answer, &sent.status, &sent.err);
    (void)snprintf(sent.answer, sizeof(sent.answer), "%s", buf_cstr(&answer));
    buf_done(&answer);
    return sent;
}

#define PIECES(...) ((const char *const[]){__VA_ARGS__, NULL})

static void test_a_whole_answer(void **state)
{
    (void)state;
    struct server server;
    start(&server, PIECES("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n", "who", "le\n"));
    struct sent sent = send_to(server.url, NULL, false);
    stop(&server);
    assert_ok(sent.result, sent.err);
    assert_int_equal(sent.status, 200);
    assert_string_equal(sent.answer, "whole\n");
    assert_non_null(strstr(server.request, "GET /path?x=1 HTTP/1.1\r\n"));
    assert_non_null(strstr(server.request, "Accept: application/json\r\n"));
}

static void test_a_body(void **state)
{
    (void)state;
    struct server server;
    start(&server, PIECES("HTTP/1.1 400 Bad\r\nContent-Length: 14\r\n\r\n{\"detail\":\"x\"}"));
    struct sent sent = send_to(server.url, "{\"code\":1}", true);
    stop(&server);
    assert_ok(sent.result, sent.err);
    assert_int_equal(sent.status, 400);
    assert_string_equal(sent.answer, "{\"detail\":\"x\"}"); /* no line: it is no 200 */
    assert_string_equal(sent.lines, "");
    assert_non_null(strstr(server.request, "POST /path?x=1 HTTP/1.1\r\n"));
    assert_non_null(strstr(server.request, "Content-Type: application/json\r\n"));
    assert_null(strstr(server.request, "Expect:"));
}

static void test_lines(void **state)
{
    (void)state;
    struct server server;
    start(&server, PIECES("HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n", "one\nt", "wo\n\n", "\n",
                          "three\nend\n"));
    struct sent sent = send_to(server.url, NULL, true);
    stop(&server);
    assert_ok(sent.result, sent.err);
    assert_string_equal(sent.lines, "one|two|three|end|");
    start(&server, PIECES("HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\n", "one\nenough\nmore\n"));
    sent = send_to(server.url, NULL, true);
    stop(&server);
    assert_fails(sent.result, ERR_CONFLICT, sent.err);
    assert_string_equal(sent.lines, "one|enough|");
}

static void test_broken_answers(void **state)
{
    (void)state;
    struct server server;
    start(&server, PIECES("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", "cut"));
    struct sent sent = send_to(server.url, NULL, false);
    stop(&server);
    assert_fails(sent.result, ERR_CLOSED, sent.err);
    start(&server,
          PIECES("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "4\r\none\n\r\n"));
    sent = send_to(server.url, NULL, true); /* no last chunk: not the end of a stream */
    stop(&server);
    assert_fails(sent.result, ERR_CLOSED, sent.err);
    assert_string_equal(sent.lines, "one|");
    char large[256];
    memset(large, 'x', sizeof(large) - 1);
    large[sizeof(large) - 1] = '\0';
    start(&server, PIECES("HTTP/1.1 200 OK\r\nContent-Length: 255\r\n\r\n", large));
    sent = send_to(server.url, NULL, false);
    stop(&server);
    assert_fails(sent.result, ERR_TOO_LARGE, sent.err);
}

static void test_no_server(void **state)
{
    (void)state;
    struct server server;
    start(&server, PIECES("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"));
    (void)send_to(server.url, NULL, false);
    stop(&server); /* its port is free now */
    struct sent sent = send_to(server.url, NULL, false);
    assert_fails(sent.result, ERR_UNAVAILABLE, sent.err);
    assert_non_null(strstr(sent.err.message, server.url));
}

static void test_url(void **state)
{
    (void)state;
    bool is_default = false;
    (void)unsetenv("BERTH_URL");
    assert_string_equal(client_url(&is_default), CLIENT_DEFAULT_URL);
    assert_true(is_default);
    (void)setenv("BERTH_URL", "", 1);
    assert_string_equal(client_url(&is_default), CLIENT_DEFAULT_URL);
    (void)setenv("BERTH_URL", "http://host:1//", 1);
    assert_string_equal(client_url(&is_default), "http://host:1");
    assert_false(is_default);
    (void)unsetenv("BERTH_URL");
}

static void refused(const char *body, enum err_kind kind, const char *word)
{
    struct buf answer;
    struct err err = ERR_INIT;
    buf_init(&answer, 4096);
    assert_int_equal(buf_append_str(&answer, body, NULL), 0);
    assert_fails(client_refused(418, &answer, &err), kind, err);
    if (!strstr(err.message, word))
        fail_msg("no \"%s\" in: %s", word, err.message);
    buf_done(&answer);
}

static void test_refusals(void **state)
{
    (void)state;
    refused("{\"error\":\"short\",\"detail\":\"long\"}", ERR_BAD_INPUT, "long (HTTP 418)");
    refused("{\"error\":\"short\"}", ERR_BAD_INPUT, "short (HTTP 418)");
    refused("<html>", ERR_PROTOCOL, "418");
    refused("{}", ERR_PROTOCOL, "418");
    refused("", ERR_PROTOCOL, "418");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_whole_answer), cmocka_unit_test(test_a_body),
        cmocka_unit_test(test_lines),          cmocka_unit_test(test_broken_answers),
        cmocka_unit_test(test_no_server),      cmocka_unit_test(test_url),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
