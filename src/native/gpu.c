/* Owns which GPU is whose. Gives nothing of a specification but nodes and read-only files. */
#include "native/gpu.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"

enum { RETRY_AFTER_S = 5 };

void gpus_open(struct gpus *gpus, int lock_dir_fd)
{
    const char *folders = getenv("BERTH_CDI");
    gpus->lock_dir_fd = lock_dir_fd;
    /* What is generated at each start of the host goes before what was written once. */
    cdi_read(folders ? folders : "/var/run/cdi:/etc/cdi", &gpus->cdi);
}

void gpus_close(struct gpus *gpus)
{
    cdi_free(&gpus->cdi);
}

/* ---- whose ---- */

/* "gpu-nvidia.com_gpu_0": id ranges have numbers for names. */
static void name_lock(const char *gpu, char out[static CDI_NAME_SIZE + 8])
{
    int size = snprintf(out, CDI_NAME_SIZE + 8, "gpu-%s", gpu);
    for (int i = 0; i < size; i++) {
        char byte = out[i];
        bool plain = (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') ||
                     (byte >= '0' && byte <= '9') || byte == '.' || byte == '-';
        out[i] = (char)(plain ? byte : '_');
    }
}

/* -1: another has it. */
static int lock_gpu(const struct gpus *gpus, size_t index)
{
    char name[CDI_NAME_SIZE + 8];
    name_lock(gpus->cdi.gpus[index].name, name);
    FD_AUTO int fd =
        openat(gpus->lock_dir_fd, name, O_RDONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) {
        log_warn("GPU %s: its lock can't be opened: %s", gpus->cdi.gpus[index].name,
                 strerror(errno));
        return -1;
    }
    return flock(fd, LOCK_EX | LOCK_NB) == 0 ? fd_take(&fd) : -1;
}

int gpus_take(const struct gpus *gpus, uint32_t count, struct gpu_set *out, struct err *err)
{
    struct gpu_set set = {0};
    const size_t total = gpus->cdi.gpu_count;
    if (count > total || count > GPU_SET_MAX)
        return err_public(err, ERR_UNSUPPORTED,
                          "resources.gpu: %" PRIu32 " were asked for, this host has %zu", count,
                          total < GPU_SET_MAX ? total : (size_t)GPU_SET_MAX);
    for (size_t i = 0; i < total && set.count < count; i++) {
        int fd = lock_gpu(gpus, i);
        if (fd < 0)
            continue;
        set.index[set.count] = i;
        set.lock_fds[set.count++] = fd;
    }
    if (set.count == count) {
        *out = set;
        return 0;
    }
    const size_t found = set.count;
    gpu_set_release(&set);
    int result = err_public(err, ERR_UNAVAILABLE,
                            "resources.gpu: %" PRIu32 " were asked for, and %zu of the %zu of this "
                            "host are free now",
                            count, found, total);
    if (err)
        err->retry_after_s = RETRY_AFTER_S;
    return result;
}

void gpu_set_release(struct gpu_set *set)
{
    for (size_t i = 0; i < set->count; i++)
        fd_close(&set->lock_fds[i]);
    set->count = 0;
}

static bool is_in_set(const struct gpus *gpus, const struct gpu_set *set,
                      const struct cdi_owner *owner)
{
    for (size_t i = 0; i < set->count; i++) {
        if (cdi_is_of(&gpus->cdi, owner, set->index[i]))
            return true;
    }
    return false;
}

/* ---- nodes ---- */

/* Opens the folder of a path below dev_fd, which nobody else can reach yet. */
static int make_parents(int dev_fd, const char *path, int *out_fd, const char **out_name,
                        struct err *err)
{
    FD_AUTO int at_fd = fcntl(dev_fd, F_DUPFD_CLOEXEC, 0);
    const char *slash = NULL;
    while (at_fd >= 0 && (slash = strchr(path, '/'))) {
        char name[CDI_PATH_SIZE];
        (void)snprintf(name, sizeof(name), "%.*s", (int)(slash - path), path);
        path = slash + 1;
        if (name[0] == '\0')
            continue;
        if (mkdirat(at_fd, name, 0755) != 0 && errno != EEXIST)
            return err_sys(err, errno, "make dev/%s", name);
        int next_fd = openat(at_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        fd_close(&at_fd);
        at_fd = next_fd;
    }
    if (at_fd < 0)
        return err_sys(err, errno, "folder of dev/%s", path);
    *out_fd = fd_take(&at_fd);
    *out_name = path;
    return 0;
}

/* Nodes that several GPUs share come up once for each. The links of every /dev lead elsewhere. */
static bool is_node(int dir_fd, const char *name, dev_t number)
{
    struct stat info;
    return fstatat(dir_fd, name, &info, AT_SYMLINK_NOFOLLOW) == 0 && S_ISCHR(info.st_mode) &&
           info.st_rdev == number;
}

static int make_node(const struct cdi_node *node, int dev_fd, struct err *err)
{
    struct stat info;
    const char *name = "";
    const mode_t mode = node->read_only ? 0444 : 0666;
    FD_AUTO int folder_fd = -1;
    if (stat(node->source, &info) != 0 || !S_ISCHR(info.st_mode))
        return err_set(err, ERR_INTERNAL, "GPU: %s is no device on this host", node->source);
    int result = make_parents(dev_fd, node->path, &folder_fd, &name, err);
    if (result != 0)
        return result;
    if (mknodat(folder_fd, name, S_IFCHR | mode, info.st_rdev) != 0 &&
        (errno != EEXIST || !is_node(folder_fd, name, info.st_rdev)))
        return err_sys(err, errno, "make dev/%s", node->path);
    return fchmodat(folder_fd, name, mode, 0) != 0
               ? err_sys(err, errno, "mode of dev/%s", node->path)
               : 0;
}

int gpus_make_nodes(const struct gpus *gpus, const struct gpu_set *set, int dev_fd, struct err *err)
{
    int result = 0;
    for (size_t i = 0; result == 0 && i < gpus->cdi.node_count; i++) {
        if (is_in_set(gpus, set, &gpus->cdi.nodes[i].owner))
            result = make_node(&gpus->cdi.nodes[i], dev_fd, err);
    }
    return result;
}

/* ---- files ---- */

static bool is_listed(const struct gpu_bind *binds, size_t count, const char *target)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(binds[i].target, target) == 0)
            return true;
    }
    return false;
}

size_t gpus_list_binds(const struct gpus *gpus, const struct gpu_set *set, struct gpu_bind *out)
{
    size_t count = 0;
    for (size_t i = 0; i < gpus->cdi.mount_count && count < GPU_BINDS_MAX; i++) {
        const struct cdi_mount *mount = &gpus->cdi.mounts[i];
        struct stat info;
        if (!is_in_set(gpus, set, &mount->owner) || is_listed(out, count, mount->target))
            continue;
        /* No sockets: behind them is a program of the host. */
        if (stat(mount->source, &info) != 0 || (!S_ISREG(info.st_mode) && !S_ISDIR(info.st_mode))) {
            log_info("GPU: %s is left out: no file or folder on this host", mount->source);
            continue;
        }
        struct gpu_bind *bind = &out[count++];
        memcpy(bind->source, mount->source, sizeof(bind->source));
        memcpy(bind->target, mount->target, sizeof(bind->target));
        bind->folder = S_ISDIR(info.st_mode);
    }
    return count;
}
