/* Owns the layout of the state folder. Refuses links and folders of other users; never looks into
 * db/, which belongs to the server. */
#include "monitor/state.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/id.h"
#include "base/log.h"

enum { LOCK_WAIT_MS = 5000, LOCK_STEP_MS = 25, STATE_PATH_MAX = 90 };

/* Opens the folder name below dir_fd, made when missing, with exactly this owner and mode. */
static int open_folder(int dir_fd, const char *name, uid_t uid, gid_t gid, mode_t mode, int *out,
                       struct err *err)
{
    if (mkdirat(dir_fd, name, 0700) != 0 && errno != EEXIST)
        return err_sys(err, errno, "make the folder %s", name);
    FD_AUTO int fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) {
        if (errno == ENOTDIR || errno == ELOOP)
            return err_set(err, ERR_FORBIDDEN, "%s is a link or a file, not a folder", name);
        return err_sys(err, errno, "open the folder %s", name);
    }
    struct stat info;
    if (fstat(fd, &info) != 0)
        return err_sys(err, errno, "look at the folder %s", name);
    if ((info.st_uid != uid || info.st_gid != gid) && fchown(fd, uid, gid) != 0)
        return err_sys(err, errno, "give the folder %s to uid %u", name, uid);
    if ((info.st_mode & 07777) != mode && fchmod(fd, mode) != 0)
        return err_sys(err, errno, "set the mode of the folder %s", name);
    *out = fd_take(&fd);
    return 0;
}

