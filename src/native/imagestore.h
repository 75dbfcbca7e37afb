/* A folder of unpacked archives, root's own: the images, or the library layers.
 *
 * NAME.HASH/ is a whole one: rootfs/ and the file lock, which is locked (shared) for as long as
 * anything uses the rootfs. ….partial is one that is being made, or being removed; one that was
 * whole begins with its former name. Whatever else lies in the folder is not touched. */
#ifndef BERTH_NATIVE_IMAGESTORE_H
#define BERTH_NATIVE_IMAGESTORE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "native/imagescan.h"

/* NAME.16 hex digits.8 hex digits.partial */
enum {
    IMAGESTORE_STEM_MAX = 64,
    IMAGESTORE_HASH_DIGITS = 16,
    IMAGESTORE_NAME_SIZE =
        IMAGESTORE_STEM_MAX + 1 + IMAGESTORE_HASH_DIGITS + 1 + 8 + sizeof(".partial")
};

/* It holds set-user-ID files with the host's own numbers: fails if anybody else may come near. */
int imagestore_check(int store_fd, struct err *err);

/* The name of the whole folder for an image as it is now. */
void imagestore_name(const struct image_file *file, char out[static IMAGESTORE_NAME_SIZE]);

/* Whether the whole folder of this name is there. */
bool imagestore_has(int store_fd, const char *whole);

/* Calls on_whole with the name of each whole folder. */
int imagestore_each(int store_fd, void (*on_whole)(void *context, const char *whole), void *context,
                    struct err *err);

/* Makes a folder to unpack into, for what will be whole (or its NAME, while no more is known).
 * *out_rootfs_fd is the caller's. */
int imagestore_begin(int store_fd, const char *whole, char out_partial[static IMAGESTORE_NAME_SIZE],
                     int *out_rootfs_fd, struct err *err);

/* The unpacked folder becomes the whole one. */
int imagestore_commit(int store_fd, const char *partial, const char *whole, struct err *err);

/* The rootfs (O_PATH) of a whole folder (or one that was) and its lock, shared; both are the
 * caller's. */
int imagestore_take(int store_fd, const char *whole, int *out_rootfs_fd, int *out_lock_fd,
                    struct err *err);

/* Takes a whole folder's name from it, whether it is used or not: it is waste from then on, to go
 * when nobody uses it. */
int imagestore_retire(int store_fd, const char *whole, struct err *err);

/* What a folder is called that is or was whole under this name. False: there is none. */
bool imagestore_find(int store_fd, const char *whole, char out[static IMAGESTORE_NAME_SIZE]);

/* Finds a folder that nobody wants and nobody uses: out is its name, which ends in .partial,
 * renamed if need be; treeremove_start() is what it is for. False: there is none. wanted() is asked
 * about each name. */
bool imagestore_find_waste(int store_fd, bool (*wanted)(const char *name, const void *context),
                           const void *context, char out[static IMAGESTORE_NAME_SIZE]);

#endif
