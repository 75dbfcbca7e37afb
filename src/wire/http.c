/* Owns libmicrohttpd: connections, bodies, answers, streams. Refuses requests that http_head.c
 * finds ambiguous, bodies past their caps, and anything past a deadline (http_watch.c). All
 * timeouts are the watcher's; libmicrohttpd's own are off, since they run on while a handler works.
 */
#include "wire/http.h"

#include <errno.h>
#include <fcntl.h>
#include <microhttpd.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "wire/http_head.h"
#include "wire/http_watch.h"

#define HTTP_STACK_BYTES (512U * 1024U)
#define HTTP_STREAM_PENDING_MAX (4U << 20) /* what one call of a stream function may produce */
#define HTTP_STREAM_BLOCK (32U * 1024U)
#define HTTP_STOP_WAIT_MS 3000 /* for running handlers, before they are told that the peer left */
#define HTTP_STOP_KILL_MS 1500 /* for them to answer after that */
#define HTTP_RAW_MAX 8192

struct http_server {
    struct http_config config;
    struct http_handlers handlers;
    struct MHD_Daemon *daemon;
    struct http_watch *watch;
    _Atomic uint64_t open, accepted, refused;
    _Atomic size_t bodies_held;
};

struct http_connection {
    uint64_t handle;
    int fd;      /* libmicrohttpd's */
    bool served; /* a request was answered on it before */
    bool linger; /* refused with its body unread */
};

struct http_request {
    struct http_server *server;
    struct http_connection *connection;
    struct MHD_Connection *mhd;
    char *target;
    const char *raw_target; /* where it lies in libmicrohttpd's buffer; compared, never read */
    const char *method;
    char *path;
    char **query;
    struct http_head head;
    bool begun;
    struct buf body;
    size_t held_bytes; /* of the budget of all bodies */
    struct http_intake intake;
    http_upgrade_fn upgrade;
    void *upgrade_context;
    void (*upgrade_free)(void *context);
};

struct http_stream {
    struct http_server *server;
    uint64_t handle;
    struct buf pending;
    http_stream_fn produce;
    void *context;
    void (*free)(void *context);
    bool sized;
    uint64_t left; /* to be produced, when sized */
};

const char *http_request_method(const struct http_request *request)
{
    return request->method;
}

const char *http_request_path(const struct http_request *request)
{
    return request->path;
}

const char *http_request_header(const struct http_request *request, const char *name)
{
    return MHD_lookup_connection_value(request->mhd, MHD_HEADER_KIND, name);
}

const char *http_request_query(const struct http_request *request, const char *name)
{
    for (size_t i = 0; request->query && request->query[i]; i += 2) {
        if (strcmp(request->query[i], name) == 0)
            return request->query[i + 1];
    }
    return NULL;
}

const uint8_t *http_request_body(const struct http_request *request, size_t *out_size)
{
    *out_size = request->body.size;
    return request->body.data;
}

int http_request_gone_fd(const struct http_request *request)
{
    return http_watch_gone_fd(request->server->watch, request->connection->handle);
}

void *http_request_intake(const struct http_request *request)
{
    return request->intake.context;
}

int http_response_header(struct http_response *response, const char *name, const char *value,
                         struct err *err)
{
    if (strpbrk(name, "\r\n: ") || strpbrk(value, "\r\n"))
        return err_set(err, ERR_INTERNAL, "header field %.40s with a line break", name);
    if (response->headers.max == 0)
        buf_init(&response->headers, HTTP_RAW_MAX / 2);
    return buf_printf(&response->headers, err, "%s: %s\r\n", name, value);
}

static void http_response_done(struct http_response *response)
{
    buf_done(&response->body);
    buf_done(&response->headers);
    if (response->stream_free)
        response->stream_free(response->stream_context);
    response->stream_free = NULL;
}

