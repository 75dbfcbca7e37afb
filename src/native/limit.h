/* The limits of a sandbox that a server may ask for: their bounds, and others for one that runs. */
#ifndef BERTH_NATIVE_LIMIT_H
#define BERTH_NATIVE_LIMIT_H

#include <stdbool.h>

#include "base/err.h"
#include "native/sandbox.h"

/* Whether memory, storage, cpu and pids of spec are within what this engine allows. may_leave: 0 is
 * allowed too. ERR_BAD_INPUT says which is not. */
int limit_check(const struct engine_create *spec, bool may_leave, struct err *err);

/* Gives a sandbox the limits of spec (ENGINE_OP_LIMIT). ERR_UNSUPPORTED: this host has no groups.
 * ERR_CONFLICT: as there; also another number of processors than it was made for, since that is
 * what it sees in /sys. Does not block. */
int limit_change(const struct sandbox_host *host, struct sandbox *sandbox,
                 const struct engine_create *spec, struct err *err);

#endif
