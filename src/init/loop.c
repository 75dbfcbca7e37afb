/* Owns the connections and the table of jobs, and when the sandbox ends. One thread, poll(2), no
 * blocking call. */
#include "init/loop.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/fd.h"
#include "init/carried.h"
#include "init/connection.h"
#include "init/job_table.h"
#include "init/pipes.h"

enum {
    SERVED_MAX = 9, /* connections beside that of egress: one of them may become it */
    CONNECTION_MAX = SERVED_MAX + 1,
    POLL_MAX = 13 + CONNECTION_MAX + 5 * JOB_MAX + LEFTOVER_MAX
};
#define CONNECT_GRACE_NS (10 * CLOCK_NS_PER_S) /* from the commit to the first connection */

struct loop {
    const struct init_config *config;
    int signal_fd;
    int listen_fd;
    int setup_fd; /* -1 once committed */
    int oom_fd;
    bool over;
    struct carried carried;
    struct connection connections[CONNECTION_MAX];
    struct job_table jobs;
};

/* Of servers: egress keeps no sandbox alive, and takes no server's place. */
static size_t count_connections(const struct loop *loop)
{
    size_t count = 0;
    for (size_t i = 0; i < CONNECTION_MAX; i++) {
        const struct connection *connection = &loop->connections[i];
        if (connection->fd >= 0 && !network_is_taker(&loop->jobs.network, &connection->out))
            count++;
    }
    return count;
}

static bool has_connection(const struct loop *loop)
{
    return count_connections(loop) > 0;
}

/* Who comes when there is none waits in the backlog: a close would read as the end of the sandbox.
 */
static bool has_free_connection(const struct loop *loop)
{
    return count_connections(loop) < SERVED_MAX;
}

/* After each change of connections. */
static void count_orphan(struct loop *loop)
{
    int64_t *from = &loop->jobs.timers.orphan_from;
    if (has_connection(loop))
        *from = INT64_MAX;
    else if (*from == INT64_MAX)
        *from = clock_now_ns();
}

static void end_connection(struct loop *loop, struct connection *connection)
{
    connection_close(connection, &loop->jobs);
    count_orphan(loop);
}

static void begin_connection(struct loop *loop, int fd)
{
    if (fd < 0)
        return;
    for (size_t i = 0; i < CONNECTION_MAX; i++) {
        if (loop->connections[i].fd >= 0)
            continue;
        connection_open(&loop->connections[i], fd);
        loop->jobs.timers.orphan_from = INT64_MAX;
        return;
    }
    (void)close(fd);
}

/* Whether the engine has opened one that can begin. */
static bool has_waiting(const struct loop *loop)
{
    return loop->carried.waiting_count > 0 && has_free_connection(loop);
}

static void accept_connection(struct loop *loop)
{
    begin_connection(loop, accept4(loop->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK));
}

/* One SIGCHLD may stand for many children, and no second one is pending beside it (signal(7)). */
static void reap_children(struct loop *loop)
{
    struct signalfd_siginfo info;
    if (read(loop->signal_fd, &info, sizeof(info)) > 0)
        job_table_reap(&loop->jobs);
}

static void on_oom_event(struct loop *loop)
{
    char text[512];
    /* v1: the eventfd's count. v2: memory.events stays "changed" for poll(2) until it is read, from
     * its opening on (cgroup-v2.rst, "file modified event"). */
    ssize_t size = loop->config->cgroup_mode == INIT_CGROUP_V2
                       ? pread(loop->oom_fd, text, sizeof(text), 0)
                       : read(loop->oom_fd, text, sizeof(uint64_t));
    if (size <= 0)
        return;
    job_table_watch_oom(&loop->jobs);
}

/* What poll(2) looks at, and where it says what it saw: steps read what it named, and no other. */
struct poll_set {
    struct pollfd entries[POLL_MAX];
    short *seen[POLL_MAX];
    nfds_t count;
};

/* *seen is 0 until poll(2) says something, and stays so when there is nothing to look for. */
static void poll_add(struct poll_set *set, int fd, short events, short *seen)
{
    *seen = 0;
    if (fd < 0 || events == 0)
        return;
    set->entries[set->count] = (struct pollfd){.fd = fd, .events = events};
    set->seen[set->count++] = seen;
}

static int poll_wait(struct poll_set *set, int timeout_ms)
{
    int ready = poll(set->entries, set->count, timeout_ms);
    for (nfds_t i = 0; ready > 0 && i < set->count; i++)
        *set->seen[i] = set->entries[i].revents;
    return ready;
}

static void poll_add_job(struct job *job, struct poll_set *set)
{
    short input = job->stdin_queue.size > 0 ? POLLOUT : 0;
    poll_add(set, job->stdin_fd, input, &job->stdin_seen);
    poll_add(set, job->status_fd, POLLIN, &job->status_seen);
    poll_add(set, job->terminal_fd, POLLIN, &job->terminal_seen);
    for (int i = 0; i < 2; i++) {
        struct job_output *output = &job->outputs[i];
        poll_add(set, output->fd, job_wants_output(job, i) ? POLLIN : 0, &output->seen);
    }
}

