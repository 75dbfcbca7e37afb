/* Owns what a requirement may look like, by a small scanner a notation. Knows no package, and asks
 * nobody: that a name exists is the installer's to say. */
#include "lang/requirement.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/mem.h"

#define NAME_MAX_BYTES 128
#define PARTS_MAX 16 /* extras, or version clauses, of one requirement */

static const char digits[] = "0123456789";
static const char alnum[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/* What is read, and what was written so far. */
struct scan {
    const char *at, *end;
    char *out;
    size_t used;
    bool full;
};

static void put(struct scan *scan, const char *text, size_t size)
{
    if (scan->used + size >= REQUIREMENT_MAX) {
        scan->full = true;
        return;
    }
    memcpy(scan->out + scan->used, text, size);
    scan->used += size;
    scan->out[scan->used] = '\0';
}

static bool at_end(const struct scan *scan)
{
    return scan->at == scan->end;
}

/* The next character; NUL at the end, which no requirement has. */
static char peek(const struct scan *scan)
{
    return at_end(scan) ? '\0' : *scan->at;
}

static void skip_blanks(struct scan *scan)
{
    while (peek(scan) == ' ')
        scan->at++;
}

static bool is_of(char c, const char *set)
{
    return c != '\0' && strchr(set, c);
}

/* The characters of two sets that come next; NULL: none. */
static const char *take_run(struct scan *scan, const char *set, const char *more, size_t *out_size)
{
    const char *begin = scan->at;
    while (is_of(peek(scan), set) || is_of(peek(scan), more))
        scan->at++;
    *out_size = (size_t)(scan->at - begin);
    return *out_size > 0 ? begin : NULL;
}

/* The operator that comes next, of texts of which none comes after one that it begins with, and the
 * blanks on both sides. NULL: none. */
static const char *take_operator(struct scan *scan, const char *const *operators, size_t count)
{
    const char *found = NULL;
    skip_blanks(scan);
    for (size_t i = 0; i < count && !found; i++) {
        size_t size = strlen(operators[i]);
        if ((size_t)(scan->end - scan->at) >= size && memcmp(scan->at, operators[i], size) == 0)
            found = operators[i];
    }
    if (found)
        scan->at += strlen(found);
    skip_blanks(scan);
    return found;
}

/* Writes it where there is one. */
static void copy_operator(struct scan *scan, const char *const *operators, size_t count)
{
    const char *found = take_operator(scan, operators, count);
    if (found)
        put(scan, found, strlen(found));
}

static int refuse(const char *what, struct err *err)
{
    return err_public(err, ERR_BAD_INPUT, "%s", what);
}

/* ---- pip ---- */

/* A name as PEP 503 compares it: lower case, runs of . _ - are one dash. */
static int take_pip_name(struct scan *scan, char out[static NAME_MAX_BYTES], struct err *err)
{
    size_t size = 0;
    size_t used = 0;
    const char *name = take_run(scan, alnum, "._-", &size);
    if (!name || !is_of(name[0], alnum) || !is_of(name[size - 1], alnum))
        return refuse("expected the name of a package such as \"numpy\" or \"numpy>=1.24,<2\"; "
                      "options, paths and addresses are not taken",
                      err);
    if (size >= NAME_MAX_BYTES)
        return refuse("a name that is too long", err);
    for (size_t i = 0; i < size; i++) {
        bool dash = is_of(name[i], "._-");
        if (dash && used > 0 && out[used - 1] == '-')
            continue;
        out[used++] =
            dash ? '-' : (char)(name[i] >= 'A' && name[i] <= 'Z' ? name[i] - 'A' + 'a' : name[i]);
    }
    out[used] = '\0';
    return 0;
}

/* Names in brackets or version clauses, which are written in order. */
struct parts {
    char text[PARTS_MAX][NAME_MAX_BYTES];
    size_t count;
};

static int compare(const void *left, const void *right)
{
    return strcmp(left, right);
}

static void put_parts(struct scan *scan, struct parts *parts)
{
    qsort(parts->text, parts->count, sizeof(parts->text[0]), compare);
    const char *last = "";
    for (size_t i = 0; i < parts->count; i++) {
        if (strcmp(parts->text[i], last) == 0)
            continue;
        if (i > 0)
            put(scan, ",", 1);
        last = parts->text[i];
        put(scan, last, strlen(last));
    }
}

/* The ] behind the parts, which are written between brackets. */
static int end_parts(struct scan *scan, struct parts *parts, const char *expected, struct err *err)
{
    if (peek(scan) != ']')
        return refuse(expected, err);
    scan->at++;
    put(scan, "[", 1);
    put_parts(scan, parts);
    put(scan, "]", 1);
    return 0;
}

/* [extra, extra] */
static int take_extras(struct scan *scan, struct err *err)
{
    struct parts extras = {.count = 0};
    do {
        scan->at++;
        skip_blanks(scan);
        if (extras.count == PARTS_MAX)
            return refuse("too many extras", err);
        if (take_pip_name(scan, extras.text[extras.count++], NULL) != 0)
            return refuse("expected names of extras between [ and ]", err);
        skip_blanks(scan);
    } while (peek(scan) == ',');
    return end_parts(scan, &extras, "expected ] behind the extras", err);
}

/* An operator and a version. */
static int take_clause(struct scan *scan, char out[static NAME_MAX_BYTES], struct err *err)
{
    static const char *const operators[] = {"===", "==", "~=", "!=", "<=", ">=", "<", ">"};
    const char *found = take_operator(scan, operators, ARRAY_SIZE(operators));
    if (!found)
        return refuse("expected a version such as \">=1.24\" behind the name, and nothing else",
                      err);
    const size_t size = strlen(found);
    size_t version_size = 0;
    const char *version = take_run(scan, alnum, ".*+!_-", &version_size);
    if (!version || !is_of(version[0], alnum))
        return refuse("expected a version such as 1.24 behind its operator", err);
    if (size + version_size >= NAME_MAX_BYTES)
        return refuse("a version that is too long", err);
    memcpy(out, found, size);
    memcpy(out + size, version, version_size);
    out[size + version_size] = '\0';
    return 0;
}

static int scan_pip(struct scan *scan, struct err *err)
{
    char name[NAME_MAX_BYTES];
    struct parts clauses = {.count = 0};
    int result = take_pip_name(scan, name, err);
    if (result != 0)
        return result;
    put(scan, name, strlen(name));
    skip_blanks(scan);
    if (peek(scan) == '[')
        result = take_extras(scan, err);
    skip_blanks(scan);
    bool more = result == 0 && !at_end(scan);
    while (more && result == 0) {
        if (clauses.count == PARTS_MAX)
            return refuse("too many versions", err);
        result = take_clause(scan, clauses.text[clauses.count++], err);
        skip_blanks(scan);
        more = peek(scan) == ',';
        if (more)
            scan->at++;
        skip_blanks(scan);
    }
    if (result == 0)
        put_parts(scan, &clauses);
    return result;
}

/* ---- npm ---- */

static int take_npm_name(struct scan *scan, struct err *err)
{
    size_t size = 0;
    const char *name = take_run(scan, alnum, "._~-", &size);
    if (!name || is_of(name[0], "._~-"))
        return refuse("expected the name of a package such as \"lodash\", \"lodash@^4\" or "
                      "\"@scope/name\"; options, paths and addresses are not taken",
                      err);
    put(scan, name, size);
    return 0;
}

static int scan_npm(struct scan *scan, struct err *err)
{
    bool scoped = peek(scan) == '@';
    if (scoped) {
        put(scan, "@", 1);
        scan->at++;
    }
    int result = take_npm_name(scan, err);
    if (result == 0 && scoped) {
        if (peek(scan) != '/')
            return refuse("expected / and a name behind the scope", err);
        put(scan, "/", 1);
        scan->at++;
        result = take_npm_name(scan, err);
    }
    if (result != 0 || peek(scan) != '@')
        return result;
    scan->at++;
    size_t size = 0;
    const char *version = take_run(scan, alnum, ".^~<>=*+-", &size);
    if (!version || is_of(version[0], ".-+")) /* what begins with a dot is a path to npm */
        return refuse("expected a version such as 4.17 or ^4 behind the @", err);
    put(scan, "@", 1);
    put(scan, version, size);
    return 0;
}

/* ---- gem, CRAN, CPAN ---- */

static int scan_gem(struct scan *scan, struct err *err)
{
    static const char *const operators[] = {"~>", ">=", "<=", "!=", "=", ">", "<"};
    size_t size = 0;
    const char *name = take_run(scan, alnum, "._-", &size);
    if (!name || !is_of(name[0], alnum))
        return refuse("expected the name of a gem such as \"rake\" or \"rake:~>13.0\"; options, "
                      "paths and addresses are not taken",
                      err);
    put(scan, name, size);
    skip_blanks(scan);
    if (peek(scan) != ':')
        return 0;
    scan->at++;
    put(scan, ":", 1);
    copy_operator(scan, operators, ARRAY_SIZE(operators));
    const char *version = take_run(scan, alnum, ".-", &size);
    if (!version || !is_of(version[0], digits))
        return refuse("expected a version such as 13.0 or ~>13.0 behind the colon", err);
    put(scan, version, size);
    return 0;
}

static int scan_cran(struct scan *scan, struct err *err)
{
    size_t size = 0;
    const char *name = take_run(scan, alnum, ".", &size);
    if (!name || !is_of(name[0], alnum) || is_of(name[0], digits) || name[size - 1] == '.')
        return refuse("expected the name of a package such as \"jsonlite\", without a version",
                      err);
    put(scan, name, size);
    return 0;
}

static int scan_cpan(struct scan *scan, struct err *err)
{
    size_t size = 0;
    for (;;) {
        const char *name = take_run(scan, alnum, "_", &size);
        if (!name || is_of(name[0], digits))
            return refuse("expected the name of a module such as \"JSON::PP\" or \"JSON::PP@4.0\"",
                          err);
        put(scan, name, size);
        if (scan->end - scan->at < 2 || memcmp(scan->at, "::", 2) != 0)
            break;
        put(scan, "::", 2);
        scan->at += 2;
    }
    if (!is_of(peek(scan), "@~"))
        return 0;
    put(scan, scan->at++, 1);
    const char *version = take_run(scan, digits, "._v", &size);
    if (!version || is_of(version[0], "._"))
        return refuse("expected a version such as 4.0 behind the name", err);
    put(scan, version, size);
    return 0;
}

/* ---- cargo ---- */

/* [feature,feature], in order */
static int take_features(struct scan *scan, struct err *err)
{
    struct parts features = {.count = 0};
    do {
        scan->at++;
        skip_blanks(scan);
        size_t size = 0;
        const char *name = take_run(scan, alnum, "_+.-", &size);
        if (!name || !is_of(name[0], alnum) || size >= NAME_MAX_BYTES)
            return refuse("expected names of features between [ and ]", err);
        if (features.count == PARTS_MAX)
            return refuse("too many features", err);
        memcpy(features.text[features.count], name, size);
        features.text[features.count++][size] = '\0';
        skip_blanks(scan);
    } while (peek(scan) == ',');
    return end_parts(scan, &features, "expected ] behind the features", err);
}

/* One of versions that commas separate. */
static int take_cargo_version(struct scan *scan, struct err *err)
{
    static const char *const operators[] = {">=", "<=", ">", "<", "=", "^", "~"};
    size_t size = 0;
    copy_operator(scan, operators, ARRAY_SIZE(operators));
    const char *version = take_run(scan, alnum, ".*+-", &size);
    if (!version || !is_of(version[0], digits))
        return refuse("expected a version such as 1.2 or ^1 behind the @", err);
    put(scan, version, size);
    skip_blanks(scan);
    return 0;
}

static int scan_cargo(struct scan *scan, struct err *err)
{
    size_t size = 0;
    const char *name = take_run(scan, alnum, "_-", &size);
    if (!name || !is_of(name[0], alnum) || is_of(name[0], digits))
        return refuse("expected the name of a crate such as \"serde\", \"serde@1.0\" or "
                      "\"serde[derive]@^1\"; options, paths and addresses are not taken",
                      err);
    put(scan, name, size);
    int result = peek(scan) == '[' ? take_features(scan, err) : 0;
    if (result != 0 || peek(scan) != '@')
        return result;
    do {
        put(scan, scan->at++, 1); /* the @, then commas */
        result = take_cargo_version(scan, err);
    } while (result == 0 && peek(scan) == ',');
    return result;
}

/* ---- go ---- */

static int scan_go(struct scan *scan, struct err *err)
{
    static const char words[] = "expected the path of a module such as \"github.com/google/uuid\" "
                                "or \"gopkg.in/yaml.v3@v3.0.1\"";
    size_t parts = 0;
    size_t size = 0;
    for (;; parts++) {
        const char *part = take_run(scan, alnum, "._~-", &size);
        if (!part || !is_of(part[0], alnum) || part[size - 1] == '.')
            return refuse(words, err);
        if (parts == 0 && !memchr(part, '.', size)) /* what has no dot is of Go itself */
            return refuse(words, err);
        put(scan, part, size);
        if (peek(scan) != '/')
            break;
        put(scan, scan->at++, 1);
    }
    if (parts == 0)
        return refuse(words, err);
    if (peek(scan) != '@')
        return 0;
    put(scan, scan->at++, 1);
    const char *version = take_run(scan, alnum, ".+-", &size);
    if (!version || !is_of(version[0], alnum) || (size == 4 && memcmp(version, "none", 4) == 0))
        return refuse("expected a version such as v1.2.3 behind the @", err);
    put(scan, version, size);
    return 0;
}

/* ---- Maven ---- */

static int scan_maven(struct scan *scan, struct err *err)
{
    for (int part = 0; part < 3; part++) {
        size_t size = 0;
        const char *text = take_run(scan, alnum, "._-", &size);
        if (!text || !is_of(text[0], alnum) || (part < 2 && peek(scan) != ':'))
            return refuse("expected group:artifact:version such as "
                          "\"org.apache.commons:commons-lang3:3.12.0\"; options, paths and "
                          "addresses are not taken",
                          err);
        put(scan, text, size);
        if (part < 2)
            put(scan, scan->at++, 1);
    }
    return 0;
}

/* ---- all ---- */

static const struct {
    const char *name;
    int (*scan)(struct scan *scan, struct err *err);
} notations[REQUIREMENT_NOTATION_COUNT] = {
    [REQUIREMENT_PIP] = {"pip", scan_pip},    [REQUIREMENT_NPM] = {"npm", scan_npm},
    [REQUIREMENT_GEM] = {"gem", scan_gem},    [REQUIREMENT_CRAN] = {"cran", scan_cran},
    [REQUIREMENT_CPAN] = {"cpan", scan_cpan}, [REQUIREMENT_CARGO] = {"cargo", scan_cargo},
    [REQUIREMENT_GO] = {"go", scan_go},       [REQUIREMENT_MAVEN] = {"maven", scan_maven},
};

enum requirement_notation requirement_notation(const char *name)
{
    for (int i = REQUIREMENT_NONE + 1; i < REQUIREMENT_NOTATION_COUNT; i++) {
        if (strcmp(notations[i].name, name) == 0)
            return (enum requirement_notation)i;
    }
    return REQUIREMENT_NONE;
}

/* What an installer takes for a file of that name. */
static bool is_archive(const char *text)
{
    static const char *const ends[] = {".zip", ".whl", ".tar", ".tgz", ".gz",   ".bz2", ".tbz",
                                       ".xz",  ".txz", ".tlz", ".lz",  ".lzma", ".gem", ".egg"};
    size_t size = strlen(text);
    for (size_t i = 0; i < ARRAY_SIZE(ends); i++) {
        size_t end_size = strlen(ends[i]);
        if (size > end_size && strcasecmp(text + size - end_size, ends[i]) == 0)
            return true;
    }
    return false;
}

int requirement_normalise(enum requirement_notation notation, const char *text, size_t size,
                          char out[static REQUIREMENT_MAX], struct err *err)
{
    char form[REQUIREMENT_MAX] = "";
    struct scan scan = {.at = text, .end = text + size, .out = form};
    if (notation <= REQUIREMENT_NONE || notation >= REQUIREMENT_NOTATION_COUNT)
        return refuse("this language installs no libraries here", err);
    if (size >= REQUIREMENT_MAX)
        return refuse("longer than 255 bytes", err);
    int result = notations[notation].scan(&scan, err);
    if (result != 0)
        return result;
    if (!at_end(&scan))
        return refuse("there is something behind the name and its version", err);
    if (scan.full)
        return refuse("longer than 255 bytes", err);
    if (is_archive(form))
        return refuse("this is the name of a file", err);
    memcpy(out, form, sizeof(form));
    return 0;
}
