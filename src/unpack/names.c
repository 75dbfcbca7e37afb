/* Owns the names: a balanced tree of the C library's, so that no order of them is slow. */
#include "unpack/names.h"

#include <search.h>
#include <stdlib.h>
#include <string.h>

struct name {
    const char *path; /* own bytes, where it is stored */
    bool is_folder;
    char bytes[];
};

static int compare(const void *left, const void *right)
{
    const struct name *a = left;
    const struct name *b = right;
    return strcmp(a->path, b->path);
}

enum names_kind names_kind(const struct names *names, const char *path)
{
    const struct name wanted = {.path = path};
    struct name *const *found = tfind(&wanted, &names->root, compare);
    if (!found)
        return NAMES_NONE;
    return (*found)->is_folder ? NAMES_FOLDER : NAMES_OTHER;
}

int names_add(struct names *names, const char *path, bool is_folder, struct err *err)
{
    size_t size = strlen(path) + 1;
    struct name *name = malloc(sizeof(*name) + size);
    struct name *const *found = NULL;
    if (name) {
        memcpy(name->bytes, path, size);
        name->path = name->bytes;
        name->is_folder = is_folder;
        found = tsearch(name, &names->root, compare);
    }
    if (!found || *found != name)
        free(name);
    return found ? 0 : err_set(err, ERR_TOO_LARGE, "names that need too much memory");
}

void names_done(struct names *names)
{
    tdestroy(names->root, free);
    names->root = NULL;
}
