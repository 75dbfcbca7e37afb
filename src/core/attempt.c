/* Owns the books of one execution: its row, its record, its outcome. The outcome is written down
 * before it is answered, and what ran always has one. */
#include "core/attempt.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/mem.h"
#include "core/execution_text.h"
#include "core/session_internal.h"
#include "wire/frame.h"

#define CLAIM_TRIES 1000
#define EXIT_KILLED 137
#define UNFINISHED_MAX 256               /* of one session, at once */
#define SETTLE_NS (50 * CLOCK_NS_PER_MS) /* between two looks at one that nobody has taken over */
#define UNSETTLED_RETRY_S 2
#define OBJECT_MAX (64U * 1024U) /* names and figures; labels and results come on top */

/* ---- what it says ---- */

/* Passes a piece on to a client that listens. */
static int pass_on(struct attempt *attempt, const struct record_piece *piece, struct err *err)
{
    const struct execution_sink *sink = attempt->sink;
    if (piece->size == 0 || !sink || !sink->output || attempt->sink_failed)
        return 0;
    int result = sink->output(sink->context, piece->stream, piece->data, piece->size, false, err);
    attempt->sink_failed = result != 0;
    return attempt->subject.outlives_client ? 0 : result;
}

static int on_output(void *context, int stream, const uint8_t *data, size_t size, struct err *err)
{
    struct attempt *attempt = context;
    struct record_piece piece;
    attempt->uncounted = attempt->events == attempt->events_at ? attempt->uncounted + 1 : 1;
    attempt->events_at = attempt->events;
    if (attempt->skip > 0) {
        attempt->skip--;
        return 0;
    }
    atomic_fetch_add_explicit(&attempt->core->metrics.output_bytes, size, memory_order_relaxed);
    int result = record_output(attempt->record, stream, data, size, &piece, err);
    return result == 0 ? pass_on(attempt, &piece, err) : result;
}

static int on_message(void *context, const uint8_t *data, size_t size, struct err *err)
{
    struct attempt *attempt = context;
    struct record_piece piece;
    int result = record_message(attempt->record, data, size, &piece, err);
    return result == 0 ? pass_on(attempt, &piece, err) : result;
}

int attempt_say(struct attempt *attempt, int stream, const uint8_t *data, size_t size,
                struct err *err)
{
    return size > 0 ? on_output(attempt, stream, data, size, err) : 0;
}

void attempt_watch(struct attempt *attempt, uint64_t timeout_ms, struct channel_watch *out)
{
    *out = (struct channel_watch){
        .cancel_fd = attempt->live.cancel_fd,
        .cancel_cause = &attempt->live.cancel_cause,
        .interrupt_fd = attempt->live.interrupt_fd,
        .gone_fd = attempt->subject.outlives_client ? -1 : attempt->subject.gone_fd,
        /* Past the timeout, which is init's to enforce, it is not believed to answer any more. */
        .deadline_ns =
            clock_now_ns() + (int64_t)timeout_ms * CLOCK_NS_PER_MS + attempt->core->answer_ns,
        .output = on_output,
        .message = on_message,
        .context = attempt,
        .events = &attempt->events};
}

void attempt_begin_events(struct attempt *attempt)
{
    attempt->events = attempt->events_at = 0;
    attempt->uncounted = attempt->skip = 0;
}

void attempt_attach(struct attempt *attempt, struct sandbox_attach *out)
{
    if (attempt->events == attempt->events_at)
        attempt->skip += attempt->uncounted;
    attempt->uncounted = 0;
    *out = (struct sandbox_attach){.execution_id = attempt->live.id, .after = attempt->events};
}

/* ---- beginning ---- */

