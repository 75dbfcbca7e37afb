/* Attacks on namespaces, mounts, control groups and the kernel's interfaces. */
#include "attack.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/loop.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- namespaces ---- */

void attack_userns_then_mount(struct finding *finding)
{
    int result = unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWPID);
    judge(finding, result, "unshare");
    int fd = open("/proc/self/uid_map", O_WRONLY | O_CLOEXEC);
    if (fd >= 0)
        judge(finding, write(fd, "0 1000 1", 8), "an own map of ids");
    (void)close(fd);
    judge(finding, mount("berth-attack", "/mnt", "tmpfs", 0, NULL), "mount");
    judge(finding, mount("/usr", "/mnt", NULL, MS_BIND | MS_REC, NULL), "bind");
    judge(finding, umount2("/proc", MNT_DETACH), "umount");
}

void attack_userns_flood(struct finding *finding)
{
    int made = 0;
    for (int i = 0; i < 10000; i++) {
        if (unshare(CLONE_NEWUSER) != 0) {
            judge(finding, -1, "unshare");
            break;
        }
        made++;
    }
    if (made > 0)
        escaped(finding, "%d namespaces were made", made);
}

/* ---- mounts ---- */

void attack_masked_paths(struct finding *finding)
{
    static const char *const masks[] = {"/proc/kcore",    "/proc/keys", "/proc/timer_list",
                                        "/proc/kallsyms", "/proc/kmsg", "/proc/sysrq-trigger",
                                        "/proc/sys",      "/proc/bus",  "/proc/irq",
                                        "/proc/fs",       "/proc/acpi"};
    for (size_t i = 0; i < sizeof(masks) / sizeof(masks[0]); i++) {
        if (access(masks[i], F_OK) != 0)
            continue;
        judge(finding, umount2(masks[i], MNT_DETACH), masks[i]);
        judge(finding, umount2(masks[i], 0), masks[i]);
        judge(finding, mount("/dev/full", masks[i], NULL, MS_BIND, NULL), masks[i]);
        judge_any(finding, rename(masks[i], "/proc/away"), masks[i]);
        judge_any(finding, unlink(masks[i]), masks[i]);
        judge_any(finding, rmdir(masks[i]), masks[i]);
        judge_any(finding, symlink("/tmp", masks[i]), masks[i]);
    }
}

void attack_console_paths(struct finding *finding)
{
    static const char *const paths[] = {"/dev/pts",  "/dev/ptmx", "/dev/console", "/dev/tty",
                                        "/dev/null", "/dev/shm",  "/dev/fd"};
    for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
        judge_any(finding, rename(paths[i], "/dev/away"), paths[i]);
        judge_any(finding, unlink(paths[i]), paths[i]);
        judge_any(finding, symlink("/proc/sysrq-trigger", paths[i]), paths[i]);
        judge_any(finding, rmdir(paths[i]), paths[i]);
    }
    judge_any(finding, mknod("/dev/pts/99", S_IFCHR | 0666, 0x8801), "a terminal");
    judge_any(finding, symlink("/proc", "/dev/pts/ptmx2"), "a link among terminals");
}

void attack_tmpfs_grow(struct finding *finding)
{
    struct statvfs before;
    struct statvfs after;
    if (statvfs("/tmp", &before) != 0)
        return;
    judge(finding, mount(NULL, "/", NULL, MS_REMOUNT, "size=50%"), "remount");
    judge(finding, mount("tmpfs", "/", "tmpfs", MS_REMOUNT, "size=1G,nr_inodes=0"), "remount");
    judge_fd(finding, (int)syscall(433 /* fspick */, AT_FDCWD, "/", 0), "fspick");
    if (statvfs("/tmp", &after) == 0 &&
        (after.f_blocks != before.f_blocks || after.f_files != before.f_files))
        escaped(finding, "the root has another size now");
}