static void poll_add_all(struct loop *loop, struct poll_set *set)
{
    struct kernel *kernel = &loop->jobs.kernel;
    struct leftover *leftover = &loop->jobs.leftover;
    short wanted = leftover_wants(leftover, clock_now_ns()) ? POLLIN : 0;
    for (size_t i = 0; i < JOB_MAX; i++) {
        if (loop->jobs.jobs[i].kind != JOB_FREE)
            poll_add_job(&loop->jobs.jobs[i], set);
    }
    struct network *network = &loop->jobs.network;
    bool accepts = network_may_accept(network, clock_now_ns());
    poll_add(set, network->listen_fd, accepts ? POLLIN : 0, &network->seen);
    poll_add(set, kernel->status_fd, POLLIN, &kernel->status_seen);
    poll_add(set, kernel->fd, kernel_events(kernel), &kernel->seen);
    poll_add(set, kernel->lines.to_fd, kernel_to_events(kernel), &kernel->lines.to_seen);
    for (int i = 0; i < 2; i++)
        poll_add(set, kernel->lines.outputs[i], kernel_output_events(kernel, clock_now_ns()),
                 &kernel->lines.output_seen[i]);
    for (size_t i = 0; i < leftover->count; i++)
        poll_add(set, leftover->fds[i], wanted, &leftover->seen[i]);
}

static int64_t next_wakeup(const struct loop *loop)
{
    if (loop->jobs.unsettled || has_waiting(loop))
        return 0;
    int64_t wakeup = timers_end_ns(&loop->jobs.timers);
    int64_t jobs = job_table_wakeup_ns(&loop->jobs);
    int64_t network = network_wakeup_ns(&loop->jobs.network);
    int64_t carried = carried_wakeup_ns(&loop->carried);
    wakeup = network < wakeup ? network : wakeup;
    wakeup = carried < wakeup ? carried : wakeup;
    return jobs < wakeup ? jobs : wakeup;
}

/* Whether an EXEC waits counts as well: it has no job yet. */
static bool is_idle(const struct loop *loop)
{
    for (size_t i = 0; i < CONNECTION_MAX; i++) {
        if (loop->connections[i].fd >= 0 && loop->connections[i].exec.waiting)
            return false;
    }
    return job_table_count(&loop->jobs, JOB_FREE) == JOB_MAX;
}

/* The one place where the sandbox ends for its timers: behind all frames of this turn. */
static void check_end(struct loop *loop)
{
    int64_t now_ns = clock_now_ns();
    timers_set_idle(&loop->jobs.timers, is_idle(loop), now_ns);
    if (now_ns >= timers_end_ns(&loop->jobs.timers))
        loop->over = true;
}

/* Until the engine says 'C', its end of the setup socket stands for its life: with it goes a
 * creation that nobody knows of. With the 'C' may come a kernel that it had made. */
static void on_setup(struct loop *loop)
{
    char byte = 0;
    FD_AUTO int kernel_fd = -1;
    size_t count = 1;
    ssize_t got = fd_recv(loop->setup_fd, &byte, 1, &kernel_fd, &count, MSG_DONTWAIT, NULL);
    if (got == -ERR_UNAVAILABLE)
        return;
    if (got != 1 || byte != 'C')
        loop->over = true;
    else if (count == 1)
        kernel_take_given(&loop->jobs.kernel, fd_take(&kernel_fd));
    fault_point("init.commit");
    /* The engine connects next; should it die in between, nobody else ever does. */
    if (!has_connection(loop)) {
        loop->jobs.timers.orphan_from = clock_now_ns() + CONNECT_GRACE_NS;
    }
    fd_close(&loop->setup_fd);
}

/* What the loop itself waits for, by what poll(2) saw of it. */
struct seen {
    short signals, clients, setup, oom;
    short carried_in, carried_out, channels;
    short connections[CONNECTION_MAX];
};

static void poll_add_own(struct loop *loop, struct poll_set *set, struct seen *seen)
{
    poll_add(set, loop->signal_fd, POLLIN, &seen->signals);
    poll_add(set, loop->listen_fd, has_free_connection(loop) ? POLLIN : 0, &seen->clients);
    poll_add(set, loop->setup_fd, POLLIN, &seen->setup);
    poll_add(set, loop->oom_fd, loop->config->cgroup_mode == INIT_CGROUP_V2 ? POLLPRI : POLLIN,
             &seen->oom);
    if (loop->carried.carrier) {
        int64_t now_ns = clock_now_ns();
        const struct carried *carried = &loop->carried;
        poll_add(set, carried->in_fd, carried_in_events(carried, now_ns), &seen->carried_in);
        poll_add(set, carried->out_fd, carried_out_events(carried, now_ns), &seen->carried_out);
        poll_add(set, carrier_fd(carried->carrier), POLLIN, &seen->channels);
    }
    for (size_t i = 0; i < CONNECTION_MAX; i++) {
        const struct connection *connection = &loop->connections[i];
        /* Its end is always heard of. */
        short events = connection_may_read(connection, &loop->jobs) ? POLLIN : POLLHUP;
        if (connection->out.size > 0 ||
            (loop->jobs.network.full && network_is_taker(&loop->jobs.network, &connection->out)))
            events |= POLLOUT;
        poll_add(set, connection->fd, events, &seen->connections[i]);
    }
}

