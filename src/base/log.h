/* The operator's log: one line a record on standard error, `time level program: text`.
 *
 * Lines are written with one write(2), so lines of several processes do not mix. Control characters
 * in the text are escaped: what a client sent can't forge a line. */
#ifndef BERTH_BASE_LOG_H
#define BERTH_BASE_LOG_H

#include "base/err.h"

enum log_level { LOG_LEVEL_DEBUG, LOG_LEVEL_INFO, LOG_LEVEL_WARN, LOG_LEVEL_ERROR };

/* Names this program in the log; BERTH_LOG=debug|info|warn|error sets the level (default info).
 * program must live as long as the process. */
void log_init(const char *program);

void log_line(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define log_debug(...) log_line(LOG_LEVEL_DEBUG, __VA_ARGS__)
#define log_info(...) log_line(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_warn(...) log_line(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_error(...) log_line(LOG_LEVEL_ERROR, __VA_ARGS__)

#endif
