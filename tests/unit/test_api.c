/* api: the routes on a core with the fake engine, what holds for every request, and the table of
 * errors. */
#include "check.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/call.h"
#include "child.h"
#include "core/core.h"
#include "engine/engine.h"
#include "engine/fake.h"
#include "fake_http.h"
#include "lang/lang.h"
#include "languages.h"
#include "wire/json.h"

static char folder[] = "/tmp/berth-test-api-XXXXXX";

struct rig {
    struct core *core;
    struct api *api;
    struct http_handlers handlers;
};

static int rig_open(void **state)
{
    static struct rig rig;
    static const char *const engines[] = {"fake"};
    static char db_path[64];
    struct engine *engine = NULL;
    struct engine_events events;
    struct err err = ERR_INIT;
    *state = &rig;
    memcpy(folder + sizeof(folder) - 7, "XXXXXX", 6);
    if (!mkdtemp(folder))
        return -1;
    (void)snprintf(db_path, sizeof(db_path), "%s/berth.db", folder);
    const struct core_config core_config = {.db_path = db_path,
                                            .sandboxes_max = 8,
                                            .creates_max = 4,
                                            .queue_max = 16,
                                            .queue_wait_ms = 30000,
                                            .timeout_ms = 30000,
                                            .timeout_max_ms = 60000,
                                            .reserve_min_bytes = 16U << 20,
                                            .memory_overcommit_millis = 16000,
                                            .disk_overcommit_millis = 4000,
                                            .memory_bytes = 512U << 20,
                                            .storage_bytes = 256U << 20,
                                            .cpu_millis = 1000,
                                            .pids_max = 64,
                                            .open_files_max = 1024,
                                            .engines = engines,
                                            .engine_count = 1,
                                            .engine_choice = true,
                                            .keep_output_bytes = 1U << 20,
                                            .output_max_bytes = 64U << 20,
                                            .keep_outcome_ms = 3600000};
    if (core_new(&core_config, &rig.core, &err) != 0)
        return -1;
    core_engine_events(rig.core, 0, &events);
    if (engine_fake_new(&events, &engine, &err) != 0)
        return -1;
    if (core_set_engine(rig.core, 0, engine, &err) != 0)
        return -1;
    const struct api_config config = {
        .core = rig.core, .timeout_max_ms = 60000, .access = {.bind_host = "127.0.0.1"}};
    if (api_new(&config, &rig.api, &err) != 0)
        return -1;
    api_handlers(rig.api, &rig.handlers);
    return 0;
}

static int rig_close(void **state)
{
    struct rig *rig = *state;
    api_free(rig->api);
    core_free(rig->core);
    child_remove_tree(folder);
    return 0;
}

/* One request through admit and handle, as the HTTP server does it. */
static void ask(struct rig *rig, const struct http_request *request, struct http_response *response)
{
    struct http_intake intake = {0};
    struct http_request asked = *request;
    struct err err = ERR_INIT;
    memset(response, 0, sizeof(*response));
    if (rig->handlers.admit(rig->handlers.context, &asked, &intake, response)) {
        asked.intake = intake.context;
        if (intake.piece && intake.piece(intake.context, asked.body, asked.body_size, &err) != 0)
            rig->handlers.refuse(rig->handlers.context, &err, response);
        else
            rig->handlers.handle(rig->handlers.context, &asked, response);
    }
    if (intake.free)
        intake.free(intake.context);
}

static void done(struct http_response *response)
{
    if (response->stream_free)
        response->stream_free(response->stream_context);
    buf_done(&response->body);
    buf_done(&response->headers);
}

static const char *const plain_headers[] = {"Host", "127.0.0.1:8000", NULL};
static const char *const json_headers[] = {
    "Host", "localhost", "Content-Length", "1", "Content-Type", "application/json", NULL};

