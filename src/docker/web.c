/* Owns libcurl: its handles, its sockets on the loop, its timer. Refuses proxies, redirects and
 * protocols but HTTP. What an answer means is for others. */
#include "docker/web.h"

#include <curl/curl.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/mem.h"
#include "wire/json.h"

#include <jansson.h>

#define CONNECT_MS 10000L
#define BUSY_WORDS "the Docker host is too busy; try again"
enum {
    URL_MAX = 256 << 10,
    REPLY_MAX = 32 << 20,
    SAID_MAX = 200,
    FULL_RETRY_S = 30,
    BUSY_RETRY_S = 2
};

struct web_call {
    struct web *web;
    CURL *easy;
    struct curl_slist *headers;
    struct buf body; /* of the request */
    int body_fd;     /* or a file; -1: none */
    off_t body_at;
    struct buf reply;
    web_data_fn data;
    web_done_fn done;
    web_connected_fn connected;
    void *context;
    bool too_large;
    bool cut; /* data wanted no more */
    char reason[CURL_ERROR_SIZE];
    struct web_call *next;
};

/* A socket of libcurl's that is watched. */
struct web_socket {
    struct web *web;
    curl_socket_t fd;
    struct loop_watch *watch;
    struct web_socket *next;
};

struct web {
    struct loop *loop;
    const struct address *address;
    CURLM *multi;
    struct web_call *calls;
    struct web_call *connection; /* of web_connect(); not among the calls once connected */
    struct web_socket *sockets;
    struct loop_timer timer;
    unsigned
        inside; /* of libcurl, or of a callback: a web that is freed there lives until it ends */
    bool freed;
};

static void settle(struct web *web);

/* ---- libcurl's sockets and timer on the loop ---- */

static void enter(struct web *web)
{
    web->inside++;
}

static void free_web(struct web *web);

static void leave(struct web *web)
{
    web->inside--;
    if (web->inside == 0 && web->freed)
        free_web(web);
}

static void act(struct web *web, curl_socket_t fd, int what)
{
    int running = 0;
    enter(web);
    (void)curl_multi_socket_action(web->multi, fd, what, &running);
    settle(web);
    leave(web);
}

static void on_socket(void *context, uint32_t events)
{
    struct web_socket *socket = context;
    int what = 0;
    if ((events & (EPOLLIN | EPOLLHUP)) != 0)
        what |= CURL_CSELECT_IN;
    if ((events & EPOLLOUT) != 0)
        what |= CURL_CSELECT_OUT;
    if ((events & EPOLLERR) != 0)
        what |= CURL_CSELECT_ERR;
    act(socket->web, socket->fd, what);
}

static void on_timer(void *context)
{
    act(context, CURL_SOCKET_TIMEOUT, 0);
}

static void drop_socket(struct web *web, struct web_socket *socket)
{
    struct web_socket **link = &web->sockets;
    while (*link && *link != socket)
        link = &(*link)->next;
    if (*link)
        *link = socket->next;
    loop_unwatch(web->loop, &socket->watch);
    free(socket);
}

/* CURLMOPT_SOCKETFUNCTION(3) */
static int watch_socket(CURL *easy, curl_socket_t fd, int what, void *context, void *known)
{
    struct web *web = context;
    struct web_socket *socket = known;
    uint32_t events = 0;
    (void)easy;
    if (what == CURL_POLL_REMOVE) {
        if (socket)
            drop_socket(web, socket);
        return 0;
    }
    if ((what & CURL_POLL_IN) != 0)
        events |= EPOLLIN;
    if ((what & CURL_POLL_OUT) != 0)
        events |= EPOLLOUT;
    if (socket) {
        loop_watch_change(web->loop, socket->watch, events);
        return 0;
    }
    socket = calloc(1, sizeof(*socket));
    if (!socket)
        return -1;
    socket->web = web;
    socket->fd = fd;
    if (loop_watch(web->loop, fd, events, on_socket, socket, &socket->watch, NULL) != 0) {
        free(socket);
        return -1;
    }
    socket->next = web->sockets;
    web->sockets = socket;
    (void)curl_multi_assign(web->multi, fd, socket);
    return 0;
}

