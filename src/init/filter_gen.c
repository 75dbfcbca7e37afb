/* Build-time program: compiles the seccomp filters to C arrays. The lists are allow-only; what is
 * not named answers ENOSYS, which runtimes take as "old kernel" and fall back, where EPERM makes
 * some of them stop.
 *
 * Not by libseccomp, which only knows the numbers here: the kernel translates a filter at each
 * installation and tries it for every call, so that size and depth cost each execution. Allowed
 * calls are mostly neighbours; a search tree over their ranges is a third as long as one over the
 * calls. Each filter is held against the rules before it is written. */
#include <errno.h>
#include <linux/filter.h>
#include <linux/keyctl.h>
#include <linux/netlink.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <seccomp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/personality.h>
#include <sys/socket.h>

#include "init/filter_names.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define ALLOW SECCOMP_RET_ALLOW
#define DENY (SECCOMP_RET_ERRNO | ENOSYS)

enum { NUMBER_MAX = 1024, CODE_MAX = 1024, VALUE_MAX = 8, RULES_MAX = 16, JUMP_MAX = 255 };

enum profile {
    STRICT = 1,
    CONTAINER = 2,
    INIT = 4,
    ZYGOTE = 8,
    ALL = STRICT | CONTAINER | INIT | ZYGOTE
};

enum test {
    ONE_OF,  /* the argument, all 64 bits, is one of the values */
    NONE_OF, /* its low 32 bits are none of the values */
    NO_BITS, /* its low 32 bits share none with values[0] */
};

/* A call that depends on its arguments. The first rule of a call that fits decides; none: DENY. */
struct rule {
    const char *name;
    unsigned profiles;
    bool only_netlink; /* and its first argument is AF_NETLINK */
    unsigned argument;
    enum test test;
    uint32_t verdict;
    size_t count;
    uint32_t values[VALUE_MAX];
};

#define NAMESPACES                                                                                 \
    (CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID |  \
     CLONE_NEWNET)

static const struct rule rules[] = {
    /* clone without any namespace flag; clone3 hides its flags in memory, so it stays ENOSYS.
     * CLONE_NEWTIME is no flag of clone(2): its bit is part of the exit signal there. */
    {"clone", ALL, false, 0, NO_BITS, ALLOW, 1, {NAMESPACES}},
    {"personality",
     ALL,
     false,
     0,
     ONE_OF,
     ALLOW,
     3,
     {PER_LINUX, PER_LINUX | ADDR_NO_RANDOMIZE, 0xffffffffU}},
    {"socket", ALL, false, 0, ONE_OF, ALLOW, 3, {AF_UNIX, AF_INET, AF_INET6}},
    /* Names of interfaces, ss, and libudev, which takes silence for an answer. The rest (netfilter,
     * xfrm, crypto, audit) is a large part of the kernel for no program of ours. */
    {"socket",
     ALL,
     true,
     2,
     ONE_OF,
     ALLOW,
     3,
     {NETLINK_ROUTE, NETLINK_SOCK_DIAG, NETLINK_KOBJECT_UEVENT}},
    /* PAM takes "this kernel has no audit" for an answer in these words only: with another one su
     * and sudo refuse everybody. */
    {"socket",
     CONTAINER | INIT,
     true,
     2,
     ONE_OF,
     SECCOMP_RET_ERRNO | EPROTONOSUPPORT,
     1,
     {NETLINK_AUDIT}},
    /* Programs on sockets: their machine code is counted against net.core.bpf_jit_limit of the
     * host, which filters of neighbours come out of too, and hardly against the memory of the
     * sandbox. */
    {"setsockopt", ALL, false, 1, NONE_OF, ALLOW, 1, {SOL_SOCKET}},
    {"setsockopt",
     ALL,
     false,
     2,
     NONE_OF,
     ALLOW,
     4,
     {SO_ATTACH_FILTER, SO_ATTACH_BPF, SO_ATTACH_REUSEPORT_CBPF, SO_ATTACH_REUSEPORT_EBPF}},
    {"socketpair", ALL, false, 0, ONE_OF, ALLOW, 1, {AF_UNIX}},
    /* It would write back every file system of the host, and a neighbour waits for it too (72 ms
     * for 1.5 seen). It promises no more than to have begun (POSIX), and the kernel begins by
     * itself; fsync and syncfs, which wait for files of the sandbox, are the kernel's. */
    {"sync", ALL, false, 0, NO_BITS, SECCOMP_RET_ERRNO | 0, 1, {0}},
    /* These two push bytes into a terminal's input. The kernel takes the request's low 32 bits. */
    {"ioctl", ALL, false, 1, NONE_OF, ALLOW, 2, {TIOCSTI, TIOCLINUX}},
    /* Init's own steps into a child's identity. Its filter stays on every child and stacks with
     * theirs, so it can forbid nothing that the code of any profile may do: sockets, ptrace and
     * chroot are in it for the code's sake, although init has no use for them. */
    {"setns", INIT | ZYGOTE, false, 1, ONE_OF, ALLOW, 1, {CLONE_NEWUSER}},
    {"unshare", INIT | ZYGOTE, false, 0, ONE_OF, ALLOW, 1, {CLONE_NEWCGROUP}},
    /* Where there is none to enter (gVisor, which has no clone3 either). */
    {"clone", INIT, false, 0, NO_BITS, ALLOW, 1, {NAMESPACES & ~CLONE_NEWUSER}},
    /* The same of a zygote, whose filter stays on the kernels that it forks (native/zygote.h): they
     * come from outside. */
    {"setns", ZYGOTE, false, 1, ONE_OF, ALLOW, 1, {NAMESPACES & ~CLONE_NEWCGROUP}},
    {"keyctl", ZYGOTE, false, 0, ONE_OF, ALLOW, 1, {KEYCTL_JOIN_SESSION_KEYRING}},
};

