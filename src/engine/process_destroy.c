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
    (void)pthread_mutex_lock(&process->lock);
    for (struct destroying *entry = process->destroying; entry && !found; entry = entry->next) {
        if (entry->request_id != 0)
            continue;
        if (entry->retry_ns > now_ns) {
            *out_next_ns = entry->retry_ns < *out_next_ns ? entry->retry_ns : *out_next_ns;
            continue;
        }
        entry->request_id = ++process->next_request_id;
        *out = (struct engine_msg){.op = ENGINE_OP_DESTROY, .request_id = entry->request_id};
        (void)snprintf(out->id, sizeof(out->id), "%s", entry->id);
        found = true;
    }
    (void)pthread_mutex_unlock(&process->lock);
    return found;
}

/* Marks a destruction as not sent, to be tried after retry_ns. */
static void put_back(struct process *process, uint64_t request_id, int64_t retry_ns)
{
    (void)pthread_mutex_lock(&process->lock);
    for (struct destroying *entry = process->destroying; entry; entry = entry->next) {
        if (entry->request_id == request_id) {
            entry->request_id = 0;
            entry->retry_ns = retry_ns;
        }
    }
    (void)pthread_mutex_unlock(&process->lock);
}

int64_t process_destroy_send_due(struct process *process, int fd)
{
    struct engine_msg request = {0};
    int64_t next_ns = INT64_MAX;
    while (take_due(process, &request, &next_ns)) {
        if (process_link_send(fd, &request, -1, 0, NULL) == 0)
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
    (void)pthread_mutex_lock(&process->lock);
    if (process->forgot_ns == INT64_MAX)
        process->forgot_ns = clock_now_ns() + FORGOT_NS;
    (void)pthread_mutex_unlock(&process->lock);
    process_link_wake(process);
}

int64_t process_destroy_look_due(struct process *process)
{
    (void)pthread_mutex_lock(&process->lock);
    int64_t at_ns = process->forgot_ns;
    bool due = at_ns <= clock_now_ns();
    if (due)
        process->forgot_ns = INT64_MAX;
    (void)pthread_mutex_unlock(&process->lock);
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
    (void)pthread_mutex_lock(&process->lock);
    bool known = false;
    for (struct destroying *other = process->destroying; other && !known; other = other->next)
        known = strcmp(other->id, entry->id) == 0;
    int fd = -1;
    if (!known) {
        entry->next = process->destroying;
        process->destroying = entry;
        if (process->fd >= 0 && !process->stop) {
            fd = process->fd;
            process->senders++;
        }
    }
    (void)pthread_mutex_unlock(&process->lock);
    if (known)
        free(entry);
    if (fd < 0)
        return; /* the reader sends it when it has connected */
    bool all_sent = process_destroy_send_due(process, fd) == INT64_MAX;
    process_link_release(process);
    if (!all_sent)
        process_link_wake(process);
}

bool process_destroy_answered(struct process *process, const struct engine_msg *msg)
{
    struct destroying *found = NULL;
    bool again = false; /* it is said once */
    (void)pthread_mutex_lock(&process->lock);
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
    (void)pthread_mutex_unlock(&process->lock);
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
    (void)pthread_mutex_lock(&process->lock);
    for (struct abandoned **at = &process->abandoned; *at; at = &(*at)->next) {
        if ((*at)->request_id == msg->request_id) {
            found = *at;
            *at = found->next;
            break;
        }
    }
    (void)pthread_mutex_unlock(&process->lock);
    if (found && msg->error.kind == ERR_NONE)
        process_destroy_later(&process->base, found->id);
    free(found);
}

struct abandoned *process_destroy_unsend_locked(struct process *process)
{
    struct abandoned *abandoned = process->abandoned;
    for (struct destroying *entry = process->destroying; entry; entry = entry->next)
        entry->request_id = 0;
    process->abandoned = NULL;
    return abandoned;
}

/* Whether they exist is not known any more: destroying is idempotent. */
void process_destroy_abandoned(struct process *process, struct abandoned *abandoned)
{
    while (abandoned) {
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
