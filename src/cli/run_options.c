/* Owns how `berth run` turns its command line into a request. Sends nothing. */
#include "cli/run_options.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/fd.h"
#include "base/mem.h"
#include "base/parse.h"

enum { BODY_MAX = 4000000 }; /* the server takes bodies of up to 4 MB */

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
           "  -t, --timeout SECONDS   kill it after this time; fractions are allowed\n"
           "      --ram SIZE          memory limit, such as 512MB or 1GiB\n"
           "      --cpu CORES         processor limit, such as 2 or 0.5\n"
           "      --storage SIZE      size of the writable file system\n"
           "      --image NAME        what is under / (default host: the server's own system)\n"
           "      --profile PROFILE   strict (default), or container: root inside\n"
           "  -e, --env NAME=VALUE    set a variable; may be repeated\n"
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

static int read_fd(int fd, const char *name, struct buf *out, struct err *err)
{
    for (;;) {
        struct err local = ERR_INIT;
        uint8_t *room = buf_reserve(out, 64U * 1024U, &local);
        if (!room)
            return err_set(err, ERR_TOO_LARGE, "%s is larger than a request may be (4 MB)", name);
        ssize_t got = read(fd, room, 64U * 1024U);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return err_sys(err, errno, "read %s", name);
        if (got == 0)
            return 0;
        out->size += (size_t)got;
    }
}

static int read_path(const char *path, struct buf *out, struct err *err)
{
    FD_AUTO int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_sys(err, errno, "open %s", path);
    return read_fd(fd, path, out, err);
}

/* Sets a member to bytes that have to be text. */
static int set_text(json_t *object, const char *key, const struct buf *bytes, struct err *err)
{
    json_t *text = json_stringn(bytes->data ? (const char *)bytes->data : "", bytes->size);
    if (!text || json_object_set_new(object, key, text) != 0)
        return err_set(err, ERR_BAD_INPUT, "%s has to be text in UTF-8", key);
    return 0;
}

static int set_string(json_t *object, const char *key, const char *value, struct err *err)
{
    json_t *text = json_string(value);
    if (!text || json_object_set_new(object, key, text) != 0)
        return err_set(err, ERR_BAD_INPUT, "%s has to be text in UTF-8", key);
    return 0;
}

/* The object that is a member of request, made when missing. Borrowed. */
static json_t *member(json_t *request, const char *key, json_t *(*make)(void))
{
    json_t *found = json_object_get(request, key);
    if (!found && json_object_set_new(request, key, make()) == 0)
        found = json_object_get(request, key);
    return found;
}

