/* Owns the words of rtnetlink that a pair of interfaces takes. Enters another network namespace
 * only to open a socket there, which stays in it. */
#include "native/link.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <libmnl/libmnl.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/fd.h"
#include "base/log.h"

#define INSIDE_NAME "eth0"

enum { MESSAGE_SIZE = 1024, REPLY_SIZE = 32768, PREFIX_BITS = 30 };

static void close_socket(struct mnl_socket **socket)
{
    if (*socket)
        (void)mnl_socket_close(*socket);
    *socket = NULL;
}
#define SOCKET_AUTO __attribute__((cleanup(close_socket)))

static int open_socket(struct mnl_socket **out, struct err *err)
{
    SOCKET_AUTO struct mnl_socket *socket = mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC);
    if (!socket || mnl_socket_bind(socket, 0, MNL_SOCKET_AUTOPID) != 0)
        return err_sys(err, errno, "open a netlink socket");
    *out = socket;
    socket = NULL;
    return 0;
}

/* A socket stays in the namespace that it was opened in. This process has no other thread. */
static int open_socket_in(int netns_fd, struct mnl_socket **out, struct err *err)
{
    FD_AUTO int own_fd = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    if (own_fd < 0)
        return err_sys(err, errno, "open our network namespace");
    if (setns(netns_fd, CLONE_NEWNET) != 0)
        return err_sys(err, errno, "enter a network namespace");
    int result = open_socket(out, err);
    if (setns(own_fd, CLONE_NEWNET) != 0) {
        log_error("can't return from the network of a sandbox: %s", strerror(errno));
        abort(); /* all that follows would be done to a sandbox */
    }
    return result;
}

static struct nlmsghdr *begin(char *buffer, uint16_t type, uint16_t flags)
{
    struct nlmsghdr *message = mnl_nlmsg_put_header(buffer);
    message->nlmsg_type = type;
    message->nlmsg_flags = (uint16_t)(NLM_F_REQUEST | NLM_F_ACK | flags);
    message->nlmsg_seq = 1;
    return message;
}

/* Sends it and waits for the kernel's word, which is there at once. */
static int ask(struct mnl_socket *socket, struct nlmsghdr *message, mnl_cb_t on_reply,
               void *context, const char *what, struct err *err)
{
    static char reply[REPLY_SIZE];
    if (mnl_socket_sendto(socket, message, message->nlmsg_len) < 0)
        return err_sys(err, errno, "%s", what);
    for (int more = 1; more > 0;) {
        ssize_t size = mnl_socket_recvfrom(socket, reply, sizeof(reply));
        if (size < 0)
            return err_sys(err, errno, "%s", what);
        more = mnl_cb_run(reply, (size_t)size, message->nlmsg_seq, mnl_socket_get_portid(socket),
                          on_reply, context);
        if (more < 0)
            return err_sys(err, errno, "%s", what);
    }
    return 0;
}

static struct ifinfomsg *put_link(struct nlmsghdr *message)
{
    struct ifinfomsg *link = mnl_nlmsg_put_extra_header(message, sizeof(*link));
    link->ifi_family = AF_UNSPEC;
    return link;
}

static int make_pair(struct mnl_socket *socket, const struct link_spec *spec, struct err *err)
{
    char buffer[MESSAGE_SIZE];
    struct nlmsghdr *message = begin(buffer, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL);
    (void)put_link(message);
    mnl_attr_put_strz(message, IFLA_IFNAME, spec->name);
    struct nlattr *info = mnl_attr_nest_start(message, IFLA_LINKINFO);
    mnl_attr_put_strz(message, IFLA_INFO_KIND, "veth");
    struct nlattr *data = mnl_attr_nest_start(message, IFLA_INFO_DATA);
    struct nlattr *peer = mnl_attr_nest_start(message, VETH_INFO_PEER);
    (void)put_link(message);
    mnl_attr_put_strz(message, IFLA_IFNAME, INSIDE_NAME);
    mnl_attr_put_u32(message, IFLA_NET_NS_FD, (uint32_t)spec->netns_fd);
    mnl_attr_nest_end(message, peer);
    mnl_attr_nest_end(message, data);
    mnl_attr_nest_end(message, info);
    return ask(socket, message, NULL, NULL, "make a pair of interfaces", err);
}

