/* Owns the shape of a sandbox's root. Refuses to follow anything that an image or the code left: a
 * path is walked one name at a time, by descriptors. */
#include "native/rootfs.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "native/asuser.h"
#include "native/mountfd.h"
#include "native/parent.h"
#include "native/spare.h"
#include "native/treeremove.h"
#include "wire/engine_msg.h"

#define INODE_BYTES 4096 /* of storage for each inode of a tmpfs */
#define INODES_MIN 1024

enum { CODE_ID = 1000 };

static const struct {
    const char *path;
    mode_t mode;
    bool code; /* the code's own */
} folders[] = {
    {"proc", 0755, false},
    {"sys", 0755, false},
    {"dev", 0755, false},
    {"run", 0755, false},
    {"tmp", 01777, false},
    {"home", 0755, false},
    {"root", 0755, false},
    {"mnt", 0755, false},
    {"opt", 0755, false},
    {"srv", 0755, false},
    {"var", 0755, false},
    {"var/tmp", 01777, false},
    {"var/lib", 0755, false},
    {"var/log", 0755, false},
    {"var/cache", 0755, false},
    {".shm", 01777, false},
    {"home/sandbox", 0755, true},
    {"workspace", 0755, true},
    {&ENGINE_LAYER_PLACE[1], 0755, true},
};

static const char *const package_folders[] = {
    "var/lib/apt",
    "var/lib/apt/lists",
    "var/lib/apt/lists/partial",
    "var/cache/apt",
    "var/cache/apt/archives",
    "var/cache/apt/archives/partial",
    "var/log/apt",
    "run/lock",
    "run/sudo",
};

/* Where the writable part is, and who owns what is made there. */
struct writable {
    int mount_fd;           /* attached while layers are put together */
    uid_t owner;            /* id 0 of the sandbox, as stored */
    struct gpu_bind *binds; /* that have a place to go to; heap */
    size_t bind_count;
};

uint64_t rootfs_inodes(uint64_t storage_bytes)
{
    uint64_t count = storage_bytes / INODE_BYTES;
    return count < INODES_MIN ? INODES_MIN : count;
}

static bool has_gpus(const struct rootfs_spec *spec)
{
    return spec->gpus && spec->gpu_set && spec->gpu_set->count > 0;
}

bool rootfs_is_plain(const struct rootfs_spec *spec)
{
    return spec->folder_fd < 0 && !spec->on_disk && !spec->container && !has_gpus(spec);
}

/* ---- folders ---- */

/* Makes one name a folder below dir_fd and opens it. */
static int make_folder(int dir_fd, const char *name, mode_t mode, uid_t owner, int *out_fd,
                       struct err *err)
{
    bool made = mkdirat(dir_fd, name, 0755) == 0;
    if (!made && errno != EEXIST)
        return err_sys(err, errno, "make folder %s", name);
    FD_AUTO int fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 && !made && (errno == ENOTDIR || errno == ELOOP)) {
        int held_fd = openat(dir_fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
        made = unlinkat(dir_fd, name, 0) == 0 && mkdirat(dir_fd, name, 0755) == 0;
        treeremove_release(&held_fd); /* it may be as large as the disk */
        fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        /* A whiteout or a link hid the folder of the image, which would show through again. */
        if (fd >= 0 && made && fsetxattr(fd, "trusted.overlay.opaque", "y", 1, 0) != 0 &&
            errno != EPERM) /* an ordinary user has no such attribute */
            return err_sys(err, errno, "hide folder %s of the image", name);
    }
    if (fd < 0)
        return err_sys(err, errno, "open folder %s", name);
    if (made && (fchown(fd, owner, owner) != 0 || fchmod(fd, mode) != 0))
        return err_sys(err, errno, "owner of folder %s", name);
    *out_fd = fd_take(&fd);
    return 0;
}

