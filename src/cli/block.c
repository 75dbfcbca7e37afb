/* Owns the look at Python's tokens that tells whether a person has more to type. It knows strings,
 * comments, brackets and indentation, and no grammar.
 * Source: "Lexical analysis" in The Python Language Reference. */
#include "cli/block.h"

#include <string.h>

struct scan {
    const char *at, *end;
    int depth;         /* of brackets */
    char quote;        /* of the string that is open; '\0' none */
    bool triple;       /* three quotes end it, and a line's end does not */
    bool continued;    /* the line ended with a backslash */
    char last;         /* of this logical line: the last character that is no blank; '\0' none */
    bool compound;     /* only an empty line ends it */
    const char *begin; /* of this logical line */
    bool indented;     /* the logical line before it was */
};

static bool starts_with(const struct scan *scan, const char *word, size_t size)
{
    return (size_t)(scan->end - scan->at) >= size && memcmp(scan->at, word, size) == 0;
}

static void scan_string(struct scan *scan)
{
    const char closing[3] = {scan->quote, scan->quote, scan->quote};
    size_t size = scan->triple ? 3 : 1;
    char c = *scan->at;
    if (c == '\\' && scan->end - scan->at > 1) {
        scan->at += 2;
    } else if (starts_with(scan, closing, size)) {
        scan->at += size;
        scan->quote = '\0';
    } else {
        if (c == '\n' && !scan->triple) /* an error of Python's: the string ends with its line */
            scan->quote = '\0';
        else
            scan->at++;
    }
}

static void scan_quote(struct scan *scan)
{
    char c = *scan->at;
    const char three[3] = {c, c, c};
    scan->triple = starts_with(scan, three, 3);
    scan->at += scan->triple ? 3 : 1;
    scan->quote = c;
    scan->last = c;
}

static void scan_newline(struct scan *scan)
{
    scan->at++;
    scan->continued = scan->last == '\\';
    if (scan->depth == 0 && !scan->continued) {
        scan->compound |= scan->last == ':';
        scan->indented = *scan->begin == ' ' || *scan->begin == '\t';
        scan->begin = scan->at;
        scan->last = '\0';
    } else if (scan->continued) {
        scan->last = ' '; /* the backslash is used up, and the logical line goes on */
    }
}

static void scan_code(struct scan *scan)
{
    char c = *scan->at;
    if (c == '"' || c == '\'') {
        scan_quote(scan);
        return;
    }
    if (c == '\n') {
        scan_newline(scan);
        return;
    }
    if (c == '#') {
        while (scan->at < scan->end && *scan->at != '\n')
            scan->at++;
        return;
    }
    if (strchr("([{", c))
        scan->depth++;
    else if (strchr(")]}", c) && scan->depth > 0)
        scan->depth--;
    else if (c == '@' && scan->last == '\0') /* a decorator: what it decorates comes */
        scan->compound = true;
    if (c != ' ' && c != '\t' && c != '\r' && c != '\f')
        scan->last = c;
    scan->at++;
}

/* The last line, without its newline. */
static const char *last_line(const char *text, size_t size, size_t *out_size)
{
    size_t end = size > 0 && text[size - 1] == '\n' ? size - 1 : size;
    size_t begin = end;
    while (begin > 0 && text[begin - 1] != '\n')
        begin--;
    *out_size = end - begin;
    return text + begin;
}

static bool is_blank(const char *line, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        if (!strchr(" \t\r\f", line[i]))
            return false;
    }
    return true;
}

bool block_is_whole(const char *text, size_t size)
{
    struct scan scan = {.at = text, .end = text + size, .begin = text};
    while (scan.at < scan.end) {
        if (*scan.at == '\0')
            return true; /* no text */
        if (scan.quote != '\0')
            scan_string(&scan);
        else
            scan_code(&scan);
    }
    if (scan.quote != '\0' || scan.depth > 0 || scan.continued)
        return false;
    size_t line_size = 0;
    const char *line = last_line(text, size, &line_size);
    return is_blank(line, line_size) || !(scan.compound || scan.indented);
}
