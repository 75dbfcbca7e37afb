/* Owns `network` in bodies, and the route that changes that of a session. What the operator offers
 * and allows core knows. */
#include <jansson.h>
#include <stdlib.h>

#include "api/call.h"
#include "api/request.h"
#include "base/mem.h"
#include "core/session.h"
#include "wire/egress_rule.h"
#include "wire/json.h"

static int read_allow(const struct json_t *network, struct network_ask *out,
                      const char ***out_allow, struct err *err)
{
    json_t *list = NULL;
    int result = json_get_array(network, "allow", &list, err);
    if (result != 0 || !list)
        return result;
    size_t count = json_array_size(list);
    if (count > EGRESS_RULES_MAX)
        return err_public(err, ERR_BAD_INPUT, "allow: more than %d rules", EGRESS_RULES_MAX);
    const char **allow = calloc(count + 1, sizeof(*allow));
    if (!allow)
        return err_set(err, ERR_INTERNAL, "no memory for a request");
    *out_allow = allow;
    for (size_t i = 0; i < count; i++) {
        const json_t *item = json_array_get(list, i);
        if (!json_is_string(item))
            return err_public(err, ERR_BAD_INPUT, "allow[%zu]: expected a string, got %s", i,
                              json_kind_name(item));
        allow[i] = json_string_value(item);
    }
    out->allow = allow;
    out->allow_count = count;
    out->narrowed = true;
    return 0;
}

static int read_object(const struct json_t *network, struct network_ask *out,
                       const char ***out_allow, struct err *err)
{
    int result = json_get_text(network, "mode", &out->mode, NULL, err);
    if (result == 0 && !out->mode)
        result = err_public(err, ERR_BAD_INPUT, "mode: expected a string, got nothing");
    return result == 0 ? read_allow(network, out, out_allow, err) : result;
}

int api_network_read(const struct json_t *json, struct network_ask *out, const char ***out_allow,
                     struct err *err)
{
    struct err inner = ERR_INIT;
    const struct json_t *network = json_member(json, "network");
    *out = (struct network_ask){0};
    if (!network)
        return 0;
    if (json_is_string(network)) {
        out->mode = json_string_value(network);
        return 0;
    }
    if (!json_is_object(network))
        return err_public(err, ERR_BAD_INPUT, "network: expected a string or an object, got %s",
                          json_kind_name(network));
    if (read_object(network, out, out_allow, &inner) == 0)
        return 0;
    return inner.kind == ERR_BAD_INPUT
               ? err_public(err, ERR_BAD_INPUT, "network.%.280s", inner.public_message)
               : err_copy(err, &inner);
}

int api_session_network_put(struct api_call *call, struct err *err)
{
    JSON_AUTO struct json_t *json = NULL;
    MEM_AUTO const char **allow = NULL;
    struct network_ask ask;
    size_t size = 0;
    const uint8_t *body = http_request_body(call->request, &size);
    int result = json_parse_object(body, size, &json, err);
    if (result == 0)
        result = api_network_read(json, &ask, &allow, err);
    if (result == 0 && !ask.mode)
        result = err_public(err, ERR_BAD_INPUT,
                            "network: expected \"none\", \"egress\" or an object, got nothing");
    return result == 0 ? core_session_set_network(call->api->config.core, call->owner, call->id,
                                                  &ask, &call->response->body, err)
                       : result;
}
