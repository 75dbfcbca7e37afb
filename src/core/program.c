/* Owns the two steps of a program without a kernel, compile and run, and what they share: one
 * timeout, one record. */
#include "core/program.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "core/attempt.h"
#include "core/compile_cache.h"
#include "core/execution_json.h"
#include "engine/channel.h"
#include "lang/lang.h"

#define MEMORY_WORD "{memory_bytes}"
enum { WORD_SIZE = 64 };

void program_path(const char *file, char out[static PROGRAM_PATH_MAX])
{
    (void)snprintf(out, PROGRAM_PATH_MAX, PROGRAM_FOLDER "/%s", file);
}

/* ---- argv ---- */

/* One command as it is started. */
struct command {
    const char *argv[LANG_ARGS_MAX + 1];
    size_t argc;
    char memory[LANG_ARGS_MAX][WORD_SIZE]; /* the words that name the limit */
};

static const char *put_memory(const char *word, uint64_t memory_bytes, char out[static WORD_SIZE])
{
    const char *at = strstr(word, MEMORY_WORD);
    if (!at)
        return word;
    (void)snprintf(out, WORD_SIZE, "%.*s%" PRIu64 "%s", (int)(at - word), word, memory_bytes,
                   at + strlen(MEMORY_WORD));
    return out;
}

static void command_make(const struct lang *lang, const char *const words[static LANG_ARGS_MAX],
                         uint64_t memory_bytes, struct command *out)
{
    memset(out, 0, sizeof(*out));
    for (; out->argc < LANG_ARGS_MAX && words[out->argc]; out->argc++) {
        const char *word = words[out->argc];
        out->argv[out->argc] = strcmp(word, "{source}") == 0
                                   ? lang->source
                                   : put_memory(word, memory_bytes, out->memory[out->argc]);
    }
}

/* ---- one step ---- */

static int run_step(struct attempt *attempt, struct channel *channel, const struct program_job *job,
                    enum execution_phase phase, uint64_t timeout_ms, struct err *err)
{
    const struct core_config *config = &attempt->core->config;
    const struct lang *lang = job->lang;
    bool runs = phase == PHASE_RUN;
    struct command command;
    command_make(lang, runs ? lang->run : lang->compile, job->memory_bytes, &command);
    struct channel_exec exec = {.exec = {.execution_id = attempt->live.id,
                                         .cwd = PROGRAM_FOLDER,
                                         .argv = command.argv,
                                         .argc = command.argc,
                                         .envp = job->envp,
                                         .envc = job->envc,
                                         .timeout_ms = timeout_ms,
                                         .keep_bytes = config->keep_output_bytes,
                                         .output_max_bytes = config->output_max_bytes,
                                         /* A server that comes next would take the outcome of a
                                          * compiler for the program's. */
                                         .hold = job->of_session && runs},
                                .stdin_data = runs ? job->stdin_data : NULL,
                                .stdin_size = runs ? job->stdin_size : 0};
    attempt_watch(attempt, timeout_ms, &exec.watch);
    if (!job->of_session)
        exec.watch.interrupt_fd = -1; /* only a session offers it, and an earlier init lacks it */
    attempt->outcome.phase = phase;
    attempt_begin_events(attempt);
    return channel_exec(channel, &exec, &attempt->exit, err);
}

/* ---- both ---- */

static uint64_t larger(uint64_t one, uint64_t other)
{
    return one > other ? one : other;
}

/* What the compiler used, on top of what the program did. */
static void add_usage(struct sandbox_exit *exit, const struct sandbox_exit *compile)
{
    exit->cpu_us += compile->cpu_us;
    exit->wall_us += compile->wall_us;
    exit->stdout_bytes += compile->stdout_bytes;
    exit->stderr_bytes += compile->stderr_bytes;
    exit->max_rss_bytes = larger(exit->max_rss_bytes, compile->max_rss_bytes);
    exit->memory_peak_bytes = larger(exit->memory_peak_bytes, compile->memory_peak_bytes);
    exit->pids_peak = larger(exit->pids_peak, compile->pids_peak);
    exit->limits_hit |= compile->limits_hit;
}

static bool is_good(const struct sandbox_exit *exit)
{
    return exit->exit_code == 0 && exit->cause == KILL_NONE &&
           (!exit->start_error || exit->start_error[0] == '\0');
}

/* What is left of the timeout by init's clock, which enforces it. */
static uint64_t time_left(const struct program_job *job, const struct sandbox_exit *compile)
{
    uint64_t used_ms = compile->wall_us / 1000;
    return used_ms < job->timeout_ms ? job->timeout_ms - used_ms : 1;
}

