/* Owns one question to the kernel's routing tables (rtnetlink(7), RTM_GETROUTE). */
#include "egress/route.h"

#include <errno.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"

struct question {
    struct nlmsghdr header;
    struct rtmsg route;
    struct rtattr destination;
    uint8_t address[16];
};

union answer {
    struct nlmsghdr header;
    uint8_t bytes[4096];
};

static size_t fill(struct question *question, const union address *address)
{
    memset(question, 0, sizeof(*question));
    bool v4 = address->any.sa_family == AF_INET;
    size_t size = v4 ? sizeof(address->v4.sin_addr) : sizeof(address->v6.sin6_addr);
    if (v4)
        memcpy(question->address, &address->v4.sin_addr, size);
    else
        memcpy(question->address, &address->v6.sin6_addr, size);
    size_t total = offsetof(struct question, address) + size;
    question->header.nlmsg_len = (uint32_t)total;
    question->header.nlmsg_type = RTM_GETROUTE;
    question->header.nlmsg_flags = NLM_F_REQUEST;
    question->header.nlmsg_seq = 1;
    question->route.rtm_family = (unsigned char)address->any.sa_family;
    question->route.rtm_dst_len = (unsigned char)(8 * size);
    question->destination.rta_type = RTA_DST;
    question->destination.rta_len = (unsigned short)RTA_LENGTH(size);
    return total;
}

static int read_answer(const union answer *answer, size_t size, struct err *err)
{
    if (size < sizeof(answer->header) || answer->header.nlmsg_len > size)
        return err_set(err, ERR_INTERNAL, "a cut answer about a route");
    if (answer->header.nlmsg_type == NLMSG_ERROR &&
        answer->header.nlmsg_len >= NLMSG_LENGTH(sizeof(struct nlmsgerr))) {
        struct nlmsgerr error;
        memcpy(&error, answer->bytes + NLMSG_HDRLEN, sizeof(error));
        if (error.error == -ENETUNREACH || error.error == -EHOSTUNREACH || error.error == -EACCES)
            return err_set(err, ERR_UNAVAILABLE, "there is no route");
        return err_sys(err, -error.error, "ask for a route");
    }
    if (answer->header.nlmsg_type != RTM_NEWROUTE ||
        answer->header.nlmsg_len < NLMSG_LENGTH(sizeof(struct rtmsg)))
        return err_set(err, ERR_INTERNAL, "no answer about a route");
    struct rtmsg route;
    memcpy(&route, answer->bytes + NLMSG_HDRLEN, sizeof(route));
    if (route.rtm_type == RTN_UNICAST)
        return 0;
    if (route.rtm_type == RTN_UNREACHABLE || route.rtm_type == RTN_BLACKHOLE ||
        route.rtm_type == RTN_PROHIBIT)
        return err_set(err, ERR_UNAVAILABLE, "there is no route");
    return err_set(err, ERR_FORBIDDEN, "an address of this host");
}

int route_check(const union address *address, struct err *err)
{
    struct question question;
    union answer answer;
    FD_AUTO int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    if (fd < 0)
        return err_sys(err, errno, "ask for routes");
    size_t size = fill(&question, address);
    /* The kernel answers within sendto(2). */
    if (send(fd, &question, size, 0) != (ssize_t)size)
        return err_sys(err, errno, "ask for a route");
    ssize_t got = recv(fd, &answer, sizeof(answer), MSG_DONTWAIT);
    if (got < 0)
        return err_sys(err, errno, "read the answer about a route");
    return read_answer(&answer, (size_t)got, err);
}
