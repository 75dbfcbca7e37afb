/* Owns the private monitor of one command and its temporary folder. */
#include "cli/local.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"

enum { READY_TIMEOUT_MS = 20000, EXIT_SETUP = 127 };

int local_exec(const char *name, char **argv, struct err *err)
{
    char path[PATH_MAX];
    ssize_t size = readlink("/proc/self/exe", path, sizeof(path) - 1);
    if (size < 0)
        return err_sys(err, errno, "find this program's own path");
    path[size] = '\0';
    char *slash = strrchr(path, '/');
    size_t room = slash ? sizeof(path) - (size_t)(slash + 1 - path) : 0;
    if (!slash || strlen(name) >= room)
        return err_set(err, ERR_INTERNAL, "this program's own path is too long");
    (void)snprintf(slash + 1, room, "%s", name);
    argv[0] = path;
    (void)execv(path, argv);
    return err_sys(err, errno, "start %s", path);
}

static void run_monitor(struct local_server *server, int ready_fd, pid_t parent)
{
    char program[] = "berth-monitor";
    char host[] = "--host";
    char loopback[] = "127.0.0.1";
    char port[] = "--port";
    char any[] = "0";
    char state[] = "--state";
    char *argv[] = {program, host, loopback, port, any, state, server->state_path, NULL};
    struct err err = ERR_INIT;
    (void)setpgid(0, 0); /* a terminal's Ctrl-C is for the command, which then stops us */
    (void)prctl(PR_SET_PDEATHSIG, SIGTERM, 0, 0, 0);
    if (getppid() != parent)
        _exit(EXIT_SETUP);
    (void)setenv("BERTH_LOG", "error", 0);
    if (dup2(ready_fd, STDOUT_FILENO) >= 0)
        (void)local_exec(program, argv, &err);
    (void)fprintf(stderr, "berth: %s\n", err.message);
    _exit(EXIT_SETUP);
}

/* Reads "ready URL" from the monitor. */
static int wait_ready(struct local_server *server, int fd, struct err *err)
{
    char line[sizeof(server->url)] = "";
    size_t used = 0;
    int64_t deadline_ns = clock_now_ns() + READY_TIMEOUT_MS * CLOCK_NS_PER_MS;
    while (!memchr(line, '\n', used)) {
        struct pollfd wait = {.fd = fd, .events = POLLIN};
        int ready = poll(&wait, 1, clock_poll_timeout_ms(deadline_ns));
        if (ready == 0)
            return err_set(err, ERR_TIMEOUT, "a private server did not get ready in time");
        ssize_t got = ready < 0 ? -1 : read(fd, line + used, sizeof(line) - 1 - used);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return err_set(err, ERR_UNAVAILABLE, "a private server could not be started");
        used += (size_t)got;
    }
    line[strcspn(line, "\n")] = '\0';
    if (strncmp(line, "ready ", 6) != 0)
        return err_set(err, ERR_PROTOCOL, "the private server said \"%s\"", line);
    (void)snprintf(server->url, sizeof(server->url), "%s", line + 6);
    return 0;
}

static int start(struct local_server *server, struct err *err)
{
    const char *folder = getenv("TMPDIR");
    char path[PATH_MAX];
    int size =
        snprintf(path, sizeof(path), "%s/berth-run-XXXXXX", folder && *folder ? folder : "/tmp");
    if (size < 0 || (size_t)size >= sizeof(path) || !mkdtemp(path))
        return err_sys(err, errno, "make a temporary folder");
    memcpy(server->state_path, path, sizeof(path));
    int ends[2] = {-1, -1};
    if (pipe2(ends, O_CLOEXEC) != 0)
        return err_sys(err, errno, "make a pipe");
    FD_AUTO int read_fd = ends[0];
    FD_AUTO int write_fd = ends[1];
    pid_t parent = getpid();
    pid_t pid = fork();
    if (pid < 0)
        return err_sys(err, errno, "fork");
    if (pid == 0)
        run_monitor(server, write_fd, parent);
    /* From here on a signal must not end us before the folder is removed; client_send() hears it.
     */
    sigset_t held;
    (void)sigemptyset(&held);
    (void)sigaddset(&held, SIGINT);
    (void)sigaddset(&held, SIGTERM);
    (void)sigprocmask(SIG_BLOCK, &held, NULL);
    server->pid = pid;
    fd_close(&write_fd);
    return wait_ready(server, read_fd, err);
}

int local_server_start(struct local_server *out, struct err *err)
{
    LOCAL_SERVER_AUTO struct local_server server = {0};
    int result = start(&server, err);
    if (result != 0)
        return result;
    *out = server;
    memset(&server, 0, sizeof(server));
    return 0;
}

static int remove_entry(const char *path, const struct stat *info, int type, struct FTW *place)
{
    (void)info;
    (void)type;
    (void)place;
    (void)remove(path);
    return 0;
}

void local_server_stop(struct local_server *server)
{
    if (server->pid > 0) {
        (void)kill(server->pid, SIGTERM);
        while (waitpid(server->pid, NULL, 0) < 0 && errno == EINTR)
            continue;
        server->pid = 0;
    }
    /* FTW_MOUNT: whatever an engine left mounted there must not be emptied. */
    if (server->state_path[0] != '\0')
        (void)nftw(server->state_path, remove_entry, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
    server->state_path[0] = '\0';
}
