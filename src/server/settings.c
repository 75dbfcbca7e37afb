/* Owns the names, defaults and ranges of the server's settings. Refuses a value that it can't read:
 * the server does not start with another limit than the operator wrote. */
#include "server/settings.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/parse.h"
#include "wire/egress_msg.h"

enum setting_kind { SETTING_COUNT, SETTING_BYTES, SETTING_SECONDS, SETTING_CORES, SETTING_FACTOR };

#define KIB UINT64_C(1024)
#define MIB (1024 * KIB)
#define GIB (1024 * MIB)

enum { VALUE_SIZE = 32 };

static const struct setting {
    const char *name;
    enum setting_kind kind;
    size_t offset;  /* of a uint64_t in struct settings */
    uint64_t value; /* default: count, bytes, milliseconds, thousandths */
    uint64_t low, high;
} table[] = {
#define FIELD(member) offsetof(struct settings, member)
    {"BERTH_MAX_SANDBOXES", SETTING_COUNT, FIELD(sandboxes_max), 512, 1, 2048},
    {"BERTH_MAX_CREATES", SETTING_COUNT, FIELD(creates_max), 0, 1, 1024},
    {"BERTH_POOL_MIN", SETTING_COUNT, FIELD(pool_min), 2, 0, 1024},
    {"BERTH_POOL_MAX", SETTING_COUNT, FIELD(pool_max), 64, 0, 1024},
    {"BERTH_QUEUE", SETTING_COUNT, FIELD(queue_max), 1024, 0, 100000},
    {"BERTH_QUEUE_WAIT", SETTING_SECONDS, FIELD(queue_wait_ms), 30000, 1, 86400000},
    {"BERTH_TIMEOUT", SETTING_SECONDS, FIELD(timeout_ms), 30000, 1, 2592000000},
    {"BERTH_TIMEOUT_MAX", SETTING_SECONDS, FIELD(timeout_max_ms), 3600000, 1, 2592000000},
    {"BERTH_MEMORY", SETTING_BYTES, FIELD(memory_budget_bytes), 0, 64 * MIB, 65536 * GIB},
    {"BERTH_MEMORY_OVERCOMMIT", SETTING_FACTOR, FIELD(memory_overcommit_millis), 16000, 1000,
     1000000},
    {"BERTH_RESERVE_MIN", SETTING_BYTES, FIELD(reserve_min_bytes), 16 * MIB, MIB, 1024 * GIB},
    {"BERTH_DISK", SETTING_BYTES, FIELD(disk_budget_bytes), 0, 64 * MIB, 1024 * 1024 * GIB},
    {"BERTH_DISK_OVERCOMMIT", SETTING_FACTOR, FIELD(disk_overcommit_millis), 4000, 1000, 1000000},
    {"BERTH_RAM", SETTING_BYTES, FIELD(memory_bytes), 512 * MIB, 8 * MIB, 1024 * GIB},
    {"BERTH_STORAGE", SETTING_BYTES, FIELD(storage_bytes), 256 * MIB, MIB, 1024 * GIB},
    {"BERTH_CPU", SETTING_CORES, FIELD(cpu_millis), 1000, 10, 1024000},
    {"BERTH_PIDS", SETTING_COUNT, FIELD(pids_max), 128, 2, 65536},
    {"BERTH_OPEN_FILES", SETTING_COUNT, FIELD(open_files_max), 1024, 16, 1000000},
    {"BERTH_OUTPUT_KEEP", SETTING_BYTES, FIELD(output_keep_bytes), MIB, 1, 2 * MIB},
    {"BERTH_OUTPUT_MAX", SETTING_BYTES, FIELD(output_max_bytes), 64 * MIB, 1, 1024 * GIB},
    {"BERTH_MESSAGES_KEEP", SETTING_BYTES, FIELD(messages_keep_bytes), 8 * MIB, KIB, 32 * MIB},
    {"BERTH_SESSION_TIMEOUT", SETTING_SECONDS, FIELD(session_timeout_ms), 86400000, 1, 31536000000},
    {"BERTH_SESSION_TIMEOUT_MAX", SETTING_SECONDS, FIELD(session_timeout_max_ms), 2592000000, 1,
     31536000000},
    {"BERTH_SESSION_IDLE", SETTING_SECONDS, FIELD(session_idle_ms), 3600000, 1, 31536000000},
    {"BERTH_KEEP_OUTCOME", SETTING_SECONDS, FIELD(keep_outcome_ms), 3600000, 1000, 2592000000},
    {"BERTH_KEEP_BYTES", SETTING_BYTES, FIELD(keep_bytes), GIB, MIB, 65536 * GIB},
    {"BERTH_LAYERS_MAX", SETTING_COUNT, FIELD(layers_max), 64, 0, 4096},
    {"BERTH_LAYERS_BYTES", SETTING_BYTES, FIELD(layers_max_bytes), 8 * GIB, MIB, 65536 * GIB},
    {"BERTH_LAYERS_GRACE", SETTING_SECONDS, FIELD(layers_grace_ms), 300000, 0, 31536000000},
    {"BERTH_LAYERS_TIMEOUT", SETTING_SECONDS, FIELD(layers_timeout_ms), 600000, 1000, 86400000},
    {"BERTH_LAYERS_RAM", SETTING_BYTES, FIELD(layers_memory_bytes), GIB, 64 * MIB, 1024 * GIB},
    {"BERTH_LAYERS_STORAGE", SETTING_BYTES, FIELD(layers_storage_bytes), 4 * GIB, 16 * MIB,
     1024 * GIB},
    {"BERTH_COMPILE_CACHE", SETTING_BYTES, FIELD(compile_cache_bytes), 256 * MIB, 0, 1024 * GIB},
    {"BERTH_MAX_CONNECTIONS", SETTING_COUNT, FIELD(connection_max), 1024, 1, 65536},
    {"BERTH_BODY_MAX", SETTING_BYTES, FIELD(body_max_bytes), 4 * MIB, 1 * KIB, 64 * MIB},
    {"BERTH_BODIES_MAX", SETTING_BYTES, FIELD(bodies_max_bytes), 256 * MIB, 1 * MIB, 64 * GIB},
    {"BERTH_ANSWERS_MAX", SETTING_BYTES, FIELD(answers_max_bytes), 256 * MIB, 1 * MIB, 64 * GIB},
    {"BERTH_EGRESS_MAX_BYTES", SETTING_BYTES, FIELD(egress_bytes_max), 16 * GIB, KIB, 65536 * GIB},
    {"BERTH_EGRESS_CONNECTIONS", SETTING_COUNT, FIELD(egress_connections_max),
     EGRESS_CONNECTIONS_MAX, 1, EGRESS_CONNECTIONS_MAX},
#undef FIELD
};

