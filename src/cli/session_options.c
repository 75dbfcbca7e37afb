/* Owns how the command lines of `berth session` turn into requests. Sends nothing. */
#include "cli/session_options.h"

#include <getopt.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "cli/fields.h"

/* What a long option without a letter comes as. */
enum { OPTION_IDLE = 256, OPTION_STDIN, OPTION_JSON, OPTION_IMAGES };

static const struct option new_options[] = {
    FIELDS_PLACE_OPTIONS,
    {"timeout", required_argument, NULL, 't'},
    {"idle-timeout", required_argument, NULL, OPTION_IDLE},
    {"json", no_argument, NULL, OPTION_JSON},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};
static const struct option exec_options[] = {
    {"file", required_argument, NULL, 'f'},
    {"timeout", required_argument, NULL, 't'},
    {"stdin", required_argument, NULL, OPTION_STDIN},
    {"save-images", required_argument, NULL, OPTION_IMAGES},
    {"json", no_argument, NULL, OPTION_JSON},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};
static const struct option attach_options[] = {
    {"timeout", required_argument, NULL, 't'},
    {"save-images", required_argument, NULL, OPTION_IMAGES},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};
static const struct option ls_options[] = {
    {"quiet", no_argument, NULL, 'q'},
    {"json", no_argument, NULL, OPTION_JSON},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};
static const struct option network_options[] = {
    {"allow", required_argument, NULL, 'A'},
    {"json", no_argument, NULL, OPTION_JSON},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};
