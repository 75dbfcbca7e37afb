/* Owns the folders of locks and the sums about ids. */
#include "native/idrange.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/fd.h"
#include "base/mem.h"

/* ---- which ids ---- */

struct idrange_space idrange_plan(uint64_t id_count)
{
    if (id_count >= (uint64_t)IDRANGE_FIRST + (uint64_t)IDRANGE_COUNT * IDRANGE_SIZE)
        return (struct idrange_space){IDRANGE_WHOLE, IDRANGE_FIRST, IDRANGE_SIZE, IDRANGE_COUNT};
    if (id_count <= IDRANGE_SPARSE_SIZE)
        return (struct idrange_space){IDRANGE_SHARED, 0, 1, IDRANGE_COUNT};
    uint64_t count = (id_count - 1) / IDRANGE_SPARSE_SIZE;
    if (count > IDRANGE_COUNT)
        count = IDRANGE_COUNT;
    /* From the upper end: other programs with the same ids begin with the low ones. */
    uint64_t first = id_count - count * IDRANGE_SPARSE_SIZE;
    return (struct idrange_space){IDRANGE_SPARSE, (uint32_t)first, IDRANGE_SPARSE_SIZE,
                                  (uint32_t)count};
}

/* How many ids from 0 on a map has (user_namespaces(7): lines of first, outside, count). */
static int count_ids(const char *path, uint64_t *out, struct err *err)
{
    FILE *file = fopen(path, "re");
    if (!file)
        return err_sys(err, errno, "open %s", path);
    char line[128];
    uint64_t next = 0;
    while (fgets(line, sizeof(line), file)) {
        char *at = NULL;
        uint64_t first = strtoull(line, &at, 10);
        (void)strtoull(at, &at, 10);
        if (first == next)
            next += strtoull(at, NULL, 10);
    }
    (void)fclose(file);
    *out = next;
    return 0;
}

int idrange_find(struct idrange_space *out, struct err *err)
{
    uint64_t uids = 0;
    uint64_t gids = 0;
    int result = count_ids("/proc/self/uid_map", &uids, err);
    if (result == 0)
        result = count_ids("/proc/self/gid_map", &gids, err);
    if (result == 0)
        *out = idrange_plan(uids < gids ? uids : gids);
    return result;
}

/* Inner id i is outer id i + 1 where there is more than one: outer 0 stays init's alone. */
void idrange_describe(const struct idrange_space *space, uint32_t base, struct idrange_maps *out)
{
    *out = (struct idrange_maps){.root_id = 1, .code_id = 1001, .tty_gid = -1};
    if (space->kind == IDRANGE_WHOLE) {
        (void)snprintf(out->outer, sizeof(out->outer), "0 %u %u\n", base, IDRANGE_SIZE);
        out->inner = "0 1 65535\n";
        out->files = "0 1 65535\n65535 0 1\n";
        out->tty_gid = 6;
    } else if (space->kind == IDRANGE_SPARSE) {
        (void)snprintf(out->outer, sizeof(out->outer), "0 %u 1\n1 %u 1\n1001 %u 1\n65535 %u 1\n",
                       base, base + 1, base + 2, base + 3);
        out->inner = "0 1 1\n1000 1001 1\n65534 65535 1\n";
    } else {
        (void)snprintf(out->outer, sizeof(out->outer), "0 %u 1\n", base);
        out->inner = "1000 0 1\n";
        out->root_id = out->code_id = 0;
        out->one_id = true;
    }
}

/* ---- locks ---- */

