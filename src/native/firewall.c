/* Owns the texts of the rules, and the run of nft(8). No word of a request is in a text. */
#include "native/firewall.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <libmnl/libmnl.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/fd.h"
#include "base/ipv4.h"
#include "base/mem.h"
#include "base/parse.h"

#define TEXT_MAX 16384

enum { NFT_TIMEOUT_MS = 5000, FLOWS_MAX = 1024 /* of one sandbox */, EXIT_NO_PROGRAM = 127 };

static uint32_t mask_of(unsigned prefix)
{
    return prefix == 0 ? 0 : UINT32_MAX << (32 - prefix);
}

int firewall_parse_range(const char *text, struct firewall_range *out, struct err *err)
{
    char address[INET_ADDRSTRLEN];
    struct in_addr parsed;
    uint64_t prefix = 32;
    size_t size = strcspn(text, "/");
    bool good = size < sizeof(address);
    if (good) {
        memcpy(address, text, size);
        address[size] = '\0';
        good = inet_pton(AF_INET, address, &parsed) == 1 &&
               (text[size] == '\0' || parse_u64(text + size + 1, 0, 32, &prefix, NULL) == 0);
    }
    if (!good)
        return err_set(err, ERR_BAD_INPUT, "\"%.40s\" is no range of IPv4 addresses (10.1.0.0/16)",
                       text);
    out->prefix = (unsigned)prefix;
    out->ipv4 = ntohl(parsed.s_addr) & mask_of(out->prefix);
    return 0;
}

/* ---- the texts ---- */

static int put_range(struct buf *text, struct firewall_range range, struct err *err)
{
    return buf_printf(text, err, "%u.%u.%u.%u/%u", range.ipv4 >> 24, (range.ipv4 >> 16) & 255,
                      (range.ipv4 >> 8) & 255, range.ipv4 & 255, range.prefix);
}

/* "WHO ip daddr RANGE VERDICT" */
static int put_rule(struct buf *text, const char *who, struct firewall_range range,
                    const char *verdict, struct err *err)
{
    int result = buf_printf(text, err, "  %s ip daddr ", who);
    if (result == 0)
        result = put_range(text, range, err);
    return result == 0 ? buf_printf(text, err, " %s\n", verdict) : result;
}

/* Where what `who` matches may go. */
static int put_destinations(struct buf *text, const struct firewall_spec *spec, const char *who,
                            struct err *err)
{
    static const char refuse[] = "reject with icmp type admin-prohibited";
    int result = 0;
    for (size_t i = 0; i < spec->server_count && result == 0; i++)
        result = put_rule(text, who, (struct firewall_range){spec->servers[i], 32},
                          "meta l4proto { tcp, udp } th dport 53 accept", err);
    if (result == 0) /* before the exceptions: sandboxes stay apart whatever they are */
        result = put_rule(text, who, spec->subnet, refuse, err);
    for (size_t i = 0; i < spec->except_count && result == 0; i++)
        result = put_rule(text, who, spec->excepts[i], "accept", err);
    size_t count = 0;
    const struct ipv4_range *reserved = ipv4_reserved(&count);
    for (size_t i = 0; i < count && result == 0; i++)
        result =
            put_rule(text, who, (struct firewall_range){reserved[i].address, reserved[i].prefix},
                     refuse, err);
    return result;
}

/* A table is put in place of another in one transaction: there is no moment without. */
static int put_head(struct buf *text, const char *table, struct err *err)
{
    return buf_printf(text, err, "table inet %s\ndelete table inet %s\ntable inet %s {\n", table,
                      table, table);
}

