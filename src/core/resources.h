/* What a sandbox may use, and what admission reserves for it: from a request, the operator's
 * settings and what the engine's host has. Only arithmetic; asks nobody and makes nothing.
 *
 * A limit is not a reservation. A limit (512 MB of memory) ends code that goes beyond it; most code
 * stays far below. So admission counts a part of the limit only, by the operator's factor. */
#ifndef BERTH_CORE_RESOURCES_H
#define BERTH_CORE_RESOURCES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "core/admission.h"

/* A reason that an answer has room for beside its own words. */
#define RESOURCES_MISSING_SIZE 201

struct core_config;
struct engine_info;

/* Zero: the request names none. */
struct resources_ask {
    uint64_t memory_bytes, storage_bytes;
    uint32_t cpu_millis;
    uint32_t gpu_count;
    bool needs_disk; /* its files have to outlive its processes */
};

struct resources {
    uint64_t memory_bytes, storage_bytes;
    uint32_t cpu_millis;
    uint32_t gpu_count;
    bool disk;      /* the writable root is on disk, else in memory */
    bool disk_only; /* since its engine has no others */
    struct reservation reserve;
};

/* The figures of one sandbox. A root is in memory when it fits into half of the sandbox's memory
 * and nothing needs the disk; else on disk. An engine with no roots in memory
 * (storage_bytes 0) has them all on disk. ERR_BAD_INPUT (public) names the field, what there is
 * and what would be right; ERR_UNSUPPORTED (public): the field names what this host can't enforce.
 */
int resources_plan(const struct core_config *config, const struct engine_info *info,
                   const struct resources_ask *ask, struct resources *out, struct err *err);

/* How many sandboxes may be made ahead: the operator's figure, as far as a quarter of the memory is
 * enough for them. What they reserve is not in the budget below. */
unsigned resources_pool_max(const struct core_config *config, const struct engine_info *info);

/* All that may be reserved at once on that host: the operator's figure, or four fifths of what it
 * has. */
struct reservation resources_budget(const struct core_config *config,
                                    const struct engine_info *info);

/* Resources in the words of a request, and the capability that enforces each; NULL past the last.
 */
const char *resources_name(unsigned index, uint64_t *out_capability);

/* Why this host can't do what, in the engine's words: the reason of the clause of info->missing
 * that names it ("ram, cpu: the reason; disk: another"), or all of them where none does. */
void resources_missing(const struct engine_info *info, const char *what,
                       char out[static RESOURCES_MISSING_SIZE]);

#endif