/* ---- what a filter has to say ---- */

struct policy {
    bool plain[NUMBER_MAX];
    const struct rule *of[NUMBER_MAX][RULES_MAX]; /* NULL-ended */
};
static struct policy policy;

static _Noreturn void give_up(const char *what)
{
    (void)fprintf(stderr, "filter_gen: %s\n", what);
    exit(1);
}

/* Negative: not a call of this architecture, or newer than this libseccomp. */
static int number_of(const char *name)
{
    int number = seccomp_syscall_resolve_name(name);
    if (number >= NUMBER_MAX)
        give_up(name);
    return number;
}

static void allow_names(const char *const *names, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        int number = number_of(names[i]);
        if (number >= 0)
            policy.plain[number] = true;
    }
}

static void make_policy(enum profile profile)
{
    memset(&policy, 0, sizeof(policy));
    allow_names(code_calls, COUNT(code_calls));
    if (profile == CONTAINER || profile == INIT)
        allow_names(container_calls, COUNT(container_calls));
    if (profile == INIT)
        allow_names(init_calls, COUNT(init_calls));
    for (size_t i = 0; i < COUNT(rules); i++) {
        int number = number_of(rules[i].name);
        if (number < 0 || (rules[i].profiles & (unsigned)profile) == 0)
            continue;
        size_t k = 0;
        while (policy.of[number][k])
            k++;
        if (k + 1 >= RULES_MAX || policy.plain[number])
            give_up(rules[i].name);
        policy.of[number][k] = &rules[i];
    }
}

static bool fits(const struct rule *rule, const struct seccomp_data *data)
{
    uint64_t value = data->args[rule->argument];
    if (rule->only_netlink && data->args[0] != AF_NETLINK)
        return false;
    bool found = false;
    for (size_t i = 0; i < rule->count; i++)
        found |= (rule->test == ONE_OF ? value : (uint32_t)value) == rule->values[i];
    if (rule->test == NO_BITS)
        return ((uint32_t)value & rule->values[0]) == 0;
    return rule->test == ONE_OF ? found : !found;
}

