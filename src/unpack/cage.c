/* Owns what this process gives up before it reads the first byte of an archive. */
#include "unpack/cage.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/mount.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/mem.h"

enum { LAST_CAP = 63, OPEN_FILES_MAX = 64 };

/* The largest windows are 64 MiB (xz -9) and 128 MiB (what libarchive lets zstd have); the rest is
 * for folders whose times are set at the end, some hundred bytes each. */
#define MEMORY_MAX (UINT64_C(768) << 20)

/* Owners, modes, set-user-ID bits and file capabilities are what an image has; that is all. */
static const int kept_caps[] = {CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_FSETID, CAP_SETFCAP};

/* What libarchive and malloc need. Not on it: sockets, exec, new processes and namespaces, device
 * nodes, mounts, other processes, and (below) memory that can be executed, so that no library is
 * loaded from the tree that was just unpacked. */
static const int allowed_calls[] = {
    SCMP_SYS(brk),           SCMP_SYS(chdir),
    SCMP_SYS(chmod),         SCMP_SYS(chown),
    SCMP_SYS(clock_gettime), SCMP_SYS(close),
    SCMP_SYS(dup),           SCMP_SYS(exit),
    SCMP_SYS(exit_group),    SCMP_SYS(fchdir),
    SCMP_SYS(fchmod),        SCMP_SYS(fchmodat),
    SCMP_SYS(fchown),        SCMP_SYS(fchownat),
    SCMP_SYS(fcntl),         SCMP_SYS(fsetxattr),
    SCMP_SYS(fstat),         SCMP_SYS(ftruncate),
    SCMP_SYS(futex),         SCMP_SYS(getegid),
    SCMP_SYS(geteuid),       SCMP_SYS(getgid),
    SCMP_SYS(getpid),        SCMP_SYS(getrandom),
    SCMP_SYS(gettimeofday),  SCMP_SYS(getuid),
    SCMP_SYS(lchown),        SCMP_SYS(link),
    SCMP_SYS(linkat),        SCMP_SYS(lseek),
    SCMP_SYS(lsetxattr),     SCMP_SYS(lstat),
    SCMP_SYS(madvise),       SCMP_SYS(mkdir),
    SCMP_SYS(mkdirat),       SCMP_SYS(mremap),
    SCMP_SYS(munmap),        SCMP_SYS(newfstatat),
    SCMP_SYS(open),          SCMP_SYS(openat),
    SCMP_SYS(pread64),       SCMP_SYS(pwrite64),
    SCMP_SYS(read),          SCMP_SYS(readlink),
    SCMP_SYS(readlinkat),    SCMP_SYS(restart_syscall),
    SCMP_SYS(rmdir),         SCMP_SYS(rt_sigprocmask),
    SCMP_SYS(rt_sigreturn),  SCMP_SYS(stat),
    SCMP_SYS(statx),         SCMP_SYS(symlink),
    SCMP_SYS(symlinkat),     SCMP_SYS(syncfs),
    SCMP_SYS(time),          SCMP_SYS(umask),
    SCMP_SYS(unlink),        SCMP_SYS(unlinkat),
    SCMP_SYS(utimensat),     SCMP_SYS(write),
    SCMP_SYS(writev),        SCMP_SYS(getdents64),
#ifdef __SANITIZE_ADDRESS__
    SCMP_SYS(gettid),        SCMP_SYS(sigaltstack),
#endif
};

/* What reads one descriptor and writes another. None takes a path: not newfstatat(2) either, which
 * is what fstat(3) is made of, and could tell that one is there. */
static const int pathless_calls[] = {
    SCMP_SYS(brk),
    SCMP_SYS(clock_gettime),
    SCMP_SYS(close),
    SCMP_SYS(exit),
    SCMP_SYS(exit_group),
    SCMP_SYS(fcntl),
    SCMP_SYS(fstat),
    SCMP_SYS(fsync),
    SCMP_SYS(ftruncate),
    SCMP_SYS(futex),
    SCMP_SYS(getpid),
    SCMP_SYS(getrandom),
    SCMP_SYS(gettimeofday),
    SCMP_SYS(lseek),
    SCMP_SYS(madvise),
    SCMP_SYS(mremap),
    SCMP_SYS(munmap),
    SCMP_SYS(pread64),
    SCMP_SYS(read),
    SCMP_SYS(restart_syscall),
    SCMP_SYS(rt_sigprocmask),
    SCMP_SYS(rt_sigreturn),
    SCMP_SYS(time),
    SCMP_SYS(write),
    SCMP_SYS(writev),
#ifdef __SANITIZE_ADDRESS__
    SCMP_SYS(gettid),
    SCMP_SYS(sigaltstack),
#endif
};

