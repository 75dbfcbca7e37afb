/* Owns what a zygote is when its interpreter starts: its root, its ids, its rights. The child part
 * runs after clone3(2), in a process that nothing else shares. */
#include "native/zygote.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/keyctl.h>
#include <linux/mount.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/embed.h"
#include "base/fd.h"
#include "base/mem.h"
#include "native/filters.h"
#include "native/host.h"
#include "native/mountfd.h"
#include "native/rootfs.h"

#define GROUP "zygote.python"            /* no id of a sandbox has a point */
#define MEMORY_MAX (UINT64_C(512) << 20) /* what its children still share stays counted here */
#define OOM_SCORE_ADJ "500"              /* as init gives it to the code (init/child.c) */

extern const struct embedded_file zygote_files[];

enum { PIDS_MAX = 64, SOCKET_FD = 3, LOW_MAX = 16, CAP_NUMBER_MAX = 63, SIGNAL_MAX = 64 };

/* Text, numbers and the filter come on standard input, so that nothing lies in a file. Both texts
 * have the name of the kernel: it hides its own frames. */
static const char boot[] = "import os, sys\n"
                           "def load(text, name):\n"
                           "    space = {'__name__': name, '__builtins__': __builtins__}\n"
                           "    exec(compile(text, '<kernel>', 'exec'), space)\n"
                           "    return space\n"
                           "try:\n"
                           "    data = sys.stdin.buffer.read()\n"
                           "    kernel, zygote, *numbers = (int(text) for text in sys.argv[1:])\n"
                           "    zygote += kernel\n"
                           "    sys.orig_argv = ['python3', '-c', '']\n"
                           "    start = load(data[kernel:zygote], 'zygote')['prepare'](\n"
                           "        load(data[:kernel], 'kernel'), data[zygote:], numbers)\n"
                           "except BaseException as problem:\n"
                           "    os.write(3, b'L' + repr(problem).encode()[:200])\n"
                           "    os._exit(1)\n"
                           "start()\n";

struct start {
    int socket_fd;
    int input_fd;
    uid_t uid;
    pid_t engine;
    struct image *image;
    const struct cgroup_entry *entry;
    const struct rootfs *mounts;
    size_t sizes[2]; /* of the texts: kernel, zygote */
};

/* ---- in the child ---- */

static _Noreturn void fail(const struct start *start, const char *step)
{
    char text[256];
    int size = snprintf(text, sizeof(text), "L%s: %s", step, strerror(errno));
    (void)fd_send(start->socket_fd, text, (size_t)size, NULL, 0, 0, NULL);
    _exit(1);
}

static void make_root(const struct start *start)
{
    struct err err = ERR_INIT;
    FD_AUTO int fd = -1;
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mountfd_tmpfs(UINT64_C(1) << 20, 256, MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID, &fd, &err) !=
            0 ||
        mountfd_attach(fd, AT_FDCWD, "", &err) != 0 || fchdir(fd) != 0 ||
        rootfs_make_folders(fd, start->image, 0, 0, &err) != 0)
        fail(start, "make the root");
    for (size_t i = 0; i < start->mounts->count; i++) {
        const struct rootfs_mount *one = &start->mounts->mounts[i];
        if (mountfd_attach(one->fd, AT_FDCWD, one->target, &err) != 0)
            fail(start, one->target);
    }
    if (mountfd_restrict(fd, MOUNT_ATTR_RDONLY, &err) != 0)
        fail(start, "make the root read-only");
    if (syscall(SYS_pivot_root, ".", ".") != 0 || umount2(".", MNT_DETACH) != 0 || chdir("/") != 0)
        fail(start, "leave the host's root");
}

#define CAP(name) (UINT64_C(1) << (name))
static const uint64_t kept_caps = CAP(CAP_SETUID) | CAP(CAP_SETGID);

/* Through execve(2) they go as ambient ones, which have to be inheritable (capabilities(7)); the
 * zygote drops both at once. */
