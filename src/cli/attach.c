/* Owns `berth session attach`: from lines to pieces of code, and what happens between them. */
#include "cli/attach.h"

#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/buf.h"
#include "base/mem.h"
#include "cli/block.h"
#include "cli/call.h"
#include "cli/fields.h"
#include "cli/prompt.h"
#include "cli/session_options.h"
#include "cli/watch.h"
#include "wire/json.h"

/* Code may pass over one interrupt, or be in the midst of a library that does. */
enum { INTERRUPTS_MAX = 2 };

struct attach {
    const struct session_options *options;
    const char *url;
    char execute_path[160], interrupt_path[160];
    struct prompt *prompt;
    struct buf code; /* of lines that are not run yet */
    bool terminated; /* SIGTERM came while code ran */
};

/* A Ctrl-C that was pressed as the last code ended is not meant for the next. */
static void forget_signals(void)
{
    sigset_t wanted;
    const struct timespec now = {0};
    (void)sigemptyset(&wanted);
    (void)sigaddset(&wanted, SIGINT);
    while (sigtimedwait(&wanted, NULL, &now) > 0)
        continue;
}

static int run_block(struct attach *attach, struct err *err)
{
    json_t *request = attach->options->request;
    json_t *code = json_stringn((const char *)attach->code.data, attach->code.size);
    if (!code || json_object_set_new(request, "code", code) != 0)
        return err_set(err, ERR_BAD_INPUT, "code has to be text in UTF-8");
    MEM_AUTO char *body = json_dumps(request, JSON_COMPACT);
    if (!body)
        return err_set(err, ERR_INTERNAL, "no memory");
    struct watch watch = {
        .url = attach->url,
        .interrupt_path = attach->interrupt_path,
        .interrupts_max = INTERRUPTS_MAX,
        .term_leaves = true,
        .show = {.results = true, .images_path = attach->options->images_path},
    };
    if (prompt_is_edited(attach->prompt))
        forget_signals();
    int result = watch_code(&watch, attach->execute_path, body, strlen(body), err);
    attach->terminated = watch.terminated;
    return result;
}

/* Runs what was typed. A person may try again what failed; a pipe can't. */
static int run_or_say(struct attach *attach, struct err *err)
{
    struct err local = ERR_INIT;
    int result = run_block(attach, &local);
    attach->code.size = 0;
    if (result == 0)
        return 0;
    if (result == -ERR_NOT_FOUND || attach->terminated || !prompt_is_edited(attach->prompt))
        return err_copy(err, &local);
    (void)fprintf(stderr, "berth: %s\n", local.message);
    return 0;
}

static bool is_blank(const char *line, size_t size)
{
    return strspn(line, " \t\r\n") >= size;
}

static int take_line(struct attach *attach, const char *line, size_t size, struct err *err)
{
    if (attach->code.size == 0 && is_blank(line, size))
        return 0;
    int result = buf_append(&attach->code, line, size, err);
    if (result == 0 && line[size - 1] != '\n')
        result = buf_append(&attach->code, "\n", 1, err);
    if (result != 0)
        return result;
    if (!block_is_whole((const char *)attach->code.data, attach->code.size))
        return 0;
    return run_or_say(attach, err);
}

static int read_lines(struct attach *attach, struct err *err)
{
    int result = 0;
    while (result == 0) {
        const char *line = NULL;
        size_t size = 0;
        enum prompt_end end = prompt_read(attach->prompt, attach->code.size > 0, &line, &size);
        if (end == PROMPT_LEFT)
            break;
        if (end == PROMPT_DROPPED)
            attach->code.size = 0;
        else
            result = take_line(attach, line, size, err);
    }
    /* A pipe's last block needs no empty line; what a person has not ended is not meant. */
    if (result == 0 && attach->code.size > 0 && !prompt_is_edited(attach->prompt))
        result = run_or_say(attach, err);
    return result;
}

/* Finds the session before anything is typed into it. */
static int greet(const struct attach *attach, struct err *err)
{
    char path[160];
    JSON_AUTO struct json_t *session = NULL;
    int result = call_path("sessions", attach->options->ids[0], NULL, path, err);
    if (result == 0)
        result = call_json(attach->url, "GET", path, NULL, &session, err);
    if (result == 0 && prompt_is_edited(attach->prompt)) {
        (void)printf("Session %s, %s, until %s. Ctrl-D leaves it as it is.\n",
                     attach->options->ids[0], call_text(session, "lang"),
                     call_text(session, "expires_at"));
        (void)fflush(stdout);
    }
    return result;
}

int attach_run(const struct session_options *options, const char *url, struct err *err)
{
    struct attach attach = {.options = options, .url = url};
    const char *id = options->ids[0];
    int result = call_path("sessions", id, "execute", attach.execute_path, err);
    if (result == 0)
        result = call_path("sessions", id, "interrupt", attach.interrupt_path, err);
    PROMPT_AUTO struct prompt *prompt = NULL;
    if (result == 0)
        result = prompt_open(&prompt, err);
    if (result != 0)
        return result;
    attach.prompt = prompt;
    buf_init(&attach.code, FIELDS_BODY_MAX);
    result = greet(&attach, err);
    if (result == 0)
        result = read_lines(&attach, err);
    buf_done(&attach.code);
    return result;
}
