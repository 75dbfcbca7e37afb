/* Owns the contract's words for kill causes and limits. */
#include "wire/outcome.h"

#include <stddef.h>

const char *outcome_cause_name(enum kill_cause cause)
{
    static const char *const names[KILL_CAUSE_COUNT] = {
        [KILL_TIMEOUT] = "timeout", [KILL_OOM] = "oom",   [KILL_OUTPUT] = "output",
        [KILL_SIGNAL] = "signal",   [KILL_USER] = "user", [KILL_SERVER] = "server",
    };
    if (cause < 0 || cause >= KILL_CAUSE_COUNT)
        return NULL;
    return names[cause];
}

const char *outcome_limit_name(unsigned index)
{
    static const char *const names[LIMIT_HIT_COUNT] = {"memory", "cpu",    "pids",
                                                       "disk",   "output", "files"};
    return index < LIMIT_HIT_COUNT ? names[index] : NULL;
}
