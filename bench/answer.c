/* Owns the reading of answers. Refuses what a benchmark has no need of: chunks, redirects, TLS. */
#include "answer.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"

int request_make(struct request *request, const struct address *address, const char *method,
                 const char *path, const char *body, struct err *err)
{
    const char *type = body ? "Content-Type: application/json\r\n" : "";
    int size =
        snprintf(request->text, sizeof(request->text),
                 "%s %s HTTP/1.1\r\nHost: %s:%s\r\n%sContent-Length: %zu\r\n\r\n%s", method, path,
                 address->host, address->port, type, body ? strlen(body) : 0, body ? body : "");
    if (size < 0 || (size_t)size >= sizeof(request->text))
        return err_set(err, ERR_TOO_LARGE, "the body is too large");
    request->size = (size_t)size;
    return 0;
}

static int connect_to(const struct address *address, int *out_fd, struct err *err)
{
    const char *host = address->host;
    const char *port = address->port;
    const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    struct addrinfo *found = NULL;
    int status = getaddrinfo(host, port, &hints, &found);
    if (status != 0)
        return err_set(err, ERR_BAD_INPUT, "%s:%s: %s", host, port, gai_strerror(status));
    FD_AUTO int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int result = 0;
    if (fd < 0 || connect(fd, found->ai_addr, found->ai_addrlen) != 0)
        result = err_sys(err, errno, "connect to %s:%s", host, port);
    freeaddrinfo(found);
    if (result != 0)
        return result;
    int on = 1;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    *out_fd = fd_take(&fd);
    return 0;
}

/* The value of a header field in a NUL-terminated head, or NULL. */
static const char *field(const char *head, const char *name)
{
    size_t size = strlen(name);
    for (const char *line = strstr(head, "\r\n"); line; line = strstr(line, "\r\n")) {
        line += 2;
        if (strncasecmp(line, name, size) == 0 && line[size] == ':')
            return line + size + 1 + strspn(line + size + 1, " ");
    }
    return NULL;
}

/* Reads more of the answer; 0 is a failure here: nobody closes in the middle. */
static int receive(int fd, struct answer *answer, size_t *used, struct err *err)
{
    ssize_t got = recv(fd, answer->text + *used, ANSWER_MAX - 1 - *used, 0);
    if (got < 0 && errno == EINTR)
        return 0;
    if (got < 0)
        return err_sys(err, errno, "receive");
    if (got == 0)
        return err_set(err, ERR_CLOSED, "closed, or too large, after %zu bytes", *used);
    *used += (size_t)got;
    answer->text[*used] = '\0';
    return 0;
}

static int exchange(int fd, const struct request *request, struct answer *out, struct err *err)
{
    size_t used = 0;
    int result = fd_write_all(fd, request->text, request->size, err);
    char *end = NULL;
    out->text[0] = '\0';
    while (result == 0 && !(end = strstr(out->text, "\r\n\r\n")))
        result = receive(fd, out, &used, err);
    if (result != 0 || !end)
        return result;
    *end = '\0';
    const char *length = field(out->text, "Content-Length");
    const char *connection = field(out->text, "Connection");
    if (strncmp(out->text, "HTTP/1.1 ", 9) != 0 || !length)
        return err_set(err, ERR_PROTOCOL, "no HTTP/1.1 answer with a Content-Length");
    out->status = (int)strtol(out->text + 9, NULL, 10);
    out->keep_alive = !connection || strncasecmp(connection, "close", 5) != 0;
    out->body = end + 4;
    out->body_size = strtoul(length, NULL, 10);
    size_t total = (size_t)(out->body - out->text) + out->body_size;
    if (out->body_size >= ANSWER_MAX || total >= ANSWER_MAX)
        return err_set(err, ERR_TOO_LARGE, "an answer of %zu bytes", out->body_size);
    while (result == 0 && used < total)
        result = receive(fd, out, &used, err);
    return result;
}

int connection_exchange(struct connection *connection, const struct request *request,
                        struct err *err)
{
    int result = connection->fd >= 0 ? 0 : connect_to(connection->address, &connection->fd, err);
    if (result == 0)
        result = exchange(connection->fd, request, &connection->answer, err);
    if (result != 0 || !connection->answer.keep_alive)
        fd_close(&connection->fd);
    return result;
}

int answer_check(const struct answer *answer, const char *expect, struct err *err)
{
    if (answer->status != 200)
        return err_set(err, ERR_PROTOCOL, "status %d: %.200s", answer->status, answer->body);
    if (!strstr(answer->body, expect))
        return err_set(err, ERR_PROTOCOL, "not the expected answer: %.250s", answer->body);
    return 0;
}

double answer_number(const struct answer *answer, const char *key)
{
    char quoted[64];
    (void)snprintf(quoted, sizeof(quoted), "\"%s\":", key);
    const char *at = strstr(answer->body, quoted);
    return at ? strtod(at + strlen(quoted), NULL) : -1;
}

int answer_text(const struct answer *answer, const char *key, char *out, size_t size,
                struct err *err)
{
    char quoted[64];
    (void)snprintf(quoted, sizeof(quoted), "\"%s\":\"", key);
    const char *at = strstr(answer->body, quoted);
    size_t length = at ? strcspn(at + strlen(quoted), "\"") : size;
    if (!at || length >= size)
        return err_set(err, ERR_PROTOCOL, "no \"%s\" in %.200s", key, answer->body);
    (void)snprintf(out, size, "%.*s", (int)length, at + strlen(quoted));
    return 0;
}
