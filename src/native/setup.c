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

#include "base/fd.h"
#include "base/mem.h"
#include "native/mountfd.h"

/* Inner id i is outer id i + 1: outer 0 stays init's alone. */
#define INNER_MAP "0 1 65535\n"
#define CODE_ID_OUTER 1001 /* inner 1000 */

static const char *const folders[] = {
    "proc", "sys", "run", "tmp",     "home",    "home/sandbox", "workspace", "root", "mnt",
    "opt",  "srv", "var", "var/tmp", "var/lib", "var/log",      "var/cache", ".shm",
};
static const char *const shared_folders[] = {"tmp", "var/tmp", ".shm"};
static const char *const code_folders[] = {"home/sandbox", "workspace"};

/* Files of /proc that tell of the host, hidden; folders, hidden; folders, read-only. The code's ids
 * have no right to most of them; this is for those that everybody may read. */
static const char *const hidden_files[] = {"kcore",         "keys",        "timer_list",
                                           "sysrq-trigger", "sched_debug", "latency_stats",
                                           "kallsyms",      "kmsg",        "cmdline"};
static const char *const hidden_folders[] = {"acpi", "scsi"};
static const char *const readonly_folders[] = {"bus", "fs", "irq", "sys"};

static void tell(int socket_fd, const char *text)
{
    (void)fd_send(socket_fd, text, strlen(text), NULL, 0, 0, NULL);
}

static _Noreturn void fail(const struct setup *setup, const char *step)
{
    char text[256];
    (void)snprintf(text, sizeof(text), "%s: %s", step, strerror(errno));
    tell(setup->socket_fd, text);
    _exit(1);
}

static _Noreturn void fail_err(const struct setup *setup, const struct err *err)
{
    tell(setup->socket_fd, err->message);
    _exit(1);
}

/* Waits for one message of the engine; end of file is its death, and ours. */
static void await(const struct setup *setup, char wanted, int *fds, size_t *fd_count)
{
    char byte = 0;
    if (fd_recv(setup->socket_fd, &byte, 1, fds, fd_count, 0, NULL) != 1 || byte != wanted)
        _exit(1);
}

enum { KEPT_MAX = INIT_PROCS_MAX + CGROUP_HIERARCHY_MAX + 16 };

/* The descriptors that init inherits. Returns their number. */
static size_t list_inherited(const struct setup *setup, int *out)
{
    const struct init_config *config = setup->config;
    const int single[] = {config->listen_fd,    config->setup_fd,   config->userns_fd,
                          config->pids_max_fd,  config->kill_fd,    config->memory_dir_fd,
                          config->pids_dir_fd,  config->cpu_dir_fd, config->cpuacct_dir_fd,
                          config->oom_event_fd, setup->id_lock_fd};
    size_t count = 0;
    for (size_t i = 0; i < ARRAY_SIZE(single); i++) {
        if (single[i] >= 0)
            out[count++] = single[i];
    }
    for (size_t i = 0; i < config->procs_count; i++)
        out[count++] = config->procs_fds[i];
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
    if (setresgid(0, 0, 0) != 0 || setgroups(0, NULL) != 0 || setresuid(0, 0, 0) != 0)
        fail(setup, "take the sandbox's ids");
    /* A process that changed its ids is not dumpable, and its children's id maps belong to the
     * host's root (proc_pid_uid_map(5)); init turns it off again. */
    (void)prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
    (void)syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL);
}

/* A tmpfs as the new root, at the working directory. */
static void make_root(const struct setup *setup)
{
    char size[24];
    char inodes[24];
    struct err err = ERR_INIT;
    int fd = -1;
    uint64_t inode_count = setup->storage_bytes / 4096 < 1024 ? 1024 : setup->storage_bytes / 4096;
    (void)snprintf(size, sizeof(size), "%" PRIu64, setup->storage_bytes);
    (void)snprintf(inodes, sizeof(inodes), "%" PRIu64, inode_count);
    if (mountfd_tmpfs(size, inodes, &fd, &err) != 0 ||
        mountfd_restrict(fd, MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID, &err) != 0 ||
        mountfd_attach(fd, AT_FDCWD, "", &err) != 0)
        fail_err(setup, &err);
    if (fchdir(fd) != 0)
        fail(setup, "enter the new root");
    fd_close(&fd);
}

