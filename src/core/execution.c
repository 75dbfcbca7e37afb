/* Owns the straight line of one execution in a sandbox of its own: place, sandbox, files, code.
 * What fails before the code ran leaves nothing behind and is an error; once it ran there is an
 * outcome.
 */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "core/attempt.h"
#include "core/compile_cache.h"
#include "core/languages.h"
#include "core/library_ask.h"
#include "core/program.h"
#include "core/quota.h"
#include "core/ready.h"
#include "lang/lang.h"

#define KEY_MAX 255
#define TRIES 3
#define RUN_UNHEARD 1 /* beside 0 and negative kinds */

/* One request as it goes. */
struct fresh {
    struct attempt attempt;
    const struct execution_request *request;
    struct plan plan;
    struct library_ask libraries;
};

static int gone_fd_of(const struct fresh *fresh)
{
    const struct attempt_subject *subject = &fresh->attempt.subject;
    return subject->outlives_client ? -1 : subject->gone_fd;
}

static int queue_files(const struct fresh *fresh, const struct ready *ready, struct err *err)
{
    const struct execution_request *request = fresh->request;
    int result = 0;
    for (size_t i = 0; i < request->file_count && result == 0; i++)
        result = channel_put_file(ready->channel, request->files[i].path, 0644,
                                  request->files[i].content, request->files[i].size, err);
    return result;
}

/* As a program of its own in the kernel that waits for it. */
static int run_script(struct fresh *fresh, struct channel *channel, struct err *err)
{
    struct attempt *attempt = &fresh->attempt;
    const struct core_config *config = &attempt->core->config;
    const struct execution_request *request = fresh->request;
    size_t count = 0; /* a pooled kernel began without a network */
    const char *const *network = network_env(&fresh->plan.network, fresh->plan.image, &count);
    const char **envp = calloc(count + request->env_count + 1, sizeof(*envp)); /* NULL-ended */
    if (!envp)
        return err_set(err, ERR_INTERNAL, "no memory for variables");
    memcpy(envp, network, count * sizeof(*envp));
    for (size_t i = 0; i < request->env_count; i++) /* of two of a name the later one counts */
        envp[count++] = request->env[i];
    char path[PROGRAM_PATH_MAX];
    program_path(request->lang->source, path);
    struct channel_run run = {.run = {.execution_id = attempt->live.id,
                                      .mode = SANDBOX_RUN_SCRIPT,
                                      .file = path,
                                      .envp = envp,
                                      .envc = count,
                                      .timeout_ms = fresh->plan.timeout_ms,
                                      .keep_bytes = config->keep_output_bytes,
                                      .output_max_bytes = config->output_max_bytes,
                                      .messages_max_bytes = config->keep_messages_bytes},
                              .code = request->code,
                              .code_size = request->code_size,
                              .stdin_data = request->stdin_data,
                              .stdin_size = request->stdin_size};
    attempt_watch(attempt, fresh->plan.timeout_ms, &run.watch);
    run.watch.interrupt_fd = -1; /* only a session offers it */
    int result = channel_run(channel, &run, &attempt->exit, err);
    free(envp);
    return result;
}

/* What a program that is to be kept is kept under; empty: it is not. What files of the caller's and
 * libraries would put beside the source is no part of it, so there must be none. */
static int compile_key(const struct fresh *fresh, struct buf *out, struct err *err)
{
    const struct execution_request *request = fresh->request;
    const struct lang *lang = request->lang;
    const struct core *core = fresh->attempt.core;
    char image[LANGUAGES_IDENTITY_SIZE];
    if (!core->compiled || !lang->program || request->file_count > 0 ||
        request->library_count > 0 || request->code_size > COMPILE_CACHE_KEY_MAX / 2 ||
        !languages_identity(fresh->plan.slot->name, fresh->plan.image, image))
        return 0;
    int result = buf_printf(out, err, "%s\n%s\n%s\n", request->owner, image, lang->name);
    for (size_t i = 0; result == 0 && i < LANG_ARGS_MAX && lang->compile[i]; i++)
        result = buf_append(out, lang->compile[i], strlen(lang->compile[i]) + 1, err);
    for (size_t i = 0; result == 0 && i < fresh->plan.envc; i++)
        result = buf_append(out, fresh->plan.envp[i], strlen(fresh->plan.envp[i]) + 1, err);
    return result == 0 ? buf_append(out, request->code, request->code_size, err) : result;
}

