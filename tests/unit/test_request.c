/* api/request: every field of POST /execute, what is taken and what is refused by name. */
#include "check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/request.h"
#include "fake_http.h"
#include "lang/lang.h"
#include "languages.h"

static struct api api = {.config = {.timeout_max_ms = 60000}};

static int read_with(const char *body, size_t size, const char *const *headers,
                     struct api_request **out, struct err *err)
{
    uint8_t *copy = malloc(size ? size : 1); /* of its exact size, for AddressSanitizer */
    assert_non_null(copy);
    memcpy(copy, body, size);
    const struct http_request request = {
        .method = "POST", .path = "/execute", .headers = headers, .body = copy, .body_size = size};
    struct http_response response = {0};
    struct api_call call = {
        .api = &api, .request = &request, .response = &response, .owner = CORE_OWNER_LOCAL};
    int result = api_request_new(&call, API_REQUEST_EXECUTE, out, err);
    free(copy); /* everything was copied */
    return result;
}

static struct api_request *taken(const char *body)
{
    struct api_request *request = NULL;
    struct err err = ERR_INIT;
    if (read_with(body, strlen(body), NULL, &request, &err) < 0)
        fail_msg("%s: %s", body, err.message);
    return request;
}

static void refused(const char *body, enum err_kind kind, const char *word)
{
    struct api_request *request = NULL;
    struct err err = ERR_INIT;
    int result = read_with(body, strlen(body), NULL, &request, &err);
    if (result != -(int)kind)
        fail_msg("%s: %d, wanted %d: %s", body, result, -(int)kind, err.message);
    assert_null(request);
    if (!strstr(err.public_message, word))
        fail_msg("%s: no \"%s\" in \"%s\"", body, word, err.public_message);
}

static void test_the_least(void **state)
{
    (void)state;
    struct api_request *request = taken("{\"code\":\"print(1)\"}");
    const struct execution_request *execution = &request->execution;
    assert_string_equal(execution->code, "print(1)");
    assert_int_equal(execution->code_size, 8);
    assert_string_equal(execution->lang->name, "python");
    assert_string_equal(execution->owner, CORE_OWNER_LOCAL);
    assert_int_equal(execution->timeout_ms, 0);
    assert_int_equal(execution->memory_bytes, 0);
    assert_int_equal(execution->storage_bytes, 0);
    assert_int_equal(execution->cpu_millis, 0);
    assert_int_equal(execution->env_count, 0);
    assert_int_equal(execution->file_count, 0);
    assert_null(execution->stdin_data);
    assert_null(execution->labels);
    assert_null(execution->image); /* core has the defaults */
    assert_null(execution->profile);
    assert_null(execution->idempotency_key);
    assert_int_equal(execution->gone_fd, -1);
    api_request_free(request);
    api_request_free(NULL);
}

static void test_everything(void **state)
{
    (void)state;
    struct api_request *request = taken(
        "{\"code\":\"\",\"lang\":\"python\",\"task_type\":\"execute_python\",\"stdin\":\"in\","
        "\"timeout\":1.5,\"libraries\":[\"numpy\",\"x\"],\"keep_template\":true,"
        "\"resources\":{\"cpu\":\"0.5\",\"ram\":\"64MiB\",\"storage\":1048576,\"gpu\":0},"
        "\"network\":\"none\",\"image\":\"debian\",\"profile\":\"container\",\"engine\":\"native\","
        "\"runtime\":null,\"env\":{\"A\":\"1\",\"_b2\":\"\"},"
        "\"files\":[{\"path\":\"data/a.txt\",\"content\":\"aGk=\"},"
        "{\"path\":\"/tmp/x\",\"content\":\"\"}],"
        "\"labels\":{\"z\":\"1\",\"a\":\"2\"},\"something\":{\"else\":[1]}}");
    const struct execution_request *execution = &request->execution;
    assert_int_equal(execution->code_size, 0);
    assert_int_equal(execution->stdin_size, 2);
    assert_string_equal(execution->stdin_data, "in");
    assert_int_equal(execution->timeout_ms, 1500);
    assert_int_equal(execution->cpu_millis, 500);
    assert_int_equal(execution->memory_bytes, 64 << 20);
    assert_int_equal(execution->storage_bytes, 1 << 20);
    assert_string_equal(execution->image, "debian");
    assert_string_equal(execution->profile, "container");
    assert_string_equal(execution->engine, "native");
    assert_null(execution->runtime);
    assert_string_equal(execution->network.mode, "none");
    assert_false(execution->network.narrowed);
    assert_int_equal(execution->library_count, 2);
    assert_string_equal(execution->libraries[1], "x");
    assert_true(execution->keep_template);
    assert_int_equal(execution->env_count, 2);
    assert_string_equal(execution->env[0], "A=1");
    assert_string_equal(execution->env[1], "_b2=");
    assert_int_equal(execution->file_count, 2);
    assert_string_equal(execution->files[0].path, "data/a.txt");
    assert_int_equal(execution->files[0].size, 2);
    assert_memory_equal(execution->files[0].content, "hi", 2);
    assert_int_equal(execution->files[1].size, 0);
    assert_string_equal(execution->labels, "{\"a\":\"2\",\"z\":\"1\"}");
    api_request_free(request);
}

