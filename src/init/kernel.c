/* Owns the kernel's process, its socket, and what it says. Never blocks. */
#include "init/kernel.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/fd.h"
#include "init/child.h"
#include "init/job_table.h"
#include "wire/kernel_msg.h"
#include "wire/tlv.h"

#define DEAF_NS (100 * CLOCK_NS_PER_MS) /* from the end of its socket to the kill */
#define BODY_SENT_MAX (2U * (SANDBOX_CODE_MAX + 4U * FRAME_PAYLOAD_MAX)) /* lines are escaped */
#define LARGE (1U << 20)              /* memory of a buffer that is given back when it is empty */
#define KEPT (16U << 10)              /* the same of what is said to it */
#define REST_NS (2 * CLOCK_NS_PER_MS) /* between two looks at what is said to nobody */
#define ADOPTION_NS CLOCK_NS_PER_MS   /* between two looks at whose child it is */
enum { CHUNK = 64 * 1024, EXIT_NOT_FOUND = 127 };

struct message {
    char type;
    const uint8_t *body;
    size_t size;
};

void kernel_init(struct kernel *kernel)
{
    memset(kernel, 0, sizeof(*kernel));
    kernel->pid = -1;
    kernel->fd = kernel->status_fd = -1;
    kernel->give_up_ns = INT64_MAX;
    kernel->passing = PIPES_INIT;
    kernel_spec_init(&kernel->spec);
    kernel_lines_init(&kernel->lines);
    buf_init(&kernel->in, KERNEL_HEADER_SIZE + KERNEL_BODY_MAX + LINES_GROWTH * CHUNK);
    buf_init(&kernel->out, BODY_SENT_MAX);
}

/* Once for all messages that were taken: each alone would move all that is behind it. */
static void drop_taken(struct kernel *kernel, size_t size)
{
    buf_consume(&kernel->in, size);
    if (kernel->in.size == 0 && kernel->in.capacity > LARGE)
        buf_done(&kernel->in);
}

static void drop_unsent(struct kernel *kernel)
{
    kernel->out.size = 0;
    if (kernel->out.capacity > KEPT)
        buf_done(&kernel->out);
}

/* Forgets the process, not what the next one is to be. */
static void forget_process(struct kernel *kernel)
{
    fd_close(&kernel->fd);
    fd_close(&kernel->status_fd);
    kernel_lines_done(&kernel->lines);
    pipes_done(&kernel->passing);
    drop_taken(kernel, kernel->in.size);
    drop_unsent(kernel);
    kernel->skipping = 0;
    kernel->state = KERNEL_NONE;
    kernel->give_up_ns = INT64_MAX;
    kernel->used = kernel->given = false;
    kernel->spec.owed = false;
}

/* ---- its end ---- */

static void fail_start(struct kernel *kernel, int sys_errno)
{
    if (kernel->state == KERNEL_STARTING && kernel->failure == 0)
        kernel->failure = sys_errno;
}

static void step_status(struct kernel *kernel)
{
    if (kernel->status_fd < 0)
        return;
    ssize_t got = read(kernel->status_fd, kernel->start_error, sizeof(kernel->start_error) - 1);
    if (got < 0)
        return;
    kernel->start_error[got] = '\0';
    if (got > 0)
        fail_start(kernel, kernel->start_error[0] == EXIT_NOT_FOUND ? ENOENT : EACCES);
    fd_close(&kernel->status_fd);
}

void kernel_doom(struct kernel *kernel)
{
    if (kernel->state == KERNEL_NONE || kernel->state == KERNEL_DYING)
        return;
    fail_start(kernel, ECANCELED);
    kernel->state = KERNEL_DYING;
    kernel->give_up_ns = INT64_MAX;
    if (kernel->pid > 0)
        (void)kill(kernel->pid, SIGKILL); /* it may not be in the group yet */
}

