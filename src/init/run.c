/* Owns the life of one run, from its frame to its EXIT. Never blocks. */
#include "init/run.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <fcntl.h>
#include <string.h>

#include "base/fault.h"
#include "base/fd.h"
#include "init/job_end.h"
#include "init/job_table.h"
#include "wire/kernel_msg.h"
#include "wire/tlv.h"

#define MESSAGE_COST 64U /* an empty message is not free */
enum { RUN_PIPES = PIPES_STDIN | PIPES_STDOUT | PIPES_STDERR };
enum { EXIT_REFUSED = 126, EXIT_KILLED = 128 + SIGKILL, RUN_MAX = SANDBOX_HELD_MAX };

/* ---- before it runs ---- */

static const char *open_held(struct job *job, struct job_table *table,
                             const struct sandbox_run *run)
{
    const char *why = NULL;
    if (job_table_count(table, JOB_RUN) > RUN_MAX)
        return "too many runs wait";
    if (!kernel_spec_is_set(&table->kernel.spec) && table->kernel.state == KERNEL_NONE &&
        job_table_count(table, JOB_KERNEL) == 0)
        return "no kernel was started";
    if (!run->hold)
        return NULL;
    job->held = held_open(&table->held, run->execution_id, job->own.out, job->own.stream, &why);
    if (job->held)
        job->outlet = &job->held->outlet;
    return why;
}

int run_start(struct job *job, struct job_table *table, const void *payload, size_t size,
              uint32_t stream, struct buf *out, struct err *err)
{
    struct sandbox_run run;
    int result = sandbox_run_decode(payload, size, &run, err);
    if (result != 0)
        return result;
    job_begin(job, JOB_RUN, out, stream);
    buf_init(&job->run.params, FRAME_PAYLOAD_MAX);
    buf_init(&job->run.code, SANDBOX_CODE_MAX);
    job->run.mode = run.mode;
    job->run.grace_ms = run.grace_ms;
    job->run.messages_max_bytes = run.messages_max_bytes;
    job->keep_bytes = run.keep_bytes;
    job->output_max_bytes = run.output_max_bytes;
    const char *why = open_held(job, table, &run);
    if (!why)
        result = buf_append(&job->run.params, payload, size, err);
    sandbox_run_done(&run);
    if (why) {
        const struct sandbox_exit exit = {.exit_code = EXIT_REFUSED, .start_error = why};
        job_end_refused(job, &exit);
        job_clear(job);
        return 0;
    }
    return result;
}

int run_feed_code(struct job *job, const void *data, size_t size, struct err *err)
{
    if (job->run.phase != RUN_CODE)
        return err_set(err, ERR_PROTOCOL, "code behind its end");
    if (buf_append(&job->run.code, data, size, NULL) != 0)
        return err_set(err, ERR_PROTOCOL, "more than %u bytes of code", SANDBOX_CODE_MAX);
    return 0;
}

void run_end_code(struct job *job, struct job_table *table)
{
    if (job->run.phase != RUN_CODE)
        return;
    job->run.phase = RUN_QUEUED;
    job->run.turn = ++table->turns;
    if (job->held)
        job->held->begun = true;
}

static void refuse(struct job *job, const char *why)
{
    struct sandbox_exit exit = {.exit_code = EXIT_REFUSED, .start_error = why};
    if (job->cause != KILL_NONE) {
        exit.exit_code = EXIT_KILLED;
        exit.cause = job->cause;
    } else if (job->start_error[0] != '\0') {
        exit.exit_code = (uint8_t)job->start_error[0];
        exit.start_error = job->start_error + 1;
    }
    job_end_refused(job, &exit);
    job_clear(job);
}

/* Ends what can't run any more; false: it goes on waiting. */
static bool step_waiting(struct job *job, struct job_table *table)
{
    if (job_table_awaits_files(table, &job->files_failed))
        return true;
    if (job->cause != KILL_NONE)
        refuse(job, "ended before its start");
    else if (job->files_failed)
        refuse(job, "a file of this execution was not written");
    else
        return true;
    return false;
}