static ssize_t http_stream_read(void *context, uint64_t position, char *out, size_t max)
{
    struct http_stream *stream = context;
    struct err err = ERR_INIT;
    (void)position;
    if (stream->pending.size == 0) {
        int result = 1;
        http_watch_set(stream->server->watch, stream->handle, HTTP_WATCH_HANDLER, 0);
        while (result > 0 && stream->pending.size == 0)
            result = stream->produce(stream->context, &stream->pending, &err);
        http_watch_set(stream->server->watch, stream->handle, HTTP_WATCH_SENDING,
                       stream->server->config.idle_timeout_ms);
        if (result < 0)
            return MHD_CONTENT_READER_END_WITH_ERROR;
        if (stream->sized && stream->pending.size > stream->left) {
            log_error("http: a stream gave more than its length");
            return MHD_CONTENT_READER_END_WITH_ERROR;
        }
        if (stream->pending.size == 0)
            return stream->sized && stream->left > 0 ? MHD_CONTENT_READER_END_WITH_ERROR
                                                     : MHD_CONTENT_READER_END_OF_STREAM;
        stream->left -= stream->sized ? stream->pending.size : 0;
    }
    size_t size = stream->pending.size < max ? stream->pending.size : max;
    memcpy(out, stream->pending.data, size);
    buf_consume(&stream->pending, size);
    return (ssize_t)size;
}

static void http_stream_done(void *context)
{
    struct http_stream *stream = context;
    if (stream->free)
        stream->free(stream->context);
    buf_done(&stream->pending);
    free(stream);
}

static struct MHD_Response *http_make_stream(struct http_request *request,
                                             struct http_response *response)
{
    struct http_stream *stream = calloc(1, sizeof(*stream));
    if (!stream)
        return NULL;
    stream->server = request->server;
    stream->handle = request->connection->handle;
    buf_init(&stream->pending, HTTP_STREAM_PENDING_MAX);
    stream->produce = response->stream;
    stream->context = response->stream_context;
    stream->free = response->stream_free;
    stream->sized = response->stream_sized;
    stream->left = response->stream_size;
    struct MHD_Response *made = MHD_create_response_from_callback(
        stream->sized ? stream->left : MHD_SIZE_UNKNOWN, HTTP_STREAM_BLOCK, http_stream_read,
        stream, http_stream_done);
    if (!made)
        free(stream);
    else
        response->stream_free = NULL;
    return made;
}

/* Adds the "Name: value\r\n" lines. */
static void http_add_headers(struct MHD_Response *made, struct http_response *response)
{
    if (response->headers.size > 0) {
        const char *text = buf_cstr(&response->headers);
        for (const char *at = text; at && *at;) {
            const char *end = strstr(at, "\r\n");
            const char *colon = strstr(at, ": ");
            if (!end || !colon || colon > end)
                break;
            char name[64];
            char value[1024];
            (void)snprintf(name, sizeof(name), "%.*s", (int)(colon - at), at);
            (void)snprintf(value, sizeof(value), "%.*s", (int)(end - colon - 2), colon + 2);
            (void)MHD_add_response_header(made, name, value);
            at = end + 2;
        }
    }
    if (response->content_type)
        (void)MHD_add_response_header(made, MHD_HTTP_HEADER_CONTENT_TYPE, response->content_type);
    if (response->close)
        (void)MHD_add_response_header(made, MHD_HTTP_HEADER_CONNECTION, "close");
}

static void http_on_upgrade(void *context, struct MHD_Connection *mhd, void *request_context,
                            const char *early, size_t early_size, MHD_socket socket_fd,
                            struct MHD_UpgradeResponseHandle *handle)
{
    struct http_request *request = context;
    (void)mhd;
    (void)request_context;
    http_watch_set(request->server->watch, request->connection->handle, HTTP_WATCH_HANDLER, 0);
    request->upgrade(request->upgrade_context, socket_fd, (const uint8_t *)early, early_size);
    (void)MHD_upgrade_action(handle, MHD_UPGRADE_ACTION_CLOSE);
}

/* The request outlives the upgraded connection, and the context goes with it. */
static struct MHD_Response *http_make_upgrade(struct http_request *request,
                                              struct http_response *response)
{
    request->upgrade = response->upgrade;
    request->upgrade_context = response->stream_context;
    request->upgrade_free = response->stream_free;
    response->stream_free = NULL;
    response->status = MHD_HTTP_SWITCHING_PROTOCOLS;
    response->content_type = NULL;
    return MHD_create_response_for_upgrade(http_on_upgrade, request);
}

/* Queues the answer and takes the response apart. MHD_NO closes the connection. */
static enum MHD_Result http_answer(struct http_request *request, struct http_response *response)
{
    struct MHD_Response *made = NULL;
    if (response->upgrade) {
        made = http_make_upgrade(request, response);
    } else if (response->stream) {
        made = http_make_stream(request, response);
    } else {
        made = MHD_create_response_from_buffer(response->body.size, response->body.data,
                                               MHD_RESPMEM_MUST_FREE);
        if (made)
            response->body = (struct buf){0};
    }
    enum MHD_Result queued = MHD_NO;
    if (made) {
        http_add_headers(made, response);
        http_watch_set(request->server->watch, request->connection->handle, HTTP_WATCH_SENDING,
                       request->server->config.idle_timeout_ms);
        queued = MHD_queue_response(
            request->mhd, response->status ? (unsigned)response->status : (unsigned)MHD_HTTP_OK,
            made);
        MHD_destroy_response(made);
    }
    http_response_done(response);
    return queued;
}

