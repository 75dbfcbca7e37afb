/* Owns what is asked of the daemon for a sandbox. Capabilities are a short list, the network is
 * none, nothing of the host is mounted. */
#include "docker/spec.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/encoding.h"
#include "base/fault.h"
#include "base/id.h"
#include "base/mem.h"
#include "docker/tar.h"
#include "wire/init_config.h"
#include "wire/json.h"

#define MEMORY_MIN (UINT64_C(4) << 20)
#define MEMORY_LEAST (UINT64_C(6) << 20) /* the daemon takes no less */
#define STORAGE_MIN (UINT64_C(64) << 10)
#define BYTES_MAX (UINT64_C(1) << 50)
#define TIME_MAX_MS (UINT64_C(1) << 40)
#define SHM_MAX (UINT64_C(64) << 20)
/* What the Sentry of gVisor takes for itself counts in the container's group. */
#define GVISOR_MEMORY (UINT64_C(64) << 20)

enum {
    CONFIG_MAX = 4096,
    CPU_MILLIS_MIN = 10,
    CPU_MILLIS_MAX = 1024 * 1000,
    PIDS_MIN = 2,
    PIDS_SPARE = 3,     /* init, and its children that work on files */
    GVISOR_PIDS = 1024, /* threads of the Sentry, and stubs that hold the code's address spaces */
    OPEN_FILES_MAX = 1048576,
    OPEN_FILES_LEAST = 8192, /* init's own; the code's limit is set by init */
    CODE_ID = 1000,
    OOM_SCORE = 100, /* the code's is higher, so init is not the first to be killed */
};

void spec_name(const char *instance, const char *id, char out[static SPEC_NAME_SIZE])
{
    (void)snprintf(out, SPEC_NAME_SIZE, "berth-%s-%s", instance, id);
}

/* ---- what may be asked for ---- */

static bool is_within(uint64_t value, uint64_t least, uint64_t most, bool may_leave)
{
    return (may_leave && value == 0) || (value >= least && value <= most);
}

int spec_check_limits(const struct engine_create *create, bool may_leave, struct err *err)
{
    if (!is_within(create->memory_bytes, MEMORY_MIN, BYTES_MAX, may_leave))
        return err_set(err, ERR_BAD_INPUT, "memory of %" PRIu64 " bytes", create->memory_bytes);
    if (!is_within(create->storage_bytes, STORAGE_MIN, BYTES_MAX, true))
        return err_set(err, ERR_BAD_INPUT, "storage of %" PRIu64 " bytes", create->storage_bytes);
    if (!is_within(create->cpu_millis, CPU_MILLIS_MIN, CPU_MILLIS_MAX, may_leave))
        return err_set(err, ERR_BAD_INPUT, "%u thousandths of a core", create->cpu_millis);
    if (!is_within(create->pids_max, PIDS_MIN, SANDBOX_PIDS_MAX, may_leave))
        return err_set(err, ERR_BAD_INPUT, "%u processes", create->pids_max);
    return 0;
}

int spec_check(const struct engine_create *create, struct err *err)
{
    if (!id_is_name(create->id, SANDBOX_ID_MAX))
        return err_set(err, ERR_BAD_INPUT, "sandbox id \"%s\"", create->id);
    if (strcmp(create->profile, "strict") != 0 && strcmp(create->profile, "container") != 0)
        return err_public(err, ERR_UNSUPPORTED,
                          "profile \"%s\": this engine has \"strict\" and \"container\"",
                          create->profile);
    int result = spec_check_limits(create, false, err);
    if (result != 0)
        return result;
    if (create->open_files_max < 16 || create->open_files_max > OPEN_FILES_MAX)
        return err_set(err, ERR_BAD_INPUT, "%u open files", create->open_files_max);
    if (create->lifetime_ms > TIME_MAX_MS || create->orphan_ms > TIME_MAX_MS)
        return err_set(err, ERR_BAD_INPUT, "lifetime of %" PRIu64 " ms, orphaned %" PRIu64 " ms",
                       create->lifetime_ms, create->orphan_ms);
    return 0;
}

/* ---- the container ---- */

static bool is_container(const struct engine_create *create)
{
    return strcmp(create->profile, "container") == 0;
}

/* Init gives up what is not needed before any code runs. Of a container's profile: what Docker
 * gives by default. */
static json_t *capabilities(const struct engine_create *create)
{
    static const char *const needed[] = {"SETUID", "SETGID", "KILL", "SETPCAP"};
    static const char *const more[] = {
        "CHOWN",   "DAC_OVERRIDE", "FSETID",     "FOWNER",           "MKNOD",
        "NET_RAW", "SETFCAP",      "SYS_CHROOT", "NET_BIND_SERVICE", "AUDIT_WRITE"};
    json_t *list = json_array();
    for (size_t i = 0; list && i < ARRAY_SIZE(needed); i++)
        (void)json_array_append_new(list, json_string(needed[i]));
    for (size_t i = 0; list && is_container(create) && i < ARRAY_SIZE(more); i++)
        (void)json_array_append_new(list, json_string(more[i]));
    return list;
}