/* A kernel that speaks lines finds all of its standard input when it begins. The file takes it as a
 * program's pipe would, so that credit is given. */
static void collect_input(struct job *job)
{
    size_t queued = job->stdin_queue.size;
    uint64_t before = job->stdin_total;
    if (queued == 0)
        return;
    if (job->run.input_fd < 0) {
        job->run.input_fd = kernel_lines_new_file();
        job->stdin_fd = job->run.input_fd < 0 ? -1 : fcntl(job->run.input_fd, F_DUPFD_CLOEXEC, 0);
    }
    job_step_input(job);
    job->run.input_cut |= job->stdin_total - before < queued - job->stdin_queue.size;
}

static bool has_input(const struct job *job, const struct job_table *table)
{
    return !table->kernel.spec.lines || (job->stdin_closed_by_peer && job->stdin_queue.size == 0);
}

static struct job *first_in_queue(struct job_table *table)
{
    struct job *first = NULL;
    for (size_t i = 0; i < JOB_MAX; i++) {
        struct job *job = &table->jobs[i];
        if (job->kind == JOB_RUN && job->run.phase == RUN_QUEUED &&
            (!first || job->run.turn < first->run.turn))
            first = job;
    }
    return first;
}

/* ---- its start ---- */

/* A kernel takes the last of two variables of one name. */
static int make_body(const struct job *job, const struct kernel_spec *spec,
                     const struct sandbox_run *run, struct buf *body, struct err *err)
{
    struct tlv_writer writer;
    int result = 0;
    tlv_begin(&writer, body);
    tlv_put_str(&writer, KERNEL_TAG_ID, run->execution_id);
    tlv_put_u64(&writer, KERNEL_TAG_MODE, (uint64_t)run->mode);
    tlv_put_str(&writer, KERNEL_TAG_FILE, run->file);
    if (spec->owed)
        result = kernel_spec_put_variables(spec, &writer, err);
    if (result != 0)
        return result;
    for (size_t i = 0; i < run->envc; i++)
        tlv_put_str(&writer, KERNEL_TAG_ENV, run->envp[i]);
    tlv_put_bytes(&writer, KERNEL_TAG_CODE, job->run.code.data, job->run.code.size);
    return tlv_end(&writer, err);
}

/* Those that were made ahead, or new ones. */
static int take_pipes(struct job_table *table, struct pipes *pipes, struct err *err)
{
    if (table->next_pipes.child[0] < 0)
        return pipes_make(pipes, RUN_PIPES, err);
    *pipes = table->next_pipes;
    table->next_pipes = PIPES_INIT;
    return 0;
}

void run_make_ready(struct job_table *table)
{
    const struct kernel *kernel = &table->kernel;
    if (kernel->state != KERNEL_ALIVE || kernel->lines.on || kernel->job ||
        table->next_pipes.child[0] >= 0)
        return;
    if (pipes_make(&table->next_pipes, RUN_PIPES, NULL) != 0)
        pipes_done(&table->next_pipes); /* the run hears of it, if it is still so */
}

/* The same for one that speaks lines. */
static int make_lines(const struct job *job, const struct kernel_spec *spec,
                      const struct sandbox_run *run, struct buf *lines, struct err *err)
{
    int result = 0;
    if (run->mode != SANDBOX_RUN_CELL)
        return err_set(err, ERR_UNSUPPORTED, "a kernel of this language runs no scripts");
    if (job->run.input_cut)
        return err_set(err, ERR_TOO_LARGE, "standard input is larger than a file may be");
    if (spec->owed)
        result = kernel_spec_put_lines(spec, lines, err);
    for (size_t i = 0; result == 0 && i < run->envc; i++)
        result = lines_put_variable(lines, run->envp[i], err);
    if (result == 0)
        result = lines_put_run(lines, run->execution_id, run->timeout_ms, run->file,
                               job->run.code.data, job->run.code.size, err);
    return result;
}

