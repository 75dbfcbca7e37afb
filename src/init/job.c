/* Owns the life of one job while it runs: its bytes, its kill. Never blocks. */
#include "init/job.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "init/job_end.h"
#include "init/job_table.h"
#include "init/session.h"
#include "init/terminal.h"

#define KILL_RETRY_NS (2 * CLOCK_NS_PER_MS)
#define OOM_POLL_NS (2 * CLOCK_NS_PER_MS)
#define OOM_LOOK_NS (50 * CLOCK_NS_PER_MS) /* where no event says when */
#define HANG_UP_NS CLOCK_NS_PER_S          /* from the hang-up of a terminal to the kill */
#define CREDIT_STEP (64U * 1024U)          /* credit is given back in pieces of at least this */
#define READ_STEP FRAME_DATA_MAX
#define FILE_IDLE_MS 30000 /* without one byte, while the child could move some */
#define FILE_IDLE_MAX_MS (UINT64_C(1) << 40)
#define TERMINAL_REST (1U << 20) /* of a terminal's output that is still read at the end */
enum {
    KILL_ROUNDS_MAX = 250, /* of a session that forks faster than it is killed */
    END_OF_INPUT = 4       /* what a person types for it: VEOF, Control-D */
};

void job_init(struct job *job)
{
    memset(job, 0, sizeof(*job));
    job->outlet = &job->own;
    job->stdin_fd = job->status_fd = job->terminal_fd = -1;
    job->outputs[0].fd = job->outputs[1].fd = -1;
    job->pid = job->run.input_fd = -1;
}

void job_clear(struct job *job)
{
    fd_close(&job->stdin_fd);
    fd_close(&job->status_fd);
    fd_close(&job->terminal_fd);
    fd_close(&job->outputs[0].fd);
    fd_close(&job->outputs[1].fd);
    fd_close(&job->run.input_fd);
    buf_done(&job->stdin_queue);
    buf_done(&job->run.params);
    buf_done(&job->run.code);
    job_init(job);
}

/* ---- input ---- */

int job_feed(struct job *job, const void *data, size_t size, struct err *err)
{
    if (job->stdin_closed_by_peer)
        return err_set(err, ERR_PROTOCOL, "bytes after the end of standard input");
    if (buf_append(&job->stdin_queue, data, size, NULL) != 0)
        return err_set(err, ERR_PROTOCOL, "standard input beyond its credit");
    return 0;
}

static void give_credit(struct job *job, uint32_t size)
{
    job->stdin_consumed += size;
    if (job->stdin_consumed < CREDIT_STEP || job->stdin_closed_by_peer)
        return;
    bool is_file = job->kind == JOB_PUT_FILE || job->kind == JOB_GET_FILE;
    outlet_send_u32(job->outlet, FRAME_CREDIT, is_file ? STREAM_CONTROL : STREAM_STDIN,
                    job->stdin_consumed);
    job->stdin_consumed = 0;
}

void job_step_input(struct job *job)
{
    if (job->terminal_fd >= 0)
        return; /* the terminal has not come yet */
    while (job->stdin_queue.size > 0) {
        size_t size = job->stdin_queue.size;
        if (job->stdin_fd >= 0) {
            ssize_t written = write(job->stdin_fd, job->stdin_queue.data, size);
            if (written < 0 && (errno == EAGAIN || errno == EINTR))
                return;
            if (written < 0)
                fd_close(&job->stdin_fd); /* nobody reads: drop what comes, the code may be right */
            else
                size = (size_t)written;
            job->stdin_total += written > 0 ? (uint64_t)written : 0;
        }
        buf_consume(&job->stdin_queue, size);
        give_credit(job, (uint32_t)size);
    }
    if (job->stdin_closed_by_peer)
        fd_close(&job->stdin_fd);
}

