/* A session to type into. */
#ifndef BERTH_CLI_ATTACH_H
#define BERTH_CLI_ATTACH_H

#include "base/err.h"

struct session_options;

/* Reads lines, runs what they make in session options->ids[0], shows what it says, until the input
 * ends. ERR_NOT_FOUND: the session has ended. Of a pipe any failure that is not the code's ends it.
 */
int attach_run(const struct session_options *options, const char *url, struct err *err);

#endif
