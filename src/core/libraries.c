/* Owns sets of libraries as values. */
#include "core/libraries.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "lang/lang.h"

void library_set_done(struct library_set *set)
{
    free(set->items);
    *set = (struct library_set){0};
}

static int grow(struct library_set *set, size_t more, struct err *err)
{
    void *grown = reallocarray(set->items, set->count + more, sizeof(*set->items));
    if (!grown)
        return err_set(err, ERR_INTERNAL, "no memory for a set of libraries");
    set->items = grown;
    return 0;
}

/* Puts one where it belongs; there is room for it. */
static void insert(struct library_set *set, const char *item)
{
    size_t at = 0;
    if (!set->items)
        return;
    while (at < set->count && strcmp(set->items[at], item) < 0)
        at++;
    if (at < set->count && strcmp(set->items[at], item) == 0)
        return;
    memmove(&set->items[at + 1], &set->items[at], (set->count - at) * sizeof(*set->items));
    memset(set->items[at], 0, sizeof(*set->items));
    memcpy(set->items[at], item, strlen(item));
    set->count++;
}

int library_set_copy(const struct library_set *set, struct library_set *out, struct err *err)
{
    *out = (struct library_set){0};
    if (set->count == 0 || !set->items)
        return 0;
    int result = grow(out, set->count, err);
    if (result != 0 || !out->items)
        return result;
    memcpy(out->items, set->items, set->count * sizeof(*set->items));
    out->count = set->count;
    return 0;
}

int library_set_add(struct library_set *set, const struct lang *lang, const char *const *texts,
                    size_t count, struct err *err)
{
    LIBRARY_SET_AUTO struct library_set wider = {0};
    if (count == 0)
        return 0;
    if (!lang->install[0])
        return err_public(err, ERR_BAD_INPUT, "libraries: none can be installed for %s here",
                          lang->name);
    if (count > LIBRARIES_MAX)
        return err_public(err, ERR_BAD_INPUT, "libraries: %zu, the most is %d", count,
                          LIBRARIES_MAX);
    int result = library_set_copy(set, &wider, err);
    if (result == 0)
        result = grow(&wider, count, err);
    for (size_t i = 0; i < count && result == 0; i++) {
        struct err inner = ERR_INIT;
        char form[REQUIREMENT_MAX];
        result = requirement_normalise(lang->notation, texts[i], strlen(texts[i]), form, &inner);
        if (result != 0)
            return err_public(err, inner.kind, "libraries[%zu]: \"%.60s\": %s", i, texts[i],
                              inner.public_message);
        insert(&wider, form);
    }
    if (result == 0 && wider.count > LIBRARIES_MAX)
        result = err_public(err, ERR_BAD_INPUT,
                            "libraries: %zu with those of the session, the "
                            "most is %d",
                            wider.count, LIBRARIES_MAX);
    if (result != 0)
        return result;
    free(set->items);
    set->count = wider.count;
    set->items = take(wider.items);
    return 0;
}

bool library_set_equal(const struct library_set *left, const struct library_set *right)
{
    bool equal = left->count == right->count;
    for (size_t i = 0; i < left->count && equal; i++)
        equal = strcmp(left->items[i], right->items[i]) == 0;
    return equal;
}

/* A requirement has no character that JSON writes otherwise (requirement.h). */
int library_set_json(const struct library_set *set, struct buf *out, struct err *err)
{
    int result = buf_append_str(out, "[", err);
    for (size_t i = 0; i < set->count && result == 0; i++)
        result = buf_printf(out, err, "%s\"%s\"", i > 0 ? "," : "", set->items[i]);
    return result == 0 ? buf_append_str(out, "]", err) : result;
}

int library_set_read(const char *json, struct library_set *out, struct err *err)
{
    LIBRARY_SET_AUTO struct library_set set = {0};
    for (const char *at = strchr(json, '"'); at; at = strchr(at, '"')) {
        char item[REQUIREMENT_MAX] = "";
        size_t size = strcspn(++at, "\"");
        if (size >= sizeof(item) || at[size] != '"' || set.count >= LIBRARIES_MAX)
            return err_set(err, ERR_INTERNAL, "the store has odd libraries");
        memcpy(item, at, size);
        int result = grow(&set, 1, err);
        if (result != 0)
            return result;
        insert(&set, item);
        at += size + 1;
    }
    out->count = set.count;
    out->items = take(set.items);
    return 0;
}
