/* Owns the command line of images on the Docker daemon. */
#include "docker/command.h"

#include <getopt.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

#include <curl/curl.h>

#include "base/mem.h"
#include "docker/command_image.h"
#include "docker/command_show.h"
#include "docker/reference.h"

enum { EXIT_USAGE = 2, EXIT_FAILED = 125 }; /* as `berth` has them */

static const char help[] =
    "usage: berth image --engine docker pull [--authfile FILE] NAME\n"
    "       berth image --engine docker build [options] FOLDER -t NAME\n"
    "       berth image --engine docker load FILE\n"
    "       berth image --engine docker import FILE NAME\n"
    "       berth image --engine docker ls [--json]\n"
    "       berth image --engine docker rm NAME ...\n"
    "\n"
    "The images of the Docker daemon that DOCKER_HOST names, or the usual sockets. Needs no "
    "server;\n"
    "requests may name those of DOCKER_BASE_IMAGE and BERTH_DOCKER_IMAGES. FILE may be \"-\".\n"
    "\n"
    "  -t, --tag NAME           build: what to call it\n"
    "  -f, --file PATH          build: within FOLDER (default: Dockerfile)\n"
    "      --build-arg NAME[=VALUE]\n"
    "                           build: without a value, the environment's\n"
    "      --network MODE       build: of its steps, as `docker build` has it\n"
    "      --no-cache, --pull   build: from anew; with the newest of what it is made from\n"
    "      --authfile FILE      credentials of registries (default: config.json in DOCKER_CONFIG\n"
    "                           or ~/.docker, as `docker login` writes it)\n"
    "      --json               ls: print objects\n"
    "  -h, --help               this text\n";

enum { OPTION_ARG = 256, OPTION_NETWORK, OPTION_NO_CACHE, OPTION_PULL, OPTION_AUTH, OPTION_JSON };

static int take_option(int option, struct command_options *options)
{
    switch (option) {
    case 't':
        options->name = optarg;
        return reference_is_valid(optarg) && !strchr(optarg, '@') ? 0 : -1;
    case 'f':
        options->dockerfile = strncmp(optarg, "./", 2) == 0 ? optarg + 2 : optarg;
        return optarg[0] != '\0' && optarg[0] != '/' && !strstr(optarg, "..") ? 0 : -1;
    case OPTION_ARG:
        if (options->arg_count == COMMAND_BUILD_ARGS_MAX)
            return -1;
        options->args[options->arg_count++] = optarg;
        return 0;
    case OPTION_NETWORK:
        options->network = optarg;
        return 0;
    case OPTION_NO_CACHE:
        options->no_cache = true;
        return 0;
    case OPTION_PULL:
        options->pull = true;
        return 0;
    case OPTION_AUTH:
        options->authfile = optarg;
        return 0;
    case OPTION_JSON:
        options->json = true;
        return 0;
    case 'h':
        options->help = true;
        return 0;
    default:
        return -1;
    }
}

static int read_options(int argc, char **argv, struct command_options *options)
{
    static const struct option known[] = {
        {"tag", required_argument, NULL, 't'},
        {"file", required_argument, NULL, 'f'},
        {"build-arg", required_argument, NULL, OPTION_ARG},
        {"network", required_argument, NULL, OPTION_NETWORK},
        {"no-cache", no_argument, NULL, OPTION_NO_CACHE},
        {"pull", no_argument, NULL, OPTION_PULL},
        {"authfile", required_argument, NULL, OPTION_AUTH},
        {"json", no_argument, NULL, OPTION_JSON},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    int option = 0;
    opterr = 0;
    while ((option = getopt_long(argc, argv, "t:f:h", known, NULL)) != -1) {
        if (take_option(option, options) != 0) {
            /* Not what was given: it may be an argument of a build. */
            (void)fprintf(stderr, "berth image: an option is not known, or its value can't be "
                                  "taken\n\n");
            return -1;
        }
    }
    return 0;
}

/* "docker://" is how `berth image pull` of the native engine names the same. */
static const char *without_scheme(const char *name)
{
    static const char scheme[] = "docker://";
    return strncmp(name, scheme, sizeof(scheme) - 1) == 0 ? name + sizeof(scheme) - 1 : name;
}

struct verb {
    const char *name;
    int least;
    int most;
    int names_from; /* the words from this one on are names of images */
};

static const struct verb verbs[] = {
    {"pull", 1, 1, 0},   {"build", 1, 1, 1}, {"load", 1, 1, 1},
    {"import", 2, 2, 1}, {"ls", 0, 0, 0},    {"rm", 1, 1 << 16, 0},
};

/* NULL: there is none of this name, or not with these words. */
static const struct verb *find_verb(const char *name, const struct command_options *options,
                                    char **rest, int count)
{
    for (size_t i = 0; i < ARRAY_SIZE(verbs); i++) {
        const struct verb *verb = &verbs[i];
        if (strcmp(verb->name, name) != 0)
            continue;
        bool fits = verb->least <= count && count <= verb->most &&
                    (strcmp(name, "build") == 0) == (options->name != NULL);
        for (int at = verb->names_from; fits && at < count; at++) {
            fits = reference_is_valid(without_scheme(rest[at]));
            if (!fits)
                (void)fprintf(stderr, "berth image: that is not the name of an image\n\n");
        }
        return fits ? verb : NULL;
    }
    return NULL;
}

static int run(const char *verb, const struct command_options *options, char **rest, int count,
               struct err *err)
{
    REMOTE_AUTO struct remote remote = {0};
    int result = remote_open(&remote, err);
    if (result != 0)
        return result;
    if (strcmp(verb, "pull") == 0)
        return command_pull(&remote, options, without_scheme(rest[0]), err);
    if (strcmp(verb, "build") == 0)
        return command_build(&remote, options, rest[0], err);
    if (strcmp(verb, "load") == 0)
        return command_load(&remote, rest[0], err);
    if (strcmp(verb, "import") == 0)
        return command_import(&remote, rest[0], rest[1], err);
    if (strcmp(verb, "ls") == 0)
        return command_list(&remote, options->json, err);
    for (int i = 0; result == 0 && i < count; i++)
        result = command_remove(&remote, without_scheme(rest[i]), err);
    return result;
}

int command_run(int argc, char **argv)
{
    struct command_options options = {.dockerfile = "Dockerfile"};
    struct err err = ERR_INIT;
    char shown[ERR_MESSAGE_MAX];
    if (read_options(argc, argv, &options) != 0) {
        (void)fputs(help, stderr);
        return EXIT_USAGE;
    }
    char **words = argv + optind;
    const int count = argc - optind - 1;
    const struct verb *verb =
        count >= 0 && !options.help ? find_verb(words[0], &options, words + 1, count) : NULL;
    if (!verb) {
        (void)fputs(help, options.help ? stdout : stderr);
        return options.help ? EXIT_SUCCESS : EXIT_USAGE;
    }
    (void)signal(SIGPIPE, SIG_IGN);
    (void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0); /* credentials of registries */
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) {
        (void)fprintf(stderr, "berth image: libcurl can't be used\n");
        return EXIT_FAILED;
    }
    int result = run(verb->name, &options, words + 1, count, &err);
    curl_global_cleanup();
    if (result == 0)
        return EXIT_SUCCESS;
    command_show_clean(err.message, shown, sizeof(shown));
    (void)fprintf(stderr, "berth image %s: %s\n", verb->name, shown);
    return EXIT_FAILED;
}
