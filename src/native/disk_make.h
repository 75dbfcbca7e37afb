/* The child that makes or opens one disk: every step that blocks. Used by disk.c alone. */
#ifndef BERTH_NATIVE_DISK_MAKE_H
#define BERTH_NATIVE_DISK_MAKE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "native/disk.h"

#define DISK_NAME_SIZE (DISK_ID_MAX + sizeof(".keep"))

struct disk_plan {
    int dir_fd;
    int image_fd;        /* of its whole size */
    int reply_fd;        /* SEQPACKET: one struct err, ERR_NONE with the mount's descriptor */
    uint64_t size_bytes; /* as asked for; 0: the disk is there, it is opened */
    bool keep;
    char made_name[DISK_NAME_SIZE]; /* a new one: what it is called while it is being made */
    char name[DISK_NAME_SIZE];      /* and what when it is done */
};

/* The size of the file in which a disk of size_bytes lies: what ext4 needs for itself comes on top.
 */
uint64_t disk_image_bytes(uint64_t size_bytes, bool keep);

/* Runs in the child, the first process of a pid namespace; never returns. Needs the host's root. */
_Noreturn void disk_make(const struct disk_plan *plan);

/* Finds a program of e2fsprogs; out has the absolute path. False: it is not installed. */
bool disk_find_tool(const char *name, char *out, size_t size);

/* Opens a device node of /dev, and makes it where nothing else does (a container's own /dev). sysfs
 * tells its numbers: sys_path is its `dev` file. */
int disk_open_node(const char *path, mode_t type, const char *sys_path, struct err *err);

#endif