static void make_folders(const struct setup *setup)
{
    (void)umask(0);
    for (size_t i = 0; i < ARRAY_SIZE(folders); i++) {
        if (mkdir(folders[i], 0755) != 0)
            fail(setup, folders[i]);
    }
    for (size_t i = 0; i < ARRAY_SIZE(shared_folders); i++) {
        if (chmod(shared_folders[i], 01777) != 0)
            fail(setup, shared_folders[i]);
    }
    for (size_t i = 0; i < ARRAY_SIZE(code_folders); i++) {
        if (chown(code_folders[i], CODE_ID_OUTER, CODE_ID_OUTER) != 0)
            fail(setup, code_folders[i]);
    }
    for (size_t i = 0; i < setup->image->tree_count; i++) {
        const char *target = setup->image->trees[i].target;
        if (!strchr(target, '/') && mkdir(target, 0755) != 0)
            fail(setup, target);
    }
    for (size_t i = 0; i < setup->image->link_count; i++) {
        if (symlink(setup->image->links[i].to, setup->image->links[i].target) != 0)
            fail(setup, setup->image->links[i].target);
    }
}

/* What the kernel counts a user for, across namespaces (namespaces(7), /proc/sys/user). The inner
 * namespace, and so all of the code, counts against the outer one's limits, which only we may
 * change; the host's own figures are out of reach (see clone_as() in sandbox.c). */
static void limit_shared(const struct setup *setup)
{
    static const struct {
        const char *path;
        const char *value;
    } limits[] = {
        {"proc/sys/user/max_inotify_instances", "64"},
        {"proc/sys/user/max_inotify_watches", "16384"},
        {"proc/sys/user/max_fanotify_groups", "0"},
        {"proc/sys/user/max_fanotify_marks", "0"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(limits); i++) {
        struct err err = ERR_INIT;
        if (fd_write_file_at(AT_FDCWD, limits[i].path, limits[i].value, &err) != 0 &&
            err.sys_errno != ENOENT)
            fail_err(setup, &err);
    }
}

static void write_map(const struct setup *setup, pid_t pid, const char *file)
{
    char path[64];
    struct err err = ERR_INIT;
    (void)snprintf(path, sizeof(path), "proc/%d/%s", (int)pid, file);
    if (fd_write_file_at(AT_FDCWD, path, INNER_MAP, &err) != 0)
        fail_err(setup, &err);
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
static int make_inner(const struct setup *setup)
{
    static char stack[16384] __attribute__((aligned(16)));
    pid_t pid = clone(stay, stack + sizeof(stack), CLONE_NEWUSER | CLONE_VM | SIGCHLD, NULL);
    if (pid < 0)
        fail(setup, "make the inner user namespace");
    char path[64];
    write_map(setup, pid, "uid_map");
    write_map(setup, pid, "gid_map");
    (void)snprintf(path, sizeof(path), "proc/%d/ns/user", (int)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        fail(setup, path);
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
        fail_err(setup, &err);
    }
    uint64_t attributes =
        MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC | (read_only ? MOUNT_ATTR_RDONLY : 0);
    if (mountfd_restrict(fd, attributes, &err) != 0)
        fail_err(setup, &err);
    if (mountfd_attach(fd, AT_FDCWD, target, &err) != 0 && err.sys_errno != ENOENT)
        fail_err(setup, &err);
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
            bind_over(setup, "sys", path, true);
    }
    for (size_t i = 0; i < ARRAY_SIZE(hidden_files); i++) {
        (void)snprintf(path, sizeof(path), "proc/%s", hidden_files[i]);
        if (access(path, F_OK) == 0)
            bind_over(setup, "dev/null", path, true);
    }
}

static void mount_trees(const struct setup *setup, int *tree_fds, size_t count)
{
    struct err err = ERR_INIT;
    if (count != setup->image->tree_count) {
        (void)err_set(&err, ERR_PROTOCOL, "%zu mount trees came, not %zu", count,
                      setup->image->tree_count);
        fail_err(setup, &err);
    }
    for (size_t i = 0; i < count; i++) {
        if (mountfd_attach(tree_fds[i], AT_FDCWD, setup->image->trees[i].target, &err) != 0)
            fail_err(setup, &err);
        fd_close(&tree_fds[i]);
    }
    if (mount("devpts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC,
              "newinstance,ptmxmode=0666,mode=0620,gid=6") != 0)
        fail(setup, "mount /dev/pts");
    /* /dev/shm is a folder of the root's tmpfs, so that `storage` covers it. */
    if (mount(".shm", "dev/shm", NULL, MS_BIND, NULL) != 0)
        fail(setup, "mount /dev/shm");
}

/* The old root goes: pivot_root(".", ".") stacks it on the new one, the umount takes it off
 * (pivot_root(2), NOTES). */
static void leave_host(const struct setup *setup)
{
    if (syscall(SYS_pivot_root, ".", ".") != 0)
        fail(setup, "pivot_root");
    if (umount2(".", MNT_DETACH) != 0)
        fail(setup, "detach the old root");
    if (chdir("/") != 0)
        fail(setup, "enter /");
}

static void name_and_loopback(const struct setup *setup)
{
    static const char name[] = "sandbox";
    if (sethostname(name, sizeof(name) - 1) != 0)
        fail(setup, "set the host name");
    FD_AUTO int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct ifreq request;
    memset(&request, 0, sizeof(request));
    (void)snprintf(request.ifr_name, sizeof(request.ifr_name), "lo");
    request.ifr_flags = IFF_UP | IFF_RUNNING;
    if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &request) != 0)
        fail(setup, "bring up the loopback");
}

