/* The operator's folder of images, as `berth image` changes it: what lies in it, and how a new one
 * gets its name. Only root may. */
#ifndef BERTH_CLI_IMAGE_FOLDER_H
#define BERTH_CLI_IMAGE_FOLDER_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"

enum { IMAGE_NAME_MAX = 63, IMAGE_WORK_SIZE = 32 };

#define IMAGE_OCI_SUFFIX ".oci.tar"
#define IMAGE_INFO_SUFFIX ".json" /* beside the archive: where it came from, how it is started */

struct image_folder {
    int fd;
    char path[PATH_MAX];
};

/* One image of the folder. */
struct image_found {
    char file[NAME_MAX + 1];
    char name[IMAGE_NAME_MAX + 1];
    bool folder; /* else an archive */
    uint64_t size_bytes;
    int64_t changed_s; /* CLOCK_REALTIME */
};

/* Opens the folder at path (NULL: $BERTH_IMAGES, else images/ of $BERTH_STATE, else of
 * /var/lib/berth), which is made when only its last part is missing. Refuses one that somebody else
 * may write to. */
int image_folder_open(const char *path, struct image_folder *out, struct err *err);
void image_folder_close(struct image_folder *folder);
#define IMAGE_FOLDER_AUTO __attribute__((cleanup(image_folder_close)))

/* All images in the order of their names; heap, the caller's. Hidden names and others are passed
 * over. */
int image_folder_list(const struct image_folder *folder, struct image_found **out, size_t *count,
                      struct err *err);

/* The file or folder of an image: ERR_NOT_FOUND when there is none. */
int image_folder_find(const struct image_folder *folder, const char *name, struct image_found *out,
                      struct err *err);

/* Makes a hidden folder to work in that belongs to owner, inside one that only root may enter, and
 * removes what killed commands left of theirs. *out_fd is the caller's and keeps it from being
 * taken for such. */
int image_folder_begin(const struct image_folder *folder, uid_t owner,
                       char out_name[static IMAGE_WORK_SIZE], int *out_fd, struct err *err);

/* Removes a folder of image_folder_begin() with all that is in it. */
void image_folder_end(const struct image_folder *folder, const char *work);

/* The file `file` of the work folder becomes the archive of the image, and info (a text) lies
 * beside it. It is root's own afterwards, and on the disk. ERR_CONFLICT: the name is taken, by
 * something that replace is not for. */
int image_folder_commit(const struct image_folder *folder, int work_fd, const char *file,
                        const char *name, const char *info, bool replace, struct err *err);

/* Whether the name may be given to a new image; see image_folder_commit(). */
int image_folder_check(const struct image_folder *folder, const char *name, bool replace,
                       struct err *err);

/* Removes the archive of an image. */
int image_folder_remove(const struct image_folder *folder, const char *name, struct err *err);

#endif
