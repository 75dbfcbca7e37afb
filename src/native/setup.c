/* Owns the order of steps from bare namespaces to a sandbox's root. Runs with all capabilities in
 * the sandbox's own user namespace and with none outside of it; the first step gives up the host's
 * ids. */
#include "native/setup.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <inttypes.h>
#include <linux/keyctl.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/fd.h"
#include "base/mem.h"
#include "native/mountfd.h"
#include "native/rootfs.h"
#include "native/setup_internal.h"

/* Files of /proc that tell of the host, hidden; folders, hidden; folders, read-only. The code's ids
 * have no right to most of them; this is for those that everybody may read. */
static const char *const hidden_files[] = {
    "kcore",    "keys", "timer_list", "sysrq-trigger", "sched_debug", "latency_stats",
    "kallsyms", "kmsg", "cmdline",    "diskstats",     "partitions",  "locks"};
static const char *const hidden_folders[] = {"acpi", "fs", "pressure", "scsi"};
static const char *const readonly_folders[] = {"bus", "irq", "sys"};

static void tell(int socket_fd, const char *text)
{
    (void)fd_send(socket_fd, text, strlen(text), NULL, 0, 0, NULL);
}

_Noreturn void setup_fail(const struct setup *setup, const char *step)
{
    char text[256];
    (void)snprintf(text, sizeof(text), "%s: %s", step, strerror(errno));
    tell(setup->socket_fd, text);
    _exit(1);
}

_Noreturn void setup_fail_err(const struct setup *setup, const struct err *err)
{
    tell(setup->socket_fd, err->message);
    _exit(1);
}

/* Waits for the engine's word; end of file is its death, and ours. */
static void await_go(const struct setup *setup)
{
    char byte = 0;
    if (fd_recv(setup->socket_fd, &byte, 1, NULL, NULL, 0, NULL) != 1 || byte != 'G')
        _exit(1);
}

enum {
    KEPT_MAX = INIT_PROCS_MAX + CGROUP_HIERARCHY_MAX + 24 + GPU_SET_MAX,
    MOUNTS_TEXT_MAX = 1 + FD_PASS_MAX * ROOTFS_TARGET_SIZE
};

/* The descriptors that init inherits. Returns their number. */
static size_t list_inherited(const struct setup *setup, int *out)
{
    const struct init_config *config = setup->config;
    const int single[] = {config->listen_fd,    config->setup_fd,   config->userns_fd,
                          config->pids_max_fd,  config->kill_fd,    config->memory_dir_fd,
                          config->pids_dir_fd,  config->cpu_dir_fd, config->cpuacct_dir_fd,
                          config->oom_event_fd, setup->id_lock_fd,  setup->image_lock_fd};
    size_t count = 0;
    for (size_t i = 0; i < ARRAY_SIZE(single); i++) {
        if (single[i] >= 0)
            out[count++] = single[i];
    }
    for (size_t i = 0; i < config->procs_count; i++)
        out[count++] = config->procs_fds[i];
    for (size_t i = 0; i < setup->gpu_count; i++)
        out[count++] = setup->gpu_lock_fds[i];
    if (setup->runsc) {
        const struct initstream_ends *ends = &setup->runsc->ends;
        const int streams[] = {ends->stdin_fd, ends->stdout_fd, ends->held_fds[0],
                               ends->held_fds[1]};
        for (size_t i = 0; i < ARRAY_SIZE(streams); i++)
            out[count++] = streams[i];
    }
    return count;
}

static int compare_fds(const void *left, const void *right)
{
    int a = 0;
    int b = 0;
    memcpy(&a, left, sizeof(a));
    memcpy(&b, right, sizeof(b));
    return (a > b) - (a < b);
}

/* Closes every copy of the engine's descriptors that the stage does not need. With a copy of the
 * engine's end of our own socket we would never see its death; with one of its client's or its
 * listening socket, others would take a dead engine for a living one. */
