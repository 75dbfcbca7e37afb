/* The command line of `berth run`, and the request that it asks for. */
#ifndef BERTH_CLI_RUN_OPTIONS_H
#define BERTH_CLI_RUN_OPTIONS_H

#include <jansson.h>
#include <stdbool.h>

#include "base/err.h"

struct run_options {
    bool json; /* print the execution object instead of the output */
    bool help;
    json_t *request; /* the body of POST /execute */
};

/* Parses argv (argv[0] is "run") and reads the files that it names, standard input too when it is
 * the code or no terminal; blocks on that. The caller ends *out with run_options_done().
 * ERR_BAD_INPUT says what is wrong with the command line. */
int run_options_parse(int argc, char **argv, struct run_options *out, struct err *err);
void run_options_done(struct run_options *options);
#define RUN_OPTIONS_AUTO __attribute__((cleanup(run_options_done)))

/* The help text. */
const char *run_options_help(void);

#endif
