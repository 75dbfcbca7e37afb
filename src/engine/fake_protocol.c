/* Owns what a frame of the server means to a fake sandbox. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "engine/fake_internal.h"
#include "wire/tlv.h"

/* ---- files ---- */

static bool is_denied(const char *path)
{
    return strncmp(path, "/denied", 7) == 0;
}

struct fake_file *fake_make_file(struct fake_sandbox *box, const char *path)
{
    struct fake_file *file = fake_find_file(box, "/workspace", path);
    if (!file && box->file_count < FAKE_FILES_MAX) {
        file = &box->files[box->file_count++];
        (void)snprintf(file->path, sizeof(file->path), "%s%s", path[0] == '/' ? "" : "/workspace/",
                       path);
        buf_init(&file->bytes, FAKE_BYTES_MAX);
    }
    if (file) {
        file->bytes.size = 0;
        file->inode = (uint64_t)(file - box->files) + 1;
        file->changed_ns++; /* a count of its versions does as a time */
    }
    return file;
}

static void on_put_file(struct fake_sandbox *box, struct fake_connection *connection,
                        const struct frame *frame)
{
    struct sandbox_put_file put = {0};
    connection->put = (struct fake_put){.stream = frame->stream, .sys_errno = ENFILE};
    if (sandbox_put_file_decode(frame->payload, frame->size, &put, NULL) != 0)
        return;
    bool struck = box->fault == FAKE_FAULT_PUT_REFUSED;
    if (struck || is_denied(put.path)) {
        connection->put.sys_errno = struck ? EISDIR : EACCES;
        connection->refused = struck;
        if (struck)
            box->fault = FAKE_FAULT_NONE;
        return;
    }
    connection->put.file = fake_make_file(box, put.path);
    connection->put.sys_errno = connection->put.file ? 0 : ENFILE;
}

static void on_put_data(struct fake_connection *connection, const struct frame *frame)
{
    struct fake_put *put = &connection->put;
    if (put->file && buf_append(&put->file->bytes, frame->payload, frame->size, NULL) != 0)
        put->sys_errno = ENOSPC;
    put->size += frame->size;
    (void)frame_append_u32(&connection->out, FRAME_CREDIT, frame->stream, (uint32_t)frame->size,
                           NULL);
}

static void end_put(struct fake_connection *connection, int sys_errno)
{
    struct fake_put *put = &connection->put;
    fake_send_done(connection, put->stream, put->sys_errno != 0 ? put->sys_errno : sys_errno,
                   put->size);
    *put = (struct fake_put){0};
}

static void end_get(struct fake_connection *connection, int sys_errno)
{
    struct fake_get *get = &connection->get;
    fake_send(connection, FRAME_CLOSE, get->stream + STREAM_STDOUT, NULL, 0);
    fake_send_done(connection, get->stream, sys_errno, get->sent);
    buf_done(&get->bytes);
    *get = (struct fake_get){0};
}

void fake_step_get(struct fake_connection *connection)
{
    struct fake_get *get = &connection->get;
    if (get->stream == 0)
        return;
    while (get->sent < get->bytes.size && get->credit > 0) {
        size_t piece = get->bytes.size - get->sent;
        piece = piece > FRAME_DATA_MAX ? FRAME_DATA_MAX : piece;
        piece = piece > get->credit ? (size_t)get->credit : piece;
        fake_send(connection, FRAME_DATA, get->stream + STREAM_STDOUT, get->bytes.data + get->sent,
                  piece);
        get->sent += piece;
        get->credit -= piece;
    }
    if (get->sent == get->bytes.size)
        end_get(connection, 0);
}