/* CURLMOPT_TIMERFUNCTION(3) */
static int set_timer(CURLM *multi, long timeout_ms, void *context)
{
    struct web *web = context;
    (void)multi;
    if (timeout_ms < 0)
        loop_stop_timer(&web->timer);
    else
        loop_set_timer(web->loop, &web->timer, clock_now_ns() + timeout_ms * CLOCK_NS_PER_MS,
                       on_timer, web);
    return 0;
}

int web_new(struct loop *loop, const struct address *address, struct web **out, struct err *err)
{
    struct web *web = calloc(1, sizeof(*web));
    CURLM *multi = web ? curl_multi_init() : NULL;
    if (!multi) {
        free(web);
        return err_set(err, ERR_INTERNAL, "no memory for libcurl");
    }
    web->loop = loop;
    web->address = address;
    web->multi = multi;
    (void)curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, watch_socket);
    (void)curl_multi_setopt(multi, CURLMOPT_SOCKETDATA, web);
    (void)curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, set_timer);
    (void)curl_multi_setopt(multi, CURLMOPT_TIMERDATA, web);
    (void)curl_multi_setopt(multi, CURLMOPT_PIPELINING, CURLPIPE_NOTHING);
    *out = web;
    return 0;
}

/* ---- calls ---- */

static void free_call(struct web_call *call)
{
    if (!call)
        return;
    if (call->easy) {
        (void)curl_multi_remove_handle(call->web->multi, call->easy);
        curl_easy_cleanup(call->easy);
    }
    curl_slist_free_all(call->headers);
    fd_close(&call->body_fd);
    buf_done(&call->body);
    buf_done(&call->reply);
    free(call);
}

static void unlink_call(struct web_call *call)
{
    struct web_call **link = &call->web->calls;
    while (*link && *link != call)
        link = &(*link)->next;
    if (*link)
        *link = call->next;
}

static void free_web(struct web *web)
{
    while (web->calls) {
        struct web_call *call = web->calls;
        web->calls = call->next;
        free_call(call);
    }
    free_call(web->connection);
    (void)curl_multi_cleanup(web->multi);
    while (web->sockets)
        drop_socket(web, web->sockets);
    loop_stop_timer(&web->timer);
    free(web);
}

void web_free(struct web *web)
{
    if (!web)
        return;
    web->freed = true;
    if (web->inside == 0)
        free_web(web);
}

/* What the operator has to mend; NULL: the network, or the daemon. The daemon looks at our
 * certificate after libcurl takes the handshake for done (TLS 1.3), so its refusal comes as an
 * alert in the answer's place. */
static const char *tls_words(CURLcode code, const char *reason)
{
    if (code == CURLE_PEER_FAILED_VERIFICATION)
        return "the Docker daemon's certificate is not trusted";
    if (code == CURLE_SSL_CERTPROBLEM || code == CURLE_SSL_CACERT_BADFILE)
        return "a file in DOCKER_CERT_PATH is missing or broken: ca.pem, cert.pem or key.pem";
    if ((code == CURLE_RECV_ERROR || code == CURLE_SSL_CONNECT_ERROR) && strstr(reason, " alert "))
        return "the Docker daemon refuses the certificate in DOCKER_CERT_PATH";
    if (code == CURLE_SSL_CONNECT_ERROR && strstr(reason, "wrong version number"))
        return "the Docker daemon does not speak TLS";
    return NULL;
}

static int fail(struct err *err, const struct web_call *call, CURLcode code)
{
    const char *reason = call->reason[0] != '\0' ? call->reason : curl_easy_strerror(code);
    const char *shown = call->web->address->shown;
    if (call->too_large)
        return err_set(err, ERR_TOO_LARGE, "the Docker daemon's answer is too large");
    if (code == CURLE_OPERATION_TIMEDOUT)
        return err_set(err, ERR_TIMEOUT, "the Docker daemon at %.100s: %.160s", shown, reason);
    const char *words = tls_words(code, reason);
    int result =
        err_set(err, ERR_UNAVAILABLE, "the Docker daemon at %.100s: %.160s", shown, reason);
    if (err && words)
        (void)snprintf(err->public_message, sizeof(err->public_message), "%s", words);
    return result;
}

