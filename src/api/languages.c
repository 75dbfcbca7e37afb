/* Owns GET /languages. What an image has, core knows. */
#include "core/languages.h"

#include "api/call.h"

int api_languages(struct api_call *call, struct err *err)
{
    const struct languages_ask ask = {.engine = http_request_query(call->request, "engine"),
                                      .image = http_request_query(call->request, "image")};
    return core_languages_json(call->api->config.core, &ask, http_request_gone_fd(call->request),
                               &call->response->body, err);
}