static void on_get_file(struct fake_sandbox *box, struct fake_connection *connection,
                        const struct frame *frame)
{
    struct sandbox_get_file ask = {.path = ""};
    struct fake_get *get = &connection->get;
    bool good = sandbox_get_file_decode(frame->payload, frame->size, &ask, NULL) == 0;
    const struct fake_file *file = fake_find_file(box, "/workspace", ask.path);
    *get = (struct fake_get){.stream = frame->stream, .credit = FRAME_WINDOW};
    buf_init(&get->bytes, FAKE_BYTES_MAX);
    if (!good || is_denied(ask.path)) {
        end_get(connection, EACCES);
        return;
    }
    if (!file) {
        end_get(connection, ENOENT);
        return;
    }
    if (ask.info != SANDBOX_INFO_NONE) {
        const struct sandbox_file_info info = {
            .size_bytes = file->bytes.size, .inode = file->inode, .changed_ns = file->changed_ns};
        uint8_t told[SANDBOX_FILE_INFO_SIZE];
        sandbox_file_info_encode(&info, told);
        (void)buf_append(&get->bytes, told, sizeof(told), NULL);
    }
    uint64_t size = file->bytes.size > ask.offset ? file->bytes.size - ask.offset : 0;
    if (ask.size_bytes > 0 && ask.size_bytes < size)
        size = ask.size_bytes;
    if (ask.info == SANDBOX_INFO_ONLY)
        size = 0;
    if (size > 0)
        (void)buf_append(&get->bytes, file->bytes.data + ask.offset, (size_t)size, NULL);
    fake_step_get(connection);
}

/* ---- kernel, held executions, timers ---- */

/* Whether the two are the same program: all but their variables. */
static bool is_same_program(const struct sandbox_kernel *one, const struct sandbox_kernel *other)
{
    bool same = strcmp(one->cwd, other->cwd) == 0 && one->argc == other->argc &&
                one->input_size == other->input_size && one->protocol == other->protocol;
    for (size_t i = 0; same && i < one->argc; i++)
        same = strcmp(one->argv[i], other->argv[i]) == 0;
    return same && (one->input_size == 0 || memcmp(one->input, other->input, one->input_size) == 0);
}

/* Whether the kernel that lives may be given out as the one that is asked for. */
static bool may_take(const struct fake_kernel *kernel, const struct frame *frame)
{
    struct sandbox_kernel spec = {0};
    if (kernel->payload.size == frame->size &&
        memcmp(kernel->payload.data, frame->payload, frame->size) == 0)
        return true;
    bool similar = !kernel->used &&
                   sandbox_kernel_decode(frame->payload, frame->size, &spec, NULL) == 0 &&
                   is_same_program(&kernel->spec, &spec);
    sandbox_kernel_done(&spec);
    return similar;
}

static void on_kernel(struct fake_sandbox *box, struct fake_connection *connection,
                      const struct frame *frame)
{
    struct fake_kernel *kernel = &box->kernel;
    if (box->fault == FAKE_FAULT_KERNEL_FAILS || (kernel->lives && !may_take(kernel, frame))) {
        fake_send_done(connection, frame->stream, kernel->lives ? EEXIST : ENOENT, 0);
        return;
    }
    if (!kernel->lives) {
        kernel->vars.count = 0;
        kernel->used = false;
    }
    if (!kernel->used) { /* one that lives gets at most other variables by this */
        sandbox_kernel_done(&kernel->spec);
        kernel->payload.size = 0;
        (void)buf_append(&kernel->payload, frame->payload, frame->size, NULL);
        kernel->known = kernel->lives =
            sandbox_kernel_decode(kernel->payload.data, kernel->payload.size, &kernel->spec,
                                  NULL) == 0;
    }
    fake_send_done(connection, frame->stream, kernel->known ? 0 : EINVAL, 0);
}

static void on_attach(struct fake_sandbox *box, struct fake_connection *connection,
                      const struct frame *frame)
{
    struct sandbox_attach attach = {.execution_id = ""};
    struct fake_job *job = NULL;
    if (sandbox_attach_decode(frame->payload, frame->size, &attach, NULL) == 0 &&
        box->fault != FAKE_FAULT_ATTACH_UNKNOWN)
        job = fake_job_held(box, attach.execution_id);
    if (!job)
        fake_send_done(connection, frame->stream, ESRCH, 0);
    else if (attach.after > job->event_count)
        fake_send_done(connection, frame->stream, EINVAL, 0);
    else
        fake_job_attach(job, connection, frame->stream, attach.after);
}

static void on_forget(struct fake_sandbox *box, struct fake_connection *connection,
                      const struct frame *frame)
{
    struct sandbox_attach attach = {.execution_id = ""};
    struct fake_job *job = NULL;
    if (sandbox_attach_decode(frame->payload, frame->size, &attach, NULL) == 0)
        job = fake_job_held(box, attach.execution_id);
    if (job && job->ended)
        job->hold = false; /* its thread is joined, then it is freed */
    fake_send_done(connection, frame->stream, !job ? ESRCH : job->ended ? 0 : EBUSY, 0);
}