static void finish(struct web *web, struct web_call *call, CURLcode code)
{
    struct err err = ERR_INIT;
    long status = 0;
    bool failed = code != CURLE_OK && !call->cut;
    if (failed)
        (void)fail(&err, call, code);
    if (call->connected) {
        /* Its handle keeps the connection for as long as it is in the multi one. */
        unlink_call(call);
        call->next = NULL;
        if (failed)
            free_call(call);
        else
            web->connection = call;
        web_connected_fn connected = call->connected;
        void *context = call->context;
        connected(context, failed ? &err : NULL);
        return;
    }
    (void)curl_easy_getinfo(call->easy, CURLINFO_RESPONSE_CODE, &status);
    unlink_call(call);
    call->done(call->context, status, &call->reply, failed ? &err : NULL);
    free_call(call);
}

static void settle(struct web *web)
{
    int left = 0;
    CURLMsg *message = NULL;
    while (!web->freed && (message = curl_multi_info_read(web->multi, &left)) != NULL) {
        struct web_call *call = NULL;
        CURLcode code = message->data.result;
        if (message->msg != CURLMSG_DONE)
            continue;
        (void)curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **)&call);
        finish(web, call, code);
    }
}

/* CURLOPT_WRITEFUNCTION(3) */
static size_t on_reply(char *data, size_t one, size_t size, void *context)
{
    struct web_call *call = context;
    long status = 0;
    (void)one;
    (void)curl_easy_getinfo(call->easy, CURLINFO_RESPONSE_CODE, &status);
    if (call->data && status < 300) {
        if (call->data(call->context, data, size))
            return size;
        call->cut = true;
        return 0;
    }
    if (buf_append(&call->reply, data, size, NULL) == 0)
        return size;
    call->too_large = true;
    return 0;
}

static void set_address(CURL *easy, const struct address *address)
{
    if (address->socket_path[0] != '\0')
        (void)curl_easy_setopt(easy, CURLOPT_UNIX_SOCKET_PATH, address->socket_path);
    (void)curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    (void)curl_easy_setopt(easy, CURLOPT_NOPROXY, "*");
    (void)curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    (void)curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    (void)curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L);
    (void)curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, CONNECT_MS);
    (void)curl_easy_setopt(easy, CURLOPT_USERAGENT, "berth/" BERTH_VERSION);
    if (strncmp(address->base, "https", 5) != 0)
        return;
    (void)curl_easy_setopt(easy, CURLOPT_SSL_VERIFYPEER, address->verify ? 1L : 0L);
    (void)curl_easy_setopt(easy, CURLOPT_SSL_VERIFYHOST, address->verify ? 2L : 0L);
    if (address->ca_path[0] != '\0')
        (void)curl_easy_setopt(easy, CURLOPT_CAINFO, address->ca_path);
    if (address->cert_path[0] != '\0') {
        (void)curl_easy_setopt(easy, CURLOPT_SSLCERT, address->cert_path);
        (void)curl_easy_setopt(easy, CURLOPT_SSLKEY, address->key_path);
    }
}

/* Makes a call that has yet to be given to libcurl. */
static struct web_call *make_call(struct web *web, const char *path, int64_t timeout_ns,
                                  struct err *err)
{
    BUF_AUTO struct buf url;
    buf_init(&url, URL_MAX);
    if (buf_printf(&url, err, "%s%s", web->address->base, path) != 0)
        return NULL;
    const char *whole = buf_cstr(&url);
    struct web_call *call = whole ? calloc(1, sizeof(*call)) : NULL;
    CURL *easy = call ? curl_easy_init() : NULL;
    if (!easy) {
        free(call);
        (void)err_set(err, ERR_INTERNAL, "no memory for a request");
        return NULL;
    }
    call->web = web;
    call->easy = easy;
    call->body_fd = -1;
    buf_init(&call->reply, REPLY_MAX);
    set_address(easy, web->address);
    (void)curl_easy_setopt(easy, CURLOPT_URL, whole);
    (void)curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, call->reason);
    (void)curl_easy_setopt(easy, CURLOPT_PRIVATE, call);
    (void)curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_reply);
    (void)curl_easy_setopt(easy, CURLOPT_WRITEDATA, call);
    if (timeout_ns > 0)
        (void)curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long)(timeout_ns / CLOCK_NS_PER_MS));
    return call;
}

static int add_call(struct web_call *call, struct err *err)
{
    struct web *web = call->web;
    if (curl_multi_add_handle(web->multi, call->easy) != CURLM_OK) {
        free_call(call);
        return err_set(err, ERR_INTERNAL, "libcurl takes no request");
    }
    call->next = web->calls;
    web->calls = call;
    return 0;
}

