/* Owns `berth image`: OCI images in the folder of images. Works on this host alone, and only as
 * root; no server has to run, and one that does finds what changed by itself. */
#include "cli/image.h"

#include <fcntl.h>
#include <getopt.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "base/fd.h"
#include "base/id.h"
#include "base/mem.h"
#include "cli/cli.h"
#include "cli/image_fetch.h"
#include "cli/image_folder.h"
#include "cli/image_show.h"
#include "wire/json.h"

static const char help[] =
    "usage: berth image pull [options] docker://REFERENCE\n"
    "       berth image import [options] FILE | oci:FOLDER | docker-archive:FILE | "
    "oci-archive:FILE\n"
    "       berth image ls [--json]\n"
    "       berth image rm NAME ...\n"
    "\n"
    "Puts OCI images into the folder of images, where the server finds them. As root.\n"
    "Those of a Docker daemon: `berth image --engine docker --help`.\n"
    "\n"
    "      --name NAME          what to call it (default: by what it comes from)\n"
    "      --replace            take the place of the image of that name\n"
    "      --tls-verify=false   pull over plain HTTP, or without knowing the certificate\n"
    "      --authfile FILE      who to be for the registry, as `skopeo login` writes it\n"
    "      --images FOLDER      the folder of images (BERTH_IMAGES; default: images/ of\n"
    "                           BERTH_STATE or /var/lib/berth)\n"
    "      --json               ls: print objects\n"
    "  -h, --help               this text\n";

struct image_options {
    const char *name;
    const char *images_path;
    const char *authfile;
    bool replace;
    bool insecure;
    bool json;
    bool help;
};

enum { OPTION_NAME = 256, OPTION_REPLACE, OPTION_TLS, OPTION_AUTH, OPTION_IMAGES, OPTION_JSON };