static void test_network(void **state)
{
    (void)state;
    struct api_request *request = taken("{\"code\":\"\",\"network\":{\"mode\":\"egress\"}}");
    const struct network_ask *network = &request->execution.network;
    assert_string_equal(network->mode, "egress");
    assert_false(network->narrowed);
    api_request_free(request);
    request = taken("{\"code\":\"\",\"network\":{\"mode\":\"egress\",\"allow\":[\"a.org\","
                    "\"b.org:22\"]}}");
    network = &request->execution.network;
    assert_true(network->narrowed);
    assert_int_equal(network->allow_count, 2);
    assert_string_equal(network->allow[1], "b.org:22");
    api_request_free(request);
    request = taken("{\"code\":\"\",\"network\":null}");
    assert_null(request->execution.network.mode);
    api_request_free(request);
}

static void test_bodies(void **state)
{
    (void)state;
    static const char *const bodies[] = {"",
                                         " ",
                                         "{",
                                         "[]",
                                         "\"x\"",
                                         "null",
                                         "{\"code\":\"x\"}x",
                                         "{\"code\":\"\\u0000\"}",
                                         "{\"code\":\"\xff\"}"};
    for (size_t i = 0; i < ARRAY_SIZE(bodies); i++)
        refused(bodies[i], ERR_BAD_INPUT, "");
    refused("{}", ERR_BAD_INPUT, "code");
    refused("{\"code\":null}", ERR_BAD_INPUT, "code");
    refused("{\"code\":1}", ERR_BAD_INPUT, "code: expected a string");
    struct api_request *request = NULL;
    struct err err = ERR_INIT;
    assert_fails(read_with("{\"code\":\"x\"}\0", 13, NULL, &request, &err), ERR_BAD_INPUT, err);
}

static void test_lang(void **state)
{
    (void)state;
    struct api_request *request = taken("{\"code\":\"x\",\"task_type\":\"execute_code\"}");
    assert_string_equal(request->execution.lang->name, "python");
    api_request_free(request);
    request = taken("{\"code\":\"x\",\"task_type\":\"execute_python\"}");
    assert_string_equal(request->execution.lang->name, "python");
    api_request_free(request);
    refused("{\"code\":\"x\",\"lang\":\"klingon\"}", ERR_BAD_INPUT, "klingon");
    refused("{\"code\":\"x\",\"lang\":\"\"}", ERR_BAD_INPUT, "lang");
    refused("{\"code\":\"x\",\"lang\":1}", ERR_BAD_INPUT, "lang: expected a string");
    refused("{\"code\":\"x\",\"task_type\":\"execute_klingon\"}", ERR_BAD_INPUT, "klingon");
    refused("{\"code\":\"x\",\"task_type\":\"eat\"}", ERR_BAD_INPUT, "task_type");
    refused("{\"code\":\"x\",\"task_type\":\"execute_\"}", ERR_BAD_INPUT, "");
    refused("{\"code\":\"x\",\"task_type\":[]}", ERR_BAD_INPUT, "task_type");
}

