/* Owns the staging folder and the mount trees made from it. Never hands out a tree that the sandbox
 * could write through. */
#include "native/image.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/mount.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/embed.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/parse.h"
#include "native/mountfd.h"
#include "native/treecopy.h"

/* Ids of people and of nobody (Debian Policy, 9.2.2). */
enum { FIRST_PERSON = 1000, NOBODY = 65534 };
#define STAGE_BYTES (UINT64_C(64) << 20)
#define STAGE_INODES 65536
#define DEV_BYTES (UINT64_C(1) << 20)
#define DEV_INODES 1024

/* Folders of the root beside /usr: links into /usr on a merged system, folders of their own else.
 */
static const char *const root_names[] = {"bin", "sbin", "lib", "lib32", "lib64", "libx32"};

/* What programs need of /etc; nothing in it is private to a host. */
static const char *const etc_names[] = {
    "alternatives",
    "ca-certificates.conf",
    "debian_version",
    "fonts",
    "gai.conf",
    "ImageMagick-6",
    "java",
    "java-17-openjdk",
    "java-21-openjdk",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "locale.alias",
    "localtime",
    "lsb-release",
    "magic",
    "matplotlibrc",
    "mime.types",
    "nsswitch.conf",
    "os-release",
    "perl",
    "php",
    "protocols",
    "python3",
    "python3.9",
    "python3.10",
    "python3.11",
    "python3.12",
    "python3.13",
    "R",
    "rpc",
    "services",
    "ssl/certs",
    "ssl/openssl.cnf",
    "terminfo",
    "timezone",
};

struct etc_file {
    const char *name;
    mode_t mode;
    const char *text;
};

/* As Node's options name it (core/network.c). */
extern const struct embedded_file etc_texts[]; /* node_proxy.cjs */

static const struct etc_file etc_files[] = {
    {"passwd", 0644,
     "root:x:0:0:root:/root:/bin/sh\n"
     "sandbox:x:1000:1000:sandbox:/home/sandbox:/bin/sh\n"
     "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"},
    {"group", 0644, "root:x:0:\ntty:x:5:\nsandbox:x:1000:\nnogroup:x:65534:\n"},
    {"hosts", 0644, "127.0.0.1 localhost sandbox\n::1 localhost ip6-localhost ip6-loopback\n"},
    {"hostname", 0644, "sandbox\n"},
};

/* More of it for profile container. Credentials of package servers (apt/auth.conf*) and settings
 * that may hold them (apt/apt.conf*) stay out. */
static const char *const etc_container_names[] = {
    "adduser.conf",
    "apt/preferences.d",
    "apt/sources.list",
    "apt/sources.list.d",
    "apt/trusted.gpg.d",
    "bash.bashrc",
    "ca-certificates",
    "debconf.conf",
    "default",
    "deluser.conf",
    "dpkg/dpkg.cfg",
    "dpkg/origins",
    "host.conf",
    "inputrc",
    "issue",
    "login.defs",
    "pam.conf",
    "pam.d",
    "profile",
    "profile.d",
    "security",
    "shells",
    "skel",
    "sudo.conf",
    "sysctl.d",
    "ucf.conf",
    "vim",
};

static const char *const etc_container_folders[] = {"apt", "apt/apt.conf.d", "apt/auth.conf.d",
                                                    "sudoers.d"};

static const struct etc_file etc_container_files[] = {
    {"shadow", 0640, "root:*:19000:0:99999:7:::\nsandbox:*:19000:0:99999:7:::\n"},
    {"gshadow", 0640, "root:*::\nsandbox:!::\n"},
    {"sudoers", 0440,
     "Defaults secure_path=\"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\"\n"
     "root ALL=(ALL:ALL) NOPASSWD: ALL\nsandbox ALL=(ALL:ALL) NOPASSWD: ALL\n"},
};

static const struct {
    const char *name;
    unsigned major;
    unsigned minor;
} device_nodes[] = {
    /* Linux: Documentation/admin-guide/devices.txt */
    {"null", 1, 3},   {"zero", 1, 5},    {"full", 1, 7},
    {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0},
};

static const struct {
    const char *name;
    const char *to;
} device_links[] = {
    {"fd", "/proc/self/fd"},       {"stdin", "/proc/self/fd/0"}, {"stdout", "/proc/self/fd/1"},
    {"stderr", "/proc/self/fd/2"}, {"ptmx", "pts/ptmx"},
};

