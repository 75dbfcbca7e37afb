/* Owns the choice between a root in memory and one on disk, the factors between limits and
 * reservations, and the words in which a figure is refused. Refuses a named limit that this host
 * would not enforce: nothing that was asked for is ignored in silence. */
#include "core/resources.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "core/core.h"
#include "engine/engine.h"

#define MEMORY_MIN (UINT64_C(16) << 20)
#define STORAGE_MIN (UINT64_C(64) << 10)
#define CPU_MILLIS_MIN 10
#define FACTOR_ONE 1000 /* factors are in thousandths */

static const struct {
    const char *name;
    uint64_t capability;
} resource_names[] = {
    {"ram", ENGINE_CAP_MEMORY},
    {"cpu", ENGINE_CAP_CPU},
    {"pids", ENGINE_CAP_PIDS},
    {"storage", ENGINE_CAP_STORAGE},
};

static uint64_t min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t max_u64(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

const char *resources_name(unsigned index, uint64_t *out_capability)
{
    if (index >= ARRAY_SIZE(resource_names))
        return NULL;
    *out_capability = resource_names[index].capability;
    return resource_names[index].name;
}

/* Past "ram, cpu: " at the start of a clause; NULL where no names are. *out_named: what is one. */
static const char *skip_names(const char *clause, const char *what, bool *out_named)
{
    *out_named = false;
    for (;;) {
        size_t size = strspn(clause, "abcdefghijklmnopqrstuvwxyz_");
        if (size == 0)
            return NULL;
        *out_named |= size == strlen(what) && memcmp(clause, what, size) == 0;
        clause += size;
        if (strncmp(clause, ": ", 2) == 0)
            return clause + 2;
        if (strncmp(clause, ", ", 2) != 0)
            return NULL;
        clause += 2;
    }
}

/* The end of a clause: the next begins with names, so a reason may hold a semicolon. */
static const char *clause_end(const char *clause)
{
    const char *at = clause;
    bool named = false;
    while ((at = strstr(at, "; ")) && !skip_names(at + 2, "", &named))
        at += 2;
    return at ? at : clause + strlen(clause);
}

void resources_missing(const struct engine_info *info, const char *what,
                       char out[static RESOURCES_MISSING_SIZE])
{
    const char *all = info->missing[0] != '\0' ? info->missing : "its engine does not say why";
    const char *why = all;
    size_t size = strlen(all);
    for (const char *at = all; *at != '\0';) {
        const char *end = clause_end(at);
        bool named = false;
        const char *reason = skip_names(at, what, &named);
        if (named && reason) {
            why = reason;
            size = (size_t)(end - reason);
            break;
        }
        at = *end != '\0' ? end + 2 : end;
    }
    (void)snprintf(out, RESOURCES_MISSING_SIZE, "%.*s", (int)size, why);
}

/* The part of size that a factor in thousandths leaves to be reserved, rounded up. */
static uint64_t reserved_part(uint64_t size_bytes, uint32_t factor_millis)
{
    uint64_t factor = max_u64(factor_millis, FACTOR_ONE);
    uint64_t whole = size_bytes / factor * FACTOR_ONE;
    return whole + (size_bytes % factor * FACTOR_ONE + factor - 1) / factor;
}

/* What sandboxes made ahead reserve together: a quarter of all at most. */
static uint64_t ahead_bytes(const struct core_config *config, uint64_t memory_bytes)
{
    return min_u64(config->reserve_min_bytes * config->pool_max, memory_bytes / 4);
}

static uint64_t memory_budget(const struct core_config *config, const struct engine_info *info)
{
    return config->memory_budget_bytes != 0 ? config->memory_budget_bytes
                                            : info->memory_bytes / 5 * 4;
}

/* Whether roots on disk are reserved. Those of an engine that has no others and holds none to its
 * size (containers on a daemon's disk) are on a disk that nobody here knows, unless the operator
 * says a figure. */
static bool counts_disk(const struct core_config *config, const struct engine_info *info)
{
    bool holds = info->storage_bytes != 0 || (info->capabilities & ENGINE_CAP_STORAGE) != 0;
    bool known = info->disk_bytes != ENGINE_DISK_UNKNOWN || config->disk_budget_bytes != 0;
    return holds && known && (info->capabilities & ENGINE_CAP_DISK) != 0;
}

unsigned resources_pool_max(const struct core_config *config, const struct engine_info *info)
{
    uint64_t each = max_u64(config->reserve_min_bytes, 1);
    return (unsigned)min_u64(ahead_bytes(config, memory_budget(config, info)) / each,
                             config->pool_max);
}

struct reservation resources_budget(const struct core_config *config,
                                    const struct engine_info *info)
{
    struct reservation budget = {.memory_bytes = memory_budget(config, info)};
    budget.memory_bytes -= ahead_bytes(config, budget.memory_bytes);
    if (counts_disk(config, info)) {
        budget.disk_bytes = config->disk_budget_bytes;
        if (budget.disk_bytes == 0)
            budget.disk_bytes = info->disk_bytes / 5 * 4;
    }
    return budget;
}

static int check_enforced(const struct engine_info *info, const char *field, uint64_t asked,
                          uint64_t capability, struct err *err)
{
    char why[RESOURCES_MISSING_SIZE];
    if (asked == 0 || (info->capabilities & capability) != 0)
        return 0;
    resources_missing(info, field, why);
    return err_public(err, ERR_UNSUPPORTED, "resources.%s: this host can't enforce it: %s", field,
                      why);
}

static int check_host(const char *field, uint64_t asked, uint64_t host, const char *unit,
                      struct err *err)
{
    if (asked <= host)
        return 0;
    return err_public(err, ERR_BAD_INPUT,
                      "resources.%s: %" PRIu64 " %s were asked for, this host has %" PRIu64, field,
                      asked, unit, host);
}

static int check_least(const char *field, uint64_t asked, uint64_t least, const char *unit,
                       struct err *err)
{
    if (asked == 0 || asked >= least)
        return 0;
    return err_public(err, ERR_BAD_INPUT,
                      "resources.%s: %" PRIu64 " %s are too few, the least is %" PRIu64, field,
                      asked, unit, least);
}

static int plan_memory(const struct core_config *config, const struct engine_info *info,
                       const struct resources_ask *ask, struct resources *out, struct err *err)
{
    int result = check_enforced(info, "ram", ask->memory_bytes, ENGINE_CAP_MEMORY, err);
    if (result == 0)
        result = check_least("ram", ask->memory_bytes, MEMORY_MIN, "bytes", err);
    if (result == 0)
        result = check_host("ram", ask->memory_bytes, info->memory_bytes, "bytes", err);
    out->memory_bytes = ask->memory_bytes != 0 ? ask->memory_bytes
                                               : min_u64(config->memory_bytes, info->memory_bytes);
    return result;
}

static int plan_cpu(const struct core_config *config, const struct engine_info *info,
                    const struct resources_ask *ask, struct resources *out, struct err *err)
{
    int result = check_enforced(info, "cpu", ask->cpu_millis, ENGINE_CAP_CPU, err);
    if (result == 0)
        result = check_least("cpu", ask->cpu_millis, CPU_MILLIS_MIN, "thousandths of a core", err);
    if (result == 0)
        result = check_host("cpu", ask->cpu_millis, info->cpu_millis, "thousandths of a core", err);
    out->cpu_millis = ask->cpu_millis != 0
                          ? ask->cpu_millis
                          : (uint32_t)min_u64(config->cpu_millis, info->cpu_millis);
    return result;
}

/* How many are free now, only the engine knows. */
static int plan_gpus(const struct engine_info *info, const struct resources_ask *ask,
                     struct resources *out, struct err *err)
{
    if (ask->gpu_count > 0 && ((info->capabilities & ENGINE_CAP_GPU) == 0 || info->gpu_count == 0))
        return err_public(err, ERR_UNSUPPORTED,
                          "resources.gpu: %" PRIu32 " were asked for, this host has none to give",
                          ask->gpu_count);
    if (ask->gpu_count > info->gpu_count)
        return err_public(err, ERR_BAD_INPUT,
                          "resources.gpu: %" PRIu32 " were asked for, this host has %" PRIu32,
                          ask->gpu_count, info->gpu_count);
    out->gpu_count = ask->gpu_count;
    return 0;
}

/* Neither memory nor disk can hold the root. in_memory: the largest that fits there. */
static int refuse_storage(const struct engine_info *info, const struct resources *plan,
                          uint64_t asked, uint64_t in_memory, struct err *err)
{
    char why[RESOURCES_MISSING_SIZE];
    resources_missing(info, "disk", why);
    if ((info->capabilities & ENGINE_CAP_DISK) != 0)
        return err_public(err, ERR_BAD_INPUT,
                          "resources.storage: %" PRIu64 " bytes were asked for, this host has"
                          " %" PRIu64 " on disk and, with resources.ram of %" PRIu64 ", %" PRIu64
                          " in memory",
                          asked, info->disk_bytes, plan->memory_bytes, in_memory);
    if (asked > info->storage_bytes || asked > info->memory_bytes / 2)
        return err_public(err, ERR_BAD_INPUT,
                          "resources.storage: %" PRIu64 " bytes were asked for, this host has"
                          " %" PRIu64 " in memory and none on disk: %.180s",
                          asked, min_u64(info->storage_bytes, info->memory_bytes / 2), why);
    if ((info->capabilities & ENGINE_CAP_MEMORY) == 0) /* then resources.ram would be refused */
        return err_public(err, ERR_BAD_INPUT,
                          "resources.storage: %" PRIu64 " bytes were asked for; files are held in"
                          " memory here, %" PRIu64 " at most",
                          asked, in_memory);
    return err_public(err, ERR_BAD_INPUT,
                      "resources.storage: %" PRIu64 " bytes are more than half of resources.ram"
                      " (%" PRIu64 "); files are held in memory here and count as such. Ask for"
                      " %" PRIu64 " at most, or for resources.ram of %" PRIu64,
                      asked, plan->memory_bytes, in_memory, 2 * asked);
}

static int plan_storage(const struct core_config *config, const struct engine_info *info,
                        const struct resources_ask *ask, struct resources *out, struct err *err)
{
    bool has_disk = (info->capabilities & ENGINE_CAP_DISK) != 0;
    uint64_t asked = ask->storage_bytes;
    uint64_t in_memory = min_u64(out->memory_bytes / 2, info->storage_bytes);
    int result = check_enforced(info, "storage", asked, ENGINE_CAP_STORAGE, err);
    if (result == 0)
        result = check_least("storage", asked, STORAGE_MIN, "bytes", err);
    if (result != 0)
        return result;
    if (ask->needs_disk && !has_disk) {
        char why[RESOURCES_MISSING_SIZE];
        resources_missing(info, "disk", why);
        return err_public(err, ERR_UNSUPPORTED,
                          "files can't be kept: this host has no writable roots on disk: %s", why);
    }
    /* An engine without roots in memory has them on disk, or says no figure of them at all. */
    out->disk_only = info->storage_bytes == 0 && has_disk;
    out->disk = ask->needs_disk || asked > in_memory || out->disk_only;
    if (out->disk && (!has_disk || asked > info->disk_bytes))
        return refuse_storage(info, out, asked, in_memory, err);
    /* A default takes what there is: it never moves a small sandbox to the disk. */
    out->storage_bytes =
        asked != 0 ? asked
                   : min_u64(config->storage_bytes, out->disk ? info->disk_bytes : in_memory);
    return 0;
}

static int check_budget(const char *field, uint64_t asked, uint64_t reserve, uint64_t budget,
                        struct err *err)
{
    if (reserve <= budget)
        return 0;
    return err_public(err, ERR_BAD_INPUT,
                      "resources.%s: %" PRIu64 " bytes reserve %" PRIu64 ", which is more than the"
                      " %" PRIu64 " that this server gives to all sandboxes together",
                      field, asked, reserve, budget);
}

int resources_plan(const struct core_config *config, const struct engine_info *info,
                   const struct resources_ask *ask, struct resources *out, struct err *err)
{
    struct resources plan = {0};
    int result = plan_memory(config, info, ask, &plan, err);
    if (result == 0)
        result = plan_storage(config, info, ask, &plan, err);
    if (result == 0)
        result = plan_cpu(config, info, ask, &plan, err);
    if (result == 0)
        result = plan_gpus(info, ask, &plan, err);
    if (result != 0)
        return result;
    plan.reserve.memory_bytes =
        max_u64(config->reserve_min_bytes,
                reserved_part(plan.memory_bytes, config->memory_overcommit_millis));
    plan.reserve.memory_bytes += info->runtime_memory_bytes; /* all of it is taken, always */
    if (plan.disk && counts_disk(config, info))
        plan.reserve.disk_bytes = reserved_part(plan.storage_bytes, config->disk_overcommit_millis);
    const struct reservation budget = resources_budget(config, info);
    result =
        check_budget("ram", plan.memory_bytes, plan.reserve.memory_bytes, budget.memory_bytes, err);
    if (result == 0)
        result = check_budget("storage", plan.storage_bytes, plan.reserve.disk_bytes,
                              budget.disk_bytes, err);
    if (result == 0)
        *out = plan;
    return result;
}
