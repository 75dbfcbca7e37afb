/* Owns the script language of the fake: what each step does. fake.h lists them. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "engine/fake_internal.h"

enum { EXIT_INTERRUPTED = 130, LINE_MAX_SIZE = 1024, MESSAGE_MAX_BYTES = 16 * 1024 * 1024 };

/* A script has names of its own. */
static struct fake_vars *vars_of(struct fake_job *job)
{
    bool in_kernel = job->is_run && job->run.mode == SANDBOX_RUN_CELL;
    return in_kernel ? &job->box->kernel.vars : &job->vars;
}

static const char *cwd_of(const struct fake_job *job)
{
    return job->is_run ? job->box->kernel.spec.cwd : job->exec.cwd;
}

static void end_with(struct fake_job *job, uint32_t exit_code)
{
    job->exit_code = exit_code;
    job->script_over = true;
}

static void write_text(struct fake_job *job, unsigned index, const char *text)
{
    fake_job_write(job, index, text, strlen(text));
}

/* In one piece, as a program that prints a line does. */
static void write_line(struct fake_job *job, unsigned index, const char *text)
{
    BUF_AUTO struct buf line;
    buf_init(&line, 2 * LINE_MAX_SIZE);
    (void)buf_append_str(&line, text, NULL);
    (void)buf_append_str(&line, "\n", NULL);
    fake_job_write(job, index, line.data, line.size);
}

/* ---- errors and results ---- */

/* Appends text as a JSON string; what is no plain character is left out. */
static void append_json(struct buf *out, const char *text)
{
    (void)buf_append_str(out, "\"", NULL);
    for (; *text != '\0'; text++) {
        if (*text == '"' || *text == '\\')
            (void)buf_append_str(out, "\\", NULL);
        if ((unsigned char)*text >= 0x20)
            (void)buf_append(out, text, 1, NULL);
    }
    (void)buf_append_str(out, "\"", NULL);
}

/* As an uncaught exception: its traceback on stderr, a message from a kernel, and the end. */
static void raise_error(struct fake_job *job, const char *name, const char *value)
{
    BUF_AUTO struct buf line;
    BUF_AUTO struct buf message;
    buf_init(&line, 2 * LINE_MAX_SIZE);
    buf_init(&message, 8 * LINE_MAX_SIZE);
    (void)buf_printf(&line, NULL, "%s%s%s", name, *value != '\0' ? ": " : "", value);
    job->raising = true;
    write_line(job, 1, buf_cstr(&line));
    if (job->is_run) {
        (void)buf_append_str(&message, "{\"type\": \"error\", \"name\": ", NULL);
        append_json(&message, name);
        (void)buf_append_str(&message, ", \"value\": ", NULL);
        append_json(&message, value);
        (void)buf_append_str(&message, ", \"traceback\": ", NULL);
        append_json(&message, buf_cstr(&line));
        (void)buf_append_str(&message, "}", NULL);
        fake_job_message(job, message.data, message.size);
    }
    job->raising = false;
    end_with(job, 1);
}

static void step_result(struct fake_job *job, const char *text)
{
    BUF_AUTO struct buf message;
    buf_init(&message, MESSAGE_MAX_BYTES);
    (void)buf_append_str(&message, "{\"type\": \"result\", \"data\": {\"text/plain\": ", NULL);
    append_json(&message, text);
    (void)buf_append_str(&message, "}}", NULL);
    fake_job_message(job, message.data, message.size);
}

static void step_large_result(struct fake_job *job, size_t size)
{
    char *text = size < MESSAGE_MAX_BYTES ? malloc(size + 1) : NULL;
    if (!text)
        return;
    memset(text, 'x', size);
    text[size] = '\0';
    step_result(job, text);
    free(text);
}

/* ---- variables ---- */

static void step_set(struct fake_job *job, char *rest)
{
    struct fake_vars *vars = vars_of(job);
    const char *name = strsep(&rest, " ");
    size_t at = 0;
    while (at < vars->count && strcmp(vars->names[at], name) != 0)
        at++;
    if (at >= FAKE_VARS_MAX) {
        raise_error(job, "MemoryError", "too many variables");
        return;
    }
    if (at == vars->count)
        vars->count++;
    (void)snprintf(vars->names[at], sizeof(vars->names[at]), "%s", name);
    (void)snprintf(vars->values[at], sizeof(vars->values[at]), "%s", rest ? rest : "");
}

static void step_get(struct fake_job *job, const char *name)
{
    const struct fake_vars *vars = vars_of(job);
    char value[LINE_MAX_SIZE];
    for (size_t i = 0; i < vars->count; i++) {
        if (strcmp(vars->names[i], name) == 0) {
            write_line(job, 0, vars->values[i]);
            return;
        }
    }
    (void)snprintf(value, sizeof(value), "name '%.100s' is not defined", name);
    raise_error(job, "NameError", value);
}

static const char *find_env(const char *const *envp, size_t envc, const char *name)
{
    size_t size = strlen(name);
    for (size_t i = 0; i < envc; i++) {
        if (strncmp(envp[i], name, size) == 0 && envp[i][size] == '=')
            return envp[i] + size + 1;
    }
    return NULL;
}

/* A run's variables come on top of those of its kernel. */
static void step_env(struct fake_job *job, const char *name)
{
    const struct sandbox_kernel *kernel = &job->box->kernel.spec;
    const char *value = job->is_run ? find_env(job->run.envp, job->run.envc, name)
                                    : find_env(job->exec.envp, job->exec.envc, name);
    if (!value && job->is_run)
        value = find_env(kernel->envp, kernel->envc, name);
    if (value)
        write_text(job, 0, value);
}

/* ---- files, streams, time ---- */

