/* Owns the reading of config.json and the headers made of it (docs.docker.com/engine/api, section
 * "Authentication"). Refuses to show what it read. */
#include "docker/registry.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jansson.h>

#include "base/encoding.h"
#include "base/fd.h"
#include "docker/reference.h"
#include "wire/json.h"

enum { FILE_MAX = 1 << 20, HEADER_MAX = 256 << 10, SECRET_MAX = 16 << 10, SECRET_LEAST = 4 };

bool registry_file(char *out, size_t size)
{
    const char *folder = getenv("DOCKER_CONFIG");
    const char *home = getenv("HOME");
    if (folder && folder[0] == '/')
        (void)snprintf(out, size, "%s/config.json", folder);
    else if (home && home[0] == '/')
        (void)snprintf(out, size, "%s/.docker/config.json", home);
    else
        return false;
    return true;
}

/* ---- bytes that nobody else is to see ---- */

static void forget(struct buf *buf)
{
    if (buf->data)
        explicit_bzero(buf->data, buf->capacity);
    buf_done(buf);
}

static void forget_text(char **text)
{
    if (*text)
        explicit_bzero(*text, strlen(*text));
    free(*text);
    *text = NULL;
}
#define SECRET_AUTO __attribute__((cleanup(forget)))
#define SECRET_TEXT_AUTO __attribute__((cleanup(forget_text)))

void registry_login_done(struct registry_login *login)
{
    forget(&login->header);
    forget(&login->secrets);
    *login = (struct registry_login){0};
}

static int keep_secret(struct registry_login *login, const char *text, struct err *err)
{
    if (!text || strlen(text) < SECRET_LEAST) /* what is shorter is in every second text */
        return 0;
    return buf_append(&login->secrets, text, strlen(text) + 1, err);
}

bool registry_login_is_told(const struct registry_login *login, const char *text)
{
    for (size_t at = 0; at < login->secrets.size;) {
        const char *secret = (const char *)login->secrets.data + at;
        if (strstr(text, secret))
            return true;
        at += strlen(secret) + 1;
    }
    return false;
}

/* Of the URL alphabet, with padding: what the daemons decode. */
static int put_header(struct registry_login *login, const char *name, const json_t *value,
                      struct err *err)
{
    SECRET_TEXT_AUTO char *text = json_dumps(value, JSON_COMPACT);
    if (!text)
        return err_set(err, ERR_INTERNAL, "no memory");
    int result = buf_printf(&login->header, err, "%s: ", name);
    if (result == 0)
        result = base64_append(&login->header, text, strlen(text), BASE64_URL, err);
    return result == 0 && !buf_cstr(&login->header) ? err_set(err, ERR_INTERNAL, "no memory")
                                                    : result;
}

/* ---- the file ---- */

/* *out stays NULL where there is none. */
static int read_config(const char *file, json_t **out, struct err *err)
{
    struct stat info;
    SECRET_AUTO struct buf text;
    buf_init(&text, FILE_MAX);
    FD_AUTO int fd = file ? open(file, O_RDONLY | O_NONBLOCK | O_CLOEXEC) : -1;
    if (fd < 0 && (!file || errno == ENOENT || errno == ENOTDIR))
        return 0;
    if (fd < 0 || fstat(fd, &info) != 0)
        return err_sys(err, errno, "read %s", file);
    if (!S_ISREG(info.st_mode) || info.st_size > FILE_MAX)
        return err_set(err, ERR_UNAVAILABLE, "%s: is no file of credentials", file);
    uint8_t *room = buf_reserve(&text, (size_t)info.st_size, err);
    ssize_t size = room ? read(fd, room, (size_t)info.st_size) : -1;
    text.size = size > 0 ? (size_t)size : 0;
    /* Not in the parser's words, which may have the bytes. */
    if (size < 0 || json_parse_object(text.data, text.size, out, NULL) != 0)
        return err_set(err, ERR_UNAVAILABLE, "%s: can't be read as an object of JSON", file);
    return 0;
}

/* "auth" is "user:password" in base64; what `docker login` of old wrote ends in a NUL. */
static int read_pair(const json_t *entry, json_t *out, struct err *err)
{
    const char *coded = json_string_value(json_object_get(entry, "auth"));
    const char *user = json_string_value(json_object_get(entry, "username"));
    const char *password = json_string_value(json_object_get(entry, "password"));
    SECRET_AUTO struct buf pair;
    buf_init(&pair, SECRET_MAX);
    if (coded && *coded != '\0') {
        if (base64_decode(coded, strlen(coded), &pair, NULL) != 0 || !buf_cstr(&pair))
            return err_set(err, ERR_UNAVAILABLE, "\"auth\" is not base64");
        char *colon = strchr((char *)pair.data, ':');
        if (!colon)
            return err_set(err, ERR_UNAVAILABLE, "\"auth\" is no name and password");
        *colon = '\0';
        user = (const char *)pair.data;
        password = colon + 1;
    }
    if (!user || *user == '\0' || !password)
        return 0;
    if (json_object_set_new(out, "username", json_string(user)) != 0 ||
        json_object_set_new(out, "password", json_string(password)) != 0)
        return err_set(err, ERR_UNAVAILABLE, "\"auth\" is not UTF-8");
    return 0;
}

