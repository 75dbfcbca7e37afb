/* Owns what the frames of sessions mean. */
#include "init/session.h"

#include <errno.h>
#include <string.h>

bool session_begins(enum frame_type type)
{
    return type == FRAME_KERNEL || type == FRAME_RUN || type == FRAME_ATTACH ||
           type == FRAME_FORGET || type == FRAME_LIST || type == FRAME_TIMERS ||
           type == FRAME_LIMITS || type == FRAME_NETWORK;
}

static bool lives(const struct kernel *kernel)
{
    return kernel->state == KERNEL_STARTING || kernel->state == KERNEL_ALIVE;
}

/* The job begins when the files that its connection sent before it are written. */
static void follow_files(struct job_table *table, struct job *job, struct buf *out,
                         bool *file_failed)
{
    job->files_failed = *file_failed;
    *file_failed = false;
    job_table_follow_files(table, out, &job->files_failed);
}

static int on_kernel(struct job_table *table, struct buf *out, bool *file_failed,
                     const struct frame *frame, struct err *err)
{
    struct sandbox_kernel kernel;
    struct job *job = job_table_free_job(table);
    int result = sandbox_kernel_decode(frame->payload, frame->size, &kernel, err);
    if (result != 0)
        return result;
    sandbox_kernel_done(&kernel); /* it is decoded again at each start */
    if (!job)
        return err_set(err, ERR_INTERNAL, "no free job");
    job_begin(job, JOB_KERNEL, out, frame->stream);
    buf_init(&job->run.params, FRAME_PAYLOAD_MAX);
    follow_files(table, job, out, file_failed);
    return buf_append(&job->run.params, frame->payload, frame->size, err);
}

static int on_run(struct job_table *table, struct buf *out, bool *file_failed,
                  const struct frame *frame, struct err *err)
{
    struct job *job = job_table_free_job(table);
    if (!job)
        return err_set(err, ERR_INTERNAL, "no free job");
    int result = run_start(job, table, frame->payload, frame->size, frame->stream, out, err);
    if (job->kind == JOB_RUN) /* else it was refused */
        follow_files(table, job, out, file_failed);
    return result;
}

static void answer(struct buf *out, uint32_t stream, int sys_errno)
{
    struct outlet outlet;
    outlet_open(&outlet, out, stream);
    outlet_send_done(&outlet, sys_errno, 0);
}

/* Standard input ends with the connection that began it. What is typed into a terminal comes from
 * whoever is attached; what the former one typed and nobody has read is gone with them. */
static void take_over_input(struct job_table *table, const struct held *held)
{
    for (size_t i = 0; i < JOB_MAX; i++) {
        struct job *job = &table->jobs[i];
        if (job->kind == JOB_FREE || job->held != held)
            continue;
        if (!job->terminal) {
            job_feed_end(job);
            continue;
        }
        job->stdin_queue.size = 0;
        job->stdin_consumed = 0;
    }
}

static int on_attach(struct job_table *table, struct buf *out, const struct frame *frame,
                     struct err *err)
{
    struct sandbox_attach attach;
    int result = sandbox_attach_decode(frame->payload, frame->size, &attach, err);
    if (result != 0)
        return result;
    struct held *held = held_find(&table->held, attach.execution_id);
    int sys_errno = held ? held_attach(held, out, frame->stream, attach.after) : ESRCH;
    if (sys_errno != 0)
        answer(out, frame->stream, sys_errno);
    else
        take_over_input(table, held);
    return 0;
}

static int on_forget(struct job_table *table, struct buf *out, const struct frame *frame,
                     struct err *err)
{
    struct sandbox_attach attach;
    int result = sandbox_attach_decode(frame->payload, frame->size, &attach, err);
    if (result != 0)
        return result;
    struct held *held = held_find(&table->held, attach.execution_id);
    int sys_errno = 0;
    if (!held)
        sys_errno = ESRCH;
    else if (!held->ended)
        sys_errno = EBUSY;
    else
        held_close(&table->held, held);
    answer(out, frame->stream, sys_errno);
    return 0;
}

static int on_list(struct job_table *table, struct buf *out, const struct frame *frame,
                   struct err *err)
{
    struct sandbox_listed listed;
    memset(&listed, 0, sizeof(listed));
    for (size_t i = 0; i < HELD_MAX; i++) {
        const struct held *held = &table->held.entries[i];
        struct sandbox_held *entry = &listed.held[listed.count];
        if (!held->used || !held->begun)
            continue;
        memcpy(entry->execution_id, held->execution_id, sizeof(entry->execution_id));
        entry->ended = held->ended;
        entry->events = held->events;
        listed.count++;
    }
    listed.kernel_lives = lives(&table->kernel);
    timers_left(&table->timers, clock_now_ns(), &listed.lifetime_ms, &listed.idle_ms);
    BUF_AUTO struct buf payload;
    buf_init(&payload, FRAME_PAYLOAD_MAX);
    int result = sandbox_listed_encode(&listed, &payload, err);
    if (result == 0)
        result = frame_append(out, FRAME_LISTED, frame->stream, payload.data, payload.size, err);
    return result;
}