static int take_option(int option, struct image_options *options)
{
    switch (option) {
    case OPTION_NAME:
        options->name = optarg;
        return id_is_name(optarg, IMAGE_NAME_MAX) && strcmp(optarg, "host") != 0 ? 0 : -1;
    case OPTION_REPLACE:
        options->replace = true;
        return 0;
    case OPTION_TLS:
        options->insecure = strcmp(optarg, "false") == 0;
        return options->insecure || strcmp(optarg, "true") == 0 ? 0 : -1;
    case OPTION_AUTH:
        options->authfile = optarg;
        return 0;
    case OPTION_IMAGES:
        options->images_path = optarg;
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

static int read_options(int argc, char **argv, struct image_options *out)
{
    static const struct option known[] = {
        {"name", required_argument, NULL, OPTION_NAME},
        {"replace", no_argument, NULL, OPTION_REPLACE},
        {"tls-verify", required_argument, NULL, OPTION_TLS},
        {"authfile", required_argument, NULL, OPTION_AUTH},
        {"images", required_argument, NULL, OPTION_IMAGES},
        {"json", no_argument, NULL, OPTION_JSON},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    struct image_options options = {0};
    int option = 0;
    opterr = 0;
    optind = 1;
    while ((option = getopt_long(argc, argv, "h", known, NULL)) != -1) {
        if (take_option(option, &options) != 0) {
            (void)fprintf(stderr,
                          "berth image: \"%s\" is not an option, or lacks a value that it "
                          "takes\n\n",
                          argv[optind - 1]);
            return -1;
        }
    }
    *out = options;
    return 0;
}

/* Fetches into the work folder and gives the outcome its name. */
static int fetch_into(const struct image_folder *folder, const struct image_fetch *fetch,
                      const char *name, bool replace, struct err *err)
{
    struct stat info;
    JSON_AUTO struct json_t *config = NULL;
    int result = image_fetch_run(fetch, &config, err);
    if (result != 0)
        return result;
    if (fstatat(fetch->work_fd, IMAGE_FETCH_FILE, &info, AT_SYMLINK_NOFOLLOW) != 0)
        return err_set(err, ERR_INTERNAL, "nothing was fetched");
    MEM_AUTO char *text = image_show_info(fetch->source, config, (uint64_t)info.st_size);
    if (!text)
        return err_set(err, ERR_INTERNAL, "no memory");
    result =
        image_folder_commit(folder, fetch->work_fd, IMAGE_FETCH_FILE, name, text, replace, err);
    if (result == 0)
        (void)fprintf(stderr,
                      "berth: image %s, %.1f MB; a server finds it within seconds and "
                      "unpacks it once\n",
                      name, (double)info.st_size / 1e6);
    return result;
}

static int fetch(const struct image_options *options, const char *source, bool local,
                 struct err *err)
{
    char name[IMAGE_NAME_MAX + 1];
    char work[IMAGE_WORK_SIZE] = "";
    char work_path[PATH_MAX + IMAGE_WORK_SIZE];
    IMAGE_FOLDER_AUTO struct image_folder folder = {.fd = -1};
    FD_AUTO int work_fd = -1;
    int result = 0;
    if (options->name)
        (void)snprintf(name, sizeof(name), "%s", options->name);
    else
        result = image_name_of(source, name, err);
    if (result == 0)
        result = image_folder_open(options->images_path, &folder, err);
    if (result == 0) /* before anything is fetched for nothing */
        result = image_folder_check(&folder, name, options->replace, err);
    if (result == 0)
        result = image_folder_begin(&folder, IMAGE_FETCH_ID, work, &work_fd, err);
    if (result != 0)
        return result;
    (void)snprintf(work_path, sizeof(work_path), "%s/%s", folder.path, work);
    const struct image_fetch what = {.source = source,
                                     .local = local,
                                     .insecure = options->insecure,
                                     .authfile = options->authfile,
                                     .work_fd = work_fd,
                                     .work_path = work_path};
    result = fetch_into(&folder, &what, name, options->replace, err);
    image_folder_end(&folder, work);
    return result;
}

static int list(const struct image_options *options, struct err *err)
{
    IMAGE_FOLDER_AUTO struct image_folder folder = {.fd = -1};
    int result = image_folder_open(options->images_path, &folder, err);
    return result != 0 ? result : image_show_list(&folder, options->json, err);
}

static int remove_all(const struct image_options *options, char **names, int count, struct err *err)
{
    IMAGE_FOLDER_AUTO struct image_folder folder = {.fd = -1};
    int result = image_folder_open(options->images_path, &folder, err);
    for (int i = 0; result == 0 && i < count; i++)
        result = image_folder_remove(&folder, names[i], err);
    return result;
}

static int run(const char *verb, const struct image_options *options, char **rest, int count,
               struct err *err)
{
    if (geteuid() != 0)
        return err_set(err, ERR_FORBIDDEN, "only root may change the folder of images");
    if (strcmp(verb, "ls") == 0)
        return list(options, err);
    if (strcmp(verb, "rm") == 0)
        return remove_all(options, rest, count, err);
    return fetch(options, rest[0], strcmp(verb, "import") == 0, err);
}

/* Whether as many words follow the verb as it takes. */
static bool fits(const char *verb, char **rest, int count)
{
    static const char registry[] = "docker://";
    if (strcmp(verb, "pull") == 0)
        return count == 1 && strncmp(rest[0], registry, sizeof(registry) - 1) == 0;
    if (strcmp(verb, "import") == 0)
        return count == 1 && rest[0][0] != '\0';
    if (strcmp(verb, "ls") == 0)
        return count == 0;
    return strcmp(verb, "rm") == 0 && count > 0;
}

int cli_image(int argc, char **argv)
{
    struct image_options options = {0};
    struct err err = ERR_INIT;
    const bool has_verb = argc > 1 && argv[1][0] != '-';
    const char *verb = has_verb ? argv[1] : "";
    if (image_is_of_docker(argc, argv)) {
        (void)image_become_docker(argc, argv, &err);
        (void)fprintf(stderr, "berth image: %s\n", err.message);
        return CLI_EXIT_FAILED;
    }
    const int skipped = has_verb ? 1 : 0;
    if (read_options(argc - skipped, argv + skipped, &options) != 0) {
        (void)fputs(help, stderr);
        return CLI_EXIT_USAGE;
    }
    char **rest = argv + skipped + optind;
    const int count = argc - skipped - optind;
    if (options.help || !fits(verb, rest, count)) {
        (void)fputs(help, options.help ? stdout : stderr);
        return options.help ? EXIT_SUCCESS : CLI_EXIT_USAGE;
    }
    if (run(verb, &options, rest, count, &err) == 0)
        return EXIT_SUCCESS;
    (void)fprintf(stderr, "berth image %s: %s\n", verb, err.message);
    return CLI_EXIT_FAILED;
}