static uint64_t left_ms(int64_t end_ns)
{
    int64_t now_ns = clock_now_ns();
    if (end_ns == INT64_MAX)
        return SANDBOX_NEVER;
    return end_ns > now_ns ? (uint64_t)((end_ns - now_ns) / CLOCK_NS_PER_MS) : 0;
}

static void on_list(const struct fake_sandbox *box, struct fake_connection *connection,
                    const struct frame *frame)
{
    struct sandbox_listed listed = {.kernel_lives = box->kernel.lives,
                                    .lifetime_ms = left_ms(box->lifetime_end_ns),
                                    .idle_ms = left_ms(fake_idle_end_ns(box))};
    for (size_t i = 0; i < FAKE_JOBS_MAX; i++) {
        const struct fake_job *job = &box->jobs[i];
        const char *id = job->is_run ? job->run.execution_id : job->exec.execution_id;
        if (!job->used || !job->hold)
            continue;
        struct sandbox_held *held = &listed.held[listed.count++];
        (void)snprintf(held->execution_id, sizeof(held->execution_id), "%s", id);
        held->ended = job->ended;
        held->events = job->event_count;
    }
    BUF_AUTO struct buf payload;
    buf_init(&payload, FRAME_PAYLOAD_MAX);
    (void)sandbox_listed_encode(&listed, &payload, NULL);
    fake_send(connection, FRAME_LISTED, frame->stream, payload.data, payload.size);
}

static void on_timers(struct fake_sandbox *box, struct fake_connection *connection,
                      const struct frame *frame)
{
    struct sandbox_timers timers = {0};
    if (box->fault == FAKE_FAULT_TIMERS_DIES) {
        fake_die(box);
        return;
    }
    if (sandbox_timers_decode(frame->payload, frame->size, &timers, NULL) != 0) {
        fake_send_done(connection, frame->stream, EINVAL, 0);
        return;
    }
    if (timers.lifetime_ms != 0)
        box->lifetime_end_ns = fake_in_ms(timers.lifetime_ms);
    if (timers.idle_ms != 0) {
        box->idle_ms = timers.idle_ms;
        if (box->idle_since_ns != INT64_MAX)
            box->idle_since_ns = clock_now_ns();
    }
    if (timers.orphan_ms != 0)
        box->orphan_ms = timers.orphan_ms;
    fake_send_done(connection, frame->stream, 0, 0);
}

static void on_limits(struct fake_sandbox *box, struct fake_connection *connection,
                      const struct frame *frame)
{
    struct sandbox_limits limits = {0};
    struct sandbox_limits *now = &box->limits;
    if (sandbox_limits_decode(frame->payload, frame->size, &limits, NULL) != 0) {
        fake_send_done(connection, frame->stream, EINVAL, 0);
        return;
    }
    now->pids_max = limits.pids_max != 0 ? limits.pids_max : now->pids_max;
    now->file_size_max = limits.file_size_max != 0 ? limits.file_size_max : now->file_size_max;
    now->open_files_max = limits.open_files_max != 0 ? limits.open_files_max : now->open_files_max;
    fake_send_done(connection, frame->stream, 0, 0);
}

/* ---- streams ---- */

static void on_data(struct fake_sandbox *box, struct fake_connection *connection,
                    const struct frame *frame)
{
    struct fake_job *job = fake_job_of_stream(box, connection, frame->stream);
    if (connection->put.stream != 0 && frame->stream == connection->put.stream) {
        on_put_data(connection, frame);
    } else if (job && frame->stream == job->stream) {
        (void)buf_append(&job->code, frame->payload, frame->size, NULL);
    } else if (job) {
        (void)buf_append(&job->input, frame->payload, frame->size, NULL);
        (void)frame_append_u32(&connection->out, FRAME_CREDIT, frame->stream, (uint32_t)frame->size,
                               NULL);
    }
}

static void on_close(struct fake_sandbox *box, struct fake_connection *connection,
                     const struct frame *frame)
{
    struct fake_job *job = fake_job_of_stream(box, connection, frame->stream);
    if (connection->put.stream != 0 && frame->stream == connection->put.stream) {
        end_put(connection, 0);
    } else if (job) {
        if (frame->stream == job->stream)
            job->code_closed = true;
        else
            job->input_closed = true;
        (void)pthread_cond_broadcast(&box->changed);
    }
}

