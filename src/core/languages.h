/* What languages an image really has: each one's version is asked for in a sandbox of the image,
 * once, and remembered. Thread-safe. */
#ifndef BERTH_CORE_LANGUAGES_H
#define BERTH_CORE_LANGUAGES_H

#include <stdbool.h>

#include "base/buf.h"
#include "base/err.h"

struct core;
struct lang;
struct languages;
struct plan;

struct languages *languages_new(void);
/* NULL is allowed. */
void languages_free(struct languages *languages);

/* Appends {"engine", "image", "languages": [{"name", "aliases", "version", "state", "compiled",
 * "libraries"}]} of those that the image has, in the order of their names. ask: of which
 * engine and image; NULL there: the defaults of executions. Blocks, for seconds when they are not
 * known; others who ask the same engine wait for the answer, as long as for a place of admission.
 * gone_fd: readable, the client has left; -1: none. Fails as core_execute(). */
struct languages_ask {
    const char *engine, *image;
};
int core_languages_json(struct core *core, const struct languages_ask *ask, int gone_fd,
                        struct buf *out, struct err *err);

/* ERR_BAD_INPUT (public), with those that there are: the image is known to lack it. What is not
 * known is no failure. */
int languages_check(struct core *core, const struct plan *plan, const struct lang *lang,
                    struct err *err);

/* What the files of an engine's image are known by, as long as they are the same. False: nothing is
 * known of it but its name, which may mean another image tomorrow. */
#define LANGUAGES_IDENTITY_SIZE 640
bool languages_identity(const char *engine, const char *image,
                        char out[static LANGUAGES_IDENTITY_SIZE]);

#endif
