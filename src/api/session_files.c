/* Owns the routes of a session's files: raw bytes in and out, ranges, and what a file is called on
 * the way. Holds no file: a download is pulled by the answer, an upload pushed by the request. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "api/call.h"
#include "base/clock.h"
#include "base/mem.h"
#include "core/session_files.h"
#include "wire/http_range.h"
#include "wire/json.h"

enum { ETAG_SIZE = 72, READ_TRIES = 3 };

/* ---- out of the session ---- */

/* Strong: the inode and the time that the kernel counts change with every write, and no code sets
 * them. (Two writes within a tick of the kernel's clock, that leave the size, look like one.) */
static void etag_of(const struct sandbox_file_info *info, char out[static ETAG_SIZE])
{
    (void)snprintf(out, ETAG_SIZE, "\"%" PRIx64 "-%" PRIx64 "-%" PRIx64 "\"", info->inode,
                   info->size_bytes, (uint64_t)info->changed_ns);
}

static bool is_same(const struct sandbox_file_info *one, const struct sandbox_file_info *other)
{
    return one->inode == other->inode && one->size_bytes == other->size_bytes &&
           one->changed_ns == other->changed_ns;
}

/* The fields of every answer about a file. The bytes are whatever code wrote: a browser is to save
 * them, never to show them as a page of this server. */
static int put_fields(struct http_response *response, const struct sandbox_file_info *info,
                      struct err *err)
{
    char etag[ETAG_SIZE];
    char modified[64];
    time_t seconds = (time_t)(info->modified_ns / CLOCK_NS_PER_S);
    struct tm parts;
    etag_of(info, etag);
    response->content_type = "application/octet-stream";
    int result = http_response_header(response, "Accept-Ranges", "bytes", err);
    if (result == 0)
        result = http_response_header(response, "ETag", etag, err);
    if (result == 0)
        result = http_response_header(response, "Content-Disposition", "attachment", err);
    /* Code may set any time; one that HTTP has no form for is left out. */
    if (result != 0 || info->modified_ns < 0 || !gmtime_r(&seconds, &parts) ||
        parts.tm_year + 1900 > 9999 ||
        strftime(modified, sizeof(modified), "%a, %d %b %Y %H:%M:%S GMT", &parts) == 0)
        return result;
    return http_response_header(response, "Last-Modified", modified, err);
}

/* Which part of the file is asked for. If-Range has to name the version that is there; a date never
 * does, since code can set the time of a file as it likes (RFC 9110 section 13.1.5: not strong). */
static enum http_range range_of(const struct http_request *request,
                                const struct sandbox_file_info *info, uint64_t *offset,
                                uint64_t *count)
{
    const char *wanted = http_request_header(request, "If-Range");
    char etag[ETAG_SIZE];
    etag_of(info, etag);
    if (wanted && strcmp(wanted, etag) != 0)
        return HTTP_RANGE_ALL;
    return http_range_parse(http_request_header(request, "Range"), info->size_bytes, offset, count);
}

static int next_piece(void *context, struct buf *out, struct err *err)
{
    return core_session_file_next(context, out, err);
}

static void close_file(void *context)
{
    core_session_file_close(context);
}

static int answer_range(struct http_response *response, const struct sandbox_file_info *info,
                        uint64_t offset, uint64_t count, struct err *err)
{
    char range[96];
    response->status = 206;
    (void)snprintf(range, sizeof(range), "bytes %" PRIu64 "-%" PRIu64 "/%" PRIu64, offset,
                   offset + count - 1, info->size_bytes);
    return http_response_header(response, "Content-Range", range, err);
}

/* No byte of what was asked for is there; how many there are is said. */
static int answer_no_range(struct http_response *response, const struct sandbox_file_info *info,
                           struct err *err)
{
    char range[64];
    (void)snprintf(range, sizeof(range), "bytes */%" PRIu64, info->size_bytes);
    int result = http_response_header(response, "Content-Range", range, err);
    if (result == 0)
        result =
            err_public(err, ERR_RANGE, "Range: the file has %" PRIu64 " bytes", info->size_bytes);
    return result;
}

/* Gives the file to the answer, which reads it and closes it. */
static void stream_file(struct http_response *response, struct session_file **file, uint64_t size)
{
    response->stream = next_piece;
    response->stream_sized = true;
    response->stream_size = size;
    response->stream_context = *file;
    response->stream_free = close_file;
    *file = NULL;
}

