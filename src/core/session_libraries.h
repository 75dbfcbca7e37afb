/* The libraries of a session: those that it was made with, and what executions add to them. */
#ifndef BERTH_CORE_SESSION_LIBRARIES_H
#define BERTH_CORE_SESSION_LIBRARIES_H

#include "core/library_ask.h"
#include "core/session_internal.h"

#define SESSION_LIBRARIES_ROW_MAX (LIBRARIES_MAX * (REQUIREMENT_MAX + 4) + 4)

/* While it is made: waits for the layer. What the installer says is ERR_BAD_INPUT (public): there
 * is no session to tell it in. */
int session_libraries_wait(struct core *core, const struct session_request *request,
                           const struct plan *plan, struct live *live, struct library_ask *ask,
                           struct err *err);
/* What its row is to say of them; 1: nothing, it has none. *list is the caller's, who began it, and
 * *out points into it. */
int session_libraries_row(const struct session *session, const struct library_ask *ask,
                          struct buf *list, struct store_session_layer *out, struct err *err);
/* Its sandbox has them, and the store says so: they become its own, and *ask gets what it had. */
void session_libraries_take(struct core *core, struct session *session, struct library_ask *ask);
/* Those of a session of an earlier server. */
int session_libraries_load(struct core *core, struct session *session, struct err *err);
/* The session is freed. */
void session_libraries_done(struct core *core, struct session *session);

/* Checks what an execution asks for on top. ERR_BAD_INPUT (public). */
int session_libraries_check(struct core *core, struct session *session,
                            const struct session_execution *request, struct err *err);
/* With the turn taken, before the code runs: the session has what the execution asks for. Returns 1
 * when there is an outcome instead: the session is then as it was. */
int session_libraries_widen(struct attempt *attempt, struct session *session,
                            const struct session_execution *request, struct err *err);

/* Adds the variables that a cell is to have for them, LANG_ENV_MAX at most; they are static. */
void session_libraries_add_env(const struct session *session, const char **env, size_t *count);

/* Appends ,"libraries":[...] */
int session_libraries_json(struct core *core, const struct session *session, struct buf *out,
                           struct err *err);

#endif