/* Asks, and checks the status and that the body is JSON with this text in it. */
static void expect(struct rig *rig, const struct http_request *request, int status,
                   const char *word)
{
    struct http_response response;
    json_error_t error;
    ask(rig, request, &response);
    const char *text = buf_cstr(&response.body);
    if ((response.status ? response.status : 200) != status || !strstr(text, word))
        fail_msg("%s %s: %d %s; wanted %d %s", request->method, request->path, response.status,
                 text, status, word);
    if (strcmp(response.content_type, "application/json") == 0) {
        json_t *json = json_loads(text, 0, &error);
        if (!json)
            fail_msg("%s: no JSON: %s", request->path, text);
        if (status >= 400) {
            assert_true(json_is_string(json_object_get(json, "error")));
            assert_true(json_is_string(json_object_get(json, "detail")));
            assert_true(json_is_string(json_object_get(json, "timestamp")));
        }
        json_decref(json);
    }
    const char *headers = buf_cstr(&response.headers);
    assert_non_null(strstr(headers, "X-Content-Type-Options: nosniff\r\n"));
    done(&response);
}

static void get(struct rig *rig, const char *path, int status, const char *word)
{
    expect(rig, &(struct http_request){.method = "GET", .path = path, .headers = plain_headers},
           status, word);
}

static void test_what_is_there(void **state)
{
    struct rig *rig = *state;
    get(rig, "/", 200, "\"status\":\"ok\"");
    get(rig, "/health", 200, "\"engines\":[{");
    get(rig, "/languages", 200, "\"python\"");
    get(rig, "/api/v1/info", 200, "\"images\":[\"host\",\"debian\"]");
    get(rig, "/executions", 200, "\"executions\":[");
    get(rig, "/metrics", 200, "berth_http_answers_total{class=\"2xx\"} 5\n");
}

static void test_what_is_not(void **state)
{
    struct rig *rig = *state;
    get(rig, "/nothing", 404, "not found");
    get(rig, "/executions/", 404, "not found");
    get(rig, "/executions/a/b", 404, "not found");
    get(rig, "/executions/none", 404, "not found");
    get(rig, "/EXECUTE", 404, "not found");
    char path[128] = "/executions/";
    memset(path + 12, 'a', 65);
    path[77] = '\0';
    get(rig, path, 404, "not found"); /* no id is that long */
}

static void test_methods(void **state)
{
    struct rig *rig = *state;
    struct http_response response;
    struct http_request request = {.method = "GET", .path = "/execute", .headers = plain_headers};
    ask(rig, &request, &response);
    assert_int_equal(response.status, 405);
    assert_non_null(strstr(buf_cstr(&response.headers), "Allow: POST\r\n"));
    done(&response);
    request =
        (struct http_request){.method = "PUT", .path = "/executions/x", .headers = plain_headers};
    ask(rig, &request, &response);
    assert_int_equal(response.status, 405);
    assert_non_null(strstr(buf_cstr(&response.headers), "Allow: GET, HEAD, DELETE\r\n"));
    done(&response);
    request = (struct http_request){.method = "HEAD", .path = "/health", .headers = plain_headers};
    expect(rig, &request, 200, "\"status\":\"ok\"");
}

static void post(struct rig *rig, const char *const *headers, const char *body, int status,
                 const char *word)
{
    expect(rig,
           &(struct http_request){.method = "POST",
                                  .path = "/execute",
                                  .headers = headers,
                                  .body = (const uint8_t *)body,
                                  .body_size = strlen(body)},
           status, word);
}

static void test_content_types(void **state)
{
    struct rig *rig = *state;
    static const char body[] = "{\"code\":\"out hi\"}";
    const char *headers[] = {"Host", "localhost", "Content-Length", "17", "Content-Type", "", NULL};
    static const char *const good[] = {"application/json", "Application/JSON",
                                       "application/json; charset=utf-8", "application/json ;x"};
    static const char *const bad[] = {"",
                                      "text/plain",
                                      "application/jsonp",
                                      "application/x-json",
                                      "application/x-www-form-urlencoded",
                                      "multipart/form-data; boundary=application/json"};
    for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
        headers[5] = good[i];
        post(rig, headers, body, 200, "\"stdout\":\"hi\\n\"");
    }
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        headers[5] = bad[i];
        post(rig, headers, body, 415, "application/json");
    }
    headers[4] = NULL;
    post(rig, headers, body, 415, "application/json");
    headers[2] = "Transfer-Encoding";
    headers[3] = "chunked";
    post(rig, headers, body, 415, "application/json");
    headers[2] = "Content-Length"; /* no body, no type needed; but then there is no code */
    headers[3] = "0";
    post(rig, headers, "", 400, "");
}

