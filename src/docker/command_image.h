/* What is done with the daemon's images, apart from the command line. */
#ifndef BERTH_DOCKER_COMMAND_IMAGE_H
#define BERTH_DOCKER_COMMAND_IMAGE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "docker/remote.h"

enum { COMMAND_BUILD_ARGS_MAX = 64 };

struct command_options {
    const char *name;                         /* build: NULL none was given */
    const char *dockerfile;                   /* within the folder */
    const char *network;                      /* of a build's steps; NULL: the daemon's own */
    const char *authfile;                     /* NULL: where `docker login` writes */
    const char *args[COMMAND_BUILD_ARGS_MAX]; /* NAME=VALUE, or NAME with the environment's value */
    size_t arg_count;
    bool no_cache;
    bool pull;
    bool json;
    bool help;
};

/* All names that are given have been checked (reference_is_valid()). What goes on is printed to
 * standard error. */
int command_pull(struct remote *remote, const struct command_options *options, const char *name,
                 struct err *err);
int command_build(struct remote *remote, const struct command_options *options, const char *folder,
                  struct err *err);
int command_load(struct remote *remote, const char *file, struct err *err);
int command_import(struct remote *remote, const char *file, const char *name, struct err *err);
int command_list(struct remote *remote, bool as_json, struct err *err);
int command_remove(struct remote *remote, const char *name, struct err *err);

#endif
