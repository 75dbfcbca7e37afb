/* The image `host`: what a sandbox sees of this machine, prepared once as detached mount trees.
 *
 * /usr and the folders beside it are read-only binds; /etc is a copy of an allow-list, of files
 * that everybody may read, with passwd, group, hosts and resolv.conf made for the sandbox; /dev is
 * a read-only tmpfs with the harmless device nodes. A sandbox gets clones of the trees, id-mapped
 * for its own ids where the filesystem can. */
#ifndef BERTH_NATIVE_IMAGE_H
#define BERTH_NATIVE_IMAGE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

enum { IMAGE_TREE_MAX = 10, IMAGE_LINK_MAX = 10 };

struct image_tree {
    char target[16]; /* relative to the root: "usr", "etc", "dev" */
    int fd;          /* an attached mount in the engine's own mount namespace */
    bool idmap;      /* cleared when its filesystem has no id-mapped mounts */
};

struct image_link {
    char target[16]; /* "bin" */
    char to[64];     /* "usr/bin" */
};

struct image {
    struct image_tree trees[IMAGE_TREE_MAX];
    size_t tree_count;
    struct image_link links[IMAGE_LINK_MAX];
    size_t link_count;
};

/* Builds the trees below the folder stage_path, which has to be in a mount namespace of this
 * process's own. The folder's earlier content of ours is replaced. */
int image_open_host(struct image *image, const char *stage_path, struct err *err);
void image_close(struct image *image);

/* Whether files of /usr show their real owners inside a sandbox. */
bool image_keeps_owners(const struct image *image);

/* Clones every tree for one sandbox; out has room for IMAGE_TREE_MAX descriptors. userns_fd names
 * the user namespace whose ids the files get. */
int image_clone(struct image *image, int userns_fd, int *out, struct err *err);

#endif
