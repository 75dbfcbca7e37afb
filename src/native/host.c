/* Owns the engine's folders below priv/ and its own mount namespace. What a host lacks is found
 * out once, at the start, by trying it. */
#include "native/host.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/magic.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/id.h"
#include "base/log.h"
#include "base/mem.h"
#include "native/trial.h"
#include "native/zygote.h"

#define UNPACKED_MAX (UINT64_C(32) << 30)
#define ENTRIES_MAX 2000000
#define UNPACK_TIMEOUT_S 900
#define LAYER_MAX (UINT64_C(8) << 30)
#define LAYER_ENTRIES_MAX 500000
#define LAYER_TIMEOUT_S 600

/* Opens a folder below priv/, made when it is missing. */
static int open_folder(int priv_fd, const char *name, int *out_fd, struct err *err)
{
    if (mkdirat(priv_fd, name, 0700) != 0 && errno != EEXIST)
        return err_sys(err, errno, "make priv/%s", name);
    *out_fd = openat(priv_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    return *out_fd < 0 ? err_sys(err, errno, "open priv/%s", name) : 0;
}

static int open_priv(const char *state_path, int *out_fd, struct err *err)
{
    char path[PATH_MAX];
    (void)snprintf(path, sizeof(path), "%s/priv", state_path);
    *out_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    return *out_fd < 0 ? err_sys(err, errno, "open %s", path) : 0;
}

static int read_instance(struct sandbox_host *host, int priv_fd, struct err *err)
{
    ssize_t size =
        fd_read_file_at(priv_fd, "instance", host->instance, sizeof(host->instance), err);
    if (size < 0)
        return (int)size;
    host->instance[strcspn(host->instance, "\n")] = '\0';
    if (!id_is_name(host->instance, HOST_INSTANCE_SIZE - 1))
        return err_set(err, ERR_INTERNAL, "priv/instance does not hold a name");
    return 0;
}

/* A program beside this one. */
static int find_program(const char *name, char out[static PATH_MAX], struct err *err)
{
    ssize_t size = readlink("/proc/self/exe", out, PATH_MAX - 16);
    if (size < 0)
        return err_sys(err, errno, "find this program");
    out[size] = '\0';
    char *slash = strrchr(out, '/');
    if (!slash)
        return err_set(err, ERR_INTERNAL, "this program has no folder");
    (void)snprintf(slash + 1, PATH_MAX - (size_t)(slash + 1 - out), "%s", name);
    return 0;
}

static int open_program(const char *name, int *out_fd, struct err *err)
{
    char path[PATH_MAX];
    int result = find_program(name, path, err);
    if (result != 0)
        return result;
    *out_fd = open(path, O_PATH | O_CLOEXEC);
    return *out_fd < 0 ? err_sys(err, errno, "open %s", path) : 0;
}

/* A mount namespace of our own: what is staged here is seen by nobody else, and goes with us. What
 * the host mounts or unmounts later still comes in. */
static int leave_mounts(int priv_fd, const char *state_path, struct err *err)
{
    char path[PATH_MAX];
    FD_AUTO int folder_fd = -1;
    int result = open_folder(priv_fd, "mnt", &folder_fd, err);
    if (result != 0)
        return result;
    if (unshare(CLONE_NEWNS) != 0)
        return errno == EPERM
                   ? err_public(err, ERR_UNSUPPORTED,
                                "no mounts can be made here: this root lacks CAP_SYS_ADMIN, as in "
                                "most containers (Docker: --privileged)")
                   : err_sys(err, errno, "own mount namespace");
    if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) != 0)
        return err_sys(err, errno, "mount propagation");
    (void)snprintf(path, sizeof(path), "%s/priv/mnt", state_path);
    if (chdir(path) != 0)
        return err_sys(err, errno, "enter %s", path);
    return 0;
}

