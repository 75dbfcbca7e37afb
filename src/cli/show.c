/* Owns how the events of an execution look on a terminal. Output goes out as it came. */
#include "cli/show.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/encoding.h"
#include "base/fd.h"
#include "base/id.h"
#include "base/mem.h"
#include "wire/json.h"

enum { IMAGE_MAX = 64 * 1024 * 1024 };

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

/* ---- the end ---- */

static void say_cause(const json_t *object)
{
    const char *cause = text_of(object, "killed_by");
    double seconds = json_number_value(json_object_get(object, "execution_time_secs"));
    json_int_t code = json_integer_value(json_object_get(object, "exit_code"));
    if (cause[0] == '\0')
        return;
    if (strcmp(cause, "signal") == 0)
        (void)fprintf(stderr, "berth: ended by signal %" JSON_INTEGER_FORMAT "\n", code - 128);
    else
        (void)fprintf(stderr, "berth: killed by %s after %.1f s\n", cause, seconds);
}

void show_take_end(struct show *show, const json_t *object)
{
    const json_t *code = json_object_get(object, "exit_code");
    show->ended = json_is_integer(code);
    show->exit_code = (int)(json_integer_value(code) & 255);
}

static void say_end(struct show *show, const json_t *object)
{
    show_take_end(show, object);
    if (show->silent)
        return;
    if (json_is_true(json_object_get(object, "truncated")))
        (void)fprintf(stderr, "berth: the output was longer than is kept; the rest is lost\n");
    say_cause(object);
    if (strcmp(text_of(object, "state"), "lost") == 0)
        (void)fprintf(stderr, "berth: variables and imports of the session are lost\n");
}

/* ---- results ---- */

struct image_type {
    const char *mime;
    const char *suffix;
    bool is_text;
};

/* NULL: no image that is known. */
static const struct image_type *image_type_of(const char *mime)
{
    static const struct image_type types[] = {
        {"image/png", "png", false},   {"image/jpeg", "jpg", false},   {"image/gif", "gif", false},
        {"image/webp", "webp", false}, {"image/svg+xml", "svg", true},
    };
    for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
        if (strcmp(types[i].mime, mime) == 0)
            return &types[i];
    }
    return NULL;
}

/* The bytes of a representation; those of an image are base64 where they are not text. */
static int decode(const json_t *value, const struct image_type *type, struct buf *out,
                  struct err *err)
{
    const char *text = json_string_value(value);
    size_t size = json_string_length(value);
    if (type && !type->is_text)
        return base64_decode(text, size, out, err);
    return buf_append(out, text, size, err);
}

/* The id and the number are a server's words: only letters and digits of them get into a path. */
static int save_image(const struct show *show, uint64_t number, const char *suffix,
                      const struct buf *bytes, char path[static PATH_MAX], struct err *err)
{
    char name[9] = "";
    for (size_t i = 0; i < sizeof(name) - 1 && isalnum((unsigned char)show->id[i]); i++)
        name[i] = show->id[i];
    int size =
        snprintf(path, PATH_MAX, "%s/%s-%" PRIu64 ".%s", show->images_path, name, number, suffix);
    if (size < 0 || size >= PATH_MAX)
        return err_set(err, ERR_BAD_INPUT, "the path of the folder for images is too long");
    if (mkdir(show->images_path, 0777) != 0 && errno != EEXIST)
        return err_sys(err, errno, "make the folder %s", show->images_path);
    FD_AUTO int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0)
        return err_sys(err, errno, "make %s", path);
    return fd_write_all(fd, bytes->data, bytes->size, err);
}

/* "[image/png, 12 kB]", with the file's path when there is one. */
static void say_note(const char *mime, size_t size_bytes, const char *path)
{
    char size[32];
    if (size_bytes < 1000)
        (void)snprintf(size, sizeof(size), "%zu B", size_bytes);
    else if (size_bytes < 1000000)
        (void)snprintf(size, sizeof(size), "%.0f kB", (double)size_bytes / 1e3);
    else
        (void)snprintf(size, sizeof(size), "%.1f MB", (double)size_bytes / 1e6);
    (void)fprintf(stderr, "[%.80s, %s%s%s]\n", mime, size, path[0] != '\0' ? ": " : "", path);
}