/* The same for a path; folders on the way have mode 0755. */
static int make_path(int root_fd, const char *path, mode_t mode, uid_t root_owner, uid_t owner,
                     struct err *err)
{
    FD_AUTO int dir_fd = -1;
    for (const char *start = path; start;) {
        const char *slash = strchr(start, '/');
        char name[NAME_MAX + 1];
        int next_fd = -1;
        (void)snprintf(name, sizeof(name), "%.*s",
                       slash ? (int)(slash - start) : (int)strlen(start), start);
        int result = make_folder(dir_fd < 0 ? root_fd : dir_fd, name, slash ? 0755 : mode,
                                 slash ? root_owner : owner, &next_fd, err);
        if (result != 0)
            return result;
        fd_close(&dir_fd);
        dir_fd = next_fd;
        start = slash ? slash + 1 : NULL;
    }
    return 0;
}

static int make_common(int root_fd, uid_t owner, uid_t code, struct err *err)
{
    for (size_t i = 0; i < ARRAY_SIZE(folders); i++) {
        int result = make_path(root_fd, folders[i].path, folders[i].mode, owner,
                               folders[i].code ? code : owner, err);
        if (result != 0)
            return result;
    }
    return 0;
}

int rootfs_make_folders(int root_fd, const struct image *host, uid_t owner, uid_t code,
                        struct err *err)
{
    int result = make_common(root_fd, owner, code, err);
    for (size_t i = 0; result == 0 && i < host->tree_count; i++) {
        /* usr/local lies inside another tree. */
        if (host->trees[i].use == IMAGE_LAYER)
            result = make_path(root_fd, host->trees[i].target, 0755, owner, owner, err);
    }
    for (size_t i = 0; result == 0 && i < host->link_count; i++) {
        const struct image_link *link = &host->links[i];
        bool made = symlinkat(link->to, root_fd, link->target) == 0;
        if (!made && errno != EEXIST)
            return err_sys(err, errno, "make link %s", link->target);
        if (made && fchownat(root_fd, link->target, owner, owner, AT_SYMLINK_NOFOLLOW) != 0)
            return err_sys(err, errno, "owner of link %s", link->target);
    }
    return result;
}

static int make_package_folders(int root_fd, const struct image *host, uid_t owner, struct err *err)
{
    int result = 0;
    for (size_t i = 0; result == 0 && i < ARRAY_SIZE(package_folders); i++)
        result = make_path(root_fd, package_folders[i], 0755, owner, owner, err);
    for (size_t i = 0; result == 0 && i < host->tree_count; i++) {
        if (host->trees[i].use == IMAGE_CONTAINER)
            result = make_path(root_fd, host->trees[i].target, 0755, owner, owner, err);
    }
    return result;
}

/* ---- mounts ---- */

static int add(struct rootfs *rootfs, const char *target, int *mount_fd, struct err *err)
{
    if (rootfs->count >= ROOTFS_MOUNT_MAX)
        return err_set(err, ERR_INTERNAL, "more than %d mounts", ROOTFS_MOUNT_MAX);
    struct rootfs_mount *mount = &rootfs->mounts[rootfs->count++];
    (void)snprintf(mount->target, sizeof(mount->target), "%s", target);
    mount->fd = fd_take(mount_fd);
    return 0;
}

/* A /dev of the sandbox's own: that of the others is one for all. */
static int add_dev(const struct rootfs_spec *spec, struct rootfs *rootfs, struct err *err)
{
    FD_AUTO int fd = -1;
    int result = image_make_dev(&fd, err);
    if (result == 0)
        result = gpus_make_nodes(spec->gpus, spec->gpu_set, fd, err);
    if (result == 0)
        result = mountfd_restrict(fd, MOUNT_ATTR_RDONLY, err);
    if (result == 0)
        (void)mountfd_idmap(fd, spec->userns_fd, NULL); /* else its files look like nobody's */
    return result != 0 ? result : add(rootfs, "dev", &fd, err);
}

static int add_bound(const struct rootfs_spec *spec, struct image_tree *tree, struct rootfs *rootfs,
                     struct err *err)
{
    FD_AUTO int fd = -1;
    if (has_gpus(spec) && strcmp(tree->target, "dev") == 0)
        return add_dev(spec, rootfs, err);
    int result = image_clone(tree, true, spec->userns_fd, &fd, err);
    return result != 0 ? result : add(rootfs, tree->target, &fd, err);
}