/* CURLOPT_READFUNCTION(3) */
static size_t on_body(char *out, size_t one, size_t count, void *context)
{
    struct web_call *call = context;
    ssize_t size = pread(call->body_fd, out, one * count, call->body_at);
    if (size < 0)
        return CURL_READFUNC_ABORT;
    call->body_at += size;
    return (size_t)size;
}

static int set_file(struct web_call *call, const struct web_request *request)
{
    call->body_fd = fcntl(request->body_fd, F_DUPFD_CLOEXEC, 3);
    if (call->body_fd < 0)
        return -ERR_INTERNAL;
    (void)curl_easy_setopt(call->easy, CURLOPT_UPLOAD, 1L);
    (void)curl_easy_setopt(call->easy, CURLOPT_READFUNCTION, on_body);
    (void)curl_easy_setopt(call->easy, CURLOPT_READDATA, call);
    (void)curl_easy_setopt(call->easy, CURLOPT_INFILESIZE_LARGE, (curl_off_t)request->body_size);
    return 0;
}

static int add_header(struct web_call *call, const char *header)
{
    struct curl_slist *more = curl_slist_append(call->headers, header);
    if (!more)
        return -ERR_INTERNAL;
    call->headers = more;
    return 0;
}

static int set_body(struct web_call *call, const struct web_request *request)
{
    char type[128];
    if (request->body_size > 0 && set_file(call, request) != 0)
        return -ERR_INTERNAL;
    if (request->body) {
        call->body = *request->body;
        *request->body = (struct buf){.max = call->body.max};
        (void)curl_easy_setopt(call->easy, CURLOPT_POSTFIELDS, call->body.data);
    }
    (void)snprintf(type, sizeof(type), "Content-Type: %s",
                   request->type ? request->type : "application/json");
    return add_header(call, type) == 0 ? add_header(call, "Expect:") : -ERR_INTERNAL;
}

int web_start(struct web *web, const struct web_request *request, struct web_call **out,
              struct err *err)
{
    struct web_call *call = make_call(web, request->path, request->timeout_ns, err);
    if (!call)
        return -ERR_INTERNAL;
    if (request->idle_ns > 0) { /* CURLOPT_LOW_SPEED_TIME(3): seconds below so many bytes each */
        (void)curl_easy_setopt(call->easy, CURLOPT_LOW_SPEED_LIMIT, 1L);
        (void)curl_easy_setopt(call->easy, CURLOPT_LOW_SPEED_TIME,
                               (long)(request->idle_ns / CLOCK_NS_PER_S));
    }
    call->data = request->data;
    call->done = request->done;
    call->context = request->context;
    bool has_body = request->body || request->body_size > 0;
    if ((has_body && set_body(call, request) != 0) ||
        (request->header && add_header(call, request->header) != 0)) {
        free_call(call);
        return err_set(err, ERR_INTERNAL, "no memory for a request");
    }
    (void)curl_easy_setopt(call->easy, CURLOPT_HTTPHEADER, call->headers);
    if (request->body || (!has_body && strcmp(request->method, "POST") == 0)) {
        if (!request->body)
            (void)curl_easy_setopt(call->easy, CURLOPT_POSTFIELDS, "");
        (void)curl_easy_setopt(call->easy, CURLOPT_POSTFIELDSIZE_LARGE,
                               (curl_off_t)call->body.size);
    }
    (void)curl_easy_setopt(call->easy, CURLOPT_CUSTOMREQUEST, request->method);
    int result = add_call(call, err);
    if (result == 0)
        *out = call;
    return result;
}

void web_cancel(struct web_call **call)
{
    struct web_call *cancelled = *call;
    if (!cancelled)
        return;
    *call = NULL;
    unlink_call(cancelled);
    free_call(cancelled);
}

void web_fail(struct web *web, const struct err *error)
{
    enter(web);
    while (!web->freed && web->calls) {
        struct web_call *call = web->calls;
        web->calls = call->next;
        if (call->connected)
            call->connected(call->context, error);
        else
            call->done(call->context, 0, &call->reply, error);
        free_call(call);
    }
    leave(web);
}

/* ---- a connection for other bytes ---- */

