/* Owns the reading and formatting of clocks. */
#include "base/clock.h"

#include <limits.h>
#include <stdio.h>
#include <time.h>

int64_t clock_now_ns(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * CLOCK_NS_PER_S + now.tv_nsec;
}

int64_t clock_wall_us(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

void clock_sleep_ns(int64_t duration_ns)
{
    const struct timespec duration = {.tv_sec = (time_t)(duration_ns / CLOCK_NS_PER_S),
                                      .tv_nsec = (long)(duration_ns % CLOCK_NS_PER_S)};
    (void)nanosleep(&duration, NULL);
}

int clock_poll_timeout_ms(int64_t deadline_ns)
{
    if (deadline_ns == INT64_MAX)
        return -1;
    int64_t left = deadline_ns - clock_now_ns();
    if (left <= 0)
        return 0;
    int64_t left_ms = (left + CLOCK_NS_PER_MS - 1) / CLOCK_NS_PER_MS;
    return left_ms > INT_MAX ? INT_MAX : (int)left_ms;
}

void clock_format_iso8601(int64_t wall_us, char out[static CLOCK_ISO8601_SIZE])
{
    time_t seconds = (time_t)(wall_us / 1000000);
    struct tm parts;
    if (!gmtime_r(&seconds, &parts) || parts.tm_year + 1900 > 9999) {
        (void)snprintf(out, CLOCK_ISO8601_SIZE, "1970-01-01T00:00:00.000000Z");
        return;
    }
    char date[24];
    if (strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%S", &parts) == 0)
        date[0] = '\0';
    (void)snprintf(out, CLOCK_ISO8601_SIZE, "%s.%06dZ", date, (int)(wall_us % 1000000));
}