/* id NULL: a new one. */
static int enter(struct attempt *attempt, struct core *core, const struct attempt_subject *subject,
                 const struct execution_sink *sink, const char *id, struct err *err)
{
    const struct record_limits limits = {.output_bytes = (size_t)core->config.keep_output_bytes,
                                         .messages_bytes =
                                             (size_t)core->config.keep_messages_bytes};
    *attempt = (struct attempt){.core = core, .subject = *subject, .sink = sink};
    attempt->begun_ns = clock_now_ns();
    attempt->record = record_new(&limits);
    if (!attempt->record)
        return err_set(err, ERR_INTERNAL, "no memory for the record of an execution");
    attempt->live.of_session = subject->session_id != NULL;
    int result = live_begin(core, subject->owner, id, attempt->record, &attempt->live, err);
    if (result != 0) {
        record_unref(attempt->record);
        return result;
    }
    attempt->outcome = (struct execution_outcome){.id = attempt->live.id,
                                                  .lang = subject->lang,
                                                  .labels = subject->labels,
                                                  .session_id = subject->session_id,
                                                  .engine = subject->engine,
                                                  .runtime = subject->runtime,
                                                  .exit = {.start_error = ""},
                                                  .created_us = clock_wall_us()};
    return 0;
}

int attempt_begin(struct attempt *attempt, struct core *core, const struct attempt_subject *subject,
                  const struct execution_sink *sink, struct err *err)
{
    return enter(attempt, core, subject, sink, NULL, err);
}

int attempt_resume(struct attempt *attempt, struct core *core,
                   const struct attempt_subject *subject, const struct store_execution *row,
                   struct err *err)
{
    int result = enter(attempt, core, subject, NULL, row->id, err);
    if (result != 0)
        return result;
    attempt->state = EXECUTION_RUNNING;
    attempt->ran = true;
    attempt->outcome.created_us = row->created_us;
    attempt->outcome.started_us = row->started_us != 0 ? row->started_us : row->created_us;
    if (row->started_us == 0) /* the server died before it was written down */
        store_execution_started(core->store, row->id, "", attempt->outcome.started_us, false);
    record_start(attempt->record);
    return 0;
}

void attempt_end(struct attempt *attempt)
{
    (void)attempt_wait_for_row(attempt, NULL); /* its job is ours */
    record_end(attempt->record, NULL);         /* no effect on one that was answered */
    live_end(attempt->core, &attempt->live);
    record_unref(attempt->record);
}

static void begin_row(struct attempt *attempt)
{
    const struct attempt_subject *subject = &attempt->subject;
    attempt->row = (struct store_execution_new){.id = attempt->live.id,
                                                .owner = subject->owner,
                                                .labels = subject->labels,
                                                .lang = subject->lang,
                                                .status = execution_state_name(EXECUTION_QUEUED),
                                                .idempotency_key = subject->idempotency_key,
                                                .session_id = subject->session_id,
                                                .created_us = attempt->outcome.created_us};
    store_execution_insert_begin(attempt->core->store, &attempt->row, &attempt->insert);
    attempt->insert_waits = true;
}

int attempt_wait_for_row(struct attempt *attempt, struct err *err)
{
    if (!attempt->insert_waits)
        return 0;
    attempt->insert_waits = false;
    return store_job_wait(attempt->core->store, &attempt->insert, err);
}

/* The first one of a key is in nobody's hands, and its session goes on. */
static int say_unsettled(const char *first_id, struct err *err)
{
    int result = err_public(err, ERR_UNAVAILABLE,
                            "execution %.40s has this Idempotency-Key, and its session does not "
                            "answer now; try again",
                            first_id);
    if (err)
        err->retry_after_s = UNSETTLED_RETRY_S;
    return result;
}

