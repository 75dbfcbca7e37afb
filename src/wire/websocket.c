/* Owns wslay, which knows frames, and the handshake, which it leaves to us. Refuses a handshake of
 * another host's page. */
#include "wire/websocket.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <wslay/wslay.h>

#include "base/encoding.h"
#include "wire/http.h"

#define READ_BUDGET (64U * 1024U) /* of one websocket_read() */
#define KEY_SIZE 24               /* sixteen bytes in base64 */

enum { SHA1_SIZE = 20, SHA1_BLOCK = 64 };

struct websocket {
    int fd;
    wslay_event_context_ptr wslay;
    const uint8_t *early;
    size_t early_size;
    size_t budget;
    bool ended; /* the peer reads or writes no more */
    /* of the websocket_read() that goes on */
    websocket_message_fn message;
    void *context;
    struct err refusal;
};

/* ---- handshake ---- */

static uint32_t rotate(uint32_t value, unsigned bits)
{
    return value << bits | value >> (32 - bits);
}

/* FIPS 180-4 section 6.1.2. It proves nothing here: the RFC wants to see that both sides mean it.
 */
static void sha1_block(uint32_t state[static 5], const uint8_t block[static SHA1_BLOCK])
{
    uint32_t w[80];
    uint32_t a = state[0];
    uint32_t b = state[1];
    uint32_t c = state[2];
    uint32_t d = state[3];
    uint32_t e = state[4];
    for (size_t i = 0; i < 16; i++)
        w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 |
               (uint32_t)block[4 * i + 2] << 8 | block[4 * i + 3];
    for (size_t i = 16; i < 80; i++)
        w[i] = rotate(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
    for (size_t i = 0; i < 80; i++) {
        static const uint32_t constants[] = {0x5a827999, 0x6ed9eba1, 0x8f1bbcdc, 0xca62c1d6};
        uint32_t mix = b ^ c ^ d;
        if (i < 20)
            mix = (b & c) ^ (~b & d);
        else if (i >= 40 && i < 60)
            mix = (b & c) ^ (b & d) ^ (c & d);
        uint32_t next = rotate(a, 5) + mix + e + constants[i / 20] + w[i];
        e = d;
        d = c;
        c = rotate(b, 30);
        b = a;
        a = next;
    }
    state[0] += a;
    state[1] += b;
    state[2] += c;
    state[3] += d;
    state[4] += e;
}

/* Of a text that fills less than two blocks with its padding. */
static void sha1(const char *text, size_t size, uint8_t out[static SHA1_SIZE])
{
    uint32_t state[5] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};
    uint8_t blocks[2 * SHA1_BLOCK] = {0};
    size_t used = size + 9 <= SHA1_BLOCK ? SHA1_BLOCK : sizeof(blocks);
    memcpy(blocks, text, size);
    blocks[size] = 0x80;
    blocks[used - 2] = (uint8_t)(size * 8 >> 8);
    blocks[used - 1] = (uint8_t)(size * 8);
    for (size_t at = 0; at < used; at += SHA1_BLOCK)
        sha1_block(state, blocks + at);
    for (size_t i = 0; i < SHA1_SIZE; i++)
        out[i] = (uint8_t)(state[i / 4] >> (24 - i % 4 * 8));
}

