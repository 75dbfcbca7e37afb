/* Attacks on init, by what a process can do to another and by what init reads of the code. */
#include "attack.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* ---- init ---- */

void attack_init_signals(struct finding *finding)
{
    for (int number = 1; number <= 64; number++) {
        siginfo_t info;
        memset(&info, 0, sizeof(info));
        info.si_signo = number;
        info.si_code = SI_QUEUE;
        judge(finding, kill(1, number), "kill");
        judge(finding, syscall(SYS_tgkill, 1, 1, number), "tgkill");
        judge(finding, syscall(SYS_rt_sigqueueinfo, 1, number, &info), "sigqueue");
        judge_pidfd_kill(finding, 1, number);
    }
}

void attack_init_ptrace(struct finding *finding)
{
    judge(finding, syscall(SYS_ptrace, PTRACE_ATTACH, 1, 0, 0), "PTRACE_ATTACH");
    judge(finding, syscall(SYS_ptrace, PTRACE_SEIZE, 1, 0, 0), "PTRACE_SEIZE");
}

void attack_init_secrets(struct finding *finding)
{
    static const char *const names[] = {"environ",   "maps",   "smaps",       "numa_maps",
                                        "auxv",      "stack",  "syscall",     "io",
                                        "pagemap",   "wchan",  "fdinfo",      "fd",
                                        "map_files", "timers", "personality", "mountstats"};
    static const char *const links[] = {"exe", "cwd", "root", "ns/user", "ns/pid", "ns/mnt"};
    char path[64];
    char data[256];
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        (void)snprintf(path, sizeof(path), "/proc/1/%s", names[i]);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t got = fd >= 0 ? read(fd, data, sizeof(data)) : -1;
        if (got >= 0 && (got == 0 || strcmp(names[i], "wchan") == 0))
            stopped(finding, "%s tells nothing", names[i]);
        else
            judge(finding, got, names[i]);
        if (fd >= 0)
            (void)close(fd);
    }
    for (size_t i = 0; i < sizeof(links) / sizeof(links[0]); i++) {
        (void)snprintf(path, sizeof(path), "/proc/1/%s", links[i]);
        judge(finding, readlink(path, data, sizeof(data)), links[i]);
    }
}

/* What everybody may read of init may not name the host. */
void attack_init_names(struct finding *finding)
{
    static const char *const names[] = {"mountinfo", "mounts", "cgroup", "status", "cmdline",
                                        "sched",     "stat",   "comm",   "limits", "schedstat"};
    static const char *const words[] = {"ATTACK_STATE", "ATTACK_INSTANCE"};
    static char data[65536];
    stopped(finding, "none");
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        char path[64];
        (void)snprintf(path, sizeof(path), "/proc/1/%s", names[i]);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t got = fd >= 0 ? read(fd, data, sizeof(data)) : 0;
        for (size_t j = 0; j < 2 && got > 0; j++) {
            if (memmem(data, (size_t)got, given(words[j]), strlen(given(words[j]))))
                escaped(finding, "%s names the host's folders", path);
        }
        if (fd >= 0)
            (void)close(fd);
    }
}

void attack_init_proc_files(struct finding *finding)
{
    static const struct {
        const char *name, *value;
    } files[] = {{"oom_score_adj", "1000"},
                 {"oom_adj", "15"},
                 {"comm", "x"},
                 {"timerslack_ns", "1"},
                 {"uid_map", "0 0 1"},
                 {"gid_map", "0 0 1"},
                 {"setgroups", "deny"},
                 {"clear_refs", "1"},
                 {"coredump_filter", "0"},
                 {"autogroup", "19"},
                 {"sched", "0"},
                 {"loginuid", "0"},
                 {"attr/current", "x"},
                 {"timens_offsets", "monotonic 1 0"}};
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        char path[64];
        (void)snprintf(path, sizeof(path), "/proc/1/%s", files[i].name);
        int fd = open(path, O_WRONLY | O_CLOEXEC);
        judge(finding, fd < 0 ? -1 : write(fd, files[i].value, strlen(files[i].value)), path);
        if (fd >= 0)
            (void)close(fd);
    }
}

void attack_init_pidfd_getfd(struct finding *finding)
{
    int pidfd = (int)syscall(SYS_pidfd_open, 1, 0);
    for (int fd = 0; fd < 32; fd++)
        judge_fd(finding, (int)syscall(438 /* pidfd_getfd */, pidfd, fd, 0), "pidfd_getfd");
    (void)close(pidfd);
}

