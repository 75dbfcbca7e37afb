/* Owns how an image is prepared: a container that is never started, init put into it, a commit.
 * What goes wrong leaves the image unprepared and is tried again after a while. */
#include "docker/prepare.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "docker/spec.h"
#include "wire/json.h"

#define CALL_NS (60 * CLOCK_NS_PER_S)
#define RETRY_NS (300 * CLOCK_NS_PER_S)

enum { NAME_SIZE = 96, PATH_SIZE = 512, ARCHIVE_MAX = 64 << 20 };

void prepares_init(struct prepares *prepares, struct daemon *daemon, const char *instance,
                   const void *init, size_t init_size)
{
    memset(prepares, 0, sizeof(*prepares));
    prepares->daemon = daemon;
    prepares->instance = instance;
    prepares->init = init;
    prepares->init_size = init_size;
    (void)snprintf(prepares->init_hash, sizeof(prepares->init_hash), "%016" PRIx64,
                   hash_add(HASH_BASIS, init, init_size));
}

void prepares_forget(struct prepares *prepares)
{
    for (size_t i = 0; i < ARRAY_SIZE(prepares->list); i++) {
        struct prepared *prepared = &prepares->list[i];
        web_cancel(&prepared->call);
        prepared->ready = prepared->made = prepared->distrusted = false;
        prepared->retry_ns = 0;
    }
}

bool prepares_are_busy(const struct prepares *prepares)
{
    for (size_t i = 0; i < ARRAY_SIZE(prepares->list); i++) {
        if (prepares->list[i].call)
            return true;
    }
    return false;
}

/* ---- steps ---- */

static void give_up(struct prepared *prepared, const char *what, const char *why);

static int call(struct prepared *prepared, const char *method, const char *path, struct buf *body,
                web_done_fn done)
{
    struct err err = ERR_INIT;
    if (daemon_call(prepared->prepares->daemon, method, path, body, CALL_NS, done, prepared,
                    &prepared->call, &err) == 0)
        return 0;
    prepared->call = NULL;
    return -ERR_UNAVAILABLE;
}

/* False, and it is given up: the daemon did not do as it was told, or we are to end. */
static bool is_done(struct prepared *prepared, const char *what, long status,
                    const struct buf *body, const struct err *error)
{
    struct err err = ERR_INIT;
    prepared->call = NULL;
    if (!error && status < 300 && !prepared->prepares->stopping)
        return true;
    if (!error && status >= 300)
        (void)web_refused(status, body, what, &err);
    give_up(prepared, what, error ? error->message : err.message);
    return false;
}

static void put_name(const struct prepared *prepared, char out[static NAME_SIZE])
{
    (void)snprintf(out, NAME_SIZE, "berth-%s-prepare-%zu", prepared->prepares->instance,
                   (size_t)(prepared - prepared->prepares->list));
}

/* Copies a text of JSON; false: there is none of that size. */
static bool copy(const json_t *text, char out[static PREPARE_ID_SIZE])
{
    const char *value = json_string_value(text);
    if (!value || value[0] == '\0' || strlen(value) >= PREPARE_ID_SIZE ||
        strspn(value, "0123456789abcdefsh:") != strlen(value))
        return false;
    (void)snprintf(out, PREPARE_ID_SIZE, "%s", value);
    return true;
}

static void on_pruned(void *context, long status, struct buf *body, const struct err *error)
{
    struct prepared *prepared = context;
    (void)status;
    (void)body;
    (void)error;
    prepared->call = NULL;
}

/* The container is gone, or the next one that is to be of its name removes it. Of images that had
 * the tag before, those go that no container is made of any more. */
static void on_removed(void *context, long status, struct buf *body, const struct err *error)
{
    struct prepared *prepared = context;
    char path[PATH_SIZE];
    (void)status;
    (void)body;
    (void)error;
    prepared->call = NULL;
    prepared->made = false;
    if (!prepared->ready || prepared->prepares->stopping)
        return;
    /* {"dangling":["true"],"label":["berth.prepared=INSTANCE"]} */
    (void)snprintf(path, sizeof(path),
                   "/images/prune?filters=%%7B%%22dangling%%22%%3A%%5B%%22true%%22%%5D%%2C"
                   "%%22label%%22%%3A%%5B%%22" PREPARE_LABEL_INSTANCE "%%3D%s%%22%%5D%%7D",
                   prepared->prepares->instance);
    (void)call(prepared, "POST", path, NULL, on_pruned);
}

