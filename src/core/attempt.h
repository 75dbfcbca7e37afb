/* One execution on its way from the row in the store to the answer: what those of a sandbox of
 * their own and those of a session share. Inside src/core; lives on the stack of who runs it. */
#ifndef BERTH_CORE_ATTEMPT_H
#define BERTH_CORE_ATTEMPT_H

#include "core/answer.h"
#include "core/core_internal.h"
#include "core/execution_json.h"
#include "core/record.h"
#include "engine/channel.h"

/* What it is for; strings are borrowed. */
struct attempt_subject {
    const char *owner, *labels, *lang;
    const char *idempotency_key;  /* NULL: none */
    const char *session_id;       /* NULL: none */
    const char *engine, *runtime; /* that it runs on; runtime "": the engine named none */
    const char *sandbox_id;       /* of a session; NULL: that of its live */
    int gone_fd;                  /* of the client; -1: none */
    bool outlives_client;
};

struct attempt {
    struct core *core;
    struct attempt_subject subject;
    const struct execution_sink *sink; /* NULL: none */
    struct live live;
    enum execution_state state;
    struct store_execution_new row;
    struct store_job insert;
    bool insert_waits; /* begun and not waited for */
    bool ran;          /* the code may have reached init */
    bool compiled;     /* its compiler has made a program of it, in the sandbox */
    bool left;         /* it goes on without us, and has no outcome yet */
    bool sink_failed;
    bool stored;           /* its outcome: init may forget it */
    struct record *record; /* that of live, with a reference of its own */
    struct channel_exit exit;
    struct sandbox_exit compile_exit; /* once compiled; what it used */
    struct execution_outcome outcome;
    int64_t begun_ns;
    uint64_t events;    /* of init's, taken on the channels so far */
    uint64_t events_at; /* what they were when output came last */
    unsigned uncounted; /* pieces of output since then: init counts them with the message that they
                           came amid */
    unsigned skip;      /* such pieces that come once more */
};

/* Enters it among those that live. ERR_UNAVAILABLE: the server stops. */
int attempt_begin(struct attempt *attempt, struct core *core, const struct attempt_subject *subject,
                  const struct execution_sink *sink, struct err *err);
/* The same for one that an earlier server began and init holds. */
int attempt_resume(struct attempt *attempt, struct core *core,
                   const struct attempt_subject *subject, const struct store_execution *row,
                   struct err *err);
/* Leaves them. Call after each attempt_begin() that went well. */
void attempt_end(struct attempt *attempt);

/* Begins the row; with a key, waits until it is ours. Without one it is committed soon, at the
 * latest with the outcome, and read by id or in lists at once. Returns 0 when it is ours to run, 1
 * when the first one's outcome is in out. */
int attempt_claim(struct attempt *attempt, struct answer *out, struct err *err);
/* Waits for the row's commit, once. */
int attempt_wait_for_row(struct attempt *attempt, struct err *err);

/* Says to a client that listens that it has to wait for its place or its turn. */
int attempt_say_queued(struct attempt *attempt, struct err *err);
/* Says that the code is about to run. False: the client has gone, and it need not. */
bool attempt_start(struct attempt *attempt, const char *sandbox_id);

/* Output that came from elsewhere than its code, once it has started. */
int attempt_say(struct attempt *attempt, int stream, const uint8_t *data, size_t size,
                struct err *err);
/* What to watch while it runs. */
void attempt_watch(struct attempt *attempt, uint64_t timeout_ms, struct channel_watch *out);
/* Another program of it begins, whose events init counts from 1. */
void attempt_begin_events(struct attempt *attempt);
/* Its channel broke: what to attach to on another one. */
void attempt_attach(struct attempt *attempt, struct sandbox_attach *out);
/* After channel_exec() or its like failed: whether that is an outcome, "the sandbox was lost". */
bool attempt_is_lost(struct attempt *attempt, int result, const struct err *failure);

/* An end that did not come from init. */
void attempt_end_by(struct attempt *attempt, enum kill_cause cause);
void attempt_end_cancelled(struct attempt *attempt);

/* Writes the outcome down, then sets out to it, without its text when omit_streamed is set. */
int attempt_answer(struct attempt *attempt, bool omit_streamed, struct answer *out,
                   struct err *err);
/* It came to nothing before the code ran: its row goes. */
void attempt_forget(struct attempt *attempt);

#endif
