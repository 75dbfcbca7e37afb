/* What the codecs of the sandbox protocol share; for sandbox*.c only. */
#ifndef BERTH_WIRE_SANDBOX_FIELDS_H
#define BERTH_WIRE_SANDBOX_FIELDS_H

#include <stddef.h>

#include "base/err.h"
#include "wire/tlv.h"

/* Takes one field into a message that is being decoded; an unknown tag is passed over. */
typedef int (*sandbox_field_fn)(const struct tlv_field *field, void *out, struct err *err);

/* Every field of a payload, in order, until one is refused. */
int sandbox_decode_fields(const void *payload, size_t size, sandbox_field_fn take_field, void *out,
                          struct err *err);

/* Appends a borrowed string to a NULL-ended array of at most SANDBOX_ARGS_MAX entries. The array is
 * the caller's to free, also after a failure. */
int sandbox_push_string(const char ***array, size_t *count, const char *text, struct err *err);

/* Gives an array that no string was pushed to its NULL. */
int sandbox_end_strings(const char ***array, struct err *err);

#endif
