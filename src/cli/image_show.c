/* Owns the text beside an archive. What is read of it is shown only when it was written for that
 * archive, and with everything replaced that is not printable: the image wrote parts of it. */
#include "cli/image_show.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "wire/json.h"

enum { INFO_MAX = 1 << 20, TIME_SIZE = 32 };

static void write_time(int64_t seconds, char out[static TIME_SIZE])
{
    struct tm parts;
    const time_t time = (time_t)seconds;
    if (!gmtime_r(&time, &parts) || strftime(out, TIME_SIZE, "%Y-%m-%dT%H:%M:%SZ", &parts) == 0)
        out[0] = '\0';
}

char *image_show_info(const char *source, const json_t *config, uint64_t size_bytes)
{
    static const char *const kept[] = {"Env", "Cmd", "Entrypoint", "WorkingDir", "User"};
    char now[TIME_SIZE];
    JSON_AUTO struct json_t *info = json_object();
    JSON_AUTO struct json_t *start = json_object();
    const json_t *from = json_object_get(config, "config");
    write_time((int64_t)time(NULL), now);
    for (size_t i = 0; i < ARRAY_SIZE(kept); i++) {
        if (json_object_get(from, kept[i]))
            (void)json_object_set(start, kept[i], json_object_get(from, kept[i]));
    }
    if (!info || json_object_set_new(info, "source", json_string(source)) != 0 ||
        json_object_set_new(info, "fetched", json_string(now)) != 0 ||
        json_object_set_new(info, "size", json_integer((json_int_t)size_bytes)) != 0 ||
        json_object_set(info, "config", start) != 0)
        return NULL;
    if (json_is_string(json_object_get(config, "created")))
        (void)json_object_set(info, "created", json_object_get(config, "created"));
    return json_dumps(info, JSON_INDENT(2));
}

/* NULL when there is none, or it is another archive's. */
static json_t *read_info(const struct image_folder *folder, const struct image_found *found)
{
    char file[IMAGE_NAME_MAX + sizeof(IMAGE_INFO_SUFFIX)];
    MEM_AUTO char *text = malloc(INFO_MAX);
    (void)snprintf(file, sizeof(file), "%s%s", found->name, IMAGE_INFO_SUFFIX);
    FD_AUTO int fd = openat(folder->fd, file, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    ssize_t size = text && fd >= 0 && !found->folder ? read(fd, text, INFO_MAX) : -1;
    json_t *info = NULL;
    if (size <= 0 || json_parse_object((const uint8_t *)text, (size_t)size, &info, NULL) != 0)
        return NULL;
    if ((uint64_t)json_integer_value(json_object_get(info, "size")) != found->size_bytes) {
        json_free_at(&info);
        return NULL;
    }
    return info;
}

static void print_text(const char *text)
{
    for (; *text != '\0'; text++)
        (void)putchar(*text >= ' ' && *text <= '~' ? *text : '?');
}

static void print_size(const struct image_found *found)
{
    char text[24] = "folder";
    if (!found->folder && found->size_bytes < 1000 * 1000)
        (void)snprintf(text, sizeof(text), "%.1f KB", (double)found->size_bytes / 1e3);
    else if (!found->folder)
        (void)snprintf(text, sizeof(text), "%.1f MB", (double)found->size_bytes / 1e6);
    (void)printf("%-10s  ", text);
}

static void print_line(const struct image_folder *folder, const struct image_found *found)
{
    char changed[TIME_SIZE];
    JSON_AUTO struct json_t *info = read_info(folder, found);
    const char *source = json_string_value(json_object_get(info, "source"));
    write_time(found->changed_s, changed);
    (void)printf("%-20s  ", found->name);
    print_size(found);
    (void)printf("%-20s  ", changed);
    print_text(source ? source : found->file);
    (void)putchar('\n');
}

static int add_item(const struct image_folder *folder, const struct image_found *found,
                    json_t *list, struct err *err)
{
    char changed[TIME_SIZE];
    json_t *info = read_info(folder, found);
    json_t *item = info ? info : json_object();
    write_time(found->changed_s, changed);
    if (!item || json_object_set_new(item, "name", json_string(found->name)) != 0 ||
        json_object_set_new(item, "file", json_string(found->file)) != 0 ||
        json_object_set_new(item, "changed", json_string(changed)) != 0 ||
        json_object_set_new(item, "folder", json_boolean(found->folder)) != 0 ||
        json_object_set_new(item, "size", json_integer((json_int_t)found->size_bytes)) != 0 ||
        json_array_append_new(list, item) != 0)
        return err_set(err, ERR_INTERNAL, "no memory");
    return 0;
}

/* With escapes for all that is not ASCII: some of it moves a terminal's cursor, too. */
static int print_json(const json_t *all, struct err *err)
{
    MEM_AUTO char *text = json_dumps(all, JSON_INDENT(2) | JSON_ENSURE_ASCII);
    if (!text)
        return err_set(err, ERR_INTERNAL, "no memory");
    (void)printf("%s\n", text);
    return 0;
}

int image_show_list(const struct image_folder *folder, bool as_json, struct err *err)
{
    MEM_AUTO struct image_found *found = NULL;
    size_t count = 0;
    JSON_AUTO struct json_t *all = json_pack("{s:[]}", "images");
    int result = all ? image_folder_list(folder, &found, &count, err)
                     : err_set(err, ERR_INTERNAL, "no memory");
    if (result == 0 && !as_json)
        (void)printf("%-20s  %-10s  %-20s  %s\n", "NAME", "SIZE", "CREATED", "SOURCE");
    for (size_t i = 0; result == 0 && i < count; i++) {
        if (as_json)
            result = add_item(folder, &found[i], json_object_get(all, "images"), err);
        else
            print_line(folder, &found[i]);
    }
    return result == 0 && as_json ? print_json(all, err) : result;
}
