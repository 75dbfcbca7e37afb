/* The folder of unpacked images, root's own.
 *
 * NAME.HASH/ is a whole one: rootfs/ and the file lock, which is locked (shared) for as long as
 * anything uses the rootfs. ….partial is one that is being made, or being removed. Whatever else
 * lies in the folder is not touched. */
#ifndef BERTH_NATIVE_IMAGESTORE_H
#define BERTH_NATIVE_IMAGESTORE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "native/imagescan.h"

/* NAME.16 hex digits.8 hex digits.partial */
enum { IMAGESTORE_NAME_SIZE = IMAGE_NAME_MAX + 1 + 16 + 1 + 8 + sizeof(".partial") };

/* The name of the whole folder for an image as it is now. */
void imagestore_name(const struct image_file *file, char out[static IMAGESTORE_NAME_SIZE]);

/* Whether the whole folder of this name is there. */
bool imagestore_has(int store_fd, const char *whole);

/* Makes a folder to unpack into, for what will be whole. *out_rootfs_fd is the caller's. */
int imagestore_begin(int store_fd, const char *whole, char out_partial[static IMAGESTORE_NAME_SIZE],
                     int *out_rootfs_fd, struct err *err);

/* The unpacked folder becomes the whole one. */
int imagestore_commit(int store_fd, const char *partial, const char *whole, struct err *err);

/* The rootfs (O_PATH) of a whole folder and its lock, shared; both are the caller's. */
int imagestore_take(int store_fd, const char *whole, int *out_rootfs_fd, int *out_lock_fd,
                    struct err *err);

/* Finds a folder that nobody wants and nobody uses: out is its name, which ends in .partial,
 * renamed if need be; treeremove_start() is what it is for. False: there is none. wanted() is asked
 * about each name. */
bool imagestore_find_waste(int store_fd, bool (*wanted)(const char *name, const void *context),
                           const void *context, char out[static IMAGESTORE_NAME_SIZE]);

#endif