static void close_engine(const struct setup *setup)
{
    int kept[KEPT_MAX];
    size_t count = list_inherited(setup, kept);
    kept[count++] = setup->init_fd;
    for (size_t i = 0; i < setup->entry->tasks_count; i++)
        kept[count++] = setup->entry->tasks_fds[i];
    qsort(kept, count, sizeof(kept[0]), compare_fds);
    /* The place of the configuration stays taken, so that nothing that init inherits lands on it.
     */
    (void)dup3(setup->init_fd, INIT_FD_CONFIG, O_CLOEXEC);
    unsigned from = INIT_FD_CONFIG + 1;
    for (size_t i = 0; i < count; i++) {
        unsigned fd = (unsigned)kept[i];
        if (fd > from)
            (void)syscall(SYS_close_range, from, fd - 1, 0U);
        if (fd >= from)
            from = fd + 1;
    }
    (void)syscall(SYS_close_range, from, ~0U, 0U);
}

static void keep_inherited(const struct setup *setup)
{
    int kept[KEPT_MAX];
    size_t count = list_inherited(setup, kept);
    for (size_t i = 0; i < count; i++)
        (void)fcntl(kept[i], F_SETFD, 0);
}

/* From the host's root to id 0 of the sandbox's own range. */
static void take_ids(const struct setup *setup)
{
    /* Where only one id is mapped, setgroups(2) is denied for good and the groups of an ordinary
     * user stay (user_namespaces(7)). */
    if (setresgid(0, 0, 0) != 0 ||
        (setgroups(0, NULL) != 0 && (errno != EPERM || !setup->maps->one_id)) ||
        setresuid(0, 0, 0) != 0)
        setup_fail(setup, "take the sandbox's ids");
    /* A process that changed its ids is not dumpable, and its children's id maps belong to the
     * host's root (proc_pid_uid_map(5)); init turns it off again. */
    (void)prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
    (void)syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL);
}

/* Where a mount goes: opened name by name, so that no link that an image or earlier code left leads
 * anywhere else. */
int setup_open_target(const struct setup *setup, const char *target)
{
    struct open_how how;
    memset(&how, 0, sizeof(how));
    how.flags = O_PATH | O_CLOEXEC;
    how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
    int fd = (int)syscall(SYS_openat2, AT_FDCWD, target, &how, sizeof(how));
    if (fd < 0)
        setup_fail(setup, target);
    return fd;
}

void setup_attach(const struct setup *setup, int mount_fd, const char *target)
{
    struct err err = ERR_INIT;
    FD_AUTO int target_fd = setup_open_target(setup, target);
    if (mountfd_attach(mount_fd, target_fd, "", &err) != 0)
        setup_fail_err(setup, &err);
}

/* A mount at the working directory becomes the new root, and the working directory. */
void setup_enter_root(const struct setup *setup, int mount_fd)
{
    struct err err = ERR_INIT;
    if (mountfd_attach(mount_fd, AT_FDCWD, "", &err) != 0)
        setup_fail_err(setup, &err);
    if (fchdir(mount_fd) != 0)
        setup_fail(setup, "enter the new root");
}

/* A tmpfs as the new root, owned by the sandbox itself, with everything that mounts go on. */
void setup_make_root(const struct setup *setup)
{
    struct err err = ERR_INIT;
    FD_AUTO int fd = -1;
    if (mountfd_tmpfs(setup->storage_bytes, rootfs_inodes(setup->storage_bytes),
                      MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID, &fd, &err) != 0)
        setup_fail_err(setup, &err);
    setup_enter_root(setup, fd);
    if (rootfs_make_folders(fd, setup->image, setup->maps->root_id, setup->maps->code_id, &err) !=
        0)
        setup_fail_err(setup, &err);
}

/* Before the old root goes: the kernel wants to see a whole /proc in the mount namespace before it
 * lets it have a new one. */
