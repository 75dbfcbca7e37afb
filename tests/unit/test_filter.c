/* The seccomp filters. Those of the profiles applied in a child: raw calls that they allow, and
 * calls that answer ENOSYS as if the kernel did not know them. And all of them compared, call by
 * call. */
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/netlink.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/personality.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "child.h"
#include "init/filter.h"
#include "init/filters.h"

static void test_the_filter_is_sane(void **state)
{
    (void)state;
    assert_in_range(ARRAY_SIZE(strict_filter), 64, 4096 /* BPF_MAXINSNS */);
    /* the first instruction loads the architecture: numbers mean nothing without it */
    assert_int_equal(strict_filter[0].code, BPF_LD | BPF_W | BPF_ABS);
    assert_int_equal(strict_filter[0].k, offsetof(struct seccomp_data, arch));
    unsigned allows = 0;
    unsigned others = 0;
    for (size_t i = 0; i < ARRAY_SIZE(strict_filter); i++) {
        if (BPF_CLASS(strict_filter[i].code) != BPF_RET)
            continue;
        bool denies = strict_filter[i].k == (SECCOMP_RET_ERRNO | ENOSYS) ||
                      strict_filter[i].k == SECCOMP_RET_ERRNO /* sync */;
        allows += strict_filter[i].k == SECCOMP_RET_ALLOW;
        others += strict_filter[i].k != SECCOMP_RET_ALLOW && !denies;
    }
    assert_true(allows > 0);
    assert_int_equal(others, 0); /* nothing kills, traces or logs */
}

/* Runs a filter as the kernel does (linux/filter.h): the few instructions that they are made of. */
static uint32_t evaluate(const struct sock_filter *code, size_t count,
                         const struct seccomp_data *data)
{
    uint32_t accumulator = 0;
    for (size_t i = 0; i < count; i++) {
        const struct sock_filter *step = &code[i];
        size_t jump = 0;
        switch (step->code) {
        case BPF_LD | BPF_W | BPF_ABS:
            assert_true(step->k + sizeof(accumulator) <= sizeof(*data));
            memcpy(&accumulator, (const char *)data + step->k, sizeof(accumulator));
            break;
        case BPF_ALU | BPF_AND | BPF_K:
            accumulator &= step->k;
            break;
        case BPF_RET | BPF_K:
            return step->k;
        case BPF_JMP | BPF_JA:
            jump = step->k;
            break;
        case BPF_JMP | BPF_JEQ | BPF_K:
            jump = accumulator == step->k ? step->jt : step->jf;
            break;
        case BPF_JMP | BPF_JSET | BPF_K:
            jump = (accumulator & step->k) != 0 ? step->jt : step->jf;
            break;
        case BPF_JMP | BPF_JGE | BPF_K:
            jump = accumulator >= step->k ? step->jt : step->jf;
            break;
        default:
            fail_msg("an instruction 0x%x", step->code);
        }
        i += jump;
    }
    fail_msg("no end");
    return 0;
}

struct verdicts {
    uint32_t strict, container, init;
};

static struct verdicts judge(int number, uint64_t a, uint64_t b, uint64_t c)
{
    const struct seccomp_data data = {
        .nr = number, .arch = strict_filter[1].k, .args = {a, b, c, 0, 0, 0}};
    return (struct verdicts){evaluate(strict_filter, ARRAY_SIZE(strict_filter), &data),
                             evaluate(container_filter, ARRAY_SIZE(container_filter), &data),
                             evaluate(init_filter, ARRAY_SIZE(init_filter), &data)};
}

/* It succeeds, and the host's other file systems are not written back. */
static void test_sync_does_nothing(void **state)
{
    (void)state;
    struct verdicts got = judge(SYS_sync, 0, UINT64_MAX, 7);
    assert_int_equal(got.strict, SECCOMP_RET_ERRNO);
    assert_int_equal(got.container, SECCOMP_RET_ERRNO);
    assert_int_equal(got.init, SECCOMP_RET_ERRNO);
    assert_int_equal(judge(SYS_syncfs, 3, 0, 0).strict, SECCOMP_RET_ALLOW);
    assert_int_equal(judge(SYS_fsync, 3, 0, 0).strict, SECCOMP_RET_ALLOW);
}

