/* Shared by the files of sessions in src/core. */
#ifndef BERTH_CORE_SESSION_INTERNAL_H
#define BERTH_CORE_SESSION_INTERNAL_H

#include "core/core_internal.h"
#include "core/layers.h"
#include "core/libraries.h"
#include "core/session.h"
#include "engine/channel.h"

/* One that waits for its turn in a session; on the stack of its thread. */
struct session_turn {
    struct live *live; /* what waits or runs; its cancellation ends the wait; may be NULL */
    struct session_turn *next;
};

/* A word that was left for whoever takes an execution over. */
struct session_cancel {
    char id[ID_UUID_SIZE];
    enum kill_cause cause;
};

/* Linked in core->sessions while it is open; freed with its last reference. */
struct session {
    /* Fixed, but for what a renewal writes: timeout_ms, idle_ms, lifetime_us; and network and
     * network_env; core->lock. */
    struct store_session row;
    struct channel *channel; /* of who has the turn, but for channel_break(): core->lock is held to
                                change it; NULL: to be opened */

    /* Guarded by core->lock. */
    unsigned references; /* one is the list's */
    bool closed;
    bool unsettled; /* init may hold executions that nobody waits for, or have lost some */
    bool to_settle; /* and no thread was started for it */
    struct session_cancel *cancels; /* what is to end and nobody follows; heap */
    size_t cancel_count;
    bool renewing; /* somebody tells init new times, or a network, and writes them down */
    struct session_turn *turns; /* the first one has it */
    size_t turn_count;
    uint64_t executions;
    int64_t used_us;
    struct library_set libraries; /* only who has the turn changes these two */
    struct layer_use layer;
    unsigned files; /* that have a channel of their own now, and terminals */
    struct session *next;
};

#define SESSION_TURNS_MAX 64
#define SESSION_FILES_MAX 5 /* init takes 8 connections; one is for code, others for renewals */

/* session.c: the table. */
/* The open session of that owner (NULL: any), with a reference. ERR_NOT_FOUND (public). */
int session_find(struct core *core, const char *owner, const char *id, struct session **out,
                 struct err *err);
void session_unref(struct core *core, struct session *session);
bool session_is_closed(struct core *core, struct session *session);
/* Whether there is an open session of that id. */
bool session_exists(struct core *core, const char *id);
/* The server ends: what is in the table goes; sandboxes and rows stay. */
void session_free_all(struct core *core);
/* Enters one, with a reference for the caller. */
void session_add(struct core *core, struct session *session);
/* Takes it out of the table and ends its executions; the caller destroys its sandbox. KILL_OOM is
 * what runs now, the others never began: they end by the server. Returns false when somebody else
 * did. */
bool session_close(struct core *core, struct session *session, enum kill_cause cause);
/* The same, by the server, and its row and its sandbox go. why is for the log. */
void session_drop(struct core *core, struct session *session, const char *why);

/* While the server drains: every session ends, with its row and its sandbox. */
void session_end_all(struct core *core);

/* Its sandbox ended by itself: the session is over. Returns whether there was one. */
bool session_on_gone(struct core *core, const char *sandbox_id, enum kill_cause cause);
/* The session as an object. */
int session_append_json(struct core *core, const struct session *session, struct buf *out,
                        struct err *err);

/* Waits for the turn. ERR_CLOSED: cancelled; ERR_NOT_FOUND (public): the session was closed;
 * ERR_UNAVAILABLE (public): too many wait. Then nothing has to be given back. */
int session_take_turn(struct core *core, struct session *session, struct session_turn *turn,
                      struct err *err);
void session_give_turn(struct core *core, struct session *session, struct session_turn *turn);
/* Whether who comes now has to wait for the turn, and may. */
bool session_is_busy(struct core *core, struct session *session);

/* Says what runs in the turn. */
void session_set_running(struct core *core, struct session_turn *turn, struct live *live);
/* Fills in the default of a lifetime. ERR_BAD_INPUT: above the most. */
int session_check_times(const struct core *core, uint64_t *lifetime_ms, struct err *err);

