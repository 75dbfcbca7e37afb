/* Rules of where a sandbox may connect to: "host", "host:port", "*.host", "*.host:port", "*".
 *
 * A host is a name in ASCII (an IDN in its xn-- form), lower case once parsed, or a literal address
 * in its one canonical spelling: dotted decimal, or IPv6 in brackets. Everything else that some
 * resolver would take for an address (decimal, octal, hexadecimal or short forms, zones) is no
 * host. Without a port a rule stands for 443 and 80. "*.host" is every name below host, not host
 * itself; "*" is every name, and no literal address: that is only matched by itself.
 *
 * The server checks and narrows with it, berth-egress enforces it. No allocation, no I/O. */
#ifndef BERTH_WIRE_EGRESS_RULE_H
#define BERTH_WIRE_EGRESS_RULE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#define EGRESS_HOST_MAX 253                   /* of a name, without its NUL (RFC 1035, 2.3.4) */
#define EGRESS_RULE_MAX (EGRESS_HOST_MAX + 8) /* of a rule as text, without its NUL */
#define EGRESS_RULES_MAX 200                  /* of one sandbox */

enum egress_host_kind { EGRESS_HOST_NAME, EGRESS_HOST_IPV4, EGRESS_HOST_IPV6 };

/* A host as it is compared and resolved. */
struct egress_host {
    enum egress_host_kind kind;
    char text[EGRESS_HOST_MAX + 1]; /* lower case, no trailing dot; IPv6 as inet_ntop(3) writes it,
                                       without brackets */
};

struct egress_rule {
    struct egress_host host; /* text is "" for "*" */
    bool below;              /* "*.host", or "*" */
    uint16_t port;           /* 0: 443 and 80 */
};

/* Takes a host of size bytes, IPv6 in brackets. ERR_BAD_INPUT (public) says what is wrong. */
int egress_host_parse(const char *text, size_t size, struct egress_host *out, struct err *err);

/* Takes "host:port", or "host" when default_port is not 0. Ports are 1 to 65535, digits only. */
int egress_target_parse(const char *text, size_t size, uint16_t default_port,
                        struct egress_host *out_host, uint16_t *out_port, struct err *err);

/* ERR_BAD_INPUT (public) names the rule. */
int egress_rule_parse(const char *text, struct egress_rule *out, struct err *err);

/* As text, which parses to the same; size of at least EGRESS_RULE_MAX + 1. */
void egress_rule_format(const struct egress_rule *rule, char *out, size_t size);

bool egress_rule_matches(const struct egress_rule *rule, const struct egress_host *host,
                         uint16_t port);

/* Whether wide allows everything that narrow does. */
bool egress_rule_covers(const struct egress_rule *wide, const struct egress_rule *narrow);

/* Whether some of the texts in wide covers the rule narrow; bad texts in wide cover nothing. A rule
 * without a port is covered when both of its ports are. ERR_BAD_INPUT: narrow is no rule. */
int egress_rule_check_narrow(const char *narrow, const char *const *wide, size_t wide_count,
                             bool *out_covered, struct err *err);

#endif
