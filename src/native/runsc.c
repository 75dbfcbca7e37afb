/* Owns what is asked of runsc and what it is trusted with. Starts it for nothing but its version
 * and the list of its flags: sandboxes are started by the setup stage. */
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

#include "base/clock.h"
#include "base/fd.h"
#include "base/id.h"

#define ANSWER_NS (5 * CLOCK_NS_PER_S)
enum { FLAGS_TEXT_MAX = 65536 };

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

static _Noreturn void run_word(const char *path, const char *word, int output_fd)
{
    int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    if (dup2(null_fd, 0) >= 0 && dup2(output_fd, 1) >= 0 && dup2(output_fd, 2) >= 0)
        (void)execl(path, RUNSC_NAME, word, (char *)NULL);
    _exit(127);
}

/* Until the end of what it says, or of its time. */
static void read_answer(int fd, char *out, size_t size)
{
    const int64_t deadline_ns = clock_now_ns() + ANSWER_NS;
    struct pollfd poller = {.fd = fd, .events = POLLIN};
    size_t used = 0;
    while (used < size - 1 && poll(&poller, 1, clock_poll_timeout_ms(deadline_ns)) > 0) {
        ssize_t got = read(fd, out + used, size - 1 - used);
        if (got <= 0)
            break;
        used += (size_t)got;
    }
    out[used] = '\0';
}

static int ask(const char *path, const char *word, char *out, size_t size, struct err *err)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0)
        return err_sys(err, errno, "pipe");
    pid_t pid = fork();
    if (pid == 0)
        run_word(path, word, ends[1]);
    int sys_errno = errno;
    fd_close(&ends[1]);
    if (pid > 0) {
        read_answer(ends[0], out, size);
        (void)kill(pid, SIGKILL);
        (void)waitpid(pid, NULL, 0);
    }
    fd_close(&ends[0]);
    return pid > 0 ? 0 : err_sys(err, sys_errno, "fork");
}

/* Its first line: "runsc version 0.0~20221219.0". */
static int ask_version(struct runsc *runsc, struct err *err)
{
    char text[512];
    char version[ENGINE_NAME_MAX];
    int result = ask(runsc->path, "--version", text, sizeof(text), err);
    if (result == 0 && sscanf(text, "runsc version %63s", version) != 1)
        result = err_set(err, ERR_UNSUPPORTED, "it tells no version");
    if (result != 0)
        return err_wrap(err, "%s", runsc->path);
    (void)snprintf(runsc->version, sizeof(runsc->version), "%s", version);
    return 0;
}

/* What would otherwise have another default in some versions: since 2023 what is written to the
 * root goes to a file of gVisor's own, so that no file would be kept; and gVisor's kernel itself
 * opens files, which here its file server alone does. */
static const struct {
    const char *name;
    const char *flag;
} wanted_flags[RUNSC_FLAGS_MAX] = {{"overlay2", "--overlay2=none"},
                                   {"directfs", "--directfs=false"}};

/* `runsc flags` lists them as "  -NAME TYPE" at the beginning of a line. */
static bool has_flag(const char *list, const char *name)
{
    char line[64];
    int size = snprintf(line, sizeof(line), "\n  -%s", name);
    for (const char *at = strstr(list, line); at; at = strstr(at + 1, line)) {
        if (at[size] == ' ' || at[size] == '\n')
            return true;
    }
    return false;
}

static int ask_flags(struct runsc *runsc, struct err *err)
{
    static char list[FLAGS_TEXT_MAX];
    list[0] = '\n';
    int result = ask(runsc->path, "flags", list + 1, sizeof(list) - 1, err);
    if (result == 0 && !has_flag(list, "ignore-cgroups"))
        result = err_set(err, ERR_UNSUPPORTED, "it does not list its flags, or is too old");
    for (size_t i = 0; result == 0 && i < RUNSC_FLAGS_MAX; i++) {
        if (has_flag(list, wanted_flags[i].name))
            runsc->flags[runsc->flag_count++] = wanted_flags[i].flag;
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
    if (result == 0)
        result = ask_flags(out, err);
    out->usable = result == 0;
    return result;
}

/* ---- what it can do ---- */

uint64_t runsc_capabilities(uint64_t native)
{
    const uint64_t lacks = ENGINE_CAP_ZYGOTE | ENGINE_CAP_GPU | ENGINE_CAP_FULL;
    return native & ~lacks;
}

int runsc_check(const struct engine_create *spec, struct err *err)
{
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
