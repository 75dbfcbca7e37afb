/* wire/http_head: targets and queries by hand; whole heads through a real libmicrohttpd, as bytes
 * on a socket. */
#include "check.h"

#include <microhttpd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "wire/http.h"
#include "wire/http_head.h"

static void target(const char *text, const char *wanted_path, const char *wanted_query)
{
    char *path = NULL;
    char *query = NULL;
    struct err err = ERR_INIT;
    assert_ok(http_head_target(text, &path, &query, &err), err);
    assert_string_equal(path, wanted_path);
    if (wanted_query)
        assert_string_equal(query, wanted_query);
    else
        assert_null(query);
    free(path);
    free(query);
}

static void test_targets(void **state)
{
    (void)state;
    target("/", "/", NULL);
    target("/a/b", "/a/b", NULL);
    target("/a/b/", "/a/b", NULL);
    target("/a%20b%2Fc?x=%20", "/a b/c", "x=%20");
    target("/a+b", "/a+b", NULL);
    target("/a?", "/a", "");
    target("/a#part", "/a", NULL);
    target("http://host:80/a?b", "/a", "b");
    target("HTTPS://host", "/", NULL);
    target("/%C3%A4", "/\303\244", NULL);
}

static void test_bad_targets(void **state)
{
    (void)state;
    static const char *const targets[] = {
        "",      "*",    "a",     "/%",       "/%2",          "/%zz",        "/%00", "/a\tb",
        "/a\nb", "/a b", "/\177", "ftp://h/", "http://h\rx/", "http://h x/", "/a#\r"};
    for (size_t i = 0; i < ARRAY_SIZE(targets); i++) {
        char *path = NULL;
        char *query = NULL;
        struct err err = ERR_INIT;
        assert_fails(http_head_target(targets[i], &path, &query, &err), ERR_BAD_INPUT, err);
        assert_true(err.public_message[0] != '\0');
        assert_null(path);
        assert_null(query);
    }
}

static void query(const char *text, const char *const *wanted)
{
    char **out = NULL;
    struct err err = ERR_INIT;
    assert_ok(http_head_query(text, &out, &err), err);
    size_t i = 0;
    for (; wanted[i]; i++)
        assert_string_equal(out[i], wanted[i]);
    assert_null(out[i]);
    http_head_free_query(out);
}
#define QUERY(text, ...) query(text, (const char *const[]){__VA_ARGS__, NULL})

static void test_queries(void **state)
{
    (void)state;
    query(NULL, (const char *const[]){NULL});
    query("", (const char *const[]){NULL});
    QUERY("a=1&b=2", "a", "1", "b", "2");
    QUERY("a=1&a=2", "a", "1", "a", "2");
    QUERY("a", "a", "");
    QUERY("a=b=c", "a", "b=c");
    QUERY("a+b=%2B+c", "a b", "+ c");
    QUERY("a=1#frag", "a", "1");
    char **out = NULL;
    struct err err = ERR_INIT;
    assert_fails(http_head_query("a=%0", &out, &err), ERR_BAD_INPUT, err);
    assert_fails(http_head_query("a=%00", &out, &err), ERR_BAD_INPUT, err);
    assert_null(out);
    http_head_free_query(NULL);
    char many[1024];
    size_t used = 0;
    for (int i = 0; i < HTTP_QUERY_MAX; i++)
        used += (size_t)snprintf(many + used, sizeof(many) - used, "%sa=%d", i ? "&" : "", i);
    assert_ok(http_head_query(many, &out, &err), err);
    assert_string_equal(out[2 * HTTP_QUERY_MAX - 1], "63");
    http_head_free_query(out);
    (void)snprintf(many + used, sizeof(many) - used, "&b");
    assert_fails(http_head_query(many, &out, &err), ERR_BAD_INPUT, err);
}

/* ---- whole heads ---- */

static const struct http_config config = {.head_max = 4096, .header_count_max = 8};

static struct {
    const char *target;
    size_t target_size; /* as it came: libmicrohttpd cuts it at the query later */
    bool asked;
    int result;
    struct http_head head;
    struct err err;
} now;

static void *on_target(void *context, const char *text, struct MHD_Connection *connection)
{
    (void)context;
    (void)connection;
    now.target = text;
    now.target_size = strlen(text);
    return NULL;
}

static enum MHD_Result on_request(void *context, struct MHD_Connection *connection, const char *url,
                                  const char *method, const char *version, const char *data,
                                  size_t *size, void **request)
{
    (void)context;
    (void)url;
    (void)data;
    (void)size;
    (void)request;
    if (!now.asked)
        now.result = http_head_check(connection, &config, method, now.target, now.target_size,
                                     version, &now.head, &now.err);
    now.asked = true;
    return MHD_NO;
}

