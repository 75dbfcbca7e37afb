/* Owns the moments at which a sandbox ends by itself. */
#include "init/timers.h"

#include "base/clock.h"

#define LONGEST_MS (UINT64_C(1) << 42) /* over a hundred years: as good as never */

static int64_t duration_ns(uint64_t ms)
{
    return ms >= LONGEST_MS ? INT64_MAX : (int64_t)ms * CLOCK_NS_PER_MS;
}

static int64_t add(int64_t from_ns, int64_t duration)
{
    if (from_ns == INT64_MAX || duration == INT64_MAX || from_ns > INT64_MAX - duration)
        return INT64_MAX;
    return from_ns + duration;
}

void timers_init(struct timers *timers, uint64_t lifetime_ms, uint64_t orphan_ms, int64_t now_ns)
{
    timers->end_ns = lifetime_ms == 0 ? INT64_MAX : add(now_ns, duration_ns(lifetime_ms));
    timers->idle_ns = INT64_MAX;
    timers->idle_from = now_ns;
    timers->orphan_ns = duration_ns(orphan_ms);
    timers->orphan_from = INT64_MAX;
}

void timers_renew(struct timers *timers, const struct sandbox_timers *times, int64_t now_ns)
{
    if (times->lifetime_ms > 0)
        timers->end_ns = add(now_ns, duration_ns(times->lifetime_ms));
    if (times->idle_ms > 0) {
        timers->idle_ns = duration_ns(times->idle_ms);
        if (timers->idle_from != INT64_MAX)
            timers->idle_from = now_ns;
    }
    if (times->orphan_ms > 0)
        timers->orphan_ns = duration_ns(times->orphan_ms);
}

void timers_set_idle(struct timers *timers, bool idle, int64_t now_ns)
{
    if (!idle)
        timers->idle_from = INT64_MAX;
    else if (timers->idle_from == INT64_MAX)
        timers->idle_from = now_ns;
}

int64_t timers_end_ns(const struct timers *timers)
{
    int64_t end_ns = timers->end_ns;
    int64_t idle = add(timers->idle_from, timers->idle_ns);
    int64_t orphan = add(timers->orphan_from, timers->orphan_ns);
    end_ns = idle < end_ns ? idle : end_ns;
    return orphan < end_ns ? orphan : end_ns;
}

static uint64_t left_ms(int64_t end_ns, int64_t now_ns)
{
    if (end_ns == INT64_MAX)
        return SANDBOX_NEVER;
    return end_ns > now_ns ? (uint64_t)((end_ns - now_ns) / CLOCK_NS_PER_MS) : 0;
}

void timers_left(const struct timers *timers, int64_t now_ns, uint64_t *lifetime_ms,
                 uint64_t *idle_ms)
{
    *lifetime_ms = left_ms(timers->end_ns, now_ns);
    int64_t from = timers->idle_from != INT64_MAX ? timers->idle_from : now_ns;
    *idle_ms = left_ms(add(from, timers->idle_ns), now_ns);
}
