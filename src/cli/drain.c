/* Owns `berth drain`: the end of all that runs and of all that is kept. It does not keep others
 * from beginning anew. */
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "cli/call.h"
#include "cli/cli.h"
#include "cli/client.h"
#include "wire/json.h"

enum { ROUNDS = 100 }; /* of what may begin while others end */

static const char help[] =
    "usage: berth drain\n"
    "\n"
    "Ends every execution and every session on the server at $BERTH_URL or\n" CLIENT_DEFAULT_URL
    ", and says how many there were. What is asked for\n"
    "meanwhile may begin.\n"
    "\n"
    "  -h, --help   this text\n";

/* Ends one object. One that has gone by itself is no failure, and does not count. */
static int end_one(const char *url, const char *prefix, const json_t *id, json_t **answer,
                   struct err *err)
{
    char path[160];
    const char *text = json_string_value(id);
    int result = call_path(prefix, text ? text : "", NULL, path, err);
    if (result == 0)
        result = call_json(url, "DELETE", path, NULL, answer, err);
    return result == -ERR_NOT_FOUND ? 0 : result;
}

/* The executions of one page. *found: how many there were. */
static int end_page(const char *url, const char *path, size_t *found, size_t *ended,
                    struct err *err)
{
    JSON_AUTO struct json_t *answer = NULL;
    size_t index = 0;
    const json_t *one = NULL;
    int result = call_json(url, "GET", path, NULL, &answer, err);
    const json_t *list = json_object_get(answer, "executions");
    json_array_foreach(list, index, one)
    {
        JSON_AUTO struct json_t *object = NULL;
        if (result == 0)
            result = end_one(url, "executions", json_object_get(one, "execution_id"), &object, err);
        if (strcmp(call_text(object, "killed_by"), "user") == 0)
            ++*ended;
    }
    *found += json_array_size(list);
    return result;
}

static int end_executions(const char *url, size_t *ended, struct err *err)
{
    for (int round = 0; round < ROUNDS; round++) {
        size_t found = 0;
        int result = end_page(url, "/executions?limit=1000&status=queued", &found, ended, err);
        if (result == 0)
            result = end_page(url, "/executions?limit=1000&status=running", &found, ended, err);
        if (result != 0 || found == 0)
            return result;
    }
    return err_set(err, ERR_CONFLICT, "executions begin as fast as they are ended");
}

static int end_sessions(const char *url, size_t *ended, struct err *err)
{
    JSON_AUTO struct json_t *answer = NULL;
    size_t index = 0;
    const json_t *id = NULL;
    int result = call_json(url, "GET", "/sessions", NULL, &answer, err);
    json_array_foreach(json_object_get(answer, "sessions"), index, id)
    {
        JSON_AUTO struct json_t *object = NULL;
        if (result == 0)
            result = end_one(url, "sessions", id, &object, err);
        *ended += object ? 1 : 0;
    }
    return result;
}

/* Executions first: those of a session would end with it, and would not be counted. */
static int drain(struct err *err)
{
    bool is_default = false;
    const char *url = client_url(&is_default);
    size_t executions = 0;
    size_t sessions = 0;
    int result = end_executions(url, &executions, err);
    if (result == 0)
        result = end_sessions(url, &sessions, err);
    if (result == 0)
        result = end_executions(url, &executions, err);
    if (result == 0 || executions + sessions > 0)
        (void)printf("ended %zu session%s and %zu execution%s\n", sessions,
                     sessions == 1 ? "" : "s", executions, executions == 1 ? "" : "s");
    return result;
}

int cli_drain(int argc, char **argv)
{
    bool asked = argc == 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0);
    if (argc > 1) {
        (void)fputs(help, asked ? stdout : stderr);
        return asked ? EXIT_SUCCESS : CLI_EXIT_USAGE;
    }
    struct err err = ERR_INIT;
    if (drain(&err) != 0) {
        (void)fprintf(stderr, "berth drain: %s\n", err.message);
        return CLI_EXIT_FAILED;
    }
    return EXIT_SUCCESS;
}
