/* Shared by the files of src/core only (and by its unit tests). */
#ifndef BERTH_CORE_CORE_INTERNAL_H
#define BERTH_CORE_CORE_INTERNAL_H

#include <pthread.h>
#include <stdbool.h>

#include "base/id.h"
#include "core/admission.h"
#include "core/core.h"
#include "core/engines.h"
#include "core/kept.h"
#include "core/metrics.h"
#include "core/network.h"
#include "core/resources.h"
#include "core/states.h"
#include "engine/engine.h"
#include "store/store.h"

struct channel;
struct compile_cache;
struct egress;
struct kernel_input;
struct languages;
struct layers;
struct network_use;
struct pool;
struct record;
struct session;

/* An execution that has not ended; on the stack of whoever runs it, linked while it lives. */
struct live {
    char id[ID_UUID_SIZE];
    char owner[STORE_TEXT_SIZE];
    char sandbox_id[SANDBOX_ID_MAX + 1]; /* guarded by core->lock; "" before there is one */
    struct record *record;               /* what others follow; borrowed from who runs it */
    int cancel_fd;                       /* eventfd */
    int interrupt_fd;                    /* eventfd; each write interrupts the code once */
    bool of_session;                     /* it goes on when the server stops */
    _Atomic int cancel_cause;            /* enum kill_cause; KILL_NONE: not cancelled */
    bool box_lost; /* cancelled for the death of its sandbox alone; guarded by core->lock */
    struct channel *blocked; /* its thread is in a talk of another one; guarded by core->lock */
    struct live *next;
};

/* A sandbox that this server made and that is not gone. */
struct box {
    char id[SANDBOX_ID_MAX + 1];
    struct engine_slot *slot; /* NULL: of an engine that this server was started without */
    enum sandbox_state state;
    bool holds_place; /* of admission, with its reservation */
    bool of_session;  /* it stays when the server stops */
    bool died;        /* by itself */
    bool died_of_memory;
    bool adopted; /* of an earlier server, which may have told egress of it */
    struct reservation reserve;
    struct network_use *network; /* what it is to have; NULL: none, and never had */
    struct box *next;
};

struct core {
    struct core_config config;
    struct store *store;
    struct admission *admission;
    struct metrics metrics;
    struct kept kept;               /* what is held for readers; has a lock of its own */
    struct pool *pool;              /* NULL: there is none */
    struct layers *layers;          /* NULL: there are none */
    struct compile_cache *compiled; /* NULL: there is none; has a lock of its own */
    struct languages *languages;    /* the same */
    int64_t create_budget_ns;       /* all tries to make one sandbox together */
    _Atomic int64_t answer_ns; /* init may take so long to answer a small question; atomic for tests
                                  that change it */
    int64_t image_look_ns;     /* how often the pool asks what images' names mean */
    int64_t cause_wait_ns;     /* between the end of an init and the engine's word for it */
    pthread_t network_thread;
    bool network_runs;
    struct egress *egress; /* set before the first request; NULL: there is none */

    /* Rank 3, above admission (2) and the engine's (1). Guards all that follows. */
    pthread_mutex_t lock;
    pthread_cond_t changed;         /* an execution ended, a box went */
    pthread_cond_t network_changed; /* for network_use.c: executions end all the time */
    struct engine_slot slots[CORE_ENGINES_MAX];
    size_t slot_count; /* fixed, as the names */
    bool stopping, engines_stop, network_stop, network_wanted;
    struct live *lives;
    struct box *boxes;
    struct session *sessions;           /* session_internal.h */
    unsigned turns_waiting;             /* of all sessions, but who has it */
    struct kernel_input *kernel_inputs; /* kernel_input.h; entries never change */
    int settlers;                       /* threads of ours that end by themselves */
    bool draining;
    uint64_t drain_killed, drain_sessions; /* what was counted when the drain began */
};

/* execution_plan.c: what a request comes to, with defaults and limits applied. */
struct plan {
    uint64_t timeout_ms;
    struct resources resources;
    struct engine_slot *slot;
    char runtime[ENGINE_NAME_MAX]; /* "": the engine names none */
    char image[ENGINE_IMAGE_MAX];
    uint64_t capabilities; /* of the runtime */
    uint64_t runtime_memory_bytes;
    const char *profile;       /* borrowed from the request */
    const struct lang *kernel; /* whose kernel is to wait in the sandbox; NULL: none, as for a
                                  program of a language whose kernel takes cells only */
    const char *zygote; /* what the engine may fork the kernel from: a language; "": nothing */
    const char **envp;  /* NULL-ended, entries borrowed; freed by plan_done() */
    size_t envc;
    char **joined; /* entries of envp that are ours; NULL-ended, NULL: none */
    struct network network;
};

/* ERR_BAD_INPUT (public) names the field and what the host has. May ask the engine. */
int plan_make(struct core *core, const struct execution_request *request, struct plan *out,
              struct err *err);
/* The variables alone, of those of the plan, which has its image. Of a session (request->cells),
 * which may get libraries at any time, a caller's own list of folders goes before ours that leads
 * to them. */
int plan_env(const struct execution_request *request, struct plan *plan, struct err *err);
void plan_done(struct plan *plan);
/* The names of the images, separated by spaces; an engine that names none has "host". */
const char *plan_images(const struct engine_info *info);
/* What the engine says that the name means now; "" when nobody says. */
void plan_image_id(const struct engine_info *info, const char *image,
                   char out[static ENGINE_IMAGE_ID_MAX]);
#define PLAN_AUTO __attribute__((cleanup(plan_done)))