void attack_release_agent(struct finding *finding)
{
    static const char *const options[] = {"memory", "pids", "rdma", "none,name=attack", "cpuset"};
    for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++)
        judge(finding, mount("berth-attack", "/mnt", "cgroup", 0, options[i]), options[i]);
    judge(finding, mount("berth-attack", "/mnt", "cgroup2", 0, NULL), "cgroup2");
    judge_fd(finding, open("/mnt/release_agent", O_WRONLY | O_CLOEXEC), "release_agent");
    judge_fd(finding, open("/sys/fs/cgroup/memory/release_agent", O_WRONLY | O_CLOEXEC),
             "release_agent");
}

/* Every file below a folder that can be opened for writing is told; few levels deep. */
static int open_all(struct finding *finding, const char *folder, int depth)
{
    DIR *list = opendir(folder);
    struct dirent *entry;
    int seen = 0;
    while (list && (entry = readdir(list)) != NULL) {
        char path[1024];
        struct stat info;
        if (entry->d_name[0] == '.')
            continue;
        if (snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name) >= (int)sizeof(path) ||
            lstat(path, &info) != 0)
            continue;
        if (S_ISDIR(info.st_mode) && depth > 0)
            seen += open_all(finding, path, depth - 1);
        if (!S_ISREG(info.st_mode))
            continue;
        seen++;
        int fd = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
        if (fd >= 0) {
            escaped(finding, "%s can be written", path);
            (void)close(fd);
        }
    }
    if (list)
        (void)closedir(list);
    return seen;
}

void attack_cgroup_files(struct finding *finding)
{
    static const char *const places[] = {"/sys/fs/cgroup", "/sys/fs/cgroup/memory", "/cgroup",
                                         "/run/cgroup", "/dev/cgroup"};
    int seen = 0;
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++)
        seen += open_all(finding, places[i], 6);
    judge_fd(finding, open("/sys/fs/cgroup/cgroup.procs", O_WRONLY | O_CLOEXEC), "cgroup.procs");
    if (seen > 0)
        stopped(finding, "%d files are seen, none can be written", seen);
}

/* What /sys shows is the sandbox's own group and made-up files, none of which can be written. */
void attack_sys_view(struct finding *finding)
{
    static const char *const groups[] = {"", "/memory", "/pids", "/cpu", "/cpuacct", "/rdma"};
    static const unsigned long kernels[] = {0x62656572, 0x64626720, 0x74726163, 0x73636673};
    struct statfs info;
    int seen = open_all(finding, "/sys", 8);
    for (size_t j = 0; j < 4 && statfs("/sys", &info) == 0; j++) {
        if ((unsigned long)info.f_type == kernels[j])
            escaped(finding, "/sys is the kernel's own");
    }
    for (size_t i = 0; i < sizeof(groups) / sizeof(groups[0]); i++) {
        char path[128];
        (void)snprintf(path, sizeof(path), "/sys/fs/cgroup%s/berth-attack", groups[i]);
        judge_any(finding, mkdir(path, 0755), "a new group");
        (void)snprintf(path, sizeof(path), "/sys/fs/cgroup%s/release_agent", groups[i]);
        judge_any(finding, access(path, F_OK), "the root of a hierarchy");
        (void)snprintf(path, sizeof(path), "/sys/fs/cgroup%s/../init/cgroup.procs", groups[i]);
        judge_any(finding, access(path, F_OK), "init's group");
    }
    stopped(finding, "%d files, none can be written", seen);
}

void attack_loop_device(struct finding *finding)
{
    int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    judge(finding, control, "/dev/loop-control");
    for (int i = 0; i < 8; i++) {
        char path[32];
        (void)snprintf(path, sizeof(path), "/dev/loop%d", i);
        int loop = open(path, O_RDWR | O_CLOEXEC);
        judge_fd(finding, loop, path);
        judge(finding, mount(path, "/mnt", "ext4", 0, NULL), "mount of it");
    }
    if (control >= 0)
        (void)ioctl(control, LOOP_CTL_GET_FREE, 0);
}

/* ---- ways round the filter ---- */

