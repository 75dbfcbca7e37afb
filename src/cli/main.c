/* berth: the command line. Finds the command and calls it. */
#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "cli/cli.h"
#include "cli/local.h"

static const char help[] = "usage: berth COMMAND [options]\n"
                           "\n"
                           "Runs other people's code in isolated sandboxes.\n"
                           "\n"
                           "  serve     start the server\n"
                           "  run       run code in a fresh sandbox\n"
                           "  ps        list the executions of a server\n"
                           "  logs      print what an execution has said\n"
                           "  session   sandboxes that keep their state: make, use, list, end\n"
                           "  layers    libraries that a server keeps: list, remove\n"
                           "  languages what code may be written in here\n"
                           "  engines   what a server runs sandboxes with\n"
                           "  drain     end all that runs on a server\n"
                           "  image     images for the server: pull, build, import, list, remove\n"
                           "  version   print the version\n"
                           "  help      this text, or that of a command\n"
                           "\n"
                           "`berth help COMMAND` says more, and so does berth(1).\n";

/* The monitor has the same options, so serve has no code of its own. */
int cli_serve(int argc, char **argv)
{
    (void)argc;
    struct err err = ERR_INIT;
    (void)local_exec("berth-monitor", argv, &err);
    (void)fprintf(stderr, "berth serve: %s\n", err.message);
    return CLI_EXIT_FAILED;
}

static int cli_version(int argc, char **argv)
{
    (void)argc;
    (void)argv;
    (void)printf("berth %s\n", BERTH_VERSION);
    return EXIT_SUCCESS;
}

static int cli_help(int argc, char **argv);

static const struct {
    const char *name;
    int (*call)(int argc, char **argv);
} commands[] = {
    {"serve", cli_serve}, {"run", cli_run},           {"ps", cli_ps},
    {"logs", cli_logs},   {"session", cli_session},   {"languages", cli_languages},
    {"drain", cli_drain}, {"image", cli_image},       {"version", cli_version},
    {"help", cli_help},   {"--version", cli_version}, {"--help", cli_help},
    {"-h", cli_help},     {"layers", cli_layers},     {"engines", cli_engines},
};

static int dispatch(int argc, char **argv)
{
    for (size_t i = 0; argc > 0 && i < ARRAY_SIZE(commands); i++) {
        if (strcmp(argv[0], commands[i].name) == 0)
            return commands[i].call(argc, argv);
    }
    if (argc > 0)
        (void)fprintf(stderr, "berth: there is no command \"%s\"\n\n", argv[0]);
    (void)fputs(help, stderr);
    return CLI_EXIT_USAGE;
}

static int cli_help(int argc, char **argv)
{
    if (argc < 2 || strcmp(argv[1], "help") == 0 || argv[1][0] == '-') {
        (void)fputs(help, stdout);
        return EXIT_SUCCESS;
    }
    char option[] = "--help";
    char *asked[] = {argv[1], option, NULL};
    return dispatch(strcmp(argv[1], "version") == 0 ? 1 : 2, asked);
}

int main(int argc, char **argv)
{
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) {
        (void)fprintf(stderr, "berth: libcurl could not be started\n");
        return CLI_EXIT_FAILED;
    }
    int status = dispatch(argc - 1, argv + 1);
    curl_global_cleanup();
    return status;
}
