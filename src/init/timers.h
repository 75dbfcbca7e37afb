/* When the sandbox ends by itself: its lifetime, idleness, and life without a connection.
 *
 * Asked once a turn, after the frames of that turn were read: a renewal that was read is heeded,
 * and one that was answered holds. */
#ifndef BERTH_INIT_TIMERS_H
#define BERTH_INIT_TIMERS_H

#include <stdbool.h>
#include <stdint.h>

#include "wire/sandbox.h"

struct timers {
    int64_t end_ns;      /* of the lifetime; INT64_MAX: none */
    int64_t idle_ns;     /* how long it may be idle; INT64_MAX: for ever */
    int64_t idle_from;   /* since when it is idle, or when that was renewed; INT64_MAX: it is not */
    int64_t orphan_ns;   /* how long it may be without a connection */
    int64_t orphan_from; /* since when it is; INT64_MAX: there is one, or there never was */
};

void timers_init(struct timers *timers, uint64_t lifetime_ms, uint64_t orphan_ms, int64_t now_ns);

/* Takes the times of a TIMERS frame, from now on. */
void timers_renew(struct timers *timers, const struct sandbox_timers *times, int64_t now_ns);

/* What is the case now. */
void timers_set_idle(struct timers *timers, bool idle, int64_t now_ns);

/* The moment of the next end if nothing changes; INT64_MAX: none. */
int64_t timers_end_ns(const struct timers *timers);

/* Milliseconds left of the lifetime, and until idleness ends it; SANDBOX_NEVER. */
void timers_left(const struct timers *timers, int64_t now_ns, uint64_t *lifetime_ms,
                 uint64_t *idle_ms);

#endif
