/* Owns the reading and killing of the code group. Refuses to know limits: those are the engine's.
 */
#include "init/group.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/fd.h"

enum {
    KEPT_MAX = 8,
    NUMBER_FILE_SIZE = 32,
    KEYED_FILE_SIZE = 1024,
    PROCS_FILE_SIZE = 16384,
    LIST_MAX = PROCS_FILE_SIZE / 2,
    ANCESTORS_MAX = 64,
    STATUS_FILE_SIZE = 4096,
    NOT_MAPPED = 126,
    ROUNDS_MAX = 100 /* of a kill without cgroups that spares somebody */
};

#define INNER_MAP "0 1 65535\n"

static bool born_in_group; /* set in a child only */
static bool killed_whole;  /* by cgroup.kill */
static pid_t spared[GROUP_SPARED_MAX];
static size_t spared_count;
static int rounds; /* of the kill that goes on */

void group_spare(pid_t pid)
{
    if (spared_count < GROUP_SPARED_MAX)
        spared[spared_count++] = pid;
}

void group_unspare(pid_t pid)
{
    for (size_t i = 0; i < spared_count; i++) {
        if (spared[i] != pid)
            continue;
        spared[i] = spared[--spared_count];
        return;
    }
}

static bool is_spared(pid_t pid)
{
    for (size_t i = 0; i < spared_count; i++) {
        if (spared[i] == pid)
            return true;
    }
    return false;
}

static int write_map(pid_t pid, const char *file)
{
    char path[32];
    (void)snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, file);
    return fd_write_file_at(AT_FDCWD, path, INNER_MAP, NULL);
}

/* The child's maps are its parent's to write, who has the rights for it; until then it is nobody.
 */
static pid_t fork_nested(void)
{
    int ends[2];
    char byte = 0;
    if (pipe2(ends, O_CLOEXEC) != 0)
        return -1;
    pid_t pid = (pid_t)syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, NULL, NULL, NULL, NULL);
    int saved = errno;
    if (pid == 0) {
        (void)close(ends[1]);
        if (read(ends[0], &byte, 1) != 1)
            _exit(NOT_MAPPED);
        (void)close(ends[0]);
        return 0;
    }
    (void)close(ends[0]);
    /* In this order: these files of a process that can't be dumped belong to its namespace's root,
     * which the second one sets. */
    if (pid > 0 && write_map(pid, "gid_map") == 0 && write_map(pid, "uid_map") == 0)
        (void)!write(ends[1], "m", 1);
    (void)close(ends[1]);
    errno = saved;
    return pid;
}

/* A child that is born into a group is killed when that group was ever killed as a whole: the
 * kernel counts such kills, and holds the count of the child's group against that of its parent's
 * (kernel/cgroup/cgroup.c, cgroup_css_set_fork(); Linux 6.14 and the stable branches of that time,
 * seen on 6.1.0-50 of Debian 12). From the first such kill on children join by themselves. */
pid_t group_fork(const struct init_config *config)
{
    if (config->nests)
        return fork_nested();
    if (config->carried || config->cgroup_mode != INIT_CGROUP_V2 || killed_whole)
        return fork();
    struct clone_args args;
    memset(&args, 0, sizeof(args));
    args.flags = CLONE_INTO_CGROUP;
    args.exit_signal = SIGCHLD;
    args.cgroup = (unsigned)config->pids_dir_fd;
    pid_t pid = (pid_t)syscall(SYS_clone3, &args, sizeof(args));
    if (pid < 0)
        return fork(); /* the child joins by itself */
    born_in_group = pid == 0;
    return pid;
}

int group_join(const struct init_config *config, struct err *err)
{
    if (born_in_group)
        return 0;
    for (size_t i = 0; i < config->procs_count; i++) {
        if (write(config->procs_fds[i], "0", 1) != 1)
            return err_sys(err, errno, "join cgroup %zu", i);
    }
    return 0;
}

/* Whether the code is in a group that init is not in. */
static bool has_own_group(const struct init_config *config)
{
    return config->pids_dir_fd >= 0 && !config->carried;
}

