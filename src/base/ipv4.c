/* Owns the table of IPv4 addresses that are not the public internet (IANA's registry of special
 * purpose addresses, RFC 6890 and what was added since). */
#include "base/ipv4.h"

#include "base/mem.h"

#define V4(a, b, c, d)                                                                             \
    (((uint32_t)(a) << 24) | ((uint32_t)(b) << 16) | ((uint32_t)(c) << 8) | (uint32_t)(d))

static const struct ipv4_range reserved[] = {
    {V4(0, 0, 0, 0), 8, "an address of this network"},
    {V4(10, 0, 0, 0), 8, "private"},
    {V4(100, 64, 0, 0), 10, "shared by a carrier"},
    {V4(127, 0, 0, 0), 8, "loopback"},
    {V4(169, 254, 0, 0), 16, "link-local"}, /* clouds have their metadata there */
    {V4(172, 16, 0, 0), 12, "private"},
    {V4(192, 0, 0, 0), 24, "reserved"},
    {V4(192, 0, 2, 0), 24, "for documentation"},
    {V4(192, 88, 99, 0), 24, "a relay"},
    {V4(192, 168, 0, 0), 16, "private"},
    {V4(198, 18, 0, 0), 15, "for benchmarks"},
    {V4(198, 51, 100, 0), 24, "for documentation"},
    {V4(203, 0, 113, 0), 24, "for documentation"},
    {V4(224, 0, 0, 0), 4, "multicast"},
    {V4(240, 0, 0, 0), 4, "reserved"},
    /* Public by its number, but what a virtual machine of Azure reaches its own host at. */
    {V4(168, 63, 129, 16), 32, "metadata of a cloud"},
};

bool ipv4_range_has(const struct ipv4_range *range, uint32_t address)
{
    uint32_t mask = range->prefix == 0 ? 0 : UINT32_MAX << (32 - range->prefix);
    return (address & mask) == range->address;
}

const struct ipv4_range *ipv4_reserved(size_t *out_count)
{
    *out_count = ARRAY_SIZE(reserved);
    return reserved;
}

const char *ipv4_refusal(uint32_t address)
{
    for (size_t i = 0; i < ARRAY_SIZE(reserved); i++) {
        if (ipv4_range_has(&reserved[i], address))
            return reserved[i].what;
    }
    return NULL;
}
