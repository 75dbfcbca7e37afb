/* Owns the straight line of one execution in a session: row, turn, kernel, outcome. It outlives its
 * client and its server: init holds what it says until the outcome is in the store. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "core/attempt.h"
#include "core/program.h"
#include "core/quota.h"
#include "core/session_libraries.h"

#define LOG_IDLE_MAX (64U * 1024U) /* of what init may go on holding while the session is idle */
#define AGAIN_NS (20 * CLOCK_NS_PER_MS)
#define TAKE_UPS 5
#define NO_WAY 1      /* beside 0 and negative kinds */
#define GRACE_MS 1000 /* from the interrupt at a timeout to the kernel's end (contract) */

/* What runs is left to init, and to whoever settles the session next. */
static int leave(struct attempt *attempt, const char *why, struct err *err)
{
    attempt->left = true;
    int result = err_public(err, ERR_UNAVAILABLE, "%s; execution %s goes on, ask for it by its id",
                            why, attempt->live.id);
    if (err)
        err->retry_after_s = 2;
    return result;
}

/* Whether a failure is one of the way to init, which leaves open how far the code came. */
static bool says_nothing(int result)
{
    return result == -ERR_CLOSED || result == -ERR_TIMEOUT || result == -ERR_PROTOCOL;
}

/* As a cell of the kernel. */
static int run_cell(struct attempt *attempt, struct session *session,
                    const struct session_execution *request, uint64_t timeout_ms, struct err *err)
{
    const struct core_config *config = &attempt->core->config;
    MEM_AUTO const char **envp = NULL;
    size_t envc = 0;
    char file[64];
    int result = session_run_env(attempt->core, session, &envp, &envc, err);
    if (result != 0)
        return result;
    (void)snprintf(file, sizeof(file), "<cell %" PRIu64 ">", session->executions);
    struct channel_run run = {.run = {.execution_id = attempt->live.id,
                                      .mode = SANDBOX_RUN_CELL,
                                      .file = file,
                                      .envp = envp,
                                      .envc = envc,
                                      .timeout_ms = timeout_ms,
                                      .grace_ms = GRACE_MS,
                                      .keep_bytes = config->keep_output_bytes,
                                      .output_max_bytes = config->output_max_bytes,
                                      .messages_max_bytes = config->keep_messages_bytes,
                                      .hold = true},
                              .code = request->code,
                              .code_size = request->code_size,
                              .stdin_data = request->stdin_data,
                              .stdin_size = request->stdin_size};
    attempt_watch(attempt, timeout_ms + GRACE_MS, &run.watch);
    attempt->ran = true;
    result = channel_run(session->channel, &run, &attempt->exit, err);
    if (result == 0)
        attempt->outcome.exit = attempt->exit.exit;
    else if (!says_nothing(result))
        attempt->ran = !channel_unheard(session->channel);
    return result;
}

/* The variables that the session was made with, out of its row. *out is heap. */
static int read_env(const struct store_session *row, const char ***out, size_t *out_count,
                    struct err *err)
{
    size_t count = 0;
    for (size_t i = 0; i < row->env_size; i++)
        count += row->env[i] == '\0';
    const char **env = calloc(count + 1, sizeof(*env));
    if (!env)
        return err_set(err, ERR_INTERNAL, "no memory for variables");
    const char *at = row->env;
    for (size_t i = 0; i < count; i++) {
        env[i] = at;
        at += strlen(at) + 1;
    }
    *out = env;
    *out_count = count;
    return 0;
}