/* Processes of the code, by their numbers in init's pid namespace; the end may be cut. */
struct pid_list {
    pid_t pids[LIST_MAX];
    size_t count;
};
static struct pid_list listed; /* large; valid within one call */

static void list_add(struct pid_list *list, long pid)
{
    if (list->count < LIST_MAX && !is_spared((pid_t)pid))
        list->pids[list->count++] = (pid_t)pid;
}

static bool list_cgroup(const struct init_config *config, struct pid_list *list)
{
    char text[PROCS_FILE_SIZE];
    if (fd_read_file_at(config->pids_dir_fd, "cgroup.procs", text, sizeof(text), NULL) < 0)
        return false;
    char *cursor = text;
    while (*cursor) {
        char *end = NULL;
        long pid = strtol(cursor, &end, 10);
        if (end == cursor || *end != '\n')
            break; /* the last number may be cut by the buffer: it is in the next turn's list */
        list_add(list, pid);
        cursor = end;
        while (isspace((unsigned char)*cursor))
            cursor++;
    }
    return true;
}

/* Everything in the pid namespace but init; false when /proc is missing or another namespace's. */
static bool list_namespace(struct pid_list *list)
{
    char self[16] = "";
    if (readlink("/proc/self", self, sizeof(self) - 1) < 0 || strtol(self, NULL, 10) != getpid())
        return false;
    DIR *dir = opendir("/proc");
    if (!dir)
        return false;
    for (const struct dirent *entry = readdir(dir); entry; entry = readdir(dir)) {
        long pid = strtol(entry->d_name, NULL, 10); /* a name is all digits, or has none in front */
        if (pid > 0 && pid != getpid())
            list_add(list, pid);
    }
    (void)closedir(dir);
    return true;
}

static bool list_code(const struct init_config *config, struct pid_list *list)
{
    list->count = 0;
    return has_own_group(config) ? list_cgroup(config, list) : list_namespace(list);
}

static void kill_listed(const struct pid_list *list)
{
    for (size_t i = 0; i < list->count; i++) {
        /* 0 is a process outside of our namespace, 1 is init itself: neither can be meant. */
        if (list->pids[i] > 1)
            (void)kill(list->pids[i], SIGKILL);
    }
}

/* One call reaches every other process of the namespace at one moment, but spares nobody. Process
 * by process, one that forks may be faster than we are; it gets the one call in the end. */
static void kill_without_cgroups(const struct init_config *config)
{
    if (spared_count > 0 && rounds++ < ROUNDS_MAX && list_code(config, &listed))
        kill_listed(&listed);
    else
        (void)kill(-1, SIGKILL); /* as PID 1 */
}

void group_kill(const struct init_config *config)
{
    /* A failure here may not keep the kill from being tried; forks then only make it take longer.
     */
    if (config->pids_max_fd >= 0)
        (void)!pwrite(config->pids_max_fd, "0", 1, 0);
    if (!has_own_group(config)) {
        kill_without_cgroups(config);
        return;
    }
    if (spared_count == 0 && config->kill_fd >= 0 && pwrite(config->kill_fd, "1", 1, 0) == 1) {
        killed_whole = true;
        return;
    }
    if (list_code(config, &listed))
        kill_listed(&listed);
}

/* The parent of a process; 0 when it is gone. Its name may hold anything, so the fields begin
 * behind the last parenthesis (proc(5)). */
static pid_t parent_of(pid_t pid)
{
    char path[32];
    char text[KEYED_FILE_SIZE];
    (void)snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    if (fd_read_file_at(AT_FDCWD, path, text, sizeof(text), NULL) < 0)
        return 0;
    const char *fields = strrchr(text, ')');
    return fields && strlen(fields) > 4 ? (pid_t)strtol(fields + 4, NULL, 10) : 0;
}

static bool is_below(pid_t pid, pid_t session)
{
    for (int depth = 0; pid > 1 && depth < ANCESTORS_MAX; depth++) {
        if (getsid(pid) == session)
            return true;
        pid = parent_of(pid);
    }
    return false;
}

