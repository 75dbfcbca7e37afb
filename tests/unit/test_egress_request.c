/* egress/request and egress/body: what of a request goes on, and where it ends. */
#include "check.h"

#include <string.h>

#include "egress/request.h"

static int parse(const char *text, struct request *request, struct buf *out, struct err *err)
{
    buf_init(out, 64U * 1024U);
    size_t size = strlen(text);
    assert_int_equal(request_head_size((const uint8_t *)text, size), size);
    return request_parse((const uint8_t *)text, size, request, out, err);
}

static void assert_head(const char *text, const char *head)
{
    struct request request;
    struct err err = ERR_INIT;
    BUF_AUTO struct buf out;
    assert_ok(parse(text, &request, &out, &err), err);
    assert_string_equal(buf_cstr(&out), head);
}

static void test_what_goes_on(void **state)
{
    (void)state;
    assert_head("GET http://A.org/x?y=z HTTP/1.1\r\nHost: evil\r\nA: b\r\n\r\n",
                "GET /x?y=z HTTP/1.1\r\nHost: a.org\r\nA: b\r\nConnection: close\r\n\r\n");
    assert_head("GET HTTP://a.org HTTP/1.0\r\n\r\n",
                "GET / HTTP/1.0\r\nHost: a.org\r\nConnection: close\r\n\r\n");
    assert_head("GET http://a.org:8080?q HTTP/1.1\r\n\r\n",
                "GET /?q HTTP/1.1\r\nHost: a.org:8080\r\nConnection: close\r\n\r\n");
    assert_head("GET http://[::2]:80/ HTTP/1.1\r\n\r\n",
                "GET / HTTP/1.1\r\nHost: [::2]\r\nConnection: close\r\n\r\n");
    assert_head(
        "GET http://a.org/ HTTP/1.1\r\nConnection: x-a , X-B\r\nX-a: 1\r\nx-b: 2\r\nx-c:\t3 \r\n"
        "Proxy-Connection: x-d\r\nX-D: 4\r\nTE: x\r\nTrailer: x\r\nUpgrade: x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.org\r\nx-c: 3\r\nConnection: close\r\n\r\n");
    assert_head("POST http://a.org/ HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n",
                "POST / HTTP/1.1\r\nHost: a.org\r\nTransfer-Encoding: Chunked\r\n"
                "Connection: close\r\n\r\n");
    assert_head("CONNECT a.org:443 HTTP/1.1\r\nHost: a.org:443\r\n\r\n", "");
}

static void test_targets(void **state)
{
    (void)state;
    struct request request;
    struct err err = ERR_INIT;
    BUF_AUTO struct buf first, second;
    assert_ok(parse("CONNECT A.org.:22 HTTP/1.1\r\n\r\n", &request, &first, &err), err);
    assert_true(request.connect);
    assert_string_equal(request.host.text, "a.org");
    assert_int_equal(request.port, 22);
    assert_ok(parse("PUT http://a.org:81/ HTTP/1.1\r\nContent-Length: 12\r\n\r\n", &request,
                    &second, &err),
              err);
    assert_false(request.connect);
    assert_int_equal(request.port, 81);
    assert_int_equal(request.body, BODY_LENGTH);
    assert_int_equal(request.length, 12);
    assert_string_equal(request.method, "PUT");
}

