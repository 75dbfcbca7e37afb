/* Owns the names in priv/run. Opens none of the files. */
#include "native/runfile.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/id.h"

void runfile_name(const char *id, const char *suffix, char out[static RUNFILE_NAME_SIZE])
{
    (void)snprintf(out, RUNFILE_NAME_SIZE, "%.64s.%.8s", id, suffix);
}

bool runfile_exists(int run_fd, const char *id, const char *suffix)
{
    char name[RUNFILE_NAME_SIZE];
    if (!id_is_name(id, SANDBOX_ID_MAX))
        return false;
    runfile_name(id, suffix, name);
    return faccessat(run_fd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

void runfile_remove(int run_fd, const char *id, const char *suffix)
{
    char name[RUNFILE_NAME_SIZE];
    runfile_name(id, suffix, name);
    (void)unlinkat(run_fd, name, 0);
}

int runfile_each(int run_fd, const char *suffix, void (*fn)(void *context, const char *id),
                 void *context, struct err *err)
{
    int copy_fd = openat(run_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = copy_fd < 0 ? NULL : fdopendir(copy_fd);
    if (!dir) {
        fd_close(&copy_fd);
        return err_sys(err, errno, "list priv/run");
    }
    const struct dirent *entry = NULL;
    while (errno = 0, (entry = readdir(dir))) {
        char id[SANDBOX_ID_MAX + 1];
        const char *dot = strrchr(entry->d_name, '.');
        if (!dot || strcmp(dot + 1, suffix) != 0 || (size_t)(dot - entry->d_name) > SANDBOX_ID_MAX)
            continue;
        (void)snprintf(id, sizeof(id), "%.*s", (int)(dot - entry->d_name), entry->d_name);
        if (id_is_name(id, SANDBOX_ID_MAX))
            fn(context, id);
    }
    int saved = errno;
    (void)closedir(dir);
    return saved != 0 ? err_sys(err, saved, "list priv/run") : 0;
}
