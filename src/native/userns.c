/* Owns the way of an ordinary user's engine into a user namespace, and the words for what forbids
 * it. Runs as that user throughout: newuidmap and newgidmap decide which ids he may have.
 *
 * Sources: user_namespaces(7), subuid(5), newuidmap(1). */
#include "native/userns.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pwd.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "native/parent.h"

enum {
    RANGE_MAX = 65536, /* more than sandboxes can use */
    RANGE_MIN = 8,     /* fewer are not worth it */
    EXIT_NO_PROGRAM = 127,
    /* What the helper exits with */
    MAPPED_UIDS = 1,
    MAPPED_GIDS = 2,
    NOT_INSTALLED = 4,
};

struct subids {
    uint64_t first;
    uint64_t count; /* 0: none */
};

/* The largest range of a user in /etc/subuid or /etc/subgid: lines of NAME-OR-UID:FIRST:COUNT. */
static struct subids find_subids(const char *path)
{
    char line[256];
    char number[16];
    struct subids found = {0};
    const struct passwd *user = getpwuid(getuid());
    (void)snprintf(number, sizeof(number), "%u", getuid());
    FILE *file = fopen(path, "re");
    while (file && fgets(line, sizeof(line), file)) {
        char *colon = strchr(line, ':');
        if (!colon)
            continue;
        *colon = '\0';
        char *at = NULL;
        struct subids range = {.first = strtoull(colon + 1, &at, 10)};
        range.count = *at == ':' ? strtoull(at + 1, NULL, 10) : 0;
        bool ours = strcmp(line, number) == 0 || (user && strcmp(line, user->pw_name) == 0);
        if (ours && range.count > found.count)
            found = range;
    }
    if (file)
        (void)fclose(file);
    if (found.count > RANGE_MAX)
        found.count = RANGE_MAX;
    return found.count < RANGE_MIN ? (struct subids){0} : found;
}

/* ---- the helper, which stays outside ---- */

/* Maps own to 0 and the range to what follows. */
static int run_mapper(const char *program, pid_t pid, unsigned own, const struct subids *range)
{
    char target[16];
    char own_text[16];
    char first[24];
    char count[24];
    char zero[] = "0";
    char one[] = "1";
    char next[] = "1";
    char name[16];
    (void)snprintf(name, sizeof(name), "%s", program);
    (void)snprintf(target, sizeof(target), "%d", (int)pid);
    (void)snprintf(own_text, sizeof(own_text), "%u", own);
    (void)snprintf(first, sizeof(first), "%" PRIu64, range->first);
    (void)snprintf(count, sizeof(count), "%" PRIu64, range->count);
    char *const argv[] = {name, target, zero, own_text, one, next, first, count, NULL};
    pid_t child = fork();
    if (child == 0) {
        (void)execvp(program, argv);
        _exit(errno == ENOENT ? EXIT_NO_PROGRAM : 1);
    }
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status))
        return 1;
    return WEXITSTATUS(status);
}

static _Noreturn void help(int go_fd, pid_t pid, const struct subids *uids,
                           const struct subids *gids)
{
    char go = 0;
    if (read(go_fd, &go, 1) != 1)
        _exit(0);
    (void)syscall(SYS_close_range, 3U, ~0U, 4U /* CLOSE_RANGE_CLOEXEC */);
    int mapped = 0;
    int status = run_mapper("newuidmap", pid, getuid(), uids);
    if (status == 0) {
        mapped |= MAPPED_UIDS;
        status = run_mapper("newgidmap", pid, getgid(), gids);
        mapped |= status == 0 ? MAPPED_GIDS : 0;
    }
    _exit(mapped | (status == EXIT_NO_PROGRAM ? NOT_INSTALLED : 0));
}

struct helper {
    pid_t pid; /* 0: none */
    int go_fd;
};

static struct helper start_helper(const struct subids *uids, const struct subids *gids)
{
    int ends[2];
    pid_t target = getpid();
    if (pipe2(ends, O_CLOEXEC) != 0)
        return (struct helper){.go_fd = -1};
    pid_t pid = fork();
    if (pid == 0) {
        (void)close(ends[1]);
        help(ends[0], target, uids, gids);
    }
    (void)close(ends[0]);
    if (pid < 0)
        fd_close(&ends[1]);
    return (struct helper){.pid = pid < 0 ? 0 : pid, .go_fd = ends[1]};
}

/* Lets it do its work, or only end. Returns what it mapped. */
static int finish_helper(struct helper *helper, bool go)
{
    int status = 0;
    if (helper->pid == 0)
        return 0;
    if (go)
        (void)!write(helper->go_fd, "G", 1);
    fd_close(&helper->go_fd);
    if (waitpid(helper->pid, &status, 0) != helper->pid || !WIFEXITED(status))
        return 0;
    return WEXITSTATUS(status);
}

/* ---- the maps ---- */

