/* Owns the life of the server, the engine process and the way out of the sandboxes.
 * Single-threaded: one poll over the signals and the server's ready pipe. Reaps every process of
 * the tree, orphaned sandboxes too. */
#include "monitor/supervise.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "monitor/child.h"
#include "monitor/notify.h"

enum {
    SETTLED_MS = 10000,  /* a child that lived this long is restarted at once again */
    PAUSE_FIRST_MS = 50, /* after the second death in a row; doubles */
    PAUSE_MAX_MS = 1000,
    STOP_WAIT_MS = 10000, /* from SIGTERM to SIGKILL */
    HURRY_MS =
        1000, /* a second signal after this means "now"; one at once is a script passing it on */
    FIRST_TRIES = 5,  /* deaths of a child before the first "ready" that end the monitor */
    STATUS_USAGE = 2, /* a child's options or settings are wrong: it would say so every time */
};

enum role { ROLE_NATIVE, ROLE_DOCKER, ROLE_EGRESS, ROLE_SERVER, ROLE_COUNT };

struct program {
    const char *name;
    bool wanted;
    int fd;
    pid_t pid;       /* 0: does not run */
    unsigned deaths; /* in a row */
    int64_t started_ns;
    int64_t start_at_ns; /* when to start it again, while pid is 0 */
    int64_t kill_at_ns;  /* while stopping: when SIGTERM has had its time */
};

struct supervisor {
    const struct supervise_config *config;
    struct program programs[ROLE_COUNT];
    struct notify notify;
    int signal_fd;
    int ready_fd; /* read end of the server's ready pipe, -1 none */
    bool announced;
    bool stopping;
    const struct program *refused; /* what said that no start of it can go well; NULL nothing */
    int64_t stopping_at_ns;
    char db[PATH_MAX + 16];
    char db_folder[PATH_MAX + 16];
    char socket[PATH_MAX + 32]; /* "NAME=PATH" */
    char docker_socket[PATH_MAX + 32];
    char docker_layers[PATH_MAX + 32];
    char egress_socket[PATH_MAX + 16];
    char port[8];
    char uid[16];
};

static int start_server(struct supervisor *supervisor, struct err *err)
{
    const struct supervise_config *config = supervisor->config;
    struct program *program = &supervisor->programs[ROLE_SERVER];
    int ends[2] = {-1, -1};
    if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0)
        return err_sys(err, errno, "make the ready pipe");
    FD_AUTO int read_fd = ends[0];
    FD_AUTO int write_fd = ends[1];
    const char *const argv[] = {"berth-server",
                                "--db",
                                supervisor->db,
                                "--engine-socket",
                                supervisor->socket,
                                "--egress-socket",
                                supervisor->egress_socket,
                                "--listen-fd",
                                "3",
                                "--ready-fd",
                                "4",
                                "--host",
                                config->options->host,
                                "--port",
                                supervisor->port,
                                config->docker_fd >= 0 ? "--engine-socket" : NULL,
                                supervisor->docker_socket,
                                NULL};
    struct child_spec spec = {
        .name = program->name,
        .program_fd = program->fd,
        .argv = argv,
        .fds = {config->http_fd, write_fd},
        .fd_count = 2,
        .drop = geteuid() == 0,
        .uid = config->uid,
        .gid = config->gid,
        .must_write = supervisor->db_folder,
    };
    int result = child_spawn(&spec, &program->pid, err);
    if (result == 0) {
        fd_close(&supervisor->ready_fd);
        supervisor->ready_fd = fd_take(&read_fd);
    }
    return result;
}

static int start_native(struct supervisor *supervisor, struct err *err)
{
    const struct supervise_config *config = supervisor->config;
    struct program *program = &supervisor->programs[ROLE_NATIVE];
    const char *images = config->options->images_path;
    const char *const argv[] = {"berth-native",
                                "--state",
                                config->state->path,
                                "--listen-fd",
                                "3",
                                "--client-uid",
                                supervisor->uid,
                                "--cgroup",
                                config->place,
                                images ? "--images" : NULL,
                                images,
                                NULL};
    struct child_spec spec = {
        .name = program->name,
        .program_fd = program->fd,
        .argv = argv,
        .fds = {config->engine_fd},
        .fd_count = 1,
    };
    return child_spawn(&spec, &program->pid, err);
}

/* What of our settings a child reads, by the beginnings in names, NULL-ended. It has no others:
 * some are secrets of the server. */
static void pick_settings(const char *const *names, const char **out, size_t room)
{
    size_t count = 0;
    for (char **entry = environ; *entry; entry++) {
        for (const char *const *name = names; *name && count + 1 < room; name++) {
            if (strncmp(*entry, *name, strlen(*name)) == 0) {
                out[count++] = *entry;
                break;
            }
        }
    }
    out[count] = NULL;
}