void job_feed_end(struct job *job)
{
    const char end = END_OF_INPUT;
    if (job->terminal && !job->stdin_closed_by_peer)
        (void)buf_append(&job->stdin_queue, &end, 1, NULL);
    job->stdin_closed_by_peer = true;
    if (job->kind != JOB_RUN || job->run.phase >= RUN_RUNNING)
        job_step_input(job); /* with nothing queued no event would come to do it */
}

/* ---- output ---- */

bool job_wants_output(const struct job *job, int index)
{
    const struct job_output *output = &job->outputs[index];
    if (output->fd < 0 || (job->draining && output->drain == 0))
        return false;
    if (output->full || output->sent >= job->keep_bytes)
        return true; /* read and dropped: the code goes on */
    if (job->held)
        return !held_is_behind(job->held);
    if (!job->outlet->out)
        return true;
    return job->outlet->credit[STREAM_STDOUT + index] > 0 && outlet_has_room(job->outlet);
}

static void send_output(struct job *job, struct job_table *table, int index, const uint8_t *data,
                        size_t size)
{
    struct job_output *output = &job->outputs[index];
    enum frame_stream part = (enum frame_stream)(STREAM_STDOUT + index);
    output->total += size;
    uint64_t keep = output->full ? 0 : job->keep_bytes - output->sent;
    size_t wanted = size < keep ? size : (size_t)keep;
    if (wanted == 0)
        return;
    if (!job->held)
        outlet_send(job->outlet, FRAME_DATA, part, data, wanted);
    else if (!held_append(&table->held, job->held, FRAME_DATA, part, data, wanted))
        output->full = true; /* for good: a hole in the middle would look whole */
    if (!output->full)
        output->sent += wanted;
}

/* Of an execution it is said with EXIT, which mostly comes at once: alone it would wake a server
 * that has nothing to do yet. */
static void end_output(struct job *job, int index)
{
    fd_close(&job->outputs[index].fd);
    if (job->terminal || (job->kind != JOB_EXEC && job->kind != JOB_RUN))
        job_end_output(job, index);
}

/* Reads one piece; false when nothing more can be read now. */
static bool read_output(struct job *job, struct job_table *table, int index)
{
    struct job_output *output = &job->outputs[index];
    static uint8_t chunk[READ_STEP]; /* large, and zeroed at each call on the stack */
    size_t size = sizeof(chunk);
    uint32_t credit = job->outlet->credit[STREAM_STDOUT + index];
    if (!job->held && job->outlet->out && output->sent < job->keep_bytes && credit < size)
        size = credit;
    if (job->draining && output->drain < size)
        size = (size_t)output->drain;
    ssize_t got = read(output->fd, chunk, size);
    if (got < 0 && errno == EINTR)
        return true;
    if (got < 0 && errno == EAGAIN) {
        output->drain = 0;
        output->seen = 0;
        return false;
    }
    if (got <= 0) { /* EIO: no process has the terminal any more */
        end_output(job, index);
        return false;
    }
    output->drain -= output->drain < (uint64_t)got ? output->drain : (uint64_t)got;
    send_output(job, table, index, chunk, (size_t)got);
    return true;
}

/* Whether there may be something: poll(2) said so, or it was counted. It is read until nothing is
 * left: what is printed comes in several writes, and one frame of it wakes the server once. */
static bool has_output(const struct job *job, int index)
{
    return job->outputs[index].seen != 0 || (job->draining && job->outputs[index].drain > 0);
}

/* Both streams in turn, a piece each, so that their order is kept as well as two pipes can tell. */
void job_step_output(struct job *job, struct job_table *table)
{
    bool more = true;
    for (int round = 0; more && round < 16; round++) {
        more = false;
        for (int i = 0; i < 2; i++) {
            if (has_output(job, i) && job_wants_output(job, i))
                more |= read_output(job, table, i);
        }
        if (job->outputs[0].total + job->outputs[1].total + job->run.message_cost >
            job->output_max_bytes)
            job_kill(job, table, KILL_OUTPUT);
    }
}