/* The times are set before DONE is sent, and looked at after: an answered renewal holds. */
static int on_timers(struct job_table *table, struct buf *out, const struct frame *frame,
                     struct err *err)
{
    struct sandbox_timers times;
    int result = sandbox_timers_decode(frame->payload, frame->size, &times, err);
    if (result != 0)
        return result;
    timers_renew(&table->timers, &times, clock_now_ns());
    answer(out, frame->stream, 0);
    return 0;
}

static int on_limits(struct job_table *table, struct buf *out, const struct frame *frame,
                     struct err *err)
{
    struct sandbox_limits limits;
    int result = sandbox_limits_decode(frame->payload, frame->size, &limits, err);
    if (result == 0)
        answer(out, frame->stream, job_table_set_limits(table, &limits));
    return result;
}

static int on_network(struct job_table *table, struct buf *out, const struct frame *frame,
                      struct err *err)
{
    struct sandbox_network network;
    int result = sandbox_network_decode(frame->payload, frame->size, &network, err);
    if (result == 0)
        answer(out, frame->stream, network_set(&table->network, network.mode, clock_now_ns()));
    return result;
}

int session_begin(struct job_table *table, struct buf *out, bool *file_failed,
                  const struct frame *frame, struct err *err)
{
    switch (frame->type) {
    case FRAME_KERNEL:
        return on_kernel(table, out, file_failed, frame, err);
    case FRAME_RUN:
        return on_run(table, out, file_failed, frame, err);
    case FRAME_ATTACH:
        return on_attach(table, out, frame, err);
    case FRAME_FORGET:
        return on_forget(table, out, frame, err);
    case FRAME_LIST:
        return on_list(table, out, frame, err);
    case FRAME_TIMERS:
        return on_timers(table, out, frame, err);
    case FRAME_LIMITS:
        return on_limits(table, out, frame, err);
    case FRAME_NETWORK:
        return on_network(table, out, frame, err);
    default:
        return err_set(err, ERR_PROTOCOL, "frame type %d", (int)frame->type);
    }
}

/* Asks for a kernel of these words, once. 0: there is one, or will be; or an errno. */
static int ask(struct kernel *kernel, const struct buf *words)
{
    struct kernel_spec *spec = &kernel->spec;
    if (lives(kernel) || kernel->wanted) {
        /* One that the engine gave has no words yet: it becomes what is asked for first. */
        enum kernel_likeness likeness = KERNEL_SIMILAR;
        if (kernel_spec_is_set(spec))
            likeness = kernel_spec_compare(spec, words->data, words->size);
        else if (kernel_spec_has_lines(words->data, words->size))
            likeness = KERNEL_DIFFERENT;
        if (likeness == KERNEL_SAME)
            return 0;
        if (likeness == KERNEL_DIFFERENT || (lives(kernel) && kernel->used))
            return EEXIST;
    }
    int sys_errno = kernel_spec_set(spec, words->data, words->size);
    if (sys_errno != 0)
        return sys_errno;
    spec->owed = lives(kernel);
    if (!lives(kernel)) {
        kernel->wanted = true;
        kernel->failure = 0;
    }
    return 0;
}

/* What came of a start that was asked for: 0, an errno, or -1: nothing yet. */
static int started(const struct kernel *kernel, const struct buf *words)
{
    if (kernel->state == KERNEL_NONE && !kernel->wanted)
        return kernel->failure != 0 ? kernel->failure : EIO;
    if (lives(kernel) &&
        kernel_spec_compare(&kernel->spec, words->data, words->size) == KERNEL_DIFFERENT)
        return EEXIST; /* somebody else's came before */
    return kernel->state == KERNEL_ALIVE ? 0 : -1;
}

void session_step_start(struct job *job, struct job_table *table)
{
    struct kernel *kernel = &table->kernel;
    if (job_table_awaits_files(table, &job->files_failed))
        return;
    int sys_errno = job->files_failed ? EIO : 0;
    if (sys_errno == 0 && !job->run.asked) {
        job->run.asked = true;
        sys_errno = ask(kernel, &job->run.params);
    }
    if (sys_errno == 0)
        sys_errno = started(kernel, &job->run.params);
    if (sys_errno < 0)
        return;
    outlet_send_done(job->outlet, sys_errno, 0);
    job_clear(job);
}

bool session_start_is_due(const struct job *job, const struct job_table *table)
{
    const struct kernel *kernel = &table->kernel;
    if (!job->run.asked)
        return !job_table_awaits_files(table, &job->files_failed);
    return kernel->state == KERNEL_ALIVE || (kernel->state == KERNEL_NONE && !kernel->wanted);
}
