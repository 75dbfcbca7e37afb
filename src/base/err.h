/* One error object for the whole tree.
 *
 * A fallible function takes `struct err *err` last, returns 0 or a negative `enum err_kind`, and
 * writes `*err` only when it fails. Messages live in the object: no heap, so an out-of-memory path
 * can report itself. `message` is for the operator's log; `public_message` may leave the server. */
#ifndef BERTH_BASE_ERR_H
#define BERTH_BASE_ERR_H

#define ERR_MESSAGE_MAX 320

enum err_kind {
    ERR_NONE = 0,
    ERR_BAD_INPUT,    /* the caller's request is wrong; the message names the field (HTTP 400) */
    ERR_UNAUTHORIZED, /* no token, or a bad one (401) */
    ERR_FORBIDDEN,    /* a known caller may not do this (403) */
    ERR_NOT_FOUND,    /* no such object, or another tenant's (404) */
    ERR_METHOD,       /* the path exists, the method does not (405) */
    ERR_CONFLICT,     /* wrong state, or the name is taken (409) */
    ERR_TOO_LARGE,    /* over a size cap (413) */
    ERR_MEDIA_TYPE,   /* wrong Content-Type (415) */
    ERR_QUOTA,        /* over the caller's quota (429) */
    ERR_HEADERS,      /* too many or too long header fields (431) */
    ERR_UNAVAILABLE,  /* no capacity, or an engine is down; worth trying again (503) */
    ERR_UNSUPPORTED,  /* this engine or host cannot do it; trying again will not help (400) */
    ERR_TIMEOUT,      /* a deadline passed */
    ERR_CLOSED,       /* the peer went away */
    ERR_PROTOCOL,     /* a peer sent bytes that the protocol does not allow */
    ERR_INTERNAL,     /* our bug, or a resource of this process ran out (500) */
    ERR_RANGE,        /* no byte of the range that was asked for is there (416) */
    ERR_KIND_COUNT
};

struct err {
    enum err_kind kind;
    int sys_errno; /* errno of the failed call, 0 when there was none */
    unsigned retry_after_s;
    char message[ERR_MESSAGE_MAX];
    char public_message[ERR_MESSAGE_MAX]; /* "" when nothing may be said */
};

#define ERR_INIT ((struct err){0})

/* Each of these fills *err and returns -kind, so that `return err_set(err, ...)` is a whole failure
 * path. A NULL err is allowed everywhere: only the return value is wanted then. */

/* An error whose text is for the operator only. */
int err_set(struct err *err, enum err_kind kind, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* An error whose text may be shown to the client as well. */
int err_public(struct err *err, enum err_kind kind, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* A failed system call: the text gets ": strerror (errno name)" appended. ENOENT, EMFILE and so on
 * all map to ERR_INTERNAL; use err_set where the errno means something to the caller. */
int err_sys(struct err *err, int sys_errno, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Puts context before the operator's message ("create sandbox: mount proc: ..."); keeps the kind.
 */
int err_wrap(struct err *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Copies src over dst when dst is not NULL; returns -src->kind. */
int err_copy(struct err *dst, const struct err *src);

/* The stable name of a kind ("bad_input"), for logs and metrics. */
const char *err_kind_name(enum err_kind kind);

#endif
