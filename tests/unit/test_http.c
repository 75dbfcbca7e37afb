/* wire/http over a real loopback socket: what is answered, what is refused, and once only. */
#include "check.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "wire/http.h"

#define BODY_MAX 1000
#define LARGE (300U * 1024U)

struct fixture {
    struct http_server *server;
    int listen_fd;
    struct sockaddr_in address;
};

/* What came of the last body that was taken by pieces. */
static struct taken {
    _Atomic size_t pieces, bytes, freed; /* the test looks at them from another thread */
    _Atomic bool good;
} taken;

static int take_piece(void *context, const uint8_t *data, size_t size, struct err *err)
{
    struct taken *now = context;
    for (size_t i = 0; i < size; i++)
        now->good = now->good && data[i] == (uint8_t)('a' + (now->bytes + i) % 26);
    now->pieces++;
    now->bytes += size;
    if (now->bytes > LARGE)
        return err_public(err, ERR_BAD_INPUT, "that is enough");
    return 0;
}

static void end_taking(void *context)
{
    struct taken *now = context;
    now->freed++;
}

static bool on_admit(void *context, const struct http_request *request, struct http_intake *intake,
                     struct http_response *response)
{
    (void)context;
    if (strcmp(http_request_path(request), "/take") == 0) {
        taken = (struct taken){.good = true};
        *intake = (struct http_intake){.context = &taken, .piece = take_piece, .free = end_taking};
    }
    if (strcmp(http_request_path(request), "/deny") != 0)
        return true;
    response->status = 403;
    return false;
}

static int on_stream(void *context, struct buf *out, struct err *err)
{
    static const char *const pieces[] = {"one", "two"};
    int *count = context;
    if (*count < 2)
        return buf_append_str(out, pieces[(*count)++], err) == 0 ? 1 : -ERR_INTERNAL;
    return *count == 2 ? 0 : err_set(err, ERR_INTERNAL, "broken");
}

static void on_handle(void *context, const struct http_request *request,
                      struct http_response *response)
{
    static int whole, broken;
    struct err err = ERR_INIT;
    size_t size = 0;
    (void)context;
    const uint8_t *body = http_request_body(request, &size);
    const char *query = http_request_query(request, "q");
    buf_init(&response->body, 4096);
    if (strcmp(http_request_path(request), "/whole") == 0) {
        whole = 0;
        response->stream = on_stream;
        response->stream_context = &whole;
    } else if (strcmp(http_request_path(request), "/broken") == 0) {
        broken = 3;
        response->stream = on_stream;
        response->stream_context = &broken;
    } else if (strncmp(http_request_path(request), "/sized/", 7) == 0) {
        whole = 0;
        response->stream = on_stream;
        response->stream_context = &whole;
        response->stream_sized = true;
        response->stream_size = (uint64_t)(http_request_path(request)[7] - '0');
    } else if (http_request_intake(request)) {
        (void)buf_printf(&response->body, &err, "<%zu bytes, %s, held %zu>", taken.bytes,
                         taken.good ? "good" : "bad", size);
    } else {
        (void)buf_printf(&response->body, &err, "<%s %s q=%s>", http_request_method(request),
                         http_request_path(request), query ? query : "-");
        (void)buf_append(&response->body, body, size, &err);
    }
}

static void on_refuse(void *context, const struct err *error, struct http_response *response)
{
    (void)context;
    buf_init(&response->body, 4096);
    response->content_type = "text/plain";
    response->status = error->kind == ERR_TOO_LARGE     ? 413
                       : error->kind == ERR_HEADERS     ? 431
                       : error->kind == ERR_UNAVAILABLE ? 503
                                                        : 400;
    (void)buf_append_str(&response->body, error->public_message, NULL);
}

