/* Owns POST /execute: one call, one execution in a sandbox of its own. */
#include "api/call.h"
#include "api/request.h"
#include "api/stream.h"
#include "core/core.h"
#include "wire/events.h"

int api_execute(struct api_call *call, struct err *err)
{
    struct api_request *request = NULL;
    enum events_format format = events_negotiate(http_request_header(call->request, "Accept"));
    int result = api_request_new(call, &request, err);
    if (result < 0)
        return result;
    if (format != EVENTS_NONE)
        return api_stream_start(call, format, request, err);
    result = core_execute(call->api->config.core, &request->execution, NULL, false,
                          &call->response->body, err);
    api_request_free(request);
    return result;
}
