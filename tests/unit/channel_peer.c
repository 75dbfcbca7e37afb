/* Owns the thread that plays init. */
#include "channel_peer.h"

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"

static const uint8_t nonce[SANDBOX_NONCE_SIZE] = "peer";

static void *peer_main(void *context)
{
    struct peer *peer = context;
    peer->play(peer);
    (void)shutdown(peer->fd, SHUT_RDWR);
    return NULL;
}

void peer_start(struct peer *peer, void (*play)(struct peer *peer))
{
    peer_start_on(peer, SOCK_STREAM, play);
}

void peer_start_on(struct peer *peer, int type, void (*play)(struct peer *peer))
{
    int pair[2] = {-1, -1};
    *peer = (struct peer){.play = play};
    peer_require(socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, pair) == 0);
    peer->fd = pair[0];
    frame_decoder_init(&peer->decoder);
    peer_require(channel_open(pair[1], nonce, &peer->channel, NULL) == 0);
    peer_require(pthread_create(&peer->thread, NULL, peer_main, peer) == 0);
}

void peer_stop(struct peer *peer)
{
    channel_close(peer->channel);
    (void)pthread_join(peer->thread, NULL);
    fd_close(&peer->fd);
    frame_decoder_done(&peer->decoder);
}

void peer_send(struct peer *peer, enum frame_type type, uint32_t stream, const void *payload,
               size_t size)
{
    BUF_AUTO struct buf out;
    buf_init(&out, 2 * FRAME_PAYLOAD_MAX);
    peer_require(frame_append(&out, type, stream, payload, size, NULL) == 0);
    (void)!send(peer->fd, out.data, out.size, MSG_NOSIGNAL);
}

void peer_hello(struct peer *peer, uint64_t capabilities)
{
    struct sandbox_hello hello = {.version_min = SANDBOX_VERSION_MIN,
                                  .version_max = SANDBOX_VERSION_MAX,
                                  .capabilities = capabilities};
    memcpy(hello.nonce, nonce, sizeof(nonce));
    BUF_AUTO struct buf payload;
    buf_init(&payload, FRAME_PAYLOAD_MAX);
    peer_require(sandbox_hello_encode(&hello, &payload, NULL) == 0);
    peer_require(peer_expect(peer, FRAME_HELLO) == 0);
    peer_send(peer, FRAME_HELLO, 0, payload.data, payload.size);
}

struct frame peer_next(struct peer *peer)
{
    struct frame frame = {0};
    for (;;) {
        int result = frame_decoder_next(&peer->decoder, &frame, NULL);
        peer_require(result >= 0);
        if (result == 1 && frame.type != FRAME_CREDIT)
            return frame;
        if (result == 0)
            peer_require(frame_decoder_read(&peer->decoder, peer->fd, NULL) > 0);
    }
}

uint32_t peer_expect(struct peer *peer, enum frame_type type)
{
    struct frame frame = peer_next(peer);
    if (frame.type != type)
        (void)fprintf(stderr, "peer: frame type %d, expected %d\n", (int)frame.type, (int)type);
    peer_require(frame.type == type);
    return frame.stream;
}

void peer_drain(struct peer *peer)
{
    while (frame_decoder_read(&peer->decoder, peer->fd, NULL) > 0) {
        struct frame frame;
        while (frame_decoder_next(&peer->decoder, &frame, NULL) > 0)
            continue;
    }
}

void peer_credit(struct peer *peer, uint32_t stream, uint32_t credit)
{
    uint8_t bytes[4] = {(uint8_t)credit, (uint8_t)(credit >> 8), (uint8_t)(credit >> 16),
                        (uint8_t)(credit >> 24)};
    peer_send(peer, FRAME_CREDIT, stream, bytes, sizeof(bytes));
}

void peer_done(struct peer *peer, uint32_t stream, int sys_errno, uint64_t size_bytes)
{
    const struct sandbox_done done = {.sys_errno = sys_errno, .size_bytes = size_bytes};
    BUF_AUTO struct buf payload;
    buf_init(&payload, FRAME_PAYLOAD_MAX);
    peer_require(sandbox_done_encode(&done, &payload, NULL) == 0);
    peer_send(peer, FRAME_DONE, stream, payload.data, payload.size);
}

void peer_exit(struct peer *peer, uint32_t stream, uint32_t exit_code)
{
    const struct sandbox_exit end = {.exit_code = exit_code, .start_error = ""};
    BUF_AUTO struct buf payload;
    buf_init(&payload, FRAME_PAYLOAD_MAX);
    peer_require(sandbox_exit_encode(&end, &payload, NULL) == 0);
    peer_send(peer, FRAME_EXIT, stream, payload.data, payload.size);
}
