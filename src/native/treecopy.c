/* Owns the copying of files that the image shares with the host. */
#include "native/treecopy.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"

enum { DEPTH_MAX = 64 };

static int copy_entry(int from_fd, const char *name, int to_fd, int depth, struct err *err);

static bool is_dots(const char *name)
{
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

static int copy_file(int from_fd, const char *name, int to_fd, mode_t mode, struct err *err)
{
    FD_AUTO int in = openat(from_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (in < 0)
        return err_sys(err, errno, "open %s", name);
    FD_AUTO int out =
        openat(to_fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, mode & 0755);
    if (out < 0)
        return err_sys(err, errno, "make %s", name);
    for (;;) {
        ssize_t sent = sendfile(out, in, NULL, 1 << 20);
        if (sent < 0)
            return err_sys(err, errno, "copy %s", name);
        if (sent == 0)
            return 0;
    }
}

static int copy_link(int from_fd, const char *name, int to_fd, struct err *err)
{
    char target[4096];
    ssize_t size = readlinkat(from_fd, name, target, sizeof(target) - 1);
    if (size < 0)
        return err_sys(err, errno, "read link %s", name);
    target[size] = '\0';
    if (symlinkat(target, to_fd, name) != 0 && errno != EEXIST)
        return err_sys(err, errno, "make link %s", name);
    return 0;
}

static int copy_folder(int from_fd, const char *name, int to_fd, int depth, struct err *err)
{
    int folder_fd = openat(from_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (folder_fd < 0)
        return err_sys(err, errno, "open %s", name);
    if (mkdirat(to_fd, name, 0755) != 0 && errno != EEXIST) {
        fd_close(&folder_fd);
        return err_sys(err, errno, "make %s", name);
    }
    FD_AUTO int out_fd = openat(to_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    DIR *dir = out_fd < 0 ? NULL : fdopendir(folder_fd);
    if (!dir) {
        fd_close(&folder_fd);
        return err_sys(err, errno, "read %s", name);
    }
    int result = 0;
    const struct dirent *entry = NULL;
    while (result == 0 && (entry = readdir(dir))) {
        if (!is_dots(entry->d_name))
            result = copy_entry(dirfd(dir), entry->d_name, out_fd, depth + 1, err);
    }
    (void)closedir(dir);
    return result;
}

static int copy_entry(int from_fd, const char *name, int to_fd, int depth, struct err *err)
{
    struct stat info;
    if (depth > DEPTH_MAX)
        return err_set(err, ERR_TOO_LARGE, "folders deeper than %d at %s", DEPTH_MAX, name);
    if (fstatat(from_fd, name, &info, AT_SYMLINK_NOFOLLOW) != 0)
        return errno == ENOENT ? 0 : err_sys(err, errno, "look at %s", name);
    if (S_ISLNK(info.st_mode))
        return copy_link(from_fd, name, to_fd, err);
    if (S_ISDIR(info.st_mode) && (info.st_mode & 0005) == 0005)
        return copy_folder(from_fd, name, to_fd, depth, err);
    if (S_ISREG(info.st_mode) && (info.st_mode & 0004) != 0)
        return copy_file(from_fd, name, to_fd, info.st_mode, err);
    return 0;
}

int treecopy_public(const char *base, const char *name, int out_fd, struct err *err)
{
    FD_AUTO int from_fd = open(base, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (from_fd < 0)
        return err_sys(err, errno, "open %s", base);
    const char *slash = strchr(name, '/');
    if (!slash)
        return copy_entry(from_fd, name, out_fd, 0, err);
    /* One level of folder before the name ("ssl/certs"): made empty, then gone into. */
    char folder[64];
    (void)snprintf(folder, sizeof(folder), "%.*s", (int)(slash - name), name);
    if (mkdirat(out_fd, folder, 0755) != 0 && errno != EEXIST)
        return err_sys(err, errno, "make %s", folder);
    FD_AUTO int inner_from_fd = openat(from_fd, folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    FD_AUTO int inner_to_fd =
        openat(out_fd, folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (inner_from_fd < 0)
        return errno == ENOENT ? 0 : err_sys(err, errno, "open %s/%s", base, folder);
    if (inner_to_fd < 0)
        return err_sys(err, errno, "open %s", folder);
    return copy_entry(inner_from_fd, slash + 1, inner_to_fd, 0, err);
}
