/* Attacks over the network and by shared memory, and on identities. */
#include "attack.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <mqueue.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <grp.h>
#include <unistd.h>

static void connect_unix(struct finding *finding, const char *name, int is_abstract)
{
    static const int types[] = {SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET};
    struct sockaddr_un address;
    memset(&address, 0, sizeof(address));
    address.sun_family = AF_UNIX;
    (void)snprintf(address.sun_path + is_abstract, sizeof(address.sun_path) - 1, "%s", name);
    socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(name) + 1);
    for (size_t i = 0; i < 3; i++) {
        int fd = socket(AF_UNIX, types[i] | SOCK_CLOEXEC, 0);
        judge_any(finding,
                  connect(fd, (const struct sockaddr *)&address, is_abstract ? size : size + 1),
                  name);
        (void)close(fd);
    }
}

void attack_abstract_host(struct finding *finding)
{
    connect_unix(finding, given("ATTACK_HOST_ABSTRACT"), 1);
}

void attack_abstract_neighbour(struct finding *finding)
{
    connect_unix(finding, given("ATTACK_NEIGHBOUR_ABSTRACT"), 1);
}

void attack_unix_paths(struct finding *finding)
{
    static const char *const paths[] = {"/var/run/docker.sock",
                                        "/run/docker.sock",
                                        "/run/containerd/containerd.sock",
                                        "/run/podman/podman.sock",
                                        "/run/systemd/private",
                                        "/run/systemd/notify",
                                        "/run/dbus/system_bus_socket",
                                        "/run/systemd/journal/socket",
                                        "/dev/log"};
    char path[4096];
    for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++)
        connect_unix(finding, paths[i], 0);
    (void)snprintf(path, sizeof(path), "%s/run/engine.sock", given("ATTACK_STATE"));
    connect_unix(finding, path, 0);
    connect_unix(finding, given("ATTACK_HOST_SOCKET"), 0);
}

/* All unix sockets that sock_diag(7) tells of. */
static void dump_sockets(struct finding *finding)
{
    static char answer[65536];
    struct {
        struct nlmsghdr header;
        struct unix_diag_req body;
    } request;
    memset(&request, 0, sizeof(request));
    request.header.nlmsg_len = sizeof(request);
    request.header.nlmsg_type = SOCK_DIAG_BY_FAMILY;
    request.header.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
    request.body.sdiag_family = AF_UNIX;
    request.body.udiag_states = ~0U;
    request.body.udiag_show = UDIAG_SHOW_NAME;
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
    if (fd < 0 || send(fd, &request, sizeof(request), 0) < 0)
        return;
    for (int i = 0; i < 64; i++) {
        ssize_t got = recv(fd, answer, sizeof(answer), MSG_DONTWAIT);
        if (got <= 0)
            break;
        look_at(finding, answer, (size_t)got, "sock_diag");
    }
    (void)close(fd);
}

void attack_unix_list(struct finding *finding)
{
    static const char *const files[] = {"/proc/net/unix", "/proc/net/tcp", "/proc/net/tcp6",
                                        "/proc/self/net/unix"};
    stopped(finding, "only own sockets are listed");
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++)
        (void)look_into(finding, files[i]);
    dump_sockets(finding);
}

