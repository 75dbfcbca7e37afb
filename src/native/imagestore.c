/* Owns the names below priv/images. What is half made or half gone never has the name of a whole
 * one: rename(2) is the moment. */
#include "native/imagestore.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/id.h"
#include "base/log.h"

static const char partial_suffix[] = ".partial";

/* Raised when the same archive comes out differently: what older versions made is made anew. */
enum { UNPACK_VERSION = 1, HASH_DIGITS = 16 };

/* FNV-1a (draft-eastlake-fnv): tells versions of one file apart, which nobody has a reason to
 * forge: the files are root's. */
static uint64_t add_hash(uint64_t hash, uint64_t number)
{
    for (int i = 0; i < 8; i++) {
        hash ^= number >> (8 * i) & 0xff;
        hash *= UINT64_C(0x100000001b3);
    }
    return hash;
}

void imagestore_name(const struct image_file *file, char out[static IMAGESTORE_NAME_SIZE])
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    hash = add_hash(hash, UNPACK_VERSION);
    hash = add_hash(hash, file->key.device);
    hash = add_hash(hash, file->key.inode);
    hash = add_hash(hash, file->key.size);
    hash = add_hash(hash, (uint64_t)file->key.mtime_ns);
    hash = add_hash(hash, (uint64_t)file->key.ctime_ns);
    (void)snprintf(out, IMAGESTORE_NAME_SIZE, "%s.%016" PRIx64, file->name, hash);
}

static void name_partial(const char *whole, char out[static IMAGESTORE_NAME_SIZE])
{
    char random[9];
    id_hex(random, 4);
    (void)snprintf(out, IMAGESTORE_NAME_SIZE, "%.*s.%s%s", IMAGE_NAME_MAX + 1 + HASH_DIGITS, whole,
                   random, partial_suffix);
}

static bool is_partial(const char *name)
{
    size_t size = strlen(name);
    size_t suffix = sizeof(partial_suffix) - 1;
    return size > suffix && size < IMAGESTORE_NAME_SIZE &&
           strcmp(name + size - suffix, partial_suffix) == 0;
}

static bool is_whole(const char *name)
{
    const char *dot = strchr(name, '.');
    return dot && dot - name <= IMAGE_NAME_MAX && strlen(dot + 1) == HASH_DIGITS &&
           strspn(dot + 1, "0123456789abcdef") == HASH_DIGITS;
}

bool imagestore_has(int store_fd, const char *whole)
{
    struct stat info;
    return fstatat(store_fd, whole, &info, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(info.st_mode);
}

static int open_folder(int parent_fd, const char *name, int flags, int *out_fd, struct err *err)
{
    *out_fd = openat(parent_fd, name, flags | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    return *out_fd < 0 ? err_sys(err, errno, "open %s", name) : 0;
}

static int fill_partial(int folder_fd, int *out_rootfs_fd, struct err *err)
{
    FD_AUTO int lock_fd =
        openat(folder_fd, "lock", O_RDONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (lock_fd < 0)
        return err_sys(err, errno, "make a lock");
    /* Everybody may enter the root of an image, whatever the umask and the archive's "./" say. */
    if (mkdirat(folder_fd, "rootfs", 0755) != 0 || fchmodat(folder_fd, "rootfs", 0755, 0) != 0)
        return err_sys(err, errno, "make a rootfs");
    return open_folder(folder_fd, "rootfs", O_PATH, out_rootfs_fd, err);
}

int imagestore_begin(int store_fd, const char *whole, char out_partial[static IMAGESTORE_NAME_SIZE],
                     int *out_rootfs_fd, struct err *err)
{
    FD_AUTO int folder_fd = -1;
    name_partial(whole, out_partial);
    if (mkdirat(store_fd, out_partial, 0700) != 0)
        return err_sys(err, errno, "make %s", out_partial);
    int result = open_folder(store_fd, out_partial, O_PATH, &folder_fd, err);
    return result != 0 ? result : fill_partial(folder_fd, out_rootfs_fd, err);
}

int imagestore_commit(int store_fd, const char *partial, const char *whole, struct err *err)
{
    if (renameat2(store_fd, partial, store_fd, whole, RENAME_NOREPLACE) != 0)
        return err_sys(err, errno, "rename %s to %s", partial, whole);
    return 0;
}

int imagestore_take(int store_fd, const char *whole, int *out_rootfs_fd, int *out_lock_fd,
                    struct err *err)
{
    FD_AUTO int folder_fd = -1;
    FD_AUTO int rootfs_fd = -1;
    int result = open_folder(store_fd, whole, O_PATH, &folder_fd, err);
    if (result == 0)
        result = open_folder(folder_fd, "rootfs", O_PATH, &rootfs_fd, err);
    if (result != 0)
        return result;
    FD_AUTO int lock_fd = openat(folder_fd, "lock", O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (lock_fd < 0 || flock(lock_fd, LOCK_SH | LOCK_NB) != 0)
        return err_sys(err, errno, "lock %s", whole);
    *out_rootfs_fd = fd_take(&rootfs_fd);
    *out_lock_fd = fd_take(&lock_fd);
    return 0;
}

/* Renames a whole folder that nobody uses, so that nobody can take it while it is removed. */
static bool retire(int store_fd, const char *whole, char out[static IMAGESTORE_NAME_SIZE])
{
    FD_AUTO int folder_fd = -1;
    if (open_folder(store_fd, whole, O_PATH, &folder_fd, NULL) != 0)
        return false;
    FD_AUTO int lock_fd = openat(folder_fd, "lock", O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (lock_fd < 0 ? errno != ENOENT : flock(lock_fd, LOCK_EX | LOCK_NB) != 0)
        return false;
    name_partial(whole, out);
    return renameat2(store_fd, whole, store_fd, out, RENAME_NOREPLACE) == 0;
}

bool imagestore_find_waste(int store_fd, bool (*wanted)(const char *name, const void *context),
                           const void *context, char out[static IMAGESTORE_NAME_SIZE])
{
    FD_AUTO int fd = openat(store_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    if (!dir) {
        log_warn("the folder of unpacked images can't be read: %s", strerror(errno));
        return false;
    }
    (void)fd_take(&fd); /* the DIR's now */
    bool found = false;
    const struct dirent *entry = NULL;
    while (!found && (entry = readdir(dir))) {
        const char *name = entry->d_name;
        if (!imagestore_has(store_fd, name))
            continue; /* no folder */
        if (is_partial(name) && !wanted(name, context)) {
            (void)snprintf(out, IMAGESTORE_NAME_SIZE, "%s", name);
            found = true;
        } else if (is_whole(name) && !wanted(name, context)) {
            found = retire(store_fd, name, out);
        }
    }
    (void)closedir(dir);
    return found;
}
