/* One request whose answer is JSON. */
#ifndef BERTH_CLI_CALL_H
#define BERTH_CLI_CALL_H

#include <jansson.h>

#include "base/err.h"

/* Sends body as JSON (NULL: none) and waits for the answer, an object that is the caller's. What
 * the server refuses is an error in its words, whose kind is ERR_NOT_FOUND on a 404. Blocks. */
int call_json(const char *url, const char *method, const char *path, const json_t *body,
              json_t **out, struct err *err);

/* Writes "/PREFIX/ID" or "/PREFIX/ID/SUFFIX" (suffix NULL: without). ERR_BAD_INPUT: id can't be
 * one. */
int call_path(const char *prefix, const char *id, const char *suffix, char out[static 160],
              struct err *err);

/* Prints a value on standard output, readable. */
int call_print(const json_t *value, struct err *err);

/* The text of a member; "-" when there is none. Borrowed. */
const char *call_text(const json_t *object, const char *key);

#endif