/* Below the image's stage, so in a mount of our own. */
static int open_stage(struct sandbox_host *host, const char *image_stage, struct err *err)
{
    static const char *const places[] = {"upper", "lower-0", "lower-1", "empty"};
    char path[PATH_MAX + 16];
    (void)snprintf(path, sizeof(path), "%s/layers", image_stage);
    if (mkdir(path, 0700) != 0 && errno != EEXIST)
        return err_sys(err, errno, "make %s", path);
    host->stage_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (host->stage_fd < 0)
        return err_sys(err, errno, "open %s", path);
    for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
        if (mkdirat(host->stage_fd, places[i], 0700) != 0 && errno != EEXIST)
            return err_sys(err, errno, "make %s/%s", path, places[i]);
    }
    sysview_init(&host->sysview, host->stage_fd, &host->cgroups);
    return 0;
}

/* ---- what this host lacks ---- */

/* In whose name something is missing. */
static const char *host_who(const struct sandbox_host *host)
{
    return host->own_userns ? "an ordinary user" : "root of a user namespace";
}

static void note_missing(struct sandbox_host *host, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static void note_missing(struct sandbox_host *host, const char *format, ...)
{
    size_t used = strlen(host->missing);
    va_list arguments;
    va_start(arguments, format);
    if (used > 0)
        used += (size_t)snprintf(host->missing + used, sizeof(host->missing) - used, "; ");
    if (used < sizeof(host->missing))
        (void)vsnprintf(host->missing + used, sizeof(host->missing) - used, format, arguments);
    va_end(arguments);
}

static int open_groups(struct sandbox_host *host, const char *place, struct err *err)
{
    struct err refused = ERR_INIT;
    if (cgroup_open_below(&host->cgroups, place, host->instance, &refused) == 0)
        return 0;
    if (host->ids.kind == IDRANGE_WHOLE)
        return err_copy(err, &refused);
    host->cgroups = (struct cgroup_root){.mode = INIT_CGROUP_NONE};
    log_info("no control groups: %s", refused.message);
    note_missing(host, "ram, cpu: %s has no control groups", host_who(host));
    return 0;
}

static int try_image(struct sandbox_host *host, struct err *err)
{
    int result = trial_image(&host->image, &host->ids, host->stage_fd, err);
    if (result == 0 && image_shares_files(&host->image))
        note_missing(host, "own_files: locks and watches on files of the image reach the host's");
    if (result != 0 || image_keeps_owners(&host->image))
        return result;
    if (host->ids.kind != IDRANGE_WHOLE) {
        note_missing(host,
                     "container, disk, images, layers: %s can't id-map files or use loop devices",
                     host_who(host));
        return 0;
    }
    struct statfs info;
    bool overlay =
        statfs("/usr", &info) == 0 && (unsigned long)info.f_type == OVERLAYFS_SUPER_MAGIC;
    note_missing(host,
                 "container: /usr can't be id-mapped%s, so its files show no owners and the profile"
                 " \"container\" can't be had",
                 overlay ? " (it is an overlay: berth runs inside a container)" : "");
    return 0;
}

/* What tells sandboxes apart is weaker without ids of their own. */
static int open_ids(struct sandbox_host *host, const struct userns *userns, int priv_fd,
                    struct err *err)
{
    return idrange_open(&host->ids, userns ? userns->host_uid : 0, priv_fd, &host->ids_fd, err);
}

static void note_weaker(struct sandbox_host *host, const struct userns *userns)
{
    if (host->ids.kind == IDRANGE_SHARED)
        note_missing(host, "private_ids: all sandboxes run with one id, %s",
                     userns && userns->few_ids[0] != '\0' ? userns->few_ids
                                                          : "this namespace has no more");
    if (host->ids.kind != IDRANGE_WHOLE)
        note_missing(host, "own_counts: what the kernel counts by user (inotify, namespaces) is"
                           " shared with berth's user");
}

/* Fails where it could not be told which disks are kept. */
static int open_disks(struct sandbox_host *host, int priv_fd, struct err *err)
{
    struct err lack = ERR_INIT;
    struct disk_space space = {0};
    /* Also without tools: what was kept when they were there is kept on. */
    int result = disk_open(priv_fd, &host->disks, err);
    if (result != 0)
        return result;
    if (disk_check(&lack) == 0 && disk_measure(&host->disks, &space, &lack) == 0) {
        host->disks_usable = true;
        /* What living and kept disks hold is promised to their sandboxes already: were it missing
         * here too, each restart of the engine would leave less to promise. */
        uint64_t ours_bytes = space.free_bytes + space.written_bytes;
        host->disk_bytes = ours_bytes < DISK_SIZE_MAX ? ours_bytes : DISK_SIZE_MAX;
        return 0;
    }
    log_warn("no disks for sandboxes: %s", lack.message);
    note_missing(host, "disk: %.160s", lack.public_message[0] ? lack.public_message : lack.message);
    return 0;
}

/* The operator's images. The folder below the state folder is made when it is missing, so that what
 * is put there later is found without a restart. */
static int open_images(struct sandbox_host *host, const struct host_config *config, int priv_fd,
                       struct err *err)
{
    char path[PATH_MAX];
    if (config->images_path)
        (void)snprintf(path, sizeof(path), "%s", config->images_path);
    else
        (void)snprintf(path, sizeof(path), "%s/images", config->state_path);
    if (!config->images_path && mkdir(path, 0700) != 0 && errno != EEXIST)
        return err_sys(err, errno, "make the folder of images %s", path);
    host->images_folder_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (host->images_folder_fd < 0)
        return err_sys(err, errno, "folder of images %s", path);
    int result = open_folder(priv_fd, "images/store", &host->images_store_fd, err);
    if (result == 0)
        result = open_program("berth-unpack", &host->unpack_fd, err);
    const struct images_config images = {.folder_fd = host->images_folder_fd,
                                         .store_fd = host->images_store_fd,
                                         .unpack_fd = host->unpack_fd,
                                         .size_max_bytes = UNPACKED_MAX,
                                         .entries_max = ENTRIES_MAX,
                                         .timeout_s = UNPACK_TIMEOUT_S};
    return result != 0 ? result : images_open(&images, &host->images, err);
}

/* Where what is shown of a layer can't be mapped, none is made. */
static void find_layers(struct sandbox_host *host, int priv_fd)
{
    struct err err = ERR_INIT;
    int result = open_folder(priv_fd, "layers", &host->layers_store_fd, &err);
    if (result == 0)
        result = trial_layers(host->layers_store_fd, &host->ids, host->stage_fd, &err);
    if (result == 0)
        return;
    fd_close(&host->layers_store_fd);
    log_warn("no library layers: %s", err.message);
    note_missing(host, "layers: %.160s", err.message);
}

int host_open_layers(struct sandbox_host *host, layers_imported_fn on_imported, void *context,
                     struct err *err)
{
    const struct layers_config config = {.store_fd = host->layers_store_fd,
                                         .unpack_fd = host->unpack_fd,
                                         .size_max_bytes = LAYER_MAX,
                                         .entries_max = LAYER_ENTRIES_MAX,
                                         .timeout_s = LAYER_TIMEOUT_S};
    if (!host->usable || host->layers_store_fd < 0)
        return 0;
    return layers_open(&config, on_imported, context, &host->layers, err);
}

/* Before the image, which names the servers of names. */
static void open_networks(struct sandbox_host *host)
{
    struct err err = ERR_INIT;
    if (network_open(host->instance, &host->ids, &host->networks, &err) == 0)
        return;
    log_warn("no network full: %s", err.message);
    note_missing(host, "full: %.200s", err.message);
}

static int open_image(struct sandbox_host *host, const char *stage, struct err *err)
{
    open_networks(host);
    MEM_AUTO char *resolv = network_resolv(&host->networks);
    if (!resolv)
        return err_set(err, ERR_INTERNAL, "no memory for resolv.conf");
    return image_open_host(&host->image, stage, resolv, err);
}

/* It needs ids of its own for each sandbox, and groups, whose end is that of all its processes. */
static void find_runsc(struct sandbox_host *host)
{
    struct err err = ERR_INIT;
    int result = host->cgroups.count > 0 ? runsc_find(&host->runsc, &err)
                                         : err_set(&err, ERR_UNSUPPORTED, "no control groups");
    if (result == 0)
        result = find_program("berth-init", host->runsc.init_path, &err);
    host->runsc.usable = result == 0;
    if (result == 0)
        log_info("runtime runsc: %s, version %s", host->runsc.path, host->runsc.version);
    else if (result == -ERR_NOT_FOUND)
        log_debug("no runtime runsc: %s", err.message);
    else
        log_warn("no runtime runsc: %s", err.message);
}

/* What sandboxes need and not every host has. */
static int open_sandboxing(struct sandbox_host *host, const struct host_config *config,
                           int outer_priv_fd, struct err *err)
{
    char stage[PATH_MAX];
    FD_AUTO int priv_fd = -1;
    FD_AUTO int scratch_fd = -1;
    FD_AUTO int stage_folder_fd = -1;
    (void)snprintf(stage, sizeof(stage), "%s/priv/images/host", config->state_path);
    /* First the mount namespace: only what is opened in it can be cloned (open_tree(2)). */
    int result = leave_mounts(outer_priv_fd, config->state_path, err);
    if (result == 0)
        result = trial_proc(err);
    if (result == 0)
        result = open_priv(config->state_path, &priv_fd, err);
    if (result == 0)
        result = idrange_find(&host->ids, err);
    if (result == 0)
        result = open_groups(host, config->cgroup, err);
    if (result == 0)
        result = open_ids(host, config->userns, priv_fd, err);
    if (result == 0)
        result = open_folder(priv_fd, "images", &scratch_fd, err);
    if (result == 0)
        result = open_folder(priv_fd, "images/host", &stage_folder_fd, err);
    if (result == 0)
        result = open_image(host, stage, err);
    if (result == 0)
        result = open_stage(host, stage, err);
    if (result == 0)
        result = try_image(host, err);
    if (result != 0)
        return result;
    note_weaker(host, config->userns);
    if (host->ids.kind != IDRANGE_WHOLE)
        return 0; /* the rest needs the host's root */
    result = open_images(host, config, priv_fd, err);
    if (result == 0)
        result = open_disks(host, priv_fd, err);
    if (result == 0)
        find_layers(host, priv_fd);
    if (result == 0)
        gpus_open(&host->gpus, host->ids_fd);
    if (result == 0)
        find_runsc(host);
    return result;
}

static void host_clear(struct sandbox_host *host)
{
    memset(host, 0, sizeof(*host));
    host->run_fd = host->ids_fd = host->init_fd = host->stage_fd = host->epoll_fd = -1;
    host->images_folder_fd = host->images_store_fd = host->unpack_fd = host->disks.dir_fd = -1;
    host->layers_store_fd = -1;
    sysview_init(&host->sysview, -1, &host->cgroups);
}

/* Rights that a setting of the kernel takes from user namespaces fail late, and far from its name.
 */
static void add_hint(struct err *err)
{
    char hint[USERNS_TEXT_MAX];
    userns_hint(hint, sizeof(hint));
    if (hint[0] != '\0')
        (void)err_wrap(err, "%s", hint);
}

int host_open(const struct host_config *config, struct sandbox_host *host, struct err *err)
{
    FD_AUTO int priv_fd = -1;
    host_clear(host);
    int result = open_priv(config->state_path, &priv_fd, err);
    if (result == 0)
        result = open_program("berth-init", &host->init_fd, err);
    if (result == 0)
        result = open_folder(priv_fd, "run", &host->run_fd, err);
    if (result == 0)
        result = read_instance(host, priv_fd, err);
    if (result != 0) {
        host_close(host);
        return result;
    }
    host->own_userns = config->userns && config->userns->own;
    if (config->refused)
        (void)err_copy(&host->unavailable, config->refused);
    else
        host->usable = open_sandboxing(host, config, priv_fd, &host->unavailable) == 0;
    if (!host->usable && host->unavailable.kind != ERR_UNSUPPORTED)
        host->unavailable.kind = ERR_UNAVAILABLE;
    if (!host->usable && host->own_userns)
        add_hint(&host->unavailable);
    if (!host->usable)
        log_error("no sandbox can be made: %s", host->unavailable.message);
    return 0;
}

void host_close(struct sandbox_host *host)
{
    images_free(host->images);
    layers_free(host->layers);
    gpus_close(&host->gpus);
    sysview_done(&host->sysview);
    image_close(&host->image);
    if (host->cgroups.count > 0)
        cgroup_retire(&host->cgroups);
    cgroup_close(&host->cgroups);
    disk_close(&host->disks);
    fd_close(&host->images_folder_fd);
    fd_close(&host->images_store_fd);
    fd_close(&host->layers_store_fd);
    fd_close(&host->unpack_fd);
    fd_close(&host->stage_fd);
    fd_close(&host->run_fd);
    fd_close(&host->ids_fd);
    fd_close(&host->init_fd);
}

/* The kernel itself first. */
static void list_runtimes(const struct sandbox_host *host, struct engine_info *out)
{
    struct engine_runtime *native = &out->runtimes[out->runtime_count++];
    (void)snprintf(native->name, sizeof(native->name), "native");
    (void)snprintf(native->version, sizeof(native->version), "%s", out->version);
    native->capabilities = out->capabilities;
    if (!host->runsc.usable)
        return;
    struct engine_runtime *runsc = &out->runtimes[out->runtime_count++];
    (void)snprintf(runsc->name, sizeof(runsc->name), RUNSC_NAME);
    (void)snprintf(runsc->version, sizeof(runsc->version), "%s", host->runsc.version);
    runsc->capabilities = runsc_capabilities(out->capabilities);
    runsc->memory_bytes = RUNSC_MEMORY_BYTES;
    if (host->runsc.failed) /* the reason names things of the host, and others' sandboxes */
        (void)snprintf(runsc->warning, sizeof(runsc->warning),
                       "the last start failed; the engine's log says why");
}

void host_info(const struct sandbox_host *host, struct engine_info *out)
{
    struct sysinfo system;
    memset(out, 0, sizeof(*out));
    (void)snprintf(out->name, sizeof(out->name), "native");
    (void)snprintf(out->version, sizeof(out->version), "%s", BERTH_VERSION);
    (void)snprintf(out->cgroup_mode, sizeof(out->cgroup_mode), "%s",
                   cgroup_mode_name(&host->cgroups));
    (void)snprintf(out->missing, sizeof(out->missing), "%s", host->missing);
    if (!host->usable)
        (void)snprintf(out->unavailable, sizeof(out->unavailable), "%s", host->unavailable.message);
    if (sysinfo(&system) == 0)
        out->memory_bytes = (uint64_t)system.totalram * system.mem_unit;
    uint64_t bound_bytes = cgroup_memory_bound(&host->cgroups);
    if (bound_bytes < out->memory_bytes)
        out->memory_bytes = bound_bytes;
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    if (sched_getaffinity(0, sizeof(cpus), &cpus) == 0)
        out->cpu_millis = (uint32_t)CPU_COUNT(&cpus) * 1000;
    out->storage_bytes = out->memory_bytes / 2; /* a tmpfs is memory */
    out->disk_bytes = host->disk_bytes;
    (void)snprintf(out->images, sizeof(out->images), "host ");
    if (host->images)
        images_names(host->images, out->images + 5, sizeof(out->images) - 5);
    if (out->images[5] == '\0')
        out->images[4] = '\0';
    out->capabilities = ENGINE_CAP_PIDS | ENGINE_CAP_STORAGE | ENGINE_CAP_ISOLATED;
    if (host->cgroups.count > 0 || !host->usable)
        out->capabilities |= ENGINE_CAP_MEMORY | ENGINE_CAP_CPU;
    if (host->cgroups.count > 0)
        out->capabilities |= ENGINE_CAP_LIMIT;
    if (host->zygotes && zygotes_are_ready(host->zygotes))
        out->capabilities |= ENGINE_CAP_ZYGOTE;
    if (host->ids.kind != IDRANGE_SHARED || !host->usable)
        out->capabilities |= ENGINE_CAP_PRIVATE_IDS;
    if (host->usable && image_keeps_owners(&host->image))
        out->capabilities |= ENGINE_CAP_IDMAP | ENGINE_CAP_CONTAINER;
    out->gpu_count = (uint32_t)host->gpus.cdi.gpu_count;
    if (out->gpu_count > GPU_SET_MAX)
        out->gpu_count = GPU_SET_MAX; /* what one sandbox can have */
    if (out->gpu_count > 0)
        out->capabilities |= ENGINE_CAP_GPU;
    if (host->disks_usable)
        out->capabilities |= ENGINE_CAP_DISK | ENGINE_CAP_STOP;
    if (host->layers)
        out->capabilities |= ENGINE_CAP_LAYERS;
    if (host->networks.offered)
        out->capabilities |= ENGINE_CAP_FULL;
    list_runtimes(host, out);
}
