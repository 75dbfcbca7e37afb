/* Owns the defaults of an execution: turns a request into an image, a profile, figures, argv and
 * environment that the host can give, or refuses it in words. Makes nothing. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "core/core_internal.h"
#include "core/languages.h"
#include "core/network_use.h"
#include "lang/lang.h"

#define ENV_BYTES_MAX (256U * 1024U) /* all variables together fit into one frame */
#define ENV_COUNT_MAX 1024
#define INFO_WAIT_NS (10 * CLOCK_NS_PER_S)
#define INFO_FRESH_NS CLOCK_NS_PER_S

static const char *const base_env[] = {
    "PATH=/usr/local/bin:/usr/bin:/bin",
    "HOME=/home/sandbox",
    "USER=sandbox",
    "LANG=C.UTF-8",
    "TMPDIR=/tmp",
};

const char *plan_images(const struct engine_info *info)
{
    return info->images[0] != '\0' ? info->images : "host";
}

/* The word after that at. */
static const char *next_word(const char *at)
{
    at += strcspn(at, " ");
    return at + strspn(at, " ");
}

/* How many names come before it; -1: it is none of them. */
static int find_image(const struct engine_info *info, const char *name)
{
    size_t size = strlen(name);
    const char *at = plan_images(info);
    for (int i = 0; *at; i++, at = next_word(at)) {
        if (strcspn(at, " ") == size && memcmp(at, name, size) == 0)
            return i;
    }
    return -1;
}

static bool has_image(const struct engine_info *info, const char *name)
{
    return find_image(info, name) >= 0;
}

void plan_image_id(const struct engine_info *info, const char *image,
                   char out[static ENGINE_IMAGE_ID_MAX])
{
    const char *at = info->image_ids;
    int index = find_image(info, image);
    for (int i = 0; i < index; i++)
        at = next_word(at);
    size_t size = index < 0 ? 0 : strcspn(at, " ");
    bool said = size < ENGINE_IMAGE_ID_MAX && strncmp(at, "-", size) != 0;
    (void)snprintf(out, ENGINE_IMAGE_ID_MAX, "%.*s", said ? (int)size : 0, at);
}

/* Asks the engine anew, as what it said may not be so any more. */
static int refresh(const struct plan *plan, struct engine_info *info, struct err *err)
{
    return slot_info(plan->slot, INFO_FRESH_NS, clock_now_ns() + INFO_WAIT_NS, info, err);
}

/* An image that the operator added since the engine was asked is there as well. */
static int plan_image(const struct execution_request *request, struct engine_info *info,
                      struct plan *plan, struct err *err)
{
    const char *images = plan_images(info);
    int size = request->image ? (int)strnlen(request->image, sizeof(plan->image))
                              : (int)strcspn(images, " ");
    const char *name = request->image ? request->image : images;
    if (size >= (int)sizeof(plan->image))
        return err_public(err, ERR_BAD_INPUT, "image: longer than the name of one");
    (void)snprintf(plan->image, sizeof(plan->image), "%.*s", size, name);
    if (has_image(info, plan->image))
        return 0;
    int result = refresh(plan, info, err);
    if (result != 0 || has_image(info, plan->image))
        return result;
    return err_public(err, ERR_BAD_INPUT, "image: there is no \"%.63s\"; there is: %.200s",
                      plan->image, plan_images(info));
}

static int plan_profile(const struct execution_request *request, const struct engine_info *info,
                        struct plan *plan, struct err *err)
{
    plan->profile = request->profile ? request->profile : "strict";
    if (strcmp(plan->profile, "strict") == 0)
        return 0;
    if (strcmp(plan->profile, "container") != 0)
        return err_public(err, ERR_BAD_INPUT,
                          "profile: expected \"strict\" or \"container\", got \"%.40s\"",
                          plan->profile);
    if ((info->capabilities & ENGINE_CAP_CONTAINER) != 0)
        return 0;
    char why[RESOURCES_MISSING_SIZE];
    resources_missing(info, "container", why);
    return err_public(err, ERR_UNSUPPORTED, "profile: this host can't offer \"container\": %s",
                      why);
}

