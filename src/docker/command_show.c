/* Owns how images and what is done with them look on a terminal. */
#include "docker/command_show.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <jansson.h>

#include "base/clock.h"
#include "base/mem.h"
#include "wire/json.h"

enum { TEXT_SIZE = 2048, TIME_SIZE = 32, ID_SHOWN = 12, VALUES_MAX = 1000000 };

void command_show_clean(const char *text, char *out, size_t size)
{
    size_t used = 0;
    for (; *text != '\0' && used + 1 < size; text++)
        out[used++] = (char)(*text >= ' ' && *text <= '~' ? *text : '?');
    out[used] = '\0';
}

/* ---- progress ---- */

/* A build's text comes with its ends of lines. */
static void print_text(const char *text)
{
    char clean[TEXT_SIZE];
    char part[TEXT_SIZE];
    while (*text != '\0') {
        size_t size = strcspn(text, "\r\n");
        size_t kept = size < sizeof(part) ? size : sizeof(part) - 1;
        memcpy(part, text, kept);
        part[kept] = '\0';
        command_show_clean(part, clean, sizeof(clean));
        if (kept > 0)
            (void)fprintf(stderr, "  %s\n", clean);
        text += size;
        text += *text != '\0' ? 1 : 0;
    }
}

static bool is_told(const struct command_show *show, const char *text)
{
    return show->login && registry_login_is_told(show->login, text);
}

static void print_status(struct command_show *show, const struct progress_line *line)
{
    char status[TEXT_SIZE];
    char layer[64];
    if (line->total > 0 && clock_now_ns() < show->shown_at_ns)
        return;
    command_show_clean(line->status, status, sizeof(status));
    command_show_clean(line->layer, layer, sizeof(layer));
    if (is_told(show, line->status) || is_told(show, line->layer))
        return;
    (void)fprintf(stderr, "  %s%s%s", layer, layer[0] != '\0' ? ": " : "", status);
    if (line->total > 0) {
        show->shown_at_ns = clock_now_ns() + CLOCK_NS_PER_S;
        (void)fprintf(stderr, " %.0f%% of %.1f MB",
                      100 * (double)line->current / (double)line->total, (double)line->total / 1e6);
    }
    (void)fputc('\n', stderr);
}

void command_show_line(void *context, const struct progress_line *line)
{
    static const char loaded[] = "Loaded image";
    struct command_show *show = context;
    if (line->error[0] != '\0')
        command_show_clean(is_told(show, line->error) ? "the registry refused it" : line->error,
                           show->error, sizeof(show->error));
    if (line->status[0] != '\0')
        print_status(show, line);
    if (!is_told(show, line->text))
        print_text(line->text);
    show->loaded |= strncmp(line->text, loaded, sizeof(loaded) - 1) == 0;
}

/* ---- images ---- */

void command_show_size(double bytes, char out[static COMMAND_SIZE_SIZE])
{
    bool is_small = bytes < 1e6;
    (void)snprintf(out, COMMAND_SIZE_SIZE, "%.1f %s", bytes / (is_small ? 1e3 : 1e6),
                   is_small ? "KB" : "MB");
}

static void write_size(const json_t *json, char out[static COMMAND_SIZE_SIZE])
{
    command_show_size((double)json_integer_value(json_object_get(json, "Size")), out);
}

static const char *text_of(const json_t *json, const char *field)
{
    const char *text = json_string_value(json_object_get(json, field));
    return text ? text : "";
}

static void short_id(const json_t *json, char out[static ID_SHOWN + 1])
{
    const char *id = text_of(json, "Id");
    command_show_clean(strncmp(id, "sha256:", 7) == 0 ? id + 7 : id, out, ID_SHOWN + 1);
}

int command_show_image(const char *name, const struct buf *reply, struct err *err)
{
    char id[ID_SHOWN + 1];
    char size[COMMAND_SIZE_SIZE];
    JSON_AUTO json_t *json = NULL;
    int result = json_parse_large(reply->data, reply->size, VALUES_MAX, &json, err);
    if (result != 0)
        return result;
    short_id(json, id);
    write_size(json, size);
    (void)fprintf(stderr, "berth: image %s, %s, %s\n", name, id, size);
    return 0;
}

static void print_image(const json_t *image)
{
    char id[ID_SHOWN + 1];
    char made[TIME_SIZE] = "";
    char size[COMMAND_SIZE_SIZE];
    char name[TEXT_SIZE];
    struct tm parts;
    const json_t *names = json_object_get(image, "RepoTags");
    const time_t seconds = (time_t)json_integer_value(json_object_get(image, "Created"));
    short_id(image, id);
    write_size(image, size);
    if (gmtime_r(&seconds, &parts))
        (void)strftime(made, sizeof(made), "%Y-%m-%dT%H:%M:%SZ", &parts);
    size_t i = 0;
    do {
        const char *text = json_string_value(json_array_get(names, i));
        command_show_clean(text ? text : "<none>", name, sizeof(name));
        (void)printf("%-40s  %-12s  %11s  %s\n", name, id, size, made);
    } while (++i < json_array_size(names));
}

static int add_image(const json_t *image, json_t *list)
{
    static const struct {
        const char *from;
        const char *to;
    } fields[] = {{"Id", "id"}, {"RepoTags", "names"}, {"Size", "size"}, {"Created", "created"}};
    json_t *item = json_object();
    for (size_t i = 0; item && i < ARRAY_SIZE(fields); i++) {
        json_t *value = json_object_get(image, fields[i].from);
        if (value)
            (void)json_object_set(item, fields[i].to, value);
    }
    return item ? json_array_append_new(list, item) : -1;
}

int command_show_list(const struct buf *reply, bool as_json, struct err *err)
{
    size_t index = 0;
    json_t *image = NULL;
    BUF_AUTO struct buf whole;
    JSON_AUTO json_t *json = NULL;
    JSON_AUTO json_t *all = json_pack("{s:[]}", "images");
    buf_init(&whole, reply->size + 64);
    /* The parser takes objects alone. */
    int result = buf_append_str(&whole, "{\"images\":", err);
    if (result == 0)
        result = buf_append(&whole, reply->data, reply->size, err);
    if (result == 0)
        result = buf_append_str(&whole, "}", err);
    if (result == 0)
        result = json_parse_large(whole.data, whole.size, VALUES_MAX, &json, err);
    if (result == 0 && !as_json)
        (void)printf("%-40s  %-12s  %11s  %s\n", "NAME", "ID", "SIZE", "CREATED");
    json_array_foreach(json_object_get(json, "images"), index, image)
    {
        if (!as_json)
            print_image(image);
        else if (add_image(image, json_object_get(all, "images")) != 0)
            result = err_set(err, ERR_INTERNAL, "no memory");
    }
    if (result != 0 || !as_json)
        return result;
    MEM_AUTO char *text = json_dumps(all, JSON_INDENT(2) | JSON_ENSURE_ASCII);
    if (!text)
        return err_set(err, ERR_INTERNAL, "no memory");
    (void)printf("%s\n", text);
    return 0;
}
