/* The settings of the server: BERTH_* variables, read once at the start. Names, defaults and ranges
 * are in the table of settings.c, what they mean in README.md.
 *
 * BERTH_LAYERS_ENV is text: what installers of libraries get, "NAME=value" with spaces between;
 * BERTH_LAYERS_ALLOW where they may connect to, of what BERTH_EGRESS_ALLOW says.
 * What the lists of BERTH_NETWORK_MODES and BERTH_EGRESS_ALLOW mean, core/network.h knows.
 *
 * BERTH_ENGINES (native) are the engines that run sandboxes, with spaces between, the first by
 * default: native, docker, and with BERTH_TESTING=1 fake, for tests. BERTH_ENGINE is an earlier
 * name of it. BERTH_ENGINE_EXECUTE and BERTH_ENGINE_SESSIONS say what a family gets where a request
 * names none, "engine" or "engine/runtime"; BERTH_ENGINE_CHOICE whether it may name one.
 *
 * Only here: BERTH_REGISTER (on; off: POST /register needs a token). */
#ifndef BERTH_SERVER_SETTINGS_H
#define BERTH_SERVER_SETTINGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "core/core.h"

#define SETTINGS_ENGINES_MAX 4

struct settings {
    uint64_t sandboxes_max, creates_max, queue_max, queue_wait_ms;
    uint64_t pool_min, pool_max;
    uint64_t memory_budget_bytes, disk_budget_bytes; /* 0: by what the host has */
    uint64_t reserve_min_bytes, memory_overcommit_millis, disk_overcommit_millis;
    uint64_t timeout_ms, timeout_max_ms;
    uint64_t memory_bytes, storage_bytes, cpu_millis, pids_max, open_files_max;
    uint64_t output_keep_bytes, output_max_bytes, keep_outcome_ms, keep_bytes;
    uint64_t compile_cache_bytes;
    uint64_t messages_keep_bytes, session_timeout_ms, session_timeout_max_ms, session_idle_ms;
    uint64_t layers_max, layers_max_bytes, layers_grace_ms, layers_timeout_ms;
    uint64_t layers_memory_bytes, layers_storage_bytes;
    uint64_t connection_max, body_max_bytes, bodies_max_bytes, answers_max_bytes;
    const char *public_host; /* "" when unset; the strings are the environment's */
    const char *engines[SETTINGS_ENGINES_MAX]; /* names, each once */
    size_t engine_count;
    const char *engine_execute, *engine_sessions; /* "engine[/runtime]"; NULL: the first */
    bool engine_choice, engine_choice_said;       /* not said: by whether a token is needed */
    const char *layers_env, *layers_allow;
    const char *network_modes, *egress_allow; /* lists; egress_allow NULL: the default */
    uint64_t egress_bytes_max, egress_connections_max;
    bool auth_off;
    enum core_zygote zygote;
    bool register_open;
    bool testing;
};

/* Reads the environment.
 * ERR_BAD_INPUT says which variable is wrong and what would be right. */
int settings_load(struct settings *out, struct err *err);

#endif
