/* Owns the table of engines, the choice among them, and the threads that reconcile: one an engine,
 * so that one that does not answer keeps no other waiting. Knows no engine by its name. */
#include "core/engines.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "core/core_internal.h"
#include "core/layers.h"
#include "core/network_use.h"
#include "core/pool.h"
#include "core/session_internal.h"

#define RECONCILE_RETRY_NS CLOCK_NS_PER_S
#define PROBE_NS (5 * CLOCK_NS_PER_S)
#define LOOK_NS (30 * CLOCK_NS_PER_S) /* between two looks at what nobody says anything of */
#define NAMES_SIZE 200

_Static_assert(CORE_ENGINES_MAX <= ADMISSION_ENGINES_MAX, "each engine has a budget");

/* ---- which there are ---- */

struct engine_slot *engines_find(struct core *core, const char *name)
{
    for (size_t i = 0; i < core->slot_count; i++) {
        if (strcmp(core->slots[i].name, name) == 0)
            return &core->slots[i];
    }
    return NULL;
}

/* The names, with commas between, as far as there is room. */
static void list_names(const struct core *core, char out[static NAMES_SIZE])
{
    size_t used = 0;
    out[0] = '\0';
    for (size_t i = 0; i < core->slot_count && used < NAMES_SIZE - 1; i++)
        used += (size_t)snprintf(out + used, NAMES_SIZE - used, "%s%s", i > 0 ? ", " : "",
                                 core->slots[i].name);
}

/* Whether word, "engine" or "engine/runtime", names the engine; *out_runtime: NULL or its text. */
static bool names_engine(const char *word, const char *engine, const char **out_runtime)
{
    size_t size = strcspn(word, "/");
    *out_runtime = word[size] == '/' ? word + size + 1 : NULL;
    return strlen(engine) == size && memcmp(word, engine, size) == 0;
}

/* The default of a family. */
static struct engine_slot *default_of(struct core *core, bool of_session, const char **out_runtime)
{
    const struct core_config *config = &core->config;
    const char *word = of_session ? config->engine_sessions : config->engine_execute;
    *out_runtime = NULL;
    for (size_t i = 0; word && i < core->slot_count; i++) {
        if (names_engine(word, core->slots[i].name, out_runtime))
            return &core->slots[i];
    }
    *out_runtime = NULL;
    return core->slot_count > 0 ? &core->slots[0] : NULL;
}

int engines_choose(struct core *core, const struct engine_ask *ask, struct engine_slot **out,
                   const char **out_runtime, struct err *err)
{
    const char *runtime = NULL;
    struct engine_slot *preferred = default_of(core, ask->of_session, &runtime);
    struct engine_slot *slot = ask->engine ? engines_find(core, ask->engine) : preferred;
    if (!slot) {
        char names[NAMES_SIZE];
        list_names(core, names);
        return err_public(err, ERR_BAD_INPUT, "engine: there is no \"%.40s\" here; there is: %s",
                          ask->engine ? ask->engine : "", names);
    }
    /* Who names only the engine that he would have got is not moved to another runtime of it. */
    *out = slot;
    *out_runtime = ask->runtime ? ask->runtime : slot == preferred ? runtime : NULL;
    return 0;
}

static bool is_same(const char *left, const char *right)
{
    return left && right ? strcmp(left, right) == 0 : left == right;
}

int engines_allow(struct core *core, const struct engine_ask *ask, struct err *err)
{
    const struct engine_ask nothing = {.of_session = ask->of_session};
    struct engine_slot *wanted = NULL;
    struct engine_slot *given = NULL;
    const char *wanted_runtime = NULL;
    const char *given_runtime = NULL;
    if (core->config.engine_choice || (!ask->engine && !ask->runtime))
        return 0;
    int result = engines_choose(core, ask, &wanted, &wanted_runtime, err);
    if (result == 0)
        result = engines_choose(core, &nothing, &given, &given_runtime, err);
    if (result != 0 || (wanted == given && is_same(wanted_runtime, given_runtime)))
        return result;
    return err_public(err, ERR_FORBIDDEN,
                      "%s: the operator of this server chooses (BERTH_ENGINE_CHOICE); name none",
                      ask->engine && wanted != given ? "engine" : "runtime");
}