static int plan_timeout(const struct core *core, const struct execution_request *request,
                        struct plan *plan, struct err *err)
{
    const struct core_config *config = &core->config;
    plan->timeout_ms = request->timeout_ms;
    if (plan->timeout_ms == 0)
        plan->timeout_ms = config->timeout_ms < config->timeout_max_ms ? config->timeout_ms
                                                                       : config->timeout_max_ms;
    if (plan->timeout_ms <= config->timeout_max_ms)
        return 0;
    return err_public(err, ERR_BAD_INPUT,
                      "timeout: %" PRIu64 " ms were asked for, the most is %" PRIu64 " ms",
                      plan->timeout_ms, config->timeout_max_ms);
}

/* The engine and what it can do now. */
static int plan_engine(struct core *core, const struct execution_request *request,
                       struct engine_info *info, struct plan *plan, struct err *err)
{
    const struct engine_ask ask = {
        .engine = request->engine, .runtime = request->runtime, .of_session = request->of_session};
    const char *runtime = NULL;
    int result = engines_choose(core, &ask, &plan->slot, &runtime, err);
    if (result == 0)
        result = slot_info(plan->slot, INT64_MAX, clock_now_ns() + INFO_WAIT_NS, info, err);
    if (result == 0 && info->unavailable[0] != '\0')
        result = refresh(plan, info, err);
    if (result == 0 && info->unavailable[0] != '\0') {
        result = err_public(err, ERR_UNAVAILABLE, "the engine can make no sandbox here: %.200s",
                            info->unavailable);
        if (err)
            err->retry_after_s = 1;
    }
    if (result != 0)
        return result;
    result = engines_runtime(plan->slot, runtime, info, plan->runtime, NULL);
    if (result != 0) {
        result = refresh(plan, info, err);
        if (result == 0)
            result = engines_runtime(plan->slot, runtime, info, plan->runtime, err);
    }
    plan->capabilities = info->capabilities;
    plan->runtime_memory_bytes = info->runtime_memory_bytes;
    return result;
}

/* What depends on the engine's host. An image that is looked for may have made the info anew, with
 * what another runtime can do and takes. */
