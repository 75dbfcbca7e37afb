/* Owns the thread of a fake sandbox: the init's side of the sandbox protocol and the steps of a
 * script. One thread does both: a step that has to wait handles frames meanwhile. */
#include "engine/fake_sandbox.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/id.h"
#include "wire/frame.h"
#include "wire/tlv.h"

enum { FILES_MAX = 320, BYTES_MAX = 64 * 1024 * 1024 };

struct fake_file {
    char path[256];
    struct buf bytes;
};

struct fake_sandbox {
    char id[SANDBOX_ID_MAX + 1];
    pthread_t thread;
    bool runs; /* the thread is there to be joined */
    int fd, stop_fd;
    uint8_t nonce[SANDBOX_NONCE_SIZE];
    enum engine_fake_fault fault;
    void (*died)(void *context, const char *id);
    void *context;
    struct frame_decoder decoder;
    struct buf out;
    struct fake_file files[FILES_MAX];
    size_t file_count;
    uint32_t put_stream;        /* of the file that is being written; 0: none */
    struct fake_file *put_file; /* NULL: its bytes are dropped */
    int put_errno;
    /* the execution */
    struct buf exec_payload; /* what exec points into */
    struct sandbox_exec exec;
    uint32_t stream;
    bool exec_ready, script_over;
    uint64_t credit[2], written[2];
    struct buf input;
    bool input_closed;
    enum kill_cause cause;
    int64_t deadline_ns;
    uint32_t exit_code, limits_hit;
};

/* Writes what is queued; -1 when the server is gone. */
static int flush_out(struct fake_sandbox *box)
{
    int result = fd_write_all(box->fd, box->out.data, box->out.size, NULL);
    box->out.size = 0;
    return result == 0 ? 0 : -1;
}

static void send_frame(struct fake_sandbox *box, enum frame_type type, uint32_t stream,
                       const void *payload, size_t size)
{
    (void)frame_append(&box->out, type, stream, payload, size, NULL);
}

static void send_done(struct fake_sandbox *box, uint64_t size_bytes)
{
    BUF_AUTO struct buf payload;
    buf_init(&payload, FRAME_PAYLOAD_MAX);
    const struct sandbox_done done = {.sys_errno = box->put_errno, .size_bytes = size_bytes};
    (void)sandbox_done_encode(&done, &payload, NULL);
    send_frame(box, FRAME_DONE, box->put_stream, payload.data, payload.size);
}

static void on_put(struct fake_sandbox *box, const struct frame *frame)
{
    struct sandbox_put_file put = {0};
    box->put_stream = frame->stream;
    box->put_file = NULL;
    box->put_errno = ENFILE; /* every file is answered, or the server waits until its deadline */
    if (box->file_count >= FILES_MAX ||
        sandbox_put_file_decode(frame->payload, frame->size, &put, NULL) != 0)
        return;
    struct fake_file *file = box->put_file = &box->files[box->file_count++];
    (void)snprintf(file->path, sizeof(file->path), "%s%s", put.path[0] == '/' ? "" : "/workspace/",
                   put.path);
    buf_init(&file->bytes, BYTES_MAX);
    box->put_errno = strncmp(file->path, "/denied", 7) == 0 ? EACCES : 0;
}

static void on_data(struct fake_sandbox *box, const struct frame *frame)
{
    bool is_put = box->put_stream != 0 && frame->stream == box->put_stream;
    struct buf *to = !is_put ? &box->input : box->put_file ? &box->put_file->bytes : NULL;
    if (to)
        (void)buf_append(to, frame->payload, frame->size, NULL);
    (void)frame_append_u32(&box->out, FRAME_CREDIT, frame->stream, (uint32_t)frame->size, NULL);
}

