/* Owns the text of a bundle's config.json. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "native/runsc.h"
#include "wire/init_config.h"

/* What init needs to become the code and to signal it, and before that to make
 * its group (INIT_CARRIED_PIDS); the code has none. All are gVisor's, which the host knows nothing
 * of. */
static const char *const rights[] = {"CAP_SETUID",  "CAP_SETGID",    "CAP_KILL",
                                     "CAP_SETPCAP", "CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE",
                                     "CAP_FOWNER"};

static json_t *make_rights(void)
{
    json_t *list = json_array();
    for (size_t i = 0; i < ARRAY_SIZE(rights); i++)
        (void)json_array_append_new(list, json_string(rights[i]));
    return json_pack("{s:O, s:O, s:o}", "bounding", list, "effective", list, "permitted", list);
}

static json_t *make_process(bool strict)
{
    return json_pack("{s:b, s:{s:i, s:i}, s:[s, s], s:[], s:s, s:o, s:b, s:[{s:s, s:i, s:i}]}",
                     "terminal", 0, "user", "uid", 0, "gid", 0, "args", INIT_CARRIED_PROGRAM,
                     INIT_CARRIED_WORD, "env", "cwd", "/", "capabilities", make_rights(),
                     "noNewPrivileges", strict, "rlimits", "type", "RLIMIT_NOFILE", "hard", 1048576,
                     "soft", 1048576);
}

static json_t *make_mount(const char *target, const char *type, const char *source,
                          const char *option)
{
    return json_pack("{s:s, s:s, s:s, s:[s]}", "destination", target, "type", type, "source",
                     source, "options", option);
}

/* /dev/shm is a folder of the root, so that `storage` covers it. */
static json_t *make_mounts(void)
{
    json_t *mounts = json_array();
    (void)json_array_append_new(mounts, make_mount("/proc", "proc", "proc", "rw"));
    (void)json_array_append_new(mounts, make_mount("/dev", "tmpfs", "tmpfs", "rw"));
    (void)json_array_append_new(mounts, make_mount("/sys", "sysfs", "sysfs", "ro"));
    (void)json_array_append_new(mounts, make_mount("/dev/shm", "bind", RUNSC_ROOT "/.shm", "rw"));
    (void)json_array_append_new(mounts, make_mount(RUNSC_SHARED, "bind", RUNSC_SHARED, "rbind"));
    /* The counters of its groups, for init. */
    (void)json_array_append_new(
        mounts, json_pack("{s:s, s:s, s:s, s:[s, s]}", "destination", "/sys/fs/cgroup", "type",
                          "bind", "source", RUNSC_ROOT "/sys/fs/cgroup", "options", "rbind", "ro"));
    (void)json_array_append_new(mounts,
                                make_mount(INIT_CARRIED_FOLDER, "bind", RUNSC_INIT, "rbind"));
    return mounts;
}

static json_t *make_linux(const struct engine_create *spec)
{
    static const char *const types[] = {"pid", "mount", "ipc", "uts", "network"};
    json_t *namespaces = json_array();
    for (size_t i = 0; i < ARRAY_SIZE(types); i++)
        (void)json_array_append_new(namespaces, json_pack("{s:s}", "type", types[i]));
    return json_pack("{s:o, s:{s:{s:I}}}", "namespaces", namespaces, "resources", "memory", "limit",
                     (json_int_t)spec->memory_bytes);
}

int runsc_write_bundle(const struct engine_create *spec, struct buf *out, struct err *err)
{
    json_t *config = json_pack("{s:s, s:o, s:{s:s, s:b}, s:s, s:o, s:o}", "ociVersion", "1.0.0",
                               "process", make_process(strcmp(spec->profile, "strict") == 0),
                               "root", "path", RUNSC_ROOT, "readonly", 0, "hostname", "sandbox",
                               "mounts", make_mounts(), "linux", make_linux(spec));
    MEM_AUTO char *text = config ? json_dumps(config, JSON_COMPACT) : NULL;
    json_decref(config);
    if (!text)
        return err_set(err, ERR_INTERNAL, "no memory for a bundle");
    return buf_append_str(out, text, err);
}
