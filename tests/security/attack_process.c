/* Attacks on processes: those of the host, those of neighbours, and init. */
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

static pid_t host_pid(void)
{
    return (pid_t)given_number("ATTACK_HOST_PID");
}

void judge_pidfd_kill(struct finding *finding, pid_t pid, int number)
{
    int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (fd < 0) {
        judge(finding, -1, "pidfd_open");
        return;
    }
    judge(finding, syscall(SYS_pidfd_send_signal, fd, number, NULL, 0), "pidfd_send_signal");
    (void)close(fd);
}

void attack_kill_host(struct finding *finding)
{
    judge(finding, kill(host_pid(), SIGKILL), "kill");
    judge(finding, kill(-host_pid(), SIGKILL), "kill of its group");
    judge(finding, syscall(SYS_tgkill, host_pid(), host_pid(), SIGKILL), "tgkill");
    judge_pidfd_kill(finding, host_pid(), SIGKILL);
}

void attack_ptrace_host(struct finding *finding)
{
    judge(finding, syscall(SYS_ptrace, PTRACE_ATTACH, host_pid(), 0, 0), "PTRACE_ATTACH");
    judge(finding, syscall(SYS_ptrace, PTRACE_SEIZE, host_pid(), 0, 0), "PTRACE_SEIZE");
}

/* Reads and writes another process's memory in every way that there is. */
static void touch_memory(struct finding *finding, pid_t pid, uintptr_t address)
{
    char data[64] = "overwritten by an attack";
    char path[64];
    struct iovec local = {.iov_base = data, .iov_len = sizeof(data)};
    struct iovec remote = {.iov_base = NULL, .iov_len = sizeof(data)};
    memcpy(&remote.iov_base, &address, sizeof(address));
    judge(finding, syscall(SYS_process_vm_writev, pid, &local, 1, &remote, 1, 0), "write");
    judge(finding, syscall(SYS_process_vm_readv, pid, &local, 1, &remote, 1, 0), "read");
    look_at(finding, data, sizeof(data), "another process's memory");
    (void)snprintf(path, sizeof(path), "/proc/%d/mem", (int)pid);
    judge_fd(finding, open(path, O_RDWR | O_CLOEXEC), path);
    judge_fd(finding, open(path, O_RDONLY | O_CLOEXEC), path);
    (void)snprintf(path, sizeof(path), "/proc/%d/task/%d/mem", (int)pid, (int)pid);
    judge_fd(finding, open(path, O_RDONLY | O_CLOEXEC), path);
}

void attack_memory_of_host(struct finding *finding)
{
    touch_memory(finding, host_pid(), given_number("ATTACK_HOST_ADDRESS"));
}

void attack_init_memory(struct finding *finding)
{
    touch_memory(finding, 1, 0x400000);
}

static void touch_limits(struct finding *finding, pid_t pid)
{
    struct rlimit limit = {.rlim_cur = 1, .rlim_max = 1};
    for (unsigned resource = 0; resource < 16; resource++) {
        judge(finding, syscall(SYS_prlimit64, pid, resource, &limit, NULL), "prlimit");
        judge(finding, syscall(SYS_prlimit64, pid, resource, NULL, &limit), "prlimit, reading");
    }
}

static void touch_schedule(struct finding *finding, pid_t pid)
{
    unsigned long mask = 1;
    struct sched_param parameter = {.sched_priority = 0};
    judge(finding, setpriority(PRIO_PROCESS, (id_t)pid, 19), "setpriority");
    judge(finding, syscall(SYS_sched_setaffinity, pid, sizeof(mask), &mask), "sched_setaffinity");
    judge(finding, syscall(SYS_sched_setscheduler, pid, SCHED_IDLE, &parameter),
          "sched_setscheduler");
    judge(finding, syscall(SYS_sched_setparam, pid, &parameter), "sched_setparam");
    judge(finding, syscall(SYS_ioprio_set, 1, pid, 3 << 13), "ioprio_set");
}

void attack_prlimit_host(struct finding *finding)
{
    touch_limits(finding, host_pid());
    touch_schedule(finding, host_pid());
}

void attack_init_prlimit(struct finding *finding)
{
    touch_limits(finding, 1);
}

void attack_init_schedule(struct finding *finding)
{
    touch_schedule(finding, 1);
}