static void connect_to(struct finding *finding, const char *text, unsigned long port)
{
    struct sockaddr_in six_or_four = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
    int is_four = inet_pton(AF_INET, text, &six_or_four.sin_addr) == 1;
    int is_six = inet_pton(AF_INET6, text, &six.sin6_addr) == 1;
    if (!is_four && !is_six)
        return;
    int fd = socket(is_four ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    long result = is_four ? connect(fd, (const struct sockaddr *)&six_or_four, sizeof(six_or_four))
                          : connect(fd, (const struct sockaddr *)&six, sizeof(six));
    if (result != 0 && errno == EINPROGRESS) {
        struct pollfd ready = {.fd = fd, .events = POLLOUT};
        int number = ETIMEDOUT;
        socklen_t size = sizeof(number);
        if (poll(&ready, 1, 1000) > 0)
            (void)getsockopt(fd, SOL_SOCKET, SO_ERROR, &number, &size);
        errno = number;
        result = number == 0 ? 0 : -1;
    }
    judge_any(finding, result, text);
    (void)close(fd);
}

void attack_host_tcp(struct finding *finding)
{
    connect_to(finding, "127.0.0.1", given_number("ATTACK_HOST_PORT"));
    connect_to(finding, "127.1.2.3", given_number("ATTACK_HOST_PORT"));
    connect_to(finding, "::1", given_number("ATTACK_HOST_PORT"));
}

void attack_server_tcp(struct finding *finding)
{
    connect_to(finding, "127.0.0.1", given_number("ATTACK_SERVER_PORT"));
    connect_to(finding, "0.0.0.0", given_number("ATTACK_SERVER_PORT"));
}

void attack_host_address(struct finding *finding)
{
    char list[512];
    char *rest = list;
    (void)snprintf(list, sizeof(list), "%s", given("ATTACK_HOST_ADDRESSES"));
    absent(finding, "the host has no other address");
    for (char *one = strsep(&rest, ","); one; one = strsep(&rest, ",")) {
        connect_to(finding, one, given_number("ATTACK_HOST_PORT"));
        connect_to(finding, one, given_number("ATTACK_SERVER_PORT"));
    }
}

void attack_metadata_service(struct finding *finding)
{
    static const char *const addresses[] = {"169.254.169.254", "10.0.0.1",   "172.17.0.1",
                                            "192.168.0.1",     "192.0.2.53", "fd00:ec2::254"};
    for (size_t i = 0; i < sizeof(addresses) / sizeof(addresses[0]); i++)
        connect_to(finding, addresses[i], 80);
}

void attack_neighbour_tcp(struct finding *finding)
{
    connect_to(finding, "127.0.0.1", given_number("ATTACK_NEIGHBOUR_PORT"));
}

/* ---- the network's own settings ---- */

/* Sends one rtnetlink(7) request with one attribute; the kernel's errno, 0 when it was done. */
static int ask_route(unsigned short type, const void *body, size_t size, unsigned short attribute,
                     const void *value, size_t value_size)
{
    struct {
        struct nlmsghdr header;
        char rest[256];
    } message;
    memset(&message, 0, sizeof(message));
    memcpy(NLMSG_DATA(&message.header), body, size);
    struct rtattr *extra =
        (struct rtattr *)((char *)NLMSG_DATA(&message.header) + NLMSG_ALIGN(size));
    extra->rta_type = attribute;
    extra->rta_len = (unsigned short)RTA_LENGTH(value_size);
    memcpy(RTA_DATA(extra), value, value_size);
    message.header.nlmsg_len = (unsigned)(NLMSG_SPACE(size) + RTA_ALIGN(extra->rta_len));
    message.header.nlmsg_type = type;
    message.header.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    char answer[1024];
    if (fd < 0 || send(fd, &message, message.header.nlmsg_len, 0) < 0)
        return errno;
    ssize_t got = recv(fd, answer, sizeof(answer), 0);
    (void)close(fd);
    struct nlmsgerr error = {.error = -EIO};
    if (got >= (ssize_t)(NLMSG_HDRLEN + sizeof(error)))
        memcpy(&error, answer + NLMSG_HDRLEN, sizeof(error));
    return -error.error;
}

static void judge_errno(struct finding *finding, int number, const char *what)
{
    errno = number;
    judge(finding, number == 0 ? 0 : -1, what);
}

void attack_netlink_link(struct finding *finding)
{
    struct ifinfomsg link;
    memset(&link, 0, sizeof(link));
    /* IFLA_LINKINFO { IFLA_INFO_KIND = "dummy" } */
    char kind[16] = {10, 0, 1, 0, 'd', 'u', 'm', 'm', 'y', 0};
    judge_errno(finding,
                ask_route(RTM_NEWLINK, &link, sizeof(link), IFLA_LINKINFO | 0x8000, kind, 12),
                "a new interface");
    link.ifi_index = 1;
    judge_errno(finding,
                ask_route(RTM_SETLINK, &link, sizeof(link), IFLA_IFNAME, "berth-attack", 13),
                "a new name");
}

void attack_netlink_route(struct finding *finding)
{
    struct ifaddrmsg address = {.ifa_family = AF_INET, .ifa_prefixlen = 8, .ifa_index = 1};
    struct rtmsg route = {.rtm_family = AF_INET,
                          .rtm_table = RT_TABLE_MAIN,
                          .rtm_protocol = RTPROT_STATIC,
                          .rtm_scope = RT_SCOPE_LINK,
                          .rtm_type = RTN_UNICAST};
    unsigned char ten[4] = {10, 0, 0, 1};
    int loopback = 1;
    judge_errno(finding, ask_route(RTM_NEWADDR, &address, sizeof(address), IFA_LOCAL, ten, 4),
                "a new address");
    judge_errno(
        finding,
        ask_route(RTM_NEWROUTE, &route, sizeof(route), RTA_OIF, &loopback, sizeof(loopback)),
        "a new route");
}

void attack_interface_down(struct finding *finding)
{
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct ifreq request;
    memset(&request, 0, sizeof(request));
    (void)snprintf(request.ifr_name, sizeof(request.ifr_name), "lo");
    judge(finding, ioctl(fd, SIOCSIFFLAGS, &request), "down");
    request.ifr_mtu = 100;
    judge(finding, ioctl(fd, SIOCSIFMTU, &request), "MTU");
    judge(finding, ioctl(fd, 0x89a0 /* SIOCBRADDBR */, "berth-attack"), "a bridge");
    (void)close(fd);
}

void attack_iptables(struct finding *finding)
{
    char table[128] = "filter";
    static const int families[] = {AF_INET, AF_INET6};
    static const int levels[] = {IPPROTO_IP, IPPROTO_IPV6};
    for (size_t i = 0; i < 2; i++) {
        int fd = socket(families[i], SOCK_DGRAM | SOCK_CLOEXEC, 0);
        judge_any(finding, setsockopt(fd, levels[i], 64 /* SO_SET_REPLACE */, table, sizeof(table)),
                  "replace a table");
        (void)close(fd);
    }
}

void attack_socket_options(struct finding *finding)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int one = 1;
    judge(finding, setsockopt(fd, SOL_SOCKET, SO_MARK, &one, sizeof(one)), "SO_MARK");
    judge(finding, setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &one, sizeof(one)), "SO_RCVBUFFORCE");
    judge(finding, setsockopt(fd, SOL_SOCKET, SO_DEBUG, &one, sizeof(one)), "SO_DEBUG");
    judge(finding, setsockopt(fd, IPPROTO_IP, 19 /* IP_TRANSPARENT */, &one, sizeof(one)),
          "IP_TRANSPARENT");
    judge_any(finding, setsockopt(fd, IPPROTO_TCP, 31 /* TCP_ULP */, "tls", 4), "TCP_ULP");
    judge(finding,
          setsockopt(fd, SOL_SOCKET, 50 /* SO_ATTACH_BPF */, &fd, sizeof(fd)) == 0
              ? 0
              : (errno = EPERM, -1),
          "SO_ATTACH_BPF");
    (void)close(fd);
}