bool kernel_reaped(struct kernel *kernel, struct job_table *table, pid_t pid, int wait_status,
                   const struct rusage *rusage)
{
    if (kernel->pid != pid)
        return false;
    bool script = kernel->job && kernel->job->run.mode == SANDBOX_RUN_SCRIPT &&
                  kernel->job->run.phase != RUN_DRAINING;
    step_status(kernel);          /* why it was not executed, if so */
    pipes_done(&kernel->passing); /* else the run that it never got would wait for their end */
    kernel->pid = -1;
    kernel->wait_status = wait_status;
    kernel->rusage = *rusage;
    fail_start(kernel, ECHILD);
    kernel->lost |= kernel->used && !script;
    kernel->state = KERNEL_DYING;
    kernel->give_up_ns = INT64_MAX;
    if (kernel->job)
        run_kernel_died(kernel->job, table);
    return true;
}

/* The end of the socket: it closed its descriptor, or is about to be reaped. A program of its own
 * may close what it likes. */
static void on_end(struct kernel *kernel)
{
    bool script = kernel->job && kernel->job->run.mode == SANDBOX_RUN_SCRIPT;
    fd_close(&kernel->fd);
    if (kernel->state == KERNEL_ALIVE && !script)
        kernel->give_up_ns = clock_now_ns() + DEAF_NS;
    else if (kernel->state == KERNEL_STARTING && kernel->given)
        kernel->give_up_ns = 0; /* nobody tells of its death: it has no number yet */
}

/* ---- what is said to it ---- */

static void flush(struct kernel *kernel)
{
    if (kernel->fd < 0)
        return;
    if (kernel->lines.on) {
        if (!kernel_lines_flush(&kernel->lines, &kernel->out))
            on_end(kernel);
        else if (kernel->out.size == 0)
            drop_unsent(kernel);
        return;
    }
    while (kernel->out.size > 0) {
        size_t passed = kernel->passing.child[0] >= 0 ? 3 : 0;
        ssize_t sent = fd_send_some(kernel->fd, kernel->out.data, kernel->out.size,
                                    kernel->passing.child, passed, MSG_DONTWAIT, NULL);
        if (sent < 0)
            return; /* it is full, or gone, which is seen elsewhere */
        pipes_done(&kernel->passing);
        buf_consume(&kernel->out, (size_t)sent);
    }
    drop_unsent(kernel);
}

struct buf *kernel_begin_run(struct kernel *kernel, struct err *err)
{
    const uint8_t header[KERNEL_HEADER_SIZE] = {[4] = (uint8_t)KERNEL_RUN};
    kernel->run_at = kernel->out.size;
    if (kernel->lines.on)
        return &kernel->out;
    return buf_append(&kernel->out, header, sizeof(header), err) == 0 ? &kernel->out : NULL;
}

void kernel_drop_run(struct kernel *kernel)
{
    kernel->out.size = kernel->run_at;
}

void kernel_give_run(struct kernel *kernel, struct job *job, struct pipes *pipes)
{
    if (!kernel->lines.on) {
        uint8_t *header = kernel->out.data + kernel->run_at;
        tlv_store_u32(header, (uint32_t)(kernel->out.size - kernel->run_at - KERNEL_HEADER_SIZE));
        pipes_done(&kernel->passing); /* of a run that it said was done before it was told of it */
        for (int i = 0; i < 3; i++)
            kernel->passing.child[i] = fd_take(&pipes->child[i]);
    }
    kernel->job = job;
    kernel->used = true;
    kernel->spec.owed = false;
    flush(kernel);
}

void kernel_leave_run(struct kernel *kernel, const struct job *job)
{
    if (kernel->job != job)
        return;
    kernel->job = NULL;
    kernel->striking = kernel->told = false;
}

static int put_interrupt(struct buf *message, const char *id)
{
    struct tlv_writer writer;
    const uint8_t header[KERNEL_HEADER_SIZE] = {[4] = (uint8_t)KERNEL_INTERRUPT};
    int result = buf_append(message, header, sizeof(header), NULL);
    tlv_begin(&writer, message);
    tlv_put_str(&writer, KERNEL_TAG_ID, id);
    if (result == 0)
        result = tlv_end(&writer, NULL);
    if (result == 0)
        tlv_store_u32(message->data, (uint32_t)(message->size - KERNEL_HEADER_SIZE));
    return result;
}

