/* Owns the reading of options and files into a request. Sends nothing. */
#include "cli/fields.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/parse.h"

static int read_fd(int fd, const char *name, struct buf *out, struct err *err)
{
    for (;;) {
        struct err local = ERR_INIT;
        uint8_t *room = buf_reserve(out, 64U * 1024U, &local);
        if (!room)
            return err_set(err, ERR_TOO_LARGE, "%s is larger than a request may be (4 MB)", name);
        ssize_t got = read(fd, room, 64U * 1024U);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return err_sys(err, errno, "read %s", name);
        if (got == 0)
            return 0;
        out->size += (size_t)got;
    }
}

int fields_read_path(const char *path, struct buf *out, struct err *err)
{
    FD_AUTO int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_sys(err, errno, "open %s", path);
    return read_fd(fd, path, out, err);
}

/* Sets a member to bytes that have to be text. */
static int set_text(json_t *object, const char *key, const struct buf *bytes, struct err *err)
{
    json_t *text = json_stringn(bytes->data ? (const char *)bytes->data : "", bytes->size);
    if (!text || json_object_set_new(object, key, text) != 0)
        return err_set(err, ERR_BAD_INPUT, "%s has to be text in UTF-8", key);
    return 0;
}

static int set_string(json_t *object, const char *key, const char *value, struct err *err)
{
    json_t *text = json_string(value);
    if (!text || json_object_set_new(object, key, text) != 0)
        return err_set(err, ERR_BAD_INPUT, "%s has to be text in UTF-8", key);
    return 0;
}

json_t *fields_member(json_t *request, const char *key, json_t *(*make)(void))
{
    json_t *found = json_object_get(request, key);
    if (!found && json_object_set_new(request, key, make()) == 0)
        found = json_object_get(request, key);
    return found;
}

static int add_env(json_t *request, const char *argument, struct err *err)
{
    const char *equals = strchr(argument, '=');
    if (!equals || equals == argument)
        return err_set(err, ERR_BAD_INPUT, "\"%s\" is not NAME=VALUE", argument);
    MEM_AUTO char *name = strndup(argument, (size_t)(equals - argument));
    if (!name)
        return err_set(err, ERR_INTERNAL, "no memory");
    return set_string(fields_member(request, "env", json_object), name, equals + 1, err);
}

int fields_set_seconds(json_t *request, const char *key, const char *value, struct err *err)
{
    double seconds = 0;
    int result = parse_fraction(value, &seconds, err);
    if (result == 0 && json_object_set_new(request, key, json_real(seconds)) != 0)
        result = err_set(err, ERR_INTERNAL, "no memory");
    return result;
}

int fields_set_network(json_t *request, const char *mode, struct err *err)
{
    return set_string(fields_member(request, "network", json_object), "mode", mode, err);
}

int fields_add_allow(json_t *request, const char *rule, struct err *err)
{
    json_t *network = fields_member(request, "network", json_object);
    json_t *text = json_string(rule);
    if (!text || json_array_append_new(fields_member(network, "allow", json_array), text) != 0)
        return err_set(err, ERR_BAD_INPUT, "a rule has to be text in UTF-8");
    return json_object_get(network, "mode") ? 0 : set_string(network, "mode", "egress", err);
}

static int add_library(json_t *request, const char *name, struct err *err)
{
    json_t *text = json_string(name);
    if (!text || json_array_append_new(fields_member(request, "libraries", json_array), text) != 0)
        return err_set(err, ERR_BAD_INPUT, "the name of a library has to be text in UTF-8");
    return 0;
}

int fields_take_place(int option, const char *value, json_t *request, struct err *err)
{
    switch (option) {
    case 'l':
        return set_string(request, "lang", value, err);
    case 'r':
        return set_string(fields_member(request, "resources", json_object), "ram", value, err);
    case 'u':
        return set_string(fields_member(request, "resources", json_object), "cpu", value, err);
    case 's':
        return set_string(fields_member(request, "resources", json_object), "storage", value, err);
    case 'I':
        return set_string(request, "image", value, err);
    case 'p':
        return set_string(request, "profile", value, err);
    case 'G':
        return set_string(request, "engine", value, err);
    case 'R':
        return set_string(request, "runtime", value, err);
    case 'e':
        return add_env(request, value, err);
    case 'N':
        return fields_set_network(request, value, err);
    case 'A':
        return fields_add_allow(request, value, err);
    case 'L':
        return add_library(request, value, err);
    default:
        return 1;
    }
}

int fields_read_sources(const struct fields_sources *sources, json_t *request, struct err *err)
{
    BUF_AUTO struct buf code;
    BUF_AUTO struct buf input;
    buf_init(&code, FIELDS_BODY_MAX);
    buf_init(&input, FIELDS_BODY_MAX);
    bool code_is_stdin = !sources->code && strcmp(sources->code_path, "-") == 0;
    int result = 0;
    if (sources->code)
        result = buf_append_str(&code, sources->code, err);
    else if (code_is_stdin)
        result = read_fd(STDIN_FILENO, "standard input", &code, err);
    else
        result = fields_read_path(sources->code_path, &code, err);
    if (result == 0)
        result = set_text(request, "code", &code, err);
    if (result != 0)
        return result;
    if (sources->stdin_path)
        result = fields_read_path(sources->stdin_path, &input, err);
    else if (!code_is_stdin && !isatty(STDIN_FILENO))
        result = read_fd(STDIN_FILENO, "standard input", &input, err);
    if (result == 0 && input.size > 0)
        result = set_text(request, "stdin", &input, err);
    return result;
}
