/* Owns the way of a layer into a sandbox. Refuses to do anything in there with a right that reaches
 * outside of it. */
#include "native/layer_attach.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <inttypes.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/fd.h"
#include "base/mem.h"
#include "native/asuser.h"
#include "native/idrange.h"
#include "native/image.h"
#include "native/mountfd.h"

#define ATTACH_NS (10 * CLOCK_NS_PER_S)

/* What mountinfo calls the overlay, before the folder's name. */
#define SOURCE_PREFIX "berth-layer:"

enum {
    STATUS_MAX = 256, /* below PIPE_BUF: written in one piece */
    ROOT_ID = 1,      /* the code's root, as the sandbox's outer namespace sees it (idrange.h) */
    CODE_ID = 1001,
    ASIDE_MAX = 100,
    STACKED_MAX = 16,
};

/* ---- in the child ---- */

struct job {
    int sandbox_fd; /* pidfd of init */
    int mount_fd;
    int status_fd;
    int lock_fd;
};

static _Noreturn void fail(const struct job *job, enum err_kind kind, const char *step)
{
    char text[STATUS_MAX];
    int size = snprintf(text, sizeof(text), "%c%s: %s", kind == ERR_CONFLICT ? 'C' : 'H', step,
                        strerror(errno));
    (void)!write(job->status_fd, text, size < STATUS_MAX ? (size_t)size : STATUS_MAX - 1);
    _exit(1);
}

/* With copies of the engine's sockets others would take a dead engine for a living one. */
static void keep_only(struct job *job)
{
    int *const kept[] = {&job->sandbox_fd, &job->mount_fd, &job->status_fd, &job->lock_fd};
    enum { COUNT = sizeof(kept) / sizeof(kept[0]), FIRST = 3 };
    int moved[COUNT];
    for (int i = 0; i < COUNT; i++)
        moved[i] = fcntl(*kept[i], F_DUPFD_CLOEXEC, FIRST + COUNT);
    for (int i = 0; i < COUNT; i++) {
        if (moved[i] < 0 || dup3(moved[i], FIRST + i, O_CLOEXEC) < 0)
            _exit(1);
        *kept[i] = FIRST + i;
    }
    (void)syscall(SYS_close_range, (unsigned)(FIRST + COUNT), ~0U, 0U);
}

/* From the host's root to the root of the sandbox's outer namespace, who acts on files as the
 * code's root: no other id of ours is known to a disk's map. */
static void enter(const struct job *job, pid_t engine)
{
    if (setns(job->sandbox_fd, CLONE_NEWUSER | CLONE_NEWNS) != 0)
        fail(job, errno == ESRCH ? ERR_CONFLICT : ERR_INTERNAL, "enter the sandbox");
    if (setresgid(0, 0, 0) != 0 || setgroups(0, NULL) != 0 || setresuid(0, 0, 0) != 0)
        fail(job, ERR_INTERNAL, "take the sandbox's ids");
    (void)setfsgid(ROOT_ID);
    (void)setfsuid(ROOT_ID);
    if (asuser_raise() != 0)
        fail(job, ERR_INTERNAL, "keep capabilities");
    (void)umask(0);
    /* After the ids, which clear it. */
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    if (getppid() != engine)
        _exit(1);
}

/* The code may have put something there that is no folder: it stays the code's, under another name.
 */
static int put_aside(int dir_fd, const char *name)
{
    char aside[64];
    for (int i = 1; i <= ASIDE_MAX; i++) {
        (void)snprintf(aside, sizeof(aside), "%s.%d", name, i);
        if (renameat2(dir_fd, name, dir_fd, aside, RENAME_NOREPLACE) == 0 || errno == ENOENT)
            return 0;
        if (errno != EEXIST)
            return -1;
    }
    return -1;
}