static _Noreturn void become_init(const struct setup *setup)
{
    struct err err = ERR_INIT;
    BUF_AUTO struct buf config;
    buf_init(&config, 4096); /* fits a pipe of any size (pipe(7), PIPE_BUF) */
    int ends[2];
    if (init_config_encode(setup->config, &config, &err) != 0)
        fail_err(setup, &err);
    if (pipe2(ends, O_CLOEXEC) != 0 ||
        write(ends[1], config.data, config.size) != (ssize_t)config.size)
        fail(setup, "pass the configuration");
    int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int i = 0; i < 3; i++) {
        if (null_fd < 0 || dup2(null_fd, i) < 0)
            fail(setup, "standard streams");
    }
    keep_inherited(setup);
    if (dup2(ends[0], INIT_FD_CONFIG) < 0)
        fail(setup, "pass the configuration");
    char name[] = "berth-init";
    char *const argv[] = {name, NULL};
    char *const envp[] = {NULL};
    (void)syscall(SYS_execveat, setup->init_fd, "", argv, envp, AT_EMPTY_PATH);
    fail(setup, "start init");
}

_Noreturn void setup_run(const struct setup *setup)
{
    struct err err = ERR_INIT;
    close_engine(setup);
    await(setup, 'G', NULL, NULL);
    if (cgroup_enter(setup->entry, &err) != 0)
        fail_err(setup, &err);
    take_ids(setup);
    make_root(setup);
    make_folders(setup);
    /* While the old root is still there: the kernel wants to see a whole /proc before it lets a
     * namespace mount its own. */
    if (mount("proc", "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) != 0)
        fail(setup, "mount /proc");
    limit_shared(setup);
    setup->config->userns_fd = make_inner(setup);
    if (fd_send(setup->socket_fd, "U", 1, &setup->config->userns_fd, 1, 0, NULL) != 0)
        _exit(1);
    name_and_loopback(setup);
    int tree_fds[IMAGE_TREE_MAX];
    size_t count = IMAGE_TREE_MAX;
    await(setup, 'M', tree_fds, &count);
    mount_trees(setup, tree_fds, count);
    mask_proc(setup);
    leave_host(setup);
    become_init(setup);
}
