/* Owns the requests about images that a command makes. What became of one is asked for after it:
 * the daemon's words along the way are for people. */
#include "docker/command_image.h"

#include <ctype.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/mem.h"
#include "docker/command_show.h"
#include "docker/context.h"
#include "docker/reference.h"
#include "docker/registry.h"
#include "wire/json.h"

#define STALL_NS (300 * CLOCK_NS_PER_S)

enum { PATH_BYTES_MAX = 128 << 10, REPLY_MAX = 32 << 20 };

/* Makes the call and shows what is said of it. */
static int act(struct remote *remote, struct remote_call *call, struct command_show *show,
               struct err *err)
{
    call->method = "POST";
    call->take = command_show_line;
    call->context = show;
    int result = remote_do(remote, call, NULL, err);
    if (result != 0 && show->login && err && registry_login_is_told(show->login, err->message))
        result = err_set(err, err->kind, "%s: the Docker daemon refused it", call->what);
    if (result == 0 && show->error[0] != '\0')
        result = err_set(err, ERR_UNAVAILABLE, "%s", show->error);
    return result;
}

static int show_image(struct remote *remote, const char *name, struct err *err)
{
    char path[ENGINE_IMAGE_MAX + 32];
    BUF_AUTO struct buf reply;
    buf_init(&reply, REPLY_MAX);
    (void)snprintf(path, sizeof(path), "/images/%s/json", name);
    const struct remote_call call = {.what = "look for the image", .method = "GET", .path = path};
    int result = remote_do(remote, &call, &reply, err);
    return result == 0 ? command_show_image(name, &reply, err) : result;
}

/* ---- credentials ---- */

/* The file that was named, which has to be there, or where there may be one. */
static int find_file(const struct command_options *options, char out[static PATH_MAX],
                     const char **file, struct err *err)
{
    if (!options->authfile) {
        *file = registry_file(out, PATH_MAX) ? out : NULL;
        return 0;
    }
    FILE *there = fopen(options->authfile, "re");
    if (!there)
        return err_set(err, ERR_BAD_INPUT, "%s can't be read", options->authfile);
    (void)fclose(there);
    *file = options->authfile;
    return 0;
}

static const char *header_of(struct registry_login *login)
{
    return login->header.size > 0 ? buf_cstr(&login->header) : NULL;
}

/* ---- pull ---- */

int command_pull(struct remote *remote, const struct command_options *options, const char *name,
                 struct err *err)
{
    char place[PATH_MAX];
    char path[REFERENCE_ESCAPED_SIZE + 64];
    char escaped[REFERENCE_ESCAPED_SIZE];
    const char *file = NULL;
    struct registry_login login = {0};
    struct command_show show = {.login = &login};
    int result = find_file(options, place, &file, err);
    if (result == 0)
        result = registry_login_find(file, name, &login, err);
    if (result == 0 && login.is_kept_by_one)
        (void)fprintf(stderr,
                      "berth: %s leaves the credentials to another program, which is not "
                      "asked\n",
                      file);
    reference_escape(name, escaped);
    (void)snprintf(path, sizeof(path), "/images/create?fromImage=%s%s", escaped,
                   reference_has_tag(name) ? "" : "&tag=latest");
    struct remote_call call = {
        .what = "pull", .path = path, .header = header_of(&login), .stall_ns = STALL_NS};
    if (result == 0)
        result = act(remote, &call, &show, err);
    registry_login_done(&login);
    return result == 0 ? show_image(remote, name, err) : result;
}

/* ---- build ---- */

/* RFC 3986, section 2.3: all else as %XX. */
static int put_escaped(struct buf *out, const char *text, struct err *err)
{
    int result = 0;
    for (; result == 0 && *text != '\0'; text++) {
        unsigned char byte = (unsigned char)*text;
        if (byte < 128 && (isalnum(byte) || strchr("-._~", byte)))
            result = buf_append(out, text, 1, err);
        else
            result = buf_printf(out, err, "%%%02X", byte);
    }
    return result;
}

static int put_pair(struct buf *out, const char *name, const char *value, struct err *err)
{
    int result = buf_printf(out, err, "&%s=", name);
    return result == 0 ? put_escaped(out, value, err) : result;
}

static int add_arg(json_t *args, const char *arg, struct err *err)
{
    char name[256];
    size_t size = strcspn(arg, "=");
    if (size == 0 || size >= sizeof(name))
        return err_set(err, ERR_BAD_INPUT, "--build-arg: expected NAME=VALUE or NAME");
    memcpy(name, arg, size);
    name[size] = '\0';
    const char *value = arg[size] == '=' ? arg + size + 1 : getenv(name);
    json_t *made = value ? json_string(value) : json_null();
    if (json_object_set_new(args, name, made) != 0)
        return err_set(err, ERR_BAD_INPUT, "--build-arg %s: is not UTF-8", name);
    return 0;
}

