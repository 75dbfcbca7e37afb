/* Owns the operator's list of images and the pulls. What the daemon says of a pull goes to the log
 * and into the words for those who wait. */
#include "docker/image.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/clock.h"
#include "base/log.h"
#include "docker/reference.h"
#include "wire/json.h"

#define BASE_IMAGE "ubuntu:22.04"
#define LOOK_NS (20 * CLOCK_NS_PER_S)
#define FAILED_NS (30 * CLOCK_NS_PER_S)
#define AGAIN_NS (4 * CLOCK_NS_PER_S) /* less than the server waits before it asks again */
#define LOG_NS (5 * CLOCK_NS_PER_S)
#define STALL_NS (300 * CLOCK_NS_PER_S)

enum { LINE_MAX_BYTES = 64 << 10, NAMED_MAX = 150 };

static void take_line(void *context, const struct progress_line *line);

static int add(struct images *images, const char *name, size_t size, struct err *err)
{
    struct image *image = &images->list[images->count];
    char copy[ENGINE_IMAGE_MAX];
    if (size >= sizeof(copy))
        return err_set(err, ERR_BAD_INPUT, "an image's name has %zu bytes", size);
    memcpy(copy, name, size);
    copy[size] = '\0';
    if (!reference_is_valid(copy))
        return err_set(err, ERR_BAD_INPUT, "\"%s\" is not the name of an image", copy);
    for (size_t i = 0; i < images->count; i++) {
        if (strcmp(images->list[i].name, copy) == 0)
            return 0;
    }
    if (images->count == IMAGE_LIST_MAX)
        return err_set(err, ERR_BAD_INPUT, "BERTH_DOCKER_IMAGES: at most %d images",
                       IMAGE_LIST_MAX);
    memset(image, 0, sizeof(*image));
    memcpy(image->name, copy, sizeof(copy));
    image->images = images;
    progress_init(&image->lines, LINE_MAX_BYTES, take_line, image);
    images->count++;
    return 0;
}

int images_init(struct images *images, struct err *err)
{
    const char *first = getenv("DOCKER_BASE_IMAGE");
    const char *more = getenv("BERTH_DOCKER_IMAGES");
    images->count = 0;
    images->stall_ns = STALL_NS;
    first = first && *first != '\0' ? first : BASE_IMAGE;
    int result = add(images, first, strlen(first), err);
    for (more = more ? more : ""; result == 0 && *more != '\0';) {
        size_t size = strcspn(more, " \t,");
        if (size > 0)
            result = add(images, more, size, err);
        more += size;
        more += strspn(more, " \t,");
    }
    return result;
}

/* Of whatever is asked about it; nobody is told. */
static void end_pull(struct image *image)
{
    web_cancel(&image->call);
    registry_login_done(&image->login);
    progress_done(&image->lines);
}

void images_done(struct images *images)
{
    for (size_t i = 0; i < images->count; i++)
        end_pull(&images->list[i]);
}

/* ---- pulling ---- */

static void changed(struct image *image)
{
    image->images->on_change(image->images->context);
}

static void fail(struct image *image, const struct err *error)
{
    image->failure = *error;
    image->retry_at_ns = clock_now_ns() + FAILED_NS;
    image->progress[0] = '\0';
    log_warn("image %s: %s", image->name, error->message);
}

static void note_progress(struct image *image, const struct progress_line *line)
{
    if (line->status[0] == '\0')
        return;
    if (line->total > 0)
        (void)snprintf(image->progress, sizeof(image->progress), "%.40s %.20s %.0f%%", line->status,
                       line->layer, 100 * (double)line->current / (double)line->total);
    else
        (void)snprintf(image->progress, sizeof(image->progress), "%.60s", line->status);
    if (clock_now_ns() < image->logged_at_ns)
        return;
    image->logged_at_ns = clock_now_ns() + LOG_NS;
    log_info("image %s: %s", image->name, image->progress);
}

static void take_line(void *context, const struct progress_line *line)
{
    struct image *image = context;
    if (line->error[0] == '\0')
        note_progress(image, line);
    else
        (void)err_public(&image->failure, ERR_UNAVAILABLE, "image %.*s can't be pulled: %.160s",
                         NAMED_MAX, image->name, line->error);
}