static bool http_has_body(const struct http_request *request)
{
    return request->head.chunked || request->head.length > 0;
}

/* Answers before the body was read; libmicrohttpd closes the connection then. */
static enum MHD_Result http_refuse(struct http_request *request, const struct err *error)
{
    struct http_server *server = request->server;
    struct http_response response = {0};
    server->refused++;
    server->handlers.refuse(server->handlers.context, error, &response);
    response.close = true;
    request->connection->linger = true;
    return http_answer(request, &response);
}

/* Answers in the middle of a body, where libmicrohttpd takes no answer: the bytes go straight to
 * the socket, which is then closed. Nothing else is being sent at that moment. */
static enum MHD_Result http_refuse_body(struct http_request *request, const struct err *error)
{
    struct http_server *server = request->server;
    struct http_response response = {0};
    struct buf raw BUF_AUTO;
    buf_init(&raw, HTTP_RAW_MAX);
    server->refused++;
    server->handlers.refuse(server->handlers.context, error, &response);
    int result = buf_printf(&raw, NULL,
                            "HTTP/1.1 %d Refused\r\nConnection: close\r\nContent-Type: %s\r\n"
                            "Content-Length: %zu\r\n",
                            response.status, response.content_type, response.body.size);
    if (result == 0)
        result = buf_append(&raw, response.headers.data, response.headers.size, NULL);
    if (result == 0)
        result = buf_append_str(&raw, "\r\n", NULL);
    if (result == 0)
        result = buf_append(&raw, response.body.data, response.body.size, NULL);
    if (result == 0)
        (void)send(request->connection->fd, raw.data, raw.size, MSG_DONTWAIT | MSG_NOSIGNAL);
    request->connection->linger = true;
    http_response_done(&response);
    return MHD_NO;
}

/* Takes size bytes from the budget of all bodies. */
static int http_hold(struct http_request *request, size_t size, struct err *err)
{
    struct http_server *server = request->server;
    size_t before = atomic_fetch_add(&server->bodies_held, size);
    if (before + size > server->config.bodies_total_max) {
        atomic_fetch_sub(&server->bodies_held, size);
        int result = err_public(err, ERR_UNAVAILABLE,
                                "the server holds as many request bodies as it can; try again");
        if (err)
            err->retry_after_s = 1;
        return result;
    }
    request->held_bytes += size;
    return 0;
}

static int http_too_large(const struct http_server *server, struct err *err)
{
    return err_public(err, ERR_TOO_LARGE,
                      "the body is larger than %zu bytes, the most that is taken",
                      server->config.body_max);
}

/* Everything that can be said about a request before its body. */
static int http_begin(struct http_request *request, const char *version, struct err *err)
{
    struct http_server *server = request->server;
    const char *target = request->target ? request->target : "";
    char *query_text MEM_AUTO = NULL;
    int result = http_head_check(request->mhd, &server->config, request->method,
                                 request->raw_target, strlen(target), version, &request->head, err);
    if (result == 0)
        result = http_head_target(target, &request->path, &query_text, err);
    if (result == 0 && query_text)
        result = http_head_query(query_text, &request->query, err);
    return result;
}

static enum MHD_Result http_take_head(struct http_request *request, const char *version)
{
    struct http_server *server = request->server;
    struct http_response response = {0};
    struct err err = ERR_INIT;
    request->begun = true;
    if (http_begin(request, version, &err) < 0)
        return http_refuse(request, &err);
    /* It may block, and its client may leave meanwhile. */
    http_watch_set(server->watch, request->connection->handle, HTTP_WATCH_HANDLER, 0);
    if (!server->handlers.admit(server->handlers.context, request, &request->intake, &response)) {
        request->connection->linger = http_has_body(request);
        response.close = response.close || http_has_body(request);
        return http_answer(request, &response);
    }
    if (!request->intake.piece && request->head.length > server->config.body_max) {
        (void)http_too_large(server, &err);
        return http_refuse(request, &err);
    }
    if (http_has_body(request))
        http_watch_set(server->watch, request->connection->handle, HTTP_WATCH_BODY,
                       request->intake.piece ? server->config.idle_timeout_ms
                                             : server->config.body_timeout_ms);
    return MHD_YES;
}

