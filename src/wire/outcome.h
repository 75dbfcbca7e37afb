/* What ended an execution and what it ran into: the words of the contract, shared by all programs.
 */
#ifndef BERTH_WIRE_OUTCOME_H
#define BERTH_WIRE_OUTCOME_H

#include <stdint.h>

/* `killed_by`. "signal" is a signal that the code, not berth, sent. */
enum kill_cause {
    KILL_NONE,
    KILL_TIMEOUT,
    KILL_OOM,
    KILL_OUTPUT,
    KILL_SIGNAL,
    KILL_USER,
    KILL_SERVER,
    KILL_CAUSE_COUNT
};

/* `limits_hit`, as bits. */
enum limit_hit {
    LIMIT_MEMORY = 1 << 0,
    LIMIT_CPU = 1 << 1,
    LIMIT_PIDS = 1 << 2,
    LIMIT_DISK = 1 << 3,
    LIMIT_OUTPUT = 1 << 4,
    LIMIT_FILES = 1 << 5,
};
#define LIMIT_HIT_COUNT 6

/* The contract's word for a cause; NULL for KILL_NONE and for what is no cause. */
const char *outcome_cause_name(enum kill_cause cause);

/* The contract's word for bit number index (0 to LIMIT_HIT_COUNT - 1). */
const char *outcome_limit_name(unsigned index);

#endif