static void test_resources(void **state)
{
    (void)state;
    refused("{\"code\":\"x\",\"resources\":[]}", ERR_BAD_INPUT, "resources: expected an object");
    static const struct {
        const char *resources;
        const char *field;
    } table[] = {
        {"{\"cpu\":0}", "resources.cpu"},
        {"{\"cpu\":\"many\"}", "resources.cpu"},
        {"{\"cpu\":-1}", "resources.cpu"},
        {"{\"ram\":0}", "resources.ram"},
        {"{\"ram\":\"1XB\"}", "resources.ram"},
        {"{\"ram\":-5}", "resources.ram"},
        {"{\"ram\":1.5}", "resources.ram"},
        {"{\"storage\":true}", "resources.storage"},
        {"{\"storage\":\"\"}", "resources.storage"},
        {"{\"gpu\":-1}", "resources.gpu"},
        {"{\"gpu\":\"x\"}", "resources.gpu"},
        {"{\"gpu\":1025}", "resources.gpu"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        char body[128];
        (void)snprintf(body, sizeof(body), "{\"code\":\"x\",\"resources\":%s}", table[i].resources);
        refused(body, ERR_BAD_INPUT, table[i].field);
    }
    struct api_request *request =
        taken("{\"code\":\"x\",\"resources\":{\"gpu\":2,\"cpu\":\"0.5\"}}");
    assert_int_equal(request->execution.gpu_count, 2); /* how many there are, core knows */
    assert_int_equal(request->execution.cpu_millis, 500);
    api_request_free(request);
    request = taken("{\"code\":\"x\",\"resources\":{\"cpu\":0.5}}");
    assert_int_equal(request->execution.cpu_millis, 500);
    api_request_free(request);
    request = taken("{\"code\":\"x\",\"resources\":{\"cpu\":2}}");
    assert_int_equal(request->execution.cpu_millis, 2000);
    api_request_free(request);
}

static void test_timeout(void **state)
{
    (void)state;
    struct api_request *request = taken("{\"code\":\"x\",\"timeout\":60}");
    assert_int_equal(request->execution.timeout_ms, 60000);
    api_request_free(request);
    request = taken("{\"code\":\"x\",\"timeout\":\"0.0001\"}");
    assert_int_equal(request->execution.timeout_ms, 1);
    api_request_free(request);
    static const char *const wrong[] = {"0", "-1", "60.001", "1e400", "\"soon\"", "true", "[]"};
    for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
        char body[64];
        (void)snprintf(body, sizeof(body), "{\"code\":\"x\",\"timeout\":%s}", wrong[i]);
        refused(body, ERR_BAD_INPUT, i == 3 ? "" : "timeout");
    }
}

static void test_choices(void **state)
{
    (void)state;
    refused("{\"code\":\"x\",\"libraries\":[\"numpy\",1]}", ERR_BAD_INPUT, "libraries[1]");
    refused("{\"code\":\"x\",\"libraries\":[\"nu\\u0000mpy\"]}", ERR_BAD_INPUT, "");
    refused("{\"code\":\"x\",\"libraries\":\"numpy\"}", ERR_BAD_INPUT, "libraries");
    refused("{\"code\":\"x\",\"keep_template\":1}", ERR_BAD_INPUT, "keep_template");
    refused("{\"code\":\"x\",\"network\":true}", ERR_BAD_INPUT, "network");
    refused("{\"code\":\"x\",\"network\":{}}", ERR_BAD_INPUT, "network.mode");
    refused("{\"code\":\"x\",\"network\":{\"mode\":1}}", ERR_BAD_INPUT, "network.mode");
    refused("{\"code\":\"x\",\"network\":{\"mode\":\"egress\",\"allow\":\"x\"}}", ERR_BAD_INPUT,
            "network.allow");
    refused("{\"code\":\"x\",\"network\":{\"mode\":\"egress\",\"allow\":[\"a\",null]}}",
            ERR_BAD_INPUT, "network.allow[1]");
    refused("{\"code\":\"x\",\"image\":5}", ERR_BAD_INPUT, "image");
    refused("{\"code\":\"x\",\"profile\":[]}", ERR_BAD_INPUT, "profile");
    refused("{\"code\":\"x\",\"engine\":1}", ERR_BAD_INPUT, "engine");
    refused("{\"code\":\"x\",\"runtime\":[\"runsc\"]}", ERR_BAD_INPUT, "runtime");
}

static void test_env(void **state)
{
    (void)state;
    refused("{\"code\":\"x\",\"env\":[]}", ERR_BAD_INPUT, "env");
    refused("{\"code\":\"x\",\"env\":{\"A\":1}}", ERR_BAD_INPUT, "env.A");
    refused("{\"code\":\"x\",\"env\":{\"A\":null}}", ERR_BAD_INPUT, "env.A");
    static const char *const names[] = {"", "1A", "A B", "A=B", "A-B", "\\n", "\303\244"};
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        char body[64];
        (void)snprintf(body, sizeof(body), "{\"code\":\"x\",\"env\":{\"%s\":\"v\"}}", names[i]);
        refused(body, ERR_BAD_INPUT, "env");
    }
}

