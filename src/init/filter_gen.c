/* Build-time program: writes the seccomp filter of the strict profile as a C array, so that the
 * static init needs no libseccomp. The list is allow-only; what is not named answers ENOSYS, which
 * runtimes take as "old kernel" and fall back, where EPERM makes some of them stop.
 *
 * Source: the syscall tables of Linux 6.18; every call of that table is either here or left out
 * because of the comment beside its family in SECURITY.md. */
#include <errno.h>
#include <linux/filter.h>
#include <linux/netlink.h>
#include <sched.h>
#include <seccomp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/personality.h>
#include <sys/socket.h>
#include <unistd.h>

static const char *const allowed[] = {
    /* files and folders */
    "access",
    "chdir",
    "chmod",
    "chown",
    "chown32",
    "close",
    "close_range",
    "copy_file_range",
    "creat",
    "dup",
    "dup2",
    "dup3",
    "faccessat",
    "faccessat2",
    "fadvise64",
    "fadvise64_64",
    "fallocate",
    "fchdir",
    "fchmod",
    "fchmodat",
    "fchmodat2",
    "fchown",
    "fchown32",
    "fchownat",
    "fcntl",
    "fcntl64",
    "fdatasync",
    "fgetxattr",
    "flistxattr",
    "flock",
    "fremovexattr",
    "fsetxattr",
    "fstat",
    "fstat64",
    "fstatat64",
    "fstatfs",
    "fstatfs64",
    "fsync",
    "ftruncate",
    "ftruncate64",
    "futimesat",
    "getcwd",
    "getdents",
    "getdents64",
    "getxattr",
    "lchown",
    "lchown32",
    "lgetxattr",
    "link",
    "linkat",
    "listxattr",
    "llistxattr",
    "_llseek",
    "lremovexattr",
    "lseek",
    "lsetxattr",
    "lstat",
    "lstat64",
    "mkdir",
    "mkdirat",
    "mknod",
    "mknodat",
    "newfstatat",
    "open",
    "openat",
    "openat2",
    "pread64",
    "preadv",
    "preadv2",
    "pwrite64",
    "pwritev",
    "pwritev2",
    "read",
    "readahead",
    "readlink",
    "readlinkat",
    "readv",
    "removexattr",
    "rename",
    "renameat",
    "renameat2",
    "rmdir",
    "sendfile",
    "sendfile64",
    "setxattr",
    "splice",
    "stat",
    "stat64",
    "statfs",
    "statfs64",
    "statx",
    "symlink",
    "symlinkat",
    "sync",
    "sync_file_range",
    "syncfs",
    "tee",
    "truncate",
    "truncate64",
    "umask",
    "unlink",
    "unlinkat",
    "utime",
    "utimensat",
    "utimensat_time64",
    "utimes",
    "vmsplice",
    "write",
    "writev",
    /* waiting */
    "epoll_create",
    "epoll_create1",
    "epoll_ctl",
    "epoll_pwait",
    "epoll_pwait2",
    "epoll_wait",
    "eventfd",
    "eventfd2",
    "inotify_add_watch",
    "inotify_init",
    "inotify_init1",
    "inotify_rm_watch",
    "_newselect",
    "pipe",
    "pipe2",
    "poll",
    "ppoll",
    "ppoll_time64",
    "pselect6",
    "pselect6_time64",
    "select",
    "signalfd",
    "signalfd4",
    "timerfd_create",
    "timerfd_gettime",
    "timerfd_settime",
    /* memory */
    "brk",
    "cachestat",
    "get_mempolicy",
    "madvise",
    "map_shadow_stack",
    "mbind",
    "membarrier",
    "memfd_create",
    "mincore",
    "mlock",
    "mlock2",
    "mlockall",
    "mmap",
    "mmap2",
    "mprotect",
    "mremap",
    "mseal",
    "msync",
    "munlock",
    "munlockall",
    "munmap",
    "pkey_alloc",
    "pkey_free",
    "pkey_mprotect",
    "remap_file_pages",
    "set_mempolicy",
    /* processes and threads; clone and its flags are below */
    "arch_prctl",
    "execve",
    "execveat",
    "exit",
    "exit_group",
    "fork",
    "futex",
    "futex_time64",
    "futex_waitv",
    "futex_wait",
    "futex_wake",
    "futex_requeue",
    "getcpu",
    "getpgid",
    "getpgrp",
    "getpid",
    "getppid",
    "getpriority",
    "getresgid",
    "getresgid32",
    "getresuid",
    "getresuid32",
    "getrlimit",
    "get_robust_list",
    "getrusage",
    "getsid",
    "get_thread_area",
    "gettid",
    "ioprio_get",
    "ioprio_set",
    "kill",
    "pidfd_open",
    "pidfd_send_signal",
    "prctl",
    "prlimit64",
    "rseq",
    "sched_getaffinity",
    "sched_getattr",
    "sched_getparam",
    "sched_get_priority_max",
    "sched_get_priority_min",
    "sched_getscheduler",
    "sched_rr_get_interval",
    "sched_setaffinity",
    "sched_setattr",
    "sched_setparam",
    "sched_setscheduler",
    "sched_yield",
    "seccomp",
    "setpgid",
    "setpriority",
    "setrlimit",
    "set_robust_list",
    "setsid",
    "set_thread_area",
    "set_tid_address",
    "tgkill",
    "tkill",
    "ugetrlimit",
    "vfork",
    "wait4",
    "waitid",
    "waitpid",
    "landlock_add_rule",
    "landlock_create_ruleset",
    "landlock_restrict_self",
    /* signals and time */
    "alarm",
    "clock_getres",
    "clock_getres_time64",
    "clock_gettime",
    "clock_gettime64",
    "clock_nanosleep",
    "clock_nanosleep_time64",
    "getitimer",
    "gettimeofday",
    "nanosleep",
    "pause",
    "restart_syscall",
    "rt_sigaction",
    "rt_sigpending",
    "rt_sigprocmask",
    "rt_sigqueueinfo",
    "rt_sigreturn",
    "rt_sigsuspend",
    "rt_sigtimedwait",
    "rt_sigtimedwait_time64",
    "rt_tgsigqueueinfo",
    "setitimer",
    "sigaltstack",
    "time",
    "timer_create",
    "timer_delete",
    "timer_getoverrun",
    "timer_gettime",
    "timer_settime",
    "times",
    /* identity: harmless without capabilities, and programs ask */
    "capget",
    "capset",
    "getegid",
    "getegid32",
    "geteuid",
    "geteuid32",
    "getgid",
    "getgid32",
    "getgroups",
    "getgroups32",
    "getuid",
    "getuid32",
    "setfsgid",
    "setfsgid32",
    "setfsuid",
    "setfsuid32",
    "setgid",
    "setgid32",
    "setgroups",
    "setgroups32",
    "setregid",
    "setregid32",
    "setresgid",
    "setresgid32",
    "setresuid",
    "setresuid32",
    "setreuid",
    "setreuid32",
    "setuid",
    "setuid32",
    /* sockets; the families are below */
    "accept",
    "accept4",
    "bind",
    "connect",
    "getpeername",
    "getsockname",
    "getsockopt",
    "listen",
    "recv",
    "recvfrom",
    "recvmmsg",
    "recvmmsg_time64",
    "recvmsg",
    "send",
    "sendmmsg",
    "sendmsg",
    "sendto",
    "setsockopt",
    "shutdown",
    /* System V and POSIX IPC, of this sandbox's own namespace */
    "mq_getsetattr",
    "mq_notify",
    "mq_open",
    "mq_timedreceive",
    "mq_timedsend",
    "mq_unlink",
    "msgctl",
    "msgget",
    "msgrcv",
    "msgsnd",
    "semctl",
    "semget",
    "semop",
    "semtimedop",
    "shmat",
    "shmctl",
    "shmdt",
    "shmget",
    /* asking */
    "getrandom",
    "sysinfo",
    "uname",
};