static int set_alias(struct mnl_socket *socket, const char *name, const char *alias,
                     struct err *err)
{
    char buffer[MESSAGE_SIZE];
    struct nlmsghdr *message = begin(buffer, RTM_NEWLINK, 0);
    (void)put_link(message);
    mnl_attr_put_strz(message, IFLA_IFNAME, name);
    mnl_attr_put_strz(message, IFLA_IFALIAS, alias);
    return ask(socket, message, NULL, NULL, "name an interface", err);
}

/* No address of its own making: of IPv6 there is none. A kernel without it is as good. */
static int drop_ipv6(struct mnl_socket *socket, const char *name, struct err *err)
{
    char buffer[MESSAGE_SIZE];
    struct err failure = ERR_INIT;
    struct nlmsghdr *message = begin(buffer, RTM_NEWLINK, 0);
    (void)put_link(message);
    mnl_attr_put_strz(message, IFLA_IFNAME, name);
    struct nlattr *spec = mnl_attr_nest_start(message, IFLA_AF_SPEC);
    struct nlattr *ipv6 = mnl_attr_nest_start(message, AF_INET6);
    mnl_attr_put_u8(message, IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE);
    mnl_attr_nest_end(message, ipv6);
    mnl_attr_nest_end(message, spec);
    if (ask(socket, message, NULL, NULL, "take IPv6 from an interface", &failure) == 0 ||
        failure.sys_errno == EAFNOSUPPORT)
        return 0;
    return err_copy(err, &failure);
}

static int on_index(const struct nlmsghdr *message, void *context)
{
    const struct ifinfomsg *link = mnl_nlmsg_get_payload(message);
    *(unsigned *)context = (unsigned)link->ifi_index;
    return MNL_CB_OK;
}

static int find_index(struct mnl_socket *socket, const char *name, unsigned *out, struct err *err)
{
    char buffer[MESSAGE_SIZE];
    struct nlmsghdr *message = begin(buffer, RTM_GETLINK, 0);
    (void)put_link(message);
    mnl_attr_put_strz(message, IFLA_IFNAME, name);
    return ask(socket, message, on_index, out, "find an interface", err);
}

static int add_address(struct mnl_socket *socket, const char *name, uint32_t ipv4, struct err *err)
{
    char buffer[MESSAGE_SIZE];
    unsigned index = 0;
    int result = find_index(socket, name, &index, err);
    if (result != 0)
        return result;
    struct nlmsghdr *message = begin(buffer, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL);
    struct ifaddrmsg *address = mnl_nlmsg_put_extra_header(message, sizeof(*address));
    address->ifa_family = AF_INET;
    address->ifa_prefixlen = PREFIX_BITS;
    address->ifa_scope = RT_SCOPE_UNIVERSE;
    address->ifa_index = index;
    mnl_attr_put_u32(message, IFA_LOCAL, htonl(ipv4));
    mnl_attr_put_u32(message, IFA_ADDRESS, htonl(ipv4));
    return ask(socket, message, NULL, NULL, "give an interface its address", err);
}

static int set_up(struct mnl_socket *socket, const char *name, struct err *err)
{
    char buffer[MESSAGE_SIZE];
    struct nlmsghdr *message = begin(buffer, RTM_NEWLINK, 0);
    struct ifinfomsg *link = put_link(message);
    link->ifi_flags = IFF_UP;
    link->ifi_change = IFF_UP;
    mnl_attr_put_strz(message, IFLA_IFNAME, name);
    return ask(socket, message, NULL, NULL, "bring an interface up", err);
}