/* Makes the folder name below dir_fd when it is missing, and opens it. */
static int make_folder(int dir_fd, const char *name, int *out_fd, struct err *err)
{
    if (mkdirat(dir_fd, name, 0755) != 0 && errno != EEXIST)
        return err_sys(err, errno, "make %s", name);
    *out_fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    return *out_fd < 0 ? err_sys(err, errno, "open %s", name) : 0;
}

static int add_tree(struct image *image, const struct image_tree *wanted, int fd, struct err *err)
{
    if (image->tree_count >= IMAGE_TREE_MAX)
        return err_set(err, ERR_INTERNAL, "more than %d mount trees", IMAGE_TREE_MAX);
    struct image_tree *tree = &image->trees[image->tree_count++];
    *tree = *wanted;
    tree->fd = fd;
    tree->idmap = true;
    return 0;
}

/* In a mount namespace that an ordinary user made, what is mounted below a folder can't be left out
 * (mount_namespaces(7), "Restrictions on mount namespaces"). */
static int clone_source(int dir_fd, const char *source, bool deep, int *out_fd, struct err *err)
{
    struct err failure = ERR_INIT;
    int result = mountfd_clone(dir_fd, source, deep, out_fd, &failure);
    if (result != 0 && !deep && failure.sys_errno == EINVAL)
        return mountfd_clone(dir_fd, source, true, out_fd, err);
    return result != 0 ? err_copy(err, &failure) : 0;
}

/* Takes source (relative to dir_fd) as a tree with the attributes: a mount of its own, kept
 * attached at stage/name, since only attached mounts can be cloned again. */
static int bind_tree(struct image *image, int stage_fd, const char *name, int dir_fd,
                     const char *source, const struct image_tree *wanted, uint64_t attributes,
                     struct err *err)
{
    FD_AUTO int folder_fd = -1;
    FD_AUTO int mount_fd = -1;
    int result = make_folder(stage_fd, name, &folder_fd, err);
    if (result == 0)
        result = clone_source(dir_fd, source, wanted->deep, &mount_fd, err);
    if (result == 0)
        result =
            mountfd_restrict(mount_fd, attributes | MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID, err);
    if (result == 0)
        result = mountfd_attach(mount_fd, stage_fd, name, err);
    if (result == 0)
        result = add_tree(image, wanted, mount_fd, err);
    if (result == 0) {
        image->trees[image->tree_count - 1].staged = dir_fd == stage_fd;
        (void)fd_take(&mount_fd);
    }
    return result;
}

static int add_root_folders(struct image *image, int stage_fd, struct err *err)
{
    for (size_t i = 0; i < ARRAY_SIZE(root_names); i++) {
        char path[32];
        struct stat info;
        (void)snprintf(path, sizeof(path), "/%s", root_names[i]);
        if (lstat(path, &info) != 0)
            continue;
        if (!S_ISLNK(info.st_mode)) {
            struct image_tree tree = {.use = IMAGE_LAYER};
            (void)snprintf(tree.target, sizeof(tree.target), "%s", root_names[i]);
            int result = bind_tree(image, stage_fd, root_names[i], AT_FDCWD, path, &tree,
                                   MOUNT_ATTR_NODEV, err);
            if (result != 0)
                return result;
            continue;
        }
        struct image_link *link = &image->links[image->link_count++];
        ssize_t size = readlink(path, link->to, sizeof(link->to) - 1);
        if (size < 0)
            return err_sys(err, errno, "read link %s", path);
        link->to[size] = '\0';
        (void)snprintf(link->target, sizeof(link->target), "%s", root_names[i]);
    }
    return 0;
}

static int write_etc_files(int etc_fd, const struct etc_file *files, size_t count, struct err *err)
{
    for (size_t i = 0; i < count; i++) {
        FD_AUTO int fd =
            openat(etc_fd, files[i].name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW,
                   files[i].mode);
        if (fd < 0)
            return err_sys(err, errno, "make etc/%s", files[i].name);
        int result = fd_write_all(fd, files[i].text, strlen(files[i].text), err);
        if (result != 0)
            return result;
    }
    return 0;
}

/* Texts that come with the engine. */
static int write_own_texts(int etc_fd, struct err *err)
{
    int result = 0;
    for (const struct embedded_file *text = etc_texts; text->name && result == 0; text++) {
        const struct etc_file file = {.name = text->name, .mode = 0644, .text = text->data};
        result = write_etc_files(etc_fd, &file, 1, err);
    }
    return result;
}

static int copy_names(const char *const *names, size_t count, int out_fd, struct err *err)
{
    for (size_t i = 0; i < count; i++) {
        int result = treecopy_public("/etc", names[i], out_fd, err);
        if (result != 0)
            return result;
    }
    return 0;
}