/* RFC 4648, with padding. The result is heap, the caller's; NULL without memory. */
static char *encode_base64(const struct buf *bytes)
{
    static const char alphabet[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char *out = malloc((bytes->size + 2) / 3 * 4 + 1);
    size_t used = 0;
    for (size_t i = 0; out && i < bytes->size; i += 3) {
        size_t left = bytes->size - i;
        uint32_t group = (uint32_t)bytes->data[i] << 16;
        group |= left > 1 ? (uint32_t)bytes->data[i + 1] << 8 : 0;
        group |= left > 2 ? (uint32_t)bytes->data[i + 2] : 0;
        out[used++] = alphabet[group >> 18];
        out[used++] = alphabet[(group >> 12) & 63];
        out[used++] = '=';
        out[used++] = '=';
        if (left > 1)
            out[used - 2] = alphabet[(group >> 6) & 63];
        if (left > 2)
            out[used - 1] = alphabet[group & 63];
    }
    if (out)
        out[used] = '\0';
    return out;
}

static int add_file(json_t *request, const char *argument, struct err *err)
{
    BUF_AUTO struct buf bytes;
    buf_init(&bytes, BODY_MAX);
    const char *colon = strchr(argument, ':');
    MEM_AUTO char *path = strndup(argument, colon ? (size_t)(colon - argument) : strlen(argument));
    if (!path)
        return err_set(err, ERR_INTERNAL, "no memory");
    int result = read_path(path, &bytes, err);
    if (result != 0)
        return result;
    const char *slash = strrchr(path, '/');
    const char *dest = slash ? slash + 1 : path;
    if (colon && colon[1] != '\0')
        dest = colon + 1;
    MEM_AUTO char *content = encode_base64(&bytes);
    json_t *file = content ? json_pack("{s:s, s:s}", "path", dest, "content", content) : NULL;
    if (!file || json_array_append_new(member(request, "files", json_array), file) != 0)
        return err_set(err, ERR_BAD_INPUT, "the name of %s has to be text in UTF-8", argument);
    return 0;
}

static int add_env(json_t *request, const char *argument, struct err *err)
{
    const char *equals = strchr(argument, '=');
    if (!equals || equals == argument)
        return err_set(err, ERR_BAD_INPUT, "\"%s\" is not NAME=VALUE", argument);
    MEM_AUTO char *name = strndup(argument, (size_t)(equals - argument));
    if (!name)
        return err_set(err, ERR_INTERNAL, "no memory");
    return set_string(member(request, "env", json_object), name, equals + 1, err);
}

static int set_timeout(json_t *request, const char *argument, struct err *err)
{
    double seconds = 0;
    int result = parse_fraction(argument, &seconds, err);
    if (result == 0 && json_object_set_new(request, "timeout", json_real(seconds)) != 0)
        result = err_set(err, ERR_INTERNAL, "no memory");
    return result;
}

struct sources {
    const char *code;
    const char *stdin_path;
};

static int take_option(int option, const char *value, struct run_options *options,
                       struct sources *sources, struct err *err)
{
    json_t *request = options->request;
    switch (option) {
    case 'c':
        sources->code = value;
        return 0;
    case 'l':
        return set_string(request, "lang", value, err);
    case 't':
        return set_timeout(request, value, err);
    case 'r':
        return set_string(member(request, "resources", json_object), "ram", value, err);
    case 'u':
        return set_string(member(request, "resources", json_object), "cpu", value, err);
    case 's':
        return set_string(member(request, "resources", json_object), "storage", value, err);
    case 'I':
        return set_string(request, "image", value, err);
    case 'p':
        return set_string(request, "profile", value, err);
    case 'e':
        return add_env(request, value, err);
    case 'f':
        return add_file(request, value, err);
    case 'i':
        sources->stdin_path = value;
        return 0;
    case 'j':
        options->json = true;
        return 0;
    default:
        options->help = true;
        return 0;
    }
}

/* Reads the code and the standard input from where the command line says. */
static int read_sources(const struct sources *sources, const char *operand, json_t *request,
                        struct err *err)
{
    BUF_AUTO struct buf code;
    BUF_AUTO struct buf input;
    buf_init(&code, BODY_MAX);
    buf_init(&input, BODY_MAX);
    bool code_is_stdin = !sources->code && strcmp(operand, "-") == 0;
    int result = 0;
    if (sources->code)
        result = buf_append_str(&code, sources->code, err);
    else if (code_is_stdin)
        result = read_fd(STDIN_FILENO, "standard input", &code, err);
    else
        result = read_path(operand, &code, err);
    if (result == 0)
        result = set_text(request, "code", &code, err);
    if (result != 0)
        return result;
    if (sources->stdin_path)
        result = read_path(sources->stdin_path, &input, err);
    else if (!code_is_stdin && !isatty(STDIN_FILENO))
        result = read_fd(STDIN_FILENO, "standard input", &input, err);
    if (result == 0 && input.size > 0)
        result = set_text(request, "stdin", &input, err);
    return result;
}

static int parse(int argc, char **argv, struct run_options *options, struct err *err)
{
    static const struct option known[] = {
        {"code", required_argument, NULL, 'c'},    {"lang", required_argument, NULL, 'l'},
        {"timeout", required_argument, NULL, 't'}, {"ram", required_argument, NULL, 'r'},
        {"cpu", required_argument, NULL, 'u'},     {"storage", required_argument, NULL, 's'},
        {"image", required_argument, NULL, 'I'},   {"profile", required_argument, NULL, 'p'},
        {"env", required_argument, NULL, 'e'},     {"file", required_argument, NULL, 'f'},
        {"stdin", required_argument, NULL, 'i'},   {"json", no_argument, NULL, 'j'},
        {"help", no_argument, NULL, 'h'},          {NULL, 0, NULL, 0},
    };
    struct sources sources = {0};
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
    return read_sources(&sources, argv[optind], options->request, err);
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