static void step_cat(struct fake_job *job, const char *path)
{
    const struct fake_file *file = fake_find_file(job->box, cwd_of(job), path);
    BUF_AUTO struct buf copy; /* an upload may replace its bytes while we wait for credit */
    buf_init(&copy, FAKE_BYTES_MAX);
    if (file && buf_append(&copy, file->bytes.data, file->bytes.size, NULL) == 0)
        fake_job_write(job, 0, copy.data, copy.size);
}

static void step_stdin(struct fake_job *job)
{
    while (!job->input_closed && fake_job_running(job))
        fake_job_wait(job, INT64_MAX);
    fake_job_write(job, 0, job->input.data, job->input.size);
}

static void step_sleep(struct fake_job *job, uint64_t sleep_ms)
{
    int64_t until_ns = fake_in_ms(sleep_ms);
    while (fake_job_running(job) && clock_now_ns() < until_ns)
        fake_job_wait(job, until_ns);
}

static void step_flood(struct fake_job *job, uint64_t size)
{
    uint8_t piece[4096];
    memset(piece, 'x', sizeof(piece));
    while (size > 0 && fake_job_running(job)) {
        size_t part = size > sizeof(piece) ? sizeof(piece) : (size_t)size;
        fake_job_write(job, 0, piece, part);
        size -= part;
    }
}

static void step_fault(struct fake_job *job, const char *name)
{
    for (int i = 0; i < FAKE_FAULT_COUNT; i++) {
        if (strcmp(name, engine_fake_fault_name((enum engine_fake_fault)i)) == 0)
            job->box->fault = (enum engine_fake_fault)i;
    }
    fake_job_strike(job);
}

/* ---- all of them ---- */

enum verb {
    VERB_OUT,
    VERB_OUTN,
    VERB_ERR,
    VERB_STDIN,
    VERB_ENV,
    VERB_CAT,
    VERB_FLOOD,
    VERB_SLEEP,
    VERB_EXIT,
    VERB_SIGNAL,
    VERB_OOM,
    VERB_FAULT,
    VERB_SET,
    VERB_GET,
    VERB_RAISE,
    VERB_RESULT,
    VERB_RESULTN,
    VERB_MESSAGE,
    VERB_DEAF,
    VERB_COUNT
};

static const char *const verbs[VERB_COUNT] = {
    "out", "outn",  "err", "stdin", "env",   "cat",    "flood",   "sleep",   "exit", "signal",
    "oom", "fault", "set", "get",   "raise", "result", "resultn", "message", "deaf",
};

/* Those that end the script, or change what becomes of it. */
static void step_end(struct fake_job *job, enum verb verb, uint64_t number)
{
    if (verb == VERB_OOM) {
        job->cause = KILL_OOM;
        job->limits_hit = LIMIT_MEMORY;
        job->killed = true;
    } else if (verb == VERB_SIGNAL) {
        job->cause = KILL_SIGNAL;
        job->killed = true;
        end_with(job, 128 + (uint32_t)(number & 63));
    } else if (verb == VERB_EXIT) {
        end_with(job, (uint32_t)(number & 255));
    } else {
        raise_error(job, "SyntaxError", "");
    }
}

static void step(struct fake_job *job, const char *word, char *rest)
{
    uint64_t number = strtoull(rest, NULL, 10);
    enum verb verb = 0;
    const char *name = NULL;
    while (verb < VERB_COUNT && strcmp(verbs[verb], word) != 0)
        verb++;
    switch (verb) {
    case VERB_OUT:
        write_line(job, 0, rest);
        break;
    case VERB_OUTN:
        write_text(job, 0, rest);
        break;
    case VERB_ERR:
        write_line(job, 1, rest);
        break;
    case VERB_STDIN:
        step_stdin(job);
        break;
    case VERB_ENV:
        step_env(job, rest);
        break;
    case VERB_CAT:
        step_cat(job, rest);
        break;
    case VERB_FLOOD:
        step_flood(job, number);
        break;
    case VERB_SLEEP:
        step_sleep(job, number);
        break;
    case VERB_FAULT:
        step_fault(job, rest);
        break;
    case VERB_SET:
        step_set(job, rest);
        break;
    case VERB_GET:
        step_get(job, rest);
        break;
    case VERB_RAISE:
        name = strsep(&rest, " ");
        raise_error(job, name, rest ? rest : "");
        break;
    case VERB_RESULT:
        step_result(job, rest);
        break;
    case VERB_RESULTN:
        step_large_result(job, number);
        break;
    case VERB_MESSAGE:
        fake_job_message(job, rest, strlen(rest));
        break;
    case VERB_DEAF:
        job->deaf = true;
        break;
    default:
        step_end(job, verb, number);
        break;
    }
}

void fake_script_run(struct fake_job *job, const char *text)
{
    char none[] = "";
    while (text && *text != '\0' && fake_job_running(job)) {
        size_t size = strcspn(text, "\n");
        char line[LINE_MAX_SIZE];
        (void)snprintf(line, sizeof(line), "%.*s", (int)(size < 1000 ? size : 1000), text);
        char *rest = line;
        const char *word = strsep(&rest, " ");
        if (*word != '\0')
            step(job, word, rest ? rest : none);
        text += size + (text[size] == '\n' ? 1 : 0);
    }
    if (!job->script_over && job->interrupted && !job->deaf && fake_job_alive(job)) {
        if (job->is_run) {
            raise_error(job, "KeyboardInterrupt", "");
            end_with(job, EXIT_INTERRUPTED);
        } else {
            job->cause = job->cause == KILL_NONE ? KILL_SIGNAL : job->cause;
            end_with(job, EXIT_INTERRUPTED);
        }
    }
}