void attack_init_robust_list(struct finding *finding)
{
    void *list = NULL;
    size_t size = 0;
    judge(finding, syscall(SYS_get_robust_list, 1, &list, &size), "get_robust_list");
}

void attack_init_namespaces(struct finding *finding)
{
    static const char *const names[] = {"user", "mnt", "pid",    "net",
                                        "ipc",  "uts", "cgroup", "time"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        char path[64];
        (void)snprintf(path, sizeof(path), "/proc/1/ns/%s", names[i]);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        judge(finding, fd < 0 ? -1 : syscall(SYS_setns, fd, 0), path);
        (void)snprintf(path, sizeof(path), "/proc/self/ns/%s", names[i]);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        judge(finding, fd < 0 ? -1 : syscall(SYS_setns, fd, 0), path);
    }
    int pidfd = (int)syscall(SYS_pidfd_open, 1, 0);
    judge(finding, syscall(SYS_setns, pidfd, 0x7e020000), "by a pidfd");
}

/* Whatever enters the sandbox as a program of the host shows as an exe link that is not ours. */
void attack_init_exe(struct finding *finding)
{
    static const char script[] = "/tmp/enter";
    char own[256];
    char out[4096];
    char name[] = "/tmp/enter";
    char *const argv[] = {name, NULL};
    judge_fd(finding, open("/proc/1/exe", O_RDONLY | O_CLOEXEC), "/proc/1/exe");
    judge_fd(finding, open("/proc/1/exe", O_WRONLY | O_CLOEXEC), "/proc/1/exe");
    ssize_t size = readlink("/proc/self/exe", own, sizeof(own) - 1);
    own[size > 0 ? size : 0] = '\0';
    int fd = open(script, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0755);
    (void)!write(fd, "#!/proc/self/exe\n", 17);
    (void)close(fd);
    (void)run_program(argv, out, sizeof(out));
    if (strstr(out, "berth-init"))
        escaped(finding, "init's program was started again");
    for (int pid = 1; pid < 64; pid++) {
        char path[64];
        char target[256];
        (void)snprintf(path, sizeof(path), "/proc/%d/exe", pid);
        size = readlink(path, target, sizeof(target) - 1);
        if (size > 0 && memmem(target, (size_t)size, "berth-init", 10))
            judge_fd(finding, open(path, O_WRONLY | O_CLOEXEC), path);
    }
}

static void try_connect(struct finding *finding, const char *path, size_t size, int type)
{
    struct sockaddr_un address;
    memset(&address, 0, sizeof(address));
    address.sun_family = AF_UNIX;
    if (size > sizeof(address.sun_path))
        return;
    memcpy(address.sun_path, path, size);
    int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
    judge(finding,
          connect(fd, (const struct sockaddr *)&address,
                  (socklen_t)(offsetof(struct sockaddr_un, sun_path) + size)),
          "connect");
    (void)close(fd);
}

void attack_init_socket(struct finding *finding)
{
    static const char *const names[] = {"berth-init", "berth", "init", "engine", "init.sock"};
    char path[256];
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        path[0] = '\0';
        (void)snprintf(path + 1, sizeof(path) - 1, "%s", names[i]);
        try_connect(finding, path, 1 + strlen(names[i]), SOCK_STREAM);
        (void)snprintf(path, sizeof(path), "%.80s/priv/run/%s", given("ATTACK_STATE"), names[i]);
        try_connect(finding, path, strlen(path) + 1, SOCK_STREAM);
    }
    (void)snprintf(path, sizeof(path), "%.80s/run/engine.sock", given("ATTACK_STATE"));
    try_connect(finding, path, strlen(path) + 1, SOCK_SEQPACKET);
    for (int fd = 0; fd < 32; fd++) {
        (void)snprintf(path, sizeof(path), "/proc/1/fd/%d", fd);
        try_connect(finding, path, strlen(path) + 1, SOCK_STREAM);
    }
}

/* The kernel checks who set the owner (sigio_perm) when it sends: no error shows. The effect does:
 * init would not end this execution well, and the host's process would be gone. */
void attack_sigio_to_init(struct finding *finding)
{
    int ends[2];
    if (pipe(ends) != 0)
        return;
    const pid_t owners[] = {1, -1, (pid_t)given_number("ATTACK_HOST_PID")};
    for (size_t i = 0; i < sizeof(owners) / sizeof(owners[0]); i++) {
        int result = fcntl(ends[0], F_SETOWN, owners[i]);
        (void)fcntl(ends[0], F_SETSIG, SIGKILL);
        (void)fcntl(ends[0], F_SETFL, O_ASYNC | O_NONBLOCK);
        if (result != 0)
            continue;
        (void)!write(ends[1], "x", 1);
    }
    stopped(finding, "init and the host's process live on");
}

