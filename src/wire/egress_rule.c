/* Owns the spelling of hosts and rules. Refuses whatever some resolver might read as an address
 * that this file does not. */
#include "wire/egress_rule.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"

enum { LABEL_MAX = 63, PORT_HTTP = 80, PORT_HTTPS = 443 };

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* What may be shown of a text that a stranger wrote. */
static const char *shown(const char *text, size_t size, char out[static 72])
{
    size_t used = 0;
    for (; used < size && used < 64; used++)
        out[used] = text[used] > 0x20 && text[used] < 0x7f ? text[used] : '?';
    (void)snprintf(out + used, 8, "%s", used < size ? "..." : "");
    return out;
}

static int refuse(const char *text, size_t size, const char *why, struct err *err)
{
    char buffer[72];
    return err_public(err, ERR_BAD_INPUT, "\"%s\" is not a host: %s", shown(text, size, buffer),
                      why);
}

/* Whether the last label makes a resolver take the whole for an IPv4 address (URL Standard, "ends
 * in a number"; inet_aton(3)). */
static bool ends_in_number(const char *name)
{
    const char *label = strrchr(name, '.');
    label = label ? label + 1 : name;
    if (label[0] == '0' && (label[1] == 'x' || label[1] == 'X'))
        return true;
    size_t size = strspn(label, "0123456789");
    return size > 0 && label[size] == '\0';
}

/* Letters, digits, dashes and underscores, in labels that neither begin nor end with a dash. */
static int check_labels(const char *name, size_t size, struct err *err)
{
    size_t label = 0;
    for (size_t i = 0; i <= size; i++) {
        char c = i < size ? name[i] : '.';
        if (c == '.') {
            if (label == 0 || label > LABEL_MAX)
                return refuse(name, size, "a part of it is empty or too long", err);
            if (name[i - 1] == '-' || name[i - label] == '-')
                return refuse(name, size, "a part of it begins or ends with a dash", err);
            label = 0;
            continue;
        }
        if (!(c >= 'a' && c <= 'z') && !is_digit(c) && c != '-' && c != '_')
            return refuse(name, size,
                          "only letters, digits, dots and dashes (other alphabets: in their xn-- "
                          "form)",
                          err);
        label++;
    }
    return 0;
}

static int parse_ipv6(const char *text, size_t size, struct egress_host *out, struct err *err)
{
    char name[INET6_ADDRSTRLEN];
    struct in6_addr address;
    if (size < 4 || text[size - 1] != ']' || size - 2 >= sizeof(name))
        return refuse(text, size, "no IPv6 address in brackets", err);
    memcpy(name, text + 1, size - 2);
    name[size - 2] = '\0';
    if (strlen(name) != size - 2 || inet_pton(AF_INET6, name, &address) != 1)
        return refuse(text, size, "no IPv6 address in brackets", err);
    memset(out, 0, sizeof(*out));
    out->kind = EGRESS_HOST_IPV6;
    if (!inet_ntop(AF_INET6, &address, out->text, sizeof(out->text)))
        return refuse(text, size, "no IPv6 address", err);
    return 0;
}

int egress_host_parse(const char *text, size_t size, struct egress_host *out, struct err *err)
{
    if (size > 0 && text[0] == '[')
        return parse_ipv6(text, size, out, err);
    struct egress_host host = {.kind = EGRESS_HOST_NAME};
    size_t used = size > 1 && text[size - 1] == '.' ? size - 1 : size; /* the root of all names */
    if (used == 0 || used > EGRESS_HOST_MAX)
        return refuse(text, size, "empty or too long", err);
    for (size_t i = 0; i < used; i++)
        host.text[i] = (char)(text[i] >= 'A' && text[i] <= 'Z' ? text[i] - 'A' + 'a' : text[i]);
    int result = check_labels(host.text, used, err);
    if (result != 0)
        return result;
    if (ends_in_number(host.text)) {
        struct in_addr address;
        char canonical[INET_ADDRSTRLEN] = "";
        if (used != size || inet_pton(AF_INET, host.text, &address) != 1 ||
            !inet_ntop(AF_INET, &address, canonical, sizeof(canonical)) ||
            strcmp(canonical, host.text) != 0)
            return refuse(text, size, "an address has to be written as 192.0.2.1", err);
        host.kind = EGRESS_HOST_IPV4;
    }
    *out = host;
    return 0;
}

static int parse_port(const char *text, size_t size, uint16_t *out, struct err *err)
{
    uint32_t port = 0;
    for (size_t i = 0; i < size && i < 6; i++) {
        if (!is_digit(text[i]))
            return err_public(err, ERR_BAD_INPUT, "a port is a number");
        port = port * 10 + (uint32_t)(text[i] - '0');
    }
    if (size == 0 || size > 5 || text[0] == '0' || port > UINT16_MAX)
        return err_public(err, ERR_BAD_INPUT, "a port is a number from 1 to 65535");
    *out = (uint16_t)port;
    return 0;
}

/* Where the port's colon is; size: there is none. Of an address in brackets it follows these. */
static size_t find_colon(const char *text, size_t size)
{
    const char *from = text;
    if (size > 0 && text[0] == '[') {
        const char *end = memchr(text, ']', size);
        from = end ? end : text + size;
    }
    const char *colon = memchr(from, ':', size - (size_t)(from - text));
    return colon ? (size_t)(colon - text) : size;
}