/* Says what there is that is no text, and writes images where they are wanted. */
static int take_representation(const struct show *show, uint64_t number, const char *mime,
                               const json_t *value, struct err *err)
{
    BUF_AUTO struct buf bytes;
    buf_init(&bytes, IMAGE_MAX);
    const struct image_type *type = image_type_of(mime);
    char path[PATH_MAX] = "";
    struct err bad = ERR_INIT;
    if (!json_is_string(value) || decode(value, type, &bytes, &bad) != 0) {
        (void)fprintf(stderr, "[%.80s]\n", mime);
        return 0;
    }
    int result = 0;
    if (type && show->images_path)
        result = save_image(show, number, type->suffix, &bytes, path, err);
    if (result == 0)
        say_note(mime, bytes.size, path);
    return result;
}

static int write_text(int fd, const json_t *text, bool whole_line, struct err *err)
{
    const char *bytes = json_string_value(text);
    size_t size = json_string_length(text);
    int result = bytes ? fd_write_all(fd, bytes, size, err) : 0;
    if (result == 0 && bytes && whole_line && (size == 0 || bytes[size - 1] != '\n'))
        result = fd_write_all(fd, "\n", 1, err);
    return result;
}

/* data is {mime: representation}. Its text stands for all that is not an image. */
static int take_result(const struct show *show, uint64_t number, json_t *data, struct err *err)
{
    const json_t *text = json_object_get(data, "text/plain");
    int result = show->results ? write_text(STDOUT_FILENO, text, true, err) : 0;
    const char *mime = NULL;
    json_t *value = NULL;
    json_object_foreach(data, mime, value)
    {
        if (result == 0 && show->results && value != text &&
            (!text || strncmp(mime, "image/", 6) == 0))
            result = take_representation(show, number, mime, value, err);
    }
    return result;
}

/* ---- events ---- */

static void take_id(struct show *show, const json_t *data)
{
    const char *id = text_of(data, "execution_id");
    if (id_is_name(id, sizeof(show->id) - 1))
        (void)snprintf(show->id, sizeof(show->id), "%s", id);
}

static int take_event(struct show *show, const char *name, uint64_t number, json_t *data,
                      struct err *err)
{
    if (strcmp(name, "queued") == 0 || strcmp(name, "started") == 0) {
        take_id(show, data);
        show->queued = name[0] == 'q';
        return 0;
    }
    show->open = strcmp(name, "open") == 0;
    if (show->silent && strcmp(name, "end") != 0)
        return 0;
    if (strcmp(name, "stdout") == 0)
        return write_text(STDOUT_FILENO, json_object_get(data, "text"), false, err);
    if (strcmp(name, "stderr") == 0)
        return write_text(STDERR_FILENO, json_object_get(data, "text"), false, err);
    if (strcmp(name, "result") == 0)
        return take_result(show, number, data, err);
    if (strcmp(name, "end") == 0)
        say_end(show, data);
    return 0; /* an event of a newer server, or an error of the code: it is on stderr as well */
}

int show_line(void *context, const char *line, size_t size, struct err *err)
{
    struct show *show = context;
    JSON_AUTO struct json_t *event = json_loadb(line, size, JSON_ALLOW_NUL, NULL);
    const char *name = json_string_value(json_object_get(event, "event"));
    json_t *data = json_object_get(event, "data");
    json_int_t number = json_integer_value(json_object_get(event, "id"));
    if (!name || !json_is_object(data) || number < 0) {
        show->failed = true;
        return err_set(err, ERR_PROTOCOL, "the server sent a line that is no event");
    }
    /* The server's own error says why a stream has no end. The number that it has is a later
     * event's. */
    bool is_trouble = strcmp(name, "error") == 0 && json_object_get(data, "detail");
    (void)snprintf(show->trouble, sizeof(show->trouble), "%s",
                   is_trouble ? text_of(data, "detail") : "");
    if (is_trouble || (number > 0 && (uint64_t)number <= show->last))
        return 0;
    int result = take_event(show, name, (uint64_t)number, data, err);
    show->failed = result != 0;
    if (result == 0 && number > 0)
        show->last = (uint64_t)number;
    return result;
}
