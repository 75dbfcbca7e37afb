/* Owns `berth run`: one execution on a server, its output as it comes, its exit code at the end. */
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/mem.h"
#include "cli/call.h"
#include "cli/cli.h"
#include "cli/client.h"
#include "cli/local.h"
#include "cli/run_options.h"
#include "cli/show.h"

enum { ANSWER_MAX = 256 * 1024 * 1024 };

struct run {
    const struct run_options *options;
    char cancel_path[160]; /* "" before it was cancelled */
    struct show show;
};

/* The first signal cancels the execution, whose end is still waited for. */
static struct client_aside on_signal(void *context, int signal_number)
{
    struct run *run = context;
    (void)signal_number;
    if (run->show.id[0] == '\0' || run->cancel_path[0] != '\0')
        return (struct client_aside){0};
    (void)snprintf(run->cancel_path, sizeof(run->cancel_path), "/executions/%s", run->show.id);
    return (struct client_aside){.method = "DELETE", .path = run->cancel_path};
}

static int on_line(void *context, const char *line, size_t size, struct err *err)
{
    struct run *run = context;
    return show_line(&run->show, line, size, err);
}

/* --json: the object, readable, and nothing else on standard output. */
static int print_object(struct run *run, const struct buf *answer, struct err *err)
{
    json_t *object = json_loadb((const char *)answer->data, answer->size, JSON_ALLOW_NUL, NULL);
    if (!object)
        return err_set(err, ERR_PROTOCOL, "the server's answer is not JSON");
    int result = call_print(object, err);
    show_take_end(&run->show, object);
    json_decref(object);
    return result;
}

static int run_once(struct run *run, const char *url, const char *body, struct err *err)
{
    BUF_AUTO struct buf answer;
    buf_init(&answer, ANSWER_MAX);
    bool json = run->options->json;
    struct client_request request = {
        .url = url,
        .method = "POST",
        .path = "/execute",
        .accept = json ? NULL : "application/x-ndjson",
        .body = body,
        .body_size = strlen(body),
        .line = json ? NULL : on_line,
        .signal = on_signal,
        .context = run,
    };
    long status = 0;
    int result = client_send(&request, &answer, &status, err);
    if (result == 0 && status != 200)
        result = client_refused(status, &answer, err);
    if (result == 0 && json)
        result = print_object(run, &answer, err);
    if (result == 0 && !run->show.ended)
        result = err_set(err, ERR_PROTOCOL, "the server's answer ended before the execution did");
    return result;
}

static int run_anywhere(struct run *run, struct err *err)
{
    MEM_AUTO char *body = json_dumps(run->options->request, JSON_COMPACT);
    if (!body)
        return err_set(err, ERR_INTERNAL, "no memory");
    bool is_default = false;
    const char *url = client_url(&is_default);
    int result = run_once(run, url, body, err);
    if (result != -ERR_UNAVAILABLE || !is_default)
        return result;
    LOCAL_SERVER_AUTO struct local_server server = {0};
    result = local_server_start(&server, err);
    return result != 0 ? result : run_once(run, server.url, body, err);
}

int cli_run(int argc, char **argv)
{
    RUN_OPTIONS_AUTO struct run_options options = {0};
    struct err err = ERR_INIT;
    if (run_options_parse(argc, argv, &options, &err) != 0) {
        (void)fprintf(stderr, "berth run: %s\n", err.message);
        return CLI_EXIT_USAGE;
    }
    if (options.help) {
        (void)fputs(run_options_help(), stdout);
        return EXIT_SUCCESS;
    }
    struct run run = {.options = &options};
    if (run_anywhere(&run, &err) != 0) {
        (void)fprintf(stderr, "berth run: %s\n", err.message);
        return CLI_EXIT_FAILED;
    }
    return run.show.exit_code;
}