int egress_target_parse(const char *text, size_t size, uint16_t default_port,
                        struct egress_host *out_host, uint16_t *out_port, struct err *err)
{
    size_t host_size = find_colon(text, size);
    uint16_t port = default_port;
    int result = 0;
    if (host_size < size)
        result = parse_port(text + host_size + 1, size - host_size - 1, &port, err);
    else if (default_port == 0)
        result = err_public(err, ERR_BAD_INPUT, "a port is missing");
    if (result == 0)
        result = egress_host_parse(text, host_size, out_host, err);
    if (result == 0)
        *out_port = port;
    return result;
}

int egress_rule_parse(const char *text, struct egress_rule *out, struct err *err)
{
    struct egress_rule rule = {0};
    size_t size = strnlen(text, EGRESS_RULE_MAX + 1);
    size_t host_size = find_colon(text, size);
    int result = 0;
    if (size > EGRESS_RULE_MAX)
        return refuse(text, size, "too long", err);
    if (host_size < size)
        result = parse_port(text + host_size + 1, size - host_size - 1, &rule.port, err);
    if (result != 0)
        return result;
    if (host_size == 1 && text[0] == '*') {
        rule.below = true;
        *out = rule;
        return 0;
    }
    rule.below = host_size > 2 && text[0] == '*' && text[1] == '.';
    size_t skip = rule.below ? 2 : 0;
    result = egress_host_parse(text + skip, host_size - skip, &rule.host, err);
    if (result == 0 && rule.below && rule.host.kind != EGRESS_HOST_NAME)
        result = refuse(text, size, "nothing is below an address", err);
    if (result == 0)
        *out = rule;
    return result;
}

void egress_rule_format(const struct egress_rule *rule, char *out, size_t size)
{
    bool v6 = rule->host.kind == EGRESS_HOST_IPV6;
    char port[8] = "";
    if (rule->port != 0)
        (void)snprintf(port, sizeof(port), ":%u", rule->port);
    const char *below = !rule->below ? "" : rule->host.text[0] == '\0' ? "*" : "*.";
    (void)snprintf(out, size, "%s%s%s%s%s", below, v6 ? "[" : "", rule->host.text, v6 ? "]" : "",
                   port);
}

static bool is_below(const char *name, const char *parent)
{
    size_t name_size = strlen(name);
    size_t parent_size = strlen(parent);
    if (parent_size == 0)
        return true;
    return name_size > parent_size + 1 && name[name_size - parent_size - 1] == '.' &&
           strcmp(name + name_size - parent_size, parent) == 0;
}

static bool port_matches(const struct egress_rule *rule, uint16_t port)
{
    return rule->port == 0 ? port == PORT_HTTP || port == PORT_HTTPS : rule->port == port;
}

bool egress_rule_matches(const struct egress_rule *rule, const struct egress_host *host,
                         uint16_t port)
{
    if (!port_matches(rule, port))
        return false;
    if (rule->below)
        return host->kind == EGRESS_HOST_NAME && is_below(host->text, rule->host.text);
    return rule->host.kind == host->kind && strcmp(rule->host.text, host->text) == 0;
}

static bool covers_host(const struct egress_rule *wide, const struct egress_rule *narrow)
{
    if (!wide->below)
        return !narrow->below && wide->host.kind == narrow->host.kind &&
               strcmp(wide->host.text, narrow->host.text) == 0;
    if (narrow->host.kind != EGRESS_HOST_NAME)
        return false;
    /* "*.a" is in "*.a"; so is "*.b.a". */
    if (narrow->below && strcmp(wide->host.text, narrow->host.text) == 0)
        return true;
    return narrow->host.text[0] != '\0' && is_below(narrow->host.text, wide->host.text);
}

bool egress_rule_covers(const struct egress_rule *wide, const struct egress_rule *narrow)
{
    bool ports = narrow->port == 0 ? wide->port == 0 : port_matches(wide, narrow->port);
    return ports && covers_host(wide, narrow);
}

static bool covers_port(const struct egress_rule *narrow, uint16_t port, const char *const *wide,
                        size_t wide_count)
{
    struct egress_rule one = *narrow;
    one.port = port;
    for (size_t i = 0; i < wide_count; i++) {
        struct egress_rule rule = {0};
        if (egress_rule_parse(wide[i], &rule, NULL) == 0 && egress_rule_covers(&rule, &one))
            return true;
    }
    return false;
}

int egress_rule_check_narrow(const char *narrow, const char *const *wide, size_t wide_count,
                             bool *out_covered, struct err *err)
{
    struct egress_rule rule = {0};
    int result = egress_rule_parse(narrow, &rule, err);
    if (result != 0)
        return result;
    if (rule.port != 0)
        *out_covered = covers_port(&rule, rule.port, wide, wide_count);
    else
        *out_covered = covers_port(&rule, PORT_HTTP, wide, wide_count) &&
                       covers_port(&rule, PORT_HTTPS, wide, wide_count);
    return 0;
}