static int make_proc(const struct setup *setup)
{
    static const char *const options[] = {NULL};
    struct err err = ERR_INIT;
    int fd = -1;
    if (mountfd_make("proc", options, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC, &fd,
                     &err) != 0)
        setup_fail_err(setup, &err);
    return fd;
}

/* What the kernel counts a user for, across namespaces (namespaces(7), /proc/sys/user). The inner
 * namespace, and so all of the code, counts against the outer one's limits, which only we may
 * change; the host's own figures are out of reach (see clone_as() in sandbox.c). */
static void limit_shared(const struct setup *setup, int proc_fd)
{
    static const struct {
        const char *name;
        const char *value;
    } limits[] = {
        {"inotify_instances", "64"}, {"inotify_watches", "16384"}, {"fanotify_groups", "0"},
        {"fanotify_marks", "0"},     {"user_namespaces", "0"},     {"pid_namespaces", "0"},
        {"net_namespaces", "0"},     {"ipc_namespaces", "0"},      {"uts_namespaces", "0"},
        {"time_namespaces", "0"},    {"cgroup_namespaces", "256"}, /* init makes one for each
                                                                      program that it starts */
    };
    for (size_t i = 0; i < ARRAY_SIZE(limits); i++) {
        struct err err = ERR_INIT;
        char path[64];
        (void)snprintf(path, sizeof(path), "sys/user/max_%s", limits[i].name);
        if (fd_write_file_at(proc_fd, path, limits[i].value, &err) != 0 && err.sys_errno != ENOENT)
            setup_fail_err(setup, &err);
    }
}

/* A detached mount counts as a mount namespace: that limit is opened before /proc/sys is read-only,
 * and written after the last mount. */
