/* Owns the removal of files of lower layers. Refuses names that would mean the folder itself or the
 * one above it. Needs one descriptor and no recursion, however deep the folders are: they were made
 * by names of at most PATH_MAX bytes. */
#include "unpack/whiteout.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"

static const char prefix[] = ".wh.";
static const char meta_prefix[] = ".wh..wh.";
static const char opaque[] = ".wh..wh..opq";

enum { PREFIX_SIZE = sizeof(prefix) - 1 };

static const char *last_part(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

bool whiteout_is_one(const char *path)
{
    return strncmp(last_part(path), prefix, PREFIX_SIZE) == 0;
}

/* Empties the folder of files. Returns 1 and the name of a folder in it when there is one, 0 when
 * it is empty now. */
static int empty_folder(const char *path, char out_name[static NAME_MAX + 1], struct err *err)
{
    FD_AUTO int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    if (!dir)
        return err_sys(err, errno, "open a folder to remove");
    (void)fd_take(&fd); /* the DIR's now */
    int result = 0;
    const struct dirent *entry = NULL;
    while (result == 0 && (entry = readdir(dir))) {
        const char *name = entry->d_name;
        if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0 || unlinkat(dirfd(dir), name, 0) == 0)
            continue;
        if (errno == EISDIR) {
            (void)snprintf(out_name, NAME_MAX + 1, "%s", name);
            result = 1;
        } else {
            result = err_sys(err, errno, "remove a file of a lower layer");
        }
    }
    (void)closedir(dir);
    return result;
}

/* The folder and all below it, from the bottom up. */
static int remove_folder(const char *path, bool keep_folder, struct err *err)
{
    char at[PATH_MAX];
    char name[NAME_MAX + 1];
    const size_t base = strlen(path);
    if (base >= sizeof(at))
        return err_set(err, ERR_BAD_INPUT, "a name of more than 4095 bytes");
    memcpy(at, path, base + 1);
    for (;;) {
        size_t size = strlen(at);
        int result = empty_folder(size > 0 ? at : ".", name, err);
        if (result < 0)
            return result;
        if (result == 0) {
            if (size == base && keep_folder)
                return 0;
            if (rmdir(at) != 0)
                return err_sys(err, errno, "remove a folder of a lower layer");
            if (size == base)
                return 0;
            char *slash = strrchr(at, '/');
            at[slash && (size_t)(slash - at) > base ? (size_t)(slash - at) : base] = '\0';
            continue;
        }
        int more = snprintf(at + size, sizeof(at) - size, "%s%s", size > 0 ? "/" : "", name);
        if (more < 0 || (size_t)more >= sizeof(at) - size)
            return err_set(err, ERR_BAD_INPUT, "a name of more than 4095 bytes");
    }
}

static int fail_link(struct err *err)
{
    return err_set(err, ERR_BAD_INPUT, "a whiteout that leads through a symbolic link");
}

int whiteout_remove(const char *path, bool keep_folder, struct err *err)
{
    struct stat info;
    const char *real = path[0] != '\0' ? path : ".";
    if (fstatat(AT_FDCWD, real, &info, AT_SYMLINK_NOFOLLOW) != 0) {
        if (errno == ENOENT || errno == ENOTDIR)
            return 0;
        return errno == ELOOP ? fail_link(err)
                              : err_sys(err, errno, "look at a file of a lower layer");
    }
    if (S_ISDIR(info.st_mode))
        return remove_folder(path, keep_folder, err);
    if (keep_folder && S_ISLNK(info.st_mode))
        return fail_link(err);
    if (!keep_folder && unlink(path) != 0)
        return err_sys(err, errno, "remove a file of a lower layer");
    return 0;
}

int whiteout_follow(const char *path, struct err *err)
{
    char target[PATH_MAX];
    const char *last = last_part(path);
    const int folder_size = (int)(last - path); /* with its slash */
    const char *name = last + PREFIX_SIZE;
    if (strcmp(last, opaque) == 0) {
        (void)snprintf(target, sizeof(target), "%.*s", folder_size > 0 ? folder_size - 1 : 0, path);
        return whiteout_remove(target, true, err);
    }
    if (strncmp(last, meta_prefix, sizeof(meta_prefix) - 1) == 0)
        return 0;
    if (name[0] == '\0' || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return err_set(err, ERR_BAD_INPUT, "a whiteout of no name");
    (void)snprintf(target, sizeof(target), "%.*s%s", folder_size, path, name);
    return whiteout_remove(target, false, err);
}