/* Of root's rights it keeps that of an owner: the daemon's socket is root's, and so are the keys of
 * a daemon far away. */
static int start_docker(struct supervisor *supervisor, struct err *err)
{
    static const char *const names[] = {
        "DOCKER_",       "BERTH_DOCKER_",   "BERTH_LOG=", "BERTH_TESTING=",
        "BERTH_FAULT",   "BERTH_SWEEP_MS=", "HOME=",      "XDG_RUNTIME_DIR=",
        "ASAN_OPTIONS=", "UBSAN_OPTIONS=",  NULL};
    const struct supervise_config *config = supervisor->config;
    struct program *program = &supervisor->programs[ROLE_DOCKER];
    const char *const argv[] = {"berth-docker",
                                "--instance",
                                config->state->instance,
                                "--layers",
                                supervisor->docker_layers,
                                "--listen-fd",
                                "3",
                                "--client-uid",
                                supervisor->uid,
                                NULL};
    const char *settings[32];
    pick_settings(names, settings, ARRAY_SIZE(settings));
    struct child_spec spec = {
        .name = program->name,
        .program_fd = program->fd,
        .argv = argv,
        .envp = settings,
        .fds = {config->docker_fd},
        .fd_count = 1,
        .drop = geteuid() == 0,
    };
    return child_spawn(&spec, &program->pid, err);
}

/* Without rights, and not the server's user: what it talks with is anybody, and neither is to look
 * into the other. */
static int start_egress(struct supervisor *supervisor, struct err *err)
{
    const struct supervise_config *config = supervisor->config;
    struct program *program = &supervisor->programs[ROLE_EGRESS];
    const char *const argv[] = {"berth-egress", "--listen-fd",   "3",
                                "--client-uid", supervisor->uid, NULL};
    static const char *const names[] = {
        "BERTH_LOG=", "BERTH_EGRESS_EXCEPT=", "ASAN_OPTIONS=", "UBSAN_OPTIONS=", NULL};
    const char *settings[8];
    pick_settings(names, settings, ARRAY_SIZE(settings));
    struct child_spec spec = {
        .name = program->name,
        .program_fd = program->fd,
        .argv = argv,
        .envp = settings,
        .fds = {config->egress_fd},
        .fd_count = 1,
        .drop = geteuid() == 0,
        .uid = config->egress_uid,
        .gid = config->egress_gid,
    };
    return child_spawn(&spec, &program->pid, err);
}

static int start_role(struct supervisor *supervisor, enum role role, struct err *err)
{
    switch (role) {
    case ROLE_SERVER:
        return start_server(supervisor, err);
    case ROLE_EGRESS:
        return start_egress(supervisor, err);
    case ROLE_DOCKER:
        return start_docker(supervisor, err);
    case ROLE_NATIVE:
    case ROLE_COUNT:
        break;
    }
    return start_native(supervisor, err);
}

/* A pause before the next start: none after a long life, then doubling. */
static void plan_start(struct program *program)
{
    int64_t now_ns = clock_now_ns();
    if (now_ns - program->started_ns > SETTLED_MS * CLOCK_NS_PER_MS)
        program->deaths = 0;
    int64_t pause_ms = 0;
    if (program->deaths > 0) {
        unsigned doublings = program->deaths > 6 ? 6 : program->deaths - 1;
        pause_ms = (int64_t)PAUSE_FIRST_MS << doublings;
        if (pause_ms > PAUSE_MAX_MS)
            pause_ms = PAUSE_MAX_MS;
    }
    program->deaths++;
    program->start_at_ns = now_ns + pause_ms * CLOCK_NS_PER_MS;
}

static void start_due(struct supervisor *supervisor)
{
    for (int role = 0; role < ROLE_COUNT; role++) {
        struct program *program = &supervisor->programs[role];
        if (!program->wanted || program->pid != 0 || clock_now_ns() < program->start_at_ns)
            continue;
        struct err err = ERR_INIT;
        program->started_ns = clock_now_ns();
        int result = start_role(supervisor, (enum role)role, &err);
        if (result != 0) {
            log_error("start %s: %s", program->name, err.message);
            plan_start(program);
        } else {
            log_debug("%s runs as process %d", program->name, (int)program->pid);
        }
    }
}

static void log_death(const struct supervisor *supervisor, const struct program *program,
                      int status)
{
    bool killed = WIFSIGNALED(status);
    int number = killed ? WTERMSIG(status) : WEXITSTATUS(status);
    if (supervisor->stopping)
        log_debug("%s ended", program->name);
    else if (supervisor->refused == program)
        log_error("%s refuses its options or settings; it is not started again", program->name);
    else
        log_warn("%s (process %d) %s %d; it is started again", program->name, (int)program->pid,
                 killed ? "was killed by signal" : "exited with", number);
}