static json_t *labels(const struct spec *spec)
{
    char secret[2 * CARRIER_SECRET_SIZE + 1];
    char nonce[2 * SANDBOX_NONCE_SIZE + 1];
    char gpus[16];
    hex_write(spec->secret, CARRIER_SECRET_SIZE, secret);
    hex_write(spec->nonce, SANDBOX_NONCE_SIZE, nonce);
    (void)snprintf(gpus, sizeof(gpus), "%x", spec->gpus);
    return json_pack("{ss ss ss ss ss ss ss ss}", SPEC_LABEL_INSTANCE, spec->instance,
                     SPEC_LABEL_SANDBOX, spec->create->id, SPEC_LABEL_SECRET, secret,
                     SPEC_LABEL_NONCE, nonce, SPEC_LABEL_KEEP, spec->create->keep_files ? "1" : "0",
                     SPEC_LABEL_RUNTIME, spec->runtime, SPEC_LABEL_PROFILE, spec->create->profile,
                     SPEC_LABEL_GPUS, gpus);
}

static uint64_t memory_of(const struct engine_create *create, bool gvisor)
{
    uint64_t bytes = create->memory_bytes + (gvisor ? GVISOR_MEMORY : 0);
    return bytes < MEMORY_LEAST ? MEMORY_LEAST : bytes;
}

static uint64_t pids_of(const struct engine_create *create, bool gvisor)
{
    return (uint64_t)create->pids_max + (gvisor ? GVISOR_PIDS : PIDS_SPARE);
}

static int set_limits(json_t *json, const struct engine_create *create, bool gvisor)
{
    int result = 0;
    json_int_t memory = (json_int_t)memory_of(create, gvisor);
    if (create->memory_bytes > 0) {
        result |= json_object_set_new(json, "Memory", json_integer(memory));
        result |= json_object_set_new(json, "MemorySwap", json_integer(memory)); /* no swap */
    }
    if (create->cpu_millis > 0)
        result |= json_object_set_new(json, "NanoCpus",
                                      json_integer((json_int_t)create->cpu_millis * 1000000));
    if (create->pids_max > 0)
        result |= json_object_set_new(json, "PidsLimit",
                                      json_integer((json_int_t)pids_of(create, gvisor)));
    return result;
}

static int set_gpus(json_t *json, uint32_t gpus)
{
    json_t *ids = json_array();
    char number[8];
    for (unsigned i = 0; ids && i < SPEC_GPUS_MAX; i++) {
        if ((gpus >> i & 1U) == 0)
            continue;
        (void)snprintf(number, sizeof(number), "%u", i);
        (void)json_array_append_new(ids, json_string(number));
    }
    return json_object_set_new(
        json, "DeviceRequests",
        json_pack("[{ss so s[[s]]}]", "Driver", "", "DeviceIDs", ids, "Capabilities", "gpu"));
}

static json_t *host_config(const struct spec *spec)
{
    const struct engine_create *create = spec->create;
    uint64_t shm = create->memory_bytes / 2 < SHM_MAX ? create->memory_bytes / 2 : SHM_MAX;
    uint32_t files =
        create->open_files_max > OPEN_FILES_LEAST ? create->open_files_max : OPEN_FILES_LEAST;
    json_t *json = json_pack(
        "{ss s[s] so sI ss s{ss} s{ss} sb ss si s[{ss si si} {ss si si}]}", "NetworkMode", "none",
        "CapDrop", "ALL", "CapAdd", capabilities(create), "ShmSize", (json_int_t)shm, "IpcMode",
        "private", "LogConfig", "Type", "none", "RestartPolicy", "Name", "no", "Init", 0,
        "CgroupnsMode", "private", "OomScoreAdj", (int)OOM_SCORE, "Ulimits", "Name", "nofile",
        "Soft", (int)files, "Hard", (int)files, "Name", "core", "Soft", 0, "Hard", 0);
    if (!json)
        return NULL;
    int result = set_limits(json, create, spec->gvisor);
    if (!is_container(create))
        result |= json_object_set_new(json, "SecurityOpt", json_pack("[s]", "no-new-privileges"));
    if (spec->runtime[0] != '\0')
        result |= json_object_set_new(json, "Runtime", json_string(spec->runtime));
    if (spec->quota && create->storage_bytes > 0) {
        char size[24];
        (void)snprintf(size, sizeof(size), "%" PRIu64, create->storage_bytes);
        result |= json_object_set_new(json, "StorageOpt", json_pack("{ss}", "size", size));
    }
    if (spec->gpus != 0)
        result |= set_gpus(json, spec->gpus);
    if (result != 0) {
        json_decref(json);
        return NULL;
    }
    return json;
}

int spec_put_json(const json_t *json, struct buf *out, struct err *err)
{
    char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;
    int result = text ? buf_append_str(out, text, err)
                      : err_set(err, ERR_INTERNAL, "no memory for what the daemon is asked");
    free(text);
    return result;
}

int spec_put_limits(const struct engine_create *create, bool gvisor, struct buf *out,
                    struct err *err)
{
    JSON_AUTO json_t *json = json_object();
    if (json && set_limits(json, create, gvisor) != 0)
        return err_set(err, ERR_INTERNAL, "no memory for limits");
    return spec_put_json(json, out, err);
}

