/* Owns the executions of a fake sandbox: a thread each for the script, its output as counted events
 * that are kept while it is held, who is told of them, and its end. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "engine/fake_internal.h"

enum { EXIT_KILLED = 137, EXIT_REFUSED = 126, EXIT_NO_FILE = 2, EXIT_CRASHED = 139 };

/* ---- time and kills ---- */

static void notice_time(struct fake_job *job)
{
    int64_t now_ns = clock_now_ns();
    if (!job->timed_out && now_ns >= job->deadline_ns) {
        job->timed_out = true;
        if (job->cause == KILL_NONE)
            job->cause = KILL_TIMEOUT;
        if (job->is_run && job->run.grace_ms > 0) {
            job->interrupted = true;
            job->grace_end_ns = fake_in_ms(job->run.grace_ms);
        } else {
            job->killed = true;
        }
    }
    if (job->timed_out && now_ns >= job->grace_end_ns)
        job->killed = true;
}

bool fake_job_alive(struct fake_job *job)
{
    if (!job->killed)
        notice_time(job);
    return !job->killed && !job->box->over;
}

bool fake_job_running(struct fake_job *job)
{
    if (!fake_job_alive(job) || job->box->silent)
        return false;
    return job->raising || (!job->script_over && (!job->interrupted || job->deaf));
}

void fake_job_wait(struct fake_job *job, int64_t until_ns)
{
    int64_t own_ns = job->timed_out ? job->grace_end_ns : job->deadline_ns;
    until_ns = own_ns < until_ns ? own_ns : until_ns;
    if (until_ns == INT64_MAX) {
        (void)pthread_cond_wait(&job->box->changed, &job->box->lock);
        return;
    }
    const struct timespec until = {.tv_sec = until_ns / CLOCK_NS_PER_S,
                                   .tv_nsec = until_ns % CLOCK_NS_PER_S};
    (void)pthread_cond_timedwait(&job->box->changed, &job->box->lock, &until);
}

void fake_job_kill(struct fake_job *job, enum kill_cause cause)
{
    if (job->ended || job->killed)
        return;
    job->killed = true;
    job->cause = job->cause == KILL_NONE ? cause : job->cause;
    (void)pthread_cond_broadcast(&job->box->changed);
}

/* ---- to the server ---- */

static void send_exit(struct fake_job *job)
{
    struct fake_connection *connection = job->connection;
    bool broken = job->box->fault == FAKE_FAULT_WRONG_EXIT;
    int64_t wall_ns = job->began_ns == 0 ? 0 : clock_now_ns() - job->began_ns;
    const struct sandbox_exit exit = {.exit_code = broken ? 4711 : job->exit_code,
                                      .cause = job->cause,
                                      .limits_hit = job->limits_hit,
                                      .wall_us = (uint64_t)wall_ns / 1000,
                                      .cpu_us = 1000,
                                      .max_rss_bytes = 1 << 20,
                                      .stdout_bytes = job->written[0],
                                      .stderr_bytes = job->written[1],
                                      .pids_peak = 1,
                                      .message_bytes = job->message_bytes,
                                      .messages_dropped = job->messages_dropped,
                                      .state_lost = job->state_lost,
                                      .start_error = job->start_error};
    BUF_AUTO struct buf payload;
    buf_init(&payload, FRAME_PAYLOAD_MAX);
    (void)sandbox_exit_encode(&exit, &payload, NULL);
    fake_send(connection, FRAME_CLOSE, job->stream + STREAM_STDOUT, NULL, 0);
    fake_send(connection, FRAME_CLOSE, job->stream + STREAM_STDERR, NULL, 0);
    fake_send(connection, FRAME_EXIT, job->stream, payload.data, payload.size);
}

static void forget_events(struct fake_job *job)
{
    for (size_t i = 0; i < job->event_count; i++)
        free(job->events[i].data);
    job->event_count = job->events_sent = 0;
}

void fake_job_deliver(struct fake_job *job)
{
    struct fake_connection *connection = job->connection;
    if (!connection || connection->closing || job->exit_sent)
        return;
    if (job->started && !job->started_sent)
        fake_send(connection, FRAME_STARTED, job->stream, NULL, 0);
    job->started_sent = job->started;
    while (job->events_sent < job->event_count) {
        const struct fake_event *event = &job->events[job->events_sent];
        if (job->credit[event->part] < event->size)
            return;
        fake_send(connection, event->type, job->stream + event->part, event->data, event->size);
        job->credit[event->part] -= event->size;
        job->events_sent++;
        if (job->box->fault == FAKE_FAULT_CLOSE_OUTPUT) {
            job->box->fault = FAKE_FAULT_NONE;
            connection->closing = true;
            return;
        }
    }
    if (!job->hold)
        forget_events(job);
    if (!job->ended)
        return;
    if (job->box->fault == FAKE_FAULT_CLOSE_EXIT) {
        job->box->fault = FAKE_FAULT_NONE;
        connection->closing = true;
        return;
    }
    if (job->box->fault != FAKE_FAULT_MUTE)
        send_exit(job);
    job->exit_sent = true;
}