void attack_scm_credentials(struct finding *finding)
{
    int pair[2];
    int on = 1;
    char byte = 'x';
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(struct ucred))];
    } control;
    struct iovec data = {.iov_base = &byte, .iov_len = 1};
    const struct ucred forged[] = {{1, getuid(), getgid()}, {getpid(), 0, getgid()}};
    if (socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) != 0)
        return;
    (void)setsockopt(pair[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof(on));
    for (size_t i = 0; i < 2; i++) {
        struct msghdr message = {.msg_iov = &data,
                                 .msg_iovlen = 1,
                                 .msg_control = &control,
                                 .msg_controllen = sizeof(control)};
        memset(&control, 0, sizeof(control));
        control.header.cmsg_level = SOL_SOCKET;
        control.header.cmsg_type = SCM_CREDENTIALS;
        control.header.cmsg_len = CMSG_LEN(sizeof(struct ucred));
        memcpy(CMSG_DATA(&control.header), &forged[i], sizeof(forged[i]));
        if (i == 1 && getuid() == 0)
            continue; /* it is root in its own namespace, and may say so */
        judge(finding, sendmsg(pair[0], &message, 0), i == 0 ? "process 1" : "user 0");
    }
}

/* ---- what only shows in how the execution ends ---- */

/* A frame as wire/frame.h has it: EXIT with code 42 on every stream that there may be. */
static void print_frames(int fd)
{
    for (uint32_t stream = 0; stream < 64; stream += 4) {
        for (uint8_t type = 1; type <= 14; type++) {
            uint8_t frame[12 + 16] = {16, 0, 0, 0, type, 0, 0, 0, 0, 0, 0,
                                      0,  1, 0, 0, 0,    8, 0, 0, 0, 42};
            memcpy(frame + 8, &stream, sizeof(stream));
            (void)!write(fd, frame, sizeof(frame));
        }
    }
    static const uint8_t huge[12] = {255, 255, 255, 255, 5};
    (void)!write(fd, huge, sizeof(huge));
}

void attack_frames_stdout(struct finding *finding)
{
    print_frames(1);
    stopped(finding, "they are output");
    (void)!write(1, "\n", 1);
}

void attack_frames_stderr(struct finding *finding)
{
    print_frames(2);
    stopped(finding, "they are output");
}

void attack_stdio_closed(struct finding *finding)
{
    int kept = dup(1);
    for (int fd = 0; fd < 3; fd++)
        (void)close(fd);
    for (int i = 0; i < 3; i++)
        (void)open("/tmp/in-place", O_RDWR | O_CREAT, 0600);
    print_frames(1);
    print_frames(2);
    (void)dup2(kept, 1);
    stopped(finding, "what took their places took the output");
}

void attack_stdio_swapped(struct finding *finding)
{
    char data[64];
    for (int fd = 0; fd < 3; fd++) {
        (void)fcntl(fd, F_SETFL, O_NONBLOCK | O_ASYNC);
        (void)fcntl(fd, 1031 /* F_SETPIPE_SZ */, 4096);
        (void)fcntl(fd, F_SETOWN, 1);
        (void)fcntl(fd, F_SETSIG, SIGKILL);
        (void)fcntl(fd, F_SETLEASE, F_WRLCK);
        char path[32];
        (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        int both = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
        (void)!read(both, data, sizeof(data));
        (void)!write(both, "swapped\n", 8);
        (void)close(both);
    }
    (void)!write(0, "x", 1);
    (void)!read(1, data, sizeof(data));
    (void)fcntl(1, F_SETFL, 0);
    stopped(finding, "they are the code's own ends of pipes");
}

static void leave_child(unsigned long flags, int code)
{
    long pid = syscall(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0);
    if (pid == 0)
        _exit(code);
}

void attack_clone_parent(struct finding *finding)
{
    for (int i = 0; i < 200; i++)
        leave_child(CLONE_PARENT, 42);
    struct timespec moment = {.tv_sec = 0, .tv_nsec = 200000000};
    (void)nanosleep(&moment, NULL);
    stopped(finding, "init told them from the program");
}

void attack_orphans(struct finding *finding)
{
    for (int i = 0; i < 1000; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            leave_child(0, 42);
            _exit(0);
        }
        (void)waitpid(pid, NULL, 0);
    }
    stopped(finding, "init reaped them");
}