void job_drain(struct job *job)
{
    job->draining = true;
    for (int i = 0; i < 2; i++) {
        int fd = job->outputs[i].fd;
        job->outputs[i].drain = job->terminal ? TERMINAL_REST : pipes_filled(fd);
    }
}

bool job_is_drained(const struct job *job)
{
    for (int i = 0; i < 2; i++) {
        if (job->outputs[i].fd >= 0 && job->outputs[i].drain > 0)
            return false;
    }
    return true;
}

/* ---- kills ---- */

void job_kill(struct job *job, struct job_table *table, enum kill_cause cause)
{
    if (job->kind == JOB_RUN) {
        run_kill(job, table, cause);
        return;
    }
    if (job->cause == KILL_NONE && job->pid > 0)
        job->cause = cause;
    if (job->killing || job->kind == JOB_KERNEL)
        return;
    /* By its number too: a child that was just forked is not in the group yet. */
    if (job->pid > 0)
        (void)kill(job->pid, SIGKILL);
    if (job->kind != JOB_EXEC) {
        if (job->outputs[0].fd >= 0) /* no credit may ever come for the rest */
            end_output(job, 0);
        return;
    }
    job->killing = true;
    if (!job_table_is_shared(table, job))
        job_table_kill_group(table, cause);
}

/* What a terminal would do that makes no signals; to the whole session, since it can't be said who
 * has its foreground. */
static void signal_instead(const struct job *job, const struct job_table *table, int number)
{
    if (!terminal_makes_signals(job->outputs[0].fd))
        group_signal_session(table->config, job->session, number);
}

void job_watch_typing(struct job *job, struct job_table *table, const void *typed, size_t size)
{
    if (job->terminal && job->outputs[0].fd >= 0 && table->config->carried &&
        terminal_is_interrupt(job->outputs[0].fd, typed, size))
        signal_instead(job, table, SIGINT);
}

static void interrupt_terminal(struct job *job, const struct job_table *table)
{
    terminal_interrupt(job->outputs[0].fd);
    signal_instead(job, table, SIGINT);
}

void job_interrupt(struct job *job, struct job_table *table)
{
    if (job->kind == JOB_RUN)
        run_interrupt(job, table);
    else if (job->kind == JOB_EXEC && job->terminal && job->outputs[0].fd >= 0)
        interrupt_terminal(job, table);
    else if (job->kind == JOB_EXEC && job->pid > 0 && kill(-job->pid, SIGINT) != 0)
        (void)kill(job->pid, SIGINT); /* it has no group of its own yet */
}

void job_orphan(struct job *job, struct job_table *table)
{
    bool is_code = job->kind == JOB_EXEC || job->kind == JOB_RUN;
    bool has_code = job->kind != JOB_RUN || job->run.phase != RUN_CODE;
    if (job->held && has_code) {
        if (!job->terminal)
            job_feed_end(job);
        return; /* the log lets go of the connection */
    }
    if (job->held)
        held_close(&table->held, job->held);
    job->held = NULL;
    job->outlet = &job->own;
    outlet_close(&job->own);
    job->failed = NULL;
    if (is_code && job->terminal) {
        if (job->outputs[0].fd >= 0)
            signal_instead(job, table, SIGHUP);
        fd_close(&job->stdin_fd);
        fd_close(&job->outputs[0].fd);
        fd_close(&job->terminal_fd);
        job->deadline_ns = clock_now_ns() + HANG_UP_NS;
        return;
    }
    job_feed_end(job);
    if (job->kind == JOB_KERNEL)
        job_clear(job);
    else
        job_kill(job, table, KILL_SERVER);
}

bool job_reaped(struct job *job, pid_t pid, int wait_status, const struct rusage *rusage)
{
    if (job->kind == JOB_FREE || job->pid != pid)
        return false;
    group_unspare(pid);
    job->pid = -1;
    job->wait_status = wait_status;
    job->rusage = *rusage;
    job->ended_ns = clock_now_ns();
    bool well = WIFEXITED(wait_status) && WEXITSTATUS(wait_status) == 0;
    if (job->failed && !well)
        *job->failed = true;
    return true;
}