static int write_own(const char *file, unsigned id, struct err *err)
{
    char path[32];
    char map[32];
    (void)snprintf(path, sizeof(path), "/proc/self/%s", file);
    (void)snprintf(map, sizeof(map), "0 %u 1\n", id);
    return fd_write_file_at(AT_FDCWD, path, map, err);
}

/* Maps what is not mapped yet, one id each. */
static int map_rest(int mapped, uid_t uid, gid_t gid, struct err *err)
{
    int result = 0;
    if ((mapped & MAPPED_UIDS) == 0)
        result = write_own("uid_map", uid, err);
    if (result == 0 && (mapped & MAPPED_GIDS) == 0) {
        result = fd_write_file_at(AT_FDCWD, "/proc/self/setgroups", "deny", err);
        if (result == 0)
            result = write_own("gid_map", gid, err);
    }
    return result;
}

static const char *why_few_ids(const struct helper *helper, int mapped)
{
    if (helper->pid == 0)
        return "no range in /etc/subuid and /etc/subgid";
    if ((mapped & NOT_INSTALLED) != 0)
        return "newuidmap is not installed (package uidmap)";
    if (prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1)
        return "newuidmap cannot work under no_new_privs";
    return "newuidmap refused the range of /etc/subuid";
}

/* ---- what forbids it ---- */

static bool is_set_to(const char *name, uint64_t wanted)
{
    char path[96];
    uint64_t value = 0;
    (void)snprintf(path, sizeof(path), "/proc/sys/%s", name);
    return fd_read_u64_at(AT_FDCWD, path, &value, NULL) == 0 && value == wanted;
}

void userns_hint(char *out, size_t size)
{
    const char *text = "";
    if (is_set_to("kernel/unprivileged_userns_clone", 0))
        text = "sysctl kernel.unprivileged_userns_clone is 0 (1 allows it)";
    else if (is_set_to("user/max_user_namespaces", 0))
        text = "sysctl user.max_user_namespaces is 0 (15000 is usual)";
    else if (is_set_to("kernel/apparmor_restrict_unprivileged_userns", 1))
        text = "sysctl kernel.apparmor_restrict_unprivileged_userns is 1 (0 allows it, or an "
               "AppArmor profile for berth)";
    (void)snprintf(out, size, "%s", text);
}

enum err_kind userns_failure_kind(int sys_errno)
{
    static const int passing[] = {EAGAIN, EINTR, EIO, EMFILE, ENFILE, ENOBUFS, ENOMEM, EUSERS};
    if (sys_errno == ENOSPC)
        return is_set_to("user/max_user_namespaces", 0) ? ERR_UNSUPPORTED : ERR_UNAVAILABLE;
    for (size_t i = 0; i < ARRAY_SIZE(passing); i++) {
        if (sys_errno == passing[i])
            return ERR_UNAVAILABLE;
    }
    return ERR_UNSUPPORTED;
}

static int refuse(int sys_errno, struct err *err)
{
    const enum err_kind kind = userns_failure_kind(sys_errno);
    char hint[USERNS_TEXT_MAX];
    userns_hint(hint, sizeof(hint));
    if (hint[0] == '\0' && sys_errno == ENOSPC)
        (void)snprintf(hint, sizeof(hint),
                       "sysctl user.max_user_namespaces is used up, or they are nested too deep");
    if (hint[0] == '\0' && kind != ERR_UNSUPPORTED)
        (void)snprintf(hint, sizeof(hint), "%s", strerror(sys_errno));
    if (hint[0] == '\0')
        (void)snprintf(
            hint, sizeof(hint),
            "%s (a chroot, or a container's seccomp filter, forbids it; Docker: --security-opt "
            "seccomp=unconfined)",
            strerror(sys_errno));
    return err_public(err, kind, "an ordinary user may make no user namespace on this host: %s",
                      hint);
}

/* ---- all of it ---- */

static int enter(struct userns *out, struct err *err)
{
    uid_t uid = getuid();
    gid_t gid = getgid();
    const struct subids uids = find_subids("/etc/subuid");
    const struct subids gids = find_subids("/etc/subgid");
    struct helper helper = {.go_fd = -1};
    if (uids.count > 0 && gids.count > 0)
        helper = start_helper(&uids, &gids);
    bool made = unshare(CLONE_NEWUSER) == 0;
    int saved = errno;
    int mapped = finish_helper(&helper, made);
    if (!made)
        return refuse(saved, err);
    int result = map_rest(mapped, uid, gid, err);
    if (result != 0)
        return err_wrap(err, "map the own id");
    if ((mapped & MAPPED_UIDS) == 0 || (mapped & MAPPED_GIDS) == 0)
        (void)snprintf(out->few_ids, sizeof(out->few_ids), "%s", why_few_ids(&helper, mapped));
    out->own = true;
    return 0;
}

int userns_enter(struct userns *out, struct err *err)
{
    memset(out, 0, sizeof(*out));
    out->host_uid = getuid();
    if (geteuid() == 0)
        return 0;
    const struct parent_watch watch = parent_watch_save();
    int result = enter(out, err);
    parent_watch_restore(&watch);
    return result;
}
