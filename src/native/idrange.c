/* Owns /run/berth/ids. */
#include "native/idrange.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"

static int open_folder(int parent_fd, const char *path, int *out_fd, struct err *err)
{
    if (mkdirat(parent_fd, path, 0755) != 0 && errno != EEXIST)
        return err_sys(err, errno, "make %s", path);
    *out_fd = openat(parent_fd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (*out_fd < 0)
        return err_sys(err, errno, "open %s", path);
    return 0;
}

int idrange_open(int *out_dir_fd, struct err *err)
{
    FD_AUTO int run_fd = -1;
    int result = open_folder(AT_FDCWD, "/run/berth", &run_fd, err);
    if (result == 0)
        result = open_folder(run_fd, "ids", out_dir_fd, err);
    if (result == 0 && fchmod(*out_dir_fd, 0700) != 0) {
        result = err_sys(err, errno, "mode of /run/berth/ids");
        fd_close(out_dir_fd);
    }
    return result;
}

/* Ranges that this process holds: asking the kernel for them again would only cost time. */
static bool held[IDRANGE_COUNT];

int idrange_take(int dir_fd, struct idrange *out, struct err *err)
{
    /* Low numbers first: the folder then holds as many files as sandboxes ever lived at once. */
    for (uint32_t index = 0; index < IDRANGE_COUNT; index++) {
        if (held[index])
            continue;
        char name[16];
        (void)snprintf(name, sizeof(name), "%u", index);
        FD_AUTO int fd = openat(dir_fd, name, O_RDONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (fd < 0)
            return err_sys(err, errno, "open id range %u", index);
        if (flock(fd, LOCK_EX | LOCK_NB) != 0)
            continue;
        held[index] = true;
        out->base = IDRANGE_FIRST + index * IDRANGE_SIZE;
        out->lock_fd = fd_take(&fd);
        return 0;
    }
    return err_public(err, ERR_UNAVAILABLE, "all %u id ranges of this host are in use",
                      IDRANGE_COUNT);
}

void idrange_release(struct idrange *range)
{
    if (range->lock_fd < 0)
        return;
    held[(range->base - IDRANGE_FIRST) / IDRANGE_SIZE] = false;
    fd_close(&range->lock_fd);
}
