/* Owns the table of IPv6 addresses that are not the public internet (IANA's registry of special
 * purpose addresses, RFC 6890 and what was added since), and the operator's exceptions. */
#include "egress/address.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

#include "base/ipv4.h"
#include "base/mem.h"
#include "base/parse.h"

struct special6 {
    uint8_t bytes[6];
    unsigned prefix;
    const char *what;
};

/* Within 2000::/3. */
static const struct special6 specials6[] = {
    {{0x20, 0x01, 0x00, 0x00}, 23, "reserved, or carries an IPv4 address"}, /* Teredo, ORCHID */
    {{0x20, 0x01, 0x0d, 0xb8}, 32, "for documentation"},
    {{0x20, 0x02}, 16, "carries an IPv4 address"}, /* 6to4 */
    {{0x3f, 0xff, 0x00}, 20, "for documentation"},
};

static bool prefix_matches(const uint8_t *left, const uint8_t *right, unsigned bits)
{
    unsigned whole = bits / 8;
    unsigned rest = bits % 8;
    if (memcmp(left, right, whole) != 0)
        return false;
    return rest == 0 || ((left[whole] ^ right[whole]) & (0xff << (8 - rest)) & 0xff) == 0;
}

static const char *refusal6(const uint8_t bytes[static 16])
{
    static const uint8_t nat64[12] = {0x00, 0x64, 0xff, 0x9b};
    static const uint8_t loopback[16] = {[15] = 1};
    if (memcmp(bytes, nat64, sizeof(nat64)) == 0)
        return ipv4_refusal((uint32_t)bytes[12] << 24 | (uint32_t)bytes[13] << 16 |
                            (uint32_t)bytes[14] << 8 | bytes[15]);
    if (memcmp(bytes, loopback, sizeof(loopback)) == 0)
        return "loopback";
    if ((bytes[0] & 0xfe) == 0xfc)
        return "private";
    if (bytes[0] == 0xfe)
        return "link-local";
    if (bytes[0] == 0xff)
        return "multicast";
    if ((bytes[0] & 0xe0) != 0x20)
        return "not a public address";
    for (size_t i = 0; i < ARRAY_SIZE(specials6); i++) {
        if (prefix_matches(bytes, specials6[i].bytes, specials6[i].prefix))
            return specials6[i].what;
    }
    return NULL;
}

const char *address_refusal(const union address *address)
{
    if (address->any.sa_family == AF_INET)
        return ipv4_refusal(ntohl(address->v4.sin_addr.s_addr));
    if (address->any.sa_family == AF_INET6 && address->v6.sin6_scope_id == 0)
        return refusal6(address->v6.sin6_addr.s6_addr);
    return "not an address of the internet";
}

/* ---- exceptions ---- */

static int parse_range(const char *text, struct address_range *out, struct err *err)
{
    char address[INET6_ADDRSTRLEN + 1];
    const char *slash = strchr(text, '/');
    size_t size = slash ? (size_t)(slash - text) : strlen(text);
    uint64_t prefix = 0;
    if (size >= sizeof(address))
        return err_set(err, ERR_BAD_INPUT, "\"%s\" is not a range of addresses", text);
    memcpy(address, text, size);
    address[size] = '\0';
    out->family = strchr(address, ':') ? AF_INET6 : AF_INET;
    uint64_t most = out->family == AF_INET ? 32 : 128;
    memset(out->bytes, 0, sizeof(out->bytes));
    if (inet_pton(out->family, address, out->bytes) != 1 ||
        (slash && parse_u64(slash + 1, 0, most, &prefix, NULL) != 0))
        return err_set(err, ERR_BAD_INPUT, "\"%s\" is not a range of addresses (10.1.0.0/16)",
                       text);
    out->prefix = slash ? (unsigned)prefix : (unsigned)most;
    return 0;
}

int address_excepts_parse(const char *text, struct address_excepts *out, struct err *err)
{
    struct address_excepts found = {0};
    while (*text) {
        char one[64];
        size_t size = strcspn(text, ", \t");
        if (size >= sizeof(one) || found.count >= ADDRESS_EXCEPT_MAX)
            return err_set(err, ERR_BAD_INPUT, "too many, or too long, ranges of addresses");
        memcpy(one, text, size);
        one[size] = '\0';
        int result = size > 0 ? parse_range(one, &found.ranges[found.count], err) : 0;
        if (result != 0)
            return result;
        found.count += size > 0;
        text += size;
        text += strspn(text, ", \t");
    }
    *out = found;
    return 0;
}

bool address_is_excepted(const union address *address, const struct address_excepts *excepts)
{
    const uint8_t *bytes = address->any.sa_family == AF_INET
                               ? (const uint8_t *)&address->v4.sin_addr
                               : address->v6.sin6_addr.s6_addr;
    for (size_t i = 0; i < excepts->count; i++) {
        const struct address_range *range = &excepts->ranges[i];
        if (range->family == address->any.sa_family &&
            prefix_matches(bytes, range->bytes, range->prefix))
            return true;
    }
    return false;
}

/* ---- addresses ---- */

bool address_set(union address *out, const struct sockaddr *from, uint16_t port)
{
    memset(out, 0, sizeof(*out));
    if (from->sa_family == AF_INET) {
        memcpy(&out->v4, from, sizeof(out->v4));
        out->v4.sin_port = htons(port);
        return true;
    }
    if (from->sa_family == AF_INET6) {
        memcpy(&out->v6, from, sizeof(out->v6));
        out->v6.sin6_port = htons(port);
        out->v6.sin6_flowinfo = 0;
        return true;
    }
    return false;
}

socklen_t address_size(const union address *address)
{
    return address->any.sa_family == AF_INET ? sizeof(address->v4) : sizeof(address->v6);
}

void address_format(const union address *address, char out[static ADDRESS_TEXT_SIZE])
{
    const void *bytes = address->any.sa_family == AF_INET ? (const void *)&address->v4.sin_addr
                                                          : (const void *)&address->v6.sin6_addr;
    if (!inet_ntop(address->any.sa_family, bytes, out, ADDRESS_TEXT_SIZE))
        (void)snprintf(out, ADDRESS_TEXT_SIZE, "?");
}