static int setup(void **state)
{
    static struct fixture fixture;
    struct err err = ERR_INIT;
    socklen_t size = sizeof(fixture.address);
    fixture.address =
        (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr *address = (struct sockaddr *)(void *)&fixture.address;
    fixture.listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fixture.listen_fd < 0 || bind(fixture.listen_fd, address, size) < 0 ||
        listen(fixture.listen_fd, 16) < 0 || getsockname(fixture.listen_fd, address, &size) < 0)
        return -1;
    struct http_config config = {.listen_fd = fixture.listen_fd,
                                 .body_max = BODY_MAX,
                                 .bodies_total_max = 2 * BODY_MAX,
                                 .head_max = 8192,
                                 .header_count_max = 20,
                                 .connection_max = 32,
                                 .head_timeout_ms = 5000,
                                 .body_timeout_ms = 5000,
                                 .idle_timeout_ms = 5000};
    struct http_handlers handlers = {.admit = on_admit, .handle = on_handle, .refuse = on_refuse};
    *state = &fixture;
    return http_server_new(&config, &handlers, &fixture.server, &err);
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;
    http_server_free(fixture->server);
    fd_close(&fixture->listen_fd);
    return 0;
}

/* Sends the bytes, ends our side, reads all that comes back. */
static const char *talk(struct fixture *fixture, const char *bytes, size_t size)
{
    static char answer[65536];
    size_t used = 0;
    ssize_t got = 0;
    FD_AUTO int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(
        connect(fd, (struct sockaddr *)(void *)&fixture->address, sizeof(fixture->address)), 0);
    (void)fd_write_all(fd, bytes, size, NULL);
    (void)shutdown(fd, SHUT_WR);
    while (used < sizeof(answer) - 1 &&
           (got = read(fd, answer + used, sizeof(answer) - 1 - used)) > 0)
        used += (size_t)got;
    answer[used] = '\0';
    return answer;
}

static unsigned count_answers(const char *answer)
{
    unsigned count = 0;
    for (const char *at = answer; (at = strstr(at, "HTTP/1.1 ")); at++)
        count++;
    return count;
}

#define H "Host: localhost\r\n"

