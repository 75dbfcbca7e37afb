/* Writable roots on disk: one ext4 in a sparse file for each sandbox, behind a loop device.
 *
 * The file names in the store are the journal: ID.new is half-made, ID.img was handed out, ID.keep
 * was handed out and is to outlive its sandbox. A death at any step leaves only these names, which
 * disk_each() tells and disk_remove() ends. The loop device goes with the last mount, whoever was
 * killed (LO_FLAGS_AUTOCLEAR, loop(4)), and the loop device holds a lock on its file: a disk is
 * never mounted twice.
 *
 * Making one blocks, so a child does it. The caller watches the descriptor of the job and goes on.
 *
 * A disk that is kept has a journal, so that what was written and synced survives a power cut; it
 * gives the space of deleted files back to the host. One that is not kept has neither, nor do its
 * syncs reach the hardware: nobody reads it after its sandbox.
 *
 * The files are sparse: the host's disk can be promised more often than it exists. When it is full,
 * a sandbox gets ENOSPC or EIO, and its file system stops writing (EROFS) before it loses what was
 * written: with a journal it is whole at the next mount. disk_measure() is for not letting it come
 * to that. */
#ifndef BERTH_NATIVE_DISK_H
#define BERTH_NATIVE_DISK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"

#define DISK_ID_MAX 64                      /* of id_is_name() */
#define DISK_SIZE_MIN (UINT64_C(4) << 20)   /* below it a journal does not fit */
#define DISK_SIZE_MAX (UINT64_C(8) << 40)   /* half of what 32-bit block numbers count */
#define DISK_BYTES_PER_INODE UINT64_C(8192) /* files: one for each of these, and ... */
#define DISK_INODES_MIN UINT64_C(1024)      /* ... at least so many */

struct disk_store {
    int dir_fd; /* priv/disks, mode 0700 */
};

/* Makes the folder `disks` below priv_fd and opens it. A link there is refused. */
int disk_open(int priv_fd, struct disk_store *out, struct err *err);
void disk_close(struct disk_store *store);

/* Whether this host has what disks are made with: mke2fs and e2fsck, loop devices, ext4.
 * ERR_UNSUPPORTED (public) names what is missing. */
int disk_check(struct err *err);

/* A disk that a child makes. */
struct disk_job {
    pid_t pid; /* 0: none */
    int fd;    /* readable when disk_finish() has something to say; -1: none */
};
#define DISK_JOB_INIT ((struct disk_job){.fd = -1})

/* Begins to make a disk on which files of size_bytes in all fit (DISK_SIZE_MIN to DISK_SIZE_MAX; a
 * few MiB more may fit too) and size_bytes / DISK_BYTES_PER_INODE files. keep: it outlives its
 * sandbox. Does not block. ERR_BAD_INPUT: id or size; ERR_CONFLICT: there is a disk of that id,
 * half-made or not. */
int disk_begin(const struct disk_store *store, const char *id, uint64_t size_bytes, bool keep,
               struct disk_job *out, struct err *err);

/* Begins to open the disk that was kept for id. Does not block; the child waits for as long as the
 * disk is still mounted, and for its check, so the caller has a deadline. ERR_NOT_FOUND: none. */
int disk_begin_kept(const struct disk_store *store, const char *id, struct disk_job *out,
                    struct err *err);

/* Takes the outcome. -ERR_UNAVAILABLE with the job left as it is: not yet. Else the job is over and
 * reset: 0 and a detached mount, or what failed (never ERR_UNAVAILABLE); the names of a failed one
 * go with disk_remove().
 *
 * The mount is not id-mapped and not yet visible anywhere; its root is empty, of user and group 0,
 * mode 0755; no devices. It is the caller's: close it once the sandbox has it, since whoever closes
 * the last mount waits until all is written. */
int disk_finish(struct disk_job *job, int *out_mount_fd, struct err *err);

/* Kills the child; disk_finish() tells its end as any other. Does not block. */
void disk_cancel(const struct disk_job *job);

/* Kills the child, waits for its end (as long as a write to the disk may take) and resets the job.
 * What it made goes with disk_remove(). Takes a job that is over. */
void disk_abort(struct disk_job *job);

/* Removes every file of id, kept or not. Idempotent. One that is mounted stays usable, and its
 * space comes back with the end of its mount. */
int disk_remove(const struct disk_store *store, const char *id, struct err *err);

/* The same for what is not kept: never removes the disk that disk_is_kept() tells of. */
int disk_remove_unkept(const struct disk_store *store, const char *id, struct err *err);

/* Whether a disk is kept for id. */
bool disk_is_kept(const struct disk_store *store, const char *id);

/* Calls fn for the id of every disk, half-made ones too; fn may remove that disk. Files of other
 * names are passed over. */
int disk_each(const struct disk_store *store, void (*fn)(void *context, const char *id, bool kept),
              void *context, struct err *err);

struct disk_space {
    uint64_t total_bytes;    /* of the file system that the store lies on */
    uint64_t free_bytes;     /* of it, for anybody */
    uint64_t written_bytes;  /* what the disks of the store take of it, and give back one day */
    uint64_t promised_bytes; /* what they may still grow by */
};

/* Reads the directory: a system call for each disk. */
int disk_measure(const struct disk_store *store, struct disk_space *out, struct err *err);

#endif