static scmp_filter_ctx filter;

static void check(int result, const char *what)
{
    if (result < 0) {
        (void)fprintf(stderr, "filter_gen: %s: error %d\n", what, result);
        exit(1);
    }
}

static void allow_names(void)
{
    for (size_t i = 0; i < sizeof(allowed) / sizeof(allowed[0]); i++) {
        int number = seccomp_syscall_resolve_name(allowed[i]);
        if (number == __NR_SCMP_ERROR || number < 0)
            continue; /* not a call of this architecture, or newer than this libseccomp */
        check(seccomp_rule_add(filter, SCMP_ACT_ALLOW, number, 0), allowed[i]);
    }
}

static void allow_with_arguments(void)
{
    /* clone without any namespace flag; clone3 hides its flags in memory, so it stays ENOSYS.
     * CLONE_NEWTIME is no flag of clone(2): its bit is part of the exit signal there. */
    const scmp_datum_t namespaces = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC |
                                    CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET;
    check(seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
                           SCMP_A0(SCMP_CMP_MASKED_EQ, namespaces, 0)),
          "clone");
    const unsigned families[] = {AF_UNIX, AF_INET, AF_INET6};
    for (size_t i = 0; i < sizeof(families) / sizeof(families[0]); i++) {
        check(seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(socket), 1,
                               SCMP_A0(SCMP_CMP_EQ, families[i])),
              "socket");
    }
    /* Names of interfaces, ss, and libudev, which takes silence for an answer. The rest (netfilter,
     * xfrm, crypto, audit) is a large part of the kernel for no program of ours. */
    const unsigned netlinks[] = {NETLINK_ROUTE, NETLINK_SOCK_DIAG, NETLINK_KOBJECT_UEVENT};
    for (size_t i = 0; i < sizeof(netlinks) / sizeof(netlinks[0]); i++) {
        check(seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(socket), 2,
                               SCMP_A0(SCMP_CMP_EQ, AF_NETLINK), SCMP_A2(SCMP_CMP_EQ, netlinks[i])),
              "socket");
    }
    check(seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(socketpair), 1,
                           SCMP_A0(SCMP_CMP_EQ, AF_UNIX)),
          "socketpair");
    const unsigned long personalities[] = {PER_LINUX, PER_LINUX | ADDR_NO_RANDOMIZE, 0xffffffffUL};
    for (size_t i = 0; i < sizeof(personalities) / sizeof(personalities[0]); i++) {
        check(seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(personality), 1,
                               SCMP_A0(SCMP_CMP_EQ, personalities[i])),
              "personality");
    }
}