static int put_host_rules(struct buf *text, const struct firewall_spec *spec, struct err *err)
{
    char who[32];
    const char *links = spec->links;
    (void)snprintf(who, sizeof(who), "iifname \"%s*\"", links);
    int result = put_head(text, spec->table, err);
    if (result == 0)
        result = buf_printf(
            text, err,
            " set flows { type ipv4_addr; size 16384; flags dynamic; }\n"
            " chain prerouting { type filter hook prerouting priority -150; policy accept;\n"
            "  %s meta nfproto ipv6 drop\n"
            "  %s fib saddr . iif oif missing drop\n" /* not an address of this interface */
            " }\n"
            " chain input { type filter hook input priority -150; policy accept;\n"
            "  %s drop\n"
            " }\n"
            " chain forward { type filter hook forward priority -150; policy accept;\n"
            "  oifname \"%s*\" ct state established,related accept\n"
            "  oifname \"%s*\" drop\n"
            "  %s ct state invalid drop\n"
            "  %s ct state new add @flows { ip saddr ct count over %d } drop\n",
            who, who, who, links, links, who, who, FLOWS_MAX);
    if (result == 0)
        result = put_destinations(text, spec, who, err);
    if (result == 0)
        result = buf_printf(
            text, err,
            " }\n chain postrouting { type nat hook postrouting priority 100; policy accept;\n"
            "  oifname != \"%s*\" ip saddr ",
            links);
    if (result == 0)
        result = put_range(text, spec->subnet, err);
    return result == 0 ? buf_append_str(text, " masquerade\n }\n}\n", err) : result;
}

static int put_inside_rules(struct buf *text, const struct firewall_spec *spec, struct err *err)
{
    static const char who[] = "oifname != \"lo\"";
    int result = put_head(text, "berth", err);
    if (result == 0)
        result =
            buf_append_str(text,
                           " chain input { type filter hook input priority 0; policy accept;\n"
                           "  iifname != \"lo\" meta nfproto ipv6 drop\n }\n"
                           " chain output { type filter hook output priority 0; policy accept;\n"
                           "  oifname != \"lo\" meta nfproto ipv6 drop\n",
                           err);
    if (result == 0)
        result = put_destinations(text, spec, who, err);
    return result == 0 ? buf_append_str(text, " }\n}\n", err) : result;
}

/* ---- nft ---- */

static int make_file(const struct buf *text, int *out_fd, struct err *err)
{
    FD_AUTO int fd = memfd_create("berth-nft", MFD_CLOEXEC);
    if (fd < 0)
        return err_sys(err, errno, "a file in memory");
    int result = text ? fd_write_all(fd, text->data, text->size, err) : 0;
    if (result == 0 && lseek(fd, 0, SEEK_SET) != 0)
        result = err_sys(err, errno, "rewind a file in memory");
    if (result == 0)
        *out_fd = fd_take(&fd);
    return result;
}

_Noreturn static void run_nft(int netns_fd, int text_fd, int words_fd)
{
    static char name[] = "nft", option[] = "-f", place[] = "-", path[] = "PATH=/usr/sbin:/sbin";
    static const char *const programs[] = {"/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft"};
    char *const argv[] = {name, option, place, NULL};
    char *const envp[] = {path, NULL};
    sigset_t none;
    (void)sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    if (netns_fd >= 0 && setns(netns_fd, CLONE_NEWNET) != 0) {
        (void)dprintf(words_fd, "enter the network of the sandbox: %s", strerror(errno));
        _exit(1);
    }
    if (dup2(text_fd, STDIN_FILENO) < 0 || dup2(words_fd, STDOUT_FILENO) < 0 ||
        dup2(words_fd, STDERR_FILENO) < 0)
        _exit(1);
    for (size_t i = 0; i < ARRAY_SIZE(programs); i++)
        (void)execve(programs[i], argv, envp);
    _exit(EXIT_NO_PROGRAM);
}

static int wait_for_nft(pid_t pid, int *out_status, struct err *err)
{
    FD_AUTO int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    struct pollfd ended = {.fd = pidfd, .events = POLLIN};
    int count = 0;
    do
        count = pidfd >= 0 ? poll(&ended, 1, NFT_TIMEOUT_MS) : -1;
    while (count < 0 && pidfd >= 0 && errno == EINTR);
    if (count <= 0)
        (void)kill(pid, SIGKILL);
    if (waitpid(pid, out_status, 0) != pid)
        return err_sys(err, errno, "wait for nft");
    return count > 0 ? 0 : err_set(err, ERR_INTERNAL, "nft did not end in time");
}

