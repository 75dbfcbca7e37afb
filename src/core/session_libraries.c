/* Owns which library layer a session has. Only who has its turn changes that. */
#include "core/session_libraries.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"

#define LAST_WORDS 300 /* of an installer */
/* Past an installer's own timeout: the wait for a place, the archive, the engine. */
#define BUILD_MORE_MS UINT64_C(1800000)

/* ---- making one ---- */

/* What the installer said last, as one line. */
static int say_failed(const struct layer_failure *failure, struct err *err)
{
    char words[LAST_WORDS + 1];
    const struct buf *said = &failure->words[failure->words[1].size > 0 ? 1 : 0];
    size_t size = said->size < LAST_WORDS ? said->size : LAST_WORDS;
    size_t used = 0;
    for (size_t i = said->size - size; i < said->size; i++) {
        unsigned char c = said->data[i];
        words[used++] = (char)(c >= ' ' && c < 0x7f ? c : ' ');
    }
    words[used] = '\0';
    return err_public(err, ERR_BAD_INPUT,
                      "libraries: the installer ended with exit code %u and said: %s",
                      failure->exit.exit_code, words);
}

int session_libraries_wait(struct core *core, const struct session_request *request,
                           const struct plan *plan, struct live *live, struct library_ask *ask,
                           struct err *err)
{
    if (ask->set.count == 0)
        return 0;
    const struct layer_want want = {.owner = request->owner,
                                    .lang = request->lang,
                                    .slot = plan->slot,
                                    .runtime = plan->runtime,
                                    .image = plan->image,
                                    .set = &ask->set,
                                    .keep = request->keep_template};
    int result = layer_take(core, &want, live->cancel_fd, request->gone_fd, &ask->use, err);
    return result == LAYER_FAILED ? say_failed(layer_failure(&ask->use), err) : result;
}

int session_libraries_row(const struct session *session, const struct library_ask *ask,
                          struct buf *list, struct store_session_layer *out, struct err *err)
{
    if (!ask->use.layer)
        return 1;
    int result = library_set_json(&ask->set, list, err);
    const char *text = result == 0 ? buf_cstr(list) : NULL;
    if (!text)
        return result != 0 ? result : err_set(err, ERR_INTERNAL, "no memory for libraries");
    *out = (struct store_session_layer){
        .session_id = session->row.id, .layer = layer_name(ask->use.layer), .requirements = text};
    return 0;
}

void session_libraries_take(struct core *core, struct session *session, struct library_ask *ask)
{
    if (!ask->use.layer)
        return;
    (void)pthread_mutex_lock(&core->lock);
    struct library_set old_set = session->libraries;
    struct layer_use old_use = session->layer;
    session->libraries = ask->set;
    session->layer = ask->use;
    (void)pthread_mutex_unlock(&core->lock);
    ask->set = old_set;
    ask->use = old_use; /* given back by library_ask_done() */
}

static int keep(struct core *core, struct session *session, struct library_ask *ask,
                struct err *err)
{
    struct store_session_layer row;
    BUF_AUTO struct buf list;
    buf_init(&list, SESSION_LIBRARIES_ROW_MAX);
    int result = session_libraries_row(session, ask, &list, &row, err);
    if (result == 0)
        result = store_session_layer_put(core->store, &row, err);
    if (result == 0)
        session_libraries_take(core, session, ask);
    return result;
}

int session_libraries_load(struct core *core, struct session *session, struct err *err)
{
    char name[STORE_ID_SIZE];
    MEM_AUTO char *list = NULL;
    int result = store_session_layer_get(core->store, session->row.id, name, &list, err);
    if (result != 0)
        return result == -ERR_NOT_FOUND ? 0 : result;
    result = library_set_read(list, &session->libraries, err);
    if (result == 0 && layer_take_named(core, name, &session->layer, NULL) != 0)
        log_debug("session %s has a layer that others can't have any more", session->row.id);
    return result;
}

