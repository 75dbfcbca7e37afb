/* Owns the names in the folder of images. A new archive appears whole, by one rename. Never removes
 * a folder that an operator put there. */
#include "cli/image_folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/id.h"
#include "base/mem.h"

static const char work_prefix[] = ".image-";
static const char work_inner[] = "/work";
/* As the engine reads them (docs/images.md); the longer one first. */
static const char *const suffixes[] = {IMAGE_OCI_SUFFIX, ".tar",    ".tar.gz", ".tgz",
                                       ".tar.bz2",       ".tar.xz", ".tar.zst"};

/* ---- the folder ---- */

static int find_path(const char *path, char out[static PATH_MAX], struct err *err)
{
    const char *images = getenv("BERTH_IMAGES");
    const char *state = getenv("BERTH_STATE");
    int size = 0;
    if (!path && images && *images)
        path = images;
    if (path)
        size = snprintf(out, PATH_MAX, "%s", path);
    else
        size = snprintf(out, PATH_MAX, "%s/images", state && *state ? state : "/var/lib/berth");
    return size > 0 && size < PATH_MAX ? 0 : err_set(err, ERR_BAD_INPUT, "a path that is too long");
}

int image_folder_open(const char *path, struct image_folder *out, struct err *err)
{
    struct image_folder folder = {.fd = -1};
    struct stat info;
    int result = find_path(path, folder.path, err);
    if (result != 0)
        return result;
    if (mkdir(folder.path, 0700) != 0 && errno != EEXIST)
        return errno == ENOENT ? err_set(err, ERR_NOT_FOUND,
                                         "there is no place for %s: name the folder of images with "
                                         "--images or BERTH_IMAGES, or the state folder with "
                                         "BERTH_STATE",
                                         folder.path)
                               : err_sys(err, errno, "make %s", folder.path);
    FD_AUTO int fd = open(folder.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &info) != 0)
        return err_sys(err, errno, "open %s", folder.path);
    if (info.st_uid != geteuid() || (info.st_mode & 0022) != 0)
        return err_set(err, ERR_FORBIDDEN,
                       "%s has to belong to root, and nobody else may write to it", folder.path);
    *out = folder;
    out->fd = fd_take(&fd);
    return 0;
}

void image_folder_close(struct image_folder *folder)
{
    fd_close(&folder->fd);
}

/* The size of the image's name in that of its file; 0: no archive. */
static size_t stem_size(const char *file)
{
    const size_t size = strlen(file);
    for (size_t i = 0; i < ARRAY_SIZE(suffixes); i++) {
        const size_t suffix = strlen(suffixes[i]);
        if (size > suffix && strcmp(file + size - suffix, suffixes[i]) == 0)
            return size - suffix;
    }
    return 0;
}

static bool look_at(int folder_fd, const char *file, struct image_found *out)
{
    struct stat info;
    if (file[0] == '.' || fstatat(folder_fd, file, &info, AT_SYMLINK_NOFOLLOW) != 0 ||
        (!S_ISDIR(info.st_mode) && !S_ISREG(info.st_mode)))
        return false;
    const size_t stem = S_ISDIR(info.st_mode) ? strlen(file) : stem_size(file);
    if (stem == 0 || stem > IMAGE_NAME_MAX)
        return false;
    memset(out, 0, sizeof(*out));
    memcpy(out->name, file, stem);
    (void)snprintf(out->file, sizeof(out->file), "%s", file);
    out->folder = S_ISDIR(info.st_mode);
    out->size_bytes = out->folder ? 0 : (uint64_t)info.st_size;
    out->changed_s = info.st_mtim.tv_sec;
    return id_is_name(out->name, IMAGE_NAME_MAX);
}

static int compare_found(const void *left, const void *right)
{
    const struct image_found *a = left;
    const struct image_found *b = right;
    return strcmp(a->name, b->name);
}