/* As a program: the files of the session are its state. */
static int run_program(struct attempt *attempt, struct session *session, const struct lang *lang,
                       const struct session_execution *request, uint64_t timeout_ms,
                       struct err *err)
{
    const char **env = NULL;
    PLAN_AUTO struct plan plan = {0};
    struct execution_request asked = {.lang = lang, .cells = true};
    bool heard = false;
    (void)snprintf(plan.image, sizeof(plan.image), "%s", session->row.image);
    int result = session_copy_network(attempt->core, session, &plan.network, err);
    if (result == 0)
        result = read_env(&session->row, &env, &asked.env_count, err);
    asked.env = env;
    if (result == 0)
        result = plan_env(&asked, &plan, err);
    const struct program_job job = {.lang = lang,
                                    .code = request->code,
                                    .code_size = request->code_size,
                                    .stdin_data = request->stdin_data,
                                    .stdin_size = request->stdin_size,
                                    .envp = plan.envp,
                                    .envc = plan.envc,
                                    .timeout_ms = timeout_ms,
                                    .memory_bytes = session->row.memory_bytes,
                                    .of_session = true};
    if (result == 0) {
        attempt->ran = true;
        result = program_run(attempt, session->channel, &job, &heard, err);
        /* Init starts nothing that a file of is refused. */
        if (!heard && (result == -ERR_BAD_INPUT || result == -ERR_UNAVAILABLE))
            attempt->ran = false;
    }
    free(env);
    return result;
}

/* On the session's channel. */
static int run_on_channel(struct attempt *attempt, struct session *session, const struct lang *lang,
                          const struct session_execution *request, uint64_t timeout_ms,
                          struct err *err)
{
    return lang->kernel ? run_cell(attempt, session, request, timeout_ms, err)
                        : run_program(attempt, session, lang, request, timeout_ms, err);
}

/* Whether a channel that broke is worth another one: nobody has ended the session, nor this. */
static bool may_go_on(const struct attempt *attempt, struct session *session)
{
    return attempt->live.cancel_cause == KILL_NONE && !core_is_stopping(attempt->core) &&
           !session_is_closed(attempt->core, session);
}

/* Another channel, once the engine has a way to init again. */
static int open_again(struct attempt *attempt, struct session *session)
{
    struct core *core = attempt->core;
    int64_t until_ns = clock_now_ns() + core->answer_ns;
    for (;;) {
        struct channel *channel = NULL;
        int result = session_open_channel(core, session, &channel, NULL);
        if (result == 0)
            session_set_channel(core, session, channel);
        if (result != -ERR_UNAVAILABLE || !may_go_on(attempt, session) ||
            clock_now_ns() >= until_ns)
            return result;
        clock_sleep_ns(AGAIN_NS);
    }
}

/* The channel broke, which says nothing of the sandbox where channels go through an engine that was
 * started anew: init is asked on another one. What it does not know never began, and is sent again.
 * NO_WAY: there is none to init; ERR_CLOSED: that one broke too. */
static int take_up(struct attempt *attempt, struct session *session, const struct lang *lang,
                   const struct session_execution *request, uint64_t timeout_ms, struct err *err)
{
    struct sandbox_attach attach;
    struct channel_watch watch;
    session_set_channel(attempt->core, session, NULL);
    if (open_again(attempt, session) != 0)
        return NO_WAY;
    log_info("session %s: execution %s is looked for on another channel", session->row.id,
             attempt->live.id);
    attempt_attach(attempt, &attach);
    attempt_watch(attempt, timeout_ms + GRACE_MS, &watch);
    int result = channel_attach(session->channel, &attach, &watch, &attempt->exit, err);
    if (result == 0)
        attempt->outcome.exit = attempt->exit.exit;
    if (result != -ERR_NOT_FOUND)
        return result;
    return attempt->events == 0 && attempt->uncounted == 0
               ? run_on_channel(attempt, session, lang, request, timeout_ms, err)
               : NO_WAY; /* a compiler that ended with its channel */
}

/* Runs the code, over as many channels as it takes. */
static int run_to_end(struct attempt *attempt, struct session *session, const struct lang *lang,
                      const struct session_execution *request, uint64_t timeout_ms, struct err *err)
{
    int result = run_on_channel(attempt, session, lang, request, timeout_ms, err);
    for (int i = 0; i < TAKE_UPS && result == -ERR_CLOSED && may_go_on(attempt, session); i++) {
        struct err failure = ERR_INIT;
        int again = take_up(attempt, session, lang, request, timeout_ms, &failure);
        if (again == NO_WAY)
            break;
        result = again == 0 ? 0 : err_copy(err, &failure);
    }
    return result;
}