static int open_folder(int parent_fd, const char *path, int *out_fd, struct err *err)
{
    if (mkdirat(parent_fd, path, 0755) != 0 && errno != EEXIST)
        return err_sys(err, errno, "make %s", path);
    *out_fd = openat(parent_fd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (*out_fd < 0)
        return err_sys(err, errno, "open %s", path);
    return 0;
}

/* parent/berth/ids, closed to others. */
static int open_below(const char *parent, int *out_dir_fd, struct err *err)
{
    char path[PATH_MAX];
    FD_AUTO int run_fd = -1;
    (void)snprintf(path, sizeof(path), "%s/berth", parent);
    int result = open_folder(AT_FDCWD, path, &run_fd, err);
    if (result == 0)
        result = open_folder(run_fd, "ids", out_dir_fd, err);
    if (result == 0 && fchmod(*out_dir_fd, 0700) != 0) {
        result = err_sys(err, errno, "mode of %s/ids", path);
        fd_close(out_dir_fd);
    }
    return result;
}

/* Whether nobody else could put something there. */
static bool is_ours_alone(const char *path)
{
    struct stat info;
    return path && path[0] == '/' && lstat(path, &info) == 0 && S_ISDIR(info.st_mode) &&
           info.st_uid == geteuid() && (info.st_mode & 0022) == 0;
}

int idrange_open(const struct idrange_space *space, uid_t host_uid, int own_fd, int *out_dir_fd,
                 struct err *err)
{
    char user[32];
    (void)snprintf(user, sizeof(user), "/run/user/%u", host_uid);
    const char *named = getenv("XDG_RUNTIME_DIR");
    if (space->kind == IDRANGE_WHOLE)
        return open_below("/run", out_dir_fd, err);
    if (is_ours_alone("/run") && open_below("/run", out_dir_fd, NULL) == 0)
        return 0; /* a container's root */
    if (is_ours_alone(named) && open_below(named, out_dir_fd, NULL) == 0)
        return 0;
    if (is_ours_alone(user) && open_below(user, out_dir_fd, NULL) == 0)
        return 0;
    return open_folder(own_fd, "ids", out_dir_fd, err);
}

/* Ranges that this process holds: asking the kernel for them again would only cost time. */
static bool held[IDRANGE_COUNT];

int idrange_take(int dir_fd, const struct idrange_space *space, struct idrange *out,
                 struct err *err)
{
    /* Low numbers first: the folder then holds as many files as sandboxes ever lived at once. */
    for (uint32_t index = 0; index < space->count; index++) {
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
        out->index = index;
        out->base = space->first + (space->kind == IDRANGE_SHARED ? 0 : index * space->size);
        out->lock_fd = fd_take(&fd);
        return 0;
    }
    return err_public(err, ERR_UNAVAILABLE, "all %u id ranges of this host are in use",
                      space->count);
}

void idrange_release(struct idrange *range)
{
    if (range->lock_fd < 0)
        return;
    held[range->index] = false;
    fd_close(&range->lock_fd);
}

int idrange_write_maps(pid_t pid, const char *map, struct err *err)
{
    static const char *const files[] = {"uid_map", "gid_map"};
    char path[64];
    for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
        (void)snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, files[i]);
        int result = fd_write_file_at(AT_FDCWD, path, map, err);
        if (result != 0)
            return result;
    }
    return 0;
}

enum { USERNS_TRIES = 3 };

/* It shares the engine's memory, which is fast: it may do nothing but raw calls. It has the
 * engine's socket too, so the next engine could not start while it lives. */
__attribute__((no_sanitize("thread", "address", "undefined"))) static int wait_for_end(
    void *argument)
{
    const pid_t *engine = argument;
    if (syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) == 0) {
        while (syscall(SYS_getppid) == *engine)
            (void)syscall(SYS_ppoll, NULL, 0, NULL, NULL, 0);
    }
    (void)syscall(SYS_exit, 1);
    return 1;
}

/* out_died: the child ended before we ended it. */
static int try_open_userns(const char *map, int *out_fd, bool *out_died, struct err *err)
{
    static char stack[16384] __attribute__((aligned(16)));
    char path[64];
    pid_t engine = getpid();
    *out_died = false;
    pid_t pid =
        clone(wait_for_end, stack + sizeof(stack), CLONE_NEWUSER | CLONE_VM | SIGCHLD, &engine);
    if (pid < 0)
        return err_sys(err, errno, "make a user namespace");
    fault_point("native.trial");
    int result = idrange_write_maps(pid, map, err);
    (void)snprintf(path, sizeof(path), "/proc/%d/ns/user", (int)pid);
    int fd = result == 0 ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (result == 0 && fd < 0)
        result = err_sys(err, errno, "open %s", path);
    *out_died = waitpid(pid, NULL, WNOHANG) == pid;
    if (!*out_died) {
        (void)kill(pid, SIGKILL);
        (void)waitpid(pid, NULL, 0);
    }
    if (result == 0)
        *out_fd = fd;
    return result;
}

int idrange_open_userns(const char *map, int *out_fd, struct err *err)
{
    bool died = false;
    int result = try_open_userns(map, out_fd, &died, err);
    for (int tries = 1; tries < USERNS_TRIES && result != 0 && died; tries++)
        result = try_open_userns(map, out_fd, &died, err); /* one that was killed says nothing */
    return result;
}
