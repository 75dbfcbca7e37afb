/* Owns what is ours in the host's network: interfaces that begin with our instance's mark, and one
 * table. Never touches another one's, nor a setting of the kernel. */
#include "native/network.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "base/fd.h"
#include "base/ipv4.h"
#include "base/log.h"
#include "base/mem.h"
#include "native/link.h"

#define SUBNET_DEFAULT "198.19.192.0/18" /* for benchmarks (RFC 2544): on no real network */

enum { SUBNET_PREFIX_MAX = 18 /* four addresses for each of IDRANGE_COUNT */, RESOLV_MAX = 4096 };

static bool is_separator(char c)
{
    return c == ' ' || c == ',' || c == '\t' || c == '\n';
}

/* The next word of *text, which goes on behind it. False: there is none. */
static bool next_word(const char **text, char *out, size_t size)
{
    size_t length = 0;
    while (**text && is_separator(**text))
        (*text)++;
    for (; **text && !is_separator(**text); (*text)++) {
        if (length + 1 < size)
            out[length++] = **text;
    }
    out[length] = '\0';
    return length > 0;
}

static bool operator_offers(void)
{
    const char *text = getenv("BERTH_NETWORK_MODES");
    char word[16];
    while (text && next_word(&text, word, sizeof(word))) {
        if (strcmp(word, "full") == 0)
            return true;
    }
    return false;
}

static int read_subnet(struct networks *networks, struct err *err)
{
    const char *text = getenv("BERTH_FULL_SUBNET");
    struct firewall_range *subnet = &networks->rules.subnet;
    int result = firewall_parse_range(text && *text ? text : SUBNET_DEFAULT, subnet, err);
    if (result == 0 && subnet->prefix > SUBNET_PREFIX_MAX)
        result = err_set(err, ERR_BAD_INPUT, "BERTH_FULL_SUBNET: at least a /%d is needed",
                         SUBNET_PREFIX_MAX);
    return result;
}

static int read_excepts(struct networks *networks, struct err *err)
{
    const char *text = getenv("BERTH_FULL_EXCEPT");
    struct firewall_spec *rules = &networks->rules;
    char word[48];
    while (text && next_word(&text, word, sizeof(word))) {
        if (rules->except_count >= FIREWALL_EXCEPTS_MAX)
            return err_set(err, ERR_BAD_INPUT, "BERTH_FULL_EXCEPT: more than %d ranges",
                           FIREWALL_EXCEPTS_MAX);
        int result = firewall_parse_range(word, &rules->excepts[rules->except_count], err);
        if (result != 0)
            return err_wrap(err, "BERTH_FULL_EXCEPT");
        rules->except_count++;
    }
    return 0;
}

static void add_server(struct firewall_spec *rules, uint32_t ipv4)
{
    if (rules->server_count < FIREWALL_SERVERS_MAX)
        rules->servers[rules->server_count++] = ipv4;
}

/* The host's own that are public: a private one is the operator's to name. */
static void find_servers(struct firewall_spec *rules)
{
    char text[RESOLV_MAX];
    char word[64];
    bool named = false;
    struct in_addr address;
    if (fd_read_file_at(AT_FDCWD, "/etc/resolv.conf", text, sizeof(text), NULL) < 0)
        return;
    for (const char *rest = text; next_word(&rest, word, sizeof(word));) {
        if (named && inet_pton(AF_INET, word, &address) == 1 &&
            !ipv4_refusal(ntohl(address.s_addr)))
            add_server(rules, ntohl(address.s_addr));
        named = strcmp(word, "nameserver") == 0;
    }
}

static int read_servers(struct networks *networks, struct err *err)
{
    const char *text = getenv("BERTH_FULL_DNS");
    char word[48];
    struct in_addr address;
    if (!text || !*text) {
        find_servers(&networks->rules);
        return 0;
    }
    while (next_word(&text, word, sizeof(word))) {
        if (inet_pton(AF_INET, word, &address) != 1 || (ntohl(address.s_addr) >> 24) == 127)
            return err_set(err, ERR_BAD_INPUT,
                           "BERTH_FULL_DNS: \"%.40s\" is no IPv4 address of another host", word);
        add_server(&networks->rules, ntohl(address.s_addr));
    }
    return 0;
}

