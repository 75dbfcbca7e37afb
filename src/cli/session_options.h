/* The command lines of `berth session`, and the requests that they ask for. */
#ifndef BERTH_CLI_SESSION_OPTIONS_H
#define BERTH_CLI_SESSION_OPTIONS_H

#include <jansson.h>
#include <stdbool.h>

#include "base/err.h"

enum session_command {
    SESSION_NEW,
    SESSION_EXEC,
    SESSION_ATTACH,
    SESSION_LS,
    SESSION_RM,
    SESSION_NETWORK,
    SESSION_COMMAND_COUNT
};

struct session_options {
    enum session_command command;
    bool help;
    bool json;               /* new, exec, ls, network: the server's object in place of words */
    bool quiet;              /* ls: ids alone */
    const char *images_path; /* exec, attach: NULL none; borrowed from argv */
    json_t *request;         /* new: the body of POST /sessions; exec, attach: that of an execution;
                                network:         that of the change, or without members */
    char **ids;              /* exec, attach, network: one; rm: one or more; borrowed from argv */
    int id_count;
};

/* Parses argv (argv[0] is the command's name) and, for exec, reads the code and its standard input;
 * blocks on that. The caller ends *out with session_options_done(). ERR_BAD_INPUT says what is
 * wrong with the command line. */
int session_options_parse(int argc, char **argv, struct session_options *out, struct err *err);
void session_options_done(struct session_options *options);
#define SESSION_OPTIONS_AUTO __attribute__((cleanup(session_options_done)))

/* The help text of one command. */
const char *session_options_help(enum session_command command);

#endif
