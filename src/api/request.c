/* Owns the reading of an execution's request. Refuses what the server does not offer yet, by name,
 * and never runs a request other than as it was written. */
#include "api/request.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/encoding.h"
#include "base/mem.h"
#include "lang/lang.h"
#include "wire/json.h"

#define REQUEST_ENV_MAX 512
#define REQUEST_ENV_BYTES (128U * 1024U - 1) /* of one entry: MAX_ARG_STRLEN, execve(2) */
#define REQUEST_ENV_TOTAL (1U << 20)
#define REQUEST_FILES_MAX 256
#define REQUEST_LIBRARIES_MAX 64
#define REQUEST_KEY_MAX 255
#define REQUEST_LABELS_MAX 64
#define REQUEST_LABELS_BYTES 8192 /* as JSON text; the row keeps them for days */

static int request_no_memory(struct err *err)
{
    return err_set(err, ERR_INTERNAL, "no memory for a request");
}

/* The language: `lang`, or what follows "execute_" in `task_type`; both must agree. */
static int request_read_lang(struct api_request *request, struct err *err)
{
    const char *name = NULL;
    const char *task = NULL;
    const struct lang *by_task = NULL;
    int result = json_get_text(request->json, "lang", &name, NULL, err);
    if (result == 0)
        result = json_get_text(request->json, "task_type", &task, NULL, err);
    if (result == 0 && task && strncmp(task, "execute_", 8) != 0)
        result = err_public(err, ERR_BAD_INPUT,
                            "task_type: expected \"execute_code\" or \"execute_\" and a language");
    if (result == 0 && task && strcmp(task, "execute_code") != 0)
        result = lang_find(task + 8, &by_task, err);
    if (result == 0 && (name || !by_task))
        result = lang_find(name ? name : "python", &request->execution.lang, err);
    if (result < 0)
        return result;
    if (by_task && name && by_task != request->execution.lang)
        return err_public(err, ERR_BAD_INPUT, "task_type: names another language than lang");
    if (by_task)
        request->execution.lang = by_task;
    return 0;
}

static int request_read_resources(struct api_request *request, struct err *err)
{
    struct execution_request *execution = &request->execution;
    json_t *resources = NULL;
    uint64_t gpus = 0;
    struct err inner = ERR_INIT;
    int result = json_get_object(request->json, "resources", &resources, err);
    if (result < 0 || !resources)
        return result;
    result = json_get_cores(resources, "cpu", &execution->cpu_millis, &inner);
    if (result == 0)
        result = json_get_size(resources, "ram", &execution->memory_bytes, &inner);
    if (result == 0)
        result = json_get_size(resources, "storage", &execution->storage_bytes, &inner);
    if (result == 0)
        result = json_get_u64(resources, "gpu", 0, 1024, &gpus, &inner);
    if (result < 0)
        return err_public(err, inner.kind, "resources.%.300s", inner.public_message);
    execution->gpu_count = (uint32_t)gpus;
    return 0;
}

/* What they may look like depends on the language, and is core's to say. */
static int request_read_libraries(struct api_request *request, struct err *err)
{
    json_t *list = NULL;
    int result = json_get_array(request->json, "libraries", &list, err);
    size_t count = json_array_size(list);
    if (result < 0 || count == 0)
        return result;
    if (count > REQUEST_LIBRARIES_MAX)
        return err_public(err, ERR_BAD_INPUT, "libraries: more than %d", REQUEST_LIBRARIES_MAX);
    request->libraries = calloc(count, sizeof(*request->libraries));
    if (!request->libraries)
        return request_no_memory(err);
    for (size_t i = 0; i < count; i++) {
        const json_t *item = json_array_get(list, i);
        if (!json_is_string(item))
            return err_public(err, ERR_BAD_INPUT, "libraries[%zu]: expected a string, got %s", i,
                              json_kind_name(item));
        request->libraries[i] = json_string_value(item);
    }
    request->execution.libraries = request->libraries;
    request->execution.library_count = count;
    return 0;
}

