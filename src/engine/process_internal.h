/* What the files of the client of an engine process share: one connection, who waits on it, and
 * what is to be destroyed. For process*.c only. */
#ifndef BERTH_ENGINE_PROCESS_INTERNAL_H
#define BERTH_ENGINE_PROCESS_INTERNAL_H

#include "engine/engine.h"
#include "wire/peer.h"

/* A create whose caller gave up: its late reply is a sandbox that nobody wants. */
struct abandoned {
    uint64_t request_id;
    char id[SANDBOX_ID_MAX + 1];
    struct abandoned *next;
};

/* A destruction that is not done yet. */
struct destroying {
    char id[SANDBOX_ID_MAX + 1];
    uint64_t request_id; /* 0: not sent on this connection */
    int64_t retry_ns;    /* not to be sent before */
    unsigned failures;   /* answers that it can not be destroyed now */
    struct destroying *next;
};

struct process {
    struct engine base;
    struct engine_events events;
    struct peer *peer;
    /* Guarded by the peer's lock. */
    struct abandoned *abandoned;
    struct destroying *destroying;
    int64_t forgot_ns; /* when to have a forgotten destruction looked for; INT64_MAX: none is */
};

static inline struct process *process_of(struct engine *engine)
{
    return (struct process *)engine;
}

/* ---- process_link.c ---- */

/* Begins to connect. */
int process_link_start(struct process *process, const char *socket_path, struct err *err);

/* One request and its reply, which is the caller's: engine_msg_done(). A CREATE whose caller gave
 * up is destroyed when it comes. passed_fd goes along, -1 for none; borrowed. *out_fd, when not
 * NULL: the descriptor that came along, -1 for none; the caller's. */
int process_link_call(struct process *process, const struct engine_msg *request, int passed_fd,
                      const struct engine_wait *wait, struct engine_msg *reply, int *out_fd,
                      struct err *err);

/* ---- process_layers.c ---- */

/* As engine_layer_import() and those beside it. */
int process_layer_import(struct engine *engine, const struct engine_layer_import *import,
                         int64_t deadline_ns, uint64_t *out_size_bytes, struct err *err);
int process_layer_attach(struct engine *engine, const char *id, const char *name,
                         int64_t deadline_ns, struct err *err);
int process_layer_remove(struct engine *engine, const char *name, int64_t deadline_ns,
                         struct err *err);
int process_layer_list(struct engine *engine, int64_t deadline_ns, struct engine_layer **out_layers,
                       size_t *out_count, struct err *err);

/* ---- process_destroy.c ---- */

/* As engine_destroy_later(). */
void process_destroy_later(struct engine *engine, const char *id);
/* Sends the destructions that are due. Returns when the next one is. */
int64_t process_destroy_send_due(struct process *process);
/* Has a forgotten destruction looked for when it is time. Returns when that is. */
int64_t process_destroy_look_due(struct process *process);
/* A reply to a destruction; false when request_id is not one. */
bool process_destroy_answered(struct process *process, const struct engine_msg *msg);
/* Remembers a create that nobody waits for any more. Called with the lock held. */
void process_destroy_abandon_locked(struct process *process, uint64_t request_id, const char *id);
/* The late reply to an abandoned create. */
void process_destroy_late(struct process *process, const struct engine_msg *msg);
/* The connection is gone: what was sent on it has to be sent again. context: the process. */
void process_destroy_unsend(void *context);
/* Frees what is still to be destroyed: the next reconciliation does it. */
void process_destroy_done(struct process *process);

#endif
