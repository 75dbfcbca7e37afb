/* wire/websocket: the answer to a key, and messages over a socket pair. The suites have the rest.
 */
#include "check.h"

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/fd.h"
#include "wire/websocket.h"

static void test_accept_key(void **state)
{
    char accept[WEBSOCKET_ACCEPT_SIZE];
    (void)state;
    websocket_accept_key("dGhlIHNhbXBsZSBub25jZQ==", accept); /* RFC 6455 section 1.3 */
    assert_string_equal(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    websocket_accept_key("x3JJHMbDL1EzLkh9GBhXDw==",
                         accept); /* a padding of two blocks either way */
    assert_string_equal(accept, "HSmrc0sMlYUkAGmm5OPpG2HaGWk=");
}

static int take_one(void *context, bool is_text, const uint8_t *data, size_t size, struct err *err)
{
    struct buf *seen = context;
    if (size == 3 && memcmp(data, "bad", 3) == 0)
        return err_public(err, ERR_BAD_INPUT, "not this");
    return buf_printf(seen, err, "%c%.*s;", is_text ? 't' : 'b', (int)size, (const char *)data);
}

/* Frames masked with zeros read as they are. */
#define MASKED(opcode, size, text) opcode size "\0\0\0\0" text

static void test_messages(void **state)
{
    static const char early[] = MASKED("\x82", "\x85", "early");
    static const char later[] = MASKED("\x81", "\x82", "hi") MASKED("\x02", "\x81", "a")
        MASKED("\x80", "\x81", "b") MASKED("\x89", "\x81", "p");
    struct websocket *socket = NULL;
    struct err err = ERR_INIT;
    int pair[2];
    char raw[64];
    BUF_AUTO struct buf seen;
    (void)state;
    buf_init(&seen, 1000);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    assert_ok(websocket_new(pair[0], (const uint8_t *)early, sizeof(early) - 1, 100, &socket, &err),
              err);
    assert_ok(fd_write_all(pair[1], later, sizeof(later) - 1, &err), err);
    assert_ok(websocket_read(socket, take_one, &seen, &err), err);
    assert_string_equal(buf_cstr(&seen), "bearly;thi;bab;");
    assert_true(websocket_wants_write(socket)); /* the pong */
    assert_ok(websocket_send(socket, "out", 3, &err), err);
    assert_ok(websocket_flush(socket, &err), err);
    assert_false(websocket_wants_write(socket));
    assert_int_equal(read(pair[1], raw, sizeof(raw)), 8);
    assert_memory_equal(raw, "\x8a\x01p\x82\x03out", 8);
    static const char bad[] = MASKED("\x81", "\x83", "bad") MASKED("\x81", "\x82", "no");
    assert_ok(fd_write_all(pair[1], bad, sizeof(bad) - 1, &err), err);
    assert_fails(websocket_read(socket, take_one, &seen, &err), ERR_CLOSED, err);
    assert_string_equal(buf_cstr(&seen), "bearly;thi;bab;");
    (void)websocket_flush(socket, NULL);
    assert_int_equal(read(pair[1], raw, sizeof(raw)), 12);
    assert_memory_equal(raw, "\x88\x0a\x03\xefnot this", 12); /* 1007 */
    websocket_free(socket);
    (void)close(pair[0]);
    (void)close(pair[1]);
}

static void test_a_peer_that_leaves(void **state)
{
    struct websocket *socket = NULL;
    struct err err = ERR_INIT;
    int pair[2];
    BUF_AUTO struct buf seen;
    (void)state;
    buf_init(&seen, 1000);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    assert_ok(websocket_new(pair[0], NULL, 0, 100, &socket, &err), err);
    assert_ok(websocket_read(socket, take_one, &seen, &err), err); /* nothing is there: no wait */
    (void)close(pair[1]);
    assert_fails(websocket_read(socket, take_one, &seen, &err), ERR_CLOSED, err);
    assert_int_not_equal(websocket_flush(socket, &err), 0);
    websocket_free(socket);
    (void)close(pair[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_accept_key),
                                       cmocka_unit_test(test_messages),
                                       cmocka_unit_test(test_a_peer_that_leaves)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