void attack_personality_randomize(struct finding *finding)
{
    if (personality(ADDR_NO_RANDOMIZE) < 0)
        judge(finding, -1, "personality");
    else
        harmless(finding, "it holds for the code's own programs");
}

#ifdef __x86_64__
/* -1 where a kernel that takes the number for one of x86-64 (gVisor) looks for arguments: nothing
 * of ours to write to. */
static long call_i386(long number, long a, long b)
{
    long result = number;
    __asm__ volatile("int $0x80"
                     : "+a"(result)
                     : "b"(a), "c"(b), "D"(-1L), "S"(-1L), "d"(-1L)
                     : "memory", "r8", "r9", "r10", "r11");
    return (int)result;
}

void attack_call_by_int80(struct finding *finding)
{
    static const struct {
        long number;
        const char *name;
    } calls[] = {{20, "getpid"}, {21, "mount"}, {26, "ptrace"}, {310, "unshare"},
                 {61, "chroot"}, {357, "bpf"},  {120, "clone"}, {4, "write"}};
    for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
        long result = call_i386(calls[i].number, 0x10000000, 0);
        if (result == 0 && calls[i].number == 120)
            _exit(0);
        errno = (int)-result;
        judge(finding, result < 0 ? -1 : 0, calls[i].name);
    }
}

static long call_raw(unsigned long number, long a, long b, long c)
{
    long result = (long)number;
    __asm__ volatile("syscall" : "+a"(result) : "D"(a), "S"(b), "d"(c) : "memory", "rcx", "r11");
    return result;
}

static void judge_raw(struct finding *finding, long result, const char *what)
{
    errno = result < 0 ? (int)-result : 0;
    judge(finding, result < 0 ? -1 : 0, what);
}

void attack_call_by_x32(struct finding *finding)
{
    static const unsigned long numbers[] = {165, 272, 161, 39, 321, 519, 521, 522, 545};
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
        judge_raw(finding, call_raw(0x40000000UL | numbers[i], 0x10000000, 0, 0),
                  "a number of x32");
}

/* The kernel looks at 32 bits of the number, as the filter does. */
void attack_call_high_bits(struct finding *finding)
{
    judge_raw(finding, call_raw(0x100000000UL | SYS_unshare, 0x10000000, 0, 0), "unshare");
    judge_raw(finding, call_raw(0xffffffff00000000UL | SYS_bpf, 0, 0, 0), "bpf");
    judge_raw(finding, call_raw(0x8000000000000000UL | SYS_mount, 0, (long)"/mnt", 0), "mount");
    judge_raw(finding, call_raw(~0UL, 0, 0, 0), "-1");
    judge_raw(finding, call_raw(0x7fffffffUL, 0, 0, 0), "a number past the table");
}
#else
void attack_call_by_int80(struct finding *finding)
{
    absent(finding, "x86-64 only");
}
void attack_call_by_x32(struct finding *finding)
{
    absent(finding, "x86-64 only");
}
void attack_call_high_bits(struct finding *finding)
{
    absent(finding, "x86-64 only");
}
#endif

void attack_own_filter(struct finding *finding)
{
    struct sock_filter all[] = {{6 /* BPF_RET */, 0, 0, SECCOMP_RET_ALLOW}};
    struct sock_fprog program = {.len = 1, .filter = all};
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) != 0)
        stopped(finding, "it can't be installed");
    judge(finding, prctl(PR_SET_SECCOMP, 0, 0, 0, 0) == 0 ? 0 : (errno = EPERM, -1), "removal");
    judge(finding, unshare(CLONE_NEWUSER), "unshare behind it");
    judge(finding, mount("berth-attack", "/mnt", "tmpfs", 0, NULL), "mount behind it");
}

