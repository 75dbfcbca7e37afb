/* Names of images, as daemons and registries take them (github.com/distribution/reference). */
#ifndef BERTH_DOCKER_REFERENCE_H
#define BERTH_DOCKER_REFERENCE_H

#include <stdbool.h>
#include <stddef.h>

#include "wire/engine_msg.h"

/* A name with its registry, and each byte that may need it as three. */
#define REFERENCE_FULL_SIZE (ENGINE_IMAGE_MAX + 32)
#define REFERENCE_ESCAPED_SIZE (ENGINE_IMAGE_MAX * 3)

/* Whether it is made of what a reference may be made of: enough to be no option, no query and no
 * path of another kind. */
bool reference_is_valid(const char *name);

/* Whether it names a tag or a digest; what does not means the tag "latest". */
bool reference_has_tag(const char *name);

/* For a query: all that is not plain as %XX. name is a valid one. */
void reference_escape(const char *name, char out[static REFERENCE_ESCAPED_SIZE]);

/* With what is left out: "alpine:3" is "docker.io/library/alpine:3". name is a valid one. */
void reference_expand(const char *name, char out[static REFERENCE_FULL_SIZE]);

#endif
