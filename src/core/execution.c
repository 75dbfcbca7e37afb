/* Owns the straight line of one execution: row, place, sandbox, files, code, outcome, answer. What
 * fails before the code ran leaves nothing behind and is an error; once it ran there is an outcome.
 */
#include <stdio.h>
#include <string.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "core/core_internal.h"
#include "core/execution_json.h"
#include "core/execution_text.h"
#include "core/quota.h"
#include "engine/channel.h"
#include "lang/lang.h"
#include "wire/frame.h"

#define BACKSTOP_NS (10 * CLOCK_NS_PER_S) /* past the timeout init is not believed to live */
#define KEY_MAX 255
#define CLAIM_TRIES 1000
#define EXIT_KILLED 137

/* One execution as it goes; on the stack of core_execute(). */
struct attempt {
    struct core *core;
    const struct execution_request *request;
    const struct execution_sink *sink;
    struct plan plan;
    struct live live;
    enum execution_state state;
    struct store_execution_new row;
    struct store_job insert;
    bool insert_waits; /* begun and not waited for */
    bool ran;          /* EXEC may have reached init */
    struct buf out, err_out;
    struct execution_text text; /* both, as they came */
    bool truncated, sink_failed;
    struct channel_exit exit; /* as init reported it */
    struct execution_outcome outcome;
    int64_t begun_ns;
};

static struct buf *text_of(struct attempt *attempt, int stream)
{
    return stream == STREAM_STDERR ? &attempt->err_out : &attempt->out;
}

/* Whoever gave a key means to ask again when the connection breaks, and to get this outcome then.
 */
static bool outlives_client(const struct attempt *attempt)
{
    return attempt->request->idempotency_key != NULL;
}

static int gone_fd_of(const struct attempt *attempt)
{
    return outlives_client(attempt) ? -1 : attempt->request->gone_fd;
}

/* Keeps output up to the cap, and passes on what it keeps. */
static int on_output(void *context, int stream, const uint8_t *data, size_t size, struct err *err)
{
    struct attempt *attempt = context;
    struct buf *text = text_of(attempt, stream);
    atomic_fetch_add_explicit(&attempt->core->metrics.output_bytes, size, memory_order_relaxed);
    size_t room = text->max - text->size;
    if (size > room) {
        attempt->truncated = true;
        size = room;
    }
    if (size == 0)
        return 0;
    int result = buf_append(text, data, size, err);
    if (result == 0)
        result = execution_text_add(&attempt->text, stream, data, size, err);
    const struct execution_sink *sink = attempt->sink;
    if (result != 0 || !sink || !sink->output || attempt->sink_failed)
        return result;
    result = sink->output(sink->context, stream, data, size, err);
    attempt->sink_failed = result != 0;
    return outlives_client(attempt) ? 0 : result;
}

/* Waits for the row's commit, once. */
static int wait_for_row(struct attempt *attempt, struct err *err)
{
    if (!attempt->insert_waits)
        return 0;
    attempt->insert_waits = false;
    return store_job_wait(attempt->core->store, &attempt->insert, err);
}

static void begin_row(struct attempt *attempt)
{
    const struct execution_request *request = attempt->request;
    attempt->row = (struct store_execution_new){.id = attempt->live.id,
                                                .owner = request->owner,
                                                .labels = request->labels,
                                                .lang = request->lang->name,
                                                .status = execution_state_name(EXECUTION_QUEUED),
                                                .idempotency_key = request->idempotency_key,
                                                .created_us = attempt->outcome.created_us};
    store_execution_insert_begin(attempt->core->store, &attempt->row, &attempt->insert);
    attempt->insert_waits = true;
}

/* An end that did not come from init. */
static void end_by(struct attempt *attempt, enum kill_cause cause)
{
    attempt->outcome.exit = (struct sandbox_exit){.exit_code = EXIT_KILLED,
                                                  .cause = cause,
                                                  .stdout_bytes = attempt->out.size,
                                                  .stderr_bytes = attempt->err_out.size,
                                                  .start_error = ""};
}