static uint32_t decide(const struct seccomp_data *data)
{
    if (data->arch != seccomp_arch_native() || data->nr < 0 || data->nr >= NUMBER_MAX)
        return DENY;
    if (policy.plain[data->nr])
        return ALLOW;
    for (size_t i = 0; policy.of[data->nr][i]; i++) {
        if (fits(policy.of[data->nr][i], data))
            return policy.of[data->nr][i]->verdict;
    }
    return DENY;
}

/* ---- the program (linux/filter.h) ---- */

static struct sock_filter code[CODE_MAX];
static size_t size;

static size_t emit(unsigned instruction, uint32_t k, size_t jump_true, size_t jump_false)
{
    if (size >= CODE_MAX || jump_true > JUMP_MAX || jump_false > JUMP_MAX)
        give_up("a filter is too large");
    code[size] =
        (struct sock_filter){(uint16_t)instruction, (uint8_t)jump_true, (uint8_t)jump_false, k};
    return size++;
}

static void load(size_t offset)
{
    (void)emit(BPF_LD | BPF_W | BPF_ABS, (uint32_t)offset, 0, 0);
}

static void answer(uint32_t verdict)
{
    (void)emit(BPF_RET | BPF_K, verdict, 0, 0);
}

/* Little-endian, as both architectures are that Debian's kernel runs sandboxes on. */
static size_t argument_offset(unsigned argument, bool high)
{
    return offsetof(struct seccomp_data, args) + argument * sizeof(uint64_t) + (high ? 4 : 0);
}

/* Remembers a jump that has to go behind the rule when its condition is false. */
static size_t emit_or_leave(uint32_t k)
{
    return emit(BPF_JMP | BPF_JEQ | BPF_K, k, 0, 0);
}

static void emit_rule(const struct rule *rule)
{
    size_t leaving[3];
    size_t count = 0;
    if (rule->only_netlink) {
        load(argument_offset(0, true));
        leaving[count++] = emit_or_leave(0);
        load(argument_offset(0, false));
        leaving[count++] = emit_or_leave(AF_NETLINK);
    }
    if (rule->test == ONE_OF) {
        load(argument_offset(rule->argument, true));
        leaving[count++] = emit_or_leave(0);
    }
    load(argument_offset(rule->argument, false));
    for (size_t i = 0; i < rule->count; i++) {
        if (rule->test == NO_BITS)
            (void)emit(BPF_JMP | BPF_JSET | BPF_K, rule->values[i], 1, 0);
        else if (rule->test == ONE_OF)
            (void)emit(BPF_JMP | BPF_JEQ | BPF_K, rule->values[i], 0, 1);
        else
            (void)emit(BPF_JMP | BPF_JEQ | BPF_K, rule->values[i], rule->count - i, 0);
        if (rule->test != NONE_OF)
            answer(rule->verdict);
    }
    if (rule->test == NONE_OF)
        answer(rule->verdict);
    for (size_t i = 0; i < count; i++) {
        if (size - leaving[i] - 1 > JUMP_MAX)
            give_up("a rule is too large");
        code[leaving[i]].jf = (uint8_t)(size - leaving[i] - 1);
    }
}

/* Neighbouring numbers with the same answer; a call with rules is alone. */
struct range {
    uint32_t first;
    bool plain;
    const struct rule *const *rules;
};
static struct range ranges[NUMBER_MAX + 1];

static size_t make_ranges(void)
{
    size_t count = 0;
    for (uint32_t i = 0; i < NUMBER_MAX; i++) {
        bool special = policy.of[i][0] != NULL;
        if (count > 0 && !special && !ranges[count - 1].rules &&
            ranges[count - 1].plain == policy.plain[i])
            continue;
        ranges[count++] = (struct range){i, policy.plain[i], special ? &policy.of[i][0] : NULL};
    }
    return count;
}

