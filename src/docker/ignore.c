/* Owns what a pattern means. A pattern is followed as a set of places in it, all at once, so that
 * one that was made for it takes no more time than others. */
#include "docker/ignore.h"

#include <ctype.h>
#include <string.h>

enum { PATTERN_MAX = 1024, ALL_MAX = 1 << 20 };

void ignore_init(struct ignore *ignore)
{
    *ignore = (struct ignore){0};
    buf_init(&ignore->patterns, ALL_MAX);
}

void ignore_done(struct ignore *ignore)
{
    buf_done(&ignore->patterns);
}

/* "./a//b/../c/" is "a/c"; nothing is above the folder. */
static size_t clean(const char *text, size_t size, char out[static PATTERN_MAX])
{
    size_t used = 0;
    for (size_t at = 0; at < size;) {
        const char *part = text + at;
        const char *end = memchr(part, '/', size - at);
        size_t length = end ? (size_t)(end - part) : size - at;
        at += length + 1;
        if (length == 0 || (length == 1 && part[0] == '.'))
            continue;
        if (length == 2 && part[0] == '.' && part[1] == '.') {
            while (used > 0 && out[--used] != '/')
                ;
            continue;
        }
        if (used > 0)
            out[used++] = '/';
        memcpy(out + used, part, length);
        used += length;
    }
    out[used] = '\0';
    return used;
}

static int add_line(struct ignore *ignore, const char *line, size_t size, struct err *err)
{
    char pattern[PATTERN_MAX];
    while (size > 0 && isspace((unsigned char)line[size - 1]))
        size--;
    if (size == 0 || line[0] == '#')
        return 0;
    for (; size > 0 && isspace((unsigned char)*line); size--)
        line++;
    bool is_exception = size > 0 && *line == '!';
    if (is_exception)
        for (line++, size--; size > 0 && isspace((unsigned char)*line); size--)
            line++;
    if (size >= PATTERN_MAX || memchr(line, '\0', size))
        return err_set(err, ERR_BAD_INPUT, ".dockerignore: a line of %zu bytes, or a NUL", size);
    size_t length = clean(line, size, pattern);
    if (length == 0)
        return 0;
    ignore->has_exceptions |= is_exception;
    if (is_exception && buf_append(&ignore->patterns, "!", 1, err) != 0)
        return -ERR_BAD_INPUT;
    return buf_append(&ignore->patterns, pattern, length + 1, err);
}

int ignore_read(struct ignore *ignore, const char *text, size_t size, struct err *err)
{
    static const char mark[] = "\xef\xbb\xbf"; /* UTF-8's, at the beginning */
    int result = 0;
    if (size >= 3 && memcmp(text, mark, 3) == 0) {
        text += 3;
        size -= 3;
    }
    while (result == 0 && size > 0) {
        const char *end = memchr(text, '\n', size);
        size_t length = end ? (size_t)(end - text) : size;
        result = add_line(ignore, text, length, err);
        text += length + (end ? 1 : 0);
        size -= length + (end ? 1 : 0);
    }
    return result;
}

/* ---- one pattern ---- */

/* Places in the pattern where what comes next may fit. Of "**" followed by a slash the place of its
 * second star means: within the folders that it stands for. */
struct places {
    bool at[PATTERN_MAX + 1];
};

static bool is_any_folders(const char *pattern, size_t at)
{
    return strncmp(pattern + at, "**/", 3) == 0;
}

/* Adds a place, and those that are reached from it by nothing. */
static void reach(struct places *places, const char *pattern, size_t at)
{
    while (!places->at[at]) {
        places->at[at] = true;
        if (is_any_folders(pattern, at))
            at += 3;
        else if (pattern[at] == '*')
            at += pattern[at + 1] == '*' ? 2 : 1;
    }
}

/* "[a-z]" at `at`: whether it has this byte; *end is behind it. One that has no end is a bracket.
 */
static bool class_has(const char *pattern, size_t at, char byte, size_t *end)
{
    bool found = false;
    size_t from = at + 1;
    bool negated = pattern[from] == '^';
    const unsigned char wanted = (unsigned char)byte;
    size_t i = negated ? from + 1 : from;
    for (bool first = true; pattern[i] != '\0' && (first || pattern[i] != ']'); first = false) {
        i += pattern[i] == '\\' && pattern[i + 1] != '\0' ? 1 : 0;
        const unsigned char low = (unsigned char)pattern[i++];
        unsigned char high = low;
        if (pattern[i] == '-' && pattern[i + 1] != '\0' && pattern[i + 1] != ']') {
            i += pattern[i + 1] == '\\' && pattern[i + 2] != '\0' ? 2 : 1;
            high = (unsigned char)pattern[i++];
        }
        found |= low <= wanted && wanted <= high;
    }
    if (pattern[i] == '\0') {
        *end = at + 1;
        return byte == '[';
    }
    *end = i + 1;
    return found != negated && byte != '/';
}

/* Where a byte leads from one place. */
static void step(struct places *next, const char *pattern, size_t at, char byte)
{
    size_t end = at + 1;
    if (is_any_folders(pattern, at) || (at > 0 && is_any_folders(pattern, at - 1))) {
        size_t second = is_any_folders(pattern, at) ? at + 1 : at;
        next->at[second] = true;
        if (byte == '/')
            reach(next, pattern, second + 2);
        return;
    }
    switch (pattern[at]) {
    case '\0':
        return;
    case '*':
        if (pattern[at + 1] == '*' || byte != '/')
            reach(next, pattern, at);
        return;
    case '?':
        if (byte != '/')
            reach(next, pattern, end);
        return;
    case '[':
        if (class_has(pattern, at, byte, &end))
            reach(next, pattern, end);
        return;
    case '\\':
        at += pattern[at + 1] != '\0' ? 1 : 0;
        break;
    default:
        break;
    }
    if (pattern[at] == byte)
        reach(next, pattern, at + 1);
}

/* The path, or a folder that it lies in. */
static bool fits(const char *pattern, const char *path)
{
    const size_t size = strlen(pattern);
    struct places sets[2] = {0};
    struct places *now = &sets[0];
    struct places *next = &sets[1];
    reach(now, pattern, 0);
    for (size_t i = 0; path[i] != '\0'; i++) {
        if (path[i] == '/' && i > 0 && now->at[size])
            return true;
        memset(next->at, 0, size + 1);
        for (size_t at = 0; at < size; at++) {
            if (now->at[at])
                step(next, pattern, at, path[i]);
        }
        struct places *was = now;
        now = next;
        next = was;
    }
    return now->at[size];
}

bool ignore_has(const struct ignore *ignore, const char *path)
{
    bool ignored = false;
    for (size_t at = 0; at < ignore->patterns.size;) {
        const char *pattern = (const char *)ignore->patterns.data + at;
        bool is_exception = *pattern == '!';
        if (ignored == is_exception && fits(pattern + (is_exception ? 1 : 0), path))
            ignored = !is_exception;
        at += strlen(pattern) + 1;
    }
    return ignored;
}
