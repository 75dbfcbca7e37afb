/* What code in a sandbox sends to its proxy: a head, then a body. Whatever is let through is one
 * request, to the host that was read, with no byte that could begin another one. */
#include "fuzz.h"

#include <stdio.h>
#include <string.h>

#include "egress/request.h"

static size_t count(const char *text, const char *what)
{
    size_t found = 0;
    for (const char *at = strcasestr(text, what); at; at = strcasestr(at + 1, what))
        found++;
    return found;
}

/* The head that an origin gets, by the letter. */
static void check_head(const struct request *request, struct buf *out)
{
    char host[EGRESS_HOST_MAX + 16];
    bool v6 = request->host.kind == EGRESS_HOST_IPV6;
    fuzz_require(memchr(out->data, '\0', out->size) == NULL);
    const char *text = buf_cstr(out);
    fuzz_require(text != NULL);
    fuzz_require(strlen(text) >= 4 && strstr(text, "\r\n\r\n") == text + strlen(text) - 4);
    for (const char *at = strpbrk(text, "\r\n"); at; at = strpbrk(at + 2, "\r\n"))
        fuzz_require(at[0] == '\r' && at[1] == '\n');
    (void)snprintf(host, sizeof(host), "\r\nHost: %s%s%s", v6 ? "[" : "", request->host.text,
                   v6 ? "]" : "");
    fuzz_require(strstr(text, host) != NULL && count(text, "\r\nhost:") == 1);
    fuzz_require(count(text, "\r\nconnection:") == 1);
    fuzz_require(count(text, "\r\ncontent-length:") + count(text, "\r\ntransfer-encoding:") <= 1);
    fuzz_require(count(text, "\r\nproxy-connection:") == 0);
    fuzz_require(count(text, "\r\nproxy-authorization:") == 0);
}

static void check_body(const struct request *request, const uint8_t *data, size_t size)
{
    struct body whole, by_byte;
    body_init(&whole, request->body, request->length);
    body_init(&by_byte, request->body, request->length);
    ssize_t used = body_take(&whole, data, size);
    ssize_t single = 0;
    for (size_t i = 0; i < size && single >= 0 && !by_byte.over; i++) {
        ssize_t one = body_take(&by_byte, data + i, 1);
        single = one < 0 ? -1 : single + one;
    }
    fuzz_require(used == single && used <= (ssize_t)size);
    fuzz_require(used < 0 || whole.over == by_byte.over);
    fuzz_require(used < 0 || whole.over || (size_t)used == size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct request request;
    BUF_AUTO struct buf out;
    buf_init(&out, 2 * REQUEST_HEAD_MAX);
    size_t head_size = request_head_size(data, size);
    if (head_size == 0 || head_size > REQUEST_HEAD_MAX)
        return 0;
    if (request_parse(data, head_size, &request, &out, NULL) != 0)
        return 0;
    fuzz_require(request.host.text[0] != '\0' && request.port != 0);
    fuzz_require(request.connect == (out.size == 0));
    if (!request.connect) {
        check_head(&request, &out);
        check_body(&request, data + head_size, size - head_size);
    }
    return 0;
}