static void on_exec(struct fake_sandbox *box, const struct frame *frame)
{
    box->exec_payload.size = 0;
    sandbox_exec_done(&box->exec);
    (void)buf_append(&box->exec_payload, frame->payload, frame->size, NULL);
    if (sandbox_exec_decode(box->exec_payload.data, box->exec_payload.size, &box->exec, NULL) != 0)
        return;
    box->stream = frame->stream;
    box->exec_ready = true;
    box->script_over = false;
    box->cause = KILL_NONE;
    box->exit_code = 0;
    box->limits_hit = 0;
    box->input.size = 0;
    box->input_closed = false;
    for (int i = 0; i < 2; i++) {
        box->credit[i] = FRAME_WINDOW;
        box->written[i] = 0;
    }
    box->deadline_ns = box->exec.timeout_ms == 0
                           ? INT64_MAX
                           : clock_now_ns() + (int64_t)box->exec.timeout_ms * CLOCK_NS_PER_MS;
}

static void on_frame(struct fake_sandbox *box, const struct frame *frame)
{
    uint32_t value = 0;
    switch (frame->type) {
    case FRAME_PUT_FILE:
        on_put(box, frame);
        break;
    case FRAME_DATA:
        on_data(box, frame);
        break;
    case FRAME_CLOSE:
        if (box->put_stream != 0 && frame->stream == box->put_stream) {
            send_done(box, box->put_file ? box->put_file->bytes.size : 0);
            box->put_stream = 0;
        } else {
            box->input_closed = true;
        }
        break;
    case FRAME_EXEC:
        on_exec(box, frame);
        break;
    case FRAME_CREDIT:
        value = frame->stream - box->stream - STREAM_STDOUT;
        if (value <= 1 && frame->size == 4)
            box->credit[value] += tlv_load_u32(frame->payload);
        break;
    case FRAME_KILL:
        if (frame->stream == box->stream && frame->size == 4 && box->cause == KILL_NONE)
            box->cause = (enum kill_cause)tlv_load_u32(frame->payload);
        break;
    default:
        break;
    }
}

/* Sends what is queued, waits for frames until until_ns and handles them. -1: it is over. */
static int pump(struct fake_sandbox *box, int64_t until_ns)
{
    if (flush_out(box) != 0)
        return -1;
    struct pollfd fds[2] = {{.fd = box->fd, .events = POLLIN},
                            {.fd = box->stop_fd, .events = POLLIN}};
    if (poll(fds, 2, clock_poll_timeout_ms(until_ns)) < 0 && errno != EINTR)
        return -1;
    if (fds[1].revents != 0)
        return -1;
    if (fds[0].revents == 0)
        return 0;
    if (frame_decoder_read(&box->decoder, box->fd, NULL) <= 0)
        return -1;
    struct frame frame;
    while (frame_decoder_next(&box->decoder, &frame, NULL) > 0)
        on_frame(box, &frame);
    return 0;
}

/* Whether the execution goes on; notices its timeout. */
static bool running(struct fake_sandbox *box)
{
    if (box->cause == KILL_NONE && clock_now_ns() >= box->deadline_ns)
        box->cause = KILL_TIMEOUT;
    return box->cause == KILL_NONE && !box->script_over;
}

/* Writes output of the code: counted, kept up to keep_bytes, sent as credit allows. */
static int emit(struct fake_sandbox *box, unsigned index, const void *data, size_t size)
{
    const uint8_t *cursor = data;
    while (size > 0 && running(box)) {
        size_t piece = size > FRAME_DATA_MAX ? FRAME_DATA_MAX : size;
        uint64_t kept = box->exec.keep_bytes > box->written[index]
                            ? box->exec.keep_bytes - box->written[index]
                            : 0;
        bool send = kept > 0;
        if (send && box->credit[index] == 0) {
            if (pump(box, box->deadline_ns) != 0)
                return -1;
            continue;
        }
        if (send && piece > kept)
            piece = (size_t)kept;
        if (send && piece > box->credit[index])
            piece = (size_t)box->credit[index];
        if (send) {
            send_frame(box, FRAME_DATA, box->stream + STREAM_STDOUT + index, cursor, piece);
            box->credit[index] -= piece;
        }
        box->written[index] += piece;
        cursor += piece;
        size -= piece;
        if (box->written[0] + box->written[1] > box->exec.output_max_bytes)
            box->cause = KILL_OUTPUT;
        if (flush_out(box) != 0)
            return -1;
    }
    return 0;
}