/* Gives a piece away. The client's time begins again when it was taken. */
static int http_pass_on(struct http_request *request, const char *data, size_t size,
                        struct err *err)
{
    struct http_server *server = request->server;
    const struct http_intake *intake = &request->intake;
    http_watch_set(server->watch, request->connection->handle, HTTP_WATCH_HANDLER, 0);
    int result = intake->piece(intake->context, (const uint8_t *)data, size, err);
    http_watch_set(server->watch, request->connection->handle, HTTP_WATCH_BODY,
                   server->config.idle_timeout_ms);
    return result;
}

static enum MHD_Result http_take_body(struct http_request *request, const char *data, size_t size)
{
    struct http_server *server = request->server;
    struct err err = ERR_INIT;
    int result = 0;
    if (request->intake.piece)
        return http_pass_on(request, data, size, &err) == 0 ? MHD_YES
                                                            : http_refuse_body(request, &err);
    if (request->body.size + size > server->config.body_max)
        result = http_too_large(server, &err);
    if (result == 0) /* as it comes: an announced body that never does takes nothing */
        result = http_hold(request, size, &err);
    if (result == 0)
        result = buf_append(&request->body, data, size, &err);
    return result == 0 ? MHD_YES : http_refuse_body(request, &err);
}

static enum MHD_Result http_on_request(void *context, struct MHD_Connection *mhd, const char *url,
                                       const char *method, const char *version,
                                       const char *upload_data, size_t *upload_size,
                                       void **request_context)
{
    struct http_server *server = context;
    struct http_request *request = *request_context;
    struct http_response response = {0};
    (void)mhd;
    (void)url;
    if (!request || !request->connection)
        return MHD_NO;
    request->method = method;
    if (!request->begun)
        return http_take_head(request, version);
    if (*upload_size > 0) {
        enum MHD_Result taken = http_take_body(request, upload_data, *upload_size);
        *upload_size = 0;
        return taken;
    }
    http_watch_set(server->watch, request->connection->handle, HTTP_WATCH_HANDLER, 0);
    server->handlers.handle(server->handlers.context, request, &response);
    return http_answer(request, &response);
}

/* Called when the request line is whole. */
static void *http_on_target(void *context, const char *target, struct MHD_Connection *mhd)
{
    struct http_server *server = context;
    struct http_request *request = calloc(1, sizeof(*request));
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    if (!request)
        return NULL;
    request->server = server;
    request->connection = info ? info->socket_context : NULL;
    request->mhd = mhd;
    request->raw_target = target;
    request->target = target ? strdup(target) : NULL;
    buf_init(&request->body, server->config.body_max);
    /* The first head's time began when the connection was accepted. */
    if (request->connection && request->connection->served)
        http_watch_set(server->watch, request->connection->handle, HTTP_WATCH_HEAD,
                       server->config.head_timeout_ms);
    return request;
}

static void http_on_completed(void *context, struct MHD_Connection *mhd, void **request_context,
                              enum MHD_RequestTerminationCode how)
{
    struct http_server *server = context;
    struct http_request *request = *request_context;
    (void)mhd;
    (void)how;
    *request_context = NULL;
    if (!request)
        return;
    if (request->connection) {
        request->connection->served = true;
        http_watch_set(server->watch, request->connection->handle, HTTP_WATCH_IDLE,
                       server->config.idle_timeout_ms);
    }
    if (request->intake.free)
        request->intake.free(request->intake.context);
    if (request->upgrade_free)
        request->upgrade_free(request->upgrade_context);
    atomic_fetch_sub(&server->bodies_held, request->held_bytes);
    buf_done(&request->body);
    http_head_free_query(request->query);
    free(request->path);
    free(request->target);
    free(request);
}

