/* Build-time program: writes the seccomp filters as C arrays, so that the static init needs no
 * libseccomp. The lists are allow-only; what is not named answers ENOSYS, which runtimes take as
 * "old kernel" and fall back, where EPERM makes some of them stop. */
#include <errno.h>
#include <linux/filter.h>
#include <linux/netlink.h>
#include <sched.h>
#include <seccomp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/personality.h>
#include <sys/socket.h>
#include <unistd.h>

#include "init/filter_names.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static scmp_filter_ctx filter;

static void check(int result, const char *what)
{
    if (result < 0) {
        (void)fprintf(stderr, "filter_gen: %s: error %d\n", what, result);
        exit(1);
    }
}

static void allow_names(const char *const *names, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        int number = seccomp_syscall_resolve_name(names[i]);
        if (number == __NR_SCMP_ERROR || number < 0)
            continue; /* not a call of this architecture, or newer than this libseccomp */
        check(seccomp_rule_add(filter, SCMP_ACT_ALLOW, number, 0), names[i]);
    }
}

static void allow_sockets(void)
{
    const unsigned families[] = {AF_UNIX, AF_INET, AF_INET6};
    for (size_t i = 0; i < COUNT(families); i++) {
        check(seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(socket), 1,
                               SCMP_A0(SCMP_CMP_EQ, families[i])),
              "socket");
    }
    /* Names of interfaces, ss, and libudev, which takes silence for an answer. The rest (netfilter,
     * xfrm, crypto, audit) is a large part of the kernel for no program of ours. */
    const unsigned netlinks[] = {NETLINK_ROUTE, NETLINK_SOCK_DIAG, NETLINK_KOBJECT_UEVENT};
    for (size_t i = 0; i < COUNT(netlinks); i++) {
        check(seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(socket), 2,
                               SCMP_A0(SCMP_CMP_EQ, AF_NETLINK), SCMP_A2(SCMP_CMP_EQ, netlinks[i])),
              "socket");
    }
    check(seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(socketpair), 1,
                           SCMP_A0(SCMP_CMP_EQ, AF_UNIX)),
          "socketpair");
}

/* PAM takes "this kernel has no audit" for an answer in these words only: with another one su and
 * sudo refuse everybody. */
static void refuse_audit(void)
{
    check(seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPROTONOSUPPORT), SCMP_SYS(socket), 2,
                           SCMP_A0(SCMP_CMP_EQ, AF_NETLINK), SCMP_A2(SCMP_CMP_EQ, NETLINK_AUDIT)),
          "socket");
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
    const unsigned long personalities[] = {PER_LINUX, PER_LINUX | ADDR_NO_RANDOMIZE, 0xffffffffUL};
    for (size_t i = 0; i < COUNT(personalities); i++) {
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

/* Init's own steps into a child's identity. Its filter stays on every child and stacks with theirs,
 * so it can forbid nothing that the code of any profile may do: sockets, ptrace and chroot are in
 * it for the code's sake, although init has no use for them. */
static void allow_init(void)
{
    allow_names(init_calls, COUNT(init_calls));
    check(seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(setns), 1,
                           SCMP_A1(SCMP_CMP_EQ, CLONE_NEWUSER)),
          "setns");
    check(seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(unshare), 1,
                           SCMP_A0(SCMP_CMP_EQ, CLONE_NEWCGROUP)),
          "unshare");
}

static void write_array(const char *name, FILE *out)
{
    struct sock_filter code[4096];
    FILE *scratch = tmpfile();
    if (!scratch)
        exit(1);
    check(seccomp_export_bpf(filter, fileno(scratch)), "export");
    check((int)lseek(fileno(scratch), 0, SEEK_SET), "lseek");
    ssize_t size = read(fileno(scratch), code, sizeof(code));
    check((int)size, "read");
    (void)fclose(scratch);
    size_t count = (size_t)size / sizeof(code[0]);
    (void)fprintf(out, "static const struct sock_filter %s_filter[%zu] = {\n", name, count);
    for (size_t i = 0; i < count; i++)
        (void)fprintf(out, "    {0x%02x, %u, %u, 0x%08x},\n", code[i].code, code[i].jt, code[i].jf,
                      code[i].k);
    (void)fprintf(out, "};\n\n");
}

static void write_filter(const char *name, bool container, bool init, FILE *out)
{
    filter = seccomp_init(SCMP_ACT_ERRNO(ENOSYS));
    if (!filter)
        exit(1);
    check(seccomp_attr_set(filter, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_ERRNO(ENOSYS)), "bad arch");
    check(seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2), "optimize");
    allow_names(code_calls, COUNT(code_calls));
    allow_with_arguments();
    allow_sockets();
    allow_ioctl();
    if (container) {
        allow_names(container_calls, COUNT(container_calls));
        refuse_audit();
    }
    if (init)
        allow_init();
    write_array(name, out);
    seccomp_release(filter);
}

int main(int argc, char **argv)
{
    if (argc != 2)
        return 2;
    FILE *out = fopen(argv[1], "w");
    if (!out)
        return 1;
    (void)fprintf(out, "/* Generated by src/init/filter_gen.c; do not edit. */\n"
                       "#ifndef BERTH_INIT_FILTERS_H\n#define BERTH_INIT_FILTERS_H\n\n"
                       "#include <linux/filter.h>\n\n");
    write_filter("strict", false, false, out);
    write_filter("container", true, false, out);
    write_filter("init", true, true, out);
    (void)fprintf(out, "#endif\n");
    return fclose(out) == 0 ? 0 : 1;
}