static int keep_capabilities(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];
    memset(data, 0, sizeof(data));
    data[0].effective = data[0].permitted = data[0].inheritable = (uint32_t)kept_caps;
    if (syscall(SYS_capset, &header, data) != 0)
        return -1;
    for (int cap = 0; cap <= CAP_NUMBER_MAX; cap++) {
        if ((kept_caps & CAP(cap)) != 0 &&
            prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0) != 0)
            return -1;
    }
    return 0;
}

static void take_identity(const struct start *start)
{
    /* Opened as root, written without a capability: the code may then take the score back to what
     * its init has, as anywhere (proc_pid_oom_score_adj(5)). */
    FD_AUTO int score_fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    (void)syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL);
    make_root(start);
    for (int cap = 0; cap <= CAP_NUMBER_MAX; cap++) {
        if ((kept_caps & CAP(cap)) == 0)
            (void)prctl(PR_CAPBSET_DROP, cap, 0, 0, 0); /* EINVAL past the kernel's last one */
    }
    if (prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) != 0 || setgroups(0, NULL) != 0 ||
        setresgid(start->uid, start->uid, start->uid) != 0 ||
        setresuid(start->uid, start->uid, start->uid) != 0 || keep_capabilities() != 0)
        fail(start, "take the ids");
    if (score_fd < 0 || write(score_fd, OOM_SCORE_ADJ, strlen(OOM_SCORE_ADJ)) < 0)
        fail(start, "oom_score_adj");
    /* After the ids, which clear it; whoever died before that is seen now. */
    if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) != 0 || getppid() != start->engine)
        _exit(1);
}

/* By the raw call, which reaches the signals that libc keeps for itself. */
static void reset_signals(void)
{
    static const unsigned long by_default[4];
    for (int number = 1; number <= SIGNAL_MAX; number++)
        (void)syscall(SYS_rt_sigaction, number, by_default, NULL, sizeof(by_default[0]));
    sigset_t none;
    (void)sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
}

static void place_descriptors(const struct start *start)
{
    int socket_fd = fcntl(start->socket_fd, F_DUPFD_CLOEXEC, LOW_MAX);
    int input_fd = fcntl(start->input_fd, F_DUPFD_CLOEXEC, LOW_MAX);
    int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (socket_fd < 0 || input_fd < 0 || null_fd < 0 || dup2(input_fd, 0) < 0 ||
        dup2(null_fd, 1) < 0 || dup2(null_fd, 2) < 0 || dup2(socket_fd, SOCKET_FD) < 0)
        fail(start, "standard streams");
    (void)syscall(SYS_close_range, SOCKET_FD + 1U, ~0U, 0U);
}

static int install_filter(void)
{
    const struct {
        unsigned short count;
        const struct sock_filter *code;
    } program = {ARRAY_SIZE(zygote_filter), zygote_filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        return -1;
    return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program);
}

static _Noreturn void run(struct start *start)
{
    struct err err = ERR_INIT;
    char words[4][24];
    char program[] = "/usr/bin/python3";
    char name[] = "python3";
    char option[] = "-c";
    char text[sizeof(boot)];
    /* What an execution finds, so that the interpreter reads the same; the server's own words go
     * with the first run. */
    char path[] = "PATH=/usr/local/bin:/usr/bin:/bin";
    char home[] = "HOME=/home/sandbox";
    char user[] = "USER=sandbox";
    char lang[] = "LANG=C.UTF-8";
    char tmpdir[] = "TMPDIR=/tmp";
    char unbuffered[] = "PYTHONUNBUFFERED=1";
    char *const envp[] = {path, home, user, lang, tmpdir, unbuffered, NULL};
    char *const argv[] = {name, option, text, words[0], words[1], words[2], words[3], NULL};
    memcpy(text, boot, sizeof(boot));
    const size_t numbers[] = {start->sizes[0], start->sizes[1], SYS_keyctl, SYS_clone};
    for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
        (void)snprintf(words[i], sizeof(words[i]), "%zu", numbers[i]);
    if (cgroup_enter(start->entry, &err) != 0)
        fail(start, "enter the group");
    take_identity(start);
    (void)setsid();
    (void)umask(022);
    place_descriptors(start);
    start->socket_fd = SOCKET_FD;
    reset_signals();
    if (install_filter() != 0)
        fail(start, "seccomp filter");
    (void)execve(program, argv, envp);
    fail(start, program);
}