/* Makes what is missing above the folder. */
static int make_parents(char *name, struct err *err)
{
    for (char *slash = strchr(name + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        int status = mkdir(name, 0755);
        int saved = errno;
        *slash = '/';
        if (status != 0 && saved != EEXIST)
            return err_sys(err, saved, "make a folder above %s", name);
    }
    return 0;
}

/* Opens DIR itself. It must be ours already: taking over somebody's folder would let its owner swap
 * what is inside between two looks. */
static int open_root(const char *path, int *out, struct err *err)
{
    char name[PATH_MAX];
    size_t size = strlen(path);
    while (size > 1 && path[size - 1] == '/')
        size--; /* a trailing slash would make O_NOFOLLOW follow */
    if (size == 0 || size >= sizeof(name))
        return err_set(err, ERR_BAD_INPUT, "the state folder's path is empty or too long");
    memcpy(name, path, size);
    name[size] = '\0';
    int result = make_parents(name, err);
    if (result != 0)
        return result;
    if (mkdir(name, 0755) != 0 && errno != EEXIST)
        return err_sys(err, errno, "make the state folder %s", name);
    FD_AUTO int fd = open(name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return err_sys(err, errno, "open the state folder %s (it may not be a link)", name);
    struct stat info;
    if (fstat(fd, &info) != 0)
        return err_sys(err, errno, "look at the state folder");
    if (info.st_uid != geteuid())
        return err_set(err, ERR_FORBIDDEN, "the state folder %s belongs to uid %u, not to uid %u",
                       name, info.st_uid, geteuid());
    if ((info.st_mode & 07777) != 0755 && fchmod(fd, 0755) != 0)
        return err_sys(err, errno, "set the mode of the state folder");
    *out = fd_take(&fd);
    return 0;
}

static int name_root(int root_fd, char out[static PATH_MAX], struct err *err)
{
    char link[32];
    (void)snprintf(link, sizeof(link), "/proc/self/fd/%d", root_fd);
    ssize_t size = readlink(link, out, PATH_MAX - 1);
    if (size < 0)
        return err_sys(err, errno, "find the state folder's path");
    /* The server reaches the engine by a socket below it, and those have 107 bytes (unix(7)). */
    if (size > STATE_PATH_MAX)
        return err_set(err, ERR_BAD_INPUT, "the state folder's path has %zd bytes, %d are allowed",
                       size, STATE_PATH_MAX);
    out[size] = '\0';
    return 0;
}

/* Waits for the lock; *out_fd holds it from then on. */
static int take_lock(int priv_fd, int *out_fd, struct err *err)
{
    FD_AUTO int fd =
        openat(priv_fd, "lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, (mode_t)0600);
    if (fd < 0)
        return err_sys(err, errno, "open the lock");
    int64_t deadline_ns = clock_now_ns() + LOCK_WAIT_MS * CLOCK_NS_PER_MS;
    while (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK && errno != EINTR)
            return err_sys(err, errno, "lock the state folder");
        if (clock_now_ns() >= deadline_ns) {
            char pid[32] = "";
            (void)fd_read_file_at(priv_fd, "lock", pid, sizeof(pid), NULL);
            pid[strcspn(pid, "\n")] = '\0';
            return err_set(err, ERR_CONFLICT, "another berth (process %s) uses this state folder",
                           *pid ? pid : "unknown");
        }
        struct timespec step = {.tv_nsec = LOCK_STEP_MS * CLOCK_NS_PER_MS};
        (void)nanosleep(&step, NULL);
    }
    if (ftruncate(fd, 0) != 0 || dprintf(fd, "%d\n", (int)getpid()) < 0)
        return err_sys(err, errno, "write the lock");
    *out_fd = fd_take(&fd);
    return 0;
}

/* Reads the instance id, or makes it. Written under another name first, so that a crash leaves
 * either none or a whole one. */
static int read_instance(int priv_fd, char out[static STATE_INSTANCE_SIZE], struct err *err)
{
    char text[STATE_INSTANCE_SIZE + 1] = "";
    if (faccessat(priv_fd, "instance", F_OK, AT_SYMLINK_NOFOLLOW) == 0) {
        ssize_t size = fd_read_file_at(priv_fd, "instance", text, sizeof(text), err);
        if (size < 0)
            return (int)size;
        text[strcspn(text, "\n")] = '\0';
        if (strlen(text) != STATE_INSTANCE_SIZE - 1 || !id_is_name(text, STATE_INSTANCE_SIZE))
            return err_set(err, ERR_INTERNAL, "priv/instance does not hold eight hex digits");
        memcpy(out, text, STATE_INSTANCE_SIZE);
        return 0;
    }
    id_hex(out, (STATE_INSTANCE_SIZE - 1) / 2);
    FD_AUTO int fd = openat(priv_fd, "instance.new",
                            O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, (mode_t)0600);
    if (fd < 0)
        return err_sys(err, errno, "make the instance id");
    if (dprintf(fd, "%s\n", out) < 0 || fsync(fd) != 0 ||
        renameat(priv_fd, "instance.new", priv_fd, "instance") != 0)
        return err_sys(err, errno, "write the instance id");
    return 0;
}

static int fill_root(struct state *state, uid_t uid, gid_t gid, struct err *err)
{
    FD_AUTO int priv_fd = -1;
    FD_AUTO int unused_run_fd = -1;
    FD_AUTO int images_fd = -1;
    FD_AUTO int mnt_fd = -1;
    FD_AUTO int db_fd = -1;
    uid_t own_uid = geteuid();
    gid_t own_gid = getegid();
    int result = open_folder(state->root_fd, "priv", own_uid, own_gid, 0700, &priv_fd, err);
    if (result == 0)
        result = take_lock(priv_fd, &state->lock_fd, err);
    if (result == 0)
        result = read_instance(priv_fd, state->instance, err);
    if (result == 0)
        result = open_folder(priv_fd, "run", own_uid, own_gid, 0700, &unused_run_fd, err);
    if (result == 0)
        result = open_folder(priv_fd, "images", own_uid, own_gid, 0700, &images_fd, err);
    /* A sandbox puts its root together there, as a user that owns nothing on the host: it has to be
     * able to search it. The folder above keeps everybody else out. */
    if (result == 0)
        result = open_folder(priv_fd, "mnt", own_uid, own_gid, 0755, &mnt_fd, err);
    if (result == 0)
        result = open_folder(state->root_fd, "db", uid, gid, 0700, &db_fd, err);
    if (result == 0)
        result = open_folder(state->root_fd, "run", own_uid, gid, 0750, &state->run_fd, err);
    return result;
}

int state_open(const char *path, uid_t uid, gid_t gid, struct state *out, struct err *err)
{
    STATE_AUTO struct state state = STATE_INIT;
    int result = open_root(path, &state.root_fd, err);
    if (result == 0)
        result = name_root(state.root_fd, state.path, err);
    if (result == 0)
        result = fill_root(&state, uid, gid, err);
    if (result != 0)
        return result;
    *out = state;
    state = STATE_INIT;
    return 0;
}

void state_close(struct state *state)
{
    fd_close(&state->run_fd);
    fd_close(&state->root_fd);
    fd_close(&state->lock_fd);
}