static DIR *open_dir(int folder_fd)
{
    FD_AUTO int fd = openat(folder_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    if (dir)
        (void)fd_take(&fd);
    return dir;
}

int image_folder_list(const struct image_folder *folder, struct image_found **out, size_t *count,
                      struct err *err)
{
    MEM_AUTO struct image_found *found = NULL;
    size_t used = 0;
    DIR *dir = open_dir(folder->fd);
    if (!dir)
        return err_sys(err, errno, "read %s", folder->path);
    const struct dirent *entry = NULL;
    while ((entry = readdir(dir))) {
        struct image_found one;
        if (!look_at(folder->fd, entry->d_name, &one))
            continue;
        struct image_found *more = reallocarray(found, used + 1, sizeof(*found));
        if (!more) {
            (void)closedir(dir);
            return err_set(err, ERR_INTERNAL, "no memory");
        }
        found = more;
        found[used++] = one;
    }
    (void)closedir(dir);
    if (used > 0)
        qsort(found, used, sizeof(*found), compare_found);
    *out = found;
    *count = used;
    found = NULL;
    return 0;
}

int image_folder_find(const struct image_folder *folder, const char *name, struct image_found *out,
                      struct err *err)
{
    MEM_AUTO struct image_found *found = NULL;
    size_t count = 0;
    int result = image_folder_list(folder, &found, &count, err);
    if (result != 0)
        return result;
    for (size_t i = 0; i < count; i++) {
        if (strcmp(found[i].name, name) == 0) {
            *out = found[i];
            return 0;
        }
    }
    return err_set(err, ERR_NOT_FOUND, "there is no image \"%s\" in %s", name, folder->path);
}

int image_folder_check(const struct image_folder *folder, const char *name, bool replace,
                       struct err *err)
{
    struct image_found found;
    struct err none = ERR_INIT;
    if (image_folder_find(folder, name, &found, &none) != 0)
        return none.kind == ERR_NOT_FOUND ? 0 : err_copy(err, &none);
    if (found.folder)
        return err_set(err, ERR_CONFLICT, "the name \"%s\" is that of a folder in %s", name,
                       folder->path);
    if (!replace)
        return err_set(err, ERR_CONFLICT,
                       "the name \"%s\" is taken by %s/%s; --replace takes its place", name,
                       folder->path, found.file);
    return 0;
}

/* ---- work folders ---- */

static int remove_entry(const char *path, const struct stat *info, int type, struct FTW *place)
{
    (void)info;
    (void)type;
    (void)place;
    (void)remove(path);
    return 0;
}

void image_folder_end(const struct image_folder *folder, const char *work)
{
    char path[PATH_MAX + IMAGE_WORK_SIZE];
    if (work[0] == '\0')
        return;
    (void)snprintf(path, sizeof(path), "%s/%.*s", folder->path, (int)strcspn(work, "/"), work);
    (void)nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}

/* Locked for as long as its command lives. */
static bool is_left(int folder_fd, const char *name)
{
    char inner[IMAGE_WORK_SIZE];
    if (strncmp(name, work_prefix, sizeof(work_prefix) - 1) != 0 ||
        strlen(name) + sizeof(work_inner) > sizeof(inner))
        return false;
    (void)snprintf(inner, sizeof(inner), "%s%s", name, work_inner);
    FD_AUTO int fd = openat(folder_fd, inner, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    return fd >= 0 ? flock(fd, LOCK_EX | LOCK_NB) == 0 : errno == ENOENT;
}

static void sweep(const struct image_folder *folder)
{
    DIR *dir = open_dir(folder->fd);
    const struct dirent *entry = NULL;
    while (dir && (entry = readdir(dir))) {
        if (is_left(folder->fd, entry->d_name))
            image_folder_end(folder, entry->d_name);
    }
    if (dir)
        (void)closedir(dir);
}

/* Inside one that only root may enter: two commands at a time have one owner, and what one fetches
 * must not reach what the other does. */
static int make_work(const struct image_folder *folder, uid_t owner, const char *name, int *out_fd,
                     struct err *err)
{
    char outer[IMAGE_WORK_SIZE];
    (void)snprintf(outer, sizeof(outer), "%.*s", (int)strcspn(name, "/"), name);
    if (mkdirat(folder->fd, outer, 0700) != 0 || mkdirat(folder->fd, name, 0700) != 0)
        return err_sys(err, errno, "make a folder in %s", folder->path);
    FD_AUTO int fd = openat(folder->fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) != 0 || fchown(fd, owner, owner) != 0)
        return err_sys(err, errno, "prepare a folder in %s", folder->path);
    *out_fd = fd_take(&fd);
    return 0;
}

int image_folder_begin(const struct image_folder *folder, uid_t owner,
                       char out_name[static IMAGE_WORK_SIZE], int *out_fd, struct err *err)
{
    char random[17];
    /* Between the making of a folder and its lock nobody else may look. */
    if (flock(folder->fd, LOCK_EX) != 0)
        return err_sys(err, errno, "lock %s", folder->path);
    sweep(folder);
    id_hex(random, 8);
    (void)snprintf(out_name, IMAGE_WORK_SIZE, "%s%s%s", work_prefix, random, work_inner);
    int result = make_work(folder, owner, out_name, out_fd, err);
    if (result != 0)
        out_name[0] = '\0';
    (void)flock(folder->fd, LOCK_UN);
    return result;
}

/* ---- the end of a pull ---- */

/* Made by a process without rights: it has to be a file, and that process's only. */
static int take_over(int work_fd, const char *file, struct err *err)
{
    struct stat info;
    FD_AUTO int fd = openat(work_fd, file, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &info) != 0)
        return err_sys(err, errno, "open the image");
    if (!S_ISREG(info.st_mode) || info.st_nlink != 1)
        return err_set(err, ERR_INTERNAL, "what was fetched is no file");
    if (fchown(fd, geteuid(), getegid()) != 0 || fchmod(fd, 0600) != 0 || fsync(fd) != 0)
        return err_sys(err, errno, "take over the image");
    return 0;
}

