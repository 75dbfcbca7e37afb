/* Owns the staged /sys trees. Nothing in them is the host's own. */
#include "native/sysview.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "native/mountfd.h"

static const char *const folders[] = {
    "block",    "bus",     "class",          "class/net",
    "dev",      "devices", "devices/system", "devices/system/cpu",
    "firmware", "fs",      "fs/cgroup",      "kernel",
    "module",
};
static const char *const cpu_files[] = {"online", "possible", "present"};

void sysview_init(struct sysview *view, int stage_fd, const struct cgroup_root *cgroups)
{
    view->stage_fd = stage_fd;
    view->cgroups = cgroups;
    for (size_t i = 0; i < ARRAY_SIZE(view->mount_fds); i++)
        view->mount_fds[i] = -1;
}

void sysview_done(struct sysview *view)
{
    for (size_t i = 0; i < ARRAY_SIZE(view->mount_fds); i++)
        fd_close(&view->mount_fds[i]);
}

static int write_text(int dir_fd, const char *path, const char *text, struct err *err)
{
    FD_AUTO int fd = openat(dir_fd, path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0444);
    if (fd < 0)
        return err_sys(err, errno, "make sys/%s", path);
    return fd_write_all(fd, text, strlen(text), err);
}

/* A hierarchy "cpu,cpuacct" is mounted under that name and found under each of the two. */
static int add_hierarchy(int root_fd, const char *name, struct err *err)
{
    char path[64];
    (void)snprintf(path, sizeof(path), "fs/cgroup/%s", name);
    if (mkdirat(root_fd, path, 0755) != 0 && errno != EEXIST)
        return err_sys(err, errno, "make sys/%s", path);
    for (const char *word = name; strchr(name, ',') && word;) {
        const char *comma = strchr(word, ',');
        int size = comma ? (int)(comma - word) : (int)strlen(word);
        (void)snprintf(path, sizeof(path), "fs/cgroup/%.*s", size, word);
        if (symlinkat(name, root_fd, path) != 0 && errno != EEXIST)
            return err_sys(err, errno, "make link sys/%s", path);
        word = comma ? comma + 1 : NULL;
    }
    return 0;
}

static int fill(const struct sysview *view, int root_fd, unsigned cpus, struct err *err)
{
    for (size_t i = 0; i < ARRAY_SIZE(folders); i++) {
        if (mkdirat(root_fd, folders[i], 0755) != 0)
            return err_sys(err, errno, "make sys/%s", folders[i]);
    }
    char text[32];
    int result = 0;
    (void)snprintf(text, sizeof(text), cpus > 1 ? "0-%u\n" : "%u\n", cpus - 1);
    for (size_t i = 0; result == 0 && i < ARRAY_SIZE(cpu_files); i++) {
        char path[48];
        (void)snprintf(path, sizeof(path), "devices/system/cpu/%s", cpu_files[i]);
        result = write_text(root_fd, path, text, err);
    }
    for (size_t i = 0; result == 0 && i < view->cgroups->count; i++) {
        const char *name = view->cgroups->hierarchies[i].name;
        if (name[0] != '\0')
            result = add_hierarchy(root_fd, name, err);
    }
    return result;
}

static int make(struct sysview *view, unsigned cpus, struct err *err)
{
    char name[24];
    FD_AUTO int folder_fd = -1;
    FD_AUTO int mount_fd = -1;
    (void)snprintf(name, sizeof(name), "sys-%u", cpus);
    if (mkdirat(view->stage_fd, name, 0755) != 0 && errno != EEXIST)
        return err_sys(err, errno, "make %s", name);
    int result = mountfd_tmpfs(
        1U << 20, 256, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC, &mount_fd, err);
    if (result == 0)
        result = fill(view, mount_fd, cpus, err);
    if (result == 0)
        result = mountfd_restrict(mount_fd, MOUNT_ATTR_RDONLY, err);
    if (result == 0)
        result = mountfd_attach(mount_fd, view->stage_fd, name, err);
    if (result == 0)
        view->mount_fds[cpus] = fd_take(&mount_fd);
    return result;
}

unsigned sysview_cpus(uint32_t cpu_millis)
{
    unsigned cpus = (cpu_millis + 999) / 1000;
    if (cpus < 1)
        return 1;
    return cpus < SYSVIEW_CPUS_MAX ? cpus : SYSVIEW_CPUS_MAX;
}

int sysview_clone(struct sysview *view, uint32_t cpu_millis, int *out_fd, struct err *err)
{
    unsigned cpus = sysview_cpus(cpu_millis);
    int result = view->mount_fds[cpus] >= 0 ? 0 : make(view, cpus, err);
    if (result == 0)
        result = mountfd_clone(view->mount_fds[cpus], "", false, out_fd, err);
    return result == 0 ? 0 : err_wrap(err, "/sys");
}
