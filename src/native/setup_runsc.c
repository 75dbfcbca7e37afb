/* Owns the root in which the processes of runsc run, and their start. What they get of the host is
 * the program itself, /dev/null, the program init, and the root of the sandbox; the namespaces and
 * ids are those that a sandbox of the kernel has. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/mount.h>
#include <stdio.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/fd.h"
#include "base/mem.h"
#include "native/asuser.h"
#include "native/mountfd.h"
#include "native/setup_internal.h"

/* For what runsc writes beside the sandbox: its state, its log, the bundle. */
#define OWN_BYTES (UINT64_C(4) << 20)
enum { OWN_INODES = 256 };

static int make_place(const struct setup *setup, const char *path, bool folder, mode_t mode)
{
    int fd = -1;
    if (folder && (mkdir(path, mode) != 0 || chmod(path, mode) != 0))
        setup_fail(setup, path);
    if (!folder) {
        fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, mode);
        if (fd < 0)
            setup_fail(setup, path);
    }
    return fd;
}

static void write_file(const struct setup *setup, const char *path, const struct buf *text)
{
    struct err err = ERR_INIT;
    FD_AUTO int fd = make_place(setup, path, false, 0600);
    if (fd_write_all(fd, text->data, text->size, &err) != 0)
        setup_fail_err(setup, &err);
}

/* A file of the host, as it is. */
static void bind_file(const struct setup *setup, const char *source, const char *target,
                      uint64_t attributes)
{
    struct err err = ERR_INIT;
    FD_AUTO int mount_fd = -1;
    FD_AUTO int place_fd = make_place(setup, target, false, 0600);
    if (mountfd_clone(AT_FDCWD, source, false, &mount_fd, &err) != 0 ||
        (attributes != 0 && mountfd_restrict(mount_fd, attributes, &err) != 0))
        setup_fail_err(setup, &err);
    setup_attach(setup, mount_fd, target);
}

/* The working directory becomes a small filesystem with all that runsc needs but the sandbox. */
static void make_own_root(const struct setup *setup)
{
    static const struct {
        const char *path;
        mode_t mode;
    } folders[] = {{"proc", 0755},   {"dev", 0755},   {"state", 0700},
                   {"bundle", 0700}, {"tmp", 01777},  {"sandbox", 0755},
                   {"init", 0700},   {"whole", 0755}, {"opt", 0755}};
    struct err err = ERR_INIT;
    FD_AUTO int fd = -1;
    if (mountfd_tmpfs(OWN_BYTES, OWN_INODES, MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID, &fd, &err) != 0)
        setup_fail_err(setup, &err);
    setup_enter_root(setup, fd);
    for (size_t i = 0; i < ARRAY_SIZE(folders); i++)
        (void)make_place(setup, folders[i].path, true, folders[i].mode);
    bind_file(setup, setup->runsc->runsc->path, &RUNSC_PROGRAM[1],
              MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID);
    bind_file(setup, setup->runsc->runsc->init_path, &RUNSC_INIT "/init"[1],
              MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID);
    bind_file(setup, "/dev/null", "dev/null", 0);
    write_file(setup, &RUNSC_BUNDLE "/config.json"[1], &setup -> runsc -> bundle);
    (void)make_place(setup, &RUNSC_INIT "/pids"[1], true, 0700);
    write_file(setup, &RUNSC_INIT "/config"[1], &setup -> runsc -> config);
}

/* As whoever a disk's map knows, and with all rights over what is there. */
static void take_file_id(const struct setup *setup, uid_t id)
{
    (void)setfsgid(id);
    (void)setfsuid(id);
    if (asuser_raise() != 0)
        setup_fail(setup, "keep capabilities");
}

/* The code of a sandbox that had stopped may have left anything there. */
static void make_sandbox_folder(const struct setup *setup, int parent_fd, const char *name,
                                mode_t mode)
{
    struct stat info;
    if (fstatat(parent_fd, name, &info, AT_SYMLINK_NOFOLLOW) == 0) {
        if (S_ISDIR(info.st_mode))
            return;
        (void)unlinkat(parent_fd, name, 0);
    }
    if (mkdirat(parent_fd, name, mode) != 0)
        setup_fail(setup, name);
}

static void make_sandbox_root(const struct setup *setup)
{
    if (chdir(&RUNSC_ROOT[1]) != 0)
        setup_fail(setup, "enter the sandbox's root");
    if (setup->own_root)
        setup_make_root(setup);
    while (setup_attach_mounts(setup))
        continue;
    FD_AUTO int root_fd = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    FD_AUTO int tmp_fd = setup_open_target(setup, "tmp");
    take_file_id(setup, setup->maps->root_id);
    make_sandbox_folder(setup, root_fd, &INIT_CARRIED_FOLDER[1], 0700);
    make_sandbox_folder(setup, tmp_fd, strrchr(INIT_CARRIED_TMP_MARK, '/') + 1, 0700);
    take_file_id(setup, 0);
}

/* A folder of the sandbox's root once more, from which mounts that are made later go on to the
 * copies that runsc's processes make of it (mount_namespaces(7), "Shared subtrees"). gVisor looks
 * again at what is below a mount of its own, at what is below the root it does not. */
static void share_folder(const struct setup *setup)
{
    struct err err = ERR_INIT;
    FD_AUTO int mount_fd = -1;
    FD_AUTO int folder_fd = setup_open_target(setup, &RUNSC_ROOT RUNSC_SHARED[1]);
    if (mountfd_clone(folder_fd, "", false, &mount_fd, &err) != 0)
        setup_fail_err(setup, &err);
    setup_attach(setup, mount_fd, &RUNSC_SHARED[1]);
    if (mount(NULL, &RUNSC_SHARED[1], NULL, MS_SHARED, NULL) != 0)
        setup_fail(setup, "share " RUNSC_SHARED);
}

