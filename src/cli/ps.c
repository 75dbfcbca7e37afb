/* Owns `berth ps`: the executions of a server as a table. */
#include <getopt.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/mem.h"
#include "cli/cli.h"
#include "cli/client.h"

enum { ANSWER_MAX = 16 * 1024 * 1024 };

static const char help[] =
    "usage: berth ps [--all] [--json]\n"
    "\n"
    "Lists the executions that run on the server at $BERTH_URL or\n" CLIENT_DEFAULT_URL ".\n"
    "\n"
    "  -a, --all    those that have ended as well, newest first\n"
    "      --json   print the server's answer\n"
    "  -h, --help   this text\n";

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "-";
}

static void print_table(const json_t *answer)
{
    const json_t *list = json_object_get(answer, "executions");
    size_t index = 0;
    const json_t *one = NULL;
    (void)printf("%-36s  %-8s  %-10s  %s\n", "EXECUTION ID", "STATUS", "LANGUAGE", "CREATED");
    json_array_foreach(list, index, one)
    {
        (void)printf("%-36s  %-8s  %-10s  %s\n", text_of(one, "execution_id"),
                     text_of(one, "status"), text_of(one, "lang"), text_of(one, "created_at"));
    }
    if (json_is_string(json_object_get(answer, "next")))
        (void)printf("and more\n");
}

static int show(bool all, bool raw, struct err *err)
{
    BUF_AUTO struct buf bytes;
    buf_init(&bytes, ANSWER_MAX);
    bool is_default = false;
    struct client_request request = {
        .url = client_url(&is_default),
        .method = "GET",
        .path = all ? "/executions" : "/executions?status=running",
    };
    long status = 0;
    int result = client_send(&request, &bytes, &status, err);
    if (result == 0 && status != 200)
        result = client_refused(status, &bytes, err);
    if (result != 0)
        return result;
    json_t *answer = json_loadb((const char *)bytes.data, bytes.size, JSON_ALLOW_NUL, NULL);
    if (!answer)
        return err_set(err, ERR_PROTOCOL, "the server's answer is not JSON");
    MEM_AUTO char *text = raw ? json_dumps(answer, JSON_INDENT(2) | JSON_REAL_PRECISION(15)) : NULL;
    if (text)
        (void)printf("%s\n", text);
    else
        print_table(answer);
    json_decref(answer);
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