/* Init's filter is below that of every child: it must allow all that theirs do. And beside what the
 * strict profile has, the others have just the calls that are meant. */
static void test_what_one_filter_has_and_another_not(void **state)
{
    (void)state;
    static const uint64_t values[] = {
        0,           1,       2,         10,          16,         CLONE_NEWUSER, CLONE_NEWCGROUP,
        CLONE_NEWNS, TIOCSTI, TIOCLINUX, TIOCSTI + 1, UINT32_MAX, UINT64_MAX};
    static const int only_container[] = {SYS_chroot, SYS_ptrace, SYS_process_vm_readv,
                                         SYS_process_vm_writev};
    static const int only_init[] = {SYS_clone, SYS_clone3, SYS_setns, SYS_unshare};
    const size_t count = ARRAY_SIZE(values);
    bool more_container[600] = {false};
    bool more_init[600] = {false};
    for (size_t i = 0; i < 600 * count * count * count; i++) {
        int number = (int)(i % 600);
        size_t rest = i / 600;
        struct verdicts got = judge(number, values[rest % count], values[rest / count % count],
                                    values[rest / count / count]);
        bool strict = got.strict == SECCOMP_RET_ALLOW;
        bool container = got.container == SECCOMP_RET_ALLOW;
        bool init = got.init == SECCOMP_RET_ALLOW;
        assert_false(strict && !container);
        assert_false(container && !init);
        more_container[number] |= container && !strict;
        more_init[number] |= init && !container;
    }
    for (size_t i = 0; i < ARRAY_SIZE(only_container); i++) {
        assert_true(more_container[only_container[i]]);
        more_container[only_container[i]] = false;
    }
    for (size_t i = 0; i < ARRAY_SIZE(only_init); i++) {
        assert_true(more_init[only_init[i]]);
        more_init[only_init[i]] = false;
    }
    for (size_t i = 0; i < 600; i++)
        assert_false(more_container[i] || more_init[i]);
}

static void test_what_init_may_pass(void **state)
{
    (void)state;
    const uint32_t allow = SECCOMP_RET_ALLOW;
    const uint32_t none = SECCOMP_RET_ERRNO | ENOSYS;
    assert_int_equal(judge(SYS_setns, 7, CLONE_NEWUSER, 0).init, allow);
    assert_int_equal(judge(SYS_setns, 7, 0, 0).init, none);
    assert_int_equal(judge(SYS_setns, 7, CLONE_NEWUSER | CLONE_NEWNS, 0).init, none);
    assert_int_equal(judge(SYS_unshare, CLONE_NEWCGROUP, 0, 0).init, allow);
    assert_int_equal(judge(SYS_unshare, CLONE_NEWUSER, 0, 0).init, none);
    assert_int_equal(judge(SYS_unshare, CLONE_NEWCGROUP | CLONE_NEWNS, 0, 0).init, none);
    assert_int_equal(judge(SYS_unshare, CLONE_FILES, 0, 0).init, none);
    /* PAM's question for audit has the answer that it understands, in the container only */
    uint64_t netlink = AF_NETLINK;
    assert_int_equal(judge(SYS_socket, netlink, SOCK_RAW, NETLINK_AUDIT).container,
                     SECCOMP_RET_ERRNO | EPROTONOSUPPORT);
    assert_int_equal(judge(SYS_socket, netlink, SOCK_RAW, NETLINK_AUDIT).strict, none);
}