/* ---- output ---- */

static void add_event(struct fake_job *job, enum frame_type type, enum frame_stream part,
                      const void *data, size_t size)
{
    if (job->event_count == job->event_capacity) {
        job->event_capacity = job->event_capacity == 0 ? 16 : 2 * job->event_capacity;
        job->events = reallocarray(job->events, job->event_capacity, sizeof(*job->events));
        if (!job->events)
            abort();
    }
    uint8_t *copy = malloc(size > 0 ? size : 1);
    if (!copy)
        abort();
    memcpy(copy, data, size);
    job->events[job->event_count++] =
        (struct fake_event){.type = type, .part = part, .data = copy, .size = size};
}

/* A reader without credit slows the code; without a reader it goes on. */
static void pass_on(struct fake_job *job)
{
    fake_job_deliver(job);
    fake_wake(job->box);
    while (job->connection && job->events_sent < job->event_count && fake_job_running(job))
        fake_job_wait(job, INT64_MAX);
    if (job->hold || job->connection)
        return;
    fake_job_kill(job, KILL_SERVER);
}

static void check_output(struct fake_job *job)
{
    uint64_t most = job->is_run ? job->run.output_max_bytes : job->exec.output_max_bytes;
    if (job->written[0] + job->written[1] + job->message_bytes <= most)
        return;
    fake_job_kill(job, KILL_OUTPUT);
}

void fake_job_write(struct fake_job *job, unsigned index, const void *data, size_t size)
{
    const uint8_t *cursor = data;
    uint64_t keep = job->is_run ? job->run.keep_bytes : job->exec.keep_bytes;
    while (size > 0 && fake_job_running(job)) {
        size_t piece = size > FRAME_DATA_MAX ? FRAME_DATA_MAX : size;
        uint64_t room = keep > job->written[index] ? keep - job->written[index] : 0;
        if (room > 0 && piece > room)
            piece = (size_t)room;
        job->written[index] += piece;
        if (room > 0) {
            add_event(job, FRAME_DATA, index == 0 ? STREAM_STDOUT : STREAM_STDERR, cursor, piece);
            pass_on(job);
        }
        cursor += piece;
        size -= piece;
        check_output(job);
    }
}

void fake_job_message(struct fake_job *job, const void *data, size_t size)
{
    const uint8_t *cursor = data;
    if (!job->is_run || !fake_job_running(job))
        return;
    job->message_bytes += size;
    if (size > job->run.messages_max_bytes - job->messages_kept) {
        job->messages_dropped = true;
        check_output(job);
        return;
    }
    job->messages_kept += size;
    for (; size > FRAME_DATA_MAX; cursor += FRAME_DATA_MAX, size -= FRAME_DATA_MAX)
        add_event(job, FRAME_MESSAGE_PART, STREAM_CONTROL, cursor, FRAME_DATA_MAX);
    add_event(job, FRAME_MESSAGE, STREAM_CONTROL, cursor, size);
    pass_on(job);
    check_output(job);
}

/* ---- faults ---- */

static void send_garbage(struct fake_job *job)
{
    uint8_t bytes[FRAME_DATA_MAX] = {0};
    struct fake_connection *connection = job->connection;
    memset(bytes, 0xee, 64);
    if (!connection)
        return;
    if (job->box->fault == FAKE_FAULT_GARBAGE)
        (void)buf_append(&connection->out, bytes, 64, NULL);
    else if (job->box->fault == FAKE_FAULT_OVERSIZED)
        (void)buf_append(&connection->out, "\xff\xff\xff\xff\x05\0\0\0\0\0\0\0", 12, NULL);
    else if (job->box->fault == FAKE_FAULT_WRONG_STREAM)
        fake_send(connection, FRAME_DATA, job->stream + 40, "x", 1);
    for (int i = 0; i < 20 && job->box->fault == FAKE_FAULT_NO_CREDIT; i++)
        fake_send(connection, FRAME_DATA, job->stream + STREAM_STDOUT, bytes, sizeof(bytes));
    job->box->fault = FAKE_FAULT_NONE;
    fake_wake(job->box);
}