static void end_cancelled(struct attempt *attempt)
{
    int cause = attempt->live.cancel_cause;
    end_by(attempt, cause != KILL_NONE ? (enum kill_cause)cause : KILL_USER);
}

static int queue_files(struct attempt *attempt, struct channel *channel, struct err *err)
{
    const struct execution_request *request = attempt->request;
    int result = 0;
    for (size_t i = 0; i < request->file_count && result == 0; i++)
        result = channel_put_file(channel, request->files[i].path, 0644, request->files[i].content,
                                  request->files[i].size, err);
    if (result == 0)
        result = channel_put_file(channel, attempt->plan.source_path, 0644, request->code,
                                  request->code_size, err);
    return result;
}

/* Runs the code on a channel and fills the outcome. */
static int run_code(struct attempt *attempt, struct channel *channel, struct err *err)
{
    const struct core_config *config = &attempt->core->config;
    const struct plan *plan = &attempt->plan;
    int64_t started_ns = clock_now_ns();
    const struct channel_exec exec = {
        .exec = {.execution_id = attempt->live.id,
                 .cwd = "/workspace",
                 .argv = plan->argv,
                 .argc = plan->argc,
                 .envp = plan->envp,
                 .envc = plan->envc,
                 .timeout_ms = plan->timeout_ms,
                 .keep_bytes = config->keep_output_bytes,
                 .output_max_bytes = config->output_max_bytes},
        .stdin_data = attempt->request->stdin_data,
        .stdin_size = attempt->request->stdin_size,
        .watch = {.cancel_fd = attempt->live.cancel_fd,
                  .cancel_cause = &attempt->live.cancel_cause,
                  .interrupt_fd = -1,
                  .gone_fd = gone_fd_of(attempt),
                  .deadline_ns =
                      started_ns + (int64_t)plan->timeout_ms * CLOCK_NS_PER_MS + BACKSTOP_NS,
                  .output = on_output,
                  .context = attempt}};
    struct err failure = ERR_INIT;
    attempt->ran = true;
    int result = channel_exec(channel, &exec, &attempt->exit, &failure);
    if (result == 0)
        attempt->outcome.exit = attempt->exit.exit;
    if (result != -ERR_CLOSED && result != -ERR_TIMEOUT && result != -ERR_PROTOCOL)
        return result == 0 ? 0 : err_copy(err, &failure);
    /* The code may have run: there is an outcome, and it is that the sandbox was lost. */
    log_warn("execution %s: the sandbox was lost: %s", attempt->live.id, failure.message);
    int cause = attempt->live.cancel_cause;
    end_by(attempt, cause == KILL_USER || attempt->sink_failed ? KILL_USER : KILL_SERVER);
    attempt->outcome.exit.wall_us = (uint64_t)(clock_now_ns() - started_ns) / 1000;
    return 0;
}

static int run_in_sandbox(struct attempt *attempt, const char *sandbox_id, struct channel *channel,
                          struct err *err)
{
    int result = wait_for_row(attempt, err);
    if (result == 0)
        result = queue_files(attempt, channel, err);
    if (result != 0)
        return result;
    (void)execution_state_move(&attempt->state, EXECUTION_RUNNING);
    attempt->outcome.started_us = clock_wall_us();
    box_busy(attempt->core, sandbox_id);
    const struct execution_sink *sink = attempt->sink;
    /* Whoever hears of the start may ask for the execution at once, and is to find it running. */
    store_execution_started(attempt->core->store, attempt->live.id, sandbox_id,
                            attempt->outcome.started_us, sink != NULL);
    attempt->sink_failed =
        sink && sink->started && sink->started(sink->context, attempt->live.id, err) != 0;
    if (attempt->sink_failed && !outlives_client(attempt))
        end_by(attempt, KILL_USER);
    else
        result = run_code(attempt, channel, err);
    return result;
}