static int plan_host(struct core *core, const struct execution_request *request,
                     struct engine_info *info, struct plan *plan, struct err *err)
{
    const struct resources_ask ask = {.memory_bytes = request->memory_bytes,
                                      .storage_bytes = request->storage_bytes,
                                      .cpu_millis = request->cpu_millis,
                                      .gpu_count = request->gpu_count};
    info->capabilities = plan->capabilities;
    info->runtime_memory_bytes = plan->runtime_memory_bytes;
    int result = plan_profile(request, info, plan, err);
    if (result == 0)
        result = resources_plan(&core->config, info, &ask, &plan->resources, err);
    plan->resources.reserve.engine = plan->slot->index;
    if (result == 0 && request->lang)
        result = languages_check(core, plan, request->lang, err);
    return result;
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

/* What leads to libraries by the variable of that entry; NULL: it does not. */
static const char *find_libraries_env(const struct lang *lang, const char *entry)
{
    size_t name_size = strcspn(entry, "=") + 1;
    for (size_t i = 0; i < LANG_ENV_MAX && lang->libraries_env[i]; i++) {
        if (strncmp(lang->libraries_env[i], entry, name_size) == 0)
            return lang->libraries_env[i] + name_size;
    }
    return NULL;
}

/* Sets the caller's list of folders with ours behind it. */
static int set_joined_env(struct plan *plan, const char *entry, const char *ours, struct err *err)
{
    size_t count = 0;
    if (!plan->joined)
        plan->joined = calloc(LANG_ENV_MAX + 1, sizeof(*plan->joined));
    while (plan->joined && plan->joined[count])
        count++;
    bool is_empty = strchr(entry, '=')[1] == '\0';
    char *text = NULL;
    if (!plan->joined || count == LANG_ENV_MAX ||
        asprintf(&text, "%s%s%s", entry, is_empty ? "" : ":", ours) < 0)
        return err_set(err, ERR_INTERNAL, "no memory for variables");
    plan->joined[count] = text;
    set_env(plan, text);
    return 0;
}

int plan_env(const struct execution_request *request, struct plan *plan, struct err *err)
{
    size_t base_count = sizeof(base_env) / sizeof(base_env[0]);
    if (request->env_count > ENV_COUNT_MAX)
        return err_public(err, ERR_BAD_INPUT, "env: %zu variables, the most is %d",
                          request->env_count, ENV_COUNT_MAX);
    plan->envp = calloc(base_count + 2 * LANG_ENV_MAX + NETWORK_ENV_MAX + request->env_count + 1,
                        sizeof(*plan->envp));
    if (!plan->envp)
        return err_set(err, ERR_INTERNAL, "no memory for variables");
    for (size_t i = 0; i < base_count; i++)
        set_env(plan, base_env[i]);
    for (size_t i = 0; request->lang && i < LANG_ENV_MAX && request->lang->env[i]; i++)
        set_env(plan, request->lang->env[i]);
    /* A kernel by frames gets what leads to libraries with the code; the others start with it. */
    const struct lang *lang = request->lang;
    bool later = !lang || (lang->kernel && lang->protocol == LANG_PROTOCOL_FRAMES);
    for (size_t i = 0; !later && i < LANG_ENV_MAX && lang->libraries_env[i]; i++)
        set_env(plan, lang->libraries_env[i]);
    size_t network_count = 0;
    const char *const *network = network_env(&plan->network, plan->image, &network_count);
    for (size_t i = 0; i < network_count; i++)
        set_env(plan, network[i]);
    size_t size = 0;
    for (size_t i = 0; i < request->env_count; i++) {
        const char *entry = request->env[i];
        const char *equals = strchr(entry, '=');
        if (!equals || equals == entry)
            return err_public(err, ERR_BAD_INPUT, "env: a variable without a name");
        size += strlen(entry) + 1;
        if (size > ENV_BYTES_MAX)
            return err_public(err, ERR_BAD_INPUT, "env: more than %u bytes", ENV_BYTES_MAX);
        const char *ours = request->cells && !later ? find_libraries_env(lang, entry) : NULL;
        if (!ours)
            set_env(plan, entry);
        else if (set_joined_env(plan, entry, ours, err) != 0)
            return -ERR_INTERNAL;
    }
    return 0;
}

static int plan_network(struct core *core, const struct execution_request *request,
                        struct plan *plan, struct err *err)
{
    int result = network_plan(core->config.network, &request->network, &plan->network, err);
    return result == 0 ? network_check(core, plan->slot, plan->capabilities, &plan->network, err)
                       : result;
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
    const struct lang *lang = request->lang;
    plan.kernel = lang && lang->kernel && (request->cells || lang->scripts) ? lang : NULL;
    bool warm = core->config.zygote != CORE_ZYGOTE_OFF && plan.kernel &&
                plan.kernel->protocol == LANG_PROTOCOL_FRAMES;
    plan.zygote = warm ? lang->name : "";
    struct engine_info info;
    int result = check_files(request, err);
    if (result == 0)
        result = plan_timeout(core, request, &plan, err);
    if (result == 0)
        result = plan_engine(core, request, &info, &plan, err);
    if (result == 0)
        result = plan_image(request, &info, &plan, err);
    if (result == 0)
        result = plan_network(core, request, &plan, err);
    if (result == 0)
        result = plan_env(request, &plan, err);
    if (result == 0)
        result = plan_host(core, request, &info, &plan, err);
    if (result != 0) {
        plan_done(&plan);
        return result;
    }
    *out = plan;
    return 0;
}

void plan_done(struct plan *plan)
{
    free(plan->envp);
    for (size_t i = 0; plan->joined && plan->joined[i]; i++)
        free(plan->joined[i]);
    free(plan->joined);
    network_done(&plan->network);
    memset(plan, 0, sizeof(*plan));
}
