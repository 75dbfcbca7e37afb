/* Owns the syntax of Range. Refuses nothing: what it does not understand is no range. */
#include "wire/http_range.h"

#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <strings.h>

/* Reads digits; past the largest number it stays there, as any end past the end does. */
static bool read_number(const char **at, uint64_t *out)
{
    const char *start = *at;
    uint64_t value = 0;
    for (; **at >= '0' && **at <= '9'; (*at)++) {
        uint64_t digit = (uint64_t)(**at - '0');
        value = value > (UINT64_MAX - digit) / 10 ? UINT64_MAX : value * 10 + digit;
    }
    *out = value;
    return *at != start;
}

static const char *skip_space(const char *at)
{
    return at + strspn(at, " \t");
}

enum http_range http_range_parse(const char *field, uint64_t size_bytes, uint64_t *offset,
                                 uint64_t *count)
{
    static const char unit[] = "bytes=";
    uint64_t first = 0;
    uint64_t last = 0;
    if (!field || strncasecmp(field, unit, sizeof(unit) - 1) != 0)
        return HTTP_RANGE_ALL;
    const char *at = skip_space(field + sizeof(unit) - 1);
    bool has_first = read_number(&at, &first);
    if (*at++ != '-')
        return HTTP_RANGE_ALL;
    bool has_last = read_number(&at, &last);
    if (*skip_space(at) != '\0' || (!has_first && !has_last) ||
        (has_first && has_last && last < first))
        return HTTP_RANGE_ALL;
    if (!has_first) { /* so many from the end */
        first = last < size_bytes ? size_bytes - last : 0;
        if (last == 0 || size_bytes == 0)
            return HTTP_RANGE_NONE;
        last = size_bytes - 1;
    }
    if (first >= size_bytes)
        return HTTP_RANGE_NONE;
    if (!has_last || last >= size_bytes)
        last = size_bytes - 1;
    *offset = first;
    *count = last - first + 1;
    return HTTP_RANGE_PART;
}