int cage_enter_root(int mount_fd, struct err *err)
{
    const unsigned flags = MOVE_MOUNT_F_EMPTY_PATH | (unsigned)MOVE_MOUNT_T_EMPTY_PATH;
    if (syscall(SYS_move_mount, mount_fd, "", AT_FDCWD, "", flags) != 0)
        return err_sys(err, errno, "attach the target");
    if (fchdir(mount_fd) != 0)
        return err_sys(err, errno, "enter the target");
    /* The old root is stacked on the new one and taken off (pivot_root(2), NOTES). */
    if (syscall(SYS_pivot_root, ".", ".") != 0)
        return err_sys(err, errno, "pivot_root");
    if (umount2(".", MNT_DETACH) != 0)
        return err_sys(err, errno, "detach the old root");
    return chdir("/") != 0 ? err_sys(err, errno, "enter the new root") : 0;
}

static int drop_capabilities(bool all, struct err *err)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];
    uint64_t kept = 0;
    memset(data, 0, sizeof(data));
    for (size_t i = 0; i < ARRAY_SIZE(kept_caps) && !all; i++)
        kept |= UINT64_C(1) << kept_caps[i];
    for (int cap = 0; cap <= LAST_CAP; cap++) {
        if ((kept >> cap & 1) == 0)
            (void)prctl(PR_CAPBSET_DROP, cap, 0, 0, 0); /* EINVAL past the kernel's last one */
    }
    (void)prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    data[0].effective = data[0].permitted = (uint32_t)kept;
    data[1].effective = data[1].permitted = (uint32_t)(kept >> 32);
    if (syscall(SYS_capset, &header, data) != 0)
        return err_sys(err, errno, "drop capabilities");
    return 0;
}

static int limit(int resource, uint64_t value, struct err *err)
{
    const struct rlimit wanted = {.rlim_cur = value, .rlim_max = value};
    struct rlimit current;
    if (getrlimit(resource, &current) == 0 && current.rlim_max < value)
        return 0;
    return setrlimit(resource, &wanted) != 0 ? err_sys(err, errno, "setrlimit") : 0;
}

static int set_limits(uint64_t file_size_max, struct err *err)
{
    int result = limit(RLIMIT_FSIZE, file_size_max, err);
    if (result == 0)
        result = limit(RLIMIT_NOFILE, OPEN_FILES_MAX, err);
    /* 1, not 0: a core pattern that is a pipe ignores 0 and is skipped for 1 (core(5)). */
    if (result == 0)
        result = limit(RLIMIT_CORE, 1, err);
#ifndef __SANITIZE_ADDRESS__ /* its shadow alone is terabytes of address space */
    if (result == 0)
        result = limit(RLIMIT_AS, MEMORY_MAX, err);
#endif
    (void)signal(SIGXFSZ, SIG_IGN); /* EFBIG can be reported, a signal can't */
    return result;
}

static int add_rules(scmp_filter_ctx filter, const int *calls, size_t count)
{
    /* mmap(2), mprotect(2): the third argument is the protection in both. */
    const struct scmp_arg_cmp no_exec =
        SCMP_A2(SCMP_CMP_MASKED_EQ, (scmp_datum_t)PROT_EXEC, (scmp_datum_t)0);
    int result = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1, no_exec);
    if (result == 0)
        result = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1, no_exec);
    for (size_t i = 0; result == 0 && i < count; i++)
        result = seccomp_rule_add(filter, SCMP_ACT_ALLOW, calls[i], 0);
    return result;
}

static int load_filter(const int *calls, size_t count, struct err *err)
{
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ERRNO(ENOSYS));
    if (!filter)
        return err_set(err, ERR_INTERNAL, "no memory for a seccomp filter");
    int result = add_rules(filter, calls, count);
    if (result == 0)
        result = seccomp_load(filter);
    seccomp_release(filter);
    return result != 0 ? err_sys(err, -result, "seccomp filter") : 0;
}

static int lock(uint64_t file_size_max, bool paths, struct err *err)
{
    int result = set_limits(file_size_max, err);
    if (result == 0)
        result = drop_capabilities(!paths, err);
    if (result == 0 && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        result = err_sys(err, errno, "no new privileges");
    if (result == 0 && paths)
        result = load_filter(allowed_calls, ARRAY_SIZE(allowed_calls), err);
    else if (result == 0)
        result = load_filter(pathless_calls, ARRAY_SIZE(pathless_calls), err);
    return result;
}

int cage_lock(uint64_t file_size_max, struct err *err)
{
    return lock(file_size_max, true, err);
}

int cage_lock_paths(uint64_t file_size_max, struct err *err)
{
    return lock(file_size_max, false, err);
}
