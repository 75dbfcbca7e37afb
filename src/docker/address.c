/* Owns the reading of DOCKER_HOST, DOCKER_CERT_PATH and DOCKER_TLS_VERIFY. */
#include "docker/address.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/mem.h"

enum { SUN_PATH_MAX = 107 }; /* unix(7) */

static const char *setting(const char *name)
{
    const char *value = getenv(name);
    return value ? value : "";
}

static int use_socket(struct address *address, const char *path, struct err *err)
{
    if (path[0] != '/' || strlen(path) > SUN_PATH_MAX)
        return err_set(err, ERR_BAD_INPUT,
                       "DOCKER_HOST: a socket has an absolute path of at most %d bytes",
                       SUN_PATH_MAX);
    (void)snprintf(address->socket_path, sizeof(address->socket_path), "%s", path);
    (void)snprintf(address->base, sizeof(address->base), "http://docker");
    (void)snprintf(address->shown, sizeof(address->shown), "%s", path);
    return 0;
}

static bool is_socket(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISSOCK(info.st_mode);
}

static int find_socket(struct address *address, struct err *err)
{
    static const char *const places[][2] = {
        {"", "/var/run/docker.sock"},
        {"XDG_RUNTIME_DIR", "/docker.sock"},
        {"HOME", "/.docker/run/docker.sock"},
        {"", "/run/podman/podman.sock"},
        {"XDG_RUNTIME_DIR", "/podman/podman.sock"},
        {"HOME", "/.colima/default/docker.sock"},
    };
    char path[PATH_MAX];
    for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
        const char *folder = places[i][0][0] != '\0' ? setting(places[i][0]) : "";
        if (places[i][0][0] != '\0' && folder[0] != '/')
            continue;
        (void)snprintf(path, sizeof(path), "%s%s", folder, places[i][1]);
        if (is_socket(path) && strlen(path) <= SUN_PATH_MAX)
            return use_socket(address, path, err);
    }
    return use_socket(address, places[0][1], err);
}

/* The certificates are used where there are any, as the clients of Docker's own do it. */
static int use_tls(struct address *address, struct err *err)
{
    const char *folder = setting("DOCKER_CERT_PATH");
    address->verify = folder[0] == '\0' || setting("DOCKER_TLS_VERIFY")[0] != '\0';
    if (folder[0] == '\0')
        return 0;
    if (folder[0] != '/' || strlen(folder) + sizeof("/cert.pem") > PATH_MAX)
        return err_set(err, ERR_BAD_INPUT, "DOCKER_CERT_PATH: expected an absolute path");
    if (address->verify)
        (void)snprintf(address->ca_path, PATH_MAX, "%s/ca.pem", folder);
    (void)snprintf(address->cert_path, PATH_MAX, "%s/cert.pem", folder);
    (void)snprintf(address->key_path, PATH_MAX, "%s/key.pem", folder);
    return 0;
}

static int use_host(struct address *address, const char *host, bool tls, struct err *err)
{
    size_t size = strcspn(host, "/");
    if (size == 0 || size > 255 || strspn(host + size, "/") != strlen(host + size) ||
        strcspn(host, "@?# \t\\\"") < size)
        return err_set(err, ERR_BAD_INPUT, "DOCKER_HOST: expected tcp://HOST:PORT");
    if (tls && use_tls(address, err) != 0)
        return -ERR_BAD_INPUT;
    (void)snprintf(address->base, sizeof(address->base), "%s://%.*s", tls ? "https" : "http",
                   (int)size, host);
    (void)snprintf(address->shown, sizeof(address->shown), "%s", address->base);
    return 0;
}

int address_find(struct address *out, struct err *err)
{
    static const struct {
        const char *scheme;
        int tls; /* -1: where there are certificates */
    } schemes[] = {{"tcp://", -1}, {"http://", 0}, {"https://", 1}};
    const char *host = setting("DOCKER_HOST");
    struct address found;
    memset(&found, 0, sizeof(found));
    int result = -ERR_BAD_INPUT;
    if (host[0] == '\0')
        result = find_socket(&found, err);
    else if (strncmp(host, "unix://", 7) == 0)
        result = use_socket(&found, host + 7, err);
    else if (host[0] == '/')
        result = use_socket(&found, host, err);
    else {
        size_t i = 0;
        while (i < ARRAY_SIZE(schemes) &&
               strncmp(host, schemes[i].scheme, strlen(schemes[i].scheme)) != 0)
            i++;
        if (i == ARRAY_SIZE(schemes))
            return err_set(err, ERR_BAD_INPUT,
                           "DOCKER_HOST: expected unix://PATH, tcp://HOST:PORT or https://, got "
                           "\"%.80s\"",
                           host);
        bool tls = schemes[i].tls < 0 ? setting("DOCKER_CERT_PATH")[0] != '\0' : schemes[i].tls;
        result = use_host(&found, host + strlen(schemes[i].scheme), tls, err);
    }
    if (result == 0)
        *out = found;
    return result;
}
