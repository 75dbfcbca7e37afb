/* Owns the limits of a sandbox's code group: how they are written, in which order, and when not. */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "native/cgroup_internal.h"

#define CPU_PERIOD_US 100000

/* ---- one hierarchy ---- */

static int write_number(int dir_fd, const char *file, uint64_t value, struct err *err)
{
    char text[32];
    (void)snprintf(text, sizeof(text), "%" PRIu64, value);
    return fd_write_file_at(dir_fd, file, text, err);
}

static bool has_file(int dir_fd, const char *file)
{
    return faccessat(dir_fd, file, F_OK, 0) == 0;
}

/* Memory, and memory and swap together: the same figure means no swap. The first may never be above
 * the second, which decides who is written first. The second is absent without swap accounting. */
static int limit_memory_v1(int dir_fd, uint64_t bytes, bool raise, struct err *err)
{
    static const char *const files[] = {"memory.limit_in_bytes", "memory.memsw.limit_in_bytes"};
    bool swap = has_file(dir_fd, files[1]);
    int result = 0;
    for (size_t i = 0; result == 0 && i < ARRAY_SIZE(files); i++) {
        size_t file = raise ? 1 - i : i;
        if (file == 0 || swap)
            result = write_number(dir_fd, files[file], bytes, err);
    }
    /* What sockets hold is counted apart there, and only once there is a limit on it. */
    if (result == 0 && has_file(dir_fd, "memory.kmem.tcp.limit_in_bytes"))
        result = write_number(dir_fd, "memory.kmem.tcp.limit_in_bytes", bytes / 4, err);
    return result;
}

/* raise: above the limit that the group has. */
static int limit_memory(enum init_cgroup_mode mode, int dir_fd, uint64_t bytes, bool raise,
                        struct err *err)
{
    if (mode == INIT_CGROUP_V1)
        return limit_memory_v1(dir_fd, bytes, raise, err);
    int result = write_number(dir_fd, "memory.max", bytes, err);
    if (result == 0 && has_file(dir_fd, "memory.swap.max"))
        result = write_number(dir_fd, "memory.swap.max", 0, err);
    if (result == 0)
        result = fd_write_file_at(dir_fd, "memory.oom.group", "1", err);
    return result;
}

static int limit_cpu(enum init_cgroup_mode mode, int dir_fd, uint32_t cpu_millis, struct err *err)
{
    char text[48];
    uint64_t quota_us = (uint64_t)cpu_millis * CPU_PERIOD_US / 1000;
    if (mode == INIT_CGROUP_V1) {
        int result = write_number(dir_fd, "cpu.cfs_period_us", CPU_PERIOD_US, err);
        return result != 0 ? result : write_number(dir_fd, "cpu.cfs_quota_us", quota_us, err);
    }
    (void)snprintf(text, sizeof(text), "%" PRIu64 " %d", quota_us, CPU_PERIOD_US);
    return fd_write_file_at(dir_fd, "cpu.max", text, err);
}

int cgroup_set_limits(const struct cgroup_root *root, const struct cgroup_hierarchy *hierarchy,
                      int dir_fd, const struct cgroup_limits *limits, struct err *err)
{
    int result = 0;
    if (hierarchy->memory)
        result = limit_memory(root->mode, dir_fd, limits->memory_bytes, false, err);
    if (result == 0 && hierarchy->cpu && limits->cpu_millis > 0)
        result = limit_cpu(root->mode, dir_fd, limits->cpu_millis, err);
    if (result == 0 && hierarchy->pids)
        result = write_number(dir_fd, "pids.max", limits->pids_max, err);
    return result;
}

/* ---- of a group that is in use ---- */

/* v1 refuses a limit below what is used when it can't reclaim enough (EBUSY); v2 takes it and kills
 * (cgroup-v2.rst, memory.max), so it is asked before. */
static int change_memory(enum init_cgroup_mode mode, int dir_fd, uint64_t bytes, struct err *err)
{
    bool v1 = mode == INIT_CGROUP_V1;
    uint64_t limit = cgroup_read_limit(dir_fd, v1 ? "memory.limit_in_bytes" : "memory.max");
    uint64_t used = 0;
    int result = v1 ? 0 : fd_read_u64_at(dir_fd, "memory.current", &used, err);
    if (result != 0)
        return result;
    if (used > bytes)
        return err_set(err, ERR_CONFLICT, "%" PRIu64 " bytes are used", used);
    return limit_memory(mode, dir_fd, bytes, bytes > limit, err);
}

