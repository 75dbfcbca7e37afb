/* Owns `berth layers`: the library layers of a server as a table, and their removal. */
#include <inttypes.h>
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
    "usage: berth layers ls [--json]\n"
    "       berth layers rm NAME...\n"
    "\n"
    "Lists the libraries that the server at $BERTH_URL or\n" CLIENT_DEFAULT_URL
    " keeps for its callers, or takes some away. Who uses\n"
    "them keeps them; whoever asks for the same next waits for a new installation.\n"
    "\n"
    "      --json   print the server's answer\n"
    "  -h, --help   this text\n";

/* 12.3M, as `ls -h` says it. */
static void print_size(json_int_t bytes)
{
    static const char units[] = "BKMGT";
    double size = (double)bytes;
    size_t unit = 0;
    for (; size >= 1024 && unit + 2 < sizeof(units); unit++)
        size /= 1024;
    (void)printf("%6.*f%c", unit == 0 ? 0 : 1, size, units[unit]);
}

/* In their order, with commas between. */
static void print_libraries(const json_t *list)
{
    size_t index = 0;
    const json_t *one = NULL;
    json_array_foreach(list, index, one)(void)
        printf("%s%s", index > 0 ? "," : "", json_string_value(one));
    (void)printf("\n");
}

static void print_table(const json_t *answer)
{
    size_t index = 0;
    const json_t *one = NULL;
    (void)printf("%-20s  %-10s  %7s  %-4s  %6s  %s\n", "NAME", "LANGUAGE", "SIZE", "KEPT", "IN USE",
                 "LIBRARIES");
    json_array_foreach(json_object_get(answer, "layers"), index, one)
    {
        bool kept = json_is_true(json_object_get(one, "keep_template"));
        (void)printf("%-20s  %-10s  ", call_text(one, "name"), call_text(one, "lang"));
        print_size(json_integer_value(json_object_get(one, "size_bytes")));
        (void)printf("  %-4s  %6" JSON_INTEGER_FORMAT "  ", kept ? "yes" : "no",
                     json_integer_value(json_object_get(one, "in_use")));
        print_libraries(json_object_get(one, "libraries"));
    }
    json_array_foreach(json_object_get(answer, "building"), index, one)
    {
        (void)printf("%-20s  %-10s  %7s  %-4s  %6s  ", "(being made)", call_text(one, "lang"), "-",
                     "-", "-");
        print_libraries(json_object_get(one, "libraries"));
    }
}

static int list(const char *url, bool raw, struct err *err)
{
    JSON_AUTO struct json_t *answer = NULL;
    int result = call_json(url, "GET", "/api/v1/layers", NULL, &answer, err);
    if (result != 0 || raw)
        return result == 0 ? call_print(answer, err) : result;
    print_table(answer);
    return 0;
}

static int remove_all(const char *url, int count, char **names, struct err *err)
{
    int result = 0;
    for (int i = 0; i < count && result == 0; i++) {
        JSON_AUTO struct json_t *answer = NULL;
        char path[160];
        result = call_path("api/v1/layers", names[i], NULL, path, err);
        if (result == 0)
            result = call_json(url, "DELETE", path, NULL, &answer, err);
        if (result == 0)
            (void)printf("%s\n", names[i]);
    }
    return result;
}

int cli_layers(int argc, char **argv)
{
    bool is_default = false;
    const char *word = argc > 1 ? argv[1] : "";
    bool asked = argc == 2 && (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0);
    bool lists = strcmp(word, "ls") == 0 && argc <= 3;
    bool raw = lists && argc == 3 && strcmp(argv[2], "--json") == 0;
    bool removes = strcmp(word, "rm") == 0 && argc > 2 && argv[2][0] != '-';
    if (!removes && (!lists || (argc == 3 && !raw))) {
        (void)fputs(help, asked ? stdout : stderr);
        return asked ? EXIT_SUCCESS : CLI_EXIT_USAGE;
    }
    struct err err = ERR_INIT;
    const char *url = client_url(&is_default);
    if ((lists ? list(url, raw, &err) : remove_all(url, argc - 2, argv + 2, &err)) != 0) {
        (void)fprintf(stderr, "berth layers: %s\n", err.message);
        return CLI_EXIT_FAILED;
    }
    return EXIT_SUCCESS;
}