static int refuse_runtime(const struct engine_slot *slot, const char *runtime,
                          const struct engine_info *info, struct err *err)
{
    char names[NAMES_SIZE] = "";
    size_t used = 0;
    for (size_t i = 0; i < info->runtime_count && used < NAMES_SIZE - 1; i++)
        used += (size_t)snprintf(names + used, NAMES_SIZE - used, "%s%s", i > 0 ? ", " : "",
                                 info->runtimes[i].name);
    return err_public(err, ERR_BAD_INPUT,
                      "runtime: the engine %s has no \"%.40s\" here; there is: %s", slot->name,
                      runtime, names[0] != '\0' ? names : "no choice");
}

int engines_runtime(const struct engine_slot *slot, const char *runtime, struct engine_info *info,
                    char out[static ENGINE_NAME_MAX], struct err *err)
{
    const struct engine_runtime *found = NULL;
    out[0] = '\0';
    for (size_t i = 0; i < info->runtime_count && !found; i++) {
        if (!runtime || strcmp(info->runtimes[i].name, runtime) == 0)
            found = &info->runtimes[i];
    }
    if (!found)
        return runtime ? refuse_runtime(slot, runtime, info, err) : 0;
    (void)snprintf(out, ENGINE_NAME_MAX, "%s", found->name);
    info->capabilities = found->capabilities;
    info->runtime_memory_bytes = found->memory_bytes;
    return 0;
}

/* ---- one of them ---- */

static int say_away(struct err *err, const char *words)
{
    int result = err_public(err, ERR_UNAVAILABLE, "%s", words);
    if (err)
        err->retry_after_s = 1;
    return result;
}

int slot_engine(const struct engine_slot *slot, struct engine **out, struct err *err)
{
    if (!slot)
        return say_away(err, "this server was started without the engine of this sandbox "
                             "(BERTH_ENGINES)");
    (void)pthread_mutex_lock(&slot->core->lock);
    struct engine *engine = slot->engine;
    (void)pthread_mutex_unlock(&slot->core->lock);
    if (!engine)
        return say_away(err, "the sandbox engine is not there yet");
    *out = engine;
    return 0;
}

void slot_set_info(struct engine_slot *slot, const struct engine_info *info)
{
    struct core *core = slot->core;
    struct reservation budget = resources_budget(&core->config, info);
    budget.engine = slot->index;
    (void)pthread_mutex_lock(&core->lock);
    slot->info = *info;
    slot->info_known = true;
    slot->info_ns = clock_now_ns();
    slot->failed_ns = 0;
    /* Under the lock: whoever finds the info known goes on to reserve from the budget, and of two
     * that were told the later one counts. */
    admission_set_budget(core->admission, &budget);
    pool_set_max(core->pool, slot, resources_pool_max(&core->config, info));
    (void)pthread_mutex_unlock(&core->lock);
}

void slot_image_id(const struct engine_slot *slot, const char *image,
                   char out[static ENGINE_IMAGE_ID_MAX])
{
    (void)pthread_mutex_lock(&slot->core->lock);
    plan_image_id(&slot->info, image, out);
    (void)pthread_mutex_unlock(&slot->core->lock);
}

bool slot_knows_info(const struct engine_slot *slot)
{
    (void)pthread_mutex_lock(&slot->core->lock);
    bool known = slot->info_known;
    (void)pthread_mutex_unlock(&slot->core->lock);
    return known;
}

bool slot_seems_away(const struct engine_slot *slot)
{
    (void)pthread_mutex_lock(&slot->core->lock);
    bool away = slot->failed_ns != 0;
    (void)pthread_mutex_unlock(&slot->core->lock);
    return away;
}