static int request_read_choices(struct api_request *request, struct err *err)
{
    int result = request_read_libraries(request, err);
    if (result == 0)
        result =
            json_get_bool(request->json, "keep_template", &request->execution.keep_template, err);
    if (result == 0)
        result = api_network_read(request->json, &request->execution.network, &request->allow, err);
    if (result == 0) /* which there are, core knows */
        result = json_get_text(request->json, "image", &request->execution.image, NULL, err);
    if (result == 0)
        result = json_get_text(request->json, "profile", &request->execution.profile, NULL, err);
    if (result == 0)
        result = json_get_text(request->json, "engine", &request->execution.engine, NULL, err);
    if (result == 0)
        result = json_get_text(request->json, "runtime", &request->execution.runtime, NULL, err);
    return result;
}

static bool request_is_env_name(const char *name)
{
    if (!*name || (*name >= '0' && *name <= '9'))
        return false;
    return name[strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")] ==
           0;
}

static int request_read_env(struct api_request *request, struct err *err)
{
    json_t *env = NULL;
    const char *name = NULL;
    json_t *value = NULL;
    size_t total = 0;
    int result = json_get_object(request->json, "env", &env, err);
    if (result < 0 || !env)
        return result;
    if (json_object_size(env) > REQUEST_ENV_MAX)
        return err_public(err, ERR_BAD_INPUT, "env: more than %d variables", REQUEST_ENV_MAX);
    request->env = calloc(json_object_size(env) + 1, sizeof(*request->env));
    if (!request->env)
        return request_no_memory(err);
    json_object_foreach(env, name, value)
    {
        if (!request_is_env_name(name))
            return err_public(
                err, ERR_BAD_INPUT,
                "env: \"%.60s\" is not a name; use letters, digits and _, no digit first", name);
        if (!json_is_string(value))
            return err_public(err, ERR_BAD_INPUT, "env.%.60s: expected a string, got %s", name,
                              json_kind_name(value));
        size_t size = strlen(name) + 1 + json_string_length(value);
        total += size + 1;
        if (size > REQUEST_ENV_BYTES || total > REQUEST_ENV_TOTAL)
            return err_public(err, ERR_BAD_INPUT, "env.%.60s: too long for an environment", name);
        char *entry = malloc(size + 1);
        if (!entry)
            return request_no_memory(err);
        (void)snprintf(entry, size + 1, "%s=%s", name, json_string_value(value));
        request->env[request->execution.env_count++] = entry;
    }
    request->execution.env = (const char *const *)request->env;
    return 0;
}

/* Whether the part of size bytes is the one that the program's own path has at this place. */
static bool request_is_source_part(const struct lang *lang, bool absolute, unsigned place,
                                   const char *part, size_t size)
{
    const char *own = absolute && place == 0 ? "workspace" : lang->source;
    return strlen(own) == size && memcmp(own, part, size) == 0;
}

/* No "..", no folder as the file's name, not the program itself. "./x//y" is taken. */
static int request_check_path(const struct lang *lang, const char *path, struct err *err)
{
    const char *last = path;
    bool absolute = *path == '/';
    bool is_source = true;
    unsigned parts = 0;
    if (!*path || strlen(path) >= SANDBOX_PATH_MAX)
        return err_public(err, ERR_BAD_INPUT, "path: expected 1 to %d bytes", SANDBOX_PATH_MAX - 1);
    for (const char *at = path; *at;) {
        size_t size = strcspn(at, "/");
        bool is_dot = size == 1 && *at == '.';
        if (size == 2 && at[0] == '.' && at[1] == '.')
            return err_public(err, ERR_BAD_INPUT, "path: \"..\" is not allowed");
        if (size > 255)
            return err_public(err, ERR_BAD_INPUT, "path: a name in it is longer than 255 bytes");
        last = at;
        if (size > 0 && !is_dot)
            is_source &= request_is_source_part(lang, absolute, parts++, at, size);
        at += size;
        if (*at == '/')
            last = ++at;
    }
    if (!*last || strcmp(last, ".") == 0)
        return err_public(err, ERR_BAD_INPUT, "path: expected a file, got a folder");
    if (is_source && parts == (absolute ? 2 : 1))
        return err_public(err, ERR_BAD_INPUT, "path: \"%s\" is where the code itself goes",
                          lang->source);
    return 0;
}

static int request_read_file(struct api_request *request, size_t index, const json_t *item,
                             struct err *err)
{
    struct execution_file *file = &request->files[index];
    struct buf *content = &request->contents[index];
    const char *path = NULL;
    const char *text = NULL;
    size_t size = 0;
    if (!json_is_object(item))
        return err_public(err, ERR_BAD_INPUT, "expected an object, got %s", json_kind_name(item));
    int result = json_get_text(item, "path", &path, NULL, err);
    if (result == 0)
        result = !path ? err_public(err, ERR_BAD_INPUT, "path: expected a string, got nothing")
                       : request_check_path(request->execution.lang, path, err);
    if (result == 0)
        result = json_get_text(item, "content", &text, &size, err);
    if (result == 0 && !text)
        result = err_public(err, ERR_BAD_INPUT, "content: expected base64 text, got nothing");
    if (result < 0)
        return result;
    struct err inner = ERR_INIT;
    buf_init(content, size);
    if (base64_decode(text, size, content, &inner) < 0)
        return inner.kind == ERR_BAD_INPUT
                   ? err_public(err, ERR_BAD_INPUT, "content: %.250s", inner.public_message)
                   : err_copy(err, &inner);
    *file = (struct execution_file){.path = path, .content = content->data, .size = content->size};
    return 0;
}

static int request_read_files(struct api_request *request, struct err *err)
{
    json_t *list = NULL;
    int result = json_get_array(request->json, "files", &list, err);
    size_t count = json_array_size(list);
    if (result < 0 || count == 0)
        return result;
    if (count > REQUEST_FILES_MAX)
        return err_public(err, ERR_BAD_INPUT, "files: more than %d files", REQUEST_FILES_MAX);
    request->files = calloc(count, sizeof(*request->files));
    request->contents = calloc(count, sizeof(*request->contents));
    if (!request->files || !request->contents)
        return request_no_memory(err);
    for (size_t i = 0; i < count; i++) {
        struct err inner = ERR_INIT;
        request->execution.file_count = i + 1;
        if (request_read_file(request, i, json_array_get(list, i), &inner) < 0)
            return inner.kind == ERR_BAD_INPUT ? err_public(err, ERR_BAD_INPUT, "files[%zu].%.280s",
                                                            i, inner.public_message)
                                               : err_copy(err, &inner);
    }
    request->execution.files = request->files;
    return 0;
}

static int request_read_labels(struct api_request *request, struct err *err)
{
    json_t *labels = NULL;
    const char *name = NULL;
    json_t *value = NULL;
    int result = json_get_object(request->json, "labels", &labels, err);
    if (result < 0 || !labels)
        return result;
    if (json_object_size(labels) > REQUEST_LABELS_MAX)
        return err_public(err, ERR_BAD_INPUT, "labels: more than %d", REQUEST_LABELS_MAX);
    json_object_foreach(labels, name, value)
    {
        if (!json_is_string(value))
            return err_public(err, ERR_BAD_INPUT, "labels.%.60s: expected a string, got %s", name,
                              json_kind_name(value));
    }
    request->labels = json_dumps(labels, JSON_COMPACT | JSON_SORT_KEYS);
    request->execution.labels = request->labels;
    if (!request->labels)
        return request_no_memory(err);
    if (strlen(request->labels) > REQUEST_LABELS_BYTES)
        return err_public(err, ERR_BAD_INPUT, "labels: more than %d bytes", REQUEST_LABELS_BYTES);
    return 0;
}

static int request_read_key(struct api_request *request, const char *key, struct err *err)
{
    if (!key)
        return 0;
    size_t size = strlen(key);
    bool printable = size > 0;
    for (size_t i = 0; i < size; i++)
        printable = printable && key[i] > 0x20 && key[i] < 0x7f;
    if (!printable || size > REQUEST_KEY_MAX)
        return err_public(err, ERR_BAD_INPUT,
                          "Idempotency-Key: expected 1 to %d printable characters",
                          REQUEST_KEY_MAX);
    request->idempotency_key = strdup(key);
    request->execution.idempotency_key = request->idempotency_key;
    return request->idempotency_key ? 0 : request_no_memory(err);
}

static int request_read_times(const struct json_t *json, const struct api_config *config,
                              uint64_t *timeout_ms, uint64_t *idle_ms, struct err *err)
{
    int result =
        json_get_duration(json, "timeout", config->session_timeout_max_ms, timeout_ms, err);
    return result == 0 ? json_get_duration(json, "idle_timeout", config->session_timeout_max_ms,
                                           idle_ms, err)
                       : result;
}

int api_request_times(struct api_call *call, uint64_t *out_timeout_ms, uint64_t *out_idle_ms,
                      struct err *err)
{
    JSON_AUTO struct json_t *json = NULL;
    size_t size = 0;
    const uint8_t *body = http_request_body(call->request, &size);
    *out_timeout_ms = *out_idle_ms = 0;
    int result = size > 0 ? json_parse_object(body, size, &json, err) : 0;
    return result == 0 && json
               ? request_read_times(json, &call->api->config, out_timeout_ms, out_idle_ms, err)
               : result;
}

/* What is run, and for how long. */
static int request_read_code(struct api_request *request, const struct api_config *config,
                             struct err *err)
{
    struct execution_request *execution = &request->execution;
    int result = json_get_text(request->json, "code", &execution->code, &execution->code_size, err);
    if (result == 0 && !execution->code)
        result = err_public(err, ERR_BAD_INPUT, "code: expected a string, got nothing");
    if (result == 0)
        result = json_get_text(request->json, "stdin", &execution->stdin_data,
                               &execution->stdin_size, err);
    return result == 0 ? json_get_duration(request->json, "timeout", config->timeout_max_ms,
                                           &execution->timeout_ms, err)
                       : result;
}

/* Where it is run. */
static int request_read_place(struct api_request *request, struct err *err)
{
    int result = request_read_lang(request, err);
    if (result == 0)
        result = request_read_resources(request, err);
    if (result == 0)
        result = request_read_choices(request, err);
    return result == 0 ? request_read_env(request, err) : result;
}

/* An empty body is an empty object where every field has a default. */
static int request_parse(struct api_request *request, const struct api_call *call,
                         bool may_be_empty, struct err *err)
{
    size_t size = 0;
    const uint8_t *body = http_request_body(call->request, &size);
    static const uint8_t empty[] = {'{', '}'};
    return size == 0 && may_be_empty ? json_parse_object(empty, sizeof(empty), &request->json, err)
                                     : json_parse_object(body, size, &request->json, err);
}

static int request_read(struct api_request *request, struct api_call *call,
                        enum api_request_kind kind, struct err *err)
{
    const struct api_config *config = &call->api->config;
    int result = request_parse(request, call, kind == API_REQUEST_SESSION, err);
    if (result == 0 && kind != API_REQUEST_SESSION)
        result = request_read_code(request, config, err);
    if (result == 0 && kind == API_REQUEST_SESSION)
        result = request_read_times(request->json, config, &request->execution.timeout_ms,
                                    &request->idle_ms, err);
    if (result == 0 && kind != API_REQUEST_CELL)
        result = request_read_place(request, err);
    if (result == 0 && kind == API_REQUEST_CELL)
        result = request_read_libraries(request, err);
    if (result == 0 && kind == API_REQUEST_EXECUTE)
        result = request_read_files(request, err);
    if (result == 0)
        result = request_read_labels(request, err);
    return result == 0 ? request_read_key(
                             request, http_request_header(call->request, "Idempotency-Key"), err)
                       : result;
}

int api_request_new(struct api_call *call, enum api_request_kind kind, struct api_request **out,
                    struct err *err)
{
    struct api_request *request = calloc(1, sizeof(*request));
    if (!request)
        return request_no_memory(err);
    request->execution.gone_fd = http_request_gone_fd(call->request);
    request->owner = strdup(call->owner);
    request->execution.owner = request->owner;
    memcpy(request->session_id, call->id, sizeof(request->session_id));
    int result = request->owner ? request_read(request, call, kind, err) : request_no_memory(err);
    if (result < 0) {
        api_request_free(request);
        return result;
    }
    *out = request;
    return 0;
}

void api_request_free(struct api_request *request)
{
    if (!request)
        return;
    for (size_t i = 0; i < request->execution.env_count; i++)
        free(request->env[i]);
    for (size_t i = 0; request->contents && i < request->execution.file_count; i++)
        buf_done(&request->contents[i]);
    free(request->env);
    free(request->libraries);
    free(request->allow);
    free(request->files);
    free(request->contents);
    free(request->labels);
    free(request->idempotency_key);
    free(request->owner);
    json_decref(request->json);
    free(request);
}