/* Place, sandbox, code. On success the outcome is filled; on failure nothing ran. */
static int run_attempt(struct attempt *attempt, struct err *err)
{
    struct core *core = attempt->core;
    int gone_fd = gone_fd_of(attempt);
    int64_t queued_ns = clock_now_ns();
    int64_t wait_ns = (int64_t)core->config.queue_wait_ms * CLOCK_NS_PER_MS;
    int result = admission_acquire(core->admission, &attempt->plan.resources.reserve,
                                   queued_ns + wait_ns, attempt->live.cancel_fd, gone_fd, err);
    int64_t create_ns = clock_now_ns();
    attempt->outcome.queue_us = (create_ns - queued_ns) / 1000;
    metrics_observe(&core->metrics.queue, attempt->outcome.queue_us);
    if (result == -ERR_CLOSED) {
        end_cancelled(attempt);
        return 0;
    }
    if (result != 0)
        return result;
    char sandbox_id[SANDBOX_ID_MAX + 1] = "";
    FD_AUTO int channel_fd = -1;
    uint8_t nonce[SANDBOX_NONCE_SIZE] = {0};
    result = box_create(core, &attempt->live, gone_fd, &attempt->plan, sandbox_id, &channel_fd,
                        nonce, err);
    admission_created(core->admission);
    attempt->outcome.create_us = (clock_now_ns() - create_ns) / 1000;
    metrics_observe(&core->metrics.create, attempt->outcome.create_us);
    if (result == -ERR_CLOSED || (result != 0 && attempt->live.cancel_cause != KILL_NONE)) {
        end_cancelled(attempt);
        return 0;
    }
    if (result != 0)
        return result;
    struct channel *channel = NULL;
    result = channel_open(fd_take(&channel_fd), nonce, &channel, err);
    if (result == 0)
        result = run_in_sandbox(attempt, sandbox_id, channel, err);
    box_destroy(core, sandbox_id); /* the answer does not wait for it */
    channel_close(channel);        /* after it: an init that is left alone ends by itself */
    return result;
}

static enum execution_state state_of(const struct sandbox_exit *exit)
{
    if (exit->cause == KILL_TIMEOUT)
        return EXECUTION_TIMEOUT;
    if (exit->cause != KILL_NONE && exit->cause != KILL_SIGNAL)
        return EXECUTION_KILLED;
    return exit->exit_code == 0 ? EXECUTION_SUCCESS : EXECUTION_ERROR;
}

/* Completes the outcome from what is known now. */
static void complete_outcome(struct attempt *attempt)
{
    struct execution_outcome *outcome = &attempt->outcome;
    struct sandbox_exit *exit = &outcome->exit;
    if (exit->start_error && exit->start_error[0] != '\0') {
        char line[sizeof(attempt->exit.start_error) + 16];
        int size = snprintf(line, sizeof(line), "berth: %s\n", exit->start_error);
        (void)on_output(attempt, STREAM_STDERR, (const uint8_t *)line, (size_t)size, NULL);
        if (exit->exit_code == 0)
            exit->exit_code = 126;
    }
    if (exit->stdout_bytes > attempt->out.size || exit->stderr_bytes > attempt->err_out.size)
        attempt->truncated = true;
    if (attempt->truncated)
        exit->limits_hit |= LIMIT_OUTPUT;
    if (exit->cause == KILL_OOM)
        exit->limits_hit |= LIMIT_MEMORY;
    outcome->truncated = attempt->truncated;
    outcome->finished_us = clock_wall_us();
    outcome->out = &attempt->out;
    outcome->err_out = &attempt->err_out;
    outcome->both = &attempt->text.bytes;
    (void)execution_state_move(&attempt->state, state_of(exit));
    outcome->state = attempt->state;
}

/* Of an object without its text: names, figures, and the labels of the request. */
static size_t object_max(const struct attempt *attempt)
{
    return 64 * 1024 + (attempt->request->labels ? strlen(attempt->request->labels) : 0);
}