static int open_mount_limit(const struct setup *setup, int proc_fd)
{
    int fd = openat(proc_fd, "sys/user/max_mnt_namespaces", O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        setup_fail(setup, "open max_mnt_namespaces");
    return fd;
}

static void write_map(const struct setup *setup, int proc_fd, pid_t pid, const char *file,
                      const char *map)
{
    char path[64];
    struct err err = ERR_INIT;
    (void)snprintf(path, sizeof(path), "%d/%s", (int)pid, file);
    if (fd_write_file_at(proc_fd, path, map, &err) != 0)
        setup_fail_err(setup, &err);
}

/* Shares memory and thread-local storage with its parent: it may do nothing but wait, not even what
 * a sanitizer adds to a function. */
__attribute__((no_sanitize("thread", "address", "undefined"))) static _Noreturn int stay(
    void *unused)
{
    (void)unused;
    for (;;)
        (void)syscall(SYS_ppoll, NULL, 0, NULL, NULL, 0);
}

/* The inner user namespace is made by a child that exists for nothing else. It shares our memory:
 * copying and freeing it took most of the time. Returns the namespace's descriptor. */
static int make_inner(const struct setup *setup, int proc_fd)
{
    static char stack[16384] __attribute__((aligned(16)));
    pid_t pid = clone(stay, stack + sizeof(stack), CLONE_NEWUSER | CLONE_VM | SIGCHLD, NULL);
    if (pid < 0)
        setup_fail(setup, "make the inner user namespace");
    char path[64];
    const char *map = setup->runsc ? setup->maps->files : setup->maps->inner;
    write_map(setup, proc_fd, pid, "uid_map", map);
    write_map(setup, proc_fd, pid, "gid_map", map);
    (void)snprintf(path, sizeof(path), "%d/ns/user", (int)pid);
    int fd = openat(proc_fd, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        setup_fail(setup, path);
    (void)kill(pid, SIGKILL);
    (void)waitpid(pid, NULL, 0);
    return fd;
}

/* Binds source over target; a target that this kernel does not have is fine. */
static void bind_over(const struct setup *setup, const char *source, const char *target,
                      bool read_only)
{
    struct err err = ERR_INIT;
    int fd = -1;
    if (mountfd_clone(AT_FDCWD, source, false, &fd, &err) != 0) {
        if (err.sys_errno == ENOENT)
            return;
        setup_fail_err(setup, &err);
    }
    uint64_t attributes =
        MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC | (read_only ? MOUNT_ATTR_RDONLY : 0);
    if (mountfd_restrict(fd, attributes, &err) != 0)
        setup_fail_err(setup, &err);
    if (mountfd_attach(fd, AT_FDCWD, target, &err) != 0 && err.sys_errno != ENOENT)
        setup_fail_err(setup, &err);
    fd_close(&fd);
}

static void mask_proc(const struct setup *setup)
{
    char path[64];
    for (size_t i = 0; i < ARRAY_SIZE(readonly_folders); i++) {
        (void)snprintf(path, sizeof(path), "proc/%s", readonly_folders[i]);
        bind_over(setup, path, path, true);
    }
    for (size_t i = 0; i < ARRAY_SIZE(hidden_folders); i++) {
        (void)snprintf(path, sizeof(path), "proc/%s", hidden_folders[i]);
        if (access(path, F_OK) == 0)
            bind_over(setup, "sys/block", path, true); /* an empty folder */
    }
    for (size_t i = 0; i < ARRAY_SIZE(hidden_files); i++) {
        (void)snprintf(path, sizeof(path), "proc/%s", hidden_files[i]);
        if (access(path, F_OK) == 0)
            bind_over(setup, "dev/null", path, true);
    }
}

/* What 'M' and 'N' say: the targets, each ended by NUL, in the order of the descriptors. Returns
 * whether there is more to come. */
bool setup_attach_mounts(const struct setup *setup)
{
    char text[MOUNTS_TEXT_MAX];
    int fds[FD_PASS_MAX];
    size_t count = FD_PASS_MAX;
    ssize_t size = fd_recv(setup->socket_fd, text, sizeof(text), fds, &count, 0, NULL);
    const char kind = size > 0 ? text[0] : '\0';
    if ((kind != 'M' && kind != 'N') || text[size - 1] != (count > 0 ? '\0' : kind))
        _exit(1);
    const char *target = text + 1;
    for (size_t i = 0; i < count && target < text + size; i++) {
        if (target[0] == '\0')
            setup_enter_root(setup, fds[i]);
        else
            setup_attach(setup, fds[i], target);
        fd_close(&fds[i]);
        target += strlen(target) + 1;
    }
    return kind == 'N';
}

/* /dev is the engine's own tree: its folders are what they are. */
static void mount_devices(const struct setup *setup)
{
    struct err err = ERR_INIT;
    FD_AUTO int shm_fd = -1;
    char options[64] = "newinstance,max=64,ptmxmode=0666,mode=0620";
    size_t used = strlen(options);
    if (setup->maps->tty_gid >= 0)
        (void)snprintf(options + used, sizeof(options) - used, ",gid=%d", setup->maps->tty_gid);
    if (mount("devpts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, options) != 0)
        setup_fail(setup, "mount /dev/pts");
    /* /dev/shm is a folder of the root, so that `storage` covers it. */
    FD_AUTO int folder_fd = setup_open_target(setup, ".shm");
    if (mountfd_clone(folder_fd, "", false, &shm_fd, &err) != 0 ||
        mountfd_restrict(shm_fd, MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID, &err) != 0)
        setup_fail_err(setup, &err);
    setup_attach(setup, shm_fd, "dev/shm");
}

/* The old root goes: pivot_root(".", ".") stacks it on the new one, the umount takes it off
 * (pivot_root(2), NOTES). */
void setup_leave_host(const struct setup *setup)
{
    if (syscall(SYS_pivot_root, ".", ".") != 0)
        setup_fail(setup, "pivot_root");
    if (umount2(".", MNT_DETACH) != 0)
        setup_fail(setup, "detach the old root");
    if (chdir("/") != 0)
        setup_fail(setup, "enter /");
}

static void name_and_loopback(const struct setup *setup)
{
    static const char name[] = "sandbox";
    if (sethostname(name, sizeof(name) - 1) != 0)
        setup_fail(setup, "set the host name");
    FD_AUTO int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct ifreq request;
    memset(&request, 0, sizeof(request));
    (void)snprintf(request.ifr_name, sizeof(request.ifr_name), "lo");
    request.ifr_flags = IFF_UP | IFF_RUNNING;
    if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &request) != 0)
        setup_fail(setup, "bring up the loopback");
}

/* The network namespace is not the code's own, so that its capabilities do not reach there. What
 * programs in a container count on of CAP_NET_RAW and CAP_NET_BIND_SERVICE is allowed to everybody
 * inside: echo requests (icmp(7), ping_group_range) and ports below 1024. */
static void open_network(const struct setup *setup, int proc_fd)
{
    static const char *const settings[][2] = {
        {"sys/net/ipv4/ping_group_range", "0 65535"},
        {"sys/net/ipv4/ip_unprivileged_port_start", "0"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(settings); i++) {
        struct err err = ERR_INIT;
        if (fd_write_file_at(proc_fd, settings[i][0], settings[i][1], &err) != 0 &&
            err.sys_errno != ENOENT)
            setup_fail_err(setup, &err);
    }
}

static _Noreturn void become_init(const struct setup *setup)
{
    struct err err = ERR_INIT;
    BUF_AUTO struct buf config;
    buf_init(&config, 4096); /* fits a pipe of any size (pipe(7), PIPE_BUF) */
    int ends[2];
    if (init_config_encode(setup->config, &config, &err) != 0)
        setup_fail_err(setup, &err);
    if (pipe2(ends, O_CLOEXEC) != 0 ||
        write(ends[1], config.data, config.size) != (ssize_t)config.size)
        setup_fail(setup, "pass the configuration");
    int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int i = 0; i < 3; i++) {
        if (null_fd < 0 || dup2(null_fd, i) < 0)
            setup_fail(setup, "standard streams");
    }
    keep_inherited(setup);
    if (dup2(ends[0], INIT_FD_CONFIG) < 0)
        setup_fail(setup, "pass the configuration");
    char name[] = "berth-init";
    char *const argv[] = {name, NULL};
    char *const envp[] = {NULL};
    (void)syscall(SYS_execveat, setup->init_fd, "", argv, envp, AT_EMPTY_PATH);
    setup_fail(setup, "start init");
}

_Noreturn void setup_run(const struct setup *setup)
{
    struct err err = ERR_INIT;
    close_engine(setup);
    await_go(setup);
    if (cgroup_enter(setup->entry, &err) != 0)
        setup_fail_err(setup, &err);
    fault_point("setup.begin");
    take_ids(setup);
    (void)umask(0);
    FD_AUTO int proc_fd = make_proc(setup);
    setup->config->userns_fd = make_inner(setup, proc_fd);
    if (setup->runsc)
        setup_run_runsc(setup, proc_fd);
    limit_shared(setup, proc_fd);
    FD_AUTO int mount_limit_fd = open_mount_limit(setup, proc_fd);
    if (fd_send(setup->socket_fd, "U", 1, &setup->config->userns_fd, 1, 0, NULL) != 0)
        _exit(1);
    if (setup->own_root)
        setup_make_root(setup);
    name_and_loopback(setup);
    if (setup->config->profile == INIT_PROFILE_CONTAINER)
        open_network(setup, proc_fd);
    fault_point("setup.root");
    while (setup_attach_mounts(setup))
        continue;
    setup_attach(setup, proc_fd, "proc");
    mount_devices(setup);
    mask_proc(setup);
    if (write(mount_limit_fd, "0", 1) != 1)
        setup_fail(setup, "limit mount namespaces");
    setup_leave_host(setup);
    fault_point("setup.init");
    become_init(setup);
}