static int ask_removal(struct prepared *prepared, web_done_fn done)
{
    char name[NAME_SIZE];
    char path[PATH_SIZE];
    put_name(prepared, name);
    (void)snprintf(path, sizeof(path), "/containers/%s?force=1&v=1", name);
    return call(prepared, "DELETE", path, NULL, done);
}

static void remove_container(struct prepared *prepared)
{
    (void)ask_removal(prepared, on_removed);
}

static void give_up(struct prepared *prepared, const char *what, const char *why)
{
    prepared->retry_ns = clock_now_ns() + RETRY_NS;
    if (!prepared->failed && !prepared->prepares->stopping)
        log_info("image %s is not prepared, sandboxes are filled one by one: %s: %s",
                 prepared->image, what, why);
    prepared->failed = true;
    if (prepared->made)
        remove_container(prepared);
}

static void on_committed(void *context, long status, struct buf *body, const struct err *error)
{
    struct prepared *prepared = context;
    JSON_AUTO json_t *json = NULL;
    if (!is_done(prepared, "commit", status, body, error))
        return;
    if (json_parse_object(body->data, body->size, &json, NULL) != 0 ||
        !copy(json_object_get(json, "Id"), prepared->id)) {
        give_up(prepared, "commit", "an answer without an id");
        return;
    }
    prepared->ready = true;
    prepared->failed = prepared->distrusted = false;
    log_info("image %s is prepared", prepared->image);
    remove_container(prepared);
}

static void on_filled(void *context, long status, struct buf *body, const struct err *error)
{
    struct prepared *prepared = context;
    char name[NAME_SIZE];
    char path[PATH_SIZE];
    if (!is_done(prepared, "put init into it", status, body, error))
        return;
    put_name(prepared, name);
    (void)snprintf(path, sizeof(path),
                   "/commit?container=%s&repo=" PREPARE_REPOSITORY "&tag=%s&pause=0", name,
                   prepared->tag);
    BUF_AUTO struct buf empty;
    buf_init(&empty, 16);
    if (buf_append_str(&empty, "{}", NULL) != 0 ||
        call(prepared, "POST", path, &empty, on_committed) != 0)
        give_up(prepared, "commit", "it could not be asked for");
}

static void on_made(void *context, long status, struct buf *body, const struct err *error)
{
    struct prepared *prepared = context;
    const struct prepares *prepares = prepared->prepares;
    char name[NAME_SIZE];
    char path[PATH_SIZE];
    if (!is_done(prepared, "make a container", status, body, error))
        return;
    put_name(prepared, name);
    (void)snprintf(path, sizeof(path), "/containers/%s/archive?path=%%2F", name);
    BUF_AUTO struct buf archive;
    buf_init(&archive, ARCHIVE_MAX);
    if (spec_put_folders(prepared->container, prepares->init, prepares->init_size, &archive,
                         NULL) != 0 ||
        call(prepared, "PUT", path, &archive, on_filled) != 0)
        give_up(prepared, "put init into it", "it could not be asked for");
}

static const char *profile_of(const struct prepared *prepared)
{
    return prepared->container ? "container" : "strict";
}

/* One of that name is there no more. */
static void make(void *context, long status, struct buf *answer, const struct err *error)
{
    struct prepared *prepared = context;
    const struct prepares *prepares = prepared->prepares;
    char name[NAME_SIZE];
    char path[PATH_SIZE];
    prepared->call = NULL;
    if (prepares->stopping ||
        (status != 404 && !is_done(prepared, "remove an older container", status, answer, error)))
        return;
    put_name(prepared, name);
    (void)snprintf(path, sizeof(path), "/containers/create?name=%s", name);
    JSON_AUTO json_t *json =
        json_pack("{ss ss s[s] s[] s{ss ss ss ss} s{ss s{ss}}}", "Image", prepared->base, "User",
                  "0:0", "Entrypoint", "/.berth/init", "Cmd", "Labels", PREPARE_LABEL_INSTANCE,
                  prepares->instance, PREPARE_LABEL_BASE, prepared->base, PREPARE_LABEL_INIT,
                  prepares->init_hash, PREPARE_LABEL_PROFILE, profile_of(prepared), "HostConfig",
                  "NetworkMode", "none", "LogConfig", "Type", "none");
    BUF_AUTO struct buf body;
    buf_init(&body, 4096);
    prepared->made = true;
    if (spec_put_json(json, &body, NULL) != 0 || call(prepared, "POST", path, &body, on_made) != 0)
        give_up(prepared, "make a container", "it could not be asked for");
}

static const json_t *config_of(const json_t *image)
{
    return json_object_get(image, "Config");
}