static bool on_piece(void *context, const void *data, size_t size)
{
    struct image *image = context;
    progress_take(&image->lines, data, size);
    return true;
}

/* The failure of a pull, in words for those who wait. */
static void describe(struct image *image, struct err *err)
{
    struct err told = ERR_INIT;
    (void)err_public(&told, ERR_UNAVAILABLE, "image %.*s can't be pulled", NAMED_MAX, image->name);
    /* A registry may repeat what it was sent. */
    if (!registry_login_is_told(&image->login, err->message) &&
        !registry_login_is_told(&image->login, err->public_message)) {
        if (err->public_message[0] != '\0')
            told = *err;
        (void)snprintf(told.message, sizeof(told.message), "%s", err->message);
    }
    told.retry_after_s = (unsigned)(FAILED_NS / CLOCK_NS_PER_S);
    *err = told;
}

static void on_pulled(void *context, long status, struct buf *body, const struct err *error)
{
    struct image *image = context;
    struct err err = ERR_INIT;
    image->call = NULL;
    progress_end(&image->lines);
    if (error && error->kind == ERR_TIMEOUT) /* the daemon ends a pull whose client has gone */
        (void)err_public(&err, ERR_UNAVAILABLE,
                         "image %.*s can't be pulled: nothing came for too long", NAMED_MAX,
                         image->name);
    else if (error)
        (void)err_copy(&err, error);
    else if (status != 200)
        (void)web_refused(status, body, "pull", &err);
    else
        err = image->failure;
    if (err.kind != ERR_NONE) {
        describe(image, &err);
        fail(image, &err);
    } else {
        image->is_there = true;
        image->looked_ns = 0;
        image->progress[0] = '\0';
        log_info("image %s was pulled", image->name);
    }
    end_pull(image);
    changed(image);
}

/* Without credentials where they can't be had: many an image needs none. */
static void find_login(struct image *image)
{
    char file[PATH_MAX];
    struct err err = ERR_INIT;
    bool known = registry_file(file, sizeof(file));
    if (registry_login_find(known ? file : NULL, image->name, &image->login, &err) != 0)
        log_warn("image %s: %s", image->name, err.message);
    else if (image->login.is_kept_by_one)
        log_warn("image %s: %s leaves the credentials to another program, which is not asked",
                 image->name, file);
}

static int pull(struct image *image, struct err *err)
{
    char path[REFERENCE_ESCAPED_SIZE + 64];
    char name[REFERENCE_ESCAPED_SIZE];
    struct daemon *daemon = image->images->daemon;
    reference_escape(image->name, name);
    (void)snprintf(path, sizeof(path), "%s/images/create?fromImage=%s%s", daemon->facts.api, name,
                   reference_has_tag(image->name) ? "" : "&tag=latest");
    image->failure = ERR_INIT;
    (void)snprintf(image->progress, sizeof(image->progress), "beginning");
    log_info("image %s is not there and is pulled", image->name);
    find_login(image);
    const struct web_request request = {
        .method = "POST",
        .path = path,
        .header = image->login.header.size > 0 ? buf_cstr(&image->login.header) : NULL,
        .idle_ns = image->images->stall_ns,
        .data = on_piece,
        .done = on_pulled,
        .context = image};
    return web_start(daemon->web, &request, &image->call, err);
}

/* The beginning of the digest that is the image's id ("sha256:0123..."). */
static void take_id(struct image *image, const struct buf *body)
{
    JSON_AUTO json_t *json = NULL;
    image->looked_ns = clock_now_ns();
    image->id[0] = '\0';
    if (!body || json_parse_object(body->data, body->size, &json, NULL) != 0)
        return;
    const char *id = json_string_value(json_object_get(json, "Id"));
    const char *digest = id ? strchr(id, ':') : NULL;
    if (digest && strlen(digest + 1) == strspn(digest + 1, "0123456789abcdef"))
        (void)snprintf(image->id, sizeof(image->id), "%.*s", ENGINE_IMAGE_ID_MAX - 1, digest + 1);
}

