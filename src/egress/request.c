/* Owns the reading of a request's head, and what of it goes on. */
#include "egress/request.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/mem.h"

enum { PORT_HTTP = 80, LENGTH_DIGITS_MAX = 18, NAMED_MAX = 16 };

struct text {
    const char *data;
    size_t size;
};

struct field {
    struct text name, value;
};

struct head {
    struct text method, target;
    int minor; /* of HTTP/1 */
    struct field fields[REQUEST_FIELDS_MAX];
    size_t count;
    struct text named[NAMED_MAX]; /* by Connection: between the code and us alone */
    size_t named_count;
};

size_t request_head_size(const uint8_t *data, size_t size)
{
    const uint8_t *end = size >= 4 ? memmem(data, size, "\r\n\r\n", 4) : NULL;
    return end ? (size_t)(end - data) + 4 : 0;
}

static int bad(struct err *err, const char *why)
{
    return err_public(err, ERR_BAD_INPUT, "the request can't be read: %s", why);
}

static bool is_token_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           (c != '\0' && strchr("!#$%&'*+-.^_`|~", c));
}

static bool is_token(struct text text)
{
    for (size_t i = 0; i < text.size; i++) {
        if (!is_token_char(text.data[i]))
            return false;
    }
    return text.size > 0;
}

static bool text_is(struct text text, const char *other)
{
    return text.size == strlen(other) && strncasecmp(text.data, other, text.size) == 0;
}

static struct text trim(struct text text)
{
    while (text.size > 0 && (text.data[0] == ' ' || text.data[0] == '\t')) {
        text.data++;
        text.size--;
    }
    while (text.size > 0 && (text.data[text.size - 1] == ' ' || text.data[text.size - 1] == '\t'))
        text.size--;
    return text;
}

/* Takes what comes before the next separator, and the separator. */
static struct text cut(struct text *rest, char separator)
{
    const char *at = memchr(rest->data, separator, rest->size);
    struct text piece = {rest->data, at ? (size_t)(at - rest->data) : rest->size};
    size_t used = at ? piece.size + 1 : piece.size;
    rest->data += used;
    rest->size -= used;
    return piece;
}

/* ---- lines ---- */

static int read_request_line(struct text line, struct head *head, struct err *err)
{
    head->method = cut(&line, ' ');
    head->target = cut(&line, ' ');
    if (!is_token(head->method) || head->method.size > REQUEST_METHOD_MAX)
        return bad(err, "its method");
    for (size_t i = 0; i < head->target.size; i++) {
        if (head->target.data[i] <= 0x20 || head->target.data[i] >= 0x7f)
            return bad(err, "bytes in its address that have to be percent-encoded");
    }
    if (head->target.size == 0)
        return bad(err, "it has no address");
    if (text_is(line, "HTTP/1.1"))
        head->minor = 1;
    else if (!text_is(line, "HTTP/1.0"))
        return bad(err, "it is neither HTTP/1.1 nor HTTP/1.0");
    return 0;
}

static int read_field(struct text line, struct head *head, struct err *err)
{
    if (head->count >= REQUEST_FIELDS_MAX)
        return err_public(err, ERR_HEADERS, "the request has more than %d fields",
                          REQUEST_FIELDS_MAX);
    struct field *field = &head->fields[head->count++];
    if (!memchr(line.data, ':', line.size))
        return bad(err, "a line without a colon");
    field->name = cut(&line, ':');
    field->value = trim(line);
    if (!is_token(field->name)) /* also a folded line, and a space before the colon */
        return bad(err, "the name of a field");
    for (size_t i = 0; i < field->value.size; i++) {
        unsigned char c = (unsigned char)field->value.data[i];
        if ((c < 0x20 && c != '\t') || c == 0x7f)
            return bad(err, "a control character in a field");
    }
    return 0;
}

/* Takes the next line; one that ends in a bare LF, or has a CR within, is none. */
static int cut_line(struct text *rest, struct text *line, struct err *err)
{
    const char *end = memmem(rest->data, rest->size, "\r\n", 2);
    if (!end)
        return bad(err, "a line that does not end");
    *line = (struct text){rest->data, (size_t)(end - rest->data)};
    if (memchr(line->data, '\n', line->size) || memchr(line->data, '\r', line->size) ||
        memchr(line->data, '\0', line->size))
        return bad(err, "a line that ends in other ways than CR LF");
    rest->data += line->size + 2;
    rest->size -= line->size + 2;
    return 0;
}

static int read_head(struct text rest, struct head *head, struct err *err)
{
    struct text line = {rest.data, 0};
    int result = cut_line(&rest, &line, err);
    if (result == 0)
        result = read_request_line(line, head, err);
    while (result == 0) {
        result = cut_line(&rest, &line, err);
        if (result != 0 || line.size == 0)
            break;
        result = read_field(line, head, err);
    }
    return result;
}

/* ---- fields ---- */

/* What no Connection field may take away: the framing, and what we write ourselves. */
static bool is_ours(struct text name)
{
    return text_is(name, "host") || text_is(name, "content-length") ||
           text_is(name, "transfer-encoding");
}

/* RFC 9110, 7.6.1. */
static int read_connection(struct head *head, struct text value, struct err *err)
{
    while (value.size > 0) {
        struct text name = trim(cut(&value, ','));
        if (name.size == 0)
            continue;
        if (!is_token(name) || is_ours(name) || head->named_count >= NAMED_MAX)
            return bad(err, "its Connection field");
        head->named[head->named_count++] = name;
    }
    return 0;
}

