/* Messages of the sandbox protocol, between the server and the init of a sandbox.
 *
 * Each pair of functions turns a struct into the payload of one frame and back. Decoded strings
 * point into the payload; decoded arrays are freed by the _done function. Versions: both sides send
 * HELLO first; the newest version that both speak is used, none in common is ERR_PROTOCOL. */
#ifndef BERTH_WIRE_SANDBOX_H
#define BERTH_WIRE_SANDBOX_H

#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "wire/outcome.h"

#define SANDBOX_VERSION_MIN 1
#define SANDBOX_VERSION_MAX 1
#define SANDBOX_NONCE_SIZE 16
#define SANDBOX_ID_MAX 64     /* longest sandbox or execution id, without its NUL */
#define SANDBOX_PATH_MAX 4096 /* longest path, with its NUL (PATH_MAX) */
#define SANDBOX_ARGS_MAX 4096 /* most argv or env entries */

/* Capability bits of an init. */
#define SANDBOX_CAP_EXEC (UINT64_C(1) << 0)
#define SANDBOX_CAP_PUT_FILE (UINT64_C(1) << 1)
#define SANDBOX_CAP_CGROUP (UINT64_C(1) << 2) /* enforces memory and pids, tells OOM apart */
#define SANDBOX_CAP_GET_FILE (UINT64_C(1) << 3)

struct sandbox_hello {
    uint32_t version_min;
    uint32_t version_max;
    uint64_t capabilities;
    uint8_t nonce[SANDBOX_NONCE_SIZE]; /* from init: the sandbox's own; from the server: zero */
};

int sandbox_hello_encode(const struct sandbox_hello *hello, struct buf *out, struct err *err);
int sandbox_hello_decode(const void *payload, size_t size, struct sandbox_hello *hello,
                         struct err *err);
/* The version that both speak, or -ERR_PROTOCOL. */
int sandbox_hello_agree(const struct sandbox_hello *ours, const struct sandbox_hello *theirs,
                        struct err *err);

struct sandbox_exec {
    const char *execution_id; /* at most SANDBOX_ID_MAX bytes */
    const char *cwd;          /* absolute, inside the sandbox */
    const char **argv;        /* argc entries, argv[0] looked up in PATH of envp; NULL-ended */
    size_t argc;              /* at least 1 */
    const char **envp;        /* the whole environment, "NAME=value"; NULL-ended */
    size_t envc;
    uint64_t timeout_ms; /* wall-clock time until it is killed; 0 is none */
    uint64_t keep_bytes; /* of each of stdout and stderr: past it bytes are counted, not sent */
    uint64_t output_max_bytes; /* of both together: past it the execution is killed */
};

int sandbox_exec_encode(const struct sandbox_exec *exec, struct buf *out, struct err *err);
int sandbox_exec_decode(const void *payload, size_t size, struct sandbox_exec *exec,
                        struct err *err);
void sandbox_exec_done(struct sandbox_exec *exec);

struct sandbox_exit {
    uint32_t exit_code; /* 0..255; 128 + n for signal n; 127 not found, 126 not runnable */
    enum kill_cause cause;
    uint32_t limits_hit;        /* bits of enum limit_hit */
    uint64_t cpu_us;            /* user and system time of all processes */
    uint64_t wall_us;           /* from the start of the process to its end */
    uint64_t max_rss_bytes;     /* the largest resident set of a process that was waited for */
    uint64_t memory_peak_bytes; /* of the whole group, page cache and tmpfs included; 0 unknown */
    uint64_t stdout_bytes;      /* written by the code, kept or not */
    uint64_t stderr_bytes;
    uint64_t pids_peak;      /* 0 unknown */
    const char *start_error; /* why the program could not be started; "" when it was */
};

int sandbox_exit_encode(const struct sandbox_exit *exit, struct buf *out, struct err *err);
int sandbox_exit_decode(const void *payload, size_t size, struct sandbox_exit *exit,
                        struct err *err);

struct sandbox_put_file {
    const char *path; /* absolute, or relative to /workspace; missing folders are made */
    uint32_t mode;    /* permission bits, 0644 by default */
};

int sandbox_put_file_encode(const struct sandbox_put_file *put, struct buf *out, struct err *err);
int sandbox_put_file_decode(const void *payload, size_t size, struct sandbox_put_file *put,
                            struct err *err);

struct sandbox_get_file {
    const char *path;    /* absolute, or relative to /workspace; a regular file */
    uint64_t offset;     /* first byte; past the end: nothing */
    uint64_t size_bytes; /* at most; 0: to the end */
};

int sandbox_get_file_encode(const struct sandbox_get_file *get, struct buf *out, struct err *err);
int sandbox_get_file_decode(const void *payload, size_t size, struct sandbox_get_file *get,
                            struct err *err);

struct sandbox_done {
    int32_t sys_errno;   /* 0 on success; else an errno value of Linux */
    uint64_t size_bytes; /* bytes written, or read */
};

int sandbox_done_encode(const struct sandbox_done *done, struct buf *out, struct err *err);
int sandbox_done_decode(const void *payload, size_t size, struct sandbox_done *done,
                        struct err *err);

#endif