/* Whether a process is one of ours: we may read what it was started with, as no other's. */
void attack_other_processes(struct finding *finding)
{
    DIR *folder = opendir("/proc");
    struct dirent *entry;
    stopped(finding, "only init and own ones");
    while (folder && (entry = readdir(folder)) != NULL) {
        char path[64];
        char word[256];
        long pid = strtol(entry->d_name, NULL, 10);
        if (pid <= 1)
            continue;
        (void)snprintf(path, sizeof(path), "/proc/%ld/environ", pid);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0 && errno != ENOENT && errno != ESRCH)
            escaped(finding, "process %ld is not ours", pid);
        if (fd >= 0)
            (void)close(fd);
        (void)snprintf(path, sizeof(path), "/proc/%ld/cmdline", pid);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t got = fd >= 0 ? read(fd, word, sizeof(word)) : 0;
        look_at(finding, word, got > 0 ? (size_t)got : 0, path);
        if (fd >= 0)
            (void)close(fd);
    }
    if (folder)
        (void)closedir(folder);
    char path[64];
    (void)snprintf(path, sizeof(path), "/proc/%d/status", (int)host_pid());
    if (access(path, F_OK) == 0)
        escaped(finding, "the host's process is in /proc");
}

void attack_kill_all(struct finding *finding)
{
    stopped(finding, "only own processes were there to be reached");
    (void)signal(SIGTERM, SIG_IGN);
    if (kill(-1, SIGTERM) != 0)
        finding->sys_errno = errno;
    (void)kill(-1, SIGKILL);
    (void)kill(1, SIGKILL);
}

void attack_stop_all(struct finding *finding)
{
    stopped(finding, "only own processes were there to be reached");
    if (kill(-1, SIGSTOP) != 0)
        finding->sys_errno = errno;
    for (pid_t group = 1; group < 64; group++) {
        if (group != getpgrp())
            (void)kill(-group, SIGSTOP);
    }
    (void)kill(1, SIGSTOP);
}

/* clone3(2) with a chosen number, of a program that has no such field in its headers. */
void attack_pid_reuse(struct finding *finding)
{
    int number = 300;
    struct clone_args args;
    memset(&args, 0, sizeof(args));
    args.exit_signal = SIGCHLD;
    args.set_tid = (uintptr_t)&number;
    args.set_tid_size = 1;
    long pid = syscall(SYS_clone3, &args, sizeof(args));
    if (pid == 0)
        _exit(0);
    judge(finding, pid, "clone3 with set_tid");
    judge_fd(finding, open("/proc/sys/kernel/ns_last_pid", O_WRONLY | O_CLOEXEC), "ns_last_pid");
    pid_t child = fork();
    if (child == 0)
        _exit(0);
    int fd = (int)syscall(SYS_pidfd_open, child, 0);
    (void)waitpid(child, NULL, 0);
    judge(finding, syscall(SYS_pidfd_send_signal, fd, SIGKILL, NULL, 0), "a signal to the dead");
    (void)close(fd);
}

void attack_nice_negative(struct finding *finding)
{
    judge(finding, setpriority(PRIO_PROCESS, 0, -20), "of the process");
    judge(finding, setpriority(PRIO_PGRP, 0, -20), "of the group");
    judge(finding, setpriority(PRIO_USER, getuid(), -20), "of the user");
}

void attack_realtime(struct finding *finding)
{
    struct {
        uint32_t size, policy;
        uint64_t flags;
        int32_t nice;
        uint32_t priority;
        uint64_t runtime, deadline, period;
    } attributes = {48, 6 /* SCHED_DEADLINE */, 0, 0, 0, 10000000, 30000000, 30000000};
    struct sched_param parameter = {.sched_priority = 1};
    judge(finding, syscall(SYS_sched_setscheduler, 0, SCHED_FIFO, &parameter), "SCHED_FIFO");
    judge(finding, syscall(SYS_sched_setscheduler, 0, SCHED_RR, &parameter), "SCHED_RR");
    judge(finding, syscall(SYS_sched_setattr, 0, &attributes, 0), "SCHED_DEADLINE");
    judge(finding, syscall(SYS_ioprio_set, 1, 0, 1 << 13), "real-time I/O");
}

void attack_ptrace_setuid(struct finding *finding)
{
    pid_t pid = fork();
    if (pid == 0) {
        errno = 0;
        if (syscall(SYS_ptrace, PTRACE_TRACEME, 0, 0, 0) != 0)
            _exit(errno);
        (void)execl("/usr/bin/su", "su", "-c", "id", NULL);
        _exit(0);
    }
    int status = 0;
    (void)waitpid(pid, &status, WUNTRACED);
    errno = WIFEXITED(status) ? WEXITSTATUS(status) : 0;
    judge(finding, errno == 0 ? 0 : -1, "PTRACE_TRACEME");
    (void)kill(pid, SIGKILL);
}
