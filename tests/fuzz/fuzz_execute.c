/* The body of POST /execute, as bytes from anybody, through the whole reading of a request. What is
 * taken keeps every promise that core relies on; what is refused is the client's fault in words.
 * Bytes before a first NUL are the Idempotency-Key; a body never holds one. */
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

#include "../unit/fake_http.h"
#include "api/request.h"
#include "base/mem.h"
#include "lang/lang.h"
#include "wire/json.h"
#include "wire/utf8.h"

#define TIMEOUT_MAX_MS 60000

static void check_text(const char *text, size_t size)
{
    fuzz_require(strlen(text) == size);
    fuzz_require(utf8_is_valid((const uint8_t *)text, size));
}

static void check_env(const struct execution_request *execution)
{
    fuzz_require(execution->env_count <= 512);
    for (size_t i = 0; i < execution->env_count; i++) {
        const char *entry = execution->env[i];
        const char *equals = strchr(entry, '=');
        fuzz_require(equals && equals > entry);
        fuzz_require(strlen(entry) < 128U * 1024U); /* MAX_ARG_STRLEN */
        fuzz_require(*entry < '0' || *entry > '9');
    }
}

static void check_file(const struct execution_file *file)
{
    size_t size = strlen(file->path);
    fuzz_require(size > 0 && size < SANDBOX_PATH_MAX);
    fuzz_require(file->path[size - 1] != '/');
    for (const char *at = file->path; *at; at += strcspn(at, "/"), at += *at == '/')
        fuzz_require(strcspn(at, "/") != 2 || at[0] != '.' || at[1] != '.');
    fuzz_require(file->size == 0 || file->content);
    uint8_t sum = 0; /* every byte is there to be read */
    for (size_t i = 0; i < file->size; i++)
        sum ^= file->content[i];
    __asm__ volatile("" : : "r"(sum));
}

static void check_taken(const struct api_request *request, const char *key)
{
    const struct execution_request *execution = &request->execution;
    fuzz_require(execution->lang && execution->code);
    check_text(execution->code, execution->code_size);
    if (execution->stdin_data)
        check_text(execution->stdin_data, execution->stdin_size);
    fuzz_require(execution->timeout_ms <= TIMEOUT_MAX_MS);
    fuzz_require(strcmp(execution->owner, CORE_OWNER_LOCAL) == 0);
    fuzz_require(!execution->labels || execution->labels[0] == '{');
    fuzz_require((execution->idempotency_key != NULL) == (key != NULL));
    fuzz_require(!key || strcmp(key, execution->idempotency_key) == 0);
    check_env(execution);
    fuzz_require(execution->file_count <= 256);
    for (size_t i = 0; i < execution->file_count; i++)
        check_file(&execution->files[i]);
}

static void check_refusal(const struct err *err)
{
    BUF_AUTO struct buf body;
    struct json_t *json = NULL;
    int status = api_error_status(err->kind);
    fuzz_require(status == 400 && err->public_message[0] != '\0');
    buf_init(&body, 4096);
    fuzz_require(api_error_json(err, &body, NULL) == 0);
    fuzz_require(json_parse_object(body.data, body.size, &json, NULL) == 0);
    json_free_at(&json);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct api api = {.config = {.timeout_max_ms = TIMEOUT_MAX_MS}};
    static bool loaded;
    if (!loaded)
        fuzz_require(lang_load(NULL) == 0);
    loaded = true;
    MEM_AUTO char *key = NULL;
    const uint8_t *nul = size > 0 ? memchr(data, '\0', size) : NULL;
    if (nul) {
        key = strdup((const char *)data);
        size -= (size_t)(nul - data) + 1;
        data = nul + 1;
    }
    const char *const headers[] = {"Idempotency-Key", key, NULL};
    const struct http_request http = {
        .method = "POST", .path = "/execute", .headers = headers, .body = data, .body_size = size};
    struct http_response response = {0};
    struct api_call call = {
        .api = &api, .request = &http, .response = &response, .owner = CORE_OWNER_LOCAL};
    struct api_request *request = NULL;
    struct err err = ERR_INIT;
    if (api_request_new(&call, API_REQUEST_EXECUTE, &request, &err) == 0)
        check_taken(request, key);
    else
        check_refusal(&err);
    api_request_free(request);
    return 0;
}