static int add_etc(struct image *image, int stage_fd, const char *resolv, struct err *err)
{
    const struct etc_file servers = {.name = "resolv.conf", .mode = 0644, .text = resolv};
    const struct image_tree tree = {.target = "etc", .use = IMAGE_LAYER};
    FD_AUTO int etc_fd = -1;
    int result = make_folder(stage_fd, "etc", &etc_fd, err);
    if (result == 0)
        result = copy_names(etc_names, ARRAY_SIZE(etc_names), etc_fd, err);
    if (result == 0)
        result = write_etc_files(etc_fd, etc_files, ARRAY_SIZE(etc_files), err);
    if (result == 0)
        result = write_etc_files(etc_fd, &servers, 1, err);
    if (result == 0)
        result = write_own_texts(etc_fd, err);
    return result != 0 ? result
                       : bind_tree(image, stage_fd, "etc-tree", stage_fd, "etc", &tree,
                                   MOUNT_ATTR_NODEV, err);
}

/* One line of /etc/passwd or /etc/group (passwd(5), group(5)) without members, comments and
 * passwords; nothing for people. Takes the line apart. */
static int add_account(char *line, bool passwd, struct buf *out, struct err *err)
{
    char *fields[4] = {NULL};
    uint64_t id = 0;
    uint64_t group = 0;
    for (size_t i = 0; i < ARRAY_SIZE(fields); i++)
        fields[i] = strsep(&line, ":\n");
    if (!fields[2] || parse_u64(fields[2], 0, UINT32_MAX, &id, NULL) != 0 ||
        (id >= FIRST_PERSON && id != NOBODY))
        return 0;
    if (!passwd)
        return buf_printf(out, err, "%s:*:%" PRIu64 ":\n", fields[0], id);
    if (!fields[3] || parse_u64(fields[3], 0, UINT32_MAX, &group, NULL) != 0)
        return 0;
    return buf_printf(out, err, "%s:*:%" PRIu64 ":%" PRIu64 "::%s:%s\n", fields[0], id, group,
                      id == 0 ? "/root" : "/nonexistent",
                      id == 0 ? "/bin/sh" : "/usr/sbin/nologin");
}

/* The system users and groups that the host's packages made, and ours: a package's files and
 * scripts name them. */