void websocket_accept_key(const char *key, char out[static WEBSOCKET_ACCEPT_SIZE])
{
    static const char guid[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    char text[KEY_SIZE + sizeof(guid)];
    uint8_t hash[SHA1_SIZE];
    size_t size = strnlen(key, KEY_SIZE);
    memcpy(text, key, size);
    memcpy(text + size, guid, sizeof(guid) - 1);
    sha1(text, size + sizeof(guid) - 1, hash);
    base64_write(hash, sizeof(hash), BASE64_STANDARD, out);
}

/* Whether a field, a list of words between commas, has this one. */
static bool has_word(const char *field, const char *word)
{
    size_t size = strlen(word);
    while (field && *field) {
        field += strspn(field, ", \t");
        size_t found = strcspn(field, ", \t");
        if (found == size && strncasecmp(field, word, size) == 0)
            return true;
        field += found;
    }
    return false;
}

/* A program sends no Origin; a page sends its own, which has to be ours: scheme, "://", and what
 * the Host field says, which was checked before. */
static bool is_own_page(const struct http_request *request)
{
    const char *origin = http_request_header(request, "Origin");
    const char *host = http_request_header(request, "Host");
    if (!origin)
        return true;
    const char *authority = strstr(origin, "://");
    bool is_web = strncasecmp(origin, "http://", 7) == 0 || strncasecmp(origin, "https://", 8) == 0;
    return host && authority && is_web && strcasecmp(authority + 3, host) == 0;
}

int websocket_accept(const struct http_request *request, struct http_response *response,
                     struct err *err)
{
    const char *key = http_request_header(request, "Sec-WebSocket-Key");
    const char *version = http_request_header(request, "Sec-WebSocket-Version");
    char accept[WEBSOCKET_ACCEPT_SIZE];
    if (!is_own_page(request))
        return err_public(err, ERR_FORBIDDEN, "Origin: a page of another host may not open this");
    if (strcmp(http_request_method(request), "GET") != 0 ||
        !has_word(http_request_header(request, "Upgrade"), "websocket") ||
        !has_word(http_request_header(request, "Connection"), "upgrade"))
        return err_public(err, ERR_BAD_INPUT,
                          "Upgrade: this path is a WebSocket (RFC 6455); ask for it by GET");
    if (!version || strcmp(version, "13") != 0) {
        (void)http_response_header(response, "Sec-WebSocket-Version", "13", NULL);
        return err_public(err, ERR_BAD_INPUT,
                          "Sec-WebSocket-Version: 13 is the one that is spoken");
    }
    if (!key || strlen(key) != KEY_SIZE)
        return err_public(err, ERR_BAD_INPUT, "Sec-WebSocket-Key: sixteen bytes in base64");
    websocket_accept_key(key, accept);
    int result = http_response_header(response, "Upgrade", "websocket", err);
    return result == 0 ? http_response_header(response, "Sec-WebSocket-Accept", accept, err)
                       : result;
}

/* ---- frames ---- */

/* Neither waits; what a callback returns for "not now" is said beside it. */
static ssize_t say_failure(struct websocket *socket)
{
    bool later = errno == EAGAIN || errno == EINTR;
    wslay_event_set_error(socket->wslay, later ? WSLAY_ERR_WOULDBLOCK : WSLAY_ERR_CALLBACK_FAILURE);
    socket->ended = socket->ended || !later;
    return -1;
}

static ssize_t on_recv(wslay_event_context_ptr wslay, uint8_t *data, size_t size, int flags,
                       void *context)
{
    struct websocket *socket = context;
    (void)wslay;
    (void)flags;
    if (socket->early_size > 0) {
        size = size < socket->early_size ? size : socket->early_size;
        memcpy(data, socket->early, size);
        socket->early += size;
        socket->early_size -= size;
        return (ssize_t)size;
    }
    errno = EAGAIN;
    if (socket->budget == 0)
        return say_failure(socket);
    size = size < socket->budget ? size : socket->budget;
    ssize_t got = recv(socket->fd, data, size, MSG_DONTWAIT);
    if (got > 0)
        socket->budget -= (size_t)got;
    if (got > 0)
        return got;
    errno = got == 0 ? ECONNRESET : errno;
    return say_failure(socket);
}

static ssize_t on_send(wslay_event_context_ptr wslay, const uint8_t *data, size_t size, int flags,
                       void *context)
{
    struct websocket *socket = context;
    int more = (flags & WSLAY_MSG_MORE) != 0 ? MSG_MORE : 0;
    (void)wslay;
    ssize_t sent = send(socket->fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL | more);
    return sent >= 0 ? sent : say_failure(socket);
}

static void on_message(wslay_event_context_ptr wslay, const struct wslay_event_on_msg_recv_arg *arg,
                       void *context)
{
    struct websocket *socket = context;
    bool is_text = arg->opcode == WSLAY_TEXT_FRAME;
    if ((!is_text && arg->opcode != WSLAY_BINARY_FRAME) || socket->refusal.kind != ERR_NONE)
        return;
    if (socket->message(socket->context, is_text, arg->msg, arg->msg_length, &socket->refusal) >= 0)
        return;
    wslay_event_shutdown_read(wslay);
    websocket_send_close(socket, WSLAY_CODE_INVALID_FRAME_PAYLOAD_DATA,
                         socket->refusal.public_message);
}

int websocket_new(int socket_fd, const uint8_t *early, size_t early_size, size_t message_max,
                  struct websocket **out, struct err *err)
{
    const struct wslay_event_callbacks callbacks = {
        .recv_callback = on_recv, .send_callback = on_send, .on_msg_recv_callback = on_message};
    struct websocket *socket = calloc(1, sizeof(*socket));
    if (!socket || wslay_event_context_server_init(&socket->wslay, &callbacks, socket) != 0) {
        free(socket);
        return err_set(err, ERR_INTERNAL, "no memory for a WebSocket");
    }
    wslay_event_config_set_max_recv_msg_length(socket->wslay, message_max);
    socket->fd = socket_fd;
    socket->early = early;
    socket->early_size = early_size;
    *out = socket;
    return 0;
}

void websocket_free(struct websocket *socket)
{
    if (!socket)
        return;
    wslay_event_context_free(socket->wslay);
    free(socket);
}

int websocket_read(struct websocket *socket, websocket_message_fn message, void *context,
                   struct err *err)
{
    socket->budget = READ_BUDGET;
    socket->message = message;
    socket->context = context;
    bool broken = wslay_event_recv(socket->wslay) != 0;
    if (socket->refusal.kind != ERR_NONE)
        return err_set(err, ERR_CLOSED, "a message was refused: %s", socket->refusal.message);
    if (broken || socket->ended || wslay_event_want_read(socket->wslay) == 0)
        return err_set(err, ERR_CLOSED, "the WebSocket was closed");
    return 0;
}

int websocket_send(struct websocket *socket, const void *data, size_t size, struct err *err)
{
    const struct wslay_event_msg message = {
        .opcode = WSLAY_BINARY_FRAME, .msg = data, .msg_length = size};
    if (wslay_event_queue_msg(socket->wslay, &message) != 0)
        return err_set(err, ERR_CLOSED, "the WebSocket takes no more");
    return 0;
}

void websocket_send_close(struct websocket *socket, unsigned status, const char *reason)
{
    (void)wslay_event_queue_close(socket->wslay, (uint16_t)status, (const uint8_t *)reason,
                                  strnlen(reason, 120));
}

int websocket_flush(struct websocket *socket, struct err *err)
{
    if (wslay_event_send(socket->wslay) != 0 || socket->ended)
        return err_set(err, ERR_CLOSED, "the WebSocket takes no more");
    return 0;
}

bool websocket_wants_write(const struct websocket *socket)
{
    return !socket->ended && wslay_event_want_write(socket->wslay) != 0;
}
