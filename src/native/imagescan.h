/* What lies in the operator's folder of images, and whether it may be used. */
#ifndef BERTH_NATIVE_IMAGESCAN_H
#define BERTH_NATIVE_IMAGESCAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum { IMAGE_NAME_MAX = 63, IMAGE_FILE_MAX = 255, IMAGES_MAX = 256 };

/* Changes whenever the file does, or is another one. */
struct image_key {
    uint64_t device;
    uint64_t inode;
    uint64_t size;
    int64_t mtime_ns;
    int64_t ctime_ns;
};

struct image_file {
    char file[IMAGE_FILE_MAX + 1]; /* "debian.tar.gz" */
    char name[IMAGE_NAME_MAX + 1]; /* "debian"; "" when the file's name gives none */
    bool folder;                   /* else a tar */
    bool oci;                      /* a tar that holds an image in layers */
    bool exposed;                  /* a folder whose files other users of the host can reach */
    struct image_key key;
    char refused[200]; /* why it may not be used; "" when it may */
};

/* Looks at every entry of the folder; hidden ones and files without an archive's suffix are passed
 * over. files has room for IMAGES_MAX. An entry may be used when it and the folder belong to this
 * process's user, nobody else may write to them, it is no link, and its name is one (id_is_name())
 * that is there once and not "host". */
int imagescan_read(int folder_fd, struct image_file *files, size_t *count, struct err *err);

/* Opens name in folder_fd as a rootfs folder (O_PATH), checked again on what was opened. */
int imagescan_open_folder(int folder_fd, const char *name, int *out_fd, struct err *err);

/* Opens a tar for reading, never waiting, and says what its key is now. */
int imagescan_open_tar(int folder_fd, const char *file, int *out_fd, struct image_key *key,
                       struct err *err);

#endif