void slot_note_away(struct engine_slot *slot)
{
    (void)pthread_mutex_lock(&slot->core->lock);
    slot->failed_ns = clock_now_ns();
    slot_reconcile_locked(slot);
    (void)pthread_mutex_unlock(&slot->core->lock);
}

static bool known_info(const struct engine_slot *slot, int64_t age_max_ns, struct engine_info *out)
{
    (void)pthread_mutex_lock(&slot->core->lock);
    bool known = slot->info_known && clock_now_ns() - slot->info_ns < age_max_ns;
    if (known)
        *out = slot->info;
    (void)pthread_mutex_unlock(&slot->core->lock);
    return known;
}

int slot_info(struct engine_slot *slot, int64_t age_max_ns, int64_t deadline_ns,
              struct engine_info *out, struct err *err)
{
    struct engine *engine = NULL;
    if (slot && known_info(slot, age_max_ns, out))
        return 0;
    int result = slot_engine(slot, &engine, err);
    if (result != 0)
        return result;
    result = engine_probe(engine, deadline_ns, out, err);
    if (result == 0) {
        slot_set_info(slot, out);
        return 0;
    }
    (void)pthread_mutex_lock(&slot->core->lock);
    slot->failed_ns = clock_now_ns();
    (void)pthread_mutex_unlock(&slot->core->lock);
    return result;
}

/* ---- what an engine says by itself ---- */

static void on_gone(void *context, const char *id, enum kill_cause cause)
{
    struct engine_slot *slot = context;
    box_on_gone(slot->core, slot, id, cause);
}

static void on_destroyed(void *context, const char *id)
{
    struct engine_slot *slot = context;
    box_on_destroyed(slot->core, slot, id);
}

void slot_reconcile_locked(struct engine_slot *slot)
{
    slot->reconcile_wanted = true;
    (void)pthread_cond_signal(&slot->wanted);
}

static void on_connected(void *context)
{
    struct engine_slot *slot = context;
    (void)pthread_mutex_lock(&slot->core->lock);
    slot_reconcile_locked(slot);
    (void)pthread_mutex_unlock(&slot->core->lock);
}

void core_engine_events(struct core *core, size_t index, struct engine_events *out)
{
    *out = (struct engine_events){.context = &core->slots[index],
                                  .gone = on_gone,
                                  .destroyed = on_destroyed,
                                  .connected = on_connected};
}

/* ---- its thread ---- */

/* Says each trouble once, not with every try. said: what it was before, "" nothing. */
static void say_trouble(char said[static ERR_MESSAGE_MAX], const struct engine_slot *slot,
                        const char *what, const char *words)
{
    if (words[0] != '\0' && strncmp(said, words, ERR_MESSAGE_MAX - 1) != 0)
        log_warn("engine %s: %s: %s", slot->name, what, words);
    (void)snprintf(said, ERR_MESSAGE_MAX, "%s", words);
}

static int reconcile(struct engine_slot *slot, char said[static ERR_MESSAGE_MAX], struct err *err)
{
    struct core *core = slot->core;
    struct engine_info info;
    int result = slot_info(slot, 0, clock_now_ns() + PROBE_NS, &info, err);
    if (result != 0)
        return result;
    say_trouble(said, slot, "it can make no sandbox", info.unavailable);
    network_try_again(core);
    result = box_reconcile(core, slot, err);
    if (result == 0)
        result = layers_reconcile(core, slot, err);
    if (result == 0)
        session_reconcile(core, slot);
    return result;
}

/* Waits until there is something to reconcile, or, with *out_wanted false, for LOOK_NS. Returns
 * false when it is time to stop. */
