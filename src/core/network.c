/* Owns the modes, the lists and the variables of a sandbox's network. Refuses a rule that the
 * operator's do not cover, whoever asks. */
#include "core/network.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "core/core.h"
#include "wire/egress_rule.h"
#include "wire/json.h"

#define PROXY "http://127.0.0.1:3128"
#define BUNDLE "/etc/ssl/certs/ca-certificates.crt"
#define TEXT_MAX (EGRESS_RULES_MAX * (EGRESS_RULE_MAX + 1U) + 64)

static const char *const mode_names[NETWORK_MODE_COUNT] = {
    [NETWORK_NONE] = "none", [NETWORK_EGRESS] = "egress", [NETWORK_FULL] = "full"};

static const char default_allow[] =
    "pypi.org files.pythonhosted.org registry.npmjs.org crates.io index.crates.io static.crates.io "
    "rubygems.org index.rubygems.org proxy.golang.org sum.golang.org repo1.maven.org "
    "repo.maven.apache.org cran.r-project.org cloud.r-project.org www.cpan.org cpan.metacpan.org "
    "packagist.org repo.packagist.org luarocks.org deb.debian.org security.debian.org";

static const char *const proxy_env[] = {
    "HTTP_PROXY=" PROXY,
    "HTTPS_PROXY=" PROXY,
    "http_proxy=" PROXY,
    "https_proxy=" PROXY,
    "NO_PROXY=localhost,127.0.0.1,::1",
    "no_proxy=localhost,127.0.0.1,::1",
    "NODE_USE_ENV_PROXY=1",
    "JAVA_TOOL_OPTIONS=-Dhttp.proxyHost=127.0.0.1 -Dhttp.proxyPort=3128 "
    "-Dhttps.proxyHost=127.0.0.1 -Dhttps.proxyPort=3128 "
    "-Dhttp.nonProxyHosts=localhost|127.*|[::1]",
    /* Those below are for the image "host" alone. */
    "SSL_CERT_FILE=" BUNDLE,
    "CURL_CA_BUNDLE=" BUNDLE,
    "REQUESTS_CA_BUNDLE=" BUNDLE,
    "PIP_CERT=" BUNDLE,
    "NODE_EXTRA_CA_CERTS=" BUNDLE,
    "GIT_SSL_CAINFO=" BUNDLE,
    "CARGO_HTTP_CAINFO=" BUNDLE,
    /* Node before 22.21 knows no NODE_USE_ENV_PROXY; the engine puts the file there. */
    "NODE_OPTIONS=--require=/etc/node_proxy.cjs",
};
enum { HOST_ENV_COUNT = 8 };

const char *network_mode_name(enum network_mode mode)
{
    return mode_names[mode];
}

const char *network_default_allow(void)
{
    return default_allow;
}

/* ---- lists ---- */

void network_list_done(struct network_list *list)
{
    free(list->items);
    free(list->text);
    *list = (struct network_list){0};
}

static int no_memory(struct err *err)
{
    return err_set(err, ERR_INTERNAL, "no memory for a network");
}

/* The words of a text, which is copied. */
static int split(const char *text, struct network_list *out, struct err *err)
{
    static const char between[] = " ,\t\n";
    NETWORK_LIST_AUTO struct network_list list = {.text = strdup(text)};
    size_t count = 0;
    if (!list.text)
        return no_memory(err);
    for (const char *at = list.text + strspn(list.text, between); *at; count++) {
        at += strcspn(at, between);
        at += strspn(at, between);
    }
    list.items = calloc(count + 1, sizeof(*list.items));
    if (!list.items)
        return no_memory(err);
    for (char *at = list.text + strspn(list.text, between); *at;) {
        size_t size = strcspn(at, between);
        list.items[list.count++] = at;
        char *next = at + size + strspn(at + size, between);
        at[size] = '\0';
        at = next;
    }
    *out = (struct network_list){
        .items = take(list.items), .count = list.count, .text = take(list.text)};
    return 0;
}

/* ---- the operator's ---- */

static int find_mode(const char *name, enum network_mode *out)
{
    for (int i = 0; i < NETWORK_MODE_COUNT; i++) {
        if (strcmp(name, mode_names[i]) == 0) {
            *out = (enum network_mode)i;
            return 0;
        }
    }
    return -ERR_BAD_INPUT;
}

static int read_modes(const char *modes, struct network_rules *rules, struct err *err)
{
    NETWORK_LIST_AUTO struct network_list names = {0};
    int result = split(modes, &names, err);
    for (size_t i = 0; i < names.count && result == 0; i++) {
        enum network_mode mode = NETWORK_NONE;
        result = find_mode(names.items[i], &mode);
        if (result != 0)
            return err_set(err, ERR_BAD_INPUT,
                           "BERTH_NETWORK_MODES: expected none, egress or full, got \"%.60s\"",
                           names.items[i]);
        rules->offered[mode] = true;
    }
    return result;
}

