/* Owns the defaults and limits of an execution: turns a request into figures, argv and environment
 * that the host can give, or refuses it in words. Makes nothing. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "core/core_internal.h"
#include "lang/lang.h"

#define MEMORY_MIN (UINT64_C(16) << 20)
#define ENV_BYTES_MAX (256U * 1024U) /* all variables together fit into one frame */
#define ENV_COUNT_MAX 1024
#define INFO_WAIT_NS (10 * CLOCK_NS_PER_S)

static const char *const base_env[] = {
    "PATH=/usr/local/bin:/usr/bin:/bin",
    "HOME=/home/sandbox",
    "USER=sandbox",
    "LANG=C.UTF-8",
    "TMPDIR=/tmp",
};

static uint64_t min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static int check_host(const char *field, uint64_t asked, uint64_t host, const char *unit,
                      struct err *err)
{
    if (asked <= host)
        return 0;
    return err_public(err, ERR_BAD_INPUT,
                      "%s: %" PRIu64 " %s were asked for, this host has %" PRIu64, field, asked,
                      unit, host);
}

static int plan_memory(const struct core *core, const struct execution_request *request,
                       const struct engine_info *info, struct plan *plan, struct err *err)
{
    uint64_t asked = request->memory_bytes;
    if (asked != 0 && asked < MEMORY_MIN)
        return err_public(err, ERR_BAD_INPUT,
                          "resources.ram: %" PRIu64 " bytes are too few, the least is %" PRIu64,
                          asked, MEMORY_MIN);
    plan->memory_bytes =
        asked != 0 ? asked : min_u64(core->config.memory_bytes, info->memory_bytes);
    return check_host("resources.ram", plan->memory_bytes, info->memory_bytes, "bytes", err);
}

static int plan_storage(const struct core *core, const struct execution_request *request,
                        const struct engine_info *info, struct plan *plan, struct err *err)
{
    uint64_t half = plan->memory_bytes / 2;
    uint64_t asked = request->storage_bytes;
    plan->storage_bytes =
        asked != 0 ? asked
                   : min_u64(min_u64(core->config.storage_bytes, half), info->storage_bytes);
    int result =
        check_host("resources.storage", plan->storage_bytes, info->storage_bytes, "bytes", err);
    if (result == 0 && plan->storage_bytes > half)
        result = err_public(err, ERR_BAD_INPUT,
                            "resources.storage: %" PRIu64 " bytes are more than half of"
                            " resources.ram (%" PRIu64 "); files are held in memory here and count"
                            " as such",
                            plan->storage_bytes, plan->memory_bytes);
    return result;
}

static int plan_figures(struct core *core, const struct execution_request *request,
                        struct plan *plan, struct err *err)
{
    struct engine_info info;
    int result = core_engine_info(core, clock_now_ns() + INFO_WAIT_NS, &info, err);
    if (result == 0 && info.unavailable[0] != '\0')
        result = err_public(err, ERR_UNAVAILABLE, "the engine can make no sandbox here: %.200s",
                            info.unavailable);
    if (result == 0)
        result = plan_memory(core, request, &info, plan, err);
    if (result == 0)
        result = plan_storage(core, request, &info, plan, err);
    if (result != 0)
        return result;
    plan->cpu_millis = request->cpu_millis != 0
                           ? request->cpu_millis
                           : (uint32_t)min_u64(core->config.cpu_millis, info.cpu_millis);
    result = check_host("resources.cpu", plan->cpu_millis, info.cpu_millis, "thousandths of a core",
                        err);
    if (result != 0)
        return result;
    plan->timeout_ms = request->timeout_ms != 0
                           ? request->timeout_ms
                           : min_u64(core->config.timeout_ms, core->config.timeout_max_ms);
    if (plan->timeout_ms > core->config.timeout_max_ms)
        return err_public(err, ERR_BAD_INPUT,
                          "timeout: %" PRIu64 " ms were asked for, the most is %" PRIu64 " ms",
                          plan->timeout_ms, core->config.timeout_max_ms);
    return 0;
}

static int plan_argv(const struct lang *lang, struct plan *plan, struct err *err)
{
    plan->argv = calloc(LANG_ARGS_MAX + 1, sizeof(*plan->argv));
    if (!plan->argv)
        return err_set(err, ERR_INTERNAL, "no memory for arguments");
    for (size_t i = 0; i < LANG_ARGS_MAX && lang->run[i]; i++)
        plan->argv[plan->argc++] =
            strcmp(lang->run[i], "{source}") == 0 ? lang->source : lang->run[i];
    (void)snprintf(plan->source_path, sizeof(plan->source_path), "/workspace/%s", lang->source);
    return 0;
}

/* Sets one variable: a later one of the same name takes the place of the earlier. */
static void set_env(struct plan *plan, const char *entry)
{
    const char *equals = strchr(entry, '=');
    size_t name_size = equals ? (size_t)(equals - entry) + 1 : 0;
    for (size_t i = 0; i < plan->envc && plan->envp[i]; i++) {
        if (strncmp(plan->envp[i], entry, name_size) == 0) {
            plan->envp[i] = entry;
            return;
        }
    }
    plan->envp[plan->envc++] = entry;
}

static int plan_env(const struct execution_request *request, struct plan *plan, struct err *err)
{
    size_t base_count = sizeof(base_env) / sizeof(base_env[0]);
    if (request->env_count > ENV_COUNT_MAX)
        return err_public(err, ERR_BAD_INPUT, "env: %zu variables, the most is %d",
                          request->env_count, ENV_COUNT_MAX);
    plan->envp = calloc(base_count + LANG_ENV_MAX + request->env_count + 1, sizeof(*plan->envp));
    if (!plan->envp)
        return err_set(err, ERR_INTERNAL, "no memory for variables");
    for (size_t i = 0; i < base_count; i++)
        set_env(plan, base_env[i]);
    for (size_t i = 0; i < LANG_ENV_MAX && request->lang->env[i]; i++)
        set_env(plan, request->lang->env[i]);
    size_t size = 0;
    for (size_t i = 0; i < request->env_count; i++) {
        const char *entry = request->env[i];
        const char *equals = strchr(entry, '=');
        if (!equals || equals == entry)
            return err_public(err, ERR_BAD_INPUT, "env: a variable without a name");
        size += strlen(entry) + 1;
        if (size > ENV_BYTES_MAX)
            return err_public(err, ERR_BAD_INPUT, "env: more than %u bytes", ENV_BYTES_MAX);
        set_env(plan, entry);
    }
    return 0;
}

static int check_files(const struct execution_request *request, struct err *err)
{
    for (size_t i = 0; i < request->file_count; i++) {
        const char *path = request->files[i].path;
        if (!path || path[0] == '\0' || strlen(path) >= SANDBOX_PATH_MAX - 32)
            return err_public(err, ERR_BAD_INPUT, "files: path number %zu is empty or too long",
                              i + 1);
    }
    return 0;
}

int plan_make(struct core *core, const struct execution_request *request, struct plan *out,
              struct err *err)
{
    struct plan plan = {0};
    int result = check_files(request, err);
    if (result == 0)
        result = plan_argv(request->lang, &plan, err);
    if (result == 0)
        result = plan_env(request, &plan, err);
    if (result == 0)
        result = plan_figures(core, request, &plan, err);
    if (result != 0) {
        plan_done(&plan);
        return result;
    }
    *out = plan;
    return 0;
}

void plan_done(struct plan *plan)
{
    free(plan->argv);
    free(plan->envp);
    memset(plan, 0, sizeof(*plan));
}
