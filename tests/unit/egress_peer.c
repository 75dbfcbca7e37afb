/* Owns a socket and a thread that plays berth-egress, one connection at a time. */
#include "check.h"

#include "egress_peer.h"

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/fd.h"
#include "wire/egress_msg.h"

enum { TOLD_MAX = 64, WAIT_MS = 20000 };

struct egress_peer {
    char path[108];
    int listen_fd;
    pthread_t thread;
    _Atomic bool stop, mute;
    pthread_mutex_t lock;
    char *told[TOLD_MAX];
    size_t count, taken;
    char shown[4096];
};

static const char *const names[EGRESS_OP_COUNT] = {
    [EGRESS_OP_ATTACH] = "attach", [EGRESS_OP_POLICY] = "policy", [EGRESS_OP_DETACH] = "detach"};

static void note(struct egress_peer *peer, const struct egress_msg *msg)
{
    char text[4096];
    const struct egress_policy *policy = &msg->attach.policy;
    int used = snprintf(text, sizeof(text), "%s %s", names[msg->op], msg->attach.id);
    if (msg->op == EGRESS_OP_ATTACH)
        used += snprintf(text + used, sizeof(text) - (size_t)used, " %s", msg->attach.owner);
    for (size_t i = 0; i < policy->rule_count && msg->op != EGRESS_OP_DETACH; i++)
        used += snprintf(text + used, sizeof(text) - (size_t)used, " %s", policy->rules[i]);
    (void)pthread_mutex_lock(&peer->lock);
    if (peer->count < TOLD_MAX)
        peer->told[peer->count++] = strdup(text);
    (void)pthread_mutex_unlock(&peer->lock);
}

static void answer(struct egress_peer *peer, int fd, const struct egress_msg *msg)
{
    struct egress_msg reply = {
        .op = msg->op | EGRESS_REPLY,
        .request_id = msg->request_id,
        .counts = {.requests = 1, .refused = 2, .bytes_out = 3, .bytes_in = 4, .connections = 5}};
    BUF_AUTO struct buf out;
    buf_init(&out, EGRESS_MSG_MAX);
    memcpy(reply.attach.id, msg->attach.id, sizeof(reply.attach.id));
    if (!peer->mute && egress_msg_encode(&reply, &out, NULL) == 0)
        (void)fd_send(fd, out.data, out.size, NULL, 0, 0, NULL);
}

/* Returns false at the end of the connection. */
static bool serve_one(struct egress_peer *peer, int fd)
{
    static uint8_t data[EGRESS_MSG_MAX];
    struct egress_msg msg;
    int fds[1] = {-1};
    size_t fd_count = 1;
    struct pollfd ready = {.fd = fd, .events = POLLIN};
    if (poll(&ready, 1, 10) == 0)
        return true;
    ssize_t size = fd_recv(fd, data, sizeof(data), fds, &fd_count, 0, NULL);
    if (size <= 0)
        return false;
    FD_AUTO int channel_fd = fds[0];
    if (egress_msg_decode(data, (size_t)size, &msg, NULL) != 0)
        return false;
    if (msg.op != EGRESS_OP_COUNTS)
        note(peer, &msg);
    answer(peer, fd, &msg);
    egress_msg_done(&msg);
    return true;
}

static void *serve(void *context)
{
    struct egress_peer *peer = context;
    while (!peer->stop) {
        struct pollfd ready = {.fd = peer->listen_fd, .events = POLLIN};
        if (poll(&ready, 1, 10) <= 0)
            continue;
        FD_AUTO int fd = accept4(peer->listen_fd, NULL, NULL, SOCK_CLOEXEC);
        while (fd >= 0 && !peer->stop && serve_one(peer, fd))
            ;
    }
    return NULL;
}

struct egress_peer *egress_peer_start(const char *path)
{
    struct egress_peer *peer = calloc(1, sizeof(*peer));
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    assert_non_null(peer);
    (void)snprintf(peer->path, sizeof(peer->path), "%s", path);
    (void)snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    peer->listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(peer->listen_fd, (const struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(peer->listen_fd, 8), 0);
    (void)pthread_mutex_init(&peer->lock, NULL);
    assert_int_equal(pthread_create(&peer->thread, NULL, serve, peer), 0);
    return peer;
}

void egress_peer_stop(struct egress_peer *peer)
{
    peer->stop = true;
    (void)pthread_join(peer->thread, NULL);
    fd_close(&peer->listen_fd);
    (void)unlink(peer->path);
    for (size_t i = 0; i < peer->count; i++)
        free(peer->told[i]);
    (void)pthread_mutex_destroy(&peer->lock);
    free(peer);
}

void egress_peer_mute(struct egress_peer *peer, bool mute)
{
    peer->mute = mute;
}

bool egress_peer_is_quiet(struct egress_peer *peer)
{
    (void)pthread_mutex_lock(&peer->lock);
    bool quiet = peer->taken == peer->count;
    (void)pthread_mutex_unlock(&peer->lock);
    return quiet;
}

const char *egress_peer_next(struct egress_peer *peer)
{
    for (int i = 0; i < WAIT_MS && egress_peer_is_quiet(peer); i++)
        (void)poll(NULL, 0, 1);
    if (egress_peer_is_quiet(peer))
        fail_msg("egress was told nothing more");
    (void)pthread_mutex_lock(&peer->lock);
    (void)snprintf(peer->shown, sizeof(peer->shown), "%s", peer->told[peer->taken++]);
    (void)pthread_mutex_unlock(&peer->lock);
    return peer->shown;
}