int network_rules_read(const char *modes, const char *allow, struct network_rules *out,
                       struct err *err)
{
    struct network_rules rules = {0};
    int result = read_modes(modes, &rules, err);
    if (result == 0)
        result = split(allow, &rules.allow, err);
    if (result == 0 && rules.allow.count > EGRESS_RULES_MAX)
        result =
            err_set(err, ERR_BAD_INPUT, "BERTH_EGRESS_ALLOW: more than %d rules", EGRESS_RULES_MAX);
    for (size_t i = 0; i < rules.allow.count && result == 0; i++) {
        struct egress_rule rule;
        struct err why = ERR_INIT;
        if (egress_rule_parse(rules.allow.items[i], &rule, &why) != 0)
            result = err_set(err, ERR_BAD_INPUT, "BERTH_EGRESS_ALLOW: \"%.60s\": %s",
                             rules.allow.items[i], why.message);
    }
    if (result != 0) {
        network_rules_done(&rules);
        return result;
    }
    *out = rules;
    return 0;
}

void network_rules_done(struct network_rules *rules)
{
    network_list_done(&rules->allow);
}

/* ---- a sandbox's ---- */

void network_done(struct network *network)
{
    free(network->allow);
    *network = (struct network){0};
}

int network_copy(const struct network *network, struct network *out, struct err *err)
{
    char *allow = network->allow ? strdup(network->allow) : NULL;
    if (network->allow && !allow)
        return no_memory(err);
    *out = (struct network){.mode = network->mode, .allow = allow};
    return 0;
}

static bool is_offered(const struct network_rules *rules, enum network_mode mode)
{
    return mode == NETWORK_NONE || (rules && rules->offered[mode]);
}

static int plan_mode(const struct network_rules *rules, const struct network_ask *ask,
                     enum network_mode *out, struct err *err)
{
    if (!ask->mode)
        return 0;
    if (find_mode(ask->mode, out) != 0)
        return err_public(err, ERR_BAD_INPUT,
                          "network: expected \"none\", \"egress\" or \"full\", got \"%.40s\"",
                          ask->mode);
    if (!is_offered(rules, *out))
        return err_public(err, ERR_UNSUPPORTED,
                          "network: the operator does not offer \"%s\" (BERTH_NETWORK_MODES)",
                          ask->mode);
    if (ask->narrowed && *out != NETWORK_EGRESS)
        return err_public(err, ERR_BAD_INPUT, "network.allow: only \"egress\" has one");
    return 0;
}

static int plan_rule(const struct network_rules *rules, const char *rule, struct buf *out,
                     struct err *err)
{
    bool covered = false;
    struct err why = ERR_INIT;
    if (egress_rule_check_narrow(rule, rules->allow.items, rules->allow.count, &covered, &why) != 0)
        return err_public(err, ERR_BAD_INPUT, "network.allow: \"%.80s\": %.200s", rule,
                          why.public_message);
    if (!covered)
        return err_public(err, ERR_BAD_INPUT,
                          "network.allow: the operator does not allow \"%.80s\" "
                          "(BERTH_EGRESS_ALLOW); GET /api/v1/info lists what is",
                          rule);
    return buf_printf(out, err, "%s%s", out->size > 0 ? " " : "", rule);
}

int network_plan(const struct network_rules *rules, const struct network_ask *ask,
                 struct network *out, struct err *err)
{
    struct network network = {.mode = NETWORK_NONE};
    BUF_AUTO struct buf text;
    buf_init(&text, TEXT_MAX);
    int result = plan_mode(rules, ask, &network.mode, err);
    if (result == 0 && ask->allow_count > EGRESS_RULES_MAX)
        result =
            err_public(err, ERR_BAD_INPUT, "network.allow: more than %d rules", EGRESS_RULES_MAX);
    for (size_t i = 0; i < ask->allow_count && result == 0; i++)
        result = plan_rule(rules, ask->allow[i], &text, err);
    if (result != 0)
        return result;
    if (ask->narrowed) {
        network.allow = strdup(text.size > 0 ? buf_cstr(&text) : "");
        if (!network.allow)
            return no_memory(err);
    }
    *out = network;
    return 0;
}