static void reap(struct supervisor *supervisor)
{
    for (;;) {
        int status = 0;
        pid_t pid = waitpid(-1, &status, WNOHANG);
        if (pid <= 0)
            return;
        for (int role = 0; role < ROLE_COUNT; role++) {
            struct program *program = &supervisor->programs[role];
            if (program->pid != pid)
                continue;
            if (WIFEXITED(status) && WEXITSTATUS(status) == STATUS_USAGE)
                supervisor->refused = program;
            log_death(supervisor, program, status);
            program->pid = 0;
            plan_start(program);
        }
    }
}

/* Ends the server first, so that nobody asks the engine for anything any more, then the others. */
static void stop_next(struct supervisor *supervisor, bool hurry)
{
    int order[] = {ROLE_SERVER, ROLE_NATIVE, ROLE_DOCKER, ROLE_EGRESS};
    for (size_t i = 0; i < ARRAY_SIZE(order); i++) {
        struct program *program = &supervisor->programs[order[i]];
        program->wanted = false;
        if (program->pid == 0)
            continue;
        if (program->kill_at_ns == 0) {
            program->kill_at_ns = clock_now_ns() + STOP_WAIT_MS * CLOCK_NS_PER_MS;
            (void)kill(program->pid, SIGTERM);
        } else if (hurry || clock_now_ns() >= program->kill_at_ns) {
            log_warn("%s did not end in time and is killed", program->name);
            program->kill_at_ns = INT64_MAX;
            (void)kill(program->pid, SIGKILL);
        }
        return;
    }
}

