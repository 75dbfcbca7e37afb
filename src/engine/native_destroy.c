/* Owns what the native client still has to destroy: sandboxes that nobody wants, and creates whose
 * caller gave up. They are repeated, over restarts of the engine, until it says done. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "engine/native_internal.h"

#define RETRY_NS (200 * CLOCK_NS_PER_MS)
#define NO_ROOM_NS (5 * CLOCK_NS_PER_MS) /* to the next try when the socket took no more */
/* From a destruction that could not be noted to events.connected. */
#define FORGOT_NS CLOCK_NS_PER_S

/* Picks a destruction that is due and marks it sent. Returns false when there is none; *out_next_ns
 * is then when one will be. */
static bool take_due(struct native *native, struct engine_msg *out, int64_t *out_next_ns)
{
    bool found = false;
    int64_t now_ns = clock_now_ns();
    *out_next_ns = INT64_MAX;
    (void)pthread_mutex_lock(&native->lock);
    for (struct destroying *entry = native->destroying; entry && !found; entry = entry->next) {
        if (entry->request_id != 0)
            continue;
        if (entry->retry_ns > now_ns) {
            *out_next_ns = entry->retry_ns < *out_next_ns ? entry->retry_ns : *out_next_ns;
            continue;
        }
        entry->request_id = ++native->next_request_id;
        *out = (struct engine_msg){.op = ENGINE_OP_DESTROY, .request_id = entry->request_id};
        (void)snprintf(out->id, sizeof(out->id), "%s", entry->id);
        found = true;
    }
    (void)pthread_mutex_unlock(&native->lock);
    return found;
}

/* Marks a destruction as not sent, to be tried after retry_ns. */
static void put_back(struct native *native, uint64_t request_id, int64_t retry_ns)
{
    (void)pthread_mutex_lock(&native->lock);
    for (struct destroying *entry = native->destroying; entry; entry = entry->next) {
        if (entry->request_id == request_id) {
            entry->request_id = 0;
            entry->retry_ns = retry_ns;
        }
    }
    (void)pthread_mutex_unlock(&native->lock);
}

int64_t native_destroy_send_due(struct native *native, int fd)
{
    struct engine_msg request = {0};
    int64_t next_ns = INT64_MAX;
    while (take_due(native, &request, &next_ns)) {
        if (native_link_send(fd, &request, -1, 0, NULL) == 0)
            continue;
        next_ns = clock_now_ns() + NO_ROOM_NS;
        put_back(native, request.request_id, next_ns);
        break;
    }
    return next_ns;
}

/* For want of memory a destruction can't be noted: whoever reconciles has to ask for it again. */
static void forget(struct native *native, const char *id)
{
    log_error("engine: no memory to destroy %s; left to the next reconciliation", id);
    (void)pthread_mutex_lock(&native->lock);
    if (native->forgot_ns == INT64_MAX)
        native->forgot_ns = clock_now_ns() + FORGOT_NS;
    (void)pthread_mutex_unlock(&native->lock);
    native_link_wake(native);
}

int64_t native_destroy_look_due(struct native *native)
{
    (void)pthread_mutex_lock(&native->lock);
    int64_t at_ns = native->forgot_ns;
    bool due = at_ns <= clock_now_ns();
    if (due)
        native->forgot_ns = INT64_MAX;
    (void)pthread_mutex_unlock(&native->lock);
    if (!due)
        return at_ns;
    if (native->events.connected)
        native->events.connected(native->events.context);
    return INT64_MAX;
}

void native_destroy_later(struct engine *engine, const char *id)
{
    struct native *native = native_of(engine);
    struct destroying *entry = calloc(1, sizeof(*entry));
    if (!entry) {
        forget(native, id);
        return;
    }
    (void)snprintf(entry->id, sizeof(entry->id), "%s", id);
    (void)pthread_mutex_lock(&native->lock);
    bool known = false;
    for (struct destroying *other = native->destroying; other && !known; other = other->next)
        known = strcmp(other->id, entry->id) == 0;
    int fd = -1;
    if (!known) {
        entry->next = native->destroying;
        native->destroying = entry;
        if (native->fd >= 0 && !native->stop) {
            fd = native->fd;
            native->senders++;
        }
    }
    (void)pthread_mutex_unlock(&native->lock);
    if (known)
        free(entry);
    if (fd < 0)
        return; /* the reader sends it when it has connected */
    bool all_sent = native_destroy_send_due(native, fd) == INT64_MAX;
    native_link_release(native);
    if (!all_sent)
        native_link_wake(native);
}

bool native_destroy_answered(struct native *native, const struct engine_msg *msg)
{
    struct destroying *found = NULL;
    (void)pthread_mutex_lock(&native->lock);
    struct destroying **at = &native->destroying;
    while (*at && (*at)->request_id != msg->request_id)
        at = &(*at)->next;
    if (*at) {
        found = *at;
        *at = found->next;
        if (msg->error.kind != ERR_NONE) {
            found->request_id = 0;
            found->retry_ns = clock_now_ns() + RETRY_NS;
            found->next = native->destroying;
            native->destroying = found;
        }
    }
    (void)pthread_mutex_unlock(&native->lock);
    if (!found)
        return false;
    if (msg->error.kind != ERR_NONE) {
        log_warn("engine: destroying failed, will be repeated: %s", msg->error.message);
        return true;
    }
    if (native->events.destroyed)
        native->events.destroyed(native->events.context, found->id);
    free(found);
    return true;
}

void native_destroy_abandon_locked(struct native *native, uint64_t request_id, const char *id)
{
    struct abandoned *entry = calloc(1, sizeof(*entry));
    if (!entry)
        return; /* the next reconciliation destroys it */
    entry->request_id = request_id;
    (void)snprintf(entry->id, sizeof(entry->id), "%s", id);
    entry->next = native->abandoned;
    native->abandoned = entry;
}

void native_destroy_late(struct native *native, const struct engine_msg *msg)
{
    struct abandoned *found = NULL;
    (void)pthread_mutex_lock(&native->lock);
    for (struct abandoned **at = &native->abandoned; *at; at = &(*at)->next) {
        if ((*at)->request_id == msg->request_id) {
            found = *at;
            *at = found->next;
            break;
        }
    }
    (void)pthread_mutex_unlock(&native->lock);
    if (found && msg->error.kind == ERR_NONE)
        native_destroy_later(&native->base, found->id);
    free(found);
}

struct abandoned *native_destroy_unsend_locked(struct native *native)
{
    struct abandoned *abandoned = native->abandoned;
    for (struct destroying *entry = native->destroying; entry; entry = entry->next)
        entry->request_id = 0;
    native->abandoned = NULL;
    return abandoned;
}

/* Whether they exist is not known any more: destroying is idempotent. */
void native_destroy_abandoned(struct native *native, struct abandoned *abandoned)
{
    while (abandoned) {
        struct abandoned *next = abandoned->next;
        native_destroy_later(&native->base, abandoned->id);
        free(abandoned);
        abandoned = next;
    }
}

void native_destroy_done(struct native *native)
{
    while (native->destroying) {
        struct destroying *next = native->destroying->next;
        free(native->destroying);
        native->destroying = next;
    }
}