/* What the daemon wants to hear of one entry; an empty object where that has no credentials. */
static int read_entry(const char *server, const json_t *entry, struct registry_login *login,
                      json_t **out, struct err *err)
{
    static const char *const tokens[] = {"identitytoken", "registrytoken"};
    JSON_AUTO json_t *made = json_object();
    int result = made ? read_pair(entry, made, err) : err_set(err, ERR_INTERNAL, "no memory");
    for (size_t i = 0; result == 0 && i < 2; i++) {
        json_t *token = json_object_get(entry, tokens[i]);
        if (json_is_string(token) && *json_string_value(token) != '\0' &&
            (json_object_set(made, tokens[i], token) != 0 ||
             keep_secret(login, json_string_value(token), err) != 0))
            result = err_set(err, ERR_INTERNAL, "no memory");
    }
    if (result == 0)
        result = keep_secret(login, json_string_value(json_object_get(entry, "auth")), err);
    if (result == 0)
        result = keep_secret(login, json_string_value(json_object_get(made, "password")), err);
    if (result == 0 && json_object_size(made) > 0 &&
        json_object_set_new(made, "serveraddress", json_string(server)) != 0)
        result = err_set(err, ERR_INTERNAL, "no memory");
    if (result == 0)
        *out = json_incref(made);
    return result;
}

/* How long a part of the whole name the key of an entry stands for: "registry.example",
 * "https://registry.example/v1/", or "registry.example/team" as others than Docker write it. 0: it
 * is another one's. */
static size_t matches(const char *key, const char *whole)
{
    static const char *const hub[] = {"index.docker.io", "registry-1.docker.io"};
    const char *scheme = strstr(key, "://");
    const char *host = scheme ? scheme + 3 : key;
    size_t size = scheme ? strcspn(host, "/") : strlen(host);
    if (!scheme && size > 4 &&
        (strcmp(host + size - 4, "/v1/") == 0 || strcmp(host + size - 4, "/v2/") == 0))
        size -= 4;
    for (size_t i = 0; i < 2; i++) {
        if (size == strlen(hub[i]) && strncasecmp(host, hub[i], size) == 0) {
            host = "docker.io";
            size = strlen(host);
        }
    }
    /* A registry's port is a part of its name: another one is another registry. */
    const char *ends = memchr(host, '/', size) ? "/:@" : "/";
    bool is_it = size > 0 && strlen(whole) > size && strncasecmp(host, whole, size) == 0 &&
                 strchr(ends, whole[size]);
    return is_it ? size : 0;
}

static void begin(struct registry_login *login)
{
    registry_login_done(login);
    buf_init(&login->header, HEADER_MAX);
    buf_init(&login->secrets, HEADER_MAX);
}

/* Whether a program has this registry's, or would have it. */
static bool is_kept(const json_t *config, const char *whole)
{
    const char *key = NULL;
    json_t *value = NULL;
    json_object_foreach(json_object_get(config, "credHelpers"), key, value)
    {
        if (matches(key, whole) > 0)
            return true;
    }
    json_object_foreach(json_object_get(config, "auths"), key, value)
    {
        if (matches(key, whole) > 0)
            return json_object_get(config, "credsStore") != NULL;
    }
    return false;
}

int registry_login_find(const char *file, const char *reference, struct registry_login *out,
                        struct err *err)
{
    char whole[REFERENCE_FULL_SIZE];
    const char *key = NULL;
    const char *best = NULL;
    json_t *entry = NULL;
    size_t longest = 0;
    JSON_AUTO json_t *config = NULL;
    JSON_AUTO json_t *made = NULL;
    begin(out);
    reference_expand(reference, whole);
    int result = read_config(file, &config, err);
    json_object_foreach(json_object_get(config, "auths"), key, entry)
    {
        size_t size = matches(key, whole);
        if (size > longest) {
            longest = size;
            best = key;
        }
    }
    entry = best ? json_object_get(json_object_get(config, "auths"), best) : NULL;
    if (result == 0 && entry && read_entry(best, entry, out, &made, err) != 0)
        result = err ? err_wrap(err, "%s: %.100s", file, best) : -ERR_UNAVAILABLE;
    if (result == 0 && json_object_size(made) > 0)
        result = put_header(out, "X-Registry-Auth", made, err);
    if (result == 0 && json_object_size(made) == 0)
        out->is_kept_by_one = is_kept(config, whole);
    if (result != 0)
        registry_login_done(out);
    return result;
}

int registry_login_all(const char *file, struct registry_login *out, struct err *err)
{
    const char *key = NULL;
    json_t *entry = NULL;
    JSON_AUTO json_t *config = NULL;
    JSON_AUTO json_t *all = json_object();
    begin(out);
    int result = all ? read_config(file, &config, err) : err_set(err, ERR_INTERNAL, "no memory");
    json_object_foreach(json_object_get(config, "auths"), key, entry)
    {
        JSON_AUTO json_t *made = NULL;
        if (result != 0)
            break;
        result = read_entry(key, entry, out, &made, err);
        if (result == 0 && json_object_size(made) > 0)
            (void)json_object_set(all, key, made);
    }
    if (result == 0 && json_object_size(all) > 0)
        result = put_header(out, "X-Registry-Config", all, err);
    if (result != 0)
        registry_login_done(out);
    return result;
}