/* As a program that init starts. */
static int run_program(struct fresh *fresh, struct channel *channel, bool *heard, struct err *err)
{
    const struct execution_request *request = fresh->request;
    const struct plan *plan = &fresh->plan;
    BUF_AUTO struct buf key;
    buf_init(&key, COMPILE_CACHE_KEY_MAX);
    bool kept = compile_key(fresh, &key, NULL) == 0 && key.size > 0; /* too long: not kept */
    const struct program_job job = {.lang = request->lang,
                                    .code = request->code,
                                    .code_size = request->code_size,
                                    .stdin_data = request->stdin_data,
                                    .stdin_size = request->stdin_size,
                                    .envp = plan->envp,
                                    .envc = plan->envc,
                                    .timeout_ms = plan->timeout_ms,
                                    .memory_bytes = plan->resources.memory_bytes,
                                    .cache = fresh->attempt.core->compiled,
                                    .compile_key = kept ? &key : NULL};
    return program_run(&fresh->attempt, channel, &job, heard, err);
}

/* Runs the code and fills the outcome. RUN_UNHEARD: its sandbox had died before it heard of it. */
static int run_code(struct fresh *fresh, const struct ready *ready, struct err *err)
{
    struct attempt *attempt = &fresh->attempt;
    struct err failure = ERR_INIT;
    bool heard = false;
    attempt->ran = true;
    int result = ready->kernel ? run_script(fresh, ready->channel, &failure)
                               : run_program(fresh, ready->channel, &heard, &failure);
    if (result == -ERR_CLOSED && !heard && !attempt->sink_failed &&
        channel_unheard(ready->channel) && live_leave_box(attempt->core, &attempt->live)) {
        attempt->ran = false;
        return RUN_UNHEARD;
    }
    if (result == 0 && ready->kernel)
        attempt->outcome.exit = attempt->exit.exit;
    else if (result != 0 && !attempt_is_lost(attempt, result, &failure))
        return err_copy(err, &failure);
    return 0;
}

static int run_in_sandbox(struct fresh *fresh, const struct ready *ready, struct err *err)
{
    struct core *core = fresh->attempt.core;
    int result = library_ask_attach(&fresh->libraries, core, ready->sandbox_id, err);
    if (result == -ERR_CLOSED && live_leave_box(core, &fresh->attempt.live))
        return RUN_UNHEARD;
    if (result == 0)
        result = queue_files(fresh, ready, err);
    if (result != 0)
        return result;
    if (fresh->attempt.state == EXECUTION_RUNNING) { /* again */
        box_busy(fresh->attempt.core, ready->sandbox_id);
        return run_code(fresh, ready, err);
    }
    if (attempt_start(&fresh->attempt, ready->sandbox_id))
        return run_code(fresh, ready, err);
    attempt_end_by(&fresh->attempt, KILL_USER);
    return 0;
}

/* Sandbox and code, with a place. */
static int run_with_place(struct fresh *fresh, struct err *err)
{
    struct attempt *attempt = &fresh->attempt;
    struct core *core = attempt->core;
    struct ready ready;
    int64_t create_ns = clock_now_ns();
    const struct box_life life = {.lifetime_ms = fresh->plan.timeout_ms + BOX_LIFETIME_EXTRA_MS};
    const struct ready_want want = {.plan = &fresh->plan, .life = &life};
    int result = ready_make(core, &attempt->live, gone_fd_of(fresh), &want, &ready, err);
    admission_created(core->admission);
    attempt->outcome.create_us = (clock_now_ns() - create_ns) / 1000;
    metrics_observe(&core->metrics.create, attempt->outcome.create_us);
    if (result == -ERR_CLOSED || (result != 0 && attempt->live.cancel_cause != KILL_NONE)) {
        attempt_end_cancelled(attempt);
        return 0;
    }
    if (result != 0)
        return result;
    result = run_in_sandbox(fresh, &ready, err);
    box_destroy(core, ready.sandbox_id); /* the answer does not wait for it */
    channel_close(ready.channel);        /* after it: an init that is left alone ends by itself */
    return result;
}

/* Place, sandbox, code: once. */
static int try_attempt(struct fresh *fresh, struct err *err)
{
    struct attempt *attempt = &fresh->attempt;
    struct core *core = attempt->core;
    int64_t queued_ns = clock_now_ns();
    int64_t wait_ns = (int64_t)core->config.queue_wait_ms * CLOCK_NS_PER_MS;
    bool first = attempt->state == EXECUTION_QUEUED; /* else it was said to have started */
    if (first && admission_would_wait(core->admission, &fresh->plan.resources.reserve)) {
        int said = attempt_say_queued(attempt, err);
        if (said != 0)
            return said;
    }
    int result =
        admission_acquire(core->admission, &fresh->plan.resources.reserve, queued_ns + wait_ns,
                          attempt->live.cancel_fd, gone_fd_of(fresh), err);
    attempt->outcome.queue_us = (clock_now_ns() - queued_ns) / 1000;
    metrics_observe(&core->metrics.queue, attempt->outcome.queue_us);
    if (result == -ERR_CLOSED) {
        attempt_end_cancelled(attempt);
        return 0;
    }
    return result == 0 ? run_with_place(fresh, err) : result;
}

