/* The server's view of a hostile init: a byte stream into the frame decoder, every payload into the
 * decoder of its message. What decodes has to encode again and decode to the same. */
#include "fuzz.h"

#include <string.h>

#include "wire/frame.h"
#include "wire/sandbox.h"

static void try_exec(const struct frame *frame, struct buf *out)
{
    struct sandbox_exec exec;
    struct sandbox_exec again;
    if (sandbox_exec_decode(frame->payload, frame->size, &exec, NULL) != 0)
        return;
    fuzz_require(exec.argc > 0 && !exec.argv[exec.argc] && !exec.envp[exec.envc]);
    if (sandbox_exec_encode(&exec, out, NULL) == 0) {
        fuzz_require(sandbox_exec_decode(out->data, out->size, &again, NULL) == 0);
        fuzz_require(again.argc == exec.argc && again.envc == exec.envc);
        sandbox_exec_done(&again);
    }
    sandbox_exec_done(&exec);
}

static void try_exit(const struct frame *frame, struct buf *out)
{
    struct sandbox_exit end;
    struct sandbox_exit again;
    if (sandbox_exit_decode(frame->payload, frame->size, &end, NULL) != 0)
        return;
    fuzz_require(end.exit_code <= 255 && end.cause >= 0 && end.cause < KILL_CAUSE_COUNT);
    (void)strlen(end.start_error);
    if (sandbox_exit_encode(&end, out, NULL) == 0)
        fuzz_require(sandbox_exit_decode(out->data, out->size, &again, NULL) == 0);
}

static void try_kernel(const struct frame *frame, struct buf *out)
{
    struct sandbox_kernel kernel;
    struct sandbox_kernel again;
    if (sandbox_kernel_decode(frame->payload, frame->size, &kernel, NULL) != 0)
        return;
    fuzz_require(kernel.argc > 0 && !kernel.argv[kernel.argc] && !kernel.envp[kernel.envc]);
    if (sandbox_kernel_encode(&kernel, out, NULL) == 0) {
        fuzz_require(sandbox_kernel_decode(out->data, out->size, &again, NULL) == 0);
        fuzz_require(again.argc == kernel.argc && again.envc == kernel.envc);
        fuzz_require(again.input_size == kernel.input_size);
        fuzz_require(kernel.input_size == 0 ||
                     memcmp(again.input, kernel.input, kernel.input_size) == 0);
        sandbox_kernel_done(&again);
    }
    sandbox_kernel_done(&kernel);
}

static void try_run(const struct frame *frame, struct buf *out)
{
    struct sandbox_run run;
    struct sandbox_run again;
    if (sandbox_run_decode(frame->payload, frame->size, &run, NULL) != 0)
        return;
    fuzz_require(!run.envp[run.envc] && strlen(run.execution_id) <= SANDBOX_ID_MAX);
    if (sandbox_run_encode(&run, out, NULL) == 0) {
        fuzz_require(sandbox_run_decode(out->data, out->size, &again, NULL) == 0);
        fuzz_require(again.envc == run.envc && again.mode == run.mode && again.hold == run.hold);
        sandbox_run_done(&again);
    }
    sandbox_run_done(&run);
}

static void try_listed(const struct frame *frame, struct buf *out)
{
    struct sandbox_listed listed;
    struct sandbox_listed again;
    if (sandbox_listed_decode(frame->payload, frame->size, &listed, NULL) != 0)
        return;
    for (size_t i = 0; i < listed.count; i++)
        fuzz_require(strnlen(listed.held[i].execution_id, SANDBOX_ID_MAX + 1) <= SANDBOX_ID_MAX);
    fuzz_require(sandbox_listed_encode(&listed, out, NULL) == 0);
    fuzz_require(sandbox_listed_decode(out->data, out->size, &again, NULL) == 0);
    fuzz_require(again.count == listed.count);
}

static void try_limits(const struct frame *frame, struct buf *out)
{
    struct sandbox_limits limits;
    struct sandbox_limits again;
    if (sandbox_limits_decode(frame->payload, frame->size, &limits, NULL) != 0)
        return;
    fuzz_require(sandbox_limits_encode(&limits, out, NULL) == 0);
    fuzz_require(sandbox_limits_decode(out->data, out->size, &again, NULL) == 0);
    fuzz_require(again.pids_max == limits.pids_max && again.file_size_max == limits.file_size_max);
    fuzz_require(again.open_files_max == limits.open_files_max);
}

static void try_frame(const struct frame *frame)
{
    struct sandbox_attach attach;
    struct sandbox_timers timers;
    struct sandbox_hello hello;
    struct sandbox_put_file put;
    struct sandbox_done done;
    uint32_t value = 0;
    BUF_AUTO struct buf out;
    buf_init(&out, 2U * FRAME_PAYLOAD_MAX);
    fuzz_require(frame->size <= FRAME_PAYLOAD_MAX);
    switch (frame->type) {
    case FRAME_HELLO:
        if (sandbox_hello_decode(frame->payload, frame->size, &hello, NULL) == 0)
            (void)sandbox_hello_agree(&hello, &hello, NULL);
        break;
    case FRAME_EXEC:
        try_exec(frame, &out);
        break;
    case FRAME_EXIT:
        try_exit(frame, &out);
        break;
    case FRAME_KERNEL:
        try_kernel(frame, &out);
        break;
    case FRAME_RUN:
        try_run(frame, &out);
        break;
    case FRAME_ATTACH:
        if (sandbox_attach_decode(frame->payload, frame->size, &attach, NULL) == 0)
            fuzz_require(strlen(attach.execution_id) <= SANDBOX_ID_MAX);
        break;
    case FRAME_LISTED:
        try_listed(frame, &out);
        break;
    case FRAME_TIMERS:
        (void)sandbox_timers_decode(frame->payload, frame->size, &timers, NULL);
        break;
    case FRAME_LIMITS:
        try_limits(frame, &out);
        break;
    case FRAME_PUT_FILE:
        if (sandbox_put_file_decode(frame->payload, frame->size, &put, NULL) == 0)
            fuzz_require(put.path[0] != '\0' && strlen(put.path) < SANDBOX_PATH_MAX);
        break;
    case FRAME_DONE:
        (void)sandbox_done_decode(frame->payload, frame->size, &done, NULL);
        break;
    default:
        (void)frame_u32(frame, &value, NULL);
        break;
    }
}

/* The first byte says how large the pieces are that the stream arrives in. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    size_t piece = data[0] == 0 ? size : data[0];
    data++;
    size--;
    struct frame_decoder decoder;
    frame_decoder_init(&decoder);
    int result = 0;
    while (size > 0 && result >= 0) {
        size_t part = size < piece ? size : piece;
        if (frame_decoder_feed(&decoder, data, part, NULL) != 0)
            break;
        data += part;
        size -= part;
        struct frame frame;
        while ((result = frame_decoder_next(&decoder, &frame, NULL)) == 1)
            try_frame(&frame);
    }
    frame_decoder_done(&decoder);
    return 0;
}
