/* Owns the routes of executions as objects: list, look up, cancel. */
#include "api/call.h"

#include "base/parse.h"
#include "core/core.h"

#define EXECUTIONS_LIMIT_DEFAULT 100
#define EXECUTIONS_LIMIT_MAX 1000

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
    return core_execution_get(call->api->config.core, call->owner, call->id, &call->response->body,
                              err);
}

int api_executions_cancel(struct api_call *call, struct err *err)
{
    return core_execution_cancel(call->api->config.core, call->owner, call->id,
                                 &call->response->body, err);
}
