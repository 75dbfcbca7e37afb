/* The libraries of one request on its way: checked first, then waited for, then shown in its
 * sandbox, with the variables that make the language look there. */
#ifndef BERTH_CORE_LIBRARY_ASK_H
#define BERTH_CORE_LIBRARY_ASK_H

#include "core/attempt.h"
#include "core/layers.h"
#include "core/libraries.h"
#include "lang/lang.h"

/* All zero: none. */
struct library_ask {
    struct library_set set;
    struct layer_use use;
    const char **env; /* the request's with those of the language; heap */
    size_t env_count;
    char *own[LANG_ENV_MAX]; /* entries of env that are ours */
};

/* Checks what a request asks for, and merges the variables. A variable that both set is a list of
 * folders: the caller's come first. ERR_BAD_INPUT (public). */
int library_ask_make(const struct lang *lang, const char *const *texts, size_t count,
                     const char *const *env, size_t env_count, struct library_ask *out,
                     struct err *err);
void library_ask_done(struct core *core, struct library_ask *ask);

/* The layer of the set, which may have to be built, for an attempt that has not started; where:
 * all but the set and the owner. Returns 1
 * when there is an outcome instead: the installer failed, or it was cancelled. */
int library_ask_wait(struct library_ask *ask, struct attempt *attempt,
                     const struct layer_want *where, struct err *err);

/* Shows it in the sandbox, if there is one. As layer_attach(). */
int library_ask_attach(const struct library_ask *ask, struct core *core, const char *sandbox_id,
                       struct err *err);

#endif