static const char *const kind_examples[] = {
    [SETTING_COUNT] = "a whole number",        [SETTING_BYTES] = "a size such as 512MiB",
    [SETTING_SECONDS] = "a number of seconds", [SETTING_CORES] = "a number of cores such as 0.5",
    [SETTING_FACTOR] = "a number such as 1.5",
};

/* A bound as an operator would write it: 64MiB, 0.25. */
static void write_value(char out[static VALUE_SIZE], enum setting_kind kind, uint64_t value)
{
    static const char *const units[] = {"", "KiB", "MiB", "GiB", "TiB"};
    size_t unit = 0;
    if (kind == SETTING_BYTES) {
        while (unit + 1 < ARRAY_SIZE(units) && value != 0 && value % KIB == 0) {
            value /= KIB;
            unit++;
        }
    }
    if (kind == SETTING_COUNT || kind == SETTING_BYTES) {
        (void)snprintf(out, VALUE_SIZE, "%" PRIu64 "%s", value, units[unit]);
        return;
    }
    int size = snprintf(out, VALUE_SIZE, "%" PRIu64 ".%03" PRIu64, value / 1000, value % 1000);
    while (size > 0 && out[size - 1] == '0')
        out[--size] = '\0';
    if (size > 0 && out[size - 1] == '.')
        out[size - 1] = '\0';
}

static int refuse_range(const struct setting *setting, const char *text, struct err *err)
{
    char low[VALUE_SIZE];
    char high[VALUE_SIZE];
    write_value(low, setting->kind, setting->low);
    write_value(high, setting->kind, setting->high);
    return err_set(err, ERR_BAD_INPUT, "%s: %.60s is out of range, it has to be from %s to %s%s",
                   setting->name, text, low, high,
                   setting->kind == SETTING_SECONDS ? " seconds" : "");
}

