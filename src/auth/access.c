/* Owns the rules on who may call. Knows no tokens: it only says when one is needed. */
#include "auth/access.h"

#include <arpa/inet.h>
#include <stddef.h>
#include <string.h>
#include <strings.h>

#define ACCESS_HOST_MAX 256

const char *const access_forwarding_headers[] = {
    "Forwarded",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Proto",
    "X-Forwarded-Port",
    "X-Forwarded-User",
    "X-Forwarded-Prefix",
    "X-Forwarded-Server",
    "X-Forwarded-Ssl",
    "X-Real-IP",
    "Via",
    "CF-Connecting-IP",
    NULL,
};

/* Open to anybody wherever the server listens. */
static const char *const open_paths[] = {
    "/", "/health", "/api/v1/health/live", "/docs", "/login",
};

/* Calls that act for a user: they need a token on a loopback address too. */
static const char *const user_prefixes[] = {
    "/api/v1/sandboxes",
    "/api/v1/audit",
    "/api/v1/executions",
    "/upload",
    "/status",
    "/logs",
    "/stop",
    "/restart",
    "/apps",
    "/templates",
    "/deploy_template",
    "/save_template",
    "/update_status",
    "/logout",
    "/keys",
    "/users",
};

bool access_is_loopback(const char *host)
{
    struct in_addr v4;
    struct in6_addr v6;
    if (strcasecmp(host, "localhost") == 0)
        return true;
    if (inet_pton(AF_INET, host, &v4) == 1)
        return (ntohl(v4.s_addr) >> 24) == 127;
    return inet_pton(AF_INET6, host, &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

static bool access_is_address(const char *host)
{
    unsigned char bytes[sizeof(struct in6_addr)];
    return inet_pton(AF_INET, host, bytes) == 1 || inet_pton(AF_INET6, host, bytes) == 1;
}

static bool access_is_wildcard(const char *host)
{
    return strcmp(host, "0.0.0.0") == 0 || strcmp(host, "::") == 0 || *host == '\0';
}

/* Takes the port and the brackets off a Host field (RFC 9110 section 7.2). */
static bool access_split_host(const char *field, char out[static ACCESS_HOST_MAX])
{
    const char *end;
    const char *rest;
    if (*field == '[') {
        field++;
        end = strchr(field, ']');
        if (!end)
            return false;
        rest = end + 1;
    } else {
        end = field + strcspn(field, ":");
        rest = end;
    }
    size_t size = (size_t)(end - field);
    if (size == 0 || size >= ACCESS_HOST_MAX)
        return false;
    if (*rest != '\0' && (*rest != ':' || rest[1 + strspn(rest + 1, "0123456789")] != '\0'))
        return false;
    memcpy(out, field, size);
    out[size] = '\0';
    if (size > 1 && out[size - 1] == '.')
        out[size - 1] = '\0'; /* the root's dot: the same name */
    return true;
}

static bool access_host_is_ours(const struct access_policy *policy, const char *field)
{
    char host[ACCESS_HOST_MAX];
    char own[ACCESS_HOST_MAX];
    if (!field)
        return true; /* HTTP/1.0 without a Host: no browser sends that */
    if (!access_split_host(field, host))
        return false;
    if (access_is_loopback(host) || strcasecmp(host, policy->bind_host) == 0)
        return true;
    if (policy->public_host && access_split_host(policy->public_host, own) &&
        strcasecmp(host, own) == 0)
        return true;
    /* Bound to every address, the server can't list them; a page's own name is no address. */
    return access_is_wildcard(policy->bind_host) && access_is_address(host);
}

static bool access_is_open_path(const struct access_policy *policy, const char *path)
{
    for (size_t i = 0; i < sizeof(open_paths) / sizeof(open_paths[0]); i++) {
        if (strcmp(path, open_paths[i]) == 0)
            return true;
    }
    return policy->register_open && strcmp(path, "/register") == 0;
}

static bool access_is_user_path(const char *path)
{
    for (size_t i = 0; i < sizeof(user_prefixes) / sizeof(user_prefixes[0]); i++) {
        size_t size = strlen(user_prefixes[i]);
        if (strncmp(path, user_prefixes[i], size) == 0 && (path[size] == '\0' || path[size] == '/'))
            return true;
    }
    return false;
}

enum access_verdict access_decide(const struct access_policy *policy,
                                  const struct access_request *request)
{
    bool has_public_name = policy->public_host && *policy->public_host;
    if (!access_host_is_ours(policy, request->host))
        return ACCESS_BAD_HOST;
    if (policy->auth_off || access_is_open_path(policy, request->path))
        return ACCESS_OPEN;
    if (!access_is_loopback(policy->bind_host) || has_public_name || request->forwarded)
        return ACCESS_NEEDS_TOKEN;
    return access_is_user_path(request->path) ? ACCESS_NEEDS_TOKEN : ACCESS_OPEN;
}