static void enter(enum filter_kind kind)
{
    require(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    require(filter_install(kind) == 0);
}

/* As if this kernel had no such call. */
static void refused(const char *name, long number, long a, long b, long c)
{
    errno = 0;
    long result = syscall(number, a, b, c, 0L, 0L, 0L);
    if (result != -1 || errno != ENOSYS) {
        (void)fprintf(stderr, "# %s answers %ld, errno %d\n", name, result, errno);
        _exit(CHILD_FAILED);
    }
}
#define REFUSED(name, ...) refused(#name, SYS_##name, __VA_ARGS__)

static void calls_that_are_not_there(void *context)
{
    enter(*(enum filter_kind *)context);
    bool container = *(enum filter_kind *)context == FILTER_CONTAINER;
    REFUSED(clone3, 0, 0, 0);
    REFUSED(unshare, 0, 0, 0);
    REFUSED(setns, -1, 0, 0);
    REFUSED(mount, 0, 0, 0);
    REFUSED(umount2, 0, 0, 0);
    REFUSED(pivot_root, 0, 0, 0);
    REFUSED(open_tree, -1, 0, 0);
    REFUSED(move_mount, -1, 0, -1);
    REFUSED(fsopen, 0, 0, 0);
    REFUSED(fsmount, -1, 0, 0);
    REFUSED(fspick, -1, 0, 0);
    REFUSED(mount_setattr, -1, 0, 0);
    REFUSED(open_by_handle_at, -1, 0, 0);
    REFUSED(bpf, 0, 0, 0);
    REFUSED(perf_event_open, 0, 0, -1);
    REFUSED(userfaultfd, 0, 0, 0);
    REFUSED(io_uring_setup, 1, 0, 0);
    REFUSED(io_uring_enter, -1, 0, 0);
    REFUSED(io_uring_register, -1, 0, 0);
    REFUSED(keyctl, 0, 0, 0);
    REFUSED(add_key, 0, 0, 0);
    REFUSED(request_key, 0, 0, 0);
    REFUSED(init_module, 0, 0, 0);
    REFUSED(finit_module, -1, 0, 0);
    REFUSED(delete_module, 0, 0, 0);
    REFUSED(kexec_load, 0, 0, 0);
    REFUSED(reboot, 0, 0, 0);
    REFUSED(swapon, 0, 0, 0);
    REFUSED(syslog, 0, 0, 0);
    REFUSED(acct, 0, 0, 0);
    REFUSED(settimeofday, 0, 0, 0);
    REFUSED(clock_settime, 0, 0, 0);
    REFUSED(sethostname, 0, 0, 0);
    REFUSED(quotactl, 0, 0, 0);
    REFUSED(kcmp, 0, 0, 0);
    if (!container) {
        REFUSED(chroot, 0, 0, 0);
        REFUSED(ptrace, 0, 0, 0);
        REFUSED(process_vm_readv, 0, 0, 0);
        REFUSED(process_vm_writev, 0, 0, 0);
    }
    refused("a number that nobody has", 4000, 0, 0, 0);
}

static void arguments_that_are_not_there(void *context)
{
    enter(*(enum filter_kind *)context);
    static const long flags[] = {CLONE_NEWNS,   CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC,
                                 CLONE_NEWUSER, CLONE_NEWPID,    CLONE_NEWNET};
    for (size_t i = 0; i < ARRAY_SIZE(flags); i++) {
        refused("clone with a namespace", SYS_clone, flags[i] | SIGCHLD, 0, 0);
        refused("clone with a namespace", SYS_clone, flags[i] | CLONE_VM | SIGCHLD, 0, 0);
    }
    static const long families[] = {AF_PACKET, AF_VSOCK, AF_ALG, AF_KEY, AF_BLUETOOTH, AF_XDP, 0};
    for (size_t i = 0; i < ARRAY_SIZE(families); i++)
        refused("socket of another family", SYS_socket, families[i], SOCK_RAW, 0);
    refused("a pair of another family", SYS_socketpair, AF_INET, SOCK_STREAM, 0);
    refused("personality READ_IMPLIES_EXEC", SYS_personality, READ_IMPLIES_EXEC, 0, 0);
    refused("personality ADDR_COMPAT_LAYOUT", SYS_personality, ADDR_COMPAT_LAYOUT, 0, 0);
    refused("ioctl TIOCSTI", SYS_ioctl, 0, TIOCSTI, 0);
    refused("ioctl TIOCLINUX", SYS_ioctl, 0, TIOCLINUX, 0);
    /* the kernel looks at the low 32 bits only */
    refused("ioctl TIOCSTI and a high bit", SYS_ioctl, 0, (1L << 32) | TIOCSTI, 0);
    refused("ioctl TIOCSTI and high bits", SYS_ioctl, 0, (long)(0xffffffffUL << 32 | TIOCSTI), 0);
}

static void what_programs_need(void *context)
{
    char text[64];
    int ends[2];
    enter(*(enum filter_kind *)context);
    require(syscall(SYS_getpid) == getpid());
    require(syscall(SYS_pipe2, ends, O_CLOEXEC) == 0);
    require(syscall(SYS_write, ends[1], "x", 1) == 1);
    require(syscall(SYS_read, ends[0], text, 1) == 1);
    require(syscall(SYS_ioctl, ends[0], FIONREAD, text) == 0);
    /* neighbours of what is refused reach the kernel */
    require(syscall(SYS_ioctl, ends[0], TIOCSTI + 1, text) == -1 && errno != ENOSYS);
    require(syscall(SYS_ioctl, ends[0], TIOCSTI - 1, text) == -1 && errno != ENOSYS);
    require(syscall(SYS_ioctl, ends[0], TIOCLINUX + 1, text) == -1 && errno != ENOSYS);
    require(syscall(SYS_socket, AF_UNIX, SOCK_STREAM, 0) >= 0);
    require(syscall(SYS_socketpair, AF_UNIX, SOCK_STREAM, 0, ends) == 0);
    require(syscall(SYS_socket, AF_INET, SOCK_STREAM, 0) >= 0);
    require(syscall(SYS_personality, 0xffffffffL) >= 0);
    require(syscall(SYS_getrandom, text, sizeof(text), 0) == (long)sizeof(text));
    require(syscall(SYS_futex, text, 1 /* FUTEX_WAKE */, 1, NULL, NULL, 0) >= 0);
    require(syscall(SYS_openat, AT_FDCWD, "/dev/null", O_RDONLY) >= 0);
    pid_t pid = fork();
    if (pid == 0)
        _exit(5);
    int status = 0;
    require(pid > 0 && waitpid(pid, &status, 0) == pid && WEXITSTATUS(status) == 5);
    (void)execl("/bin/sh", "sh", "-c", "exit 42", (char *)NULL);
    require(!"a program starts");
}

#ifdef __x86_64__
static void other_ways_into_the_kernel(void *context)
{
    enter(*(enum filter_kind *)context);
    /* the x32 numbers, which are a bit away, and the 32-bit table */
    refused("x32 getpid", 0x40000000L | SYS_getpid, 0, 0, 0);
    long result = 20; /* getpid of i386 */
    __asm__ volatile("int $0x80" : "+a"(result) : : "memory", "r8", "r9", "r10", "r11");
    require((int)result == -ENOSYS);
}
#endif

/* With the filter of either profile. */
static void run(void (*fn)(void *context), int wanted)
{
    enum filter_kind kinds[] = {FILTER_STRICT, FILTER_CONTAINER};
    for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
        assert_int_equal(child_run(fn, &kinds[i]), wanted);
}

static void test_calls_that_are_not_there(void **state)
{
    (void)state;
    run(calls_that_are_not_there, 0);
}

static void test_arguments_that_are_not_there(void **state)
{
    (void)state;
    run(arguments_that_are_not_there, 0);
}

static void test_what_programs_need(void **state)
{
    (void)state;
    run(what_programs_need, 42);
}

static void test_other_ways_into_the_kernel(void **state)
{
    (void)state;
#ifdef __x86_64__
    run(other_ways_into_the_kernel, 0);
#else
    skip_because("this machine has one way only");
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_filter_is_sane),
        cmocka_unit_test(test_sync_does_nothing),
        cmocka_unit_test(test_what_one_filter_has_and_another_not),
        cmocka_unit_test(test_what_init_may_pass),
        cmocka_unit_test(test_calls_that_are_not_there),
        cmocka_unit_test(test_arguments_that_are_not_there),
        cmocka_unit_test(test_what_programs_need),
        cmocka_unit_test(test_other_ways_into_the_kernel),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