static int put_args(struct buf *out, const struct command_options *options, struct err *err)
{
    JSON_AUTO json_t *args = json_object();
    int result = args ? 0 : err_set(err, ERR_INTERNAL, "no memory");
    for (size_t i = 0; result == 0 && i < options->arg_count; i++)
        result = add_arg(args, options->args[i], err);
    if (result != 0)
        return result;
    MEM_AUTO char *text = json_dumps(args, JSON_COMPACT);
    return text ? put_pair(out, "buildargs", text, err) : err_set(err, ERR_INTERNAL, "no memory");
}

static int put_build(struct buf *out, const struct command_options *options, struct err *err)
{
    /* Containers of steps go, also those of a step that failed. */
    int result = buf_append_str(out, "/build?rm=1&forcerm=1", err);
    if (result == 0)
        result = put_pair(out, "t", options->name, err);
    if (result == 0)
        result = put_pair(out, "dockerfile", options->dockerfile, err);
    if (result == 0 && options->network)
        result = put_pair(out, "networkmode", options->network, err);
    if (result == 0 && options->no_cache)
        result = put_pair(out, "nocache", "1", err);
    if (result == 0 && options->pull)
        result = put_pair(out, "pull", "1", err);
    if (result == 0 && options->arg_count > 0)
        result = put_args(out, options, err);
    return result == 0 && !buf_cstr(out) ? err_set(err, ERR_INTERNAL, "no memory") : result;
}

int command_build(struct remote *remote, const struct command_options *options, const char *folder,
                  struct err *err)
{
    char place[PATH_MAX];
    const char *file = NULL;
    FD_AUTO int fd = -1;
    BUF_AUTO struct buf path;
    char size[COMMAND_SIZE_SIZE];
    struct registry_login login = {0};
    struct command_show show = {.login = &login};
    struct remote_call call = {.what = "build"};
    buf_init(&path, PATH_BYTES_MAX);
    int result = put_build(&path, options, err);
    if (result == 0)
        result = find_file(options, place, &file, err);
    if (result == 0)
        result = registry_login_all(file, &login, err);
    if (result == 0)
        result = context_make(folder, options->dockerfile, &fd, &call.body_size, err);
    if (result == 0) {
        command_show_size((double)call.body_size, size);
        (void)fprintf(stderr, "berth: %s of %s are sent to the Docker daemon\n", size, folder);
        call.path = (const char *)path.data;
        call.header = header_of(&login);
        call.body_fd = fd;
        result = act(remote, &call, &show, err);
    }
    registry_login_done(&login);
    return result == 0 ? show_image(remote, options->name, err) : result;
}

/* ---- archives ---- */

int command_load(struct remote *remote, const char *file, struct err *err)
{
    FD_AUTO int fd = -1;
    struct command_show show = {0};
    struct remote_call call = {.what = "load", .path = "/images/load?quiet=0"};
    int result = context_open(file, &fd, &call.body_size, err);
    call.body_fd = fd;
    if (result == 0)
        result = act(remote, &call, &show, err);
    if (result == 0 && !show.loaded)
        result = err_set(err, ERR_BAD_INPUT, "%s: the Docker daemon found no image in it", file);
    return result;
}

int command_import(struct remote *remote, const char *file, const char *name, struct err *err)
{
    FD_AUTO int fd = -1;
    char escaped[REFERENCE_ESCAPED_SIZE];
    char path[REFERENCE_ESCAPED_SIZE + 64];
    struct command_show show = {0};
    struct remote_call call = {.what = "import", .path = path};
    if (strchr(name, '@'))
        return err_set(err, ERR_BAD_INPUT, "\"%.150s\": a digest is no name to give", name);
    reference_escape(name, escaped);
    (void)snprintf(path, sizeof(path), "/images/create?fromSrc=-&repo=%s%s", escaped,
                   reference_has_tag(name) ? "" : "&tag=latest");
    int result = context_open(file, &fd, &call.body_size, err);
    call.body_fd = fd;
    if (result == 0)
        result = act(remote, &call, &show, err);
    return result == 0 ? show_image(remote, name, err) : result;
}

/* ---- what is there ---- */

int command_list(struct remote *remote, bool as_json, struct err *err)
{
    BUF_AUTO struct buf reply;
    buf_init(&reply, REPLY_MAX);
    const struct remote_call call = {
        .what = "list images", .method = "GET", .path = "/images/json"};
    int result = remote_do(remote, &call, &reply, err);
    return result == 0 ? command_show_list(&reply, as_json, err) : result;
}

int command_remove(struct remote *remote, const char *name, struct err *err)
{
    char path[ENGINE_IMAGE_MAX + 32];
    (void)snprintf(path, sizeof(path), "/images/%s", name);
    const struct remote_call call = {.what = "remove", .method = "DELETE", .path = path};
    return remote_do(remote, &call, NULL, err);
}