static void test_what_is_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "GET / HTTP/1.1\r\n\r\n",
        "GET a.org HTTP/1.1\r\n\r\n",
        "GET ftp://a.org/ HTTP/1.1\r\n\r\n",
        "GET https://a.org/ HTTP/1.1\r\n\r\n",
        "GET http:// HTTP/1.1\r\n\r\n",
        "GET http:///x HTTP/1.1\r\n\r\n",
        "GET http://a@b.org/ HTTP/1.1\r\n\r\n",
        "GET http://a.org\\@b.org/ HTTP/1.1\r\n\r\n",
        "GET http://a.org#b/ HTTP/1.1\r\n\r\n",
        "GET http://a.org/#b HTTP/1.1\r\n\r\n",
        "GET http://a.org/ HTTP/1.2\r\n\r\n",
        "GET http://a.org/ HTTP/1.1 \r\n\r\n",
        "GET http://a.org/ x HTTP/1.1\r\n\r\n",
        "GET\thttp://a.org/ HTTP/1.1\r\n\r\n",
        "G(T http://a.org/ HTTP/1.1\r\n\r\n",
        "GET http://a.org/\x80 HTTP/1.1\r\n\r\n",
        "GET http://a.org/ HTTP/1.1\r\nno colon\r\n\r\n",
        "GET http://a.org/ HTTP/1.1\r\n: x\r\n\r\n",
        "GET http://a.org/ HTTP/1.1\r\nA : x\r\n\r\n",
        "GET http://a.org/ HTTP/1.1\r\nA: x\r\n\ty\r\n\r\n",
        "GET http://a.org/ HTTP/1.1\r\nA: x\nB: y\r\n\r\n",
        "GET http://a.org/ HTTP/1.1\r\nA: \x01\r\n\r\n",
        "GET http://a.org/ HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n",
        "GET http://a.org/ HTTP/1.1\r\nConnection: host\r\n\r\n",
        "GET http://a.org/ HTTP/1.1\r\nConnection: a b\r\n\r\n",
        "GET http://a.org/ HTTP/1.1\r\nContent-Length: \r\n\r\n",
        "GET http://a.org/ HTTP/1.1\r\nContent-Length: 0x1\r\n\r\n",
        "GET http://a.org/ HTTP/1.1\r\nContent-Length: 1234567890123456789\r\n\r\n",
        "CONNECT a.org HTTP/1.1\r\n\r\n",
        "CONNECT http://a.org:80/ HTTP/1.1\r\n\r\n",
        "CONNECT a.org:443 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
    };
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct request request;
        struct err err = ERR_INIT;
        BUF_AUTO struct buf out;
        if (parse(bad[i], &request, &out, &err) == 0)
            fail_msg("taken: %s", bad[i]);
        assert_int_equal(err.kind, ERR_BAD_INPUT);
        assert_true(err.public_message[0] != '\0');
        assert_int_equal(out.size, 0);
    }
}

static ssize_t take_all(enum body_kind kind, uint64_t length, const char *text, bool *over)
{
    struct body whole, by_byte;
    size_t size = strlen(text);
    body_init(&whole, kind, length);
    body_init(&by_byte, kind, length);
    ssize_t used = body_take(&whole, (const uint8_t *)text, size);
    ssize_t single = 0;
    for (size_t i = 0; i < size && single >= 0 && !by_byte.over; i++) {
        ssize_t one = body_take(&by_byte, (const uint8_t *)text + i, 1);
        single = one < 0 ? -1 : single + one;
    }
    assert_int_equal(used, single); /* however it comes */
    *over = whole.over;
    return used;
}

static void test_bodies(void **state)
{
    (void)state;
    static const struct {
        enum body_kind kind;
        uint64_t length;
        const char *text;
        ssize_t used;
        bool over;
    } cases[] = {
        {BODY_NONE, 0, "GET", 0, true},
        {BODY_LENGTH, 0, "GET", 0, true},
        {BODY_LENGTH, 3, "abcGET", 3, true},
        {BODY_LENGTH, 3, "ab", 2, false},
        {BODY_CHUNKED, 0, "3\r\nabc\r\n0\r\n\r\nGET", 13, true},
        {BODY_CHUNKED, 0, "0000a\r\n0123456789\r\n00\r\n\r\n", 25, true},
        {BODY_CHUNKED, 0, "3\r\nab", 5, false},
        {BODY_CHUNKED, 0, "3\nabc", -1, false},
        {BODY_CHUNKED, 0, "3 \r\nabc", -1, false},
        {BODY_CHUNKED, 0, "3;a\r\nabc", -1, false},
        {BODY_CHUNKED, 0, "\r\n", -1, false},
        {BODY_CHUNKED, 0, "3\r\nabcd", -1, false},
        {BODY_CHUNKED, 0, "0\r\nA: b\r\n\r\n", -1, false},
        {BODY_CHUNKED, 0, "1234567890123456\r\n", -1, false},
        {BODY_CHUNKED, 0, "g\r\n", -1, false},
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        bool over = false;
        ssize_t used = take_all(cases[i].kind, cases[i].length, cases[i].text, &over);
        if (used != cases[i].used || (used >= 0 && over != cases[i].over))
            fail_msg("case %zu: %zd, %d", i, used, over);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_goes_on),
        cmocka_unit_test(test_targets),
        cmocka_unit_test(test_what_is_refused),
        cmocka_unit_test(test_bodies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