static int read_length(struct text value, uint64_t *out, struct err *err)
{
    uint64_t length = 0;
    if (value.size == 0 || value.size > LENGTH_DIGITS_MAX)
        return bad(err, "its Content-Length");
    for (size_t i = 0; i < value.size; i++) {
        if (value.data[i] < '0' || value.data[i] > '9')
            return bad(err, "its Content-Length");
        length = length * 10 + (uint64_t)(value.data[i] - '0');
    }
    *out = length;
    return 0;
}

/* RFC 9112, 6.3: one length, or chunked, and nothing else. */
static int read_framing(struct head *head, struct request *request, struct err *err)
{
    unsigned lengths = 0, codings = 0, hosts = 0;
    int result = 0;
    for (size_t i = 0; i < head->count && result == 0; i++) {
        const struct field *field = &head->fields[i];
        if (text_is(field->name, "host")) {
            hosts++;
        } else if (text_is(field->name, "content-length")) {
            lengths++;
            result = read_length(field->value, &request->length, err);
        } else if (text_is(field->name, "transfer-encoding")) {
            codings++;
            if (!text_is(field->value, "chunked") || head->minor == 0)
                result = bad(err, "its Transfer-Encoding");
        } else if (text_is(field->name, "connection") || text_is(field->name, "proxy-connection")) {
            result = read_connection(head, field->value, err);
        }
    }
    if (result != 0)
        return result;
    if (lengths + codings > 1 || hosts > 1)
        return bad(err, "more than one Host, Content-Length or Transfer-Encoding");
    request->body = codings > 0 ? BODY_CHUNKED : lengths > 0 ? BODY_LENGTH : BODY_NONE;
    if (request->connect && (codings > 0 || request->length > 0))
        return bad(err, "a CONNECT with a body");
    return 0;
}

static bool goes_on(const struct head *head, struct text name)
{
    static const char *const between_us[] = {
        "host",    "connection", "proxy-connection",    "keep-alive",         "te",
        "trailer", "upgrade",    "proxy-authorization", "proxy-authenticate", "http2-settings",
    };
    for (size_t i = 0; i < ARRAY_SIZE(between_us); i++) {
        if (text_is(name, between_us[i]))
            return false;
    }
    for (size_t i = 0; i < head->named_count; i++) {
        if (name.size == head->named[i].size &&
            strncasecmp(name.data, head->named[i].data, name.size) == 0)
            return false;
    }
    return true;
}

/* ---- the target ---- */

static int read_connect(const struct head *head, struct request *request, struct err *err)
{
    return egress_target_parse(head->target.data, head->target.size, 0, &request->host,
                               &request->port, err);
}

/* "http://host[:port]/path": *out_path is the rest, which may be empty. */
static int read_absolute(const struct head *head, struct request *request, struct text *out_path,
                         struct err *err)
{
    static const char scheme[] = "http://";
    struct text rest = head->target;
    if (rest.size > 0 && rest.data[0] == '/')
        return err_public(err, ERR_BAD_INPUT,
                          "this is the proxy of a sandbox of berth, not a web server");
    if (rest.size < sizeof(scheme) || strncasecmp(rest.data, scheme, sizeof(scheme) - 1) != 0)
        return bad(err, "an address other than http:// (https goes by CONNECT)");
    rest.data += sizeof(scheme) - 1;
    rest.size -= sizeof(scheme) - 1;
    size_t size = 0;
    while (size < rest.size && rest.data[size] != '/' && rest.data[size] != '?')
        size++;
    *out_path = (struct text){rest.data + size, rest.size - size};
    if (memchr(rest.data, '#', rest.size))
        return bad(err, "a # in its address");
    return egress_target_parse(rest.data, size, PORT_HTTP, &request->host, &request->port, err);
}

static int write_head(const struct head *head, const struct request *request, struct text path,
                      struct buf *out, struct err *err)
{
    bool v6 = request->host.kind == EGRESS_HOST_IPV6;
    bool slash = path.size == 0 || path.data[0] != '/';
    char port[8] = "";
    if (request->port != PORT_HTTP)
        (void)snprintf(port, sizeof(port), ":%u", request->port);
    int result = buf_printf(out, err, "%s %s%.*s HTTP/1.%d\r\nHost: %s%s%s%s\r\n", request->method,
                            slash ? "/" : "", (int)path.size, path.data, head->minor, v6 ? "[" : "",
                            request->host.text, v6 ? "]" : "", port);
    for (size_t i = 0; i < head->count && result == 0; i++) {
        const struct field *field = &head->fields[i];
        if (goes_on(head, field->name))
            result = buf_printf(out, err, "%.*s: %.*s\r\n", (int)field->name.size, field->name.data,
                                (int)field->value.size, field->value.data);
    }
    return result == 0 ? buf_append_str(out, "Connection: close\r\n\r\n", err) : result;
}

int request_parse(const uint8_t *data, size_t size, struct request *request, struct buf *out,
                  struct err *err)
{
    struct head head = {0};
    struct text path = {"", 0};
    memset(request, 0, sizeof(*request));
    int result = read_head((struct text){(const char *)data, size}, &head, err);
    if (result != 0)
        return result;
    memcpy(request->method, head.method.data, head.method.size);
    request->connect = strcmp(request->method, "CONNECT") == 0;
    result = request->connect ? read_connect(&head, request, err)
                              : read_absolute(&head, request, &path, err);
    if (result == 0)
        result = read_framing(&head, request, err);
    if (result == 0 && !request->connect)
        result = write_head(&head, request, path, out, err);
    return result;
}
