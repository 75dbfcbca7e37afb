/* Owns the spare files of kept disks. */
#include "native/spare.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/fsuid.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "native/parent.h"

#define FOLDER "spare"

enum { NAME_SIZE = 16 };

static void write_name(char out[static NAME_SIZE], int number)
{
    (void)snprintf(out, NAME_SIZE, "%d", number);
}

static int open_folder(int disk_fd)
{
    return openat(disk_fd, FOLDER, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

int spare_make(int disk_fd)
{
    return mkdirat(disk_fd, FOLDER, 0700) == 0 || errno == EEXIST ? 0 : errno;
}

void spare_release(int disk_fd)
{
    FD_AUTO int fd = open_folder(disk_fd);
    for (int i = 0; fd >= 0 && i < SPARE_FILES; i++) {
        char name[NAME_SIZE];
        write_name(name, i);
        (void)unlinkat(fd, name, 0);
    }
}

/* The mount has its id map by now: the host's root is nobody there. */
void spare_fill(int disk_fd, uid_t owner)
{
    const struct parent_watch watch = parent_watch_save();
    (void)setfsgid(owner);
    (void)setfsuid(owner);
    FD_AUTO int fd = open_folder(disk_fd);
    for (int i = 0; fd >= 0 && i < SPARE_FILES; i++) {
        char name[NAME_SIZE];
        write_name(name, i);
        if (mknodat(fd, name, S_IFREG | 0600, 0) != 0 && errno != EEXIST)
            break;
    }
    (void)setfsuid(0);
    (void)setfsgid(0);
    parent_watch_restore(&watch);
}
