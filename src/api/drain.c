/* Owns the routes of a drain: PUT begins it and waits, DELETE lifts it, GET tells. It ends the work
 * of every owner, so it is the operator's: by the rules of access.h that is who calls a loopback
 * server. PUT and DELETE, since a form of a web page can send neither. */
#include "core/drain.h"

#include "api/call.h"
#include "base/parse.h"

#define WAIT_DEFAULT_S 60
#define WAIT_MAX_S 600

int api_drain_begin(struct api_call *call, struct err *err)
{
    const char *text = http_request_query(call->request, "wait");
    struct err problem = ERR_INIT;
    uint64_t wait_s = WAIT_DEFAULT_S;
    if (text && parse_u64(text, 0, WAIT_MAX_S, &wait_s, &problem) < 0)
        return err_public(err, ERR_BAD_INPUT, "wait: %.300s", problem.public_message);
    return core_drain(call->api->config.core, wait_s * 1000, http_request_gone_fd(call->request),
                      &call->response->body, err);
}

int api_drain_lift(struct api_call *call, struct err *err)
{
    return core_drain_lift(call->api->config.core, &call->response->body, err);
}

int api_drain_get(struct api_call *call, struct err *err)
{
    return core_drain_get(call->api->config.core, &call->response->body, err);
}
