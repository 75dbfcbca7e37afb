/* Owns `berth session`: making, listing and ending sessions, and code in them from a command line.
 * What a person types into one is attach.c's. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "cli/attach.h"
#include "cli/call.h"
#include "cli/cli.h"
#include "cli/client.h"
#include "cli/session_options.h"
#include "cli/watch.h"
#include "wire/json.h"

static const char help[] =
    "usage: berth session COMMAND [options]\n"
    "\n"
    "Sessions are sandboxes that keep variables, imports and files from call to call, on the\n"
    "server at $BERTH_URL or " CLIENT_DEFAULT_URL ".\n"
    "\n"
    "  new [options]        make one and print its id\n"
    "  exec ID CODE         run code in it; also exec ID -f FILE and exec ID -\n"
    "  attach ID            type code into it\n"
    "  ls                   list them\n"
    "  rm ID...             end them\n"
    "  network ID [MODE]    where it may connect to: none, egress\n"
    "\n"
    "`berth session COMMAND --help` says more, and so does berth(1).\n";

static int make_session(const struct session_options *options, const char *url, struct err *err)
{
    JSON_AUTO struct json_t *session = NULL;
    int result = call_json(url, "POST", "/sessions", options->request, &session, err);
    if (result != 0)
        return result;
    if (options->json)
        return call_print(session, err);
    const char *id = json_string_value(json_object_get(session, "session_id"));
    if (!id)
        return err_set(err, ERR_PROTOCOL, "the server's answer has no id");
    (void)printf("%s\n", id);
    return 0;
}

/* ---- exec ---- */

/* --json: the object alone, once it has ended. */
static int print_execution(const char *url, const char *id, struct err *err)
{
    JSON_AUTO struct json_t *object = NULL;
    char path[160];
    int result = call_path("executions", id, NULL, path, err);
    if (result == 0)
        result = call_json(url, "GET", path, NULL, &object, err);
    return result == 0 ? call_print(object, err) : result;
}

static int exec_code(const struct session_options *options, const char *url, int *exit_code,
                     struct err *err)
{
    char path[160];
    char interrupt[160];
    MEM_AUTO char *body = json_dumps(options->request, JSON_COMPACT);
    if (!body)
        return err_set(err, ERR_INTERNAL, "no memory");
    int result = call_path("sessions", options->ids[0], "execute", path, err);
    if (result == 0)
        result = call_path("sessions", options->ids[0], "interrupt", interrupt, err);
    if (result != 0)
        return result;
    struct watch watch = {
        .url = url,
        .interrupt_path = interrupt,
        .interrupts_max = 1,
        .show = {.silent = options->json, .results = true, .images_path = options->images_path}};
    result = watch_code(&watch, path, body, strlen(body), err);
    if (result == 0 && options->json)
        result = print_execution(url, watch.show.id, err);
    *exit_code = watch.show.exit_code;
    return result;
}

/* ---- ls ---- */

static void print_row(const json_t *session)
{
    const json_t *running = json_object_get(session, "running");
    (void)printf("%-36s  %-8s  %-5s  %10" JSON_INTEGER_FORMAT "  %s\n",
                 call_text(session, "session_id"), call_text(session, "lang"),
                 json_is_string(running) ? "busy" : "idle",
                 json_integer_value(json_object_get(session, "execution_count")),
                 call_text(session, "expires_at"));
}

/* Sessions as objects, in the order of the list; one that ends meanwhile is left out. */
static int get_each(const char *url, const json_t *ids, json_t *out, struct err *err)
{
    size_t index = 0;
    const json_t *id = NULL;
    json_array_foreach(ids, index, id)
    {
        char path[160];
        json_t *session = NULL;
        const char *text = json_string_value(id);
        int result = call_path("sessions", text ? text : "", NULL, path, err);
        if (result == 0)
            result = call_json(url, "GET", path, NULL, &session, err);
        if (result == 0 && json_array_append_new(out, session) != 0)
            result = err_set(err, ERR_INTERNAL, "no memory");
        if (result != 0 && result != -ERR_NOT_FOUND)
            return result;
    }
    return 0;
}