static void allow_ioctl_where(uint32_t mask, uint32_t value)
{
    check(seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
                           SCMP_A1(SCMP_CMP_MASKED_EQ, mask, value)),
          "ioctl");
}

/* Every ioctl but TIOCSTI and TIOCLINUX, which push bytes into a terminal's input. The kernel takes
 * the request's low 32 bits, so the filter compares just those: a request differs from both in one
 * of the 28 bits that the two share, or in the last four. */
static void allow_ioctl(void)
{
    const uint32_t shared = TIOCSTI & ~15U;
    if ((TIOCLINUX & ~15U) != shared)
        exit(1);
    for (unsigned bit = 4; bit < 32; bit++)
        allow_ioctl_where(1U << bit, ~shared & (1U << bit));
    for (uint32_t last = 0; last < 16; last++) {
        if ((shared | last) != TIOCSTI && (shared | last) != TIOCLINUX)
            allow_ioctl_where(0xffffffffU, shared | last);
    }
}

static void write_array(int fd, FILE *out)
{
    struct sock_filter code[4096];
    check((int)lseek(fd, 0, SEEK_SET), "lseek");
    ssize_t size = read(fd, code, sizeof(code));
    check((int)size, "read");
    size_t count = (size_t)size / sizeof(code[0]);
    (void)fprintf(out,
                  "/* Generated by src/init/filter_gen.c; do not edit. */\n"
                  "#ifndef BERTH_INIT_STRICT_FILTER_H\n#define BERTH_INIT_STRICT_FILTER_H\n\n"
                  "#include <linux/filter.h>\n\n"
                  "#define STRICT_FILTER_COUNT %zu\n\n"
                  "static const struct sock_filter strict_filter[STRICT_FILTER_COUNT] = {\n",
                  count);
    for (size_t i = 0; i < count; i++)
        (void)fprintf(out, "    {0x%02x, %u, %u, 0x%08x},\n", code[i].code, code[i].jt, code[i].jf,
                      code[i].k);
    (void)fprintf(out, "};\n\n#endif\n");
}

int main(int argc, char **argv)
{
    if (argc != 2)
        return 2;
    filter = seccomp_init(SCMP_ACT_ERRNO(ENOSYS));
    if (!filter)
        return 1;
    check(seccomp_attr_set(filter, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_ERRNO(ENOSYS)), "bad arch");
    check(seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2), "optimize");
    allow_names();
    allow_with_arguments();
    allow_ioctl();
    FILE *scratch = tmpfile();
    FILE *out = fopen(argv[1], "w");
    if (!scratch || !out)
        return 1;
    check(seccomp_export_bpf(filter, fileno(scratch)), "export");
    write_array(fileno(scratch), out);
    (void)fclose(scratch);
    seccomp_release(filter);
    return fclose(out) == 0 ? 0 : 1;
}