void fake_job_strike(struct fake_job *job)
{
    struct fake_sandbox *box = job->box;
    switch (box->fault) {
    case FAKE_FAULT_GARBAGE:
    case FAKE_FAULT_OVERSIZED:
    case FAKE_FAULT_WRONG_STREAM:
    case FAKE_FAULT_NO_CREDIT:
        send_garbage(job);
        break;
    case FAKE_FAULT_SILENT:
        box->silent = true;
        break;
    case FAKE_FAULT_DIES:
    case FAKE_FAULT_DIES_OF_MEMORY:
        fake_die(box);
        break;
    case FAKE_FAULT_KERNEL_DIES:
        box->fault = FAKE_FAULT_NONE;
        if (!job->is_run) {
            box->kernel.lost = box->kernel.lives;
            box->kernel.lives = false;
            break;
        }
        job->exit_code = EXIT_CRASHED;
        fake_job_kill(job, KILL_SIGNAL);
        break;
    default:
        break;
    }
}

/* ---- its life ---- */

/* Whether an earlier run has the kernel still. */
static bool is_kernel_taken(const struct fake_job *job)
{
    for (size_t i = 0; i < FAKE_JOBS_MAX; i++) {
        const struct fake_job *other = &job->box->jobs[i];
        if (other->used && other->is_run && !other->ended && other->order < job->order)
            return true;
    }
    return false;
}

static void begin(struct fake_job *job, uint64_t timeout_ms)
{
    job->started = true;
    job->began_ns = clock_now_ns();
    job->deadline_ns = timeout_ms == 0 ? INT64_MAX : fake_in_ms(timeout_ms);
    fake_job_deliver(job);
    fake_wake(job->box);
    fake_job_strike(job);
}

/* The script of a program that needs no file; NULL: it needs one. */
static const char *own_script(const struct sandbox_exec *exec)
{
    if (strcmp(exec->argv[0], "tar") == 0)
        return "out an archive";
    return strcmp(exec->argv[0], "script") == 0 && exec->argc > 1 ? exec->argv[1] : NULL;
}

static void run_exec(struct fake_job *job)
{
    begin(job, job->exec.timeout_ms);
    const char *script = own_script(&job->exec);
    if (script) {
        fake_script_run(job, script);
        return;
    }
    struct fake_file *file =
        fake_find_file(job->box, job->exec.cwd, job->exec.argv[job->exec.argc - 1]);
    BUF_AUTO struct buf text;
    buf_init(&text, FAKE_BYTES_MAX);
    if (!file && strstr(job->exec.argv[job->exec.argc - 1], "version"))
        fake_job_write(job, 0, "fake 1.0\n", 9);
    else if (!file || buf_append(&text, file->bytes.data, file->bytes.size, NULL) != 0)
        job->exit_code = EXIT_NO_FILE;
    else
        fake_script_run(job, buf_cstr(&text));
}

/* A script is a file by the time when it runs; the kernel writes it. */
static void write_script(struct fake_job *job)
{
    struct fake_file *file = fake_make_file(job->box, job->run.file);
    if (file)
        (void)buf_append(&file->bytes, job->code.data, job->code.size, NULL);
}

static void run_in_kernel(struct fake_job *job)
{
    struct fake_kernel *kernel = &job->box->kernel;
    while ((!job->code_closed || is_kernel_taken(job)) && fake_job_alive(job))
        fake_job_wait(job, INT64_MAX);
    if (!kernel->known)
        job->start_error = "no kernel was started";
    if (!kernel->known || !fake_job_alive(job))
        return;
    if (!kernel->lives)
        kernel->vars.count = 0;
    kernel->lives = kernel->used = true;
    job->state_lost = kernel->lost;
    kernel->lost = false;
    bool script = job->run.mode == SANDBOX_RUN_SCRIPT;
    if (script)
        write_script(job);
    begin(job, job->run.timeout_ms);
    fake_script_run(job, buf_cstr(&job->code));
    if (job->killed && !script)
        job->state_lost = true;
    if (job->killed || script)
        kernel->lives = false;
}

static void end_job(struct fake_job *job)
{
    struct fake_sandbox *box = job->box;
    if (box->silent)
        return; /* as if it hung: nobody ever hears */
    if (job->killed && !job->started)
        job->start_error = "ended before its start";
    if (job->start_error[0] != '\0') {
        job->exit_code = EXIT_REFUSED;
        job->hold = false; /* what never began is not kept */
    }
    if (job->killed && job->cause != KILL_SIGNAL)
        job->exit_code = EXIT_KILLED;
    if (box->fault == FAKE_FAULT_DIES || box->fault == FAKE_FAULT_DIES_OF_MEMORY)
        fake_die(box);
    job->ended = true;
    if (!box->over)
        fake_job_deliver(job);
    (void)pthread_cond_broadcast(&box->changed);
    fake_wake(box);
}