static int hand_over(struct job *job, struct job_table *table, struct err *err)
{
    struct sandbox_run run;
    PIPES_AUTO struct pipes pipes = PIPES_INIT;
    struct kernel *kernel = &table->kernel;
    int result = sandbox_run_decode(job->run.params.data, job->run.params.size, &run, err);
    if (result != 0)
        return result;
    struct buf *body = kernel_begin_run(kernel, err);
    if (!body)
        result = -ERR_TOO_LARGE;
    else if (kernel->lines.on)
        result = make_lines(job, &kernel->spec, &run, body, err);
    else
        result = make_body(job, &kernel->spec, &run, body, err);
    if (result == 0)
        result = kernel->lines.on ? kernel_lines_lend_outputs(&kernel->lines, &pipes, err)
                                  : take_pipes(table, &pipes, err);
    if (result == 0) {
        fault_point("init.run");
        job_begin_usage(job, table->config);
        job->started_ns = job->ended_ns = clock_now_ns();
        if (run.timeout_ms > 0 && run.timeout_ms < UINT64_C(1) << 40)
            job->deadline_ns = job->started_ns + (int64_t)run.timeout_ms * CLOCK_NS_PER_MS;
        job_take_pipes(job, &pipes);
        kernel_give_run(kernel, job, &pipes);
    } else {
        kernel_drop_run(kernel);
    }
    sandbox_run_done(&run);
    return result;
}

/* False: the code has broken the kernel that it left behind, and the next one gets the run. */
static bool set_input(const struct job *job, struct job_table *table)
{
    const struct kernel_lines *lines = &table->kernel.lines;
    if (!lines->on ||
        (!kernel_lines_is_deaf(lines) && kernel_lines_set_input(lines, job->run.input_fd) == 0))
        return true;
    job_table_kill_group(table, KILL_SERVER);
    return false;
}

static void begin(struct job *job, struct job_table *table)
{
    struct rusage used;
    struct err err = ERR_INIT;
    if (!set_input(job, table))
        return;
    fd_close(&job->run.input_fd);
    fd_close(&job->stdin_fd);
    if (hand_over(job, table, &err) != 0) {
        refuse(job, err.message);
        table->unsettled = true; /* another one may wait */
        return;
    }
    if (table->config->cgroup_mode == INIT_CGROUP_NONE) {
        group_read_process(table->config, table->kernel.pid, &used);
        job->base.cpu_us = group_cpu_us(&used);
    }
    buf_done(&job->run.code);
    job->run.phase = RUN_RUNNING;
    job_say_started(job);
    if (job->run.struck)
        kernel_interrupt(&table->kernel);
    job_step_input(job);
}

void run_schedule(struct job_table *table)
{
    struct kernel *kernel = &table->kernel;
    struct job *job = first_in_queue(table);
    bool has_spec = kernel_spec_is_set(&kernel->spec);
    if (!job || kernel->job || job->files_failed || job->cause != KILL_NONE ||
        job_table_awaits_files(table, &job->files_failed) ||
        (!has_spec && job_table_count(table, JOB_KERNEL) > 0))
        return;
    if (kernel->state == KERNEL_ALIVE) {
        /* Without fd it is deaf and about to be killed: the next one gets it. */
        if (kernel->fd >= 0 && has_input(job, table))
            begin(job, table);
    } else if (kernel->state == KERNEL_NONE && !kernel->wanted) {
        if (!job->run.asked && has_spec) {
            kernel->wanted = true;
            job->run.asked = true;
        } else {
            memcpy(job->start_error, kernel->start_error, sizeof(job->start_error));
            refuse(job, kernel->failure == ETIMEDOUT ? "the kernel was not ready in time"
                                                     : "the kernel did not start");
            table->unsettled = true; /* another one may wait */
        }
    } else if (kernel->state != KERNEL_DYING) {
        job->run.asked = true;
    }
}

/* ---- while it runs ---- */

/* A message that is not passed on is read and counted all the same. */
static bool is_wanted(struct job *job, size_t size)
{
    uint64_t cost = size + MESSAGE_COST;
    uint64_t left = job->run.messages_max_bytes - job->run.message_kept;
    if (size > 0 && !job->run.messages_dropped && cost <= left) {
        job->run.message_kept += cost;
        return true;
    }
    job->run.messages_dropped |= size > 0;
    return false;
}