static void test_who_may_call(void **state)
{
    struct rig *rig = *state;
    static const char *const foreign[] = {"Host", "evil.example", NULL};
    static const char *const forwarded[] = {"Host", "localhost", "X-Forwarded-For", "10.0.0.1",
                                            NULL};
    struct http_request request = {.method = "GET", .path = "/executions", .headers = foreign};
    expect(rig, &request, 403, "Host");
    request.headers = forwarded;
    expect(rig, &request, 401, "token");
    request.path = "/health";
    expect(rig, &request, 200, "ok");
    struct http_response response;
    request.path = "/executions";
    ask(rig, &request, &response);
    assert_non_null(strstr(buf_cstr(&response.headers), "WWW-Authenticate: Bearer\r\n"));
    done(&response);
    /* without the right to call, nothing is told of what is there */
    request.path = "/nothing";
    expect(rig, &request, 401, "token");
}

static void test_execute(void **state)
{
    struct rig *rig = *state;
    post(rig, json_headers, "{\"code\":\"out hello\\nexit 3\"}", 200, "\"exit_code\":3");
    post(rig, json_headers, "{\"code\":1}", 400, "code: expected a string");
    post(rig, json_headers, "{\"code\":\"out x\",\"profile\":\"root\"}", 400, "profile: expected");
    post(rig, json_headers, "{\"code\":\"out x\",\"network\":\"full\"}", 400, "not offered");
}

/* The object of the last execution: looked up, listed, cancelled after its end. */
static void test_executions_as_objects(void **state)
{
    struct rig *rig = *state;
    struct http_response response;
    char path[128];
    json_error_t error;
    static const char body[] = "{\"code\":\"out found\"}";
    struct http_request request = {.method = "POST",
                                   .path = "/execute",
                                   .headers = json_headers,
                                   .body = (const uint8_t *)body,
                                   .body_size = strlen(body)};
    ask(rig, &request, &response);
    json_t *json = json_loads(buf_cstr(&response.body), 0, &error);
    const char *id = json_string_value(json_object_get(json, "execution_id"));
    assert_non_null(id);
    (void)snprintf(path, sizeof(path), "/executions/%s", id);
    get(rig, path, 200, "\"stdout\":\"found\\n\"");
    get(rig, "/executions", 200, id);
    request = (struct http_request){.method = "DELETE", .path = path, .headers = plain_headers};
    expect(rig, &request, 200, id);
    static const char *const wrong_limits[] = {"0", "1001", "x", "-1", ""};
    for (size_t i = 0; i < ARRAY_SIZE(wrong_limits); i++) {
        const char *const query[] = {"limit", wrong_limits[i], NULL};
        request = (struct http_request){
            .method = "GET", .path = "/executions", .headers = plain_headers, .query = query};
        expect(rig, &request, 400, "limit");
    }
    const char *const one[] = {"limit", "1", NULL};
    request = (struct http_request){
        .method = "GET", .path = "/executions", .headers = plain_headers, .query = one};
    expect(rig, &request, 200, "\"next\":");
    json_decref(json);
    done(&response);
}

/* Reads a stream to its end; the text is heap. */
static char *read_stream(struct http_response *response, int *result)
{
    struct buf out;
    struct err err = ERR_INIT;
    buf_init(&out, 1U << 20);
    assert_non_null(response->stream);
    do
        *result = response->stream(response->stream_context, &out, &err);
    while (*result > 0);
    char *text = strdup(buf_cstr(&out));
    buf_done(&out);
    return text;
}

