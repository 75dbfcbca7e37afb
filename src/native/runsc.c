/* Owns what is asked of runsc and what it is trusted with. Starts it for nothing but its version:
 * sandboxes are started by the setup stage. */
#include "native/runsc.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/id.h"

enum { VERSION_TIMEOUT_MS = 5000 };

/* Threads and processes on the host of one of gVisor's, and of itself. */
enum { PIDS_EACH = 16, PIDS_OWN = 256 }; /* measured: 7 a process, 60 */

/* ---- what there is ---- */

/* What somebody else could change is not run by root. Links are followed: what they lead to is
 * looked at. */
static bool is_roots(const char *path, bool folder)
{
    struct stat info;
    return stat(path, &info) == 0 && info.st_uid == 0 &&
           (info.st_mode & (S_IWGRP | S_IWOTH)) == 0 &&
           (folder ? S_ISDIR(info.st_mode)
                   : S_ISREG(info.st_mode) && (info.st_mode & S_IXUSR) != 0);
}

static int find_in_path(char out[static PATH_MAX], struct err *err)
{
    const char *folders = getenv("PATH");
    for (const char *at = folders; at && *at != '\0';) {
        char folder[PATH_MAX / 2];
        const size_t size = strcspn(at, ":");
        (void)snprintf(folder, sizeof(folder), "%.*s", (int)size, at);
        at += at[size] == ':' ? size + 1 : size;
        (void)snprintf(out, PATH_MAX, "%s/" RUNSC_NAME, folder);
        if (folder[0] == '/' && is_roots(folder, true) && is_roots(out, false))
            return 0;
    }
    return err_set(err, ERR_NOT_FOUND, "no runsc in the folders of PATH");
}

static int find_program(struct runsc *out, struct err *err)
{
    const char *named = getenv("BERTH_RUNSC");
    if (!named || named[0] == '\0')
        return find_in_path(out->path, err);
    if (named[0] != '/' || strlen(named) >= sizeof(out->path) || !is_roots(named, false))
        return err_set(err, ERR_BAD_INPUT,
                       "BERTH_RUNSC=%.200s is no program that only root can change", named);
    (void)snprintf(out->path, sizeof(out->path), "%s", named);
    return 0;
}

static _Noreturn void run_version(const char *path, int output_fd)
{
    int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    if (dup2(null_fd, 0) >= 0 && dup2(output_fd, 1) >= 0 && dup2(null_fd, 2) >= 0)
        (void)execl(path, RUNSC_NAME, "--version", (char *)NULL);
    _exit(127);
}

/* Its first line: "runsc version 0.0~20221219.0". */
static int read_version(int fd, char *out, size_t size, struct err *err)
{
    char text[512];
    char version[ENGINE_NAME_MAX];
    size_t used = 0;
    struct pollfd poller = {.fd = fd, .events = POLLIN};
    while (used < sizeof(text) - 1 && poll(&poller, 1, VERSION_TIMEOUT_MS) > 0) {
        ssize_t got = read(fd, text + used, sizeof(text) - 1 - used);
        if (got <= 0)
            break;
        used += (size_t)got;
    }
    text[used] = '\0';
    if (sscanf(text, "runsc version %63s", version) != 1)
        return err_set(err, ERR_UNSUPPORTED, "it tells no version");
    (void)snprintf(out, size, "%s", version);
    return 0;
}

static int ask_version(struct runsc *runsc, struct err *err)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0)
        return err_sys(err, errno, "pipe");
    pid_t pid = fork();
    if (pid == 0)
        run_version(runsc->path, ends[1]);
    fd_close(&ends[1]);
    int result = pid < 0 ? err_sys(err, errno, "fork")
                         : read_version(ends[0], runsc->version, sizeof(runsc->version), err);
    fd_close(&ends[0]);
    if (pid > 0) {
        (void)kill(pid, SIGKILL);
        (void)waitpid(pid, NULL, 0);
    }
    return result != 0 ? err_wrap(err, "%s", runsc->path) : 0;
}

int runsc_find(struct runsc *out, struct err *err)
{
    const char *platform = getenv("BERTH_RUNSC_PLATFORM");
    memset(out, 0, sizeof(*out));
    if (!platform || platform[0] == '\0')
        platform = "ptrace";
    if (!id_is_name(platform, sizeof(out->platform) - 1))
        return err_set(err, ERR_BAD_INPUT, "BERTH_RUNSC_PLATFORM=%.40s", platform);
    (void)snprintf(out->platform, sizeof(out->platform), "%s", platform);
    int result = find_program(out, err);
    if (result == 0)
        result = ask_version(out, err);
    out->usable = result == 0;
    return result;
}

/* ---- what it can do ---- */

uint64_t runsc_capabilities(uint64_t native)
{
    /* Code that is root in gVisor's kernel could open init's standard streams by /proc (there is no
     * user namespace between the two), and speak for it: init refuses that (init/carried.c). */
    const uint64_t lacks =
        ENGINE_CAP_ZYGOTE | ENGINE_CAP_GPU | ENGINE_CAP_FULL | ENGINE_CAP_CONTAINER;
    return native & ~lacks;
}

int runsc_check(const struct engine_create *spec, struct err *err)
{
    if (strcmp(spec->profile, "container") == 0)
        return err_public(err, ERR_UNSUPPORTED,
                          "the runtime \"runsc\" has no profile \"container\"");
    if (spec->gpu_count > 0)
        return err_public(err, ERR_UNSUPPORTED, "the runtime \"runsc\" has no GPUs");
    return 0;
}

struct cgroup_limits runsc_limits(const struct engine_create *spec)
{
    return (struct cgroup_limits){
        .memory_bytes = spec->memory_bytes > 0 ? spec->memory_bytes + RUNSC_MEMORY_BYTES : 0,
        .cpu_millis = spec->cpu_millis,
        .pids_max = spec->pids_max > 0 ? spec->pids_max * PIDS_EACH + PIDS_OWN : 0,
    };
}