/* session_channel.c */
/* The engine that its sandbox is of. ERR_UNAVAILABLE (public): it is not there. */
int session_engine(struct core *core, const struct session *session, struct engine **out,
                   struct err *err);
/* A further channel to its init; the caller's to close. */
int session_open_channel(struct core *core, struct session *session, struct channel **out,
                         struct err *err);
/* Sees to session->channel, for who has the turn: opens it when there is none, and settles what
 * init holds: an execution that has no outcome gets one, when it has ended. What fails is to be
 * given to session_explain() or session_has_ended(). */
int session_see_channel(struct core *core, struct session *session, struct session_turn *turn,
                        struct err *err);
/* Gives a channel to the session, or takes (and closes) the one that it has: NULL. */
void session_set_channel(struct core *core, struct session *session, struct channel *channel);
/* Tells its init something on a channel of its own, again while the engine can't reach it: init may
 * be about to end, or the engine new. What fails has been through session_explain(). */
typedef int (*session_tell_fn)(struct channel *channel, void *what, struct err *err);
int session_tell(struct core *core, struct session *session, session_tell_fn tell, void *what,
                 struct err *err);
/* One change of a session at a time, or init and the books could take two in different orders. To
 * end one never fails. */
int session_begin_change(struct core *core, struct session *session, struct err *err);
void session_end_change(struct core *core, struct session *session);
/* From now on; 0: never. */
int session_set_timers(struct channel *channel, uint64_t lifetime_ms, uint64_t idle_ms,
                       struct err *err);
/* Whether after this failure of a way to its init the session is known to be over: it was closed,
 * its sandbox or its init has ended, or init speaks nonsense. A host that is only slow keeps it.
 * Asks the engine; blocks a second when an end is likely and not known yet. */
bool session_has_ended(struct core *core, struct session *session, int result);
/* The same for a caller: one that has ended is dropped, and ERR_NOT_FOUND (public); of others
 * ERR_UNAVAILABLE (public), or the failure itself where it says nothing of the session. */
int session_explain(struct core *core, struct session *session, int result,
                    const struct err *failure, struct err *err);
/* What the engine says of its sandbox; unknown counts as running. */
bool session_sandbox_ended(struct core *core, const struct session *session);

/* session_network.c */
/* Its network, copied. */
int session_copy_network(struct core *core, const struct session *session, struct network *out,
                         struct err *err);
/* The proxy's variables that are to come with a run in its kernel: a NULL-ended list, heap, of
 * texts that outlive it; *out_count may be 0. */
int session_run_env(struct core *core, const struct session *session, const char ***out,
                    size_t *out_count, struct err *err);
/* Notes for its box, which is in the table, what its row says, and lets egress hear of it. */
int session_give_network(struct core *core, const struct session *session, struct err *err);

/* session_files.c */
/* One place more, or less, of SESSION_FILES_MAX; the session is used until now. ERR_UNAVAILABLE
 * (public): there is none. To give one back never fails. */
int session_take_place(struct core *core, struct session *session, struct err *err);
void session_give_place(struct core *core, struct session *session);

/* session_adopt.c */
/* The server stops: executions of sessions are left to run, and their threads come back. */
void session_leave_all(struct core *core);
/* Reads the sessions of an earlier server. Called before there is an engine. */
int session_load(struct core *core, struct err *err);
/* Sessions of engines that this server was started without end when their time is over: of these
 * nobody else says so. */
void session_end_strays(struct core *core);
/* An engine is there: sessions of it whose sandbox is gone are dropped, and what ran in the others
 * while there was no server is settled, by threads. */
void session_reconcile(struct core *core, const struct engine_slot *slot);
/* An execution that init may have, and that nobody follows, is to end: whoever takes it over says
 * so. With core->lock held. */
void session_note_cancel_locked(struct session *session, const char *id, enum kill_cause cause);
/* Init may hold an outcome that is not in the store. A thread fetches it from there until it can;
 * whoever has the turn before does the same. */
void session_settle_again(struct core *core, struct session *session);

#endif