static int step_fault(struct fake_sandbox *box)
{
    uint8_t zeros[FRAME_DATA_MAX] = {0};
    memset(zeros, 0xee, 64);
    switch (box->fault) {
    case FAKE_FAULT_GARBAGE:
        (void)buf_append(&box->out, zeros, 64, NULL);
        break;
    case FAKE_FAULT_OVERSIZED:
        (void)buf_append(&box->out, "\xff\xff\xff\xff\x05\0\0\0\0\0\0\0", 12, NULL);
        break;
    case FAKE_FAULT_WRONG_STREAM:
        send_frame(box, FRAME_DATA, box->stream + 40, "x", 1);
        break;
    case FAKE_FAULT_NO_CREDIT:
        for (int i = 0; i < 20 && flush_out(box) == 0; i++)
            send_frame(box, FRAME_DATA, box->stream + STREAM_STDOUT, zeros, sizeof(zeros));
        break;
    case FAKE_FAULT_DIES:
        box->died(box->context, box->id);
        return -1;
    case FAKE_FAULT_CLOSE_OUTPUT:
        (void)flush_out(box);
        return -1;
    default:
        return 0;
    }
    return flush_out(box);
}

static struct fake_file *find_file(struct fake_sandbox *box, const char *path)
{
    char full[512];
    (void)snprintf(full, sizeof(full), "%s%s%s", path[0] == '/' ? "" : box->exec.cwd,
                   path[0] == '/' ? "" : "/", path);
    for (size_t i = box->file_count; i > 0; i--) {
        if (strcmp(box->files[i - 1].path, full) == 0)
            return &box->files[i - 1];
    }
    return NULL;
}

static int step_stdin(struct fake_sandbox *box)
{
    while (!box->input_closed && running(box)) {
        if (pump(box, box->deadline_ns) != 0)
            return -1;
    }
    return emit(box, 0, box->input.data, box->input.size);
}

static int step_sleep(struct fake_sandbox *box, uint64_t sleep_ms)
{
    int64_t until_ns = clock_now_ns() + (int64_t)sleep_ms * CLOCK_NS_PER_MS;
    while (running(box) && clock_now_ns() < until_ns) {
        if (pump(box, until_ns < box->deadline_ns ? until_ns : box->deadline_ns) != 0)
            return -1;
    }
    return 0;
}

static int step_flood(struct fake_sandbox *box, uint64_t size)
{
    uint8_t piece[4096];
    memset(piece, 'x', sizeof(piece));
    int result = 0;
    while (size > 0 && result == 0 && running(box)) {
        size_t part = size > sizeof(piece) ? sizeof(piece) : (size_t)size;
        result = emit(box, 0, piece, part);
        size -= part;
    }
    return result;
}

static int step_env(struct fake_sandbox *box, const char *name)
{
    size_t size = strlen(name);
    for (size_t i = 0; i < box->exec.envc; i++) {
        if (strncmp(box->exec.envp[i], name, size) == 0 && box->exec.envp[i][size] == '=')
            return emit(box, 0, box->exec.envp[i] + size + 1, strlen(box->exec.envp[i] + size + 1));
    }
    return 0;
}

static int step_line(struct fake_sandbox *box, unsigned index, const char *text, bool newline)
{
    int result = emit(box, index, text, strlen(text));
    if (result == 0 && newline)
        result = emit(box, index, "\n", 1);
    if (result == 0 && box->fault == FAKE_FAULT_CLOSE_OUTPUT)
        return -1;
    return result;
}

static void end_with(struct fake_sandbox *box, uint32_t exit_code)
{
    box->exit_code = exit_code;
    box->script_over = true;
}

