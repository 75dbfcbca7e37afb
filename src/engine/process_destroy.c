/* Owns what the client of an engine process still has to destroy: sandboxes that nobody wants, and
 * creates whose caller gave up. They are repeated, over restarts of the engine, until it says done.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "engine/process_internal.h"

#define RETRY_NS (200 * CLOCK_NS_PER_MS) /* longer by so much with each, up to ten times */
#define NO_ROOM_NS (5 * CLOCK_NS_PER_MS) /* to the next try when the socket took no more */
/* From a destruction that could not be noted to events.connected. */
#define FORGOT_NS CLOCK_NS_PER_S

enum { RETRIES_GROW = 10 };

/* Picks a destruction that is due and marks it sent. Returns false when there is none; *out_next_ns
 * is then when one will be. */
static bool take_due(struct process *process, struct engine_msg *out, int64_t *out_next_ns)
{
    bool found = false;
    int64_t now_ns = clock_now_ns();
    *out_next_ns = INT64_MAX;
    peer_lock(process->peer);
    for (struct destroying *entry = process->destroying; entry && !found; entry = entry->next) {
        if (entry->request_id != 0)
            continue;
        if (entry->retry_ns > now_ns) {
            *out_next_ns = entry->retry_ns < *out_next_ns ? entry->retry_ns : *out_next_ns;
            continue;
        }
        entry->request_id = peer_number_locked(process->peer);
        *out = (struct engine_msg){.op = ENGINE_OP_DESTROY, .request_id = entry->request_id};
        (void)snprintf(out->id, sizeof(out->id), "%s", entry->id);
        found = true;
    }
    peer_unlock(process->peer);
    return found;
}

/* Marks a destruction as not sent, to be tried after retry_ns. */
static void put_back(struct process *process, uint64_t request_id, int64_t retry_ns)
{
    peer_lock(process->peer);
    for (struct destroying *entry = process->destroying; entry; entry = entry->next) {
        if (entry->request_id == request_id) {
            entry->request_id = 0;
            entry->retry_ns = retry_ns;
        }
    }
    peer_unlock(process->peer);
}

static int post(struct process *process, const struct engine_msg *request)
{
    BUF_AUTO struct buf bytes;
    buf_init(&bytes, ENGINE_MSG_MAX);
    int result = engine_msg_encode(request, &bytes, NULL);
    return result == 0 ? peer_post(process->peer, &bytes, NULL) : result;
}

int64_t process_destroy_send_due(struct process *process)
{
    struct engine_msg request = {0};
    int64_t next_ns = INT64_MAX;
    while (take_due(process, &request, &next_ns)) {
        if (post(process, &request) == 0)
            continue;
        next_ns = clock_now_ns() + NO_ROOM_NS;
        put_back(process, request.request_id, next_ns);
        break;
    }
    return next_ns;
}

/* For want of memory a destruction can't be noted: whoever reconciles has to ask for it again. */
static void forget(struct process *process, const char *id)
{
    log_error("engine: no memory to destroy %s; left to the next reconciliation", id);
    peer_lock(process->peer);
    if (process->forgot_ns == INT64_MAX)
        process->forgot_ns = clock_now_ns() + FORGOT_NS;
    peer_unlock(process->peer);
    peer_wake(process->peer);
}

int64_t process_destroy_look_due(struct process *process)
{
    peer_lock(process->peer);
    int64_t at_ns = process->forgot_ns;
    bool due = at_ns <= clock_now_ns();
    if (due)
        process->forgot_ns = INT64_MAX;
    peer_unlock(process->peer);
    if (!due)
        return at_ns;
    if (process->events.connected)
        process->events.connected(process->events.context);
    return INT64_MAX;
}

void process_destroy_later(struct engine *engine, const char *id)
{
    struct process *process = process_of(engine);
    struct destroying *entry = calloc(1, sizeof(*entry));
    if (!entry) {
        forget(process, id);
        return;
    }
    (void)snprintf(entry->id, sizeof(entry->id), "%s", id);
    peer_lock(process->peer);
    bool known = false;
    for (struct destroying *other = process->destroying; other && !known; other = other->next)
        known = strcmp(other->id, entry->id) == 0;
    if (!known) {
        entry->next = process->destroying;
        process->destroying = entry;
    }
    peer_unlock(process->peer);
    if (known)
        free(entry);
    else if (peer_is_connected(process->peer) && process_destroy_send_due(process) != INT64_MAX)
        peer_wake(process->peer);
    /* not connected: it is sent when it is */
}

bool process_destroy_answered(struct process *process, const struct engine_msg *msg)
{
    struct destroying *found = NULL;
    bool again = false; /* it is said once */
    peer_lock(process->peer);
    struct destroying **at = &process->destroying;
    while (*at && (*at)->request_id != msg->request_id)
        at = &(*at)->next;
    if (*at) {
        found = *at;
        *at = found->next;
        if (msg->error.kind != ERR_NONE) {
            found->request_id = 0;
            found->retry_ns =
                clock_now_ns() +
                RETRY_NS * (found->failures < RETRIES_GROW ? found->failures + 1 : RETRIES_GROW);
            again = found->failures++ > 0;
            found->next = process->destroying;
            process->destroying = found;
        }
    }
    peer_unlock(process->peer);
    if (!found)
        return false;
    if (msg->error.kind != ERR_NONE) {
        if (!again)
            log_warn("engine: destroying failed, will be repeated: %s", msg->error.message);
        return true;
    }
    if (process->events.destroyed)
        process->events.destroyed(process->events.context, found->id);
    free(found);
    return true;
}

void process_destroy_abandon_locked(struct process *process, uint64_t request_id, const char *id)
{
    struct abandoned *entry = calloc(1, sizeof(*entry));
    if (!entry)
        return; /* the next reconciliation destroys it */
    entry->request_id = request_id;
    (void)snprintf(entry->id, sizeof(entry->id), "%s", id);
    entry->next = process->abandoned;
    process->abandoned = entry;
}

void process_destroy_late(struct process *process, const struct engine_msg *msg)
{
    struct abandoned *found = NULL;
    peer_lock(process->peer);
    for (struct abandoned **at = &process->abandoned; *at; at = &(*at)->next) {
        if ((*at)->request_id == msg->request_id) {
            found = *at;
            *at = found->next;
            break;
        }
    }
    peer_unlock(process->peer);
    if (found && msg->error.kind == ERR_NONE)
        process_destroy_later(&process->base, found->id);
    free(found);
}

void process_destroy_unsend(void *context)
{
    struct process *process = context;
    peer_lock(process->peer);
    struct abandoned *abandoned = process->abandoned;
    for (struct destroying *entry = process->destroying; entry; entry = entry->next)
        entry->request_id = 0;
    process->abandoned = NULL;
    peer_unlock(process->peer);
    while (abandoned) { /* whether it exists is not known any more: destroying is idempotent */
        struct abandoned *next = abandoned->next;
        process_destroy_later(&process->base, abandoned->id);
        free(abandoned);
        abandoned = next;
    }
}

void process_destroy_done(struct process *process)
{
    while (process->destroying) {
        struct destroying *next = process->destroying->next;
        free(process->destroying);
        process->destroying = next;
    }
}