static void test_answers(void **state)
{
    static const struct {
        const char *request;
        const char *part;
    } cases[] = {
        {"GET / HTTP/1.1\r\n" H "\r\n", "<GET / q=->"},
        {"GET /a/ HTTP/1.1\r\n" H "\r\n", "<GET /a q=->"},
        {"GET /a%20b?q=x+y%2B&z HTTP/1.1\r\n" H "\r\n", "<GET /a b q=x y+>"},
        {"GET http://localhost/a?q=1 HTTP/1.1\r\n" H "\r\n", "<GET /a q=1>"},
        {"GET / HTTP/1.0\r\n\r\n", "<GET / q=->"},
        {"GET / HTTP/1.1\r\nX:\r\nY: \t\r\nZ:a \r\n" H "\r\n", "200 OK"},
        {"POST / HTTP/1.1\r\n" H "Content-Length: 4\r\n\r\nbody", "q=->body"},
        {"POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
         "q=->body"},
        {"POST /deny HTTP/1.1\r\n" H "Content-Length: 4\r\n\r\nbody", " 403 "},
        {"GET /whole HTTP/1.1\r\n" H "\r\n", "two\r\n0\r\n\r\n"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        const char *answer = talk(*state, cases[i].request, strlen(cases[i].request));
        if (!strstr(answer, cases[i].part) || count_answers(answer) != 1)
            fail_msg("case %zu: %s", i, answer);
    }
}

static void test_refused(void **state)
{
#define CASE(text, status)                                                                         \
    {                                                                                              \
        text, sizeof(text) - 1, status                                                             \
    }
    static const struct {
        const char *request;
        size_t size;
        const char *status;
    } cases[] = {
        CASE("GET / HTTP/1.1\r\n\r\n", " 400 "),
        CASE("GET / HTTP/1.1\r\n" H H "\r\n", " 400 "),
        CASE("GET / HTTP/1.1\r\n" H "X: a\0b\r\n\r\n", " 400 "),
        CASE("GET / HTTP/1.1\r\nX: a\0b\r\n" H "\r\n", " 400 "),
        CASE("GET / HTTP/1.1\r\n" H "X: a\001b\r\n\r\n", " 400 "),
        CASE("GET / HTTP/1.1\r\n" H "X: a\r\n b\r\n\r\n", " 400 "),
        CASE("GET / HTTP/1.1\r\nX: a\n" H "\r\n", " 400 "),
        CASE("GET / HTTP/1.1\r\nX : a\r\n" H "\r\n", " 400 "),
        CASE("GET  / HTTP/1.1\r\n" H "\r\n", " 400 "),
        CASE("GET /a b HTTP/1.1\r\n" H "\r\n", " 400 "),
        CASE("GET /\0a HTTP/1.1\r\n" H "\r\n", " 400 "),
        CASE("GET /%00 HTTP/1.1\r\n" H "\r\n", " 400 "),
        CASE("GET /%4 HTTP/1.1\r\n" H "\r\n", " 400 "),
        CASE("GET /?q=%00 HTTP/1.1\r\n" H "\r\n", " 400 "),
        CASE("POST / HTTP/1.1\r\n" H "Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}", " 400 "),
        CASE("POST / HTTP/1.1\r\n" H "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n"
             "0\r\n\r\nGET / HTTP/1.1\r\n" H "\r\n",
             " 400 "),
        CASE("POST / HTTP/1.1\r\n" H "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", " 400 "),
        CASE("POST / HTTP/1.0\r\n" H "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", " 400 "),
        CASE("POST / HTTP/1.1\r\n" H "Content-Length: 1001\r\n\r\n", " 413 "),
        CASE("GET / HTTP/1.1\r\n" H "A: 1\r\nA: 1\r\nA: 1\r\nA: 1\r\nA: 1\r\nA: 1\r\nA: 1\r\n"
             "A: 1\r\nA: 1\r\nA: 1\r\nA: 1\r\nA: 1\r\nA: 1\r\nA: 1\r\nA: 1\r\nA: 1\r\nA: 1\r\n"
             "A: 1\r\nA: 1\r\nA: 1\r\nA: 1\r\n\r\n",
             " 431 "),
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        const char *answer = talk(*state, cases[i].request, cases[i].size);
        if (!strstr(answer, cases[i].status) || count_answers(answer) != 1)
            fail_msg("case %zu: %s", i, answer);
    }
}

static void test_large_bodies(void **state)
{
    char request[4096];
    char body[1400];
    memset(body, 'x', sizeof(body));
    (void)snprintf(request, sizeof(request),
                   "POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n578\r\n%.1400s\r\n"
                   "0\r\n\r\n",
                   body);
    const char *answer = talk(*state, request, strlen(request));
    assert_non_null(strstr(answer, " 413 "));
    assert_int_equal(count_answers(answer), 1);
    (void)snprintf(request, sizeof(request),
                   "POST / HTTP/1.1\r\n" H "Content-Length: 1000\r\n\r\n%.1000s", body);
    for (int i = 0; i < 5; i++) /* what is held is given back */
        assert_non_null(strstr(talk(*state, request, strlen(request)), " 200 "));
}

static void test_broken_stream(void **state)
{
    static const char request[] = "GET /broken HTTP/1.1\r\n" H "\r\n";
    const char *answer = talk(*state, request, sizeof(request) - 1);
    assert_null(strstr(answer, "\r\n0\r\n\r\n"));
}

/* ---- bodies by pieces, answers of a known length ---- */

static void fill(char *body, size_t size)
{
    for (size_t i = 0; i < size; i++)
        body[i] = (char)('a' + i % 26);
}

static void test_a_body_by_pieces(void **state)
{
    static char request[2 * LARGE];
    char wanted[64];
    static const size_t sizes[] = {0, 1, BODY_MAX + 1, LARGE};
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        int head = snprintf(request, sizeof(request),
                            "PUT /take HTTP/1.1\r\n" H "Content-Length: %zu\r\n\r\n", sizes[i]);
        fill(request + head, sizes[i]);
        const char *answer = talk(*state, request, (size_t)head + sizes[i]);
        (void)snprintf(wanted, sizeof(wanted), "<%zu bytes, good, held 0>", sizes[i]);
        if (!strstr(answer, wanted) || count_answers(answer) != 1)
            fail_msg("%zu: %s", sizes[i], answer);
        assert_int_equal(taken.freed, 1);
    }
    static const char chunked[] = "PUT /take HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n"
                                  "3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    assert_non_null(strstr(talk(*state, chunked, sizeof(chunked) - 1), "<5 bytes, good, held 0>"));
}

