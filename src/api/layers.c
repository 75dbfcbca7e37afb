/* Owns the routes of library layers: what there is, and the end of one. They are shared by all
 * owners, so these are the operator's calls: by the rules of access.h that is who calls a loopback
 * server. */
#include "core/layers.h"

#include "api/call.h"

int api_layers_list(struct api_call *call, struct err *err)
{
    return core_layers_list(call->api->config.core, &call->response->body, err);
}

int api_layers_remove(struct api_call *call, struct err *err)
{
    return core_layer_remove(call->api->config.core, call->id, &call->response->body, err);
}
