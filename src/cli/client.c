/* Owns the use of libcurl. Knows nothing of what the paths and bodies mean. */
#include "cli/client.h"

#include <curl/curl.h>
#include <errno.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/fd.h"

enum { CONNECT_TIMEOUT_MS = 5000, POLL_MS = 10000 };

struct transfer {
    const struct client_request *request;
    CURL *easy;
    CURL *aside_easy; /* the newest of what signals made us send */
    struct curl_slist *headers;
    struct buf *answer;
    struct buf line; /* the start of a line whose end has not come yet */
    struct err err;
    int result; /* of the line callback */
};

const char *client_url(bool *is_default)
{
    static char url[1024];
    const char *wanted = getenv("BERTH_URL");
    *is_default = !wanted || !*wanted;
    (void)snprintf(url, sizeof(url), "%s", *is_default ? CLIENT_DEFAULT_URL : wanted);
    size_t size = strlen(url);
    while (size > 0 && url[size - 1] == '/')
        url[--size] = '\0';
    return url;
}

/* Gives out every whole line of data, and keeps the rest. */
static int take_lines(struct transfer *transfer, const char *data, size_t size)
{
    while (size > 0) {
        const char *end = memchr(data, '\n', size);
        size_t part = end ? (size_t)(end - data) : size;
        int result = buf_append(&transfer->line, data, part, &transfer->err);
        if (result != 0)
            return result;
        if (!end)
            return 0;
        if (transfer->line.size > 0) {
            const char *line = buf_cstr(&transfer->line);
            result = line ? transfer->request->line(transfer->request->context, line,
                                                    transfer->line.size, &transfer->err)
                          : err_set(&transfer->err, ERR_INTERNAL, "no memory for a line");
            transfer->line.size = 0;
        }
        if (result != 0)
            return result;
        data = end + 1;
        size -= part + 1;
    }
    return 0;
}

static size_t on_data(char *data, size_t one, size_t size, void *context)
{
    (void)one;
    struct transfer *transfer = context;
    long status = 0;
    (void)curl_easy_getinfo(transfer->easy, CURLINFO_RESPONSE_CODE, &status);
    if (transfer->request->line && status == 200)
        transfer->result = take_lines(transfer, data, size);
    else
        transfer->result = buf_append(transfer->answer, data, size, &transfer->err);
    return transfer->result == 0 ? size : 0;
}

static size_t on_ignored(char *data, size_t one, size_t size, void *context)
{
    (void)data;
    (void)one;
    (void)context;
    return size;
}

static CURL *new_easy(const struct client_request *request, const char *method, const char *path)
{
    CURL *easy = curl_easy_init();
    if (!easy)
        return NULL;
    char url[2048];
    (void)snprintf(url, sizeof(url), "%s%s", request->url, path);
    (void)curl_easy_setopt(easy, CURLOPT_URL, url);
    (void)curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, method);
    (void)curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    (void)curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    (void)curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_TIMEOUT_MS);
    (void)curl_easy_setopt(easy, CURLOPT_USERAGENT, "berth/" BERTH_VERSION);
    if (strncmp(request->url, "http://127.", 11) == 0)
        (void)curl_easy_setopt(easy, CURLOPT_NOPROXY, "*");
    return easy;
}

static int prepare(struct transfer *transfer, struct err *err)
{
    const struct client_request *request = transfer->request;
    transfer->easy = new_easy(request, request->method, request->path);
    if (!transfer->easy)
        return err_set(err, ERR_INTERNAL, "libcurl has no memory");
    char accept[128];
    (void)snprintf(accept, sizeof(accept), "Accept: %s",
                   request->accept ? request->accept : "application/json");
    transfer->headers = curl_slist_append(NULL, accept);
    if (request->body) {
        transfer->headers = curl_slist_append(transfer->headers, "Content-Type: application/json");
        transfer->headers = curl_slist_append(transfer->headers, "Expect:");
        (void)curl_easy_setopt(transfer->easy, CURLOPT_POSTFIELDS, request->body);
        (void)curl_easy_setopt(transfer->easy, CURLOPT_POSTFIELDSIZE_LARGE,
                               (curl_off_t)request->body_size);
    }
    (void)curl_easy_setopt(transfer->easy, CURLOPT_HTTPHEADER, transfer->headers);
    (void)curl_easy_setopt(transfer->easy, CURLOPT_WRITEFUNCTION, on_data);
    (void)curl_easy_setopt(transfer->easy, CURLOPT_WRITEDATA, transfer);
    return 0;
}

/* One that is still under way gives way. Returns false when there is nothing to send. */
static bool send_aside(struct transfer *transfer, CURLM *multi, int signal_number)
{
    const struct client_request *request = transfer->request;
    struct client_aside aside = request->signal(request->context, signal_number);
    if (!aside.method)
        return false;
    if (transfer->aside_easy) {
        (void)curl_multi_remove_handle(multi, transfer->aside_easy);
        curl_easy_cleanup(transfer->aside_easy);
    }
    transfer->aside_easy = new_easy(request, aside.method, aside.path);
    if (!transfer->aside_easy)
        return false;
    (void)curl_easy_setopt(transfer->aside_easy, CURLOPT_WRITEFUNCTION, on_ignored);
    return curl_multi_add_handle(multi, transfer->aside_easy) == CURLM_OK;
}