size_t group_kill_session(const struct init_config *config, pid_t session)
{
    size_t count = 0;
    if (session <= 1 || !list_code(config, &listed))
        return 0;
    for (size_t i = 0; i < listed.count; i++) {
        if (is_below(listed.pids[i], session))
            listed.pids[count++] = listed.pids[i];
    }
    listed.count = count; /* all are found before the first is gone: it may be an ancestor */
    kill_listed(&listed);
    return count;
}

void group_signal_session(const struct init_config *config, pid_t session, int number)
{
    if (session <= 1 || !list_code(config, &listed))
        return;
    for (size_t i = 0; i < listed.count; i++) {
        if (listed.pids[i] > 1 && getsid(listed.pids[i]) == session)
            (void)kill(listed.pids[i], number);
    }
}

void group_reopen(const struct init_config *config)
{
    rounds = 0;
    if (config->pids_max_fd < 0)
        return;
    char text[16];
    int size = snprintf(text, sizeof(text), "%" PRIu32, config->pids_max);
    if (pwrite(config->pids_max_fd, text, (size_t)size, 0) < 0)
        return; /* the next start is refused by the kernel and says so */
}

/* Opening a counter takes ten times as long as reading it, and all of them are read at the start
 * and at the end of every execution. */
static struct kept_file {
    int dir_fd;
    const char *name; /* static; NULL: free */
    int fd;
} kept[KEPT_MAX];
static bool keeps_open;

void group_keep_open(const struct init_config *config)
{
    struct group_usage unused;
    keeps_open = true;
    group_read(config, &unused);
}

static int kept_file(int dir_fd, const char *name)
{
    for (size_t i = 0; i < KEPT_MAX; i++) {
        if (kept[i].name == NULL) {
            int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC);
            if (fd >= 0)
                kept[i] = (struct kept_file){dir_fd, name, fd};
            return fd;
        }
        if (kept[i].dir_fd == dir_fd && strcmp(kept[i].name, name) == 0)
            return kept[i].fd;
    }
    return -1;
}

/* Whether the text of a counter is there; cut to its beginning when it is longer. */
static bool read_counter(int dir_fd, const char *name, char *text, size_t size)
{
    if (dir_fd < 0)
        return false;
    int fd = keeps_open ? kept_file(dir_fd, name) : -1;
    if (fd < 0)
        return fd_read_file_at(dir_fd, name, text, size, NULL) >= 0;
    ssize_t got = pread(fd, text, size - 1, 0);
    text[got > 0 ? got : 0] = '\0';
    return got >= 0;
}

/* One read where the list takes three calls. Who is not reaped yet counts. */
static bool counts_nobody(const struct init_config *config)
{
    char text[NUMBER_FILE_SIZE];
    return read_counter(config->pids_dir_fd, "pids.current", text, sizeof(text)) &&
           strcmp(text, "0\n") == 0;
}

bool group_is_empty(const struct init_config *config)
{
    bool own = has_own_group(config);
    if (own && counts_nobody(config))
        return true;
    if ((own || spared_count > 0) && list_code(config, &listed))
        return listed.count == 0;
    siginfo_t info;
    memset(&info, 0, sizeof(info));
    return !own && waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) < 0 && errno == ECHILD;
}

/* The value of `key` in a file of "key value" lines; 0 when either is missing. */
static uint64_t read_keyed(int dir_fd, const char *file, const char *key)
{
    char text[KEYED_FILE_SIZE];
    if (!read_counter(dir_fd, file, text, sizeof(text)))
        return 0;
    size_t key_size = strlen(key);
    for (const char *line = text; line; line = strchr(line, '\n')) {
        if (*line == '\n')
            line++;
        if (strncmp(line, key, key_size) == 0 && line[key_size] == ' ')
            return strtoull(line + key_size + 1, NULL, 10);
    }
    return 0;
}

static uint64_t read_number(int dir_fd, const char *file)
{
    char text[NUMBER_FILE_SIZE];
    return read_counter(dir_fd, file, text, sizeof(text)) ? strtoull(text, NULL, 10) : 0;
}