void job_step_oom(struct job *job, struct job_table *table, int64_t now_ns)
{
    if (job->oom_watch_ns == 0)
        return;
    if (group_oom_kills(table->config) > job->base.oom_kills) {
        job->oom_watch_ns = 0;
        job_kill(job, table, KILL_OOM);
        /* Its siblings live on, and one of them may be what another execution is (v1). */
        job_table_kill_group(table, KILL_OOM);
    } else if (now_ns >= job->oom_watch_ns) {
        job->oom_watch_ns = 0;
    }
}

/* ---- executions ---- */

static void step_status(struct job *job)
{
    if (job->status_fd < 0)
        return;
    ssize_t got = read(job->status_fd, job->start_error, sizeof(job->start_error) - 1);
    if (got < 0)
        return;
    job->start_error[got] = '\0';
    fd_close(&job->status_fd);
}

static void step_terminal(struct job *job)
{
    bool over = false;
    if (job->terminal_fd < 0 || job->terminal_seen == 0)
        return;
    job->terminal_seen = 0;
    job->outputs[0].fd = terminal_take(job->terminal_fd, &over);
    if (over)
        fd_close(&job->terminal_fd);
    if (job->outputs[0].fd >= 0 && job->resize != 0)
        terminal_resize(job->outputs[0].fd, job->resize);
    if (job->outputs[0].fd >= 0)
        job->stdin_fd = fcntl(job->outputs[0].fd, F_DUPFD_CLOEXEC, 0);
}

/* After the first process ended, everything it left behind ends too: all of the code when the
 * execution has the sandbox for itself, else its session and what hangs below that. Returns whether
 * nothing is left. */
static bool step_kill(struct job *job, struct job_table *table, int64_t now_ns)
{
    if ((job->pid > 0 && !job->killing) || table->killing)
        return false;
    if (!job_table_is_shared(table, job)) {
        if (job->pid <= 0 && group_is_empty(table->config))
            return true;
        job_table_kill_group(table, KILL_SERVER);
        return false;
    }
    if (now_ns < job->next_kill_ns)
        return false;
    size_t left = group_kill_session(table->config, job->session);
    if (left == 0 && job->pid <= 0)
        return true;
    job->next_kill_ns = now_ns + KILL_RETRY_NS;
    if (++job->kill_rounds > KILL_ROUNDS_MAX)
        job_table_kill_group(table, KILL_SERVER);
    return false;
}

/* A process that left the session may hold the outputs, beside a kernel: what it wrote so far is
 * read, and no more. Alone there is none, and the end of the pipes comes; that of a terminal does
 * not on gVisor. */
static bool step_rest(struct job *job, struct job_table *table)
{
    if ((job->terminal || job_table_is_shared(table, job)) && !job->draining)
        job_drain(job);
    job_step_output(job, table);
    if (job->draining && job_is_drained(job)) {
        for (int i = 0; i < 2; i++) {
            if (job->outputs[i].fd < 0)
                continue;
            if (!job->terminal)
                leftover_add(&table->leftover, fcntl(job->outputs[i].fd, F_DUPFD_CLOEXEC, 0),
                             clock_now_ns());
            end_output(job, i);
        }
    }
    return job->outputs[0].fd < 0 && job->outputs[1].fd < 0;
}

static void step_exec(struct job *job, struct job_table *table)
{
    int64_t now_ns = clock_now_ns();
    job_step_input(job);
    if (now_ns >= job->deadline_ns && job->pid > 0)
        job_kill(job, table, job->outlet->out || job->held ? KILL_TIMEOUT : KILL_SERVER);
    job_step_oom(job, table, now_ns);
    if (job->status_seen != 0)
        step_status(job);
    step_terminal(job);
    job_step_output(job, table);
    if (!job->group_gone) {
        job->group_gone = step_kill(job, table, now_ns);
        if (!job->group_gone)
            return;
    }
    step_status(job);
    if (job->terminal_fd >= 0 || !step_rest(job, table))
        return;
    job_end_exec(job, table);
    job_clear(job);
}