static void test_a_stream(void **state)
{
    struct rig *rig = *state;
    struct http_response response;
    int result = 0;
    static const char body[] = "{\"code\":\"out one\\nerr two\"}";
    static const char *const headers[] = {"Host",   "localhost",         "Content-Length",
                                          "1",      "Content-Type",      "application/json",
                                          "Accept", "text/event-stream", NULL};
    const struct http_request request = {.method = "POST",
                                         .path = "/execute",
                                         .headers = headers,
                                         .body = (const uint8_t *)body,
                                         .body_size = strlen(body)};
    ask(rig, &request, &response);
    assert_true(strncmp(response.content_type, "text/event-stream", 17) == 0);
    assert_non_null(strstr(buf_cstr(&response.headers), "X-Execution-Id: "));
    char *text = read_stream(&response, &result);
    assert_int_equal(result, 0);
    assert_non_null(strstr(text, "event: stdout"));
    assert_non_null(strstr(text, "event: stderr"));
    assert_non_null(strstr(text, "event: end"));
    free(text);
    done(&response);
    /* one that nobody reads is given up without a leak or a hang */
    ask(rig, &request, &response);
    done(&response);
}

static void test_every_error_has_a_status(void **state)
{
    (void)state;
    static const int statuses[] = {
        [ERR_BAD_INPUT] = 400, [ERR_UNAUTHORIZED] = 401, [ERR_FORBIDDEN] = 403,
        [ERR_NOT_FOUND] = 404, [ERR_METHOD] = 405,       [ERR_CONFLICT] = 409,
        [ERR_TOO_LARGE] = 413, [ERR_MEDIA_TYPE] = 415,   [ERR_QUOTA] = 429,
        [ERR_HEADERS] = 431,   [ERR_UNAVAILABLE] = 503,  [ERR_UNSUPPORTED] = 400,
        [ERR_TIMEOUT] = 503,   [ERR_CLOSED] = 503,       [ERR_PROTOCOL] = 500,
        [ERR_INTERNAL] = 500,  [ERR_RANGE] = 416,
    };
    assert_int_equal(ARRAY_SIZE(statuses), ERR_KIND_COUNT); /* a new kind needs a status */
    for (unsigned kind = 1; kind < ERR_KIND_COUNT; kind++)
        assert_int_equal(api_error_status((enum err_kind)kind), statuses[kind]);
    assert_int_equal(api_error_status(ERR_NONE), 500);
    assert_int_equal(api_error_status(ERR_KIND_COUNT), 500);
    assert_int_equal(api_error_status((enum err_kind)1000), 500);
}

static void test_error_bodies(void **state)
{
    (void)state;
    struct err error = ERR_INIT;
    struct http_response response = {0};
    (void)err_set(&error, ERR_INTERNAL, "secret /path of the operator");
    api_error_respond(&error, &response);
    const char *text = buf_cstr(&response.body);
    assert_int_equal(response.status, 500);
    assert_null(strstr(text, "secret"));
    assert_non_null(strstr(text, "\"error\":\"internal error\""));
    done(&response);
    memset(&response, 0, sizeof(response));
    (void)err_public(&error, ERR_BAD_INPUT, "a \"quoted\" \xff thing\n");
    api_error_respond(&error, &response);
    assert_int_equal(response.status, 400);
    assert_non_null(strstr(buf_cstr(&response.body), "a \\\"quoted\\\" \357\277\275 thing\\n"));
    assert_int_equal(response.headers.size, 0);
    done(&response);
    memset(&response, 0, sizeof(response));
    (void)err_public(&error, ERR_UNAVAILABLE, "later");
    error.retry_after_s = 7;
    api_error_respond(&error, &response);
    assert_non_null(strstr(buf_cstr(&response.headers), "Retry-After: 7\r\n"));
    done(&response);
    memset(&response, 0, sizeof(response));
    error.retry_after_s = 0;
    api_error_respond(&error, &response);
    assert_non_null(strstr(buf_cstr(&response.headers), "Retry-After: 1\r\n"));
    done(&response);
}

#define on_rig(test) cmocka_unit_test_setup_teardown(test, rig_open, rig_close)

int main(void)
{
    const struct CMUnitTest tests[] = {
        on_rig(test_what_is_there),
        on_rig(test_what_is_not),
        on_rig(test_methods),
        on_rig(test_content_types),
        on_rig(test_who_may_call),
        on_rig(test_execute),
        on_rig(test_executions_as_objects),
        on_rig(test_a_stream),
        cmocka_unit_test(test_every_error_has_a_status),
        cmocka_unit_test(test_error_bodies),
    };
    return cmocka_run_group_tests(tests, languages_load, languages_unload);
}
