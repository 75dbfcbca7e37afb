/* Owns POST /execute: one call, one execution in a sandbox of its own. */
#include "api/call.h"
#include "api/request.h"
#include "api/stream.h"
#include "core/answer.h"
#include "core/core.h"
#include "wire/events.h"

static int run_streamed(struct core *core, void *subject, const struct execution_sink *sink,
                        struct answer *out, struct err *err)
{
    const struct api_request *request = subject;
    return core_execute(core, &request->execution, sink, true, out, err);
}

int api_execute(struct api_call *call, struct err *err)
{
    struct api_request *request = NULL;
    enum events_format format = events_negotiate(http_request_header(call->request, "Accept"));
    int result = api_request_new(call, API_REQUEST_EXECUTE, &request, err);
    if (result < 0)
        return result;
    if (format != EVENTS_NONE)
        return api_stream_request(call, format, request, run_streamed, err);
    ANSWER_AUTO struct answer answer = {0};
    result = core_execute(call->api->config.core, &request->execution, NULL, false, &answer, err);
    api_request_free(request);
    return result == 0 ? api_answer(call, &answer, true, err) : result;
}
