/* The settings of the server: one table of BERTH_* variables, read once at the start.
 *
 *   BERTH_MAX_SANDBOXES   512      sandboxes alive at once; more executions wait
 *   BERTH_MEMORY          80%      of the host's memory; what may be reserved for sandboxes
 *   BERTH_MEMORY_OVERCOMMIT 16     a sandbox reserves its memory limit divided by this, 1 or more
 *   BERTH_RESERVE_MIN     16MiB    but this much at least
 *   BERTH_DISK            80%      of the engine's disk; what may be reserved for writable roots
 *   BERTH_DISK_OVERCOMMIT 4        a root on disk reserves its size divided by this, 1 or more
 *   BERTH_MAX_CREATES     2/core   sandboxes being made at once
 *   BERTH_QUEUE           1024     executions that may wait; past it 503
 *   BERTH_QUEUE_WAIT      30       seconds that one waits at most
 *   BERTH_TIMEOUT         30       seconds that an execution may run when it names no timeout
 *   BERTH_TIMEOUT_MAX     3600     the most seconds that it may ask for
 *   BERTH_RAM             512MiB   memory of a sandbox when the request names none
 *   BERTH_STORAGE         256MiB   its writable root
 *   BERTH_CPU             1        its cores
 *   BERTH_PIDS            128      its processes and threads
 *   BERTH_OPEN_FILES      1024     open files of each of its processes
 *   BERTH_OUTPUT_KEEP     1MiB     kept of stdout and of stderr
 *   BERTH_OUTPUT_MAX      64MiB    written to both; past it the execution is killed
 *   BERTH_KEEP_OUTCOME    3600     seconds that an outcome can be asked for
 *   BERTH_KEEP_BYTES      1GiB     of the text of all outcomes together; the oldest is dropped
 * first BERTH_MAX_CONNECTIONS 1024     HTTP connections at once BERTH_BODY_MAX        4MiB     one
 * request body BERTH_BODIES_MAX      256MiB   all request bodies being held BERTH_PUBLIC_HOST the
 * name that clients use; everything needs a token then BERTH_AUTH            on       off: nobody
 * needs a token BERTH_REGISTER        on       off: POST /register needs a token BERTH_ENGINE
 * native   fake: for tests, with BERTH_TESTING=1 only */
#ifndef BERTH_SERVER_SETTINGS_H
#define BERTH_SERVER_SETTINGS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

struct settings {
    uint64_t sandboxes_max, creates_max, queue_max, queue_wait_ms;
    uint64_t memory_budget_bytes, disk_budget_bytes; /* 0: by what the host has */
    uint64_t reserve_min_bytes, memory_overcommit_millis, disk_overcommit_millis;
    uint64_t timeout_ms, timeout_max_ms;
    uint64_t memory_bytes, storage_bytes, cpu_millis, pids_max, open_files_max;
    uint64_t output_keep_bytes, output_max_bytes, keep_outcome_ms, keep_bytes;
    uint64_t connection_max, body_max_bytes, bodies_max_bytes;
    const char *public_host; /* "" when unset; the strings are the environment's */
    const char *engine;
    bool auth_off;
    bool register_open;
    bool testing;
};

/* Reads the environment. ERR_BAD_INPUT says which variable is wrong and what would be right. */
int settings_load(struct settings *out, struct err *err);

#endif
