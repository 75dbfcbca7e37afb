/* Owns the names in the store and the jobs. Never blocks but where disk.h says so, and never
 * removes a kept disk unless it is told its id. */
#include "native/disk.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/mount.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/id.h"
#include "base/mem.h"
#include "native/disk_make.h"
#include "native/treeremove.h"

#define BYTES_PER_STAT_BLOCK UINT64_C(512) /* of st_blocks (stat(2)) */

enum suffix { SUFFIX_NEW, SUFFIX_IMG, SUFFIX_KEEP, SUFFIX_COUNT };
/* In the order of a disk's life: what removes them one after the other misses none, even when a
 * child that is about to die still renames. */
static const char *const suffixes[SUFFIX_COUNT] = {".new", ".img", ".keep"};

static int check_id(const char *id, struct err *err)
{
    if (!id_is_name(id, DISK_ID_MAX))
        return err_set(err, ERR_BAD_INPUT, "the id of a disk is not fit to be a name");
    return 0;
}

static void write_name(char out[static DISK_NAME_SIZE], const char *id, enum suffix suffix)
{
    (void)snprintf(out, DISK_NAME_SIZE, "%s%s", id, suffixes[suffix]);
}

/* The other way: false for a name that is not ours. */
static bool read_name(const char *name, char out_id[static DISK_ID_MAX + 1], enum suffix *out)
{
    for (int i = 0; i < SUFFIX_COUNT; i++) {
        size_t length = strlen(name);
        size_t tail = strlen(suffixes[i]);
        if (length <= tail || length - tail > DISK_ID_MAX ||
            strcmp(name + length - tail, suffixes[i]) != 0)
            continue;
        memcpy(out_id, name, length - tail);
        out_id[length - tail] = '\0';
        *out = (enum suffix)i;
        return id_is_name(out_id, DISK_ID_MAX);
    }
    return false;
}

int disk_open(int priv_fd, struct disk_store *out, struct err *err)
{
    if (mkdirat(priv_fd, "disks", 0700) != 0 && errno != EEXIST)
        return err_sys(err, errno, "make the folder of disks");
    FD_AUTO int fd = openat(priv_fd, "disks", O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return err_sys(err, errno, "open the folder of disks");
    if (fchmod(fd, 0700) != 0)
        return err_sys(err, errno, "mode of the folder of disks");
    out->dir_fd = fd_take(&fd);
    return 0;
}

void disk_close(struct disk_store *store)
{
    fd_close(&store->dir_fd);
}

int disk_check(struct err *err)
{
    static const char *const tools[] = {"mke2fs", "e2fsck"};
    char path[64];
    for (size_t i = 0; i < ARRAY_SIZE(tools); i++) {
        if (!disk_find_tool(tools[i], path, sizeof(path)))
            return err_public(err, ERR_UNSUPPORTED, "%s is missing (package e2fsprogs)", tools[i]);
    }
    FD_AUTO int control_fd =
        disk_open_node("/dev/loop-control", S_IFCHR, "/sys/class/misc/loop-control/dev", NULL);
    if (control_fd < 0)
        return err_public(err, ERR_UNSUPPORTED, "this host gives us no loop devices");
    FD_AUTO int context_fd = (int)syscall(SYS_fsopen, "ext4", FSOPEN_CLOEXEC);
    if (context_fd < 0)
        return err_public(err, ERR_UNSUPPORTED, "this kernel has no ext4");
    return 0;
}

/* Forks the child; plan gets its socket here. */
static int begin(struct disk_plan *plan, struct disk_job *out, struct err *err)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
        return err_sys(err, errno, "socket of a disk");
    FD_AUTO int our_fd = pair[0];
    FD_AUTO int child_fd = pair[1];
    int result = fd_set_nonblocking(our_fd, true, err);
    if (result != 0)
        return result;
    plan->reply_fd = child_fd;
    /* As the first process of a pid namespace it leaves no tool running, and nobody a zombie. */
    pid_t pid = (pid_t)syscall(SYS_clone, CLONE_NEWPID | SIGCHLD, 0L, 0L, 0L, 0L);
    if (pid < 0)
        return err_sys(err, errno, "fork for a disk");
    if (pid == 0)
        disk_make(plan);
    *out = (struct disk_job){.pid = pid, .fd = fd_take(&our_fd)};
    return 0;
}