static int setting_read(const struct setting *setting, const char *text, uint64_t *out,
                        struct err *err)
{
    struct err problem = ERR_INIT;
    double number = 0;
    uint64_t value = 0;
    int result = 0;
    if (setting->kind == SETTING_COUNT) {
        result = parse_u64(text, 0, UINT64_MAX / 16, &value, &problem);
    } else if (setting->kind == SETTING_BYTES) {
        result = parse_size(text, &value, &problem);
    } else {
        result = parse_fraction(text, &number, &problem);
        if (result == 0)
            value = number > 1e12 ? UINT64_MAX : (uint64_t)(number * 1000 + 0.5);
    }
    if (result < 0)
        return err_set(err, ERR_BAD_INPUT, "%s: expected %s, got \"%.60s\"", setting->name,
                       kind_examples[setting->kind], text);
    if (value < setting->low || value > setting->high)
        return refuse_range(setting, text, err);
    *out = value;
    return 0;
}

/* *on comes with the default. */
static int settings_switch(const char *name, bool *on, struct err *err)
{
    const char *text = getenv(name);
    if (!text || !*text)
        return 0;
    *on = true;
    if (strcmp(text, "on") == 0 || strcmp(text, "1") == 0)
        return 0;
    *on = false;
    if (strcmp(text, "off") == 0 || strcmp(text, "0") == 0)
        return 0;
    return err_set(err, ERR_BAD_INPUT, "%s: expected on or off, got \"%.60s\"", name, text);
}

static int settings_zygote(enum core_zygote *out, struct err *err)
{
    const char *text = getenv("BERTH_ZYGOTE");
    bool on = false;
    if (text && strcmp(text, "auto") == 0) {
        *out = CORE_ZYGOTE_AUTO;
        return 0;
    }
    if (settings_switch("BERTH_ZYGOTE", &on, err) != 0)
        return err_set(err, ERR_BAD_INPUT, "BERTH_ZYGOTE: expected on, off or auto, got \"%.60s\"",
                       text);
    *out = on ? CORE_ZYGOTE_ON : CORE_ZYGOTE_OFF;
    return 0;
}

static const char *settings_text(const char *name, const char *otherwise)
{
    const char *text = getenv(name);
    return text && *text ? text : otherwise;
}

/* Words NAME=value, as installers get them. */
static int settings_check_env(const char *name, const char *text, struct err *err)
{
    for (const char *at = text + strspn(text, " \t"); *at != '\0'; at += strspn(at, " \t")) {
        size_t size = strcspn(at, " \t");
        const char *equals = memchr(at, '=', size);
        if (!equals || equals == at)
            return err_set(err, ERR_BAD_INPUT,
                           "%s: expected NAME=value with spaces between, got \"%.*s\"", name,
                           (int)size, at);
        at += size;
    }
    return 0;
}

static int settings_check(const struct settings *settings, struct err *err)
{
    if (settings->timeout_ms > settings->timeout_max_ms)
        return err_set(err, ERR_BAD_INPUT, "BERTH_TIMEOUT is above BERTH_TIMEOUT_MAX");
    if (settings->session_timeout_ms > settings->session_timeout_max_ms)
        return err_set(err, ERR_BAD_INPUT,
                       "BERTH_SESSION_TIMEOUT is above BERTH_SESSION_TIMEOUT_MAX");
    if (settings->body_max_bytes > settings->bodies_max_bytes)
        return err_set(err, ERR_BAD_INPUT, "BERTH_BODY_MAX is above BERTH_BODIES_MAX");
    if (settings->memory_budget_bytes != 0 &&
        settings->reserve_min_bytes > settings->memory_budget_bytes)
        return err_set(err, ERR_BAD_INPUT, "BERTH_RESERVE_MIN is above BERTH_MEMORY");
    return 0;
}

/* ---- engines ---- */

static bool settings_has_engine(const struct settings *settings, const char *name, size_t size)
{
    for (size_t i = 0; i < settings->engine_count; i++) {
        if (strlen(settings->engines[i]) == size && memcmp(settings->engines[i], name, size) == 0)
            return true;
    }
    return false;
}