static void http_on_connection(void *context, struct MHD_Connection *mhd, void **socket_context,
                               enum MHD_ConnectionNotificationCode what)
{
    struct http_server *server = context;
    struct http_connection *connection = *socket_context;
    if (what == MHD_CONNECTION_NOTIFY_STARTED) {
        const union MHD_ConnectionInfo *info =
            MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD);
        server->open++;
        server->accepted++;
        connection = info ? calloc(1, sizeof(*connection)) : NULL;
        if (!connection)
            return; /* its requests are closed without an answer */
        connection->fd = info->connect_fd;
        connection->handle =
            http_watch_add(server->watch, connection->fd, server->config.head_timeout_ms);
        if (connection->handle == 0) /* nobody would hold its deadlines */
            (void)shutdown(connection->fd, SHUT_RDWR);
        *socket_context = connection;
        /* The last place is taken: those that only keep one warm make room. */
        if (server->open >= server->config.connection_max)
            http_watch_shut_idle(server->watch);
        return;
    }
    server->open--;
    if (connection)
        http_watch_remove(server->watch, connection->handle, connection->linger);
    free(connection);
    *socket_context = NULL;
}

/* Targets stay as they came: http_head.c decodes them, so that an escaped NUL is seen. */
static size_t http_keep_escapes(void *context, struct MHD_Connection *mhd, char *text)
{
    (void)context;
    (void)mhd;
    return strlen(text);
}

static struct MHD_Daemon *http_start(struct http_server *server, int listen_fd)
{
    return MHD_start_daemon(
        MHD_USE_THREAD_PER_CONNECTION | MHD_USE_POLL_INTERNAL_THREAD | MHD_USE_ITC |
            MHD_ALLOW_UPGRADE,
        0, NULL, NULL, http_on_request, server, MHD_OPTION_LISTEN_SOCKET, listen_fd,
        MHD_OPTION_THREAD_STACK_SIZE, (size_t)HTTP_STACK_BYTES, MHD_OPTION_CONNECTION_LIMIT,
        server->config.connection_max, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
        2 * server->config.head_max + 2 * (size_t)HTTP_STREAM_BLOCK,
        /* Its own strictness answers twice on one request; http_head.c asks for the same and more.
         */
        MHD_OPTION_STRICT_FOR_CLIENT, 0, MHD_OPTION_CONNECTION_TIMEOUT, 0U,
        MHD_OPTION_URI_LOG_CALLBACK, http_on_target, server, MHD_OPTION_UNESCAPE_CALLBACK,
        http_keep_escapes, NULL, MHD_OPTION_NOTIFY_COMPLETED, http_on_completed, server,
        MHD_OPTION_NOTIFY_CONNECTION, http_on_connection, server, MHD_OPTION_END);
}

int http_server_new(const struct http_config *config, const struct http_handlers *handlers,
                    struct http_server **out, struct err *err)
{
    struct http_server *server = calloc(1, sizeof(*server));
    if (!server)
        return err_set(err, ERR_INTERNAL, "no memory for the HTTP server");
    server->config = *config;
    server->handlers = *handlers;
    int result = http_watch_new(config->connection_max, &server->watch, err);
    /* libmicrohttpd closes the descriptor that it was given. */
    int listen_fd = result < 0 ? -1 : fcntl(config->listen_fd, F_DUPFD_CLOEXEC, 3);
    if (result == 0 && listen_fd < 0)
        result = err_sys(err, errno, "duplicating the listening socket");
    if (result == 0)
        result = fd_set_nonblocking(listen_fd, true, err);
    if (result == 0 && !(server->daemon = http_start(server, listen_fd)))
        result = err_set(err, ERR_INTERNAL, "libmicrohttpd did not start");
    if (result < 0) {
        fd_close(&listen_fd);
        http_watch_free(server->watch);
        free(server);
        return result;
    }
    *out = server;
    return 0;
}

/* Waits until nothing is busy; connections that only idle are shut meanwhile. */
static void http_wait_idle(struct http_server *server, int wait_ms)
{
    for (int waited_ms = 0; waited_ms < wait_ms; waited_ms += 20) {
        http_watch_shut_all(server->watch, false);
        if (http_watch_busy(server->watch) == 0)
            return;
        (void)poll(NULL, 0, 20);
    }
}

void http_server_free(struct http_server *server)
{
    if (!server)
        return;
    int listen_fd = MHD_quiesce_daemon(server->daemon);
    fd_close(&listen_fd);
    http_wait_idle(server, HTTP_STOP_WAIT_MS);
    http_watch_shut_all(server->watch, true);
    http_wait_idle(server, HTTP_STOP_KILL_MS);
    MHD_stop_daemon(server->daemon);
    http_watch_free(server->watch);
    free(server);
}

void http_server_stats(struct http_server *server, struct http_stats *out)
{
    out->open = server->open;
    out->accepted = server->accepted;
    out->refused = server->refused;
    out->timed_out = http_watch_timed_out(server->watch);
}