static int list(const struct session_options *options, const char *url, struct err *err)
{
    JSON_AUTO struct json_t *answer = NULL;
    JSON_AUTO struct json_t *sessions = json_array();
    size_t index = 0;
    const json_t *one = NULL;
    int result = call_json(url, "GET", "/sessions", NULL, &answer, err);
    if (result != 0)
        return result;
    const json_t *ids = json_object_get(answer, "sessions");
    if (options->quiet) {
        json_array_foreach(ids, index, one)(void) printf("%s\n", json_string_value(one));
        return 0;
    }
    result = get_each(url, ids, sessions, err);
    if (result != 0)
        return result;
    if (options->json)
        return call_print(sessions, err);
    (void)printf("%-36s  %-8s  %-5s  %10s  %s\n", "SESSION ID", "LANGUAGE", "STATE", "EXECUTIONS",
                 "EXPIRES");
    json_array_foreach(sessions, index, one) print_row(one);
    return 0;
}

/* ---- network ---- */

/* Changes it when the command line says to what. */
static int show_network(const struct session_options *options, const char *url, struct err *err)
{
    char path[160];
    JSON_AUTO struct json_t *session = NULL;
    bool change = json_object_size(options->request) > 0;
    int result = call_path("sessions", options->ids[0], change ? "network" : NULL, path, err);
    if (result == 0)
        result = call_json(url, change ? "PUT" : "GET", path, change ? options->request : NULL,
                           &session, err);
    if (result != 0)
        return result;
    if (options->json)
        return call_print(session, err);
    const json_t *network = json_object_get(session, "network");
    size_t index = 0;
    const json_t *rule = NULL;
    (void)printf("%s\n", call_text(network, "mode"));
    json_array_foreach(json_object_get(network, "allow"), index, rule)(void)
        printf("  %s\n", json_string_value(rule));
    return 0;
}

/* ---- rm ---- */

/* All of them, also behind one that can't be ended. */
static int end_each(const struct session_options *options, const char *url, struct err *err)
{
    int failures = 0;
    for (int i = 0; i < options->id_count; i++) {
        char path[160];
        JSON_AUTO struct json_t *answer = NULL;
        struct err local = ERR_INIT;
        int result = call_path("sessions", options->ids[i], NULL, path, &local);
        if (result == 0)
            result = call_json(url, "DELETE", path, NULL, &answer, &local);
        if (result == 0)
            (void)printf("%s\n", options->ids[i]);
        else
            (void)fprintf(stderr, "berth session: %s\n", local.message);
        failures += result != 0 ? 1 : 0;
    }
    if (failures > 0)
        return err_set(err, ERR_CONFLICT, "%d of %d could not be ended", failures,
                       options->id_count);
    return 0;
}

static int call(const struct session_options *options, int *exit_code, struct err *err)
{
    bool is_default = false;
    const char *url = client_url(&is_default);
    switch (options->command) {
    case SESSION_NEW:
        return make_session(options, url, err);
    case SESSION_EXEC:
        return exec_code(options, url, exit_code, err);
    case SESSION_ATTACH:
        return attach_run(options, url, err);
    case SESSION_LS:
        return list(options, url, err);
    case SESSION_NETWORK:
        return show_network(options, url, err);
    case SESSION_RM:
    case SESSION_COMMAND_COUNT:
        break;
    }
    return end_each(options, url, err);
}

int cli_session(int argc, char **argv)
{
    bool asked = argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0);
    if (asked || argc < 2) {
        (void)fputs(help, asked ? stdout : stderr);
        return asked ? EXIT_SUCCESS : CLI_EXIT_USAGE;
    }
    SESSION_OPTIONS_AUTO struct session_options options = {0};
    struct err err = ERR_INIT;
    if (session_options_parse(argc - 1, argv + 1, &options, &err) != 0) {
        (void)fprintf(stderr, "berth session: %s\n", err.message);
        return CLI_EXIT_USAGE;
    }
    if (options.help) {
        (void)fputs(session_options_help(options.command), stdout);
        return EXIT_SUCCESS;
    }
    int exit_code = EXIT_SUCCESS;
    if (call(&options, &exit_code, &err) != 0) {
        (void)fprintf(stderr, "berth session: %s\n", err.message);
        return CLI_EXIT_FAILED;
    }
    return exit_code;
}
