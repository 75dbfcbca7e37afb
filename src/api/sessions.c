/* Owns the routes of sessions: make, look up, run code, interrupt, renew, end. */
#include "core/session.h"

#include "api/call.h"
#include "api/request.h"
#include "api/stream.h"
#include "core/answer.h"
#include "wire/events.h"

int api_sessions_create(struct api_call *call, struct err *err)
{
    struct api_request *body = NULL;
    int result = api_request_new(call, API_REQUEST_SESSION, &body, err);
    if (result < 0)
        return result;
    const struct execution_request *asked = &body->execution;
    const struct session_request request = {.owner = asked->owner,
                                            .idempotency_key = asked->idempotency_key,
                                            .labels = asked->labels,
                                            .lang = asked->lang,
                                            .env = asked->env,
                                            .env_count = asked->env_count,
                                            .engine = asked->engine,
                                            .runtime = asked->runtime,
                                            .image = asked->image,
                                            .profile = asked->profile,
                                            .libraries = asked->libraries,
                                            .library_count = asked->library_count,
                                            .keep_template = asked->keep_template,
                                            .network = asked->network,
                                            .lifetime_ms = asked->timeout_ms,
                                            .idle_ms = body->idle_ms,
                                            .memory_bytes = asked->memory_bytes,
                                            .storage_bytes = asked->storage_bytes,
                                            .cpu_millis = asked->cpu_millis,
                                            .gpu_count = asked->gpu_count,
                                            .gone_fd = asked->gone_fd};
    result = core_session_create(call->api->config.core, &request, &call->response->body, err);
    api_request_free(body);
    return result;
}

int api_sessions_list(struct api_call *call, struct err *err)
{
    return core_session_list(call->api->config.core, call->owner, &call->response->body, err);
}

int api_sessions_get(struct api_call *call, struct err *err)
{
    return core_session_get(call->api->config.core, call->owner, call->id, &call->response->body,
                            err);
}

/* The one way from a body to core, streamed or not. */
static int execute(struct core *core, void *subject, const struct execution_sink *sink,
                   struct answer *out, struct err *err)
{
    const struct api_request *body = subject;
    const struct execution_request *asked = &body->execution;
    const struct session_execution request = {.owner = asked->owner,
                                              .session_id = body->session_id,
                                              .idempotency_key = asked->idempotency_key,
                                              .labels = asked->labels,
                                              .code = asked->code,
                                              .code_size = asked->code_size,
                                              .stdin_data = asked->stdin_data,
                                              .stdin_size = asked->stdin_size,
                                              .libraries = asked->libraries,
                                              .library_count = asked->library_count,
                                              .timeout_ms = asked->timeout_ms};
    return core_session_execute(core, &request, sink, sink != NULL, out, err);
}

int api_sessions_execute(struct api_call *call, struct err *err)
{
    struct api_request *body = NULL;
    enum events_format format = events_negotiate(http_request_header(call->request, "Accept"));
    int result = api_request_new(call, API_REQUEST_CELL, &body, err);
    if (result < 0)
        return result;
    body->execution.gone_fd = -1; /* it goes on when the client leaves */
    if (format != EVENTS_NONE)
        return api_stream_request(call, format, body, execute, err);
    ANSWER_AUTO struct answer answer = {0};
    result = execute(call->api->config.core, body, NULL, &answer, err);
    api_request_free(body);
    return result == 0 ? api_answer(call, &answer, true, err) : result;
}

int api_sessions_interrupt(struct api_call *call, struct err *err)
{
    return core_session_interrupt(call->api->config.core, call->owner, call->id,
                                  &call->response->body, err);
}

int api_sessions_renew(struct api_call *call, struct err *err)
{
    uint64_t timeout_ms = 0;
    uint64_t idle_ms = 0;
    int result = api_request_times(call, &timeout_ms, &idle_ms, err);
    return result == 0 ? core_session_renew(call->api->config.core, call->owner, call->id,
                                            timeout_ms, idle_ms, &call->response->body, err)
                       : result;
}

int api_sessions_delete(struct api_call *call, struct err *err)
{
    return core_session_delete(call->api->config.core, call->owner, call->id, &call->response->body,
                               err);
}