static void emit_range(const struct range *range)
{
    if (!range->rules) {
        answer(range->plain ? ALLOW : DENY);
        return;
    }
    for (size_t i = 0; range->rules[i]; i++)
        emit_rule(range->rules[i]);
    answer(DENY);
}

/* The number is in the accumulator: halves what it may be. */
static void emit_tree(const struct range *from, size_t count)
{
    if (count == 1) {
        emit_range(from);
        return;
    }
    size_t half = count / 2;
    size_t jump = emit(BPF_JMP | BPF_JGE | BPF_K, from[half].first, 0, 0);
    emit_tree(from, half);
    if (size - jump - 1 > JUMP_MAX)
        give_up("a half of the tree is too large");
    code[jump].jt = (uint8_t)(size - jump - 1);
    emit_tree(from + half, count - half);
}

static void compile(void)
{
    size = 0;
    load(offsetof(struct seccomp_data, arch));
    (void)emit(BPF_JMP | BPF_JEQ | BPF_K, seccomp_arch_native(), 1, 0);
    answer(DENY);
    load(offsetof(struct seccomp_data, nr));
    emit_tree(ranges, make_ranges());
}

/* ---- the proof ---- */

static uint32_t run(const struct seccomp_data *data)
{
    uint32_t value = 0;
    for (size_t i = 0; i < size; i++) {
        const struct sock_filter *step = &code[i];
        bool yes = false;
        switch (BPF_CLASS(step->code)) {
        case BPF_LD:
            memcpy(&value, (const char *)data + step->k, sizeof(value));
            continue;
        case BPF_RET:
            return step->k;
        default:
            yes = BPF_OP(step->code) == BPF_JGE    ? value >= step->k
                  : BPF_OP(step->code) == BPF_JSET ? (value & step->k) != 0
                                                   : value == step->k;
            i += yes ? step->jt : step->jf;
        }
    }
    give_up("a filter without an end");
}

/* Every number, with every value that a rule names in each argument that one looks at. */
static void prove(void)
{
    uint64_t values[2 + 3 * COUNT(rules) * VALUE_MAX] = {AF_NETLINK, AF_NETLINK | UINT64_C(1)
                                                                                      << 40};
    size_t count = 2;
    for (size_t i = 0; i < COUNT(rules); i++) {
        for (size_t k = 0; k < rules[i].count; k++) {
            values[count++] = rules[i].values[k];
            values[count++] = rules[i].values[k] + UINT64_C(1);
            values[count++] = rules[i].values[k] | UINT64_C(1) << 40;
        }
    }
    const uint32_t archs[] = {seccomp_arch_native(), seccomp_arch_native() ^ 1U};
    for (int number = -2; number < NUMBER_MAX + 2; number++) {
        for (size_t i = 0; i < count * count; i++) {
            struct seccomp_data data = {.nr = number};
            data.args[0] = values[i % count];
            data.args[1] = data.args[2] = values[i / count];
            for (size_t k = 0; k < COUNT(archs); k++) {
                data.arch = archs[k];
                if (run(&data) != decide(&data))
                    give_up("a filter does not do what its rules say");
            }
        }
    }
}

static void write_filter(const char *name, enum profile profile, FILE *out)
{
    make_policy(profile);
    compile();
    prove();
    (void)fprintf(out, "static const struct sock_filter %s_filter[%zu] = {\n", name, size);
    for (size_t i = 0; i < size; i++)
        (void)fprintf(out, "    {0x%02x, %u, %u, 0x%08x},\n", code[i].code, code[i].jt, code[i].jf,
                      code[i].k);
    (void)fprintf(out, "};\n\n");
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
    write_filter("strict", STRICT, out);
    write_filter("container", CONTAINER, out);
    write_filter("init", INIT, out);
    write_filter("zygote", ZYGOTE, out);
    (void)fprintf(out, "#endif\n");
    return fclose(out) == 0 ? 0 : 1;
}