static int write_accounts(int etc_fd, const char *name, const char *ours, struct err *err)
{
    char path[32];
    char line[4096];
    BUF_AUTO struct buf out;
    buf_init(&out, 256U << 10);
    (void)snprintf(path, sizeof(path), "/etc/%s", name);
    FILE *file = fopen(path, "re");
    int result = file ? 0 : err_sys(err, errno, "open %s", path);
    while (result == 0 && fgets(line, sizeof(line), file))
        result = add_account(line, strcmp(name, "passwd") == 0, &out, err);
    if (file)
        (void)fclose(file);
    FD_AUTO int fd =
        openat(etc_fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (result == 0 && fd < 0)
        result = err_sys(err, errno, "make etc/%s", name);
    if (result == 0)
        result = fd_write_all(fd, out.data, out.size, err);
    return result != 0 ? result : fd_write_all(fd, ours, strlen(ours), err);
}

/* What package managers, su and sudo need beside it, and the packages that /usr consists of. */
static int add_administration(struct image *image, int stage_fd, struct err *err)
{
    const struct image_tree etc = {.target = "etc", .use = IMAGE_CONTAINER, .over_previous = true};
    const struct image_tree dpkg = {.target = "var/lib/dpkg", .use = IMAGE_CONTAINER};
    FD_AUTO int etc_fd = -1;
    int result = make_folder(stage_fd, "etc-container", &etc_fd, err);
    if (result == 0)
        result = copy_names(etc_container_names, ARRAY_SIZE(etc_container_names), etc_fd, err);
    if (result == 0)
        result = write_etc_files(etc_fd, etc_container_files, ARRAY_SIZE(etc_container_files), err);
    for (size_t i = 0; result == 0 && i < ARRAY_SIZE(etc_container_folders); i++) {
        FD_AUTO int folder_fd = -1;
        result = make_folder(etc_fd, etc_container_folders[i], &folder_fd, err);
    }
    if (result == 0)
        result = write_accounts(etc_fd, "passwd",
                                "sandbox:*:1000:1000:sandbox:/home/sandbox:/bin/sh\n", err);
    if (result == 0)
        result = write_accounts(etc_fd, "group", "sandbox:*:1000:\n", err);
    if (result == 0)
        result = bind_tree(image, stage_fd, "etc-container-tree", stage_fd, "etc-container", &etc,
                           MOUNT_ATTR_NODEV, err);
    if (result == 0 && access("/var/lib/dpkg/status", R_OK) == 0)
        result = bind_tree(image, stage_fd, "dpkg-tree", AT_FDCWD, "/var/lib/dpkg", &dpkg,
                           MOUNT_ATTR_NODEV, err);
    return result;
}

/* An empty folder over /usr/local: what an administrator put there is no part of the image. */
static int hide_local(struct image *image, int stage_fd, struct err *err)
{
    FD_AUTO int empty_fd = -1;
    if (access("/usr/local", F_OK) != 0)
        return 0;
    int result = make_folder(stage_fd, "local", &empty_fd, err);
    const struct image_tree tree = {.target = "usr/local", .use = IMAGE_STRICT};
    return result != 0 ? result
                       : bind_tree(image, stage_fd, "local-tree", stage_fd, "local", &tree,
                                   MOUNT_ATTR_NODEV, err);
}

/* The host's node, where the kernel gives us none of our own. */
static int bind_device(int dev_fd, const char *name, struct err *err)
{
    char path[32];
    FD_AUTO int mount_fd = -1;
    FD_AUTO int file_fd =
        openat(dev_fd, name, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0444);
    if (file_fd < 0)
        return err_sys(err, errno, "make dev/%s", name);
    (void)snprintf(path, sizeof(path), "/dev/%s", name);
    int result = mountfd_clone(AT_FDCWD, path, false, &mount_fd, err);
    return result != 0 ? result : mountfd_attach(mount_fd, dev_fd, name, err);
}

static int make_device(int dev_fd, const char *name, dev_t number, bool *bound, struct err *err)
{
    if (!*bound && mknodat(dev_fd, name, S_IFCHR | 0666, number) == 0)
        return fchmodat(dev_fd, name, 0666, 0) == 0 ? 0 : err_sys(err, errno, "mode of %s", name);
    if (!*bound && errno != EPERM)
        return err_sys(err, errno, "make device %s", name);
    *bound = true;
    return bind_device(dev_fd, name, err);
}

static int fill_dev(int dev_fd, bool *bound, struct err *err)
{
    for (size_t i = 0; i < ARRAY_SIZE(device_nodes); i++) {
        int result = make_device(dev_fd, device_nodes[i].name,
                                 makedev(device_nodes[i].major, device_nodes[i].minor), bound, err);
        if (result != 0)
            return result;
    }
    for (size_t i = 0; i < ARRAY_SIZE(device_links); i++) {
        if (symlinkat(device_links[i].to, dev_fd, device_links[i].name) != 0)
            return err_sys(err, errno, "make link dev/%s", device_links[i].name);
    }
    if (mkdirat(dev_fd, "pts", 0755) != 0 || mkdirat(dev_fd, "shm", 0755) != 0)
        return err_sys(err, errno, "make folders of dev");
    return 0;
}

/* One folder with all the nodes costs a sandbox one mount instead of one a node. Its tmpfs was
 * mounted by the host's root, which is what makes the nodes work; the sandbox can only read it.
 * Without the host's root each node is a mount. */
static int add_dev(struct image *image, int stage_fd, struct err *err)
{
    FD_AUTO int dev_fd = -1;
    bool bound = false;
    int result = make_folder(stage_fd, "dev", &dev_fd, err);
    if (result == 0)
        result = fill_dev(dev_fd, &bound, err);
    const struct image_tree tree = {.target = "dev", .use = IMAGE_BOUND, .deep = bound};
    return result != 0 ? result
                       : bind_tree(image, stage_fd, "dev-tree", stage_fd, "dev", &tree,
                                   MOUNT_ATTR_NOEXEC, err);
}

/* The stage is a tmpfs in the engine's own mount namespace: a sandbox's mountinfo then names no
 * folder of the host, and nothing of it outlives the engine. */
static int open_stage(const char *stage_path, int *out_fd, struct err *err)
{
    FD_AUTO int fd = -1;
    int result = mountfd_tmpfs(STAGE_BYTES, STAGE_INODES, MOUNT_ATTR_NOSUID, &fd, err);
    if (result == 0)
        result = mountfd_attach(fd, AT_FDCWD, stage_path, err);
    if (result == 0)
        *out_fd = fd_take(&fd);
    return result;
}

int image_open_host(struct image *image, const char *stage_path, const char *resolv,
                    struct err *err)
{
    const struct image_tree usr = {.target = "usr", .use = IMAGE_LAYER, .hidden = "local"};
    memset(image, 0, sizeof(*image));
    FD_AUTO int stage_fd = -1;
    int result = open_stage(stage_path, &stage_fd, err);
    if (result == 0)
        result =
            bind_tree(image, stage_fd, "usr-tree", AT_FDCWD, "/usr", &usr, MOUNT_ATTR_NODEV, err);
    if (result == 0)
        result = hide_local(image, stage_fd, err);
    if (result == 0)
        result = add_root_folders(image, stage_fd, err);
    if (result == 0)
        result = add_etc(image, stage_fd, resolv, err);
    if (result == 0)
        result = add_administration(image, stage_fd, err);
    if (result == 0)
        result = add_dev(image, stage_fd, err);
    if (result != 0) {
        image_close(image);
        return err_wrap(err, "image host");
    }
    return 0;
}

bool image_keeps_owners(const struct image *image)
{
    return image->tree_count > 0 && image->trees[0].idmap;
}

void image_close(struct image *image)
{
    for (size_t i = 0; i < image->tree_count; i++)
        fd_close(&image->trees[i].fd);
    image->tree_count = 0;
}

int image_clone(struct image_tree *tree, bool recursive, int userns_fd, int *out_fd,
                struct err *err)
{
    FD_AUTO int fd = -1;
    int result = mountfd_clone(tree->fd, "", recursive, &fd, err);
    if (result != 0)
        return err_wrap(err, "/%s", tree->target);
    if (tree->idmap && userns_fd >= 0) {
        struct err failure = ERR_INIT;
        if (mountfd_idmap(fd, userns_fd, &failure) != 0) {
            /* Overlay, and tmpfs before Linux 6.3. Files then look as if owned by nobody, which the
             * strict profile can live with. */
            log_info("/%s keeps no owners in sandboxes: %s", tree->target, failure.message);
            tree->idmap = false;
        }
    }
    *out_fd = fd_take(&fd);
    return 0;
}

static int copy_staged(const struct image_tree *tree, uid_t first_id, int *out_fd, struct err *err)
{
    FD_AUTO int fd = -1;
    int result =
        mountfd_tmpfs(STAGE_BYTES, STAGE_INODES, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, &fd, err);
    if (result == 0)
        result = treecopy_owned(tree->fd, fd, first_id, err);
    if (result != 0)
        return err_wrap(err, "copy /%s", tree->target), result;
    *out_fd = fd_take(&fd);
    return 0;
}

int image_layer(struct image_tree *tree, int userns_fd, uid_t first_id, int *out_fd,
                struct err *err)
{
    FD_AUTO int fd = -1;
    int result = tree->idmap || !tree->staged ? image_clone(tree, false, userns_fd, &fd, err) : 0;
    if (result == 0 && !tree->idmap && tree->staged) {
        fd_close(&fd);
        result = copy_staged(tree, first_id, &fd, err);
    }
    if (result == 0)
        *out_fd = fd_take(&fd);
    return result;
}

/* Makes the overlay of the attached tree; it wants a second layer, which is empty. */
static int overlay_tree(const struct image_tree *tree, int tree_fd, int stage_fd, int *out_fd,
                        struct err *err)
{
    FD_AUTO int empty_fd = openat(stage_fd, "empty", O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (empty_fd < 0)
        return err_sys(err, errno, "open empty");
    const int layers[] = {tree_fd, empty_fd};
    return mountfd_overlay(tree->source, layers, ARRAY_SIZE(layers), -1, -1,
                           MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID, out_fd, err);
}

int image_overlay(struct image_tree *tree, int stage_fd, int userns_fd, int *out_fd,
                  struct err *err)
{
    FD_AUTO int tree_fd = -1;
    int result = image_clone(tree, false, userns_fd, &tree_fd, err);
    if (result == 0)
        result = mountfd_attach(tree_fd, stage_fd, "lower-0", err);
    if (result != 0)
        return result;
    result = overlay_tree(tree, tree_fd, stage_fd, out_fd, err);
    mountfd_detach(tree_fd);
    return result;
}

int image_make_dev(int *out_fd, struct err *err)
{
    FD_AUTO int fd = -1;
    bool bound = false;
    int result =
        mountfd_tmpfs(DEV_BYTES, DEV_INODES, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC, &fd, err);
    if (result == 0)
        result = fill_dev(fd, &bound, err);
    if (result == 0 && bound)
        result = err_set(err, ERR_UNSUPPORTED, "device nodes can't be made here");
    if (result == 0)
        *out_fd = fd_take(&fd);
    return result;
}

bool image_shares_files(const struct image *image)
{
    for (size_t i = 0; i < image->tree_count; i++) {
        if (image->trees[i].flat)
            return true;
    }
    return false;
}
