/* Owns `berth run`: one execution on a server, its output as it comes, its exit code at the end. */
#include <inttypes.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/fd.h"
#include "base/mem.h"
#include "cli/cli.h"
#include "cli/client.h"
#include "cli/local.h"
#include "cli/run_options.h"

enum { ANSWER_MAX = 256 * 1024 * 1024 };

struct run {
    const struct run_options *options;
    char cancel_path[160]; /* "" before the execution has an id */
    bool ended;
    int exit_code;
};

static void say_end(const json_t *object)
{
    const char *cause = json_string_value(json_object_get(object, "killed_by"));
    double seconds = json_number_value(json_object_get(object, "execution_time_secs"));
    json_int_t code = json_integer_value(json_object_get(object, "exit_code"));
    if (!cause)
        return;
    if (strcmp(cause, "signal") == 0)
        (void)fprintf(stderr, "berth: ended by signal %" JSON_INTEGER_FORMAT "\n", code - 128);
    else
        (void)fprintf(stderr, "berth: killed by %s after %.1f s\n", cause, seconds);
}

/* An object without an exit code is not an outcome: then the run counts as not ended. */
static void take_object(struct run *run, const json_t *object)
{
    const json_t *code = json_object_get(object, "exit_code");
    run->ended = json_is_integer(code);
    run->exit_code = (int)(json_integer_value(code) & 255);
}

static int write_text(int fd, const json_t *data, struct err *err)
{
    const json_t *text = json_object_get(data, "text");
    const char *bytes = json_string_value(text);
    return bytes ? fd_write_all(fd, bytes, json_string_length(text), err) : 0;
}

/* An event is {"event": name, "id": number, "data": object}. */
static int take_event(struct run *run, const json_t *event, struct err *err)
{
    const char *name = json_string_value(json_object_get(event, "event"));
    const json_t *data = json_object_get(event, "data");
    if (!name || !json_is_object(data))
        return err_set(err, ERR_PROTOCOL, "the server sent an event without a name or data");
    if (strcmp(name, "started") == 0) {
        const char *id = json_string_value(json_object_get(data, "execution_id"));
        (void)snprintf(run->cancel_path, sizeof(run->cancel_path), "/executions/%s", id ? id : "");
        return 0;
    }
    if (strcmp(name, "stdout") == 0)
        return write_text(STDOUT_FILENO, data, err);
    if (strcmp(name, "stderr") == 0)
        return write_text(STDERR_FILENO, data, err);
    if (strcmp(name, "end") == 0) {
        take_object(run, data);
        if (json_is_true(json_object_get(data, "truncated")))
            (void)fprintf(stderr, "berth: the output was longer than is kept; the rest is lost\n");
        say_end(data);
    }
    return 0; /* an event of a newer server, or an `error`, which no `end` follows */
}

static int on_line(void *context, const char *line, size_t size, struct err *err)
{
    json_t *event = json_loadb(line, size, JSON_ALLOW_NUL, NULL);
    if (!event)
        return err_set(err, ERR_PROTOCOL, "the server sent a line that is not JSON");
    int result = take_event(context, event, err);
    json_decref(event);
    return result;
}

static const char *on_cancel(void *context)
{
    const struct run *run = context;
    return run->cancel_path[0] != '\0' ? run->cancel_path : NULL;
}

/* --json: the object, readable, and nothing else on standard output. */
static int print_object(struct run *run, const struct buf *answer, struct err *err)
{
    json_t *object = json_loadb((const char *)answer->data, answer->size, JSON_ALLOW_NUL, NULL);
    if (!object)
        return err_set(err, ERR_PROTOCOL, "the server's answer is not JSON");
    MEM_AUTO char *text = json_dumps(object, JSON_INDENT(2) | JSON_REAL_PRECISION(15));
    if (text) {
        take_object(run, object);
        (void)printf("%s\n", text);
    }
    json_decref(object);
    return text ? 0 : err_set(err, ERR_INTERNAL, "no memory");
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
        .cancel = on_cancel,
        .context = run,
    };
    long status = 0;
    int result = client_send(&request, &answer, &status, err);
    if (result == 0 && status != 200)
        result = client_refused(status, &answer, err);
    if (result == 0 && json)
        result = print_object(run, &answer, err);
    if (result == 0 && !run->ended)
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
    return run.exit_code;
}