/* The same until a sandbox heard of the code. On success the outcome is filled; on failure nothing
 * ran. */
static int run_attempt(struct fresh *fresh, struct err *err)
{
    for (int i = 0; i < TRIES; i++) {
        int result = try_attempt(fresh, err);
        if (result != RUN_UNHEARD)
            return result;
        log_warn("execution %s: its sandbox died before it began", fresh->attempt.live.id);
    }
    return err_public(err, ERR_UNAVAILABLE, "sandboxes end before code can run; try again");
}

/* Appends the outcome of a key that is known already, so that it is answered whatever the engine
 * and the plan say now. Returns 1 then, 0 when the key is new or its execution still runs. */
static int answer_known_key(struct core *core, const struct execution_request *request,
                            struct answer *out, struct err *err)
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

/* From the row to the answer, with the execution entered among those that live. */
static int execute_live(struct fresh *fresh, bool omit_streamed, struct answer *out,
                        struct err *err)
{
    struct attempt *attempt = &fresh->attempt;
    int result = attempt_claim(attempt, out, err);
    if (result != 0)
        return result < 0 ? result : 0;
    fault_point("server.queued");
    const struct execution_request *request = fresh->request;
    const struct layer_want where = {.lang = request->lang,
                                     .slot = fresh->plan.slot,
                                     .runtime = fresh->plan.runtime,
                                     .image = fresh->plan.image,
                                     .keep = request->keep_template};
    result = library_ask_wait(&fresh->libraries, attempt, &where, err);
    if (result >= 0)
        result = result == 0 ? run_attempt(fresh, err) : 0;
    if (result == 0)
        return attempt_answer(attempt, omit_streamed, out, err);
    attempt_forget(attempt);
    return result;
}

static int execute_planned(struct fresh *fresh, struct core *core,
                           const struct execution_sink *sink, bool omit_streamed,
                           struct answer *out, struct err *err)
{
    const struct execution_request *request = fresh->request;
    const struct quota_use use = {.memory_bytes = fresh->plan.resources.memory_bytes,
                                  .cpu_millis = fresh->plan.resources.cpu_millis};
    /* Whoever gave a key means to ask again when the connection breaks, and to get this outcome
     * then. */
    const struct attempt_subject subject = {.owner = request->owner,
                                            .labels = request->labels,
                                            .lang = request->lang->name,
                                            .engine = fresh->plan.slot->name,
                                            .runtime = fresh->plan.runtime,
                                            .idempotency_key = request->idempotency_key,
                                            .gone_fd = request->gone_fd,
                                            .outlives_client = request->idempotency_key != NULL};
    int result = quota_check(request->owner, QUOTA_EXECUTION, &use, err);
    if (result == 0)
        result = attempt_begin(&fresh->attempt, core, &subject, sink, err);
    if (result != 0)
        return result;
    result = execute_live(fresh, omit_streamed, out, err);
    attempt_end(&fresh->attempt);
    return result;
}

int core_execute(struct core *core, const struct execution_request *request,
                 const struct execution_sink *sink, bool omit_streamed, struct answer *out,
                 struct err *err)
{
    int result = check_request(request, err);
    if (result == 0)
        result = answer_known_key(core, request, out, err);
    if (result != 0)
        return result < 0 ? result : 0;
    const struct engine_ask which = {.engine = request->engine, .runtime = request->runtime};
    struct execution_request asked = *request; /* with the variables of its libraries */
    struct fresh fresh = {.request = &asked};
    struct err failure = ERR_INIT;
    result = engines_allow(core, &which, &failure);
    if (result == 0)
        result = library_ask_make(request->lang, request->libraries, request->library_count,
                                  request->env, request->env_count, &fresh.libraries, &failure);
    if (fresh.libraries.env) {
        asked.env = fresh.libraries.env;
        asked.env_count = fresh.libraries.env_count;
    }
    if (result == 0)
        result = plan_make(core, &asked, &fresh.plan, &failure);
    if (result == 0)
        result = execute_planned(&fresh, core, sink, omit_streamed, out, &failure);
    plan_done(&fresh.plan);
    library_ask_done(core, &fresh.libraries);
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
        int result = store_execution_unfinished(core->store, NULL, 256, &rows, &count, err);
        for (size_t i = 0; i < count && result == 0; i++)
            result = execution_end_orphan(core, &rows[i], err);
        if (result != 0 || count == 0)
            return result;
        log_info("%zu executions of an earlier server ended as killed by the server", count);
    }
}
