/* Owns every path below /sys/fs/cgroup that this engine makes or removes. */
#include "native/cgroup.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/id.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/parse.h"
#include "native/cgroup_internal.h"
#include "native/nspid.h"

#define DEPTH_MAX 256 /* of groups above each other; a mount's root ends the walk before */

static const char *const group_names[] = {"init", "code"};

/* ---- finding the hierarchies ---- */

struct cgroup_mount {
    char path[256];
    char type[16];
    char options[256]; /* of the super block: the controllers, on v1 */
};

/* Reads one line of mountinfo (proc_pid_mountinfo(5)); false when it is no cgroup mount. */
static bool parse_mount(const char *line, struct cgroup_mount *out)
{
    const char *separator = strstr(line, " - ");
    if (!separator)
        return false;
    if (sscanf(line, "%*d %*d %*s %*s %255s", out->path) != 1)
        return false;
    if (sscanf(separator, " - %15s %*s %255s", out->type, out->options) != 2)
        return false;
    return strncmp(out->type, "cgroup", 6) == 0;
}

static bool has_word(const char *list, const char *word)
{
    size_t size = strlen(word);
    for (const char *at = list; (at = strstr(at, word)); at += size) {
        bool starts = at == list || strchr(", \n", at[-1]) != NULL;
        bool ends = at[size] == '\0' || strchr(", \n", at[size]) != NULL;
        if (starts && ends)
            return true;
    }
    return false;
}

/* Where something is to be made: a hierarchy's root, or a group in it. */
static int open_place(const char *mount_path, const char *place, int *out_fd, struct err *err)
{
    char path[sizeof(((struct cgroup_mount *)NULL)->path) + PATH_MAX];
    (void)snprintf(path, sizeof(path), "%s%s", mount_path, place);
    *out_fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (*out_fd < 0 && errno == ENOENT && place[0] != '\0')
        return err_public(err, ERR_UNAVAILABLE, /* it may start after us */
                          "there is no control group %s for sandboxes (BERTH_CGROUP); is the unit "
                          "that it belongs to running?",
                          place);
    return *out_fd < 0 ? err_sys(err, errno, "open %s", path) : 0;
}

