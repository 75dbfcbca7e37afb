/* Owns `berth engines`: what a server runs sandboxes with, as a table. */
#include <getopt.h>
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

static const char help[] = "usage: berth engines [--json]\n"
                           "\n"
                           "Lists what the server at $BERTH_URL or\n" CLIENT_DEFAULT_URL
                           " runs sandboxes with, in which ways, and what each\n"
                           "of them can't do. A request that names none gets the one with a star.\n"
                           "\n"
                           "      --json   print what the server says of them\n"
                           "  -h, --help   this text\n";

/* A row: an engine, in one of its ways (NULL: it names none). */
static void print_row(const json_t *engine, const json_t *runtime, bool chosen)
{
    size_t index = 0;
    const json_t *word = NULL;
    const json_t *lacks = json_object_get(runtime, "missing");
    (void)printf("%-8s  %-11s  %-10s%s  %-14s  ", call_text(engine, "name"),
                 call_text(engine, "status"), runtime ? call_text(runtime, "name") : "-",
                 chosen ? "*" : " ", call_text(runtime ? runtime : engine, "version"));
    json_array_foreach(lacks, index, word)(void)
        printf("%s%s", index > 0 ? ", " : "", json_string_value(word));
    (void)printf("%s\n", json_array_size(lacks) == 0 ? "-" : "");
}

/* What the row of an engine has no room for. */
static void print_notes(const json_t *engine)
{
    static const char *const keys[] = {"unavailable", "missing"};
    size_t index = 0;
    const json_t *runtime = NULL;
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        const char *text = json_string_value(json_object_get(engine, keys[i]));
        if (text && text[0] != '\0')
            (void)printf("%s: %s\n", call_text(engine, "name"), text);
    }
    json_array_foreach(json_object_get(engine, "runtimes"), index, runtime)
    {
        const char *text = json_string_value(json_object_get(runtime, "warning"));
        if (text && text[0] != '\0')
            (void)printf("%s/%s: warning: %s\n", call_text(engine, "name"),
                         call_text(runtime, "name"), text);
    }
}

/* Whether an execution gets that engine when it names none, and the runtime (NULL: its first). */
static bool is_default(const json_t *info, const json_t *engine, const json_t *runtime, bool first)
{
    const json_t *choice = json_object_get(
        json_object_get(json_object_get(info, "engine_choice"), "defaults"), "execute");
    const char *name = json_string_value(json_object_get(choice, "runtime"));
    if (strcmp(call_text(choice, "engine"), call_text(engine, "name")) != 0)
        return false;
    return name ? runtime && strcmp(name, call_text(runtime, "name")) == 0 : first;
}

static void print_table(const json_t *info)
{
    const json_t *engines = json_object_get(info, "engines");
    const json_t *engine = NULL;
    const json_t *runtime = NULL;
    size_t index = 0;
    (void)printf("%-8s  %-11s  %-11s  %-14s  %s\n", "ENGINE", "STATUS", "RUNTIME", "VERSION",
                 "LACKS");
    json_array_foreach(engines, index, engine)
    {
        size_t place = 0;
        const json_t *runtimes = json_object_get(engine, "runtimes");
        if (json_array_size(runtimes) == 0)
            print_row(engine, NULL, is_default(info, engine, NULL, true));
        json_array_foreach(runtimes, place, runtime)
            print_row(engine, runtime, is_default(info, engine, runtime, place == 0));
    }
    json_array_foreach(engines, index, engine) print_notes(engine);
}

static int show(bool raw, struct err *err)
{
    bool is_default_url = false;
    JSON_AUTO struct json_t *info = NULL;
    int result = call_json(client_url(&is_default_url), "GET", "/api/v1/info", NULL, &info, err);
    if (result != 0)
        return result;
    if (!raw) {
        print_table(info);
        return 0;
    }
    JSON_AUTO struct json_t *told =
        json_pack("{sO?sO?}", "engines", json_object_get(info, "engines"), "engine_choice",
                  json_object_get(info, "engine_choice"));
    return told ? call_print(told, err) : err_set(err, ERR_INTERNAL, "no memory for the answer");
}

int cli_engines(int argc, char **argv)
{
    static const struct option known[] = {
        {"json", no_argument, NULL, 'j'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    bool raw = false;
    int option = 0;
    opterr = 0;
    optind = 1;
    while ((option = getopt_long(argc, argv, "h", known, NULL)) != -1) {
        if (option != 'j') {
            (void)fputs(help, option == 'h' ? stdout : stderr);
            return option == 'h' ? EXIT_SUCCESS : CLI_EXIT_USAGE;
        }
        raw = true;
    }
    if (optind < argc) {
        (void)fputs(help, stderr);
        return CLI_EXIT_USAGE;
    }
    struct err err = ERR_INIT;
    if (show(raw, &err) != 0) {
        (void)fprintf(stderr, "berth engines: %s\n", err.message);
        return CLI_EXIT_FAILED;
    }
    return EXIT_SUCCESS;
}
