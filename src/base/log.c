/* Owns the format and the level of the operator's log. */
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"

static const char *log_program = "berth";
static enum log_level log_threshold = LOG_LEVEL_INFO;

static const char *const level_names[] = {"debug", "info", "warn", "error"};

void log_init(const char *program)
{
    log_program = program;
    const char *wanted = getenv("BERTH_LOG");
    for (size_t i = 0; wanted && i < sizeof(level_names) / sizeof(level_names[0]); i++) {
        if (strcmp(wanted, level_names[i]) == 0)
            log_threshold = (enum log_level)i;
    }
}

void log_line(enum log_level level, const char *format, ...)
{
    if (level < log_threshold)
        return;
    char text[1024];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    char stamp[CLOCK_ISO8601_SIZE];
    clock_format_iso8601(clock_wall_us(), stamp);
    char line[1280];
    int head = snprintf(line, sizeof(line), "%s %s %s: ", stamp, level_names[level], log_program);
    size_t used = head < 0 ? 0 : (size_t)head;
    for (const char *c = text; *c && used + 2 < sizeof(line); c++)
        line[used++] = ((unsigned char)*c < 0x20 || *c == 0x7f) ? '?' : *c;
    line[used++] = '\n';
    ssize_t ignored = write(STDERR_FILENO, line, used);
    (void)ignored;
}