static void read_signals(struct supervisor *supervisor)
{
    struct signalfd_siginfo info;
    while (read(supervisor->signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
        if (info.ssi_signo == SIGCHLD)
            continue;
        log_info("signal %u: stopping", info.ssi_signo);
        int64_t now_ns = clock_now_ns();
        if (!supervisor->stopping) {
            supervisor->stopping_at_ns = now_ns;
            notify_send(&supervisor->notify, "STOPPING=1");
        } else if (now_ns - supervisor->stopping_at_ns > HURRY_MS * CLOCK_NS_PER_MS) {
            stop_next(supervisor, true);
        }
        supervisor->stopping = true;
    }
    reap(supervisor);
}

static void read_ready(struct supervisor *supervisor)
{
    char text[16];
    ssize_t size = read(supervisor->ready_fd, text, sizeof(text));
    if (size < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    fd_close(&supervisor->ready_fd);
    if (size < 5 || memcmp(text, "ready", 5) != 0)
        return; /* it died; the loop hears of that by SIGCHLD */
    const char *host = supervisor->config->options->host;
    bool brackets = strchr(host, ':') != NULL;
    log_info("server is ready on %s port %s", host, supervisor->port);
    if (!supervisor->announced) {
        (void)printf("ready http://%s%s%s:%s\n", brackets ? "[" : "", host, brackets ? "]" : "",
                     supervisor->port);
        (void)fflush(stdout);
        notify_send(&supervisor->notify, "READY=1");
    }
    supervisor->announced = true;
}

static int64_t next_deadline_ns(const struct supervisor *supervisor)
{
    int64_t next_ns = INT64_MAX;
    for (int role = 0; role < ROLE_COUNT; role++) {
        const struct program *program = &supervisor->programs[role];
        int64_t at_ns = INT64_MAX;
        if (program->pid == 0 && program->wanted)
            at_ns = program->start_at_ns;
        else if (program->pid != 0 && program->kill_at_ns != 0)
            at_ns = program->kill_at_ns;
        if (at_ns < next_ns)
            next_ns = at_ns;
    }
    return next_ns;
}

static bool all_gone(const struct supervisor *supervisor)
{
    for (int role = 0; role < ROLE_COUNT; role++) {
        if (supervisor->programs[role].pid != 0)
            return false;
    }
    return true;
}

/* Before the first "ready" a child that keeps dying means a wrong setup: say so and stop. One that
 * refuses its settings has said it itself. */
static bool is_hopeless(const struct supervisor *supervisor)
{
    if (supervisor->stopping)
        return false;
    if (supervisor->refused)
        return true;
    if (supervisor->announced)
        return false;
    for (int role = 0; role < ROLE_COUNT; role++) {
        if (supervisor->programs[role].deaths >= FIRST_TRIES)
            return true;
    }
    return false;
}

static int run_loop(struct supervisor *supervisor, struct err *err)
{
    bool failed = false;
    for (;;) {
        if (is_hopeless(supervisor)) {
            failed = true;
            supervisor->stopping = true;
        }
        if (supervisor->stopping)
            stop_next(supervisor, false);
        else
            start_due(supervisor);
        if (supervisor->stopping && all_gone(supervisor))
            break;
        struct pollfd waits[] = {
            {.fd = supervisor->signal_fd, .events = POLLIN},
            {.fd = supervisor->ready_fd, .events = POLLIN},
        };
        int timeout_ms = clock_poll_timeout_ms(next_deadline_ns(supervisor));
        if (poll(waits, ARRAY_SIZE(waits), timeout_ms) < 0 && errno != EINTR)
            return err_sys(err, errno, "poll");
        if (waits[1].revents != 0)
            read_ready(supervisor);
        if (waits[0].revents != 0)
            read_signals(supervisor);
    }
    if (failed && supervisor->refused)
        return err_set(err, ERR_BAD_INPUT,
                       "%s refuses its options or settings; see the lines above",
                       supervisor->refused->name);
    if (failed)
        return err_set(err, ERR_UNAVAILABLE, "berth could not be started; see the lines above");
    return 0;
}

static int open_signals(int *out, struct err *err)
{
    sigset_t wanted;
    (void)sigemptyset(&wanted);
    (void)sigaddset(&wanted, SIGCHLD);
    (void)sigaddset(&wanted, SIGTERM);
    (void)sigaddset(&wanted, SIGINT);
    (void)sigaddset(&wanted, SIGHUP);
    if (sigprocmask(SIG_BLOCK, &wanted, NULL) != 0)
        return err_sys(err, errno, "block signals");
    *out = signalfd(-1, &wanted, SFD_CLOEXEC | SFD_NONBLOCK);
    return *out < 0 ? err_sys(err, errno, "signalfd") : 0;
}

static int fill(struct supervisor *supervisor, struct err *err)
{
    const struct supervise_config *config = supervisor->config;
    const char *path = config->state->path;
    (void)snprintf(supervisor->db_folder, sizeof(supervisor->db_folder), "%s/db", path);
    (void)snprintf(supervisor->db, sizeof(supervisor->db), "%s/db/berth.db", path);
    (void)snprintf(supervisor->socket, sizeof(supervisor->socket), "native=%s/run/native.sock",
                   path);
    (void)snprintf(supervisor->docker_socket, sizeof(supervisor->docker_socket),
                   "docker=%s/run/docker.sock", path);
    (void)snprintf(supervisor->docker_layers, sizeof(supervisor->docker_layers),
                   "%s/priv/docker-layers", path);
    (void)snprintf(supervisor->egress_socket, sizeof(supervisor->egress_socket),
                   "%s/run/egress.sock", path);
    (void)snprintf(supervisor->port, sizeof(supervisor->port), "%u", config->port);
    (void)snprintf(supervisor->uid, sizeof(supervisor->uid), "%u", config->uid);
    struct program *server = &supervisor->programs[ROLE_SERVER];
    struct program *native = &supervisor->programs[ROLE_NATIVE];
    struct program *docker = &supervisor->programs[ROLE_DOCKER];
    struct program *egress = &supervisor->programs[ROLE_EGRESS];
    *docker = (struct program){.name = "berth-docker", .wanted = config->docker_fd >= 0, .fd = -1};
    *egress = (struct program){.name = "berth-egress", .wanted = true, .fd = -1};
    *server = (struct program){.name = "berth-server", .wanted = true, .fd = -1};
    *native = (struct program){.name = "berth-native", .wanted = config->engine_fd >= 0, .fd = -1};
    int result = child_open_program(server->name, &server->fd, err);
    if (result == 0 && native->wanted)
        result = child_open_program(native->name, &native->fd, err);
    if (result == 0 && docker->wanted)
        result = child_open_program(docker->name, &docker->fd, err);
    if (result == 0)
        result = child_open_program(egress->name, &egress->fd, err);
    if (result == 0)
        result = open_signals(&supervisor->signal_fd, err);
    return result;
}

int supervise_run(const struct supervise_config *config, struct err *err)
{
    struct supervisor supervisor = {.config = config, .signal_fd = -1, .ready_fd = -1};
    int result = 0;
    notify_init(&supervisor.notify);
    /* Orphans (the inits of sandboxes whose engine died) come to us to be reaped. */
    if (prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0)
        result = err_sys(err, errno, "become the reaper of orphans");
    if (result == 0)
        result = fill(&supervisor, err);
    if (result == 0)
        result = run_loop(&supervisor, err);
    for (int role = 0; role < ROLE_COUNT; role++)
        fd_close(&supervisor.programs[role].fd);
    fd_close(&supervisor.signal_fd);
    fd_close(&supervisor.ready_fd);
    return result;
}