/* {"code":"x","env":{"V0":"...","V1":"...", ...}} with count values of size bytes; heap. */
static char *many_variables(unsigned count, size_t size)
{
    size_t room = 64 + count * (size + 32);
    char *body = malloc(room);
    char *value = malloc(size + 1);
    assert_true(body && value);
    memset(value, 'v', size);
    value[size] = '\0';
    size_t used = (size_t)snprintf(body, room, "{\"code\":\"x\",\"env\":{");
    for (unsigned i = 0; i < count; i++)
        used +=
            (size_t)snprintf(body + used, room - used, "%s\"V%u\":\"%s\"", i ? "," : "", i, value);
    (void)snprintf(body + used, room - used, "}}");
    free(value);
    return body;
}

static void test_env_sizes(void **state)
{
    (void)state;
    char *body = many_variables(512, 1);
    struct api_request *request = taken(body);
    assert_int_equal(request->execution.env_count, 512);
    api_request_free(request);
    free(body);
    body = many_variables(513, 1);
    refused(body, ERR_BAD_INPUT, "env: more than 512");
    free(body);
    body = many_variables(1, 128 * 1024 - 1 - 3); /* "V0=" and the value: the longest entry */
    api_request_free(taken(body));
    free(body);
    body = many_variables(1, 128 * 1024 - 3);
    refused(body, ERR_BAD_INPUT, "env.V0");
    free(body);
    body = many_variables(12, 100000); /* each may be, all together not */
    refused(body, ERR_BAD_INPUT, "too long");
    free(body);
}

static void test_paths(void **state)
{
    (void)state;
    static const char *const good[] = {"a",       "./a",     "a/b/c",    "/etc/x",
                                       ".hidden", "a//b",    "..a/b",    "sub/main.py",
                                       "a b",     "x..",     "/main.py", "/workspace/sub/main.py",
                                       "...",     "\303\244"};
    static const char *const bad[] = {
        "",     "/",   ".",  "..",          "../a",          "a/../b", "a/",  "a/.",
        "a/..", "/..", "./", "/workspace/", "/workspace/..", "//",     "a/./"};
    char body[256];
    for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
        (void)snprintf(body, sizeof(body),
                       "{\"code\":\"x\",\"files\":[{\"path\":\"%s\",\"content\":\"\"}]}", good[i]);
        api_request_free(taken(body));
    }
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        (void)snprintf(body, sizeof(body),
                       "{\"code\":\"x\",\"files\":[{\"path\":\"%s\",\"content\":\"\"}]}", bad[i]);
        refused(body, ERR_BAD_INPUT, "files[0].path");
    }
}

/* The file that the code itself becomes, under each of its names. */
static void test_the_source_is_not_a_file(void **state)
{
    (void)state;
    const struct lang *lang = NULL;
    char body[256];
    static const char *const forms[] = {"%s",
                                        "./%s",
                                        ".//./%s",
                                        "/workspace/%s",
                                        "/workspace/./%s",
                                        "/workspace//%s",
                                        "//workspace/%s",
                                        "/./workspace/%s"};
    assert_int_equal(lang_find("python", &lang, NULL), 0);
    for (size_t i = 0; i < ARRAY_SIZE(forms); i++) {
        char path[64];
        char *at = strstr(forms[i], "%s");
        (void)snprintf(path, sizeof(path), "%.*s%s", (int)(at - forms[i]), forms[i], lang->source);
        (void)snprintf(body, sizeof(body),
                       "{\"code\":\"x\",\"files\":[{\"path\":\"%s\",\"content\":\"\"}]}", path);
        refused(body, ERR_BAD_INPUT, "where the code itself goes");
    }
}

static void test_long_paths(void **state)
{
    (void)state;
    char name[300];
    char body[8192];
    memset(name, 'n', sizeof(name));
    (void)snprintf(body, sizeof(body),
                   "{\"code\":\"x\",\"files\":[{\"path\":\"%.255s\",\"content\":\"\"}]}", name);
    api_request_free(taken(body));
    (void)snprintf(body, sizeof(body),
                   "{\"code\":\"x\",\"files\":[{\"path\":\"a/%.256s\",\"content\":\"\"}]}", name);
    refused(body, ERR_BAD_INPUT, "files[0].path");
    size_t used = (size_t)snprintf(body, sizeof(body), "{\"code\":\"x\",\"files\":[{\"path\":\"");
    for (int i = 0; i < 2048; i++)
        used += (size_t)snprintf(body + used, sizeof(body) - used, "a/");
    (void)snprintf(body + used, sizeof(body) - used, "b\",\"content\":\"\"}]}");
    refused(body, ERR_BAD_INPUT, "files[0].path");
}