/* Whether the main request has ended; *code is its outcome. */
static bool is_finished(struct transfer *transfer, CURLM *multi, CURLcode *code)
{
    int left = 0;
    const CURLMsg *message = NULL;
    while ((message = curl_multi_info_read(multi, &left)) != NULL) {
        if (message->msg == CURLMSG_DONE && message->easy_handle == transfer->easy) {
            *code = message->data.result;
            return true;
        }
    }
    return false;
}

static int drive(struct transfer *transfer, CURLM *multi, int signal_fd, CURLcode *code,
                 struct err *err)
{
    bool signalled = false;
    struct signalfd_siginfo info;
    for (;;) {
        int running = 0;
        CURLMcode status = curl_multi_perform(multi, &running);
        if (status != CURLM_OK)
            return err_set(err, ERR_INTERNAL, "libcurl: %s", curl_multi_strerror(status));
        if (is_finished(transfer, multi, code))
            return 0;
        /* What came before a signal says what it is to end: that was taken first. */
        if (signalled && !send_aside(transfer, multi, (int)info.ssi_signo))
            return err_set(err, ERR_CLOSED, "interrupted");
        struct curl_waitfd extra = {.fd = signal_fd, .events = CURL_WAIT_POLLIN};
        (void)curl_multi_poll(multi, &extra, signal_fd >= 0 ? 1 : 0, signalled ? 0 : POLL_MS, NULL);
        signalled = signal_fd >= 0 && read(signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info);
    }
}

static int open_signals(sigset_t *before, int *out, struct err *err)
{
    sigset_t wanted;
    (void)sigemptyset(&wanted);
    (void)sigaddset(&wanted, SIGINT);
    (void)sigaddset(&wanted, SIGTERM);
    (void)sigprocmask(SIG_BLOCK, &wanted, before);
    *out = signalfd(-1, &wanted, SFD_CLOEXEC | SFD_NONBLOCK);
    return *out < 0 ? err_sys(err, errno, "signalfd") : 0;
}

static int judge(struct transfer *transfer, CURLcode code, long *status, struct err *err)
{
    if (transfer->result != 0)
        return err_copy(err, &transfer->err);
    if (code == CURLE_COULDNT_CONNECT || code == CURLE_COULDNT_RESOLVE_HOST)
        return err_set(err, ERR_UNAVAILABLE, "no server answers at %s", transfer->request->url);
    if (code != CURLE_OK)
        return err_set(err, ERR_CLOSED, "the answer of %s broke off: %s", transfer->request->url,
                       curl_easy_strerror(code));
    (void)curl_easy_getinfo(transfer->easy, CURLINFO_RESPONSE_CODE, status);
    return 0;
}

int client_send(const struct client_request *request, struct buf *answer, long *status,
                struct err *err)
{
    struct transfer transfer = {.request = request, .answer = answer};
    buf_init(&transfer.line, answer->max);
    FD_AUTO int signal_fd = -1;
    sigset_t before;
    (void)sigprocmask(SIG_BLOCK, NULL, &before);
    CURLcode code = CURLE_OK;
    CURLM *multi = curl_multi_init();
    int result = multi ? prepare(&transfer, err) : err_set(err, ERR_INTERNAL, "libcurl: no memory");
    if (result == 0 && request->signal)
        result = open_signals(&before, &signal_fd, err);
    if (result == 0 && curl_multi_add_handle(multi, transfer.easy) != CURLM_OK)
        result = err_set(err, ERR_INTERNAL, "libcurl refuses the request");
    if (result == 0)
        result = drive(&transfer, multi, signal_fd, &code, err);
    if (result == 0)
        result = judge(&transfer, code, status, err);
    CURL *handles[] = {transfer.easy, transfer.aside_easy};
    for (size_t i = 0; i < 2; i++) {
        if (handles[i] && multi)
            (void)curl_multi_remove_handle(multi, handles[i]);
        curl_easy_cleanup(handles[i]);
    }
    curl_slist_free_all(transfer.headers);
    if (multi)
        (void)curl_multi_cleanup(multi);
    buf_done(&transfer.line);
    (void)sigprocmask(SIG_SETMASK, &before, NULL);
    return result;
}

int client_refused(long status, struct buf *answer, struct err *err)
{
    json_t *body = json_loadb((const char *)answer->data, answer->size, 0, NULL);
    const char *detail = json_string_value(json_object_get(body, "detail"));
    const char *name = json_string_value(json_object_get(body, "error"));
    int result = 0;
    if (!detail && !name)
        result = err_set(err, ERR_PROTOCOL, "the server answered %ld and not like berth", status);
    else
        result = err_set(err, status == 404 ? ERR_NOT_FOUND : ERR_BAD_INPUT, "%s (HTTP %ld)",
                         detail ? detail : name, status);
    json_decref(body);
    return result;
}