/* How much of a message its reader takes now; a log takes all. */
static size_t message_room(const struct job *job)
{
    if (job->held)
        return held_is_behind(job->held) ? 0 : FRAME_DATA_MAX;
    if (!job->outlet->out)
        return FRAME_DATA_MAX;
    uint32_t credit = outlet_has_room(job->outlet) ? job->outlet->credit[STREAM_CONTROL] : 0;
    return credit < FRAME_DATA_MAX ? credit : FRAME_DATA_MAX;
}

/* Sends pieces while there is credit; false: some are left. */
static bool send_message(struct job *job, const uint8_t *body, size_t size)
{
    while (job->run.message_sent < size) {
        size_t left = size - job->run.message_sent;
        size_t room = message_room(job);
        size_t piece = left < room ? left : room;
        if (piece == 0)
            return false;
        outlet_send(job->outlet, piece == left ? FRAME_MESSAGE : FRAME_MESSAGE_PART, STREAM_CONTROL,
                    body + job->run.message_sent, piece);
        job->run.message_sent += piece;
    }
    return true;
}

/* A log takes a whole message or none of it. */
static bool keep_message(struct job *job, struct job_table *table, const uint8_t *body, size_t size)
{
    if (job->run.message_sent == size)
        return true;
    if (message_room(job) == 0)
        return false;
    bool fits = held_has_room(&table->held, size);
    for (size_t sent = 0; fits && sent < size;) {
        size_t piece = size - sent < FRAME_DATA_MAX ? size - sent : FRAME_DATA_MAX;
        enum frame_type type = sent + piece == size ? FRAME_MESSAGE : FRAME_MESSAGE_PART;
        fits = held_append(&table->held, job->held, type, STREAM_CONTROL, body + sent, piece);
        sent += piece;
    }
    job->run.messages_dropped |= !fits;
    return true;
}

/* From now on only what was in the pipes when the kernel was last heard is read: it was written
 * before what is there of it. One look does for all that came together. */
static void look_behind(struct job *job, struct job_table *table)
{
    if (table->kernel.heard)
        job_drain(job);
    table->kernel.heard = false;
    job->draining = true;
}

bool run_take_message(struct job *job, struct job_table *table, const uint8_t *body, size_t size)
{
    if (!job->draining) { /* what was written before it comes before it */
        look_behind(job, table);
        job->run.message_sent = 0;
        job->run.message_bytes += size;
        job->run.message_cost += size + MESSAGE_COST;
        if (!is_wanted(job, size))
            job->run.message_sent = size;
    }
    job_step_output(job, table);
    if (!job_is_drained(job) ||
        !(job->held ? keep_message(job, table, body, size) : send_message(job, body, size)))
        return false;
    job->draining = false;
    return true;
}

void run_count_noise(struct job *job, size_t size)
{
    job->run.message_cost += size + MESSAGE_COST;
}

void run_is_done(struct job *job, struct job_table *table, uint8_t exit_code)
{
    if (job->run.phase != RUN_RUNNING || job->run.mode != SANDBOX_RUN_CELL)
        return; /* a program's end is its own */
    fault_point("init.done");
    job->run.exit_code = exit_code;
    job->run.phase = RUN_DRAINING;
    job->ended_ns = clock_now_ns();
    fd_close(&job->stdin_fd);
    look_behind(job, table);
}

void run_is_last(struct job *job, struct job_table *table, uint8_t exit_code)
{
    if (job->run.phase != RUN_RUNNING)
        return;
    fault_point("init.done");
    job->run.exit_code = exit_code;
    job->run.last = true;
    job->run.phase = RUN_DYING;
    job_table_kill_group(table, KILL_SERVER);
}

void run_kernel_died(struct job *job, struct job_table *table)
{
    if (job->run.phase != RUN_RUNNING && job->run.phase != RUN_DYING)
        return;
    job->wait_status = table->kernel.wait_status;
    job->rusage = table->kernel.rusage;
    job->ended_ns = clock_now_ns();
    job->run.phase = RUN_DYING;
}

