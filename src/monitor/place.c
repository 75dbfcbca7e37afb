/* Owns the move of the monitor out of a group that was delegated to it. Writes below no other
 * group, and believes no mark that somebody else than root can set. */
#include "monitor/place.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"

#define MOUNT_PATH "/sys/fs/cgroup"

static bool is_v2_alone(void)
{
    struct statfs info;
    return statfs(MOUNT_PATH, &info) == 0 && info.f_type == CGROUP2_SUPER_MAGIC;
}

static bool has_dots(const char *path)
{
    size_t size = strlen(path);
    return strstr(path, "/../") || (size >= 3 && strcmp(path + size - 3, "/..") == 0);
}

static int check_wanted(const char *wanted, struct err *err)
{
    if (wanted[0] == '/' && wanted[1] != '\0' && !has_dots(wanted) && strlen(wanted) < PATH_MAX)
        return 0;
    return err_set(err, ERR_BAD_INPUT,
                   "BERTH_CGROUP has to be a path from the root of the control groups, like "
                   "/system.slice/berth-sandboxes.service, not \"%.200s\"",
                   wanted);
}

/* The v2 group of this process (cgroups(7), "/proc/[pid]/cgroup"); "" when it has none that could
 * be named from here. */
static int own_group(char out[static PATH_MAX], struct err *err)
{
    char text[PATH_MAX + 512];
    ssize_t size = fd_read_file_at(AT_FDCWD, "/proc/self/cgroup", text, sizeof(text), err);
    if (size < 0)
        return (int)size;
    const char *line = strncmp(text, "0::", 3) == 0 ? text : strstr(text, "\n0::");
    const char *path = line ? strchr(line, '/') : NULL;
    size_t length = path ? strcspn(path, "\n") : 0;
    out[0] = '\0';
    if (length == 0 || length >= PATH_MAX)
        return 0;
    memcpy(out, path, length);
    out[length] = '\0';
    if (has_dots(out)) /* above the root of our cgroup namespace */
        out[0] = '\0';
    return 0;
}

/* trusted.* can be set by CAP_SYS_ADMIN only (xattr(7)); user.delegate, which systemd sets as well,
 * by whoever owns the folder. */
static bool is_delegated(int group_fd)
{
    char value[4] = "";
    return fgetxattr(group_fd, "trusted.delegate", value, sizeof(value)) == 1 && value[0] == '1';
}

static int open_group(const char *group, int *out_fd, struct err *err)
{
    char path[sizeof(MOUNT_PATH) + PATH_MAX];
    (void)snprintf(path, sizeof(path), "%s%s", MOUNT_PATH, group);
    *out_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return *out_fd < 0 ? err_sys(err, errno, "open the control group %s", group) : 0;
}

/* Cuts "/PLACE_LEAF" off the end; false when it does not end so. */
static bool cut_leaf(char *group)
{
    char *slash = strrchr(group, '/');
    if (!slash || slash == group || strcmp(slash + 1, PLACE_LEAF) != 0)
        return false;
    *slash = '\0';
    return true;
}

static int enter_leaf(int group_fd, const char *group, struct err *err)
{
    if (mkdirat(group_fd, PLACE_LEAF, 0755) != 0 && errno != EEXIST)
        return err_sys(err, errno, "make the control group %s/%s", group, PLACE_LEAF);
    int result = fd_write_file_at(group_fd, PLACE_LEAF "/cgroup.procs", "0", err);
    if (result != 0)
        return err ? err_wrap(err, "move into %s/%s", group, PLACE_LEAF) : result;
    log_debug("moved into the control group %s/%s", group, PLACE_LEAF);
    return 0;
}

int place_find(const char *wanted, char out[static PATH_MAX], struct err *err)
{
    char group[PATH_MAX] = "";
    int result = wanted ? check_wanted(wanted, err) : 0;
    if (result != 0)
        return result;
    if (wanted) {
        memcpy(out, wanted, strlen(wanted) + 1);
        return 0;
    }
    if (is_v2_alone())
        result = own_group(group, err);
    bool in_leaf = result == 0 && cut_leaf(group);
    if (result != 0 || group[0] == '\0' || strcmp(group, "/") == 0) {
        if (result == 0)
            out[0] = '\0';
        return result;
    }
    FD_AUTO int group_fd = -1;
    struct err failure = ERR_INIT;
    result = open_group(group, &group_fd, &failure);
    if (result != 0 && failure.sys_errno == ENOENT) {
        /* A container in the host's cgroup namespace: its own group is mounted as the root. */
        out[0] = '\0';
        return 0;
    }
    if (result != 0)
        return err_copy(err, &failure);
    bool delegated = is_delegated(group_fd);
    if (delegated && !in_leaf)
        result = enter_leaf(group_fd, group, err);
    if (result == 0)
        memcpy(out, delegated ? group : "", delegated ? strlen(group) + 1 : 1);
    return result;
}
