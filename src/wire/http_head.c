/* Owns the strict reading of a request's head. Refuses: two lengths, length with chunks, another
 * transfer coding, no or two Hosts, control characters, folded lines, bare LF, NUL anywhere. */
#include "wire/http_head.h"

#include <microhttpd.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/mem.h"
#include "base/parse.h"
#include "wire/http.h"

struct head_scan {
    const struct http_config *config;
    const char *expected; /* where the next field's name must lie; NULL: not known */
    unsigned count, hosts, lengths, codings;
    const char *length;
    const char *coding;
    const char *wrong; /* the first thing that was found wrong */
};

/* libmicrohttpd 0.9.75 keeps names and values where they came in, with CR and LF made NUL, and
 * tells nothing of a NUL inside a value, of bare LF or of folded lines. Each leaves a gap between
 * the end of one field and the start of the next that is not two bytes. Newer versions refuse all
 * three by themselves and lay the head out in their own way. */
static bool head_layout_is_known(void)
{
    return strcmp(MHD_get_version(), "0.9.75") == 0;
}

static bool head_is_clean_value(const char *value, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        unsigned char c = (unsigned char)value[i];
        if ((c < 0x20 && c != '\t') || c == 0x7f)
            return false;
    }
    return true;
}

/* A token (RFC 9110 section 5.6.2). */
static bool head_is_clean_name(const char *name, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        unsigned char c = (unsigned char)name[i];
        bool alnum = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (!alnum && (c == '\0' || !strchr("!#$%&'*+-.^_`|~", c)))
            return false;
    }
    return size > 0;
}

static void head_check_layout(struct head_scan *scan, const char *name, size_t name_size,
                              const char *value, size_t value_size)
{
    if (!scan->expected)
        return;
    if (name != scan->expected || value <= name + name_size ||
        strspn(name + name_size + 1, " \t") != (size_t)(value - name) - name_size - 1)
        scan->wrong = "a line that is folded, ends without CR LF or holds NUL";
    scan->expected = value + value_size + 2;
}

static enum MHD_Result head_take_field(void *context, enum MHD_ValueKind kind, const char *name,
                                       size_t name_size, const char *value, size_t value_size)
{
    struct head_scan *scan = context;
    (void)kind;
    scan->count++;
    if (!value) {
        scan->wrong = "a line without a value";
        return MHD_NO;
    }
    head_check_layout(scan, name, name_size, value, value_size);
    if (!head_is_clean_name(name, name_size))
        scan->wrong = "a field name with a character that is not allowed";
    else if (!head_is_clean_value(value, value_size))
        scan->wrong = "a field value with a control character";
    if (strcasecmp(name, MHD_HTTP_HEADER_HOST) == 0) {
        scan->hosts++;
    } else if (strcasecmp(name, MHD_HTTP_HEADER_CONTENT_LENGTH) == 0) {
        scan->lengths++;
        scan->length = value;
    } else if (strcasecmp(name, MHD_HTTP_HEADER_TRANSFER_ENCODING) == 0) {
        scan->codings++;
        scan->coding = value;
    }
    if (scan->count > scan->config->header_count_max)
        return MHD_NO;
    return scan->wrong ? MHD_NO : MHD_YES;
}

static const char *head_find_wrong(struct head_scan *scan, const char *version)
{
    bool is_1_1 = strcmp(version, "HTTP/1.1") == 0;
    if (scan->wrong)
        return scan->wrong;
    if (!is_1_1 && strcmp(version, "HTTP/1.0") != 0)
        return "a version that is neither HTTP/1.0 nor HTTP/1.1";
    if (scan->hosts > 1)
        return "two Host fields";
    if (scan->hosts == 0 && is_1_1)
        return "no Host field";
    if (scan->lengths > 1)
        return "two Content-Length fields";
    if (scan->codings > 0 && scan->lengths > 0)
        return "Content-Length together with Transfer-Encoding";
    if (scan->codings > 1 || (scan->codings == 1 && !is_1_1) ||
        (scan->coding && strcasecmp(scan->coding, "chunked") != 0))
        return "a Transfer-Encoding other than chunked";
    /* The end of the last line, and the empty line after it. */
    if (scan->expected && scan->count > 0 &&
        (scan->expected[-1] != '\0' || scan->expected[-2] != '\0'))
        return "a line that is folded, ends without CR LF or holds NUL";
    return NULL;
}

