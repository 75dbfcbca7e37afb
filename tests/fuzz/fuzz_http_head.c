/* A request's head, as bytes from anybody, through the real libmicrohttpd into wire/http_head. What
 * is taken is read again here by the letter of RFC 9112, so that no head that could be read in two
 * ways gets through; targets and queries are also decoded on their own. */
#include "fuzz.h"

#include <microhttpd.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/mem.h"
#include "wire/http.h"
#include "wire/http_head.h"

enum { HEAD_MAX = 16384, FIELDS_MAX = 32 };

static const struct http_config config = {.head_max = HEAD_MAX, .header_count_max = FIELDS_MAX};
static struct MHD_Daemon *daemon_;

/* The bytes of one call, and what became of them. */
static struct {
    const uint8_t *data;
    size_t size;
    const char *target; /* where it lies in libmicrohttpd's buffer */
    char *target_copy;  /* as it came: it is cut at the query later */
    bool asked;
} now;

/* libmicrohttpd 0.9.75 makes every byte of a line's end NUL before anybody else sees it, so two of
 * CR, LF and NUL in any order are what CR LF is. The line ends at the same place in each reading.
 */
static bool is_end_byte(uint8_t byte)
{
    return byte == '\r' || byte == '\n' || byte == '\0';
}

/* One line of the head at data[*at], without its end; NULL when it has none. */
static const uint8_t *next_line(size_t *at, size_t *size)
{
    const uint8_t *line = now.data + *at;
    for (size_t i = *at; i + 1 < now.size; i++) {
        if (!is_end_byte(now.data[i]))
            continue;
        if (!is_end_byte(now.data[i + 1]) && now.data[i + 1] != ':')
            return NULL; /* a colon at a line's begin is made NUL as well */
        *size = i - *at;
        *at = i + 2;
        return line;
    }
    return NULL;
}

static bool is_field(const uint8_t *line, size_t size, const char *name)
{
    size_t name_size = strlen(name);
    return size > name_size && line[name_size] == ':' &&
           strncasecmp((const char *)line, name, name_size) == 0;
}

/* Where the request line begins: behind empty lines (RFC 9112 section 2.2), and lines that
 * libmicrohttpd takes for empty since they begin with NUL. */
static size_t skip_empty_lines(void)
{
    size_t at = 0;
    while (at < now.size && is_end_byte(now.data[at])) {
        const uint8_t *end = memchr(now.data + at, '\n', now.size - at);
        if (!end || (now.data[at] == '\r' && end != now.data + at + 1))
            break;
        at = (size_t)(end - now.data) + 1;
    }
    return at;
}

/* What was taken has one reading. */
static void check_taken(const struct http_head *head)
{
    size_t at = skip_empty_lines();
    size_t size = 0;
    unsigned hosts = 0;
    unsigned lengths = 0;
    unsigned codings = 0;
    unsigned fields = 0;
    const uint8_t *line = next_line(&at, &size);
    fuzz_require(line && size > 0);
    bool is_1_0 = size >= 8 && memcmp(line + size - 8, "HTTP/1.0", 8) == 0;
    fuzz_require(is_1_0 || (size >= 8 && memcmp(line + size - 8, "HTTP/1.1", 8) == 0));
    for (;;) {
        /* To libmicrohttpd 0.9.75 this is the empty line, and its NUL NUL in memory as well. */
        if (now.size - at >= 2 && now.data[at] == ':' && is_end_byte(now.data[at + 1]))
            break;
        line = next_line(&at, &size);
        fuzz_require(line);
        if (size == 0)
            break;
        fields++;
        fuzz_require(line[0] != ' ' && line[0] != '\t'); /* folded */
        const uint8_t *colon = memchr(line, ':', size);
        fuzz_require(colon && colon > line && colon[-1] != ' ' && colon[-1] != '\t');
        hosts += is_field(line, size, "Host");
        lengths += is_field(line, size, "Content-Length");
        codings += is_field(line, size, "Transfer-Encoding");
    }
    fuzz_require(fields <= FIELDS_MAX);
    fuzz_require(hosts == 1 || (is_1_0 && hosts == 0));
    fuzz_require(lengths + codings <= 1);
    fuzz_require(head->has_length == (lengths == 1) && head->chunked == (codings == 1));
}

