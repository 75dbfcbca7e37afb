/* The head of one request to the proxy: CONNECT, or a request in absolute form for http.
 *
 * Read strictly: what two readers could take differently is refused, not repaired. The head that
 * goes to the origin is written anew, with a Host of our own and without the fields that are
 * between the code and the proxy. */
#ifndef BERTH_EGRESS_REQUEST_H
#define BERTH_EGRESS_REQUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "egress/body.h"
#include "wire/egress_rule.h"

#define REQUEST_HEAD_MAX (16U * 1024U)
#define REQUEST_FIELDS_MAX 100
#define REQUEST_METHOD_MAX 20

struct request {
    char method[REQUEST_METHOD_MAX + 1];
    bool connect; /* a tunnel; no body, nothing to send */
    struct egress_host host;
    uint16_t port;
    enum body_kind body;
    uint64_t length;
};

/* Bytes of the head up to its empty line, 0: it is not whole yet. */
size_t request_head_size(const uint8_t *data, size_t size);

/* Takes a whole head and appends what the origin gets to *out (nothing for CONNECT). ERR_BAD_INPUT
 * (public) says what is wrong; ERR_HEADERS: too many or too long fields. */
int request_parse(const uint8_t *data, size_t size, struct request *request, struct buf *out,
                  struct err *err);

#endif