/* Has nft read text, in the network namespace netns_fd, -1 for ours. ERR_INTERNAL: it refused. */
static int feed(const struct buf *text, int netns_fd, struct err *err)
{
    FD_AUTO int text_fd = -1;
    FD_AUTO int words_fd = -1;
    int status = 0;
    int result = make_file(text, &text_fd, err);
    if (result == 0)
        result = make_file(NULL, &words_fd, err);
    if (result != 0)
        return result;
    pid_t pid = fork();
    if (pid < 0)
        return err_sys(err, errno, "start nft");
    if (pid == 0)
        run_nft(netns_fd, text_fd, words_fd);
    result = wait_for_nft(pid, &status, err);
    if (result != 0 || (WIFEXITED(status) && WEXITSTATUS(status) == 0))
        return result;
    if (WIFEXITED(status) && WEXITSTATUS(status) == EXIT_NO_PROGRAM)
        return err_public(err, ERR_UNSUPPORTED, "there is no nft(8) (package nftables)");
    char words[200] = "";
    ssize_t size = pread(words_fd, words, sizeof(words) - 1, 0);
    words[size > 0 ? size : 0] = '\0';
    words[strcspn(words, "\n")] = '\0';
    return err_set(err, ERR_INTERNAL, "nft: %s", words[0] ? words : "it failed without a word");
}

int firewall_put(const struct firewall_spec *spec, struct err *err)
{
    BUF_AUTO struct buf text;
    buf_init(&text, TEXT_MAX);
    int result = put_host_rules(&text, spec, err);
    return result == 0 ? feed(&text, -1, err) : result;
}

int firewall_remove(const struct firewall_spec *spec, struct err *err)
{
    BUF_AUTO struct buf text;
    buf_init(&text, TEXT_MAX);
    /* The first line makes it, so that the second finds it. */
    int result =
        buf_printf(&text, err, "table inet %s\ndelete table inet %s\n", spec->table, spec->table);
    return result == 0 ? feed(&text, -1, err) : result;
}

/* Asked by nfnetlink: an engine looks at its start too, where most hosts have no nft. */
int firewall_check(const struct firewall_spec *spec, struct err *err)
{
    char buffer[1024];
    struct mnl_socket *socket = mnl_socket_open2(NETLINK_NETFILTER, SOCK_CLOEXEC);
    struct nlmsghdr *message = mnl_nlmsg_put_header(buffer);
    message->nlmsg_type = (NFNL_SUBSYS_NFTABLES << 8) | NFT_MSG_GETTABLE;
    message->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
    message->nlmsg_seq = 1;
    struct nfgenmsg *family = mnl_nlmsg_put_extra_header(message, sizeof(*family));
    family->nfgen_family = NFPROTO_INET;
    family->version = NFNETLINK_V0;
    mnl_attr_put_strz(message, NFTA_TABLE_NAME, spec->table);
    int more = socket && mnl_socket_bind(socket, 0, MNL_SOCKET_AUTOPID) == 0 &&
                       mnl_socket_sendto(socket, message, message->nlmsg_len) >= 0
                   ? 1
                   : -1;
    while (more > 0) {
        ssize_t size = mnl_socket_recvfrom(socket, buffer, sizeof(buffer));
        more = size < 0
                   ? -1
                   : mnl_cb_run(buffer, (size_t)size, 1, mnl_socket_get_portid(socket), NULL, NULL);
    }
    int number = errno;
    if (socket)
        (void)mnl_socket_close(socket);
    if (more == 0)
        return 0;
    return number == ENOENT ? err_set(err, ERR_NOT_FOUND, "the table %s is gone", spec->table)
                            : err_sys(err, number, "look for the table %s", spec->table);
}

int firewall_put_inside(const struct firewall_spec *spec, int netns_fd, struct err *err)
{
    BUF_AUTO struct buf text;
    buf_init(&text, TEXT_MAX);
    int result = put_inside_rules(&text, spec, err);
    return result == 0 ? feed(&text, netns_fd, err) : result;
}