int http_head_check(struct MHD_Connection *connection, const struct http_config *config,
                    const char *method, const char *raw_target, size_t raw_size,
                    const char *version, struct http_head *out, struct err *err)
{
    struct head_scan scan = {.config = config};
    if (head_layout_is_known()) {
        if (raw_target != method + strlen(method) + 1 || raw_target + raw_size + 1 != version)
            scan.wrong = "a request line with NUL or stray spaces";
        scan.expected = version + strlen(version) + 2;
    }
    if (!scan.wrong)
        (void)MHD_get_connection_values_n(connection, MHD_HEADER_KIND, head_take_field, &scan);
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
    if (!head_is_clean_name(method, strlen(method)))
        scan.wrong = "a method that is no token";
    /* A line ": x" ends the head for libmicrohttpd, and is told as no field. */
    if (!scan.wrong && scan.expected && info &&
        ((size_t)(scan.expected + 2 - method) != info->header_size || scan.expected[0] != '\0' ||
         scan.expected[1] != '\0'))
        scan.wrong = "a line without a field name";
    if (scan.count > config->header_count_max)
        return err_public(err, ERR_HEADERS, "more than %u header fields", config->header_count_max);
    if (info && info->header_size > config->head_max)
        return err_public(err, ERR_HEADERS, "request line and header fields of more than %zu bytes",
                          config->head_max);
    const char *wrong = head_find_wrong(&scan, version);
    if (wrong)
        return err_public(err, ERR_BAD_INPUT, "malformed request head: %s", wrong);
    uint64_t length = 0;
    if (scan.length && parse_u64(scan.length, 0, INT64_MAX, &length, NULL) < 0)
        return err_public(err, ERR_BAD_INPUT, "malformed request head: Content-Length");
    out->chunked = scan.codings == 1;
    out->has_length = scan.lengths == 1;
    out->length = length;
    return 0;
}

static int head_hex(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Percent-decodes size bytes of text into heap memory (RFC 3986 section 2.1). */
static int head_decode(const char *text, size_t size, bool plus_is_space, char **out,
                       struct err *err)
{
    char *decoded MEM_AUTO = malloc(size + 1);
    size_t used = 0;
    if (!decoded)
        return err_set(err, ERR_INTERNAL, "no memory for a request target");
    for (size_t i = 0; i < size; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c == '%') {
            int high = i + 2 < size ? head_hex(text[i + 1]) : -1;
            int low = i + 2 < size ? head_hex(text[i + 2]) : -1;
            if (high < 0 || low < 0)
                return err_public(err, ERR_BAD_INPUT, "malformed request target: a bad %% escape");
            c = (unsigned char)(high << 4 | low);
            i += 2;
        } else if (c == '+' && plus_is_space) {
            c = ' ';
        } else if (c <= 0x20 || c == 0x7f) {
            return err_public(err, ERR_BAD_INPUT, "malformed request target: a control character");
        }
        if (c == '\0')
            return err_public(err, ERR_BAD_INPUT, "malformed request target: NUL");
        decoded[used++] = (char)c;
    }
    decoded[used] = '\0';
    *out = take(decoded);
    return 0;
}

int http_head_target(const char *target, char **path, char **query_text, struct err *err)
{
    for (const char *at = target; *at; at++) {
        if ((unsigned char)*at <= 0x20 || *at == 0x7f)
            return err_public(err, ERR_BAD_INPUT, "malformed request target: a control character");
    }
    if (strncasecmp(target, "http://", 7) == 0 || strncasecmp(target, "https://", 8) == 0) {
        target = strchr(target, ':') + 3;
        target += strcspn(target, "/?");
        if (*target == '\0')
            target = "/";
    }
    if (*target != '/')
        return err_public(err, ERR_BAD_INPUT, "malformed request target: no path");
    size_t size = strcspn(target, "?#");
    char *decoded MEM_AUTO = NULL;
    int result = head_decode(target, size, false, &decoded, err);
    if (result < 0)
        return result;
    size_t length = strlen(decoded);
    if (length > 1 && decoded[length - 1] == '/')
        decoded[length - 1] = '\0';
    char *query = NULL;
    if (target[size] == '?' && !(query = strdup(target + size + 1)))
        return err_set(err, ERR_INTERNAL, "no memory for a query");
    *path = take(decoded);
    *query_text = query;
    return 0;
}

int http_head_query(const char *query_text, char ***out, struct err *err)
{
    char **list = calloc(2 * HTTP_QUERY_MAX + 1, sizeof(*list));
    size_t used = 0;
    int result = 0;
    if (!list)
        return err_set(err, ERR_INTERNAL, "no memory for a query");
    for (const char *at = query_text; at && *at && result == 0;) {
        size_t item = strcspn(at, "&#");
        const char *equals = memchr(at, '=', item);
        size_t name_size = equals ? (size_t)(equals - at) : item;
        size_t value_size = equals ? item - name_size - 1 : 0;
        if (used == 2 * (size_t)HTTP_QUERY_MAX)
            result = err_public(err, ERR_BAD_INPUT, "more than %d query arguments", HTTP_QUERY_MAX);
        if (result == 0)
            result = head_decode(at, name_size, true, &list[used], err);
        if (result == 0)
            result = head_decode(equals ? equals + 1 : "", value_size, true, &list[used + 1], err);
        used += 2;
        at += item;
        at += *at == '&';
        if (*at == '#')
            break;
    }
    if (result < 0) {
        http_head_free_query(list);
        return result;
    }
    *out = list;
    return 0;
}

void http_head_free_query(char **query)
{
    for (size_t i = 0; query && i < 2 * HTTP_QUERY_MAX; i++)
        free(query[i]);
    free(query);
}