/* The whole: one question, since what comes first says how long it is. */
static int get_whole(struct api_call *call, struct session_file **file, const char *path,
                     struct err *err)
{
    struct sandbox_file_info info;
    int result = core_session_file_read(*file, path, 0, 0, &info, err);
    if (result == 0)
        result = put_fields(call->response, &info, err);
    if (result == 0)
        stream_file(call->response, file, info.size_bytes);
    return result;
}

/* A part, or only what there is: a look first, and then the same version of the file has to be
 * read. Returns 1 when another one was there already. */
static int get_part(struct api_call *call, struct session_file **file, const char *path,
                    struct err *err)
{
    struct sandbox_file_info info;
    struct sandbox_file_info now;
    uint64_t offset = 0;
    uint64_t count = 0;
    int result = core_session_file_look(*file, path, &info, err);
    if (result != 0)
        return result;
    bool only_head = strcmp(http_request_method(call->request), "HEAD") == 0;
    enum http_range range = range_of(call->request, &info, &offset, &count);
    if (range == HTTP_RANGE_NONE && !only_head) /* Range is for GET (RFC 9110 section 14.2) */
        return answer_no_range(call->response, &info, err);
    if (range != HTTP_RANGE_PART || only_head)
        count = info.size_bytes;
    if (!only_head) {
        result = core_session_file_read(*file, path, offset, count, &now, err);
        if (result != 0 || !is_same(&info, &now))
            return result != 0 ? result : 1;
    }
    result = put_fields(call->response, &info, err);
    if (result == 0 && range == HTTP_RANGE_PART && !only_head)
        result = answer_range(call->response, &info, offset, count, err);
    if (result == 0)
        stream_file(call->response, file, count);
    return result;
}

static int get(struct api_call *call, struct session_file **file, struct err *err)
{
    const char *path = http_request_query(call->request, "path");
    bool whole = strcmp(http_request_method(call->request), "GET") == 0 &&
                 !http_request_header(call->request, "Range");
    if (whole)
        return get_whole(call, file, path, err);
    int result = 1;
    for (int i = 0; i < READ_TRIES && result == 1; i++)
        result = get_part(call, file, path, err);
    if (result == 1) {
        result = err_public(err, ERR_UNAVAILABLE,
                            "path: the file changes all the time; ask again, or for all of it");
        if (err)
            err->retry_after_s = 1;
    }
    return result;
}

int api_session_files_get(struct api_call *call, struct err *err)
{
    struct session_file *file = NULL;
    int result = core_session_file_open(call->api->config.core, call->owner, call->id,
                                        http_request_gone_fd(call->request), &file, err);
    if (result == 0)
        result = get(call, &file, err);
    core_session_file_close(file);
    return result;
}

/* ---- into it ---- */

static int take_piece(void *context, const uint8_t *data, size_t size, struct err *err)
{
    return core_session_file_take(context, data, size, err);
}

/* With the head alone: a session or a path that is none is refused before a byte is sent. */
int api_session_files_begin(struct api_call *call, struct http_intake *intake, struct err *err)
{
    struct session_file *file = NULL;
    if (http_request_header(call->request, "Content-Range"))
        return err_public(err, ERR_BAD_INPUT,
                          "Content-Range: a file is put as a whole (RFC 9110 section 14.5)");
    int result = core_session_file_open(call->api->config.core, call->owner, call->id,
                                        http_request_gone_fd(call->request), &file, err);
    if (result == 0)
        result = core_session_file_write(file, http_request_query(call->request, "path"), err);
    if (result != 0) {
        core_session_file_close(file);
        return result;
    }
    *intake = (struct http_intake){.context = file, .piece = take_piece, .free = close_file};
    return 0;
}

/* All of it was taken. */
int api_session_files_put(struct api_call *call, struct err *err)
{
    const char *path = http_request_query(call->request, "path");
    struct buf *out = &call->response->body;
    uint64_t size = 0;
    int result = core_session_file_end(http_request_intake(call->request), &size, err);
    if (result == 0)
        result = buf_append_str(out, "{\"path\":", err);
    if (result == 0)
        result = json_append_bytes(out, (const uint8_t *)path, strlen(path), err);
    return result == 0 ? buf_printf(out, err, ",\"size\":%" PRIu64 "}", size) : result;
}