void session_libraries_done(struct core *core, struct session *session)
{
    layer_give(core, &session->layer);
    library_set_done(&session->libraries);
}

/* ---- executions ---- */

/* What the session has, and the request's on top. */
static int widen(struct core *core, struct session *session,
                 const struct session_execution *request, struct library_set *out,
                 const struct lang **out_lang, struct err *err)
{
    int result = lang_find(session->row.lang, out_lang, err);
    if (result != 0)
        return result;
    (void)pthread_mutex_lock(&core->lock);
    result = library_set_copy(&session->libraries, out, err);
    (void)pthread_mutex_unlock(&core->lock);
    return result == 0
               ? library_set_add(out, *out_lang, request->libraries, request->library_count, err)
               : result;
}

int session_libraries_check(struct core *core, struct session *session,
                            const struct session_execution *request, struct err *err)
{
    LIBRARY_SET_AUTO struct library_set set = {0};
    const struct lang *lang = NULL;
    return request->library_count == 0 ? 0 : widen(core, session, request, &set, &lang, err);
}

/* For init a session whose execution waits here is idle: it gets the time that a build may take,
 * and no more, since this server may die meanwhile. */
static int wait_unhurried(struct attempt *attempt, struct session *session, const struct lang *lang,
                          struct library_ask *ask, struct err *err)
{
    struct core *core = attempt->core;
    const struct layer_want where = {.lang = lang,
                                     .slot = engines_find(core, session->row.engine),
                                     .runtime = session->row.runtime,
                                     .image = session->row.image};
    int result =
        session_floor_idle(core, session, core->config.layers_timeout_ms + BUILD_MORE_MS, err);
    if (result != 0)
        return result;
    result = library_ask_wait(ask, attempt, &where, err);
    (void)session_floor_idle(core, session, 0, NULL); /* what goes on finds out the same */
    return result;
}

/* Shows it in the sandbox, and writes it down. */
static int attach(struct core *core, struct session *session, struct library_ask *ask,
                  struct err *err)
{
    struct err failure = ERR_INIT;
    int result = library_ask_attach(ask, core, session->row.sandbox_id, &failure);
    if (result == -ERR_CLOSED)
        return session_explain(core, session, result, &failure, err);
    return result == 0 ? keep(core, session, ask, err) : err_copy(err, &failure);
}

int session_libraries_widen(struct attempt *attempt, struct session *session,
                            const struct session_execution *request, struct err *err)
{
    struct core *core = attempt->core;
    struct library_ask ask = {0};
    const struct lang *lang = NULL;
    if (request->library_count == 0)
        return 0;
    int result = widen(core, session, request, &ask.set, &lang, err);
    if (result == 0 && !library_set_equal(&ask.set, &session->libraries)) {
        result = wait_unhurried(attempt, session, lang, &ask, err);
        if (result == 0)
            result = attach(core, session, &ask, err);
    }
    library_ask_done(core, &ask);
    return result;
}

void session_libraries_add_env(const struct session *session, const char **env, size_t *count)
{
    const struct lang *lang = NULL;
    if (session->libraries.count == 0 || lang_find(session->row.lang, &lang, NULL) != 0)
        return;
    for (size_t i = 0; i < LANG_ENV_MAX && lang->libraries_env[i]; i++)
        env[(*count)++] = lang->libraries_env[i];
}

int session_libraries_json(struct core *core, const struct session *session, struct buf *out,
                           struct err *err)
{
    LIBRARY_SET_AUTO struct library_set set = {0};
    (void)pthread_mutex_lock(&core->lock);
    int result = library_set_copy(&session->libraries, &set, err);
    (void)pthread_mutex_unlock(&core->lock);
    if (result == 0)
        result = buf_append_str(out, ",\"libraries\":", err);
    return result == 0 ? library_set_json(&set, out, err) : result;
}