uint64_t group_oom_kills(const struct init_config *config)
{
    const char *file =
        config->cgroup_mode == INIT_CGROUP_V2 ? "memory.events" : "memory.oom_control";
    return read_keyed(config->memory_dir_fd, file, "oom_kill");
}

static uint64_t pids_seen;
static uint64_t pids_full;

void group_look_at_pids(const struct init_config *config, uint64_t gone)
{
    if (!config->carried || config->pids_max_fd < 0)
        return;
    uint64_t count = read_number(config->pids_dir_fd, "pids.current") + gone;
    pids_seen = count > pids_seen ? count : pids_seen;
    pids_full += count >= config->pids_max ? 1 : 0;
}

void group_read_base(const struct init_config *config, struct group_usage *out)
{
    memset(out, 0, sizeof(*out));
    out->pids_refused = pids_full;
    if (config->cgroup_mode == INIT_CGROUP_NONE)
        return;
    if (config->cgroup_mode == INIT_CGROUP_V2) {
        out->cpu_us = read_keyed(config->cpu_dir_fd, "cpu.stat", "usage_usec");
        out->throttled_us = read_keyed(config->cpu_dir_fd, "cpu.stat", "throttled_usec");
    } else {
        out->cpu_us = read_number(config->cpuacct_dir_fd, "cpuacct.usage") / 1000;
        out->throttled_us = read_keyed(config->cpu_dir_fd, "cpu.stat", "throttled_time") / 1000;
    }
    out->pids_refused += read_keyed(config->pids_dir_fd, "pids.events", "max");
    out->oom_kills = group_oom_kills(config);
}

void group_read(const struct init_config *config, struct group_usage *out)
{
    const char *peak =
        config->cgroup_mode == INIT_CGROUP_V2 ? "memory.peak" : "memory.max_usage_in_bytes";
    group_read_base(config, out);
    if (config->cgroup_mode == INIT_CGROUP_NONE)
        return;
    out->memory_peak_bytes = read_number(config->memory_dir_fd, peak);
    out->pids_peak = pids_seen > 0 ? pids_seen : read_number(config->pids_dir_fd, "pids.peak");
}

/* The text of /proc/PID/status, from a descriptor that is kept for the process. It stands for that
 * process: once it is gone nothing can be read, whoever gets its number. */
static bool read_status(pid_t pid, char *text, size_t size)
{
    static int status_fd = -1;
    static pid_t status_pid;
    char path[32];
    for (int tries = 0; tries < 2; tries++) {
        ssize_t got = pid == status_pid && status_fd >= 0 ? pread(status_fd, text, size - 1, 0) : 0;
        text[got > 0 ? got : 0] = '\0';
        if (got > 0)
            return true;
        fd_close(&status_fd);
        (void)snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
        status_fd = open(path, O_RDONLY | O_CLOEXEC);
        status_pid = pid;
    }
    return false;
}

void group_read_process(const struct init_config *config, pid_t pid, struct rusage *out)
{
    char text[STATUS_FILE_SIZE];
    clockid_t clock = 0;
    struct timespec used = {0};
    memset(out, 0, sizeof(*out));
    if (read_status(pid, text, sizeof(text))) {
        const char *peak = strstr(text, "VmHWM:");
        out->ru_maxrss = peak ? strtol(peak + strlen("VmHWM:"), NULL, 10) : 0;
    }
    if (config->cgroup_mode != INIT_CGROUP_NONE)
        return;
    if (clock_getcpuclockid(pid, &clock) == 0 && clock_gettime(clock, &used) == 0) {
        out->ru_utime.tv_sec = used.tv_sec;
        out->ru_utime.tv_usec = used.tv_nsec / 1000;
    }
}

uint64_t group_cpu_us(const struct rusage *rusage)
{
    return (uint64_t)(rusage->ru_utime.tv_sec + rusage->ru_stime.tv_sec) * 1000000 +
           (uint64_t)(rusage->ru_utime.tv_usec + rusage->ru_stime.tv_usec);
}