static int step(struct fake_sandbox *box, const char *verb, const char *rest)
{
    uint64_t number = strtoull(rest, NULL, 10);
    if (strcmp(verb, "out") == 0 || strcmp(verb, "outn") == 0)
        return step_line(box, 0, rest, verb[3] == '\0');
    if (strcmp(verb, "err") == 0)
        return step_line(box, 1, rest, true);
    if (strcmp(verb, "stdin") == 0)
        return step_stdin(box);
    if (strcmp(verb, "env") == 0)
        return step_env(box, rest);
    if (strcmp(verb, "sleep") == 0)
        return step_sleep(box, number);
    if (strcmp(verb, "flood") == 0)
        return step_flood(box, number);
    if (strcmp(verb, "cat") == 0) {
        struct fake_file *file = find_file(box, rest);
        return file ? emit(box, 0, file->bytes.data, file->bytes.size) : 0;
    }
    if (strcmp(verb, "fault") == 0) {
        for (int i = 0; i < FAKE_FAULT_COUNT; i++) {
            if (strcmp(rest, engine_fake_fault_name((enum engine_fake_fault)i)) == 0)
                box->fault = (enum engine_fake_fault)i;
        }
        return step_fault(box);
    }
    if (strcmp(verb, "oom") == 0) {
        box->cause = KILL_OOM;
        box->limits_hit = LIMIT_MEMORY;
        return 0;
    }
    if (strcmp(verb, "signal") == 0) {
        box->cause = KILL_SIGNAL;
        end_with(box, 128 + (uint32_t)(number & 63));
        return 0;
    }
    if (strcmp(verb, "exit") == 0) {
        end_with(box, (uint32_t)(number & 255));
        return 0;
    }
    int result = step_line(box, 1, "SyntaxError", true);
    end_with(box, 1);
    return result;
}

static int run_script(struct fake_sandbox *box)
{
    struct fake_file *file = find_file(box, box->exec.argv[box->exec.argc - 1]);
    if (!file) {
        end_with(box, 2);
        return 0;
    }
    const char *text = buf_cstr(&file->bytes);
    int result = 0;
    while (text && *text != '\0' && result == 0 && running(box)) {
        size_t size = strcspn(text, "\n");
        char line[1024];
        (void)snprintf(line, sizeof(line), "%.*s", (int)(size < 1000 ? size : 1000), text);
        char *rest = strchr(line, ' ');
        if (rest)
            *rest++ = '\0';
        if (line[0] != '\0')
            result = step(box, line, rest ? rest : "");
        text += size + (text[size] == '\n' ? 1 : 0);
        /* A kill that arrived during a step that did not wait has to be seen as well. */
        if (result == 0 && running(box))
            result = pump(box, 0);
    }
    return result;
}

static int send_exit(struct fake_sandbox *box, int64_t started_ns)
{
    if (box->fault == FAKE_FAULT_CLOSE_EXIT)
        return -1;
    if (box->fault == FAKE_FAULT_DIES)
        return step_fault(box);
    if (box->fault == FAKE_FAULT_MUTE)
        return 0;
    bool killed = box->cause != KILL_NONE && box->cause != KILL_SIGNAL;
    const struct sandbox_exit exit = {.exit_code = box->fault == FAKE_FAULT_WRONG_EXIT ? 4711
                                                   : killed                            ? 137
                                                            : box->exit_code,
                                      .cause = box->cause,
                                      .limits_hit = box->limits_hit,
                                      .wall_us = (uint64_t)(clock_now_ns() - started_ns) / 1000,
                                      .cpu_us = 1000,
                                      .max_rss_bytes = 1 << 20,
                                      .stdout_bytes = box->written[0],
                                      .stderr_bytes = box->written[1],
                                      .pids_peak = 1};
    BUF_AUTO struct buf payload;
    buf_init(&payload, FRAME_PAYLOAD_MAX);
    (void)sandbox_exit_encode(&exit, &payload, NULL);
    send_frame(box, FRAME_CLOSE, box->stream + STREAM_STDOUT, NULL, 0);
    send_frame(box, FRAME_CLOSE, box->stream + STREAM_STDERR, NULL, 0);
    send_frame(box, FRAME_EXIT, box->stream, payload.data, payload.size);
    return flush_out(box);
}

static int run_exec(struct fake_sandbox *box)
{
    int64_t started_ns = clock_now_ns();
    box->exec_ready = false;
    send_frame(box, FRAME_STARTED, box->stream, NULL, 0);
    int result = step_fault(box);
    if (result == 0)
        result = run_script(box);
    return result == 0 ? send_exit(box, started_ns) : result;
}

