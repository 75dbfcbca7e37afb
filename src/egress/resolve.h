/* Names to addresses, by the host's own resolver, on threads of its own (getaddrinfo(3) blocks).
 *
 * No owner and no sandbox gets more than its share of the threads, whatever their names do; answers
 * are kept for some seconds, for the same owner alone: nobody learns what others asked for. */
#ifndef BERTH_EGRESS_RESOLVE_H
#define BERTH_EGRESS_RESOLVE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "egress/address.h"

#define RESOLVE_ADDRESSES_MAX 16

struct resolved {
    int failure; /* EAI_*, 0: none */
    size_t count;
    union address addresses[RESOLVE_ADDRESSES_MAX];
};

struct resolver;
struct lookup;

/* Called by resolver_finish(). */
typedef void (*resolved_fn)(void *context, const struct resolved *resolved);

/* Starts the threads. wake_fd, an eventfd (borrowed), is written when answers are there. */
int resolver_new(int wake_fd, struct resolver **out, struct err *err);

/* Asks for a name; sandbox and owner are copied. NULL: no memory. The answer comes once, by
 * resolver_finish() on the caller's thread, unless it was cancelled. */
struct lookup *resolver_ask(struct resolver *resolver, const char *host, const char *sandbox,
                            const char *owner, resolved_fn done, void *context);
/* Nobody waits for it any more. */
void resolver_cancel(struct resolver *resolver, struct lookup *lookup);

/* Hands out the answers that are there, with no port. On the thread that asks. */
void resolver_finish(struct resolver *resolver);

const char *resolve_failure(int failure);

#endif
