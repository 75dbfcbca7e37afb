/* Owns `berth drain`: the end of all that runs and of all that is kept on a server, which takes
 * nothing new until that is lifted. */
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

static const char help[] =
    "usage: berth drain [--lift]\n"
    "\n"
    "Ends every execution and every session on the server at $BERTH_URL or\n" CLIENT_DEFAULT_URL
    ", waits until nothing of them is left, and says how many there were.\n"
    "From then on the server refuses what is new, until it is started anew or\n"
    "\n"
    "      --lift   lets it take requests again\n"
    "  -h, --help   this text\n";

static json_int_t count_of(const json_t *answer, const char *group, const char *key)
{
    return json_integer_value(json_object_get(json_object_get(answer, group), key));
}

static void say(const json_t *answer)
{
    json_int_t sessions = count_of(answer, "ended", "sessions");
    json_int_t executions = count_of(answer, "ended", "executions");
    (void)printf("ended %" JSON_INTEGER_FORMAT " session%s and %" JSON_INTEGER_FORMAT
                 " execution%s\n",
                 sessions, sessions == 1 ? "" : "s", executions, executions == 1 ? "" : "s");
}

/* Asks again for as long as something is left: each time the server waits a while itself. */
static int drain(const char *url, struct err *err)
{
    for (;;) {
        JSON_AUTO struct json_t *answer = NULL;
        int result = call_json(url, "PUT", "/api/v1/drain", NULL, &answer, err);
        if (result != 0)
            return result;
        const char *status = call_text(answer, "status");
        if (strcmp(status, "drained") == 0) {
            say(answer);
            return 0;
        }
        if (strcmp(status, "draining") != 0)
            return err_set(err, ERR_CONFLICT, "somebody lifted the drain meanwhile");
        (void)fprintf(stderr, "berth: %" JSON_INTEGER_FORMAT " sandboxes are left\n",
                      count_of(answer, "left", "sandboxes"));
    }
}

static int lift(const char *url, struct err *err)
{
    JSON_AUTO struct json_t *answer = NULL;
    return call_json(url, "DELETE", "/api/v1/drain", NULL, &answer, err);
}

int cli_drain(int argc, char **argv)
{
    bool is_default = false;
    const char *word = argc == 2 ? argv[1] : "";
    bool asked = strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0;
    bool lifts = strcmp(word, "--lift") == 0;
    if (argc > 1 && !lifts) {
        (void)fputs(help, asked ? stdout : stderr);
        return asked ? EXIT_SUCCESS : CLI_EXIT_USAGE;
    }
    struct err err = ERR_INIT;
    const char *url = client_url(&is_default);
    if ((lifts ? lift(url, &err) : drain(url, &err)) != 0) {
        (void)fprintf(stderr, "berth drain: %s\n", err.message);
        return CLI_EXIT_FAILED;
    }
    return EXIT_SUCCESS;
}