void attack_socket_filter(struct finding *finding)
{
    struct sock_filter drop[] = {{6 /* BPF_RET */, 0, 0, 0}};
    struct sock_fprog program = {.len = 1, .filter = drop};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) == 0)
        harmless(finding, "it sees what comes to the code's own socket");
    else
        judge(finding, -1, "SO_ATTACH_FILTER");
    (void)close(fd);
}

/* ---- shared memory, queues, watches ---- */

void attack_sysv_shm(struct finding *finding)
{
    static const char *const keys[] = {"ATTACK_HOST_SHM_KEY", "ATTACK_NEIGHBOUR_SHM_KEY"};
    for (size_t i = 0; i < 2; i++)
        judge(finding, shmget((key_t)given_number(keys[i]), 0, 0), keys[i]);
    judge_any(finding, shmctl((int)given_number("ATTACK_HOST_SHM_ID"), IPC_RMID, NULL), "removal");
    stopped(finding, "neither is seen");
    for (int id = 0; id < 64; id++) {
        void *memory = shmat(id, NULL, 0);
        if ((long)memory != -1)
            look_at(finding, memory, 64, "shared memory");
    }
}

void attack_posix_shm(struct finding *finding)
{
    judge_fd(finding, shm_open(given("ATTACK_HOST_SHM_NAME"), O_RDWR, 0), "the host's");
    judge_fd(finding, shm_open(given("ATTACK_NEIGHBOUR_SHM_NAME"), O_RDWR, 0), "a neighbour's");
}

void attack_message_queues(struct finding *finding)
{
    judge_any(finding, mq_open("/berth-attack", O_CREAT | O_RDWR, 0600, NULL), "mq_open");
}

void attack_inotify_host(struct finding *finding)
{
    int taken = 0;
    while (taken < 1000 && inotify_init1(IN_CLOEXEC) >= 0)
        taken++;
    if (taken >= 128)
        escaped(finding, "%d were to be had", taken);
    else
        stopped(finding, "%d were to be had, of this sandbox's own", taken);
}

/* ---- identity ---- */

void attack_become_root(struct finding *finding)
{
    gid_t zero = 0;
    judge_any(finding, setresuid(0, 0, 0), "setresuid");
    judge_any(finding, setresgid(0, 0, 0), "setresgid");
    judge_any(finding, setuid(0), "setuid");
    judge_any(finding, setgid(0), "setgid");
    judge_any(finding, setgroups(1, &zero), "setgroups");
    (void)setfsuid(0);
    if (setfsuid((uid_t)-1) == 0)
        escaped(finding, "setfsuid was allowed");
}

