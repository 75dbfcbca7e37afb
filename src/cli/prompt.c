/* Owns the use of libedit, and the file of old lines. */
#include "cli/prompt.h"

#include <errno.h>
#include <fcntl.h>
#include <histedit.h>
#include <limits.h>
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"

enum { HISTORY_LINES = 1000 };

struct prompt {
    EditLine *edit;   /* NULL: lines are read as they come */
    History *history; /* NULL: none */
    char history_path[PATH_MAX];
    sigset_t signals_before;
    bool more;
    bool dropped;
    char *line; /* of getline(3) */
    size_t line_room;
};

static char *prompt_text(EditLine *edit)
{
    static char first[] = ">>> ";
    static char next[] = "... ";
    struct prompt *prompt = NULL;
    (void)el_get(edit, EL_CLIENTDATA, &prompt);
    return prompt && prompt->more ? next : first;
}

/* The key that sends SIGINT elsewhere. */
static unsigned char on_drop(EditLine *edit, int key)
{
    struct prompt *prompt = NULL;
    (void)key;
    (void)el_get(edit, EL_CLIENTDATA, &prompt);
    prompt->dropped = true;
    (void)fputs("^C\n", stdout);
    return CC_NEWLINE;
}

/* libedit's handler gives the terminal back, and takes it again. */
static unsigned char on_suspend(EditLine *edit, int key)
{
    (void)edit;
    (void)key;
    (void)raise(SIGTSTP);
    return CC_REDISPLAY;
}

static unsigned char on_tab(EditLine *edit, int key)
{
    (void)key;
    return el_insertstr(edit, "    ") == 0 ? CC_REFRESH : CC_ERROR;
}

/* ---- old lines ---- */

static void find_history(struct prompt *prompt)
{
    const char *wanted = getenv("BERTH_HISTORY");
    const char *home = getenv("HOME");
    int size = 0;
    if (wanted)
        size = snprintf(prompt->history_path, PATH_MAX, "%s", wanted);
    else if (home && *home)
        size = snprintf(prompt->history_path, PATH_MAX, "%s/.berth_history", home);
    if (size < 0 || size >= PATH_MAX)
        prompt->history_path[0] = '\0';
}

static void load_history(struct prompt *prompt)
{
    HistEvent event;
    prompt->history = history_init();
    if (!prompt->history)
        return;
    (void)history(prompt->history, &event, H_SETSIZE, HISTORY_LINES);
    (void)history(prompt->history, &event, H_SETUNIQUE, 1);
    find_history(prompt);
    if (prompt->history_path[0] != '\0') /* there may be none yet */
        (void)history(prompt->history, &event, H_LOAD, prompt->history_path);
}

/* It may hold secrets: nobody else may read it. What can't be written is forgotten. */
static void save_history(struct prompt *prompt)
{
    HistEvent event;
    if (prompt->history_path[0] == '\0')
        return;
    FD_AUTO int fd =
        open(prompt->history_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    FILE *file = fd >= 0 ? fdopen(fd, "w") : NULL;
    if (!file)
        return;
    (void)fd_take(&fd);
    (void)fchmod(fileno(file), 0600);
    (void)history(prompt->history, &event, H_SAVE_FP, file);
    (void)fclose(file);
}

/* ---- life ---- */

/* A locale that can't say what is typed makes libedit swallow it. */
static void set_characters(void)
{
    if (!setlocale(LC_CTYPE, "") || MB_CUR_MAX == 1)
        (void)setlocale(LC_CTYPE, "C.UTF-8");
}

static int open_editor(struct prompt *prompt, struct err *err)
{
    set_characters();
    prompt->edit = el_init("berth", stdin, stdout, stderr);
    if (!prompt->edit)
        return err_set(err, ERR_INTERNAL, "the terminal can't be used for editing lines");
    load_history(prompt);
    (void)el_set(prompt->edit, EL_CLIENTDATA, prompt);
    (void)el_set(prompt->edit, EL_PROMPT, prompt_text);
    (void)el_set(prompt->edit, EL_EDITOR, "emacs");
    (void)el_set(prompt->edit, EL_SIGNAL, 1);
    if (prompt->history)
        (void)el_set(prompt->edit, EL_HIST, history, prompt->history);
    (void)el_set(prompt->edit, EL_ADDFN, "berth-drop", "Drop the line", on_drop);
    (void)el_set(prompt->edit, EL_ADDFN, "berth-suspend", "Stop, as a job of the shell",
                 on_suspend);
    (void)el_set(prompt->edit, EL_ADDFN, "berth-indent", "Indent", on_tab);
    (void)el_set(prompt->edit, EL_BIND, "^C", "berth-drop", NULL);
    (void)el_set(prompt->edit, EL_BIND, "^Z", "berth-suspend", NULL);
    (void)el_set(prompt->edit, EL_BIND, "^I", "berth-indent", NULL);
    (void)el_set(prompt->edit, EL_BIND, "^R", "em-inc-search-prev", NULL);
    (void)el_source(prompt->edit, NULL); /* ~/.editrc */
    /* While a line is edited Ctrl-C is a key, and no signal. */
    (void)el_set(prompt->edit, EL_SETTY, "-d", "-isig", NULL);
    sigset_t wanted;
    (void)sigemptyset(&wanted);
    (void)sigaddset(&wanted, SIGINT);
    (void)sigprocmask(SIG_BLOCK, &wanted, &prompt->signals_before);
    return 0;
}

int prompt_open(struct prompt **out, struct err *err)
{
    struct prompt *prompt = calloc(1, sizeof(*prompt));
    if (!prompt)
        return err_set(err, ERR_INTERNAL, "no memory");
    int result = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO) ? open_editor(prompt, err) : 0;
    if (result != 0) {
        free(prompt);
        return result;
    }
    *out = prompt;
    return 0;
}

void prompt_close(struct prompt *prompt)
{
    if (!prompt)
        return;
    if (prompt->history) {
        save_history(prompt);
        history_end(prompt->history);
    }
    if (prompt->edit) {
        el_end(prompt->edit);
        (void)sigprocmask(SIG_SETMASK, &prompt->signals_before, NULL);
    }
    free(prompt->line);
    free(prompt);
}

void prompt_close_at(struct prompt **prompt)
{
    prompt_close(*prompt);
    *prompt = NULL;
}

bool prompt_is_edited(const struct prompt *prompt)
{
    return prompt->edit != NULL;
}

/* ---- lines ---- */

static enum prompt_end read_edited(struct prompt *prompt, const char **line, size_t *size)
{
    int count = 0;
    HistEvent event;
    prompt->dropped = false;
    /* Before the prompt is seen, so that no key is taken as the terminal took it before. */
    (void)el_set(prompt->edit, EL_PREP_TERM, 1);
    const char *text = el_gets(prompt->edit, &count);
    if (prompt->dropped)
        return PROMPT_DROPPED;
    if (!text || count <= 0) {
        (void)fputs("\n", stdout);
        return PROMPT_LEFT;
    }
    *line = text;
    *size = strlen(text);
    if (prompt->history && strspn(text, " \t\r\n") < *size)
        (void)history(prompt->history, &event, H_ENTER, text);
    return PROMPT_LINE;
}

enum prompt_end prompt_read(struct prompt *prompt, bool more, const char **line, size_t *size)
{
    prompt->more = more;
    if (prompt->edit)
        return read_edited(prompt, line, size);
    ssize_t got = getline(&prompt->line, &prompt->line_room, stdin);
    if (got <= 0)
        return PROMPT_LEFT;
    *line = prompt->line;
    *size = (size_t)got;
    return PROMPT_LINE;
}
