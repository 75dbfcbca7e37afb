/* The image `host`: what a sandbox sees of this machine, prepared once as mount trees.
 *
 * /usr and the folders beside it are read-only binds; /etc is a copy of an allow-list, of files
 * that everybody may read, with passwd, group, hosts and resolv.conf made for the sandbox; /dev is
 * a read-only tmpfs with the harmless device nodes. A sandbox gets clones of the trees, id-mapped
 * for its own ids where the filesystem can: below a read-only overlay in profile strict, below a
 * writable one in profile container, where package managers work. */
#ifndef BERTH_NATIVE_IMAGE_H
#define BERTH_NATIVE_IMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/err.h"

enum { IMAGE_TREE_MAX = 12, IMAGE_LINK_MAX = 10 };

enum image_use {
    IMAGE_BOUND,     /* bound in every profile */
    IMAGE_STRICT,    /* bound in profile strict only */
    IMAGE_LAYER,     /* a layer in both, of a read-only overlay in strict */
    IMAGE_CONTAINER, /* a layer in container, absent in strict */
};

struct image_tree {
    char target[16]; /* relative to the root: "usr", "etc", "dev" */
    enum image_use use;
    int fd;             /* an attached mount in the engine's own mount namespace */
    bool idmap;         /* cleared when its filesystem has no id-mapped mounts */
    bool staged;        /* small, and of the stage: where it has no id map it may be copied */
    bool flat;          /* it can be no layer of an overlay here: it is bound as it is */
    bool deep;          /* with what is mounted below it on the host */
    bool over_previous; /* as a layer it lies over the tree before it, at the same target */
    const char *source; /* what mountinfo calls an overlay of it; NULL: nothing */
    char hidden[16];    /* a folder in it that is empty in the image; "" none */
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

/* A detached mount of a tree as a layer to write over: the tree with its ids mapped, or, where its
 * filesystem has no such mounts (tmpfs before Linux 6.3), a copy of a staged one whose owners are
 * counted from first_id. */
int image_layer(struct image_tree *tree, int userns_fd, uid_t first_id, int *out_fd,
                struct err *err);

/* Builds the trees below the folder stage_path, which has to be in a mount namespace of this
 * process's own. The folder's earlier content of ours is replaced. resolv: resolv.conf(5). */
int image_open_host(struct image *image, const char *stage_path, const char *resolv,
                    struct err *err);
void image_close(struct image *image);

/* Whether files of /usr show their real owners inside a sandbox. */
bool image_keeps_owners(const struct image *image);

/* A detached clone of a tree for one sandbox, with the ids of the user namespace userns_fd (-1: as
 * they are). recursive: with what is mounted below it. */
int image_clone(struct image_tree *tree, bool recursive, int userns_fd, int *out_fd,
                struct err *err);

/* The same as a read-only overlay. Bound, the files would be the host's own: a lock that the code
 * takes would hold up the host, and a watch would tell what others run; an overlay has files of its
 * own. stage_fd: a folder of the engine's mount namespace with the folders lower-0 and empty. */
int image_overlay(struct image_tree *tree, int stage_fd, int userns_fd, int *out_fd,
                  struct err *err);

/* A detached tmpfs with what the tree "dev" has, to be added to by the caller: only the host's root
 * can make one. */
int image_make_dev(int *out_fd, struct err *err);

/* Whether a tree is bound as it is. */
bool image_shares_files(const struct image *image);

#endif