/* Returns what the check said; libmicrohttpd's own refusal counts as ERR_BAD_INPUT. */
static int check_head(const char *bytes, size_t size)
{
    int pair[2];
    memset(&now, 0, sizeof(now));
    struct MHD_Daemon *daemon =
        MHD_start_daemon(MHD_USE_NO_LISTEN_SOCKET, 0, NULL, NULL, on_request, NULL,
                         MHD_OPTION_URI_LOG_CALLBACK, on_target, NULL, MHD_OPTION_END);
    assert_non_null(daemon);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
    assert_int_equal(send(pair[1], bytes, size, MSG_NOSIGNAL), size);
    assert_int_equal(MHD_add_connection(daemon, pair[0], NULL, 0), MHD_YES);
    for (int turn = 0; turn < 8; turn++)
        (void)MHD_run(daemon);
    (void)close(pair[1]);
    MHD_stop_daemon(daemon);
    return now.asked ? now.result : -ERR_BAD_INPUT;
}

#define HEAD(text) check_head(text, sizeof(text) - 1)

static void test_good_heads(void **state)
{
    (void)state;
    assert_int_equal(HEAD("GET / HTTP/1.1\r\nHost: a\r\n\r\n"), 0);
    assert_false(now.head.chunked || now.head.has_length);
    assert_int_equal(HEAD("POST /x?y=z HTTP/1.1\r\nHost: a\r\nContent-Length: 17\r\n\r\n"), 0);
    assert_true(now.head.has_length && !now.head.chunked);
    assert_int_equal(now.head.length, 17);
    assert_int_equal(HEAD("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: CHUNKED\r\n\r\n"), 0);
    assert_true(now.head.chunked && !now.head.has_length);
    assert_int_equal(HEAD("GET / HTTP/1.0\r\n\r\n"), 0);
    assert_int_equal(HEAD("GET / HTTP/1.1\r\nhOsT:a\r\nX:\t y \r\nEmpty:\r\n\r\n"), 0);
}

static void test_bad_heads(void **state)
{
    (void)state;
#define BAD(text) assert_int_equal(HEAD(text), -ERR_BAD_INPUT)
    BAD("GET / HTTP/1.1\r\n\r\n");
    BAD("GET / HTTP/1.1\r\nAccept: x\r\n\r\n");
    BAD("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n");
    BAD("GET / HTTP/2.0\r\nHost: a\r\n\r\n");
    BAD("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n");
    BAD("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n");
    BAD("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n");
    BAD("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n");
    BAD("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n");
    BAD("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n");
    BAD("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1\r\n\r\n");
    BAD("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n");
    BAD("GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n");
    BAD("GET / HTTP/1.1\nHost: a\n\n");
    BAD("GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n");
    BAD("GET / HTTP/1.1\r\nHost: a\r\nX: y\0z\r\n\r\n");
    BAD("GET /a\0b HTTP/1.1\r\nHost: a\r\n\r\n");
    BAD("GET / HTTP/1.1\r\nHost: a\r\nX: \001\r\n\r\n");
    BAD("GET / HTTP/1.1\r\nHost : a\r\n\r\n");
    BAD("GET / HTTP/1.1\r\nHost: a\r\nX(): y\r\n\r\n");
    BAD("GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n");
    BAD("GE\rT / HTTP/1.1\r\nHost: a\r\n\r\n");
    BAD("GET  / HTTP/1.1\r\nHost: a\r\n\r\n");
#undef BAD
}

/* libmicrohttpd ends the head at such a line, and what follows would be the next request. */
static void test_fields_without_a_name(void **state)
{
    (void)state;
    static const char rest[] = "Content-Length: 5\r\n\r\nhello";
    static const char *const lines[] = {":\r\n", ": \r\n", ": x\r\n", ":\r\n:\r\n"};
    static const char *const begins[] = {"POST / HTTP/1.1\r\nHost: a\r\n", "POST / HTTP/1.0\r\n"};
    for (size_t i = 0; i < ARRAY_SIZE(lines) * ARRAY_SIZE(begins); i++) {
        char head[128];
        int size = snprintf(head, sizeof(head), "%s%s%s", begins[i % ARRAY_SIZE(begins)],
                            lines[i / ARRAY_SIZE(begins)], rest);
        if (check_head(head, (size_t)size) != -ERR_BAD_INPUT)
            fail_msg("taken: %s", head);
    }
}

static void test_many_and_long_fields(void **state)
{
    (void)state;
    char head[8192];
    for (int fields = 7; fields <= 8; fields++) {
        size_t used = (size_t)snprintf(head, sizeof(head), "GET / HTTP/1.1\r\nHost: a\r\n");
        for (int i = 0; i < fields; i++)
            used += (size_t)snprintf(head + used, sizeof(head) - used, "X%d: y\r\n", i);
        used += (size_t)snprintf(head + used, sizeof(head) - used, "\r\n");
        assert_int_equal(check_head(head, used), fields == 7 ? 0 : -ERR_HEADERS);
    }
    char value[4200];
    memset(value, 'v', sizeof(value) - 1);
    value[sizeof(value) - 1] = '\0';
    int size = snprintf(head, sizeof(head), "GET / HTTP/1.1\r\nHost: a\r\nX: %s\r\n\r\n", value);
    assert_int_equal(check_head(head, (size_t)size), -ERR_HEADERS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_targets),
        cmocka_unit_test(test_bad_targets),
        cmocka_unit_test(test_queries),
        cmocka_unit_test(test_good_heads),
        cmocka_unit_test(test_bad_heads),
        cmocka_unit_test(test_fields_without_a_name),
        cmocka_unit_test(test_many_and_long_fields),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