static int change_pids(int dir_fd, uint32_t pids_max, struct err *err)
{
    uint64_t used = 0;
    int result = fd_read_u64_at(dir_fd, "pids.current", &used, err);
    if (result != 0)
        return result;
    /* Init kills the code and writes the limit back itself (init/group.c). */
    if (cgroup_read_limit(dir_fd, "pids.max") == 0)
        return err_set(err, ERR_CONFLICT, "its code is being killed");
    if (used > pids_max)
        return err_set(err, ERR_CONFLICT, "%" PRIu64 " processes are there", used);
    return write_number(dir_fd, "pids.max", pids_max, err);
}

static int change_in(const struct cgroup_root *root, const struct cgroup_hierarchy *hierarchy,
                     int dir_fd, const struct cgroup_limits *limits, struct err *err)
{
    int result = 0;
    if (hierarchy->memory && limits->memory_bytes > 0)
        result = change_memory(root->mode, dir_fd, limits->memory_bytes, err);
    if (result == 0 && hierarchy->pids && limits->pids_max > 0)
        result = change_pids(dir_fd, limits->pids_max, err);
    if (result == 0 && hierarchy->cpu && limits->cpu_millis > 0)
        result = limit_cpu(root->mode, dir_fd, limits->cpu_millis, err);
    return result;
}

int cgroup_change(const struct cgroup_root *root, const char *id,
                  const struct cgroup_limits *limits, struct err *err)
{
    for (size_t i = 0; i < root->count; i++) {
        struct err failure = ERR_INIT;
        FD_AUTO int dir_fd = -1;
        int result = cgroup_open_group(&root->hierarchies[i], id, "code", &dir_fd, &failure);
        if (result == 0)
            result = change_in(root, &root->hierarchies[i], dir_fd, limits, &failure);
        if (result != 0)
            return err_set(err, ERR_CONFLICT, "limits of %s: %s", id, failure.message);
    }
    return 0;
}

/* v1: two files; v2: "QUOTA PERIOD" in one. Zero for a group without a limit. */
static void read_quota(enum init_cgroup_mode mode, int dir_fd, uint64_t *quota_us,
                       uint64_t *period_us)
{
    char text[64];
    char *end = NULL;
    *quota_us = *period_us = 0;
    if (mode == INIT_CGROUP_V1) {
        if (fd_read_u64_at(dir_fd, "cpu.cfs_quota_us", quota_us, NULL) == 0)
            (void)fd_read_u64_at(dir_fd, "cpu.cfs_period_us", period_us, NULL);
    } else if (fd_read_file_at(dir_fd, "cpu.max", text, sizeof(text), NULL) > 0) {
        *quota_us = strtoull(text, &end, 10);
        *period_us = end != text ? strtoull(end, NULL, 10) : 0;
    }
}

uint32_t cgroup_cpu_millis(const struct cgroup_root *root, const char *id)
{
    for (size_t i = 0; i < root->count; i++) {
        FD_AUTO int dir_fd = -1;
        uint64_t quota_us = 0;
        uint64_t period_us = 0;
        if (!root->hierarchies[i].cpu ||
            cgroup_open_group(&root->hierarchies[i], id, "code", &dir_fd, NULL) != 0)
            continue;
        read_quota(root->mode, dir_fd, &quota_us, &period_us);
        if (period_us > 0)
            return (uint32_t)(quota_us * 1000 / period_us);
    }
    return 0;
}

/* memory.oom_control and memory.events have lines "NAME NUMBER". */
static bool has_oom_kill(const char *text)
{
    static const char key[] = "oom_kill ";
    for (const char *line = text; line; line = strchr(line, '\n')) {
        line += *line == '\n' ? 1 : 0;
        if (strncmp(line, key, sizeof(key) - 1) == 0)
            return strtoul(line + sizeof(key) - 1, NULL, 10) > 0;
    }
    return false;
}

bool cgroup_had_oom(const struct cgroup_root *root, const char *id)
{
    const char *file = root->mode == INIT_CGROUP_V1 ? "memory.oom_control" : "memory.events";
    char text[512];
    for (size_t i = 0; i < root->count; i++) {
        FD_AUTO int dir_fd = -1;
        if (root->hierarchies[i].memory &&
            cgroup_open_group(&root->hierarchies[i], id, "code", &dir_fd, NULL) == 0 &&
            fd_read_file_at(dir_fd, file, text, sizeof(text), NULL) > 0)
            return has_oom_kill(text);
    }
    return false;
}