/* gVisor shows as memory what /proc/meminfo tells it here. What is mounted over a part of /proc
 * makes the kernel refuse another one to the namespaces below, unless there is a whole one too. */
static void show_memory(const struct setup *setup, int proc_fd)
{
    struct err err = ERR_INIT;
    FD_AUTO int view_fd = -1;
    FD_AUTO int mount_fd = -1;
    FD_AUTO int file_fd = make_place(setup, "meminfo", false, 0444);
    (void)dprintf(file_fd, "MemTotal: %" PRIu64 " kB\n", setup->runsc->memory_bytes / 1024);
    if (mountfd_clone(proc_fd, "", false, &view_fd, &err) != 0 ||
        mountfd_clone(AT_FDCWD, "meminfo", false, &mount_fd, &err) != 0)
        setup_fail_err(setup, &err);
    setup_attach(setup, proc_fd, "whole");
    setup_attach(setup, view_fd, "proc");
    setup_attach(setup, mount_fd, "proc/meminfo");
}

static _Noreturn void start_runsc(const struct setup *setup, int error_fd)
{
    const struct initstream_ends *ends = &setup->runsc->ends;
    const struct init_config *config = setup->config;
    const struct runsc *runsc = setup->runsc->runsc;
    char platform[32];
    for (size_t i = 0; i < config->procs_count; i++) {
        if (write(config->procs_fds[i], "0", 1) != 1)
            _exit(126);
    }
    if (dup2(ends->stdin_fd, 0) < 0 || dup2(ends->stdout_fd, 1) < 0 || dup2(error_fd, 2) < 0)
        _exit(126);
    (void)snprintf(platform, sizeof(platform), "--platform=%s", runsc->platform);
    const char *const first[] = {RUNSC_PROGRAM,    "--root=" RUNSC_STATE, platform,
                                 "--network=none", "--ignore-cgroups",    "--log=" RUNSC_LOG};
    const char *const last[] = {"run", "--detach", "--bundle=" RUNSC_BUNDLE, "sandbox"};
    const char *words[ARRAY_SIZE(first) + RUNSC_FLAGS_MAX + ARRAY_SIZE(last) + 1] = {NULL};
    size_t count = ARRAY_SIZE(first);
    memcpy(words, first, sizeof(first));
    memcpy(words + count, runsc->flags, runsc->flag_count * sizeof(words[0]));
    count += runsc->flag_count;
    memcpy(words + count, last, sizeof(last));
    char *argv[ARRAY_SIZE(words)]; /* execve(2) promises not to write to them */
    memcpy(argv, words, sizeof(argv));
    char *const envp[] = {NULL};
    (void)execve(RUNSC_PROGRAM, argv, envp);
    (void)dprintf(2, "execute runsc: %s\n", strerror(errno));
    _exit(127);
}

static void let_through(int fd)
{
    if (fd >= 0)
        (void)fcntl(fd, F_SETFD, 0);
}

/* What of ours stays is init's program in another role. */
static _Noreturn void become_keeper(const struct setup *setup, pid_t starter, int error_fd)
{
    const struct init_config *config = setup->config;
    const int kept[] = {
        setup->socket_fd,  config->oom_event_fd,          config->memory_dir_fd,
        setup->id_lock_fd, setup->image_lock_fd,          setup->runsc->ends.held_fds[0],
        error_fd,          setup->runsc->ends.held_fds[1]};
    char numbers[INIT_KEEP_ARGUMENTS][16];
    const int values[INIT_KEEP_ARGUMENTS] = {(int)starter, setup->socket_fd, error_fd,
                                             config->oom_event_fd, config->memory_dir_fd};
    char name[] = "berth-init";
    char role[] = "keep";
    char *argv[INIT_KEEP_ARGUMENTS + 3] = {name, role};
    char *const envp[] = {NULL};
    for (size_t i = 0; i < INIT_KEEP_ARGUMENTS; i++) {
        (void)snprintf(numbers[i], sizeof(numbers[i]), "%d", values[i]);
        argv[2 + i] = numbers[i];
    }
    for (size_t i = 0; i < ARRAY_SIZE(kept); i++)
        let_through(kept[i]);
    (void)syscall(SYS_execveat, setup->init_fd, "", argv, envp, AT_EMPTY_PATH);
    setup_fail(setup, "start the keeper");
}

/* The standard streams are the engine's. */
static void close_streams(const struct setup *setup)
{
    FD_AUTO int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int i = 0; i < 3; i++) {
        if (null_fd < 0 || dup2(null_fd, i) < 0)
            setup_fail(setup, "standard streams");
    }
}

_Noreturn void setup_run_runsc(const struct setup *setup, int proc_fd)
{
    if (fd_send(setup->socket_fd, "U", 1, &setup->config->userns_fd, 1, 0, NULL) != 0)
        _exit(1);
    fault_point("setup.root");
    make_own_root(setup);
    FD_AUTO int own_fd = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    make_sandbox_root(setup);
    if (own_fd < 0 || fchdir(own_fd) != 0)
        setup_fail(setup, "enter the root of runsc");
    share_folder(setup);
    show_memory(setup, proc_fd);
    setup_leave_host(setup);
    close_streams(setup);
    fault_point("setup.init");
    FD_AUTO int error_fd = open(RUNSC_ERRORS, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (error_fd < 0)
        setup_fail(setup, RUNSC_ERRORS);
    pid_t starter = fork();
    if (starter < 0)
        setup_fail(setup, "start runsc");
    if (starter == 0)
        start_runsc(setup, error_fd);
    become_keeper(setup, starter, error_fd);
}
