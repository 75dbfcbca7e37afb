/* Owns the threads that wait for name servers, and what they found lately. */
#include "egress/resolve.h"

#include <netdb.h>
#include <pthread.h>
#include <resolv.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "wire/egress_msg.h"

enum { THREADS = 16, OF_OWNER = 8, OF_SANDBOX = 2, KEPT = 128, STACK_BYTES = 1024 * 1024 };
#define KEEP_NS (20 * CLOCK_NS_PER_S)

struct lookup {
    char host[EGRESS_HOST_MAX + 1];
    char sandbox[SANDBOX_ID_MAX + 1];
    char owner[EGRESS_OWNER_MAX + 1];
    resolved_fn done; /* NULL: cancelled. The asking thread's alone */
    void *context;
    struct resolved resolved;
    bool looked_up; /* else it was kept from before */
    struct lookup *next;
};

/* The asking thread's. */
struct kept {
    char host[EGRESS_HOST_MAX + 1];
    char owner[EGRESS_OWNER_MAX + 1];
    int64_t until_ns;
    struct resolved resolved;
};

struct resolver {
    int wake_fd;
    struct kept kept[KEPT];
    /* Guards all that follows; not held while a name is looked up. */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct lookup *waiting; /* in order */
    struct lookup *running[THREADS];
    struct lookup *answered;
};

/* Whether a thread may take it now: shares are counted over those that run. */
static bool may_run_locked(const struct resolver *resolver, const struct lookup *lookup)
{
    unsigned of_owner = 0, of_sandbox = 0;
    for (size_t i = 0; i < THREADS; i++) {
        const struct lookup *other = resolver->running[i];
        of_owner += other && strcmp(other->owner, lookup->owner) == 0;
        of_sandbox += other && strcmp(other->sandbox, lookup->sandbox) == 0;
    }
    return of_owner < OF_OWNER && of_sandbox < OF_SANDBOX;
}

/* Takes the first that may run; returns its place among those that do. NULL: there is none. */
static struct lookup **begin_locked(struct resolver *resolver)
{
    struct lookup **place = resolver->running;
    while (*place) /* one is free: the caller's */
        place++;
    for (struct lookup **at = &resolver->waiting; *at; at = &(*at)->next) {
        if (!may_run_locked(resolver, *at))
            continue;
        *place = *at;
        *at = (*place)->next;
        return place;
    }
    return NULL;
}

static void end_locked(struct resolver *resolver, struct lookup **place)
{
    struct lookup *lookup = *place;
    *place = NULL;
    lookup->looked_up = true;
    lookup->next = resolver->answered;
    resolver->answered = lookup;
}

/* The name is whole: no domain of this host is tried behind it, and a dead name server costs
 * seconds, not half a minute. What the threads share is this host's configuration, read each time.
 */
static void look_up(struct lookup *lookup)
{
    const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    struct addrinfo *found = NULL;
    struct resolved *resolved = &lookup->resolved;
    if (res_init() == 0) {
        _res.options &= ~(u_long)(RES_DNSRCH | RES_DEFNAMES);
        _res.retrans = 3;
        _res.retry = 2;
    }
    resolved->failure = getaddrinfo(lookup->host, NULL, &hints, &found);
    if (resolved->failure != 0)
        return;
    for (const struct addrinfo *a = found; a && resolved->count < RESOLVE_ADDRESSES_MAX;
         a = a->ai_next) {
        if (address_set(&resolved->addresses[resolved->count], a->ai_addr, 0))
            resolved->count++;
    }
    freeaddrinfo(found);
}

static void *resolver_main(void *context)
{
    struct resolver *resolver = context;
    uint64_t one = 1;
    (void)pthread_mutex_lock(&resolver->lock);
    for (;;) {
        struct lookup **place = begin_locked(resolver);
        if (!place) {
            (void)pthread_cond_wait(&resolver->changed, &resolver->lock);
            continue;
        }
        struct lookup *lookup = *place;
        (void)pthread_mutex_unlock(&resolver->lock);
        look_up(lookup);
        (void)pthread_mutex_lock(&resolver->lock);
        end_locked(resolver, place);
        /* Others of the same owner may go now. */
        (void)pthread_cond_broadcast(&resolver->changed);
        (void)!write(resolver->wake_fd, &one, sizeof(one));
    }
    return NULL;
}

