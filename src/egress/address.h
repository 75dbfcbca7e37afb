/* Which addresses a sandbox may be connected to: public unicast, and what the operator excepted.
 *
 * Everything is refused that is not known to be the public internet's: see the table in address.c.
 * An IPv6 address is public within 2000::/3 alone, without the ranges that carry an IPv4 address
 * (6to4, Teredo); of NAT64's 64:ff9b::/96 the address inside counts. */
#ifndef BERTH_EGRESS_ADDRESS_H
#define BERTH_EGRESS_ADDRESS_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "base/err.h"

#define ADDRESS_EXCEPT_MAX 64
#define ADDRESS_TEXT_SIZE 64

union address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

struct address_range {
    int family;
    uint8_t bytes[16];
    unsigned prefix; /* bits */
};

struct address_excepts {
    struct address_range ranges[ADDRESS_EXCEPT_MAX];
    size_t count;
};

/* Takes CIDRs ("10.1.0.0/16", "fd00::/8", "192.0.2.1"), separated by commas or spaces.
 * ERR_BAD_INPUT names the one that is none. */
int address_excepts_parse(const char *text, struct address_excepts *out, struct err *err);

bool address_is_excepted(const union address *address, const struct address_excepts *excepts);

/* NULL when the address is public; else what it is ("loopback"). Excepted ones are not looked at.
 */
const char *address_refusal(const union address *address);

/* Copies an address of a known family, with another port. False: of another family. */
bool address_set(union address *out, const struct sockaddr *from, uint16_t port);
socklen_t address_size(const union address *address);
void address_format(const union address *address, char out[static ADDRESS_TEXT_SIZE]);

#endif