static void *job_main(void *context)
{
    struct fake_job *job = context;
    (void)pthread_mutex_lock(&job->box->lock);
    if (job->start_error[0] != '\0')
        ; /* refused */
    else if (job->is_run)
        run_in_kernel(job);
    else
        run_exec(job);
    end_job(job);
    (void)pthread_mutex_unlock(&job->box->lock);
    return NULL;
}

static bool decode(struct fake_job *job, const struct frame *frame)
{
    (void)buf_append(&job->payload, frame->payload, frame->size, NULL);
    if (frame->type == FRAME_RUN)
        return sandbox_run_decode(job->payload.data, job->payload.size, &job->run, NULL) == 0;
    return sandbox_exec_decode(job->payload.data, job->payload.size, &job->exec, NULL) == 0;
}

/* Those that ended and that nobody forgot. */
static size_t count_kept(const struct fake_sandbox *box)
{
    size_t count = 0;
    for (size_t i = 0; i < FAKE_JOBS_MAX; i++)
        count += box->jobs[i].used && box->jobs[i].hold && box->jobs[i].ended;
    return count;
}

void fake_job_begin(struct fake_sandbox *box, struct fake_connection *connection,
                    const struct frame *frame)
{
    struct fake_job *job = NULL;
    for (size_t i = 0; i < FAKE_JOBS_MAX && !job; i++)
        job = box->jobs[i].used ? NULL : &box->jobs[i];
    if (!job) {
        connection->closing = true; /* no test means to have so many */
        return;
    }
    *job = (struct fake_job){.used = true,
                             .box = box,
                             .order = ++box->next_order,
                             .is_run = frame->type == FRAME_RUN,
                             .start_error = "",
                             .deadline_ns = INT64_MAX,
                             .grace_end_ns = INT64_MAX};
    buf_init(&job->payload, FRAME_PAYLOAD_MAX);
    buf_init(&job->code, SANDBOX_CODE_MAX + 1);
    buf_init(&job->input, FAKE_BYTES_MAX);
    bool good = decode(job, frame);
    job->hold = good && (job->is_run ? job->run.hold : job->exec.hold);
    if (job->hold && count_kept(box) >= SANDBOX_HELD_MAX)
        job->start_error = "too many executions are held";
    fake_job_attach(job, connection, frame->stream, 0);
    job->joined = !good || pthread_create(&job->thread, NULL, job_main, job) != 0;
    if (!job->joined)
        return;
    connection->closing = true; /* as init does to whoever sends nonsense */
    job->ended = true;
}

void fake_job_attach(struct fake_job *job, struct fake_connection *connection, uint32_t stream,
                     uint64_t after)
{
    if (job->connection && !job->exit_sent) /* a later one takes over */
        fake_send_done(job->connection, job->stream, ECANCELED, 0);
    job->connection = connection;
    job->stream = stream;
    job->started_sent = job->exit_sent = false;
    job->events_sent = after < job->event_count ? (size_t)after : job->event_count;
    for (size_t i = 0; i < 4; i++)
        job->credit[i] = FRAME_WINDOW;
    fake_job_deliver(job);
    (void)pthread_cond_broadcast(&job->box->changed);
}

void fake_job_detach(struct fake_job *job)
{
    job->connection = NULL;
    if (!job->hold)
        fake_job_kill(job, KILL_SERVER);
    (void)pthread_cond_broadcast(&job->box->changed);
}

struct fake_job *fake_job_of_stream(struct fake_sandbox *box,
                                    const struct fake_connection *connection, uint32_t stream)
{
    for (size_t i = 0; i < FAKE_JOBS_MAX; i++) {
        struct fake_job *job = &box->jobs[i];
        if (job->used && job->connection == connection &&
            job->stream == stream - stream % STREAM_STEP)
            return job;
    }
    return NULL;
}

struct fake_job *fake_job_held(struct fake_sandbox *box, const char *execution_id)
{
    for (size_t i = 0; i < FAKE_JOBS_MAX; i++) {
        struct fake_job *job = &box->jobs[i];
        const char *id = job->is_run ? job->run.execution_id : job->exec.execution_id;
        if (job->used && job->hold && strcmp(id, execution_id) == 0)
            return job;
    }
    return NULL;
}

void fake_job_free(struct fake_job *job)
{
    forget_events(job);
    free(job->events);
    if (job->is_run)
        sandbox_run_done(&job->run);
    else
        sandbox_exec_done(&job->exec);
    buf_done(&job->payload);
    buf_done(&job->code);
    buf_done(&job->input);
    *job = (struct fake_job){0};
}