/* ---- in the engine ---- */

static const struct embedded_file *text_of(const char *name)
{
    for (const struct embedded_file *file = zygote_files; file->name; file++) {
        if (strcmp(file->name, name) == 0)
            return file;
    }
    return NULL;
}

static int make_input(struct start *start, struct err *err)
{
    const struct embedded_file *texts[2] = {text_of("python.py"), text_of("zygote.py")};
    FD_AUTO int fd = memfd_create("zygote", MFD_CLOEXEC);
    if (fd < 0)
        return err_sys(err, errno, "memfd_create");
    int result = 0;
    for (size_t i = 0; result == 0 && i < ARRAY_SIZE(texts); i++) {
        if (!texts[i])
            return err_set(err, ERR_INTERNAL, "a text is missing");
        start->sizes[i] = texts[i]->size;
        result = fd_write_all(fd, texts[i]->data, texts[i]->size, err);
    }
    if (result == 0)
        result = fd_write_all(fd, strict_filter, sizeof(strict_filter), err);
    if (result == 0 && lseek(fd, 0, SEEK_SET) != 0)
        result = err_sys(err, errno, "rewind");
    start->input_fd = result == 0 ? fd_take(&fd) : -1;
    return result;
}

static int clone_child(struct start *start, struct zygote *out, struct err *err)
{
    struct clone_args args;
    int pidfd = -1;
    memset(&args, 0, sizeof(args));
    args.flags = CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_PIDFD;
    args.pidfd = (uintptr_t)&pidfd;
    args.exit_signal = SIGCHLD;
    if (start->entry->clone_fd >= 0) {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = (unsigned)start->entry->clone_fd;
    }
    start->engine = getpid();
    pid_t pid = (pid_t)syscall(SYS_clone3, &args, sizeof(args));
    if (pid < 0)
        return err_sys(err, errno, "clone");
    if (pid == 0)
        run(start);
    out->pid = pid;
    out->pidfd = pidfd;
    return 0;
}

int zygote_start(struct sandbox_host *host, struct zygote *out, struct err *err)
{
    const struct cgroup_limits limits = {.memory_bytes = MEMORY_MAX, .pids_max = PIDS_MAX};
    struct cgroup_entry entry;
    struct rootfs mounts;
    int pair[2];
    int result = cgroup_open_aside(&host->cgroups, GROUP, &limits, &entry, err);
    if (result != 0)
        return result;
    struct start start = {.uid = out->ids.base,
                          .image = &host->image,
                          .entry = &entry,
                          .mounts = &mounts,
                          .socket_fd = -1,
                          .input_fd = -1};
    result = rootfs_build_image(&host->image, host->stage_fd, &mounts, err);
    if (result != 0) {
        cgroup_close_entry(&entry);
        return result;
    }
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
        result = err_sys(err, errno, "socketpair");
    if (result == 0) {
        out->fd = pair[0];
        start.socket_fd = pair[1];
        result = make_input(&start, err);
    }
    if (result == 0)
        result = clone_child(&start, out, err);
    fd_close(&start.socket_fd);
    fd_close(&start.input_fd);
    rootfs_close(&mounts);
    cgroup_close_entry(&entry);
    if (result != 0)
        fd_close(&out->fd);
    return result;
}

int zygote_remove_group(const struct sandbox_host *host)
{
    return cgroup_remove_aside(&host->cgroups, GROUP);
}
