/* Sets of libraries: checked, in one order, each once. */
#ifndef BERTH_CORE_LIBRARIES_H
#define BERTH_CORE_LIBRARIES_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"
#include "base/err.h"
#include "lang/requirement.h"

struct lang;

#define LIBRARIES_MAX 64

/* All zero: the empty one. */
struct library_set {
    char (*items)[REQUIREMENT_MAX]; /* heap */
    size_t count;
};
void library_set_done(struct library_set *set);
#define LIBRARY_SET_AUTO __attribute__((cleanup(library_set_done)))

/* Adds what a caller asks for, in the notation of the language; *set may hold some already, and
 * stays as it is after a failure. ERR_BAD_INPUT (public) names the one that is wrong, and a
 * language that installs none. */
int library_set_add(struct library_set *set, const struct lang *lang, const char *const *texts,
                    size_t count, struct err *err);
int library_set_copy(const struct library_set *set, struct library_set *out, struct err *err);
bool library_set_equal(const struct library_set *left, const struct library_set *right);

/* ["a","b"] */
int library_set_json(const struct library_set *set, struct buf *out, struct err *err);
/* Reads what library_set_json() wrote. */
int library_set_read(const char *json, struct library_set *out, struct err *err);

#endif