/* Reads what the compiler made. A failure is none of the execution's: the run meets it too. */
static int fetch_program(struct attempt *attempt, struct channel *channel, const char *path,
                         struct buf *out)
{
    const struct sandbox_get_file get = {
        .path = path, .size_bytes = COMPILE_CACHE_PROGRAM_MAX, .info = SANDBOX_INFO_FIRST};
    const struct channel_watch watch = {.cancel_fd = attempt->live.cancel_fd,
                                        .cancel_cause = &attempt->live.cancel_cause,
                                        .interrupt_fd = -1,
                                        .gone_fd = -1};
    struct sandbox_file_info info;
    struct channel_reader *reader = NULL;
    int result =
        channel_read_open(channel, &get, &watch, attempt->core->answer_ns, &info, &reader, NULL);
    for (int more = 1; result == 0 && more > 0;) {
        more = channel_read_next(reader, out, NULL);
        result = more < 0 ? more : 0;
    }
    channel_read_close(reader);
    return result == 0 && out->size == info.size_bytes ? 0 : -ERR_UNAVAILABLE;
}

static void keep_program(struct attempt *attempt, struct channel *channel,
                         const struct program_job *job)
{
    char path[PROGRAM_PATH_MAX];
    BUF_AUTO struct buf program;
    buf_init(&program, COMPILE_CACHE_PROGRAM_MAX);
    program_path(job->lang->program, path);
    if (fetch_program(attempt, channel, path, &program) == 0)
        compile_cache_put(job->cache, job->compile_key, program.data, program.size);
}

/* Compiles. Returns 1 when there is a program to run, 0 when that was the end. */
static int compile(struct attempt *attempt, struct channel *channel, const struct program_job *job,
                   struct err *err)
{
    int result = run_step(attempt, channel, job, PHASE_COMPILE, job->timeout_ms, err);
    if (result != 0)
        return result;
    if (!is_good(&attempt->exit.exit)) {
        attempt->outcome.exit = attempt->exit.exit;
        return 0;
    }
    attempt->compiled = true;
    attempt->compile_exit = attempt->exit.exit;
    attempt->compile_exit.start_error = NULL;
    /* What a compiler says of a good program is said each time. */
    uint64_t said = attempt->compile_exit.stdout_bytes + attempt->compile_exit.stderr_bytes;
    if (job->cache && job->compile_key && said == 0)
        keep_program(attempt, channel, job);
    return 1;
}

/* Files to be written before the first step; the channel borrows all of it until then. */
struct puts {
    char source_path[PROGRAM_PATH_MAX], program_path[PROGRAM_PATH_MAX];
    struct buf program;
};

static int queue_source(struct channel *channel, const struct program_job *job, struct puts *puts,
                        struct err *err)
{
    program_path(job->lang->source, puts->source_path);
    return channel_put_file(channel, puts->source_path, 0644, job->code, job->code_size, err);
}

/* Puts the program there that was kept; false: there is none. */
static bool queue_kept(struct channel *channel, const struct program_job *job, struct puts *puts)
{
    if (!job->cache || !job->compile_key ||
        !compile_cache_get(job->cache, job->compile_key, &puts->program))
        return false;
    program_path(job->lang->program, puts->program_path);
    return channel_put_file(channel, puts->program_path, 0755, puts->program.data,
                            puts->program.size, NULL) == 0;
}

static int run_both(struct attempt *attempt, struct channel *channel, const struct program_job *job,
                    struct puts *puts, bool *out_heard, struct err *err)
{
    if (!attempt->compiled) { /* else on a channel that broke behind it */
        int result = queue_source(channel, job, puts, err);
        if (result == 0 && job->lang->compile[0] && !queue_kept(channel, job, puts)) {
            result = compile(attempt, channel, job, err);
            if (result == 0)
                return 0;
        }
        if (result < 0)
            return result;
    }
    *out_heard = attempt->compiled;
    int result =
        run_step(attempt, channel, job, PHASE_RUN, time_left(job, &attempt->compile_exit), err);
    if (result != 0)
        return result;
    attempt->outcome.exit = attempt->exit.exit;
    add_usage(&attempt->outcome.exit, &attempt->compile_exit);
    return 0;
}

int program_run(struct attempt *attempt, struct channel *channel, const struct program_job *job,
                bool *out_heard, struct err *err)
{
    struct puts puts;
    *out_heard = false;
    buf_init(&puts.program, COMPILE_CACHE_PROGRAM_MAX);
    int result = run_both(attempt, channel, job, &puts, out_heard, err);
    buf_done(&puts.program);
    return result;
}
