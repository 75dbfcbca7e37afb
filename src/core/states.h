/* The states of core's objects and the only moves between them. */
#ifndef BERTH_CORE_STATES_H
#define BERTH_CORE_STATES_H

#include <stdbool.h>

enum execution_state {
    EXECUTION_QUEUED,
    EXECUTION_RUNNING,
    EXECUTION_SUCCESS,
    EXECUTION_ERROR,
    EXECUTION_TIMEOUT,
    EXECUTION_KILLED,
    EXECUTION_STATE_COUNT
};

enum sandbox_state {
    SANDBOX_CREATING,
    SANDBOX_READY,
    SANDBOX_BUSY,
    SANDBOX_STOPPED, /* files only */
    SANDBOX_DESTROYING,
    SANDBOX_GONE,
    SANDBOX_STATE_COUNT
};

/* The contract's words ("queued", "success", "creating"). */
const char *execution_state_name(enum execution_state state);
const char *sandbox_state_name(enum sandbox_state state);

/* Moves *state when the table has that arrow; else logs our bug, leaves it, and returns false. */
bool execution_state_move(enum execution_state *state, enum execution_state to);
bool sandbox_state_move(enum sandbox_state *state, enum sandbox_state to);

#endif