int web_connect(struct web *web, int64_t timeout_ns, web_connected_fn connected, void *context,
                struct err *err)
{
    struct web_call *call = make_call(web, "/", timeout_ns, err);
    if (!call)
        return -ERR_INTERNAL;
    call->connected = connected;
    call->context = context;
    (void)curl_easy_setopt(call->easy, CURLOPT_CONNECT_ONLY, 1L);
    return add_call(call, err);
}

int web_fd(struct web *web)
{
    curl_socket_t fd = CURL_SOCKET_BAD;
    if (!web->connection ||
        curl_easy_getinfo(web->connection->easy, CURLINFO_ACTIVESOCKET, &fd) != CURLE_OK)
        return -1;
    return fd;
}

static ssize_t moved(const struct web *web, CURLcode code, size_t size, struct err *err)
{
    if (code == CURLE_AGAIN)
        return -ERR_UNAVAILABLE;
    if (code == CURLE_OK && size > 0)
        return (ssize_t)size;
    if (code == CURLE_OK)
        return err_set(err, ERR_CLOSED, "the Docker daemon ended the connection");
    (void)fail(err, web->connection, code);
    if (err)
        err->kind = ERR_CLOSED;
    return -ERR_CLOSED;
}

ssize_t web_send(struct web *web, const void *data, size_t size, struct err *err)
{
    size_t sent = 0;
    CURLcode code = curl_easy_send(web->connection->easy, data, size, &sent);
    return moved(web, code, sent, err);
}

ssize_t web_receive(struct web *web, void *data, size_t size, struct err *err)
{
    size_t received = 0;
    CURLcode code = curl_easy_recv(web->connection->easy, data, size, &received);
    return moved(web, code, received, err);
}

/* ---- what the daemon says ---- */

/* {"message": "..."}; Podman says {"cause", "message", "response"}. */
static const char *message_of(const struct buf *body, struct json_t **json, struct buf *raw)
{
    const char *said = NULL;
    if (body->size > 0 && json_parse_object(body->data, body->size, json, NULL) == 0 &&
        json_get_text(*json, "message", &said, NULL, NULL) == 0 && said)
        return said;
    size_t size = body->size < SAID_MAX ? body->size : SAID_MAX;
    if (buf_append(raw, body->data, size, NULL) == 0 && size > 0)
        said = buf_cstr(raw);
    return said ? said : "";
}

int web_refused(long status, const struct buf *body, const char *what, struct err *err)
{
    static const struct {
        const char *said;
        const char *words;
        unsigned retry_after_s;
    } known[] = {
        {"no space left on device", "the Docker host has no space left", FULL_RETRY_S},
        {"resource temporarily unavailable", BUSY_WORDS, BUSY_RETRY_S}, /* it could not fork, say */
        {"cannot allocate memory", BUSY_WORDS, BUSY_RETRY_S},
        {"too many open files", BUSY_WORDS, BUSY_RETRY_S},
        {"HTTP request to an HTTPS server",
         "the Docker daemon speaks TLS: DOCKER_CERT_PATH has to name a folder of certificates",
         BUSY_RETRY_S},
    };
    JSON_AUTO struct json_t *json = NULL;
    BUF_AUTO struct buf raw;
    buf_init(&raw, SAID_MAX + 1);
    const char *said = message_of(body, &json, &raw);
    const char *words = NULL;
    unsigned retry_after_s = BUSY_RETRY_S;
    if (status == 429 || (status >= 502 && status <= 504))
        words = "the Docker daemon takes no requests now; try again";
    for (size_t i = 0; i < ARRAY_SIZE(known); i++) {
        if (strstr(said, known[i].said)) {
            words = known[i].words;
            retry_after_s = known[i].retry_after_s;
        }
    }
    if (!words) {
        enum err_kind kind = status == 404   ? ERR_NOT_FOUND
                             : status == 409 ? ERR_CONFLICT
                                             : ERR_INTERNAL;
        return err_set(err, kind, "%s: the Docker daemon answered %ld: %.200s", what, status, said);
    }
    (void)err_public(err, ERR_UNAVAILABLE, "%s", words);
    if (err)
        err->retry_after_s = retry_after_s;
    (void)err_wrap(err, "%s: %ld: %.200s", what, status, said);
    return -ERR_UNAVAILABLE;
}
