/* Owns the transition tables, one an object kind. Nobody else compares two states to decide a move.
 */
#include "core/states.h"

#include "base/log.h"

#define BIT(state) (1U << (state))

static const char *const execution_names[EXECUTION_STATE_COUNT] = {
    "queued", "running", "success", "error", "timeout", "killed",
};

static const unsigned execution_moves[EXECUTION_STATE_COUNT] = {
    /* cancelled, or left by a server that died, before it ran */
    [EXECUTION_QUEUED] = BIT(EXECUTION_RUNNING) | BIT(EXECUTION_KILLED),
    [EXECUTION_RUNNING] = BIT(EXECUTION_SUCCESS) | BIT(EXECUTION_ERROR) | BIT(EXECUTION_TIMEOUT) |
                          BIT(EXECUTION_KILLED),
};

static const char *const sandbox_names[SANDBOX_STATE_COUNT] = {
    "creating", "ready", "busy", "stopped", "destroying", "gone",
};

static const unsigned sandbox_moves[SANDBOX_STATE_COUNT] = {
    [SANDBOX_CREATING] = BIT(SANDBOX_READY) | BIT(SANDBOX_DESTROYING),
    [SANDBOX_READY] = BIT(SANDBOX_BUSY) | BIT(SANDBOX_STOPPED) | BIT(SANDBOX_DESTROYING),
    /* stopped while code runs: by a stop, or since init ended by itself */
    [SANDBOX_BUSY] = BIT(SANDBOX_READY) | BIT(SANDBOX_STOPPED) | BIT(SANDBOX_DESTROYING),
    [SANDBOX_STOPPED] = BIT(SANDBOX_READY) | BIT(SANDBOX_DESTROYING),
    [SANDBOX_DESTROYING] = BIT(SANDBOX_GONE),
};

const char *execution_state_name(enum execution_state state)
{
    return state < EXECUTION_STATE_COUNT ? execution_names[state] : "unknown";
}

const char *sandbox_state_name(enum sandbox_state state)
{
    return state < SANDBOX_STATE_COUNT ? sandbox_names[state] : "unknown";
}

bool execution_state_move(enum execution_state *state, enum execution_state to)
{
    if ((execution_moves[*state] & BIT(to)) == 0) {
        log_error("bug: an execution can't go from %s to %s", execution_state_name(*state),
                  execution_state_name(to));
        return false;
    }
    *state = to;
    return true;
}

bool sandbox_state_move(enum sandbox_state *state, enum sandbox_state to)
{
    if ((sandbox_moves[*state] & BIT(to)) == 0) {
        log_error("bug: a sandbox can't go from %s to %s", sandbox_state_name(*state),
                  sandbox_state_name(to));
        return false;
    }
    *state = to;
    return true;
}