static int open_folder(int dir_fd, const char *name)
{
    return openat(dir_fd, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

static int make_folder(const struct job *job, int dir_fd, const char *name, uid_t owner)
{
    int fd = open_folder(dir_fd, name);
    if (fd < 0 && (errno == ENOTDIR || errno == ELOOP) && put_aside(dir_fd, name) != 0)
        fail(job, ERR_CONFLICT, "put aside what is at " ENGINE_LAYER_PLACE);
    if (fd < 0 && mkdirat(dir_fd, name, 0755) == 0) {
        if (fchownat(dir_fd, name, owner, owner, AT_SYMLINK_NOFOLLOW) != 0)
            fail(job, ERR_CONFLICT, "owner of " ENGINE_LAYER_PLACE);
        fd = open_folder(dir_fd, name);
    }
    if (fd < 0)
        fail(job, ERR_CONFLICT, "make " ENGINE_LAYER_PLACE);
    return fd;
}

/* The last layer goes first: what is stacked would be kept for as long as the sandbox lives. Every
 * mount there is one of ours, since the code can make none. */
static void take_off(const struct job *job, int dir_fd, const char *name)
{
    if (fchdir(dir_fd) != 0)
        fail(job, ERR_INTERNAL, "enter a folder");
    for (int i = 0; i < STACKED_MAX; i++) {
        if (umount2(name, MNT_DETACH | UMOUNT_NOFOLLOW) != 0)
            return; /* EINVAL: nothing is mounted there */
    }
}

/* Whether a walk from the root leads to the mount: the code may have moved the folder meanwhile. */
static bool is_seen(const struct job *job, int root_fd)
{
    struct stat wanted;
    struct stat found;
    struct open_how how = {.flags = O_PATH | O_DIRECTORY | O_CLOEXEC,
                           .resolve =
                               RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS};
    int fd = (int)syscall(SYS_openat2, root_fd, &ENGINE_LAYER_PLACE[1], &how, sizeof(how));
    bool seen = fd >= 0 && fstat(fd, &found) == 0 && fstat(job->mount_fd, &wanted) == 0 &&
                found.st_dev == wanted.st_dev && found.st_ino == wanted.st_ino;
    int saved = fd < 0 ? errno : EBUSY;
    fd_close(&fd);
    errno = saved;
    return seen;
}

static _Noreturn void attach_and_exit(struct job *job, pid_t engine)
{
    static const char place[] = ENGINE_LAYER_PLACE;
    const char *name = strrchr(place, '/') + 1;
    char parent[sizeof(place)];
    struct err err = ERR_INIT;
    (void)prctl(PR_SET_NAME, "berth-layer", 0, 0, 0); /* it is no second engine */
    keep_only(job);
    enter(job, engine);
    fault_point("layers.entered");
    (void)snprintf(parent, sizeof(parent), "%.*s", (int)(name - place - 2), place + 1);
    int root_fd = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (root_fd < 0)
        fail(job, ERR_INTERNAL, "open the root");
    int parent_fd = make_folder(job, root_fd, parent, ROOT_ID);
    take_off(job, parent_fd, name);
    int place_fd = make_folder(job, parent_fd, name, CODE_ID);
    if (mountfd_attach(job->mount_fd, place_fd, "", &err) != 0) {
        errno = err.sys_errno;
        fail(job, ERR_CONFLICT, "mount at " ENGINE_LAYER_PLACE);
    }
    if (!is_seen(job, root_fd)) {
        int saved = errno;
        /* By itself, and not by a name: it may be anywhere by now. */
        if (fchdir(job->mount_fd) == 0)
            (void)umount2(".", MNT_DETACH);
        errno = saved;
        fail(job, ERR_CONFLICT, "find " ENGINE_LAYER_PLACE);
    }
    fault_point("layers.attached");
    if (write(job->status_fd, "D", 1) != 1)
        _exit(1);
    _exit(0);
}

/* ---- in the engine ---- */

static bool has_ended(int pidfd)
{
    struct pollfd poller = {.fd = pidfd, .events = POLLIN};
    return poll(&poller, 1, 0) > 0;
}

/* The first host id of a sandbox, from the map of its init: "0 FIRST COUNT". */
static int read_first_id(const struct layer_target *target, uint64_t *out, struct err *err)
{
    char path[48];
    char text[128];
    char *at = text;
    (void)snprintf(path, sizeof(path), "/proc/%d/uid_map", (int)target->pid);
    ssize_t size = fd_read_file_at(AT_FDCWD, path, text, sizeof(text), err);
    /* Alive after the number was used: it was nobody else's. */
    if (size < 0 || has_ended(target->pidfd))
        return err_set(err, ERR_CONFLICT, "the sandbox has ended");
    const char *inside = strsep(&at, "\n");
    uint64_t first = strtoull(inside, &at, 10);
    *out = strtoull(at, NULL, 10);
    return first == 0 && *out != 0 ? 0 : err_set(err, ERR_INTERNAL, "%s: \"%s\"", path, text);
}

/* A detached overlay of the layer for the ids of one sandbox. An overlay and no bind: the files of
 * a bind would be the same ones for all, so that locks and watches on them would tell what others
 * do; and mountinfo would name folders of the host. */
static int make_mount(const struct layer_target *target, const struct layer *layer, int *out_fd,
                      struct err *err)
{
    char source[sizeof(SOURCE_PREFIX) + IMAGESTORE_NAME_SIZE];
    char map[64];
    uint64_t first_id = 0;
    FD_AUTO int userns_fd = -1;
    FD_AUTO int fd = -1;
    int result = read_first_id(target, &first_id, err);
    if (result != 0)
        return result;
    (void)snprintf(source, sizeof(source), SOURCE_PREFIX "%s", layer->folder);
    (void)snprintf(map, sizeof(map), "0 %" PRIu64 " 1\n", first_id + ROOT_ID);
    struct image_tree tree = {
        .target = "layer", .fd = layer->root_fd, .idmap = true, .source = source};
    result = idrange_open_userns(map, &userns_fd, err);
    if (result == 0)
        result = image_overlay(&tree, target->stage_fd, userns_fd, &fd, err);
    if (result == 0 && !tree.idmap)
        result = err_set(err, ERR_UNSUPPORTED, "the layer can't be id-mapped");
    if (result == 0)
        *out_fd = fd_take(&fd);
    return result;
}

static int start_child(struct job *job, struct layer_attach *out, struct err *err)
{
    int status[2];
    if (pipe2(status, O_CLOEXEC | O_NONBLOCK) != 0)
        return err_sys(err, errno, "pipe");
    FD_AUTO int read_fd = status[0];
    FD_AUTO int write_fd = status[1];
    job->status_fd = write_fd;
    pid_t engine = getpid();
    pid_t pid = fork();
    if (pid < 0)
        return err_sys(err, errno, "fork");
    if (pid == 0)
        attach_and_exit(job, engine);
    int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (pidfd < 0) {
        int saved = errno;
        (void)kill(pid, SIGKILL);
        (void)waitpid(pid, NULL, 0);
        return err_sys(err, saved, "pidfd_open");
    }
    *out = (struct layer_attach){.pid = pid,
                                 .pidfd = pidfd,
                                 .status_fd = fd_take(&read_fd),
                                 .lock_fd = job->lock_fd,
                                 .deadline_ns = clock_now_ns() + ATTACH_NS};
    return 0;
}

int layer_attach_start(const struct layer_target *target, struct layer *layer,
                       struct layer_attach *out, struct err *err)
{
    FD_AUTO int root_fd = fd_take(&layer->root_fd);
    FD_AUTO int lock_fd = fd_take(&layer->lock_fd);
    FD_AUTO int mount_fd = -1;
    layer->root_fd = root_fd;
    int result = make_mount(target, layer, &mount_fd, err);
    layer->root_fd = -1;
    struct job job = {.sandbox_fd = target->pidfd, .mount_fd = mount_fd, .lock_fd = lock_fd};
    if (result == 0)
        result = start_child(&job, out, err);
    if (result != 0)
        return err_wrap(err, "attach a layer");
    (void)fd_take(&lock_fd); /* in *out now */
    return 0;
}

void layer_attach_kill(const struct layer_attach *attach)
{
    if (attach->pidfd >= 0)
        (void)syscall(SYS_pidfd_send_signal, attach->pidfd, SIGKILL, NULL, 0);
}

void layer_attach_abort(struct layer_attach *attach)
{
    layer_attach_kill(attach);
    fd_close(&attach->pidfd);
    fd_close(&attach->status_fd);
    fd_close(&attach->lock_fd);
    *attach = LAYER_ATTACH_INIT;
}

static int judge(const siginfo_t *end, const char *text, bool late, struct err *err)
{
    if (end->si_code == CLD_EXITED && end->si_status == 0 && text[0] == 'D')
        return 1;
    if (late)
        return err_set(err, ERR_INTERNAL, "attaching a layer took too long");
    if (end->si_code == CLD_EXITED && text[0] == 'C')
        return err_public(err, ERR_CONFLICT, "the sandbox's files let no libraries be shown: %s",
                          text + 1);
    return err_set(err, ERR_INTERNAL, "attaching a layer ended with %d: %s", end->si_status,
                   text[0] != '\0' ? text + 1 : "no word of why");
}

int layer_attach_poll(struct layer_attach *attach, int *out_lock_fd, struct err *err)
{
    siginfo_t end;
    char text[STATUS_MAX + 1] = "";
    bool late = clock_now_ns() >= attach->deadline_ns;
    if (!has_ended(attach->pidfd))
        return 0;
    memset(&end, 0, sizeof(end));
    (void)waitid(P_PIDFD, (id_t)attach->pidfd, &end, WEXITED | WNOHANG);
    ssize_t size = read(attach->status_fd, text, STATUS_MAX);
    text[size > 0 ? size : 0] = '\0';
    int result = judge(&end, text, late, err);
    FD_AUTO int lock_fd = fd_take(&attach->lock_fd);
    fd_close(&attach->pidfd);
    fd_close(&attach->status_fd);
    *attach = LAYER_ATTACH_INIT;
    if (result == 1)
        *out_lock_fd = fd_take(&lock_fd);
    return result;
}

/* The folder of the layer in one line of mountinfo (proc_pid_mountinfo(5): after " - " the type and
 * the source), NULL when it is no layer's. Takes the line apart. */
static const char *folder_in(char *line)
{
    char *at = strstr(line, " - overlay " SOURCE_PREFIX);
    if (!at)
        return NULL;
    at += strlen(" - overlay " SOURCE_PREFIX);
    at[strcspn(at, " \n")] = '\0';
    return at;
}

/* Code that moves the place keeps former layers elsewhere (take_off()): the last mount is the one
 * that counts, and its lock the one that would be held. */
int layer_attach_adopt(const struct layers *layers, pid_t init_pid, int *out_lock_fd,
                       struct err *err)
{
    char path[48];
    MEM_AUTO char *line = NULL;
    size_t room = 0;
    char last[IMAGESTORE_NAME_SIZE] = "";
    *out_lock_fd = -1;
    (void)snprintf(path, sizeof(path), "/proc/%d/mountinfo", (int)init_pid);
    FILE *file = fopen(path, "re");
    if (!file)
        return err_sys(err, errno, "open %s", path);
    /* Of any length: the code may have made the way to the mount a long one. */
    while (getline(&line, &room, file) > 0) {
        const char *folder = folder_in(line);
        if (folder)
            (void)snprintf(last, sizeof(last), "%s", folder);
    }
    (void)fclose(file);
    return last[0] != '\0' ? layers_hold(layers, last, out_lock_fd, err) : 0;
}
