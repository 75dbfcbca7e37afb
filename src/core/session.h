/* Sessions: a sandbox and a language kernel in it that keep their state from call to call, over
 * restarts of server and engine.
 *
 * An acknowledged session has a row; init holds its deadlines and the output of what runs in it. So
 * the next server finds both: it takes over what lives and forgets what ended meanwhile. Executions
 * of one session run in the order in which they came. Another owner's session is ERR_NOT_FOUND. */
#ifndef BERTH_CORE_SESSION_H
#define BERTH_CORE_SESSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "core/core.h"

struct answer;
struct core;
struct execution_sink;
struct lang;

/* All strings are borrowed for the call. Zero means "the default" for every number. */
struct session_request {
    const char *owner;
    const char *idempotency_key; /* NULL: none */
    const char *labels;          /* a JSON object as text; NULL: {} */
    const struct lang *lang;
    const char *const *env; /* "NAME=value" */
    size_t env_count;
    const char *engine, *runtime; /* NULL: the default of sessions, of the engine */
    const char *image;            /* NULL: the first of the engine's */
    const char *profile;          /* NULL: "strict" */
    const char *const *libraries;
    size_t library_count;
    bool keep_template;
    struct network_ask network;
    uint32_t gpu_count;
    uint64_t lifetime_ms;
    uint64_t idle_ms;
    uint64_t memory_bytes;
    uint64_t storage_bytes;
    uint32_t cpu_millis;
    int gone_fd; /* readable: the client has gone, and wants none; -1: none */
};

/* Makes one; its kernel, if its language has one, is ready when this returns. *out: {"session_id",
 * "status": "active", ...}. ERR_UNSUPPORTED: that can't be started. Else as core_execute(). */
int core_session_create(struct core *core, const struct session_request *request, struct buf *out,
                        struct err *err);

/* {"sessions": [ids]}, oldest first. */
int core_session_list(struct core *core, const char *owner, struct buf *out, struct err *err);
/* The session as an object. */
int core_session_get(struct core *core, const char *owner, const char *id, struct buf *out,
                     struct err *err);

struct session_execution {
    const char *owner, *session_id;
    const char *idempotency_key; /* NULL: none */
    const char *labels;
    const char *code;
    size_t code_size;
    const char *stdin_data;
    size_t stdin_size;
    const char *const *libraries; /* on top of those that the session has */
    size_t library_count;
    uint64_t timeout_ms; /* 0: the default */
};

/* Runs code in the kernel, or compiles and runs it as a program where there is none, after all that
 * came before. It goes on when the client leaves. *out as
 * of core_execute(). ERR_UNAVAILABLE: too many wait already. */
int core_session_execute(struct core *core, const struct session_execution *request,
                         const struct execution_sink *sink, bool omit_streamed, struct answer *out,
                         struct err *err);

/* Interrupts what runs; *out says what: {"session_id", "interrupted": execution id or null}. */
int core_session_interrupt(struct core *core, const char *owner, const char *id, struct buf *out,
                           struct err *err);

/* New times from now on, 0: those that it has, anew. Once this has succeeded the session lives on
 * until then; else it has ended: ERR_NOT_FOUND. *out as core_session_get(). */
int core_session_renew(struct core *core, const char *owner, const char *id, uint64_t lifetime_ms,
                       uint64_t idle_ms, struct buf *out, struct err *err);

/* Another network from now on, for what runs in it as well: when this returns, connections that are
 * not allowed any more have ended. ERR_CONFLICT: the code listens on the port of the proxy.
 * ERR_UNAVAILABLE: berth-egress is away; it hears of it when it is back. *out as
 * core_session_get().
 */
int core_session_set_network(struct core *core, const char *owner, const char *id,
                             const struct network_ask *ask, struct buf *out, struct err *err);

/* Ends what runs in it and it. *out: {"session_id", "status": "closed"}. */
int core_session_delete(struct core *core, const char *owner, const char *id, struct buf *out,
                        struct err *err);

#endif
