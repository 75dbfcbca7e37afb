/* The command line of `berth image`, apart from what it does. */
#ifndef BERTH_CLI_IMAGE_H
#define BERTH_CLI_IMAGE_H

#include <stdbool.h>

#include "base/err.h"
#include "cli/image_folder.h"

/* The name that an image gets when none is given: the last part of where it comes from, without tag
 * or digest, in small letters. ERR_BAD_INPUT: that is no name, so one has to be given. */
int image_name_of(const char *source, char out[static IMAGE_NAME_MAX + 1], struct err *err);

/* Whether the images meant are those of the engine docker. */
bool image_is_of_docker(int argc, char **argv);
/* Becomes berth-docker with the other words. Returns only on failure. */
int image_become_docker(int argc, char **argv, struct err *err);

#endif
