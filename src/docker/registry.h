/* Who the operator is to a registry: the "auths" of the config.json that `docker login` writes.
 *
 * What is secret goes into one header of one request, and into nothing else: no log, no error, no
 * argument of a program. Programs that keep credentials ("credsStore", "credHelpers") are not
 * asked. */
#ifndef BERTH_DOCKER_REGISTRY_H
#define BERTH_DOCKER_REGISTRY_H

#include <stdbool.h>

#include "base/buf.h"
#include "base/err.h"

struct registry_login {
    struct buf header;   /* "X-Registry-Auth: ...", as text; empty: there are no credentials */
    struct buf secrets;  /* texts, each with its NUL */
    bool is_kept_by_one; /* of those programs, so there are none here */
};

/* Where they are: $DOCKER_CONFIG/config.json, or $HOME/.docker/config.json. False: neither is
 * set. */
bool registry_file(char *out, size_t size);

/* The credentials for the registry of this image, which is a valid reference. file may be NULL, and
 * then nothing has to be there. Reads the file, so it may have changed since. ERR_UNAVAILABLE: it
 * can't be read or understood. *out is zeroed or done with, and is done with by the caller. */
int registry_login_find(const char *file, const char *reference, struct registry_login *out,
                        struct err *err);
/* The same for a build, which may ask any registry: all of them, as "X-Registry-Config: ...". */
int registry_login_all(const char *file, struct registry_login *out, struct err *err);
void registry_login_done(struct registry_login *login);

/* Whether this text, which came from elsewhere, has something of what was given. */
bool registry_login_is_told(const struct registry_login *login, const char *text);

#endif
