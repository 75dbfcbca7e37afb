/* The libraries of a session: those that it was made with, and what executions add to them. */
#ifndef BERTH_CORE_SESSION_LIBRARIES_H
#define BERTH_CORE_SESSION_LIBRARIES_H

#include "core/library_ask.h"
#include "core/session_internal.h"

/* While it is made: waits for the layer. What the installer says is ERR_BAD_INPUT (public): there
 * is no session to tell it in. */
int session_libraries_wait(struct core *core, const struct session_request *request,
                           const char *image, struct live *live, struct library_ask *ask,
                           struct err *err);
/* Its sandbox has them: they are written down, before the session is, and become its own. */
int session_libraries_keep(struct core *core, struct session *session, struct library_ask *ask,
                           struct err *err);
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