static const struct option rm_options[] = {
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

/* "+" where what follows the operands is not ours to read, or is read in a second go. */
static const struct {
    const char *name;
    const char *letters;
    const struct option *options;
    const char *help;
} commands[SESSION_COMMAND_COUNT] = {
    [SESSION_NEW] =
        {"new", "+l:t:e:h", new_options,
         "usage: berth session new [options]\n"
         "\n"
         "Makes a session, a sandbox that keeps variables, imports and files from call\n"
         "to call, and prints its id.\n"
         "\n"
         "  -l, --lang LANG         language (default python)\n"
         "  -t, --timeout SECONDS   end it after this time\n"
         "      --idle-timeout SECONDS\n"
         "                          end it when nothing ran in it for so long\n" FIELDS_PLACE_HELP
         "      --json              print the session as an object\n"
         "  -h, --help              this text\n"},
    [SESSION_EXEC] =
        {"exec", "+f:t:h", exec_options,
         "usage: berth session exec [options] ID CODE | ID -f FILE | ID -\n"
         "\n"
         "Runs code in a session: CODE, FILE, or what comes on standard input. Exits\n"
         "with its exit code. Ctrl-C interrupts it and keeps the session's state.\n"
         "\n"
         "  -f, --file FILE         the file with the code; - is standard input\n"
         "  -t, --timeout SECONDS   interrupt it after this time; fractions are allowed\n"
         "      --stdin FILE        standard input of the code; else ours, unless it is a\n"
         "                          terminal or holds the code\n"
         "      --save-images DIR   write images among the results to this folder\n"
         "      --json              print the whole execution object at the end instead\n"
         "  -h, --help              this text\n"},
    [SESSION_ATTACH] =
        {"attach", "+t:h", attach_options,
         "usage: berth session attach [options] ID\n"
         "\n"
         "Reads code line by line and runs it in a session. A line that ends with a\n"
         "colon begins a block, which an empty line ends. Ctrl-C interrupts what runs, or\n"
         "drops the line; Ctrl-D leaves, and the session stays.\n"
         "\n"
         "  -t, --timeout SECONDS   interrupt each piece of code after this time\n"
         "      --save-images DIR   write images among the results to this folder\n"
         "  -h, --help              this text\n"},
    [SESSION_LS] = {"ls", "+qh", ls_options,
                    "usage: berth session ls [--quiet] [--json]\n"
                    "\n"
                    "Lists the sessions, oldest first.\n"
                    "\n"
                    "  -q, --quiet  ids alone\n"
                    "      --json   print the sessions as objects\n"
                    "  -h, --help   this text\n"},
    [SESSION_RM] = {"rm", "+h", rm_options,
                    "usage: berth session rm ID...\n"
                    "\n"
                    "Ends sessions, and what runs in them.\n"
                    "\n"
                    "  -h, --help   this text\n"},
    [SESSION_NETWORK] =
        {"network", "h", network_options,
         "usage: berth session network [options] ID [MODE]\n"
         "\n"
         "Says where a session may connect to, or changes it: MODE is none or egress. What\n"
         "runs in it goes on; connections that are not allowed any more end.\n"
         "\n"
         "      --allow RULE  egress to these alone: HOST, HOST:PORT, *.HOST; may be repeated\n"
         "      --json        print the session as an object\n"
         "  -h, --help        this text\n"},
};

const char *session_options_help(enum session_command command)
{
    return commands[command].help;
}

void session_options_done(struct session_options *options)
{
    json_decref(options->request);
    options->request = NULL;
}

static int take_option(int option, const char *value, struct session_options *options,
                       struct fields_sources *sources, struct err *err)
{
    switch (option) {
    case 't':
        return fields_set_seconds(options->request, "timeout", value, err);
    case 'f':
        sources->code_path = value;
        return 0;
    case 'q':
        options->quiet = true;
        return 0;
    case 'h':
        options->help = true;
        return 0;
    case OPTION_IDLE:
        return fields_set_seconds(options->request, "idle_timeout", value, err);
    case OPTION_STDIN:
        sources->stdin_path = value;
        return 0;
    case OPTION_JSON:
        options->json = true;
        return 0;
    case OPTION_IMAGES:
        options->images_path = value;
        return 0;
    default:
        return fields_take_place(option, value, options->request, err);
    }
}

/* Options until the first operand. */
static int take_options(int argc, char **argv, struct session_options *options,
                        struct fields_sources *sources, struct err *err)
{
    const char *letters = commands[options->command].letters;
    int option = 0;
    while ((option = getopt_long(argc, argv, letters, commands[options->command].options, NULL)) !=
           -1) {
        if (option == '?')
            return err_set(err, ERR_BAD_INPUT, "\"%s\" is not an option, or lacks its value",
                           argv[optind - 1]);
        int result = take_option(option, optarg, options, sources, err);
        if (result != 0)
            return result;
    }
    return 0;
}

/* What comes behind the id of exec: options again, then the code if -f did not name it. */
static int read_code(int argc, char **argv, struct session_options *options,
                     struct fields_sources *sources, struct err *err)
{
    int count = argc - optind;
    bool wanted = !sources->code_path;
    if (!wanted && count > 0)
        return err_set(err, ERR_BAD_INPUT, "-f and code are one too many");
    if (wanted && count == 0)
        return err_set(err, ERR_BAD_INPUT, "say what to run after the id: CODE, -f FILE or -");
    if (count > 1)
        return err_set(err, ERR_BAD_INPUT, "CODE is one word, in quotes; options come before it");
    if (count == 1 && strcmp(argv[optind], "-") == 0)
        sources->code_path = argv[optind];
    else if (count == 1)
        sources->code = argv[optind];
    return fields_read_sources(sources, options->request, err);
}

static int parse(int argc, char **argv, struct session_options *options, struct err *err)
{
    struct fields_sources sources = {0};
    opterr = 0;
    optind = 0; /* from the first word on, and "+" of an earlier command is forgotten (getopt(3)) */
    int result = take_options(argc, argv, options, &sources, err);
    if (result != 0 || options->help)
        return result;
    options->ids = argv + optind;
    options->id_count = argc - optind;
    if (options->command == SESSION_NETWORK && options->id_count == 2) {
        options->id_count = 1;
        return fields_set_network(options->request, options->ids[1], err);
    }
    bool needs_id = options->command != SESSION_NEW && options->command != SESSION_LS;
    bool takes_more = options->command == SESSION_EXEC || options->command == SESSION_RM;
    if (needs_id && options->id_count == 0)
        return err_set(err, ERR_BAD_INPUT, "say the id of a session; `berth session ls` has them");
    if (options->id_count > (needs_id ? 1 : 0) && !takes_more)
        return err_set(err, ERR_BAD_INPUT, "\"%s\" is one word too many",
                       options->ids[needs_id ? 1 : 0]);
    if (options->command != SESSION_EXEC)
        return 0;
    options->id_count = 1;
    /* "exec ID -f FILE" reads as well as "exec -f FILE ID": the id is the new name of the rest. */
    argc -= optind;
    argv += optind;
    optind = 1;
    result = take_options(argc, argv, options, &sources, err);
    if (result != 0 || options->help)
        return result;
    return read_code(argc, argv, options, &sources, err);
}

static int find_command(const char *name, enum session_command *out, struct err *err)
{
    for (int i = 0; i < SESSION_COMMAND_COUNT; i++) {
        if (strcmp(commands[i].name, name) == 0) {
            *out = (enum session_command)i;
            return 0;
        }
    }
    return err_set(err, ERR_BAD_INPUT, "there is no command \"%.40s\"", name);
}

int session_options_parse(int argc, char **argv, struct session_options *out, struct err *err)
{
    SESSION_OPTIONS_AUTO struct session_options options = {.request = json_object()};
    if (!options.request)
        return err_set(err, ERR_INTERNAL, "no memory");
    int result = find_command(argv[0], &options.command, err);
    if (result == 0)
        result = parse(argc, argv, &options, err);
    if (result != 0)
        return result;
    *out = options;
    options.request = NULL;
    return 0;
}