static int add_way_out(struct mnl_socket *socket, uint32_t gateway_ipv4, struct err *err)
{
    char buffer[MESSAGE_SIZE];
    struct nlmsghdr *message = begin(buffer, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE);
    struct rtmsg *route = mnl_nlmsg_put_extra_header(message, sizeof(*route));
    route->rtm_family = AF_INET;
    route->rtm_table = RT_TABLE_MAIN;
    route->rtm_protocol = RTPROT_STATIC;
    route->rtm_scope = RT_SCOPE_UNIVERSE;
    route->rtm_type = RTN_UNICAST;
    mnl_attr_put_u32(message, RTA_GATEWAY, htonl(gateway_ipv4));
    return ask(socket, message, NULL, NULL, "lead the way out", err);
}

static int fit_inside(const struct link_spec *spec, struct err *err)
{
    SOCKET_AUTO struct mnl_socket *socket = NULL;
    int result = open_socket_in(spec->netns_fd, &socket, err);
    if (result == 0)
        result = drop_ipv6(socket, INSIDE_NAME, err);
    if (result == 0)
        result = add_address(socket, INSIDE_NAME, spec->inside_ipv4, err);
    if (result == 0)
        result = set_up(socket, INSIDE_NAME, err);
    return result == 0 ? add_way_out(socket, spec->host_ipv4, err) : result;
}

int link_make(const struct link_spec *spec, struct err *err)
{
    SOCKET_AUTO struct mnl_socket *socket = NULL;
    int result = open_socket(&socket, err);
    if (result == 0)
        result = make_pair(socket, spec, err);
    if (result != 0)
        return result;
    result = drop_ipv6(socket, spec->name, err);
    if (result == 0)
        result = add_address(socket, spec->name, spec->host_ipv4, err);
    if (result == 0)
        result = fit_inside(spec, err);
    if (result == 0)
        result = set_up(socket, spec->name, err);
    fault_point("native.network.link");
    if (result == 0)
        result = set_alias(socket, spec->name, spec->alias, err);
    if (result != 0)
        (void)link_remove(spec->name, NULL);
    return result;
}

int link_remove(const char *name, struct err *err)
{
    char buffer[MESSAGE_SIZE];
    SOCKET_AUTO struct mnl_socket *socket = NULL;
    struct err failure = ERR_INIT;
    int result = open_socket(&socket, err);
    if (result != 0)
        return result;
    struct nlmsghdr *message = begin(buffer, RTM_DELLINK, 0);
    (void)put_link(message);
    mnl_attr_put_strz(message, IFLA_IFNAME, name);
    result = ask(socket, message, NULL, NULL, "remove an interface", &failure);
    return result == 0 || failure.sys_errno == ENODEV ? 0 : err_copy(err, &failure);
}

struct walk {
    const char *prefix;
    link_fn on_link;
    void *context;
};

/* What one message says of an interface; the texts are the message's. */
struct seen {
    const char *name, *alias;
};

static int on_attribute(const struct nlattr *attribute, void *context)
{
    struct seen *seen = context;
    if (mnl_attr_get_type(attribute) == IFLA_IFNAME)
        seen->name = mnl_attr_get_str(attribute);
    else if (mnl_attr_get_type(attribute) == IFLA_IFALIAS)
        seen->alias = mnl_attr_get_str(attribute);
    return MNL_CB_OK;
}

static int on_listed(const struct nlmsghdr *message, void *context)
{
    const struct walk *walk = context;
    struct seen seen = {.name = "", .alias = ""};
    if (mnl_attr_parse(message, sizeof(struct ifinfomsg), on_attribute, &seen) < 0)
        return MNL_CB_ERROR;
    if (strncmp(seen.name, walk->prefix, strlen(walk->prefix)) == 0)
        walk->on_link(walk->context, seen.name, seen.alias);
    return MNL_CB_OK;
}

int link_each(const char *prefix, link_fn on_link, void *context, struct err *err)
{
    char buffer[MESSAGE_SIZE];
    struct walk walk = {.prefix = prefix, .on_link = on_link, .context = context};
    SOCKET_AUTO struct mnl_socket *socket = NULL;
    int result = open_socket(&socket, err);
    if (result != 0)
        return result;
    struct nlmsghdr *message = begin(buffer, RTM_GETLINK, NLM_F_DUMP);
    message->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
    (void)put_link(message);
    return ask(socket, message, on_listed, &walk, "list interfaces", err);
}
