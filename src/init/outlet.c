/* Owns the credit of an execution's streams. */
#include "init/outlet.h"

#include "base/clock.h"

#define STARTED_NS (5 * CLOCK_NS_PER_MS)
#define HIGH_WATER (256U * 1024U) /* past it a writer waits for the connection to drain */

void outlet_open(struct outlet *outlet, struct buf *out, uint32_t stream)
{
    outlet->out = out;
    outlet->stream = stream;
    outlet->started_due_ns = INT64_MAX;
    for (size_t i = 0; i < STREAM_STEP; i++)
        outlet->credit[i] = FRAME_WINDOW;
}

void outlet_close(struct outlet *outlet)
{
    outlet->out = NULL;
    outlet->stream = 0;
}

bool outlet_is(const struct outlet *outlet, const struct buf *out, uint32_t stream)
{
    return outlet->out && outlet->out == out && outlet->stream == stream - stream % STREAM_STEP;
}

bool outlet_has_room(const struct outlet *outlet)
{
    return outlet->out && outlet->out->size < HIGH_WATER;
}

static void append(struct outlet *outlet, enum frame_type type, enum frame_stream part,
                   const void *payload, size_t size)
{
    /* It fails past the buffer's maximum only, which is far above the high water. */
    (void)frame_append(outlet->out, type, outlet->stream + (uint32_t)part, payload, size, NULL);
}

static void pay_started(struct outlet *outlet)
{
    if (outlet->started_due_ns == INT64_MAX)
        return;
    outlet->started_due_ns = INT64_MAX;
    append(outlet, FRAME_STARTED, STREAM_CONTROL, NULL, 0);
}

void outlet_owe_started(struct outlet *outlet, int64_t now_ns)
{
    outlet->started_due_ns = now_ns + STARTED_NS;
}

int64_t outlet_wakeup_ns(const struct outlet *outlet)
{
    return outlet->out ? outlet->started_due_ns : INT64_MAX;
}

void outlet_step(struct outlet *outlet, int64_t now_ns)
{
    if (outlet->out && now_ns >= outlet->started_due_ns)
        pay_started(outlet);
}

void outlet_send(struct outlet *outlet, enum frame_type type, enum frame_stream part,
                 const void *payload, size_t size)
{
    bool costs = type == FRAME_DATA || type == FRAME_MESSAGE_PART || type == FRAME_MESSAGE;
    if (!outlet->out)
        return;
    pay_started(outlet);
    append(outlet, type, part, payload, size);
    if (costs)
        outlet->credit[part] -= (uint32_t)size;
}

void outlet_send_u32(struct outlet *outlet, enum frame_type type, enum frame_stream part,
                     uint32_t value)
{
    if (!outlet->out)
        return;
    pay_started(outlet);
    (void)frame_append_u32(outlet->out, type, outlet->stream + (uint32_t)part, value, NULL);
}

void outlet_send_done(struct outlet *outlet, int sys_errno, uint64_t size_bytes)
{
    const struct sandbox_done done = {.sys_errno = sys_errno, .size_bytes = size_bytes};
    BUF_AUTO struct buf payload;
    buf_init(&payload, FRAME_PAYLOAD_MAX);
    if (outlet->out && sandbox_done_encode(&done, &payload, NULL) == 0)
        outlet_send(outlet, FRAME_DONE, STREAM_CONTROL, payload.data, payload.size);
}

void outlet_send_refusal(struct outlet *outlet, const struct sandbox_exit *exit)
{
    BUF_AUTO struct buf payload;
    buf_init(&payload, FRAME_PAYLOAD_MAX);
    if (!outlet->out || sandbox_exit_encode(exit, &payload, NULL) != 0)
        return;
    outlet_send(outlet, FRAME_CLOSE, STREAM_STDOUT, NULL, 0);
    outlet_send(outlet, FRAME_CLOSE, STREAM_STDERR, NULL, 0);
    outlet_send(outlet, FRAME_EXIT, STREAM_CONTROL, payload.data, payload.size);
}

int outlet_take_credit(struct outlet *outlet, const struct frame *frame, struct err *err)
{
    uint32_t part = frame->stream % STREAM_STEP;
    uint32_t value = 0;
    int result = frame_u32(frame, &value, err);
    if (result != 0)
        return result;
    if (part == STREAM_STDIN || value > FRAME_WINDOW || outlet->credit[part] > FRAME_WINDOW - value)
        return err_set(err, ERR_PROTOCOL, "credit %u on stream %u", value, frame->stream);
    outlet->credit[part] += value;
    return 0;
}