/* core.c */
/* Whether core_stop() was called. */
bool core_is_stopping(struct core *core);
int core_say_stopping(struct err *err);
int core_say_draining(struct err *err); /* drain.c */
/* Enters an execution, with a new id, or with the one that it had under an earlier server;
 * ERR_UNAVAILABLE when the server stops, or drains and it is new. live->of_session is the caller's
 * to set before. */
int live_begin(struct core *core, const char *owner, const char *id, struct record *record,
               struct live *live, struct err *err);
void live_end(struct core *core, struct live *live);
/* Cancels by id (owner NULL: any). Returns whether it lives. */
bool live_cancel(struct core *core, const char *owner, const char *id, enum kill_cause cause);
bool live_exists(struct core *core, const char *id);
/* The first cause stands. With core->lock held. */
void live_cancel_locked(struct live *live, enum kill_cause cause);
/* Its thread follows another execution on a channel, which its cancellation is to break; NULL: no
 * more. With core->lock held. */
void live_set_blocked_locked(struct live *live, struct channel *channel);
/* Its sandbox died: cancels it, unless it is cancelled already. With core->lock held. */
void live_box_gone_locked(struct live *live);
/* Nothing ran in its sandbox, whose end is no reason to cancel any more. Returns whether there is
 * no other one: then it may go on in another sandbox. */
bool live_leave_box(struct core *core, struct live *live);
/* Wakes the code of an execution with an interrupt. Returns whether it lives. */
bool live_interrupt(struct core *core, const char *owner, const char *id);
/* The record of an execution that lives, with a reference of its own; NULL: it does not. */
struct record *live_record(struct core *core, const char *owner, const char *id);
/* Waits until no execution of that id lives. */
void live_wait(struct core *core, const char *id);

/* sandboxes.c */
/* How long a sandbox lives by itself, as struct engine_create has it. */
struct box_life {
    uint64_t lifetime_ms, orphan_ms;
};
#define BOX_LIFETIME_EXTRA_MS 30000 /* past a timeout: then init ends the sandbox by itself */

/* Makes a sandbox for live: tries again with a fresh id when the engine went away, within the
 * core's budget. Takes over one place of admission and its reservation, which come back when the
 * sandbox is gone, also after a failure. ERR_CLOSED: cancelled meanwhile. ERR_BAD_INPUT,
 * ERR_UNSUPPORTED and ERR_UNAVAILABLE may hold the engine's own public words. */
int box_create(struct core *core, struct live *live, int gone_fd, const struct plan *plan,
               const struct box_life *life, char out_id[static SANDBOX_ID_MAX + 1], int *out_fd,
               uint8_t out_nonce[static SANDBOX_NONCE_SIZE], struct err *err);
/* The same once, for the pool: it holds no place of admission until it is given away. */
int box_create_ahead(struct core *core, const struct plan *plan, int cancel_fd,
                     char out_id[static SANDBOX_ID_MAX + 1], int *out_fd,
                     uint8_t out_nonce[static SANDBOX_NONCE_SIZE], struct err *err);
/* Gives one of the pool to live, with a place of admission that live has. False: it died. */
bool box_give(struct core *core, const char *id, struct live *live,
              const struct reservation *reserve);
/* The one of that id, or NULL. With core->lock held. */
struct box *box_find_locked(struct core *core, const char *id);
/* Says that code runs in it, or no more. */
void box_busy(struct core *core, const char *id);
void box_ready(struct core *core, const char *id);
/* Says that it is a session's from now on, which is in the table or about to be. False: it died
 * meanwhile. May be said again. */
bool box_keep(struct core *core, const char *id);
/* Enters a session's sandbox that an earlier server made, with what is reserved for it on its
 * engine. Of an engine that this server was started without it holds no place. */
int box_adopt(struct core *core, struct engine_slot *slot, const char *id,
              const struct reservation *reserve, struct err *err);
/* The engine of one in the table. ERR_NOT_FOUND: it is in there no more; ERR_UNAVAILABLE (public):
 * its engine is not there. */
int box_engine(struct core *core, const char *id, struct engine **out, struct err *err);
/* Ends it, without waiting. Of an engine that this server was started without only the entry goes:
 * a server with it finds that the sandbox is nobody's. */
void box_destroy(struct core *core, const char *id);
/* What an engine says of its own; slot NULL: of any. */
void box_on_destroyed(struct core *core, const struct engine_slot *slot, const char *id);
void box_on_gone(struct core *core, const struct engine_slot *slot, const char *id,
                 enum kill_cause cause);
/* KILL_OOM when its engine says that one ended by that. waits: for a moment until something is
 * known, as its channel has just ended. */
enum kill_cause box_cause(struct core *core, const char *id, bool waits);
/* Destroys what the engine has and nobody owns. */
int box_reconcile(struct core *core, struct engine_slot *slot, struct err *err);

/* execution_read.c */
/* Reads a row, and sets *out to its outcome's whole object when there is one. ERR_UNAVAILABLE: too
 * many are held. As store_execution_get() otherwise. */
int execution_read(struct core *core, const char *owner, const char *id,
                   struct store_execution *row, struct answer *out, struct err *err);

/* attempt.c: gives an execution that runs no more and has no outcome in the store the outcome
 * "killed by the server". The state of a session that is over is lost. */
int execution_end_orphan(struct core *core, const struct store_execution *row, struct err *err);
/* The same for all of a session that are in nobody's hands. */
int execution_end_unfinished(struct core *core, const struct store_session *session,
                             struct err *err);
/* execution.c: the same for all that an earlier server left outside of sessions. */
int execution_end_orphans(struct core *core, struct err *err);

#endif