/* The answer comes in the middle of the body, once, and nothing else is read of it. */
static void test_a_piece_that_is_refused(void **state)
{
    static char request[3 * LARGE];
    int head = snprintf(request, sizeof(request),
                        "PUT /take HTTP/1.1\r\n" H "Content-Length: %u\r\n\r\n", 2 * LARGE);
    fill(request + head, 2 * (size_t)LARGE);
    const char *answer = talk(*state, request, (size_t)head + 2 * (size_t)LARGE);
    assert_non_null(strstr(answer, " 400 "));
    assert_non_null(strstr(answer, "that is enough"));
    assert_int_equal(count_answers(answer), 1);
    assert_int_equal(taken.freed, 1);
    assert_in_range(taken.bytes, LARGE + 1, LARGE + 128 * 1024);
}

static void test_a_body_that_breaks_off(void **state)
{
    static const char request[] = "PUT /take HTTP/1.1\r\n" H "Content-Length: 10\r\n\r\nabc";
    assert_string_equal(talk(*state, request, sizeof(request) - 1), "");
    assert_int_equal(taken.bytes, 3);
    assert_int_equal(taken.freed, 1);
}

/* on_stream() gives six bytes: a length that fits, one that promised more, one that did less. */
static void test_sized_streams(void **state)
{
    static const char fits[] = "GET /sized/6 HTTP/1.1\r\n" H "\r\n";
    static const char head[] = "HEAD /sized/6 HTTP/1.1\r\n" H "\r\n";
    static const char more[] = "GET /sized/7 HTTP/1.1\r\n" H "\r\n";
    static const char less[] = "GET /sized/4 HTTP/1.1\r\n" H "\r\n";
    const char *answer = talk(*state, fits, sizeof(fits) - 1);
    assert_non_null(strstr(answer, "Content-Length: 6\r\n"));
    assert_null(strstr(answer, "chunked"));
    assert_non_null(strstr(answer, "\r\n\r\nonetwo"));
    answer = talk(*state, head, sizeof(head) - 1);
    assert_non_null(strstr(answer, "Content-Length: 6\r\n"));
    assert_null(strstr(answer, "one"));
    answer = talk(*state, more, sizeof(more) - 1); /* broken off: seven do not come */
    assert_non_null(strstr(answer, "Content-Length: 7\r\n"));
    assert_non_null(strstr(answer, "\r\n\r\nonetwo"));
    answer = talk(*state, less, sizeof(less) - 1);
    assert_null(strstr(answer, "two"));
}

static void test_response_headers(void **state)
{
    struct err err = ERR_INIT;
    struct http_response response = {0};
    (void)state;
    assert_fails(http_response_header(&response, "X", "a\r\nSet-Cookie: b", &err), ERR_INTERNAL,
                 err);
    assert_ok(http_response_header(&response, "X", "a", &err), err);
    assert_string_equal(buf_cstr(&response.headers), "X: a\r\n");
    buf_done(&response.headers);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answers),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_large_bodies),
        cmocka_unit_test(test_broken_stream),
        cmocka_unit_test(test_response_headers),
        cmocka_unit_test(test_a_body_by_pieces),
        cmocka_unit_test(test_a_piece_that_is_refused),
        cmocka_unit_test(test_a_body_that_breaks_off),
        cmocka_unit_test(test_sized_streams),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