/* A terminal of our own, so that a success would show and do no harm. */
static int own_terminal(void)
{
    int unlock = 0;
    int number = 0;
    char path[32];
    int leader = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (leader < 0 || ioctl(leader, TIOCSPTLCK, &unlock) != 0 ||
        ioctl(leader, TIOCGPTN, &number) != 0)
        return -1;
    (void)snprintf(path, sizeof(path), "/dev/pts/%d", number);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    (void)ioctl(fd, TIOCSCTTY, 0);
    return fd;
}

void attack_tiocsti(struct finding *finding)
{
    char byte = 'x';
    char selection = 3;
    int fd = own_terminal();
    judge(finding, ioctl(fd, TIOCSTI, &byte), "TIOCSTI");
    judge(finding, ioctl(fd, TIOCLINUX, &selection), "TIOCLINUX");
    judge(finding, ioctl(0, TIOCSTI, &byte), "TIOCSTI on stdin");
}

void attack_tiocsti_high_bits(struct finding *finding)
{
    char byte = 'x';
    int fd = own_terminal();
    judge(finding, syscall(SYS_ioctl, fd, 0x100000000UL | TIOCSTI, &byte), "TIOCSTI");
    judge(finding, syscall(SYS_ioctl, fd, 0xffffffff00000000UL | TIOCSTI, &byte), "TIOCSTI");
    judge(finding, syscall(SYS_ioctl, fd, 0x100000000UL | TIOCLINUX, &byte), "TIOCLINUX");
}

/* ---- /proc, limits, memory ---- */

void attack_core_dump(struct finding *finding)
{
    struct rlimit limit = {.rlim_cur = RLIM_INFINITY, .rlim_max = RLIM_INFINITY};
    judge(finding, setrlimit(RLIMIT_CORE, &limit), "setrlimit");
    (void)chdir("/tmp");
    pid_t pid = fork();
    if (pid == 0)
        (void)raise(SIGSEGV);
    int status = 0;
    (void)waitpid(pid, &status, 0);
    if (WCOREDUMP(status))
        escaped(finding, "a core was dumped");
}

void attack_proc_sys_files(struct finding *finding)
{
    int seen = open_all(finding, "/proc/sys", 8);
    stopped(finding, "none of %d can be opened", seen);
}

void attack_proc_other_files(struct finding *finding)
{
    static const char *const folders[] = {"/proc/bus",  "/proc/fs",     "/proc/irq",
                                          "/proc/tty",  "/proc/driver", "/proc/net",
                                          "/proc/scsi", "/proc/sysvipc"};
    DIR *list = opendir("/proc");
    struct dirent *entry;
    int seen = 0;
    for (size_t i = 0; i < sizeof(folders) / sizeof(folders[0]); i++)
        seen += open_all(finding, folders[i], 4);
    while (list && (entry = readdir(list)) != NULL) {
        char path[512];
        struct stat info;
        (void)snprintf(path, sizeof(path), "/proc/%.255s", entry->d_name);
        if (lstat(path, &info) != 0 || !S_ISREG(info.st_mode))
            continue;
        seen++;
        int fd = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
        if (fd >= 0)
            escaped(finding, "%s can be written", path);
        (void)close(fd);
    }
    if (list)
        (void)closedir(list);
    stopped(finding, "none of %d can be opened", seen);
}

/* A trigger makes the host's kernel work, outside of every limit of the sandbox. */
void attack_proc_pressure(struct finding *finding)
{
    static const char *const names[] = {"io", "cpu", "memory"};
    for (size_t i = 0; i < 3; i++) {
        char path[64];
        char trigger[] = "some 150000 2000000";
        (void)snprintf(path, sizeof(path), "/proc/pressure/%s", names[i]);
        int fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
        judge(finding, fd < 0 ? -1 : write(fd, trigger, sizeof(trigger)), path);
        if (fd >= 0)
            (void)close(fd);
    }
}

void attack_mmap_null(struct finding *finding)
{
    void *page =
        mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    judge(finding, page == MAP_FAILED ? -1 : 0, "mmap");
}

