/* Owns `berth languages`: what a server's image has, as a table. */
#include <curl/curl.h>
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

static const char help[] =
    "usage: berth languages [--engine NAME] [--image NAME] [--json]\n"
    "\n"
    "Lists the languages that an image of the server at $BERTH_URL or\n" CLIENT_DEFAULT_URL
    " has, with their versions.\n"
    "\n"
    "      --engine NAME  of that engine (default the server's: berth engines)\n"
    "      --image NAME   of that image (default its first: host, the server's own system)\n"
    "      --json         print the server's answer\n"
    "  -h, --help         this text\n";

enum { WORDS_MAX = 256, PATH_SIZE = 1024 };

/* The words of an array, with commas between them. */
static const char *join(const json_t *list, char out[static WORDS_MAX])
{
    size_t index = 0;
    size_t used = 0;
    const json_t *word = NULL;
    out[0] = '\0';
    json_array_foreach(list, index, word)
    {
        const char *text = json_string_value(word);
        if (text && used < WORDS_MAX - 1)
            used +=
                (size_t)snprintf(out + used, WORDS_MAX - used, "%s%s", index > 0 ? ", " : "", text);
    }
    return out[0] != '\0' ? out : "-";
}

static void print_table(const json_t *answer)
{
    char words[WORDS_MAX];
    size_t index = 0;
    const json_t *one = NULL;
    (void)printf("%-12s  %-10s  %-9s  %-8s  %s\n", "LANGUAGE", "VERSION", "SESSIONS", "COMPILED",
                 "ALIASES");
    json_array_foreach(json_object_get(answer, "languages"), index, one)
    {
        bool state = json_is_true(json_object_get(one, "state"));
        bool compiled = json_is_true(json_object_get(one, "compiled"));
        (void)printf("%-12s  %-10s  %-9s  %-8s  %s\n", call_text(one, "name"),
                     call_text(one, "version"), state ? "variables" : "files",
                     compiled ? "yes" : "no", join(json_object_get(one, "aliases"), words));
    }
}

/* Appends "?KEY=VALUE", or with an ampersand behind another one. */
static int add_query(char path[static PATH_SIZE], const char *key, const char *value,
                     struct err *err)
{
    size_t used = strlen(path);
    if (!value)
        return 0;
    char *word = curl_easy_escape(NULL, value, 0);
    int size = snprintf(path + used, PATH_SIZE - used, "%c%s=%s", strchr(path, '?') ? '&' : '?',
                        key, word ? word : "");
    curl_free(word);
    if (word && size > 0 && (size_t)size < PATH_SIZE - used)
        return 0;
    return err_set(err, ERR_BAD_INPUT, "--%s: there is no such name", key);
}

static int show(const char *engine, const char *image, bool raw, struct err *err)
{
    bool is_default = false;
    char path[PATH_SIZE] = "/languages";
    JSON_AUTO struct json_t *answer = NULL;
    int added = add_query(path, "engine", engine, err);
    if (added == 0)
        added = add_query(path, "image", image, err);
    if (added != 0)
        return added;
    int result = call_json(client_url(&is_default), "GET", path, NULL, &answer, err);
    if (result != 0 || raw)
        return result == 0 ? call_print(answer, err) : result;
    print_table(answer);
    return 0;
}

int cli_languages(int argc, char **argv)
{
    static const struct option known[] = {
        {"engine", required_argument, NULL, 'g'},
        {"image", required_argument, NULL, 'I'},
        {"json", no_argument, NULL, 'j'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    const char *engine = NULL;
    const char *image = NULL;
    bool raw = false;
    int option = 0;
    opterr = 0;
    optind = 1;
    while ((option = getopt_long(argc, argv, "h", known, NULL)) != -1) {
        if (option == 'g') {
            engine = optarg;
        } else if (option == 'I') {
            image = optarg;
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
    if (show(engine, image, raw, &err) != 0) {
        (void)fprintf(stderr, "berth languages: %s\n", err.message);
        return CLI_EXIT_FAILED;
    }
    return EXIT_SUCCESS;
}
