/* The files of priv/run: for each sandbox ID.SUFFIX, of one or more suffixes. */
#ifndef BERTH_NATIVE_RUNFILE_H
#define BERTH_NATIVE_RUNFILE_H

#include <stdbool.h>

#include "base/err.h"
#include "wire/sandbox.h"

#define RUNFILE_NAME_SIZE (SANDBOX_ID_MAX + 16)

void runfile_name(const char *id, const char *suffix, char out[static RUNFILE_NAME_SIZE]);

/* Whether there is one; of an id that is none there is not. */
bool runfile_exists(int run_fd, const char *id, const char *suffix);

/* Removes it; none is fine. */
void runfile_remove(int run_fd, const char *id, const char *suffix);

/* Calls fn, which may remove the file, for every id that has one. */
int runfile_each(int run_fd, const char *suffix, void (*fn)(void *context, const char *id),
                 void *context, struct err *err);

#endif
