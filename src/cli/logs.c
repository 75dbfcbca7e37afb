/* Owns `berth logs`: what an execution has said, and says. */
#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/err.h"
#include "base/id.h"
#include "cli/cli.h"
#include "cli/client.h"
#include "cli/watch.h"

static const char help[] =
    "usage: berth logs [--follow] [--save-images DIR] EXECUTION_ID\n"
    "\n"
    "Prints what an execution has written so far, as it came, and its results.\n"
    "\n"
    "  -f, --follow            wait for what comes, until it ends; the connection is made again\n"
    "                          when it breaks\n"
    "      --save-images DIR   write images among the results to this folder\n"
    "  -h, --help              this text\n";

static int show_logs(const char *id, bool follow, const char *images_path, struct err *err)
{
    bool is_default = false;
    struct watch watch = {.url = client_url(&is_default),
                          .only_known = !follow,
                          .show = {.results = true, .images_path = images_path}};
    if (!id_is_name(id, sizeof(watch.show.id) - 1))
        return err_set(err, ERR_BAD_INPUT, "\"%.80s\" is not an id", id);
    (void)snprintf(watch.show.id, sizeof(watch.show.id), "%s", id);
    int result = watch_events(&watch, err);
    if (result == 0 && watch.show.open)
        (void)fprintf(stderr, "berth: it has not ended; --follow waits for the rest\n");
    return result;
}

int cli_logs(int argc, char **argv)
{
    static const struct option known[] = {
        {"follow", no_argument, NULL, 'f'},
        {"save-images", required_argument, NULL, 'i'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    bool follow = false;
    const char *images_path = NULL;
    int option = 0;
    opterr = 0;
    optind = 1;
    while ((option = getopt_long(argc, argv, "fh", known, NULL)) != -1) {
        if (option == 'f') {
            follow = true;
        } else if (option == 'i') {
            images_path = optarg;
        } else {
            (void)fputs(help, option == 'h' ? stdout : stderr);
            return option == 'h' ? EXIT_SUCCESS : CLI_EXIT_USAGE;
        }
    }
    if (argc - optind != 1) {
        (void)fputs(help, stderr);
        return CLI_EXIT_USAGE;
    }
    struct err err = ERR_INIT;
    if (show_logs(argv[optind], follow, images_path, &err) != 0) {
        (void)fprintf(stderr, "berth logs: %s\n", err.message);
        return CLI_EXIT_FAILED;
    }
    return EXIT_SUCCESS;
}
