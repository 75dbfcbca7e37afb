/* Owns what this engine says that it can do: what the daemon said, in the server's words. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "docker/service_internal.h"

uint64_t info_capabilities(const struct service *service, const char *runtime)
{
    const struct daemon_facts *facts = &service->daemon.facts;
    uint64_t can = ENGINE_CAP_ISOLATED | ENGINE_CAP_IDMAP | ENGINE_CAP_DISK | ENGINE_CAP_STOP;
    if (facts->limits_memory)
        can |= ENGINE_CAP_MEMORY;
    if (facts->limits_cpu)
        can |= ENGINE_CAP_CPU;
    if (service->quota)
        can |= ENGINE_CAP_STORAGE;
    if (daemon_is_gvisor(facts, runtime))
        return can; /* its own kernel: processes are not counted one by one, limits don't change */
    /* Podman's own filter lets root make user namespaces and use the keyring of the host's root. */
    if (!facts->is_podman)
        can |= ENGINE_CAP_CONTAINER;
    if (facts->limits_pids)
        can |= ENGINE_CAP_PIDS;
    if (facts->limits_memory && facts->limits_cpu && facts->limits_pids && !facts->is_podman)
        can |= ENGINE_CAP_LIMIT;
    if (service->layers)
        can |= ENGINE_CAP_LAYERS;
    if (service->gpu_count > 0)
        can |= ENGINE_CAP_GPU;
    return can;
}

/* runc before 1.2.8 and 1.3.3 lets a container that is being made write to the host
 * (CVE-2025-31133, CVE-2025-52565, CVE-2025-52881). A distribution mends its own older ones, and
 * the number does not tell. */
static bool is_doubtful(const char *version)
{
    unsigned long numbers[3] = {0};
    for (size_t i = 0; i < 3; i++) {
        char *end = NULL;
        numbers[i] = strtoul(version, &end, 10);
        if (end == version || (i < 2 && *end != '.'))
            return false; /* no version that we can tell */
        version = end + 1;
    }
    if (numbers[0] != 1)
        return numbers[0] < 1;
    if (numbers[1] == 2)
        return numbers[2] < 8;
    return numbers[1] < 2 || (numbers[1] == 3 && numbers[2] < 3);
}

static void fill_runtimes(const struct service *service, struct engine_info *out)
{
    const struct daemon_facts *facts = &service->daemon.facts;
    for (size_t i = 0; i < facts->runtime_count; i++) {
        struct engine_runtime *runtime = &out->runtimes[out->runtime_count++];
        *runtime = facts->runtimes[i];
        runtime->capabilities = info_capabilities(service, runtime->name);
        if (!service->runc_accepted && is_doubtful(runtime->version))
            (void)snprintf(runtime->warning, sizeof(runtime->warning),
                           "runc %.40s: known ways out of a container were closed in 1.2.8 and "
                           "1.3.3; set BERTH_DOCKER_RUNC_OK=1 when your distribution has closed "
                           "them in this one",
                           facts->runtimes[i].version);
    }
}

/* What is not enforced, and why; while an image is being pulled, that before the rest. */
static void fill_missing(const struct service *service, struct engine_info *out)
{
    const uint64_t can = out->capabilities;
    char pulled[ENGINE_TEXT_MAX];
    images_progress(&service->images, pulled, sizeof(pulled));
    const struct {
        bool said;
        const char *text;
    } words[] = {
        {pulled[0] != '\0', pulled},
        {(can & ENGINE_CAP_STORAGE) == 0,
         "storage: the Docker daemon's storage driver bounds no container's files"},
        {(can & ENGINE_CAP_MEMORY) == 0, "memory: the Docker daemon has no control group for it"},
        {(can & ENGINE_CAP_CPU) == 0, "cpu: the Docker daemon has no control group for it"},
        {(can & ENGINE_CAP_PIDS) == 0,
         "processes: the Docker daemon, or this runtime, counts none"},
        {service->gpu_count == 0, "gpu: BERTH_DOCKER_GPUS names none"},
    };
    size_t used = 0;
    for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
        size_t size = strlen(words[i].text);
        if (!words[i].said || used + size + 3 > sizeof(out->missing))
            continue;
        used += (size_t)snprintf(out->missing + used, sizeof(out->missing) - used, "%s%s",
                                 used > 0 ? "; " : "", words[i].text);
    }
}

void info_fill(const struct service *service, struct engine_info *out)
{
    const struct daemon *daemon = &service->daemon;
    memset(out, 0, sizeof(*out));
    (void)snprintf(out->name, sizeof(out->name), "docker");
    (void)snprintf(out->version, sizeof(out->version), "%s",
                   daemon->knew ? daemon->facts.version : "");
    (void)snprintf(out->cgroup_mode, sizeof(out->cgroup_mode), "%s",
                   daemon->knew ? daemon->facts.cgroup_mode : "none");
    images_names(&service->images, out->images, sizeof(out->images));
    images_ids(&service->images, out->image_ids);
    if (daemon->knew) {
        fill_runtimes(service, out);
        out->capabilities = info_capabilities(service, out->runtimes[0].name);
        out->memory_bytes = daemon->facts.memory_bytes;
        out->cpu_millis = daemon->facts.cpus * 1000;
        out->disk_bytes = ENGINE_DISK_UNKNOWN; /* a root is a layer on the daemon's disk */
        out->gpu_count = service->gpu_count;
    }
    if (!daemon->is_up) {
        struct err err = ERR_INIT;
        (void)daemon_away(daemon, &err);
        (void)snprintf(out->unavailable, sizeof(out->unavailable), "%s", err.public_message);
        return;
    }
    fill_missing(service, out);
}