/* Fourteen characters at most with the number: the names of two instances begin differently. */
static void set_names(struct networks *networks, const char *instance)
{
    uint32_t hash = 2166136261U; /* FNV-1a */
    for (const char *c = instance; *c; c++)
        hash = (hash ^ (unsigned char)*c) * 16777619U;
    (void)snprintf(networks->instance, sizeof(networks->instance), "%s", instance);
    (void)snprintf(networks->rules.links, sizeof(networks->rules.links), "bth%06x-",
                   (hash ^ (hash >> 24)) & 0xffffff);
    (void)snprintf(networks->rules.table, sizeof(networks->rules.table), "berth-%s", instance);
}

static void link_name(const struct networks *networks, uint32_t index, char *out)
{
    (void)snprintf(out, LINK_NAME_SIZE, "%s%u", networks->rules.links, index % IDRANGE_COUNT);
}

static int check_forwarding(struct err *err)
{
    char text[8];
    ssize_t size =
        fd_read_file_at(AT_FDCWD, "/proc/sys/net/ipv4/ip_forward", text, sizeof(text), err);
    if (size < 0)
        return (int)size;
    return text[0] == '1' ? 0
                          : err_set(err, ERR_UNSUPPORTED,
                                    "this host forwards nothing (sysctl net.ipv4.ip_forward=1)");
}

/* Tries nft, and what the kernel says to the rules. Sandboxes of an earlier engine have theirs:
 * what the operator says may have changed since. */
static int try_rules(struct networks *networks, struct err *err)
{
    bool stood = firewall_check(&networks->rules, NULL) == 0;
    int result = firewall_put(&networks->rules, err);
    networks->table = result == 0 || stood;
    if (result != 0 || stood)
        return result;
    networks->table = false;
    return firewall_remove(&networks->rules, err);
}

int network_open(const char *instance, const struct idrange_space *ids, struct networks *out,
                 struct err *err)
{
    struct err why = ERR_INIT;
    *out = (struct networks){.root = ids->kind == IDRANGE_WHOLE};
    set_names(out, instance);
    if (!operator_offers()) {
        out->table = out->root && firewall_check(&out->rules, NULL) == 0;
        return 0;
    }
    int result = 0;
    if (!out->root)
        result = err_set(&why, ERR_UNSUPPORTED, "it takes the host's root");
    if (result == 0)
        result = read_subnet(out, &why);
    if (result == 0)
        result = read_excepts(out, &why);
    if (result == 0)
        result = read_servers(out, &why);
    if (result == 0)
        result = check_forwarding(&why);
    out->wanted = result == 0;
    if (result == 0)
        result = try_rules(out, &why);
    if (result != 0)
        return err_public(err, ERR_UNSUPPORTED, "%s", why.message);
    if (out->rules.server_count == 0)
        log_warn("network full: no public name server in /etc/resolv.conf, so sandboxes resolve no"
                 " name (BERTH_FULL_DNS)");
    out->offered = true;
    return 0;
}

char *network_resolv(const struct networks *networks)
{
    const struct firewall_spec *rules = &networks->rules;
    char text[160] = "# No name server: a proxy, if there is one, resolves.\n";
    size_t used = 0;
    if (networks->offered && rules->server_count > 0)
        used = (size_t)snprintf(text, sizeof(text), "# They answer where the network is full.\n");
    for (size_t i = 0; used > 0 && i < rules->server_count; i++) {
        uint32_t ipv4 = rules->servers[i];
        used += (size_t)snprintf(text + used, sizeof(text) - used, "nameserver %u.%u.%u.%u\n",
                                 ipv4 >> 24, (ipv4 >> 16) & 255, (ipv4 >> 8) & 255, ipv4 & 255);
    }
    return strdup(text);
}

/* What a link's alias says; a text before the id that no other program would choose. */
static void put_alias(const struct networks *networks, const char *id, char *out)
{
    (void)snprintf(out, LINK_ALIAS_SIZE, "berth %s %s", networks->instance, id);
}