void attack_capset_all(struct finding *finding)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct all[2];
    memset(all, 255, sizeof(all));
    judge(finding, syscall(SYS_capset, &header, all), "capset");
    all[0].permitted = all[0].effective = 1U << 21; /* CAP_SYS_ADMIN */
    all[1].permitted = all[1].effective = 0;
    all[0].inheritable = all[1].inheritable = 0;
    judge(finding, syscall(SYS_capset, &header, all), "CAP_SYS_ADMIN");
}

/* Runs a copy of id(1) and reads the user that it was run as. */
static void run_id(struct finding *finding, const char *path, const char *what)
{
    char out[256];
    char name[256];
    (void)snprintf(name, sizeof(name), "%s", path);
    char user[] = "-u";
    char *const argv[] = {name, user, NULL};
    int status = run_program(argv, out, sizeof(out));
    if (status != 0)
        stopped(finding, "%s: it does not run", what);
    else if (strtoul(out, NULL, 10) == getuid())
        stopped(finding, "%s: it runs as the same user", what);
    else
        escaped(finding, "%s: it runs as user %s", what, out);
}

void attack_setuid_planted(struct finding *finding)
{
    if (copy_file("/usr/bin/id", "/tmp/id", 06755) != 0)
        return;
    (void)!chown("/tmp/id", 0, 0);
    (void)chmod("/tmp/id", 06755);
    run_id(finding, "/tmp/id", "a copy of id");
}

void attack_setuid_image(struct finding *finding)
{
    static const char *const folders[] = {"/usr/bin", "/usr/sbin", "/usr/lib/openssh"};
    char out[1024];
    int count = 0;
    for (size_t i = 0; i < sizeof(folders) / sizeof(folders[0]); i++) {
        DIR *folder = opendir(folders[i]);
        struct dirent *entry;
        while (folder && (entry = readdir(folder)) != NULL) {
            struct stat info;
            count += fstatat(dirfd(folder), entry->d_name, &info, 0) == 0 &&
                     S_ISREG(info.st_mode) && (info.st_mode & 06000) != 0;
        }
        if (folder)
            (void)closedir(folder);
    }
    char su[] = "/usr/bin/su";
    char command[] = "-c";
    char id[] = "id -u";
    char *const argv[] = {su, command, id, NULL};
    char mount[] = "/usr/bin/mount";
    char type[] = "-ttmpfs";
    char name[] = "berth-attack";
    char target[] = "/mnt";
    char *const mount_argv[] = {mount, type, name, target, NULL};
    if (run_program(argv, out, sizeof(out)) == 0)
        escaped(finding, "su ran a command");
    if (run_program(mount_argv, out, sizeof(out)) == 0)
        escaped(finding, "mount mounted");
    stopped(finding, "%d such programs give nothing", count);
}

void attack_ld_preload(struct finding *finding)
{
    char out[1024];
    char su[] = "/usr/bin/su";
    char command[] = "-c";
    char id[] = "id -u";
    char *const argv[] = {su, command, id, NULL};
    (void)setenv("LD_PRELOAD", "/tmp/preload.so", 1);
    (void)setenv("LD_AUDIT", "/tmp/preload.so", 1);
    (void)setenv("LD_LIBRARY_PATH", "/tmp", 1);
    int status = run_program(argv, out, sizeof(out));
    if (status == 0)
        escaped(finding, "su ran a command");
    else
        stopped(finding, "it runs as the same user");
}

void attack_file_capabilities(struct finding *finding)
{
    /* struct vfs_ns_cap_data, revision 2 and 3: CAP_SYS_ADMIN, effective */
    unsigned char value[24] = {1, 0, 0, 2, 0, 0, 32, 0};
    if (copy_file("/usr/bin/id", "/tmp/id-caps", 0755) != 0)
        return;
    judge(finding, setxattr("/tmp/id-caps", "security.capability", value, 20, 0), "setxattr");
    value[3] = 3;
    judge(finding, setxattr("/tmp/id-caps", "security.capability", value, 24, 0), "setxattr");
    judge_any(finding, setxattr("/tmp/id-caps", "trusted.berth", "x", 1, 0), "trusted");
}

void attack_chown_root(struct finding *finding)
{
    int fd = open("/tmp/own", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    judge_any(finding, fchown(fd, 0, 0), "an own file to root");
    judge_any(finding, chown("/tmp", getuid(), getgid()), "/tmp");
    judge_any(finding, chown("/etc/passwd", getuid(), getgid()), "/etc/passwd");
    (void)close(fd);
}
