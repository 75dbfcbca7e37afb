/* Owns the plain way to ask the server something. */
#include "cli/call.h"

#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/id.h"
#include "base/mem.h"
#include "cli/client.h"

enum { ANSWER_MAX = 256 * 1024 * 1024, ID_MAX = 64 };

int call_json(const char *url, const char *method, const char *path, const json_t *body,
              json_t **out, struct err *err)
{
    BUF_AUTO struct buf answer;
    buf_init(&answer, ANSWER_MAX);
    MEM_AUTO char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
    if (body && !text)
        return err_set(err, ERR_INTERNAL, "no memory");
    struct client_request request = {
        .url = url,
        .method = method,
        .path = path,
        .body = text,
        .body_size = text ? strlen(text) : 0,
    };
    long status = 0;
    int result = client_send(&request, &answer, &status, err);
    if (result == 0 && status != 200)
        result = client_refused(status, &answer, err);
    if (result != 0)
        return result;
    json_t *json = json_loadb((const char *)answer.data, answer.size, JSON_ALLOW_NUL, NULL);
    if (!json_is_object(json)) {
        json_decref(json);
        return err_set(err, ERR_PROTOCOL, "the server's answer is not a JSON object");
    }
    *out = json;
    return 0;
}

int call_path(const char *prefix, const char *id, const char *suffix, char out[static 160],
              struct err *err)
{
    if (!id_is_name(id, ID_MAX))
        return err_set(err, ERR_BAD_INPUT, "\"%.80s\" is not an id", id);
    (void)snprintf(out, 160, "/%s/%s%s%s", prefix, id, suffix ? "/" : "", suffix ? suffix : "");
    return 0;
}

int call_print(const json_t *value, struct err *err)
{
    MEM_AUTO char *text = json_dumps(value, JSON_INDENT(2) | JSON_REAL_PRECISION(15));
    if (!text)
        return err_set(err, ERR_INTERNAL, "no memory");
    (void)printf("%s\n", text);
    return 0;
}

const char *call_text(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "-";
}