static int start_threads(struct resolver *resolver, struct err *err)
{
    pthread_attr_t attributes;
    sigset_t all, before;
    (void)pthread_attr_init(&attributes);
    (void)pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    (void)pthread_attr_setstacksize(&attributes, STACK_BYTES);
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = 0;
    for (int i = 0; i < THREADS && failed == 0; i++) {
        pthread_t thread;
        failed = pthread_create(&thread, &attributes, resolver_main, resolver);
    }
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    (void)pthread_attr_destroy(&attributes);
    return failed == 0 ? 0 : err_sys(err, failed, "start a thread for names");
}

int resolver_new(int wake_fd, struct resolver **out, struct err *err)
{
    struct resolver *resolver = calloc(1, sizeof(*resolver));
    if (!resolver)
        return err_set(err, ERR_INTERNAL, "no memory for names");
    resolver->wake_fd = wake_fd;
    (void)pthread_mutex_init(&resolver->lock, NULL);
    (void)pthread_cond_init(&resolver->changed, NULL);
    *out = resolver; /* it lives as long as the process: its threads are not ended */
    return start_threads(resolver, err);
}

static struct kept *find_kept(struct resolver *resolver, const char *host, const char *owner)
{
    int64_t now_ns = clock_now_ns();
    for (size_t i = 0; i < KEPT; i++) {
        struct kept *kept = &resolver->kept[i];
        if (kept->until_ns > now_ns && strcmp(kept->host, host) == 0 &&
            strcmp(kept->owner, owner) == 0)
            return kept;
    }
    return NULL;
}

static void keep(struct resolver *resolver, const struct lookup *lookup)
{
    struct kept *oldest = &resolver->kept[0];
    for (size_t i = 1; i < KEPT; i++) {
        if (resolver->kept[i].until_ns < oldest->until_ns)
            oldest = &resolver->kept[i];
    }
    memcpy(oldest->host, lookup->host, sizeof(oldest->host));
    memcpy(oldest->owner, lookup->owner, sizeof(oldest->owner));
    oldest->resolved = lookup->resolved;
    oldest->until_ns = clock_now_ns() + KEEP_NS;
}

struct lookup *resolver_ask(struct resolver *resolver, const char *host, const char *sandbox,
                            const char *owner, resolved_fn done, void *context)
{
    struct lookup *lookup = calloc(1, sizeof(*lookup));
    if (!lookup)
        return NULL;
    (void)snprintf(lookup->host, sizeof(lookup->host), "%s", host);
    (void)snprintf(lookup->sandbox, sizeof(lookup->sandbox), "%s", sandbox);
    (void)snprintf(lookup->owner, sizeof(lookup->owner), "%s", owner);
    lookup->done = done;
    lookup->context = context;
    const struct kept *kept = find_kept(resolver, host, owner);
    uint64_t one = 1;
    if (kept)
        lookup->resolved = kept->resolved;
    (void)pthread_mutex_lock(&resolver->lock);
    struct lookup **at = kept ? &resolver->answered : &resolver->waiting;
    while (*at)
        at = &(*at)->next;
    *at = lookup;
    (void)pthread_cond_signal(&resolver->changed);
    (void)pthread_mutex_unlock(&resolver->lock);
    if (kept)
        (void)!write(resolver->wake_fd, &one, sizeof(one));
    return lookup;
}

void resolver_cancel(struct resolver *resolver, struct lookup *lookup)
{
    if (!lookup)
        return;
    lookup->done = NULL;
    (void)pthread_mutex_lock(&resolver->lock);
    struct lookup **at = &resolver->waiting;
    while (*at && *at != lookup)
        at = &(*at)->next;
    bool waits = *at != NULL;
    if (waits)
        *at = lookup->next;
    (void)pthread_mutex_unlock(&resolver->lock);
    if (waits) /* no thread has seen it */
        free(lookup);
}

void resolver_finish(struct resolver *resolver)
{
    (void)pthread_mutex_lock(&resolver->lock);
    struct lookup *answered = take(resolver->answered);
    (void)pthread_mutex_unlock(&resolver->lock);
    while (answered) {
        struct lookup *lookup = answered;
        answered = lookup->next;
        if (lookup->looked_up && lookup->resolved.failure == 0)
            keep(resolver, lookup);
        if (lookup->done)
            lookup->done(lookup->context, &lookup->resolved);
        free(lookup);
    }
}

const char *resolve_failure(int failure)
{
    return failure == 0 ? "no address" : gai_strerror(failure);
}
