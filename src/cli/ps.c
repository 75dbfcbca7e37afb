/* Owns `berth ps`: the executions of a server as a table. */
#include <getopt.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/err.h"
#include "cli/call.h"
#include "cli/cli.h"
#include "cli/client.h"
#include "wire/json.h"

static const char help[] =
    "usage: berth ps [--all] [--json]\n"
    "\n"
    "Lists the executions that run on the server at $BERTH_URL or\n" CLIENT_DEFAULT_URL ".\n"
    "\n"
    "  -a, --all    those that have ended as well, newest first\n"
    "      --json   print the server's answer\n"
    "  -h, --help   this text\n";

static void print_table(const json_t *answer)
{
    const json_t *list = json_object_get(answer, "executions");
    size_t index = 0;
    const json_t *one = NULL;
    (void)printf("%-36s  %-8s  %-10s  %s\n", "EXECUTION ID", "STATUS", "LANGUAGE", "CREATED");
    json_array_foreach(list, index, one)
    {
        (void)printf("%-36s  %-8s  %-10s  %s\n", call_text(one, "execution_id"),
                     call_text(one, "status"), call_text(one, "lang"),
                     call_text(one, "created_at"));
    }
    if (json_is_string(json_object_get(answer, "next")))
        (void)printf("and more\n");
}

static int show(bool all, bool raw, struct err *err)
{
    bool is_default = false;
    JSON_AUTO struct json_t *answer = NULL;
    const char *path = all ? "/executions" : "/executions?status=running";
    int result = call_json(client_url(&is_default), "GET", path, NULL, &answer, err);
    if (result != 0 || raw)
        return result == 0 ? call_print(answer, err) : result;
    print_table(answer);
    return 0;
}

int cli_ps(int argc, char **argv)
{
    static const struct option known[] = {
        {"all", no_argument, NULL, 'a'},
        {"json", no_argument, NULL, 'j'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    bool all = false;
    bool raw = false;
    int option = 0;
    opterr = 0;
    optind = 1;
    while ((option = getopt_long(argc, argv, "ah", known, NULL)) != -1) {
        if (option == 'a') {
            all = true;
        } else if (option == 'j') {
            raw = true;
        } else {
            (void)fputs(help, option == 'h' ? stdout : stderr);
            return option == 'h' ? EXIT_SUCCESS : CLI_EXIT_USAGE;
        }
    }
    if (optind < argc) {
        (void)fputs(help, stderr);
        return CLI_EXIT_USAGE;
    }
    struct err err = ERR_INIT;
    if (show(all, raw, &err) != 0) {
        (void)fprintf(stderr, "berth ps: %s\n", err.message);
        return CLI_EXIT_FAILED;
    }
    return EXIT_SUCCESS;
}
