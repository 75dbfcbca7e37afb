/* The names of a tar that is being written: which were folders, and which were not. Exact, since
 * whoever made the names may want two of them to be taken for one. */
#ifndef BERTH_UNPACK_NAMES_H
#define BERTH_UNPACK_NAMES_H

#include <stdbool.h>

#include "base/err.h"

enum names_kind { NAMES_NONE, NAMES_FOLDER, NAMES_OTHER };

struct names {
    void *root; /* of tsearch(3) */
};

enum names_kind names_kind(const struct names *names, const char *path);
/* path is copied; a name that is there stays what it is. ERR_TOO_LARGE: no memory, of which the
 * names are to blame. */
int names_add(struct names *names, const char *path, bool is_folder, struct err *err);
void names_done(struct names *names);

#endif