void attack_oom_score(struct finding *finding)
{
    static const char *const values[] = {"-1000", "-1"};
    for (size_t i = 0; i < 2; i++) {
        int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
        judge(finding, fd < 0 ? -1 : write(fd, values[i], strlen(values[i])), values[i]);
        (void)close(fd);
    }
}

void attack_huge_pages(struct finding *finding)
{
    void *page = mmap(NULL, 2UL << 20, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
    if (page == MAP_FAILED && errno == ENOMEM)
        absent(finding, "the host has none");
    else
        judge(finding, page == MAP_FAILED ? -1 : 0, "mmap");
    int fd = memfd_create("huge", MFD_CLOEXEC | 4 /* MFD_HUGETLB */);
    if (fd >= 0 && ftruncate(fd, 2L << 20) == 0) {
        page = mmap(NULL, 2UL << 20, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (page != MAP_FAILED)
            escaped(finding, "a file of huge pages was mapped");
    }
}

void attack_uid_map(struct finding *finding)
{
    static const char *const files[] = {"/proc/self/uid_map", "/proc/self/gid_map",
                                        "/proc/self/setgroups", "/proc/self/projid_map"};
    static const char *const values[] = {"0 0 1", "0 0 4294967295", "deny"};
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        for (size_t j = 0; j < 3; j++) {
            int fd = open(files[i], O_WRONLY | O_CLOEXEC);
            judge_any(finding, fd < 0 ? -1 : write(fd, values[j], strlen(values[j])), files[i]);
            (void)close(fd);
        }
    }
}

void attack_limits_raise(struct finding *finding)
{
    static const int resources[] = {RLIMIT_NOFILE,     RLIMIT_FSIZE,  RLIMIT_CORE,
                                    RLIMIT_MEMLOCK,    RLIMIT_RTPRIO, RLIMIT_MSGQUEUE,
                                    RLIMIT_SIGPENDING, RLIMIT_NICE};
    for (size_t i = 0; i < sizeof(resources) / sizeof(resources[0]); i++) {
        struct rlimit limit;
        (void)getrlimit(resources[i], &limit);
        if (limit.rlim_max == RLIM_INFINITY) {
            escaped(finding, "limit %d is infinite", resources[i]);
            continue;
        }
        limit.rlim_max++;
        judge(finding, setrlimit(resources[i], &limit), "setrlimit");
    }
}

/* ENOMEM is how the kernel says that the limit is reached; mlockall(MCL_FUTURE) itself may pass. */
void attack_locked_memory(struct finding *finding)
{
    const size_t size = 64UL << 20;
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    judge_any(finding, mlock(memory, size), "mlock");
    void *locked =
        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED, -1, 0);
    judge_any(finding, locked == MAP_FAILED ? -1 : 0, "MAP_LOCKED");
    int id = shmget(IPC_PRIVATE, size, IPC_CREAT | 0600);
    if (id >= 0) {
        judge_any(finding, shmctl(id, SHM_LOCK, NULL), "SHM_LOCK");
        (void)shmctl(id, IPC_RMID, NULL);
    }
    judge_any(finding, mlockall(MCL_CURRENT), "mlockall");
}

void attack_prctl_privileges(struct finding *finding)
{
    judge_any(finding, prctl(PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0), "no_new_privs off");
    judge_any(finding, prctl(PR_SET_SECCOMP, 0, 0, 0, 0), "seccomp off");
    judge_any(finding, prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, 21, 0, 0), "ambient");
    judge_any(finding, prctl(PR_SET_MM, PR_SET_MM_EXE_FILE, 0, 0, 0), "PR_SET_MM");
    judge_any(finding, prctl(62 /* PR_SCHED_CORE */, 1, 1, 0, 0), "core scheduling of init");
    if (prctl(PR_CAPBSET_READ, 21, 0, 0, 0) > 0)
        escaped(finding, "CAP_SYS_ADMIN is in the bounding set");
}

void attack_securebits(struct finding *finding)
{
    judge(finding, prctl(PR_SET_SECUREBITS, 0x2f, 0, 0, 0), "securebits");
}
