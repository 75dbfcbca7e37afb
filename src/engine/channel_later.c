/* Owns the requests of a channel whose answer nobody waits for at once: what is forgotten, other
 * times, other limits, the network. They leave with what is sent next; whichever talk is on then
 * takes their answers. Refuses to go on with a sandbox whose times, limits or network were not set.
 */
#include <poll.h>
#include <string.h>

#include "engine/channel_internal.h"

static struct later *find(struct channel *channel, uint32_t stream)
{
    for (size_t i = 0; i < LATER_MAX; i++) {
        if (channel->later[i].stream == stream)
            return &channel->later[i];
    }
    return NULL;
}

/* Queues a request and notes it. Returns false when it will not be sent. */
static bool queue_later(struct channel *channel, enum frame_type type, const struct later *later,
                        const struct buf *payload)
{
    struct later *slot = find(channel, 0);
    uint32_t stream = channel_take_stream(channel);
    bool lacks = channel->hello_seen && (later->needs & ~channel->capabilities) != 0;
    if (!slot || lacks ||
        frame_append(&channel->out, type, stream, payload->data, payload->size, NULL) != 0)
        return false;
    *slot = *later;
    slot->stream = stream;
    return true;
}

void channel_forget_later(struct channel *channel, const char *execution_id)
{
    const struct later later = {.needs = SANDBOX_CAP_HOLD};
    const struct sandbox_attach attach = {.execution_id = execution_id};
    BUF_AUTO struct buf payload;
    buf_init(&payload, FRAME_PAYLOAD_MAX);
    if (sandbox_attach_encode(&attach, &payload, NULL) == 0)
        (void)queue_later(channel, FRAME_FORGET, &later, &payload);
}

void channel_timers_later(struct channel *channel, const struct sandbox_timers *timers)
{
    const struct later later = {.needs = SANDBOX_CAP_TIMERS, .what = "times"};
    BUF_AUTO struct buf payload;
    buf_init(&payload, FRAME_PAYLOAD_MAX);
    if (sandbox_timers_encode(timers, &payload, NULL) != 0 ||
        !queue_later(channel, FRAME_TIMERS, &later, &payload))
        channel->not_set = later.what;
}

void channel_limits_later(struct channel *channel, const struct sandbox_limits *limits)
{
    const struct later later = {.needs = SANDBOX_CAP_LIMITS, .what = "limits"};
    BUF_AUTO struct buf payload;
    buf_init(&payload, FRAME_PAYLOAD_MAX);
    if (sandbox_limits_encode(limits, &payload, NULL) != 0 ||
        !queue_later(channel, FRAME_LIMITS, &later, &payload))
        channel->not_set = later.what;
}

void channel_network_later(struct channel *channel, const struct sandbox_network *network)
{
    const struct later later = {.needs = SANDBOX_CAP_EGRESS, .what = "network"};
    BUF_AUTO struct buf payload;
    buf_init(&payload, FRAME_PAYLOAD_MAX);
    if (sandbox_network_encode(network, &payload, NULL) != 0 ||
        !queue_later(channel, FRAME_NETWORK, &later, &payload))
        channel->not_set = later.what;
}

int channel_later_check(struct channel *channel, struct err *err)
{
    for (size_t i = 0; i < LATER_MAX && channel->hello_seen; i++) {
        const struct later *later = &channel->later[i];
        if (later->stream != 0 && later->what && (later->needs & ~channel->capabilities) != 0)
            channel->not_set = later->what;
    }
    if (channel->not_set)
        return err_set(err, ERR_CLOSED, "init did not get its %s", channel->not_set);
    return 0;
}

int channel_later_take(struct channel *channel, const struct frame *frame, struct err *err)
{
    struct later *later =
        frame->type == FRAME_DONE && frame->stream != 0 ? find(channel, frame->stream) : NULL;
    struct sandbox_done done = {0};
    if (!later)
        return 0;
    later->stream = 0;
    int result = sandbox_done_decode(frame->payload, frame->size, &done, err);
    if (result != 0)
        return result;
    if (done.sys_errno == 0 || !later->what)
        return 1; /* what can't be forgotten is forgotten with the sandbox */
    channel->not_set = later->what;
    return channel_later_check(channel, err);
}

void channel_flush_later(struct channel *channel)
{
    (void)channel_flush(channel, NULL);
}

bool channel_alive(const struct channel *channel)
{
    struct pollfd end = {.fd = channel->fd, .events = POLLRDHUP};
    if (channel->write_broken || channel->not_set)
        return false;
    return poll(&end, 1, 0) == 0;
}
