/* Owns how `berth run` turns its command line into a request. Sends nothing. */
#include "cli/run_options.h"

#include <getopt.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/encoding.h"
#include "base/mem.h"
#include "cli/fields.h"

const char *run_options_help(void)
{
    return "usage: berth run [options] FILE | -c CODE | -\n"
           "\n"
           "Runs code in a fresh sandbox: FILE, CODE, or what comes on standard input. Uses the\n"
           "server at $BERTH_URL or http://127.0.0.1:8000; when none answers there, a\n"
           "private one for this run. Exits with the exit code of the code.\n"
           "\n"
           "  -c, --code CODE         the code itself\n"
           "  -l, --lang LANG         language (default python)\n"
           "  -t, --timeout SECONDS   kill it after this time; fractions are "
           "allowed\n" FIELDS_PLACE_HELP
           "      --file PATH[:DEST]  copy a file into the sandbox, into the working folder\n"
           "                          unless DEST says where; may be repeated\n"
           "      --stdin FILE        standard input of the code; else ours, unless it is a\n"
           "                          terminal or holds the code\n"
           "      --json              print the whole execution object at the end instead\n"
           "  -h, --help              this text\n";
}

void run_options_done(struct run_options *options)
{
    json_decref(options->request);
    options->request = NULL;
}

static int add_file(json_t *request, const char *argument, struct err *err)
{
    BUF_AUTO struct buf bytes;
    buf_init(&bytes, FIELDS_BODY_MAX);
    const char *colon = strchr(argument, ':');
    MEM_AUTO char *path = strndup(argument, colon ? (size_t)(colon - argument) : strlen(argument));
    if (!path)
        return err_set(err, ERR_INTERNAL, "no memory");
    int result = fields_read_path(path, &bytes, err);
    if (result != 0)
        return result;
    const char *slash = strrchr(path, '/');
    const char *dest = slash ? slash + 1 : path;
    if (colon && colon[1] != '\0')
        dest = colon + 1;
    BUF_AUTO struct buf content;
    buf_init(&content, BASE64_SIZE(bytes.size));
    result = base64_append(&content, bytes.data, bytes.size, BASE64_STANDARD, err);
    if (result != 0 || !buf_cstr(&content))
        return err_set(err, ERR_INTERNAL, "no memory");
    json_t *file = json_pack("{s:s, s:s}", "path", dest, "content", buf_cstr(&content));
    if (!file || json_array_append_new(fields_member(request, "files", json_array), file) != 0)
        return err_set(err, ERR_BAD_INPUT, "the name of %s has to be text in UTF-8", argument);
    return 0;
}

static int take_option(int option, const char *value, struct run_options *options,
                       struct fields_sources *sources, struct err *err)
{
    json_t *request = options->request;
    switch (option) {
    case 'c':
        sources->code = value;
        return 0;
    case 't':
        return fields_set_seconds(request, "timeout", value, err);
    case 'f':
        return add_file(request, value, err);
    case 'i':
        sources->stdin_path = value;
        return 0;
    case 'j':
        options->json = true;
        return 0;
    case 'h':
        options->help = true;
        return 0;
    default:
        return fields_take_place(option, value, request, err);
    }
}

static int parse(int argc, char **argv, struct run_options *options, struct err *err)
{
    static const struct option known[] = {
        {"code", required_argument, NULL, 'c'}, {"timeout", required_argument, NULL, 't'},
        {"file", required_argument, NULL, 'f'}, {"stdin", required_argument, NULL, 'i'},
        {"json", no_argument, NULL, 'j'},       FIELDS_PLACE_OPTIONS,
        {"help", no_argument, NULL, 'h'},       {NULL, 0, NULL, 0},
    };
    struct fields_sources sources = {0};
    int option = 0;
    opterr = 0;
    optind = 1;
    /* "+": what follows FILE is not ours to read. */
    while ((option = getopt_long(argc, argv, "+c:l:t:e:h", known, NULL)) != -1) {
        if (option == '?')
            return err_set(err, ERR_BAD_INPUT, "\"%s\" is not an option, or lacks its value",
                           argv[optind - 1]);
        int result = take_option(option, optarg, options, &sources, err);
        if (result != 0)
            return result;
    }
    if (options->help)
        return 0;
    int wanted = sources.code ? 0 : 1;
    if (argc - optind != wanted)
        return err_set(err, ERR_BAD_INPUT,
                       sources.code ? "-c and a file are one too many; options come before FILE"
                                    : "say what to run: FILE, -c CODE or -, after the options");
    sources.code_path = argv[optind];
    return fields_read_sources(&sources, options->request, err);
}

int run_options_parse(int argc, char **argv, struct run_options *out, struct err *err)
{
    RUN_OPTIONS_AUTO struct run_options options = {.request = json_object()};
    if (!options.request)
        return err_set(err, ERR_INTERNAL, "no memory");
    int result = parse(argc, argv, &options, err);
    if (result != 0)
        return result;
    *out = options;
    options.request = NULL;
    return 0;
}
