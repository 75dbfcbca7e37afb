/* Removing what a layer hides of the layers below it: names that begin with ".wh." (OCI image-spec,
 * layer.md). Works on names relative to the root of this process, which the cage made one that
 * follows no link. */
#ifndef BERTH_UNPACK_WHITEOUT_H
#define BERTH_UNPACK_WHITEOUT_H

#include <stdbool.h>

#include "base/err.h"

/* Whether the last part of a cleaned name begins with ".wh.". */
bool whiteout_is_one(const char *path);

/* Does what such a name says: "a/.wh.b" removes a/b, "a/.wh..wh..opq" all that is in a; other names
 * that begin with ".wh..wh." say nothing. What is not there is fine. */
int whiteout_follow(const char *path, struct err *err);

/* Removes a file, or a folder with all that is in it; keep_folder: only what is in it. */
int whiteout_remove(const char *path, bool keep_folder, struct err *err);

#endif