int attempt_claim(struct attempt *attempt, struct answer *out, struct err *err)
{
    struct core *core = attempt->core;
    const struct attempt_subject *subject = &attempt->subject;
    if (!subject->idempotency_key) {
        begin_row(attempt);
        /* Nobody knows its id yet, so it may share a transaction with the outcome. But a fault
         * point is to find it, and what can't be written down is refused. */
        bool waits = fault_text()[0] != '\0' || store_is_failing(core->store);
        return waits ? attempt_wait_for_row(attempt, err) : 0;
    }
    int64_t slept_ns = 0;
    for (int i = 0; i < CLAIM_TRIES; i++) {
        begin_row(attempt);
        struct err failure = ERR_INIT;
        int result = attempt_wait_for_row(attempt, &failure);
        if (result != -ERR_CONFLICT)
            return result == 0 ? 0 : err_copy(err, &failure);
        char first_id[STORE_ID_SIZE];
        result = store_execution_by_key(core->store, subject->owner, subject->idempotency_key,
                                        first_id, &failure);
        if (result == -ERR_NOT_FOUND)
            continue; /* the first one ran nothing and has gone: this one takes its turn */
        if (result != 0)
            return err_copy(err, &failure);
        live_wait(core, first_id);
        struct store_execution row;
        result = execution_read(core, subject->owner, first_id, &row, out, &failure);
        if (result == 0 && row.has_outcome)
            return 1;
        if (result == 0 && row.finished_us == 0 && session_exists(core, row.session_id)) {
            if (core_is_stopping(core))
                return core_say_stopping(err); /* the next server has its outcome */
            if (attempt->live.cancel_cause != KILL_NONE || slept_ns >= core->answer_ns)
                return say_unsettled(first_id, err);
            clock_sleep_ns(SETTLE_NS); /* init may hold it: whoever settles the session knows */
            slept_ns += SETTLE_NS;
            i--;
            continue;
        }
        if (result == 0 && row.finished_us == 0) /* ended, and its outcome could not be stored */
            result = execution_end_orphan(core, &row, &failure);
        if (result != 0 && result != -ERR_NOT_FOUND)
            return err_copy(err, &failure);
    }
    return err_public(err, ERR_CONFLICT, "Idempotency-Key: another request with it never ends");
}

int attempt_say_queued(struct attempt *attempt, struct err *err)
{
    const struct execution_sink *sink = attempt->sink;
    if (!sink || !sink->queued)
        return 0;
    int result = attempt_wait_for_row(attempt, err); /* who hears of it may ask for it at once */
    if (result == 0 && sink->queued(sink->context, attempt->live.id, NULL) != 0)
        attempt->sink_failed = true;
    return result;
}

bool attempt_start(struct attempt *attempt, const char *sandbox_id)
{
    (void)execution_state_move(&attempt->state, EXECUTION_RUNNING);
    attempt->outcome.started_us = clock_wall_us();
    box_busy(attempt->core, sandbox_id);
    const struct execution_sink *sink = attempt->sink;
    /* Whoever hears of the start may ask for the execution at once, and is to find it running. */
    store_execution_started(attempt->core->store, attempt->live.id, sandbox_id,
                            attempt->outcome.started_us, sink != NULL);
    record_start(attempt->record);
    if (sink && sink->started && !attempt->sink_failed)
        attempt->sink_failed = sink->started(sink->context, attempt->live.id, NULL) != 0;
    return !attempt->sink_failed || attempt->subject.outlives_client;
}

/* ---- ending ---- */

void attempt_end_by(struct attempt *attempt, enum kill_cause cause)
{
    attempt->outcome.exit =
        (struct sandbox_exit){.exit_code = EXIT_KILLED,
                              .cause = cause,
                              .stdout_bytes = record_kept(attempt->record, STREAM_STDOUT),
                              .stderr_bytes = record_kept(attempt->record, STREAM_STDERR),
                              .start_error = ""};
}

void attempt_end_cancelled(struct attempt *attempt)
{
    int cause = attempt->live.cancel_cause;
    attempt_end_by(attempt, cause != KILL_NONE ? (enum kill_cause)cause : KILL_USER);
}

/* Its sandbox is gone: what its caller did, what its engine says of it, or "server". */
static enum kill_cause cause_of_loss(struct attempt *attempt, int result)
{
    const struct attempt_subject *subject = &attempt->subject;
    char id[SANDBOX_ID_MAX + 1];
    if (attempt->live.cancel_cause == KILL_USER || attempt->sink_failed)
        return KILL_USER;
    (void)pthread_mutex_lock(&attempt->core->lock); /* it guards sandbox_id */
    (void)snprintf(id, sizeof(id), "%s",
                   subject->sandbox_id ? subject->sandbox_id : attempt->live.sandbox_id);
    (void)pthread_mutex_unlock(&attempt->core->lock);
    enum kill_cause cause = box_cause(attempt->core, id, result == -ERR_CLOSED);
    /* The end of a session may have told it before. */
    return cause == KILL_OOM || attempt->live.cancel_cause == KILL_OOM ? KILL_OOM : KILL_SERVER;
}