/* Runs the code with the turn taken. On success the outcome is filled; on failure it never began,
 * or is left. */
static int run_code(struct attempt *attempt, struct session *session,
                    const struct session_execution *request, uint64_t timeout_ms, struct err *err)
{
    const struct lang *lang = NULL;
    struct err failure = ERR_INIT;
    int result = lang_find(session->row.lang, &lang, err);
    if (result != 0)
        return result;
    result = run_to_end(attempt, session, lang, request, timeout_ms, &failure);
    if (result == 0)
        return 0;
    session_set_channel(attempt->core, session, NULL);
    if (!attempt->ran)
        return err_copy(err, &failure);
    if (core_is_stopping(attempt->core))
        return leave(attempt, "the server is stopping", err);
    if (!session_has_ended(attempt->core, session, result)) {
        log_warn("session %s: execution %s goes on alone: %s", session->row.id, attempt->live.id,
                 failure.message);
        return leave(attempt, "its session does not answer now", err);
    }
    if (!attempt_is_lost(attempt, result, &failure)) /* it was closed meanwhile */
        (void)attempt_is_lost(attempt, -ERR_CLOSED, &failure);
    attempt->outcome.exit.state_lost = true;
    session_drop(attempt->core, session, failure.message);
    return 0;
}

/* With the turn taken. */
static int run_in_turn(struct attempt *attempt, struct session *session, struct session_turn *turn,
                       const struct session_execution *request, uint64_t timeout_ms,
                       struct err *err)
{
    struct err failure = ERR_INIT;
    int result = session_see_channel(attempt->core, session, turn, &failure);
    if (attempt->live.cancel_cause != KILL_NONE && !session_is_closed(attempt->core, session)) {
        attempt_end_cancelled(attempt); /* while it waited for another one's end */
        return 0;
    }
    if (result != 0)
        return session_explain(attempt->core, session, result, &failure, err);
    (void)pthread_mutex_lock(&attempt->core->lock);
    session->executions++;
    (void)pthread_mutex_unlock(&attempt->core->lock);
    result = session_libraries_widen(attempt, session, request, err);
    if (result != 0)
        return result < 0 ? result : 0;
    (void)attempt_start(attempt, session->row.sandbox_id);
    result = run_code(attempt, session, request, timeout_ms, err);
    box_ready(attempt->core, session->row.sandbox_id);
    return result;
}

/* The outcome is in the store. Init's memory is under no limit of the sandbox and in no book of
 * admission, so a large log does not wait for the next execution, which may never come. */
static void let_init_forget(struct attempt *attempt, struct session *session)
{
    channel_forget_later(session->channel, attempt->live.id);
    if (record_text(attempt->record)->bytes.size > LOG_IDLE_MAX)
        channel_flush_later(session->channel);
}

/* With the turn taken: runs, writes the outcome down, and lets init forget it. */
static int run_and_answer(struct attempt *attempt, struct session *session,
                          struct session_turn *turn, const struct session_execution *request,
                          uint64_t timeout_ms, bool omit_streamed, struct answer *out,
                          struct err *err)
{
    int result = run_in_turn(attempt, session, turn, request, timeout_ms, err);
    if (result == 0)
        result = attempt_answer(attempt, omit_streamed, out, err);
    if (result == 0 && session->channel && attempt->stored)
        let_init_forget(attempt, session);
    else if (result == 0)
        session_settle_again(attempt->core, session);
    return result;
}