/* ---- what is put into it ---- */

static int put_config(const struct spec *spec, struct buf *out, struct err *err)
{
    const struct engine_create *create = spec->create;
    struct init_config config;
    init_config_clear(&config);
    (void)snprintf(config.id, sizeof(config.id), "%s", create->id);
    memcpy(config.nonce, spec->nonce, sizeof(config.nonce));
    config.carried = true;
    memcpy(config.secret, spec->secret, sizeof(config.secret));
    config.profile = is_container(create) ? INIT_PROFILE_CONTAINER : INIT_PROFILE_STRICT;
    config.uid = config.gid = is_container(create) ? 0 : CODE_ID;
    config.cgroup_mode = spec->gvisor ? INIT_CGROUP_NONE : INIT_CGROUP_SEEN;
    (void)snprintf(config.fault, sizeof(config.fault), "%s", fault_text_for("init."));
    config.open_files_max = create->open_files_max;
    config.pids_max = create->pids_max;
    config.file_size_max = create->storage_bytes > 0 ? create->storage_bytes : BYTES_MAX;
    config.lifetime_ms = create->lifetime_ms;
    config.orphan_ms = create->orphan_ms;
    return init_config_encode(&config, out, err);
}

/* What init reads at its start, and wipes, where nothing is put in for this sandbox alone. */
static int put_environment(const struct spec *spec, json_t *environment, struct err *err)
{
    static const char name[] = INIT_CARRIED_VARIABLE "=";
    char text[sizeof(name) + (size_t)2 * CONFIG_MAX];
    BUF_AUTO struct buf config;
    buf_init(&config, CONFIG_MAX);
    int result = put_config(spec, &config, err);
    if (result != 0)
        return result;
    memcpy(text, name, sizeof(name));
    hex_write(config.data, config.size, text + sizeof(name) - 1);
    if (json_array_append_new(environment, json_string(text)) != 0)
        result = err_set(err, ERR_INTERNAL, "no memory for a sandbox's settings");
    explicit_bzero(text, sizeof(text));
    return result;
}

int spec_put_container(const struct spec *spec, struct buf *out, struct err *err)
{
    JSON_AUTO json_t *environment = json_array();
    if (spec->prepared && put_environment(spec, environment, err) != 0)
        return -ERR_INTERNAL;
    /* An image's own health check would be run beside the code, as root. */
    JSON_AUTO json_t *json =
        json_pack("{ss ss ss ss s[ss] s[] sO sb sb sb sb sb sb s{s[s]} so so}", "Image",
                  spec->prepared ? spec->prepared : spec->create->image, "Hostname", "sandbox",
                  "User", "0:0", "WorkingDir", "/", "Entrypoint", "/.berth/init", "carried", "Cmd",
                  "Env", environment, "Tty", 0, "OpenStdin", 1, "StdinOnce", 0, "AttachStdin", 1,
                  "AttachStdout", 1, "AttachStderr", 1, "Healthcheck", "Test", "NONE", "Labels",
                  labels(spec), "HostConfig", host_config(spec));
    return spec_put_json(json, out, err);
}

/* config NULL: none. again: not the place of library layers, which are root's. */
static int put_tar(bool container, bool again, const void *init, size_t init_size,
                   const struct buf *config, struct buf *out, struct err *err)
{
    const unsigned code = container ? 0 : CODE_ID;
    const struct tar_entry settings = {.path = ".berth/config",
                                       .mode = 0600,
                                       .data = config ? config->data : NULL,
                                       .size = config ? config->size : 0};
    const struct tar_entry entries[] = {
        {.path = ".berth/", .mode = 0700},
        {.path = ".berth/init", .mode = 0755, .data = init, .size = init_size},
        {.path = "workspace/", .mode = 0755, .owner = code},
        {.path = "tmp/", .mode = 01777},
        {.path = "home/", .mode = 0755},
        {.path = "home/sandbox/", .mode = 0755, .owner = code},
        {.path = "opt/", .mode = 0755},
        {.path = "opt/libraries/", .mode = 0755, .owner = code},
    };
    size_t count = ARRAY_SIZE(entries) - (again ? 1 : 0);
    int result = 0;
    for (size_t i = 0; result == 0 && i < count; i++) {
        result = tar_put(out, &entries[i], err);
        if (result == 0 && i == 1 && config)
            result = tar_put(out, &settings, err);
    }
    return result == 0 ? tar_end(out, err) : result;
}

int spec_put_archive(const struct spec *spec, const void *init, size_t init_size, struct buf *out,
                     struct err *err)
{
    BUF_AUTO struct buf config;
    buf_init(&config, CONFIG_MAX);
    int result = put_config(spec, &config, err);
    return result == 0 ? put_tar(is_container(spec->create), spec->again, init, init_size, &config,
                                 out, err)
                       : result;
}

int spec_put_folders(bool container, const void *init, size_t init_size, struct buf *out,
                     struct err *err)
{
    return put_tar(container, false, init, init_size, NULL, out, err);
}
