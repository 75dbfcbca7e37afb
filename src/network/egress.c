/* Owns what goes to berth-egress and comes from it, and what each sandbox has used of its cap. */
#include "network/egress.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/fd.h"
#include "base/mem.h"
#include "wire/frame.h"
#include "wire/peer.h"

/* What an attached sandbox has used of its cap, as far as was told. */
struct used {
    char id[SANDBOX_ID_MAX + 1];
    uint64_t bytes;
    struct used *next;
};

struct egress {
    struct egress_events events;
    struct peer *peer;
    struct used *used; /* guarded by the peer's lock */
};

static int set_away(struct err *err, const char *why)
{
    int result =
        err_public(err, ERR_UNAVAILABLE, "the way out of the sandboxes %s; try again", why);
    if (err)
        err->retry_after_s = 1;
    return result;
}

/* ---- what they used ---- */

static struct used **find_used_locked(struct egress *egress, const char *id)
{
    struct used **at = &egress->used;
    while (*at && strcmp((*at)->id, id) != 0)
        at = &(*at)->next;
    return at;
}

/* How much to begin with, for one that is attached; it is remembered from here on. */
static uint64_t begin_used(struct egress *egress, const char *id)
{
    struct used *fresh = calloc(1, sizeof(*fresh));
    peer_lock(egress->peer);
    struct used **at = find_used_locked(egress, id);
    if (!*at && fresh) {
        (void)snprintf(fresh->id, sizeof(fresh->id), "%s", id);
        *at = take(fresh);
    }
    uint64_t bytes = *at ? (*at)->bytes : 0;
    peer_unlock(egress->peer);
    free(fresh);
    return bytes;
}

static void set_used(struct egress *egress, const char *id, uint64_t bytes)
{
    peer_lock(egress->peer);
    struct used *used = *find_used_locked(egress, id);
    if (used && bytes > used->bytes)
        used->bytes = bytes;
    peer_unlock(egress->peer);
}

static void forget_used(struct egress *egress, const char *id)
{
    peer_lock(egress->peer);
    struct used **at = find_used_locked(egress, id);
    struct used *used = *at;
    if (used)
        *at = used->next;
    peer_unlock(egress->peer);
    free(used);
}

/* ---- a request and its reply ---- */

static int call(struct egress *egress, const struct egress_msg *request, int channel_fd,
                int64_t deadline_ns, struct egress_counts *out_counts, struct err *err)
{
    const struct peer_wait wait = {.deadline_ns = deadline_ns};
    struct egress_msg reply;
    BUF_AUTO struct buf bytes;
    buf_init(&bytes, EGRESS_MSG_MAX);
    int result = egress_msg_encode(request, &bytes, err);
    if (result == 0)
        result = peer_call(egress->peer, &bytes, channel_fd, &wait, &reply, NULL, err);
    if (result == 0 && reply.error.kind != ERR_NONE)
        result = err_copy(err, &reply.error);
    if (result == 0 && out_counts)
        *out_counts = reply.counts;
    return result;
}

static void on_message(struct egress *egress, const struct egress_msg *msg, int *fd)
{
    const struct egress_events *events = &egress->events;
    if ((msg->op & EGRESS_REPLY) != 0) /* to nobody: its caller has given up */
        (void)peer_deliver(egress->peer, msg->op & ~EGRESS_REPLY, msg->request_id, msg, fd);
    else if (msg->op == EGRESS_OP_EVENT_COUNTS)
        set_used(egress, msg->attach.id, msg->attach.bytes_used);
    else if (msg->op == EGRESS_OP_EVENT_LOST && events->lost)
        events->lost(events->context, msg->attach.id, &msg->counts);
}

static int read_message(void *context, const void *data, size_t size, int *fd, struct err *err)
{
    struct egress_msg msg;
    int result = egress_msg_decode(data, size, &msg, err);
    if (result != 0)
        return result;
    on_message(context, &msg, fd);
    egress_msg_done(&msg);
    return 0;
}

static void on_connected(void *context)
{
    const struct egress *egress = context;
    if (egress->events.connected)
        egress->events.connected(egress->events.context);
}

/* ---- for everybody ---- */

int egress_new(const char *socket_path, const struct egress_events *events, struct egress **out,
               struct err *err)
{
    MEM_AUTO struct egress *egress = calloc(1, sizeof(*egress));
    if (!egress)
        return err_set(err, ERR_INTERNAL, "no memory for egress");
    if (events)
        egress->events = *events;
    const struct peer_config config = {.socket_path = socket_path,
                                       .name = "egress",
                                       .message_max = EGRESS_MSG_MAX,
                                       .reply_size = sizeof(struct egress_msg),
                                       .context = egress,
                                       .set_away = set_away,
                                       .connected = on_connected,
                                       .message = read_message};
    int result = peer_new(&config, &egress->peer, err);
    if (result == 0)
        *out = take(egress);
    return result;
}

