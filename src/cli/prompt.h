/* Lines from a person or a pipe. */
#ifndef BERTH_CLI_PROMPT_H
#define BERTH_CLI_PROMPT_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

struct prompt;

enum prompt_end {
    PROMPT_LINE,    /* a line, with its newline */
    PROMPT_DROPPED, /* Ctrl-C: what was typed is to be forgotten */
    PROMPT_LEFT,    /* Ctrl-D, the end of the input, or an error of it */
};

/* With a terminal at both ends lines can be edited, and are remembered in $BERTH_HISTORY, which is
 * ~/.berth_history when it is not set, and nowhere when it is empty; SIGINT is blocked then, until
 * prompt_close(), so that it only means what is made of it. Else lines are read as they come. One
 * at a time. */
int prompt_open(struct prompt **out, struct err *err);
void prompt_close(struct prompt *prompt);
void prompt_close_at(struct prompt **prompt);
#define PROMPT_AUTO __attribute__((cleanup(prompt_close_at)))

bool prompt_is_edited(const struct prompt *prompt);

/* Blocks for the next line. *line is the prompt's, until the next call. more: it goes on with what
 * was typed before. */
enum prompt_end prompt_read(struct prompt *prompt, bool more, const char **line, size_t *size);

#endif