static int settings_add_engine(struct settings *settings, const char *name, size_t size,
                               struct err *err)
{
    static const char *const names[] = {"native", "docker", "fake"};
    _Static_assert(ARRAY_SIZE(names) <= SETTINGS_ENGINES_MAX, "each is named once");
    const char *found = NULL;
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        if (strlen(names[i]) == size && memcmp(names[i], name, size) == 0)
            found = names[i];
    }
    if (!found)
        return err_set(err, ERR_BAD_INPUT, "BERTH_ENGINES: expected native, docker, got \"%.*s\"",
                       (int)size, name);
    if (strcmp(found, "fake") == 0 && !settings->testing)
        return err_set(err, ERR_BAD_INPUT,
                       "BERTH_ENGINES: fake runs no real sandboxes; it is for tests, with "
                       "BERTH_TESTING=1");
    if (settings_has_engine(settings, found, size))
        return err_set(err, ERR_BAD_INPUT, "BERTH_ENGINES: %s is named twice", found);
    settings->engines[settings->engine_count++] = found;
    return 0;
}

/* What a family gets has to be there; whether the engine has the runtime, it says later. */
static int settings_family(const struct settings *settings, const char *name, const char **out,
                           struct err *err)
{
    const char *text = settings_text(name, NULL);
    size_t size = text ? strcspn(text, "/") : 0;
    *out = text;
    if (!text || (settings_has_engine(settings, text, size) && strcmp(text + size, "/") != 0))
        return 0;
    return err_set(err, ERR_BAD_INPUT,
                   "%s: expected one of BERTH_ENGINES, alone or as engine/runtime, got \"%.60s\"",
                   name, text);
}

static int settings_engines(struct settings *settings, struct err *err)
{
    const char *at = settings_text("BERTH_ENGINES", settings_text("BERTH_ENGINE", "native"));
    int result = 0;
    for (at += strspn(at, " "); *at != '\0' && result == 0; at += strspn(at, " ")) {
        size_t size = strcspn(at, " ");
        result = settings_add_engine(settings, at, size, err);
        at += size;
    }
    if (result == 0 && settings->engine_count == 0)
        result = err_set(err, ERR_BAD_INPUT, "BERTH_ENGINES: names no engine");
    if (result == 0)
        result = settings_family(settings, "BERTH_ENGINE_EXECUTE", &settings->engine_execute, err);
    if (result == 0)
        result =
            settings_family(settings, "BERTH_ENGINE_SESSIONS", &settings->engine_sessions, err);
    settings->engine_choice_said = settings_text("BERTH_ENGINE_CHOICE", NULL) != NULL;
    return result == 0 ? settings_switch("BERTH_ENGINE_CHOICE", &settings->engine_choice, err)
                       : result;
}

int settings_load(struct settings *out, struct err *err)
{
    struct settings settings = {.register_open = true};
    bool auth = true;
    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        const char *text = settings_text(table[i].name, NULL);
        uint64_t *field = (uint64_t *)(void *)((char *)&settings + table[i].offset);
        *field = table[i].value;
        int result = text ? setting_read(&table[i], text, field, err) : 0;
        if (result < 0)
            return result;
    }
    if (settings.creates_max == 0) {
        long cores = sysconf(_SC_NPROCESSORS_ONLN);
        settings.creates_max = cores > 0 ? 2 * (uint64_t)cores : 2;
    }
    settings.public_host = settings_text("BERTH_PUBLIC_HOST", "");
    settings.layers_env = settings_text("BERTH_LAYERS_ENV", "");
    settings.layers_allow = settings_text("BERTH_LAYERS_ALLOW", "");
    settings.network_modes = settings_text("BERTH_NETWORK_MODES", "none,egress");
    settings.egress_allow = settings_text("BERTH_EGRESS_ALLOW", NULL);
    settings.testing = strcmp(settings_text("BERTH_TESTING", "0"), "1") == 0;
    int result = settings_switch("BERTH_AUTH", &auth, err);
    if (result == 0)
        result = settings_switch("BERTH_REGISTER", &settings.register_open, err);
    if (result == 0)
        result = settings_zygote(&settings.zygote, err);
    if (result == 0)
        result = settings_check_env("BERTH_LAYERS_ENV", settings.layers_env, err);
    if (result == 0)
        result = settings_engines(&settings, err);
    if (result == 0)
        result = settings_check(&settings, err);
    if (result < 0)
        return result;
    settings.auth_off = !auth;
    *out = settings;
    return 0;
}
