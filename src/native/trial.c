/* Owns the children that try something. None of them outlives its trial. */
#include "native/trial.h"

#include <errno.h>
#include <linux/mount.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "native/mountfd.h"
#include "native/userns.h"

enum { STACK_SIZE = 65536, TRIES = 3 };

static char stack[STACK_SIZE] __attribute__((aligned(16)));

static int mount_proc(void *unused)
{
    (void)unused;
    fault_point("native.trial_child");
    static const char *const options[] = {NULL};
    struct err err = ERR_INIT;
    FD_AUTO int fd = -1;
    if (mountfd_make("proc", options, MOUNT_ATTR_NOSUID, &fd, &err) == 0)
        return 0;
    return err.sys_errno > 0 && err.sys_errno < 256 ? err.sys_errno : EIO;
}

/* Also as fault_point() ends the first process of a namespace, which can't signal itself. */
static bool was_killed(int status)
{
    return !WIFEXITED(status) || WEXITSTATUS(status) == 128 + SIGKILL;
}

int trial_proc(struct err *err)
{
    int status = SIGKILL;
    for (int tries = 0; tries < TRIES && was_killed(status); tries++) {
        pid_t pid = clone(mount_proc, stack + sizeof(stack),
                          CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | SIGCHLD, NULL);
        int saved = errno;
        if (pid < 0)
            return err_public(err, userns_failure_kind(saved),
                              "no namespaces can be made for sandboxes: %s", strerror(saved));
        (void)waitpid(pid, &status, 0); /* one that was killed says nothing of this host */
    }
    if (was_killed(status))
        return err_set(err, ERR_INTERNAL, "the trial of /proc was killed");
    if (WEXITSTATUS(status) == 0)
        return 0;
    if (WEXITSTATUS(status) == EPERM)
        return err_public(
            err, ERR_UNSUPPORTED,
            "a sandbox may have no /proc of its own here: parts of /proc are masked, "
            "as container engines do (Docker: --security-opt systempaths=unconfined)");
    return err_public(err, userns_failure_kind(WEXITSTATUS(status)),
                      "a sandbox may have no /proc of its own here: %s",
                      strerror(WEXITSTATUS(status)));
}

/* None can be made over a folder with mounts that an ordinary user can't take off it, over too many
 * other overlays, or, by an ordinary user, before Linux 5.11. */
static void try_overlay(struct image_tree *tree, int stage_fd, int userns_fd)
{
    struct err err = ERR_INIT;
    FD_AUTO int fd = -1;
    if (image_overlay(tree, stage_fd, userns_fd, &fd, &err) == 0)
        return;
    log_info("/%s is bound as it is: %s", tree->target, err.message);
    tree->flat = true;
}

int trial_image(struct image *image, const struct idrange_space *space, int stage_fd,
                struct err *err)
{
    struct idrange_maps maps;
    FD_AUTO int userns_fd = -1;
    idrange_describe(space, space->first, &maps);
    int result = idrange_open_userns(maps.outer, &userns_fd, err);
    for (size_t i = 0; result == 0 && i < image->tree_count; i++) {
        FD_AUTO int fd = -1;
        result = image_clone(&image->trees[i], true, userns_fd, &fd, err);
        if (result == 0 && image->trees[i].use == IMAGE_LAYER)
            try_overlay(&image->trees[i], stage_fd, userns_fd);
    }
    return result;
}

/* Also an overlay on it is tried: what sandboxes get of a layer is one. */
int trial_layers(int store_fd, const struct idrange_space *space, int stage_fd, struct err *err)
{
    struct idrange_maps maps;
    struct image_tree tree = {.target = "layers", .fd = store_fd, .idmap = true};
    FD_AUTO int userns_fd = -1;
    FD_AUTO int fd = -1;
    idrange_describe(space, space->first, &maps);
    int result = idrange_open_userns(maps.outer, &userns_fd, err);
    if (result == 0)
        result = image_overlay(&tree, stage_fd, userns_fd, &fd, err);
    if (result == 0 && !tree.idmap)
        result = err_set(err, ERR_UNSUPPORTED,
                         "the filesystem of the state folder has no id-mapped mounts");
    return result;
}