static void on_credit(struct fake_sandbox *box, struct fake_connection *connection,
                      const struct frame *frame)
{
    struct fake_job *job = fake_job_of_stream(box, connection, frame->stream);
    struct fake_get *get = &connection->get;
    uint32_t value = 0;
    if (frame_u32(frame, &value, NULL) != 0)
        return;
    if (get->stream != 0 && frame->stream == get->stream + STREAM_STDOUT) {
        get->credit += value;
        fake_step_get(connection);
    } else if (job) {
        job->credit[frame->stream % STREAM_STEP] += value;
        fake_job_deliver(job);
        (void)pthread_cond_broadcast(&box->changed);
    }
}

static void on_kill(struct fake_sandbox *box, struct fake_connection *connection,
                    const struct frame *frame)
{
    struct fake_job *job = fake_job_of_stream(box, connection, frame->stream);
    uint32_t cause = 0;
    if (frame_u32(frame, &cause, NULL) != 0)
        return;
    if (connection->put.stream != 0 && frame->stream == connection->put.stream)
        end_put(connection, ECANCELED);
    else if (connection->get.stream != 0 && frame->stream == connection->get.stream)
        end_get(connection, ECANCELED);
    else if (job)
        fake_job_kill(job, (enum kill_cause)cause);
}

static void on_interrupt(struct fake_sandbox *box, struct fake_connection *connection,
                         const struct frame *frame)
{
    struct fake_job *job = fake_job_of_stream(box, connection, frame->stream);
    if (!job)
        return;
    if (!job->started)
        fake_job_kill(job, KILL_USER); /* nothing is there that could hear it */
    job->interrupted = job->interrupted || !job->deaf;
    (void)pthread_cond_broadcast(&box->changed);
}

static void on_network(struct fake_sandbox *box, struct fake_connection *connection,
                       const struct frame *frame)
{
    struct sandbox_network network = {0};
    int result = sandbox_network_decode(frame->payload, frame->size, &network, NULL);
    if (result == 0)
        box->network = network;
    fake_send_done(connection, frame->stream, result == 0 ? 0 : EINVAL, 0);
}

/* Nothing is ever accepted here. The one that said it before is let go. */
static void on_egress(struct fake_sandbox *box, struct fake_connection *connection,
                      const struct frame *frame)
{
    for (size_t i = 0; i < FAKE_CONNECTIONS_MAX; i++)
        box->connections[i].closing |= box->connections[i].egress;
    connection->egress = true;
    fake_send_done(connection, frame->stream, 0, 0);
}

void fake_on_frame(struct fake_sandbox *box, struct fake_connection *connection,
                   const struct frame *frame)
{
    switch (frame->type) {
    case FRAME_EXEC:
    case FRAME_RUN:
        if (!connection->refused) /* else the answer to its file is the last that is heard */
            fake_job_begin(box, connection, frame);
        connection->refused = false;
        break;
    case FRAME_PUT_FILE:
        on_put_file(box, connection, frame);
        break;
    case FRAME_GET_FILE:
        on_get_file(box, connection, frame);
        break;
    case FRAME_DATA:
        on_data(box, connection, frame);
        break;
    case FRAME_CLOSE:
        on_close(box, connection, frame);
        break;
    case FRAME_CREDIT:
        on_credit(box, connection, frame);
        break;
    case FRAME_KILL:
        on_kill(box, connection, frame);
        break;
    case FRAME_INTERRUPT:
        on_interrupt(box, connection, frame);
        break;
    case FRAME_KERNEL:
        on_kernel(box, connection, frame);
        break;
    case FRAME_ATTACH:
        on_attach(box, connection, frame);
        break;
    case FRAME_FORGET:
        on_forget(box, connection, frame);
        break;
    case FRAME_LIST:
        on_list(box, connection, frame);
        break;
    case FRAME_TIMERS:
        on_timers(box, connection, frame);
        break;
    case FRAME_LIMITS:
        on_limits(box, connection, frame);
        break;
    case FRAME_NETWORK:
        on_network(box, connection, frame);
        break;
    case FRAME_EGRESS:
        on_egress(box, connection, frame);
        break;
    case FRAME_PING:
        fake_send(connection, FRAME_PONG, frame->stream, NULL, 0);
        break;
    default:
        break;
    }
}
