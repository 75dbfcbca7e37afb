/* A small sandbox that every host of a native engine can make. */
#ifndef BERTH_TESTS_UNIT_SANDBOX_SPEC_H
#define BERTH_TESTS_UNIT_SANDBOX_SPEC_H

#include "wire/engine_msg.h"

static const struct engine_create small_sandbox = {
    .id = "sb-1",
    .image = "host",
    .profile = "strict",
    .memory_bytes = 64U << 20,
    .storage_bytes = 16U << 20,
    .cpu_millis = 1000,
    .pids_max = 32,
    .open_files_max = 256,
    .orphan_ms = 60000,
};

#endif