static bool wait_for_work(struct engine_slot *slot, int64_t not_before_ns, bool *out_wanted)
{
    struct core *core = slot->core;
    const int64_t look_ns = clock_now_ns() + LOOK_NS;
    (void)pthread_mutex_lock(&core->lock);
    for (;;) {
        int64_t now_ns = clock_now_ns();
        *out_wanted = slot->reconcile_wanted && now_ns >= not_before_ns;
        if (core->engines_stop || *out_wanted || now_ns >= look_ns)
            break;
        bool later = slot->reconcile_wanted && not_before_ns < look_ns;
        int64_t until_ns = later ? not_before_ns : look_ns;
        const struct timespec until = {.tv_sec = (time_t)(until_ns / CLOCK_NS_PER_S),
                                       .tv_nsec = (long)(until_ns % CLOCK_NS_PER_S)};
        (void)pthread_cond_timedwait(&slot->wanted, &core->lock, &until);
    }
    if (*out_wanted)
        slot->reconcile_wanted = false;
    bool go_on = !core->engines_stop;
    (void)pthread_mutex_unlock(&core->lock);
    return go_on;
}

static void *keeper_main(void *context)
{
    struct engine_slot *slot = context;
    char unavailable[ERR_MESSAGE_MAX] = "";
    char failure[ERR_MESSAGE_MAX] = "";
    int64_t not_before_ns = 0;
    bool wanted = false;
    while (wait_for_work(slot, not_before_ns, &wanted)) {
        struct err err = ERR_INIT;
        if (slot->index == 0) /* of engines that have no thread */
            session_end_strays(slot->core);
        if (!wanted)
            continue;
        not_before_ns = 0;
        int result = reconcile(slot, unavailable, &err);
        say_trouble(failure, slot, "its books are not settled yet", result == 0 ? "" : err.message);
        if (result == 0)
            continue;
        not_before_ns = clock_now_ns() + RECONCILE_RETRY_NS;
        on_connected(slot);
    }
    return NULL;
}

int core_set_engine(struct core *core, size_t index, struct engine *engine, struct err *err)
{
    struct engine_slot *slot = &core->slots[index];
    (void)pthread_mutex_lock(&core->lock);
    slot->engine = engine;
    (void)pthread_mutex_unlock(&core->lock);
    int status = pthread_create(&slot->keeper, NULL, keeper_main, slot);
    if (status != 0)
        return err_sys(err, status, "start the thread of the engine %s", slot->name);
    slot->keeper_runs = true;
    on_connected(slot);
    return 0;
}

/* ---- life ---- */

int engines_open(struct core *core, struct err *err)
{
    const struct core_config *config = &core->config;
    if (config->engine_count > CORE_ENGINES_MAX)
        return err_set(err, ERR_BAD_INPUT, "more than %d engines", CORE_ENGINES_MAX);
    pthread_condattr_t attributes;
    (void)pthread_condattr_init(&attributes);
    (void)pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    for (size_t i = 0; i < config->engine_count; i++) {
        struct engine_slot *slot = &core->slots[i];
        slot->core = core;
        slot->index = (unsigned)i;
        (void)snprintf(slot->name, sizeof(slot->name), "%s", config->engines[i]);
        (void)pthread_cond_init(&slot->wanted, &attributes);
    }
    (void)pthread_condattr_destroy(&attributes);
    core->slot_count = config->engine_count;
    return 0;
}

void engines_stop(struct core *core)
{
    (void)pthread_mutex_lock(&core->lock);
    core->engines_stop = true;
    for (size_t i = 0; i < core->slot_count; i++)
        (void)pthread_cond_signal(&core->slots[i].wanted);
    (void)pthread_mutex_unlock(&core->lock);
    for (size_t i = 0; i < core->slot_count; i++) {
        if (core->slots[i].keeper_runs)
            (void)pthread_join(core->slots[i].keeper, NULL);
        core->slots[i].keeper_runs = false;
    }
}

void engines_free(struct core *core)
{
    for (size_t i = 0; i < core->slot_count; i++)
        engine_free(core->slots[i].engine);
}

void engines_close(struct core *core)
{
    for (size_t i = 0; i < core->slot_count; i++)
        (void)pthread_cond_destroy(&core->slots[i].wanted);
}