struct search {
    const char *name, *alias;
    bool found, same;
};

static void on_found(void *context, const char *name, const char *alias)
{
    struct search *search = context;
    if (strcmp(name, search->name) != 0)
        return;
    search->found = true;
    search->same = strcmp(alias, search->alias) == 0;
}

int network_give(struct networks *networks, const char *id, uint32_t index, int netns_fd,
                 struct err *err)
{
    char name[LINK_NAME_SIZE];
    char alias[LINK_ALIAS_SIZE];
    uint32_t first = networks->rules.subnet.ipv4 + 4 * (index % IDRANGE_COUNT);
    struct search search = {.name = name, .alias = alias};
    if (!networks->offered)
        return err_public(err, ERR_UNSUPPORTED, "network: this host has no \"full\"");
    link_name(networks, index, name);
    put_alias(networks, id, alias);
    int result = link_each(name, on_found, &search, err);
    if (result != 0)
        return result;
    /* Before the interface: without them nothing would hold it back. */
    if (firewall_check(&networks->rules, NULL) != 0)
        result = firewall_put(&networks->rules, err);
    if (result != 0)
        return result;
    networks->table = true;
    fault_point("native.network.rules");
    if (search.found && search.same)
        return 0;
    if (search.found) /* of one that had this range before */
        result = link_remove(name, err);
    if (result == 0)
        result = firewall_put_inside(&networks->rules, netns_fd, err);
    const struct link_spec spec = {.name = name,
                                   .alias = alias,
                                   .netns_fd = netns_fd,
                                   .host_ipv4 = first + 1,
                                   .inside_ipv4 = first + 2};
    return result == 0 ? link_make(&spec, err) : result;
}

int network_take(struct networks *networks, uint32_t index, struct err *err)
{
    char name[LINK_NAME_SIZE];
    link_name(networks, index, name);
    networks->tidy = true;
    return link_remove(name, err);
}

/* ---- what is left over ---- */

struct sweep {
    const struct networks *networks;
    network_lives_fn lives;
    void *context;
    unsigned left;
    size_t gone_count;
    char gone[64][LINK_NAME_SIZE]; /* the rest the next time */
};

static void on_swept(void *context, const char *name, const char *alias)
{
    struct sweep *sweep = context;
    char mark[LINK_ALIAS_SIZE];
    put_alias(sweep->networks, "", mark);
    size_t size = strlen(mark);
    /* Without an alias it was never finished. */
    bool ours = alias[0] == '\0' || strncmp(alias, mark, size) == 0;
    bool lives = ours && alias[0] != '\0' && sweep->networks->wanted &&
                 sweep->lives(sweep->context, alias + size);
    sweep->left++;
    if (!ours || lives || sweep->gone_count >= ARRAY_SIZE(sweep->gone))
        return;
    sweep->left--;
    (void)snprintf(sweep->gone[sweep->gone_count++], LINK_NAME_SIZE, "%s", name);
}

int network_sweep(struct networks *networks, network_lives_fn lives, void *context, struct err *err)
{
    struct sweep sweep = {.networks = networks, .lives = lives, .context = context};
    struct err failure = ERR_INIT;
    networks->tidy = false;
    if (!networks->root)
        return 0;
    int result = link_each(networks->rules.links, on_swept, &sweep, err);
    for (size_t i = 0; result == 0 && i < sweep.gone_count; i++) {
        log_info("removing the interface %s: nobody is to have it any more", sweep.gone[i]);
        result = link_remove(sweep.gone[i], err);
    }
    if (result != 0 || (sweep.left == 0 && !networks->table))
        return result;
    if (sweep.left == 0) {
        result = firewall_remove(&networks->rules, err);
        networks->table = result != 0;
        return result;
    }
    if (!networks->wanted)
        return 0;
    result = firewall_check(&networks->rules, &failure);
    if (result != 0) {
        log_warn("network full: %s: putting the rules back", failure.message);
        result = firewall_put(&networks->rules, err);
    }
    networks->table |= result == 0;
    return result;
}
