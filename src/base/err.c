/* Owns the error object and the names of its kinds. Never allocates, never logs. */
#include "base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char *const kind_names[ERR_KIND_COUNT] = {
    [ERR_NONE] = "none",
    [ERR_BAD_INPUT] = "bad_input",
    [ERR_UNAUTHORIZED] = "unauthorized",
    [ERR_FORBIDDEN] = "forbidden",
    [ERR_NOT_FOUND] = "not_found",
    [ERR_METHOD] = "method",
    [ERR_CONFLICT] = "conflict",
    [ERR_TOO_LARGE] = "too_large",
    [ERR_MEDIA_TYPE] = "media_type",
    [ERR_QUOTA] = "quota",
    [ERR_HEADERS] = "headers",
    [ERR_UNAVAILABLE] = "unavailable",
    [ERR_UNSUPPORTED] = "unsupported",
    [ERR_TIMEOUT] = "timeout",
    [ERR_CLOSED] = "closed",
    [ERR_PROTOCOL] = "protocol",
    [ERR_INTERNAL] = "internal",
    [ERR_RANGE] = "range",
};

const char *err_kind_name(enum err_kind kind)
{
    if (kind < 0 || kind >= ERR_KIND_COUNT)
        return "unknown";
    return kind_names[kind];
}

static void err_fill(struct err *err, enum err_kind kind, int sys_errno, const char *format,
                     va_list args) __attribute__((format(printf, 4, 0)));

static void err_fill(struct err *err, enum err_kind kind, int sys_errno, const char *format,
                     va_list args)
{
    err->kind = kind;
    err->sys_errno = sys_errno;
    err->retry_after_s = 0;
    err->public_message[0] = '\0';
    (void)vsnprintf(err->message, sizeof(err->message), format, args);
}

int err_set(struct err *err, enum err_kind kind, const char *format, ...)
{
    if (err) {
        va_list args;
        va_start(args, format);
        err_fill(err, kind, 0, format, args);
        va_end(args);
    }
    return -(int)kind;
}

int err_public(struct err *err, enum err_kind kind, const char *format, ...)
{
    if (err) {
        va_list args;
        va_start(args, format);
        err_fill(err, kind, 0, format, args);
        va_end(args);
        memcpy(err->public_message, err->message, sizeof(err->public_message));
    }
    return -(int)kind;
}

int err_sys(struct err *err, int sys_errno, const char *format, ...)
{
    if (err) {
        va_list args;
        va_start(args, format);
        err_fill(err, ERR_INTERNAL, sys_errno, format, args);
        va_end(args);
        size_t used = strlen(err->message);
        (void)snprintf(err->message + used, sizeof(err->message) - used, ": %s (errno %d)",
                       strerror(sys_errno), sys_errno);
    }
    return -(int)ERR_INTERNAL;
}

int err_wrap(struct err *err, const char *format, ...)
{
    if (!err)
        return -(int)ERR_INTERNAL;
    char context[ERR_MESSAGE_MAX];
    char joined[2 * ERR_MESSAGE_MAX + 2];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(context, sizeof(context), format, args);
    va_end(args);
    (void)snprintf(joined, sizeof(joined), "%s: %s", context, err->message);
    joined[sizeof(err->message) - 1] = '\0';
    memcpy(err->message, joined, sizeof(err->message));
    return -(int)err->kind;
}

int err_copy(struct err *dst, const struct err *src)
{
    if (dst && dst != src)
        *dst = *src;
    return -(int)src->kind;
}