bool attempt_is_lost(struct attempt *attempt, int result, const struct err *failure)
{
    if (result != -ERR_CLOSED && result != -ERR_TIMEOUT && result != -ERR_PROTOCOL)
        return false;
    log_warn("execution %s: the sandbox was lost: %s", attempt->live.id, failure->message);
    attempt_end_by(attempt, cause_of_loss(attempt, result));
    attempt->outcome.exit.wall_us = (uint64_t)(clock_wall_us() - attempt->outcome.started_us);
    return true;
}

static enum execution_state state_of(const struct sandbox_exit *exit)
{
    if (exit->cause == KILL_TIMEOUT)
        return EXECUTION_TIMEOUT;
    if (exit->cause != KILL_NONE && exit->cause != KILL_SIGNAL)
        return EXECUTION_KILLED;
    return exit->exit_code == 0 ? EXECUTION_SUCCESS : EXECUTION_ERROR;
}

static void say_start_error(struct attempt *attempt)
{
    struct sandbox_exit *exit = &attempt->outcome.exit;
    char line[sizeof(attempt->exit.start_error) + 16];
    int size = snprintf(line, sizeof(line), "berth: %s\n", exit->start_error);
    (void)on_output(attempt, STREAM_STDERR, (const uint8_t *)line, (size_t)size, NULL);
    if (exit->exit_code == 0)
        exit->exit_code = 126;
}

/* Completes the outcome from what is known now. */
static void complete(struct attempt *attempt)
{
    struct execution_outcome *outcome = &attempt->outcome;
    struct sandbox_exit *exit = &outcome->exit;
    struct record_piece rest[2];
    if (exit->start_error && exit->start_error[0] != '\0')
        say_start_error(attempt);
    if (record_flush(attempt->record, rest, NULL) == 0) {
        (void)pass_on(attempt, &rest[0], NULL);
        (void)pass_on(attempt, &rest[1], NULL);
    }
    outcome->truncated = record_is_truncated(attempt->record) || exit->messages_dropped ||
                         exit->stdout_bytes > record_kept(attempt->record, STREAM_STDOUT) ||
                         exit->stderr_bytes > record_kept(attempt->record, STREAM_STDERR);
    if (outcome->truncated)
        exit->limits_hit |= LIMIT_OUTPUT;
    if (exit->cause == KILL_OOM)
        exit->limits_hit |= LIMIT_MEMORY;
    outcome->finished_us = clock_wall_us();
    (void)execution_state_move(&attempt->state, state_of(exit));
    outcome->state = attempt->state;
}

static void count_outcome(struct attempt *attempt)
{
    struct metrics *metrics = &attempt->core->metrics;
    const struct execution_outcome *outcome = &attempt->outcome;
    atomic_fetch_add(&metrics->executions[outcome->state], 1);
    if (outcome->session_id)
        atomic_fetch_add(&metrics->session_executions, 1);
    if (outcome->exit.cause != KILL_NONE)
        atomic_fetch_add(&metrics->killed[outcome->exit.cause], 1);
    if (outcome->started_us != 0)
        metrics_observe(&metrics->run, (int64_t)(outcome->exit.wall_us & INT64_MAX));
    metrics_observe(&metrics->total, (clock_now_ns() - attempt->begun_ns) / 1000);
}

/* Writes an outcome down: its object, and its text as bytes beside it (NULL: none). */
static int store_outcome(struct core *core, const struct execution_outcome *outcome,
                         const struct buf *object, const struct execution_text *text,
                         struct err *err)
{
    BUF_AUTO struct buf stored;
    buf_init(&stored, text ? text->pieces.size + text->bytes.size + 64 : 0);
    int result = text ? execution_text_encode(text, &stored, err) : 0;
    const struct store_outcome end = {.status = execution_state_name(outcome->state),
                                      .finished_us = outcome->finished_us,
                                      .expires_us = outcome->finished_us +
                                                    (int64_t)core->config.keep_outcome_ms * 1000,
                                      .object = object->data,
                                      .object_size = object->size,
                                      .text = stored.data,
                                      .text_size = stored.size};
    return result == 0 ? store_execution_finish(core->store, outcome->id, &end, err) : result;
}

