/* Owns the reading and killing of the code group. Refuses to know limits: those are the engine's.
 */
#include "init/group.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"

enum { KEYED_FILE_SIZE = 1024, PROCS_FILE_SIZE = 16384 };

static bool born_in_group; /* set in a child only */

pid_t group_fork(const struct init_config *config)
{
    if (config->cgroup_mode != INIT_CGROUP_V2)
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

/* Signals every process that cgroup.procs lists; the numbers are those of init's pid namespace. */
static void kill_listed(const struct init_config *config)
{
    char text[PROCS_FILE_SIZE];
    if (fd_read_file_at(config->pids_dir_fd, "cgroup.procs", text, sizeof(text), NULL) < 0)
        return;
    char *cursor = text;
    while (*cursor) {
        char *end = NULL;
        long pid = strtol(cursor, &end, 10);
        if (end == cursor || *end != '\n')
            break; /* the last number may be cut by the buffer: it is in the next turn's list */
        /* 0 is a process outside of our namespace, 1 is init itself: neither can be meant. */
        if (pid > 1)
            (void)kill((pid_t)pid, SIGKILL);
        cursor = end;
        while (isspace((unsigned char)*cursor))
            cursor++;
    }
}

void group_kill(const struct init_config *config)
{
    /* A failure here may not keep the kill from being tried; forks then only make it take longer.
     */
    if (config->pids_max_fd >= 0)
        (void)!pwrite(config->pids_max_fd, "0", 1, 0);
    if (config->kill_fd >= 0 && pwrite(config->kill_fd, "1", 1, 0) == 1)
        return;
    if (config->pids_dir_fd >= 0)
        kill_listed(config);
    else
        (void)kill(-1, SIGKILL); /* from PID 1: every other process of the namespace */
}

bool group_is_empty(const struct init_config *config)
{
    char text[KEYED_FILE_SIZE];
    if (config->pids_dir_fd < 0) {
        siginfo_t info;
        memset(&info, 0, sizeof(info));
        return waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) < 0 && errno == ECHILD;
    }
    ssize_t size = fd_read_file_at(config->pids_dir_fd, "cgroup.procs", text, sizeof(text), NULL);
    return size == 0;
}

void group_reopen(const struct init_config *config)
{
    if (config->pids_max_fd < 0)
        return;
    char text[16];
    int size = snprintf(text, sizeof(text), "%" PRIu32, config->pids_max);
    if (pwrite(config->pids_max_fd, text, (size_t)size, 0) < 0)
        return; /* the next start is refused by the kernel and says so */
}

/* The value of `key` in a file of "key value" lines; 0 when either is missing. */
static uint64_t read_keyed(int dir_fd, const char *file, const char *key)
{
    char text[KEYED_FILE_SIZE];
    if (dir_fd < 0 || fd_read_file_at(dir_fd, file, text, sizeof(text), NULL) < 0)
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
    uint64_t value = 0;
    if (dir_fd < 0 || fd_read_u64_at(dir_fd, file, &value, NULL) != 0)
        return 0;
    return value;
}

uint64_t group_oom_kills(const struct init_config *config)
{
    const char *file =
        config->cgroup_mode == INIT_CGROUP_V2 ? "memory.events" : "memory.oom_control";
    return read_keyed(config->memory_dir_fd, file, "oom_kill");
}

void group_read(const struct init_config *config, struct group_usage *out)
{
    memset(out, 0, sizeof(*out));
    if (config->cgroup_mode == INIT_CGROUP_NONE)
        return;
    if (config->cgroup_mode == INIT_CGROUP_V2) {
        out->cpu_us = read_keyed(config->cpu_dir_fd, "cpu.stat", "usage_usec");
        out->throttled_us = read_keyed(config->cpu_dir_fd, "cpu.stat", "throttled_usec");
        out->memory_peak_bytes = read_number(config->memory_dir_fd, "memory.peak");
    } else {
        out->cpu_us = read_number(config->cpuacct_dir_fd, "cpuacct.usage") / 1000;
        out->throttled_us = read_keyed(config->cpu_dir_fd, "cpu.stat", "throttled_time") / 1000;
        out->memory_peak_bytes = read_number(config->memory_dir_fd, "memory.max_usage_in_bytes");
    }
    out->pids_peak = read_number(config->pids_dir_fd, "pids.peak");
    out->pids_refused = read_keyed(config->pids_dir_fd, "pids.events", "max");
    out->oom_kills = group_oom_kills(config);
}