/* Whether what the daemon has is what would be made now. */
static bool is_wanted(const struct prepared *prepared, const json_t *image)
{
    const json_t *labels = json_object_get(config_of(image), "Labels");
    const char *base = json_string_value(json_object_get(labels, PREPARE_LABEL_BASE));
    const char *init = json_string_value(json_object_get(labels, PREPARE_LABEL_INIT));
    const char *profile = json_string_value(json_object_get(labels, PREPARE_LABEL_PROFILE));
    return !prepared->distrusted && base && init && profile && strcmp(base, prepared->base) == 0 &&
           strcmp(init, prepared->prepares->init_hash) == 0 &&
           strcmp(profile, profile_of(prepared)) == 0;
}

/* One that an engine before us made, or none. */
static void on_found(void *context, long status, struct buf *body, const struct err *error)
{
    struct prepared *prepared = context;
    JSON_AUTO json_t *json = NULL;
    prepared->call = NULL;
    if (prepared->prepares->stopping)
        return;
    if (!error && status == 200 && json_parse_object(body->data, body->size, &json, NULL) == 0)
        prepared->ready =
            is_wanted(prepared, json) && copy(json_object_get(json, "Id"), prepared->id);
    if (ask_removal(prepared, prepared->ready ? on_removed : make) != 0 && !prepared->ready)
        give_up(prepared, "make a container", "it could not be asked for");
}

/* The image itself. What it declares as a volume would not be in a commit. */
static void on_looked(void *context, long status, struct buf *body, const struct err *error)
{
    struct prepared *prepared = context;
    JSON_AUTO json_t *json = NULL;
    char path[PATH_SIZE];
    if (!is_done(prepared, "look at it", status, body, error))
        return;
    if (json_parse_object(body->data, body->size, &json, NULL) != 0 ||
        !copy(json_object_get(json, "Id"), prepared->base) ||
        json_object_size(json_object_get(config_of(json), "Volumes")) > 0) {
        give_up(prepared, "look at it", "it has no id, or volumes");
        return;
    }
    /* One that did not work goes first, or the daemon would keep its layer for one of the same
     * bytes. */
    (void)snprintf(path, sizeof(path), "/images/" PREPARE_REPOSITORY ":%s%s", prepared->tag,
                   prepared->distrusted ? "" : "/json");
    if (call(prepared, prepared->distrusted ? "DELETE" : "GET", path, NULL, on_found) != 0)
        give_up(prepared, "look at it", "it could not be asked for");
}

static void begin(struct prepared *prepared)
{
    char path[PATH_SIZE];
    if (prepared->call || prepared->prepares->stopping || clock_now_ns() < prepared->retry_ns)
        return;
    (void)snprintf(path, sizeof(path), "/images/%s/json", prepared->image);
    if (call(prepared, "GET", path, NULL, on_looked) != 0)
        give_up(prepared, "look at it", "it could not be asked for");
}

void prepares_stop(struct prepares *prepares)
{
    prepares->stopping = true;
}

/* ---- for those who make sandboxes ---- */

struct prepared *prepare_want(struct prepares *prepares, const struct image *image, bool container)
{
    /* The same place, and tag, in each process: in whatever order they are wanted. */
    size_t place = 2 * (size_t)(image - image->images->list) + (container ? 1 : 0);
    struct prepared *prepared = &prepares->list[place];
    if (!prepared->prepares) {
        prepared->prepares = prepares;
        prepared->container = container;
        (void)snprintf(prepared->image, sizeof(prepared->image), "%s", image->name);
        (void)snprintf(prepared->tag, sizeof(prepared->tag), "%s-%zu", prepares->instance,
                       place + 1);
    }
    if (prepared->ready)
        return prepared;
    begin(prepared);
    return NULL;
}

bool prepare_is_of(struct prepared *prepared, long status, const struct buf *body)
{
    JSON_AUTO json_t *json = NULL;
    char id[PREPARE_ID_SIZE];
    if (status == 200 && prepared->ready &&
        json_parse_object(body->data, body->size, &json, NULL) == 0 &&
        copy(json_object_get(json, "Id"), id) && strcmp(id, prepared->base) == 0)
        return true;
    prepared->ready = false;
    begin(prepared);
    return false;
}

void prepare_is_missing(struct prepared *prepared)
{
    prepared->ready = false;
    begin(prepared);
}

void prepare_distrust(struct prepared *prepared)
{
    prepared->ready = false;
    prepared->distrusted = true;
    prepared->retry_ns = clock_now_ns() + RETRY_NS;
}
