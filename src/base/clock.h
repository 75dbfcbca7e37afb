/* Time: the monotonic clock for deadlines and durations, the wall clock only for timestamps. */
#ifndef BERTH_BASE_CLOCK_H
#define BERTH_BASE_CLOCK_H

#include <stddef.h>
#include <stdint.h>

#define CLOCK_NS_PER_MS INT64_C(1000000)
#define CLOCK_NS_PER_S INT64_C(1000000000)
#define CLOCK_ISO8601_SIZE 32 /* "2026-11-20T10:11:12.123456Z" and its NUL */

/* CLOCK_MONOTONIC in nanoseconds; shared by all processes of the host (clock_gettime(2)). */
int64_t clock_now_ns(void);

/* CLOCK_REALTIME in microseconds since 1970. */
int64_t clock_wall_us(void);

/* Sleeps for about that long; a signal may end it earlier. */
void clock_sleep_ns(int64_t duration_ns);

/* The poll(2) timeout until deadline_ns: 0 when it passed, rounded up, -1 for INT64_MAX. */
int clock_poll_timeout_ms(int64_t deadline_ns);

/* Writes wall_us as ISO 8601 in UTC with microseconds. */
void clock_format_iso8601(int64_t wall_us, char out[static CLOCK_ISO8601_SIZE]);

#endif
