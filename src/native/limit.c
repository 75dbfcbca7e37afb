/* Owns the change of a running sandbox's limits. What init enforces is not here (FRAME_LIMITS). */
#include "native/limit.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <poll.h>
#include <stdio.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fd.h"
#include "native/mountfd.h"
#include "native/rootfs.h"
#include "wire/sandbox.h"

#define MEMORY_MIN (UINT64_C(4) << 20)
#define STORAGE_MIN (UINT64_C(64) << 10)
#define BYTES_MAX (UINT64_C(1) << 50)

enum { CPU_MILLIS_MIN = 10, CPU_MILLIS_MAX = 1024 * 1000, PIDS_MIN = 2 };

static bool is_within(uint64_t value, uint64_t least, uint64_t most, bool may_leave)
{
    return (may_leave && value == 0) || (value >= least && value <= most);
}

int limit_check(const struct engine_create *spec, bool may_leave, struct err *err)
{
    if (!is_within(spec->memory_bytes, MEMORY_MIN, BYTES_MAX, may_leave))
        return err_set(err, ERR_BAD_INPUT, "memory of %" PRIu64 " bytes", spec->memory_bytes);
    if (!is_within(spec->storage_bytes, STORAGE_MIN, BYTES_MAX, may_leave))
        return err_set(err, ERR_BAD_INPUT, "storage of %" PRIu64 " bytes", spec->storage_bytes);
    if (!is_within(spec->cpu_millis, CPU_MILLIS_MIN, CPU_MILLIS_MAX, may_leave))
        return err_set(err, ERR_BAD_INPUT, "%u thousandths of a core", spec->cpu_millis);
    if (!is_within(spec->pids_max, PIDS_MIN, SANDBOX_PIDS_MAX, may_leave))
        return err_set(err, ERR_BAD_INPUT, "%u processes", spec->pids_max);
    return 0;
}

static int check_cpus(const struct sandbox_host *host, const struct sandbox *sandbox,
                      uint32_t cpu_millis, struct err *err)
{
    if (sandbox->runsc) /* what it sees of processors does not come from us */
        return 0;
    uint32_t has_millis = cgroup_cpu_millis(&host->cgroups, sandbox->id);
    if (cpu_millis == 0 || sysview_cpus(cpu_millis) == sysview_cpus(has_millis))
        return 0;
    return err_set(err, ERR_CONFLICT, "sandbox %s was made for %u processors, not for %u",
                   sandbox->id, sysview_cpus(has_millis), sysview_cpus(cpu_millis));
}

/* The root of the sandbox, as its init has it: a process that the code can't have moved. */
static int open_root(const struct sandbox *sandbox, int *out_fd, struct err *err)
{
    char path[48];
    struct pollfd init = {.fd = sandbox->pidfd, .events = POLLIN};
    (void)snprintf(path, sizeof(path), "/proc/%d/root", (int)sandbox->pid);
    FD_AUTO int fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0 && sandbox->runsc) { /* a name that belongs to the sandbox's ids */
        struct open_how how = {.flags = O_PATH | O_DIRECTORY | O_CLOEXEC,
                               .resolve =
                                   RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS};
        int below_fd = (int)syscall(SYS_openat2, fd, &RUNSC_ROOT[1], &how, sizeof(how));
        fd_close(&fd);
        fd = below_fd;
    }
    if (fd < 0)
        return err_sys(err, errno, "open the root of %s", sandbox->id);
    /* Alive after the number was used: it was nobody else's. */
    if (poll(&init, 1, 0) != 0)
        return err_set(err, ERR_CONFLICT, "sandbox %s has ended", sandbox->id);
    *out_fd = fd_take(&fd);
    return 0;
}

static int resize(const struct sandbox *sandbox, uint64_t storage_bytes, struct err *err)
{
    FD_AUTO int root_fd = -1;
    struct statfs info;
    int result = open_root(sandbox, &root_fd, err);
    if (result != 0)
        return result;
    if (fstatfs(root_fd, &info) != 0)
        return err_sys(err, errno, "statfs of the root of %s", sandbox->id);
    if ((unsigned long)info.f_type != TMPFS_MAGIC)
        return err_set(err, ERR_CONFLICT, "the files of %s can't be given another size",
                       sandbox->id);
    return mountfd_resize_tmpfs(root_fd, storage_bytes, rootfs_inodes(storage_bytes), err);
}

static int change_storage(struct sandbox *sandbox, uint64_t storage_bytes, struct err *err)
{
    struct err failure = ERR_INIT;
    /* Of an adopted one it is not known what it was given. */
    if (storage_bytes == 0 || storage_bytes == sandbox->spec.storage_bytes)
        return 0;
    if (resize(sandbox, storage_bytes, &failure) != 0)
        return err_set(err, ERR_CONFLICT, "storage of %s: %s", sandbox->id, failure.message);
    sandbox->spec.storage_bytes = storage_bytes; /* also when the rest of the change fails */
    return 0;
}

static void note(struct sandbox *sandbox, const struct engine_create *spec)
{
    struct engine_create *known = &sandbox->spec;
    known->memory_bytes = spec->memory_bytes > 0 ? spec->memory_bytes : known->memory_bytes;
    known->cpu_millis = spec->cpu_millis > 0 ? spec->cpu_millis : known->cpu_millis;
    known->pids_max = spec->pids_max > 0 ? spec->pids_max : known->pids_max;
}

int limit_change(const struct sandbox_host *host, struct sandbox *sandbox,
                 const struct engine_create *spec, struct err *err)
{
    const struct cgroup_limits limits = sandbox_group_limits(sandbox, spec);
    if (host->cgroups.count == 0)
        return err_public(err, ERR_UNSUPPORTED, "limits can't be changed without control groups");
    int result = limit_check(spec, true, err);
    if (result == 0 && sandbox->state != ENGINE_STATE_RUNNING)
        result = err_set(err, ERR_CONFLICT, "sandbox %s is not running", sandbox->id);
    if (result == 0)
        result = check_cpus(host, sandbox, spec->cpu_millis, err);
    if (result == 0)
        result = change_storage(sandbox, spec->storage_bytes, err);
    if (result == 0)
        result = cgroup_change(&host->cgroups, sandbox->id, &limits, err);
    if (result == 0)
        note(sandbox, spec);
    return result;
}