/* KERNEL_INTERRUPT. False: the socket is full. */
static bool tell_interrupt(const struct kernel *kernel)
{
    struct sandbox_run run;
    BUF_AUTO struct buf message;
    const struct buf *params = &kernel->job->run.params;
    buf_init(&message, 2 * KERNEL_HEADER_SIZE + 2 * SANDBOX_ID_MAX);
    if (sandbox_run_decode(params->data, params->size, &run, NULL) != 0)
        return true; /* no memory: then the signal has to do */
    int result = kernel->lines.on ? lines_put_interrupt(&message, run.execution_id, NULL)
                                  : put_interrupt(&message, run.execution_id);
    sandbox_run_done(&run);
    if (result != 0)
        return true;
    if (kernel->lines.on)
        return kernel_lines_send_short(&kernel->lines, &message);
    /* It is small: it goes whole or not at all. */
    return send(kernel->fd, message.data, message.size, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0 ||
           errno != EAGAIN;
}

/* The signal alone may find a kernel that has not begun to run the code, which could not tell it
 * from a late one of the run before: so the message goes first, between the two RUNs in the stream,
 * and when SIGINT comes it can be read. While the socket is full both wait. That is until the
 * kernel has read enough of the RUN, before which no code runs that could be struck. One message
 * does for all interrupts of a run: it says whose they are, not how many. Else code that takes no
 * notice of them would fill the socket, and the last of them would wait for ever. */
static void step_interrupt(struct kernel *kernel)
{
    if (!kernel->striking)
        return;
    if (kernel->fd >= 0 && !kernel->told) {
        if (kernel->out.size > 0 || !tell_interrupt(kernel))
            return;
        kernel->told = true;
    }
    kernel->striking = false;
    /* One that speaks lines leads its session, and has said that it is ready: the group is its own.
     * Its language may wait for a program that the code started, whose end it needs. */
    if (kernel->pid > 0)
        (void)kill(kernel->lines.on ? -kernel->pid : kernel->pid, SIGINT);
}

void kernel_interrupt(struct kernel *kernel)
{
    kernel->striking = true;
    step_interrupt(kernel);
}

/* ---- what it says ---- */

/* The whole message at an offset. False: there is none; *nonsense: and there will be none. */
static bool message_at(const struct kernel *kernel, size_t at, struct message *message,
                       bool *nonsense)
{
    if (nonsense)
        *nonsense = false;
    if (kernel->in.size - at < KERNEL_HEADER_SIZE)
        return false;
    message->size = tlv_load_u32(kernel->in.data + at);
    message->type = (char)kernel->in.data[at + 4];
    message->body = kernel->in.data + at + KERNEL_HEADER_SIZE;
    if (nonsense)
        *nonsense = message->size > KERNEL_BODY_MAX;
    return message->size <= KERNEL_BODY_MAX &&
           kernel->in.size - at - KERNEL_HEADER_SIZE >= message->size;
}

static bool next_message(const struct kernel *kernel, struct message *message, bool *nonsense)
{
    return message_at(kernel, 0, message, nonsense);
}

/* One that was given and did not come up: whoever waits gets one of our own. Its socket ends, which
 * ends a kernel; what hangs is killed, unless that would end an execution that knows nothing of it.
 */
static void lose_given(struct kernel *kernel, struct job_table *table)
{
    bool awaited = job_table_count(table, JOB_KERNEL) > 0 || job_table_count(table, JOB_RUN) > 0;
    if (job_table_count(table, JOB_EXEC) == 0)
        job_table_kill_group(table, KILL_SERVER);
    else
        forget_process(kernel);
    fd_close(&kernel->fd);
    kernel->wanted = awaited && kernel_spec_is_set(&kernel->spec);
}

static void on_ready(struct kernel *kernel)
{
    if (kernel->given) {
        kernel->said_ready = true;
        return;
    }
    kernel->state = KERNEL_ALIVE;
    kernel->give_up_ns = INT64_MAX;
}

static bool awaits_adoption(const struct kernel *kernel)
{
    return kernel->state == KERNEL_STARTING && kernel->given && kernel->said_ready;
}

/* A message beyond all bounds: nothing that it says after it can be made out. */
static void break_off(struct kernel *kernel, struct job_table *table)
{
    fail_start(kernel, EPROTO);
    if (kernel->state != KERNEL_DYING)
        job_table_kill_group(table, KILL_OUTPUT);
    buf_done(&kernel->in);
    fd_close(&kernel->fd);
}

static bool is_running(const struct kernel *kernel)
{
    return kernel->job &&
           (kernel->job->run.phase == RUN_RUNNING || kernel->job->run.phase == RUN_DYING);
}

/* False: the message has to wait. */
static bool take_message(struct kernel *kernel, struct job_table *table,
                         const struct message *message)
{
    if (message->type == KERNEL_READY && kernel->state == KERNEL_STARTING)
        on_ready(kernel);
    if (!is_running(kernel))
        return true; /* said between two runs: to nobody */
    if (message->type == KERNEL_MESSAGE)
        return run_take_message(kernel->job, table, message->body, message->size);
    if (message->type == KERNEL_DONE && message->size == 1)
        run_is_done(kernel->job, table, message->body[0]);
    else if (message->type == KERNEL_END && message->size == 1 && kernel->lines.on)
        run_is_last(kernel->job, table, message->body[0]);
    else
        run_count_noise(kernel->job, message->size);
    return true;
}

void kernel_deliver(struct kernel *kernel, struct job_table *table)
{
    struct message message;
    bool nonsense = false;
    size_t taken = 0;
    while (message_at(kernel, taken, &message, &nonsense) && take_message(kernel, table, &message))
        taken += KERNEL_HEADER_SIZE + message.size;
    drop_taken(kernel, taken);
    if (nonsense)
        break_off(kernel, table);
}

bool kernel_has_message(const struct kernel *kernel)
{
    struct message message;
    return next_message(kernel, &message, NULL);
}

bool kernel_is_heard_out(const struct kernel *kernel)
{
    return kernel->fd < 0 && !kernel_has_message(kernel);
}

/* Between two runs it speaks to nobody, and gets no more of init's time for it than this. */
static bool is_unheard(const struct kernel *kernel)
{
    return kernel->state == KERNEL_ALIVE && !kernel->job;
}

/* Nobody will hear a message that begins between two runs: no byte of it is kept, since that would
 * be init's memory, which no limit of the sandbox covers. */
static void skip_unheard(struct kernel *kernel)
{
    struct message message;
    bool nonsense = false;
    if (kernel->lines.on) {
        if (is_unheard(kernel))
            lines_skip(&kernel->lines.reader, &kernel->in);
        return;
    }
    if (!is_unheard(kernel) || kernel->in.size < KERNEL_HEADER_SIZE ||
        next_message(kernel, &message, &nonsense) || nonsense)
        return;
    kernel->skipping = KERNEL_HEADER_SIZE + message.size - kernel->in.size;
    drop_taken(kernel, kernel->in.size);
}

static void take_bytes(struct kernel *kernel, size_t size)
{
    size_t skipped = size < kernel->skipping ? size : kernel->skipping;
    kernel->in.size += size;
    kernel->heard = true;
    kernel->skipping -= skipped;
    buf_consume(&kernel->in, skipped); /* nothing is before what is skipped */
}

/* One read(2). False: nothing came, and its end neither. */
static bool hear_some(struct kernel *kernel)
{
    ssize_t got = 0;
    if (kernel->lines.on) {
        got = kernel_lines_receive(&kernel->lines, kernel->fd, &kernel->in);
        kernel->heard |= got > 0;
    } else {
        uint8_t *room = buf_reserve(&kernel->in, CHUNK, NULL);
        if (!room)
            return false; /* no memory now */
        got = kernel_receive(kernel, room, CHUNK);
        if (got > 0)
            take_bytes(kernel, (size_t)got);
    }
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return false;
    if (got <= 0)
        on_end(kernel);
    return true;
}

static void hear(struct kernel *kernel)
{
    struct message message;
    bool nonsense = false;
    if ((kernel->seen & ~POLLOUT) == 0)
        return;
    while (kernel->fd >= 0 && !next_message(kernel, &message, &nonsense) && !nonsense) {
        if (!hear_some(kernel))
            return;
        kernel->rests_ns = clock_now_ns() + REST_NS;
        if (is_unheard(kernel))
            return;
    }
}

static void give_up(struct kernel *kernel, struct job_table *table)
{
    kernel->give_up_ns = INT64_MAX;
    if (kernel->given && kernel->state == KERNEL_STARTING) {
        lose_given(kernel, table);
        return;
    }
    fail_start(kernel, ETIMEDOUT);
    job_table_kill_group(table, KILL_SIGNAL);
}

void kernel_step(struct kernel *kernel, struct job_table *table)
{
    if (kernel->state == KERNEL_NONE)
        return;
    if (kernel->status_seen != 0)
        step_status(kernel);
    flush(kernel);
    step_interrupt(kernel);
    hear(kernel);
    kernel_deliver(kernel, table);
    skip_unheard(kernel);
    kernel_lines_step(&kernel->lines, clock_now_ns());
    if (awaits_adoption(kernel)) {
        int sys_errno = kernel_adopt(kernel, table->config);
        if (sys_errno != 0 && sys_errno != EAGAIN)
            kernel->give_up_ns = 0;
    }
    if (clock_now_ns() >= kernel->give_up_ns)
        give_up(kernel, table);
}

void kernel_settle(struct kernel *kernel, struct job_table *table)
{
    if (table->killing)
        return;
    if (kernel->state == KERNEL_DYING && kernel->pid <= 0 && !kernel->job)
        forget_process(kernel);
    if (kernel->state == KERNEL_NONE && kernel->wanted)
        kernel_start(kernel, table->config);
}

/* ---- events ---- */

short kernel_events(const struct kernel *kernel)
{
    bool rests = is_unheard(kernel) && clock_now_ns() < kernel->rests_ns;
    short events = rests || kernel_has_message(kernel) ? 0 : POLLIN;
    bool says = !kernel->lines.on && (kernel->out.size > 0 || kernel->striking);
    return (short)(events | (says ? POLLOUT : 0));
}

short kernel_to_events(const struct kernel *kernel)
{
    return kernel->fd >= 0 && (kernel->out.size > 0 || kernel->striking) ? POLLOUT : 0;
}

short kernel_output_events(const struct kernel *kernel, int64_t now_ns)
{
    return !kernel->job && kernel_lines_wants_output(&kernel->lines, now_ns) ? POLLIN : 0;
}

int64_t kernel_wakeup_ns(const struct kernel *kernel, const struct job_table *table)
{
    int64_t now_ns = clock_now_ns();
    int64_t outputs = kernel->job ? INT64_MAX : kernel_lines_wakeup_ns(&kernel->lines, now_ns);
    int64_t give_up = kernel->give_up_ns < outputs ? kernel->give_up_ns : outputs;
    if (kernel->state == KERNEL_NONE && kernel->wanted && !table->killing)
        return 0;
    if (is_unheard(kernel) && kernel->fd >= 0 && now_ns < kernel->rests_ns)
        return kernel->rests_ns < give_up ? kernel->rests_ns : give_up;
    if (kernel_has_message(kernel) && !kernel->job)
        return 0;                /* it is dropped */
    if (awaits_adoption(kernel)) /* no event comes of that */
        return now_ns + ADOPTION_NS;
    return give_up;
}
