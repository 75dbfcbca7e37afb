/* Owns the names below priv/images/store and priv/layers. What is half made or half gone never has
 * the name of a whole one: rename(2) is the moment. */
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
#include "base/hash.h"
#include "base/id.h"
#include "base/log.h"

static const char partial_suffix[] = ".partial";

/* Raised when the same archive comes out differently: what older versions made is made anew. */
enum { UNPACK_VERSION = 1 };

/* Tells versions of one file apart, which nobody has a reason to forge: the files are root's. */
static uint64_t add_hash(uint64_t hash, uint64_t number)
{
    return hash_add(hash, &number, sizeof(number));
}

void imagestore_name(const struct image_file *file, char out[static IMAGESTORE_NAME_SIZE])
{
    uint64_t hash = HASH_BASIS;
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
    (void)snprintf(out, IMAGESTORE_NAME_SIZE, "%.*s.%s%s",
                   IMAGESTORE_STEM_MAX + 1 + IMAGESTORE_HASH_DIGITS, whole, random, partial_suffix);
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
    return dot && dot - name <= IMAGESTORE_STEM_MAX && strlen(dot + 1) == IMAGESTORE_HASH_DIGITS &&
           strspn(dot + 1, "0123456789abcdef") == IMAGESTORE_HASH_DIGITS;
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

int imagestore_check(int store_fd, struct err *err)
{
    struct stat info;
    if (fstat(store_fd, &info) != 0)
        return err_sys(err, errno, "look at a store");
    if (info.st_uid != geteuid() || (info.st_mode & 0077) != 0)
        return err_set(err, ERR_INTERNAL,
                       "a store has to be of user %u and mode 0700, not of %u and %04o", geteuid(),
                       info.st_uid, info.st_mode & 07777);
    return 0;
}

/* Whether nobody uses a folder. */
static bool is_unused(int store_fd, const char *name)
{
    FD_AUTO int folder_fd = -1;
    if (open_folder(store_fd, name, O_PATH, &folder_fd, NULL) != 0)
        return false;
    FD_AUTO int lock_fd = openat(folder_fd, "lock", O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    return lock_fd < 0 ? errno == ENOENT : flock(lock_fd, LOCK_EX | LOCK_NB) == 0;
}

/* Nobody can take it under its new name. */
static bool rename_to_partial(int store_fd, const char *whole,
                              char out[static IMAGESTORE_NAME_SIZE])
{
    name_partial(whole, out);
    return renameat2(store_fd, whole, store_fd, out, RENAME_NOREPLACE) == 0;
}

int imagestore_retire(int store_fd, const char *whole, struct err *err)
{
    char partial[IMAGESTORE_NAME_SIZE];
    if (!rename_to_partial(store_fd, whole, partial) && errno != ENOENT)
        return err_sys(err, errno, "rename %s", whole);
    return 0;
}

/* Calls look with every folder's name until it says true. Returns whether it did. */
static bool look_through(int store_fd, bool (*look)(void *context, const char *name), void *context,
                         struct err *err)
{
    FD_AUTO int fd = openat(store_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    if (!dir) {
        (void)err_sys(err, errno, "read a store");
        return false;
    }
    (void)fd_take(&fd); /* the DIR's now */
    bool found = false;
    const struct dirent *entry = NULL;
    while (!found && (errno = 0, (entry = readdir(dir))))
        found = imagestore_has(store_fd, entry->d_name) && look(context, entry->d_name);
    int saved = found ? 0 : errno;
    (void)closedir(dir);
    if (saved != 0)
        (void)err_sys(err, saved, "read a store");
    return found;
}

struct each {
    void (*on_whole)(void *context, const char *whole);
    void *context;
};

static bool tell_whole(void *context, const char *name)
{
    const struct each *each = context;
    if (is_whole(name))
        each->on_whole(each->context, name);
    return false;
}

int imagestore_each(int store_fd, void (*on_whole)(void *context, const char *whole), void *context,
                    struct err *err)
{
    struct each each = {.on_whole = on_whole, .context = context};
    struct err failure = ERR_INIT;
    (void)look_through(store_fd, tell_whole, &each, &failure);
    return failure.kind != ERR_NONE ? err_copy(err, &failure) : 0;
}

struct search {
    const char *whole;
    char *out;
};

static bool is_or_was(void *context, const char *name)
{
    const struct search *search = context;
    size_t size = strlen(search->whole);
    if (strncmp(name, search->whole, size) != 0 ||
        !(name[size] == '\0' || (name[size] == '.' && is_partial(name))))
        return false;
    (void)snprintf(search->out, IMAGESTORE_NAME_SIZE, "%s", name);
    return true;
}

bool imagestore_find(int store_fd, const char *whole, char out[static IMAGESTORE_NAME_SIZE])
{
    struct search search = {.whole = whole, .out = out};
    return is_whole(whole) && look_through(store_fd, is_or_was, &search, NULL);
}

struct waste {
    int store_fd;
    bool (*wanted)(const char *name, const void *context);
    const void *context;
    char *out;
};

static bool is_waste(void *context, const char *name)
{
    const struct waste *waste = context;
    if (!(is_partial(name) || is_whole(name)) || waste->wanted(name, waste->context) ||
        !is_unused(waste->store_fd, name))
        return false;
    if (is_whole(name))
        return rename_to_partial(waste->store_fd, name, waste->out);
    (void)snprintf(waste->out, IMAGESTORE_NAME_SIZE, "%s", name);
    return true;
}

bool imagestore_find_waste(int store_fd, bool (*wanted)(const char *name, const void *context),
                           const void *context, char out[static IMAGESTORE_NAME_SIZE])
{
    struct waste waste = {.store_fd = store_fd, .wanted = wanted, .context = context, .out = out};
    struct err err = ERR_INIT;
    bool found = look_through(store_fd, is_waste, &waste, &err);
    if (err.kind != ERR_NONE)
        log_warn("%s", err.message);
    return found;
}