static void on_looked(void *context, long status, struct buf *body, const struct err *error)
{
    struct image *image = context;
    struct err err = ERR_INIT;
    bool again = image->looks_again;
    image->looks_again = false;
    image->call = NULL;
    /* What says nothing leaves it as it was: there, unless a creation found otherwise meanwhile. */
    if (!again || (!error && (status == 200 || status == 404)))
        image->is_there = !error && status == 200;
    if (!error && status == 200)
        take_id(image, body);
    if (again) {
        changed(image); /* who waits looks for it in earnest */
        return;
    }
    if (error)
        (void)err_copy(&err, error);
    else if (status == 404)
        (void)pull(image, &err);
    else if (status != 200)
        (void)web_refused(status, body, "look for an image", &err);
    if (err.kind != ERR_NONE)
        fail(image, &err);
    if (!image->call)
        changed(image);
}

static int look(struct image *image, struct err *err)
{
    char path[ENGINE_IMAGE_MAX + 32];
    image->failure = ERR_INIT;
    (void)snprintf(path, sizeof(path), "/images/%s/json", image->name);
    return daemon_call(image->images->daemon, "GET", path, NULL, LOOK_NS, on_looked, image,
                       &image->call, err);
}

void images_look_again(struct images *images)
{
    int64_t before_ns = clock_now_ns() - AGAIN_NS;
    for (size_t i = 0; i < images->count; i++) {
        struct image *image = &images->list[i];
        if (!image->is_there || image->call || image->looked_ns > before_ns)
            continue;
        image->looks_again = look(image, NULL) == 0;
    }
}

void images_ids(const struct images *images, char out[static ENGINE_IMAGE_IDS_MAX])
{
    size_t used = 0;
    out[0] = '\0';
    for (size_t i = 0; i < images->count && used + ENGINE_IMAGE_ID_MAX < ENGINE_IMAGE_IDS_MAX;
         i++) {
        const char *id = images->list[i].id;
        used += (size_t)snprintf(out + used, ENGINE_IMAGE_IDS_MAX - used, "%s%s", i > 0 ? " " : "",
                                 id[0] != '\0' ? id : "-");
    }
}

void images_look(struct images *images)
{
    struct err err = ERR_INIT;
    if (!images->list[0].call && look(&images->list[0], &err) != 0)
        fail(&images->list[0], &err);
}

void images_forget(struct images *images)
{
    for (size_t i = 0; i < images->count; i++) {
        end_pull(&images->list[i]);
        images->list[i].is_there = images->list[i].looks_again = false;
        images->list[i].failure = ERR_INIT;
        images->list[i].progress[0] = '\0';
    }
}

int images_find(struct images *images, const char *name, struct image **out, struct err *err)
{
    for (size_t i = 0; i < images->count; i++) {
        if (name[0] == '\0' || strcmp(images->list[i].name, name) == 0) {
            *out = &images->list[i];
            return 0;
        }
    }
    return err_public(err, ERR_UNSUPPORTED,
                      "image \"%.*s\": the Docker engine is allowed none of that name", NAMED_MAX,
                      name);
}

int image_want(struct image *image, struct err *err)
{
    if (image->is_there)
        return 1;
    if (image->call)
        return 0;
    if (image->failure.kind != ERR_NONE && clock_now_ns() < image->retry_at_ns)
        return err_copy(err, &image->failure);
    return look(image, err);
}

void image_is_missing(struct image *image)
{
    image->is_there = false;
}

void images_names(const struct images *images, char *out, size_t size)
{
    size_t used = 0;
    out[0] = '\0';
    for (size_t i = 0; i < images->count; i++) {
        size_t length = strlen(images->list[i].name);
        if (used + length + 2 > size)
            return;
        if (i > 0)
            out[used++] = ' ';
        memcpy(out + used, images->list[i].name, length + 1);
        used += length;
    }
}

void images_progress(const struct images *images, char *out, size_t size)
{
    out[0] = '\0';
    for (size_t i = 0; i < images->count; i++) {
        const struct image *image = &images->list[i];
        if (image->call && image->progress[0] != '\0') {
            (void)snprintf(out, size, "image %.*s is being pulled: %s", NAMED_MAX, image->name,
                           image->progress);
            return;
        }
    }
}
