/* WebSocket (RFC 6455), the server's side of one connection that was upgraded: handshake, messages
 * in, bytes out. Nothing blocks; who uses it waits for the socket.
 *
 * What a client sends is untrusted: a message has a maximum, text is UTF-8, frames are masked; what
 * breaks a rule ends the connection with the status that the RFC names. Pings are answered. */
#ifndef BERTH_WIRE_WEBSOCKET_H
#define BERTH_WIRE_WEBSOCKET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct http_request;
struct http_response;
struct websocket;

#define WEBSOCKET_ACCEPT_SIZE 29 /* 28 characters and a NUL */

/* Checks the head (section 4.2.1) and that a page that asks is a page of this server (section 10.2:
 * a browser sends Origin, and asks nobody first); fills in the fields of the answer.
 * ERR_BAD_INPUT, ERR_FORBIDDEN (public). */
int websocket_accept(const struct http_request *request, struct http_response *response,
                     struct err *err);
/* What the answer to a key is (section 4.2.2). */
void websocket_accept_key(const char *key, char out[static WEBSOCKET_ACCEPT_SIZE]);

/* socket_fd is borrowed; early was read from it already and is borrowed as well. message_max: bytes
 * of one message. */
int websocket_new(int socket_fd, const uint8_t *early, size_t early_size, size_t message_max,
                  struct websocket **out, struct err *err);
void websocket_free(struct websocket *socket);

/* Called with a whole message. A negative result ends the connection as against the rules. */
typedef int (*websocket_message_fn)(void *context, bool is_text, const uint8_t *data, size_t size,
                                    struct err *err);

/* Takes what is there, for a while: the socket stays readable when there is more. ERR_CLOSED: no
 * more messages come, because the peer closed or broke a rule. */
int websocket_read(struct websocket *socket, websocket_message_fn message, void *context,
                   struct err *err);

/* Queues a binary message; the caller sees to it that it does not queue without end. */
int websocket_send(struct websocket *socket, const void *data, size_t size, struct err *err);
/* Queues the end, with a status (section 7.4) and a reason of at most 120 bytes. */
void websocket_send_close(struct websocket *socket, unsigned status, const char *reason);
/* Sends what the socket takes. ERR_CLOSED: nothing can be sent any more. */
int websocket_flush(struct websocket *socket, struct err *err);
/* Whether something is queued. */
bool websocket_wants_write(const struct websocket *socket);

#endif