void run_kill(struct job *job, struct job_table *table, enum kill_cause cause)
{
    if (job->cause == KILL_NONE && job->run.phase <= RUN_RUNNING)
        job->cause = cause; /* later it has ended by itself, and only its output is on the way */
    if (job->run.phase < RUN_RUNNING)
        job_table_kill_files(table, &job->files_failed, cause);
    if (job->run.phase != RUN_RUNNING)
        return;
    job->run.phase = RUN_DYING;
    job->killing = true;
    job_table_kill_group(table, cause);
}

void run_interrupt(struct job *job, struct job_table *table)
{
    if (first_in_queue(table) == job && !table->kernel.job && has_input(job, table))
        job->run.struck = true; /* it is about to begin, and ends as one that has begun */
    else if (job->run.phase < RUN_RUNNING)
        run_kill(job, table, KILL_USER); /* what it waits for may take for ever */
    else if (job->run.phase == RUN_RUNNING)
        kernel_interrupt(&table->kernel);
}

/* First the code is asked to end, and its state lives on if it does. */
static void step_deadline(struct job *job, struct job_table *table, int64_t now_ns)
{
    if (job->run.phase != RUN_RUNNING)
        return;
    if (now_ns >= job->run.grace_ns) {
        run_kill(job, table, KILL_TIMEOUT);
    } else if (now_ns >= job->deadline_ns) {
        job->deadline_ns = INT64_MAX;
        job->cause = KILL_TIMEOUT;
        uint64_t grace_ms = job->run.grace_ms < UINT64_C(1) << 30 ? job->run.grace_ms : 0;
        job->run.grace_ns = now_ns + (int64_t)grace_ms * CLOCK_NS_PER_MS;
        if (grace_ms > 0)
            kernel_interrupt(&table->kernel);
        else
            run_kill(job, table, KILL_TIMEOUT);
    }
}

/* What the run left behind goes on, and may write on. */
static void let_go(struct job *job, struct job_table *table)
{
    for (int i = 0; i < 2; i++) {
        if (table->kernel.lines.on) /* they are the kernel's */
            fd_close(&job->outputs[i].fd);
        leftover_add(&table->leftover, fd_take(&job->outputs[i].fd), job->ended_ns);
    }
}

static bool is_over(struct job *job, struct job_table *table)
{
    const struct kernel *kernel = &table->kernel;
    if (job->run.phase == RUN_DRAINING) {
        if (job_is_drained(job))
            let_go(job, table);
    } else if (job->run.phase != RUN_DYING || kernel->pid > 0 || table->killing ||
               !kernel_is_heard_out(kernel)) {
        return false;
    }
    return job->outputs[0].fd < 0 && job->outputs[1].fd < 0;
}

void run_step(struct job *job, struct job_table *table)
{
    if (job->run.phase < RUN_RUNNING) {
        if (step_waiting(job, table) && table->kernel.spec.lines)
            collect_input(job);
        return;
    }
    int64_t now_ns = clock_now_ns();
    job_step_input(job);
    job_step_output(job, table);
    kernel_deliver(&table->kernel, table);
    step_deadline(job, table, now_ns);
    job_step_oom(job, table, now_ns);
    if (!is_over(job, table))
        return;
    kernel_leave_run(&table->kernel, job);
    job_end_run(job, table);
    job_clear(job);
}

/* Whether the message that is there waits for somebody else than us. */
static bool is_blocked(const struct job *job)
{
    return job->draining && (!job_is_drained(job) || message_room(job) == 0);
}

int64_t run_wakeup_ns(const struct job *job, const struct job_table *table)
{
    bool refused = job->run.phase < RUN_RUNNING && (job->files_failed || job->cause != KILL_NONE);
    if (refused && !job_table_awaits_files(table, &job->files_failed))
        return 0;
    bool has_kernel = job->run.phase == RUN_RUNNING || job->run.phase == RUN_DYING;
    if (has_kernel && kernel_has_message(&table->kernel) && !is_blocked(job))
        return 0;
    if (job->run.phase != RUN_RUNNING)
        return INT64_MAX;
    return job->run.grace_ns < job->deadline_ns ? job->run.grace_ns : job->deadline_ns;
}