/* The cgroups of the code, read-only, as the code's own cgroup namespace shows them. */
static int add_cgroups(const struct rootfs_spec *spec, struct rootfs *rootfs, struct err *err)
{
    char source[SANDBOX_ID_MAX + 8];
    (void)snprintf(source, sizeof(source), "%s/code", spec->id);
    for (size_t i = 0; i < spec->cgroups->count; i++) {
        const struct cgroup_hierarchy *hierarchy = &spec->cgroups->hierarchies[i];
        FD_AUTO int fd = -1;
        char target[48];
        (void)snprintf(target, sizeof(target), "sys/fs/cgroup%s%s", hierarchy->name[0] ? "/" : "",
                       hierarchy->name);
        int result = mountfd_clone(hierarchy->base_fd, source, false, &fd, err);
        if (result == 0)
            result = mountfd_restrict(
                fd, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC,
                err);
        if (result == 0)
            result = add(rootfs, target, &fd, err);
        if (result != 0)
            return result;
    }
    return 0;
}

static int add_views(const struct rootfs_spec *spec, struct rootfs *rootfs, struct err *err)
{
    FD_AUTO int sys_fd = -1;
    int result = sysview_clone(spec->sysview, spec->cpu_millis, &sys_fd, err);
    if (result == 0)
        result = add(rootfs, "sys", &sys_fd, err);
    return result != 0 ? result : add_cgroups(spec, rootfs, err);
}

/* ---- the writable part ---- */

/* Prepares a folder of the writable part; on a filesystem in memory it is stored with the host's
 * ids, on a disk with those of the sandbox, which the mount maps. */
static int make_writable(const struct rootfs_spec *spec, struct writable *out, struct err *err)
{
    FD_AUTO int fd = -1;
    int result = 0;
    if (spec->on_disk) {
        fd = fcntl(spec->disk_fd, F_DUPFD_CLOEXEC, 0);
        if (fd < 0)
            return err_sys(err, errno, "descriptor of the disk");
    } else {
        result =
            mountfd_tmpfs(spec->storage_bytes, rootfs_inodes(spec->storage_bytes), 0, &fd, err);
    }
    if (result == 0)
        result =
            mountfd_restrict(fd, MOUNT_ATTR_NODEV | (spec->container ? 0 : MOUNT_ATTR_NOSUID), err);
    out->owner = spec->on_disk ? 0 : spec->first_id;
    out->mount_fd = result == 0 ? fd_take(&fd) : -1;
    return result;
}

/* From here what is made on it would be made by an id that it does not know. */
static int attach_writable(const struct rootfs_spec *spec, const struct writable *writable,
                           struct err *err)
{
    int result = 0;
    if (spec->on_disk)
        result = mountfd_idmap(writable->mount_fd, spec->userns_fd, err);
    return result != 0 ? err_wrap(err, "disk")
                       : mountfd_attach(writable->mount_fd, spec->stage_fd, "upper", err);
}

static void name_pair(const char *target, char upper[static 32], char work[static 32])
{
    char name[24];
    (void)snprintf(name, sizeof(name), "%s", target[0] ? target : "all");
    for (char *at = name; *at; at++)
        *at = *at == '/' ? '-' : *at;
    (void)snprintf(upper, 32, "%s.upper", name);
    (void)snprintf(work, 32, "%s.work", name);
}

/* The folders of one overlay; hidden: a folder of the lower layers that starts empty. */
static int make_pair(const struct writable *writable, const char *target, const char *hidden,
                     int *out_upper_fd, struct err *err)
{
    char upper[32];
    char work[32];
    FD_AUTO int upper_fd = -1;
    FD_AUTO int work_fd = -1;
    name_pair(target, upper, work);
    int result = make_folder(writable->mount_fd, upper, 0755, writable->owner, &upper_fd, err);
    if (result == 0)
        result = make_folder(writable->mount_fd, work, 0700, writable->owner, &work_fd, err);
    if (result == 0 && hidden[0] != '\0') {
        FD_AUTO int hidden_fd = -1;
        result = make_folder(upper_fd, hidden, 0755, writable->owner, &hidden_fd, err);
        if (result == 0 && fsetxattr(hidden_fd, "trusted.overlay.opaque", "y", 1, 0) != 0)
            result = err_sys(err, errno, "hide %s/%s", target, hidden);
    }
    if (result == 0 && out_upper_fd)
        *out_upper_fd = fd_take(&upper_fd);
    return result;
}