/* Makes and opens the instance's folder in one hierarchy. */
static int open_base(int place_fd, const char *name, int *out_fd, struct err *err)
{
    if (mkdirat(place_fd, name, 0755) != 0 && errno != EEXIST) {
        if (errno == EROFS || errno == EACCES || errno == EPERM)
            return err_public(err, ERR_UNSUPPORTED,
                              "no control group can be made here: /sys/fs/cgroup is %s (a "
                              "container without control groups of its own?)",
                              errno == EROFS ? "read-only" : "not ours to write");
        return err_sys(err, errno, "make the control group %s", name);
    }
    *out_fd = openat(place_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    return *out_fd < 0 ? err_sys(err, errno, "open the control group %s", name) : 0;
}

static int add_v1(struct cgroup_root *root, const struct cgroup_mount *mount, struct err *err)
{
    struct cgroup_hierarchy found = {.base_fd = -1};
    found.memory = has_word(mount->options, "memory");
    found.pids = has_word(mount->options, "pids");
    found.cpu = has_word(mount->options, "cpu");
    found.cpuacct = has_word(mount->options, "cpuacct");
    if (!found.memory && !found.pids && !found.cpu && !found.cpuacct)
        return 0;
    if (root->count >= CGROUP_HIERARCHY_MAX)
        return 0; /* the same controllers mounted twice */
    const char *slash = strrchr(mount->path, '/');
    (void)snprintf(found.name, sizeof(found.name), "%.31s", slash ? slash + 1 : mount->path);
    FD_AUTO int mount_fd = -1;
    int result = open_place(mount->path, "", &mount_fd, err);
    if (result == 0)
        result = open_base(mount_fd, root->folder, &found.base_fd, err);
    if (result == 0)
        root->hierarchies[root->count++] = found;
    return result;
}

/* Hands the controllers down to the children of dir_fd, those that are not handed down yet. */
static int enable_controllers(int dir_fd, struct err *err)
{
    char text[256];
    ssize_t size = fd_read_file_at(dir_fd, "cgroup.subtree_control", text, sizeof(text), err);
    if (size < 0)
        return (int)size;
    if (has_word(text, "memory") && has_word(text, "pids") && has_word(text, "cpu"))
        return 0;
    return fd_write_file_at(dir_fd, "cgroup.subtree_control", "+memory +pids +cpu", err);
}

/* The same for the place that we were given, which may not be fit for it. */
static int enable_at_place(int place_fd, const char *place, struct err *err)
{
    struct err failure = ERR_INIT;
    int result = enable_controllers(place_fd, &failure);
    const char *name = place[0] != '\0' ? place : "/";
    if (result != 0 && failure.sys_errno == EBUSY)
        return err_public(
            err, ERR_UNSUPPORTED,
            "the control group %s has processes of its own, so none of its groups can "
            "have limits: give berth a group for itself (BERTH_CGROUP, or Delegate= in "
            "its unit)",
            name);
    if (result != 0 && (failure.sys_errno == EROFS || failure.sys_errno == EACCES))
        return err_public(err, ERR_UNSUPPORTED,
                          "/sys/fs/cgroup is read-only here (a container without control groups of "
                          "its own?): sandboxes cannot have limits");
    return result == 0 ? 0 : err_copy(err, &failure);
}

static bool offers_all(int dir_fd)
{
    char text[256];
    return fd_read_file_at(dir_fd, "cgroup.controllers", text, sizeof(text), NULL) > 0 &&
           has_word(text, "memory") && has_word(text, "pids") && has_word(text, "cpu");
}

static int add_v2(struct cgroup_root *root, const struct cgroup_mount *mount, const char *place,
                  struct err *err)
{
    FD_AUTO int mount_fd = -1;
    FD_AUTO int place_fd = -1;
    int result = open_place(mount->path, "", &mount_fd, err);
    if (result != 0)
        return result;
    if (!offers_all(mount_fd)) { /* v1 has them, and there no place is needed */
        root->hybrid = true;
        return 0;
    }
    result = open_place(mount->path, place, &place_fd, err);
    if (result == 0 && !offers_all(place_fd))
        result = err_public(err, ERR_UNSUPPORTED,
                            "the control group %s does not offer memory, cpu and pids (Delegate= "
                            "has to name them)",
                            place);
    struct cgroup_hierarchy found = {
        .base_fd = -1, .memory = true, .pids = true, .cpu = true, .cpuacct = true};
    if (result == 0)
        result = enable_at_place(place_fd, place, err);
    if (result == 0)
        result = open_base(place_fd, root->folder, &found.base_fd, err);
    if (result == 0)
        result = enable_controllers(found.base_fd, err);
    if (result != 0) {
        fd_close(&found.base_fd);
        return result;
    }
    log_info("sandboxes' groups are in %s/%s", place, root->folder);
    root->mode = INIT_CGROUP_V2;
    root->hierarchies[root->count++] = found;
    return 0;
}

/* Adds the hierarchies of one version that mountinfo names. */
static int scan_mounts(struct cgroup_root *root, bool v2, const char *place, struct err *err)
{
    FILE *file = fopen("/proc/self/mountinfo", "re");
    if (!file)
        return err_sys(err, errno, "open /proc/self/mountinfo");
    char line[1024];
    int result = 0;
    while (result == 0 && fgets(line, sizeof(line), file)) {
        struct cgroup_mount mount;
        if (!parse_mount(line, &mount) || (strcmp(mount.type, "cgroup2") == 0) != v2)
            continue;
        if (!v2)
            result = add_v1(root, &mount, err);
        else if (root->count == 0)
            result = add_v2(root, &mount, place, err);
    }
    (void)fclose(file);
    return result;
}

static bool has_all(const struct cgroup_root *root)
{
    bool memory = false;
    bool pids = false;
    bool cpu = false;
    for (size_t i = 0; i < root->count; i++) {
        memory |= root->hierarchies[i].memory;
        pids |= root->hierarchies[i].pids;
        cpu |= root->hierarchies[i].cpu;
    }
    return memory && pids && cpu;
}

int cgroup_open(struct cgroup_root *root, const char *instance, struct err *err)
{
    return cgroup_open_below(root, "", instance, err);
}

int cgroup_open_below(struct cgroup_root *root, const char *place, const char *instance,
                      struct err *err)
{
    memset(root, 0, sizeof(*root));
    (void)snprintf(root->folder, sizeof(root->folder), "berth-%s", instance);
    int result = scan_mounts(root, true, place ? place : "", err);
    if (result == 0 && root->count == 0) {
        root->mode = INIT_CGROUP_V1;
        result = scan_mounts(root, false, "", err);
    }
    if (result == 0 && !has_all(root))
        result = err_public(err, ERR_UNSUPPORTED,
                            "the memory, cpu and pids cgroup controllers are needed and this host "
                            "does not offer all of them");
    if (result != 0) {
        cgroup_retire(root);
        cgroup_close(root);
    }
    return result;
}

void cgroup_close(struct cgroup_root *root)
{
    for (size_t i = 0; i < root->count; i++)
        fd_close(&root->hierarchies[i].base_fd);
    memset(root, 0, sizeof(*root));
}

void cgroup_retire(const struct cgroup_root *root)
{
    for (size_t i = 0; i < root->count; i++) {
        FD_AUTO int mount_fd =
            openat(root->hierarchies[i].base_fd, "..", O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (mount_fd >= 0)
            (void)unlinkat(mount_fd, root->folder, AT_REMOVEDIR); /* EBUSY: sandboxes live on */
    }
}

const char *cgroup_mode_name(const struct cgroup_root *root)
{
    if (root->mode == INIT_CGROUP_V2)
        return "v2";
    if (root->mode == INIT_CGROUP_V1)
        return root->hybrid ? "hybrid" : "v1";
    return "none";
}

uint64_t cgroup_read_limit(int dir_fd, const char *file)
{
    char text[32];
    uint64_t bytes = 0;
    if (fd_read_file_at(dir_fd, file, text, sizeof(text), NULL) <= 0)
        return UINT64_MAX;
    text[strcspn(text, "\n")] = '\0';
    return parse_u64(text, 0, UINT64_MAX, &bytes, NULL) == 0 ? bytes : UINT64_MAX;
}

static uint64_t least_limit(int base_fd, const char *file)
{
    struct stat base;
    FD_AUTO int above_fd = -1;
    int dir_fd = base_fd;
    uint64_t least = UINT64_MAX;
    bool inside = fstat(base_fd, &base) == 0;
    for (int depth = 0; inside && depth < DEPTH_MAX; depth++) {
        struct stat info;
        uint64_t limit = cgroup_read_limit(dir_fd, file);
        least = limit < least ? limit : least;
        int next_fd = openat(dir_fd, "..", O_PATH | O_DIRECTORY | O_CLOEXEC);
        inside = next_fd >= 0 && fstat(next_fd, &info) == 0 && info.st_dev == base.st_dev;
        fd_close(&above_fd);
        dir_fd = above_fd = next_fd;
    }
    return least;
}

uint64_t cgroup_memory_bound(const struct cgroup_root *root)
{
    const char *file = root->mode == INIT_CGROUP_V2 ? "memory.max" : "memory.limit_in_bytes";
    uint64_t least = UINT64_MAX;
    for (size_t i = 0; i < root->count; i++) {
        const struct cgroup_hierarchy *hierarchy = &root->hierarchies[i];
        uint64_t limit = hierarchy->memory ? least_limit(hierarchy->base_fd, file) : UINT64_MAX;
        least = limit < least ? limit : least;
    }
    return least;
}

/* ---- one sandbox ---- */

/* Where init is: nothing limits it, so that it needs a group of its own only where it is looked for
 * and killed by it, and on v2, where a group with others below it may have no process. */
static const char *init_group(const struct cgroup_root *root,
                              const struct cgroup_hierarchy *hierarchy)
{
    return root->mode == INIT_CGROUP_V1 && !hierarchy->pids ? "." : "init";
}

static int make_dirs(const struct cgroup_root *root, const struct cgroup_hierarchy *hierarchy,
                     const char *id, struct err *err)
{
    if (mkdirat(hierarchy->base_fd, id, 0755) != 0)
        return errno == EEXIST ? err_set(err, ERR_CONFLICT, "cgroup %s exists", id)
                               : err_sys(err, errno, "make cgroup %s", id);
    FD_AUTO int dir_fd = openat(hierarchy->base_fd, id, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (dir_fd < 0)
        return err_sys(err, errno, "open cgroup %s", id);
    if (root->mode == INIT_CGROUP_V2) {
        int result = enable_controllers(dir_fd, err);
        if (result != 0)
            return result;
    }
    for (size_t i = 0; i < ARRAY_SIZE(group_names); i++) {
        bool shared = i == 0 && strcmp(init_group(root, hierarchy), ".") == 0;
        if (!shared && mkdirat(dir_fd, group_names[i], 0755) != 0)
            return err_sys(err, errno, "make cgroup %s/%s", id, group_names[i]);
    }
    return 0;
}

int cgroup_open_group(const struct cgroup_hierarchy *hierarchy, const char *id, const char *group,
                      int *out_fd, struct err *err)
{
    char path[SANDBOX_ID_MAX + 16];
    (void)snprintf(path, sizeof(path), "%s/%s", id, group);
    *out_fd = openat(hierarchy->base_fd, path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (*out_fd < 0)
        return err_sys(err, errno, "open cgroup %s", path);
    return 0;
}

/* v1: an eventfd that the kernel signals when the group runs out of memory. */
static int open_oom_event(int dir_fd, struct init_config *config, struct err *err)
{
    FD_AUTO int control_fd = openat(dir_fd, "memory.oom_control", O_RDONLY | O_CLOEXEC);
    FD_AUTO int event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (control_fd < 0 || event_fd < 0)
        return err_sys(err, errno, "memory.oom_control");
    char text[32];
    (void)snprintf(text, sizeof(text), "%d %d", event_fd, control_fd);
    int result = fd_write_file_at(dir_fd, "cgroup.event_control", text, err);
    if (result == 0)
        config->oom_event_fd = fd_take(&event_fd);
    return result;
}

static int open_file(int dir_fd, const char *file, int flags, int *out_fd, struct err *err)
{
    *out_fd = openat(dir_fd, file, flags | O_CLOEXEC);
    return *out_fd < 0 ? err_sys(err, errno, "open %s", file) : 0;
}

static int open_for_init(const struct cgroup_root *root, const struct cgroup_hierarchy *hierarchy,
                         int dir_fd, struct init_config *config, struct err *err)
{
    int result = open_file(dir_fd, root->mode == INIT_CGROUP_V1 ? "tasks" : "cgroup.procs",
                           O_WRONLY, &config->procs_fds[config->procs_count], err);
    if (result != 0)
        return result;
    config->procs_count++;
    if (hierarchy->pids) {
        config->pids_dir_fd = fcntl(dir_fd, F_DUPFD_CLOEXEC, 0);
        result = open_file(dir_fd, "pids.max", O_WRONLY, &config->pids_max_fd, err);
    }
    if (hierarchy->cpu)
        config->cpu_dir_fd = fcntl(dir_fd, F_DUPFD_CLOEXEC, 0);
    if (hierarchy->cpuacct)
        config->cpuacct_dir_fd = fcntl(dir_fd, F_DUPFD_CLOEXEC, 0);
    if (hierarchy->memory)
        config->memory_dir_fd = fcntl(dir_fd, F_DUPFD_CLOEXEC, 0);
    if (result == 0 && hierarchy->memory && root->mode == INIT_CGROUP_V1)
        result = open_oom_event(dir_fd, config, err);
    if (result == 0 && root->mode == INIT_CGROUP_V2) {
        result = open_file(dir_fd, "memory.events", O_RDONLY, &config->oom_event_fd, err);
        /* cgroup.kill is there from Linux 5.14 on; without it processes are killed one by one. */
        config->kill_fd = openat(dir_fd, "cgroup.kill", O_WRONLY | O_CLOEXEC);
    }
    return result;
}

/* v2 asks for the right to write cgroup.procs of the group and of what it shares with the old one.
 */
static int delegate_procs(const struct cgroup_hierarchy *hierarchy, const char *id, uid_t init_uid,
                          struct err *err)
{
    static const char *const files[] = {"cgroup.procs", "init/cgroup.procs", "code/cgroup.procs"};
    for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
        char path[SANDBOX_ID_MAX + 32];
        (void)snprintf(path, sizeof(path), "%s/%s", id, files[i]);
        if (fchownat(hierarchy->base_fd, path, init_uid, (gid_t)-1, 0) != 0)
            return err_sys(err, errno, "give %s to init", path);
    }
    return 0;
}

int cgroup_create(const struct cgroup_root *root, const char *id,
                  const struct cgroup_limits *limits, uid_t init_uid, struct init_config *config,
                  struct err *err)
{
    int result = 0;
    config->cgroup_mode = root->mode;
    config->pids_max = limits->pids_max;
    for (size_t i = 0; i < root->count && result == 0; i++) {
        const struct cgroup_hierarchy *hierarchy = &root->hierarchies[i];
        FD_AUTO int code_fd = -1;
        result = make_dirs(root, hierarchy, id, err);
        if (result == 0)
            result = cgroup_open_group(hierarchy, id, "code", &code_fd, err);
        if (result == 0)
            result = cgroup_set_limits(root, hierarchy, code_fd, limits, err);
        if (result == 0)
            result = open_for_init(root, hierarchy, code_fd, config, err);
        if (result == 0 && root->mode == INIT_CGROUP_V2)
            result = delegate_procs(hierarchy, id, init_uid, err);
    }
    if (result != 0) {
        cgroup_close_config(config);
        if (result != -ERR_CONFLICT) /* then they are another's */
            (void)cgroup_remove(root, id, NULL);
    }
    return result;
}

void cgroup_close_config(struct init_config *config)
{
    for (size_t i = 0; i < config->procs_count; i++)
        fd_close(&config->procs_fds[i]);
    config->procs_count = 0;
    fd_close(&config->pids_max_fd);
    fd_close(&config->kill_fd);
    fd_close(&config->memory_dir_fd);
    fd_close(&config->pids_dir_fd);
    fd_close(&config->cpu_dir_fd);
    fd_close(&config->cpuacct_dir_fd);
    fd_close(&config->oom_event_fd);
}

/* group NULL: init's. */
static int open_way_in(const struct cgroup_root *root, const char *id, const char *group,
                       bool by_clone, struct cgroup_entry *out, struct err *err)
{
    bool v1 = root->mode == INIT_CGROUP_V1;
    out->tasks_count = 0;
    out->clone_fd = -1;
    for (size_t i = 0; i < root->count; i++) {
        FD_AUTO int dir_fd = -1;
        const struct cgroup_hierarchy *hierarchy = &root->hierarchies[i];
        int result = cgroup_open_group(hierarchy, id, group ? group : init_group(root, hierarchy),
                                       &dir_fd, err);
        if (result == 0 && !v1 && by_clone) {
            out->clone_fd = fd_take(&dir_fd);
        } else if (result == 0) {
            result = open_file(dir_fd, v1 ? "tasks" : "cgroup.procs", O_WRONLY,
                               &out->tasks_fds[out->tasks_count], err);
            out->tasks_count += result == 0 ? 1 : 0;
        }
        if (result != 0) {
            cgroup_close_entry(out);
            return result;
        }
    }
    return 0;
}

int cgroup_open_entry(const struct cgroup_root *root, const char *id, struct cgroup_entry *out,
                      struct err *err)
{
    return open_way_in(root, id, NULL, true, out, err);
}

int cgroup_open_code(const struct cgroup_root *root, const char *id, struct cgroup_entry *out,
                     struct err *err)
{
    return open_way_in(root, id, "code", false, out, err);
}

/* ---- a group beside the sandboxes ---- */

static int make_aside(const struct cgroup_root *root, const char *name,
                      const struct cgroup_limits *limits, struct err *err)
{
    for (size_t i = 0; i < root->count; i++) {
        const struct cgroup_hierarchy *hierarchy = &root->hierarchies[i];
        FD_AUTO int dir_fd = -1;
        if (mkdirat(hierarchy->base_fd, name, 0755) != 0 && errno != EEXIST)
            return err_sys(err, errno, "make cgroup %s", name);
        int result = cgroup_open_group(hierarchy, name, ".", &dir_fd, err);
        if (result == 0)
            result = cgroup_set_limits(root, hierarchy, dir_fd, limits, err);
        if (result != 0)
            return result;
    }
    return 0;
}

int cgroup_open_aside(const struct cgroup_root *root, const char *name,
                      const struct cgroup_limits *limits, struct cgroup_entry *out, struct err *err)
{
    int result = make_aside(root, name, limits, err);
    return result != 0 ? result : open_way_in(root, name, ".", true, out, err);
}

int cgroup_remove_aside(const struct cgroup_root *root, const char *name)
{
    int result = 0;
    for (size_t i = 0; i < root->count; i++) {
        if (unlinkat(root->hierarchies[i].base_fd, name, AT_REMOVEDIR) != 0 && errno != ENOENT)
            result = -ERR_CONFLICT;
    }
    return result;
}

void cgroup_close_entry(struct cgroup_entry *entry)
{
    for (size_t i = 0; i < entry->tasks_count; i++)
        fd_close(&entry->tasks_fds[i]);
    entry->tasks_count = 0;
    fd_close(&entry->clone_fd);
}

int cgroup_enter(const struct cgroup_entry *entry, struct err *err)
{
    for (size_t i = 0; i < entry->tasks_count; i++) {
        if (write(entry->tasks_fds[i], "0", 1) != 1)
            return err_sys(err, errno, "enter the init group");
    }
    return 0;
}

/* The init among the processes of a group, and a signal to all of them. On v1 a child that init has
 * just forked is in the group too, for a moment, and its number may be the lower one. */
static int visit_procs(int dir_fd, bool kill_them, pid_t *out_first, struct err *err)
{
    char text[16384];
    ssize_t size = fd_read_file_at(dir_fd, "cgroup.procs", text, sizeof(text), err);
    if (size < 0)
        return (int)size;
    pid_t first = 0;
    char *cursor = text;
    for (;;) {
        char *end = NULL;
        long pid = strtol(cursor, &end, 10);
        /* A number without its line's end was cut by the buffer: another process of the host. */
        if (end == cursor || *end != '\n' || pid <= 0)
            break;
        if (first == 0 || (!kill_them && nspid_is_first((pid_t)pid)))
            first = (pid_t)pid;
        if (kill_them)
            (void)kill((pid_t)pid, SIGKILL);
        cursor = end;
    }
    *out_first = first;
    return 0;
}

void cgroup_kill(const struct cgroup_root *root, const char *id)
{
    for (size_t i = 0; i < root->count; i++) {
        if (!root->hierarchies[i].pids)
            continue;
        for (size_t k = 0; k < ARRAY_SIZE(group_names); k++) {
            FD_AUTO int dir_fd = -1;
            pid_t first = 0;
            if (cgroup_open_group(&root->hierarchies[i], id, group_names[k], &dir_fd, NULL) == 0)
                (void)visit_procs(dir_fd, true, &first, NULL);
        }
    }
}

bool cgroup_kill_code(const struct cgroup_root *root, const char *id)
{
    bool found = false;
    for (size_t i = 0; i < root->count; i++) {
        FD_AUTO int dir_fd = -1;
        pid_t first = 0;
        if (root->hierarchies[i].pids &&
            cgroup_open_group(&root->hierarchies[i], id, "code", &dir_fd, NULL) == 0 &&
            visit_procs(dir_fd, true, &first, NULL) == 0)
            found |= first != 0;
    }
    return found;
}

int cgroup_init_pid(const struct cgroup_root *root, const char *id, pid_t *out, struct err *err)
{
    struct err failure = ERR_INIT;
    pid_t pid = 0;
    for (size_t i = 0; i < root->count && pid == 0; i++) {
        FD_AUTO int dir_fd = -1;
        if (!root->hierarchies[i].pids)
            continue;
        int result = cgroup_open_group(&root->hierarchies[i], id, "init", &dir_fd, &failure);
        if (result == 0)
            result = visit_procs(dir_fd, false, &pid, &failure);
        if (result != 0 && failure.sys_errno != ENOENT && failure.sys_errno != ENODEV)
            return err_copy(err, &failure);
    }
    *out = pid;
    return 0;
}

int cgroup_remove(const struct cgroup_root *root, const char *id, struct err *err)
{
    bool busy = false;
    for (size_t i = 0; i < root->count; i++) {
        int base_fd = root->hierarchies[i].base_fd;
        char path[SANDBOX_ID_MAX + 16];
        for (size_t k = 0; k < ARRAY_SIZE(group_names); k++) {
            (void)snprintf(path, sizeof(path), "%s/%s", id, group_names[k]);
            if (unlinkat(base_fd, path, AT_REMOVEDIR) != 0 && errno != ENOENT)
                busy = true;
        }
        if (unlinkat(base_fd, id, AT_REMOVEDIR) != 0 && errno != ENOENT)
            busy = true;
    }
    return busy ? err_set(err, ERR_CONFLICT, "cgroup %s still has processes", id) : 0;
}

int cgroup_each(const struct cgroup_root *root, void (*fn)(void *context, const char *id),
                void *context, struct err *err)
{
    for (size_t i = 0; i < root->count; i++) {
        int copy_fd = openat(root->hierarchies[i].base_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *dir = copy_fd < 0 ? NULL : fdopendir(copy_fd);
        if (!dir) {
            fd_close(&copy_fd);
            return err_sys(err, errno, "list cgroups");
        }
        const struct dirent *entry = NULL;
        while (errno = 0, (entry = readdir(dir))) {
            if (entry->d_type == DT_DIR && id_is_name(entry->d_name, SANDBOX_ID_MAX))
                fn(context, entry->d_name);
        }
        int saved = errno;
        (void)closedir(dir);
        if (saved != 0)
            return err_sys(err, saved, "list cgroups");
    }
    return 0;
}
