/* The rules of network "full", as texts of nft(8), and the program that gives them to the kernel.
 *
 * There are two sets, so that neither of them alone decides: one of the host, a table for each
 * instance that matches its interfaces by the beginning of their names; and one in the network
 * namespace of each sandbox, which goes with it and which whoever empties the host's rules does not
 * reach. */
#ifndef BERTH_NATIVE_FIREWALL_H
#define BERTH_NATIVE_FIREWALL_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum { FIREWALL_SERVERS_MAX = 3, FIREWALL_EXCEPTS_MAX = 16 };

struct firewall_range {
    uint32_t ipv4; /* in the host's byte order */
    unsigned prefix;
};

struct firewall_spec {
    char table[48];
    char links[12]; /* what the names of the interfaces begin with */
    struct firewall_range subnet;
    uint32_t servers[FIREWALL_SERVERS_MAX]; /* of names: port 53 of these may be reached */
    size_t server_count;
    struct firewall_range excepts[FIREWALL_EXCEPTS_MAX]; /* reserved, and reached all the same */
    size_t except_count;
};

/* "10.0.0.0/8", or an address. ERR_BAD_INPUT. */
int firewall_parse_range(const char *text, struct firewall_range *out, struct err *err);

/* Puts the host's table in place of what bears its name. Waits for nft, a few milliseconds; it is
 * killed after some seconds. ERR_UNSUPPORTED: there is no nft. */
int firewall_put(const struct firewall_spec *spec, struct err *err);
/* Idempotent. */
int firewall_remove(const struct firewall_spec *spec, struct err *err);
/* ERR_NOT_FOUND: somebody took the table away. */
int firewall_check(const struct firewall_spec *spec, struct err *err);

/* The rules inside a sandbox. */
int firewall_put_inside(const struct firewall_spec *spec, int netns_fd, struct err *err);

#endif
