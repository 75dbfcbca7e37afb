/* Owns the wait for whatever ends a foreign sandbox. Has no other work: it starts nothing, and
 * reads nothing that comes from the sandbox but the words of a start that failed. */
#include "init/keep.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "wire/init_config.h"

/* The kernel tells of a group without memory before it has killed anything. */
enum { OOM_POLL_MS = 20, OOM_POLLS = 100 };

struct keep {
    pid_t starter; /* 0: it has ended well */
    int setup_fd;  /* -1: committed */
    int error_fd;
    int oom_fd;
    int memory_dir_fd;
    short oom_events; /* v1: an eventfd; v2: memory.events, which is always readable (poll(2)) */
    int signal_fd;
    int oom_polls; /* that are left */
};

/* The last line of what the starter wrote. */
static void tell_failure(const struct keep *keep, int status)
{
    char text[512];
    char message[256];
    off_t end = lseek(keep->error_fd, 0, SEEK_END);
    off_t from = end > (off_t)sizeof(text) - 1 ? end - (off_t)sizeof(text) + 1 : 0;
    ssize_t size = pread(keep->error_fd, text, sizeof(text) - 1, from);
    text[size > 0 ? size : 0] = '\0';
    for (size_t used = strlen(text); used > 0 && text[used - 1] == '\n'; used--)
        text[used - 1] = '\0';
    const char *line = strrchr(text, '\n');
    (void)snprintf(message, sizeof(message), "the runtime ended with status %d: %.200s",
                   WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status),
                   line ? line + 1 : text);
    (void)fd_send(keep->setup_fd, message, strlen(message), NULL, 0, MSG_DONTWAIT, NULL);
}

/* Whether it goes on. */
static bool reap(struct keep *keep)
{
    struct signalfd_siginfo info;
    if (read(keep->signal_fd, &info, sizeof(info)) < 0 && errno != EAGAIN)
        return false;
    for (;;) {
        int status = 0;
        pid_t pid = waitpid(-1, &status, WNOHANG);
        if (pid <= 0)
            return pid == 0 || errno == EINTR;
        if (pid != keep->starter && keep->setup_fd >= 0 && status == 0)
            continue; /* a helper of the start; with the last child it is over all the same */
        if (pid != keep->starter || !WIFEXITED(status) || WEXITSTATUS(status) != 0) {
            if (keep->setup_fd >= 0)
                tell_failure(keep, status);
            return false;
        }
        keep->starter = 0;
        if (fd_send(keep->setup_fd, "R", 1, NULL, 0, MSG_DONTWAIT, NULL) != 0)
            return false;
    }
}

static bool hear_engine(struct keep *keep)
{
    char byte = 0;
    if (fd_recv(keep->setup_fd, &byte, 1, NULL, NULL, MSG_DONTWAIT, NULL) != 1 || byte != 'C' ||
        keep->starter != 0)
        return false;
    fd_close(&keep->setup_fd);
    return true;
}

static bool was_killed(const struct keep *keep)
{
    static const char *const files[] = {"memory.events", "memory.oom_control"};
    char text[512];
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        if (fd_read_file_at(keep->memory_dir_fd, files[i], text, sizeof(text), NULL) < 0)
            continue;
        for (const char *line = strstr(text, "oom_kill "); line;
             line = strstr(line + 1, "oom_kill ")) {
            if (line == text || line[-1] == '\n')
                return strtoul(line + strlen("oom_kill "), NULL, 10) > 0;
        }
    }
    return false;
}

static bool hear_memory(struct keep *keep, bool rang)
{
    char text[512];
    uint64_t count = 0;
    if (rang) {
        /* What was seen of either is no event any more. */
        ssize_t got = keep->oom_events == POLLIN ? read(keep->oom_fd, &count, sizeof(count))
                                                 : pread(keep->oom_fd, text, sizeof(text), 0);
        if (got < 0)
            fd_close(&keep->oom_fd); /* the group is going */
        keep->oom_polls = OOM_POLLS;
    } else if (keep->oom_polls > 0) {
        keep->oom_polls--;
    }
    return !was_killed(keep);
}

static void wait_for_end(struct keep *keep)
{
    bool goes_on = reap(keep); /* who ended before SIGCHLD was blocked rings no more */
    while (goes_on) {
        struct pollfd fds[] = {{.fd = keep->signal_fd, .events = POLLIN},
                               {.fd = keep->setup_fd, .events = POLLIN},
                               {.fd = keep->oom_fd, .events = keep->oom_events}};
        if (poll(fds, 3, keep->oom_polls > 0 ? OOM_POLL_MS : -1) < 0 && errno != EINTR)
            return;
        if (fds[0].revents != 0)
            goes_on = reap(keep);
        if (goes_on && fds[1].revents != 0)
            goes_on = hear_engine(keep);
        if (goes_on && (fds[2].revents != 0 || keep->oom_polls > 0))
            goes_on = hear_memory(keep, fds[2].revents != 0);
    }
}

/* It needs none of a namespace's root, and the others of its user are not to look into it. */
static void shed_rights(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3];
    memset(none, 0, sizeof(none));
    (void)prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    (void)syscall(SYS_capset, &header, none);
    (void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
}

int keep_run(int argc, char **argv)
{
    int numbers[INIT_KEEP_ARGUMENTS];
    if (argc != INIT_KEEP_ARGUMENTS + 1)
        return 2;
    for (int i = 0; i < INIT_KEEP_ARGUMENTS; i++)
        numbers[i] = (int)strtol(argv[i + 1], NULL, 10);
    struct keep keep = {.starter = numbers[0],
                        .setup_fd = numbers[1],
                        .error_fd = numbers[2],
                        .oom_fd = numbers[3],
                        .memory_dir_fd = numbers[4]};
    bool v2 = faccessat(keep.memory_dir_fd, "memory.events", F_OK, 0) == 0;
    keep.oom_events = v2 ? POLLPRI : POLLIN;
    sigset_t all;
    (void)sigfillset(&all);
    (void)sigprocmask(SIG_SETMASK, &all, NULL);
    shed_rights();
    sigset_t child;
    (void)sigemptyset(&child);
    (void)sigaddset(&child, SIGCHLD);
    keep.signal_fd = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
    if (keep.signal_fd < 0)
        return 1;
    wait_for_end(&keep);
    return 0;
}