/* Whether it is the child's turn, and not the server's to send or to take bytes. */
static bool waits_for_child(const struct job *job)
{
    if (job->pid < 0 || job->cause != KILL_NONE)
        return false;
    if (job->kind == JOB_PUT_FILE)
        return job->stdin_queue.size > 0 || job->stdin_closed_by_peer;
    return job->outputs[0].fd < 0 || job_wants_output(job, 0);
}

/* The child has the code's ids: code of its own user may stop it, and nobody else would notice. */
static void step_file_deadline(struct job *job, struct job_table *table)
{
    if (!waits_for_child(job)) {
        job->deadline_ns = INT64_MAX;
        return;
    }
    int64_t now_ns = clock_now_ns();
    uint64_t moved = job->stdin_total + job->outputs[0].total;
    if (job->deadline_ns == INT64_MAX || moved != job->moved) {
        uint64_t idle_ms = table->config->file_idle_ms;
        if (idle_ms == 0 || idle_ms > FILE_IDLE_MAX_MS)
            idle_ms = FILE_IDLE_MS;
        job->moved = moved;
        job->deadline_ns = now_ns + (int64_t)idle_ms * CLOCK_NS_PER_MS;
    } else if (now_ns >= job->deadline_ns) {
        job->deadline_ns = INT64_MAX;
        job_kill(job, table, KILL_TIMEOUT);
    }
}

static void step_file(struct job *job, struct job_table *table)
{
    job_step_input(job);
    job_step_output(job, table);
    step_file_deadline(job, table);
    bool input_over = job->stdin_closed_by_peer || job->cause != KILL_NONE;
    if (job->pid > 0 || !input_over || job->outputs[0].fd >= 0)
        return;
    job_end_file(job);
    job_clear(job);
}

/* ---- all kinds ---- */

void job_step(struct job *job, struct job_table *table)
{
    if (job->kind == JOB_EXEC || job->kind == JOB_RUN)
        outlet_step(job->outlet, clock_now_ns());
    if (job->kind == JOB_EXEC)
        step_exec(job, table);
    else if (job->kind == JOB_RUN)
        run_step(job, table);
    else if (job->kind == JOB_KERNEL)
        session_step_start(job, table);
    else if (job->kind != JOB_FREE)
        step_file(job, table);
}

static int64_t exec_wakeup_ns(const struct job *job, const struct job_table *table)
{
    int64_t wakeup = job->pid > 0 && !job->killing ? job->deadline_ns : INT64_MAX;
    bool retries = (job->killing || job->pid <= 0) && !job->group_gone && !table->killing;
    if (retries && job->next_kill_ns < wakeup)
        wakeup = job->next_kill_ns;
    return wakeup;
}

int64_t job_wakeup_ns(const struct job *job, const struct job_table *table)
{
    int64_t wakeup = INT64_MAX;
    if (job->kind == JOB_EXEC)
        wakeup = exec_wakeup_ns(job, table);
    else if (job->kind == JOB_RUN)
        wakeup = run_wakeup_ns(job, table);
    else if (job->kind == JOB_KERNEL && session_start_is_due(job, table))
        wakeup = 0;
    else if (job->kind == JOB_PUT_FILE || job->kind == JOB_GET_FILE)
        wakeup = job->deadline_ns;
    int64_t owed = job->kind != JOB_FREE ? outlet_wakeup_ns(job->outlet) : INT64_MAX;
    wakeup = owed < wakeup ? owed : wakeup;
    if (job->oom_watch_ns != 0) {
        int64_t poll =
            clock_now_ns() + (job->oom_watch_ns == INT64_MAX ? OOM_LOOK_NS : OOM_POLL_NS);
        wakeup = poll < wakeup ? poll : wakeup;
    }
    return wakeup;
}
