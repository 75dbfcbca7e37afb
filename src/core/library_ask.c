/* Owns what a request for libraries adds to its way: no more than this file's calls for one that
 * asks for none. */
#include "core/library_ask.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "wire/frame.h"

/* Whether entry sets the variable of like. */
static bool same_name(const char *entry, const char *like)
{
    size_t size = strcspn(like, "=") + 1;
    return entry && strncmp(entry, like, size) == 0;
}

/* The place of the caller's own entry of ours; its end when there is none. */
static size_t place_of(const struct library_ask *ask, const char *ours)
{
    size_t at = 0;
    while (at < ask->env_count && !same_name(ask->env[at], ours))
        at++;
    return at;
}

static int merge_env(const struct lang *lang, const char *const *env, size_t env_count,
                     struct library_ask *ask, struct err *err)
{
    ask->env = calloc(env_count + LANG_ENV_MAX + 1, sizeof(*ask->env));
    if (!ask->env)
        return err_set(err, ERR_INTERNAL, "no memory for variables");
    for (size_t i = 0; i < env_count; i++)
        ask->env[ask->env_count++] = env[i];
    for (size_t i = 0; i < LANG_ENV_MAX && lang->libraries_env[i]; i++) {
        const char *ours = lang->libraries_env[i];
        size_t at = place_of(ask, ours);
        const char *theirs = at < ask->env_count ? strchr(ask->env[at], '=') + 1 : "";
        int name_size = (int)strcspn(ours, "=");
        int size = asprintf(&ask->own[i], "%.*s=%s%s%s", name_size, ours, theirs,
                            theirs[0] != '\0' ? ":" : "", ours + name_size + 1);
        if (size < 0) {
            ask->own[i] = NULL;
            return err_set(err, ERR_INTERNAL, "no memory for variables");
        }
        ask->env_count += at == ask->env_count;
        ask->env[at] = ask->own[i];
    }
    return 0;
}

int library_ask_make(const struct lang *lang, const char *const *texts, size_t count,
                     const char *const *env, size_t env_count, struct library_ask *out,
                     struct err *err)
{
    *out = (struct library_ask){0};
    if (count == 0)
        return 0;
    int result = library_set_add(&out->set, lang, texts, count, err);
    return result == 0 ? merge_env(lang, env, env_count, out, err) : result;
}

void library_ask_done(struct core *core, struct library_ask *ask)
{
    layer_give(core, &ask->use);
    library_set_done(&ask->set);
    for (size_t i = 0; i < LANG_ENV_MAX; i++)
        free(ask->own[i]);
    free(ask->env);
    *ask = (struct library_ask){0};
}

/* The installer's end is the attempt's. */
static int end_by_installer(struct attempt *attempt, const struct layer_failure *failure,
                            struct err *err)
{
    (void)attempt_start(attempt, "");
    int result = 0;
    for (int i = 0; i < 2 && result == 0; i++)
        result = attempt_say(attempt, i == 0 ? STREAM_STDOUT : STREAM_STDERR,
                             failure->words[i].data, failure->words[i].size, err);
    attempt->outcome.exit = failure->exit;
    attempt->outcome.phase = PHASE_INSTALL;
    return result;
}

int library_ask_wait(struct library_ask *ask, struct attempt *attempt,
                     const struct layer_want *where, struct err *err)
{
    if (ask->set.count == 0)
        return 0;
    struct layer_want want = *where;
    want.owner = attempt->subject.owner;
    want.set = &ask->set;
    struct core *core = attempt->core;
    int result = layer_is_there(core, &want) ? 0 : attempt_say_queued(attempt, err);
    if (result == 0)
        result = layer_take(core, &want, attempt->live.cancel_fd,
                            attempt->subject.outlives_client ? -1 : attempt->subject.gone_fd,
                            &ask->use, err);
    if (result == LAYER_FAILED) {
        (void)end_by_installer(attempt, layer_failure(&ask->use), NULL);
        return 1;
    }
    if (result != -ERR_CLOSED)
        return result;
    attempt_end_cancelled(attempt);
    return 1;
}

int library_ask_attach(const struct library_ask *ask, struct core *core, const char *sandbox_id,
                       struct err *err)
{
    return ask->use.layer ? layer_attach(core, ask->use.layer, sandbox_id, err) : 0;
}