static void send_hello(struct fake_sandbox *box)
{
    struct sandbox_hello hello = {.version_min = SANDBOX_VERSION_MIN,
                                  .version_max = SANDBOX_VERSION_MAX,
                                  .capabilities = SANDBOX_CAP_EXEC | SANDBOX_CAP_PUT_FILE};
    memcpy(hello.nonce, box->nonce, sizeof(hello.nonce));
    if (box->fault == FAKE_FAULT_WRONG_NONCE)
        hello.nonce[0] ^= 1;
    BUF_AUTO struct buf payload;
    buf_init(&payload, FRAME_PAYLOAD_MAX);
    (void)sandbox_hello_encode(&hello, &payload, NULL);
    send_frame(box, FRAME_HELLO, 0, payload.data, payload.size);
}

static void *box_main(void *context)
{
    struct fake_sandbox *box = context;
    int result = 0;
    if (box->fault == FAKE_FAULT_CLOSE_EARLY)
        result = -1;
    else
        send_hello(box);
    while (result == 0) {
        result = pump(box, INT64_MAX);
        if (result == 0 && box->exec_ready)
            result = run_exec(box);
    }
    (void)shutdown(box->fd, SHUT_RDWR);
    return NULL;
}

static void take_files(struct fake_sandbox *box, struct fake_sandbox *left)
{
    memcpy(box->files, left->files, sizeof(box->files));
    box->file_count = left->file_count;
    left->file_count = 0;
}

int fake_sandbox_new(const struct fake_spec *spec, struct fake_sandbox **out, int *out_fd,
                     uint8_t out_nonce[static SANDBOX_NONCE_SIZE], struct err *err)
{
    struct fake_sandbox *box = calloc(1, sizeof(*box));
    int pair[2] = {-1, -1};
    if (!box || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) {
        free(box);
        return err_sys(err, errno, "fake sandbox");
    }
    (void)snprintf(box->id, sizeof(box->id), "%s", spec->id);
    box->fd = pair[0];
    box->stop_fd = eventfd(0, EFD_CLOEXEC);
    box->fault = spec->fault;
    box->died = spec->died;
    box->context = spec->context;
    id_random(box->nonce, sizeof(box->nonce));
    frame_decoder_init(&box->decoder);
    buf_init(&box->out, BYTES_MAX);
    buf_init(&box->input, BYTES_MAX);
    buf_init(&box->exec_payload, FRAME_PAYLOAD_MAX);
    memcpy(out_nonce, box->nonce, SANDBOX_NONCE_SIZE);
    if (spec->left)
        take_files(box, spec->left);
    int status = pthread_create(&box->thread, NULL, box_main, box);
    if (status != 0) {
        if (spec->left)
            take_files(spec->left, box);
        fd_close(&pair[1]);
        fake_sandbox_free(box);
        return err_sys(err, status, "fake sandbox");
    }
    box->runs = true;
    *out = box;
    *out_fd = pair[1];
    return 0;
}

void fake_sandbox_end(struct fake_sandbox *box)
{
    if (!box->runs)
        return;
    box->runs = false;
    uint64_t one = 1;
    (void)!write(box->stop_fd, &one, sizeof(one));
    (void)shutdown(box->fd, SHUT_RDWR); /* it may sit in a write */
    (void)pthread_join(box->thread, NULL);
    fd_close(&box->fd);
    fd_close(&box->stop_fd);
}

void fake_sandbox_free(struct fake_sandbox *box)
{
    if (!box)
        return;
    fake_sandbox_end(box);
    fd_close(&box->fd);
    fd_close(&box->stop_fd);
    frame_decoder_done(&box->decoder);
    buf_done(&box->out);
    buf_done(&box->input);
    buf_done(&box->exec_payload);
    sandbox_exec_done(&box->exec);
    for (size_t i = 0; i < box->file_count; i++)
        buf_done(&box->files[i].bytes);
    free(box);
}