/* Returns whether the target is taken. */
static bool try_target(const char *target)
{
    char *path = NULL;
    char *query_text = NULL;
    char **query = NULL;
    if (http_head_target(target, &path, &query_text, NULL) != 0)
        return false;
    fuzz_require(path[0] == '/');
    int result = http_head_query(query_text, &query, NULL);
    if (result == 0) {
        for (size_t i = 0; query[i]; i += 2)
            fuzz_require(query[i + 1] && i < 2 * (size_t)HTTP_QUERY_MAX);
        http_head_free_query(query);
    }
    free(path);
    free(query_text);
    return result == 0;
}

static void *on_target(void *context, const char *target, struct MHD_Connection *connection)
{
    (void)context;
    (void)connection;
    now.target = target;
    free(now.target_copy); /* of an earlier request of the same connection */
    now.target_copy = target ? strdup(target) : NULL;
    return NULL;
}

/* MHD_NO closes the connection: one head each is enough. */
static enum MHD_Result on_request(void *context, struct MHD_Connection *connection, const char *url,
                                  const char *method, const char *version, const char *data,
                                  size_t *size, void **request)
{
    struct http_head head = {0};
    struct err err = ERR_INIT;
    (void)context;
    (void)url;
    (void)data;
    (void)size;
    (void)request;
    if (now.asked)
        return MHD_NO;
    now.asked = true;
    const char *target = now.target_copy ? now.target_copy : "";
    int result = http_head_check(connection, &config, method, now.target, strlen(target), version,
                                 &head, &err);
    if (result == 0 && try_target(target))
        check_taken(&head);
    fuzz_require(result == 0 || (err.public_message[0] != '\0' &&
                                 (err.kind == ERR_BAD_INPUT || err.kind == ERR_HEADERS)));
    return MHD_NO;
}

static void start_daemon(void)
{
    daemon_ = MHD_start_daemon(MHD_USE_NO_LISTEN_SOCKET, 0, NULL, NULL, on_request, NULL,
                               MHD_OPTION_URI_LOG_CALLBACK, on_target, NULL,
                               MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)(2 * HEAD_MAX),
                               MHD_OPTION_END);
    fuzz_require(daemon_);
}

/* Feeds the bytes to libmicrohttpd over a socket whose other end says nothing more. */
static void try_head(const uint8_t *data, size_t size)
{
    int pair[2];
    fuzz_require(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
    memset(&now, 0, sizeof(now));
    now.data = data;
    now.size = size;
    ssize_t sent = size > 0 ? send(pair[1], data, size, MSG_NOSIGNAL) : 0;
    fuzz_require(sent == (ssize_t)size);
    (void)shutdown(pair[1], SHUT_WR);
    if (MHD_add_connection(daemon_, pair[0], NULL, 0) != MHD_YES)
        (void)close(pair[0]);
    const union MHD_DaemonInfo *info = NULL;
    for (int turn = 0; turn < 64; turn++) {
        (void)MHD_run(daemon_);
        info = MHD_get_daemon_info(daemon_, MHD_DAEMON_INFO_CURRENT_CONNECTIONS);
        if (info && info->num_connections == 0)
            break;
    }
    (void)close(pair[1]);
    (void)MHD_run(daemon_);
    free(now.target_copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!daemon_)
        start_daemon();
    if (size > HEAD_MAX)
        return 0;
    try_head(data, size);
    MEM_AUTO char *text = strndup((const char *)data, size);
    if (text)
        (void)try_target(text);
    return 0;
}