static void count_outcome(struct attempt *attempt)
{
    struct metrics *metrics = &attempt->core->metrics;
    const struct execution_outcome *outcome = &attempt->outcome;
    atomic_fetch_add(&metrics->executions[outcome->state], 1);
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
    buf_init(&stored, text ? text->runs.size + text->bytes.size + 64 : 0);
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

/* Writes the outcome down, then answers it. */
static int answer(struct attempt *attempt, bool omit_streamed, struct buf *out, struct err *err)
{
    struct core *core = attempt->core;
    complete_outcome(attempt);
    BUF_AUTO struct buf object;
    buf_init(&object, object_max(attempt));
    int result = execution_json_outcome(&attempt->outcome, false, &object, err);
    if (result != 0)
        return result;
    struct err failure = ERR_INIT;
    fault_point("server.exited");
    if (store_outcome(core, &attempt->outcome, &object, &attempt->text, &failure) != 0)
        log_error("execution %s: its outcome could not be stored: %s", attempt->live.id,
                  failure.message); /* the code ran: its caller gets the outcome all the same */
    fault_point("server.stored");
    count_outcome(attempt);
    if (omit_streamed)
        return buf_append(out, object.data, object.size, err);
    return execution_json_whole(&object, &attempt->outcome, out, err);
}

int execution_end_orphan(struct core *core, const struct store_execution *row, struct err *err)
{
    enum execution_state state = row->started_us != 0 ? EXECUTION_RUNNING : EXECUTION_QUEUED;
    (void)execution_state_move(&state, EXECUTION_KILLED);
    const struct execution_outcome outcome = {
        .id = row->id,
        .lang = row->lang,
        .state = state,
        .exit = {.exit_code = EXIT_KILLED, .cause = KILL_SERVER, .start_error = ""},
        .created_us = row->created_us,
        .started_us = row->started_us,
        .finished_us = clock_wall_us()};
    BUF_AUTO struct buf object;
    buf_init(&object, 64 * 1024);
    int result = execution_json_outcome(&outcome, false, &object, err);
    return result == 0 ? store_outcome(core, &outcome, &object, NULL, err) : result;
}

/* Makes the row of a request with an idempotency key. Returns 0 when it is ours to run, 1 when the
 * first one's outcome was appended to out. */
static int claim_key(struct attempt *attempt, struct buf *out, struct err *err)
{
    struct core *core = attempt->core;
    const struct execution_request *request = attempt->request;
    for (int i = 0; i < CLAIM_TRIES; i++) {
        begin_row(attempt);
        struct err failure = ERR_INIT;
        int result = wait_for_row(attempt, &failure);
        if (result != -ERR_CONFLICT)
            return result == 0 ? 0 : err_copy(err, &failure);
        char first_id[STORE_ID_SIZE];
        result = store_execution_by_key(core->store, request->owner, request->idempotency_key,
                                        first_id, &failure);
        if (result == -ERR_NOT_FOUND)
            continue; /* the first one ran nothing and has gone: this one takes its turn */
        if (result != 0)
            return err_copy(err, &failure);
        live_wait(core, first_id);
        struct store_execution row;
        result = execution_read(core, request->owner, first_id, &row, out, &failure);
        if (result == 0 && row.has_outcome)
            return 1;
        if (result == 0 && row.finished_us == 0) /* ended, and its outcome could not be stored */
            result = execution_end_orphan(core, &row, &failure);
        if (result != 0 && result != -ERR_NOT_FOUND)
            return err_copy(err, &failure);
    }
    return err_public(err, ERR_CONFLICT, "Idempotency-Key: another request with it never ends");
}

/* Appends the outcome of a key that is known already, so that it is answered whatever the engine
 * and the plan say now. Returns 1 then, 0 when the key is new or its execution still runs. */
static int answer_known_key(struct core *core, const struct execution_request *request,
                            struct buf *out, struct err *err)
{
    char first_id[STORE_ID_SIZE];
    struct store_execution row;
    if (!request->idempotency_key)
        return 0;
    int result = store_execution_by_key(core->store, request->owner, request->idempotency_key,
                                        first_id, err);
    if (result == 0)
        live_wait(core, first_id);
    if (result == 0)
        result = execution_read(core, request->owner, first_id, &row, out, err);
    if (result == -ERR_NOT_FOUND)
        return 0;
    return result != 0 ? result : row.has_outcome;
}

static int check_request(const struct execution_request *request, struct err *err)
{
    if (!request->lang || !request->owner || (!request->code && request->code_size > 0))
        return err_set(err, ERR_INTERNAL, "an execution request without its parts");
    size_t size = request->idempotency_key ? strlen(request->idempotency_key) : 1;
    if (size == 0 || size > KEY_MAX)
        return err_public(err, ERR_BAD_INPUT, "Idempotency-Key: 1 to %d characters, got %zu",
                          KEY_MAX, size);
    return 0;
}

/* The row is committed while the sandbox is made; the fault point is to find it there. */
static int pass_queued_point(struct attempt *attempt, struct err *err)
{
    if (fault_text()[0] == '\0')
        return 0;
    int result = wait_for_row(attempt, err);
    fault_point("server.queued");
    return result;
}

/* From the row to the answer, with the execution entered among those that live. */
static int execute_live(struct attempt *attempt, bool omit_streamed, struct buf *out,
                        struct err *err)
{
    int result = 0;
    if (attempt->request->idempotency_key)
        result = claim_key(attempt, out, err);
    else
        begin_row(attempt);
    if (result == 0)
        result = pass_queued_point(attempt, err);
    if (result != 0)
        return result < 0 ? result : 0;
    result = run_attempt(attempt, err);
    int row = wait_for_row(attempt, result == 0 ? err : NULL);
    if (result == 0 && row != 0 && !attempt->ran)
        result = row;
    if (result == 0)
        return answer(attempt, omit_streamed, out, err);
    struct err failure = ERR_INIT;
    if (row == 0 && store_execution_remove(attempt->core->store, attempt->live.id, &failure) != 0)
        log_error("execution %s: %s", attempt->live.id, failure.message);
    return result;
}

static void attempt_init(struct attempt *attempt, struct core *core,
                         const struct execution_request *request, const struct execution_sink *sink)
{
    size_t keep = (size_t)core->config.keep_output_bytes;
    *attempt = (struct attempt){.core = core, .request = request, .sink = sink};
    attempt->begun_ns = clock_now_ns();
    buf_init(&attempt->out, keep);
    buf_init(&attempt->err_out, keep);
    execution_text_init(&attempt->text, 2 * keep);
    attempt->outcome = (struct execution_outcome){.id = attempt->live.id,
                                                  .lang = request->lang->name,
                                                  .labels = request->labels,
                                                  .exit = {.start_error = ""},
                                                  .created_us = clock_wall_us()};
}

static void attempt_done(struct attempt *attempt)
{
    plan_done(&attempt->plan);
    buf_done(&attempt->out);
    buf_done(&attempt->err_out);
    execution_text_done(&attempt->text);
}

int core_execute(struct core *core, const struct execution_request *request,
                 const struct execution_sink *sink, bool omit_streamed, struct buf *out,
                 struct err *err)
{
    int result = check_request(request, err);
    if (result != 0)
        return result;
    result = answer_known_key(core, request, out, err);
    if (result != 0)
        return result < 0 ? result : 0;
    struct attempt attempt;
    attempt_init(&attempt, core, request, sink);
    struct err failure = ERR_INIT;
    result = plan_make(core, request, &attempt.plan, &failure);
    if (result == 0) {
        const struct quota_use use = {.memory_bytes = attempt.plan.resources.memory_bytes,
                                      .cpu_millis = attempt.plan.resources.cpu_millis};
        result = quota_check(request->owner, QUOTA_EXECUTION, &use, &failure);
    }
    if (result == 0)
        result = live_begin(core, request->owner, &attempt.live, &failure);
    if (result == 0) {
        result = execute_live(&attempt, omit_streamed, out, &failure);
        live_end(core, &attempt.live);
    }
    attempt_done(&attempt);
    if (result == 0)
        return 0;
    atomic_fetch_add(&core->metrics.refused[failure.kind], 1);
    return err_copy(err, &failure);
}

int execution_end_orphans(struct core *core, struct err *err)
{
    for (;;) {
        MEM_AUTO struct store_execution *rows = NULL;
        size_t count = 0;
        int result = store_execution_unfinished(core->store, 256, &rows, &count, err);
        for (size_t i = 0; i < count && result == 0; i++)
            result = execution_end_orphan(core, &rows[i], err);
        if (result != 0 || count == 0)
            return result;
        log_info("%zu executions of an earlier server ended as killed by the server", count);
    }
}