static bool has_name(const struct disk_store *store, const char *id, enum suffix suffix)
{
    char name[DISK_NAME_SIZE];
    write_name(name, id, suffix);
    return faccessat(store->dir_fd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

int disk_begin(const struct disk_store *store, const char *id, uint64_t size_bytes, bool keep,
               struct disk_job *out, struct err *err)
{
    int result = check_id(id, err);
    if (result != 0)
        return result;
    if (size_bytes < DISK_SIZE_MIN || size_bytes > DISK_SIZE_MAX)
        return err_public(err, ERR_BAD_INPUT,
                          "storage on disk is %" PRIu64 " MiB to %" PRIu64 " GiB",
                          DISK_SIZE_MIN >> 20, DISK_SIZE_MAX >> 30);
    if (has_name(store, id, SUFFIX_IMG) || has_name(store, id, SUFFIX_KEEP))
        return err_set(err, ERR_CONFLICT, "there is a disk of %s", id);
    struct disk_plan plan = {.dir_fd = store->dir_fd, .size_bytes = size_bytes, .keep = keep};
    write_name(plan.made_name, id, SUFFIX_NEW);
    write_name(plan.name, id, keep ? SUFFIX_KEEP : SUFFIX_IMG);
    /* Made here and not by the child: after an abort no child makes a name any more. */
    FD_AUTO int image_fd = openat(store->dir_fd, plan.made_name,
                                  O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (image_fd < 0 && errno == EEXIST)
        return err_set(err, ERR_CONFLICT, "a disk of %s is being made", id);
    if (image_fd < 0)
        return err_sys(err, errno, "make %s", plan.made_name);
    plan.image_fd = image_fd;
    if (ftruncate(image_fd, (off_t)disk_image_bytes(size_bytes, keep)) != 0)
        result = err_sys(err, errno, "size of %s", plan.made_name);
    if (result == 0)
        result = begin(&plan, out, err);
    if (result != 0)
        (void)unlinkat(store->dir_fd, plan.made_name, 0);
    return result;
}

int disk_begin_kept(const struct disk_store *store, const char *id, struct disk_job *out,
                    struct err *err)
{
    int result = check_id(id, err);
    if (result != 0)
        return result;
    struct disk_plan plan = {.dir_fd = store->dir_fd, .keep = true};
    write_name(plan.name, id, SUFFIX_KEEP);
    FD_AUTO int image_fd = openat(store->dir_fd, plan.name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (image_fd < 0 && errno == ENOENT)
        return err_set(err, ERR_NOT_FOUND, "no disk of %s was kept", id);
    if (image_fd < 0)
        return err_sys(err, errno, "open %s", plan.name);
    plan.image_fd = image_fd;
    return begin(&plan, out, err);
}

/* Ends a job whose child has said its last word, or is dead. */
static void end(struct disk_job *job)
{
    fd_close(&job->fd);
    if (job->pid > 0) {
        /* It has nothing left to do but to exit; what it still may hold is no more than a mount
         * without a byte written. */
        (void)kill(job->pid, SIGKILL);
        while (waitpid(job->pid, NULL, 0) < 0 && errno == EINTR) {
        }
    }
    *job = DISK_JOB_INIT;
}

int disk_finish(struct disk_job *job, int *out_mount_fd, struct err *err)
{
    struct err reply = ERR_INIT;
    FD_AUTO int mount_fd = -1;
    size_t count = 1;
    ssize_t size = fd_recv(job->fd, &reply, sizeof(reply), &mount_fd, &count, 0, err);
    if (size == -ERR_UNAVAILABLE)
        return -ERR_UNAVAILABLE;
    end(job);
    if (size == 0 || size == -ERR_CLOSED)
        return err_set(err, ERR_INTERNAL, "the process that made a disk ended");
    if (size < 0)
        return (int)size;
    if (size != (ssize_t)sizeof(reply) || (count == 1) != (reply.kind == ERR_NONE))
        return err_set(err, ERR_PROTOCOL, "the process that made a disk said nonsense");
    if (reply.kind != ERR_NONE)
        return err_copy(err, &reply);
    *out_mount_fd = fd_take(&mount_fd);
    return 0;
}

void disk_cancel(const struct disk_job *job)
{
    if (job->pid > 0)
        (void)kill(job->pid, SIGKILL);
}

void disk_abort(struct disk_job *job)
{
    end(job);
}

static int remove_names(const struct disk_store *store, const char *id, bool kept, struct err *err)
{
    int result = check_id(id, err);
    for (int i = 0; i < SUFFIX_COUNT && result == 0; i++) {
        char name[DISK_NAME_SIZE];
        if (i == SUFFIX_KEEP && !kept)
            continue;
        write_name(name, id, (enum suffix)i);
        /* Held over the unlink: freeing what code wrote all over took 24 s for 2 GiB. */
        int held_fd = openat(store->dir_fd, name, O_PATH | O_CLOEXEC | O_NOFOLLOW);
        if (unlinkat(store->dir_fd, name, 0) != 0 && errno != ENOENT)
            result = err_sys(err, errno, "remove %s", name);
        treeremove_release(&held_fd);
    }
    return result;
}

int disk_remove(const struct disk_store *store, const char *id, struct err *err)
{
    return remove_names(store, id, true, err);
}

int disk_remove_unkept(const struct disk_store *store, const char *id, struct err *err)
{
    return remove_names(store, id, false, err);
}

bool disk_is_kept(const struct disk_store *store, const char *id)
{
    return id_is_name(id, DISK_ID_MAX) && has_name(store, id, SUFFIX_KEEP);
}

static void close_dir(DIR **dir)
{
    if (*dir)
        (void)closedir(*dir);
}

/* A reading position of its own: dir_fd's is shared with nobody. */
static DIR *open_dir(const struct disk_store *store)
{
    FD_AUTO int fd = openat(store->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    if (dir)
        (void)fd_take(&fd);
    return dir;
}

int disk_each(const struct disk_store *store, void (*fn)(void *context, const char *id, bool kept),
              void *context, struct err *err)
{
    __attribute__((cleanup(close_dir))) DIR *dir = open_dir(store);
    if (!dir)
        return err_sys(err, errno, "read the folder of disks");
    for (;;) {
        errno = 0;
        const struct dirent *entry = readdir(dir);
        if (!entry)
            return errno != 0 ? err_sys(err, errno, "read the folder of disks") : 0;
        char id[DISK_ID_MAX + 1];
        enum suffix suffix = SUFFIX_NEW;
        if (read_name(entry->d_name, id, &suffix))
            fn(context, id, suffix == SUFFIX_KEEP);
    }
}

/* Adds what a file takes, and what it may still grow by: its size is the whole disk's as soon as it
 * is there. */
static void add_disk(const struct disk_store *store, const char *name, struct disk_space *space)
{
    struct stat info;
    char id[DISK_ID_MAX + 1];
    enum suffix suffix = SUFFIX_NEW;
    if (!read_name(name, id, &suffix) ||
        fstatat(store->dir_fd, name, &info, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISREG(info.st_mode))
        return;
    uint64_t size = (uint64_t)info.st_size;
    uint64_t written = (uint64_t)info.st_blocks * BYTES_PER_STAT_BLOCK;
    space->written_bytes += written;
    space->promised_bytes += size > written ? size - written : 0;
}

int disk_measure(const struct disk_store *store, struct disk_space *out, struct err *err)
{
    struct statvfs info;
    if (fstatvfs(store->dir_fd, &info) != 0)
        return err_sys(err, errno, "space for disks");
    struct disk_space space = {.total_bytes = (uint64_t)info.f_blocks * info.f_frsize,
                               .free_bytes = (uint64_t)info.f_bavail * info.f_frsize};
    __attribute__((cleanup(close_dir))) DIR *dir = open_dir(store);
    if (!dir)
        return err_sys(err, errno, "read the folder of disks");
    for (;;) {
        errno = 0;
        const struct dirent *entry = readdir(dir);
        if (!entry && errno != 0)
            return err_sys(err, errno, "read the folder of disks");
        if (!entry)
            break;
        add_disk(store, entry->d_name, &space);
    }
    *out = space;
    return 0;
}