static int write_info(int work_fd, const char *text, struct err *err)
{
    FD_AUTO int fd =
        openat(work_fd, "info", O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_sys(err, errno, "write about the image");
    int result = fd_write_all(fd, text, strlen(text), err);
    return result == 0 && fsync(fd) != 0 ? err_sys(err, errno, "write about the image") : result;
}

static int move_in(const struct image_folder *folder, int work_fd, const char *file,
                   const char *name, const char *old, struct err *err)
{
    char archive[IMAGE_NAME_MAX + sizeof(IMAGE_OCI_SUFFIX)];
    char info[IMAGE_NAME_MAX + sizeof(IMAGE_INFO_SUFFIX)];
    (void)snprintf(archive, sizeof(archive), "%s%s", name, IMAGE_OCI_SUFFIX);
    (void)snprintf(info, sizeof(info), "%s%s", name, IMAGE_INFO_SUFFIX);
    /* Two files of one name would both be refused. */
    if (old[0] != '\0' && strcmp(old, archive) != 0 && unlinkat(folder->fd, old, 0) != 0)
        return err_sys(err, errno, "remove %s", old);
    if (renameat(work_fd, "info", folder->fd, info) != 0 ||
        renameat(work_fd, file, folder->fd, archive) != 0)
        return err_sys(err, errno, "name the image");
    (void)fsync(folder->fd);
    return 0;
}

int image_folder_commit(const struct image_folder *folder, int work_fd, const char *file,
                        const char *name, const char *info, bool replace, struct err *err)
{
    struct image_found old = {.file = ""};
    int result = take_over(work_fd, file, err);
    if (result == 0)
        result = write_info(work_fd, info, err);
    if (result != 0)
        return result;
    if (flock(folder->fd, LOCK_EX) != 0)
        return err_sys(err, errno, "lock %s", folder->path);
    result = image_folder_check(folder, name, replace, err);
    if (result == 0) {
        (void)image_folder_find(folder, name, &old, NULL);
        result = move_in(folder, work_fd, file, name, old.file, err);
    }
    (void)flock(folder->fd, LOCK_UN);
    return result;
}

int image_folder_remove(const struct image_folder *folder, const char *name, struct err *err)
{
    char info[IMAGE_NAME_MAX + sizeof(IMAGE_INFO_SUFFIX)];
    struct image_found found = {.file = ""};
    int result = image_folder_find(folder, name, &found, err);
    if (result != 0)
        return result;
    if (found.folder)
        return err_set(err, ERR_CONFLICT,
                       "\"%s\" is a folder, which sandboxes may be using as it is: %s/%s is to be "
                       "removed by hand",
                       name, folder->path, found.file);
    if (unlinkat(folder->fd, found.file, 0) != 0)
        return err_sys(err, errno, "remove %s/%s", folder->path, found.file);
    (void)snprintf(info, sizeof(info), "%s%s", name, IMAGE_INFO_SUFFIX);
    (void)unlinkat(folder->fd, info, 0);
    (void)fsync(folder->fd);
    return 0;
}
