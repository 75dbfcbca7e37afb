/* What is held back on a kept disk for the engine itself: without it a disk that the code filled
 * could not be started again when a folder of its root is gone, since making one needs an inode and
 * a block, and so does mounting an overlay.
 *
 * Blocks: mke2fs reserves SPARE_BLOCKS for the host's root (mke2fs(8), -m), whom no code's id and
 * no overlay passes for (the kernel takes CAP_SYS_RESOURCE from an overlay's own rights). ext4 has
 * no such thing for inodes: empty files hold them, beside the root, where the code does not see
 * them. They go before a root is made and come back before the code runs.
 *
 * What a root was given of them stays with it: code that deletes the folders at each run, and fills
 * their place, needs as many runs as SPARE_FILES has folders to be rid of them. It harms nobody
 * else, and any deleted file brings them back. */
#ifndef BERTH_NATIVE_SPARE_H
#define BERTH_NATIVE_SPARE_H

#include <sys/types.h>

enum { SPARE_BLOCKS = 64, SPARE_FILES = 128 };

/* Makes the folder of spare files on a new disk, empty; its parent is the disk's own root. Returns
 * 0 or an errno. */
int spare_make(int disk_fd);

/* Removes them. A disk without the folder is fine. */
void spare_release(int disk_fd);

/* Makes them again, as many as there is room for; a disk without the folder has none. owner: who
 * has id 0 of the disk in the id map of its mount. */
void spare_fill(int disk_fd, uid_t owner);

#endif
