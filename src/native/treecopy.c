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

/* What is copied, and whose it becomes. */
struct copy_rules {
    bool all;       /* else what everybody may read, as root's */
    uid_t first_id; /* all: owners are counted from here */
};

static int copy_entry(const struct copy_rules *rules, int from_fd, const char *name, int to_fd,
                      int depth, struct err *err);

static bool is_dots(const char *name)
{
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

/* Gives a copy its owner, and then the mode that the umask took from. */
static int take_over(const struct copy_rules *rules, int to_fd, const char *name,
                     const struct stat *info, struct err *err)
{
    if (!rules->all)
        return 0;
    if (fchownat(to_fd, name, rules->first_id + info->st_uid, rules->first_id + info->st_gid,
                 AT_SYMLINK_NOFOLLOW) != 0)
        return err_sys(err, errno, "owner of %s", name);
    if (!S_ISLNK(info->st_mode) && fchmodat(to_fd, name, info->st_mode & 0777, 0) != 0)
        return err_sys(err, errno, "mode of %s", name);
    return 0;
}

static int copy_file(const struct copy_rules *rules, int from_fd, const char *name, int to_fd,
                     const struct stat *info, struct err *err)
{
    FD_AUTO int in = openat(from_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (in < 0)
        return err_sys(err, errno, "open %s", name);
    FD_AUTO int out = openat(to_fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW,
                             info->st_mode & (rules->all ? 0777 : 0755));
    if (out < 0)
        return err_sys(err, errno, "make %s", name);
    for (;;) {
        ssize_t sent = sendfile(out, in, NULL, 1 << 20);
        if (sent < 0)
            return err_sys(err, errno, "copy %s", name);
        if (sent == 0)
            return take_over(rules, to_fd, name, info, err);
    }
}

static int copy_link(const struct copy_rules *rules, int from_fd, const char *name, int to_fd,
                     const struct stat *info, struct err *err)
{
    char target[4096];
    ssize_t size = readlinkat(from_fd, name, target, sizeof(target) - 1);
    if (size < 0)
        return err_sys(err, errno, "read link %s", name);
    target[size] = '\0';
    if (symlinkat(target, to_fd, name) != 0 && errno != EEXIST)
        return err_sys(err, errno, "make link %s", name);
    return take_over(rules, to_fd, name, info, err);
}

static int copy_folder(const struct copy_rules *rules, int from_fd, const char *name, int to_fd,
                       const struct stat *info, int depth, struct err *err)
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
            result = copy_entry(rules, dirfd(dir), entry->d_name, out_fd, depth + 1, err);
    }
    (void)closedir(dir);
    return result == 0 ? take_over(rules, to_fd, name, info, err) : result;
}

static int copy_entry(const struct copy_rules *rules, int from_fd, const char *name, int to_fd,
                      int depth, struct err *err)
{
    struct stat info;
    if (depth > DEPTH_MAX)
        return err_set(err, ERR_TOO_LARGE, "folders deeper than %d at %s", DEPTH_MAX, name);
    if (fstatat(from_fd, name, &info, AT_SYMLINK_NOFOLLOW) != 0)
        return errno == ENOENT ? 0 : err_sys(err, errno, "look at %s", name);
    if (S_ISLNK(info.st_mode))
        return copy_link(rules, from_fd, name, to_fd, &info, err);
    if (S_ISDIR(info.st_mode) && (rules->all || (info.st_mode & 0005) == 0005))
        return copy_folder(rules, from_fd, name, to_fd, &info, depth, err);
    if (S_ISREG(info.st_mode) && (rules->all || (info.st_mode & 0004) != 0))
        return copy_file(rules, from_fd, name, to_fd, &info, err);
    return 0;
}

int treecopy_owned(int from_fd, int out_fd, uid_t first_id, struct err *err)
{
    const struct copy_rules rules = {.all = true, .first_id = first_id};
    struct stat info;
    if (fstat(from_fd, &info) != 0)
        return err_sys(err, errno, "look at a tree");
    return copy_folder(&rules, from_fd, ".", out_fd, &info, 0, err);
}

int treecopy_public(const char *base, const char *name, int out_fd, struct err *err)
{
    static const struct copy_rules rules;
    FD_AUTO int from_fd = open(base, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (from_fd < 0)
        return err_sys(err, errno, "open %s", base);
    const char *slash = strchr(name, '/');
    if (!slash)
        return copy_entry(&rules, from_fd, name, out_fd, 0, err);
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
    return copy_entry(&rules, inner_from_fd, slash + 1, inner_to_fd, 0, err);
}