static void read_connection(struct loop *loop, struct connection *connection, short seen)
{
    bool readable = (seen & (POLLIN | POLLHUP | POLLERR)) != 0;
    if (readable && connection_read(connection, &loop->jobs, NULL) < 0)
        end_connection(loop, connection);
}

/* What came over the stream is in the sockets of the connections now; poll(2) has not seen that. */
static void read_carried(struct loop *loop, struct seen *seen)
{
    bool heard = carried_read(&loop->carried, seen->carried_in, clock_now_ns());
    while (has_waiting(loop))
        begin_connection(loop, carried_take_connection(&loop->carried));
    for (size_t i = 0; heard && i < CONNECTION_MAX; i++) {
        if (connection_may_read(&loop->connections[i], &loop->jobs))
            seen->connections[i] |= POLLIN;
    }
}

/* Whoever said EGRESS and is it no more: its end is how it hears of that. */
static void end_replaced(struct loop *loop)
{
    for (size_t i = 0; i < CONNECTION_MAX; i++) {
        struct connection *connection = &loop->connections[i];
        if (connection->fd >= 0 && connection->said_egress &&
            !network_is_taker(&loop->jobs.network, &connection->out))
            end_connection(loop, connection);
    }
    /* The one that is it may just have stopped to count. */
    if (loop->jobs.network.taker_fd >= 0 && loop->jobs.timers.orphan_from == INT64_MAX)
        count_orphan(loop);
}

static void turn(struct loop *loop, struct poll_set *set)
{
    struct seen seen;
    set->count = 0;
    poll_add_own(loop, set, &seen);
    poll_add_all(loop, set);
    if (poll_wait(set, clock_poll_timeout_ms(next_wakeup(loop))) < 0) {
        /* EINTR: no handler is installed, so only a stop and continue. EINVAL: somebody took our
         * limit of descriptors, and no deadline would ever be kept: better no sandbox. */
        loop->over = errno == EINVAL;
        return;
    }
    if (seen.signals != 0)
        reap_children(loop);
    if (seen.setup != 0)
        on_setup(loop);
    if (seen.oom != 0)
        on_oom_event(loop);
    if (loop->carried.carrier)
        read_carried(loop, &seen);
    for (size_t i = 0; i < CONNECTION_MAX; i++)
        read_connection(loop, &loop->connections[i], seen.connections[i]);
    if (seen.clients != 0)
        accept_connection(loop);
    /* What was done so far is seen by the steps of this turn; of what they do themselves some is
     * for a step that was before. */
    loop->jobs.unsettled = false;
    job_table_step(&loop->jobs);
    for (size_t i = 0; i < CONNECTION_MAX; i++) {
        struct connection *connection = &loop->connections[i];
        if (connection->fd >= 0 && connection_step(connection, &loop->jobs, NULL) < 0)
            end_connection(loop, connection);
    }
    end_replaced(loop);
    carried_write(&loop->carried, clock_now_ns());
    network_step(&loop->jobs.network, clock_now_ns());
    run_make_ready(&loop->jobs); /* behind what somebody waits for */
    check_end(loop);
}

int loop_run(const struct init_config *config, struct err *err)
{
    static struct loop loop; /* too large for the stack of a small static program */
    static struct poll_set set;
    memset(&loop, 0, sizeof(loop));
    loop.config = config;
    loop.listen_fd = config->listen_fd;
    loop.setup_fd = config->setup_fd;
    loop.oom_fd = config->oom_event_fd;
    for (size_t i = 0; i < CONNECTION_MAX; i++)
        connection_init(&loop.connections[i]);
    job_table_init(&loop.jobs, config);
    group_keep_open(config);

    sigset_t children;
    (void)sigemptyset(&children);
    (void)sigaddset(&children, SIGCHLD);
    loop.signal_fd = signalfd(-1, &children, SFD_CLOEXEC | SFD_NONBLOCK);
    if (loop.signal_fd < 0)
        return err_sys(err, errno, "signalfd");
    if (config->carried) {
        int result = carried_open(&loop.carried, config, err);
        if (result != 0)
            return result;
        pipes_adapt(config);
        loop.jobs.timers.orphan_from = clock_now_ns() + CONNECT_GRACE_NS;
    } else if (listen(loop.listen_fd, CONNECTION_MAX) != 0) {
        return err_sys(err, errno, "listen");
    }
    fault_point("init.listen");
    if (loop.setup_fd >= 0 && send(loop.setup_fd, "R", 1, MSG_NOSIGNAL) != 1)
        return err_sys(err, errno, "tell the engine that init is ready");
    fault_point("init.ready");
    while (!loop.over)
        turn(&loop, &set);
    return 0;
}