int network_effective(const struct network_rules *rules, const struct network *network,
                      struct network_list *out, struct err *err)
{
    NETWORK_LIST_AUTO struct network_list list = {0};
    if (network->mode != NETWORK_EGRESS || !is_offered(rules, NETWORK_EGRESS)) {
        *out = (struct network_list){0};
        return 0;
    }
    size_t count = 0;
    int result = 0;
    if (network->allow) {
        result = split(network->allow, &list, err);
    } else { /* the operator's own, which outlive it */
        list.items = calloc(rules->allow.count + 1, sizeof(*list.items));
        for (; list.items && list.count < rules->allow.count; list.count++)
            list.items[list.count] = rules->allow.items[list.count];
        result = list.items ? 0 : no_memory(err);
    }
    for (size_t i = 0; i < list.count && result == 0; i++) {
        bool covered = false;
        (void)egress_rule_check_narrow(list.items[i], rules->allow.items, rules->allow.count,
                                       &covered, NULL);
        if (covered)
            list.items[count++] = list.items[i];
    }
    if (result != 0)
        return result;
    *out =
        (struct network_list){.items = take(list.items), .count = count, .text = take(list.text)};
    return 0;
}

/* ---- as text ---- */

char *network_encode(const struct network *network)
{
    char *out = NULL;
    const char *allow = network->allow;
    if (asprintf(&out, "%s%s%s", mode_names[network->mode], allow ? " " : "", allow ? allow : "") <
        0)
        return NULL;
    return out;
}

int network_decode(const char *text, struct network *out, struct err *err)
{
    char name[16];
    struct network network = {.mode = NETWORK_NONE};
    size_t size = strcspn(text, " ");
    (void)snprintf(name, sizeof(name), "%.*s", (int)size, text);
    if (find_mode(name, &network.mode) != 0)
        return err_set(err, ERR_INTERNAL, "\"%.40s\" is no network", text);
    if (text[size] == ' ') {
        network.allow = strdup(text + size + 1);
        if (!network.allow)
            return no_memory(err);
    }
    *out = network;
    return 0;
}

static int append_list(const struct network_list *list, struct buf *out, struct err *err)
{
    int result = buf_append_str(out, "[", err);
    for (size_t i = 0; i < list->count && result == 0; i++) {
        if (i > 0)
            result = buf_append_str(out, ",", err);
        if (result == 0)
            result = json_append_string(out, list->items[i], strlen(list->items[i]), err);
    }
    return result == 0 ? buf_append_str(out, "]", err) : result;
}

int network_append_json(const struct network_rules *rules, const struct network *network,
                        struct buf *out, struct err *err)
{
    NETWORK_LIST_AUTO struct network_list allow = {0};
    int result = network_effective(rules, network, &allow, err);
    if (result == 0)
        result = buf_printf(out, err, "{\"mode\":\"%s\",\"allow\":", mode_names[network->mode]);
    if (result == 0)
        result = append_list(&allow, out, err);
    return result == 0 ? buf_append_str(out, "}", err) : result;
}

int network_rules_json(const struct network_rules *rules, struct buf *out, struct err *err)
{
    static const struct network_rules nothing = {0};
    const struct network_rules *said = rules ? rules : &nothing;
    int result = buf_append_str(out, "{\"modes\":[\"none\"", err);
    for (int i = NETWORK_NONE + 1; i < NETWORK_MODE_COUNT && result == 0; i++) {
        if (is_offered(rules, (enum network_mode)i))
            result = buf_printf(out, err, ",\"%s\"", mode_names[i]);
    }
    if (result == 0)
        result = buf_append_str(out, "],\"default\":\"none\",\"allow\":", err);
    if (result == 0)
        result = append_list(&said->allow, out, err);
    return result == 0
               ? buf_printf(out, err, ",\"bytes_max\":%" PRIu64 ",\"connections_max\":%" PRIu32 "}",
                            said->bytes_max, said->connections_max)
               : result;
}

/* ---- variables ---- */

const char *const *network_env(const struct network *network, const char *image, size_t *out_count)
{
    size_t count = ARRAY_SIZE(proxy_env);
    _Static_assert(ARRAY_SIZE(proxy_env) <= NETWORK_ENV_MAX, "room for all of them");
    /* In another image the bundle may lie elsewhere, and programs know where. */
    if (image && strcmp(image, "host") != 0)
        count -= HOST_ENV_COUNT;
    *out_count = network->mode == NETWORK_EGRESS ? count : 0;
    return proxy_env;
}

uint32_t network_env_unset(const char *const *env, size_t env_count)
{
    uint32_t mask = 0;
    for (size_t i = 0; i < ARRAY_SIZE(proxy_env); i++) {
        size_t size = strcspn(proxy_env[i], "=") + 1;
        bool set = false;
        for (size_t k = 0; k < env_count && !set; k++)
            set = strncmp(env[k], proxy_env[i], size) == 0;
        mask |= set ? 0 : UINT32_C(1) << i;
    }
    return mask;
}