static int execute_claimed(struct attempt *attempt, struct session *session,
                           const struct session_execution *request, uint64_t timeout_ms,
                           bool omit_streamed, struct answer *out, struct err *err)
{
    struct session_turn turn = {.live = &attempt->live};
    int64_t queued_ns = clock_now_ns();
    int result = session_is_busy(attempt->core, session) ? attempt_say_queued(attempt, err) : 0;
    if (result == 0)
        result = session_take_turn(attempt->core, session, &turn, err);
    attempt->outcome.queue_us = (clock_now_ns() - queued_ns) / 1000;
    if (result == 0) {
        result =
            run_and_answer(attempt, session, &turn, request, timeout_ms, omit_streamed, out, err);
        session_give_turn(attempt->core, session, &turn);
    } else if (result == -ERR_CLOSED) {
        attempt_end_cancelled(attempt);
        result = attempt_answer(attempt, omit_streamed, out, err);
    }
    if (result != 0 && !attempt->ran)
        attempt_forget(attempt);
    return result;
}

static int check_timeout(const struct core *core, uint64_t *timeout_ms, struct err *err)
{
    const struct core_config *config = &core->config;
    if (*timeout_ms == 0)
        *timeout_ms = config->timeout_ms < config->timeout_max_ms ? config->timeout_ms
                                                                  : config->timeout_max_ms;
    if (*timeout_ms <= config->timeout_max_ms)
        return 0;
    return err_public(err, ERR_BAD_INPUT,
                      "timeout: %" PRIu64 " ms were asked for, the most is %" PRIu64 " ms",
                      *timeout_ms, config->timeout_max_ms);
}

/* With what was said of it until now. */
static void leave_to_settler(struct core *core, struct session *session, const struct live *live)
{
    enum kill_cause cause = (enum kill_cause)live->cancel_cause;
    (void)pthread_mutex_lock(&core->lock);
    if (cause != KILL_NONE)
        session_note_cancel_locked(session, live->id, cause);
    (void)pthread_mutex_unlock(&core->lock);
    session_settle_again(core, session);
}

static int execute_in(struct core *core, struct session *session,
                      const struct session_execution *request, const struct execution_sink *sink,
                      bool omit_streamed, struct answer *out, struct err *err)
{
    const struct quota_use use = {0};
    uint64_t timeout_ms = request->timeout_ms;
    struct attempt attempt;
    const struct attempt_subject subject = {.owner = request->owner,
                                            .labels = request->labels,
                                            .lang = session->row.lang,
                                            .idempotency_key = request->idempotency_key,
                                            .session_id = session->row.id,
                                            .engine = session->row.engine,
                                            .runtime = session->row.runtime,
                                            .sandbox_id = session->row.sandbox_id,
                                            .gone_fd = -1,
                                            .outlives_client = true};
    int result = check_timeout(core, &timeout_ms, err);
    if (result == 0 && request->code_size > SANDBOX_CODE_MAX)
        result = err_public(err, ERR_TOO_LARGE, "code: more than %u bytes", SANDBOX_CODE_MAX);
    if (result == 0)
        result = session_libraries_check(core, session, request, err);
    if (result == 0)
        result = quota_check(request->owner, QUOTA_EXECUTION, &use, err);
    if (result == 0)
        result = attempt_begin(&attempt, core, &subject, sink, err);
    if (result != 0)
        return result;
    result = attempt_claim(&attempt, out, err);
    if (result == 0)
        result = execute_claimed(&attempt, session, request, timeout_ms, omit_streamed, out, err);
    bool left = attempt.left;
    attempt_end(&attempt);
    if (left) /* not before: one that lives is not settled by another */
        leave_to_settler(core, session, &attempt.live);
    return result < 0 ? result : 0;
}

int core_session_execute(struct core *core, const struct session_execution *request,
                         const struct execution_sink *sink, bool omit_streamed, struct answer *out,
                         struct err *err)
{
    struct session *session = NULL;
    struct err failure = ERR_INIT;
    int result = session_find(core, request->owner, request->session_id, &session, &failure);
    if (result == 0)
        result = execute_in(core, session, request, sink, omit_streamed, out, &failure);
    session_unref(core, session);
    if (result == 0)
        return 0;
    atomic_fetch_add(&core->metrics.refused[failure.kind], 1);
    return err_copy(err, &failure);
}
