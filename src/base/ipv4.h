/* Ranges of IPv4 addresses that are not the public internet: one table for all that lets code out.
 */
#ifndef BERTH_BASE_IPV4_H
#define BERTH_BASE_IPV4_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ipv4_range {
    uint32_t address; /* host order */
    unsigned prefix;  /* bits, 0 to 32 */
    const char *what; /* why it is refused, for people */
};

bool ipv4_range_has(const struct ipv4_range *range, uint32_t address);

/* All of them, in no order that matters. Static. */
const struct ipv4_range *ipv4_reserved(size_t *out_count);

/* What the address (host order) is instead of public: "private"; NULL: it is public. */
const char *ipv4_refusal(uint32_t address);

#endif