void egress_free(struct egress *egress)
{
    if (!egress)
        return;
    peer_free(egress->peer);
    while (egress->used) {
        struct used *used = egress->used;
        egress->used = used->next;
        free(used);
    }
    free(egress);
}

bool egress_is_connected(struct egress *egress)
{
    return peer_is_connected(egress->peer);
}

static int copy_text(char *out, size_t size, const char *text, const char *what, struct err *err)
{
    if (text[0] == '\0' || strlen(text) >= size)
        return err_set(err, ERR_BAD_INPUT, "%s is empty or too long", what);
    (void)snprintf(out, size, "%s", text);
    return 0;
}

/* Who is attacked by what comes from the world is to have no other power over a sandbox than to
 * take its sockets: init knows from here on. */
static int say_hello(int channel_fd, struct err *err)
{
    const struct sandbox_hello hello = {.version_min = SANDBOX_VERSION_MIN,
                                        .version_max = SANDBOX_VERSION_MAX,
                                        .capabilities = SANDBOX_CAP_EGRESS};
    BUF_AUTO struct buf payload, out;
    buf_init(&payload, FRAME_PAYLOAD_MAX);
    buf_init(&out, FRAME_PAYLOAD_MAX);
    int result = sandbox_hello_encode(&hello, &payload, err);
    if (result == 0)
        result = frame_append(&out, FRAME_HELLO, 0, payload.data, payload.size, err);
    if (result == 0) /* into an empty socket: it is taken whole */
        result = fd_send(channel_fd, out.data, out.size, NULL, 0, MSG_DONTWAIT, err);
    return result;
}

int egress_attach(struct egress *egress, const struct egress_sandbox *sandbox, int channel_fd,
                  int64_t deadline_ns, struct err *err)
{
    FD_AUTO int fd = channel_fd;
    struct egress_msg request = {.op = EGRESS_OP_ATTACH, .attach.policy = sandbox->policy};
    struct egress_attach *attach = &request.attach;
    int result = copy_text(attach->id, sizeof(attach->id), sandbox->id, "the sandbox's id", err);
    if (result == 0)
        result = copy_text(attach->owner, sizeof(attach->owner), sandbox->owner, "the owner", err);
    if (result != 0)
        return result;
    result = say_hello(fd, err);
    if (result != 0)
        return result;
    memcpy(attach->nonce, sandbox->nonce, sizeof(attach->nonce));
    attach->bytes_used = begin_used(egress, sandbox->id);
    return call(egress, &request, fd, deadline_ns, NULL, err);
}

int egress_set_policy(struct egress *egress, const char *id, const struct egress_policy *policy,
                      int64_t deadline_ns, struct err *err)
{
    struct egress_msg request = {.op = EGRESS_OP_POLICY, .attach.policy = *policy};
    int result = copy_text(request.attach.id, sizeof(request.attach.id), id, "an id", err);
    return result == 0 ? call(egress, &request, -1, deadline_ns, NULL, err) : result;
}

int egress_detach(struct egress *egress, const char *id, int64_t deadline_ns,
                  struct egress_counts *out_counts, struct err *err)
{
    struct egress_msg request = {.op = EGRESS_OP_DETACH};
    int result = copy_text(request.attach.id, sizeof(request.attach.id), id, "an id", err);
    return result == 0 ? call(egress, &request, -1, deadline_ns, out_counts, err) : result;
}

void egress_detach_later(struct egress *egress, const char *id)
{
    struct egress_msg request = {.op = EGRESS_OP_DETACH};
    BUF_AUTO struct buf bytes;
    buf_init(&bytes, EGRESS_MSG_MAX);
    forget_used(egress, id);
    if (copy_text(request.attach.id, sizeof(request.attach.id), id, "an id", NULL) == 0 &&
        egress_msg_encode(&request, &bytes, NULL) == 0)
        (void)peer_post(egress->peer, &bytes, NULL);
}

int egress_counts(struct egress *egress, const char *id, int64_t deadline_ns,
                  struct egress_counts *out, struct err *err)
{
    struct egress_msg request = {.op = EGRESS_OP_COUNTS};
    int result = id ? copy_text(request.attach.id, sizeof(request.attach.id), id, "an id", err) : 0;
    return result == 0 ? call(egress, &request, -1, deadline_ns, out, err) : result;
}
