/* Owns the process's own cage. The filter names what is forbidden: a resolver is made of modules of
 * the host, which call what they like. */
#include "egress/harden.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"

#define READS (LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR)
/* All of the first version of Landlock (Linux 5.13). */
#define HANDLED (READS | (LANDLOCK_ACCESS_FS_MAKE_SYM * 2 - 1))

static void allow_reading(int rules_fd, const char *path)
{
    FD_AUTO int fd = open(path, O_PATH | O_CLOEXEC);
    struct landlock_path_beneath_attr beneath = {.allowed_access = READS, .parent_fd = fd};
    if (fd >= 0) /* ENOENT: this host has no such folder */
        (void)syscall(SYS_landlock_add_rule, rules_fd, LANDLOCK_RULE_PATH_BENEATH, &beneath, 0U);
}

/* What a resolver and its modules read: their configuration, their code, sockets' folders. */
static void limit_files(void)
{
    static const char *const readable[] = {"/etc", "/usr", "/lib", "/lib64", "/run", "/var/run"};
    const struct landlock_ruleset_attr handled = {.handled_access_fs = HANDLED};
    FD_AUTO int fd = (int)syscall(SYS_landlock_create_ruleset, &handled, sizeof(handled), 0U);
    for (size_t i = 0; fd >= 0 && i < ARRAY_SIZE(readable); i++)
        allow_reading(fd, readable[i]);
    if (fd < 0 || syscall(SYS_landlock_restrict_self, fd, 0U) != 0)
        log_debug("this kernel can't limit which files the process sees");
}

static int limit_calls(struct err *err)
{
    static const int forbidden[] = {
        SCMP_SYS(execve),
        SCMP_SYS(execveat),
        SCMP_SYS(fork),
        SCMP_SYS(vfork),
        SCMP_SYS(kill),
        SCMP_SYS(tkill),
        SCMP_SYS(pidfd_open),
        SCMP_SYS(pidfd_send_signal),
        SCMP_SYS(pidfd_getfd),
        SCMP_SYS(ptrace),
        SCMP_SYS(process_vm_readv),
        SCMP_SYS(process_vm_writev),
        SCMP_SYS(unshare),
        SCMP_SYS(setns),
        SCMP_SYS(mount),
        SCMP_SYS(umount2),
        SCMP_SYS(pivot_root),
        SCMP_SYS(chroot),
        SCMP_SYS(open_tree),
        SCMP_SYS(move_mount),
        SCMP_SYS(fsopen),
        SCMP_SYS(bpf),
        SCMP_SYS(perf_event_open),
        SCMP_SYS(userfaultfd),
        SCMP_SYS(io_uring_setup),
        SCMP_SYS(keyctl),
        SCMP_SYS(add_key),
        SCMP_SYS(request_key),
        SCMP_SYS(setuid),
        SCMP_SYS(setresuid),
        SCMP_SYS(setgid),
        SCMP_SYS(setresgid),
        SCMP_SYS(setgroups),
        SCMP_SYS(prlimit64),
        SCMP_SYS(init_module),
        SCMP_SYS(finit_module),
        SCMP_SYS(kexec_load),
        SCMP_SYS(personality),
        SCMP_SYS(name_to_handle_at),
        SCMP_SYS(open_by_handle_at),
        SCMP_SYS(rt_tgsigqueueinfo),
    };
    static const int families[] = {AF_UNIX, AF_INET, AF_INET6, AF_NETLINK};
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);
    int failed = filter ? 0 : -ENOMEM;
    for (size_t i = 0; i < ARRAY_SIZE(forbidden) && failed == 0; i++)
        failed = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), forbidden[i], 0);
    /* socket(2) of every other family: below, between and above them. */
    for (int family = 0; family < AF_MAX && failed == 0; family++) {
        bool allowed = false;
        for (size_t i = 0; i < ARRAY_SIZE(families); i++)
            allowed = allowed || families[i] == family;
        if (!allowed)
            failed = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EAFNOSUPPORT), SCMP_SYS(socket), 1,
                                      SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)family));
    }
    if (failed == 0) /* abort(3) of our own is fine */
        failed = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(tgkill), 1,
                                  SCMP_A0(SCMP_CMP_NE, (scmp_datum_t)getpid()));
    if (failed == 0) /* threads, and no namespace; clone3(2) hides its flags, glibc does without */
        failed = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(clone), 1,
                                  SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_NEWUSER, CLONE_NEWUSER));
    if (failed == 0)
        failed = seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
    if (failed == 0) /* limits may be read */
        failed = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(prlimit64), 1,
                                  SCMP_A2(SCMP_CMP_NE, 0));
    if (failed == 0)
        failed = seccomp_load(filter);
    if (filter)
        seccomp_release(filter);
    return failed == 0 ? 0 : err_sys(err, -failed, "install the filter of system calls");
}

int harden_process(struct err *err)
{
    const struct rlimit none = {0};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0 ||
        setrlimit(RLIMIT_CORE, &none) != 0)
        return err_sys(err, errno, "give up rights");
    limit_files();
    return limit_calls(err);
}
