/* What the codecs of the sandbox protocol share; for sandbox*.c only. */
#ifndef BERTH_WIRE_SANDBOX_FIELDS_H
#define BERTH_WIRE_SANDBOX_FIELDS_H

#include <stddef.h>

#include "base/err.h"

/* Appends a borrowed string to a NULL-ended array of at most SANDBOX_ARGS_MAX entries. The array is
 * the caller's to free, also after a failure. */
int sandbox_push_string(const char ***array, size_t *count, const char *text, struct err *err);

/* Gives an array that no string was pushed to its NULL. */
int sandbox_end_strings(const char ***array, struct err *err);

#endif
