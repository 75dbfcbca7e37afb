/* Inside src/api: one call, and what the families share. */
#ifndef BERTH_API_CALL_H
#define BERTH_API_CALL_H

#include <stdatomic.h>

#include "api/api.h"
#include "base/buf.h"
#include "wire/http.h"
#include "wire/sandbox.h"

#define API_BODY_MAX (4U << 20) /* of an answer that is held: a list of 1000 executions */

struct answer;

struct api {
    struct api_config config;
    _Atomic(struct http_server *) http;
    int64_t started_ns;
    _Atomic uint64_t answered[6]; /* by the first digit of the status */
};

struct api_call {
    struct api *api;
    const struct http_request *request;
    struct http_response *response;
    const char *owner;
    char id[SANDBOX_ID_MAX + 1]; /* what {id} of the pattern matched */
};

typedef int (*api_handler_fn)(struct api_call *call, struct err *err);

int api_root(struct api_call *call, struct err *err);
int api_health(struct api_call *call, struct err *err);
int api_metrics(struct api_call *call, struct err *err);
int api_info(struct api_call *call, struct err *err);
int api_drain_begin(struct api_call *call, struct err *err);
int api_drain_lift(struct api_call *call, struct err *err);
int api_drain_get(struct api_call *call, struct err *err);
int api_languages(struct api_call *call, struct err *err);
int api_layers_list(struct api_call *call, struct err *err);
int api_layers_remove(struct api_call *call, struct err *err);
int api_execute(struct api_call *call, struct err *err);
int api_executions_list(struct api_call *call, struct err *err);
int api_executions_get(struct api_call *call, struct err *err);
int api_executions_cancel(struct api_call *call, struct err *err);
int api_executions_events(struct api_call *call, struct err *err);
int api_sessions_create(struct api_call *call, struct err *err);
int api_sessions_list(struct api_call *call, struct err *err);
int api_sessions_get(struct api_call *call, struct err *err);
int api_sessions_execute(struct api_call *call, struct err *err);
int api_sessions_interrupt(struct api_call *call, struct err *err);
int api_sessions_renew(struct api_call *call, struct err *err);
int api_sessions_delete(struct api_call *call, struct err *err);
int api_session_network_put(struct api_call *call, struct err *err);
int api_session_files_get(struct api_call *call, struct err *err);
int api_session_files_put(struct api_call *call, struct err *err);
int api_session_terminal(struct api_call *call, struct err *err);

/* Of a route that takes its body by pieces: called when the head is whole. */
typedef int (*api_intake_fn)(struct api_call *call, struct http_intake *intake, struct err *err);

int api_session_files_begin(struct api_call *call, struct http_intake *intake, struct err *err);

/* Reads the id off the front of an execution object as core writes it. False: it is none. */
bool api_execution_id(const struct buf *object, char id[static SANDBOX_ID_MAX + 1]);
/* Answers with an execution object, which it takes over; named: its id in X-Execution-Id. A large
 * one is written as the client takes it. */
int api_answer(struct api_call *call, struct answer *answer, bool named, struct err *err);

/* The HTTP status of an error kind, and the body {"error", "detail", "timestamp"}. */
int api_error_status(enum err_kind kind);
int api_error_json(const struct err *error, struct buf *out, struct err *err);
/* Fills the response with the error; an error that is not the client's is logged. */
void api_error_respond(const struct err *error, struct http_response *response);

#endif
