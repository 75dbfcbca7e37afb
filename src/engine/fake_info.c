/* Owns what the fake engine says of its host. */
#include "engine/fake_info.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool fake_has_word(const char *list, const char *word)
{
    size_t size = strlen(word);
    for (const char *at = list; size > 0 && (at = strstr(at, word)); at += size) {
        bool begins = at == list || at[-1] == ' ';
        if (begins && (at[size] == ' ' || at[size] == '\0'))
            return true;
    }
    return false;
}

/* BERTH_FAKE_RUNTIMES="plain lesser": the first can all that the host can, the others no library
 * layers, no profile "container" and no change of limits. None by itself. */
static void set_runtimes(struct engine_info *out)
{
    const uint64_t beyond = ENGINE_CAP_LAYERS | ENGINE_CAP_CONTAINER | ENGINE_CAP_LIMIT;
    const char *at = getenv("BERTH_FAKE_RUNTIMES");
    for (at = at ? at : ""; *at != '\0' && out->runtime_count < ENGINE_RUNTIMES_MAX;) {
        struct engine_runtime *runtime = &out->runtimes[out->runtime_count];
        size_t size = strcspn(at, " ");
        (void)snprintf(runtime->name, sizeof(runtime->name), "%.*s", (int)size, at);
        (void)snprintf(runtime->version, sizeof(runtime->version), "%s", BERTH_VERSION);
        runtime->capabilities = out->capabilities;
        if (out->runtime_count++ > 0)
            runtime->capabilities &= ~beyond;
        at += size + strspn(at + size, " ");
    }
}

/* BERTH_FAKE_LACKS="memory disk": the host of this fake can't do that. BERTH_FAKE_HAS="zygote": it
 * can do that too. */
void fake_info(struct engine_info *out)
{
    *out = (struct engine_info){.name = "fake",
                                .version = BERTH_VERSION,
                                .capabilities =
                                    ENGINE_CAP_MEMORY | ENGINE_CAP_CPU | ENGINE_CAP_PIDS |
                                    ENGINE_CAP_STORAGE | ENGINE_CAP_STOP | ENGINE_CAP_DISK |
                                    ENGINE_CAP_CONTAINER | ENGINE_CAP_LIMIT | ENGINE_CAP_LAYERS,
                                .cgroup_mode = "none",
                                .memory_bytes = UINT64_C(8) << 30,
                                .cpu_millis = 4000,
                                .storage_bytes = UINT64_C(4) << 30,
                                .disk_bytes = UINT64_C(64) << 30,
                                .images = "host debian"};
    const char *lacks = getenv("BERTH_FAKE_LACKS");
    const char *has = getenv("BERTH_FAKE_HAS");
    for (unsigned i = 0; i < ENGINE_CAP_COUNT; i++) {
        if (has && fake_has_word(has, engine_cap_name(i)))
            out->capabilities |= UINT64_C(1) << i;
        if (lacks && fake_has_word(lacks, engine_cap_name(i)))
            out->capabilities &= ~(UINT64_C(1) << i);
    }
    out->gpu_count = (out->capabilities & ENGINE_CAP_GPU) != 0 ? 2 : 0;
    if ((out->capabilities & ENGINE_CAP_DISK) == 0)
        out->disk_bytes = 0;
    if (lacks && lacks[0] != '\0')
        (void)snprintf(out->missing, sizeof(out->missing), "BERTH_FAKE_LACKS says so: %s", lacks);
    set_runtimes(out);
}
