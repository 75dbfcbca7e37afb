/* Owns the routes of executions as objects: list, look up, cancel, follow. */
#include "api/call.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/stream.h"
#include "base/parse.h"
#include "core/answer.h"
#include "core/core.h"

#define EXECUTIONS_LIMIT_DEFAULT 100
#define EXECUTIONS_LIMIT_MAX 1000
#define WHOLE_MAX (16U * 1024U) /* raw: a smaller answer is written at once */

bool api_execution_id(const struct buf *object, char id[static SANDBOX_ID_MAX + 1])
{
    static const char start[] = "{\"execution_id\":\"";
    size_t skip = sizeof(start) - 1;
    if (object->size <= skip || memcmp(object->data, start, skip) != 0)
        return false;
    const uint8_t *end = memchr(object->data + skip, '"', object->size - skip);
    size_t size = end ? (size_t)(end - object->data) - skip : 0;
    if (size == 0 || size > SANDBOX_ID_MAX)
        return false;
    memcpy(id, object->data + skip, size);
    id[size] = '\0';
    return true;
}

static int produce(void *context, struct buf *out, struct err *err)
{
    return answer_next(context, out, err);
}

static void free_answer(void *context)
{
    struct answer *answer = context;
    answer_done(answer);
    free(answer);
}

/* The length is told: a client sees an answer that was cut off, whatever its HTTP version. */
static int stream_answer(struct http_response *response, struct answer *answer, struct err *err)
{
    uint64_t size = 0;
    int result = answer_measure(answer, &size, err);
    struct answer *kept = result == 0 ? malloc(sizeof(*kept)) : NULL;
    if (!kept)
        return result != 0 ? result : err_set(err, ERR_INTERNAL, "no memory for an answer");
    *kept = *answer;
    *answer = (struct answer){0};
    response->stream = produce;
    response->stream_sized = true;
    response->stream_size = size;
    response->stream_context = kept;
    response->stream_free = free_answer;
    return 0;
}

int api_answer(struct api_call *call, struct answer *answer, bool named, struct err *err)
{
    char id[SANDBOX_ID_MAX + 1];
    struct http_response *response = call->response;
    int result = named && api_execution_id(answer_begin(answer), id)
                     ? http_response_header(response, "X-Execution-Id", id, err)
                     : 0;
    if (result == 0)
        result = answer_raw_bytes(answer) > WHOLE_MAX ? stream_answer(response, answer, err)
                                                      : answer_rest(answer, &response->body, err);
    answer_done(answer);
    return result;
}

int api_executions_list(struct api_call *call, struct err *err)
{
    const char *limit_text = http_request_query(call->request, "limit");
    uint64_t limit = EXECUTIONS_LIMIT_DEFAULT;
    struct err problem = ERR_INIT;
    if (limit_text && parse_u64(limit_text, 1, EXECUTIONS_LIMIT_MAX, &limit, &problem) < 0)
        return err_public(err, ERR_BAD_INPUT, "limit: %.300s", problem.public_message);
    return core_execution_list(
        call->api->config.core, call->owner, http_request_query(call->request, "status"),
        http_request_query(call->request, "after"), (unsigned)limit, &call->response->body, err);
}

int api_executions_get(struct api_call *call, struct err *err)
{
    ANSWER_AUTO struct answer answer = {0};
    int result = core_execution_get(call->api->config.core, call->owner, call->id, &answer, err);
    return result == 0 ? api_answer(call, &answer, false, err) : result;
}

int api_executions_cancel(struct api_call *call, struct err *err)
{
    ANSWER_AUTO struct answer answer = {0};
    int result = core_execution_cancel(call->api->config.core, call->owner, call->id, &answer, err);
    return result == 0 ? api_answer(call, &answer, false, err) : result;
}

/* One that is followed. */
struct followed {
    char owner[64];
    char id[SANDBOX_ID_MAX + 1];
    struct execution_follow ask; /* points to both */
};

static int follow(struct core *core, void *subject, const struct execution_sink *sink,
                  struct answer *out, struct err *err)
{
    const struct followed *followed = subject;
    return core_execution_follow(core, &followed->ask, sink, out, err);
}

/* ?follow=0: only what there is. */
static int read_follow(const struct http_request *request, bool *out, struct err *err)
{
    const char *text = http_request_query(request, "follow");
    if (text && strcmp(text, "0") != 0 && strcmp(text, "1") != 0)
        return err_public(err, ERR_BAD_INPUT, "follow: expected 0 or 1");
    *out = !text || strcmp(text, "1") == 0;
    return 0;
}

int api_executions_events(struct api_call *call, struct err *err)
{
    const char *after_text = http_request_query(call->request, "after");
    enum events_format format = events_negotiate(http_request_header(call->request, "Accept"));
    struct err problem = ERR_INIT;
    uint64_t after = 0;
    if (after_text && parse_u64(after_text, 0, INT64_MAX, &after, &problem) < 0)
        return err_public(err, ERR_BAD_INPUT, "after: %.300s", problem.public_message);
    bool waits = true;
    if (read_follow(call->request, &waits, err) != 0)
        return -ERR_BAD_INPUT;
    struct followed *followed = calloc(1, sizeof(*followed));
    if (!followed)
        return err_set(err, ERR_INTERNAL, "no memory for a stream");
    (void)snprintf(followed->owner, sizeof(followed->owner), "%s", call->owner);
    (void)snprintf(followed->id, sizeof(followed->id), "%s", call->id);
    followed->ask = (struct execution_follow){.owner = followed->owner,
                                              .id = followed->id,
                                              .after = after,
                                              .only_known = !waits,
                                              .gone_fd = http_request_gone_fd(call->request)};
    const struct api_stream_source source = {.subject = followed,
                                             .run = follow,
                                             .free = free,
                                             .owner = followed->owner,
                                             .gone_fd = followed->ask.gone_fd,
                                             .after = after,
                                             .follows = true,
                                             .waits = true};
    return api_stream_start(call, format == EVENTS_NONE ? EVENTS_SSE : format, &source, err);
}
