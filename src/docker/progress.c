/* Owns the lines of a stream of progress. What they come to is for others. */
#include "docker/progress.h"

#include <string.h>

#include <jansson.h>

#include "wire/json.h"

void progress_init(struct progress *progress, size_t max_bytes, progress_fn take, void *context)
{
    *progress = (struct progress){.take = take, .context = context};
    buf_init(&progress->line, max_bytes);
}

void progress_done(struct progress *progress)
{
    buf_done(&progress->line);
}

static const char *text_of(const json_t *json, const char *field)
{
    const char *text = json_string_value(json_object_get(json, field));
    return text ? text : "";
}

static uint64_t number_of(const json_t *json, const char *field)
{
    json_int_t number = json_integer_value(json_object_get(json, field));
    return number > 0 ? (uint64_t)number : 0;
}

static void take_line(struct progress *progress)
{
    JSON_AUTO json_t *json = NULL;
    if (progress->line.size > 0 &&
        json_parse_object(progress->line.data, progress->line.size, &json, NULL) == 0) {
        const json_t *detail = json_object_get(json, "progressDetail");
        const struct progress_line line = {.status = text_of(json, "status"),
                                           .layer = text_of(json, "id"),
                                           .current = number_of(detail, "current"),
                                           .total = number_of(detail, "total"),
                                           .text = text_of(json, "stream"),
                                           .image = text_of(json_object_get(json, "aux"), "ID"),
                                           .error = text_of(json, "error")};
        progress->take(progress->context, &line);
    }
    progress->line.size = 0;
}

void progress_take(struct progress *progress, const void *data, size_t size)
{
    const char *at = data;
    while (size > 0) {
        const char *end = memchr(at, '\n', size);
        size_t part = end ? (size_t)(end - at) : size;
        if (buf_append(&progress->line, at, part, NULL) != 0)
            progress->line.size = 0;
        if (!end)
            return;
        take_line(progress);
        at = end + 1;
        size -= part + 1;
    }
}

void progress_end(struct progress *progress)
{
    take_line(progress);
}