static int open_below(int dir_fd, const char *name, int *out_fd, struct err *err)
{
    *out_fd = openat(dir_fd, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    return *out_fd < 0 ? err_sys(err, errno, "open %s", name) : 0;
}

/* The overlay works on its layers as whoever mounts it: that has to be an id which the disk's map
 * knows, with all of root's rights. Changing it drops some of them until it is changed back
 * (capabilities(7), "Effect of user ID changes on capabilities"). */
static int make_overlay(const struct rootfs_spec *spec, const int *layers, size_t layer_count,
                        int upper_fd, int work_fd, int *out_fd, struct err *err)
{
    const struct parent_watch watch = parent_watch_save();
    (void)setfsgid(spec->first_id);
    (void)setfsuid(spec->first_id);
    int result = asuser_raise() != 0 ? err_sys(err, errno, "keep capabilities") : 0;
    if (result == 0)
        result = mountfd_overlay(NULL, layers, layer_count, upper_fd, work_fd,
                                 MOUNT_ATTR_NODEV | (spec->container ? 0 : MOUNT_ATTR_NOSUID),
                                 out_fd, err);
    (void)setfsuid(0);
    (void)setfsgid(0);
    parent_watch_restore(&watch);
    return result;
}

/* An overlay over detached layers, topmost first. They are attached for the moment that the kernel
 * looks at them. */
static int add_overlay(const struct rootfs_spec *spec, const struct writable *writable,
                       const char *target, const int *layers, size_t layer_count,
                       struct rootfs *rootfs, struct err *err)
{
    static const char *const places[] = {"lower-0", "lower-1"};
    char upper[32];
    char work[32];
    FD_AUTO int upper_fd = -1;
    FD_AUTO int work_fd = -1;
    FD_AUTO int fd = -1;
    size_t attached = 0;
    name_pair(target, upper, work);
    int result = open_below(writable->mount_fd, upper, &upper_fd, err);
    if (result == 0)
        result = open_below(writable->mount_fd, work, &work_fd, err);
    while (result == 0 && attached < layer_count) {
        result = mountfd_attach(layers[attached], spec->stage_fd, places[attached], err);
        attached += result == 0 ? 1 : 0;
    }
    if (result == 0)
        result = make_overlay(spec, layers, layer_count, upper_fd, work_fd, &fd, err);
    while (attached > 0)
        mountfd_detach(layers[--attached]);
    return result != 0 ? result : add(rootfs, target, &fd, err);
}

static int add_read_only(const struct rootfs_spec *spec, struct image_tree *tree,
                         struct rootfs *rootfs, struct err *err)
{
    FD_AUTO int fd = -1;
    if (tree->flat)
        return add_bound(spec, tree, rootfs, err);
    int result = image_overlay(tree, spec->stage_fd, spec->userns_fd, &fd, err);
    return result != 0 ? result : add(rootfs, tree->target, &fd, err);
}

/* What is below the root in profile strict, where the image is not written to. */
static int add_strict(const struct rootfs_spec *spec, struct rootfs *rootfs, struct err *err)
{
    int result = 0;
    for (size_t i = 0; result == 0 && i < spec->host->tree_count; i++) {
        struct image_tree *tree = &spec->host->trees[i];
        if (tree->use == IMAGE_LAYER)
            result = add_read_only(spec, tree, rootfs, err);
        else if (tree->use != IMAGE_CONTAINER)
            result = add_bound(spec, tree, rootfs, err);
    }
    return result;
}

/* ---- what comes with a GPU ---- */

/* Whether target goes where another tree of image `host` is mounted, whose files are the host's. */
static bool is_in_tree(const struct image *host, const char *target)
{
    const size_t size = strcspn(target, "/");
    for (size_t i = 0; i < host->tree_count; i++) {
        const char *tree = host->trees[i].target;
        if (strlen(tree) == size && strncmp(tree, target, size) == 0)
            return true;
    }
    for (size_t i = 0; i < host->link_count; i++) {
        if (strlen(host->links[i].target) == size &&
            strncmp(host->links[i].target, target, size) == 0)
            return true;
    }
    return false;
}

/* Folders that the engine itself mounts something on, or fills. */
static bool is_own(const char *target)
{
    static const char *const own[] = {"proc", "sys", "dev", ".shm"};
    const size_t size = strcspn(target, "/");
    for (size_t i = 0; i < ARRAY_SIZE(own); i++) {
        if (strlen(own[i]) == size && strncmp(own[i], target, size) == 0)
            return true;
    }
    return false;
}

static int open_beneath(int dir_fd, const char *path)
{
    struct open_how how;
    memset(&how, 0, sizeof(how));
    how.flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC;
    how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
    return (int)syscall(SYS_openat2, dir_fd, path, &how, sizeof(how));
}

/* What of an image is at path, without following any link: 1, a file or folder as wanted; 0,
 * nothing, and no link on the way; -1, something else. */
static int look_up(int lower_fd, const char *path, bool folder)
{
    struct open_how how;
    struct stat info;
    memset(&how, 0, sizeof(how));
    how.flags = O_PATH | O_NOFOLLOW | O_CLOEXEC;
    how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
    FD_AUTO int fd = (int)syscall(SYS_openat2, lower_fd, path, &how, sizeof(how));
    if (fd < 0)
        return errno == ENOENT ? 0 : -1;
    if (fstat(fd, &info) != 0)
        return -1;
    return (folder ? S_ISDIR(info.st_mode) : S_ISREG(info.st_mode)) ? 1 : -1;
}

/* Makes the place for one bind below root_fd. */
static int make_point(const struct writable *writable, int root_fd, const struct gpu_bind *bind,
                      struct err *err)
{
    char parent[CDI_PATH_SIZE];
    if (bind->folder)
        return make_path(root_fd, bind->target, 0755, writable->owner, writable->owner, err);
    (void)snprintf(parent, sizeof(parent), "%s", bind->target);
    char *slash = strrchr(parent, '/');
    const char *name = slash ? slash + 1 : parent;
    FD_AUTO int folder_fd = fcntl(root_fd, F_DUPFD_CLOEXEC, 0);
    if (slash) {
        *slash = '\0';
        int result = make_path(root_fd, parent, 0755, writable->owner, writable->owner, err);
        fd_close(&folder_fd);
        folder_fd = result == 0 ? open_beneath(root_fd, parent) : -1;
        if (result != 0)
            return result;
    }
    FD_AUTO int fd =
        openat(folder_fd, name, O_WRONLY | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0444);
    if (fd < 0)
        return err_sys(err, errno, "make %s", bind->target);
    return fchown(fd, writable->owner, writable->owner) != 0
               ? err_sys(err, errno, "owner of %s", bind->target)
               : 0;
}

/* Makes places for the files that come with the GPUs. On image `host` those below /usr are there by
 * themselves. What would have to go through a link of an image, or in the place of another kind of
 * file, is left out. */
static int make_gpu_points(const struct rootfs_spec *spec, struct writable *writable, int root_fd,
                           struct err *err)
{
    writable->binds = calloc(GPU_BINDS_MAX, sizeof(*writable->binds));
    if (!writable->binds)
        return err_set(err, ERR_INTERNAL, "no memory");
    const size_t listed = gpus_list_binds(spec->gpus, spec->gpu_set, writable->binds);
    for (size_t i = 0; i < listed; i++) {
        const struct gpu_bind bind = writable->binds[i];
        const bool on_host = spec->folder_fd < 0;
        const int there = on_host ? 0 : look_up(spec->folder_fd, bind.target, bind.folder);
        if (there < 0 || (on_host && is_in_tree(spec->host, bind.target)) || is_own(bind.target)) {
            log_debug("GPU: /%s is left out of sandbox %s", bind.target, spec->id);
            continue;
        }
        int result = there == 0 ? make_point(writable, root_fd, &bind, err) : 0;
        if (result != 0)
            return result;
        writable->binds[writable->bind_count++] = bind;
    }
    return 0;
}

static int add_gpu_binds(const struct rootfs_spec *spec, const struct writable *writable,
                         struct rootfs *rootfs, struct err *err)
{
    for (size_t i = 0; i < writable->bind_count; i++) {
        FD_AUTO int fd = -1;
        int result = mountfd_clone(AT_FDCWD, writable->binds[i].source, true, &fd, err);
        if (result == 0)
            result =
                mountfd_restrict(fd, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, err);
        if (result == 0)
            (void)mountfd_idmap(fd, spec->userns_fd, NULL);
        if (result == 0)
            result = add(rootfs, writable->binds[i].target, &fd, err);
        if (result != 0)
            return err_wrap(err, "%s for a GPU", writable->binds[i].source);
    }
    return 0;
}

/* ---- image host with a writable part of its own ---- */

static int prepare_host(const struct rootfs_spec *spec, struct writable *writable, struct err *err)
{
    FD_AUTO int root_fd = -1;
    int result = make_folder(writable->mount_fd, "root", 0755, writable->owner, &root_fd, err);
    if (result == 0)
        result = rootfs_make_folders(root_fd, spec->host, writable->owner,
                                     writable->owner + CODE_ID, err);
    if (result == 0 && has_gpus(spec))
        result = make_gpu_points(spec, writable, root_fd, err);
    if (result != 0 || !spec->container)
        return result;
    result = make_package_folders(root_fd, spec->host, writable->owner, err);
    for (size_t i = 0; result == 0 && i < spec->host->tree_count; i++) {
        const struct image_tree *tree = &spec->host->trees[i];
        if (tree->use == IMAGE_LAYER || tree->use == IMAGE_CONTAINER)
            result = make_pair(writable, tree->target, tree->hidden, NULL, err);
    }
    return result;
}

static bool is_layer(const struct image_tree *tree)
{
    return tree->use == IMAGE_LAYER || tree->use == IMAGE_CONTAINER;
}

/* The tree number index as an overlay, with the one that lies over it. */
static int add_layered(const struct rootfs_spec *spec, const struct writable *writable,
                       size_t index, struct rootfs *rootfs, struct err *err)
{
    struct image_tree *tree = &spec->host->trees[index];
    int layers[2] = {-1, -1};
    size_t count = 0;
    int result = 0;
    if (index + 1 < spec->host->tree_count && tree[1].over_previous)
        result = image_layer(&tree[1], spec->userns_fd, spec->first_id, &layers[count++], err);
    if (result == 0)
        result = image_layer(tree, spec->userns_fd, spec->first_id, &layers[count++], err);
    if (result == 0)
        result = add_overlay(spec, writable, tree->target, layers, count, rootfs, err);
    fd_close(&layers[0]);
    fd_close(&layers[1]);
    return result;
}

static int add_host(const struct rootfs_spec *spec, const struct writable *writable,
                    struct rootfs *rootfs, struct err *err)
{
    FD_AUTO int root_fd = -1;
    int result = mountfd_clone(writable->mount_fd, "root", false, &root_fd, err);
    if (result == 0)
        result = add(rootfs, "", &root_fd, err);
    if (result == 0 && !spec->container)
        return add_strict(spec, rootfs, err);
    for (size_t i = 0; result == 0 && i < spec->host->tree_count; i++) {
        struct image_tree *tree = &spec->host->trees[i];
        if (tree->use == IMAGE_BOUND)
            result = add_bound(spec, tree, rootfs, err);
        else if (is_layer(tree) && !tree->over_previous)
            result = add_layered(spec, writable, i, rootfs, err);
    }
    return result;
}

/* ---- a rootfs folder ---- */

/* What an image has where layers are seen is no library of anybody. */
static int hide_place(int upper_fd, struct err *err)
{
    FD_AUTO int fd =
        openat(upper_fd, &ENGINE_LAYER_PLACE[1], O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 || fsetxattr(fd, "trusted.overlay.opaque", "y", 1, 0) != 0)
        return err_sys(err, errno, "hide " ENGINE_LAYER_PLACE " of the image");
    return 0;
}

static int prepare_folder(const struct rootfs_spec *spec, struct writable *writable,
                          struct err *err)
{
    FD_AUTO int upper_fd = -1;
    int result = make_pair(writable, "", "", &upper_fd, err);
    if (result == 0)
        result = make_common(upper_fd, writable->owner, writable->owner + CODE_ID, err);
    if (result == 0)
        result = hide_place(upper_fd, err);
    return result == 0 && has_gpus(spec) ? make_gpu_points(spec, writable, upper_fd, err) : result;
}

static int add_folder(const struct rootfs_spec *spec, const struct writable *writable,
                      struct rootfs *rootfs, struct err *err)
{
    FD_AUTO int lower_fd = -1;
    int result = mountfd_clone(spec->folder_fd, "", false, &lower_fd, err);
    if (result == 0)
        result = mountfd_idmap(lower_fd, spec->userns_fd, err);
    if (result == -ERR_UNSUPPORTED)
        return err_public(err, ERR_UNSUPPORTED,
                          "images need id-mapped mounts, and the filesystem that holds this one"
                          " has none");
    if (result == 0)
        result = add_overlay(spec, writable, "", &lower_fd, 1, rootfs, err);
    for (size_t i = 0; result == 0 && i < spec->host->tree_count; i++) {
        if (spec->host->trees[i].use == IMAGE_BOUND)
            result = add_bound(spec, &spec->host->trees[i], rootfs, err);
    }
    return result;
}

/* ---- all of it ---- */

static int build_writable(const struct rootfs_spec *spec, struct rootfs *rootfs, struct err *err)
{
    struct writable writable = {.mount_fd = -1};
    bool folder = spec->folder_fd >= 0;
    int result = make_writable(spec, &writable, err);
    if (result == 0)
        result = folder ? prepare_folder(spec, &writable, err) : prepare_host(spec, &writable, err);
    if (result == 0)
        result = attach_writable(spec, &writable, err);
    if (result == 0) {
        result = folder ? add_folder(spec, &writable, rootfs, err)
                        : add_host(spec, &writable, rootfs, err);
        mountfd_detach(writable.mount_fd);
    }
    if (result == 0)
        result = add_gpu_binds(spec, &writable, rootfs, err);
    free(writable.binds);
    if (result == 0 && spec->on_disk)
        spare_fill(writable.mount_fd, spec->first_id); /* before the code runs */
    fd_close(&writable.mount_fd);
    return result;
}

int rootfs_build(const struct rootfs_spec *spec, struct rootfs *out, struct err *err)
{
    struct rootfs rootfs = {.count = 0};
    int result =
        rootfs_is_plain(spec) ? add_strict(spec, &rootfs, err) : build_writable(spec, &rootfs, err);
    if (result == 0)
        result = add_views(spec, &rootfs, err);
    if (result != 0) {
        rootfs_close(&rootfs);
        return err_wrap(err, "root of the sandbox");
    }
    *out = rootfs;
    return 0;
}

int rootfs_build_image(struct image *host, int stage_fd, struct rootfs *out, struct err *err)
{
    const struct rootfs_spec spec = {.host = host, .stage_fd = stage_fd, .userns_fd = -1};
    struct rootfs rootfs = {.count = 0};
    int result = add_strict(&spec, &rootfs, err);
    if (result != 0) {
        rootfs_close(&rootfs);
        return result;
    }
    *out = rootfs;
    return 0;
}

void rootfs_close(struct rootfs *rootfs)
{
    for (size_t i = 0; i < rootfs->count; i++)
        fd_close(&rootfs->mounts[i].fd);
    rootfs->count = 0;
}