int attempt_answer(struct attempt *attempt, bool omit_streamed, struct answer *out, struct err *err)
{
    struct core *core = attempt->core;
    complete(attempt);
    const struct execution_text *text = record_text(attempt->record);
    BUF_AUTO struct buf object;
    buf_init(&object, OBJECT_MAX + (attempt->subject.labels ? strlen(attempt->subject.labels) : 0));
    int result = execution_json_outcome(&attempt->outcome, &object, err);
    if (result != 0)
        return result;
    struct err failure = ERR_INIT;
    fault_point("server.exited");
    if (store_outcome(core, &attempt->outcome, &object, text, &failure) != 0)
        log_error("execution %s: its outcome could not be stored: %s", attempt->live.id,
                  failure.message); /* the code ran: its caller gets the outcome all the same */
    else
        attempt->stored = true;
    fault_point("server.stored");
    count_outcome(attempt);
    record_end(attempt->record, &object);
    kept_enter(&core->kept, attempt->live.id, attempt->record,
               text->bytes.size + text->pieces.size);
    answer_take_record(out, record_ref(attempt->record), omit_streamed);
    return 0;
}

void attempt_forget(struct attempt *attempt)
{
    struct err failure = ERR_INIT;
    if (attempt_wait_for_row(attempt, &failure) != 0)
        return;
    if (store_execution_remove(attempt->core->store, attempt->live.id, &failure) != 0)
        log_error("execution %s: %s", attempt->live.id, failure.message);
}

/* session: what is known of its session; NULL: nothing. */
static int end_orphan(struct core *core, const struct store_execution *row,
                      const struct store_session *session, struct err *err)
{
    enum execution_state state = row->started_us != 0 ? EXECUTION_RUNNING : EXECUTION_QUEUED;
    (void)execution_state_move(&state, EXECUTION_KILLED);
    const bool lost = row->session_id[0] != '\0' && !session_exists(core, row->session_id);
    const struct execution_outcome outcome = {
        .id = row->id,
        .lang = row->lang,
        .session_id = row->session_id[0] != '\0' ? row->session_id : NULL,
        .engine = session ? session->engine : NULL,
        .runtime = session ? session->runtime : NULL,
        .state = state,
        .exit = {.exit_code = EXIT_KILLED,
                 .cause = KILL_SERVER,
                 .state_lost = lost,
                 .start_error = ""},
        .created_us = row->created_us,
        .started_us = row->started_us,
        .finished_us = clock_wall_us()};
    BUF_AUTO struct buf object;
    buf_init(&object, OBJECT_MAX);
    int result = execution_json_outcome(&outcome, &object, err);
    return result == 0 ? store_outcome(core, &outcome, &object, NULL, err) : result;
}

int execution_end_orphan(struct core *core, const struct store_execution *row, struct err *err)
{
    return end_orphan(core, row, NULL, err);
}

int execution_end_unfinished(struct core *core, const struct store_session *session,
                             struct err *err)
{
    MEM_AUTO struct store_execution *rows = NULL;
    size_t count = 0;
    int result =
        store_execution_unfinished(core->store, session->id, UNFINISHED_MAX, &rows, &count, err);
    for (size_t i = 0; i < count && result == 0; i++) {
        struct store_execution row;
        if (live_exists(core, rows[i].id))
            continue;
        /* Anew: it may have ended, and have left, between the two looks. */
        result = store_execution_get(core->store, NULL, rows[i].id, &row, NULL, NULL, err);
        if (result == 0 && row.finished_us == 0)
            result = end_orphan(core, &row, session, err);
        else if (result == -ERR_NOT_FOUND)
            result = 0;
    }
    return result;
}