static void test_files(void **state)
{
    (void)state;
    refused("{\"code\":\"x\",\"files\":{}}", ERR_BAD_INPUT, "files: expected a list");
    refused("{\"code\":\"x\",\"files\":[1]}", ERR_BAD_INPUT, "files[0]");
    refused("{\"code\":\"x\",\"files\":[{}]}", ERR_BAD_INPUT, "files[0].path");
    refused("{\"code\":\"x\",\"files\":[{\"path\":\"a\"}]}", ERR_BAD_INPUT, "files[0].content");
    refused("{\"code\":\"x\",\"files\":[{\"path\":\"a\",\"content\":\"\"},"
            "{\"path\":\"b\",\"content\":\"a\"}]}",
            ERR_BAD_INPUT, "files[1].content");
    refused("{\"code\":\"x\",\"files\":[{\"path\":\"a\",\"content\":7}]}", ERR_BAD_INPUT,
            "files[0].content: expected a string");
    api_request_free(taken("{\"code\":\"x\",\"files\":[]}"));
    char body[16384];
    for (unsigned count = 256; count <= 257; count++) {
        size_t used = (size_t)snprintf(body, sizeof(body), "{\"code\":\"x\",\"files\":[");
        for (unsigned i = 0; i < count; i++)
            used += (size_t)snprintf(body + used, sizeof(body) - used,
                                     "%s{\"path\":\"f%u\",\"content\":\"\"}", i ? "," : "", i);
        (void)snprintf(body + used, sizeof(body) - used, "]}");
        if (count == 256)
            api_request_free(taken(body));
        else
            refused(body, ERR_BAD_INPUT, "more than 256 files");
    }
}

static void test_labels(void **state)
{
    (void)state;
    refused("{\"code\":\"x\",\"labels\":[]}", ERR_BAD_INPUT, "labels");
    refused("{\"code\":\"x\",\"labels\":{\"a\":1}}", ERR_BAD_INPUT, "labels.a");
    char body[4096];
    for (unsigned count = 64; count <= 65; count++) {
        size_t used = (size_t)snprintf(body, sizeof(body), "{\"code\":\"x\",\"labels\":{");
        for (unsigned i = 0; i < count; i++)
            used += (size_t)snprintf(body + used, sizeof(body) - used, "%s\"l%u\":\"\"",
                                     i ? "," : "", i);
        (void)snprintf(body + used, sizeof(body) - used, "}}");
        if (count == 64)
            api_request_free(taken(body));
        else
            refused(body, ERR_BAD_INPUT, "labels: more than 64");
    }
}

static void test_idempotency_key(void **state)
{
    (void)state;
    static const char body[] = "{\"code\":\"x\"}";
    struct api_request *request = NULL;
    struct err err = ERR_INIT;
    char longest[257];
    memset(longest, 'k', sizeof(longest));
    longest[255] = '\0';
    const char *headers[] = {"Idempotency-Key", longest, NULL};
    assert_ok(read_with(body, strlen(body), headers, &request, &err), err);
    assert_string_equal(request->execution.idempotency_key, longest);
    api_request_free(request);
    longest[255] = 'k';
    longest[256] = '\0';
    static const char *const bad[] = {"", "a b", "a\tb", "\303\244", "\177"};
    assert_fails(read_with(body, strlen(body), headers, &request, &err), ERR_BAD_INPUT, err);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        headers[1] = bad[i];
        assert_fails(read_with(body, strlen(body), headers, &request, &err), ERR_BAD_INPUT, err);
        assert_non_null(strstr(err.public_message, "Idempotency-Key"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_least),  cmocka_unit_test(test_everything),
        cmocka_unit_test(test_network),    cmocka_unit_test(test_bodies),
        cmocka_unit_test(test_lang),       cmocka_unit_test(test_resources),
        cmocka_unit_test(test_timeout),    cmocka_unit_test(test_choices),
        cmocka_unit_test(test_env),        cmocka_unit_test(test_env_sizes),
        cmocka_unit_test(test_paths),      cmocka_unit_test(test_the_source_is_not_a_file),
        cmocka_unit_test(test_long_paths), cmocka_unit_test(test_files),
        cmocka_unit_test(test_labels),     cmocka_unit_test(test_idempotency_key),
    };
    return cmocka_run_group_tests(tests, languages_load, languages_unload);
}
